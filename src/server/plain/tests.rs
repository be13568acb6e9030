use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::HeaderMap;
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::resource::http::body::Kept;
use crate::resource::{Body, BodyError};
use crate::server::http;
use crate::server::places::Places;

const LONG: Duration = Duration::from_secs(3600);
const REQUEST: &[u8] = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";

/// A connection whose requests are answered once they may be.
struct Served {
    client: DuplexStream,
    /// What they wait for.
    may: Arc<Notify>,
    /// Requests that are in work.
    in_work: Arc<AtomicUsize>,
    stop: watch::Sender<bool>,
    ended: JoinHandle<Result<(), BodyError>>,
}

/// Counts a request for as long as it is in work.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Counted {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn whole() -> Body {
    Body::Whole(Full::new(Bytes::from_static(b"done")))
}

fn streamed() -> Body {
    Body::Streamed(Box::pin(Kept::new(Bytes::from_static(b"done"), HeaderMap::new())))
}

impl Served {
    fn begin(body: fn() -> Body) -> Served {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let (may, in_work) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (stop, stopping) = watch::channel(false);
        let (asked, count) = (Arc::clone(&may), Arc::clone(&in_work));
        let serve = move |request: Request<Received>, _| {
            let (may, counted) = (Arc::clone(&asked), Counted::new(&count));
            async move {
                may.notified().await;
                drop((request, counted));
                Ok::<_, Infallible>(Response::new(body()))
            }
        };
        let place = Places::new("data", 1, LONG).take().expect("there is one place");
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let ended = tokio::spawn(http::speak(server, false, peer, place, stopping, serve));
        Served { client, may, in_work, stop, ended }
    }

    async fn has_in_work(&self, count: usize) {
        while self.in_work.load(Ordering::Relaxed) != count {
            tokio::task::yield_now().await;
        }
    }

    /// What comes until the connection's end.
    async fn rest(mut self) -> String {
        let mut text = String::new();
        self.client.read_to_string(&mut text).await.expect("text");
        self.ended.await.expect("no panic").expect("no error");
        text
    }
}

#[tokio::test]
async fn what_is_in_work_is_answered_when_the_gate_stops_and_is_the_last() {
    for (body, coding, end) in [
        (whole as fn() -> Body, "content-length: 4\r\n", "\r\n\r\ndone"),
        (streamed, "transfer-encoding: chunked\r\n", "\r\n\r\n4\r\ndone\r\n0\r\n\r\n"),
    ] {
        let mut served = Served::begin(body);
        // The second one is not in work yet.
        served.client.write_all(&[REQUEST, REQUEST].concat()).await.expect("room for it");
        served.has_in_work(1).await;
        served.stop.send_replace(true);
        tokio::task::yield_now().await;
        served.may.notify_one();
        let answer = served.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(end), "{answer}");
        assert!(answer.contains(coding) && answer.contains("connection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn an_unused_connection_ends_when_the_gate_stops() {
    for body in [whole as fn() -> Body, streamed] {
        let mut served = Served::begin(body);
        served.client.write_all(REQUEST).await.expect("room for it");
        served.may.notify_one();
        let mut answer = [0; 15];
        served.client.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        served.stop.send_replace(true);
        assert!(!served.rest().await.contains("connection: close"), "it was answered before");
    }
}

#[tokio::test]
async fn the_request_of_a_client_that_has_gone_ends() {
    let mut served = Served::begin(whole);
    served.client.write_all(REQUEST).await.expect("room for it");
    served.has_in_work(1).await;
    drop(served.client);
    served.ended.await.expect("no panic").expect("no error");
    assert_eq!(served.in_work.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_may_send_ahead() {
    let mut served = Served::begin(whole);
    served.client.write_all(REQUEST).await.expect("room for it");
    served.has_in_work(1).await;
    // The beginning of the next comes while this one is in work, and its end later.
    served.client.write_all(&REQUEST[..20]).await.expect("room for it");
    tokio::task::yield_now().await;
    served.client.write_all(&REQUEST[20..]).await.expect("room for it");
    for _ in 0..2 {
        served.has_in_work(1).await;
        served.may.notify_one();
        let mut answer = vec![0; 1024];
        let len = served.client.read(&mut answer).await.expect("an answer");
        assert!(answer[..len].ends_with(b"done"));
    }
}
