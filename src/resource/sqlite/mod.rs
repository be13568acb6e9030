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
mod gather;
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

pub use crate::resource::opening::OpenError;

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

/// Used by several threads.
type SharedRef = Arc<shared::Shared>;

impl Drop for front::Sqlite {
    fn drop(&mut self) {
        crate::resource::Resource::stop(self);
    }
}
