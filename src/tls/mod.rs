//! Certificates and keys: TLS with rustls, ring, versions 1.2 and 1.3, and nothing besides.
//!
//! - [`client`]: towards gates
//! - [`server`]: on the gate's own listeners, read again when their files change
//! - [`names`]: the names in a client's certificate
//!
//! **Invariant.** The provider is named wherever a configuration is made, and never installed for the process: that panics where a
//! library was built with another one.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

#[cfg(feature = "tls")]
pub mod client;
#[cfg(feature = "server")]
pub mod names;
#[cfg(feature = "server")]
pub mod server;

/// The one provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates in a PEM file, at least one.
///
/// # Errors
/// A sentence that names the file.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |why: String| format!("certificates in {}: {why}", file.display());
    let found = CertificateDer::pem_file_iter(file).map_err(|error| wrong(error.to_string()))?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(error.to_string()))?;
    if found.is_empty() { Err(wrong("there is none".into())) } else { Ok(found) }
}

/// The private key in a PEM file.
///
/// # Errors
/// A sentence that names the file.
pub fn key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| format!("the private key in {}: {error}", file.display()))
}

/// Trusts the certificates of this PEM file.
///
/// # Errors
/// A file that can't be read or has none.
pub fn trust(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("certificates in {}: {error}", file.display()))?;
    }
    Ok(())
}

/// The certificates of the operating system and those of the PEM file `ca`.
///
/// # Errors
/// A file that can't be read or has none; a system without any.
pub fn roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca {
        trust(&mut roots, file)?;
    }
    if roots.is_empty() {
        return Err("the operating system trusts no certificates; name a file of them".into());
    }
    Ok(roots)
}
