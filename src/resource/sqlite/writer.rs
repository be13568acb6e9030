//! The one thread that writes.
//!
//! It takes all the requests that are waiting, runs each in a shared transaction, commits once, and only then answers them.
//!
//! **Invariants.**
//! 1. *One total order.* Every mark rises on this thread, and every write is run on it. A claim is judged here, against the
//!    ledger, in the order in which the writes commit.
//! 2. *Check, mark and write in one transaction.* A shared transaction begins (`BEGIN IMMEDIATE`, which takes SQLite's write lock),
//!    makes sure that no other connection changed the database since (else the marks are read again), then judges and writes.
//! 3. *The ledger is what is committed.* Where a transaction is rolled back, its admissions are taken back, too. Marks are
//!    published, and answers sent, after the commit.
//! 4. *A deposed leader's transaction doesn't make its successor wait.* Before a mark rises, idle transactions below it are rolled
//!    back; what runs below it just now was told to stop when its successor's request was queued.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use metrics::counter;

use crate::fail::{self, Point};
use crate::fence::{Admission, Claim, Ledger, Refusal};
use crate::files::Place;
use crate::problem::{Kind, Problem};

use super::commit::{Group, lost, moved, other_claims, partly};
use super::db::{Access, Db};
use super::gather::Linger;
use super::group::GroupExec;
use super::once::{Once, unusable};
use super::own::{OwnExec, unavailable};
use super::program::Halt;
use super::queue::{Laned as _, Spent};
use super::raw::{self, SqliteError};
use super::sandbox::JOB_SAVEPOINT;
use super::shared::{Checkpoint, Item, Shared, Work};
use super::store;
use super::unadmitted::Unadmitted;

/// Most requests that are taken from the queue at once: what comes after them may be of a fence whose turn is before theirs.
pub(super) const PIECE_MAX: usize = 128;
/// What the owner of a transaction is told that was ended for a newer leader whose mark hasn't risen.
const ROLLED_BACK: &str = "the transaction was rolled back because a newer leader came";
/// How often the writer looks after what nobody asks for: expired streams, counted refusals.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// The writer's state.
#[derive(Debug)]
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) db: Db,
    pub(super) place: Place,
    pub(super) ledger: Ledger,
    pub(super) data_version: i64,
    /// The open shared transaction.
    pub(super) group: Option<Group>,
    /// Requests that wait until a client's transaction ends (`parked.rs`).
    pub(super) parked: VecDeque<Box<Work>>,
    /// How long requests have taken that the queue hasn't been told of yet.
    pub(super) spent: Spent,
    /// Whether it waits for more.
    pub(super) linger: Linger,
    pub(super) refusals_at: Instant,
    pub(super) ticked_at: Instant,
    pub(super) once: Once,
}

impl Writer {
    /// Opens the writer's connection and reads the marks.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn open(shared: &Arc<Shared>) -> Result<Writer, SqliteError> {
        let db = Db::open(&shared.file, Access::Write, &shared.fences, &shared.limits)?;
        // Read from once, so that its log is there.
        store::data_version(&db)?;
        let place = Place::of(&shared.file).map_err(|error| moved(error.to_string()))?;
        let now = Instant::now();
        let mut writer = Writer {
            shared: Arc::clone(shared),
            db,
            place,
            ledger: Ledger::default(),
            data_version: 0,
            group: None,
            parked: VecDeque::new(),
            spent: Spent::default(),
            linger: Linger::default(),
            refusals_at: now,
            ticked_at: now,
            once: Once::new(&shared.limits, shared.states.len()),
        };
        writer.reload()?;
        writer.remember()?;
        fail::at(Point::SqliteLoaded);
        Ok(writer)
    }

    /// Runs until the queue is closed and empty.
    pub fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        loop {
            let until = self.parked.front().map_or(self.ticked_at + TICK, |work| {
                (work.queued + shared.limits.lock_wait).min(self.ticked_at + TICK)
            });
            let Some(items) = shared.writer.take(PIECE_MAX, until, &mut self.spent) else { break };
            self.unpark();
            self.gather(items);
            self.commit();
            self.tick();
        }
        fail::at(Point::SqliteStopping);
        for work in std::mem::take(&mut self.parked) {
            shared.finish(work, Err(Problem::new(Kind::Unavailable, "the gate is stopping; nothing was applied")));
        }
        shared.refusals.fresh();
        self.flush_refusals(&shared.refusals.steady());
    }

    /// Judges one request and runs it, in the shared transaction or alone.
    pub(super) fn process(&mut self, mut work: Box<Work>) {
        let shared = Arc::clone(&self.shared);
        shared.arrived(&work.claims);
        fail::at(Point::SqliteTaken);
        if !shared.enforce {
            self.let_stale_claims_pass(&mut work);
        }
        let admission = match self.ledger.judge(&work.claims) {
            Ok(admission) => admission,
            Err(refusal) => return self.refuse(work, refusal),
        };
        if let Err(problem) = self.doubt(&work, &admission) {
            return self.done(work, Err(problem));
        }
        // A claim takes effect whatever becomes of the rest.
        if admission.changes.is_empty()
            && !work.program.requests.is_empty()
            && let Err(problem) = shared.budget.may_begin(work.lane())
        {
            return self.done(work, Err(problem));
        }
        let holds_lock = work.stream.own.as_ref().is_some_and(|own| own.lock.is_some());
        if !holds_lock && shared.locked.load(Ordering::SeqCst) {
            if admission.changes.iter().any(|change| change.advances()) {
                let mut after = self.ledger.clone();
                admission.changes.iter().for_each(|change| after.put(change.fence.clone(), Some(change.after.clone())));
                shared.end_deposed(&after);
                fail::at(Point::TxDeposed);
            }
            if shared.locked.load(Ordering::SeqCst) {
                return self.park(work);
            }
        }
        if holds_lock && self.successor_waits(&work) {
            work.stream.own = None;
            work.stream.ended = Some(Box::new(Problem::new(Kind::StreamExpired, ROLLED_BACK)));
            // The successor first, so that this one is judged by the mark that it raises.
            self.unpark();
            return self.process(work);
        }
        if holds_lock {
            // Its transaction has SQLite's write lock: a mark that has to rise for another fence would wait for itself.
            return self.process_holder(work, &admission);
        }
        let is_open = self.group.is_some();
        if let Err(error) = self.begin() {
            return shared.finish(work, Err(unavailable(&error)));
        }
        // Beginning has looked whether the marks are still those that it was judged by: it is judged anew.
        let admitted = if is_open { self.apply(&mut work, admission) } else { self.admit(&mut work) };
        if let Err(why) = admitted {
            return self.turn_away(work, why);
        }
        if let Err(refusal) = self.judge_bound(&work) {
            work.stream.own = None;
            work.stream.ended = Some(Box::new(super::shared::deposed(refusal)));
        }
        // It stays on the stream: where this shared transaction has to be run again, it must be found again, or what the client
        // meant for the middle of its transaction would be carried out by itself.
        if let Some(ended) = work.stream.ended.clone() {
            let ended = self.as_it_is(*ended);
            return self.done(work, Err(ended));
        }
        if work.key.is_some() {
            return self.run_once(work);
        }
        let alone = work.alone || work.stream.own.is_some() || work.hint.stays_open;
        if alone { self.run_alone(work) } else { self.run_shared(work) }
    }

    /// What the owner of a transaction is told that was ended for a newer leader. That one may have been turned away since: then its mark has
    /// not risen, nobody is replaced, and whoever comes with the same token again is let in.
    fn as_it_is(&self, ended: Problem) -> Problem {
        let (Some(fence), Some(highest)) = (&ended.fence, ended.highest) else { return ended };
        let has_risen = self.ledger.get(fence).is_some_and(|mark| mark.token >= highest);
        if has_risen { ended } else { Problem::new(Kind::StreamExpired, ROLLED_BACK) }
    }

    /// Whether a newer leader waits for the transaction of this request, which was on its way here when that one looked for idle
    /// transactions to end.
    fn successor_waits(&self, work: &Work) -> bool {
        let bound = work.stream.own.as_ref().map_or(&[][..], |own| &own.claims[..]);
        let deposes = |new: &Claim| bound.iter().any(|old| old.fence == new.fence && old.token < new.token);
        self.parked.iter().any(|parked| parked.claims.iter().any(deposes))
    }

    /// A request of the stream whose transaction holds the write lock.
    fn process_holder(&mut self, mut work: Box<Work>, admission: &Admission) {
        if !admission.changes.is_empty() {
            // It presents a higher token, or names a holder, in the middle of a transaction that began otherwise. The transaction
            // is bound to what it began with: it ends here, and the claim takes effect.
            let bound = work.stream.own.take().map(|own| Arc::clone(&own.claims)).unwrap_or_default();
            if let Err(error) = self.begin() {
                return self.shared.finish(work, Err(unavailable(&error)));
            }
            return match self.admit(&mut work) {
                Ok(()) => {
                    let ended = self.ledger.judge(&bound).err().map_or_else(other_claims, super::shared::deposed);
                    work.stream.ended = Some(Box::new(ended.clone()));
                    self.done(work, Err(ended))
                }
                Err(why) => self.turn_away(work, why),
            };
        }
        if let Err(refusal) = self.judge_bound(&work) {
            work.stream.own = None;
            return self.shared.finish(work, Err(super::shared::deposed(refusal)));
        }
        self.run_alone(work);
    }

    /// Drops the claims that would be refused, so that the rest of the writer doesn't see them.
    fn let_stale_claims_pass(&self, work: &mut Work) {
        let stands = |claim: &&Claim| match self.ledger.judge(std::slice::from_ref(claim)) {
            Ok(_) => true,
            Err(refusal) => {
                self.shared.count(&refusal);
                false
            }
        };
        work.claims = work.claims.iter().filter(stands).cloned().collect();
    }

    /// Whether the claims that the stream's transaction began with still stand.
    fn judge_bound(&self, work: &Work) -> Result<(), Refusal> {
        match &work.stream.own {
            Some(own) if own.in_transaction() && self.shared.enforce => self.ledger.judge(&own.claims).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Admits a request's claims in the shared transaction: raises the marks in the ledger and in the database.
    pub(super) fn admit(&mut self, work: &mut Work) -> Result<(), Unadmitted> {
        let admission = self.ledger.judge(&work.claims).map_err(Unadmitted::Refused)?;
        self.doubt(work, &admission).map_err(Unadmitted::Doubted)?;
        self.apply(work, admission)
    }

    /// Lets an admission take effect that was judged in this shared transaction, with nothing changed since.
    fn apply(&mut self, work: &mut Work, admission: Admission) -> Result<(), Unadmitted> {
        self.ledger.apply(&admission);
        work.verdict = admission.verdict;
        work.previous = match (admission.changes.first(), work.claims.first()) {
            (Some(change), Some(claim)) if change.fence == claim.fence => change.before.as_ref().map(|mark| mark.token),
            (_, claim) => claim.map(|claim| claim.token),
        };
        if admission.changes.is_empty() {
            return Ok(());
        }
        self.shared.end_deposed(&self.ledger);
        let Some(group) = &mut self.group else { return Ok(()) };
        let at_ms = group.at_ms;
        let why = work.believed.why;
        let write = |change| match fail::skips(Point::SqliteMarkWrite) {
            true => Ok(()),
            false => store::write_change(&self.db, change, why, at_ms),
        };
        let written = admission.changes.iter().try_for_each(write);
        fail::at(Point::SqliteMarkWritten);
        group.admissions.push(admission);
        written.map_err(Unadmitted::Storage)
    }

    /// Whether a mark would rise for a claim that nobody vouches for, where that is asked for. It was asked about before the
    /// request was queued, if it was above the mark then: an operator has set the mark to less since.
    fn doubt(&self, work: &Work, admission: &Admission) -> Result<(), Problem> {
        let Some(resets) = work.believed.resets else { return Ok(()) };
        let is_fresh = resets == self.shared.resets.load(Ordering::Relaxed);
        let is_believed =
            |fence: &str| is_fresh && self.shared.fences.id(fence).is_some_and(|id| work.believed.fences.contains(id));
        match admission.changes.iter().find(|change| change.advances() && !is_believed(&change.fence)) {
            None => Ok(()),
            Some(change) => {
                let why = format!("the mark of fence {} was set anew meanwhile; nothing was applied", change.fence);
                Err(Problem::new(Kind::Unavailable, why).about(&change.fence, change.before.as_ref()))
            }
        }
    }

    /// Notes how a request will be answered: after the commit, or now where nothing is open.
    pub(super) fn done(&mut self, work: Box<Work>, outcome: Result<(), Problem>) {
        match &mut self.group {
            Some(group) => {
                group.bytes += work.run.len_bytes();
                group.done.push((work, outcome));
            }
            None => self.shared.finish(work, outcome),
        }
    }

    pub(super) fn run_shared(&mut self, mut work: Box<Work>) {
        let shared = Arc::clone(&self.shared);
        if work.program.requests.is_empty() {
            return self.done(work, Ok(()));
        }
        // Virtual tables write what they have pending when a savepoint begins: where tables have fences of their own, that must
        // happen in the gate's name, and not in that of the next client, whose token may be for another fence.
        // One with a key stays one transaction, whatever it can't share.
        let sole = work.alone;
        let savepoint = work.hint.several || sole || shared.fences.has_several();
        if savepoint && let Err(error) = self.db.own(&format!("SAVEPOINT {JOB_SAVEPOINT}")) {
            return self.fail(&error, Some(work));
        }
        raw::set_last_insert_rowid(&self.db.conn, work.stream.last_rowid);
        let mut stored = std::mem::take(&mut work.stream.stored);
        work.checkpoint = Some(Checkpoint::of(&work.run, &stored, work.stream.last_rowid));
        shared.set_running(Some((Arc::clone(&work.claims), Arc::clone(self.db.guard()))));
        let mut exec = GroupExec::new(&shared, &mut self.db, work.presented, sole);
        let mut result = work.run.advance(&work.program, &mut stored, &mut exec);
        if result.is_ok() && exec.in_tx {
            let open = || Halt::Refuse(Box::new(unusable("no transaction can stay open")));
            result = Err(if sole { open() } else { Halt::Alone });
        }
        let (dirty, wrote, storage) = (exec.dirty, exec.wrote, exec.storage.take());
        fail::at(Point::SqliteRun);
        shared.set_running(None);
        work.stream.stored = stored;
        work.stream.last_rowid = self.db.conn.last_insert_rowid();
        if let Some(error) = storage {
            return self.fail(&error, Some(work));
        }
        let undo = result.is_err();
        // Gone where SQLite rolled everything back by itself.
        let open = !self.db.conn.is_autocommit();
        if open && savepoint {
            let undone = if undo { self.db.own(&format!("ROLLBACK TO {JOB_SAVEPOINT}")) } else { Ok(()) };
            if let Err(error) = undone.and_then(|()| self.db.own(&format!("RELEASE {JOB_SAVEPOINT}"))) {
                return self.fail(&error, Some(work));
            }
        } else if undo && (dirty || !open) {
            // Nothing to go back to for this request alone: the whole transaction is run again without it.
            self.again_without_it();
        }
        match result {
            Ok(()) => match self.keep(&work, wrote) {
                Ok(()) => self.done(work, Ok(())),
                Err(error) => self.fail(&error, Some(work)),
            },
            Err(Halt::Refuse(problem)) if sole || self.group.is_some() => self.done(work, Err(*problem)),
            Err(halt) => {
                restore(&mut work);
                if matches!(halt, Halt::Again) {
                    return shared.writer.push_again(Item::Work(work));
                }
                work.alone = true;
                match work.key {
                    _ if self.group.is_none() => self.process(work),
                    Some(_) => self.run_sole(work),
                    None => self.run_alone(work),
                }
            }
        }
    }

    /// Rolls the shared transaction back and runs its requests once more. The one that spoiled it isn't among them.
    fn again_without_it(&mut self) {
        counter!("fencegate_sqlite_transactions_repeated_total", "resource" => self.shared.name.clone()).increment(1);
        let done = self.group.as_mut().map(|group| std::mem::take(&mut group.done)).unwrap_or_default();
        self.rollback();
        for (mut work, _) in done {
            restore(&mut work);
            self.process(work);
        }
        self.commit();
    }

    /// Runs a request by itself, after the shared transaction, with whatever its claims changed, is committed.
    fn run_alone(&mut self, mut work: Box<Work>) {
        if !self.commit() {
            return self.not_durable(work);
        }
        fail::at(Point::AloneClaimed);
        let shared = Arc::clone(&self.shared);
        if let Err(why) = self.place.check() {
            return shared.finish(work, Err(unavailable(&moved(why))));
        }
        let mut stored = std::mem::take(&mut work.stream.stored);
        work.checkpoint = Some(Checkpoint::of(&work.run, &stored, work.stream.last_rowid));
        if work.stream.own.is_none() {
            let connection = shared.own_connection().and_then(|(db, mut lease)| {
                // Where it will need the place, before its first statement is applied.
                if work.hint.begins { lease.take().map(|()| (db, lease)) } else { Ok((db, lease)) }
            });
            match connection {
                Ok((db, lease)) => work.stream.own = Some(super::stream::Own::new(db, lease)),
                Err(problem) => return shared.finish(work, Err(problem)),
            }
        }
        let was_inside = work.stream.own.as_ref().is_some_and(|own| own.in_transaction());
        let guard = work.stream.own.as_mut().map(|own| Arc::clone(own.db().guard()));
        shared.set_running(guard.map(|guard| (Arc::clone(&work.claims), guard)));
        let (claims, presented) = (Arc::clone(&work.claims), work.presented);
        let mut exec = OwnExec {
            shared: &shared,
            stream: &mut work.stream,
            read: None,
            claims: &claims,
            presented,
            on_writer: true,
            once: false,
            applied: false,
            until: Instant::now() + shared.limits.transaction_time,
        };
        let result = work.run.advance(&work.program, &mut stored, &mut exec);
        let applied = exec.applied;
        shared.set_running(None);
        work.stream.stored = stored;
        let result = match self.place.check() {
            Err(why) if applied => Err(Halt::Refuse(Box::new(lost(&why)))),
            _ => result,
        };
        match result {
            Ok(()) => {
                shared.count_writes(presented, 1);
                shared.finish(work, Ok(()));
            }
            Err(Halt::Refuse(problem)) if applied => shared.finish(work, Err(partly(&problem.detail()))),
            Err(Halt::Refuse(problem)) => shared.finish(work, Err(*problem)),
            Err(Halt::Again) if applied => shared.finish(work, Err(partly("a newer leader came"))),
            Err(Halt::Again) => {
                // Its successor is in the queue before it, so it will be refused when it comes again; and where the successor
                // was turned away, it is run again, unless it was in the middle of a transaction, which is gone.
                work.stream.own = None;
                work.stream.ended = was_inside.then(|| Box::new(Problem::new(Kind::StreamExpired, ROLLED_BACK)));
                restore(&mut work);
                shared.writer.push_again(Item::Work(work));
            }
            Err(halt @ (Halt::Sql(_) | Halt::Move | Halt::Alone)) => {
                tracing::error!(?halt, "a request run by itself can't end like this");
                shared.finish(work, Err(Problem::new(Kind::Internal, "the request could not be run")));
            }
        }
    }
}

/// Puts a request back to where the writer took it up.
fn restore(work: &mut Work) {
    if let Some(checkpoint) = work.checkpoint.take() {
        checkpoint.restore(work);
    }
}
