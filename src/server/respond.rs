//! The one place where an outcome becomes an HTTP response.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};

use crate::fence::{Token, Verdict};
use crate::headers::{FENCING_HIGHEST, FENCING_VERDICT};
use crate::json;
use crate::problem::{Kind, Problem};
use crate::resource::{Body, Repeated};

/// A response whose body is in memory.
pub type Answer = Response<Full<Bytes>>;

/// The media type that a problem is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `application/problem+json`, RFC 9457.
    Problem,
    /// The same, in an upstream's place: with `Proxy-Status`.
    Proxied,
    /// `application/json`, on the SQL paths: libSQL drivers read `message` and `code` only from that.
    Sql,
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// A JSON answer.
pub fn json(status: StatusCode, body: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("our own answers have string keys and no failing values");
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

/// A problem as JSON: RFC 9457, and what libSQL drivers read. Written member by member: a flood of stale writes is answered with
/// these, and a general serializer takes longer for one than the judging of the token.
fn render(problem: &Problem) -> Vec<u8> {
    let (row, detail) = (problem.kind.row(), problem.detail());
    let mut to = Vec::with_capacity(384 + 2 * detail.len());
    let text = |to: &mut Vec<u8>, name: &str, value: Option<&str>| {
        to.extend_from_slice(name.as_bytes());
        json::optional(to, value);
    };
    let token = |to: &mut Vec<u8>, name: &str, value: Option<Token>| match value {
        Some(value) => text(to, name, Some(value.digits().as_str())),
        None => text(to, name, None),
    };
    text(&mut to, "{\"applied\":", Some(problem.kind.applied()));
    text(&mut to, ",\"code\":", Some(row.code));
    text(&mut to, ",\"detail\":", Some(&detail));
    text(&mut to, ",\"fence\":", problem.fence.as_deref());
    token(&mut to, ",\"highest\":", problem.highest);
    to.extend_from_slice(b",\"message\":\"");
    json::escaped(&mut to, row.title);
    to.extend_from_slice(b": ");
    json::escaped(&mut to, &detail);
    to.push(b'"');
    token(&mut to, ",\"presented\":", problem.presented);
    to.extend_from_slice(b",\"status\":");
    to.extend_from_slice(StatusCode::from_u16(row.status).unwrap_or_default().as_str().as_bytes());
    text(&mut to, ",\"title\":", Some(row.title));
    to.extend_from_slice(b",\"type\":\"urn:fencegate:");
    to.extend(row.code.bytes().map(|byte| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() }));
    to.extend_from_slice(b"\"}");
    to
}

/// How many headers an answer of the gate's own has at most, about.
const HEADERS: usize = 8;

/// `Proxy-Status` (RFC 9209), on whatever the gate answers in an upstream's place.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// A problem as a response: an RFC 9457 body with `code`, `message`, `fence`, `presented`, `highest`, `applied`.
pub fn problem(problem: &Problem, style: Style) -> Answer {
    let mut answer = with_status(problem, Full::from(render(problem)));
    *answer.headers_mut() = headers(problem, style);
    answer
}

fn with_status<B>(problem: &Problem, body: B) -> Response<B> {
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(problem.kind.row().status).expect("the table has only real statuses");
    answer
}

thread_local! {
    /// The last stale write that was refused on this thread: whoever floods the gate with them is mostly refused in the same words.
    static LAST: RefCell<Option<(Problem, Style, Arc<Repeated>)>> = const { RefCell::new(None) };
}

/// The same, where a resource refuses.
pub fn refusal(problem: &Problem, style: Style) -> Response<Body> {
    if problem.kind != Kind::StaleToken {
        return self::problem(problem, style).map(Body::Whole);
    }
    let told = LAST.with_borrow_mut(|last| match last {
        Some((known, in_style, told)) if *in_style == style && *known == *problem => Arc::clone(told),
        _ => {
            let told = Arc::new(Repeated::new(headers(problem, style), render(problem).into()));
            Arc::clone(&last.insert((problem.clone(), style, told)).2)
        }
    });
    with_status(problem, Body::Repeated(told))
}

fn headers(problem: &Problem, style: Style) -> HeaderMap {
    let row = problem.kind.row();
    let mut headers = HeaderMap::with_capacity(HEADERS);
    let media_type = match style {
        Style::Problem | Style::Proxied => PROBLEM_JSON,
        Style::Sql => JSON,
    };
    headers.insert(CONTENT_TYPE, media_type);
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
    if style == Style::Proxied {
        let error = problem.proxy_error.unwrap_or(problem.kind.proxy_error());
        let status = ["fencegate; error=", error, "; details=\"", row.code, "\""].concat();
        headers.insert(PROXY_STATUS, HeaderValue::try_from(status).expect("visible ASCII"));
    }
    headers
}

/// A time for people and programs: RFC 3339, UTC, with milliseconds.
pub fn timestamp(ms: i64) -> String {
    let since = std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    humantime::format_rfc3339_millis(std::time::SystemTime::UNIX_EPOCH + since).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_is_json_whatever_it_says() {
        let token = |number| Token::new(number).ok();
        for (detail, fence, presented, highest) in [
            ("token 6 is lower than 7", Some("stock/1"), token(6), token(7)),
            ("\"quoted\" \\ and \n\u{1} and \u{fe}\u{2028}", None, None, None),
            ("", None, Some(Token::MAX), Some(Token::MIN)),
        ] {
            let problem = Problem {
                fence: fence.map(|fence| fence.parse().expect("a name")),
                presented,
                highest,
                retry_after: Some(Duration::from_secs(1)),
                ..Problem::new(Kind::StaleToken, detail)
            };
            let read: serde_json::Value = serde_json::from_slice(&render(&problem)).expect("JSON");
            let expected = json!({
                "applied": "no",
                "code": "STALE_TOKEN",
                "detail": detail,
                "fence": fence,
                "highest": highest.map(|token| token.to_string()),
                "message": format!("You've been replaced: {detail}"),
                "presented": presented.map(|token| token.to_string()),
                "status": 412,
                "title": "You've been replaced",
                "type": "urn:fencegate:stale-token",
            });
            assert_eq!(read, expected);
        }
    }
}
