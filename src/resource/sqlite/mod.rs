//! A SQLite database, fenced with guarantee *atomic*, spoken to in Hrana over HTTP.
//!
//! The life of a request here: [`front`] reads it and refuses what the published marks refuse; [`program`] is what it asks for; a
//! [`reader`] runs it as long as it only reads; the [`writer`] judges its claims and runs it in a transaction that many requests
//! share ([`group`]) or, where it can't share, by itself ([`own`]). [`sandbox`] decides what a statement may touch. What a write
//! with an `Idempotency-Key` was answered, `once` keeps. [`stream`]
//! keeps what a client has between requests, [`store`] the gate's own tables.

use std::path::PathBuf;
use std::sync::Arc;

use crate::fence::FenceName;
use crate::resource::issuer::Trust;
use crate::resource::threads::{now_ms, spawn};

pub mod answers;
pub mod args;
pub mod asked;
mod believe;
mod commit;
pub mod db;
pub mod errors;
pub mod fences;
pub mod front;
mod functions;
pub mod group;
pub mod guard;
pub mod hrana;
mod kept;
pub mod limits;
mod once;
pub mod outbox;
pub mod own;
mod parked;
pub mod program;
pub mod queue;
pub mod raw;
pub mod reader;
pub mod render;
pub mod room;
mod route;
pub mod sandbox;
mod shape;
pub mod shared;
pub mod store;
pub mod stream;
mod unadmitted;
mod upkeep;
pub mod writer;

pub use fences::TableFence;
pub use front::Sqlite;
pub use limits::Limits;
pub use sandbox::RESERVED;

/// What to open.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "who is asked is a trait object")]
pub struct Options {
    /// The resource's name, for logs and metrics.
    pub name: String,
    /// The database file; made where it is missing.
    pub file: PathBuf,
    /// The fence of every table that `tables` doesn't name.
    pub fence: FenceName,
    /// Tables with a fence of their own.
    pub tables: Vec<TableFence>,
    /// The limits.
    pub limits: Limits,
    /// Whether stale writes are refused. False is for rehearsals, for measuring what the check costs, and for tests that must see
    /// the damage that the check prevents: refusals are counted, and the writes go through.
    pub enforce: bool,
    /// Who is asked before a mark rises.
    pub trust: Trust,
}

/// Why a database can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another gate has it.
    #[error("{file} is in use by another gate ({holder}); stop that one first, or give this one another file (lock: {lock})",
        file = file.display(), lock = lock.display())]
    Locked {
        /// The database file.
        file: PathBuf,
        /// What the other gate wrote about itself.
        holder: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// It was written by a newer fencegate.
    #[error("{file} was written by a newer fencegate (it has schema {migration}); use that version or a later one",
        file = file.display())]
    Newer {
        /// The database file.
        file: PathBuf,
        /// The migration that this program doesn't know.
        migration: String,
    },
    /// The file can't be used.
    #[error("{file} can't be opened: {why}", file = file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What SQLite or the operating system said.
        why: String,
    },
    /// More fences than one database can have.
    #[error("one database has at most {} fences, its own included", fences::FENCES_MAX)]
    TooManyFences,
}

/// Used by several threads.
type SharedRef = Arc<shared::Shared>;

impl Drop for front::Sqlite {
    fn drop(&mut self) {
        crate::resource::Resource::stop(self);
    }
}
