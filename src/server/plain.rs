//! The plain form of HTTP/1.1, which most requests to a gate have: a small request that comes in one piece, and an answer that is in memory.
//!
//! hyper reads and writes every form that HTTP/1.1 has, and takes more of a processor for a small request than the gate's own work does.
//! So a connection begins here. Whatever is not of the plain form goes to hyper, whole and unread, with all that comes after it on the same
//! connection: here is nothing that would have to be done in two ways. An answer that isn't of the plain form is given to hyper, too, together
//! with the request that it is for.
//!
//! - What is read here hyper would read in the same way (a test compares them), and its limits are the same.
//! - A client that closes its side of the connection has gone, and its request ends, as in hyper.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use crate::resource::Received;
use crate::resource::seat::Waiting;

use super::http::AnswerBody;
use super::places::Place;
use head::Kept;

pub mod head;

/// Most bytes that are read at once: a request with more of them is not small.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Up to this size a body is sent in one piece with its head, in bytes.
const TOGETHER_MAX: usize = 16 * 1024;
/// How many bytes the head of an answer has, about.
const HEAD_BYTES: usize = 512;

thread_local! {
    static READ: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; READ_BYTES_MAX]);
}

/// A connection whose requests have all been of the plain form.
struct Plain<I> {
    stream: I,
    /// What was read and not answered.
    unread: Bytes,
    kept: Kept,
}

/// What hyper is to do on a connection.
#[allow(missing_debug_implementations, reason = "a body is a trait object")]
pub struct Rest<I, B> {
    /// The connection, with what was read of it.
    pub stream: Before<I>,
    /// The answer to the first request.
    pub answer: Option<Response<B>>,
}

/// Answers requests on a connection of HTTP/1.1. Nothing at its end; what hyper is to do else. `closing`: what is in work is the last.
///
/// # Errors
/// Of the connection.
pub async fn speak<I, S, F, B>(
    stream: I,
    peer: SocketAddr,
    place: &Place,
    closing: &AtomicBool,
    serve: &S,
) -> io::Result<Option<Rest<I, B>>>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Fn(Request<Received>, SocketAddr) -> F,
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: AnswerBody,
{
    let mut plain = Plain { stream, unread: Bytes::new(), kept: Kept::default() };
    loop {
        if !plain.comes(place, closing).await? {
            return Ok(None);
        }
        let Some((request, len)) = head::request(&plain.unread, &mut plain.kept) else {
            return Ok(Some(plain.rest(None)));
        };
        let asked = plain.unread.split_to(len);
        let Some(answer) = plain.answered(serve(request.map(Received::whole), peer)).await else { return Ok(None) };
        match plain.send(answer, closing).await {
            Sent::Goes => {}
            Sent::Ends(result) => return result.map(|()| None),
            Sent::Not(mut answer) => {
                if closing.load(Ordering::Relaxed) {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                plain.unread = [asked, plain.unread].concat().into();
                return Ok(Some(plain.rest(Some(answer))));
            }
        }
    }
}

/// What became of an answer.
enum Sent<B> {
    /// It was sent, and another request may come.
    Goes,
    /// It was the last one.
    Ends(io::Result<()>),
    /// It is not of the plain form.
    Not(Response<B>),
}

impl<I: AsyncRead + AsyncWrite + Unpin> Plain<I> {
    fn rest<B>(self, answer: Option<Response<B>>) -> Rest<I, B> {
        Rest { stream: Before { bytes: self.unread, stream: self.stream }, answer }
    }

    /// Waits for something to come. False where nothing more will, or the connection is to end.
    async fn comes(&mut self, place: &Place, closing: &AtomicBool) -> io::Result<bool> {
        let mut waiting = None;
        poll_fn(|cx| {
            if closing.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(false));
            }
            if !self.unread.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if let Poll::Ready(read) = self.poll_read(cx) {
                return Poll::Ready(read.map(|()| !self.unread.is_empty()));
            }
            let waiting = waiting.get_or_insert_with(|| Waiting::from_now(&place.seat));
            Pin::new(waiting).poll(cx).map(|()| Ok(false))
        })
        .await
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        READ.with_borrow_mut(|bytes| {
            let mut bytes = ReadBuf::new(bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut bytes))?;
            self.unread = Bytes::copy_from_slice(bytes.filled());
            Poll::Ready(Ok(()))
        })
    }

    /// Waits for the answer to a request. Nothing where the client has gone.
    async fn answered<B>(
        &mut self,
        answer: impl Future<Output = Result<Response<B>, Infallible>>,
    ) -> Option<Response<B>> {
        let mut answer = pin!(answer);
        poll_fn(|cx| {
            if let Poll::Ready(Ok(answer)) = answer.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            if self.unread.is_empty() {
                let read = ready!(self.poll_read(cx));
                if read.is_err() || self.unread.is_empty() {
                    return Poll::Ready(None);
                }
            }
            Poll::Pending
        })
        .await
    }

    async fn send<B: AnswerBody>(&mut self, mut answer: Response<B>, closing: &AtomicBool) -> Sent<B> {
        let Some((text, body, ends)) = written(&answer, closing) else { return Sent::Not(B::complete(answer)) };
        self.kept.room = std::mem::take(answer.headers_mut());
        self.kept.room.clear();
        match self.write(text, body, ends).await {
            Ok(()) if !ends => Sent::Goes,
            result => Sent::Ends(result),
        }
    }

    async fn write(&mut self, mut text: Vec<u8>, body: Bytes, ends: bool) -> io::Result<()> {
        if body.len() <= TOGETHER_MAX {
            text.extend_from_slice(&body);
            self.stream.write_all(&text).await?;
        } else {
            self.stream.write_all_buf(&mut text.chain(body)).await?;
        }
        self.stream.flush().await?;
        if ends { self.stream.shutdown().await } else { Ok(()) }
    }
}

/// The head of an answer, its body, and whether it is the last one. Nothing where it isn't of the plain form.
fn written<B: AnswerBody>(answer: &Response<B>, closing: &AtomicBool) -> Option<(Vec<u8>, Bytes, bool)> {
    let whole = answer.body().whole()?;
    let mut text = Vec::with_capacity(HEAD_BYTES + whole.body.len().min(TOGETHER_MAX));
    let ends = head::answer(&mut text, answer, &whole, closing.load(Ordering::Relaxed))?;
    Some((text, whole.body, ends))
}

/// A connection of which this was read before.
#[derive(Debug)]
pub struct Before<I> {
    bytes: Bytes,
    stream: I,
}

impl<I: AsyncRead + Unpin> AsyncRead for Before<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.bytes.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Before<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
