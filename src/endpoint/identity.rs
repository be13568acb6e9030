//! What one shows of oneself to a gate that asks, and whom one takes for that gate.

use std::fmt;

use hyper::header::HeaderValue;

#[cfg(feature = "tls")]
use crate::tls::client::ClientTls;

/// What a principal's secret begins with.
const SECRET_PREFIX: &str = "fgs.";

/// A principal's secret, and the certificates of both sides. By default one shows nothing, and trusts the operating system's
/// authorities. Clones share it.
#[derive(Clone, Default)]
pub struct Identity {
    /// `Bearer fgs.…`.
    bearer: Option<HeaderValue>,
    #[cfg(feature = "tls")]
    tls: Option<ClientTls>,
}

/// The text is no secret. It is not told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret is one line that starts with {SECRET_PREFIX}, as `fencegate principal new` makes it, or a leadership credential"
)]
pub struct SecretError;

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = self.bearer.as_ref().map(|_| "…");
        f.debug_struct("Identity").field("secret", &secret).finish_non_exhaustive()
    }
}

impl Identity {
    /// The same, with this secret of a principal, `fgs.…`, or this leadership credential. It is sent with every request that has no `Authorization` of its own.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn with_secret(self, secret: &str) -> Result<Identity, SecretError> {
        let secret = secret.trim();
        let is_plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        // A credential has three parts, and the first begins as JSON does in base64url.
        let is_secret = secret.strip_prefix(SECRET_PREFIX).is_some_and(is_plain);
        let is_credential =
            secret.starts_with("ey") && secret.split('.').count() == 3 && secret.split('.').all(is_plain);
        if !is_secret && !is_credential {
            return Err(SecretError);
        }
        let mut bearer = HeaderValue::try_from(format!("Bearer {secret}")).map_err(|_| SecretError)?;
        bearer.set_sensitive(true);
        let mut identity = self;
        identity.bearer = Some(bearer);
        Ok(identity)
    }

    /// The same, with these certificates.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(self, tls: ClientTls) -> Identity {
        Identity { tls: Some(tls), ..self }
    }

    /// What every request shows.
    pub(super) fn bearer(&self) -> Option<&HeaderValue> {
        self.bearer.as_ref()
    }

    #[cfg(feature = "tls")]
    pub(super) fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_kept_out_of_debug() {
        let identity = Identity::default().with_secret(" fgs.c2VjcmV0\n").unwrap();
        let text = format!("{identity:?} {:?}", identity.bearer());
        assert!(!text.contains("c2Vj"), "{text}");
        for bad in ["", "fgs.", "hunter2", "fgs.a b", "fgs.a\nfgs.b", "fgs.ä"] {
            assert!(Identity::default().with_secret(bad).is_err(), "{bad:?}");
        }
    }
}
