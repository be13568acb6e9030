//! The header `Idempotency-Key`, and what a request is known again by.
//!
//! Source: draft-ietf-httpapi-idempotency-key-header, which has the value be a String of RFC 9651 (`"8e03978e-40d5"`). Most clients
//! send it bare, so that both are taken, and both forms of one value are one key.

use hyper::HeaderMap;
use ring::digest::{Context, SHA256};

use crate::headers::IDEMPOTENCY_KEY;
use crate::problem::{Kind, Problem};

/// Longest key, in bytes, without quotes and escapes.
pub const KEY_BYTES_MAX: usize = 255;

/// A key, with what it was sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key: 1 to [`KEY_BYTES_MAX`] printable ASCII characters.
    pub text: Box<str>,
    /// SHA-256 of method, path and body.
    pub request: [u8; 32],
}

/// Why a header is no key; the end of a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

impl From<Malformed> for Problem {
    fn from(Malformed(why): Malformed) -> Problem {
        Problem::new(Kind::IdempotencyKeyMalformed, format!("Idempotency-Key {why}"))
    }
}

/// The key that the headers name.
///
/// # Errors
/// [`Malformed`].
pub fn named(headers: &HeaderMap) -> Result<Option<Box<str>>, Malformed> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Malformed("stands there twice"));
    }
    parse(value.as_bytes()).map(Some)
}

fn parse(value: &[u8]) -> Result<Box<str>, Malformed> {
    let key = match value {
        [b'"', quoted @ ..] => unquote(quoted)?,
        // A comma is where two headers were made one on the way.
        bare if bare.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',') => bare.to_vec(),
        _ => return Err(Malformed("has characters that only a key in quotes can have")),
    };
    match key.len() {
        0 => Err(Malformed("is empty")),
        1..=KEY_BYTES_MAX => Ok(String::from_utf8(key).expect("all of it is ASCII").into()),
        _ => Err(Malformed("has more than 255 bytes")),
    }
}

/// A String of RFC 9651, from behind its first quote on. Parameters are not taken: nobody has said what they would mean.
fn unquote(quoted: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut key = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    loop {
        match bytes.next() {
            Some(b'"') => break,
            Some(b'\\') => match bytes.next() {
                Some(byte @ (b'"' | b'\\')) => key.push(*byte),
                _ => return Err(Malformed("has a backslash before what needs none")),
            },
            Some(byte @ b' '..=b'~') => key.push(*byte),
            Some(_) => return Err(Malformed("has characters other than printable ASCII")),
            None => return Err(Malformed("has no quote at its end")),
        }
    }
    if bytes.as_slice().is_empty() { Ok(key) } else { Err(Malformed("goes on after its last quote")) }
}

impl Key {
    /// This key, sent with this request.
    pub fn of(text: Box<str>, method: &str, path: &str, body: &[u8]) -> Key {
        let mut digest = Context::new(&SHA256);
        // Neither a method nor a path has a NUL, so that no two requests give the same bytes.
        for part in [method.as_bytes(), b"\0", path.as_bytes(), b"\0", body] {
            digest.update(part);
        }
        let mut request = [0; 32];
        request.copy_from_slice(digest.finish().as_ref());
        Key { text, request }
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&[u8]]) -> Result<Option<String>, Malformed> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(value).unwrap());
        }
        named(&headers).map(|key| key.map(String::from))
    }

    #[test]
    fn both_forms_of_one_value_are_one_key() {
        for (value, key) in [
            (&b"\"8e03978e-40d5\""[..], "8e03978e-40d5"),
            (b"8e03978e-40d5", "8e03978e-40d5"),
            (b"\"a b\"", "a b"),
            (br#""a\"b\\c""#, r#"a"b\c"#),
            (br#"a"b\c"#, r#"a"b\c"#),
            (b"\"a,b\"", "a,b"),
        ] {
            assert_eq!(read(&[value]), Ok(Some(key.to_owned())), "{value:?}");
        }
        assert_eq!(read(&[]), Ok(None));
        let longest = "k".repeat(KEY_BYTES_MAX);
        assert_eq!(read(&[longest.as_bytes()]), Ok(Some(longest)));
    }

    #[test]
    fn what_is_no_key() {
        let long = "k".repeat(KEY_BYTES_MAX + 1);
        let long_quoted = format!("\"{long}\"");
        let values: [&[u8]; 15] = [
            b"",
            b"\"\"",
            b"\"",
            b"\"a",
            b"\"a\"b",
            b"\"a\";x=1",
            b"\"a\", \"b\"",
            br#""\a""#,
            br#""a\"#,
            b"a b",
            b"a,b",
            "\u{e4}".as_bytes(),
            "\"\u{e4}\"".as_bytes(),
            long.as_bytes(),
            long_quoted.as_bytes(),
        ];
        for value in values {
            assert!(read(&[value]).is_err(), "{}", String::from_utf8_lossy(value));
        }
        assert!(read(&[b"a", b"a"]).is_err());
    }

    #[test]
    fn every_part_of_a_request_counts() {
        let key = |method, path, body: &[u8]| Key::of("k".into(), method, path, body).request;
        let one = key("POST", "/v3/pipeline", b"{}");
        assert_eq!(one, key("POST", "/v3/pipeline", b"{}"));
        for other in
            [key("PUT", "/v3/pipeline", b"{}"), key("POST", "/v2/pipeline", b"{}"), key("POST", "/v3/pipeline", b"{ }")]
        {
            assert_ne!(one, other);
        }
    }

    proptest! {
        #[test]
        fn whatever_can_be_said_in_quotes_comes_back(key in "[ -~]{1,255}") {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(read(&[quoted.as_bytes()]), Ok(Some(key)));
        }

        #[test]
        fn nothing_panics(value in "[ -~\u{80}-\u{ff}]{0,300}") {
            let key = read(&[value.as_bytes()]);
            if let Ok(Some(key)) = key {
                prop_assert!((1..=KEY_BYTES_MAX).contains(&key.len()));
            }
        }
    }
}
