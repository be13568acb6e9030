//! TLS towards a gate.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Whom one trusts to be a gate, and the certificate that one shows it. Clones share it.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls")
    }
}

impl ClientTls {
    /// Trusts the authorities in the PEM file `ca`, or those of the operating system where none is given. `client`: the PEM files of
    /// the certificate that is shown to a gate that asks for one, and of its key.
    ///
    /// # Errors
    /// A sentence that says which file is wrong, and how; or a system without authorities.
    pub fn open(ca: Option<&Path>, client: Option<(&Path, &Path)>) -> Result<ClientTls, String> {
        let roots = match ca {
            Some(file) => {
                let mut roots = RootCertStore::empty();
                super::trust(&mut roots, file)?;
                roots
            }
            None => super::roots(None)?,
        };
        let builder = ClientConfig::builder_with_provider(super::provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let (chain, own) = (super::certificates(cert)?, super::key(key)?);
                let wrong =
                    |error| format!("the certificate in {} with the key in {}: {error}", cert.display(), key.display());
                builder.with_client_auth_cert(chain, own).map_err(wrong)?
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(ClientTls { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// What starts a connection.
    pub fn connector(&self) -> &TlsConnector {
        &self.connector
    }
}
