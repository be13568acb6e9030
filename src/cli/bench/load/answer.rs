//! Where an answer of HTTP/1.1 ends, told from the bytes as they come, without keeping them.
//!
//! It is lenient where the gate is strict: whoever only measures has nothing to protect. What it can't make out breaks the
//! connection, and is counted.

use std::mem::MaybeUninit;

/// Most headers of one answer.
const HEADERS_MAX: usize = 100;
/// Longest head, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What came is no answer of HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came is no answer of HTTP/1.1: {0}")]
pub struct Malformed(pub &'static str);

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Head,
    /// So many bytes; never 0.
    Length(u64),
    /// The digits of a chunk's size; how many came.
    Size {
        size: u64,
        digits: u32,
    },
    /// What stands after a chunk's size in its line.
    SizeRest {
        size: u64,
    },
    /// So many bytes of a chunk, and the two that end it; never 0.
    Chunk(u64),
    /// A line of the trailers; so many bytes of it came.
    Trailer {
        bytes: usize,
    },
    /// A body that ends with its connection.
    UntilClose,
    Done,
}

/// One answer on its way.
#[derive(Debug)]
pub struct Answer {
    next: Next,
    /// A head of which the end hasn't come.
    head: Vec<u8>,
    status: u16,
    closes: bool,
}

impl Default for Answer {
    fn default() -> Answer {
        Answer { next: Next::Head, head: Vec::new(), status: 0, closes: false }
    }
}

impl Answer {
    /// The next one on the same connection.
    pub fn reset(&mut self) {
        self.head.clear();
        (self.next, self.status, self.closes) = (Next::Head, 0, false);
    }

    /// Its status; 0 before the head has come.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the connection ends with it.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// Whether all of it has come.
    pub fn is_done(&self) -> bool {
        self.next == Next::Done
    }

    /// Takes what came. `body` gets the body, piece by piece. How many bytes belong to this answer: fewer than there are where
    /// it ends before them.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn take(&mut self, bytes: &[u8], mut body: impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_done() {
            let taken = match self.next {
                Next::Head => self.take_head(rest)?,
                Next::Length(left) => {
                    let piece = first(rest, left);
                    body(piece);
                    let left = left - piece.len() as u64;
                    self.next = if left == 0 { Next::Done } else { Next::Length(left) };
                    piece.len()
                }
                Next::UntilClose => {
                    body(rest);
                    rest.len()
                }
                Next::Chunk(left) => {
                    let piece = first(rest, left);
                    // The last two are the line's end.
                    body(&piece[..piece.len().min(usize::try_from(left.saturating_sub(2)).unwrap_or(usize::MAX))]);
                    let left = left - piece.len() as u64;
                    self.next = if left == 0 { Next::Size { size: 0, digits: 0 } } else { Next::Chunk(left) };
                    piece.len()
                }
                Next::Size { .. } | Next::SizeRest { .. } | Next::Trailer { .. } => {
                    self.take_line_byte(rest[0])?;
                    1
                }
                Next::Done => 0,
            };
            rest = &rest[taken..];
        }
        Ok(bytes.len() - rest.len())
    }

    /// No more bytes will come.
    ///
    /// # Errors
    /// [`Malformed`] where it isn't the answer's end.
    pub fn closed(&mut self) -> Result<(), Malformed> {
        match self.next {
            Next::UntilClose | Next::Done => {
                self.next = Next::Done;
                Ok(())
            }
            _ => Err(Malformed("the connection broke off")),
        }
    }

    fn take_line_byte(&mut self, byte: u8) -> Result<(), Malformed> {
        self.next = match self.next {
            Next::Size { size, digits } => match char::from(byte).to_digit(16) {
                Some(_) if digits == 15 => return Err(Malformed("a chunk is too large")),
                Some(digit) => Next::Size { size: size << 4 | u64::from(digit), digits: digits + 1 },
                None if digits == 0 => return Err(Malformed("a chunk has no size")),
                None if byte == b'\n' => after_size(size),
                None => Next::SizeRest { size },
            },
            Next::SizeRest { size } if byte == b'\n' => after_size(size),
            Next::Trailer { bytes } if byte == b'\n' => {
                if bytes == 0 {
                    Next::Done
                } else {
                    Next::Trailer { bytes: 0 }
                }
            }
            Next::Trailer { bytes } if byte != b'\r' => Next::Trailer { bytes: bytes + 1 },
            other => other,
        };
        Ok(())
    }

    /// Nearly always all of a head comes at once, and is read where it lies.
    fn take_head(&mut self, came: &[u8]) -> Result<usize, Malformed> {
        if self.head.is_empty() {
            if let Some(len) = self.read_head(came)? {
                return Ok(len);
            }
            self.head.extend_from_slice(came);
            return Ok(came.len());
        }
        let before = self.head.len();
        let mut head = std::mem::take(&mut self.head);
        head.extend_from_slice(came);
        let len = self.read_head(&head)?;
        match len {
            // What was kept had no end of a head in it, so the end is in what came.
            Some(len) => Ok(len.saturating_sub(before)),
            None if head.len() > HEAD_BYTES_MAX => Err(Malformed("its head is too large")),
            None => {
                self.head = head;
                Ok(came.len())
            }
        }
    }

    /// The length of the head, interim answers before it and all; `None` where its end isn't there.
    fn read_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let mut start = 0;
        loop {
            let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
            let mut answer = httparse::Response::new(&mut []);
            let parsed = httparse::ParserConfig::default()
                .parse_response_with_uninit_headers(&mut answer, &bytes[start..], &mut lines)
                .map_err(|_| Malformed("its head isn't one"))?;
            let httparse::Status::Complete(len) = parsed else { return Ok(None) };
            let status = answer.code.unwrap_or(0);
            start += len;
            if !(100..200).contains(&status) {
                self.status = status;
                self.next = self.framed(answer.version == Some(1), answer.headers)?;
                return Ok(Some(start));
            }
        }
    }

    fn framed(&mut self, is_11: bool, headers: &[httparse::Header<'_>]) -> Result<Next, Malformed> {
        let (mut length, mut chunked, mut keeps) = (None, false, is_11);
        for header in headers {
            let is = |name: &str| header.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                let text = std::str::from_utf8(header.value).ok();
                length = Some(text.and_then(|text| text.trim().parse().ok()).ok_or(Malformed("its length is none"))?);
            } else if is("transfer-encoding") {
                chunked = header.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            } else if is("connection") {
                let says =
                    |word: &[u8]| header.value.split(|b| *b == b',').any(|w| w.trim_ascii().eq_ignore_ascii_case(word));
                keeps = (keeps || says(b"keep-alive")) && !says(b"close");
            }
        }
        self.closes = !keeps;
        Ok(match (self.status, chunked, length) {
            (204 | 304, _, _) | (_, false, Some(0)) => Next::Done,
            (_, true, _) => Next::Size { size: 0, digits: 0 },
            (_, false, Some(length)) => Next::Length(length),
            (_, false, None) => {
                self.closes = true;
                Next::UntilClose
            }
        })
    }
}

fn after_size(size: u64) -> Next {
    if size == 0 { Next::Trailer { bytes: 0 } } else { Next::Chunk(size + 2) }
}

fn first(bytes: &[u8], count: u64) -> &[u8] {
    &bytes[..bytes.len().min(usize::try_from(count).unwrap_or(usize::MAX))]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fed in pieces of every size: the status, the body, how many bytes were the answer's, whether the connection goes on.
    fn read(bytes: &[u8]) -> Result<(u16, String, usize, bool), Malformed> {
        let whole = read_in(bytes, bytes.len());
        for size in 1..bytes.len() {
            assert_eq!(read_in(bytes, size), whole, "in pieces of {size}");
        }
        whole
    }

    fn read_in(bytes: &[u8], size: usize) -> Result<(u16, String, usize, bool), Malformed> {
        let (mut answer, mut body, mut taken) = (Answer::default(), Vec::new(), 0);
        for piece in bytes.chunks(size) {
            taken += answer.take(piece, |part| body.extend_from_slice(part))?;
            if answer.is_done() {
                break;
            }
        }
        if !answer.is_done() {
            answer.closed()?;
        }
        Ok((answer.status(), String::from_utf8(body).unwrap(), taken, !answer.closes()))
    }

    #[test]
    fn every_framing_has_its_end() {
        let all = |text: &str| read(text.as_bytes()).unwrap();
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(all(length), (200, "hello".into(), length.len(), true));
        let two = format!("{length}HTTP/1.1 500 No\r\n\r\n");
        assert_eq!(all(&two), (200, "hello".into(), length.len(), true), "what comes after isn't its own");
        let chunks = "HTTP/1.1 412 No\r\ntransfer-encoding: chunked\r\n\r\n4;a=b\r\nwiki\r\nA\r\n0123456789\r\n0\r\nx: y\r\n\r\n";
        assert_eq!(all(chunks), (412, "wiki0123456789".into(), chunks.len(), true));
        let none = "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
        assert_eq!(all(none), (204, String::new(), none.len(), false));
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(all(interim), (201, String::new(), interim.len(), true));
        let until_close = "HTTP/1.0 200 OK\r\n\r\nall that comes";
        assert_eq!(all(until_close), (200, "all that comes".into(), until_close.len(), false));
    }

    #[test]
    fn what_is_no_answer_is_told() {
        let bad = [
            "SSH-2.0-OpenSSH\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhell",
        ];
        for bad in bad {
            assert!(read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
