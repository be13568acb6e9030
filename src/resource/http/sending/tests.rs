use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::header::{TRAILER, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::super::body::Upload;
use super::super::gained::Gained;
use super::*;
use crate::resource::Received;

/// What an upstream's connection does with a write.
#[derive(Debug, Clone, Copy)]
enum Does {
    /// Takes so many bytes at most.
    Take(usize),
    /// Has no room now.
    Wait,
    /// Is broken.
    Fail,
}

/// Does each in turn, and then takes all that comes.
#[derive(Debug, Default)]
struct Peer {
    does: VecDeque<Does>,
    taken: Vec<u8>,
    writes: usize,
}

impl Peer {
    fn that(does: &[Does]) -> Peer {
        Peer { does: does.iter().copied().collect(), ..Peer::default() }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = match self.does.pop_front().unwrap_or(Does::Take(usize::MAX)) {
            Does::Take(count) => count.min(buf.len()),
            Does::Wait => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Does::Fail => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        };
        self.writes += 1;
        self.taken.extend_from_slice(&buf[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.poll_write(cx, &all)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Sends what a client asks to each of these peers in turn, until one of them has had some of it.
fn sent(request: &[u8], peers: Vec<Peer>, is_certain: bool) -> (Result<(), Stopped>, Vec<Peer>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(request).await.expect("room for it");
        client.shutdown().await.expect("an end");
        let (tell, mut told) = mpsc::unbounded_channel();
        let given = std::sync::Mutex::new(Some(peers));
        let service = service_fn(move |request| {
            let (tell, mut peers) = (tell.clone(), given.lock().expect("one request").take().expect("one request"));
            async move {
                let (parts, body) = Received::of(request).into_parts();
                let mut headers = parts.headers;
                headers.remove(TRANSFER_ENCODING);
                let target = parts.uri.path_and_query().cloned().expect("a path");
                let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
                let (method, body) = (parts.method, Upload::new(body));
                let mut message = Box::new(Message {
                    method,
                    target,
                    headers,
                    gained: Gained::default(),
                    upgrade: None,
                    takes_trailers: false,
                    length,
                    body,
                });
                let mut sending = Sending::default();
                for peer in &mut peers {
                    sending.begin(message, "up:1");
                    let result = poll_fn(|cx| sending.poll(cx, peer, is_certain)).await;
                    if result != Err(Stopped::Unsent) {
                        assert_eq!(sending.is_sent(), result.is_ok());
                        let _ = tell.send((result, peers));
                        return Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()));
                    }
                    message = sending.take_back().expect("it was not sent");
                }
                let _ = tell.send((Err(Stopped::Unsent), peers));
                Ok(Response::new(Full::default()))
            }
        });
        let connection = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
        let serving = tokio::spawn(connection);
        let told = told.recv().await.expect("the request came");
        serving.abort();
        told
    })
}

fn text(peer: &Peer) -> &str {
    std::str::from_utf8(&peer.taken).expect("text")
}

const WITH_LENGTH: &[u8] = b"POST /a?b HTTP/1.1\r\nhost: gate\r\nx: y\r\ncontent-length: 5\r\n\r\nhello";
const LENGTH_SENT: &str = "POST /a?b HTTP/1.1\r\nhost: up:1\r\nx: y\r\ncontent-length: 5\r\n\r\nhello";

#[test]
fn head_and_body_are_one_write() {
    let (result, peers) = sent(WITH_LENGTH, vec![Peer::default()], true);
    assert_eq!((result, text(&peers[0]), peers[0].writes), (Ok(()), LENGTH_SENT, 1));
    let (result, peers) = sent(b"GET / HTTP/1.1\r\nhost: gate\r\n\r\n", vec![Peer::default()], true);
    assert_eq!((result, text(&peers[0])), (Ok(()), "GET / HTTP/1.1\r\nhost: up:1\r\n\r\n"));
}

#[test]
fn however_little_goes_at_once() {
    for count in 1..8 {
        let does: Vec<Does> = (0..200).flat_map(|_| [Does::Take(count), Does::Wait]).collect();
        let (result, peers) = sent(WITH_LENGTH, vec![Peer::that(&does)], true);
        assert_eq!((result, text(&peers[0])), (Ok(()), LENGTH_SENT), "{count} bytes at once");
    }
}

#[test]
fn chunks_and_trailers() {
    let request = format!(
        "PUT / HTTP/1.1\r\nhost: gate\r\ntransfer-encoding: chunked\r\n{TRAILER}: sum\r\n\r\n3\r\nabc\r\n11\r\n{}\r\n0\r\n\
         sum: 5\r\nfencing-token: 9\r\n\r\n",
        "x".repeat(17)
    );
    for does in [&[][..], &[Does::Take(1); 300]] {
        let (result, peers) = sent(request.as_bytes(), vec![Peer::that(does)], true);
        assert_eq!(result, Ok(()));
        let (head, body) = text(&peers[0]).split_once("\r\n\r\n").expect("a head");
        assert!(head.ends_with("trailer: sum\r\ntransfer-encoding: chunked"), "{head}");
        assert_eq!(body, format!("3\r\nabc\r\n11\r\n{}\r\n0\r\nsum: 5\r\n\r\n", "x".repeat(17)));
    }
}

#[test]
fn of_what_surely_was_not_sent_nothing_is_lost() {
    let broken = || Peer::that(&[Does::Fail]);
    let (result, peers) = sent(WITH_LENGTH, vec![broken(), broken(), Peer::default()], true);
    assert_eq!((result, text(&peers[2])), (Ok(()), LENGTH_SENT));
    assert_eq!(sent(WITH_LENGTH, vec![broken()], true).0, Err(Stopped::Unsent));
}

#[test]
fn what_may_have_been_sent_is_not_sent_again() {
    let (result, peers) = sent(WITH_LENGTH, vec![Peer::that(&[Does::Fail]), Peer::default()], false);
    assert_eq!((result, text(&peers[1])), (Err(Stopped::Failed), ""));
    let (result, peers) = sent(WITH_LENGTH, vec![Peer::that(&[Does::Take(1), Does::Fail]), Peer::default()], true);
    assert_eq!((result, text(&peers[0]), text(&peers[1])), (Err(Stopped::Failed), "P", ""));
}

#[test]
fn a_client_that_breaks_off() {
    for request in [
        "PUT / HTTP/1.1\r\nhost: gate\r\ncontent-length: 10\r\n\r\nhello",
        "PUT / HTTP/1.1\r\nhost: gate\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let (result, peers) = sent(request.as_bytes(), vec![Peer::default()], true);
        assert_eq!(result, Err(Stopped::Broken));
        assert!(text(&peers[0]).contains("hello") && !text(&peers[0]).ends_with("0\r\n\r\n"), "{}", text(&peers[0]));
    }
}
