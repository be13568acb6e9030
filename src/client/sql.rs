//! A SQLite database behind a gate, as its leader uses it: Hrana 3 over HTTP in JSON.
//!
//! - [`value`]: values, parameters, rows
//! - `wire.rs`: requests and answers in JSON
//! - [`transaction`]: statements that depend on what the ones before them have found

use std::sync::Arc;

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use super::bound::{Answered, Bound};
use super::error::{Applied, Error};
use crate::endpoint::Call;

pub mod transaction;
pub mod value;
mod wire;

pub use transaction::Transaction;
pub use value::{Executed, FromValue, Params, Row, Rows, Statement, Value, ValueError};

use wire::{Outcome, Request, Step};

/// A SQLite database behind a gate. Every request carries the token, reads too.
///
/// ```
/// use fencegate::client::{Error, Fenced, params};
/// # async fn example(fenced: Fenced) -> Result<(), Error> {
/// let db = fenced.sql("/");
/// db.execute("CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, what TEXT)", ()).await?;
/// let added = db.execute("INSERT INTO jobs (what) VALUES (?)", params!["sweep"]).await?;
/// let rows = db.query("SELECT what FROM jobs WHERE id = :id", [(":id", added.last_insert_rowid.into())]).await?;
/// let what: String = rows.first().expect("it was inserted").get("what")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Sql {
    bound: Arc<Bound>,
    path: String,
}

impl Sql {
    pub(super) fn new(bound: Arc<Bound>, mount: &str) -> Sql {
        Sql { bound, path: format!("{}/v3/pipeline", mount.trim_end_matches('/')) }
    }

    /// Runs a statement for what it changes.
    ///
    /// # Errors
    /// See [`Error`]. [`Error::Misuse`] for `BEGIN`, `COMMIT` and their kind, since each call is a transaction of its own.
    pub async fn execute(&self, sql: &str, params: impl Into<Params>) -> Result<Executed, Error> {
        let rows = self.one(&Statement::new(sql).with(params), false).await?;
        Ok(rows.executed())
    }

    /// Runs a statement for its rows. It may change something, too, as with `RETURNING`.
    ///
    /// # Errors
    /// As [`Sql::execute`].
    pub async fn query(&self, sql: &str, params: impl Into<Params>) -> Result<Rows, Error> {
        self.one(&Statement::new(sql).with(params), true).await
    }

    /// Runs statements in one transaction: all of them, in this order, or none.
    ///
    /// # Errors
    /// As [`Sql::execute`]; where one fails, [`Error::Sql`] says which.
    pub async fn batch(&self, statements: &[Statement]) -> Result<Vec<Rows>, Error> {
        for statement in statements {
            alone(&statement.sql)?;
        }
        if statements.is_empty() {
            return Ok(Vec::new());
        }
        let call = self.call(None, &[Request::Batch(Step::transaction(statements)), Request::Close])?;
        let answered = self.bound.send_keyed(call).await?;
        let results = wire::read(&answered.reply.body).and_then(|answer| answer.first()?.batch(statements.len()));
        told(&answered, results)
    }

    /// Begins a transaction, for statements that depend on what others before them have found. It takes the database's write lock
    /// at once, and holds it: keep it short.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn transaction(&self) -> Result<Transaction, Error> {
        Transaction::begin(self.clone()).await
    }

    async fn one(&self, statement: &Statement, wants_rows: bool) -> Result<Rows, Error> {
        alone(&statement.sql)?;
        let call = self.call(None, &[Request::Execute { statement, wants_rows }, Request::Close])?;
        let answered = self.bound.send_keyed(call).await?;
        let rows = wire::read(&answered.reply.body).and_then(|answer| answer.first()?.rows());
        told(&answered, rows)
    }

    fn call(&self, baton: Option<&str>, requests: &[Request<'_>]) -> Result<Call, Error> {
        let call = self.bound.call(Method::POST, self.path.clone());
        let json = HeaderValue::from_static("application/json");
        Ok(call.with_header(CONTENT_TYPE, json).with_body(wire::write(baton, requests)?))
    }
}

/// What the gate said of a request, if the leadership was alive when it came. A statement that failed was undone, whoever leads.
fn told<T>(answered: &Answered, outcome: Outcome<T>) -> Result<T, Error> {
    match outcome {
        Ok(result) => answered.still_leading().map(|()| result),
        Err(error @ Error::Sql { .. }) => Err(error),
        Err(error) => answered.still_leading_and(Applied::Unknown).and(Err(error)),
    }
}

/// A statement that may stand outside a transaction: one that begins or ends one would leave it open, to be rolled back.
fn alone(sql: &str) -> Result<(), Error> {
    match first_word(sql).as_str() {
        word @ ("BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "SAVEPOINT" | "RELEASE") => {
            Err(Error::Misuse(format!("{word} has no effect outside a transaction; use batch or transaction")))
        }
        _ => Ok(()),
    }
}

/// A statement that may stand in a transaction: it doesn't end it.
fn inside(sql: &str) -> Result<(), Error> {
    let ends = match first_word(sql).as_str() {
        "BEGIN" | "COMMIT" | "END" => true,
        // ROLLBACK TO ends no transaction. The word may come after TRANSACTION, and comments may stand between.
        "ROLLBACK" => !words(sql).any(|word| word == "TO"),
        _ => false,
    };
    if ends { Err(Error::Misuse("a transaction is ended by commit() or rollback()".to_owned())) } else { Ok(()) }
}

fn first_word(sql: &str) -> String {
    words(sql).next().unwrap_or_default()
}

/// The words that a text's first statement begins with, in upper case, up to anything that is neither a word nor space nor a
/// comment: as SQLite reads them, which takes a byte order mark for a space, and passes over empty statements.
fn words(sql: &str) -> impl Iterator<Item = String> {
    const SPACES: [char; 6] = [' ', '\t', '\n', '\r', '\x0c', '\u{feff}'];
    let (mut rest, mut is_first) = (sql, true);
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start_matches(|c| SPACES.contains(&c) || (is_first && c == ';'));
            if let Some(comment) = rest.strip_prefix("--") {
                rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
            } else if let Some(comment) = rest.strip_prefix("/*") {
                rest = comment.split_once("*/").map_or("", |(_, rest)| rest);
            } else {
                break;
            }
        }
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        (rest, is_first) = (after, false);
        (!word.is_empty()).then(|| word.to_ascii_uppercase())
    })
}

#[cfg(test)]
mod tests;
