//! What the front, the readers and the writer of one database have in common.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;

use crate::fence::{Claim, Ledger, Mark, Refusal, Token, Verdict};
use crate::problem::{Kind, Problem};
use crate::resource::Told;
use crate::resource::issuer::Trust;
use crate::resource::refusals::{Presenter, Refusals};

use super::answers::{Answer, Waiting};
use super::db::{Access, Db, Guard};
use super::fences::{DatedMark, FenceId, FenceSet, TableFences};
use super::limits::Limits;
use super::program::{Hint, Program, Run, StoredSql};
use super::queue::Queue;
use super::room::{Budget, Room};
use super::stream::{Stream, Streams};
use super::writer::Writer;

mod held;

pub use held::{InFlight, Lease, WriteLock};

/// One HTTP request on its way through the database threads.
#[derive(Debug)]
pub struct Work {
    /// The claims that it presents; empty for a request without a token.
    pub claims: Arc<[Claim]>,
    /// The fences of these claims.
    pub presented: FenceSet,
    /// Which of these claims may raise a mark.
    pub believed: Believed,
    /// Its stream.
    pub stream: Stream,
    /// What to run.
    pub program: Program,
    /// A guess at what that is.
    pub hint: Hint,
    /// How far it has come.
    pub run: Run,
    /// Where to come back to, when the writer has to run it again.
    pub checkpoint: Option<Checkpoint>,
    /// It has shown that it can't share a transaction.
    pub alone: bool,
    /// What was decided on its claims.
    pub verdict: Verdict,
    /// The first claim's mark before the request.
    pub previous: Option<Token>,
    /// Where the answer goes; gone once that is on its way.
    pub reply: Option<Waiting>,
    /// When it was queued.
    pub queued: Instant,
    /// The memory that it takes.
    pub room: Room,
    /// Its place in its fences' `in_flight`.
    pub in_flight: InFlight,
}

/// A request as it was when the writer took it up.
#[derive(Debug)]
pub struct Checkpoint {
    last_rowid: i64,
    /// The run and the stored SQL texts; `None` where nothing was run and nothing stored, as mostly.
    kept: Option<Box<(Run, StoredSql)>>,
}

impl Checkpoint {
    /// Of a request that has come so far.
    pub fn of(run: &Run, stored: &StoredSql, last_rowid: i64) -> Checkpoint {
        let is_new = run.is_new() && stored.is_empty();
        Checkpoint { last_rowid, kept: (!is_new).then(|| Box::new((run.clone(), stored.clone()))) }
    }

    /// Puts a request back to it.
    pub fn restore(self, work: &mut Work) {
        work.stream.last_rowid = self.last_rowid;
        match self.kept {
            Some(kept) => (work.run, work.stream.stored) = *kept,
            None => {
                work.run.begin_anew();
                work.stream.stored.clear();
            }
        }
    }
}

/// Which of a request's claims may raise a mark.
#[derive(Debug, Clone, Copy)]
pub struct Believed {
    /// Those on these fences: who issues their tokens has said so.
    pub fences: FenceSet,
    /// [`Shared::resets`] before that was asked; `None` where nobody needs to be asked. A word from before an operator's reset
    /// doesn't count: it could undo the reset with a token that is led by no more.
    pub resets: Option<u64>,
    /// What the history says of why the mark rose.
    pub why: Option<&'static str>,
}

/// The answer to one request.
#[derive(Debug)]
pub struct Reply {
    /// The body. It counts for the resource's memory until it is dropped.
    pub body: Bytes,
    /// What was decided on its claims.
    pub verdict: Verdict,
    /// The first claim's mark before the request.
    pub previous: Option<Token>,
}

/// What the writer is given.
pub enum Item {
    /// A request.
    Work(Box<Work>),
    /// Something of the gate's own, run between two transactions.
    Task(Box<dyn FnOnce(&mut Writer) + Send>),
}

/// The published state of one fence.
#[derive(Debug, Default)]
pub struct FenceState {
    mark: RwLock<Option<DatedMark>>,
    /// Requests with a claim on the fence that are with the writer.
    pub in_flight: AtomicU64,
    /// Requests refused since the gate started.
    pub refused: AtomicU64,
    /// Requests that the writer has carried out since then.
    pub writes: AtomicU64,
}

impl FenceState {
    /// The mark as last made durable.
    pub fn mark(&self) -> Option<DatedMark> {
        self.mark.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges a claim against the mark as last made durable, without copying it.
    pub fn judge(&self, claim: &Claim) -> Result<Verdict, Mark> {
        let mark = self.mark.read().unwrap_or_else(PoisonError::into_inner);
        let mark = mark.as_ref().map(|dated| &dated.mark);
        match Mark::judge(mark, claim.token, claim.holder.as_ref()) {
            Verdict::Admitted if claim.holder.is_some() && mark.is_some_and(|mark| mark.holder.is_none()) => {
                // The first holder named is bound to the token, which is a change to make durable.
                Ok(Verdict::Advanced)
            }
            verdict if verdict.admits() => Ok(verdict),
            _ => Err(mark.cloned().expect("only a mark can refuse")),
        }
    }

    /// Publishes a mark that is durable.
    pub fn publish(&self, mark: Option<DatedMark>) {
        *self.mark.write().unwrap_or_else(PoisonError::into_inner) = mark;
    }
}

/// Everything that the threads of one database share.
pub struct Shared {
    /// The resource's name, for logs and metrics.
    pub name: String,
    /// The database file.
    pub file: PathBuf,
    /// Whether stale writes are refused.
    pub enforce: bool,
    /// Who is asked before a mark rises.
    pub trust: Trust,
    /// How often an operator has reset a mark. Counted on the writer thread, with the mark.
    pub resets: AtomicU64,
    /// Its fences.
    pub fences: Arc<TableFences>,
    /// Its limits.
    pub limits: Arc<Limits>,
    /// The published state of each fence.
    pub states: Vec<FenceState>,
    /// Its streams.
    pub streams: Streams,
    /// Requests for the writer.
    pub writer: Queue<Item>,
    /// Requests for the readers.
    pub readers: Queue<Box<Work>>,
    /// Whether a client's transaction holds the write lock.
    pub locked: AtomicBool,
    /// Connections ready for transactions.
    spare: Mutex<Vec<Db>>,
    transactions: AtomicUsize,
    /// The memory that requests and answers may take.
    pub budget: Arc<Budget>,
    /// Who was refused how often.
    pub refusals: Refusals,
    /// Events for whoever watches.
    pub told: Told,
    /// What the writer runs just now, and the newer leaders that would stop it.
    running: Mutex<Succession>,
    /// Milliseconds since 1970 when the writer last failed to commit; 0 after a success.
    pub failing_since_ms: AtomicI64,
}

/// What the writer runs just now, and who comes after.
#[derive(Debug, Default)]
struct Succession {
    running: Option<Running>,
    /// The claims of newer leaders that are queued: what the writer takes up before it comes to them is stopped, too.
    coming: Vec<Arc<[Claim]>>,
}

#[derive(Debug)]
struct Running {
    claims: Arc<[Claim]>,
    guard: Arc<Guard>,
}

impl Running {
    /// Stops it where it is a predecessor of these claims.
    fn give_way(&self, claims: &[Claim]) {
        if claims.iter().any(|new| self.claims.iter().any(|old| old.fence == new.fence && old.token < new.token)) {
            self.guard.cancel();
        }
    }
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Item::Work(_) => "Work",
            Item::Task(_) => "Task",
        })
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).field("file", &self.file).finish_non_exhaustive()
    }
}

impl Shared {
    /// The state that the threads of one database start with.
    pub fn new(
        name: String,
        file: PathBuf,
        fences: TableFences,
        limits: Limits,
        enforce: bool,
        trust: Trust,
    ) -> Shared {
        Shared {
            name,
            file,
            enforce,
            trust,
            resets: AtomicU64::new(0),
            states: fences.names().iter().map(|_| FenceState::default()).collect(),
            fences: Arc::new(fences),
            streams: Streams::new(limits.streams),
            writer: Queue::new(limits.queue_requests),
            readers: Queue::new(limits.queue_requests),
            budget: Budget::new(limits.queue_bytes),
            limits: Arc::new(limits),
            locked: AtomicBool::new(false),
            spare: Mutex::new(Vec::new()),
            transactions: AtomicUsize::new(0),
            refusals: Refusals::default(),
            told: Told::default(),
            running: Mutex::default(),
            failing_since_ms: AtomicI64::new(0),
        }
    }

    /// Judges claims against the published marks: before the body is read, before anything is queued.
    ///
    /// `Ok(true)`: a mark rises, or is bound to a holder, which is the writer's to do.
    ///
    /// # Errors
    /// A refusal. It stands: published marks are durable, and they only rise.
    pub fn judge_at_door(&self, claims: &[Claim]) -> Result<bool, Refusal> {
        let mut changes = false;
        for claim in claims {
            let id = self.fences.id(&claim.fence).expect("a claim's fence was checked where it was read");
            match self.states[id].judge(claim) {
                Ok(verdict) => changes |= verdict == Verdict::Advanced,
                Err(highest) => {
                    let verdict = Mark::judge(Some(&highest), claim.token, claim.holder.as_ref());
                    let refusal = Refusal {
                        verdict,
                        fence: claim.fence.clone(),
                        presented: claim.token,
                        holder: claim.holder.clone(),
                        highest,
                    };
                    if self.enforce {
                        self.count(&refusal);
                        return Err(refusal);
                    }
                }
            }
        }
        Ok(changes)
    }

    /// The published mark of a claim's fence.
    pub fn mark(&self, claim: &Claim) -> Option<DatedMark> {
        self.states[self.fences.id(&claim.fence)?].mark()
    }

    /// The fences of these claims whose published mark is below the token.
    pub fn above(&self, claims: &[Claim]) -> FenceSet {
        let mut above = FenceSet::default();
        for claim in claims {
            let is_above = self.mark(claim).is_none_or(|dated| dated.mark.token < claim.token);
            if let Some(id) = self.fences.id(&claim.fence).filter(|_| is_above) {
                above.insert(id);
            }
        }
        above
    }

    /// What may raise a mark of those requests for which nobody was asked.
    pub fn unasked(&self) -> Believed {
        let resets = self.trust.is_some().then(|| self.resets.load(Ordering::Relaxed));
        Believed { fences: FenceSet::default(), resets, why: None }
    }

    /// Counts a refusal.
    pub fn count(&self, refusal: &Refusal) {
        let Refusal { verdict, fence, presented, holder, .. } = refusal.clone();
        self.count_presenter(Presenter { fence, verdict, token: presented, holder });
    }

    /// Counts a refusal that wasn't a mark's.
    pub fn count_presenter(&self, presenter: Presenter) {
        if let Some(id) = self.fences.id(&presenter.fence) {
            self.states[id].refused.fetch_add(1, Ordering::Relaxed);
        }
        self.refusals.count_presenter(presenter);
    }

    /// Counts requests of these fences that the writer has carried out. It does so once for many, so that its thread seldom waits
    /// for a line of memory that the threads of connections use.
    pub fn count_writes(&self, presented: FenceSet, count: u64) {
        presented.iter().for_each(|id| {
            self.states[id].writes.fetch_add(count, Ordering::Relaxed);
        });
    }

    /// Counts a request in its fences' `in_flight`.
    pub fn in_flight(self: &Arc<Shared>, presented: FenceSet) -> InFlight {
        let counted = InFlight { shared: Arc::clone(self), presented };
        counted.each(|state| state.in_flight.fetch_add(1, Ordering::Relaxed));
        counted
    }

    /// A connection for a stream: for a request that is run by itself, and longer where it takes a place with [`Lease::take`].
    ///
    /// # Errors
    /// [`Kind::Unavailable`] where the file can't be opened.
    pub fn own_connection(self: &Arc<Shared>) -> Result<(Db, Lease), Problem> {
        let lease = Lease { shared: Arc::clone(self), taken: false };
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match spare {
            Some(db) => db,
            None => Db::open(&self.file, Access::Write, &self.fences, &self.limits)
                .map_err(|error| Problem::new(Kind::Unavailable, error.to_string()))?,
        };
        db.guard().revive();
        Ok((db, lease))
    }

    /// The number of transactions open.
    pub fn transactions(&self) -> usize {
        self.transactions.load(Ordering::Relaxed)
    }

    /// Takes the write lock for a client's transaction. Only the writer thread calls this, and only where it is free.
    pub fn take_lock(self: &Arc<Shared>) -> WriteLock {
        let before = self.locked.swap(true, Ordering::SeqCst);
        debug_assert!(!before, "the writer thread looks before it takes the lock");
        WriteLock { shared: Arc::clone(self) }
    }

    fn succession(&self) -> MutexGuard<'_, Succession> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what the writer runs from here on.
    pub fn set_running(&self, running: Option<(Arc<[Claim]>, Arc<Guard>)>) {
        let mut succession = self.succession();
        // Under the same lock that a canceller holds, so that no later request is hit by what was meant for this one.
        if let Some(old) = succession.running.take() {
            old.guard.revive();
        }
        if let Some((claims, guard)) = running {
            let running = Running { claims, guard };
            succession.coming.iter().for_each(|claims| running.give_way(claims));
            succession.running = Some(running);
        }
    }

    /// Announces a newer leader's request: its predecessors' statements are stopped until the writer has come to it.
    pub fn announce(&self, claims: &Arc<[Claim]>) {
        let mut succession = self.succession();
        if let Some(running) = &succession.running {
            running.give_way(claims);
        }
        succession.coming.push(Arc::clone(claims));
    }

    /// The writer has come to this request, or never will.
    pub fn arrived(&self, claims: &Arc<[Claim]>) {
        let mut succession = self.succession();
        succession.coming.retain(|coming| !Arc::ptr_eq(coming, claims));
    }

    /// Ends idle transactions that began with a claim that `ledger` no longer admits. Returns how many.
    pub fn end_deposed(&self, ledger: &Ledger) -> usize {
        if !self.enforce {
            return 0;
        }
        self.streams.end_where(|claims| ledger.judge(claims).err().map(deposed))
    }

    /// Ends a request: its stream goes back into the table, its answer to the client.
    pub fn finish(&self, mut work: Box<Work>, outcome: Result<(), Problem>) {
        let waiting = work.reply.take();
        let answer = self.end(work, outcome);
        if let Some(waiting) = waiting {
            waiting.tell(answer);
        }
    }

    /// Ends a request, and leaves it to the caller to tell its answer.
    pub fn end(&self, mut work: Box<Work>, outcome: Result<(), Problem>) -> Answer {
        let result = outcome.map(|()| {
            let closed = work.run.is_closed();
            let mut stream = std::mem::take(&mut work.stream);
            if stream.own.as_ref().is_some_and(|own| closed || (!own.in_transaction() && !own.sticky)) {
                stream.own = None;
            }
            let inside = stream.own.as_ref().filter(|own| own.in_transaction());
            let stale = inside.and_then(|own| self.published_refusal(&own.claims));
            if let Some(refusal) = stale {
                stream.own = None;
                stream.ended = Some(Box::new(deposed(refusal)));
            }
            let baton = if closed {
                self.streams.forget(&stream);
                None
            } else {
                self.streams.put(stream)
            };
            let body = work.run.body(work.program.format, baton.as_deref());
            (body, work.verdict, work.previous)
        });
        if result.is_err() {
            // An HTTP error ends the stream, as the specification says; its transaction is rolled back with it.
            self.streams.forget(&work.stream);
            work.stream.own = None;
        }
        self.arrived(&work.claims);
        let Work { room, in_flight, .. } = *work;
        let result = result.map(|(body, verdict, previous)| Reply { body: room.hold(body), verdict, previous });
        drop(in_flight);
        result
    }

    fn published_refusal(&self, claims: &[Claim]) -> Option<Refusal> {
        if !self.enforce {
            return None;
        }
        claims.iter().find_map(|claim| {
            let highest = self.states[self.fences.id(&claim.fence)?].judge(claim).err()?;
            let verdict = Mark::judge(Some(&highest), claim.token, claim.holder.as_ref());
            let Claim { fence, token, holder } = claim.clone();
            Some(Refusal { verdict, fence, presented: token, holder, highest })
        })
    }

    /// A write to this fence came without a token for it.
    pub fn missing(&self, fence: FenceId) -> Problem {
        let name = self.fences.name(fence);
        let mark = self.states[fence].mark();
        let why = format!("this writes to fence {name}, and the request presents no token for it; nothing was applied");
        Problem::new(Kind::TokenRequired, why).about(name, mark.as_ref().map(|dated| &dated.mark))
    }
}

/// What the owner of a transaction is told that was rolled back because a newer leader came.
pub fn deposed(refusal: Refusal) -> Problem {
    let mut problem = Problem::from(refusal);
    problem.detail.push_str("; the open transaction was rolled back");
    problem
}
