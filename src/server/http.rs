//! Accepting connections and speaking HTTP/1.1 and HTTP/2 on them, with limits.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::resource::seat::Waiting;
use crate::resource::turn::Turn;
use crate::resource::{BodyError, Received};
use crate::socket::Socket;
use crate::tls::server::ServerTls;

use super::in_work::{GIVEN_UP, InWork, Leaving};
use super::places::{HeadTime, Place, Places};
use super::plain::{self, Rest};
use super::{respond, tls};

/// Largest head of a request: request line and headers, in bytes. Larger ones are answered 431. And the most that is read at once of what a
/// client sends.
pub const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// Most requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Most bytes of requests' bodies on their way on one HTTP/2 connection that nobody has read yet, and of one answer that its client hasn't
/// taken, in bytes.
const WINDOW_BYTES: u32 = 256 * 1024;
/// Most bytes of one answer that wait in an HTTP/2 connection.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// For how many connections one of HTTP/2 counts, by the memory that it can take.
pub const HTTP2_COUNTS: usize = 4;
/// How long an HTTP/2 connection that the gate closes may take to end, once nothing is in work on it.
const CLOSE_TIME: Duration = Duration::from_secs(5);
/// Most clients at once, for each thread, that are told that there is no place for them; more are only turned away.
const TOLD_MAX: usize = 64;
/// How long that may take.
const TELL_TIME: Duration = Duration::from_secs(1);
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
    /// The places for connections, and how long one may take to send the next request's headers: so long an unused one is kept.
    pub places: Arc<Places>,
    /// TLS, where it is spoken.
    pub tls: Option<Arc<ServerTls>>,
}

/// The body of an answer.
pub trait AnswerBody: Body<Data: Send, Error: Into<BodyError>> + Unpin + Send + Sized + 'static {
    /// This.
    fn of(whole: Bytes) -> Self;

    /// All of it, where it is in memory.
    fn whole(&self) -> Option<Whole<'_>>;

    /// The same answer with all of its headers among its own.
    fn complete(answer: Response<Self>) -> Response<Self> {
        answer
    }
}

/// The body of an answer, in memory.
#[derive(Debug)]
pub struct Whole<'a> {
    /// The body.
    pub body: Bytes,
    /// Headers that the answer has besides its own, `Content-Length` among them, as HTTP/1.1 has them. Mostly none.
    pub lines: &'a [u8],
}

impl AnswerBody for Full<Bytes> {
    fn of(whole: Bytes) -> Full<Bytes> {
        Full::new(whole)
    }

    fn whole(&self) -> Option<Whole<'_>> {
        let mut cx = Context::from_waker(Waker::noop());
        let body = match Pin::new(&mut self.clone()).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().ok()?,
            // An empty one.
            _ => Bytes::new(),
        };
        Some(Whole { body, lines: &[] })
    }
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
    S: Fn(Request<Received>, SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: AnswerBody,
{
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let told = Arc::new(Semaphore::new(TOLD_MAX));
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
        let Some(place) = settings.places.take() else {
            // Where TLS is spoken, nothing can be told without a handshake, which is what there is no room for.
            if settings.tls.is_none()
                && let Ok(permit) = Arc::clone(&told).try_acquire_owned()
            {
                connections.spawn(async move {
                    let _ = tokio::time::timeout(TELL_TIME, turn_away(stream)).await;
                    drop(permit);
                });
            }
            continue;
        };
        let (serve, stopping) = (serve.clone(), stopping.clone());
        if let Some(tls) = settings.tls.clone() {
            let handshakes = Arc::clone(&handshakes);
            connections.spawn(secured(stream, peer, tls, handshakes, place, stopping, serve));
            continue;
        }
        connections.spawn(connection(stream, peer, place, stopping, serve));
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
    handshakes: Arc<Semaphore>,
    place: Place,
    mut stopping: watch::Receiver<bool>,
    serve: S,
) where
    S: Fn(Request<Received>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: AnswerBody,
{
    let _ = stream.set_nodelay(true);
    let shaken = tokio::select! {
        shaken = Box::pin(tls::handshake(stream, &tls, &handshakes)) => shaken,
        () = stopped(&mut stopping) => None,
        () = Waiting::from_now(&place.seat) => None,
    };
    let Some(tls::Connection { stream, is_http2, secured }) = shaken else { return };
    let serve = move |mut request: Request<Received>, peer| {
        request.extensions_mut().insert(Arc::clone(&secured));
        serve(request, peer)
    };
    if let Err(error) = speak(stream, is_http2, peer, place, stopping, serve).await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn connection<S, F, B>(
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    stopping: watch::Receiver<bool>,
    serve: S,
) where
    S: Fn(Request<Received>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: AnswerBody,
{
    // An answer is one write; waiting for more to send along only delays it.
    let _ = stream.set_nodelay(true);
    let result = match speaks_http2(&stream, &place).await {
        Err(error) => Err(error.into()),
        Ok(is_http2) => speak(Socket(stream), is_http2, peer, place, stopping, serve).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Speaks one version of HTTP on a connection to its end.
pub(crate) async fn speak<I, S, F, B>(
    stream: I,
    is_http2: bool,
    peer: SocketAddr,
    place: Place,
    mut stopping: watch::Receiver<bool>,
    serve: S,
) -> Result<(), BodyError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Received>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: AnswerBody,
{
    if is_http2 {
        return speak_http2(stream, peer, place, &mut stopping, serve).await;
    }
    let closing = AtomicBool::new(false);
    let mut spoken = pin!(async {
        match plain::speak(stream, peer, &place, &closing, &serve).await? {
            Some(rest) => speak_http1(rest, peer, &place, &closing, &serve).await,
            None => Ok(()),
        }
    });
    let heard = stopping.clone();
    let mut stopped = pin!(stopped(&mut stopping));
    let mut asker: Option<Waker> = None;
    poll_fn(|cx| {
        loop {
            let polled = place.seat.seated(|| spoken.as_mut().poll(cx));
            if polled.is_ready() || closing.load(Ordering::Relaxed) {
                return polled;
            }
            // Once asked, it wakes whoever asked: to ask again each time that something comes would be for nothing.
            if asker.as_ref().is_some_and(|asker| asker.will_wake(cx.waker()))
                && heard.has_changed().is_ok_and(|has| !has)
            {
                return Poll::Pending;
            }
            asker = Some(cx.waker().clone());
            if stopped.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            // From here on, only what is in work on it.
            closing.store(true, Ordering::Relaxed);
        }
    })
    .await
}

/// Speaks HTTP/1.1, whatever form it has, on the rest of a connection.
async fn speak_http1<I, S, F, B>(
    rest: Rest<I, B>,
    peer: SocketAddr,
    place: &Place,
    closing: &AtomicBool,
    serve: &S,
) -> Result<(), BodyError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Received>, SocketAddr) -> F,
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: AnswerBody,
{
    let Rest { stream, answer } = rest;
    let answered = Mutex::new(answer);
    let service = service_fn(|request| {
        let given = lock(&answered).take();
        // What answers is made where it stays: to move it costs more than the rest of this.
        async move {
            match given {
                Some(answer) => {
                    // Its body was read before; what is left of it is taken in.
                    drop(Received::of(request));
                    Ok(answer)
                }
                None => serve(Received::of(request), peer).await.map(B::complete),
            }
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(HeadTime(Arc::clone(&place.seat))).header_read_timeout(place.places().header_time());
    builder.max_buf_size(HEAD_BYTES_MAX as usize);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let (mut turn, mut is_told): (Option<Waker>, bool) = (None, false);
    poll_fn(|cx| {
        // It has all of its requests in this task, and so needs no waking for the end of a body.
        let waker = turn.get_or_insert_with(|| Turn::waker(cx));
        // An answer that is there already is for a request that hyper has yet to read; it says itself where it is the last.
        let is_to_end = closing.load(Ordering::Relaxed) && lock(&answered).is_none();
        if is_to_end && !std::mem::replace(&mut is_told, true) {
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(&mut Context::from_waker(waker)).map_err(BodyError::from)
    })
    .await
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Speaks HTTP/2 on a connection to its end; once the gate stops or the connection is over for another reason, only to the end of what is in
/// work on it.
async fn speak_http2<I, S, F, B>(
    stream: I,
    peer: SocketAddr,
    place: Place,
    stopping: &mut watch::Receiver<bool>,
    serve: S,
) -> Result<(), BodyError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Fn(Request<Received>, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: AnswerBody,
{
    if !place.counts_for(HTTP2_COUNTS) {
        return Err("there is no place for a connection of HTTP/2".into());
    }
    let requests = InWork::new(place.places());
    let service = service_fn(|request| {
        let ticket = requests.begin();
        let answer = ticket.is_welcome.then(|| serve(Received::of(request), peer));
        async move {
            let answer = match answer {
                Some(answer) => B::complete(answer.await?),
                None => crowded(),
            };
            Ok::<_, Infallible>(answer.map(|body| Leaving::new(body, ticket.answered())))
        }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).max_header_list_size(HEAD_BYTES_MAX).max_concurrent_streams(STREAMS_MAX);
    builder.keep_alive_interval(PING_EVERY).keep_alive_timeout(PING_TIME);
    builder.initial_connection_window_size(WINDOW_BYTES).initial_stream_window_size(WINDOW_BYTES);
    builder.max_send_buf_size(SEND_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let why = tokio::select! {
        biased;
        result = connection.as_mut() => return result.map_err(BodyError::from),
        () = stopped(stopping) => None,
        why = requests.over(&place) => Some(why),
    };
    connection.as_mut().graceful_shutdown();
    let Some(why) = why else { return connection.await.map_err(BodyError::from) };
    place.places().closed(why);
    tokio::select! {
        biased;
        result = connection => result.map_err(BodyError::from),
        () = requests.quiet_for(CLOSE_TIME), if why != GIVEN_UP => Err(why.into()),
        () = tokio::time::sleep(CLOSE_TIME), if why == GIVEN_UP => Err(why.into()),
    }
}

/// The answer to a request for which there is no place.
fn crowded<B: AnswerBody>() -> Response<B> {
    let mut answer = Response::new(B::of(Bytes::new()));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer.headers_mut().insert(respond::PROXY_STATUS, HeaderValue::from_static(CROWDED));
    answer
}

/// How an HTTP/2 connection begins where the client knows beforehand that it will be understood (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Looks at the first bytes of a connection, leaving them where they are. They have to come in the time of a request's headers.
async fn speaks_http2(stream: &TcpStream, place: &Place) -> std::io::Result<bool> {
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
    tokio::select! {
        biased;
        looked = look => looked,
        () = Waiting::from_now(&place.seat) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

/// Waits until the gate stops. Nobody left to say so counts as that, too.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Why the gate turns somebody away, in `Proxy-Status`: it says who it comes from, and so that nothing was applied.
const CROWDED: &str = "fencegate; error=proxy_internal_error; details=\"OVERLOADED\"";

/// Tells a client that there is no room, and closes once it has heard it: what comes to a closed connection can destroy what is on its way.
async fn turn_away(mut stream: TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let head = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0";
    let answer = format!("{head}\r\nproxy-status: {CROWDED}\r\n\r\n");
    if stream.write_all(answer.as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await.is_ok_and(|len| len > 0) {}
}
