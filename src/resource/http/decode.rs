//! Answers of HTTP/1.1, out of the bytes that come (RFC 9112).
//!
//! Where a message ends is read strictly. An answer of which two parties see the end in different places lets an upstream, or who
//! writes through it, put a second answer into it, which would be taken for that to the next request. So what is framed in two ways
//! or in a malformed one breaks the connection, and a connection is used again only where nothing came after the answer's end.

use bytes::{Bytes, BytesMut};
use httparse::{Status, parse_headers};
use hyper::body::Frame;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::{StatusCode, Version};

use super::message::{Broken, Head};

/// Most headers or trailers of one answer.
const HEADERS_MAX: usize = 100;
/// Longest line that says a chunk's size, with its extensions, in bytes.
const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// How many headers an answer gains on its way to the client.
const GAINED: usize = 4;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The head, after those of interim answers.
    Head,
    /// So many bytes of the body; never 0.
    Length(u64),
    /// A line that says the size of a chunk.
    ChunkSize,
    /// So many bytes of a chunk; never 0.
    Chunk(u64),
    /// The end of a chunk's line.
    ChunkEnd,
    /// Trailers, perhaps none, and an empty line.
    Trailers,
    /// The body, which ends with the connection.
    UntilClose,
    /// Nothing.
    Nothing,
}

/// Where in an answer one is.
#[derive(Debug)]
pub struct Decoder {
    next: Next,
    /// Whether the request's method was `HEAD`.
    is_to_head: bool,
    /// Largest head, interim answers and all; largest trailers.
    head_bytes_max: usize,
    interim_bytes: usize,
    is_delimited: bool,
    is_reusable: bool,
}

fn malformed(error: httparse::Error) -> Broken {
    match error {
        httparse::Error::TooManyHeaders => Broken::HeadTooLarge,
        _ => Broken::Protocol("what came is no answer of HTTP/1.1"),
    }
}

impl Decoder {
    /// For the answer to a request. `is_to_head`: its method is `HEAD`. `head_bytes_max`: the largest head.
    pub fn new(is_to_head: bool, head_bytes_max: usize) -> Decoder {
        Decoder {
            next: Next::Head,
            is_to_head,
            head_bytes_max,
            interim_bytes: 0,
            is_delimited: true,
            is_reusable: true,
        }
    }

    /// The head, once all of it is there; then the body is next. Interim answers are skipped.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn head(&mut self, from: &mut BytesMut) -> Result<Option<Head>, Broken> {
        while !from.is_empty() {
            let mut headers = [const { std::mem::MaybeUninit::uninit() }; HEADERS_MAX];
            let mut answer = httparse::Response::new(&mut []);
            let parser = httparse::ParserConfig::default();
            let parsed = parser.parse_response_with_uninit_headers(&mut answer, from, &mut headers);
            let len = match parsed.map_err(malformed)? {
                Status::Complete(len) => len,
                Status::Partial => from.len(),
            };
            if self.interim_bytes + len > self.head_bytes_max {
                return Err(Broken::HeadTooLarge);
            }
            if parsed == Ok(Status::Partial) {
                break;
            }
            if answer.code.is_some_and(|code| (100..200).contains(&code) && code != 101) {
                self.interim_bytes += len;
                bytes::Buf::advance(from, len);
                continue;
            }
            let mut head = head(&answer)?;
            self.next = self.body(&mut head)?;
            bytes::Buf::advance(from, len);
            return Ok(Some(head));
        }
        Ok(None)
    }

    /// How the body is framed (RFC 9112, section 6.3). Leaves one length in the headers at most.
    fn body(&mut self, head: &mut Head) -> Result<Next, Broken> {
        let Head { status, version, headers, .. } = head;
        self.is_reusable = match *version {
            Version::HTTP_11 => !says(headers, "close"),
            _ => says(headers, "keep-alive"),
        };
        let length = one_length(headers)?;
        let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
        let coding = codings.next();
        if let Some(coding) = coding {
            if *version != Version::HTTP_11 {
                return Err(Broken::Protocol("an answer of HTTP/1.0 has a transfer coding"));
            }
            if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Broken::Coding);
            }
            if length.is_some() {
                // Of no meaning beside it. Whoever reads it otherwise sees another end, and here nothing is read after it.
                self.is_reusable = false;
            }
        }
        let is_chunked = coding.is_some();
        if is_chunked && length.is_some() {
            headers.remove(CONTENT_LENGTH);
        }
        Ok(match status.as_u16() {
            // From here on it is no HTTP any more.
            101 => {
                self.is_reusable = false;
                Next::Nothing
            }
            204 | 304 => Next::Nothing,
            _ if self.is_to_head => Next::Nothing,
            _ if is_chunked => Next::ChunkSize,
            _ => match length {
                Some(0) => Next::Nothing,
                Some(length) => Next::Length(length),
                None => {
                    (self.is_delimited, self.is_reusable) = (false, false);
                    Next::UntilClose
                }
            },
        })
    }

    /// The next frame of the body as far as it is there. Nothing where more bytes are needed, and at the end.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn frame(&mut self, from: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Broken> {
        loop {
            if from.is_empty() {
                return Ok(None);
            }
            match self.next {
                Next::Head | Next::Nothing => return Ok(None),
                Next::UntilClose => return Ok(Some(Frame::data(from.split().freeze()))),
                Next::Length(left) => {
                    let (data, left) = take(from, left);
                    self.next = if left == 0 { Next::Nothing } else { Next::Length(left) };
                    return Ok(Some(Frame::data(data)));
                }
                Next::Chunk(left) => {
                    let (data, left) = take(from, left);
                    self.next = if left == 0 { Next::ChunkEnd } else { Next::Chunk(left) };
                    return Ok(Some(Frame::data(data)));
                }
                Next::ChunkEnd => {
                    if !b"\r\n".starts_with(&from[..from.len().min(2)]) {
                        return Err(Broken::Protocol("a chunk of the answer doesn't end where it says"));
                    }
                    if from.len() < 2 {
                        return Ok(None);
                    }
                    bytes::Buf::advance(from, 2);
                    self.next = Next::ChunkSize;
                }
                Next::ChunkSize => {
                    let Some((size, len)) = chunk_size(from)? else { return Ok(None) };
                    bytes::Buf::advance(from, len);
                    self.next = if size == 0 { Next::Trailers } else { Next::Chunk(size) };
                }
                Next::Trailers => {
                    let Some(trailers) = self.trailers(from)? else { return Ok(None) };
                    self.next = Next::Nothing;
                    return Ok(if trailers.is_empty() { None } else { Some(Frame::trailers(trailers)) });
                }
            }
        }
    }

    fn trailers(&self, from: &mut BytesMut) -> Result<Option<HeaderMap>, Broken> {
        let mut lines = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let (len, trailers) = match parse_headers(from, &mut lines).map_err(malformed)? {
            Status::Complete((len, lines)) => (len, map(lines, 0)?),
            Status::Partial if from.len() > self.head_bytes_max => return Err(Broken::HeadTooLarge),
            Status::Partial => return Ok(None),
        };
        bytes::Buf::advance(from, len);
        Ok(Some(trailers))
    }

    /// No more bytes will come.
    ///
    /// # Errors
    /// [`Broken::Incomplete`], except where that is the body's end.
    pub fn closed(&mut self) -> Result<(), Broken> {
        match self.next {
            Next::UntilClose | Next::Nothing => {
                self.next = Next::Nothing;
                Ok(())
            }
            _ => Err(Broken::Incomplete),
        }
    }

    /// Whether all of the answer has been taken.
    pub fn is_at_end(&self) -> bool {
        self.next == Next::Nothing
    }

    /// How many bytes of the body are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self.next {
            Next::Nothing => Some(0),
            Next::Length(left) => Some(left),
            _ => None,
        }
    }

    /// Whether the answer says where it ends.
    pub fn is_delimited(&self) -> bool {
        self.is_delimited
    }

    /// Whether another answer can come on the connection after this one.
    pub fn is_reusable(&self) -> bool {
        self.is_reusable && self.is_at_end()
    }
}

fn take(from: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(from.len());
    (from.split_to(count).freeze(), left - count as u64)
}

fn head(answer: &httparse::Response<'_, '_>) -> Result<Head, Broken> {
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Broken::Protocol("the answer has no status"))?;
    let version = if answer.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let reason = answer.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
    Ok(Head { status, version, reason, headers: map(answer.headers, GAINED)? })
}

fn map(lines: &[httparse::Header<'_>], more: usize) -> Result<HeaderMap, Broken> {
    let mut headers = HeaderMap::with_capacity(lines.len() + more);
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line.value)) else {
            return Err(Broken::Protocol("the answer has a header that is none"));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

/// Whether `Connection` says this.
fn says(headers: &HeaderMap, option: &str) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(option))
}

/// The one length that the headers give. Repeated, it has to be the same, and is left there once.
///
/// # Errors
/// Lengths that contradict each other, or are none.
pub fn one_length(headers: &mut HeaderMap) -> Result<Option<u64>, Broken> {
    let wrong = Broken::Protocol("the answer has a length that is none, or several");
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let is_number = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
    let length = first.to_str().ok().filter(|_| is_number).and_then(|first| first.parse().ok());
    let Some(length) = length else { return Err(wrong) };
    let mut is_repeated = false;
    for value in values {
        if value != first {
            return Err(wrong);
        }
        is_repeated = true;
    }
    if is_repeated {
        let first = first.clone();
        headers.insert(CONTENT_LENGTH, first);
    }
    Ok(Some(length))
}

/// The size that a chunk's first line gives, and that line's length, once all of it is there (RFC 9112, section 7.1).
fn chunk_size(from: &[u8]) -> Result<Option<(u64, usize)>, Broken> {
    let wrong = Err(Broken::Protocol("the answer has a chunk whose size is none"));
    let Some(end) = memchr::memchr(b'\n', from) else {
        let may_become_one = from[0].is_ascii_hexdigit() && from.len() <= CHUNK_LINE_BYTES_MAX;
        return if may_become_one { Ok(None) } else { wrong };
    };
    let Some(line) = from[..end].strip_suffix(b"\r").filter(|line| line.len() <= CHUNK_LINE_BYTES_MAX) else {
        return wrong;
    };
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    // Sixteen digits are all that the number has room for. Spaces there are of servers that fill up a field of fixed width.
    let is_extension = |rest: &[u8]| {
        let rest = rest.trim_ascii_start();
        let is_text = rest.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
        (rest.is_empty() || rest[0] == b';') && is_text
    };
    if !(1..=16).contains(&digits) || !is_extension(rest) {
        return wrong;
    }
    let value = |digit: &u8| char::from(*digit).to_digit(16).map_or(0, u64::from);
    Ok(Some((size.iter().fold(0, |sum, digit| sum << 4 | value(digit)), end + 1)))
}

#[cfg(test)]
mod tests;
