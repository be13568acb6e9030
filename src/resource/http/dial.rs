//! Getting a connection to an upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::http::uri::Scheme;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::rustls;

use super::http1::Http1;
use super::http2::{Http2, PROBE_EVERY};
use super::limits::Limits;
use super::lookup::Lookup;
use super::stream::Stream;
use super::upstream::{Host, Protocol, Upstream};
use super::wire::{Io, Wire};

/// Why there is no connection. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// For people.
    pub why: String,
    /// The error type of RFC 9209.
    pub error: &'static str,
}

pub(super) fn unreachable(error: &'static str, why: impl Into<String>) -> Unreachable {
    Unreachable { why: why.into(), error }
}

/// The version of HTTP that a connection speaks.
#[derive(Debug)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1(Box<Http1>),
    /// HTTP/2.
    Http2(Box<Http2>),
}

/// Gets a connection, in the limit's time. `lookup`: where its name is asked for. `only_http1`: for what can't be asked in HTTP/2.
///
/// # Errors
/// [`Unreachable`].
pub async fn dial(
    upstream: &Upstream,
    limits: &Limits,
    lookup: &Lookup,
    only_http1: bool,
) -> Result<(Speaks, Arc<Wire>), Unreachable> {
    let give_up_at = Instant::now() + limits.connect_time;
    let dialled = tokio::time::timeout_at(give_up_at, async {
        let addresses = look_up(upstream, lookup).await?;
        let socket = connect(&addresses, give_up_at).await?;
        let wire = Wire::new(socket);
        let (stream, is_http2) = secure(upstream, &wire, only_http1).await?;
        if !is_http2 {
            return Ok((Speaks::Http1(Box::new(Http1::new(stream, limits.head_bytes))), wire));
        }
        let scheme = if upstream.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let http2 = Http2::start(stream, scheme, upstream.authority.clone(), limits.head_bytes).await;
        let failed = |error| unreachable("connection_terminated", format!("the connection failed: {error}"));
        Ok((Speaks::Http2(Box::new(http2.map_err(failed)?)), wire))
    });
    let too_late = |_| unreachable("connection_timeout", format!("{upstream} doesn't take a connection in time"));
    dialled.await.map_err(too_late)?
}

async fn look_up(upstream: &Upstream, lookup: &Lookup) -> Result<Vec<SocketAddr>, Unreachable> {
    match &upstream.host {
        Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, upstream.port)]),
        Host::Name(name) => lookup.find(name, upstream.port).await,
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
