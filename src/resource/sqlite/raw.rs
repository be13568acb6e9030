//! The few calls into SQLite that rusqlite's safe interface doesn't offer, and all `unsafe` code but that of the crash journal.
//!
//! rusqlite opens, configures and closes connections and carries the authorizer. Prepared statements of clients are handled
//! here, because the gate needs what rusqlite hides: where a statement ends (its own check for a second statement recurses
//! once for every `;`, which a hostile text turns into a stack overflow), statements cached beside what was learned of them,
//! extended error codes with offsets, the last rowid of a stream, and unresolved deferred foreign keys.
//!
//! **Safety.** A [`Stmt`] holds a pointer that is valid until its connection is closed. [`super::db::Db`] is the only place that
//! keeps statements, next to the connection, and drops them first.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::ptr::{self, NonNull};
use std::slice;

use rusqlite::Connection;
use rusqlite::ffi;
use rusqlite::types::ValueRef;

/// What SQLite said went wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLite code {code})")]
pub struct SqliteError {
    /// The extended result code.
    pub code: c_int,
    /// SQLite's message.
    pub message: String,
}

impl SqliteError {
    fn last(db: *mut ffi::sqlite3) -> SqliteError {
        // SAFETY: `db` is an open connection; errmsg returns a NUL-terminated text that is valid until the next call.
        unsafe {
            let message = CStr::from_ptr(ffi::sqlite3_errmsg(db)).to_string_lossy().into_owned();
            SqliteError { code: ffi::sqlite3_extended_errcode(db), message }
        }
    }

    /// The result code without its extension.
    pub fn primary(&self) -> c_int {
        self.code & 0xff
    }
}

impl From<rusqlite::Error> for SqliteError {
    fn from(error: rusqlite::Error) -> SqliteError {
        match error {
            rusqlite::Error::SqliteFailure(code, message) => {
                SqliteError { code: code.extended_code, message: message.unwrap_or_else(|| code.to_string()) }
            }
            other => SqliteError { code: ffi::SQLITE_ERROR, message: other.to_string() },
        }
    }
}

/// One value to bind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// A 64-bit signed integer.
    Integer(i64),
    /// A 64-bit float.
    Float(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes.
    Blob(Vec<u8>),
}

/// A prepared statement.
#[derive(Debug)]
pub struct Stmt {
    stmt: NonNull<ffi::sqlite3_stmt>,
    db: *mut ffi::sqlite3,
}

// SAFETY: SQLite is built with SQLITE_THREADSAFE=1; a statement and its connection move between threads together, inside one
// `Db`, and are never used by two threads at once.
unsafe impl Send for Stmt {}

fn handle(conn: &Connection) -> *mut ffi::sqlite3 {
    // SAFETY: the handle is used only for calls that don't close it.
    unsafe { conn.handle() }
}

/// Prepares the first statement of `sql`. Returns it (`None` where there is only white space or a comment) and the number of
/// bytes that it took, at least 1 where `sql` isn't empty.
pub fn prepare(conn: &Connection, sql: &str, persistent: bool) -> Result<(Option<Stmt>, usize), SqliteError> {
    let db = handle(conn);
    let flags = if persistent { ffi::SQLITE_PREPARE_PERSISTENT } else { 0 };
    let len = c_int::try_from(sql.len())
        .map_err(|_| SqliteError { code: ffi::SQLITE_TOOBIG, message: "statement too long".into() })?;
    let mut stmt = ptr::null_mut();
    let mut tail: *const c_char = ptr::null();
    // SAFETY: `sql` is valid for `len` bytes; SQLite reads no further and keeps no pointer into it.
    let code = unsafe { ffi::sqlite3_prepare_v3(db, sql.as_ptr().cast(), len, flags, &mut stmt, &mut tail) };
    if code != ffi::SQLITE_OK {
        return Err(SqliteError::last(db));
    }
    // SQLite stops at a NUL byte, which no statement contains: what follows it can't be run, so it counts as the rest.
    let used = if tail.is_null() { sql.len() } else { (tail as usize).saturating_sub(sql.as_ptr() as usize) };
    let used = if used == 0 { sql.len() } else { used.min(sql.len()) };
    Ok((NonNull::new(stmt).map(|stmt| Stmt { stmt, db }), used))
}

/// Sets what `last_insert_rowid()` answers on this connection.
pub fn set_last_insert_rowid(conn: &Connection, rowid: i64) {
    // SAFETY: an open connection.
    unsafe { ffi::sqlite3_set_last_insert_rowid(handle(conn), rowid) }
}

/// Whether deferred foreign-key constraints are violated as things stand: a COMMIT would fail.
pub fn has_deferred_violations(conn: &Connection) -> bool {
    let (mut current, mut highest) = (0, 0);
    // SAFETY: an open connection and two places to write to.
    let code = unsafe {
        ffi::sqlite3_db_status(handle(conn), ffi::SQLITE_DBSTATUS_DEFERRED_FKS, &mut current, &mut highest, 0)
    };
    code != ffi::SQLITE_OK || current != 0
}

/// Rows changed since the connection was opened, triggers and foreign-key actions included.
pub fn total_changes(conn: &Connection) -> i64 {
    // SAFETY: an open connection.
    unsafe { ffi::sqlite3_total_changes64(handle(conn)) }
}

/// Rows changed by the last INSERT, UPDATE or DELETE.
pub fn changes(conn: &Connection) -> i64 {
    // SAFETY: an open connection.
    unsafe { ffi::sqlite3_changes64(handle(conn)) }
}

/// Whether the connection has a snapshot of the database: it has read or written in its present transaction.
pub fn has_snapshot(conn: &Connection) -> bool {
    // SAFETY: as above.
    unsafe { ffi::sqlite3_txn_state(handle(conn), ptr::null()) != ffi::SQLITE_TXN_NONE }
}

/// Whether the connection has begun to write in its present transaction.
pub fn is_writing(conn: &Connection) -> bool {
    // SAFETY: an open connection; a null schema name asks for the highest state of all.
    unsafe { ffi::sqlite3_txn_state(handle(conn), ptr::null()) == ffi::SQLITE_TXN_WRITE }
}

impl Stmt {
    fn ptr(&self) -> *mut ffi::sqlite3_stmt {
        self.stmt.as_ptr()
    }

    /// `sqlite3_stmt_readonly`: true for BEGIN, COMMIT and SAVEPOINT too, false for `EXPLAIN INSERT`.
    pub fn readonly(&self) -> bool {
        // SAFETY (here and below): the statement is valid as long as this value lives.
        unsafe { ffi::sqlite3_stmt_readonly(self.ptr()) != 0 }
    }

    /// Whether this is an EXPLAIN or EXPLAIN QUERY PLAN.
    pub fn is_explain(&self) -> bool {
        unsafe { ffi::sqlite3_stmt_isexplain(self.ptr()) != 0 }
    }

    /// The number of parameters: the highest index.
    pub fn parameter_count(&self) -> usize {
        usize::try_from(unsafe { ffi::sqlite3_bind_parameter_count(self.ptr()) }).unwrap_or(0)
    }

    /// The name of a parameter (from 1), with its prefix; `None` for `?`.
    pub fn parameter_name(&self, index: usize) -> Option<&str> {
        let index = c_int::try_from(index).ok()?;
        let name = unsafe { ffi::sqlite3_bind_parameter_name(self.ptr(), index) };
        if name.is_null() { None } else { unsafe { CStr::from_ptr(name) }.to_str().ok() }
    }

    /// Binds a value to a parameter (from 1).
    pub fn bind(&mut self, index: usize, value: &Value) -> Result<(), SqliteError> {
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        // SAFETY: SQLITE_TRANSIENT makes SQLite copy the bytes before the call returns.
        let code = unsafe {
            match value {
                Value::Null => ffi::sqlite3_bind_null(self.ptr(), index),
                Value::Integer(number) => ffi::sqlite3_bind_int64(self.ptr(), index, *number),
                Value::Float(number) => ffi::sqlite3_bind_double(self.ptr(), index, *number),
                Value::Text(text) => ffi::sqlite3_bind_text64(
                    self.ptr(),
                    index,
                    text.as_ptr().cast(),
                    text.len() as u64,
                    ffi::SQLITE_TRANSIENT(),
                    ffi::SQLITE_UTF8 as u8,
                ),
                Value::Blob(bytes) if bytes.is_empty() => ffi::sqlite3_bind_zeroblob(self.ptr(), index, 0),
                Value::Blob(bytes) => ffi::sqlite3_bind_blob64(
                    self.ptr(),
                    index,
                    bytes.as_ptr().cast(),
                    bytes.len() as u64,
                    ffi::SQLITE_TRANSIENT(),
                ),
            }
        };
        if code == ffi::SQLITE_OK { Ok(()) } else { Err(SqliteError::last(self.db)) }
    }

    /// Runs to the next row; `false` at the end.
    pub fn step(&mut self) -> Result<bool, SqliteError> {
        match unsafe { ffi::sqlite3_step(self.ptr()) } {
            ffi::SQLITE_ROW => Ok(true),
            ffi::SQLITE_DONE => Ok(false),
            _ => Err(SqliteError::last(self.db)),
        }
    }

    /// Ends the run and forgets the bound values.
    pub fn reset(&mut self) {
        unsafe {
            ffi::sqlite3_reset(self.ptr());
            ffi::sqlite3_clear_bindings(self.ptr());
        }
    }

    /// The number of result columns.
    pub fn column_count(&self) -> usize {
        usize::try_from(unsafe { ffi::sqlite3_column_count(self.ptr()) }).unwrap_or(0)
    }

    fn column_text(
        &self,
        column: usize,
        read: unsafe extern "C" fn(*mut ffi::sqlite3_stmt, c_int) -> *const c_char,
    ) -> Option<String> {
        let column = c_int::try_from(column).ok()?;
        let text = unsafe { read(self.ptr(), column) };
        if text.is_null() { None } else { Some(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()) }
    }

    /// The name of a result column (from 0).
    pub fn column_name(&self, column: usize) -> Option<String> {
        self.column_text(column, ffi::sqlite3_column_name)
    }

    /// The declared type of the table column that a result column (from 0) comes from.
    pub fn column_decltype(&self, column: usize) -> Option<String> {
        self.column_text(column, ffi::sqlite3_column_decltype)
    }

    /// The value of a result column (from 0) in the present row, valid until the next step.
    pub fn value(&self, column: usize) -> ValueRef<'_> {
        let column = c_int::try_from(column).unwrap_or(c_int::MAX);
        // SAFETY: called between a step that gave a row and the next call on the statement, as the borrow demands. For text
        // and blobs the pointer is asked for before the length, as SQLite's documentation says.
        unsafe {
            match ffi::sqlite3_column_type(self.ptr(), column) {
                ffi::SQLITE_INTEGER => ValueRef::Integer(ffi::sqlite3_column_int64(self.ptr(), column)),
                ffi::SQLITE_FLOAT => ValueRef::Real(ffi::sqlite3_column_double(self.ptr(), column)),
                ffi::SQLITE_TEXT => {
                    ValueRef::Text(self.bytes(column, ffi::sqlite3_column_text(self.ptr(), column).cast()))
                }
                ffi::SQLITE_BLOB => {
                    ValueRef::Blob(self.bytes(column, ffi::sqlite3_column_blob(self.ptr(), column).cast()))
                }
                _ => ValueRef::Null,
            }
        }
    }

    unsafe fn bytes(&self, column: c_int, start: *const u8) -> &[u8] {
        let len = usize::try_from(unsafe { ffi::sqlite3_column_bytes(self.ptr(), column) }).unwrap_or(0);
        if start.is_null() || len == 0 { &[] } else { unsafe { slice::from_raw_parts(start, len) } }
    }
}

impl Drop for Stmt {
    fn drop(&mut self) {
        unsafe { ffi::sqlite3_finalize(self.ptr()) };
    }
}
