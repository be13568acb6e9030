//! JSON Web Signature in its compact form (RFC 7515) with EdDSA over Ed25519 (RFC 8037), as strict as RFC 8725 asks.
//!
//! Written here, and small: the libraries for JWT bring either a second TLS provider's cryptography or an RSA that is known to tell its
//! keys by time, and their strength is to take many algorithms, which is what a gate must not. Ed25519 itself is ring's.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::json;

use super::{BYTES_MAX, Credential, CredentialError, SigningKey, TrustedKey};

/// What a credential's head says that it is (RFC 8725, section 3.11): so no other JWT by the same key is taken for one.
pub const TYPE: &str = "fencegate-lead+jwt";
/// The one algorithm.
const ALGORITHM: &str = "EdDSA";

/// All that a head may say. Whatever else it says, such as `crit` or a key of its own, is refused unread.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    alg: String,
    typ: String,
    kid: String,
}

/// The head of something that may be a credential.
#[derive(Deserialize)]
struct Kind {
    typ: Option<String>,
}

/// Signs.
pub(super) fn sign(credential: &Credential, key: &SigningKey) -> String {
    let head = json!({ "alg": ALGORITHM, "typ": TYPE, "kid": key.public().id() });
    let payload = serde_json::to_vec(credential).expect("it has string keys and no failing values");
    let mut text = format!("{}.{}", URL_SAFE_NO_PAD.encode(head.to_string()), URL_SAFE_NO_PAD.encode(payload));
    let signature = key.sign(text.as_bytes());
    text.push('.');
    text.push_str(&URL_SAFE_NO_PAD.encode(signature));
    text
}

/// Checks the form and the signature, in this order: the payload is read last.
pub(super) fn verify<'k>(
    text: &str,
    key: impl FnOnce(&str) -> Option<&'k TrustedKey>,
) -> Result<(Credential, &'k TrustedKey), CredentialError> {
    if text.len() > BYTES_MAX {
        return Err(CredentialError::Form("it is too long"));
    }
    let parts = CredentialError::Form("it does not have three parts");
    let (signed, signature) = text.rsplit_once('.').ok_or(parts.clone())?;
    let (head, payload) = signed.split_once('.').ok_or(parts.clone())?;
    if payload.contains('.') {
        return Err(parts);
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| CredentialError::Form("it is not base64url"));
    let head: Head = object(&decode(head)?).ok_or(CredentialError::Form("its head is not alg, typ and kid alone"))?;
    if head.alg != ALGORITHM {
        return Err(CredentialError::Form("the only algorithm here is EdDSA"));
    }
    if head.typ != TYPE {
        return Err(CredentialError::Form("it is of another type"));
    }
    let trusted = key(&head.kid).ok_or(CredentialError::UnknownKey)?;
    let signature = decode(signature)?;
    UnparsedPublicKey::new(&ED25519, trusted.key.as_bytes())
        .verify(signed.as_bytes(), &signature)
        .map_err(|_| CredentialError::Signature)?;
    let credential = object(&decode(payload)?).ok_or(CredentialError::Form("it lacks aud, fence, token or exp"))?;
    Ok((credential, trusted))
}

/// Left to itself, serde takes an array for an object with its members in order.
fn object<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let is_object = bytes.first() == Some(&b'{');
    if is_object { serde_json::from_slice(bytes).ok() } else { None }
}

/// Whether a text is meant to be a credential, good or bad.
pub fn is_one(text: &str) -> bool {
    // `{"`, as it begins in base64url.
    let Some((head, _)) = text.split_once('.').filter(|_| text.starts_with("ey")) else { return false };
    let Ok(head) = URL_SAFE_NO_PAD.decode(head) else { return false };
    object::<Kind>(&head).and_then(|kind| kind.typ).is_some_and(|kind| kind.eq_ignore_ascii_case(TYPE))
}
