//! Runs the requests of one pipeline or cursor, in order, over whichever connection the request is on.
//!
//! A [`Run`] can stop between two statements and go on elsewhere: it starts beside the writer and moves to it at the first
//! statement that writes. It can also be put back to where the writer took it up (a clone of it is kept), because the writer may
//! have to undo a shared transaction and run a request again by itself. Nothing is answered before it is decided.

use std::collections::HashMap;

use crate::json;
use crate::problem::Problem;

use super::db::{Args, Done, SqlError};
use super::hrana::{Condition, Request, Sql, Statement};
use super::render::{self, Rows};

/// Most SQL texts stored on one stream.
const STORED_SQL_MAX: usize = 64;
/// Longest SQL text stored on a stream, in bytes.
const STORED_SQL_BYTES_MAX: usize = 64 * 1024;
/// Most bytes of all the SQL texts stored on one stream.
pub const STORED_BYTES_MAX: usize = 128 * 1024;

/// The answer to one write has some 220 bytes.
const ANSWER_BYTES_USUAL: usize = 256;

/// What runs statements.
pub trait Exec {
    /// Runs the first statement of `sql`, or the only one where `whole`. Returns what it did and how many bytes it took; a
    /// `None` for what it did means that there was no statement.
    ///
    /// # Errors
    /// See [`Halt`].
    fn execute(&mut self, sql: &str, args: &Args, whole: bool, rows: &mut Rows) -> Result<(Option<Done>, usize), Halt>;

    /// Describes the only statement of `sql`, as a `DescribeResult`.
    ///
    /// # Errors
    /// See [`Halt`].
    fn describe(&mut self, sql: &str, out: &mut Vec<u8>) -> Result<(), Halt>;

    /// Whether the stream is outside a transaction.
    fn is_autocommit(&self) -> bool;
}

/// Why a statement ended a run, or only itself.
#[derive(Debug)]
pub enum Halt {
    /// The statement failed; the client is told, and the run goes on.
    Sql(SqlError),
    /// The whole HTTP request is refused; all that it did is undone.
    Refuse(Box<Problem>),
    /// The statement was not run here; the run goes on with it on the writer.
    Move,
    /// The run is to be put back to its checkpoint and run by itself.
    Alone,
    /// The run is to be put back to its checkpoint and judged again: a newer leader came.
    Again,
}

impl From<SqlError> for Halt {
    fn from(error: SqlError) -> Halt {
        Halt::Sql(error)
    }
}

/// Which body the answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `pipeline`: one JSON object.
    Pipeline,
    /// `cursor`: a line of JSON for each entry.
    Cursor,
}

/// The requests of one HTTP request.
#[derive(Debug)]
pub struct Program {
    /// The requests.
    pub requests: Vec<Request>,
    /// How they are answered.
    pub format: Format,
}

/// What a stream keeps between requests, apart from a transaction.
pub type StoredSql = HashMap<i32, String>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StepState {
    Ok,
    Error,
    Skipped,
}

#[derive(Debug, Clone, Default)]
struct BatchRun {
    steps: Vec<StepState>,
    results: Vec<u8>,
    errors: Vec<u8>,
}

/// How far a program has come.
#[derive(Debug, Clone)]
pub struct Run {
    /// Most bytes of rows that the whole answer may have.
    budget: usize,
    next: usize,
    /// Results so far, separated by commas, or cursor entries.
    out: Vec<u8>,
    batch: Option<BatchRun>,
    sequence_at: usize,
    closed: bool,
}

impl Run {
    /// The start of a program whose answer may have this many bytes of rows.
    pub fn new(budget: usize) -> Run {
        Run { out: Vec::with_capacity(ANSWER_BYTES_USUAL), ..Run::empty(budget) }
    }

    fn empty(budget: usize) -> Run {
        Run { budget, next: 0, out: Vec::new(), batch: None, sequence_at: 0, closed: false }
    }

    /// A run on a stream that is gone when it ends: for what the gate asks for by itself.
    pub fn once() -> Run {
        Run { closed: true, ..Run::new(0) }
    }

    /// Makes it one that has ended with these results, on a stream that is gone.
    pub fn end_with(&mut self, results: Vec<u8>) {
        *self = Run { next: usize::MAX, out: results, closed: true, ..Run::empty(self.budget) };
    }

    fn rows(&self, wanted: bool) -> Rows {
        let batch = self.batch.as_ref().map_or(0, |batch| batch.results.len() + batch.errors.len());
        Rows::new(wanted, self.budget.saturating_sub(self.out.len() + batch))
    }

    /// Whether it is at the start of a program, and of a stream that wasn't closed.
    pub fn is_new(&self) -> bool {
        self.next == 0 && self.out.is_empty() && self.batch.is_none() && self.sequence_at == 0 && !self.closed
    }

    /// Goes back to the start.
    pub fn begin_anew(&mut self) {
        self.out.clear();
        *self = Run { out: std::mem::take(&mut self.out), ..Run::empty(self.budget) };
    }

    /// Bytes of the answer so far.
    pub fn len_bytes(&self) -> usize {
        self.out.len()
    }

    /// What the answer's body is made of, but for the baton.
    pub fn results(&self) -> &[u8] {
        &self.out
    }

    /// Whether the stream was closed by a request.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The answer's body, once the run has ended.
    pub fn body(&self, format: Format, baton: Option<&str>) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.out.len() + 96);
        body.extend_from_slice(b"{\"baton\":");
        json::optional(&mut body, baton);
        match format {
            Format::Pipeline => {
                body.extend_from_slice(b",\"base_url\":null,\"results\":[");
                body.extend_from_slice(&self.out);
                body.extend_from_slice(b"]}");
            }
            Format::Cursor => {
                body.extend_from_slice(b",\"base_url\":null}\n");
                body.extend_from_slice(&self.out);
            }
        }
        body
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// Any [`Halt`] but [`Halt::Sql`], which becomes part of the answer.
    pub fn advance(&mut self, program: &Program, stored: &mut StoredSql, exec: &mut impl Exec) -> Result<(), Halt> {
        while let Some(request) = program.requests.get(self.next) {
            if program.format == Format::Cursor {
                let Request::Batch(_) = request else { break };
                self.batch(program, request, stored, exec)?;
            } else {
                self.request(program, request, stored, exec)?;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn request(
        &mut self,
        program: &Program,
        request: &Request,
        stored: &mut StoredSql,
        exec: &mut impl Exec,
    ) -> Result<(), Halt> {
        if self.closed {
            return self.error(&SqlError::new("STREAM_CLOSED", "the stream was closed by an earlier request"));
        }
        let before = self.out.len();
        self.separate();
        self.out.extend_from_slice(b"{\"type\":\"ok\",\"response\":");
        let result = self.respond(program, request, stored, exec);
        if result.is_ok() {
            self.out.push(b'}');
            return Ok(());
        }
        // What is there of its answer is taken back: it is told an error, or goes on elsewhere.
        self.out.truncate(before);
        match result {
            Err(Halt::Sql(error)) => self.error(&error),
            other => other,
        }
    }

    fn separate(&mut self) {
        if !self.out.is_empty() {
            self.out.push(b',');
        }
    }

    fn error(&mut self, error: &SqlError) -> Result<(), Halt> {
        let room = self.out.len() <= self.budget;
        self.separate();
        self.out.extend_from_slice(b"{\"type\":\"error\",\"error\":");
        render::error(&mut self.out, error, room);
        self.out.push(b'}');
        Ok(())
    }

    fn respond(
        &mut self,
        program: &Program,
        request: &Request,
        stored: &mut StoredSql,
        exec: &mut impl Exec,
    ) -> Result<(), Halt> {
        match request {
            Request::Close => {
                self.closed = true;
                self.out.extend_from_slice(b"{\"type\":\"close\"}");
            }
            Request::Execute(stmt) => {
                let (rows, done) = statement(stmt, self.rows(stmt.want_rows), stored, exec)?;
                self.out.extend_from_slice(b"{\"type\":\"execute\",\"result\":");
                rows.stmt_result(&mut self.out, &done);
                self.out.push(b'}');
            }
            Request::Batch(_) => {
                self.batch(program, request, stored, exec)?;
                let batch = self.batch.take().unwrap_or_default();
                let out = &mut self.out;
                out.extend_from_slice(b"{\"type\":\"batch\",\"result\":{\"step_results\":[");
                out.extend_from_slice(&batch.results);
                out.extend_from_slice(b"],\"step_errors\":[");
                out.extend_from_slice(&batch.errors);
                out.extend_from_slice(b"]}}");
            }
            Request::Sequence(source) => {
                let result = self.sequence(text(source, stored)?, exec);
                if matches!(result, Ok(()) | Err(Halt::Sql(_))) {
                    self.sequence_at = 0;
                }
                result?;
                self.out.extend_from_slice(b"{\"type\":\"sequence\"}");
            }
            Request::Describe(source) => {
                self.out.extend_from_slice(b"{\"type\":\"describe\",\"result\":");
                exec.describe(text(source, stored)?, &mut self.out)?;
                self.out.push(b'}');
                // A few bytes of SQL have up to 32,766 parameters.
                if self.out.len() > self.budget {
                    let why = format!("the results of one request have at most {} bytes", self.budget);
                    return Err(Halt::Sql(SqlError::new("RESPONSE_TOO_LARGE", why)));
                }
            }
            Request::StoreSql { sql_id, sql } => {
                store(stored, *sql_id, sql)?;
                self.out.extend_from_slice(b"{\"type\":\"store_sql\"}");
            }
            Request::CloseSql { sql_id } => {
                stored.remove(sql_id);
                self.out.extend_from_slice(b"{\"type\":\"close_sql\"}");
            }
            Request::GetAutocommit => {
                let is_autocommit = exec.is_autocommit();
                self.out.extend_from_slice(
                    format!("{{\"type\":\"get_autocommit\",\"is_autocommit\":{is_autocommit}}}").as_bytes(),
                );
            }
        }
        Ok(())
    }

    fn sequence(&mut self, sql: &str, exec: &mut impl Exec) -> Result<(), Halt> {
        // Ended by a NUL, which spares SQLite a copy of all that is left for each statement.
        let script = [sql, "\0"].concat();
        while self.sequence_at < sql.len() {
            let rest = script.get(self.sequence_at..).unwrap_or_default();
            let (_, used) = exec.execute(rest, &Args::default(), false, &mut Rows::new(false, usize::MAX))?;
            self.sequence_at += used.max(1);
        }
        Ok(())
    }

    /// Runs a batch from the step it has come to.
    fn batch(
        &mut self,
        program: &Program,
        request: &Request,
        stored: &mut StoredSql,
        exec: &mut impl Exec,
    ) -> Result<(), Halt> {
        let Request::Batch(batch) = request else { return Ok(()) };
        self.batch.get_or_insert_default();
        loop {
            let run = self.batch.as_ref().map_or(&[][..], |run| &run.steps);
            let index = run.len();
            let Some(step) = batch.steps.get(index) else { break };
            let goes = step.condition.as_ref().is_none_or(|condition| holds(condition, run, exec.is_autocommit()));
            let rows = self.rows(step.stmt.want_rows);
            let result = if goes { Some(statement(&step.stmt, rows, stored, exec)) } else { None };
            let result = match result {
                None => None,
                Some(Ok(done)) => Some(Ok(done)),
                Some(Err(Halt::Sql(error))) => Some(Err(error)),
                Some(Err(halt)) => return Err(halt),
            };
            self.step_done(program.format, index, result);
        }
        if program.format == Format::Cursor {
            self.batch = None;
        }
        Ok(())
    }

    fn step_done(&mut self, format: Format, index: usize, result: Option<Result<(Rows, Done), SqlError>>) {
        let run = self.batch.get_or_insert_default();
        let room = self.out.len() + run.results.len() + run.errors.len() <= self.budget;
        run.steps.push(match &result {
            None => StepState::Skipped,
            Some(Ok(_)) => StepState::Ok,
            Some(Err(_)) => StepState::Error,
        });
        if format == Format::Cursor {
            match result {
                None => {}
                Some(Ok((rows, done))) => rows.cursor_entries(&mut self.out, index, &done),
                Some(Err(error)) => {
                    let out = &mut self.out;
                    out.extend_from_slice(format!("{{\"type\":\"step_error\",\"step\":{index},\"error\":").as_bytes());
                    render::error(out, &error, room);
                    out.extend_from_slice(b"}\n");
                }
            }
            return;
        }
        if index > 0 {
            run.results.push(b',');
            run.errors.push(b',');
        }
        match result {
            Some(Ok((rows, done))) => {
                rows.stmt_result(&mut run.results, &done);
                run.errors.extend_from_slice(b"null");
            }
            Some(Err(error)) => {
                run.results.extend_from_slice(b"null");
                render::error(&mut run.errors, &error, room);
            }
            None => {
                run.results.extend_from_slice(b"null");
                run.errors.extend_from_slice(b"null");
            }
        }
    }
}

fn statement(stmt: &Statement, mut rows: Rows, stored: &StoredSql, exec: &mut impl Exec) -> Result<(Rows, Done), Halt> {
    match exec.execute(text(&stmt.sql, stored)?, &stmt.args, true, &mut rows)? {
        (Some(done), _) => Ok((rows, done)),
        (None, _) => Err(Halt::Sql(SqlError::new("SQL_NO_STATEMENT", "SQL string does not contain any statement"))),
    }
}

fn text<'a>(source: &'a Sql, stored: &'a StoredSql) -> Result<&'a str, SqlError> {
    let sql = match source {
        Sql::Text(sql) => sql,
        Sql::Stored(sql_id) => stored
            .get(sql_id)
            .ok_or_else(|| SqlError::new("SQL_NOT_FOUND", format!("no SQL text is stored under {sql_id}")))?,
    };
    if sql.contains('\0') {
        // SQLite stops reading there: the rest of a script would be left out and called done.
        return Err(SqlError::new(
            "SQLITE_ERROR",
            "an SQL text has no NUL characters; pass such a value as an argument",
        ));
    }
    Ok(sql)
}

fn store(stored: &mut StoredSql, sql_id: i32, sql: &str) -> Result<(), SqlError> {
    if stored.contains_key(&sql_id) {
        return Err(SqlError::new("SQL_EXISTS", format!("an SQL text is already stored under {sql_id}")));
    }
    let all = stored.values().map(String::len).sum::<usize>() + sql.len();
    if stored.len() >= STORED_SQL_MAX || sql.len() > STORED_SQL_BYTES_MAX || all > STORED_BYTES_MAX {
        let what = format!(
            "a stream stores at most {STORED_SQL_MAX} SQL texts of {STORED_SQL_BYTES_MAX} bytes, {STORED_BYTES_MAX} together"
        );
        return Err(SqlError::new("SQL_STORE_FULL", what));
    }
    stored.insert(sql_id, sql.to_owned());
    Ok(())
}

fn holds(condition: &Condition, steps: &[StepState], is_autocommit: bool) -> bool {
    match condition {
        Condition::Ok(step) => steps.get(*step) == Some(&StepState::Ok),
        Condition::Error(step) => steps.get(*step) == Some(&StepState::Error),
        Condition::Not(cond) => !holds(cond, steps, is_autocommit),
        Condition::And(conds) => conds.iter().all(|cond| holds(cond, steps, is_autocommit)),
        Condition::Or(conds) => conds.iter().any(|cond| holds(cond, steps, is_autocommit)),
        Condition::IsAutocommit => is_autocommit,
    }
}

/// A guess at how a program should be run, from the first words of its statements. Only for choosing where to start: what a
/// statement is, SQLite decides when it is prepared, wherever that happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hint {
    /// It seems to write, so it starts on the writer.
    pub writes: bool,
    /// It seems to begin a transaction.
    pub begins: bool,
    /// It seems to leave a transaction open at its end.
    pub stays_open: bool,
    /// It has more than one statement.
    pub several: bool,
}

impl Program {
    /// The guess for this program.
    pub fn hint(&self) -> Hint {
        let mut hint = Hint::default();
        let mut count = 0;
        let mut look = |source: &Sql, script: bool| {
            count += if script { 2 } else { 1 };
            let Sql::Text(sql) = source else { return };
            let word = first_word(sql);
            let is = |words: &[&str]| words.iter().any(|other| word.eq_ignore_ascii_case(other));
            hint.writes |=
                !is(&["select", "values", "with", "explain", "pragma", "begin", "commit", "end", "rollback"]);
            if is(&["begin", "savepoint"]) {
                hint.begins = true;
                hint.stays_open = true;
            } else if is(&["commit", "end", "rollback"]) {
                hint.stays_open = false;
            }
        };
        for request in &self.requests {
            match request {
                Request::Execute(stmt) => look(&stmt.sql, false),
                Request::Batch(batch) => batch.steps.iter().for_each(|step| look(&step.stmt.sql, false)),
                Request::Sequence(source) => look(source, true),
                _ => {}
            }
        }
        hint.several = count > 1;
        hint
    }
}

fn first_word(sql: &str) -> &str {
    let sql = sql.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == ';' || c == '(');
    let end = sql.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(sql.len());
    &sql[..end]
}
