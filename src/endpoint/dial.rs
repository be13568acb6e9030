//! A connection to a gate, from its beginning.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite};
#[cfg(feature = "tls")]
use tokio_rustls::rustls::pki_types::ServerName;

#[cfg(feature = "tls")]
use super::Identity;
#[cfg(feature = "tls")]
use crate::tls::client::ClientTls;

/// How a gate at this host is spoken to by TLS.
#[cfg(feature = "tls")]
pub(super) fn secure(host: &str, identity: &Identity) -> Result<(ClientTls, ServerName<'static>), &'static str> {
    let name = ServerName::try_from(host.trim_matches(['[', ']']).trim_end_matches('.').to_owned())
        .map_err(|_| "such a host can have no certificate")?;
    let tls = match identity.tls() {
        Some(tls) => tls.clone(),
        None => ClientTls::open(None, None).map_err(|_| "the system trusts no authorities; name a file of them")?,
    };
    Ok((tls, name))
}

/// A connection on which HTTP/1.1 is spoken.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Full<Bytes>>,
    /// Its socket once more, to look at. It is closed with the connection, and doesn't keep it.
    socket: Weak<OwnedFd>,
}

impl Connection {
    /// Whether the gate has neither ended it nor said anything that it wasn't asked, as far as has come here. Whoever speaks on it hears
    /// of that only when its turn comes, which may be after a request was written to it.
    pub(super) fn is_open(&self) -> bool {
        let Some(socket) = self.socket.upgrade() else { return false };
        let seen = recv(&*socket, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(seen, Err(Errno::AGAIN | Errno::INTR))
    }
}

/// Begins HTTP/1.1 on a connection that has this socket.
pub(super) async fn speak<I>(stream: I, socket: OwnedFd) -> Result<Connection, String>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let socket = Arc::new(socket);
    let seen = Arc::downgrade(&socket);
    // Its end is seen by whoever waits for an answer on it.
    tokio::spawn(async move {
        drop(connection.await);
        drop(socket);
    });
    Ok(Connection { sender, socket: seen })
}
