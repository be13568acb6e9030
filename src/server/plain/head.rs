//! Requests and answers of the plain form, out of bytes and into bytes (RFC 9112).
//!
//! A request is read here only where there is one way to read it: each line ends in CR and LF, the target is a path, the body is as long as
//! `Content-Length` says, given once in digits, and nothing is said of the connection or of how the message is coded. An answer is written
//! here only where it is as simple.

use std::cell::RefCell;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderValue, TRAILER, TRANSFER_ENCODING, UPGRADE};
use hyper::{Method, Request, Response, StatusCode, Uri};

use crate::fence::token::Digits;
use crate::resource::http::lines::{self, Header, Lines};
use crate::resource::http::seen::Seen;
use crate::resource::http::sending::write_line;

use super::super::digits;
use super::super::http::Whole;

/// Most lines of a head, with the empty one.
const LINES_MAX: usize = 32;
/// Longest headers that are remembered as they are, in bytes.
const BLOCK_BYTES_MAX: usize = 1024;

/// What is of use from one request on a connection to the next.
#[derive(Debug, Default)]
pub struct Kept {
    /// An empty map, whose memory is used for the headers.
    pub room: HeaderMap,
    /// What was read before, line by line.
    lines: Lines,
    /// The headers of the last request as they came.
    block: Vec<u8>,
    /// What they say, once they have come twice: some clients send the same again and again, and others never do.
    read: Option<Headers>,
    /// The last target.
    target: Bytes,
    uri: Uri,
}

/// What the headers of a request say.
#[derive(Debug, Clone)]
struct Headers {
    all: HeaderMap,
    /// How long the body is.
    length: usize,
}

/// Headers of a request that say more than this reads.
const ELSEWHERE: Seen = Seen::TRANSFER_ENCODING.or(Seen::UPGRADE).or(Seen::TE).or(Seen::EXPECT).or(Seen::SELDOM);

/// The request that these bytes begin with, and how many of them it has. Nothing where not all of it is there, or it is not of the plain form.
pub fn request(from: &Bytes, kept: &mut Kept) -> Option<(Request<Bytes>, usize)> {
    let start = memchr::memchr(b'\n', from)? + 1;
    let (method, target) = from[..start].strip_suffix(b" HTTP/1.1\r\n").and_then(request_line)?;
    let (Headers { all, length }, len) = kept.headers(&from[start..])?;
    let head = start + len;
    let end = head.checked_add(length).filter(|end| *end <= from.len())?;
    if kept.target != from[target.clone()] {
        let target = Bytes::copy_from_slice(&from[target]);
        (kept.uri, kept.target) = (Uri::from_maybe_shared(target.clone()).ok()?, target);
    }
    let mut request = Request::new(from.slice(head..end));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, kept.uri.clone(), all);
    Some((request, end))
}

impl Kept {
    /// The headers that these bytes begin with, and how many bytes they take.
    fn headers(&mut self, from: &[u8]) -> Option<(Headers, usize)> {
        let len = self.block.len();
        // It ends with an empty line, and there is no other in it.
        let is_same = len > 0 && from.starts_with(&self.block);
        if let Some(read) = self.read.as_ref().filter(|_| is_same) {
            return Some((read.clone(), len));
        }
        let (headers, len) = self.read(from)?;
        self.read = is_same.then(|| headers.clone());
        if !is_same {
            self.block.clear();
            if len <= BLOCK_BYTES_MAX {
                self.block.extend_from_slice(&from[..len]);
            }
        }
        Some((headers, len))
    }

    fn read(&mut self, from: &[u8]) -> Option<(Headers, usize)> {
        let mut ends = [0; LINES_MAX];
        let count = lines::ends(from, 0, &mut ends[1..])?;
        let (mut all, mut length) = (std::mem::take(&mut self.room), None);
        all.reserve(count);
        for (number, ends) in ends[..count].windows(2).enumerate() {
            let line = &from[ends[0]..ends[1] - b"\r\n".len()];
            let Header { name, value, seen } = self.lines.read(number, line)?;
            if seen.has(Seen::CONTENT_LENGTH.or(Seen::CONNECTION).or(ELSEWHERE)) {
                match seen {
                    Seen::CONTENT_LENGTH if length.is_none() => length = Some(number_in(&value)?),
                    Seen::CONNECTION if value.as_bytes().eq_ignore_ascii_case(b"keep-alive") => {}
                    _ => return None,
                }
            }
            all.append(name, value);
        }
        Some((Headers { all, length: length.unwrap_or(0) }, ends[count]))
    }
}

/// The method, and where the target is. A tunnel, and what only asks for the head of an answer, are read elsewhere.
fn request_line(line: &[u8]) -> Option<(Method, Range<usize>)> {
    let space = memchr::memchr(b' ', line)?;
    let method = Method::from_bytes(&line[..space]).ok()?;
    let target = &line[space + 1..];
    let is_path = target.first() == Some(&b'/') && target.iter().all(u8::is_ascii_graphic);
    (is_path && method != Method::CONNECT && method != Method::HEAD).then_some((method, space + 1..line.len()))
}

fn number_in(value: &HeaderValue) -> Option<usize> {
    value.to_str().ok().and_then(digits)?.parse().ok()
}

/// Writes the head of an answer with this body. Whether the connection ends with it; nothing, and nothing of use written, where
/// it isn't of the plain form.
pub fn answer<B>(to: &mut Vec<u8>, answer: &Response<B>, whole: &Whole<'_>, mut ends: bool) -> Option<bool> {
    let (status, len) = (answer.status(), whole.body.len());
    let is_empty = status == StatusCode::NO_CONTENT;
    if status.as_u16() < 200 || status == StatusCode::NOT_MODIFIED || is_empty && len > 0 {
        return None;
    }
    write_status(to, answer);
    to.extend_from_slice(whole.lines);
    let (mut has_length, mut has_date, mut says_close) = (is_empty || !whole.lines.is_empty(), false, false);
    for (name, value) in answer.headers() {
        match *name {
            CONTENT_LENGTH if is_empty || has_length || number_in(value) != Some(len) => return None,
            CONTENT_LENGTH => has_length = true,
            CONNECTION if value == "close" && !says_close => (ends, says_close) = (true, true),
            CONNECTION | TRANSFER_ENCODING | TRAILER | UPGRADE => return None,
            DATE => has_date = true,
            _ => {}
        }
        write_line(to, name.as_str(), value.as_bytes());
    }
    if !has_length {
        write_line(to, "content-length", Digits::of(len as u64).as_str().as_bytes());
    }
    if ends && !says_close {
        to.extend_from_slice(b"connection: close\r\n");
    }
    if !has_date {
        write_date(to);
    }
    to.extend_from_slice(b"\r\n");
    Some(ends)
}

fn write_status<B>(to: &mut Vec<u8>, answer: &Response<B>) {
    let status = answer.status();
    if answer.extensions().is_empty() && status == StatusCode::OK {
        to.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let usual = status.canonical_reason().unwrap_or_default().as_bytes();
    let reason = answer.extensions().get::<ReasonPhrase>().map_or(usual, ReasonPhrase::as_bytes);
    for part in [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", reason, b"\r\n"] {
        to.extend_from_slice(part);
    }
}

thread_local! {
    /// The last second that was told, since 1970, and how it is told.
    static DATE_LINE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

fn write_date(to: &mut Vec<u8>) {
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE_LINE.with_borrow_mut(|(told, line)| {
        if *told != second {
            (*told, *line) = (second, format!("date: {}\r\n", httpdate::fmt_http_date(now)));
        }
        to.extend_from_slice(line.as_bytes());
    });
}
