//! The socket of a connection to an upstream, and how it is cut off.
//!
//! When a newer token takes a fence, older writes get a deadline, and after it no byte of theirs may go out any more. TLS and HTTP/2
//! keep bytes back and send them whenever they can, HTTP/2 in a task of its own. So the socket lies here, where it can be taken away
//! from under them: [`Wire::cut`] closes it with a reset, which throws away what the operating system had still to send, too. A
//! connection carries one exchange at a time, HTTP/2 ones as well: there, frames of one stream that wait for room can't be called
//! back, so that the only certain end is that of the connection.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::socket::poll_write_pieces;

/// A connection's socket; nothing once it is cut.
#[derive(Debug)]
pub struct Wire(Mutex<Option<TcpStream>>);

impl Wire {
    /// A connection over this socket.
    pub fn new(socket: TcpStream) -> Arc<Wire> {
        Arc::new(Wire(Mutex::new(Some(socket))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection with a reset. When this returns, no byte will go out on it any more.
    pub fn cut(&self) {
        if let Some(socket) = self.lock().take() {
            // Without it, closing would go on sending what is buffered.
            if let Err(error) = socket.set_zero_linger() {
                tracing::warn!(%error, "a connection is closed without a reset");
            }
        }
    }

    /// Whether nothing has come since the last answer. Something that has, on an idle HTTP/1.1 connection, is its end, or an answer
    /// to nothing. `surely`: asks the operating system, and not the runtime, which may not have heard yet.
    pub fn is_quiet(&self, surely: bool) -> bool {
        self.lock().as_ref().is_some_and(|socket| {
            let peek = || socket2::SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]);
            let looked = if surely { peek() } else { socket.try_io(Interest::READABLE, peek) };
            looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        })
    }

    fn with<T>(&self, then: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *self.lock() {
            Some(socket) => then(Pin::new(socket)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}

/// What is read and written.
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
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.with(|socket| poll_write_pieces(socket, cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|socket| socket.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(|socket| socket.poll_shutdown(cx))
    }
}
