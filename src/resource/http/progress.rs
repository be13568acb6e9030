//! How much of an HTTP/2 request has left for the operating system. hyper sends what it was given in a task of its own, so that it
//! has to be counted on the way: pieces of the body until hyper has written them, and then the stream's flush.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::Upload;
use super::head;
use super::stream::Stream;
use crate::resource::BodyError;

/// The whole body was handed to hyper.
const ENDED: u32 = 1 << 31;
/// And all of that left for the operating system.
const SENT: u32 = 1 << 30;
/// The client broke off in the middle of its body.
const BROKEN: u32 = 1 << 29;
/// Below: pieces of the body that hyper has and hasn't written yet.
const PIECES: u32 = BROKEN - 1;

/// How far the request on a connection has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// The flags above, and the number of pieces.
    upload: AtomicU32,
    /// Rises with each piece of the body.
    moved: AtomicU32,
    /// Who waits for [`SENT`].
    waiting: Mutex<Option<Waker>>,
}

impl Progress {
    fn waiting(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, flag: u32) {
        self.upload.fetch_or(flag, Ordering::SeqCst);
        if flag != ENDED
            && let Some(waker) = self.waiting().take()
        {
            waker.wake();
        }
    }

    fn has(&self, flag: u32) -> bool {
        self.upload.load(Ordering::SeqCst) & flag != 0
    }

    /// A new request begins. `is_empty`: it has no body.
    pub fn begin(&self, is_empty: bool) {
        self.upload.store(if is_empty { ENDED } else { 0 }, Ordering::SeqCst);
    }

    /// Whether the client broke off in the middle of its body.
    pub fn is_broken(&self) -> bool {
        self.has(BROKEN)
    }

    /// A number that rises while the request's body moves.
    pub fn moved(&self) -> u32 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether the whole request has left for the operating system.
    pub fn is_sent(&self) -> bool {
        self.has(SENT)
    }

    /// Waits until the whole request has left, or can't any more. True where it has.
    pub fn poll_sent(&self, cx: &mut Context<'_>) -> Poll<bool> {
        *self.waiting() = Some(cx.waker().clone());
        if self.has(SENT | BROKEN) { Poll::Ready(self.is_sent()) } else { Poll::Pending }
    }

    /// All that hyper gave so far is with the operating system.
    fn flushed(&self) {
        let upload = self.upload.load(Ordering::SeqCst);
        if upload & (ENDED | SENT) == ENDED && upload & PIECES == 0 {
            self.set(SENT);
        }
    }
}

/// A piece of a request's body. It is counted until hyper has written it.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    progress: Arc<Progress>,
}

impl Piece {
    fn new(bytes: Bytes, progress: &Arc<Progress>) -> Piece {
        progress.upload.fetch_add(1, Ordering::SeqCst);
        progress.moved.fetch_add(1, Ordering::Relaxed);
        Piece { bytes, progress: Arc::clone(progress) }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.bytes.copy_to_bytes(len)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.progress.upload.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The body of a request on its way through hyper.
#[derive(Debug)]
pub struct Counted {
    /// What the client sends.
    pub body: Upload,
    /// Where it is counted.
    pub progress: Arc<Progress>,
}

impl Body for Counted {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        let Counted { body, progress } = &mut *self;
        let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                progress.set(BROKEN);
                return Poll::Ready(Some(Err(error.into())));
            }
            None => {
                progress.set(ENDED);
                return Poll::Ready(None);
            }
        };
        let frame = match frame.into_data() {
            Ok(bytes) => {
                let piece = Piece::new(bytes, progress);
                if body.is_end_stream() {
                    progress.set(ENDED);
                }
                Frame::data(piece)
            }
            Err(frame) => {
                progress.set(ENDED);
                Frame::trailers(head::trailers(frame.into_trailers().unwrap_or_default()))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose flushes are heard of.
#[derive(Debug)]
pub struct Counting {
    /// The stream.
    pub stream: Stream,
    /// Who hears of them.
    pub progress: Arc<Progress>,
}

impl AsyncRead for Counting {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counting {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.progress.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
