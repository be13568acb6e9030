//! One connection to an upstream: its socket, how much of the request has left it, and how it is cut off.
//!
//! When a newer token takes a fence, older writes get a deadline, and after it no byte of theirs may go out any more. hyper owns a
//! connection in a task of its own and sends what it has buffered, whenever it can. So the socket lies here, where it can be
//! taken away from under hyper: [`Wire::cut`] closes it with a reset, which throws away what the operating system had still to
//! send, too. A connection carries one exchange at a time, HTTP/2 ones as well: there, frames of one stream that wait for room
//! can't be called back, so that the only certain end is that of the connection.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The whole body was handed to hyper.
const ENDED: u32 = 1 << 31;
/// And all of that left for the operating system.
const SENT: u32 = 1 << 30;
/// The client broke off in the middle of its body.
const BROKEN: u32 = 1 << 29;
/// Below: pieces of the body that hyper has and hasn't written yet.
const PIECES: u32 = BROKEN - 1;

/// A connection's socket and the state of the request on it.
#[derive(Debug)]
pub struct Wire {
    socket: Mutex<Option<TcpStream>>,
    /// The flags above, and the number of pieces.
    upload: AtomicU32,
    /// Rises with each piece of the body.
    moved: AtomicU32,
    /// Who waits for [`SENT`].
    waiting: Mutex<Option<Waker>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wire {
    /// A connection over this socket.
    pub fn new(socket: TcpStream) -> Arc<Wire> {
        Arc::new(Wire {
            socket: Mutex::new(Some(socket)),
            upload: AtomicU32::new(0),
            moved: AtomicU32::new(0),
            waiting: Mutex::new(None),
        })
    }

    /// Closes the connection with a reset. When this returns, no byte will go out on it any more.
    pub fn cut(&self) {
        if let Some(socket) = locked(&self.socket).take() {
            // Without it, closing would go on sending what is buffered.
            if let Err(error) = socket.set_zero_linger() {
                tracing::warn!(%error, "a connection is closed without a reset");
            }
        }
    }

    /// Whether nothing has come since the last answer. Something that has, on an idle HTTP/1.1 connection, is its end, or an
    /// answer to nothing.
    pub fn is_quiet(&self) -> bool {
        locked(&self.socket).as_ref().is_some_and(|socket| {
            let looked = socket2::SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]);
            looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        })
    }

    /// A new request begins. `is_empty`: it has no body.
    pub fn begin(&self, is_empty: bool) {
        self.upload.store(if is_empty { ENDED } else { 0 }, Ordering::SeqCst);
    }

    /// A piece of the body goes to hyper.
    pub fn piece_begins(&self) {
        self.upload.fetch_add(1, Ordering::SeqCst);
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// hyper has written a piece.
    pub fn piece_ends(&self) {
        self.upload.fetch_sub(1, Ordering::SeqCst);
    }

    /// The body was handed over to its end.
    pub fn ended(&self) {
        self.upload.fetch_or(ENDED, Ordering::SeqCst);
    }

    /// The client broke off.
    pub fn broken(&self) {
        self.upload.fetch_or(BROKEN, Ordering::SeqCst);
        self.wake();
    }

    /// Whether the client broke off in the middle of its body.
    pub fn is_broken(&self) -> bool {
        self.upload.load(Ordering::SeqCst) & BROKEN != 0
    }

    /// A number that rises while the request's body moves.
    pub fn moved(&self) -> u32 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether the whole request has left for the operating system.
    pub fn is_sent(&self) -> bool {
        self.upload.load(Ordering::SeqCst) & SENT != 0
    }

    /// Waits until the whole request has left, or can't any more. True where it has.
    pub async fn sent(&self) -> bool {
        std::future::poll_fn(|cx| {
            *locked(&self.waiting) = Some(cx.waker().clone());
            let upload = self.upload.load(Ordering::SeqCst);
            if upload & (SENT | BROKEN) != 0 { Poll::Ready(upload & SENT != 0) } else { Poll::Pending }
        })
        .await
    }

    fn wake(&self) {
        if let Some(waker) = locked(&self.waiting).take() {
            waker.wake();
        }
    }

    /// All that hyper gave so far is with the operating system.
    fn flushed(&self) {
        let upload = self.upload.load(Ordering::SeqCst);
        if upload & (ENDED | SENT) == ENDED && upload & PIECES == 0 {
            self.upload.fetch_or(SENT, Ordering::SeqCst);
            self.wake();
        }
    }

    fn with<T>(&self, then: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *locked(&self.socket) {
            Some(socket) => then(Pin::new(socket)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

/// What hyper reads and writes.
#[derive(Debug)]
pub struct Io(pub Arc<Wire>);

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.with(|socket| socket.poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.with(|socket| socket.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.with(|socket| socket.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.0.with(|socket| socket.poll_flush(cx));
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.0.flushed();
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|socket| socket.poll_shutdown(cx))
    }
}
