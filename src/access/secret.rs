//! The secrets that principals present.
//!
//! A secret is 256 random bits that the gate's own program makes, and the gate keeps their SHA-256. A slow hash, as passwords need
//! it, would protect nothing here: it makes each guess dearer where there are few to try, and here there are 2^256. It would
//! cost tens of milliseconds a request, and whoever sends bad secrets could keep the gate busy with them. So that nobody uses a
//! password all the same, what isn't 256 bits in this form is no secret, and matches nothing.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;

/// What a secret's text begins with.
pub const SECRET_PREFIX: &str = "fgs.";
/// The length of a secret and of its hash, in bytes.
const LEN: usize = 32;
/// What a hash's text begins with.
const HASH_PREFIX: &str = "sha256:";

/// A principal's secret. Kept out of `Debug`, and so out of logs.
pub struct Secret([u8; LEN]);

/// The hash of a secret: what the gate knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; LEN]);

/// The text is no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a secret is fgs. and 43 characters of base64url, as `fencegate principal new` makes them")]
pub struct SecretError;

/// The text is no hash of a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a secret's hash is sha256: and 64 hexadecimal digits, as `fencegate principal new` prints it")]
pub struct SecretHashError;

impl Secret {
    /// A new one that nobody can guess.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> Result<Secret, getrandom::Error> {
        let mut bytes = [0; LEN];
        getrandom::fill(&mut bytes)?;
        Ok(Secret(bytes))
    }

    /// That of the last part of a `fgt.` credential.
    ///
    /// # Errors
    /// It has another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Secret, SecretError> {
        bytes.try_into().map(Secret).map_err(|_| SecretError)
    }

    /// Its hash.
    pub fn hash(&self) -> SecretHash {
        let digest = digest::digest(&digest::SHA256, &self.0);
        SecretHash(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Its text, for the one who is to present it.
    pub fn reveal(&self) -> String {
        format!("{SECRET_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for Secret {
    type Err = SecretError;
    fn from_str(text: &str) -> Result<Secret, SecretError> {
        let text = text.strip_prefix(SECRET_PREFIX).ok_or(SecretError)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SecretError)?;
        Secret::from_bytes(&bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl SecretHash {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Its first bytes.
    pub fn start(&self) -> [u8; 8] {
        let mut start = [0; 8];
        start.copy_from_slice(&self.0[..8]);
        start
    }
}

impl FromStr for SecretHash {
    type Err = SecretHashError;
    fn from_str(text: &str) -> Result<SecretHash, SecretHashError> {
        let digits = text.strip_prefix(HASH_PREFIX).ok_or(SecretHashError)?.as_bytes();
        if digits.len() != 2 * LEN {
            return Err(SecretHashError);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = [0; LEN];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let (high, low) = (digit(pair[0]).ok_or(SecretHashError)?, digit(pair[1]).ok_or(SecretHashError)?);
            *byte = high << 4 | low;
        }
        Ok(SecretHash(bytes))
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HASH_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_go_there_and_back_and_debug_tells_nothing() {
        let secret = Secret::random().unwrap();
        let text = secret.reveal();
        assert_eq!(text.len(), 4 + 43);
        assert_eq!(text.parse::<Secret>().unwrap().hash(), secret.hash());
        assert!(!format!("{secret:?}").contains(&text[4..]));
        assert_eq!(secret.hash().to_string().parse(), Ok(secret.hash()));
        assert_ne!(Secret::random().unwrap().hash(), secret.hash());
        for bad in ["", "fgs.", "hunter2", "fgs.aHVudGVyMg", &text[4..], &format!("{text}A"), &format!("{text}=")] {
            assert!(bad.parse::<Secret>().is_err(), "{bad:?}");
        }
        for bad in ["", "sha256:", "sha256:00", &"0".repeat(64), &format!("sha256:{}", "g".repeat(64))] {
            assert_eq!(bad.parse::<SecretHash>(), Err(SecretHashError), "{bad:?}");
        }
    }

    #[test]
    fn the_hash_is_sha_256_of_the_bytes() {
        // Of 32 bytes of zero, by any other implementation.
        let zero = Secret::from_bytes(&[0; 32]).unwrap();
        let known = "sha256:66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925";
        assert_eq!(zero.hash().to_string(), known);
    }
}
