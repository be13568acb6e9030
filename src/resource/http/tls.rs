//! TLS towards an upstream.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::tls::{provider, roots};

use super::upstream::{Host, Protocol};

/// How an upstream's certificate is checked and which protocols are offered to it.
#[derive(Clone)]
pub struct Tls {
    /// Offers what the configured protocol allows.
    any: TlsConnector,
    /// Offers HTTP/1.1 only: for upgrades.
    http1: TlsConnector,
    /// Whose certificate it has to be.
    pub name: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// Trusts the certificates of the operating system and those of the PEM file `ca`.
    ///
    /// # Errors
    /// A host that can have no certificate, a file that can't be read or has none, a system without any.
    pub fn new(host: &Host, protocol: Protocol, ca: Option<&Path>) -> Result<Tls, String> {
        let name = match host {
            Host::Ip(ip) => ServerName::IpAddress((*ip).into()),
            Host::Name(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
                .map_err(|_| format!("{name:?} can have no certificate"))?,
        };
        let offers: &[&[u8]] = match protocol {
            Protocol::Auto => &[b"h2", b"http/1.1"],
            Protocol::Http1 => &[b"http/1.1"],
            Protocol::Http2 => &[b"h2"],
        };
        let config = config(roots(ca)?)?;
        let with = |offers: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = offers.iter().map(|offer| offer.to_vec()).collect();
            TlsConnector::from(Arc::new(config))
        };
        Ok(Tls { any: with(offers), http1: with(&[b"http/1.1"]), name })
    }

    /// What starts a connection.
    pub fn connector(&self, only_http1: bool) -> &TlsConnector {
        if only_http1 { &self.http1 } else { &self.any }
    }
}

fn config(roots: RootCertStore) -> Result<ClientConfig, String> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_root_certificates(roots).with_no_client_auth())
        .map_err(|error| error.to_string())
}
