//! Where elections are remembered: the file `gate.db`, SQLite with a write-ahead log, synced on every commit.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::CandidateId;
use super::elections::{Change, Entrant, Stored};
use crate::fail::{self, Point};
use crate::fence::Token;
use crate::files::{self, Place};
use crate::lock::{LockError, LockFile};

mod schema {
    refinery::embed_migrations!("migrations/gate");
}

/// The database's name in the data directory.
pub const FILE_NAME: &str = "gate.db";
/// The table that says which migrations the database has had.
pub const MIGRATION_TABLE: &str = "fencegate_migrations";
/// Held locked while a coordinator runs on the data directory.
pub const LOCK_FILE_NAME: &str = "elections.lock";

/// How long to wait for another connection that writes to the database.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// Stores what the state machine decides. Behind a trait so that tests can have one that fails.
pub trait Journal: Send {
    /// Makes all of these durable, or none. Changes that were stored before may come again, since a commit that failed may have
    /// been carried out nonetheless.
    ///
    /// # Errors
    /// They may or may not have been stored.
    fn save(&mut self, changes: &[Change]) -> Result<(), JournalError>;
}

/// Why changes could not be stored, as text for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JournalError(pub String);

/// Why the coordinator can't start on a data directory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process runs elections on this directory.
    #[error("it is in use by another fencegate ({holder}); stop that one first, or choose another with --data-dir")]
    InUse {
        /// What the other one wrote about itself.
        holder: String,
    },
    /// The directory or a file in it can't be made or opened.
    #[error("can't open {}: {cause}", path.display())]
    Files {
        /// Which one.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A later version of fencegate has changed the database's schema.
    #[error(
        "{} has schema version {version}, which this fencegate doesn't know: a newer one has used it. Run that version, or \
         restore a backup from before",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// The version that it has had and this program lacks.
        version: u64,
    },
    /// The schema can't be brought up to date.
    #[error("can't bring the schema of {} up to date: {cause}", path.display())]
    Schema {
        /// The database.
        path: PathBuf,
        /// Why.
        cause: refinery::Error,
    },
    /// SQLite refuses.
    #[error("can't use {}: {cause}", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        cause: rusqlite::Error,
    },
    /// What is stored can't be true.
    #[error("the stored elections contradict themselves: {0}. Restore a backup of {FILE_NAME}")]
    Damaged(String),
    /// The coordinator's thread can't be started.
    #[error("can't start the coordinator's thread: {0}")]
    Thread(io::Error),
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
    place: Place,
    /// Two processes that each keep the elections in memory would issue the same tokens. The kernel lets go of the lock when
    /// the process ends, however it ends.
    _lock: LockFile,
}

impl Store {
    /// Opens the database in this directory, making both where they are missing, and brings its schema up to date. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(data_dir: &Path) -> Result<Store, OpenError> {
        files::make_dir(data_dir).map_err(|cause| OpenError::Files { path: data_dir.to_owned(), cause })?;
        let lock = lock(data_dir)?;
        let path = data_dir.join(FILE_NAME);
        make_private_file(&path).map_err(|cause| OpenError::Files { path: path.clone(), cause })?;
        let mut connection = connect(&path).map_err(|cause| OpenError::Sqlite { path: path.clone(), cause })?;
        fail::at(Point::ElectionOpened);
        let files = |cause| OpenError::Files { path: path.clone(), cause };
        files::resync(&connection, &path).map_err(files)?;
        migrate(&mut connection, &path)?;
        fail::at(Point::ElectionMigrated);
        let place = Place::of(&path).map_err(files)?;
        Ok(Store { connection, path, place, _lock: lock })
    }

    /// Reads all that is stored. Blocks on the disk.
    ///
    /// # Errors
    /// [`OpenError::Sqlite`], and [`OpenError::Damaged`] for rows that nobody has written.
    pub fn load(&self) -> Result<Stored, OpenError> {
        let read = || -> rusqlite::Result<Stored> {
            let mut elections = self.connection.prepare("SELECT name, last_token FROM election")?;
            let mut candidates = self.connection.prepare(
                "SELECT election, candidate, arrival, holder, ttl_ms, token FROM election_candidate ORDER BY arrival",
            )?;
            let highest = "SELECT max(token) FROM floor";
            let beneath: Option<i64> = self.connection.query_row(highest, [], |row| row.get(0))?;
            let beneath = beneath.map(|number| u64::try_from(number).map_err(|error| damaged(0, error))).transpose()?;
            Ok(Stored {
                last_tokens: elections
                    .query_map([], |row| Ok((parsed(&row.get::<_, String>(0)?, 0)?, token(whole(row, 1)?, 1)?)))?
                    .collect::<rusqlite::Result<_>>()?,
                candidates: candidates.query_map([], candidate)?.collect::<rusqlite::Result<_>>()?,
                beneath: beneath.map(|number| token(number, 0)).transpose()?,
            })
        };
        read().map_err(|cause| match cause {
            rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::IntegralValueOutOfRange(..) => {
                OpenError::Damaged(cause.to_string())
            }
            _ => OpenError::Sqlite { path: self.path.clone(), cause },
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Journal for Store {
    fn save(&mut self, changes: &[Change]) -> Result<(), JournalError> {
        // What is committed to a file that has gone is lost, though it says that it is done.
        self.place.check().map_err(JournalError)?;
        save(&mut self.connection, changes).map_err(|error| JournalError(error.to_string()))?;
        self.place.check().map_err(JournalError)
    }
}

/// Each statement can be repeated without harm, as [`Journal::save`] asks.
fn save(connection: &mut Connection, changes: &[Change]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    fail::at(Point::ElectionBegun);
    {
        let mut enter = transaction.prepare_cached(
            "INSERT OR REPLACE INTO election_candidate (arrival, candidate, election, holder, ttl_ms)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        let mut issue = transaction.prepare_cached(
            "INSERT INTO election (name, last_token) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET last_token = max(last_token, excluded.last_token)",
        )?;
        let mut elect = transaction.prepare_cached("UPDATE election_candidate SET token = ?2 WHERE candidate = ?1")?;
        let mut leave = transaction.prepare_cached("DELETE FROM election_candidate WHERE candidate = ?1")?;
        for change in changes {
            match change {
                Change::Entered(Entrant { election, candidate, arrival, holder, ttl }) => {
                    let arrival = i64::try_from(*arrival).expect("2^63 arrivals take longer than the disk lasts");
                    let ttl_ms = i64::try_from(ttl.as_millis()).expect("a TTL is at most an hour or so");
                    let holder = holder.as_ref().map(|holder| holder.as_str());
                    enter.execute(params![arrival, candidate.0, election.as_str(), holder, ttl_ms])?;
                }
                Change::Elected { election, candidate, token } => {
                    if !fail::skips(Point::ElectionIssue) {
                        issue.execute(params![election.as_str(), token.as_i64()])?;
                    }
                    elect.execute(params![candidate.0, token.as_i64()])?;
                }
                Change::Left { candidate, .. } => {
                    leave.execute([candidate.0])?;
                }
            }
        }
    }
    fail::at(Point::ElectionWritten);
    transaction.commit()?;
    fail::at(Point::ElectionStored);
    Ok(())
}

/// Whoever reads the candidate ids can resign for a leader, so a new database is its owner's alone. SQLite gives its side files
/// the same mode. A file that exists is not even opened: closing it would end the locks that SQLite holds on it elsewhere in
/// this process.
fn make_private_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().create_new(true).write(true).mode(0o600).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn lock(data_dir: &Path) -> Result<LockFile, OpenError> {
    LockFile::take(&data_dir.join(LOCK_FILE_NAME)).map_err(|error| match error {
        LockError::Held { holder, .. } => OpenError::InUse { holder },
        LockError::Io { path, source } => OpenError::Files { path, cause: source },
    })
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    // Renewals wait meanwhile, so give up before short leases run out: the commit is tried again later.
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
    // FULL syncs the log on every commit: a token is told only after that.
    connection.pragma_update(None, "synchronous", "full")?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), OpenError> {
    // Grouped: a migration and the row that says so are one transaction, so that a kill between them leaves neither.
    let mut runner = schema::migrations::runner().set_abort_missing(true).set_abort_divergent(true).set_grouped(true);
    runner.set_migration_table_name(MIGRATION_TABLE);
    match runner.run(connection) {
        Ok(_) => Ok(()),
        Err(cause) => Err(match cause.kind() {
            refinery::error::Kind::MissingVersion(migration) => {
                OpenError::Newer { path: path.to_owned(), version: u64::try_from(migration.version()).unwrap_or(0) }
            }
            _ => OpenError::Schema { path: path.to_owned(), cause },
        }),
    }
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<(Entrant, Option<Token>)> {
    let entrant = Entrant {
        election: parsed(&row.get::<_, String>(0)?, 0)?,
        candidate: CandidateId(row.get(1)?),
        arrival: whole(row, 2)?,
        holder: row.get::<_, Option<String>>(3)?.map(|text| parsed(&text, 3)).transpose()?,
        ttl: Duration::from_millis(whole(row, 4)?),
    };
    let leads = row.get::<_, Option<i64>>(5)?.is_some();
    let token = if leads { Some(token(whole(row, 5)?, 5)?) } else { None };
    Ok((entrant, token))
}

fn whole(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    u64::try_from(row.get::<_, i64>(column)?).map_err(|error| damaged(column, error))
}

fn token(number: u64, column: usize) -> rusqlite::Result<Token> {
    Token::new(number).map_err(|error| damaged(column, error))
}

fn parsed<T>(text: &str, column: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    text.parse().map_err(|error| damaged(column, error))
}

fn damaged(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}

#[cfg(test)]
mod tests;
