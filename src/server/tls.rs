//! TLS on a connection that was accepted: the handshake, within its time and its number, and who is at the other end.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::server::TlsStream;

use crate::tls::names;
use crate::tls::server::{Reload, ServerTls};

use super::Guard;

/// How long a handshake may take, from the connection to its end.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// Most handshakes that one thread is in the middle of. Until a client has said hello it takes no place among them: one that says
/// nothing costs a connection and a timer.
pub const HANDSHAKES_MAX: usize = 256;
/// The first byte of whatever a client of TLS says first: the record type *handshake* (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// What is told to whoever speaks HTTP where TLS is spoken.
const PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 50\r\n\r\n\
    This port speaks TLS: ask it at https://, please.\n";

/// What is known of the client of a connection with TLS. It stands among the extensions of each of its requests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Secured {
    /// The names of its certificate, such as `dns:node-a.example`; none where it has shown none.
    pub names: Vec<String>,
}

/// A connection with TLS.
#[derive(Debug)]
pub struct Connection {
    /// What is said on it.
    pub stream: TlsStream<TcpStream>,
    /// Whether HTTP/2 was agreed on.
    pub is_http2: bool,
    /// Who is at its other end.
    pub secured: Arc<Secured>,
}

/// Shakes hands. `None`: it came to nothing, and the connection is closed.
pub async fn handshake(mut stream: TcpStream, tls: &ServerTls, room: &Semaphore) -> Option<Connection> {
    let shaken = tokio::time::timeout(HANDSHAKE_TIME, async {
        if !speaks_tls(&stream).await? {
            // What has come is taken in: a connection that is closed over it may take the answer along.
            let _ = stream.try_read(&mut [0; 4096]);
            let _ = stream.write_all(PLAIN).await;
            let _ = stream.shutdown().await;
            return Err("plain");
        }
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await.map_err(|error| refused(&error))?;
        let _place = room.acquire().await.map_err(|_| "stopping")?;
        hello.into_stream(tls.config()).await.map_err(|error| refused(&error))
    });
    let stream = match shaken.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(why)) => return failed(why),
        Err(_) => return failed("late"),
    };
    let (_, connection) = stream.get_ref();
    let is_http2 = connection.alpn_protocol() == Some(b"h2");
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    let names = leaf.map_or_else(Vec::new, |leaf| names::of(leaf));
    Some(Connection { is_http2, secured: Arc::new(Secured { names }), stream })
}

/// How often a listener's files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads certificates and keys again when their files change, for as long as the gate runs.
pub async fn watch(guard: Guard) {
    let both = [("data", guard.tls), ("admin", guard.admin_tls)];
    let listeners: Vec<_> = both.into_iter().filter_map(|(name, tls)| Some((name, tls?))).collect();
    if listeners.is_empty() {
        return;
    }
    let mut every = tokio::time::interval(LOOK_EVERY);
    loop {
        every.tick().await;
        for (listener, tls) in &listeners {
            match tls.reload() {
                Reload::Same => {}
                Reload::Done => {
                    tracing::info!(listener, "the certificate was read again");
                    counter!("fencegate_tls_reloads_total", "listener" => *listener, "outcome" => "done").increment(1);
                }
                Reload::Kept(why) => {
                    tracing::warn!(listener, why, "the new certificate can't be used: the one before stays");
                    counter!("fencegate_tls_reloads_total", "listener" => *listener, "outcome" => "kept").increment(1);
                }
            }
        }
    }
}

fn refused(error: &std::io::Error) -> &'static str {
    tracing::debug!(%error, "a TLS handshake failed");
    "failed"
}

fn failed<T>(why: &'static str) -> Option<T> {
    counter!("fencegate_tls_handshakes_failed_total", "why" => why).increment(1);
    None
}

/// Looks at the first byte, leaving it where it is.
async fn speaks_tls(stream: &TcpStream) -> Result<bool, &'static str> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        // It has gone before it said anything: no failure of TLS.
        Ok(0) => Err("gone"),
        Ok(_) => Ok(first[0] == HANDSHAKE),
        Err(_) => Err("gone"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_length_of_what_is_told() {
        let text = std::str::from_utf8(super::PLAIN).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
