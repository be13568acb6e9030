//! What an answer says, and who says it: the gate, or the service behind it.
//!
//! Every answer to a request with a token has `Fencing-Verdict`; the gate takes that header from what comes from behind it. What
//! the gate answers in a service's place has `Proxy-Status: fencegate; …`. So a service's own 412 is told from the gate's, and an
//! answer that has never seen a gate from one that has. See `docs/http.md`.

use std::time::Duration;

use hyper::HeaderMap;
use serde::Deserialize;

use super::error::{Error, NotApplied, Refused, Unknown};
use crate::endpoint::Reply;
use crate::fence::{FenceName, Token};
use crate::headers::{FENCING_HIGHEST, FENCING_VERDICT};

/// Whose answers come from a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Only the gate's own: its reserved paths, and those of a SQLite resource.
    Gate,
    /// Those of a service behind the gate, and the gate's in its place.
    Upstream,
}

/// The members of a problem (RFC 9457) that matter here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    r#type: String,
    code: String,
    message: String,
    fence: Option<FenceName>,
    presented: Option<Token>,
    highest: Option<Token>,
    applied: Option<String>,
}

/// The answer, if it is what was asked for; a service's own refusals count as that.
pub(super) fn read(fence: &FenceName, token: Token, reply: Reply, source: Source) -> Result<Reply, Error> {
    let text = |name: &str| text(&reply.headers, name);
    let verdict = text(FENCING_VERDICT.as_str());
    let proxy = text("proxy-status").filter(|status| status.starts_with("fencegate; error="));
    let is_good = (200..300).contains(&reply.status);
    let passed = matches!(verdict, Some("admitted" | "advanced"));
    // Without a verdict only the gate's own answers are understood; after one that lets through, all that comes is the service's
    // unless the gate says that it stands in for it.
    let problem = match (proxy, source) {
        (Some(proxy), _) => Some(problem(&reply, proxy)),
        (None, Source::Upstream) if passed => None,
        (None, _) if is_good => None,
        (None, _) => Some(problem(&reply, "")).filter(|problem| problem.r#type.starts_with("urn:fencegate:")),
    };
    match (problem, source) {
        (Some(problem), _) => Err(told(fence, token, &reply, problem)),
        (None, Source::Gate) if is_good && verdict.is_some() => Ok(reply),
        (None, Source::Upstream) if verdict.is_some() => Ok(reply),
        (None, _) => {
            let message = format!("status {} without a gate's verdict: is this URL a gate's?", reply.status);
            Err(Error::Unknown { why: Unknown::NotAGate, message })
        }
    }
}

/// The body's problem; where there is none, as in an answer to HEAD, what the header tells of it.
fn problem(reply: &Reply, proxy: &str) -> Problem {
    let mut problem: Problem = serde_json::from_slice(&reply.body).unwrap_or_default();
    if problem.code.is_empty() {
        let details = proxy.split_once("details=\"").and_then(|(_, rest)| rest.split_once('"'));
        problem.code = details.map_or("", |(code, _)| code).to_owned();
    }
    if problem.message.is_empty() {
        problem.message = format!("{} (status {})", problem.code, reply.status);
    }
    problem
}

fn told(fence: &FenceName, token: Token, reply: &Reply, problem: Problem) -> Error {
    let Problem { code, message, presented, highest, applied, fence: about, .. } = problem;
    let retry_after = text(&reply.headers, "retry-after").and_then(|after| after.parse().ok()).map(Duration::from_secs);
    let not_applied = |why| Error::NotApplied { why, message: message.clone(), retry_after };
    let refused = |why| Error::Refused { why, code: code.clone(), message: message.clone(), fence: about.clone() };
    if applied.as_deref() == Some("unknown") {
        return Error::Unknown { why: Unknown::Gate, message };
    }
    match code.as_str() {
        "STALE_TOKEN" => Error::Replaced {
            fence: about.clone().unwrap_or_else(|| fence.clone()),
            presented: presented.unwrap_or(token),
            highest: highest.or_else(|| text(&reply.headers, FENCING_HIGHEST.as_str())?.parse().ok()),
        },
        "OVERLOADED" => not_applied(NotApplied::Overloaded),
        "BUSY" => not_applied(NotApplied::Busy),
        "UNAVAILABLE" => not_applied(NotApplied::Unavailable),
        "QUARANTINED" => not_applied(NotApplied::Quarantined),
        "UPSTREAM_UNREACHABLE" => not_applied(NotApplied::UpstreamUnreachable),
        "REQUEST_TIMEOUT" => not_applied(NotApplied::TooSlow),
        "BATON_INVALID" | "STREAM_EXPIRED" => not_applied(NotApplied::TransactionEnded),
        "IDEMPOTENCY_ANSWER_NOT_KEPT" => Error::AnswerLost { message },
        "TOKEN_CONFLICT" => refused(Refused::Conflict),
        "TOKEN_UNISSUED" => refused(Refused::Unissued),
        "TOKEN_REQUIRED" => refused(Refused::OtherFence),
        "WRONG_FENCE" => refused(Refused::WrongFence),
        "UNAUTHENTICATED" => refused(Refused::Unauthenticated),
        "FORBIDDEN" => refused(Refused::Forbidden),
        "NOT_FOUND" | "METHOD_NOT_ALLOWED" => refused(Refused::NotFound),
        "BODY_TOO_LARGE" => refused(Refused::TooLarge),
        "TOKEN_MALFORMED" | "BAD_REQUEST" | "AMBIGUOUS_PATH" | "NOT_IMPLEMENTED" => refused(Refused::Malformed),
        // Also a code of a later version: what it says of being applied counts, and where it says nothing, nobody knows.
        _ if applied.as_deref() == Some("no") => refused(Refused::Malformed),
        _ => Error::Unknown { why: Unknown::Gate, message },
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests;
