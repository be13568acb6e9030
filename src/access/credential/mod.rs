//! Signed leadership credentials: who leads, under which token, until when, signed by who elected it.
//!
//! - [`keys`]: key pairs and their files
//! - [`jws`]: the signed form: a JWT with EdDSA (RFC 7519, 8037), and no other
//!
//! A credential is a principal's secret and a token in one. Whoever shows it may do on its fence what its key may grant, with its token
//! and under its holder's name, and nothing else: so nobody can borrow another's token. That it ends is a second bolt, not the first: a
//! deposed leader's credential is as stale as its token, however long it would last.
//!
//! **Invariant.** What a credential says is believed only after its signature was checked with the key that the configuration has
//! under the credential's `kid`, and by that key's own algorithm: the credential chooses neither.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::fence::{FenceName, Holder, Token};

use super::right::{Pattern, Right, Rights};

pub mod jws;
pub mod keys;

pub use keys::{PublicKey, SigningKey};

/// What a gate's credentials are for, where nothing else is said: their `aud`.
pub const AUDIENCE_DEFAULT: &str = "fencegate";
/// The longest that a credential may still last. Leases have this bound, too.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// How far the clock of who signs may be ahead of the gate's.
const SKEW: Duration = Duration::from_secs(30);
/// The longest credential, in bytes.
const BYTES_MAX: usize = 4096;

/// What a credential says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Who signed it; only a name, since the key says who it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The gate that it is for.
    pub aud: String,
    /// The leader's name for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<Holder>,
    /// The fence.
    pub fence: FenceName,
    /// The token. A text, since JavaScript loses digits of larger numbers.
    pub token: Token,
    /// When it was signed, in seconds since 1970 (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// Before this it is of no use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// From this on it is of no use.
    pub exp: u64,
}

/// A key that credentials may be signed with, and what it may grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey {
    /// The key.
    pub key: PublicKey,
    /// On which resources.
    pub resource: Pattern,
    /// On which fences.
    pub fence: Pattern,
    /// What the leader may do on its fence.
    pub rights: Rights,
}

impl TrustedKey {
    /// What a leader needs, on whatever fence.
    pub fn of_all(key: PublicKey) -> TrustedKey {
        let all = || Pattern::parse("*").expect("a star is a pattern");
        TrustedKey { key, resource: all(), fence: all(), rights: [Right::Read, Right::Write].into_iter().collect() }
    }
}

/// What a credential comes to.
#[derive(Debug)]
pub struct Leader {
    /// What it says.
    pub credential: Credential,
    /// By which key.
    pub key: TrustedKey,
}

/// Signs credentials for one gate.
#[derive(Debug)]
pub struct Signer {
    key: SigningKey,
    issuer: String,
    audience: String,
}

impl Signer {
    /// `issuer`: how it calls itself. `audience`: the gate that its credentials are for.
    pub fn new(key: SigningKey, issuer: &str, audience: &str) -> Signer {
        Signer { key, issuer: issuer.to_owned(), audience: audience.to_owned() }
    }

    /// The half of its key that gates know.
    pub fn public(&self) -> &PublicKey {
        self.key.public()
    }

    /// A credential that lasts for so long from `now`, which is in time since 1970 (UTC).
    pub fn sign(
        &self,
        fence: &FenceName,
        token: Token,
        holder: Option<&Holder>,
        lasts: Duration,
        now: Duration,
    ) -> String {
        let lasts = lasts.min(LIFETIME_MAX);
        let credential = Credential {
            iss: Some(self.issuer.clone()),
            aud: self.audience.clone(),
            sub: holder.cloned(),
            fence: fence.clone(),
            token,
            iat: Some(now.as_secs()),
            nbf: Some(now.as_secs()),
            // Rounded down to whole seconds, and never to none.
            exp: (now + lasts).as_secs().max(now.as_secs() + 1),
        };
        jws::sign(&credential, &self.key)
    }
}

/// Checks credentials for one gate.
#[derive(Debug, Default)]
pub struct Verifier {
    keys: Vec<TrustedKey>,
    audience: String,
    /// Those that were found good, by the SHA-256 of all of their text. A leader shows the same one with every request until it is
    /// renewed, and a signature takes longer to check than a request takes to answer.
    good: Mutex<HashMap<[u8; 32], Arc<Leader>>>,
}

/// Most credentials that are remembered as good; one more, and all are forgotten.
const GOOD_MAX: usize = 1024;

/// Why a credential is of no use here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not a JWT of this kind: another algorithm, another form.
    #[error("the credential is no JWT of this gate's kind: {0}")]
    Form(&'static str),
    /// By a key that the gate doesn't know.
    #[error("the credential is signed with a key that this gate doesn't know")]
    UnknownKey,
    /// Forged or changed.
    #[error("the credential's signature is wrong")]
    Signature,
    /// For another gate.
    #[error("the credential is for another gate")]
    Audience,
    /// Over.
    #[error("the credential has expired")]
    Expired,
    /// Not begun.
    #[error("the credential is not valid yet: the clocks of who signed it and of this gate differ")]
    Early,
    /// Longer than any may be.
    #[error("the credential lasts longer than an hour, which none may")]
    Long,
    /// The key may not speak for the fence.
    #[error("the credential's key may not speak for its fence")]
    Fence,
}

impl Verifier {
    /// These keys, for a gate that is called so.
    pub fn new(keys: Vec<TrustedKey>, audience: &str) -> Verifier {
        Verifier { keys, audience: audience.to_owned(), good: Mutex::default() }
    }

    /// Whether there is any key.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// What a credential comes to at `now`, in time since 1970 (UTC). Of one that was found good before, only the time is looked at.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn verify(&self, text: &str, now: Duration) -> Result<Arc<Leader>, CredentialError> {
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let digest: [u8; 32] = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        let known = self.good.lock().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        if let Some(leader) = known {
            in_time(&leader.credential, now)?;
            return Ok(leader);
        }
        let leader = Arc::new(self.check(text, now)?);
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= GOOD_MAX {
            good.clear();
        }
        good.insert(digest, Arc::clone(&leader));
        Ok(leader)
    }

    fn check(&self, text: &str, now: Duration) -> Result<Leader, CredentialError> {
        let (credential, key) = jws::verify(text, |kid| self.keys.iter().find(|known| known.key.id() == kid))?;
        if credential.aud != self.audience {
            return Err(CredentialError::Audience);
        }
        in_time(&credential, now)?;
        if !key.fence.fits(&credential.fence) {
            return Err(CredentialError::Fence);
        }
        Ok(Leader { credential, key: key.clone() })
    }
}

/// Whether a credential is of use at this time.
fn in_time(credential: &Credential, now: Duration) -> Result<(), CredentialError> {
    let now = now.as_secs();
    if now >= credential.exp {
        return Err(CredentialError::Expired);
    }
    let begins = credential.nbf.into_iter().chain(credential.iat).max().unwrap_or(0);
    if begins > now + SKEW.as_secs() {
        return Err(CredentialError::Early);
    }
    if credential.exp > now + LIFETIME_MAX.as_secs() + SKEW.as_secs() {
        return Err(CredentialError::Long);
    }
    Ok(())
}

/// Since 1970 (UTC).
pub fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
