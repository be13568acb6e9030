//! The fences of all HTTP resources of one gate: judged, drained, quarantined, remembered.
//!
//! [`Fences::admit`] is what every request passes. On the steady path, a write whose token is the mark's, it finds the fence
//! without a lock ([`super::index`]), takes that fence's own lock, asks its state machine ([`crate::fence::drain`]) and notes in the
//! crash journal ([`super::journal`]) that it is dirty: no disk, no system call, no lock that other fences share. A mark that
//! rises is stored by a thread of its own (`worker.rs`), many in one transaction, and completed there: a request that is dropped
//! changes nothing of what it began.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::fail::{self, Point};
use crate::fence::drain::{Moment, Outcome, Pass, Policy, Purpose, Store, Woken};
use crate::fence::{Claim, Mark, Token, Verdict};
use crate::lock::LockFile;
use crate::problem::{Kind, Problem};
use crate::resource::issuer::{self, Trust, Word};

use super::ask::{Question, Said};
use super::state::Shared;

pub use super::store::OpenError;

/// What the fences of one HTTP resource have in common.
pub struct Scope {
    /// The resource's name, for metrics.
    pub resource: String,
    /// How its fences are run.
    pub policy: Policy,
    /// Whether this resource can have a fence of this name. A fence that several can have is one and the same.
    pub owns: Box<dyn Fn(&str) -> bool + Send + Sync>,
    /// Who is asked before a mark rises.
    pub trust: Trust,
}

/// The fences of all HTTP resources of one gate.
pub struct Fences {
    pub(super) shared: Arc<Shared>,
    handles: Box<[Arc<Handle>]>,
    pub(super) reader: Arc<Mutex<Connection>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    lock: Mutex<Option<LockFile>>,
}

/// A reference of one thread's own. Counting the writes in flight on one reference would make all threads wait for one line of
/// memory.
#[repr(align(128))]
struct Handle {
    shared: Arc<Shared>,
}

/// How many threads have a [`Handle`] of their own.
const HANDLES: usize = 32;

/// A request that may go on.
#[derive(Debug)]
pub struct Admitted {
    /// [`Verdict::Admitted`] or [`Verdict::Advanced`].
    pub verdict: Verdict,
    /// The mark before; `None` where this was the fence's first.
    pub previous: Option<Token>,
    /// For [`Purpose::Write`]: the right to forward it.
    pub write: Option<InFlight>,
}

/// What [`Fences::ask`] comes to.
pub enum First<'a> {
    /// It may go on.
    Admitted(Admitted),
    /// It may not.
    Refused(Problem),
    /// That isn't known yet.
    Later(Later<'a>),
}

/// What a request has to wait for. Dropping it is giving up.
pub struct Later<'a> {
    said: Said<'a>,
    failures: u64,
}

/// One write that was let through and is not finished. Dropping it counts as [`Outcome::Unknown`]: the safe side.
#[must_use]
pub struct InFlight {
    handle: Arc<Handle>,
    pass: Option<Pass>,
    id: u32,
    scope: u16,
    /// Where it waits for its replacement, from the first time it does.
    place: AtomicU32,
}

/// No place.
const NOWHERE: u32 = u32::MAX;
/// How long a request waits for its mark to be stored.
pub(super) const STORE_WAIT: Duration = Duration::from_secs(10);
/// How much longer than the drain a request waits for writes that should have been cut off.
const OVERDUE_MS: u64 = 1_000;

impl Fences {
    /// Opens the fences of this data directory: locks them, brings their schema up to date, reads their marks, quarantines those
    /// that may have had a write in flight when the gate last ended, and starts the thread that stores.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: &Path, scopes: Vec<Scope>) -> Result<Arc<Fences>, OpenError> {
        let opened = super::load::load(dir, scopes)?;
        let shared = Arc::new(opened.shared);
        let (for_thread, conn, place) = (Arc::clone(&shared), opened.writer, opened.place);
        let run = move || super::worker::run(&for_thread, &conn, &place);
        let thread = crate::resource::threads::spawn("fg-fences", run)
            .map_err(|error| OpenError::file(&dir.join(super::store::FILE_NAME), &error))?;
        let handles = (0..HANDLES).map(|_| Arc::new(Handle { shared: Arc::clone(&shared) })).collect();
        Ok(Arc::new(Fences {
            shared,
            handles,
            reader: Arc::new(Mutex::new(opened.reader)),
            thread: Mutex::new(Some(thread)),
            lock: Mutex::new(Some(opened.lock)),
        }))
    }

    /// Judges a claim, raises the mark where the token is higher, and waits until older writes are out of the way.
    ///
    /// Dropping the future at any time is safe: an advance that it began completes all the same, and a write that it was about to
    /// let through is not.
    ///
    /// # Errors
    /// A refusal; a fence that the resource doesn't have ([`Kind::NotFound`]); a quarantine; a store that doesn't work or keep up.
    pub async fn admit(self: &Arc<Fences>, scope: usize, claim: &Claim, purpose: Purpose) -> Result<Admitted, Problem> {
        match self.ask(scope, claim, purpose) {
            First::Admitted(admitted) => Ok(admitted),
            First::Refused(problem) => Err(problem),
            // Rare, and large: not in every request's future.
            First::Later(later) => Box::pin(self.wait(scope, claim, purpose, later)).await,
        }
    }

    /// The beginning of [`Fences::admit`]: mostly it is all of it.
    pub fn ask(&self, scope: usize, claim: &Claim, purpose: Purpose) -> First<'_> {
        let asking = Asking::new(self, scope_number(scope), claim, purpose);
        match asking.ask() {
            Said::Go(id, pass) => First::Admitted(asking.admitted(id, pass)),
            Said::No(problem) => First::Refused(issuer::explain(asking.trust(), problem)),
            said => First::Later(Later { said, failures: asking.failures }),
        }
    }

    /// The rest of it, where more is needed.
    ///
    /// # Errors
    /// As [`Fences::admit`].
    pub async fn wait(
        &self,
        scope: usize,
        claim: &Claim,
        purpose: Purpose,
        later: Later<'_>,
    ) -> Result<Admitted, Problem> {
        let asking = Asking::new(self, scope_number(scope), claim, purpose);
        Asking { failures: later.failures, ..asking }.persevere(later.said).await
    }

    /// Raises a mark to the token of a leader that was elected, where it is higher, and says why in the history. Returns when the
    /// mark is durable: true where it rose.
    ///
    /// # Errors
    /// As [`Fences::admit`], but for a quarantine.
    pub async fn succeed(&self, scope: usize, claim: &Claim, why: &'static str) -> Result<bool, Problem> {
        let scope = scope_number(scope);
        let resets = self.shared.resets.load(Ordering::Relaxed);
        let asking = Asking::new(self, scope, claim, Purpose::Read);
        Asking { believed: Some(Box::new((resets, claim.clone()))), why: Some(why), ..asking }.raise().await
    }

    fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.handles[thread_number() % HANDLES])
    }

    /// Stops: nothing is let through any more, what waits is stored, and the journal is closed, so that only fences whose writes
    /// are in flight even now start quarantined. Blocks until that is done. To be called any number of times.
    pub fn stop(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(running) = thread.take() else { return };
        self.shared.stop();
        self.shared.queue.close();
        let _ = running.join();
        fail::at(Point::HttpStopStored);
        self.shared.close_journal();
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Drop for Fences {
    fn drop(&mut self) {
        self.stop();
    }
}

fn scope_number(scope: usize) -> u16 {
    u16::try_from(scope).expect("a scope's number comes from the list that was given")
}

/// This thread's number, from 0.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// One request on its way through [`Fences::admit`].
struct Asking<'f, 'c> {
    fences: &'f Fences,
    scope: u16,
    claim: &'c Claim,
    purpose: Purpose,
    failures: u64,
    /// What who issues its token says that it is, and how many resets there had been before that was asked. Rare, and large.
    believed: Option<Box<(u64, Claim)>>,
    why: Option<&'static str>,
    /// It raised the mark, from this one.
    advanced: Option<Option<Token>>,
}

impl<'f, 'c> Asking<'f, 'c> {
    fn new(fences: &'f Fences, scope: u16, claim: &'c Claim, purpose: Purpose) -> Asking<'f, 'c> {
        let failures = fences.shared.failures.load(Ordering::Relaxed);
        Asking { fences, scope, claim, purpose, failures, believed: None, why: None, advanced: None }
    }

    fn ask(&self) -> Said<'f> {
        let (believed, claim) = match self.believed.as_deref() {
            Some((resets, claim)) => (Some(*resets), claim),
            None => (None, self.claim),
        };
        let (scope, purpose, failures, why) = (self.scope, self.purpose, self.failures, self.why);
        self.fences.shared.ask(&Question { scope, claim, purpose, failures, believed, why })
    }

    fn trust(&self) -> &'f Trust {
        &self.fences.shared.scopes[usize::from(self.scope)].given.trust
    }

    /// Asks who issues the token before the mark, which is this now, may rise to it. No lock is held, and nobody else waits.
    async fn doubt(&mut self, mark: Option<Mark>) -> Result<(), Problem> {
        let Some(issuer) = self.trust() else { return Ok(()) };
        // Read before asking: an answer to a question from before a reset doesn't count after it.
        let resets = self.fences.shared.resets.load(Ordering::Relaxed);
        match issuer::ask(&**issuer, self.claim, mark.as_ref()).await? {
            Word::Believed(claim) => self.believed = Some(Box::new((resets, claim))),
            Word::Succeeded(leader) => {
                let successor = Asking::new(self.fences, self.scope, &leader, Purpose::Read);
                let believed = Some(Box::new((resets, leader.clone())));
                let raising = Asking { believed, why: Some(issuer::ASKED), ..successor };
                let told = |problem| Problem { presented: Some(self.claim.token), ..problem };
                Box::pin(raising.raise()).await.map_err(told)?;
            }
            Word::Refused(verdict, problem) => {
                self.fences.shared.count_disbelieved(self.scope, self.claim, verdict);
                return Err(problem);
            }
        }
        Ok(())
    }

    /// Raises the mark and waits until it is durable, but not for older writes to be out of the way. True where it rose.
    async fn raise(mut self) -> Result<bool, Problem> {
        let stored_by = Instant::now() + STORE_WAIT;
        loop {
            match self.ask() {
                Said::Go(..) => return Ok(self.advanced.is_some()),
                // Somebody has claimed a higher token meanwhile, or an operator has reset the mark: then what was said before
                // that doesn't count.
                Said::No(problem) if matches!(problem.kind, Kind::StaleToken | Kind::TokenConflict) => {
                    return Ok(false);
                }
                Said::No(problem) if problem.kind == Kind::Quarantined => return Ok(self.advanced.is_some()),
                Said::No(problem) => return Err(problem),
                Said::Doubted(_) => return Ok(false),
                Said::Stored(answer, store) => self.stored(stored_by, answer, store).await?,
                Said::Wait(waiter, _, is_storing) => {
                    if !is_storing {
                        return Ok(self.advanced.is_some());
                    }
                    if tokio::time::timeout_at(stored_by, waiter.woken()).await.is_err() {
                        return Err(self.unstored("it takes too long"));
                    }
                }
            }
        }
    }

    async fn stored(
        &mut self,
        stored_by: Instant,
        answer: oneshot::Receiver<Result<bool, Problem>>,
        store: Store,
    ) -> Result<(), Problem> {
        match tokio::time::timeout_at(stored_by, answer).await {
            Ok(Ok(Ok(_))) => {}
            Ok(Ok(Err(problem))) => return Err(Problem { presented: Some(self.claim.token), ..problem }),
            Ok(Err(_)) => return Err(self.unstored("the gate is stopping")),
            Err(_) => return Err(self.unstored("it takes too long")),
        }
        if store.advances() {
            self.advanced = Some(store.before.map(|mark| mark.token));
        }
        Ok(())
    }

    fn admitted(&self, id: u32, pass: Option<Pass>) -> Admitted {
        let (verdict, previous) = match self.advanced {
            Some(previous) => (Verdict::Advanced, previous),
            None => (Verdict::Admitted, Some(self.claim.token)),
        };
        let write = pass.map(|pass| InFlight {
            handle: self.fences.handle(),
            pass: Some(pass),
            id,
            scope: self.scope,
            place: AtomicU32::new(NOWHERE),
        });
        Admitted { verdict, previous, write }
    }

    async fn persevere(mut self, mut said: Said<'f>) -> Result<Admitted, Problem> {
        let shared = &self.fences.shared;
        let mut stored_by = Instant::now() + STORE_WAIT;
        let mut overdue_at = None;
        loop {
            match said {
                Said::Go(id, pass) => return Ok(self.admitted(id, pass)),
                Said::No(problem) => return Err(issuer::explain(self.trust(), problem)),
                Said::Doubted(mark) => {
                    self.doubt(mark).await?;
                    stored_by = Instant::now() + STORE_WAIT;
                }
                Said::Stored(answer, store) => self.stored(stored_by, answer, store).await?,
                Said::Wait(waiter, until, is_storing) => {
                    if is_storing {
                        if tokio::time::timeout_at(stored_by, waiter.woken()).await.is_err() {
                            return Err(self.unstored("it takes too long"));
                        }
                    } else {
                        let after = |moment: Moment| shared.instant(moment.after_ms(OVERDUE_MS));
                        let give_up_at = *overdue_at.get_or_insert_with(|| after(until.unwrap_or(shared.now())));
                        let until = until.map_or(give_up_at, |until| shared.instant(until)).min(give_up_at);
                        let is_late = tokio::time::timeout_at(until, waiter.woken()).await.is_err();
                        if is_late && Instant::now() >= give_up_at {
                            return Err(self.overdue());
                        }
                    }
                }
            }
            said = self.ask();
        }
    }

    fn unstored(&self, why: &str) -> Problem {
        let problem = self.fences.shared.unavailable(why).about(&self.claim.fence, None);
        Problem { presented: Some(self.claim.token), highest: self.highest(), ..problem }
    }

    fn highest(&self) -> Option<Token> {
        let (_, entry) = self.fences.shared.find(&self.claim.fence)?;
        entry.fence.mark().map(|mark| mark.token)
    }

    fn overdue(&self) -> Problem {
        let fence = &self.claim.fence;
        let detail =
            format!("older writes on fence {fence} are still in flight past the time that they have to finish");
        let problem = Problem::new(Kind::Quarantined, detail).about(fence, None);
        let retry_after = Some(Duration::from_secs(1));
        Problem { presented: Some(self.claim.token), highest: self.highest(), retry_after, ..problem }
    }
}

impl InFlight {
    /// The write has ended. For one that was cut off: after the last byte that can go out for it has gone out.
    pub fn finish(mut self, outcome: Outcome) {
        self.end(outcome, "a write was cut off, or its connection broke, before its whole answer came");
    }

    fn end(&mut self, outcome: Outcome, why: &'static str) {
        let Some(pass) = self.pass.take() else { return };
        let shared = &self.handle.shared;
        let mut entry = shared.lock(self.id);
        let now = shared.now();
        let woken = entry.fence.finish(pass, outcome, now, shared.policy(self.scope));
        let place = *self.place.get_mut();
        if place != NOWHERE {
            entry.leave(place);
        }
        fail::at(if woken == Woken::Everybody { Point::HttpDrained } else { Point::HttpPassBack });
        shared.let_go(self.id, entry, woken, now, why);
        fail::at(Point::HttpWriteEnded);
    }

    /// Ends when a newer token has taken the fence: by the instant that it gives at the latest, the write has to have ended.
    ///
    /// It can be dropped and asked for again at any time.
    pub async fn replaced(&self) -> Instant {
        let shared = &self.handle.shared;
        poll_fn(|cx| {
            let pass = self.pass.as_ref().expect("it is there until the write ends, which takes it away");
            let mut entry = shared.lock(self.id);
            if let Some(moment) = entry.fence.ends_at(pass) {
                return Poll::Ready(shared.instant(moment));
            }
            let mut place = self.place.load(Ordering::Relaxed);
            if place == NOWHERE {
                place = entry.enter();
                self.place.store(place, Ordering::Relaxed);
            }
            let waiters = entry.waiters.as_mut().expect("it has a place, so that somebody waits");
            while waiters.poll(place, cx) {
                // Something else has happened since the last time; the next poll leaves the waker there.
            }
            Poll::Pending
        })
        .await
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.end(Outcome::Unknown, "a write ended without saying how");
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("fence", &self.id).field("pass", &self.pass).finish_non_exhaustive()
    }
}

impl fmt::Debug for Fences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fences").finish_non_exhaustive()
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("resource", &self.resource).field("policy", &self.policy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tasks_need_can_be_sent() {
        fn is_send<T: Send>(thing: T) -> T {
            thing
        }
        let _ = |fences: &'static Arc<Fences>, claim: &'static Claim, write: &'static InFlight| {
            drop(is_send(fences.admit(0, claim, Purpose::Write)));
            drop(is_send(write.replaced()));
            drop(is_send(fences.reset(0, &claim.fence, None, String::new())));
            drop(is_send(fences.release(0, &claim.fence, String::new())));
            drop(is_send(fences.history(0, &claim.fence, 0, 0)));
            is_send(fences)
        };
        assert!(size_of::<InFlight>() <= 40, "{}", size_of::<InFlight>());
    }
}
