//! What a request presents: `Fencing-Token`, `Fencing-Holder` and `Authorization`.
//!
//! The first line of the input names the fence that a bare token speaks for, or none; each other line is a header.

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};

use crate::access::shown::{self, Shown};
use crate::fence::claim::{BearerToken, PresentedTokens};
use crate::fence::{FenceName, Presented};
use crate::headers::{FENCING_HOLDER, FENCING_TOKEN};
use crate::resource::headers::presented;
use crate::resource::http::head::{FENCING_FENCE, is_for_the_gate, set_token};
use crate::resource::http::seen::Seen;

use super::{Checked, hold};

mod reference;

use reference::{Tokens, Told};

/// A way to read what headers present.
pub type Reads = fn(&HeaderMap, Option<&FenceName>) -> Option<Option<Presented>>;

/// As the gate does.
pub fn gate(headers: &HeaderMap, own: Option<&FenceName>) -> Option<Option<Presented>> {
    presented(headers, own).ok()
}

/// The headers of an input, and the fence that it names.
fn read(input: &[u8]) -> (HeaderMap, Option<FenceName>) {
    let mut lines = input.split(|byte| *byte == b'\n');
    let own = lines.next().and_then(|line| std::str::from_utf8(line).ok()).and_then(|name| name.parse().ok());
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let value = line[colon + 1..].strip_prefix(b" ").unwrap_or(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(value)) {
            // Of one name HTTP libraries take many, but not any number.
            if headers.len() < 200 {
                headers.append(name, value);
            }
        }
    }
    (headers, own)
}

fn told(presented: &Presented) -> Told {
    let tokens = match &presented.tokens {
        PresentedTokens::Bare(token) => Tokens::Bare(token.get()),
        PresentedTokens::Named(named) => {
            Tokens::Named(named.iter().map(|(fence, token)| (fence.to_string(), token.get())).collect())
        }
    };
    Told { tokens, holder: presented.holder.as_ref().map(|holder| holder.to_string()) }
}

/// What is presented is what a second parser reads, which shares nothing with the first.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(reads: Reads, input: &[u8]) -> Checked {
    let (headers, own) = read(input);
    let by_us = reads(&headers, own.as_ref()).map(|given| given.as_ref().map(told));
    let by_reference = reference::presented(&headers, own.as_deref());
    hold!(by_us == by_reference, "{headers:?} of {own:?} presents {by_us:?}, and by the reference {by_reference:?}");
    Ok(())
}

/// The properties of the gate's own way to read.
///
/// # Errors
/// How they don't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(gate, input)?;
    let (headers, own) = read(input);
    let Ok(given) = presented(&headers, own.as_ref()) else { return Ok(()) };
    nothing_of_ours_goes_on(&headers)?;
    let Some(given) = given else { return Ok(()) };
    renders(&given)?;
    let name: FenceName = own.clone().unwrap_or_else(|| "own".parse().expect("a name"));
    let claims = given.tokens.claims(&name, given.holder.as_ref());
    if let [claim] = &claims[..] {
        let mut forwarded = headers.clone();
        set_token(&mut forwarded, Seen::of(&headers), Some(claim));
        let tokens: Vec<_> = forwarded.get_all(FENCING_TOKEN).iter().map(HeaderValue::as_bytes).collect();
        hold!(tokens == [claim.token.to_string().as_bytes()], "{claim:?} is forwarded as {tokens:?}");
        hold!(!forwarded.contains_key(FENCING_FENCE) && !forwarded.contains_key(FENCING_HOLDER), "{forwarded:?}");
    }
    let mut forwarded = headers.clone();
    set_token(&mut forwarded, Seen::of(&headers), None);
    hold!(!forwarded.contains_key(FENCING_TOKEN), "without a claim {forwarded:?} is forwarded");
    Ok(())
}

/// What is written again is read as the same, in the form of every header.
fn renders(given: &Presented) -> Checked {
    let text = match &given.tokens {
        PresentedTokens::Bare(token) => token.digits().as_str().to_owned(),
        PresentedTokens::Named(named) => {
            named.iter().map(|(fence, token)| format!("{fence}={token}")).collect::<Vec<_>>().join(", ")
        }
    };
    let again = PresentedTokens::parse(&text);
    hold!(again.as_ref() == Ok(&given.tokens), "{text:?} is read as {again:?}");
    let PresentedTokens::Bare(token) = given.tokens else { return Ok(()) };
    hold!(token.digits().as_str() == token.to_string(), "{token} has other digits");
    hold!(u64::try_from(token.as_i64()) == Ok(token.get()), "{token} is another number in a database");
    let text = BearerToken::render(token, given.holder.as_ref());
    let again = BearerToken::parse(&text);
    let same = BearerToken { token, holder: given.holder.clone(), secret: None };
    hold!(again == Ok(Some(same)), "{text:?} is read as {again:?}");
    if let Some(holder) = &given.holder {
        let text = BearerToken::render_with_secret(token, holder, "fgs.c2VjcmV0");
        let again = BearerToken::parse(&text);
        let same = BearerToken { token, holder: Some(holder.clone()), secret: Some(b"secret".to_vec()) };
        hold!(again == Ok(Some(same)), "{text:?} is read as {again:?}");
    }
    Ok(())
}

/// What the gate takes for a token, a secret or a credential, it doesn't pass on to whoever is behind it.
fn nothing_of_ours_goes_on(headers: &HeaderMap) -> Checked {
    let Some(authorization) = headers.get(AUTHORIZATION) else { return Ok(()) };
    let is_ours = reference::has_fgt(authorization.as_bytes())
        || matches!(shown::read(headers), Ok(Shown::Secret(_) | Shown::Credential(_) | Shown::Unreadable) | Err(_));
    hold!(!is_ours || is_for_the_gate(authorization), "{authorization:?} is ours, and goes on");
    Ok(())
}
