//! What HTTP is spoken over: a connection in the clear, or over TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::wire::Io;

/// A connection in the clear, or over TLS.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(Io),
    /// Over TLS.
    Tls(Box<TlsStream<Io>>),
}

impl Stream {
    /// Whether a first write that fails has surely written nothing. TLS keeps bytes back, and writes them later or in part.
    pub fn fails_whole(&self) -> bool {
        matches!(self, Stream::Plain(_))
    }

    /// Whether TLS has taken in bytes that were not read: nobody would find them on the socket any more. An error is something, too.
    pub fn holds_more(&mut self) -> bool {
        let Stream::Tls(stream) = self else { return false };
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut byte).is_ready()
    }

    /// Says to a server that speaks TLS that no more will come, if that can be said at once.
    pub fn say_goodbye(&mut self) {
        if let Stream::Tls(stream) = self {
            let _ = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
