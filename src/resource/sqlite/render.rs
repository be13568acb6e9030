//! Rows and results as Hrana JSON, written straight from SQLite's memory to the answer's bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::ValueRef;

use crate::json::{optional, string};

use super::db::{Done, SqlError};
use super::raw::Stmt;

/// The rows of one statement, each rendered as a JSON array.
#[derive(Debug)]
pub struct Rows {
    wanted: bool,
    budget: usize,
    bytes: Vec<u8>,
    /// Where each row ends in `bytes`.
    ends: Vec<usize>,
    /// The columns as an array of `Col`; empty where there are none.
    cols: Vec<u8>,
}

impl Rows {
    /// An empty collection of at most `budget` bytes; rows are counted and thrown away unless `wanted`.
    pub fn new(wanted: bool, budget: usize) -> Rows {
        Rows { wanted, budget, bytes: Vec::new(), ends: Vec::new(), cols: Vec::new() }
    }

    /// Whether rows are kept.
    pub fn wanted(&self) -> bool {
        self.wanted
    }

    /// Whether there are more bytes than there may be.
    pub fn is_over_budget(&self) -> bool {
        self.bytes.len() + self.cols.len() > self.budget
    }

    /// Appends the present row of a statement.
    ///
    /// # Errors
    /// A text that isn't UTF-8, which JSON can't carry: it is refused rather than changed on the way. It stops in the middle of
    /// a row that is over the budget: a row has up to 2,000 columns.
    pub fn push(&mut self, stmt: &Stmt) -> Result<(), SqlError> {
        let out = &mut self.bytes;
        out.push(b'[');
        for column in 0..stmt.column_count() {
            if column > 0 {
                out.push(b',');
            }
            value(out, stmt.value(column))?;
            if out.len() > self.budget {
                break;
            }
        }
        out.push(b']');
        self.ends.push(out.len());
        Ok(())
    }

    /// Takes the names and declared types of the statement's columns. After the run, since a changed schema can change them
    /// until the first step.
    pub fn describe(&mut self, stmt: &Stmt) {
        self.cols.clear();
        if stmt.column_count() > 0 {
            columns(&mut self.cols, stmt);
        }
    }

    fn cols(&self) -> &[u8] {
        if self.cols.is_empty() { b"[]" } else { &self.cols }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    /// A `StmtResult`.
    pub fn stmt_result(&self, out: &mut Vec<u8>, done: &Done) {
        out.extend_from_slice(b"{\"cols\":");
        out.extend_from_slice(self.cols());
        out.extend_from_slice(b",\"rows\":[");
        for (index, row) in self.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(row);
        }
        out.extend_from_slice(b"],");
        counts(out, done);
        out.extend_from_slice(b",\"rows_read\":");
        number(out, done.rows_read);
        out.extend_from_slice(b",\"rows_written\":");
        number(out, done.affected);
        out.extend_from_slice(b",\"query_duration_ms\":");
        let micros = done.duration.as_micros();
        number(out, micros / 1000);
        let [tenths, hundredths, thousandths] = [100, 10, 1].map(|unit| b'0' + (micros / unit % 10) as u8);
        out.extend_from_slice(&[b'.', tenths, hundredths, thousandths, b'}']);
    }

    /// The cursor entries of one step: `step_begin`, a `row` each, `step_end`, a line each.
    pub fn cursor_entries(&self, out: &mut Vec<u8>, step: usize, done: &Done) {
        out.extend_from_slice(format!("{{\"type\":\"step_begin\",\"step\":{step},\"cols\":").as_bytes());
        out.extend_from_slice(self.cols());
        out.extend_from_slice(b"}\n");
        for row in self.iter() {
            out.extend_from_slice(b"{\"type\":\"row\",\"row\":");
            out.extend_from_slice(row);
            out.extend_from_slice(b"}\n");
        }
        out.extend_from_slice(b"{\"type\":\"step_end\",");
        counts(out, done);
        out.extend_from_slice(b"}\n");
    }
}

/// The names and declared types of a statement's columns, as an array of `Col`.
pub fn columns(out: &mut Vec<u8>, stmt: &Stmt) {
    out.push(b'[');
    for column in 0..stmt.column_count() {
        out.extend_from_slice(if column > 0 { b",{\"name\":" } else { b"{\"name\":" });
        optional(out, stmt.column_name(column).as_deref());
        out.extend_from_slice(b",\"decltype\":");
        optional(out, stmt.column_decltype(column).as_deref());
        out.push(b'}');
    }
    out.push(b']');
}

fn counts(out: &mut Vec<u8>, done: &Done) {
    out.extend_from_slice(b"\"affected_row_count\":");
    number(out, done.affected);
    out.extend_from_slice(b",\"last_insert_rowid\":");
    match done.last_rowid {
        Some(rowid) => quoted(out, rowid),
        None => out.extend_from_slice(b"null"),
    }
}

/// A JSON number: half of what an answer to a write consists of, and several times faster than by `format!`.
fn number(out: &mut Vec<u8>, number: impl serde::Serialize) {
    serde_json::to_writer(out, &number).expect("writing to memory can't fail");
}

/// An integer as a JSON string: JSON's numbers don't hold all of SQLite's.
fn quoted(out: &mut Vec<u8>, integer: i64) {
    out.push(b'"');
    number(out, integer);
    out.push(b'"');
}

fn value(out: &mut Vec<u8>, value: ValueRef<'_>) -> Result<(), SqlError> {
    match value {
        ValueRef::Null => out.extend_from_slice(b"{\"type\":\"null\"}"),
        ValueRef::Integer(number) => {
            out.extend_from_slice(b"{\"type\":\"integer\",\"value\":");
            quoted(out, number);
            out.push(b'}');
        }
        ValueRef::Real(number) => {
            out.extend_from_slice(b"{\"type\":\"float\",\"value\":");
            // JSON has no word for infinity; a number too large for a double is read back as infinity by JavaScript and
            // Python. NaN never comes: SQLite makes it NULL.
            match number {
                f64::INFINITY => out.extend_from_slice(b"1e999"),
                f64::NEG_INFINITY => out.extend_from_slice(b"-1e999"),
                finite => serde_json::to_writer(&mut *out, &finite).expect("writing to memory can't fail"),
            }
            out.push(b'}');
        }
        ValueRef::Text(bytes) => {
            let text = std::str::from_utf8(bytes).map_err(|_| {
                SqlError::new("SQL_TEXT_NOT_UTF8", "a text in the result is not UTF-8; CAST it to BLOB to read it")
            })?;
            out.extend_from_slice(b"{\"type\":\"text\",\"value\":");
            string(out, text);
            out.push(b'}');
        }
        ValueRef::Blob(bytes) => {
            out.extend_from_slice(b"{\"type\":\"blob\",\"base64\":\"");
            let start = out.len();
            out.resize(start + base64::encoded_len(bytes.len(), true).unwrap_or(0), 0);
            STANDARD.encode_slice(bytes, &mut out[start..]).expect("the room was measured for it");
            out.extend_from_slice(b"\"}");
        }
    }
    Ok(())
}

/// Longest error message, in bytes: SQLite's own repeat what they don't understand, however long it is.
const MESSAGE_BYTES_MAX: usize = 1_000;

/// An `Error`. Where there is no `room` for its message, it has only its code.
pub fn error(out: &mut Vec<u8>, error: &SqlError, room: bool) {
    out.extend_from_slice(b"{\"message\":");
    match error.message.len() {
        _ if !room => string(out, "the answer has no room for more"),
        ..=MESSAGE_BYTES_MAX => string(out, &error.message),
        _ => {
            let end = error.message.floor_char_boundary(MESSAGE_BYTES_MAX);
            string(out, &format!("{} …", &error.message[..end]));
        }
    }
    out.extend_from_slice(b",\"code\":");
    string(out, error.code);
    out.push(b'}');
}
