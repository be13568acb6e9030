use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::json;

use super::*;
use crate::client::error::Applied;

fn reply(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Reply {
    let pair =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    Reply { status, headers: headers.iter().map(pair).collect(), body: Bytes::from(body.to_owned()) }
}

fn problem_body(code: &str, applied: &str) -> String {
    let name = code.to_lowercase().replace('_', "-");
    json!({ "type": format!("urn:fencegate:{name}"), "code": code, "message": "why", "fence": "orders", "presented": "7",
        "highest": "9", "applied": applied })
    .to_string()
}

fn read_as(source: Source, reply: Reply) -> Result<Reply, Error> {
    read(&"orders".parse().unwrap(), Token::new(7).unwrap(), reply, source)
}

const ADMITTED: (&str, &str) = ("fencing-verdict", "admitted");
const STALE: (&str, &str) = ("fencing-verdict", "stale");
const PROXY: (&str, &str) = ("proxy-status", "fencegate; error=http_request_denied; details=\"STALE_TOKEN\"");

fn is_replaced(outcome: &Result<Reply, Error>) -> bool {
    matches!(outcome, Err(Error::Replaced { presented, highest: Some(highest), .. })
        if (presented.get(), highest.get()) == (7, 9))
}

#[test]
fn a_services_own_refusals_are_its_answers() {
    for status in [200, 204, 304, 404, 412, 500, 503] {
        assert_eq!(read_as(Source::Upstream, reply(status, &[ADMITTED], "")).unwrap().status, status);
    }
    // Whatever it writes into its body, it isn't the gate.
    let imitation = reply(412, &[ADMITTED], &problem_body("STALE_TOKEN", "no"));
    assert_eq!(read_as(Source::Upstream, imitation).unwrap().status, 412);
    let other_proxy = reply(502, &[ADMITTED, ("proxy-status", "cache; error=connection_refused")], "");
    assert_eq!(read_as(Source::Upstream, other_proxy).unwrap().status, 502);
}

#[test]
fn the_gates_refusals_are_errors() {
    let body = problem_body("STALE_TOKEN", "no");
    assert!(is_replaced(&read_as(Source::Upstream, reply(412, &[STALE, PROXY], &body))));
    assert!(is_replaced(&read_as(Source::Gate, reply(412, &[STALE], &body))));
    // To a HEAD there is no body.
    let headers = [STALE, PROXY, ("fencing-highest", "9")];
    assert!(is_replaced(&read_as(Source::Upstream, reply(412, &headers, ""))));
}

#[test]
fn every_code_is_applied_or_not_as_the_gate_says() {
    let applied = |code: &str, applied: &str| {
        let proxy = ("proxy-status", "fencegate; error=proxy_internal_error");
        let reply = reply(503, &[ADMITTED, proxy, ("retry-after", "7")], &problem_body(code, applied));
        read_as(Source::Upstream, reply).unwrap_err()
    };
    for code in ["OVERLOADED", "BUSY", "UNAVAILABLE", "QUARANTINED", "UPSTREAM_UNREACHABLE"] {
        let error = applied(code, "no");
        assert!(matches!(error, Error::NotApplied { retry_after: Some(wait), .. } if wait.as_secs() == 7), "{error:?}");
        assert_eq!(applied(code, "unknown").applied(), Applied::Unknown, "{code}: what it says counts");
    }
    for code in ["OUTCOME_UNKNOWN", "INTERNAL", "OF_A_LATER_VERSION"] {
        assert_eq!(applied(code, "unknown").applied(), Applied::Unknown, "{code}");
    }
    assert!(matches!(applied("OF_A_LATER_VERSION", "no"), Error::Refused { .. }));
    for (code, expected) in [
        ("TOKEN_CONFLICT", Refused::Conflict),
        ("TOKEN_UNISSUED", Refused::Unissued),
        ("TOKEN_REQUIRED", Refused::OtherFence),
        ("FORBIDDEN", Refused::Forbidden),
    ] {
        assert!(matches!(applied(code, "no"), Error::Refused { why, .. } if why == expected), "{code}");
    }
}

#[test]
fn an_answer_that_has_not_seen_a_gate_is_no_success() {
    let no_gate = |source, reply| {
        let outcome = read_as(source, reply);
        assert!(matches!(outcome, Err(Error::Unknown { why: Unknown::NotAGate, .. })), "{outcome:?}");
    };
    for source in [Source::Gate, Source::Upstream] {
        no_gate(source, reply(200, &[], "{}"));
        no_gate(source, reply(502, &[], "<html>Bad gateway</html>"));
        no_gate(source, reply(412, &[], ""));
    }
    // The gate's own paths tell nothing of a service.
    no_gate(Source::Gate, reply(500, &[ADMITTED], ""));
    // What the gate says before it has judged anything.
    let early = read_as(Source::Upstream, reply(404, &[], &problem_body("NOT_FOUND", "no")));
    assert!(matches!(early, Err(Error::Refused { why: Refused::NotFound, .. })), "{early:?}");
}
