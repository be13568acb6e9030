//! Writes the levels into copies, before they take their place.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::config::{Config, KindConfig, SqliteConfig};
use crate::coordinator::embedded::store as elections;
use crate::fence::{FenceName, Mark, Token};
use crate::resource::http::store as fences;
use crate::resource::records::{self, Line};
use crate::resource::sqlite::db::{Access, connect};
use crate::resource::sqlite::store;
use crate::resource::threads::now_ms;

use super::BackupError;
use super::level::{Issued, Levels};

/// How long to wait for a lock of somebody else's, who shouldn't be there.
const BUSY: Duration = Duration::from_millis(500);

fn log(conn: &Connection, fence: &str, before: Option<&Mark>, level: Token, why: &str) -> rusqlite::Result<()> {
    let after = Mark { token: level, holder: None };
    let (after, before, reason) = (Some(&after), before, Some(why));
    records::log(conn, &Line { fence, at_ms: now_ms(), event: "restored", after, before, reason })
}

/// Raises the marks of a database: of every fence that it has or can have. Returns how many rose.
///
/// # Errors
/// A database that can't be written, or that a newer fencegate has written.
pub fn database(file: &Path, config: &SqliteConfig, level: Option<Token>, why: &str) -> Result<usize, BackupError> {
    let cannot = |error: rusqlite::Error| BackupError::file(file, error);
    // Also where no mark is raised: what can't be used later is better refused now.
    store::migrate(file, BUSY).map_err(|error| BackupError(error.to_string()))?;
    let Some(level) = level else { return Ok(0) };
    let conn = connect(file, Access::Write, BUSY).map_err(|error| BackupError::file(file, error.message))?;
    let raise = || -> rusqlite::Result<usize> {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        let mut rose = 0;
        let mut names: Vec<String> = conn
            .prepare("SELECT fence FROM fencegate_marks")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        names.extend(config.fences().map(FenceName::to_string));
        names.sort();
        names.dedup();
        for fence in names {
            let row = "SELECT token, holder FROM fencegate_marks WHERE fence = ?1";
            let before =
                conn.prepare(row)?.query_map([&fence], |row| Ok(records::mark(row.get(0)?, row.get(1)?)))?.next();
            let before = before.transpose()?.flatten();
            if before.as_ref().is_some_and(|mark| mark.token >= level) {
                continue;
            }
            let set = "INSERT INTO fencegate_marks (fence, token, holder, advanced_at_ms) VALUES (?1, ?2, NULL, ?3)
                ON CONFLICT (fence) DO UPDATE SET token = excluded.token, holder = NULL, advanced_at_ms = excluded.advanced_at_ms";
            conn.execute(set, params![fence, level.as_i64(), now_ms()])?;
            log(&conn, &fence, before.as_ref(), level, why)?;
            rose += 1;
        }
        conn.execute_batch("COMMIT")?;
        Ok(rose)
    };
    raise().map_err(cannot)
}

/// Raises the marks of the HTTP resources' fences in the store in this folder, and sets the floors of those that have no mark. Returns how many rose.
///
/// The store gets a new number, so that no crash journal that is lying about is taken for its own: every fence begins quarantined.
///
/// # Errors
/// A store that can't be written, or that a newer fencegate has written.
pub fn fences(folder: &Path, config: &Config, levels: &Levels, why: &str) -> Result<usize, BackupError> {
    let store = fences::Store::open(folder).map_err(|error| BackupError(error.to_string()))?;
    let conn = &store.writer;
    let https =
        config.resources.iter().zip(&levels.resources).filter_map(|(resource, (name, level))| match &resource.kind {
            KindConfig::Http(http) => Some((name, &http.fence, *level)),
            KindConfig::Sqlite(_) => None,
        });
    let https: Vec<_> = https.collect();
    // Of a fence that no resource has now: one that has it later must not find it lower than the others.
    let nobodys = https.iter().filter_map(|(_, _, level)| *level).max();
    let raise = || -> rusqlite::Result<usize> {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        conn.execute("UPDATE store SET id = randomblob(16)", [])?;
        let mut rose = 0;
        let mut all = conn.prepare("SELECT id, fence, token, holder FROM mark")?;
        let mut rows = all.query([])?;
        let mut set =
            conn.prepare("UPDATE mark SET token = ?2, holder = NULL, settled = 0, advanced_at_ms = ?3 WHERE id = ?1")?;
        while let Some(row) = rows.next()? {
            let (id, fence): (i64, String) = (row.get(0)?, row.get(1)?);
            let before = match row.get::<_, Option<i64>>(2)? {
                Some(token) => records::mark(token, row.get(3)?),
                None => None,
            };
            let mut owners = https.iter().filter(|(_, template, _)| template.owns(&fence)).peekable();
            let level = match owners.peek() {
                None => nobodys,
                Some(_) => owners.filter_map(|(_, _, level)| *level).max(),
            };
            let Some(level) = level.filter(|level| before.as_ref().is_none_or(|mark| mark.token < *level)) else {
                continue;
            };
            set.execute(params![id, level.as_i64(), now_ms()])?;
            log(conn, &fence, before.as_ref(), level, why)?;
            rose += 1;
        }
        let floor = "INSERT INTO floor (resource, token, at_ms) VALUES (?1, ?2, ?3)
            ON CONFLICT (resource) DO UPDATE SET token = max(token, excluded.token), at_ms = excluded.at_ms";
        for (name, _, level) in &https {
            if let Some(level) = level {
                conn.execute(floor, params![name, level.as_i64(), now_ms()])?;
            }
        }
        conn.execute_batch("COMMIT")?;
        Ok(rose)
    };
    raise().map_err(|error| BackupError::file(&store.file, error))
}

/// Raises what the gate's own coordinator issues tokens above, in the store in this folder, and ends all terms and candidacies: whoever led
/// has been led astray by what is now undone, and campaigns anew. The last tokens and the levels that are known of elsewhere go in, too: a restore that was
/// cut short after this one file is begun anew, and has to find them. Returns how many ended.
///
/// # Errors
/// A store that can't be written, or that a newer fencegate has written.
pub fn elections(folder: &Path, level: Token, issued: &Issued) -> Result<usize, BackupError> {
    // Opened by who knows it, and closed: that brings its schema up to date.
    let store = elections::Store::open(folder).map_err(|error| BackupError(error.to_string()))?;
    let file = store.path().to_owned();
    drop(store);
    let raise = || -> rusqlite::Result<usize> {
        let mut conn = Connection::open(&file)?;
        conn.busy_timeout(BUSY)?;
        let transaction = conn.transaction()?;
        for floor in issued.floors.iter().chain([&level]) {
            transaction.execute("INSERT OR IGNORE INTO floor (token) VALUES (?1)", [floor.as_i64()])?;
        }
        {
            let mut last = transaction.prepare(
                "INSERT INTO election (name, last_token) VALUES (?1, ?2)
                ON CONFLICT (name) DO UPDATE SET last_token = max(last_token, excluded.last_token)",
            )?;
            for (election, token) in &issued.last {
                last.execute(params![election.as_str(), token.as_i64()])?;
            }
        }
        let ended = transaction.execute("DELETE FROM election_candidate", [])?;
        transaction.commit()?;
        Ok(ended)
    };
    raise().map_err(|error| BackupError::file(&file, error))
}
