//! The threads that read, beside the writer, and never wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::problem::{Kind, Problem};

use super::answers::Waiting;
use super::db::{Access, Db};
use super::own::OwnExec;
use super::program::Halt;
use super::queue::{Laned as _, Spent};
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
    let mut spent = Spent::default();
    while let Some(works) = shared.readers.take(1, Instant::now() + Duration::from_secs(3600), &mut spent) {
        for taken in works {
            let began = Instant::now();
            let (work, bill) = taken.split();
            serve(shared, &mut db, work);
            spent.add(&bill, began.elapsed());
        }
    }
}

/// Whether it is a read without a transaction whose client has gone.
fn is_given_up(work: &Work) -> bool {
    let is_alone = work.claims.is_empty() && work.stream.own.is_none() && !work.hint.writes;
    is_alone && work.reply.as_ref().is_some_and(Waiting::is_given_up)
}

fn serve(shared: &Arc<Shared>, db: &mut Db, mut work: Box<Work>) {
    // Whoever begins requests and gives them up, one after the other, keeps the threads busy with what nobody waits for.
    if is_given_up(&work) {
        return shared.finish(work, Err(Problem::new(Kind::Unavailable, "the client has gone; nothing was begun")));
    }
    if let Err(problem) = shared.budget.may_begin(work.lane()) {
        return shared.finish(work, Err(problem));
    }
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

/// Hands a request to the writer whose transaction holds the write lock: there is one at most.
pub fn to_writer_over(shared: &Arc<Shared>, work: Box<Work>) {
    if let Err(Item::Work(work)) = shared.writer.push_over(Item::Work(work)) {
        not_taken(shared, work);
    }
}

/// Ends a request that the writer's queue has not taken in.
pub fn not_taken(shared: &Arc<Shared>, work: Box<Work>) {
    shared.finish(work, Err(shared.writer.why_not("writes")));
}
