//! The only request in its transaction: one with an `Idempotency-Key` that can't share one with others.
//!
//! Without a key such a request is run on a connection of its own, and each of its statements outside a transaction is one by itself
//! (`own.rs`). Here all of it is one transaction, in which each of these statements has a savepoint, so that it ends as it would by
//! itself: what a failed one has left stays (`OR FAIL`), what can't be given back is undone, a foreign key that is violated at its end
//! undoes it. What SQLite undoes together with all that came before it (`OR ROLLBACK`, a statement that is stopped) ends the request.

use std::time::Instant;

use crate::problem::{Kind as ProblemKind, Problem};
use crate::resource::sqlite::db::{Done, Fail, Kind, SqlError};
use crate::resource::sqlite::once::unusable;
use crate::resource::sqlite::own;
use crate::resource::sqlite::program::Halt;
use crate::resource::sqlite::raw;
use crate::resource::sqlite::sandbox::{Control, STMT_SAVEPOINT, Setting};

use super::GroupExec;

impl GroupExec<'_> {
    /// When a statement that starts now has to end.
    pub(super) fn deadline(&self) -> Instant {
        if self.sole { self.until.min(Instant::now() + self.shared.limits.statement_time) } else { self.until }
    }

    /// Why a statement did not run to its end, when what it did is undone where it has to be.
    pub(super) fn halt_sole(&self, fail: Fail) -> Halt {
        own::halt(self.shared, fail, |fence| own::refuse(self.shared.missing(fence)))
    }

    /// Puts a savepoint before a statement that writes.
    pub(super) fn before_sole(&mut self, kind: Kind) -> Result<(), Halt> {
        if self.sole && kind == Kind::Write { self.own(&format!("SAVEPOINT {STMT_SAVEPOINT}")) } else { Ok(()) }
    }

    /// Ends a statement as it would have ended by itself.
    pub(super) fn after_sole(&mut self, kind: Kind, result: Result<Done, Fail>) -> Result<Done, Halt> {
        if self.db.conn.is_autocommit() {
            // SQLite has rolled back everything, and with it what came before this statement.
            let refuse = |problem| Err(Halt::Refuse(Box::new(problem)));
            return match result {
                Err(fail @ (Fail::Storage(_) | Fail::Cancelled)) => Err(self.halt_sole(fail)),
                Err(Fail::Unfinished(error)) => {
                    refuse(Problem::new(ProblemKind::Unavailable, format!("{}; nothing was applied", error.message)))
                }
                Err(Fail::TimedOut) => refuse(unusable("a statement that is stopped undoes the whole request")),
                _ => refuse(unusable("no statement can roll back what came before it")),
            };
        }
        if kind != Kind::Write {
            return result.map_err(|fail| self.halt_sole(fail));
        }
        let by_itself = matches!(result, Ok(_) | Err(Fail::Sql(_)));
        let is_violated = by_itself && !self.in_tx && raw::has_deferred_violations(&self.db.conn);
        if !by_itself || is_violated {
            self.own(&format!("ROLLBACK TO {STMT_SAVEPOINT}"))?;
        }
        self.own(&format!("RELEASE {STMT_SAVEPOINT}"))?;
        if is_violated {
            return Err(Halt::Sql(SqlError::new("SQLITE_CONSTRAINT", "SQLite error: FOREIGN KEY constraint failed")));
        }
        result.map_err(|fail| self.halt_sole(fail))
    }

    /// Whether this statement is about savepoints inside a client's transaction: these it can have here.
    pub(super) fn is_inner_savepoint(&self, kind: Kind) -> bool {
        let is_its_own = match kind {
            Kind::Control(Control::Savepoint) => self.in_tx,
            // Outside there is none, which SQLite says in its own words.
            Kind::Control(Control::InsideSavepoint) => true,
            _ => false,
        };
        self.sole && is_its_own
    }

    /// A pragma that changes the connection.
    pub(super) fn set_sole(&mut self, setting: Setting, sql: &str) -> Result<Done, Halt> {
        match setting {
            Setting::DeferForeignKeys if self.in_tx => {
                self.db.set(sql).map(|()| Done::default()).map_err(|fail| self.halt_sole(fail))
            }
            // It would end with the transaction that it isn't in.
            Setting::DeferForeignKeys => Ok(Done::default()),
            Setting::ForeignKeys => Err(Halt::Refuse(Box::new(unusable("foreign_keys can't be set")))),
        }
    }
}
