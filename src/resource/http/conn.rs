//! A connection to an upstream: made, used for one exchange at a time, given back or cut off.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;

use super::body::Upload;
use super::limits::Limits;
use super::pool::Place;
use super::upstream::{Host, Protocol, Upstream};
use super::wire::{Io, Wire};

/// How often an HTTP/2 upstream is asked whether it is still there, and a TCP connection without traffic.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// How long it may take to answer that.
const PROBE_TIME: Duration = Duration::from_secs(15);
/// A connection that lay unused for longer is looked at before it is used again: its upstream may just have closed it.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// How long the task of a connection may take to be done with an exchange.
const TURN_TIME: Duration = Duration::from_millis(50);

/// Why there is no connection. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// For people.
    pub why: String,
    /// The error type of RFC 9209.
    pub error: &'static str,
}

fn unreachable(error: &'static str, why: impl Into<String>) -> Unreachable {
    Unreachable { why: why.into(), error }
}

/// What comes of sending a request. The request comes back where it was surely not written.
pub type Sent = Result<Response<Incoming>, TrySendError<Request<Upload>>>;
/// The future of it.
pub type Answer = Pin<Box<dyn Future<Output = Sent> + Send>>;

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

/// A connection, for one exchange at a time.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    /// Its socket.
    pub wire: Arc<Wire>,
    /// The task in which hyper speaks on it.
    task: AbortHandle,
    /// Where it is counted, and put back.
    place: Place,
    /// When it was last put back.
    pub idle_since: Instant,
}

impl Connection {
    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Whether a request can go out on it now; false where it is over.
    pub async fn is_usable(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => {
                // After an answer, its task may need one more turn; should it need more, it is not worth waiting for.
                let is_ready = sender.is_ready()
                    || tokio::time::timeout(TURN_TIME, sender.ready()).await.is_ok_and(|ready| ready.is_ok());
                is_ready && (self.idle_since.elapsed() < LOOK_AFTER || self.wire.is_quiet())
            }
            Sender::Http2(sender) => sender.is_ready(),
        }
    }

    /// Sends a request.
    pub fn send(&mut self, mut request: Request<Upload>) -> Answer {
        request.body_mut().attach(&self.wire);
        match &mut self.sender {
            Sender::Http1(sender) => Box::pin(sender.try_send_request(request)),
            Sender::Http2(sender) => Box::pin(sender.try_send_request(request)),
        }
    }

    /// Ends it at once. When this returns, no byte will go out on it any more.
    pub fn cut(&self) {
        self.wire.cut();
        self.task.abort();
    }

    /// Gives it back after a whole exchange.
    pub fn put_back(mut self) {
        if !self.is_closed() {
            self.idle_since = Instant::now();
            let place = self.place.clone();
            place.put(self);
        }
    }

    /// Makes a connection, in the limit's time.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn dial(
        upstream: &Upstream,
        limits: &Limits,
        only_http1: bool,
        place: Place,
    ) -> Result<Connection, Unreachable> {
        let give_up_at = Instant::now() + limits.connect_time;
        let dialled = tokio::time::timeout_at(give_up_at, async {
            let addresses = look_up(upstream).await?;
            let socket = connect(&addresses, give_up_at).await?;
            let wire = Wire::new(socket);
            let (stream, is_http2) = secure(upstream, &wire, only_http1).await?;
            start(stream, wire, is_http2, limits, place).await
        });
        let too_late = |_| unreachable("connection_timeout", format!("{upstream} doesn't take a connection in time"));
        dialled.await.map_err(too_late)?
    }
}

async fn look_up(upstream: &Upstream) -> Result<Vec<SocketAddr>, Unreachable> {
    match &upstream.host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, upstream.port)]),
        Host::Name(name) => match tokio::net::lookup_host((name.as_str(), upstream.port)).await {
            Ok(found) => Ok(found.collect()),
            Err(error) => Err(unreachable("dns_error", format!("{name} can't be looked up: {error}"))),
        },
    }
}

/// Tries each address; each gets its part of the time that is left.
async fn connect(addresses: &[SocketAddr], give_up_at: Instant) -> Result<TcpStream, Unreachable> {
    let mut last = unreachable("dns_error", "the upstream's name has no address");
    for (number, address) in (0_u32..).zip(addresses) {
        let left = u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_sub(number).max(1);
        let time = give_up_at.saturating_duration_since(Instant::now()) / left;
        last = match tokio::time::timeout(time, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                prepare(&socket);
                return Ok(socket);
            }
            Ok(Err(error)) => {
                let kind = match error.kind() {
                    std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset => "connection_refused",
                    std::io::ErrorKind::TimedOut => "connection_timeout",
                    std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
                        "destination_ip_unroutable"
                    }
                    _ => "destination_unavailable",
                };
                unreachable(kind, format!("{address} takes no connection: {error}"))
            }
            Err(_) => unreachable("connection_timeout", format!("{address} doesn't take a connection in time")),
        };
    }
    Err(last)
}

fn prepare(socket: &TcpStream) {
    // A request is one write; waiting for more to send along only delays it.
    let _ = socket.set_nodelay(true);
    // An upstream that vanished without a word is found out, however long an answer may take.
    let keepalive = socket2::TcpKeepalive::new().with_time(PROBE_EVERY);
    if let Err(error) = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "a connection goes without keep-alive probes");
    }
}

/// A connection in the clear, or over TLS.
enum Stream {
    Plain(Io),
    Tls(Box<TlsStream<Io>>),
}

async fn secure(upstream: &Upstream, wire: &Arc<Wire>, only_http1: bool) -> Result<(Stream, bool), Unreachable> {
    let io = Io(Arc::clone(wire));
    let Some(tls) = &upstream.tls else {
        return Ok((Stream::Plain(io), upstream.protocol == Protocol::Http2));
    };
    let stream = tls.connector(only_http1).connect(tls.name.clone(), io).await.map_err(|error| {
        let kind = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
                "tls_certificate_error"
            }
            Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
            _ => "tls_protocol_error",
        };
        unreachable(kind, format!("no TLS with {upstream}: {error}"))
    })?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if upstream.protocol == Protocol::Http2 && !is_http2 && !only_http1 {
        return Err(unreachable("tls_protocol_error", format!("{upstream} doesn't speak HTTP/2")));
    }
    Ok((Stream::Tls(Box::new(stream)), is_http2))
}

async fn start(
    stream: Stream,
    wire: Arc<Wire>,
    is_http2: bool,
    limits: &Limits,
    place: Place,
) -> Result<Connection, Unreachable> {
    let failed = |error: hyper::Error| unreachable("connection_terminated", format!("the connection failed: {error}"));
    let io = TokioIo::new(stream);
    let ended = |result: hyper::Result<()>| {
        if let Err(error) = result {
            tracing::debug!(%error, "a connection to an upstream ended");
        }
    };
    let (sender, task) = if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PROBE_EVERY).keep_alive_timeout(PROBE_TIME);
        builder.max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX));
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        (Sender::Http2(sender), tokio::spawn(async move { ended(connection.await) }))
    } else {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(limits.head_bytes.max(8192));
        let (sender, connection) = builder.handshake(io).await.map_err(failed)?;
        (Sender::Http1(sender), tokio::spawn(async move { ended(connection.with_upgrades().await) }))
    };
    Ok(Connection { sender, wire, task: task.abort_handle(), place, idle_since: Instant::now() })
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
