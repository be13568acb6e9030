//! What a request presents, for every kind of resource: `Fencing-Token`, `Fencing-Holder` and `Authorization`; and what answers say of keys.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::HeaderValue;

use crate::fence::{ClaimError, FenceName, Presented};
use crate::headers::IDEMPOTENCY_RETENTION;

/// The value of a header that may stand there once.
struct Single<'a> {
    label: &'static str,
    value: Option<&'a HeaderValue>,
    is_repeated: bool,
}

impl<'a> Single<'a> {
    fn called(label: &'static str) -> Single<'a> {
        Single { label, value: None, is_repeated: false }
    }

    fn found(&mut self, value: &'a HeaderValue) {
        self.is_repeated = self.value.replace(value).is_some();
    }

    fn text(&self) -> Result<Option<&'a str>, ClaimError> {
        let Some(value) = self.value else { return Ok(None) };
        if self.is_repeated {
            return Err(ClaimError::Repeated(self.label));
        }
        value.to_str().map(Some).map_err(|_| ClaimError::NotText(self.label))
    }
}

/// What the headers present. `own`: the fence that a bare token speaks for.
///
/// # Errors
/// A header that is malformed, stands twice, or contradicts another.
pub fn presented(headers: &HeaderMap, own: Option<&FenceName>) -> Result<Option<Presented>, ClaimError> {
    let (mut token, mut holder) = (Single::called("Fencing-Token"), Single::called("Fencing-Holder"));
    let mut authorization = Single::called("Authorization");
    // In one pass: to look for each would take longer.
    for (name, value) in headers {
        match name.as_str() {
            "fencing-token" => token.found(value),
            "fencing-holder" => holder.found(value),
            "authorization" => authorization.found(value),
            _ => {}
        }
    }
    let (token, holder) = (token.text()?, holder.text()?);
    let bearer = authorization.text()?.and_then(|value| {
        // RFC 9110: the scheme's case doesn't matter.
        let (scheme, credential) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim_start_matches(' '))
    });
    Presented::gather(token, holder, bearer, own)
}

/// Says for how long an `Idempotency-Key` is surely known again, in whole seconds. Nothing where that is none.
pub fn tell_keys_kept(answer: &mut HeaderMap, kept_for: Duration) {
    if kept_for.as_secs() > 0 {
        answer.insert(IDEMPOTENCY_RETENTION, kept_for.as_secs().into());
    }
}
