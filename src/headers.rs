//! The headers of the contract, by name: what a request presents, and what the gate answers (`docs/http.md`).

use hyper::header::HeaderName;

/// The fencing token: `7`, or `orders=7, jobs=12`.
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("fencing-token");
/// The leader's own name for itself.
pub const FENCING_HOLDER: HeaderName = HeaderName::from_static("fencing-holder");
/// What was decided on the request's claims.
pub const FENCING_VERDICT: HeaderName = HeaderName::from_static("fencing-verdict");
/// The mark after the request.
pub const FENCING_HIGHEST: HeaderName = HeaderName::from_static("fencing-highest");
