//! The header lines of a connection's messages.
//!
//! What a server says of its answers it mostly says again: who it is, the date, of what type they are. So does a client of its requests.
//! So each line of a message is compared with the same line of the one before, and read anew only where it is another one.

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};

use super::seen::Seen;

/// Longest line that is remembered, in bytes.
const LINE_BYTES_MAX: usize = 256;
/// Most lines that are.
const LINES_MAX: usize = 16;

/// A header as it was read.
#[derive(Debug, Clone)]
pub struct Header {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderValue,
    /// What it is.
    pub seen: Seen,
}

/// The lines of the last message.
#[derive(Debug, Default)]
pub struct Lines(Vec<(Bytes, Header)>);

impl Lines {
    /// Reads the line that has this number in its message. Nothing for one that is no header.
    pub fn read(&mut self, number: usize, line: &[u8]) -> Option<Header> {
        if let Some((_, header)) = self.0.get(number).filter(|(known, _)| *known == *line) {
            return Some(header.clone());
        }
        let text = Bytes::copy_from_slice(line);
        let header = read(&text)?;
        if line.len() <= LINE_BYTES_MAX {
            let count = self.0.len();
            match self.0.get_mut(number) {
                Some(known) => *known = (text, header.clone()),
                None if number == count && number < LINES_MAX => self.0.push((text, header.clone())),
                None => {}
            }
        }
        Some(header)
    }
}

/// Finds where the lines of a head end, from the second one on, which begins at `start`: each with CR and LF, the last one empty. How many
/// they are; nothing where not all of them are there, or one ends in another way, or there are more than fit.
pub fn ends(from: &[u8], mut start: usize, ends: &mut [usize]) -> Option<usize> {
    for (number, end) in (1..).zip(ends) {
        let len = memchr::memchr(b'\n', &from[start..])?;
        if len == 0 || from[start + len - 1] != b'\r' {
            return None;
        }
        start += len + 1;
        *end = start;
        if len == 1 {
            return Some(number);
        }
    }
    None
}

fn read(line: &Bytes) -> Option<Header> {
    let is_blank = |byte: &&u8| matches!(**byte, b' ' | b'\t');
    // Without a colon the name has all of the line, and is none.
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let (name, rest) = line.split_at(colon);
    let rest = rest.get(1..)?;
    let blanks = rest.iter().take_while(is_blank).count();
    let start = colon + 1 + blanks;
    let end = line.len() - rest[blanks..].iter().rev().take_while(is_blank).count();
    let name = HeaderName::from_bytes(name).ok()?;
    let value = HeaderValue::from_maybe_shared(line.slice(start..end)).ok()?;
    let seen = Seen::one(name.as_str());
    Some(Header { name, value, seen })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_has_changed_is_read_anew() {
        let mut lines = Lines::default();
        let mut read = |number, line: &str| {
            lines.read(number, line.as_bytes()).map(|header| format!("{}={:?}", header.name, header.value))
        };
        for _ in 0..2 {
            assert_eq!(read(0, "Server: x").as_deref(), Some("server=\"x\""));
            assert_eq!(read(1, "a:\t b ").as_deref(), Some("a=\"b\""));
            assert_eq!(read(1, "a: c").as_deref(), Some("a=\"c\""));
            assert_eq!(read(0, "Server : x"), None, "what is wrong isn't remembered");
            assert_eq!(read(9, "b:").as_deref(), Some("b=\"\""));
            for wrong in ["", "x", ":", ": x", " a: b", "a: \u{1}", "a\u{e4}: b"] {
                assert_eq!(read(0, wrong), None, "{wrong:?}");
            }
            let long = format!("long: {}", "x".repeat(LINE_BYTES_MAX));
            assert!(read(0, &long).is_some() && read(0, "Server: x").is_some());
        }
    }
}
