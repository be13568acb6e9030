//! Answers of HTTP/1.1, out of the bytes that come (RFC 9112).
//!
//! Where a message ends is read strictly. An answer of which two parties see the end in different places lets an upstream, or who
//! writes through it, put a second answer into it, which would be taken for that to the next request. So what is framed in two ways
//! or in a malformed one breaks the connection, and a connection is used again only where nothing came after the answer's end.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use httparse::{Status, parse_headers};
use hyper::body::Frame;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, Version};

use super::lines::{self, Header, Lines};
use super::message::{Broken, Head};
use super::seen::Seen;

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

/// What is of use from one answer on a connection to the next.
#[derive(Debug, Default)]
pub struct Kept {
    /// An empty map, whose memory is used for the headers.
    pub room: HeaderMap,
    /// What was read before.
    pub lines: Lines,
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

/// What is said of a line that is no header, whoever finds it.
const NO_HEADER: Broken = Broken::Protocol("what came is no answer of HTTP/1.1");

fn malformed(error: httparse::Error) -> Broken {
    match error {
        httparse::Error::TooManyHeaders => Broken::HeadTooLarge,
        _ => NO_HEADER,
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

    /// The head, once all of it is there; then the body is next. Interim answers are skipped. `kept`: what is of use
    /// from one answer on a connection to the next.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn head(&mut self, from: &mut BytesMut, kept: &mut Kept) -> Result<Option<Head>, Broken> {
        match self.plain_head(from, kept)? {
            Some(head) => Ok(Some(head)),
            None => self.any_head(from, kept),
        }
    }

    /// The head, where it is of the usual form. Nothing for all others.
    pub(crate) fn plain_head(&mut self, from: &mut BytesMut, kept: &mut Kept) -> Result<Option<Head>, Broken> {
        let mut ends = [0; PLAIN_LINES_MAX];
        let Some((status, lines)) = plain(from, &mut ends) else { return Ok(None) };
        let len = ends[lines - 1];
        if self.interim_bytes + len > self.head_bytes_max {
            return Err(Broken::HeadTooLarge);
        }
        let said = Said::by_plain(from, &ends[..lines - 1], kept)?;
        from.advance(len);
        self.taken(status, Version::HTTP_11, None, said).map(Some)
    }

    /// The head, whatever form it has.
    pub(crate) fn any_head(&mut self, from: &mut BytesMut, kept: &mut Kept) -> Result<Option<Head>, Broken> {
        while !from.is_empty() {
            let mut lines = [const { MaybeUninit::uninit() }; HEADERS_MAX];
            let mut answer = httparse::Response::new(&mut []);
            let parser = httparse::ParserConfig::default();
            let parsed = parser.parse_response_with_uninit_headers(&mut answer, from, &mut lines);
            let parsed = parsed.map_err(malformed)?;
            let len = if let Status::Complete(len) = parsed { len } else { from.len() };
            if self.interim_bytes + len > self.head_bytes_max {
                return Err(Broken::HeadTooLarge);
            }
            if parsed.is_partial() {
                break;
            }
            if answer.code.is_some_and(|code| (100..200).contains(&code) && code != 101) {
                self.interim_bytes += len;
                from.advance(len);
                continue;
            }
            let (status, version, reason) = status_line(&answer)?;
            let lines = Line::of_all(answer.headers, from);
            let said = Said::by(&lines, &from.split_to(len).freeze(), std::mem::take(&mut kept.room))?;
            return self.taken(status, version, reason, said).map(Some);
        }
        Ok(None)
    }

    fn taken(
        &mut self,
        status: StatusCode,
        version: Version,
        reason: Option<ReasonPhrase>,
        said: Said,
    ) -> Result<Head, Broken> {
        self.next = self.body(status, version, &said)?;
        let Said { headers, seen, upgrade, .. } = said;
        Ok(Head { status, version, reason, headers, seen, upgrade })
    }

    /// How the body is framed (RFC 9112, section 6.3).
    fn body(&mut self, status: StatusCode, version: Version, said: &Said) -> Result<Next, Broken> {
        let is_kept = if version == Version::HTTP_11 { !said.closes } else { said.keeps_alive && !said.closes };
        if said.is_chunked && version != Version::HTTP_11 {
            return Err(Broken::Protocol("an answer of HTTP/1.0 has a transfer coding"));
        }
        // A length is of no meaning beside chunks. Whoever reads it otherwise sees another end: here nothing is read after it.
        self.is_reusable = is_kept && !(said.is_chunked && said.has_length);
        Ok(match status.as_u16() {
            // From here on it is no HTTP any more.
            101 => {
                self.is_reusable = false;
                Next::Nothing
            }
            204 | 304 => Next::Nothing,
            _ if self.is_to_head => Next::Nothing,
            _ if said.is_chunked => Next::ChunkSize,
            _ => match said.length {
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
                    from.advance(2);
                    self.next = Next::ChunkSize;
                }
                Next::ChunkSize => {
                    let Some((size, len)) = chunk_size(from)? else { return Ok(None) };
                    from.advance(len);
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
        let mut found = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let (len, lines) = match parse_headers(from, &mut found).map_err(malformed)? {
            Status::Complete((len, found)) => (len, Line::of_all(found, from)),
            Status::Partial if from.len() > self.head_bytes_max => return Err(Broken::HeadTooLarge),
            Status::Partial => return Ok(None),
        };
        let text = from.split_to(len).freeze();
        lines.iter().map(|line| line.read(&text)).collect::<Result<_, _>>().map(Some)
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

fn status_line(answer: &httparse::Response<'_, '_>) -> Result<(StatusCode, Version, Option<ReasonPhrase>), Broken> {
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Broken::Protocol("the answer has no status"))?;
    let version = if answer.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let reason = answer.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    Ok((status, version, reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok())))
}

/// Most lines of an answer's head that is read the plain way, with the empty one.
const PLAIN_LINES_MAX: usize = 32;

/// The status of an answer whose head is all there and of the usual form, and how many lines it has, which end at `ends`: of
/// HTTP/1.1, a status and the words that belong to it, every line ending in CR and LF. What is in the other lines isn't looked at.
/// All else, an interim answer also, is for a parser that knows every form.
fn plain(from: &[u8], ends: &mut [usize; PLAIN_LINES_MAX]) -> Option<(StatusCode, usize)> {
    let after = from.strip_prefix(b"HTTP/1.1 ")?;
    let status = StatusCode::from_bytes(after.get(..3)?).ok().filter(|status| status.as_u16() >= 200)?;
    let words = after[3..].strip_prefix(b" ")?.strip_prefix(status.canonical_reason()?.as_bytes())?;
    if !words.starts_with(b"\r\n") {
        return None;
    }
    ends[0] = from.len() - words.len() + b"\r\n".len();
    let start = ends[0];
    Some((status, 1 + lines::ends(from, start, &mut ends[1..])?))
}

/// Where in a head a header's name and value are.
#[derive(Debug, Clone, Copy)]
struct Line {
    name: (usize, usize),
    value: (usize, usize),
}

impl Line {
    /// Of the headers that were found in these bytes.
    fn of_all(found: &[httparse::Header<'_>], within: &[u8]) -> Vec<Line> {
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr() - within.as_ptr().addr();
            (start, start + part.len())
        };
        found.iter().map(|line| Line { name: place(line.name.as_bytes()), value: place(line.value) }).collect()
    }

    fn read(&self, within: &Bytes) -> Result<(HeaderName, HeaderValue), Broken> {
        let name = HeaderName::from_bytes(&within[self.name.0..self.name.1]);
        let value = HeaderValue::from_maybe_shared(within.slice(self.value.0..self.value.1));
        match (name, value) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            _ => Err(NO_HEADER),
        }
    }
}

/// What the headers of an answer say: of the message, and of the connection.
#[derive(Debug, Default)]
struct Said {
    /// Those that go end to end.
    headers: HeaderMap,
    seen: Seen,
    upgrade: Option<HeaderValue>,
    closes: bool,
    keeps_alive: bool,
    is_chunked: bool,
    has_length: bool,
    /// The body's length; nothing where it is chunked.
    length: Option<u64>,
}

impl Said {
    fn by(lines: &[Line], within: &Bytes, room: HeaderMap) -> Result<Said, Broken> {
        let header = |line: &Line| {
            let (name, value) = line.read(within)?;
            Ok(Header { seen: Seen::one(name.as_str()), name, value })
        };
        Said::by_all(lines.iter().map(header), lines.len(), room)
    }

    /// By the lines that end at these places, but for the first, which has the status.
    fn by_plain(text: &[u8], ends: &[usize], kept: &mut Kept) -> Result<Said, Broken> {
        let Kept { room, lines } = kept;
        let line = |(number, ends): (usize, &[usize])| {
            lines.read(number, &text[ends[0]..ends[1] - b"\r\n".len()]).ok_or(NO_HEADER)
        };
        Said::by_all(ends.windows(2).enumerate().map(line), ends.len(), std::mem::take(room))
    }

    fn by_all(
        lines: impl Iterator<Item = Result<Header, Broken>>,
        count: usize,
        mut room: HeaderMap,
    ) -> Result<Said, Broken> {
        room.reserve(count + GAINED);
        let mut said = Said { headers: room, ..Said::default() };
        let mut hops = Vec::new();
        for line in lines {
            let Header { name, value, seen } = line?;
            match seen {
                Seen::CONNECTION => said.connection(&value, &mut hops),
                Seen::TRANSFER_ENCODING if said.is_chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                    return Err(Broken::Coding);
                }
                Seen::TRANSFER_ENCODING => said.is_chunked = true,
                Seen::UPGRADE => said.upgrade = Some(value),
                Seen::KEEP_ALIVE | Seen::TE | Seen::SELDOM => {}
                Seen::CONTENT_LENGTH => said.length(name, value)?,
                seen => {
                    said.seen = said.seen.or(seen);
                    said.headers.append(name, value);
                }
            }
        }
        hops.iter().for_each(|name| drop(said.headers.remove(name)));
        if said.is_chunked && said.has_length {
            said.headers.remove(CONTENT_LENGTH);
            said.length = None;
        }
        Ok(said)
    }

    /// Reads one line of `Connection`. `hops`: the headers that it names.
    fn connection(&mut self, value: &HeaderValue, hops: &mut Vec<HeaderName>) {
        if value.as_bytes() == b"keep-alive" {
            // Mostly it says only this.
            self.keeps_alive = true;
            return;
        }
        for option in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keeps_alive = true;
            } else if option.eq_ignore_ascii_case(b"close") {
                self.closes = true;
            } else {
                // How the body is framed is no option of the connection, whoever says so.
                hops.extend(HeaderName::from_bytes(option).ok().filter(|name| *name != CONTENT_LENGTH));
            }
        }
    }

    /// Reads the length. Repeated, it has to be the same.
    fn length(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Broken> {
        let is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
        let length = value.to_str().ok().filter(|_| is_number).and_then(|value| value.parse().ok());
        if length.is_none() || self.has_length && self.length != length {
            return Err(Broken::Protocol("the answer has a length that is none, or several"));
        }
        if !self.has_length {
            self.headers.append(name, value);
        }
        (self.has_length, self.length) = (true, length);
        Ok(())
    }
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
