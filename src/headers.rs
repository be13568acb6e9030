//! The headers of the contract, by name: what a request presents, and what the gate answers (`docs/http.md`).

use hyper::header::HeaderName;

/// The fencing token: `7`, or `orders=7, jobs=12`.
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("fencing-token");
/// The leader's own name for itself.
pub const FENCING_HOLDER: HeaderName = HeaderName::from_static("fencing-holder");
/// The client's own name for a write, by which it is known again when it comes a second time.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is the one that the same write was given before.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// For how many seconds, at least, a key is known again.
pub const IDEMPOTENCY_RETENTION: HeaderName = HeaderName::from_static("idempotency-retention");
/// A key that nobody else has: the time in milliseconds, and 80 random bits. Keys that rise with time stand beside each other in the
/// gate's index, so that a commit of many touches few of its pages; nothing else depends on the time in them.
#[cfg(feature = "client")]
pub fn fresh_key() -> hyper::header::HeaderValue {
    use std::time::SystemTime;
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the operating system has random bytes");
    let random = u128::from_be_bytes(random) >> 48;
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let key = format!("\"{:012x}-{random:020x}\"", since.as_millis());
    hyper::header::HeaderValue::try_from(key).expect("it is printable ASCII")
}

/// What was decided on the request's claims.
pub const FENCING_VERDICT: HeaderName = HeaderName::from_static("fencing-verdict");
/// The mark after the request.
pub const FENCING_HIGHEST: HeaderName = HeaderName::from_static("fencing-highest");
