//! HTTP/1.1 on one connection, spoken by the task of the request itself.
//!
//! There is no task for a connection, and so nothing to hand over and to wake: whoever wants the answer sends the request, reads,
//! and is the only one to do so. All that an exchange has come to lies here, not in a future: it can be dropped at any time, and
//! gone on with elsewhere.
//!
//! Each look for the answer goes on with sending, too. An answer whose request is still being sent is therefore never left to a
//! client that may not ask for it.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::Method;
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::decode::{Decoder, Kept};
use super::message::{Broken, Failed, Head, Message};
use super::sending::{Sending, Stopped};
use super::stream::Stream;

/// How much is read at once at first, in bytes.
const READ_BYTES_MIN: usize = 8 * 1024;
/// And at most.
const READ_BYTES_MAX: usize = 64 * 1024;

/// A connection that speaks HTTP/1.1.
#[derive(Debug)]
pub struct Http1 {
    stream: Stream,
    sending: Sending,
    decoder: Decoder,
    kept: Kept,
    /// What came and wasn't taken yet.
    unread: BytesMut,
    /// How much to read at once.
    read_bytes: usize,
    head_bytes_max: usize,
}

impl Http1 {
    /// Over this stream. `head_bytes_max`: the largest head of an answer.
    pub fn new(stream: Stream, head_bytes_max: usize) -> Http1 {
        Http1 {
            stream,
            sending: Sending::default(),
            decoder: Decoder::new(false, head_bytes_max),
            kept: Kept::default(),
            unread: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            head_bytes_max,
        }
    }

    /// A request is to be sent next.
    pub fn begin(&mut self, message: Box<Message>, authority: &str) {
        self.decoder = Decoder::new(message.method == Method::HEAD, self.head_bytes_max);
        self.read_bytes = READ_BYTES_MIN;
        self.sending.begin(message, authority);
    }

    /// Sends, and waits for the head of the answer.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failed>> {
        match self.poll_send(cx) {
            Poll::Ready(Err(Stopped::Unsent)) => {
                let unsent = self.sending.take_back().map(Failed::Unsent);
                return Poll::Ready(Err(unsent.unwrap_or(Failed::Broken(Broken::Incomplete))));
            }
            Poll::Ready(Err(Stopped::Broken)) => return Poll::Ready(Err(Failed::Broken(Broken::Request))),
            Poll::Ready(Ok(()) | Err(Stopped::Failed)) | Poll::Pending => {}
        }
        if !self.sending.has_begun() {
            return Poll::Pending;
        }
        loop {
            if !self.unread.is_empty() {
                self.kept.room = self.sending.take_room();
                if let Some(head) = self.decoder.head(&mut self.unread, &mut self.kept).map_err(Failed::Broken)? {
                    return Poll::Ready(Ok(head));
                }
            }
            if ready!(self.poll_read_more(cx)).map_err(Failed::Broken)? == 0 {
                return Poll::Ready(Err(Failed::Broken(self.ended())));
            }
        }
    }

    /// The next frame of the answer's body; nothing at its end.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        if let Poll::Ready(Err(Stopped::Broken)) = self.poll_send(cx) {
            return Poll::Ready(Err(Broken::Request));
        }
        loop {
            if let Some(frame) = self.decoder.frame(&mut self.unread)? {
                return Poll::Ready(Ok(Some(frame)));
            }
            if self.decoder.is_at_end() {
                return Poll::Ready(Ok(None));
            }
            if ready!(self.poll_read_more(cx))? == 0 {
                self.decoder.closed().map_err(|_| self.ended())?;
            }
        }
    }

    /// Sends the rest of the request. True once all of it is with the operating system, false where it can't get there.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.poll_send(cx).map(|sent| sent.is_ok())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Stopped>> {
        let is_certain = self.stream.fails_whole();
        self.sending.poll(cx, &mut self.stream, is_certain)
    }

    /// The connection ended where it must not. Where it ended while it was written to, that says more.
    fn ended(&mut self) -> Broken {
        self.sending.take_error().map_or(Broken::Incomplete, Broken::Io)
    }

    /// How many bytes came; 0 at the end.
    fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        if self.unread.capacity() - self.unread.len() < self.read_bytes / 2 {
            self.unread.reserve(self.read_bytes);
        }
        let room = self.unread.capacity() - self.unread.len();
        let count = ready!(pin!(self.stream.read_buf(&mut self.unread)).poll(cx))?;
        if count == room {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
        Poll::Ready(Ok(count))
    }

    /// How many bytes of the answer's body are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    /// Whether all that is left of the answer is here already, in one piece.
    pub fn has_all(&self) -> bool {
        self.decoder.left().is_some_and(|left| self.unread.len() as u64 >= left)
    }

    /// Whether the answer says where it ends.
    pub fn is_delimited(&self) -> bool {
        self.decoder.is_delimited()
    }

    /// Whether all of the answer was taken.
    pub fn is_at_end(&self) -> bool {
        self.decoder.is_at_end()
    }

    /// Whether all of the request is with the operating system.
    pub fn is_sent(&self) -> bool {
        self.sending.is_sent()
    }

    /// A number that rises while the request's body moves.
    pub fn moved(&self) -> u32 {
        self.sending.moved()
    }

    /// Makes it one that waits for the next exchange. False where it is of no more use: what came after the answer's end was not
    /// asked for, and would be taken for the next answer.
    pub fn finish(&mut self) -> bool {
        let is_reusable = self.sending.is_sent() && self.decoder.is_reusable();
        let is_reusable = is_reusable && self.unread.is_empty() && !self.stream.holds_more();
        self.sending.finish();
        if self.read_bytes > READ_BYTES_MIN {
            self.unread = BytesMut::new();
        }
        is_reusable
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        // Where it was cut off, no byte of this goes out either.
        self.stream.say_goodbye();
    }
}

/// After an answer 101 it is no HTTP any more: what came along with that answer comes first.
impl AsyncRead for Http1 {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http1 {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
