//! TLS of a listener: what it shows, whom it trusts, and reading both again when the files change.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// The files of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The listener's certificate and those between it and its authority, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Whose certificates clients may show; `None`: they are not asked for any.
    pub clients: Option<Clients>,
}

/// Whose certificates clients may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// The authorities, PEM.
    pub ca: PathBuf,
    /// Whether a client without a certificate is sent away.
    pub required: bool,
}

/// TLS of a listener.
#[derive(Debug)]
pub struct ServerTls {
    options: Options,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ServerConfig>,
    /// The files as they were when they were last read, well or not.
    seen: Vec<Stamp>,
}

/// What tells one state of a file from another; `None` where it isn't there.
type Stamp = Option<(i64, i64, u64, u64)>;

/// What became of a look at the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// They are as they were.
    Same,
    /// They were read, and are used for connections from now on.
    Done,
    /// They can't be used: what was read before stays in use.
    Kept(String),
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A sentence that says which file is wrong, and how.
    pub fn open(options: Options) -> Result<ServerTls, String> {
        let seen = stamps(&options);
        let config = Arc::new(config(&options)?);
        Ok(ServerTls { options, state: RwLock::new(State { config, seen }) })
    }

    /// What the next connection is shown.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner).config)
    }

    /// The files.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Looks whether the files have changed, and reads them if so. A certificate and its key that don't fit, as when only one of them
    /// has been replaced so far, are not taken: the next change is looked at anew. Connections that are open go on as they began.
    pub fn reload(&self) -> Reload {
        // Before the files are read: what changes meanwhile is a change again.
        let seen = stamps(&self.options);
        if self.state.read().unwrap_or_else(PoisonError::into_inner).seen == seen {
            return Reload::Same;
        }
        let read = config(&self.options);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.seen = seen;
        match read {
            Ok(config) => {
                state.config = Arc::new(config);
                Reload::Done
            }
            Err(why) => Reload::Kept(why),
        }
    }
}

fn stamps(options: &Options) -> Vec<Stamp> {
    let files = [Some(&options.cert), Some(&options.key), options.clients.as_ref().map(|clients| &clients.ca)];
    files.into_iter().flatten().map(|file| stamp(file)).collect()
}

fn stamp(file: &Path) -> Stamp {
    // Of the file that a link leads to: some replace the link.
    let about = std::fs::metadata(file).ok()?;
    Some((about.mtime(), about.mtime_nsec(), about.ino(), about.size()))
}

/// A configuration of its own each time, with sessions of its own: nobody takes up a session that began under other files.
fn config(options: &Options) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(super::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &options.clients {
        None => builder.with_no_client_auth(),
        Some(Clients { ca, required }) => {
            let mut roots = RootCertStore::empty();
            super::trust(&mut roots, ca)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), super::provider());
            let verifier = if *required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
        }
    };
    let (cert, key) = (super::certificates(&options.cert)?, super::key(&options.key)?);
    let mut config = builder.with_single_cert(cert, key).map_err(|error| {
        format!("the certificate in {} with the key in {}: {error}", options.cert.display(), options.key.display())
    })?;
    config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).to_vec();
    Ok(config)
}
