//! Backups of a gate: its databases, the marks of its HTTP services' fences, and its elections, taken while it runs.
//!
//! - [`take`](mod@take): makes one, beside a running gate
//! - [`manifest`]: what a backup says of itself
//! - [`copy`](mod@copy): one database as it was at one moment, in one file
//! - [`restore`](mod@restore): puts one back, and sees to it that nobody of the time after it gets in
//! - [`learn`](mod@learn): what is known of tokens, in the backup and in what it replaces
//! - [`level`]: above which token that is
//! - [`raise`]: writes that into the copies
//!
//! **Invariant.** In a backup, a mark may be ahead of the data that it guards, never behind. A database and its marks are one file, read
//! in one transaction. The marks of HTTP services are copied after whoever runs the gate has copied the services (the documentation says so); the
//! elections come last of all, so that they know every token that a mark in the same backup came from.
//!
//! **Invariant.** After a restore, no token that was issued or admitted before it is admitted again, and none that the gate's own
//! coordinator issues from then on is at or below one that it issued before: [`level`].

use std::path::{Path, PathBuf};

use crate::config::{Config, KindConfig};
use crate::coordinator::embedded::store as elections;
use crate::resource::http::store as fences;

pub mod copy;
pub mod learn;
pub mod level;
pub mod manifest;
pub mod raise;
pub mod restore;
pub mod take;

pub use level::{Above, Fate, Level};
pub use manifest::{Manifest, Of};
pub use restore::{Restored, restore};
pub use take::take;

/// Why a backup can't be made, read or restored: a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackupError(pub String);

impl BackupError {
    /// Something about a file.
    pub fn file(file: &Path, why: impl std::fmt::Display) -> BackupError {
        BackupError(format!("{}: {why}", file.display()))
    }
}

/// One file of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub of: Of,
    /// Where the gate has it.
    pub file: PathBuf,
}

/// All files of a gate that are worth a backup, in the order in which they are copied: see the invariants above.
///
/// The crash journal is none of them: it speaks of writes that were in flight on one machine at one time. Without it a gate takes every
/// fence for one that may have had some, which is what a restored one has to do.
pub fn pieces(config: &Config) -> Vec<Piece> {
    let databases = config.resources.iter().filter_map(|resource| match &resource.kind {
        KindConfig::Sqlite(sqlite) => {
            Some(Piece { of: Of::Database { resource: resource.name.clone() }, file: sqlite.file.clone() })
        }
        KindConfig::Http(_) => None,
    });
    let fences = Piece { of: Of::Fences, file: config.data_dir.join(fences::FILE_NAME) };
    let elections = Piece { of: Of::Elections, file: config.data_dir.join(elections::FILE_NAME) };
    databases.chain([fences, elections]).collect()
}

/// Makes the entries of a folder durable.
///
/// # Errors
/// A folder that can't be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| BackupError::file(folder, error))
}
