//! One database as it was at one moment, in one file.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::fail::{self, Point};
use crate::resource::sqlite::db::{Access, connect};

use super::BackupError;

/// Pages that are copied between two looks at how far it is.
const PAGES: i32 = 2048;
/// How long to wait for a lock of somebody else's. Readers of a write-ahead log wait for nobody; only its recovery is exclusive.
const BUSY: Duration = Duration::from_secs(10);

/// Copies a database, while others write to it, into a new file that only its owner can read. `look` sees the database as it is in the copy.
///
/// **Invariant.** Copy and look are one read transaction, begun before the first look: what commits meanwhile is in neither. Nobody who
/// writes waits for it, but the write-ahead log grows until it ends.
///
/// # Errors
/// A database that can't be read, a disk that is full, a copy that SQLite doesn't find in order.
pub fn copy<T>(
    from: &Path,
    to: &Path,
    look: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    tell: &mut dyn FnMut(u8),
) -> Result<T, BackupError> {
    let cannot = |error: rusqlite::Error| BackupError::file(from, error);
    let source = connect(from, Access::Read, BUSY).map_err(|error| BackupError::file(from, error.message))?;
    source.execute_batch("BEGIN").map_err(cannot)?;
    let seen = look(&source).map_err(cannot)?;
    fail::at(Point::BackupLooked);
    let into = |error: rusqlite::Error| BackupError::file(to, error);
    File::options().write(true).create_new(true).mode(0o600).open(to).map_err(|error| BackupError::file(to, error))?;
    let mut target = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(into)?;
    // Nothing is lost where this is cut short: the file is no backup before it is complete and synced.
    target.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(into)?;
    {
        let backup = Backup::new(&source, &mut target).map_err(into)?;
        loop {
            // Busy and locked would be about the copy, which nobody else has.
            let step = backup.step(PAGES).map_err(into)?;
            let progress = backup.progress();
            let pages = progress.pagecount.max(1);
            tell(u8::try_from(i64::from(pages - progress.remaining) * 100 / i64::from(pages)).unwrap_or(100));
            if step == StepResult::Done {
                break;
            }
        }
    }
    drop(target);
    source.execute_batch("ROLLBACK").map_err(cannot)?;
    fold(to)?;
    Ok(seen)
}

/// Makes one file of a database and its write-ahead log, and checks that SQLite finds it in order. Nobody else may have it open.
///
/// # Errors
/// A database that is damaged, that somebody else has open, or that can't be written.
pub fn fold(file: &Path) -> Result<(), BackupError> {
    let cannot = |error: rusqlite::Error| BackupError::file(file, error);
    let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(cannot)?;
    // Alone from the start: then SQLite needs no memory that it shares with others, which not every file system that keeps backups has.
    conn.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(cannot)?;
    let mode: String = conn.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0)).map_err(cannot)?;
    if mode != "delete" {
        return Err(BackupError::file(file, "another process has it open"));
    }
    check(&conn, file)?;
    drop(conn);
    let synced = File::open(file).and_then(|file| file.sync_all());
    synced.map_err(|error| BackupError::file(file, error))
}

/// Whether SQLite finds a database in order.
///
/// # Errors
/// It doesn't; the text says what it found first.
pub fn check(conn: &Connection, file: &Path) -> Result<(), BackupError> {
    let found = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match found.map_err(|error| BackupError::file(file, error))?.as_str() {
        "ok" => Ok(()),
        what => Err(BackupError::file(file, format!("it is damaged: {what}"))),
    }
}
