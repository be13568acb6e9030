//! Runs statements for one stream by itself: reads beside the writer, and transactions on a connection of the stream's own.

use std::sync::Arc;
use std::time::Instant;

use crate::fail::{self, Point};
use crate::fence::Claim;
use crate::json;
use crate::problem::{Kind as ProblemKind, Problem};

use super::args::NAMES_PER_LOOK;
use super::commit::commit_problem;
use super::db::{Args, Class, Db, Done, Fail, Kind, Prepared, SqlError};
use super::fences::{FenceId, FenceSet};
use super::program::{Exec, Halt};
use super::raw::{self, SqliteError};
use super::render::{self, Rows};
use super::sandbox::{Control, STMT_SAVEPOINT, Setting};
use super::shared::Shared;
use super::store;
use super::stream::{Own, Stream};

/// Runs the statements of one request outside of shared transactions.
///
/// **Invariant.** A statement that writes runs only where `on_writer` is true, that is on the writer thread, while no other
/// client's transaction holds the write lock. There the request's claims, and those that the transaction began with, have been
/// judged against the ledger, and no mark can rise until the thread is done with the request: every mark rises on this thread.
/// A transaction that has begun to write keeps SQLite's own write lock from that judgement to its commit.
pub struct OwnExec<'a> {
    /// The database.
    pub shared: &'a Arc<Shared>,
    /// The stream.
    pub stream: &'a mut Stream,
    /// A connection that only reads, for a stream outside a transaction; `None` on the writer.
    pub read: Option<&'a mut Db>,
    /// The claims that the request presents.
    pub claims: &'a Arc<[Claim]>,
    /// Their fences.
    pub presented: FenceSet,
    /// Whether this is the writer thread.
    pub on_writer: bool,
    /// Whether the request has an `Idempotency-Key`: it begins nothing then but what only reads.
    pub once: bool,
    /// Whether something that this request wrote is committed already.
    pub applied: bool,
    /// When the request has had its time: a thread is not one client's for longer than a transaction may be open.
    pub until: Instant,
}

/// `BEGIN READONLY` and `BEGIN TRANSACTION READONLY` are libSQL's. SQLite doesn't know the one, and takes the other for a BEGIN
/// of a transaction by that name. Nothing but exactly these words is taken for them.
pub fn is_begin_readonly(sql: &str) -> bool {
    let words = sql.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace()).split_ascii_whitespace();
    let is = |expected: &[&str]| {
        let mut words = words.clone();
        expected.iter().all(|word| words.next().is_some_and(|other| other.eq_ignore_ascii_case(word)))
            && words.next().is_none()
    };
    is(&["begin", "transaction", "readonly"]) || is(&["begin", "readonly"])
}

impl OwnExec<'_> {
    fn db(&mut self) -> Result<&mut Db, Halt> {
        if self.stream.own.is_none() {
            match &mut self.read {
                // The borrow checker can't see that the other arm isn't taken again.
                Some(_) => return Ok(self.read.as_mut().expect("just seen")),
                None => self.open()?,
            }
        }
        Ok(self.stream.own.as_mut().expect("opened above").db())
    }

    fn open(&mut self) -> Result<(), Halt> {
        if self.stream.own.is_none() {
            let (db, lease) = self.shared.own_connection().map_err(refuse)?;
            self.stream.own = Some(Own::new(db, lease));
        }
        Ok(())
    }

    fn in_transaction(&self) -> bool {
        self.stream.own.as_ref().is_some_and(Own::in_transaction)
    }

    /// When a statement that starts now has to end.
    fn deadline(&self) -> Instant {
        self.until.min(Instant::now() + self.shared.limits.statement_time)
    }

    fn missing(&self, fence: FenceId) -> Halt {
        let mut problem = self.shared.missing(fence);
        if self.applied {
            problem.detail = Some(format!("no token for fence {}", self.shared.fences.name(fence)));
        }
        self.refusal(problem)
    }

    /// Of the whole request, or, where that would say that nothing was applied and something was, of this statement.
    fn refusal(&self, problem: Problem) -> Halt {
        if self.applied {
            return Halt::Sql(SqlError::new(problem.kind.row().code, problem.detail()));
        }
        refuse(problem)
    }

    fn halt(&self, fail: Fail) -> Halt {
        halt(self.shared, fail, |fence| self.missing(fence))
    }

    /// The fences that a write may touch: those of the claims that the transaction began with, else of the request's.
    fn permitted(&self) -> FenceSet {
        match &self.stream.own {
            Some(own) if own.in_transaction() => own.presented,
            _ => self.presented,
        }
    }

    /// `permitted`: of [`OwnExec::permitted`], asked for before the gate begins a transaction of its own around the statement.
    fn run(&mut self, mut prepared: Prepared, args: &Args, permitted: FenceSet, rows: &mut Rows) -> Result<Done, Fail> {
        let deadline = self.deadline();
        if Instant::now() >= deadline {
            return Err(Fail::TimedOut);
        }
        let last_rowid = self.stream.last_rowid;
        let db = match self.db() {
            Ok(db) => db,
            Err(_) => return Err(Fail::Sql(SqlError::new("SQLITE_BUSY", "no connection is free"))),
        };
        raw::set_last_insert_rowid(&db.conn, last_rowid);
        let result = db.run(&mut prepared, args, permitted, deadline, rows);
        db.keep(prepared);
        if let Ok(Done { last_rowid: Some(rowid), .. }) = result {
            self.stream.last_rowid = rowid;
        }
        result
    }

    fn begin(&mut self, sql: &str, read_only: bool) -> Result<Done, Halt> {
        self.open()?;
        let own = self.stream.own.as_mut().expect("opened above");
        own.lease.take().map_err(refuse)?;
        own.claims = if read_only { Arc::new([]) } else { Arc::clone(self.claims) };
        own.presented = if read_only { FenceSet::default() } else { self.presented };
        own.began = Instant::now();
        own.read_only = read_only;
        let done = self.control(sql)?;
        fail::at(Point::TxBegun);
        Ok(done)
    }

    fn begin_readonly(&mut self) -> Result<Done, Halt> {
        if self.in_transaction() { self.control("BEGIN") } else { self.begin("BEGIN", true) }
    }

    /// Runs a statement that steers transactions, on the stream's own connection.
    fn control(&mut self, sql: &str) -> Result<Done, Halt> {
        let deadline = self.deadline();
        let prepared = self.db()?.prepare(sql, true, FenceSet::default(), deadline).map_err(|fail| self.halt(fail))?;
        let Some((prepared, _)) = prepared else { return Ok(Done::default()) };
        let had_lock = self.stream.own.as_ref().is_some_and(|own| own.lock.is_some());
        if had_lock {
            fail::at(Point::TxEnds);
        }
        let result = self.run(prepared, &Args::default(), self.permitted(), &mut Rows::new(false, usize::MAX));
        self.sync_lock()?;
        // Committed or rolled back, which is told as the worse of the two.
        self.applied |= result.is_ok() && had_lock && !self.in_transaction();
        if had_lock && !self.in_transaction() {
            fail::at(Point::TxEnded);
        }
        result.map_err(|fail| match fail {
            Fail::Storage(error) if had_lock => refuse(commit_problem(&error)),
            Fail::Unfinished(error) if had_lock && error.code == "SQLITE_NOMEM" => {
                refuse(commit_problem(&SqliteError { code: rusqlite::ffi::SQLITE_NOMEM, message: error.message }))
            }
            fail => self.halt(fail),
        })
    }

    fn write(
        &mut self,
        sql: &str,
        prepared: Prepared,
        class: Class,
        args: &Args,
        rows: &mut Rows,
    ) -> Result<Done, Halt> {
        if self.in_transaction() && self.stream.own.as_ref().is_some_and(|own| own.read_only) {
            return Err(Halt::Sql(read_only()));
        }
        let permitted = self.permitted();
        if let Some(fence) = class.writes.first_missing_in(permitted) {
            return Err(self.missing(fence));
        }
        if !self.on_writer {
            self.db()?.keep(prepared);
            return Err(Halt::Move);
        }
        let explicit = self.in_transaction();
        let db = self.db()?;
        let (begin, end, undo) = if explicit {
            let savepoint = |verb: &str| format!("{verb} {STMT_SAVEPOINT}");
            (savepoint("SAVEPOINT"), savepoint("RELEASE"), savepoint("ROLLBACK TO"))
        } else {
            ("BEGIN IMMEDIATE".to_owned(), "COMMIT".to_owned(), "ROLLBACK".to_owned())
        };
        db.own(&begin).map_err(|error| storage(&error))?;
        alone(explicit, Point::AloneBegun);
        let claims = Arc::clone(self.claims);
        let stale = if explicit { Ok(()) } else { self.verify(&claims) };
        alone(explicit, Point::AloneVerified);
        let result = match stale {
            Ok(()) => self.run(prepared, args, permitted, rows),
            Err(halt) => {
                self.db()?.own(&undo).map_err(|error| storage(&error))?;
                return Err(halt);
            }
        };
        fail::at(if explicit { Point::TxRun } else { Point::AloneRun });
        let db = self.db()?;
        // SQLite ends the transaction by itself after some errors: then there is nothing left to undo.
        let open = !db.conn.is_autocommit();
        let ended = match &result {
            // SQLite has undone what a failed statement changed, or left it (OR FAIL) as it would without the gate.
            Ok(_) | Err(Fail::Sql(_)) if open => db.own(&end),
            Err(_) if open => db.own(&undo).and_then(|()| if explicit { db.own(&end) } else { Ok(()) }),
            _ => Ok(()),
        };
        if let Err(error) = &ended
            && !explicit
        {
            let undone = db.own(&undo);
            tracing::debug!(sql, ?undone, "a commit failed");
            if error.primary() == rusqlite::ffi::SQLITE_CONSTRAINT {
                let why = format!("SQLite error: {}", error.message);
                return Err(Halt::Sql(SqlError::new("SQLITE_CONSTRAINT", why)));
            }
        }
        self.applied |= !explicit && ended.is_ok() && matches!(result, Ok(_) | Err(Fail::Sql(_)));
        alone(explicit, Point::AloneCommitted);
        self.sync_lock()?;
        match (result, ended) {
            (Ok(done), Ok(())) => Ok(done),
            (Ok(_), Err(error)) if explicit => Err(storage(&error)),
            (Ok(_), Err(error)) => Err(refuse(commit_problem(&error))),
            (Err(fail), _) => Err(self.halt(fail)),
        }
    }

    /// SQLite knows of no SELECT that writes, but for functions that the sandbox refuses. Should there be another one, what it
    /// wrote is rolled back here.
    fn check_that_it_read(&mut self) -> Result<(), Halt> {
        if self.stream.own.as_mut().is_some_and(|own| own.lock.is_none() && raw::is_writing(&own.db().conn)) {
            self.stream.own = None;
            return Err(refuse(Problem::new(
                ProblemKind::Forbidden,
                "a statement that seemed to read has written; it was undone",
            )));
        }
        Ok(())
    }

    /// Looks at the marks in the very transaction that writes.
    fn verify(&mut self, claims: &[Claim]) -> Result<(), Halt> {
        if !self.shared.enforce {
            return Ok(());
        }
        match store::refusal(self.db()?, claims) {
            Ok(None) => Ok(()),
            Ok(Some(refusal)) => Err(refuse(refusal.into())),
            Err(error) => Err(storage(&error)),
        }
    }

    /// Takes the write lock where the transaction has begun to write, and lets it go where it has ended.
    fn sync_lock(&mut self) -> Result<(), Halt> {
        let Some(own) = &mut self.stream.own else { return Ok(()) };
        if !own.in_transaction() {
            own.lock = None;
        } else if own.lock.is_none() && raw::is_writing(&own.db().conn) {
            own.lock = Some(self.shared.take_lock());
            fail::at(Point::TxLocked);
            let claims = Arc::clone(&own.claims);
            self.verify(&claims)?;
        }
        Ok(())
    }
}

impl Exec for OwnExec<'_> {
    fn execute(&mut self, sql: &str, args: &Args, whole: bool, rows: &mut Rows) -> Result<(Option<Done>, usize), Halt> {
        let (permitted, deadline) = (self.permitted(), self.deadline());
        let prepared = match self.db()?.prepare(sql, whole, permitted, deadline) {
            Err(Fail::Sql(_)) if whole && is_begin_readonly(sql) => {
                return self.begin_readonly().map(|done| (Some(done), sql.len()));
            }
            Err(fail) => return Err(self.halt(fail)),
            Ok(None) => return Ok((None, sql.len())),
            Ok(Some(prepared)) => prepared,
        };
        let (prepared, used) = prepared;
        let (class, sql) = (prepared.class, &sql[..used]);
        let starts = matches!(class.kind, Kind::Begin { .. } | Kind::Control(Control::Savepoint));
        // One with a key is one transaction with all that it does, which the writer sees to.
        if self.once
            && !self.in_transaction()
            && (starts || matches!(class.kind, Kind::Setting(_)))
            && !is_begin_readonly(sql)
        {
            self.db()?.keep(prepared);
            return Err(Halt::Move);
        }
        let done = match class.kind {
            Kind::Read => {
                let result = self.run(prepared, args, self.permitted(), rows);
                self.check_that_it_read()?;
                result.map_err(|fail| self.halt(fail))?
            }
            Kind::Write => self.write(sql, prepared, class, args, rows)?,
            Kind::Begin { .. } if is_begin_readonly(sql) => {
                self.db()?.keep(prepared);
                self.begin_readonly()?
            }
            // Not by the claims: with the check off, stale ones are dropped before, and what they would permit is not.
            Kind::Begin { immediate: true } if self.presented.is_empty() => return Err(self.missing(FenceSet::OWN)),
            Kind::Begin { immediate: true } if !self.on_writer => return Err(Halt::Move),
            _ if starts && !self.in_transaction() => {
                self.db()?.keep(prepared);
                self.begin(sql, false)?
            }
            Kind::Begin { .. } | Kind::Control(_) => {
                self.db()?.keep(prepared);
                self.control(sql)?
            }
            // Without a token nothing can be written, so that there are no foreign keys to enforce or not.
            Kind::Setting(_) if self.permitted().is_empty() => Done::default(),
            Kind::Setting(Setting::DeferForeignKeys) if !self.in_transaction() => Done::default(),
            Kind::Setting(setting) => {
                self.open()?;
                let own = self.stream.own.as_mut().expect("opened above");
                if let Err(problem) = own.lease.take() {
                    return Err(self.refusal(problem));
                }
                own.sticky |= setting == Setting::ForeignKeys;
                let set = own.db().set(sql);
                set.map_err(|fail| self.halt(fail)).map(|()| Done::default())?
            }
        };
        Ok((Some(done), used))
    }

    fn describe(&mut self, sql: &str, out: &mut Vec<u8>) -> Result<(), Halt> {
        let deadline = self.deadline();
        let db = self.db()?;
        describe(db, sql, deadline, out).map_err(|fail| self.halt(fail))
    }

    fn is_autocommit(&self) -> bool {
        !self.in_transaction()
    }
}

/// Describes a statement, as a `DescribeResult`.
///
/// # Errors
/// A statement that can't be prepared by `deadline`, and a text with none or several.
pub fn describe(db: &mut Db, sql: &str, deadline: Instant, out: &mut Vec<u8>) -> Result<(), Fail> {
    db.forget(sql);
    let Some((prepared, _)) = db.prepare(sql, true, FenceSet::default(), deadline)? else {
        return Err(Fail::Sql(SqlError::new("SQL_NO_STATEMENT", "SQL string does not contain any statement")));
    };
    let stmt = prepared.stmt();
    out.extend_from_slice(b"{\"params\":[");
    for index in 1..=stmt.parameter_count() {
        if index % NAMES_PER_LOOK == 0 && (Instant::now() >= deadline || db.guard().is_cancelled()) {
            return Err(Fail::stopped(db.guard()));
        }
        out.extend_from_slice(if index > 1 { b",{\"name\":" } else { b"{\"name\":" });
        json::optional(out, stmt.parameter_name(index));
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"cols\":");
    render::columns(out, stmt);
    // SQLite counts EXPLAIN INSERT among what writes, and COMMIT among what doesn't.
    let is_readonly = prepared.class.kind == Kind::Read || (prepared.class.writes.is_empty() && stmt.readonly());
    let tail = format!(",\"is_explain\":{},\"is_readonly\":{is_readonly}}}", stmt.is_explain());
    out.extend_from_slice(tail.as_bytes());
    db.keep(prepared);
    Ok(())
}

/// A statement with a transaction of its own has come to this place.
fn alone(explicit: bool, point: Point) {
    if !explicit {
        fail::at(point);
    }
}

/// Why a statement that counts for itself did not run to its end; `missing`: where no token was presented for a fence that it writes.
pub(super) fn halt(shared: &Shared, fail: Fail, missing: impl FnOnce(FenceId) -> Halt) -> Halt {
    match fail {
        Fail::Sql(error) | Fail::Unfinished(error) => Halt::Sql(error),
        Fail::Missing(fence) => missing(fence),
        Fail::Storage(error) => refuse(unavailable(&error)),
        Fail::TimedOut => Halt::Sql(timed_out(shared)),
        Fail::Cancelled => Halt::Again,
    }
}

pub(super) fn refuse(problem: Problem) -> Halt {
    Halt::Refuse(Box::new(problem))
}

fn storage(error: &SqliteError) -> Halt {
    refuse(unavailable(error))
}

/// What a client is told where the file or its disk is at fault.
pub fn unavailable(error: &SqliteError) -> Problem {
    use rusqlite::ffi;
    match error.primary() {
        ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED => {
            Problem::new(ProblemKind::Busy, "another process holds the database's write lock; nothing was applied")
        }
        _ => Problem::new(ProblemKind::Unavailable, format!("{}; nothing was applied", error.message)),
    }
}

/// What a client is told that writes where it has said that it won't.
pub fn read_only() -> SqlError {
    let why = "SQLite error: attempt to write a readonly database (the transaction began as READONLY)";
    SqlError::new("SQLITE_READONLY", why)
}

/// What a client is told whose statement ran too long.
pub fn timed_out(shared: &Shared) -> SqlError {
    let [statement, request] =
        [shared.limits.statement_time, shared.limits.transaction_time].map(humantime::format_duration);
    let why = format!(
        "the statement ran for longer than {statement}, or its request for longer than {request}, and was stopped"
    );
    SqlError::new("SQLITE_INTERRUPT", why)
}
