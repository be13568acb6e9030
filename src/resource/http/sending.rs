//! A request of HTTP/1.1 on its way out: its head and body as bytes, and how far they have come.
//!
//! A piece of the body is taken from the client only when all before it is with the operating system: so an upstream that doesn't
//! read slows its client down, and nothing piles up here.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame};
use hyper::header::{HOST, HeaderMap};
use tokio::io::AsyncWrite;

use super::head;
use super::message::Message;

/// Larger ones are not kept from one request to the next, in bytes.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// How the body is framed (RFC 9112, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
}

#[derive(Debug, Default)]
enum Stage {
    /// Nothing has been written.
    Fresh {
        /// Whether the first piece of the body was waited for.
        has_waited: bool,
    },
    /// Some of it may be with the operating system.
    Begun,
    /// All of it is; there is nothing to send.
    #[default]
    Sent,
    /// No more of it can be written, since the connection takes no more. An answer may have come all the same.
    Failed(io::Error),
    /// The client broke off in the middle of its body.
    Broken,
}

/// Why a request can't be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The connection had ended before any of it was written.
    Unsent,
    /// The connection takes no more.
    Failed,
    /// The client broke off in the middle of its body.
    Broken,
}

/// The request of one exchange.
#[derive(Debug)]
pub struct Sending {
    stage: Stage,
    message: Option<Box<Message>>,
    /// What has held the headers of the last request, for those of its answer.
    room: HeaderMap,
    framing: Framing,
    /// Whether all of the body was taken.
    is_taken: bool,
    /// Rises with each piece of the body.
    moved: u32,
    /// To be written: bytes of ours from `written` on, a piece of the body, and what ends it.
    before: Vec<u8>,
    written: usize,
    piece: Bytes,
    after: &'static [u8],
}

impl Default for Sending {
    fn default() -> Sending {
        Sending {
            stage: Stage::Sent,
            message: None,
            room: HeaderMap::new(),
            framing: Framing::Length(0),
            is_taken: true,
            moved: 0,
            before: Vec::new(),
            written: 0,
            piece: Bytes::new(),
            after: b"",
        }
    }
}

impl Sending {
    /// A request is to be sent next, to an upstream that calls itself `authority`.
    pub fn begin(&mut self, message: Box<Message>, authority: &str) {
        let is_empty = message.length == Some(0);
        self.framing = message.length.map_or(Framing::Chunked, Framing::Length);
        self.before.clear();
        write_head(&mut self.before, &message, authority, self.framing == Framing::Chunked);
        self.written = 0;
        (self.stage, self.is_taken, self.message) = (Stage::Fresh { has_waited: false }, is_empty, Some(message));
    }

    /// Sends as much as goes. Ends when all of the request is with the operating system.
    ///
    /// `is_certain`: whether a write that fails has written nothing.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn poll<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        is_certain: bool,
    ) -> Poll<Result<(), Stopped>> {
        if let Stage::Fresh { has_waited } = self.stage
            && !self.is_taken
            && self.piece.is_empty()
            && self.poll_piece(cx).is_pending()
            && !has_waited
        {
            // The first piece has mostly come with the request's head, and is here in a turn: then one write takes both.
            self.stage = Stage::Fresh { has_waited: true };
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            match self.stage {
                Stage::Sent => return Poll::Ready(Ok(())),
                Stage::Failed(_) => return Poll::Ready(Err(Stopped::Failed)),
                Stage::Broken => return Poll::Ready(Err(Stopped::Broken)),
                Stage::Fresh { .. } | Stage::Begun => {}
            }
            let written = ready!(self.poll_write(cx, to));
            if let Err(error) = written {
                if is_certain && matches!(self.stage, Stage::Fresh { .. }) {
                    return Poll::Ready(Err(Stopped::Unsent));
                }
                self.stage = Stage::Failed(error);
            } else if self.is_taken {
                // A piece is a part of the client's buffer, which can be used anew once nobody has it.
                (self.stage, self.piece) = (Stage::Sent, Bytes::new());
                if let Some(message) = self.message.take() {
                    self.room = message.headers;
                    self.room.clear();
                }
            } else if self.poll_piece(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Writes what there is. Ends when all of it is with the operating system.
    fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        loop {
            let before = &self.before[self.written..];
            let written = match (before.is_empty(), self.piece.is_empty() && self.after.is_empty()) {
                (true, true) => break,
                (false, true) => ready!(Pin::new(&mut *to).poll_write(cx, before)),
                _ => {
                    let all = [IoSlice::new(before), IoSlice::new(&self.piece), IoSlice::new(self.after)];
                    ready!(Pin::new(&mut *to).poll_write_vectored(cx, &all))
                }
            };
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.advance(count),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        // TLS keeps some back.
        Pin::new(to).poll_flush(cx)
    }

    fn advance(&mut self, count: usize) {
        self.stage = Stage::Begun;
        let ours = count.min(self.before.len() - self.written);
        self.written += ours;
        let piece = (count - ours).min(self.piece.len());
        self.piece.advance(piece);
        self.after = &self.after[count - ours - piece..];
    }

    /// Takes the next piece of the body, where nothing of the one before is left.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(message) = &mut self.message else { return Poll::Ready(()) };
        let frame = ready!(Pin::new(&mut message.body).poll_frame(cx));
        if self.written == self.before.len() {
            self.before.clear();
            self.written = 0;
        }
        let is_whole = match frame.map(|frame| frame.map(Frame::into_data)) {
            None => self.end(None),
            Some(Ok(Ok(piece))) => self.put(piece),
            Some(Ok(Err(frame))) => self.end(frame.into_trailers().ok()),
            Some(Err(_)) => false,
        };
        if !is_whole {
            self.stage = Stage::Broken;
        }
        Poll::Ready(())
    }

    /// False where it is more than was announced.
    fn put(&mut self, piece: Bytes) -> bool {
        self.moved = self.moved.wrapping_add(1);
        match &mut self.framing {
            Framing::Length(left) => {
                let Some(rest) = left.checked_sub(piece.len() as u64) else { return false };
                *left = rest;
                self.is_taken = rest == 0;
            }
            // One of no bytes would be the end.
            Framing::Chunked if piece.is_empty() => {}
            Framing::Chunked => {
                self.is_taken = self.message.as_ref().is_none_or(|message| message.body.is_end_stream());
                self.after = if self.is_taken { b"\r\n0\r\n\r\n" } else { b"\r\n" };
                write_size(&mut self.before, piece.len());
            }
        }
        self.piece = piece;
        true
    }

    /// False where it is less than was announced.
    fn end(&mut self, trailers: Option<HeaderMap>) -> bool {
        self.is_taken = true;
        if self.framing == Framing::Chunked {
            self.before.extend_from_slice(b"0\r\n");
            let trailers = trailers.map(head::trailers);
            trailers
                .iter()
                .flatten()
                .for_each(|(name, value)| write_line(&mut self.before, name.as_str(), value.as_bytes()));
            self.before.extend_from_slice(b"\r\n");
        }
        matches!(self.framing, Framing::Chunked | Framing::Length(0))
    }

    /// An empty map, whose memory is of no more use here once the request was sent.
    pub fn take_room(&mut self) -> HeaderMap {
        std::mem::take(&mut self.room)
    }

    /// The request, of which nothing was sent.
    pub fn take_back(&mut self) -> Option<Box<Message>> {
        let mut message = self.message.take()?;
        message.body.put_back(std::mem::take(&mut self.piece));
        Some(message)
    }

    /// Lets go of what the exchange needed.
    pub fn finish(&mut self) {
        (self.message, self.piece, self.after) = (None, Bytes::new(), b"");
        if self.before.capacity() > KEPT_BYTES_MAX {
            self.before = Vec::new();
        }
    }

    /// Whether some of it may be with the operating system.
    pub fn has_begun(&self) -> bool {
        !matches!(self.stage, Stage::Fresh { .. })
    }

    /// Whether all of it is.
    pub fn is_sent(&self) -> bool {
        matches!(self.stage, Stage::Sent)
    }

    /// A number that rises while the body moves.
    pub fn moved(&self) -> u32 {
        self.moved
    }

    /// Why the connection takes no more, where that is so; only once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        match &mut self.stage {
            Stage::Failed(error) => Some(std::mem::replace(error, io::ErrorKind::BrokenPipe.into())),
            _ => None,
        }
    }
}

/// A header as HTTP/1.1 has it.
pub fn write_line(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        to.extend_from_slice(part);
    }
}

fn write_size(to: &mut Vec<u8>, size: usize) {
    // Writing to memory doesn't fail.
    let _ = io::Write::write_fmt(to, format_args!("{size:x}\r\n"));
}

/// The head of a request (RFC 9112, section 3).
fn write_head(to: &mut Vec<u8>, message: &Message, authority: &str, is_chunked: bool) {
    let Message { method, target, headers, gained, upgrade, takes_trailers, .. } = message;
    for part in [method.as_str(), " ", target.as_str(), " HTTP/1.1\r\nhost: ", authority, "\r\n"] {
        to.extend_from_slice(part.as_bytes());
    }
    for (name, value) in headers.iter().filter(|(name, _)| *name != HOST) {
        write_line(to, name.as_str(), value.as_bytes());
    }
    gained.write(to);
    if is_chunked {
        to.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    if let Some(protocol) = upgrade {
        write_line(to, "upgrade", protocol.as_bytes());
    }
    if *takes_trailers {
        to.extend_from_slice(b"te: trailers\r\n");
    }
    to.extend_from_slice(match (upgrade, takes_trailers) {
        (None, false) => b"\r\n",
        (None, true) => b"connection: te\r\n\r\n",
        (Some(_), false) => b"connection: upgrade\r\n\r\n",
        (Some(_), true) => b"connection: upgrade, te\r\n\r\n",
    });
}

#[cfg(test)]
mod tests;
