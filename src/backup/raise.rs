//! Writes the levels into copies, before they take their place.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, params};

use crate::config::{Config, KindConfig, SqliteConfig};
use crate::coordinator::embedded::store as elections;
use crate::fail::{self, Point};
use crate::fence::{FenceName, Mark, Token};
use crate::resource::http::store as fences;
use crate::resource::records::{self, Line};
use crate::resource::sqlite::db::{Access, connect};
use crate::resource::sqlite::store;
use crate::resource::threads::now_ms;

use super::BackupError;
use super::level::{Fate, Issued, Levels};

/// How long to wait for a lock of somebody else's, who shouldn't be there.
const BUSY: Duration = Duration::from_millis(500);

/// What becomes of one mark.
enum Change {
    /// It is this from now on.
    Set(Token),
    /// There is none from now on.
    Remove,
}

/// What becomes of this mark. `None`: it stays.
fn change(fate: Fate, before: Option<&Mark>) -> Option<Change> {
    match fate {
        Fate::AtLeast(level) => before.is_none_or(|mark| mark.token < level).then_some(Change::Set(level)),
        Fate::Asked => before.map(|_| Change::Remove),
    }
}

/// Writes into the history what has become of a mark.
fn log(conn: &Connection, fence: &str, before: Option<&Mark>, change: &Change, why: &str) -> rusqlite::Result<()> {
    let (after, why) = match change {
        Change::Set(token) => (Some(Mark { token: *token, holder: None }), why.to_owned()),
        Change::Remove => (None, format!("{why}, so the coordinator is asked about the next token")),
    };
    let (after, reason) = (after.as_ref(), Some(why.as_str()));
    records::log(conn, &Line { fence, at_ms: now_ms(), event: "restored", after, before, reason })
}

/// Raises the marks of a database, of every fence that it has or can have, or takes them away. Returns how many changed.
///
/// # Errors
/// A database that can't be written, or that a newer fencegate has written.
pub fn database(file: &Path, config: &SqliteConfig, fate: Fate, why: &str) -> Result<usize, BackupError> {
    let cannot = |error: rusqlite::Error| BackupError::file(file, error);
    store::migrate(file, BUSY).map_err(|error| BackupError(error.to_string()))?;
    let conn = connect(file, Access::Write, BUSY).map_err(|error| BackupError::file(file, error.message))?;
    let raise = || -> rusqlite::Result<usize> {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        let mut changed = 0;
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
            let Some(change) = change(fate, before.as_ref()) else { continue };
            match &change {
                Change::Set(_) if fail::skips(Point::RestoreRaise) => continue,
                Change::Set(token) => {
                    let set = "INSERT INTO fencegate_marks (fence, token, holder, advanced_at_ms) VALUES (?1, ?2, NULL, ?3)
                        ON CONFLICT (fence) DO UPDATE SET token = excluded.token, holder = NULL, advanced_at_ms = excluded.advanced_at_ms";
                    conn.execute(set, params![fence, token.as_i64(), now_ms()])?
                }
                Change::Remove => conn.execute("DELETE FROM fencegate_marks WHERE fence = ?1", [&fence])?,
            };
            log(&conn, &fence, before.as_ref(), &change, why)?;
            changed += 1;
        }
        conn.execute_batch("COMMIT")?;
        Ok(changed)
    };
    raise().map_err(cannot)
}

/// Raises the marks of the HTTP resources' fences in the store in this folder, or takes them away, and sets the floors of those that have no
/// mark. Returns how many marks changed.
///
/// The store gets a new number, so that no crash journal that is lying about is taken for its own: every fence begins quarantined.
///
/// # Errors
/// A store that can't be written, or that a newer fencegate has written.
pub fn fences(folder: &Path, config: &Config, levels: &Levels, why: &str) -> Result<usize, BackupError> {
    let store = fences::Store::open(folder).map_err(|error| BackupError(error.to_string()))?;
    let conn = &store.writer;
    let https = config.resources.iter().filter_map(|resource| match &resource.kind {
        KindConfig::Http(http) => Some((&resource.name, &http.fence, levels.of(&resource.name)?)),
        KindConfig::Sqlite(_) => None,
    });
    let https: Vec<_> = https.collect();
    // Where a fence is of several resources, the one that doesn't ask needs the mark. One of a resource that is configured no more is raised as high as
    // any: a resource that has it later must not find it lower than the others.
    let fate = |fence: &str| {
        let owners = || https.iter().filter(|(_, template, _)| template.owns(fence));
        let is_nobodys = owners().next().is_none();
        let all = https.iter().filter(|(_, template, _)| is_nobodys || template.owns(fence));
        let level = all.filter_map(|(_, _, fate)| match fate {
            Fate::AtLeast(level) => Some(*level),
            Fate::Asked => None,
        });
        level.max().map(Fate::AtLeast).or((!is_nobodys).then_some(Fate::Asked))
    };
    let raise = || -> rusqlite::Result<usize> {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        conn.execute("UPDATE store SET id = randomblob(16)", [])?;
        let mut changed = 0;
        let mut all = conn.prepare("SELECT id, fence, token, holder FROM mark")?;
        let mut rows = all.query([])?;
        let mut set =
            conn.prepare("UPDATE mark SET token = ?2, holder = NULL, settled = 0, advanced_at_ms = ?3 WHERE id = ?1")?;
        let remove = "UPDATE mark SET token = NULL, holder = NULL, settled = 0, advanced_at_ms = ?2, resets = resets + 1 WHERE id = ?1";
        let mut remove = conn.prepare(remove)?;
        while let Some(row) = rows.next()? {
            let (id, fence): (i64, String) = (row.get(0)?, row.get(1)?);
            let before = match row.get::<_, Option<i64>>(2)? {
                Some(token) => records::mark(token, row.get(3)?),
                None => None,
            };
            let Some(change) = fate(&fence).and_then(|fate| change(fate, before.as_ref())) else { continue };
            match &change {
                Change::Set(_) if fail::skips(Point::RestoreRaise) => continue,
                Change::Set(token) => set.execute(params![id, token.as_i64(), now_ms()])?,
                Change::Remove => remove.execute(params![id, now_ms()])?,
            };
            log(conn, &fence, before.as_ref(), &change, why)?;
            changed += 1;
        }
        let floor = "INSERT INTO floor (resource, token, at_ms) VALUES (?1, ?2, ?3)
            ON CONFLICT (resource) DO UPDATE SET token = max(token, excluded.token), at_ms = excluded.at_ms";
        for (name, _, fate) in &https {
            if let Fate::AtLeast(level) = fate {
                conn.execute(floor, params![name, level.as_i64(), now_ms()])?;
            }
        }
        conn.execute_batch("COMMIT")?;
        Ok(changed)
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
