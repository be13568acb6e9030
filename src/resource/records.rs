//! What every mark store keeps beside its marks: the history of each fence and who was refused. A fenced SQLite database and the
//! store of the HTTP resources' fences have the same two tables for it, and the same statements on them.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::fence::{FenceName, Holder, Mark, Token, Verdict};

use super::Event;
use super::refusals::{Knocks, Presenter};

/// Events of one fence kept in the history.
const HISTORY_MAX: i64 = 10_000;

/// One line of a fence's history that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// The fence.
    pub fence: &'a str,
    /// When, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
    /// What happened.
    pub event: &'a str,
    /// The mark after it.
    pub after: Option<&'a Mark>,
    /// The mark before it.
    pub before: Option<&'a Mark>,
    /// Why, for people.
    pub reason: Option<&'a str>,
}

/// The mark that a row has. `None` where its number is no token.
pub fn mark(token: i64, holder: Option<String>) -> Option<Mark> {
    let token = Token::new(u64::try_from(token).ok()?).ok()?;
    Some(Mark { token, holder: holder.and_then(|holder| holder.parse().ok()) })
}

/// Writes a line of a fence's history, and forgets the oldest where there are too many.
///
/// # Errors
/// SQLite's own.
pub fn log(conn: &Connection, line: &Line<'_>) -> rusqlite::Result<()> {
    let Line { fence, at_ms, event, after, before, reason } = *line;
    let token = after.map(|mark| mark.token.as_i64());
    let holder = after.and_then(|mark| mark.holder.as_ref()).map(Holder::as_str);
    let previous = before.map(|mark| mark.token.as_i64());
    let log = "INSERT INTO fencegate_history (fence, at_ms, event, token, previous, holder, reason)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    conn.prepare_cached(log)?.execute(params![fence, at_ms, event, token, previous, holder, reason])?;
    let trim = "DELETE FROM fencegate_history WHERE fence = ?1 AND id <= (
        SELECT id FROM fencegate_history WHERE fence = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    conn.prepare_cached(trim)?.execute(params![fence, HISTORY_MAX])?;
    Ok(())
}

/// The latest events of a fence before the one with number `before`, newest first.
///
/// # Errors
/// SQLite's own.
pub fn history(conn: &Connection, fence: &str, before: i64, limit: usize) -> rusqlite::Result<Vec<Event>> {
    let sql = "SELECT id, at_ms, event, token, previous, holder, reason FROM fencegate_history
        WHERE fence = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3";
    let mut stmt = conn.prepare_cached(sql)?;
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
    rows.collect()
}

/// Adds counted refusals. Per fence the latest thousand presenters are kept.
///
/// # Errors
/// SQLite's own.
pub fn write_refusals(conn: &Connection, refusals: &HashMap<Presenter, Knocks>) -> rusqlite::Result<()> {
    let add = "INSERT INTO fencegate_refusals (fence, verdict, token, holder, count, first_at_ms, last_at_ms)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE SET
        count = count + excluded.count, last_at_ms = max(last_at_ms, excluded.last_at_ms)";
    let trim = "DELETE FROM fencegate_refusals WHERE fence = ?1 AND last_at_ms < (
        SELECT last_at_ms FROM fencegate_refusals WHERE fence = ?1 ORDER BY last_at_ms DESC LIMIT 1 OFFSET 1000)";
    for (presenter, knocks) in refusals {
        conn.prepare_cached(add)?.execute(params![
            presenter.fence.as_str(),
            presenter.verdict.as_str(),
            presenter.token.as_i64(),
            presenter.holder.as_ref().map(Holder::as_str).unwrap_or_default(),
            i64::try_from(knocks.count).unwrap_or(i64::MAX),
            knocks.first_at_ms,
            knocks.last_at_ms
        ])?;
        conn.prepare_cached(trim)?.execute([presenter.fence.as_str()])?;
    }
    Ok(())
}

/// Who was refused on a fence, the latest first.
///
/// # Errors
/// SQLite's own.
pub fn refusals(conn: &Connection, fence: &FenceName, limit: usize) -> rusqlite::Result<Vec<(Presenter, Knocks)>> {
    let sql = "SELECT verdict, token, holder, count, first_at_ms, last_at_ms FROM fencegate_refusals
        WHERE fence = ?1 ORDER BY last_at_ms DESC LIMIT ?2";
    let mut stmt = conn.prepare_cached(sql)?;
    let mut rows = stmt.query(params![fence.as_str(), i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let verdict: String = row.get(0)?;
        let refusals = [Verdict::Stale, Verdict::Conflict, Verdict::Unissued];
        let Some(verdict) = refusals.into_iter().find(|known| known.as_str() == verdict) else { continue };
        let holder: String = row.get(2)?;
        let Some(Mark { token, holder }) = mark(row.get(1)?, Some(holder)) else { continue };
        let count: i64 = row.get(3)?;
        let knocks =
            Knocks { count: u64::try_from(count).unwrap_or(0), first_at_ms: row.get(4)?, last_at_ms: row.get(5)? };
        found.push((Presenter { fence: fence.clone(), verdict, token, holder }, knocks));
    }
    Ok(found)
}
