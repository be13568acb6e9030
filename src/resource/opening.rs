//! Opening a store of marks, of either kind: a lock that says who has it, a schema that is brought up to date, and why it can't be.

use std::path::{Path, PathBuf};

use refinery::Runner;
use rusqlite::Connection;

use crate::lock::{LockError, LockFile};

/// The table in which refinery keeps which migrations were run.
const MIGRATIONS_TABLE: &str = "fencegate_migrations";

/// Why a database, or the fences of a data directory, can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another gate has it.
    #[error("{file} is in use by another gate ({holder}); stop that one first, or give this one another {other} (lock: {lock})",
        file = file.display(), lock = lock.display())]
    Locked {
        /// The database file.
        file: PathBuf,
        /// What the other gate wrote about itself.
        holder: String,
        /// What a second gate needs another one of: a file, `--data-dir`.
        other: &'static str,
        /// The lock file.
        lock: PathBuf,
    },
    /// It was written by a newer fencegate.
    #[error("{file} was written by a newer fencegate (it has schema {migration}); use that version or a later one",
        file = file.display())]
    Newer {
        /// The database file.
        file: PathBuf,
        /// The migration that this program doesn't know.
        migration: String,
    },
    /// A file can't be used.
    #[error("{file} can't be opened: {why}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What SQLite or the operating system said.
        why: String,
    },
    /// More fences than one database can have.
    #[error("one database has at most {max} fences, its own included")]
    TooManyFences {
        /// How many it can have.
        max: usize,
    },
}

impl OpenError {
    /// This file can't be used.
    pub fn file(file: &Path, why: &impl ToString) -> OpenError {
        OpenError::File { file: file.to_owned(), why: why.to_string() }
    }
}

/// Takes the lock on a database file. `other`: what a second gate needs another one of.
///
/// # Errors
/// [`OpenError::Locked`], with what the holder wrote about itself; or a lock file that can't be made.
pub fn lock(database: &Path, lock: &Path, other: &'static str) -> Result<LockFile, OpenError> {
    LockFile::take(lock).map_err(|error| match error {
        LockError::Held { path, holder } => OpenError::Locked { file: database.to_owned(), holder, other, lock: path },
        LockError::Io { path, source } => OpenError::file(&path, &source),
    })
}

/// Brings the schema of a database up to date, and checks that this program knows it.
///
/// # Errors
/// [`OpenError::Newer`], [`OpenError::File`].
pub fn migrate(file: &Path, conn: &mut Connection, runner: Runner) -> Result<(), OpenError> {
    // Grouped: a migration and the row that says so are one transaction, so that a kill between them leaves neither.
    let mut runner = runner.set_abort_divergent(true).set_abort_missing(true).set_grouped(true);
    runner.set_migration_table_name(MIGRATIONS_TABLE);
    match runner.run(conn) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            refinery::error::Kind::MissingVersion(migration) => {
                OpenError::Newer { file: file.to_owned(), migration: migration.to_string() }
            }
            _ => OpenError::file(file, &error),
        }),
    }
}
