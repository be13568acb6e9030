//! The one place where an outcome becomes an HTTP response.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

use crate::fence::{Token, Verdict};
use crate::headers::{FENCING_HIGHEST, FENCING_VERDICT};
use crate::problem::{Kind, Problem};

/// A response whose body is in memory.
pub type Answer = Response<Full<Bytes>>;

/// The media type that a problem is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `application/problem+json`, RFC 9457.
    Problem,
    /// `application/json`, on the SQL paths: libSQL drivers read `message` and `code` only from that.
    Sql,
}

/// A JSON answer.
pub fn json(status: StatusCode, body: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("our own answers have string keys and no failing values");
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// A problem as JSON: RFC 9457, and what libSQL drivers read.
#[derive(serde::Serialize)]
struct Told<'a> {
    applied: &'static str,
    code: &'static str,
    detail: &'a str,
    fence: Option<&'a str>,
    highest: Option<Token>,
    message: std::fmt::Arguments<'a>,
    presented: Option<Token>,
    status: u16,
    title: &'static str,
    #[serde(rename = "type")]
    kind: String,
}

/// A problem as a response: an RFC 9457 body with `code`, `message`, `fence`, `presented`, `highest`, `applied`.
pub fn problem(problem: &Problem, style: Style) -> Answer {
    let row = problem.kind.row();
    let body = Told {
        applied: problem.kind.applied(),
        code: row.code,
        detail: &problem.detail,
        fence: problem.fence.as_deref(),
        highest: problem.highest,
        message: format_args!("{}: {}", row.title, problem.detail),
        presented: problem.presented,
        status: row.status,
        title: row.title,
        kind: format!("urn:fencegate:{}", row.code.to_ascii_lowercase().replace('_', "-")),
    };
    let status = StatusCode::from_u16(row.status).expect("the table has only real statuses");
    let mut answer = json(status, &body);
    let headers = answer.headers_mut();
    if style == Style::Problem {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    }
    if let Some(verdict) = row.verdict.or(problem.verdict.map(Verdict::as_str)) {
        headers.insert(FENCING_VERDICT, HeaderValue::from_static(verdict));
        if let Some(highest) = problem.highest {
            headers.insert(FENCING_HIGHEST, HeaderValue::from(highest.get()));
        }
    }
    if problem.kind == Kind::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fencegate\""));
    }
    if let Some(allow) = problem.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    let retry_after_s =
        problem.retry_after.map(|wait| wait.as_millis().div_ceil(1000).clamp(1, u128::from(u32::MAX)) as u64);
    if let Some(seconds) = retry_after_s.or(row.retry_after_s.map(u64::from)) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// A time for people and programs: RFC 3339, UTC, with milliseconds.
pub fn timestamp(ms: i64) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    humantime::format_rfc3339_millis(std::time::SystemTime::UNIX_EPOCH + since).to_string()
}
