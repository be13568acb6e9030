//! The thread that stores: it takes all that waits and makes it durable in one transaction.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::oneshot;

use crate::fence::FenceName;
use crate::files::Place;
use crate::problem::{Kind, Problem};
use crate::resource::threads::now_ms;

use super::state::Shared;
use super::store::{self, NotStored, Write};

/// Most writes that somebody waits for.
const URGENT_MAX: usize = 65_536;
/// Most writes that nobody waits for. Past that they are left out: what they say of the past is lost, and nothing else.
const LAZY_MAX: usize = 262_144;
/// Most writes in one transaction.
const BATCH: usize = 8_192;
/// How long a write that nobody waits for may wait for others.
const LINGER: Duration = Duration::from_millis(200);
/// How long to wait before a commit is tried again of which it isn't known what became of it.
const AGAIN: Duration = Duration::from_millis(250);
/// How often counted refusals are written down.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);

/// Something to be stored.
#[derive(Debug)]
pub struct Job {
    /// The fence's number.
    pub id: u32,
    /// The fence.
    pub fence: FenceName,
    /// The resource it is for.
    pub scope: u16,
    /// What to write.
    pub write: Write,
    /// Who waits for it. `None`: nobody.
    pub reply: Option<oneshot::Sender<Result<bool, Problem>>>,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    urgent: usize,
    is_closed: bool,
}

/// What waits to be stored, in the order in which it came.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    came: Condvar,
}

fn stopping() -> Problem {
    Problem::new(Kind::Unavailable, "the gate is stopping")
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds something.
    ///
    /// # Errors
    /// Too much waits already, or the gate is stopping.
    pub fn push(&self, job: Job) -> Result<(), Problem> {
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(stopping());
        }
        let is_urgent = job.reply.is_some();
        let (number, most) = match is_urgent {
            true => (waiting.urgent, URGENT_MAX),
            false => (waiting.jobs.len() - waiting.urgent, LAZY_MAX),
        };
        if number >= most {
            return Err(Problem::new(Kind::Overloaded, "too many marks wait to be stored; try again"));
        }
        waiting.urgent += usize::from(is_urgent);
        waiting.jobs.push_back(job);
        drop(waiting);
        if is_urgent {
            self.came.notify_one();
        }
        Ok(())
    }

    /// Whether there is room for something that somebody waits for.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn has_room(&self) -> Result<(), Problem> {
        let waiting = self.lock();
        match (waiting.is_closed, waiting.urgent < URGENT_MAX) {
            (false, true) => Ok(()),
            (true, _) => Err(stopping()),
            (false, false) => Err(Problem::new(Kind::Overloaded, "too many marks wait to be stored; try again")),
        }
    }

    /// How much waits.
    pub fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Takes nothing more in.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.came.notify_one();
    }

    /// Puts back what could not be stored and nobody waits for.
    fn put_back(&self, jobs: Vec<Job>) {
        let mut waiting = self.lock();
        for job in jobs.into_iter().rev() {
            if waiting.jobs.len() < LAZY_MAX {
                waiting.jobs.push_front(job);
            }
        }
    }

    /// Waits a moment. False where it is closed: there is no time left.
    fn rest(&self) -> bool {
        let waiting = self.lock();
        let is_open = |waiting: &mut Waiting| !waiting.is_closed;
        let (waiting, _) =
            self.came.wait_timeout_while(waiting, AGAIN, is_open).unwrap_or_else(PoisonError::into_inner);
        !waiting.is_closed
    }

    /// Waits until there is something that somebody waits for, but not for longer than a moment. `None` when it is closed and
    /// empty.
    fn take(&self) -> Option<Vec<Job>> {
        let mut waiting = self.lock();
        if waiting.urgent == 0 && !waiting.is_closed {
            waiting = self.came.wait_timeout(waiting, LINGER).unwrap_or_else(PoisonError::into_inner).0;
        }
        if waiting.is_closed && waiting.jobs.is_empty() {
            return None;
        }
        let number = waiting.jobs.len().min(BATCH);
        let batch: Vec<Job> = waiting.jobs.drain(..number).collect();
        waiting.urgent -= batch.iter().filter(|job| job.reply.is_some()).count();
        Some(batch)
    }
}

/// The thread's work, until the queue is closed and empty.
pub fn run(shared: &Shared, conn: &Connection, place: &Place) {
    let mut refusals_at = Instant::now();
    while let Some(batch) = shared.queue.take() {
        store_batch(shared, conn, place, batch);
        if refusals_at.elapsed() >= REFUSALS_EVERY {
            refusals_at = Instant::now();
            write_refusals(shared, conn, place);
        }
    }
    shared.scopes.iter().for_each(|scope| drop(scope.refusals.fresh()));
    write_refusals(shared, conn, place);
}

/// Commits these. Returns when it is known what became of them; `None` where the gate is told to stop before that.
///
/// Where the disk has failed in the middle of a commit, its marks may be on disk and complete there, so that nothing older may start:
/// taking them back in memory alone would let it. Their fences stay closed, and the same is committed again until it is stored.
/// Another failure of a later try says nothing of the first one.
fn commit(
    shared: &Shared,
    conn: &Connection,
    place: &Place,
    batch: &[Job],
    at_ms: i64,
) -> Option<rusqlite::Result<()>> {
    let mut is_sure = true;
    loop {
        let writes = batch.iter().map(|job| (job.id, job.fence.as_str(), &job.write));
        match store::commit(conn, place, writes, &HashMap::new(), at_ms) {
            Ok(()) => return Some(Ok(())),
            Err(NotStored::Surely(error)) if is_sure => return Some(Err(error)),
            Err(failed) => {
                is_sure = false;
                shared.stored_badly(failed.error());
            }
        }
        if !shared.queue.rest() {
            tracing::error!("the gate stops without knowing whether marks are stored; the next start will know");
            return None;
        }
    }
}

fn store_batch(shared: &Shared, conn: &Connection, place: &Place, batch: Vec<Job>) {
    if batch.is_empty() {
        return;
    }
    let at_ms = now_ms();
    let Some(committed) = commit(shared, conn, place, &batch, at_ms) else { return };
    match committed {
        Ok(()) => {
            shared.stored_well();
            batch.into_iter().for_each(|job| shared.complete(job, Ok(()), at_ms));
        }
        // One of them can't be; that is no reason to refuse the others.
        Err(error) if batch.len() > 1 && error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            batch.into_iter().for_each(|job| store_batch(shared, conn, place, vec![job]));
        }
        Err(error) => {
            let why = error.to_string();
            let is_refused = error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation);
            if is_refused {
                // The store works; this is about one mark.
                tracing::error!(%error, "a mark can't be stored");
            } else {
                shared.stored_badly(&error);
            }
            let (urgent, lazy): (Vec<Job>, Vec<Job>) = batch.into_iter().partition(|job| job.reply.is_some());
            if !is_refused && !shared.is_stopped() {
                shared.queue.put_back(lazy);
            }
            urgent.into_iter().for_each(|job| shared.complete(job, Err(&why), at_ms));
        }
    }
}

fn write_refusals(shared: &Shared, conn: &Connection, place: &Place) {
    for scope in &shared.scopes {
        let taken = scope.refusals.take();
        if taken.is_empty() {
            continue;
        }
        if let Err(failed) = store::commit(conn, place, std::iter::empty(), &taken, now_ms()) {
            scope.refusals.put_back(taken);
            shared.stored_badly(failed.error());
        }
    }
}
