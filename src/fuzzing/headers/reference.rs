//! A second way to read what headers present: slow, and as the contract has it. It shares no code with the first.

use hyper::HeaderMap;

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub tokens: Tokens,
    pub holder: Option<String>,
}

/// A bare token, or one for each fence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tokens {
    Bare(u64),
    Named(Vec<(String, u64)>),
}

const FENCE_BYTES: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@/-";
const BASE64URL: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const HIGHEST: &str = "9223372036854775807";

/// A token: digits, from 1 to 9223372036854775807, no leading zero. Compared as a text: longer is higher.
fn token(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.chars().all(|c| "0123456789".contains(c)) && !text.starts_with('0');
    let is_low = text.len() < HIGHEST.len() || (text.len() == HIGHEST.len() && text <= HIGHEST);
    if is_number && is_low { text.parse().ok() } else { None }
}

fn fence(text: &str) -> Option<String> {
    let is_name = (1..=255).contains(&text.len()) && text.chars().all(|c| FENCE_BYTES.contains(c));
    is_name.then(|| text.to_owned())
}

fn holder(text: &str) -> Option<String> {
    ((1..=255).contains(&text.len()) && text.chars().all(|c| (' '..='~').contains(&c))).then(|| text.to_owned())
}

fn tokens(text: &str) -> Option<Tokens> {
    if !text.contains('=') && !text.contains(',') {
        return token(text).map(Tokens::Bare);
    }
    let mut all: Vec<(String, u64)> = Vec::new();
    for item in text.split(',') {
        let item = item.trim_matches(|c| c == ' ' || c == '\t');
        let equals = item.find('=')?;
        let (name, number) = (fence(&item[..equals])?, token(&item[equals + 1..])?);
        if all.iter().any(|(other, _)| *other == name) {
            return None;
        }
        all.push((name, number));
    }
    (all.len() <= 64).then_some(Tokens::Named(all))
}

/// Bytes of base64url: six bits a character, and none of those that are left over may be set.
fn base64url(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bits = Vec::new();
    for c in text.chars() {
        let value = BASE64URL.find(c)?;
        bits.extend((0..6).rev().map(|bit| value >> bit & 1 == 1));
    }
    let rest = bits.len() % 8;
    if rest >= 6 || bits[bits.len() - rest..].contains(&true) {
        return None;
    }
    Some(bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit))).collect())
}

/// The token and the holder of a `fgt.` credential; nothing inside for another credential.
fn bearer(credential: &str) -> Option<Option<(u64, Option<String>)>> {
    if !credential.starts_with("fgt.") {
        return Some(None);
    }
    let parts: Vec<&str> = credential[4..].split('.').collect();
    let number = token(parts[0])?;
    let name = |part: &str| String::from_utf8(base64url(part)?).ok().and_then(|text| holder(&text));
    let named = match parts[..] {
        [_] => None,
        [_, part] => Some(name(part)?),
        [_, part, secret] => {
            if base64url(secret)?.is_empty() {
                return None;
            }
            if part.is_empty() { None } else { Some(name(part)?) }
        }
        _ => return None,
    };
    Some(Some((number, named)))
}

/// The only value of a header as text. Nothing where there are several, or other bytes than those of text; nothing inside where
/// there is none.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<Option<&'a str>> {
    let all: Vec<&[u8]> = headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
    match all[..] {
        [] => Some(None),
        [value] => std::str::from_utf8(value).ok().filter(|text| text.is_ascii()).map(Some),
        _ => None,
    }
}

/// What stands behind `Bearer` in `Authorization`.
fn credential(authorization: &str) -> Option<&str> {
    let is_bearer = authorization.len() > 6 && authorization.as_bytes()[..6].eq_ignore_ascii_case(b"bearer");
    let rest = if is_bearer { &authorization[6..] } else { return None };
    rest.starts_with(' ').then(|| rest.trim_start_matches(' '))
}

/// What is presented: nothing where it is malformed, nothing inside where there is no token.
pub fn presented(headers: &HeaderMap, own: Option<&str>) -> Option<Option<Told>> {
    let (header, named) = (only(headers, "fencing-token")?, only(headers, "fencing-holder")?);
    let authorization = only(headers, "authorization")?;
    let header = if let Some(text) = header { Some(tokens(text)?) } else { None };
    let named = if let Some(text) = named { Some(holder(text)?) } else { None };
    let shown = if let Some(text) = authorization.and_then(credential) { bearer(text)? } else { None };
    let Some((number, by_bearer)) = shown else {
        return Some(header.map(|tokens| Told { tokens, holder: named }));
    };
    let for_own = match &header {
        None => Some(number),
        Some(Tokens::Bare(bare)) => Some(*bare),
        Some(Tokens::Named(all)) => all.iter().find(|(name, _)| Some(name.as_str()) == own).map(|(_, number)| *number),
    };
    let holders_agree = named.is_none() || by_bearer.is_none() || named == by_bearer;
    if for_own != Some(number) || !holders_agree {
        return None;
    }
    Some(Some(Told { tokens: header.unwrap_or(Tokens::Bare(number)), holder: named.or(by_bearer) }))
}

/// Whether `Authorization` has a token for the gate in it.
pub fn has_fgt(authorization: &[u8]) -> bool {
    std::str::from_utf8(authorization).ok().and_then(credential).is_some_and(|text| text.starts_with("fgt."))
}
