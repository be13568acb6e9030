//! A write that a command sends with an `Idempotency-Key`, and sends again where its answer is lost: it is applied once.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use crate::client::gate::kept_for;
use crate::endpoint::{ExchangeError, NoAnswer, Reply};
use crate::headers::{IDEMPOTENCY_KEY, fresh_key};

use super::failure::Failure;
use super::http::{self, Endpoint};

/// So long a write is sent again.
const REPEAT_FOR: Duration = Duration::from_secs(10);
/// The first pause before another try, and the longest: each is twice the one before.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Sends a `pipeline` to the database that is mounted at this path, with a key of its own. Where the gate doesn't know of keys, or can't
/// keep this request under one, it goes without, once.
///
/// # Errors
/// As [`Endpoint::send`]. Where an attempt broke off and a later one is refused, that is said, too.
pub fn send(gate: &Endpoint, mount: &str, headers: &[(&'static str, String)], body: Vec<u8>) -> Result<Reply, Failure> {
    let path = format!("{mount}/v3/pipeline");
    // Asked before it is sent: after a gate that has failed, a later version may be started.
    let hello = gate.send(&Method::GET, &format!("{mount}/v3"), &[], Vec::new())?;
    // What is under way when this is over must not arrive at a gate that has forgotten.
    let repeat_for = REPEAT_FOR.min(kept_for(&hello) / 2);
    let plain = http::call(&Method::POST, &path, headers, body)?;
    if repeat_for.is_zero() {
        return gate.exchange(&plain).map_err(|error| gate.failure(&Method::POST, error));
    }
    let call = plain.clone().with_header(IDEMPOTENCY_KEY, fresh_key());
    let (started, mut pause, mut doubt) = (Instant::now(), PAUSE.0, None);
    loop {
        let answer = gate.exchange(&call);
        let (is_unknown, passes) = (is_unknown(&answer), passes(&answer));
        let is_unusable = answer.as_ref().is_ok_and(|reply| member(reply, "code") == "IDEMPOTENCY_KEY_UNUSABLE");
        let failed = |error| gate.failure(&Method::POST, error);
        let answer = answer.map_err(failed);
        match doubt {
            None if is_unusable => return gate.exchange(&plain).map_err(failed),
            None if is_unknown => doubt = Some(answer),
            None => return answer,
            Some(_) if is_unknown || passes => {}
            Some(_) => return after_doubt(answer),
        }
        match doubt {
            Some(doubt) if started.elapsed() + pause > repeat_for => return doubt,
            _ => gate.pause(pause),
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Whether it may have been applied.
fn is_unknown(answer: &Result<Reply, ExchangeError>) -> bool {
    match answer {
        Ok(reply) => reply.status >= 500 && member(reply, "applied") == "unknown",
        Err(ExchangeError::NoAnswer { why, .. }) => !matches!(why, NoAnswer::TooLong(_)),
        Err(_) => false,
    }
}

/// Whether this attempt was surely not applied, and another one may be.
fn passes(answer: &Result<Reply, ExchangeError>) -> bool {
    match answer {
        Ok(reply) => reply.status == 503,
        Err(error) => matches!(error, ExchangeError::NotSent { .. }),
    }
}

fn member(reply: &Reply, name: &str) -> String {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    body[name].as_str().unwrap_or_default().to_owned()
}

/// The end of a request of which an earlier attempt may have been applied.
fn after_doubt(answer: Result<Reply, Failure>) -> Result<Reply, Failure> {
    let but = |message: String| format!("{message}; an earlier attempt got no answer, and may have been applied");
    let reply = answer?;
    match http::json(&reply) {
        Ok(_) => Ok(reply),
        Err(Failure::Refused(message)) => Err(Failure::Refused(but(message))),
        Err(Failure::Other(message)) if member(&reply, "applied") == "yes" => Err(Failure::Other(message)),
        Err(failure) => Err(Failure::Other(but(failure.to_string()))),
    }
}
