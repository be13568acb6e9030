//! What a request shows of itself in `Authorization`.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

use crate::fence::claim::BearerToken;
use crate::problem::{Kind, Problem};

use super::credential::jws;
use super::secret::{SECRET_PREFIX, Secret};

/// What is shown.
#[derive(Debug)]
pub enum Shown {
    /// Nothing about who sends it.
    Nothing,
    /// A secret.
    Secret(Secret),
    /// A signed leadership credential, good or bad.
    Credential(String),
    /// Something that was to be a secret.
    Unreadable,
    /// Something for somebody else, such as the upstream.
    Other,
}

/// Reads it.
///
/// # Errors
/// A header that stands twice; a `fgt.` credential that is none.
pub fn read(headers: &HeaderMap) -> Result<Shown, Problem> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Ok(Shown::Nothing) };
    if all.next().is_some() {
        return Err(Problem::new(Kind::TokenMalformed, "Authorization is given more than once"));
    }
    let Some((scheme, rest)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else {
        return Ok(Shown::Other);
    };
    let rest = rest.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("bearer") { bearer(rest) } else { Ok(Shown::Other) }
}

fn bearer(credential: &str) -> Result<Shown, Problem> {
    if credential.starts_with(SECRET_PREFIX) {
        return Ok(credential.parse().map_or(Shown::Unreadable, Shown::Secret));
    }
    if jws::is_one(credential) {
        return Ok(Shown::Credential(credential.to_owned()));
    }
    match BearerToken::parse(credential)? {
        Some(BearerToken { secret: Some(secret), .. }) => {
            Ok(Secret::from_bytes(&secret).map_or(Shown::Unreadable, Shown::Secret))
        }
        Some(_) => Ok(Shown::Nothing),
        None => Ok(Shown::Other),
    }
}

/// Whether a bearer credential is for the gate, and so for nobody behind it.
pub fn is_ours(credential: &str) -> bool {
    credential.starts_with("fgt.") || credential.starts_with(SECRET_PREFIX) || jws::is_one(credential)
}
