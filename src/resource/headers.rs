//! What a request presents, for every kind of resource: `Fencing-Token`, `Fencing-Holder` and `Authorization`.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};

use crate::fence::{ClaimError, FenceName, Presented};

/// The fencing token: `7`, or `orders=7, jobs=12`.
pub const FENCING_TOKEN: HeaderName = HeaderName::from_static("fencing-token");
/// The leader's own name for itself.
pub const FENCING_HOLDER: HeaderName = HeaderName::from_static("fencing-holder");

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName, label: &'static str) -> Result<Option<&'a str>, ClaimError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ClaimError::Repeated(label));
    }
    value.to_str().map(Some).map_err(|_| ClaimError::NotText(label))
}

/// What the headers present. `own`: the fence that a bare token speaks for.
///
/// # Errors
/// A header that is malformed, stands twice, or contradicts another.
pub fn presented(headers: &HeaderMap, own: Option<&FenceName>) -> Result<Option<Presented>, ClaimError> {
    let token = single(headers, &FENCING_TOKEN, "Fencing-Token")?;
    let holder = single(headers, &FENCING_HOLDER, "Fencing-Holder")?;
    let bearer = single(headers, &AUTHORIZATION, "Authorization")?.and_then(|value| {
        // RFC 9110: the scheme's case doesn't matter.
        let (scheme, credential) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim_start_matches(' '))
    });
    Presented::gather(token, holder, bearer, own)
}
