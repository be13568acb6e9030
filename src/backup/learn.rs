//! What a backup, and the files that it replaces, know of tokens.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags};

use crate::config::{Config, KindConfig, ResourceConfig};
use crate::fence::{FenceName, Token};
use crate::resource::sqlite::db::{Access, connect};

use super::BackupError;
use super::copy::check;
use super::level::{Issued, Known};
use super::manifest::Of;
use super::take::has_table;

/// How long to wait for a lock of somebody else's.
const BUSY: Duration = Duration::from_secs(1);

/// What is restored: what it is, its copy in the backup, and where it goes.
pub type Source<'a> = (&'a Of, PathBuf, &'a Path);

/// Reads all of these, each in the backup and, where there is one, the file that it replaces. Of each resource, in the order of the
/// configuration, and of the gate's own coordinator. `notes` is told of what can't be read of those that are replaced.
///
/// # Errors
/// A file of the backup that can't be read.
pub fn learn(
    sources: &[Source<'_>],
    config: &Config,
    notes: &mut Vec<String>,
) -> Result<(Vec<Known>, Issued), BackupError> {
    let is_restored = |resource: &ResourceConfig| match resource.kind {
        KindConfig::Sqlite(_) => {
            sources.iter().any(|(of, ..)| matches!(of, Of::Database { resource: name } if *name == resource.name))
        }
        KindConfig::Http(_) => sources.iter().any(|(of, ..)| **of == Of::Fences),
    };
    let known = |resource| Known { is_restored: is_restored(resource), ..Known::default() };
    let mut known: Vec<Known> = config.resources.iter().map(known).collect();
    let mut issued = Issued::default();
    // Who has issued what has to be known before the marks are looked at.
    for source in sources.iter().filter(|(of, ..)| **of == Of::Elections) {
        both(source, notes, &mut |conn| elections(conn, &mut issued))?;
    }
    for source in sources {
        match source.0 {
            Of::Elections => {}
            Of::Fences => both(source, notes, &mut |conn| fences(conn, config, &mut known, &issued))?,
            Of::Database { resource } => {
                let place = config.resources.iter().position(|one| one.name == *resource);
                let known = &mut known[place.expect("the plan is made from the configuration")];
                both(source, notes, &mut |conn| {
                    each_mark(conn, "fencegate_marks", |fence, mark| known.note(fence, mark, &issued))
                })?;
            }
        }
    }
    // An election may have been held for a fence that has no mark yet.
    for (resource, known) in config.resources.iter().zip(&mut known) {
        known.is_elected |= issued.last.keys().any(|election| has(resource, election));
    }
    Ok((known, issued))
}

fn both(
    (of, copy, there): &Source<'_>,
    notes: &mut Vec<String>,
    read: &mut dyn FnMut(&Connection) -> rusqlite::Result<()>,
) -> Result<(), BackupError> {
    let conn = open_copy(copy)?;
    read(&conn).map_err(|error| BackupError::file(copy, error))?;
    if !there.exists() {
        return Ok(());
    }
    let read = connect(there, Access::Read, BUSY)
        .map_err(|error| error.message)
        .and_then(|conn| read(&conn).map_err(|error| error.to_string()));
    if let Err(why) = read {
        // It is about to be replaced, perhaps for that.
        notes.push(format!(
            "what is replaced of {of} can't be read, so its marks are not known ({}: {why})",
            there.display()
        ));
    }
    Ok(())
}

/// Opens a file of the backup, beside which nothing may be made, and in which nothing may be changed.
fn open_copy(file: &Path) -> Result<Connection, BackupError> {
    let path = file.canonicalize().map_err(|error| BackupError::file(file, error))?;
    let address = format!("file:{}?immutable=1", percent_encode(path.as_os_str().as_bytes(), NON_ALPHANUMERIC));
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(address, flags).map_err(|error| BackupError::file(file, error))?;
    check(&conn, file)?;
    Ok(conn)
}

fn number(token: i64) -> Option<Token> {
    Token::new(u64::try_from(token).ok()?).ok()
}

fn elections(conn: &Connection, issued: &mut Issued) -> rusqlite::Result<()> {
    each_mark(conn, "election", |election, last| {
        if let Some(last) = last {
            let known = issued.last.entry(election.clone()).or_insert(last);
            *known = last.max(*known);
        }
    })?;
    if has_table(conn, "floor")? {
        let mut stmt = conn.prepare("SELECT token FROM floor")?;
        let floors = stmt.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
        issued.floors.extend(floors.into_iter().filter_map(number));
    }
    Ok(())
}

fn fences(conn: &Connection, config: &Config, known: &mut [Known], issued: &Issued) -> rusqlite::Result<()> {
    let mut each = |fence: &FenceName, mark| {
        for (resource, known) in config.resources.iter().zip(&mut *known) {
            if matches!(&resource.kind, KindConfig::Http(http) if http.fence.owns(fence)) {
                known.note(fence, mark, issued);
            }
        }
    };
    each_mark(conn, "mark", &mut each)?;
    if has_table(conn, "floor")? {
        let mut stmt = conn.prepare("SELECT resource, token FROM floor")?;
        let mut rows = stmt.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let place = config.resources.iter().position(|resource| resource.name == name);
            if let (Some(place), Some(floor)) = (place, number(row.get(1)?)) {
                known[place].note_floor(floor, issued);
            }
        }
    }
    Ok(())
}

/// Goes through the names and tokens of a table of marks, or of elections. One that isn't there has none.
///
/// # Errors
/// SQLite's own.
pub fn each_mark(
    conn: &Connection,
    table: &str,
    mut each: impl FnMut(&FenceName, Option<Token>),
) -> rusqlite::Result<()> {
    if !has_table(conn, table)? {
        return Ok(());
    }
    let (name, token) = if table == "election" { ("name", "last_token") } else { ("fence", "token") };
    let mut stmt = conn.prepare(&format!("SELECT {name}, {token} FROM {table}"))?;
    let mut rows = stmt.query([])?;
    while let Some(row) = rows.next()? {
        let fence: String = row.get(0)?;
        if let Ok(fence) = fence.parse() {
            each(&fence, row.get::<_, Option<i64>>(1)?.and_then(number));
        }
    }
    Ok(())
}

/// Whether a resource has a fence of this name.
fn has(resource: &ResourceConfig, name: &FenceName) -> bool {
    match &resource.kind {
        KindConfig::Sqlite(sqlite) => sqlite.fences().any(|fence| fence == name),
        KindConfig::Http(http) => http.fence.owns(name),
    }
}
