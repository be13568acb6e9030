//! The leader's credential: signed here with `--credential-key`, or by the gate's embedded coordinator; and the file that the command
//! finds it in, which is always about as young as the lease.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::credential::{self, Signer, SigningKey};
use crate::client::Leadership;
use crate::fence::FenceName;

use super::super::failure::Failure;
use super::LeadArgs;

/// Where a leader's credential comes from, and where it goes.
#[derive(Debug, Clone)]
pub struct Credentials {
    signer: Option<Arc<Signer>>,
    file: Option<PathBuf>,
    fence: FenceName,
    lasts: std::time::Duration,
}

impl Credentials {
    /// What the arguments ask for.
    ///
    /// # Errors
    /// [`Failure::Usage`]: a key that can't be read.
    pub fn open(args: &LeadArgs, fence: &FenceName) -> Result<Credentials, Failure> {
        let key = args.credential_key.as_deref().map(SigningKey::open).transpose();
        let key = key.map_err(|why| Failure::Usage(format!("--credential-key: {why}")))?;
        let signer = key.map(|key| Arc::new(Signer::new(key, "fencegate lead", &args.credential_audience)));
        Ok(Credentials { signer, file: args.credential_file.clone(), fence: fence.clone(), lasts: args.ttl })
    }

    /// Whether one is signed here, so that there is always one for a leader.
    pub fn is_signed_here(&self) -> bool {
        self.signer.is_some()
    }

    /// The file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// One for this moment, if there is any.
    pub fn now(&self, leadership: &Leadership) -> Option<String> {
        match &self.signer {
            // Nothing is signed for a leader that may be none any more.
            Some(signer) if leadership.is_alive() => {
                let (token, holder) = (leadership.token(), leadership.holder());
                Some(signer.sign(&self.fence, token, holder, self.lasts, credential::now()))
            }
            Some(_) => None,
            None => leadership.credential(&self.fence),
        }
    }

    /// Puts one for this moment into the file.
    ///
    /// # Errors
    /// A file that can't be written.
    pub fn write(&self, leadership: &Leadership) -> std::io::Result<()> {
        let (Some(file), Some(credential)) = (&self.file, self.now(leadership)) else { return Ok(()) };
        let mut new = file.clone().into_os_string();
        new.push(format!(".{}", std::process::id()));
        // Renamed into its place, so that whoever reads it reads a whole one.
        let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(to, "{credential}")?;
        std::fs::rename(&new, file)
    }

    /// Takes the file away, once nobody is to lead with it.
    pub fn remove(&self) {
        if let Some(file) = &self.file {
            let _ = std::fs::remove_file(file);
        }
    }
}
