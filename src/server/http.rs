//! Accepting connections and speaking HTTP/1.1 and HTTP/2 on them, with limits.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::resource::BodyError;
use crate::resource::turn::Turn;
use crate::tls::server::ServerTls;

use super::head_time::HeadTime;
use super::tls;

/// Largest head of a request: request line and headers, in bytes. Larger ones are answered 431.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// How often an HTTP/2 connection is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long it may take to answer that.
const PING_TIME: Duration = Duration::from_secs(20);
/// How long to wait for the rest of a preface.
const PREFACE_PAUSE: Duration = Duration::from_millis(5);
/// How long to wait after the operating system has no file descriptor left for a connection.
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(50);
/// How often a log tells of that.
const FAILURES_TOLD_EVERY: Duration = Duration::from_secs(10);

/// The limits of a listener.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most connections open at once.
    pub connections: usize,
    /// How long a connection may take to send the next request's headers: so long an unused one is kept.
    pub header_time: Duration,
    /// TLS, where it is spoken.
    pub tls: Option<Arc<ServerTls>>,
}

/// Accepts and serves connections until `stopping` says so; then lets requests in work finish for as long as `drain`.
///
/// # Errors
/// A listener that can't be registered with the runtime.
pub async fn accept<S, F, B>(
    listener: TcpListener,
    settings: Settings,
    mut stopping: watch::Receiver<bool>,
    drain: Duration,
    serve: S,
) -> std::io::Result<()>
where
    S: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(settings.connections));
    let handshakes = Arc::new(Semaphore::new(tls::HANDSHAKES_MAX));
    let mut connections = JoinSet::new();
    let mut failures = Failures::default();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly EMFILE: existing connections go on, and closing ones make room.
                    failures.tell(&error);
                    tokio::time::sleep(OUT_OF_FILES_PAUSE).await;
                    continue;
                }
            },
            () = stopped(&mut stopping) => break,
        };
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            connections.spawn(turn_away(stream));
            continue;
        };
        let (serve, stopping) = (serve.clone(), stopping.clone());
        let header_time = settings.header_time;
        if let Some(tls) = settings.tls.clone() {
            let handshakes = Arc::clone(&handshakes);
            connections.spawn(async move {
                secured(stream, peer, tls, &handshakes, header_time, stopping, serve).await;
                drop(permit);
            });
            continue;
        }
        connections.spawn(async move {
            connection(stream, peer, header_time, stopping, serve).await;
            drop(permit);
        });
    }
    drop(listener);
    let rest = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, rest).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
    Ok(())
}

/// Connections that couldn't be accepted. They stay with the operating system, and are tried again.
#[derive(Default)]
struct Failures {
    told: Option<Instant>,
    untold: u64,
}

impl Failures {
    /// Counts each; logs at once, and then now and then: while there is no file descriptor, there is one for every pause.
    fn tell(&mut self, error: &std::io::Error) {
        metrics::counter!("fencegate_accept_failures_total").increment(1);
        self.untold += 1;
        if self.told.is_none_or(|told| told.elapsed() >= FAILURES_TOLD_EVERY) {
            tracing::warn!(%error, times = self.untold, "connections could not be accepted");
            (self.told, self.untold) = (Some(Instant::now()), 0);
        }
    }
}

/// A connection with TLS: each of its requests is told so, and who is at its other end.
async fn secured<S, F, B>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Arc<ServerTls>,
    handshakes: &Semaphore,
    header_time: Duration,
    mut stopping: watch::Receiver<bool>,
    serve: S,
) where
    S: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let _ = stream.set_nodelay(true);
    let shaken = tokio::select! {
        shaken = Box::pin(tls::handshake(stream, &tls, handshakes)) => shaken,
        () = stopped(&mut stopping) => None,
    };
    let Some(tls::Connection { stream, is_http2, secured }) = shaken else { return };
    let serve = move |mut request: Request<Incoming>, peer| {
        request.extensions_mut().insert(Arc::clone(&secured));
        serve(request, peer)
    };
    if let Err(error) = speak(stream, is_http2, peer, header_time, stopping, serve).await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn connection<S, F, B>(
    stream: TcpStream,
    peer: SocketAddr,
    header_time: Duration,
    stopping: watch::Receiver<bool>,
    serve: S,
) where
    S: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // An answer is one write; waiting for more to send along only delays it.
    let _ = stream.set_nodelay(true);
    let result = match speaks_http2(&stream, header_time).await {
        Err(error) => Err(error.into()),
        Ok(is_http2) => speak(stream, is_http2, peer, header_time, stopping, serve).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Speaks one version of HTTP on a connection to its end.
async fn speak<I, S, F, B>(
    stream: I,
    is_http2: bool,
    peer: SocketAddr,
    header_time: Duration,
    mut stopping: watch::Receiver<bool>,
    serve: S,
) -> Result<(), BodyError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Incoming>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let service = service_fn(|request| serve(request, peer));
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_header_list_size(HEAD_BYTES_MAX).max_concurrent_streams(STREAMS_MAX);
        builder.keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIME);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        return see_through(connection, false, &mut stopping, |connection| connection.graceful_shutdown()).await;
    }
    let mut builder = http1::Builder::new();
    builder.timer(HeadTime::new(header_time)).header_read_timeout(header_time);
    builder.max_buf_size(HEAD_BYTES_MAX as usize);
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    see_through(connection, true, &mut stopping, |connection| connection.graceful_shutdown()).await
}

/// Serves a connection to its end; once the gate stops, only what is in work on it, as `finish` asks of it.
///
/// `is_http1`: it has all of its requests in this task, so that it needs no waking for the end of a body ([`Turn`]).
async fn see_through<C>(
    connection: C,
    is_http1: bool,
    stopping: &mut watch::Receiver<bool>,
    finish: fn(Pin<&mut C>),
) -> Result<(), BodyError>
where
    C: Future<Output = hyper::Result<()>>,
{
    tokio::pin!(connection);
    let heard = stopping.clone();
    let mut stopped = pin!(stopped(stopping));
    let (mut asker, mut turn): (Option<Waker>, Option<Waker>) = (None, None);
    let result = poll_fn(|cx| {
        let waker = if is_http1 { turn.get_or_insert_with(|| Turn::waker(cx)) } else { cx.waker() };
        if let Poll::Ready(result) = connection.as_mut().poll(&mut Context::from_waker(waker)) {
            return Poll::Ready(Some(result));
        }
        // Once asked, it wakes whoever asked: to ask again each time that something comes would be for nothing.
        if asker.as_ref().is_some_and(|asker| asker.will_wake(cx.waker())) && heard.has_changed().is_ok_and(|has| !has)
        {
            return Poll::Pending;
        }
        asker = Some(cx.waker().clone());
        stopped.as_mut().poll(cx).map(|()| None)
    });
    let result = match result.await {
        Some(result) => result,
        None => {
            finish(connection.as_mut());
            connection.await
        }
    };
    result.map_err(BodyError::from)
}

/// How an HTTP/2 connection begins where the client knows beforehand that it will be understood (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Looks at the first bytes of a connection, leaving them where they are. They have to come in the time of a request's headers.
async fn speaks_http2(stream: &TcpStream, header_time: Duration) -> std::io::Result<bool> {
    let look = async {
        let mut first = [0; HTTP2_PREFACE.len()];
        loop {
            let seen = stream.peek(&mut first).await?;
            if seen == first.len() || seen == 0 || first[..seen] != HTTP2_PREFACE[..seen] {
                return Ok(first == HTTP2_PREFACE);
            }
            // A part of the preface is there, and looking again at once would find the same.
            tokio::time::sleep(PREFACE_PAUSE).await;
        }
    };
    tokio::time::timeout(header_time, look).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Waits until the gate stops. Nobody left to say so counts as that, too.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Tells a client that there is no room, and closes.
async fn turn_away(mut stream: TcpStream) {
    use tokio::io::AsyncWriteExt;
    // It says who it comes from, and so that nothing was applied.
    let answer = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\
        proxy-status: fencegate; error=proxy_internal_error; details=\"OVERLOADED\"\r\n\r\n";
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(answer)).await;
}
