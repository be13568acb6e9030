//! The gate's own tables in the resource's database: marks, history, refusals. And the lock that keeps a second gate out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::{OptionalExtension, params};

use crate::fence::ledger::Change;
use crate::fence::{Claim, FenceName, Ledger, Mark, Refusal, Token, Verdict};
use crate::lock::{LockError, LockFile};
use crate::resource::Event;

use super::db::{self, Access, Db};
use super::fences::{DatedMark, holder_text};
use super::raw::SqliteError;
use super::refusals::{Knocks, Presenter};
use super::{OpenError, now_ms};

mod embedded {
    refinery::embed_migrations!("migrations/sqlite");
}

/// The table in which refinery keeps which migrations were run.
const MIGRATIONS_TABLE: &str = "fencegate_migrations";

/// Events of one fence kept in the history.
const HISTORY_MAX: i64 = 10_000;

/// Opens the database file, brings its schema up to date, and checks that this program knows the schema.
///
/// # Errors
/// [`OpenError`]: what can't be opened, and why.
pub fn migrate(file: &Path, busy: std::time::Duration) -> Result<(), OpenError> {
    let cannot = |error: SqliteError| OpenError::File { file: file.to_owned(), why: error.message };
    let mut conn = db::connect(file, Access::Write, busy).map_err(cannot)?;
    let mut runner = embedded::migrations::runner().set_abort_divergent(true).set_abort_missing(true).set_grouped(true);
    runner.set_migration_table_name(MIGRATIONS_TABLE);
    match runner.run(&mut conn) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.kind() {
            refinery::error::Kind::MissingVersion(migration) => {
                OpenError::Newer { file: file.to_owned(), migration: migration.to_string() }
            }
            _ => OpenError::File { file: file.to_owned(), why: error.to_string() },
        }),
    }
}

/// Locks the database file against a second gate, through a file of its own beside it (`NAME-fencegate.lock`).
///
/// # Errors
/// [`OpenError::Locked`], with what the holder wrote about itself; or a file that can't be made.
pub fn lock(database: &Path) -> Result<LockFile, OpenError> {
    let file = absolute(database);
    let mut name = file.clone().into_os_string();
    name.push("-fencegate.lock");
    LockFile::take(Path::new(&name)).map_err(|error| match error {
        LockError::Held { path, holder } => OpenError::Locked { file, holder, lock: path },
        LockError::Io { path, source } => OpenError::File { file: path, why: source.to_string() },
    })
}

/// The file by its real path, so that two names of one file give one lock.
fn absolute(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match (folder.canonicalize(), file.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => file.to_owned(),
        }
    })
}

fn mark(token: i64, holder: Option<String>) -> Option<Mark> {
    let token = Token::new(u64::try_from(token).ok()?).ok()?;
    Some(Mark { token, holder: holder.and_then(|holder| holder.parse().ok()) })
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
            let mark = mark(row.get(1)?, row.get(2)?).ok_or_else(|| damaged(&fence))?;
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
                ledger.put(claim.fence.clone(), Some(mark(token, holder).ok_or_else(|| damaged(&claim.fence))?));
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
pub fn write_change(db: &Db, change: &Change, at_ms: i64) -> Result<(), SqliteError> {
    let event = if change.advances() { "advanced" } else { "bound" };
    set_mark(db, &change.fence, Some(&change.after), change.before.as_ref(), event, None, at_ms)
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
    let previous = before.map(|mark| mark.token.as_i64());
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
        let log = "INSERT INTO fencegate_history (fence, at_ms, event, token, previous, holder, reason)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let row = params![fence.as_str(), at_ms, event, token, previous, holder, reason];
        db.conn.prepare_cached(log)?.execute(row)?;
        let trim = "DELETE FROM fencegate_history WHERE fence = ?1 AND id <= (
            SELECT id FROM fencegate_history WHERE fence = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
        db.conn.prepare_cached(trim)?.execute(params![fence.as_str(), HISTORY_MAX])?;
        Ok(())
    })
}

/// Adds counted refusals to the database, in the present transaction. Per fence the latest thousand presenters are kept.
///
/// # Errors
/// SQLite's own.
pub fn write_refusals(db: &Db, refusals: &HashMap<Presenter, Knocks>) -> Result<(), SqliteError> {
    db.as_gate(|| {
        let add = "INSERT INTO fencegate_refusals (fence, verdict, token, holder, count, first_at_ms, last_at_ms)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET
            count = count + excluded.count, last_at_ms = max(last_at_ms, excluded.last_at_ms)";
        let trim = "DELETE FROM fencegate_refusals WHERE fence = ?1 AND last_at_ms < (
            SELECT last_at_ms FROM fencegate_refusals WHERE fence = ?1 ORDER BY last_at_ms DESC LIMIT 1 OFFSET 1000)";
        for (presenter, knocks) in refusals {
            db.conn.prepare_cached(add)?.execute(params![
                presenter.fence.as_str(),
                presenter.verdict.as_str(),
                presenter.token.as_i64(),
                holder_text(presenter.holder.as_ref()).unwrap_or_default(),
                i64::try_from(knocks.count).unwrap_or(i64::MAX),
                knocks.first_at_ms,
                knocks.last_at_ms
            ])?;
            db.conn.prepare_cached(trim)?.execute([presenter.fence.as_str()])?;
        }
        Ok(())
    })
}

/// The latest events of a fence before the one with number `before`, newest first.
///
/// # Errors
/// SQLite's own.
pub fn history(db: &Db, fence: &str, before: i64, limit: usize) -> Result<Vec<Event>, SqliteError> {
    db.as_gate(|| {
        let sql = "SELECT id, at_ms, event, token, previous, holder, reason FROM fencegate_history
            WHERE fence = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
        let mut stmt = db.conn.prepare_cached(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = stmt.query_map(params![fence, before, limit], |row| {
            let token = |number: Option<i64>| Token::new(u64::try_from(number?).ok()?).ok();
            Ok(Event {
                id: row.get(0)?,
                at_ms: row.get(1)?,
                event: row.get(2)?,
                token: token(row.get(3)?),
                previous: token(row.get(4)?),
                holder: row.get(5)?,
                reason: row.get(6)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// Who was refused on a fence, the latest first.
///
/// # Errors
/// SQLite's own.
pub fn refusals(db: &Db, fence: &FenceName, limit: usize) -> Result<Vec<(Presenter, Knocks)>, SqliteError> {
    db.as_gate(|| {
        let sql = "SELECT verdict, token, holder, count, first_at_ms, last_at_ms FROM fencegate_refusals
            WHERE fence = ?1 ORDER BY last_at_ms DESC LIMIT ?2";
        let mut stmt = db.conn.prepare_cached(sql)?;
        let mut rows = stmt.query(params![fence.as_str(), i64::try_from(limit).unwrap_or(i64::MAX)])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let verdict: String = row.get(0)?;
            let verdict = if verdict == Verdict::Stale.as_str() { Verdict::Stale } else { Verdict::Conflict };
            let holder: String = row.get(2)?;
            let Some(Mark { token, holder }) = mark(row.get(1)?, Some(holder)) else { continue };
            let count: i64 = row.get(3)?;
            let knocks =
                Knocks { count: u64::try_from(count).unwrap_or(0), first_at_ms: row.get(4)?, last_at_ms: row.get(5)? };
            found.push((Presenter { fence: fence.clone(), verdict, token, holder }, knocks));
        }
        Ok(found)
    })
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
