//! The gate's own tables in the resource's database: marks, history, refusals. And the lock that keeps a second gate out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};

use crate::fail::{self, Point};
use crate::fence::ledger::Change;
use crate::fence::{Claim, FenceName, Ledger, Mark, Refusal};
use crate::files;
use crate::lock::LockFile;
use crate::resource::Event;
use crate::resource::opening;
use crate::resource::records::{self, Line};
use crate::resource::refusals::{Knocks, Presenter};

use super::db::{self, Access, Db};
use super::fences::{DatedMark, holder_text};
use super::raw::SqliteError;
use super::{OpenError, now_ms};

mod embedded {
    refinery::embed_migrations!("migrations/sqlite");
}

/// Opens the database file, brings its schema up to date, and checks that this program knows the schema.
///
/// # Errors
/// [`OpenError`]: what can't be opened, and why.
pub fn migrate(file: &Path, busy: std::time::Duration) -> Result<(), OpenError> {
    let mut conn = db::connect(file, Access::Write, busy).map_err(|error| OpenError::file(file, &error.message))?;
    fail::at(Point::SqliteOpened);
    files::resync(&conn, file).map_err(|error| OpenError::file(file, &error))?;
    opening::migrate(file, &mut conn, embedded::migrations::runner())?;
    fail::at(Point::SqliteMigrated);
    Ok(())
}

/// Locks the database file against a second gate, through a file of its own beside it (`NAME-fencegate.lock`).
///
/// # Errors
/// [`OpenError::Locked`], with what the holder wrote about itself; or a file that can't be made.
pub fn lock(database: &Path) -> Result<LockFile, OpenError> {
    opening::lock(&absolute(database), &lock_of(database), "file")
}

/// Where that file is.
pub fn lock_of(database: &Path) -> PathBuf {
    let mut name = absolute(database).into_os_string();
    name.push("-fencegate.lock");
    name.into()
}

/// The file by its real path, so that two names of one file give one lock.
fn absolute(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| match (files::folder_of(file).canonicalize(), file.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => file.to_owned(),
    })
}

fn damaged(fence: &str) -> SqliteError {
    let message = format!("the mark of fence {fence} in fencegate_marks is no token");
    SqliteError { code: rusqlite::ffi::SQLITE_CORRUPT, message }
}

/// Reads all marks.
///
/// # Errors
/// SQLite's own, and a row that can't be understood: a mark is never guessed.
pub fn marks(db: &Db) -> Result<HashMap<FenceName, DatedMark>, SqliteError> {
    db.as_gate(|| {
        let mut stmt = db.conn.prepare_cached("SELECT fence, token, holder, advanced_at_ms FROM fencegate_marks")?;
        let mut rows = stmt.query([])?;
        let mut marks = HashMap::new();
        while let Some(row) = rows.next()? {
            let fence: String = row.get(0)?;
            let mark = records::mark(row.get(1)?, row.get(2)?).ok_or_else(|| damaged(&fence))?;
            let name = fence.parse().map_err(|_| damaged(&fence))?;
            marks.insert(name, DatedMark { mark, advanced_at_ms: row.get(3)? });
        }
        Ok(marks)
    })
}

/// Judges claims against the marks as they stand in the present transaction.
///
/// # Errors
/// SQLite's own.
pub fn refusal(db: &Db, claims: &[Claim]) -> Result<Option<Refusal>, SqliteError> {
    let mut ledger = Ledger::default();
    db.as_gate(|| {
        let mut stmt = db.conn.prepare_cached("SELECT token, holder FROM fencegate_marks WHERE fence = ?1")?;
        for claim in claims {
            let row = stmt.query_row([claim.fence.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
            let row: Option<(i64, Option<String>)> = row;
            if let Some((token, holder)) = row {
                ledger
                    .put(claim.fence.clone(), Some(records::mark(token, holder).ok_or_else(|| damaged(&claim.fence))?));
            }
        }
        Ok::<(), SqliteError>(())
    })?;
    Ok(ledger.judge(claims).err())
}

/// Writes one change of a mark, and its line in the history, into the present transaction.
///
/// # Errors
/// SQLite's own.
pub fn write_change(db: &Db, change: &Change, why: Option<&str>, at_ms: i64) -> Result<(), SqliteError> {
    let event = if change.advances() { "advanced" } else { "bound" };
    set_mark(db, &change.fence, Some(&change.after), change.before.as_ref(), event, why, at_ms)
}

/// Sets or removes a mark, with its line in the history, in the present transaction.
///
/// # Errors
/// SQLite's own.
pub fn set_mark(
    db: &Db,
    fence: &FenceName,
    after: Option<&Mark>,
    before: Option<&Mark>,
    event: &str,
    reason: Option<&str>,
    at_ms: i64,
) -> Result<(), SqliteError> {
    let token = after.map(|mark| mark.token.as_i64());
    let holder = after.and_then(|mark| holder_text(mark.holder.as_ref()));
    db.as_gate(|| {
        let set = "INSERT INTO fencegate_marks (fence, token, holder, advanced_at_ms) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (fence) DO UPDATE SET holder = excluded.holder, token = excluded.token,
            advanced_at_ms = iif(token = excluded.token, advanced_at_ms, excluded.advanced_at_ms)";
        match token {
            Some(token) => db.conn.prepare_cached(set)?.execute(params![fence.as_str(), token, holder, at_ms])?,
            None => {
                db.conn.prepare_cached("DELETE FROM fencegate_marks WHERE fence = ?1")?.execute([fence.as_str()])?
            }
        };
        Ok(records::log(&db.conn, &Line { fence, at_ms, event, after, before, reason })?)
    })
}

/// Adds counted refusals to the database, in the present transaction. Per fence the latest thousand presenters are kept.
///
/// # Errors
/// SQLite's own.
pub fn write_refusals(db: &Db, refusals: &HashMap<Presenter, Knocks>) -> Result<(), SqliteError> {
    Ok(db.as_gate(|| records::write_refusals(&db.conn, refusals))?)
}

/// The latest events of a fence before the one with number `before`, newest first.
///
/// # Errors
/// SQLite's own.
pub fn history(db: &Db, fence: &str, before: i64, limit: usize) -> Result<Vec<Event>, SqliteError> {
    Ok(db.as_gate(|| records::history(&db.conn, fence, before, limit))?)
}

/// Who was refused on a fence, the latest first.
///
/// # Errors
/// SQLite's own.
pub fn refusals(db: &Db, fence: &FenceName, limit: usize) -> Result<Vec<(Presenter, Knocks)>, SqliteError> {
    Ok(db.as_gate(|| records::refusals(&db.conn, fence, limit))?)
}

/// The number that changes whenever another connection has changed the database.
///
/// # Errors
/// SQLite's own.
pub fn data_version(db: &Db) -> Result<i64, SqliteError> {
    db.as_gate(|| Ok(db.conn.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?))
}

/// A mark as it is published after it became durable.
pub fn dated(change: &Change, before: Option<DatedMark>, at_ms: i64) -> DatedMark {
    let advanced_at_ms = match before {
        Some(before) if !change.advances() => before.advanced_at_ms,
        _ => at_ms,
    };
    DatedMark { mark: change.after.clone(), advanced_at_ms }
}

/// When a reset happened.
pub fn reset_time() -> i64 {
    now_ms()
}

/// Whether a table has had the last rowid that there is: SQLite says no more than that something is full.
pub fn has_sequence_at_its_end(db: &Db) -> bool {
    let sql = "SELECT 1 FROM sqlite_sequence WHERE seq = 9223372036854775807";
    db.as_gate(|| db.conn.prepare(sql).and_then(|mut stmt| stmt.exists([]))).unwrap_or(false)
}
