//! A transaction over several requests.

use std::time::Duration;

use super::value::{Executed, Params, Rows, Statement};
use super::wire::{self, Request};
use super::{Sql, inside, told};
use crate::client::error::{Applied, Error, NotApplied};
use crate::client::told::Source;

/// How long a goodbye that nobody waits for may take.
const GOODBYE_TIME: Duration = Duration::from_secs(2);

/// A transaction. It holds the database's one write lock until it ends, and the gate rolls it back when it isn't used for some
/// seconds (`stream_idle`), and at once when the fence advances. Dropping it rolls it back.
///
/// Until [`Transaction::commit`] nothing of it is applied, so whatever goes wrong before leaves no doubt: that it was not.
///
/// ```
/// # use fencegate::client::{Error, Sql, params};
/// # async fn example(db: Sql) -> Result<(), Error> {
/// let mut transaction = db.transaction().await?;
/// let rows = transaction.query("SELECT id FROM jobs WHERE done = 0 ORDER BY id LIMIT 1", ()).await?;
/// if let Some(job) = rows.first() {
///     let id: i64 = job.get("id")?;
///     transaction.execute("UPDATE jobs SET done = 1 WHERE id = ?", params![id]).await?;
/// }
/// transaction.commit().await
/// # }
/// ```
#[derive(Debug)]
pub struct Transaction {
    db: Sql,
    /// What names the stream in the next request; `None` where there is no stream any more.
    baton: Option<String>,
    /// Whether it is still open as far as is known. Not while a request is under way: one that is given up leaves it in doubt.
    is_open: bool,
}

impl Transaction {
    pub(super) async fn begin(db: Sql) -> Result<Transaction, Error> {
        let call = db.call(None, &[Request::Control("BEGIN IMMEDIATE"), Request::GetAutocommit])?;
        let answered = db.bound.send(&call, Source::Gate).await.map_err(Error::before_commit)?;
        let mut transaction = Transaction { db, baton: None, is_open: false };
        let begun = wire::read(&answered.reply.body).and_then(|answer| {
            transaction.baton.clone_from(&answer.baton);
            answer.first()?.rows()?;
            transaction.is_open = answer.baton.is_some() && !answer.is_autocommit()?;
            Ok(())
        });
        told(&answered, begun).map_err(Error::before_commit)?;
        transaction.open()?;
        Ok(transaction)
    }

    /// Runs a statement for what it changes.
    ///
    /// # Errors
    /// See [`Error`]. After [`Error::Sql`] the transaction goes on without this statement, unless SQLite has rolled it back, which
    /// the next call then says; after all others but [`Error::Misuse`] it is over.
    pub async fn execute(&mut self, sql: &str, params: impl Into<Params>) -> Result<Executed, Error> {
        Ok(self.run(&Statement::new(sql).with(params), false).await?.executed())
    }

    /// Runs a statement for its rows.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    pub async fn query(&mut self, sql: &str, params: impl Into<Params>) -> Result<Rows, Error> {
        self.run(&Statement::new(sql).with(params), true).await
    }

    /// Commits: all of it is applied, or nothing.
    ///
    /// # Errors
    /// See [`Error`]. Only here can the outcome be [unknown](Error::Unknown).
    pub async fn commit(mut self) -> Result<(), Error> {
        self.open()?;
        let call = self.db.call(self.baton.as_deref(), &[Request::Control("COMMIT"), Request::Close])?;
        self.is_open = false;
        let answered = self.db.bound.send_once(&call, Source::Gate).await?;
        // The gate has closed the stream behind it, and what was not committed is rolled back.
        self.baton = None;
        let committed = wire::read(&answered.reply.body).and_then(|answer| answer.first()?.rows().map(drop));
        told(&answered, committed)
    }

    /// Rolls it back, and returns when others can write.
    ///
    /// # Errors
    /// See [`Error`]; it is rolled back all the same, by the gate after some seconds.
    pub async fn rollback(mut self) -> Result<(), Error> {
        self.open()?;
        let call = self.db.call(self.baton.as_deref(), &[Request::Control("ROLLBACK"), Request::Close])?;
        self.is_open = false;
        let answered = self.db.bound.send_once(&call, Source::Gate).await.map_err(Error::before_commit)?;
        self.baton = None;
        answered.still_leading_and(Applied::No)
    }

    async fn run(&mut self, statement: &Statement, wants_rows: bool) -> Result<Rows, Error> {
        inside(&statement.sql)?;
        self.open()?;
        let requests = [Request::Execute { statement, wants_rows }, Request::GetAutocommit];
        let call = self.db.call(self.baton.as_deref(), &requests)?;
        self.is_open = false;
        // Not sent again, whatever comes: which transaction the stream is in would not be known.
        let answered = self.db.bound.send_once(&call, Source::Gate).await.map_err(Error::before_commit)?;
        let rows = wire::read(&answered.reply.body).and_then(|answer| {
            self.baton.clone_from(&answer.baton);
            // SQLite ends a transaction by itself after some errors. What came after would be applied at once.
            self.is_open = answer.baton.is_some() && !answer.is_autocommit()?;
            answer.first()?.rows()
        });
        told(&answered, rows).map_err(Error::before_commit)
    }

    fn open(&self) -> Result<(), Error> {
        if self.is_open {
            return Ok(());
        }
        let message = "the transaction is over, and was rolled back; begin again".to_owned();
        Err(Error::NotApplied { why: NotApplied::TransactionEnded, message, retry_after: None })
    }
}

impl Drop for Transaction {
    /// Rolls back: others wait for the write lock meanwhile. Where that fails, the gate does it after some seconds.
    fn drop(&mut self) {
        let (Some(baton), Ok(runtime)) = (self.baton.take(), tokio::runtime::Handle::try_current()) else { return };
        if let Ok(call) = self.db.call(Some(&baton), &[Request::Close]) {
            let bound = std::sync::Arc::clone(&self.db.bound);
            runtime.spawn(async move { bound.say(&call, GOODBYE_TIME).await });
        }
    }
}
