//! Writing to a socket.
//!
//! A message's head and a small body lie in two places. For the operating system to gather them (`writev`) costs more than to copy
//! some hundred bytes and hand them over as one (`send`).

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Up to this size what lies in several places is copied into one, in bytes.
const TOGETHER_MAX: usize = 2048;

thread_local! {
    static TOGETHER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes what lies in several places, or the beginning of it; how much that was.
pub fn poll_write_pieces(
    socket: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    pieces: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let mut filled = pieces.iter().filter(|piece| !piece.is_empty());
    if let (Some(only), None) = (filled.next(), filled.next()) {
        return socket.poll_write(cx, only);
    }
    let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
    if len > TOGETHER_MAX {
        return socket.poll_write_vectored(cx, pieces);
    }
    TOGETHER.with_borrow_mut(|together| {
        together.clear();
        pieces.iter().for_each(|piece| together.extend_from_slice(piece));
        socket.poll_write(cx, together)
    })
}

/// A client's connection.
#[derive(Debug)]
pub struct Socket(pub TcpStream);

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        poll_write_pieces(Pin::new(&mut self.0), cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn whatever_the_pieces_the_bytes_are_the_same() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it has one");
        let (near, far) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let (mut socket, mut far) = (Socket(near.expect("it listens")), far.expect("it came").0);
        for lens in [&[0, 300, 0][..], &[5000], &[200, 100, 5], &[2000, 48, 0], &[2000, 49], &[0, 3, 4000], &[1, 2047]]
        {
            let bytes: Vec<Vec<u8>> = lens.iter().zip(1..).map(|(len, byte)| vec![byte; *len]).collect();
            let pieces: Vec<IoSlice<'_>> = bytes.iter().map(|piece| IoSlice::new(piece)).collect();
            let written = poll_fn(|cx| Pin::new(&mut socket).poll_write_vectored(cx, &pieces)).await.expect("written");
            assert_eq!(written, bytes.concat().len(), "there is room for it");
            let mut read = vec![0; written];
            far.read_exact(&mut read).await.expect("it came");
            assert_eq!(read, bytes.concat());
        }
    }
}
