//! Signed leadership credentials.
//!
//! The input is what is shown: a credential, where it is to be good one of those that this signs, or a piece of one. Where it begins
//! with a line `sign`, the second line is a head and the rest a payload, and both are signed with a key that the gate knows: so what
//! is read behind the signature is reached.

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::access::Pattern;
use crate::access::credential::{Credential, CredentialError, Signer, SigningKey, TrustedKey, Verifier, jws};
use crate::fence::Token;

use super::{Checked, hold};

/// When all of this happens, in seconds since 1970.
const NOW: u64 = 2_000_000_000;
const AUDIENCE: &str = "gate";

/// A gate with one key, and credentials that are signed with it.
pub struct World {
    key: SigningKey,
    verifier: Verifier,
    signed: Vec<String>,
}

impl World {
    fn new() -> Result<World, String> {
        let key = || SigningKey::from_seed(&[7; 32]);
        let fence = Pattern::parse("stock/*")?;
        let trusted = TrustedKey { fence, ..TrustedKey::of_all(key()?.public().clone()) };
        let signer = Signer::new(key()?, "issuer", AUDIENCE);
        let (now, hour) = (Duration::from_secs(NOW), Duration::from_secs(3600));
        let sign = |fence: &str, token: Token, holder: Option<&str>| {
            let fence = fence.parse().map_err(|error| format!("{error}"))?;
            let holder = holder.map(str::parse).transpose().map_err(|error| format!("{error}"))?;
            Ok::<_, String>(signer.sign(&fence, token, holder.as_ref(), hour, now))
        };
        let signed = vec![
            sign("stock/7", Token::MIN, None)?,
            sign("stock/7", Token::MAX, Some("anna"))?,
            sign("stock/a:b", Token::MAX, Some("node-a (blue)"))?,
        ];
        Ok(World { key: key()?, verifier: Verifier::new(vec![trusted], AUDIENCE), signed })
    }

    /// All of its credentials.
    pub fn signed(&self) -> &[String] {
        &self.signed
    }

    /// What an input shows.
    fn shown(&self, input: &[u8]) -> Option<String> {
        let Some(rest) = input.strip_prefix(b"sign\n") else {
            return std::str::from_utf8(input).ok().map(|text| text.trim_end_matches('\n').to_owned());
        };
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let mut text = format!("{}.{}", URL_SAFE_NO_PAD.encode(&rest[..end]), URL_SAFE_NO_PAD.encode(&rest[end + 1..]));
        let signature = self.key.sign(text.as_bytes());
        text.push('.');
        text.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Some(text)
    }
}

/// A way to check credentials.
pub type Verifies = fn(&World, &str) -> Result<Credential, CredentialError>;

/// As the gate does.
pub fn gate(world: &World, text: &str) -> Result<Credential, CredentialError> {
    world.verifier.verify(text, Duration::from_secs(NOW)).map(|leader| leader.credential.clone())
}

/// The world of all inputs.
///
/// # Errors
/// A sentence.
pub fn world() -> Result<&'static World, String> {
    static WORLD: OnceLock<Result<World, String>> = OnceLock::new();
    WORLD.get_or_init(World::new).as_ref().map_err(Clone::clone)
}

/// A credential that is taken is byte for byte one that was signed, and says what it has to say, by a second reader of its text.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(verifies: Verifies, input: &[u8]) -> Checked {
    let world = world()?;
    let Some(text) = world.shown(input) else { return Ok(()) };
    let Ok(credential) = verifies(world, &text) else { return Ok(()) };
    let is_by_us = input.starts_with(b"sign\n") || world.signed.contains(&text);
    hold!(is_by_us, "{text} was never signed, and is taken as {credential:?}");
    hold!(jws::is_one(&text), "{text} is taken, and wouldn't be looked at");
    let parts: Vec<Vec<u8>> = text.split('.').filter_map(|part| URL_SAFE_NO_PAD.decode(part).ok()).collect();
    let [head, payload, signature] = &parts[..] else { return Err(format!("{text} has other than three parts")) };
    let (head, payload) = (tree(head)?, tree(payload)?);
    let of_head = |name: &str| head[name].as_str();
    hold!(of_head("alg") == Some("EdDSA") && of_head("typ") == Some(jws::TYPE), "{head} is taken");
    hold!(of_head("kid") == Some(world.key.public().id()), "{head} is taken");
    hold!(head.as_object().map(|head| head.len()) == Some(3) && signature.len() == 64, "{head} is taken");
    let of_payload = |name: &str| payload[name].as_str();
    hold!(of_payload("aud") == Some(AUDIENCE), "{payload} is taken, for another gate");
    let fence = of_payload("fence").unwrap_or_default();
    hold!(fence.starts_with("stock/") && *credential.fence == *fence, "{payload} is taken, for another fence");
    hold!(of_payload("token") == Some(&credential.token.to_string()), "{payload} is taken, for another token");
    hold!(of_payload("sub") == credential.sub.as_deref(), "{payload} is taken, for another holder");
    let time = |name: &str| payload[name].as_u64();
    let lasts = NOW + 1..=NOW + 3630;
    hold!(time("exp").is_some_and(|end| lasts.contains(&end)), "{payload} is taken at another time");
    for begin in ["iat", "nbf"] {
        hold!(time(begin).is_none_or(|begin| begin <= NOW + 30), "{payload} is taken before its time");
        hold!(payload[begin].is_null() || time(begin).is_some(), "{payload} is taken, whatever its {begin} is");
    }
    Ok(())
}

fn tree(json: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(json).map_err(|error| format!("{}: {error}", String::from_utf8_lossy(json)))
}

/// The properties of the gate's own check.
///
/// # Errors
/// How they don't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(gate, input)?;
    let world = world()?;
    let Some(text) = world.shown(input) else { return Ok(()) };
    let twice = [gate(world, &text), gate(world, &text)];
    // The second time it may be remembered.
    hold!(twice[0] == twice[1], "{text} is {twice:?}");
    Ok(())
}
