//! The header lines of a connection's answers.
//!
//! What a server says of its answers it mostly says again: who it is, the date, of what type they are. So each line of an answer is
//! compared with the same line of the one before, and read anew only where it is another one.

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};

use super::message::Broken;
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

/// The lines of the last answer.
#[derive(Debug, Default)]
pub struct Lines(Vec<(Bytes, Header)>);

impl Lines {
    /// Reads the line that has this number in its answer.
    ///
    /// # Errors
    /// One that is no header.
    pub fn read(&mut self, number: usize, line: &[u8]) -> Result<Header, Broken> {
        if let Some((_, header)) = self.0.get(number).filter(|(known, _)| *known == *line) {
            return Ok(header.clone());
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
        Ok(header)
    }
}

fn read(line: &Bytes) -> Result<Header, Broken> {
    let is_blank = |byte: &&u8| matches!(**byte, b' ' | b'\t');
    // Without a colon the name has all of the line, and is none.
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let (name, rest) = line.split_at(colon);
    let rest = rest.get(1..).ok_or(NO_HEADER)?;
    let blanks = rest.iter().take_while(is_blank).count();
    let start = colon + 1 + blanks;
    let end = line.len() - rest[blanks..].iter().rev().take_while(is_blank).count();
    let name = HeaderName::from_bytes(name).map_err(|_| NO_HEADER)?;
    let value = HeaderValue::from_maybe_shared(line.slice(start..end)).map_err(|_| NO_HEADER)?;
    let seen = Seen::one(name.as_str());
    Ok(Header { name, value, seen })
}

/// What is said of a line that is no header, whoever finds it.
pub const NO_HEADER: Broken = Broken::Protocol("what came is no answer of HTTP/1.1");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_has_changed_is_read_anew() {
        let mut lines = Lines::default();
        let mut read = |number, line: &str| {
            lines.read(number, line.as_bytes()).ok().map(|header| format!("{}={:?}", header.name, header.value))
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
