//! Runs the statements of one request inside a transaction that many requests share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::problem::Problem;

use super::db::{Args, Db, Done, Fail, Kind, SqlError};
use super::fences::FenceSet;
use super::once::unusable;
use super::own;
use super::program::{Exec, Halt};
use super::raw::{self, SqliteError};
use super::render::Rows;
use super::sandbox::{Control, TX_SAVEPOINT};
use super::shared::Shared;

mod sole;

/// How long a request may run inside a shared transaction. One that takes longer is run again by itself, so that it keeps
/// nobody waiting for a commit.
const SLICE: Duration = Duration::from_millis(250);

/// Runs statements in the shared transaction. A client's BEGIN becomes a savepoint, its COMMIT the savepoint's release.
///
/// Whatever can't behave inside a shared transaction exactly as it would in one of its own answers [`Halt::Alone`]: it is undone
/// and run by itself. Nothing is answered before the shared transaction is durable.
pub struct GroupExec<'a> {
    /// The database.
    pub shared: &'a Arc<Shared>,
    /// The writer's connection, inside the shared transaction.
    pub db: &'a mut Db,
    /// The fences for which the request presents a token.
    pub presented: FenceSet,
    /// Whether the client has begun a transaction.
    pub in_tx: bool,
    /// Whether anything may have been changed.
    pub dirty: bool,
    /// The fences to which statements have written that weren't rolled back.
    pub wrote: FenceSet,
    /// The same when the client's transaction began.
    wrote_before: FenceSet,
    /// Whether it is the only request in the transaction: it must not end up alone then, since that it is.
    sole: bool,
    /// Whether the client's transaction began as one that only reads. Only where it is the only request.
    read_only: bool,
    /// When the request has had its time inside the shared transaction.
    until: Instant,
    /// The error that makes the whole shared transaction fail.
    pub storage: Option<SqliteError>,
}

impl<'a> GroupExec<'a> {
    /// For a request that presents tokens for these fences. `sole`: no other is in this transaction.
    pub fn new(shared: &'a Arc<Shared>, db: &'a mut Db, presented: FenceSet, sole: bool) -> GroupExec<'a> {
        let until = Instant::now() + if sole { shared.limits.transaction_time } else { SLICE };
        let (wrote, wrote_before) = (FenceSet::default(), FenceSet::default());
        let (in_tx, dirty, read_only) = (false, false, false);
        GroupExec { shared, db, presented, in_tx, dirty, wrote, wrote_before, sole, read_only, until, storage: None }
    }
}

impl GroupExec<'_> {
    fn halt(&mut self, fail: Fail) -> Halt {
        if self.sole {
            return self.halt_sole(fail);
        }
        match fail {
            // SQLite rolls everything back after some errors (OR ROLLBACK, RAISE(ROLLBACK)): only alone does that hit nobody else.
            Fail::Sql(_) if self.db.conn.is_autocommit() => Halt::Alone,
            Fail::Sql(error) => Halt::Sql(error),
            Fail::Missing(fence) => Halt::Refuse(Box::new(self.shared.missing(fence))),
            // What SQLite calls a full or damaged database may be one statement's own fault (AUTOINCREMENT at its end is "full"). Where
            // the disk is at fault, the commit of the others will show it.
            Fail::TimedOut | Fail::Unfinished(_) | Fail::Storage(_) => Halt::Alone,
            Fail::Cancelled => Halt::Again,
        }
    }

    fn own(&mut self, sql: &str) -> Result<(), Halt> {
        self.db.own(sql).map_err(|error| {
            let problem: Problem = own::unavailable(&error);
            self.storage = Some(error);
            Halt::Refuse(Box::new(problem))
        })
    }

    fn control(&mut self, control: Control) -> Result<(), Halt> {
        let none = |what: &str| {
            Halt::Sql(SqlError::new("SQLITE_ERROR", format!("SQLite error: cannot {what} - no transaction is active")))
        };
        match control {
            Control::Begin if self.in_tx => {
                let why = "SQLite error: cannot start a transaction within a transaction";
                Err(Halt::Sql(SqlError::new("SQLITE_ERROR", why)))
            }
            Control::Begin => {
                self.own(&format!("SAVEPOINT {TX_SAVEPOINT}"))?;
                self.in_tx = true;
                self.wrote_before = self.wrote;
                Ok(())
            }
            Control::Commit if !self.in_tx => Err(none("commit")),
            Control::Commit if raw::has_deferred_violations(&self.db.conn) => {
                Err(Halt::Sql(SqlError::new("SQLITE_CONSTRAINT", "SQLite error: FOREIGN KEY constraint failed")))
            }
            Control::Commit => {
                self.own(&format!("RELEASE {TX_SAVEPOINT}"))?;
                self.in_tx = false;
                Ok(())
            }
            Control::Rollback if !self.in_tx => Err(none("rollback")),
            Control::Rollback => {
                self.own(&format!("ROLLBACK TO {TX_SAVEPOINT}"))?;
                self.own(&format!("RELEASE {TX_SAVEPOINT}"))?;
                self.in_tx = false;
                self.wrote = self.wrote_before;
                Ok(())
            }
            // A savepoint outside a transaction begins one, with a name that the client ends it by.
            Control::Savepoint if self.sole => Err(Halt::Refuse(Box::new(unusable("a transaction begins with BEGIN")))),
            Control::Savepoint | Control::InsideSavepoint => Err(Halt::Alone),
        }
    }

    fn begin(&mut self, read_only: bool) -> Result<Done, Halt> {
        self.control(Control::Begin)?;
        self.read_only = read_only;
        Ok(Done::default())
    }

    /// Looks whether a statement has ended as it would have by itself.
    fn after_shared(&mut self, kind: Kind, result: Result<Done, Fail>) -> Result<Done, Halt> {
        // A deferred foreign key that is violated at the end of a statement outside a transaction fails that statement, be it a
        // statement that failed already and left rows behind (OR FAIL); here it would fail everybody's commit.
        let storage = matches!(result, Err(Fail::Storage(_)));
        if kind == Kind::Write && !self.in_tx && !storage && raw::has_deferred_violations(&self.db.conn) {
            return Err(Halt::Alone);
        }
        result.map_err(|fail| self.halt(fail))
    }
}

impl Exec for GroupExec<'_> {
    fn execute(&mut self, sql: &str, args: &Args, whole: bool, rows: &mut Rows) -> Result<(Option<Done>, usize), Halt> {
        let deadline = self.deadline();
        let prepared = match self.db.prepare(sql, whole, self.presented, deadline) {
            Ok(None) => return Ok((None, sql.len())),
            Ok(Some(prepared)) => prepared,
            Err(Fail::Sql(_)) if self.sole && whole && own::is_begin_readonly(sql) => {
                return self.begin(true).map(|done| (Some(done), sql.len()));
            }
            // What can't be prepared may be libSQL's own dialect, which is known only where streams have their connection.
            Err(Fail::Sql(error))
                if !self.sole
                    && !self.in_tx
                    && sql.trim_start().get(..5).is_some_and(|w| w.eq_ignore_ascii_case("begin")) =>
            {
                tracing::trace!(%error, "run alone");
                return Err(Halt::Alone);
            }
            Err(fail) => return Err(self.halt(fail)),
        };
        let (mut prepared, used) = prepared;
        let class = prepared.class;
        let kind = class.kind;
        match kind {
            Kind::Read | Kind::Write => {}
            Kind::Begin { .. } if !self.sole && own::is_begin_readonly(&sql[..used]) => return Err(Halt::Alone),
            Kind::Begin { .. } => {
                self.db.keep(prepared);
                return self.begin(own::is_begin_readonly(&sql[..used])).map(|done| (Some(done), used));
            }
            Kind::Control(_) if self.is_inner_savepoint(kind) => {}
            Kind::Control(control) => {
                self.db.keep(prepared);
                return self.control(control).map(|()| (Some(Done::default()), used));
            }
            Kind::Setting(_) if !self.sole => return Err(Halt::Alone),
            Kind::Setting(setting) => return self.set_sole(setting, &sql[..used]).map(|done| (Some(done), used)),
        }
        if kind == Kind::Write && self.in_tx && self.read_only {
            return Err(Halt::Sql(own::read_only()));
        }
        if let Some(fence) = class.writes.first_missing_in(self.presented) {
            self.db.keep(prepared);
            return Err(self.halt(Fail::Missing(fence)));
        }
        // Before it is known how the statement ends: one that doesn't come to its end has changed what it has changed.
        self.dirty |= kind == Kind::Write;
        self.before_sole(kind)?;
        let changes = raw::total_changes(&self.db.conn);
        let result = self.db.run(&mut prepared, args, self.presented, deadline, rows);
        self.db.keep(prepared);
        // One that failed may have left rows behind.
        let has_left = matches!(result, Err(Fail::Sql(_))) && raw::total_changes(&self.db.conn) != changes;
        let ended = if self.sole { self.after_sole(kind, result) } else { self.after_shared(kind, result) };
        if kind == Kind::Write && (ended.is_ok() || has_left) {
            self.wrote.add(class.writes);
        }
        Ok((Some(ended?), used))
    }

    fn describe(&mut self, sql: &str, out: &mut Vec<u8>) -> Result<(), Halt> {
        let deadline = self.deadline();
        own::describe(self.db, sql, deadline, out).map_err(|fail| self.halt(fail))
    }

    fn is_autocommit(&self) -> bool {
        !self.in_tx
    }
}
