//! Where the fences of HTTP resources are remembered: the file `fences.db` in the data directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, ffi, params};

use crate::fail::{self, Point};
use crate::fence::{Holder, Mark, Token};
use crate::files::{self, Place};
use crate::lock::LockFile;
use crate::resource::Look;
use crate::resource::opening;
pub use crate::resource::opening::OpenError;
use crate::resource::records::{self, Line};
use crate::resource::refusals::{Knocks, Presenter};
use crate::resource::sqlite::db::{Access, connect};
use crate::resource::sqlite::raw::SqliteError;

use super::index::FENCES_MAX;
use super::journal::StoreId;
use super::state::Floor;

mod embedded {
    refinery::embed_migrations!("migrations/fences");
}

/// The database's name in the data directory.
pub const FILE_NAME: &str = "fences.db";
/// The crash journal beside it.
pub const JOURNAL_NAME: &str = "fences.journal";
/// Held locked while a gate has the two.
pub const LOCK_NAME: &str = "fences.lock";
/// How long to wait for another connection that writes to the database.
const BUSY: Duration = Duration::from_millis(500);

/// One mark as it is stored.
#[derive(Debug)]
pub struct Row<'a> {
    /// The fence's number, from 0.
    pub id: u32,
    /// The fence.
    pub fence: &'a str,
    /// The mark.
    pub mark: Option<(Token, Option<&'a str>)>,
    /// When it rose.
    pub advanced_at_ms: i64,
    /// Whether the advance to it was complete.
    pub is_settled: bool,
}

/// Something to write.
#[derive(Debug, Clone)]
pub enum Write {
    /// A mark.
    Mark {
        /// The mark before.
        before: Option<Mark>,
        /// The mark after.
        after: Option<Mark>,
        /// Whether the advance to it is complete.
        is_settled: bool,
        /// `advanced`, `bound` or `reset`.
        event: &'static str,
        /// An operator's reason.
        reason: Option<String>,
    },
    /// The advance to this mark, if it still is the mark, is complete.
    Settled(Option<Token>),
    /// A line in the history that changes no mark.
    Line {
        /// `quarantined`, `settled` or `released`.
        event: &'static str,
        /// When, in milliseconds since 1970 (UTC).
        at_ms: i64,
        /// The mark.
        mark: Option<Mark>,
        /// Why.
        reason: Option<String>,
    },
    /// Nothing: done when everything before it is.
    Nothing,
}

/// The open database, and the lock that keeps other gates away from it.
#[derive(Debug)]
pub struct Store {
    /// For the store's own thread.
    pub writer: Connection,
    /// Where it is.
    pub place: Place,
    /// For what operators read.
    pub reader: Connection,
    /// What the journal must name.
    pub id: StoreId,
    /// Numbers of fences are below this.
    pub numbers: u32,
    /// The file.
    pub file: PathBuf,
    /// The lock.
    pub lock: LockFile,
}

/// The number of the store, made where it has none yet.
fn store_id(conn: &Connection) -> rusqlite::Result<StoreId> {
    let known: Option<StoreId> = conn.query_row("SELECT id FROM store", [], |row| row.get(0)).optional()?;
    if let Some(known) = known {
        return Ok(known);
    }
    let mut id = StoreId::default();
    getrandom::fill(&mut id).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    conn.execute("INSERT INTO store (id) VALUES (?1)", [id])?;
    Ok(id)
}

impl Store {
    /// Opens the database in this directory, making both where they are missing, and brings its schema up to date.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path) -> Result<Store, OpenError> {
        files::make_dir(dir).map_err(|error| OpenError::file(dir, &error))?;
        let file = dir.join(FILE_NAME);
        let lock = opening::lock(&file, &dir.join(LOCK_NAME), "--data-dir")?;
        let cannot = |error: SqliteError| OpenError::file(&file, &error.message);
        let mut writer = connect(&file, Access::Write, BUSY).map_err(cannot)?;
        files::resync(&writer, &file).map_err(|error| OpenError::file(&file, &error))?;
        opening::migrate(&file, &mut writer, embedded::migrations::runner())?;
        let reader = connect(&file, Access::Read, BUSY).map_err(cannot)?;
        let id = store_id(&writer).map_err(|error| OpenError::file(&file, &error))?;
        let highest = "SELECT ifnull(max(id), 0) FROM mark";
        let numbers: i64 =
            writer.query_row(highest, [], |row| row.get(0)).map_err(|error| OpenError::file(&file, &error))?;
        let numbers = u32::try_from(numbers).ok().filter(|numbers| *numbers <= FENCES_MAX);
        let numbers = numbers.ok_or_else(|| OpenError::file(&file, &"it has more fences than a gate can have"))?;
        let place = Place::of(&file).map_err(|error| OpenError::file(&file, &error))?;
        Ok(Store { writer, place, reader, id, numbers, file, lock })
    }

    /// The floor of each resource that has one: the mark of its fences that have none.
    ///
    /// # Errors
    /// SQLite's own, and a row that can't be understood.
    pub fn floors(&self) -> Result<HashMap<String, Floor>, OpenError> {
        let cannot = |error: rusqlite::Error| OpenError::file(&self.file, &error);
        let mut stmt = self.reader.prepare("SELECT resource, token, at_ms FROM floor").map_err(cannot)?;
        let rows = stmt.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(cannot)?;
        let mut floors = HashMap::new();
        for row in rows {
            let (resource, token, at_ms): (String, i64, i64) = row.map_err(cannot)?;
            let mark = records::mark(token, None)
                .ok_or_else(|| OpenError::file(&self.file, &format!("the floor of {resource} can't be understood")))?;
            floors.insert(resource, Floor { mark, at_ms });
        }
        Ok(floors)
    }

    /// Reads all marks.
    ///
    /// # Errors
    /// SQLite's own, and a row that can't be understood: a mark is never guessed.
    pub fn load(&self, mut each: impl FnMut(Row<'_>)) -> Result<(), OpenError> {
        let damaged =
            |fence: &str| OpenError::file(&self.file, &format!("the mark of fence {fence} can't be understood"));
        let cannot = |error: rusqlite::Error| OpenError::file(&self.file, &error);
        let sql = "SELECT id, fence, token, holder, advanced_at_ms, settled FROM mark";
        let mut stmt = self.reader.prepare(sql).map_err(cannot)?;
        let mut rows = stmt.query([]).map_err(cannot)?;
        while let Some(row) = rows.next().map_err(cannot)? {
            let text =
                |column| row.get_ref(column).map_err(cannot)?.as_str_or_null().map_err(|error| cannot(error.into()));
            let id: i64 = row.get(0).map_err(cannot)?;
            let fence = text(1)?.unwrap_or_default();
            let id = u32::try_from(id - 1).ok().filter(|id| *id < self.numbers).ok_or_else(|| damaged(fence))?;
            let mark = match row.get(2).map_err(cannot)? {
                None::<i64> => None,
                Some(token) => {
                    let token = u64::try_from(token).ok().and_then(|token| Token::new(token).ok());
                    Some((token.ok_or_else(|| damaged(fence))?, text(3)?))
                }
            };
            let (advanced_at_ms, is_settled) = (row.get(4).map_err(cannot)?, row.get(5).map_err(cannot)?);
            each(Row { id, fence, mark, advanced_at_ms, is_settled });
        }
        Ok(())
    }
}

/// Why something isn't stored.
#[derive(Debug)]
pub enum NotStored {
    /// It isn't, and never will be.
    Surely(rusqlite::Error),
    /// The disk failed in the middle of the commit, or the file went away: it may be on disk, or be there after the next start.
    Perhaps(rusqlite::Error),
}

impl NotStored {
    /// What SQLite said.
    pub fn error(&self) -> &rusqlite::Error {
        match self {
            NotStored::Surely(error) | NotStored::Perhaps(error) => error,
        }
    }
}

impl From<rusqlite::Error> for NotStored {
    fn from(error: rusqlite::Error) -> NotStored {
        NotStored::Surely(error)
    }
}

fn gone(why: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY_DBMOVED), Some(why))
}

/// Does all of this in one transaction, which is durable when this returns, or none of it.
///
/// # Errors
/// [`NotStored`].
pub fn commit<'a>(
    conn: &Connection,
    place: &Place,
    writes: impl Iterator<Item = (u32, &'a str, &'a Write)>,
    refusals: &HashMap<Presenter, Knocks>,
    at_ms: i64,
) -> Result<(), NotStored> {
    place.check().map_err(gone)?;
    conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    fail::at(Point::HttpStoreBegun);
    let write_all = || -> Result<(), NotStored> {
        for (id, fence, what) in writes {
            write(conn, id, fence, what, at_ms)?;
        }
        records::write_refusals(conn, refusals)?;
        fail::at(Point::HttpStoreWritten);
        conn.prepare_cached("COMMIT")?.execute([]).map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::SystemIoFailure | ErrorCode::OutOfMemory) => NotStored::Perhaps(error),
            _ => NotStored::Surely(error),
        })?;
        fail::at(Point::HttpStored);
        place.check().map_err(|why| NotStored::Perhaps(gone(why)))
    };
    let written = write_all();
    if written.is_err() && !conn.is_autocommit() {
        // Where not even that is possible, the next BEGIN fails, and says why.
        let _ = conn.prepare_cached("ROLLBACK").and_then(|mut rollback| rollback.execute([]));
    }
    written
}

fn write(conn: &Connection, id: u32, fence: &str, what: &Write, at_ms: i64) -> rusqlite::Result<()> {
    let id = i64::from(id) + 1;
    match what {
        Write::Mark { .. } if fail::skips(Point::HttpMarkWrite) => Ok(()),
        Write::Mark { before, after, is_settled, event, reason } => {
            let set = "INSERT INTO mark (id, fence, token, holder, advanced_at_ms, settled, resets)
                VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET
                token = excluded.token, holder = excluded.holder, settled = excluded.settled,
                advanced_at_ms = iif(?8, advanced_at_ms, excluded.advanced_at_ms), resets = resets + excluded.resets";
            let token = after.as_ref().map(|mark| mark.token.as_i64());
            let holder = after.as_ref().and_then(|mark| mark.holder.as_ref()).map(Holder::as_str);
            let (is_reset, is_bound) = (*event == "reset", *event == "bound");
            let row = params![id, fence, token, holder, at_ms, is_settled, is_reset, is_bound];
            conn.prepare_cached(set)?.execute(row)?;
            let (after, before, reason) = (after.as_ref(), before.as_ref(), reason.as_deref());
            records::log(conn, &Line { fence, at_ms, event, after, before, reason })
        }
        Write::Settled(token) => {
            let set = "UPDATE mark SET settled = 1 WHERE id = ?1 AND token IS ?2";
            conn.prepare_cached(set)?.execute(params![id, token.map(Token::as_i64)])?;
            fail::at(Point::HttpSettledWritten);
            Ok(())
        }
        Write::Line { event, at_ms, mark, reason } => {
            let (after, reason) = (mark.as_ref(), reason.as_deref());
            records::log(conn, &Line { fence, at_ms: *at_ms, event, after, before: after, reason })
        }
        Write::Nothing => Ok(()),
    }
}

/// Most names that are looked at in one go, so that looking for a part among millions takes nobody's time for long.
pub const NAMES_MAX: usize = 100_000;

/// Goes through the names of fences that are looked for, in order, until `each` says that it has enough. Returns the last name
/// that was looked at where it was left before the end for having looked at [`NAMES_MAX`].
///
/// # Errors
/// SQLite's own.
pub fn names(conn: &Connection, look: &Look, each: &mut dyn FnMut(&str) -> bool) -> rusqlite::Result<Option<String>> {
    // Names are ASCII: what has the prefix lies between it and the prefix with the highest byte there can be behind it. One lower bound,
    // not two: of two, SQLite may take the wrong one, and read a million names to throw them away.
    let is_inside = look.after >= look.prefix;
    let from = if is_inside { &look.after } else { &look.prefix };
    let sql = match is_inside {
        true => "SELECT fence FROM mark WHERE fence > ?1 AND fence < ?2 || x'7f' ORDER BY fence",
        false => "SELECT fence FROM mark WHERE fence >= ?1 AND fence < ?2 || x'7f' ORDER BY fence",
    };
    let mut stmt = conn.prepare_cached(sql)?;
    let mut rows = stmt.query([from, &look.prefix])?;
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str()?;
        if look.has_part(name) && !each(name) {
            return Ok(None);
        }
        looked_at += 1;
        if looked_at == NAMES_MAX {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}
