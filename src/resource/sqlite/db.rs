//! One connection to the database: its sandbox, its statement cache, its time limit.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::ffi;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::args::bind;
use super::errors::code_name;
use super::fences::{FenceId, FenceSet, TableFences};
use super::functions;
use super::kept::Kept;
use super::limits::Limits;
use super::raw::{self, SqliteError, Stmt};
use super::render::Rows;
use super::sandbox::{Control, Sandbox, Seen, Setting};
use super::store;

pub use super::args::Args;
pub use super::errors::SqlError;
pub use super::guard::Guard;

/// How many instructions of SQLite's virtual machine pass between two looks for a newer leader. Few, since each may handle
/// megabytes.
const OPS_PER_LOOK: i32 = 100;
/// How many of these looks pass between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 5;
/// Longer statements are prepared anew each time.
const CACHED_SQL_BYTES_MAX: usize = 16 * 1024;

/// Longest pattern of LIKE and GLOB. Matching takes up to the length of the pattern times that of the text, in a single instruction
/// that nothing can stop: some 7 seconds for this one and a text of 16 MiB. Functions of our own in their place would cost LIKE
/// and GLOB the use of indexes.
const LIKE_PATTERN_BYTES_MAX: i32 = 250;

/// Why a statement did not run to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fail {
    /// The statement is at fault; its client is told, and may go on.
    Sql(SqlError),
    /// It writes to a fence for which the request presents no token.
    Missing(FenceId),
    /// The database file or its disk is at fault.
    Storage(SqliteError),
    /// It ran longer than it may.
    TimedOut,
    /// It was stopped because a newer leader came.
    Cancelled,
    /// Its result can't be given back: too large, or not UTF-8. Unlike with [`Fail::Sql`], what a writing statement changed is
    /// not undone yet.
    Unfinished(SqlError),
}

impl Fail {
    /// Of a statement that this guard has stopped.
    pub fn stopped(guard: &Guard) -> Fail {
        if guard.is_cancelled() { Fail::Cancelled } else { Fail::TimedOut }
    }
}

/// What a statement is, as far as the gate is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads only.
    Read,
    /// Changes the database.
    Write,
    /// BEGIN; `immediate` where it takes the write lock at once.
    Begin {
        /// BEGIN IMMEDIATE or EXCLUSIVE.
        immediate: bool,
    },
    /// COMMIT, ROLLBACK, SAVEPOINT, RELEASE, ROLLBACK TO.
    Control(Control),
    /// Changes the connection, and only [`Db::set`] carries it out.
    Setting(Setting),
}

/// What was learned of a statement when it was prepared.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    /// What it is.
    pub kind: Kind,
    /// The fences that it writes to.
    pub writes: FenceSet,
    /// Whether it makes a table or gives one a new name.
    pub reshapes: bool,
}

/// A prepared statement of a client.
#[derive(Debug)]
pub struct Prepared {
    stmt: Stmt,
    /// What it is.
    pub class: Class,
    /// Its text, where it may be kept.
    pub(super) key: Option<Box<str>>,
}

impl Prepared {
    /// The statement, for describing it.
    pub fn stmt(&self) -> &Stmt {
        &self.stmt
    }
}

/// What a statement did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    /// Rows inserted, updated or deleted by the statement itself.
    pub affected: i64,
    /// The rowid of the last row inserted, where the statement writes.
    pub last_rowid: Option<i64>,
    /// Rows returned.
    pub rows_read: u64,
    /// How long it ran.
    pub duration: Duration,
}

/// How a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only; SQLite itself refuses to write.
    Read,
    /// Reads and writes.
    Write,
}

/// One connection. Statements are dropped before the connection is closed: `kept` stands before `conn`.
#[derive(Debug)]
pub struct Db {
    kept: Kept,
    /// The connection, for the gate's own statements.
    pub conn: Connection,
    /// Its sandbox.
    pub sandbox: Sandbox,
    guard: Arc<Guard>,
    pub(super) fences: Arc<TableFences>,
    limits: Arc<Limits>,
}

/// Opens a connection with the settings that every connection has: WAL, `synchronous=FULL`, defensive.
///
/// # Errors
/// SQLite's own, and a file that can't be used in WAL mode.
pub fn connect(file: &Path, access: Access, busy: Duration) -> Result<Connection, SqliteError> {
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX
        | match access {
            Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        };
    let conn = Connection::open_with_flags(file, flags)?;
    conn.busy_timeout(busy)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_prepared_statement_cache_capacity(32);
    if access == Access::Write {
        let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            let message = format!("{} can't be used in WAL mode (it stays in mode {mode})", file.display());
            return Err(SqliteError { code: ffi::SQLITE_CANTOPEN, message });
        }
    }
    // FULL: a commit returns only when its WAL frames are on disk. This is what makes an answer a promise.
    conn.pragma_update(None, "synchronous", "FULL")?;
    Ok(conn)
}

impl Db {
    /// Opens a connection for clients' statements, with its sandbox closed.
    ///
    /// # Errors
    /// As [`connect`].
    pub fn open(
        file: &Path,
        access: Access,
        fences: &Arc<TableFences>,
        limits: &Arc<Limits>,
    ) -> Result<Db, SqliteError> {
        let mut conn = connect(file, access, limits.lock_wait)?;
        let to_i32 = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        conn.set_limit(Limit::SQLITE_LIMIT_LENGTH, to_i32(limits.value_bytes))?;
        conn.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, to_i32(limits.sql_bytes))?;
        conn.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        conn.set_limit(Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, LIKE_PATTERN_BYTES_MAX)?;
        // Of all connections of the process together: one row of many computed values, each within its limit, would otherwise take all
        // there is. A second one can only lower it.
        let heap = i64::try_from(limits.sqlite_bytes).unwrap_or(i64::MAX);
        conn.pragma_update(None, "hard_heap_limit", heap)?;
        conn.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
        let guard = Arc::new(Guard::default());
        functions::install(&conn, &guard, limits.value_bytes)?;
        let watched = Arc::clone(&guard);
        let mut looks = 0;
        let stop = move || {
            looks = (looks + 1) % LOOKS_PER_CLOCK;
            if looks == 0 { watched.must_stop() } else { watched.must_give_way() }
        };
        conn.progress_handler(OPS_PER_LOOK, Some(stop))?;
        let sandbox = Sandbox::install(&mut conn, Arc::clone(fences))?;
        sandbox.close();
        Ok(Db { kept: Kept::default(), conn, sandbox, guard, fences: Arc::clone(fences), limits: Arc::clone(limits) })
    }

    /// What stops this connection's statements.
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Runs SQL of the gate's own: the sandbox lets it pass, and nothing stops it.
    pub fn as_gate<T>(&self, run: impl FnOnce() -> T) -> T {
        self.guard.shield(|| self.sandbox.open(run))
    }

    /// Runs a statement of the gate's own.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn own(&self, sql: &str) -> Result<(), SqliteError> {
        self.as_gate(|| Ok(self.conn.prepare_cached(sql)?.raw_execute().map(|_| ())?))
    }

    /// Prepares the first statement of `sql`; `whole` demands that it is the only one. Returns how many bytes it took, too;
    /// `None` where there is no statement. It stops at `deadline`: SQLite can think long about a text of many joins.
    ///
    /// # Errors
    /// Any [`Fail`] but [`Fail::Unfinished`].
    pub fn prepare(
        &mut self,
        sql: &str,
        whole: bool,
        permitted: FenceSet,
        deadline: Instant,
    ) -> Result<Option<(Prepared, usize)>, Fail> {
        if Instant::now() >= deadline {
            return Err(Fail::TimedOut);
        }
        // One that was kept may know of a trigger that is gone: where it asks for more than is `permitted`, it is asked anew.
        if whole
            && let Some(prepared) = self.kept.take(sql)
            && prepared.class.writes.first_missing_in(permitted).is_none()
        {
            return Ok(Some((prepared, sql.len())));
        }
        self.refresh_schema()?;
        self.sandbox.permit(None);
        self.sandbox.take();
        let cached = whole && sql.len() <= CACHED_SQL_BYTES_MAX;
        self.guard.set_deadline(Some(deadline));
        let prepared = raw::prepare(&self.conn, sql, cached);
        self.guard.set_deadline(None);
        let seen = self.sandbox.take();
        let (stmt, used) = prepared.map_err(|error| self.fail(error, &seen))?;
        let Some(stmt) = stmt else { return Ok(None) };
        if whole && !self.is_blank(&sql[used..]) {
            return Err(Fail::Sql(SqlError::new("SQL_MANY_STATEMENTS", "SQL string contains more than one statement")));
        }
        let class = classify(&stmt, &seen);
        // A pragma that reads the schema is answered from what the connection knows of it when it is prepared. So is EXPLAIN, which
        // SQLite doesn't prepare anew either when the schema has changed: it would read a table's name from memory given back.
        let cached = cached && !seen.pragma_reads && !stmt.is_explain();
        Ok(Some((Prepared { stmt, class, key: cached.then(|| Box::from(sql)) }, used)))
    }

    /// Makes the connection look whether another one has changed the schema: preparing alone doesn't look, only running does, so
    /// that columns would be described, and pragmas answered, as they were before.
    ///
    /// Not at the start of a client's transaction: looking would take its snapshot before its first statement runs.
    fn refresh_schema(&self) -> Result<(), Fail> {
        if !self.conn.is_autocommit() && !raw::has_snapshot(&self.conn) {
            return Ok(());
        }
        let look = || self.conn.prepare_cached("SELECT 1 FROM sqlite_schema LIMIT 0")?.query([])?.next().map(|_| ());
        self.as_gate(look).map_err(|error| Fail::Storage(error.into()))
    }

    /// Forgets what is cached of this statement: for describing it as it is now.
    pub fn forget(&mut self, sql: &str) {
        self.kept.take(sql);
    }

    /// Whether there is no statement in this text: white space, comments, semicolons.
    fn is_blank(&self, mut rest: &str) -> bool {
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';');
            if rest.is_empty() {
                return true;
            }
            match raw::prepare(&self.conn, rest, false) {
                Ok((None, used)) => rest = &rest[used..],
                Ok((Some(_), _)) | Err(_) => return false,
            }
        }
    }

    /// Carries out a statement of [`Kind::Setting`].
    ///
    /// # Errors
    /// [`Fail::Sql`] or [`Fail::Storage`].
    pub fn set(&mut self, sql: &str) -> Result<(), Fail> {
        let (conn, sandbox) = (&self.conn, &self.sandbox);
        let set = || match raw::prepare(conn, sql, false)? {
            (Some(mut stmt), _) => stmt.step().map(|_| ()),
            (None, _) => Ok(()),
        };
        sandbox.apply(set).map_err(|error| self.fail(error, &self.sandbox.take()))
    }

    /// Gives a statement back to the cache.
    pub fn keep(&mut self, mut prepared: Prepared) {
        prepared.stmt.reset();
        self.kept.put(prepared);
    }

    /// Runs a prepared statement to its end, appending its rows. `permitted`: the fences whose tokens the request presents.
    /// The statement stops at `deadline`.
    ///
    /// # Errors
    /// Any [`Fail`]. Except for [`Fail::Sql`] of a single statement, what it changed before it failed may still be in the
    /// open transaction: the caller rolls back.
    pub fn run(
        &mut self,
        prepared: &mut Prepared,
        args: &Args,
        permitted: FenceSet,
        deadline: Instant,
        rows: &mut Rows,
    ) -> Result<Done, Fail> {
        let class = prepared.class;
        if let Some(fence) = class.writes.first_missing_in(permitted) {
            return Err(Fail::Missing(fence));
        }
        self.guard.set_deadline(Some(deadline));
        let bound = bind(&mut prepared.stmt, args, &self.guard);
        self.guard.set_deadline(None);
        bound?;
        let names = if class.reshapes { Some(self.begin_reshape()?) } else { None };
        // What reads may be prepared anew, with what its virtual tables prepare for themselves.
        self.sandbox.permit((class.kind != Kind::Read).then_some(permitted));
        self.sandbox.take();
        let started = Instant::now();
        self.guard.set_deadline(Some(deadline));
        let changes = raw::total_changes(&self.conn);
        let mut stepped = match class.kind {
            Kind::Begin { .. } | Kind::Control(_) => self.guard.shield(|| self.steps(&mut prepared.stmt, rows)),
            _ => self.steps(&mut prepared.stmt, rows),
        };
        self.guard.set_deadline(None);
        self.sandbox.permit(None);
        let seen = self.sandbox.take();
        if !seen.writes.is_empty() {
            // It was prepared anew, and may write to more fences than `class` says: a trigger came. Whoever runs it next may hold
            // fewer tokens, and SQLite would not ask again.
            prepared.key = None;
        }
        if stepped.is_ok() {
            rows.describe(&prepared.stmt);
            if rows.is_over_budget() {
                stepped = Err(StepError::Unfinished(too_large(&self.limits)));
            }
        }
        prepared.stmt.reset();
        let result = match stepped {
            Ok(rows_read) => {
                let wrote = raw::total_changes(&self.conn) != changes;
                let affected = if wrote { raw::changes(&self.conn) } else { 0 };
                let last_rowid = (class.kind == Kind::Write).then(|| self.conn.last_insert_rowid());
                Ok(Done { affected, last_rowid, rows_read, duration: started.elapsed() })
            }
            Err(StepError::Sqlite(error)) => {
                let is_constraint = error.primary() == ffi::SQLITE_CONSTRAINT;
                let left = raw::total_changes(&self.conn) != changes;
                match self.fail(error, &seen) {
                    // SQLite undoes what a failed statement changed, but for OR FAIL, which is about constraints, and for what
                    // a virtual table wrote on its behalf inside a longer transaction.
                    Fail::Sql(why) if left && !is_constraint => Err(Fail::Unfinished(why)),
                    fail => Err(fail),
                }
            }
            Err(StepError::Unfinished(why)) => Err(Fail::Unfinished(why)),
        };
        match names {
            Some(names) => self.end_reshape(&names, permitted, result),
            None => result,
        }
    }

    fn steps(&self, stmt: &mut Stmt, rows: &mut Rows) -> Result<u64, StepError> {
        let limits = &self.limits;
        let mut count = 0;
        // A statement with RETURNING hands out rows before its transaction is decided: everything is read to the end, and
        // nothing is answered before the commit.
        while stmt.step().map_err(StepError::Sqlite)? {
            count += 1;
            if rows.wanted() {
                rows.push(stmt).map_err(StepError::Unfinished)?;
                if count > limits.result_rows || rows.is_over_budget() {
                    return Err(StepError::Unfinished(too_large(limits)));
                }
            }
        }
        Ok(count as u64)
    }

    /// Sorts an SQLite error: whose fault is it?
    fn fail(&self, error: SqliteError, seen: &Seen) -> Fail {
        if let Some(fence) = seen.missing.first_missing_in(FenceSet::default()) {
            return Fail::Missing(fence);
        }
        match error.primary() {
            ffi::SQLITE_INTERRUPT => Fail::stopped(&self.guard),
            // A virtual table is at odds with itself or with its content, which a client can bring about and ask for (fts5's
            // integrity-check): the file is well. Such a table may have written in part.
            ffi::SQLITE_CORRUPT if error.code == ffi::SQLITE_CORRUPT_VTAB => {
                Fail::Unfinished(SqlError::new("SQLITE_CORRUPT", format!("SQLite error: {}", error.message)))
            }
            // Asked for by a statement that wants more than there is for all; SQLite may have undone a part or everything.
            ffi::SQLITE_NOMEM => {
                Fail::Unfinished(SqlError::new("SQLITE_NOMEM", "SQLite error: out of memory for this statement"))
            }
            ffi::SQLITE_FULL if store::has_sequence_at_its_end(self) => {
                let why = "SQLite error: an AUTOINCREMENT table has no more rowids";
                Fail::Unfinished(SqlError::new("SQLITE_FULL", why))
            }
            ffi::SQLITE_FULL
            | ffi::SQLITE_IOERR
            | ffi::SQLITE_CORRUPT
            | ffi::SQLITE_NOTADB
            | ffi::SQLITE_CANTOPEN
            | ffi::SQLITE_READONLY
            | ffi::SQLITE_PROTOCOL => Fail::Storage(error),
            ffi::SQLITE_AUTH => {
                let why = seen.denied.as_deref().unwrap_or("not available through the gate");
                Fail::Sql(SqlError::new("SQLITE_AUTH", format!("not authorized: {why}")))
            }
            primary => match &seen.denied {
                // Where the authorizer denies reading a column, SQLite words the error in its own way; ours says why.
                Some(why) => Fail::Sql(SqlError::new("SQLITE_AUTH", format!("not authorized: {why}"))),
                None => Fail::Sql(SqlError::new(code_name(primary), format!("SQLite error: {}", error.message))),
            },
        }
    }
}

fn too_large(limits: &Limits) -> SqlError {
    let (rows, bytes) = (limits.result_rows, limits.result_bytes);
    let what = format!("a result has at most {rows} rows, and the results of one request {bytes} bytes");
    SqlError::new("RESPONSE_TOO_LARGE", what)
}

enum StepError {
    Sqlite(SqliteError),
    Unfinished(SqlError),
}

fn classify(stmt: &Stmt, seen: &Seen) -> Class {
    let kind = if stmt.is_explain() {
        Kind::Read
    } else if let Some(control) = seen.control {
        match control {
            // SQLite says of a deferred BEGIN that it only reads, and of the others that they don't.
            Control::Begin => Kind::Begin { immediate: !stmt.readonly() },
            other => Kind::Control(other),
        }
    } else if let Some(setting) = seen.sets {
        Kind::Setting(setting)
    } else if stmt.readonly() || (seen.pragma_reads && seen.writes.is_empty()) {
        // Whatever was seen: a virtual table that is used for the first time on a connection may prepare its own writes then.
        Kind::Read
    } else {
        Kind::Write
    };
    let mut writes = if kind == Kind::Write { seen.writes } else { FenceSet::default() };
    if kind == Kind::Write && writes.is_empty() {
        writes.insert(FenceSet::OWN);
    }
    Class { kind, writes, reshapes: kind == Kind::Write && seen.reshapes }
}
