//! The path of a request: one normal form, from which both the fence's name and what is forwarded are made.
//!
//! A gate that reads `/stock/7` where its upstream reads `/stock/8` lets a writer use one fence's token for another fence's data.
//! So a path is brought into one form, that form is what is forwarded, and whatever an upstream may read in another way is
//! refused with [`Kind::AmbiguousPath`]:
//!
//! | refused | because upstreams … |
//! |---|---|
//! | `.` and `..` in any spelling (`%2e`, `..;x`, with dots or spaces after it) | remove it together with the segment before |
//! | an empty segment that is not the last (`//`), one of only `;params` | merge slashes and drop parameters, so that later segments move |
//! | `\`, `%5C`, `%2F` | take them for a slash |
//! | `%00` and control bytes | end the name there, or remove them |
//! | escapes that are none (`%`, `%zz`), escapes that are not UTF-8 (`%C0%AE`) | each decodes them in its own way |
//! | an escape of an escape of such a byte (`%252E`) | decode twice |
//! | bytes that aren't ASCII, `#`, and others that no URI has | each encodes them in its own way |
//!
//! Then escapes of unreserved characters are decoded, since `%41` and `A` are the same for everybody, and the rest are written in
//! upper case. A segment that a fence's name is made of is decoded completely, so that `a%3Ab` and `a:b`, which one upstream
//! takes for the same thing and another for two, are of one fence; and there, too, are refused `;` (parameters that an upstream
//! may cut off) and dots and spaces at the end (file systems that drop them): two spellings of one name would be two fences.

use percent_encoding::percent_decode_str;

use crate::problem::{Kind, Problem};

/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 16 * 1024;

/// A path in its normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath {
    /// As it is forwarded; starts with `/`.
    text: String,
    /// Whether `text` has escapes left.
    has_escapes: bool,
}

fn ambiguous(why: impl std::fmt::Display) -> Problem {
    Problem::new(Kind::AmbiguousPath, format!("{why}, which an upstream may read in another way than the gate"))
}

/// RFC 3986, section 2.3: what an escape stands for just as well without it.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in a segment as it is (RFC 3986, `pchar`).
const fn is_plain(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// What clients send as it is although RFC 3986 wants it escaped. It is escaped for them.
fn is_tolerated(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}')
}

fn push_escaped(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    let value = char::from(*digit?).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Whether a path, which starts with a slash, is surely its own normal form: as nearly all are. It has nothing but slashes,
/// unreserved characters, and what no upstream reads as anything else, and each segment but the last, which may be empty, has
/// something besides dots in it.
fn is_normal(path: &[u8]) -> bool {
    let mut has_name = true;
    let mut is_empty = false;
    for byte in path {
        match KINDS[usize::from(*byte)] {
            Byte::Name => (has_name, is_empty) = (true, false),
            Byte::Dot => is_empty = false,
            Byte::Slash if has_name => (has_name, is_empty) = (false, true),
            Byte::Slash | Byte::Other => return false,
        }
    }
    has_name || is_empty
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Byte {
    Name,
    Dot,
    Slash,
    Other,
}

/// What each byte is to [`is_normal`].
static KINDS: [Byte; 256] = {
    let (mut table, mut byte) = ([Byte::Other; 256], 0_u8);
    while byte < 128 {
        table[byte as usize] = match byte {
            b'.' => Byte::Dot,
            b'/' => Byte::Slash,
            // Parameters need a closer look.
            b';' => Byte::Other,
            _ if is_plain(byte) => Byte::Name,
            _ => Byte::Other,
        };
        byte += 1;
    }
    table
};

impl NormalPath {
    /// Reads the path of a request, which starts with `/`.
    ///
    /// # Errors
    /// [`Kind::AmbiguousPath`], for what the table in this module's head says.
    pub fn parse(path: &str) -> Result<NormalPath, Problem> {
        if path.len() > PATH_BYTES_MAX {
            return Err(ambiguous(format_args!("the path is longer than {PATH_BYTES_MAX} bytes")));
        }
        if !path.starts_with('/') {
            return Err(ambiguous("the path doesn't start with a slash"));
        }
        if is_normal(path.as_bytes()) {
            return Ok(NormalPath { text: path.to_owned(), has_escapes: false });
        }
        NormalPath::brought_into_form(path)
    }

    fn brought_into_form(path: &str) -> Result<NormalPath, Problem> {
        let mut text = String::with_capacity(path.len() + 8);
        let (mut has_escapes, mut slashes) = (false, 0);
        let mut bytes = path.as_bytes().iter().enumerate();
        while let Some((at, &byte)) = bytes.next() {
            match byte {
                b'/' => {
                    slashes += 1;
                    text.push('/');
                }
                b'%' => {
                    let escape = (hex(path.as_bytes().get(at + 1)), hex(path.as_bytes().get(at + 2)));
                    let (Some(high), Some(low)) = escape else {
                        return Err(ambiguous("the path has a % that is not followed by two hexadecimal digits"));
                    };
                    bytes.nth(1);
                    let byte = high << 4 | low;
                    match byte {
                        _ if is_unreserved(byte) => text.push(char::from(byte)),
                        b'/' | b'\\' => return Err(ambiguous("the path has an escaped slash or backslash")),
                        0..0x20 | 0x7f => return Err(ambiguous("the path has an escaped control byte")),
                        _ => {
                            has_escapes = true;
                            push_escaped(&mut text, byte);
                        }
                    }
                }
                _ if is_plain(byte) => text.push(char::from(byte)),
                _ if is_tolerated(byte) => {
                    has_escapes = true;
                    push_escaped(&mut text, byte);
                }
                b'\\' => return Err(ambiguous("the path has a backslash")),
                _ => return Err(ambiguous("the path has a byte that a URI can't have")),
            }
        }
        let path = NormalPath { text, has_escapes };
        for (number, segment) in (1..).zip(path.segments()) {
            path.check_segment(segment, number == slashes)?;
        }
        Ok(path)
    }

    fn check_segment(&self, segment: &str, is_last: bool) -> Result<(), Problem> {
        if segment.is_empty() {
            return if is_last { Ok(()) } else { Err(ambiguous("the path has an empty segment")) };
        }
        let decoded = self.decoded(segment)?;
        let name = decoded.split([';']).next().unwrap_or_default();
        if name.is_empty() {
            return Err(ambiguous("the path has a segment of nothing but parameters"));
        }
        // Windows drops dots and spaces at the end: there, "...", ".. " and the like are one of the two, or nothing.
        if is_dots_and_spaces(name) {
            return Err(ambiguous("the path has a segment of only dots and spaces"));
        }
        // The same to who decodes twice; in other places an escaped escape of a space says nothing else than it does once.
        if decoded.contains('%') && (escapes_again(&decoded) || is_dots_and_spaces(&name.replace("%20", " "))) {
            return Err(ambiguous("the path has an escape of an escape"));
        }
        Ok(())
    }

    /// The form that is forwarded.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The segments, escaped as they are forwarded. The last one is empty where the path ends with a slash.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.text[1..].split(['/'])
    }

    /// A segment of this path without its escapes.
    ///
    /// # Errors
    /// [`Kind::AmbiguousPath`] where they are not UTF-8.
    pub fn decoded<'a>(&self, segment: &'a str) -> Result<std::borrow::Cow<'a, str>, Problem> {
        if !self.has_escapes {
            return Ok(segment.into());
        }
        percent_decode_str(segment).decode_utf8().map_err(|_| ambiguous("the path has escapes that are not UTF-8"))
    }
}

fn is_dots_and_spaces(name: &str) -> bool {
    name.bytes().all(|byte| matches!(byte, b'.' | b' '))
}

/// Whether a decoded segment still has an escape of a byte that changes what a path means.
fn escapes_again(decoded: &str) -> bool {
    let bytes = decoded.as_bytes();
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'%').any(|(at, _)| {
        let (Some(high), Some(low)) = (hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) else { return false };
        matches!(high << 4 | low, 0..0x20 | 0x7f | b'/' | b'\\' | b'.' | b'%' | b';')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(path: &str) -> Option<String> {
        NormalPath::parse(path).ok().map(|path| path.text)
    }

    #[test]
    fn one_form_for_all_spellings() {
        for (path, form) in [
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/%61%2D%7e/b", "/a-~/b"),
            ("/a%3ab", "/a%3Ab"),
            ("/a:b@c!$&'()*+,;=d", "/a:b@c!$&'()*+,;=d"),
            ("/%e4%bd%a0", "/%E4%BD%A0"),
            ("/a%20b", "/a%20b"),
            ("/{a}|\"b\"", "/%7Ba%7D%7C%22b%22"),
            ("/a%25", "/a%25"),
            ("/a%2520b", "/a%2520b"),
            ("/a%25zz", "/a%25zz"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/..a/.b/c..", "/..a/.b/c.."),
        ] {
            assert_eq!(normal(path).as_deref(), Some(form), "{path}");
        }
    }

    #[test]
    fn what_may_be_read_in_two_ways_is_refused() {
        for path in [
            "",
            "a",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/%2e",
            "/%2E%2e/b",
            "/.%2e/b",
            "/a/..;x=1/b",
            "/a/.;/b",
            "/a/..%3Bx/b",
            "/..%20/b",
            "/.../b",
            "/a/%20/b",
            "//a",
            "/a//b",
            "/a//",
            "/;x/b",
            "/a/;/b",
            "/a\\b",
            "/a%5cb",
            "/a%5Cb",
            "/a%2fb",
            "/a%2Fb",
            "/a%00",
            "/a%0ab",
            "/a%7f",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%u002e",
            "/%c0%ae%c0%ae/b",
            "/a%ff",
            "/a%252fb",
            "/%252e%252e/b",
            "/a%25%32%65",
            "/a%2525",
            "/.%2520/b",
            "/%2520/b",
            "/a#b",
            "/a b",
            "/ä",
            "/a\u{7f}",
            "/a\tb",
        ] {
            assert_eq!(normal(path), None, "{path:?}");
        }
        assert!(normal(&format!("/{}", "a".repeat(PATH_BYTES_MAX))).is_none());
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own(path in "/[a-zA-Z0-9%./;:@ -]{0,12}") {
            if let Some(form) = normal(&path) {
                prop_assert_eq!(normal(&form), Some(form.clone()));
                prop_assert!(!form[1..].split('/').any(|segment| matches!(segment, "." | "..")));
            }
        }

        #[test]
        fn what_looks_normal_is(path in "/[a-zA-Z0-9%./;:@ !-]{0,8}") {
            if is_normal(path.as_bytes()) {
                let closely = NormalPath::brought_into_form(&path).ok();
                prop_assert_eq!(closely, Some(NormalPath { text: path, has_escapes: false }));
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(path in "\\PC{0,40}") {
            let _ = NormalPath::parse(&path);
        }
    }
}
