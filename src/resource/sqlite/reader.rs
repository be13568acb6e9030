//! The threads that read, beside the writer, and never wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::problem::{Kind, Problem};

use super::db::{Access, Db};
use super::own::OwnExec;
use super::program::Halt;
use super::raw::SqliteError;
use super::shared::{Item, Shared, Work};

/// Opens a reader's connection.
///
/// # Errors
/// SQLite's own.
pub fn open(shared: &Shared) -> Result<Db, SqliteError> {
    Db::open(&shared.file, Access::Read, &shared.fences, &shared.limits)
}

/// Runs until the queue is closed.
pub fn run(shared: &Arc<Shared>, mut db: Db) {
    while let Some(works) = shared.readers.take(1, Instant::now() + Duration::from_secs(3600)) {
        for work in works {
            serve(shared, &mut db, work);
        }
    }
}

fn serve(shared: &Arc<Shared>, db: &mut Db, mut work: Box<Work>) {
    let mut stored = std::mem::take(&mut work.stream.stored);
    let mut exec = OwnExec {
        shared,
        stream: &mut work.stream,
        read: Some(db),
        claims: &work.claims,
        presented: work.presented,
        on_writer: false,
        once: work.key.is_some(),
        applied: false,
        until: Instant::now() + shared.limits.transaction_time,
    };
    let result = work.run.advance(&work.program, &mut stored, &mut exec);
    work.stream.stored = stored;
    match result {
        Ok(()) => shared.finish(work, Ok(())),
        Err(Halt::Refuse(problem)) => shared.finish(work, Err(*problem)),
        Err(Halt::Move) => to_writer(shared, work, false),
        Err(halt @ (Halt::Sql(_) | Halt::Alone | Halt::Again)) => {
            tracing::error!(?halt, "a reader can't end like this");
            shared.finish(work, Err(Problem::new(Kind::Internal, "the request could not be run")));
        }
    }
}

/// Hands a request to the writer.
pub fn to_writer(shared: &Arc<Shared>, work: Box<Work>, urgent: bool) {
    if let Err(Item::Work(work)) = shared.writer.push(Item::Work(work), urgent) {
        not_taken(shared, work);
    }
}

/// Ends a request that the writer's queue has not taken in.
pub fn not_taken(shared: &Arc<Shared>, work: Box<Work>) {
    shared.finish(work, Err(shared.writer.why_not("writes")));
}
