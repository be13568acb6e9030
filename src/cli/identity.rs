//! Who a command is to a gate, and whom it takes for one.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::endpoint::Identity;
use crate::tls::client::ClientTls;

use super::failure::Failure;

/// The variable that a principal's secret may be in. There is no flag for it: everybody on the machine sees those.
pub const SECRET_VARIABLE: &str = "FENCEGATE_SECRET";

/// A secret that is not to be seen: kept out of `Debug`.
#[derive(Clone)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Who a command is to a gate that asks, and whom it takes for one.
#[derive(Debug, Clone, Default, Args)]
pub struct IdentityArgs {
    /// Authorities that the gate's certificate may be of (PEM) [default: the system's].
    #[arg(long, global = true, value_name = "FILE", env = "FENCEGATE_CA", help_heading = "Identity")]
    ca: Option<PathBuf>,
    /// Certificate to show to a gate that asks for one (PEM).
    #[arg(long, global = true, value_name = "FILE", env = "FENCEGATE_CERT", help_heading = "Identity")]
    cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, value_name = "FILE", env = "FENCEGATE_KEY", help_heading = "Identity")]
    key: Option<PathBuf>,
    /// File with the secret of the principal that one is, or with a leadership credential; without one, the variable FENCEGATE_SECRET.
    #[arg(long, global = true, value_name = "FILE", env = "FENCEGATE_SECRET_FILE", help_heading = "Identity")]
    secret_file: Option<PathBuf>,
}

impl IdentityArgs {
    /// Reads the files and the variable.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn open(&self) -> Result<Identity, Failure> {
        let mut identity = Identity::default();
        let client = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
            (None, None) => None,
            _ => return Err(Failure::Usage("--cert and --key go together: a certificate and its private key".into())),
        };
        if self.ca.is_some() || client.is_some() {
            identity = identity.with_tls(ClientTls::open(self.ca.as_deref(), client).map_err(Failure::Usage)?);
        }
        match self.secret()? {
            Some((secret, from)) => {
                identity.with_secret(&secret).map_err(|error| Failure::Usage(format!("{from}: {error}")))
            }
            None => Ok(identity),
        }
    }

    /// The secret, if there is one, and where it is from.
    ///
    /// # Errors
    /// A file that can't be read.
    pub fn secret(&self) -> Result<Option<(String, String)>, Failure> {
        if let Some(file) = &self.secret_file {
            let text = std::fs::read_to_string(file)
                .map_err(|error| Failure::Usage(format!("--secret-file {}: {error}", file.display())))?;
            return Ok(Some((text.trim().to_owned(), format!("--secret-file {}", file.display()))));
        }
        let text = std::env::var(SECRET_VARIABLE).ok().filter(|text| !text.is_empty());
        Ok(text.map(|text| (text, SECRET_VARIABLE.to_owned())))
    }

    /// The variables by which a command that is started gets the same.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let all = [
            ("FENCEGATE_CA", &self.ca),
            ("FENCEGATE_CERT", &self.cert),
            ("FENCEGATE_KEY", &self.key),
            ("FENCEGATE_SECRET_FILE", &self.secret_file),
        ];
        all.into_iter().filter_map(|(name, file)| Some((name, file.as_deref()?)))
    }
}
