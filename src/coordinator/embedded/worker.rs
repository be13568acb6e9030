//! The coordinator's own thread: it alone has the state machine and the store.
//!
//! Each round takes all requests that are waiting, applies them, and stores what they changed in one commit, so that a hundred
//! campaigns at once cost one sync of the disk, and none of them on a thread of the async runtime.
//!
//! **Invariant.** What isn't stored is told to nobody ([`Worker::commit`]): the answer to a request that changed something, and
//! every answer about an election whose newest leader isn't stored, waits for the commit, and is refused where that fails. The
//! changes are kept, and the commit is tried again. Other answers needn't wait for the disk, so that where it fails, those who
//! lead already can go on renewing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};

use super::CandidateId;
use super::clock::Clock;
use super::elections::{Change, Elections, Place, Standing, Status};
use super::followers::Followers;
use super::store::{Journal, JournalError};
use crate::coordinator::{CoordinatorError, Followed, Told, View};
use crate::fail::{self, Point};
use crate::fence::{FenceName, Holder, Token};

/// The most requests that are applied before one commit.
const BATCH_MAX: usize = 1_024;
/// How long to wait before a commit that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// The longest the thread sleeps: far timers don't overflow.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, CoordinatorError>>;

/// What the thread is told.
pub(super) enum Message {
    /// A request about one election.
    Ask {
        /// When it was sent, by the coordinator's clock. It is judged as of then: where the disk stalls, leaders who renewed in
        /// time don't lose their lease to the stall.
        sent: Duration,
        election: FenceName,
        ask: Ask,
    },
    /// A [`Watcher`] is gone.
    Unwatch { sent: Duration, election: FenceName, attends: Option<CandidateId> },
    /// Somebody wants to hear of every new leader of these elections.
    Follow { followed: Followed, tell: UnboundedSender<Told> },
    /// Look at the clock now.
    Tick(oneshot::Sender<()>),
    /// Store what is left, close the store and end.
    Stop(oneshot::Sender<()>),
}

/// The requests.
pub(super) enum Ask {
    Enter { candidate: CandidateId, holder: Option<Holder>, ttl: Duration, watch: bool, reply: Reply<Entered> },
    Renew { candidate: CandidateId, watch: bool, reply: Reply<Entered> },
    Resign { candidate: CandidateId, reply: Reply<()> },
    Status { watch: bool, reply: Reply<(Status, Option<Watcher>)> },
    View { reply: Reply<View> },
}

/// Where a candidate stands, and where it waits and asked for it, how it learns that it leads.
pub(super) type Entered = (Standing, Option<Watcher>);

/// The candidate and token that lead. Only a hint to ask again: the answer to that is what counts.
pub(super) type Seat = Option<(CandidateId, Token)>;

/// Wakes one waiting request. Dropping it says that the request waits no more.
pub(super) struct Watcher {
    seat: watch::Receiver<Seat>,
    election: FenceName,
    attends: Option<CandidateId>,
    inbox: Sender<Message>,
    clock: Arc<dyn Clock>,
}

impl Watcher {
    /// Waits until the election's seat satisfies `wanted`, or the coordinator has stopped.
    pub(super) async fn until(&mut self, wanted: impl FnMut(&Seat) -> bool) {
        // An error says that the thread is gone: asking again will say so too.
        let _ = self.seat.wait_for(wanted).await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let (sent, election) = (self.clock.now(), self.election.clone());
        // A thread that is gone has nothing to forget.
        let _ = self.inbox.send(Message::Unwatch { sent, election, attends: self.attends });
    }
}

/// An answer that is ready, and the election whose changes must be stored first.
struct Held {
    election: FenceName,
    /// Whether the request itself changed what has to be stored.
    changed: bool,
    /// The candidate that this request brought in.
    entered: Option<CandidateId>,
    /// Sends the answer, or the error in its stead.
    answer: Box<dyn FnOnce(Result<(), CoordinatorError>)>,
    /// What to say where the commit fails.
    otherwise: fn(String) -> CoordinatorError,
}

struct Watched {
    seat: watch::Sender<Seat>,
    watchers: usize,
}

pub(super) struct Worker<J> {
    pub(super) elections: Elections,
    pub(super) journal: J,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) inbox: Receiver<Message>,
    /// The other end of `inbox`, for watchers.
    pub(super) outbox: Sender<Message>,
    /// How many requests are in the inbox.
    pub(super) queued: Arc<AtomicUsize>,
    pub(super) watched: Watches,
    pub(super) followers: Followers,
    /// The last commit failed.
    pub(super) failing: bool,
}

/// The elections that somebody watches. One is forgotten with its last watcher.
#[derive(Default)]
pub(super) struct Watches(HashMap<FenceName, Watched>);

impl<J: Journal> Worker<J> {
    /// Works until it is told to stop.
    pub(super) fn run(mut self) {
        // Starting may have elected somebody.
        self.commit(Vec::new());
        let mut stop = None;
        while stop.is_none() {
            let first = match self.inbox.recv_timeout(self.pause()) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            // Read before the inbox is emptied, so that no message still to come is from an earlier moment.
            let now = self.clock.now();
            let (mut held, mut ticks) = (Vec::new(), Vec::new());
            let mut next = first;
            let mut taken = 0;
            while let Some(message) = next {
                match message {
                    Message::Ask { sent, election, ask } => held.push(self.take(sent, election, ask)),
                    Message::Unwatch { sent, election, attends } => self.unwatch(sent, &election, attends),
                    Message::Follow { followed, tell } => self.followers.add(followed, tell),
                    Message::Tick(done) => ticks.push(done),
                    Message::Stop(done) => stop = Some(done),
                }
                taken += 1;
                next = if taken < BATCH_MAX { self.inbox.try_recv().ok() } else { None };
            }
            // With more in the inbox, time has only come as far as the last request taken from it.
            if taken < BATCH_MAX {
                self.elections.expire(now);
            }
            self.commit(held);
            for done in ticks {
                let _ = done.send(());
            }
        }
        let Worker { journal, .. } = self;
        drop(journal);
        if let Some(done) = stop {
            let _ = done.send(());
        }
    }

    fn pause(&self) -> Duration {
        let due = self.elections.next_deadline().map(|deadline| deadline.saturating_sub(self.clock.now()));
        let retry = self.failing.then_some(RETRY);
        due.into_iter().chain(retry).min().unwrap_or(SLEEP_MAX).min(SLEEP_MAX)
    }

    fn take(&mut self, sent: Duration, election: FenceName, ask: Ask) -> Held {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        let changes_before = self.elections.changes().len();
        let held = self.apply(sent, election, ask);
        Held { changed: self.elections.changes().len() > changes_before, ..held }
    }

    fn apply(&mut self, sent: Duration, election: FenceName, ask: Ask) -> Held {
        match ask {
            Ask::Enter { candidate, holder, ttl, watch, reply } => {
                // Before it is asked whether it is there already.
                self.elections.expire(sent);
                let is_new = !self.elections.stands(candidate);
                let entered = if self.failing && is_new {
                    // No newcomers while nothing can be stored: what waits to be stored so stays bounded.
                    Err(CoordinatorError::Unavailable("the last commit failed; it is being tried again".to_owned()))
                } else {
                    self.elections.enter(sent, &election, candidate, holder, ttl)
                };
                let outcome = entered.map(|standing| self.watch_standing(&election, standing, watch));
                let entered = (is_new && outcome.is_ok()).then_some(candidate);
                Held { entered, ..held(election, reply, outcome) }
            }
            Ask::Renew { candidate, watch, reply } => {
                let renewed = self.elections.renew(sent, &election, candidate);
                fail::at(Point::ElectionRenewed);
                let outcome = renewed.map(|standing| self.watch_standing(&election, standing, watch));
                held(election, reply, outcome)
            }
            Ask::Resign { candidate, reply } => {
                let outcome = self.elections.resign(sent, &election, candidate);
                Held { otherwise: CoordinatorError::OutcomeUnknown, ..held(election, reply, outcome) }
            }
            Ask::Status { watch, reply } => {
                let status = self.elections.status(sent, &election);
                let watcher = watch.then(|| self.watch(&election, None));
                held(election, reply, Ok((status, watcher)))
            }
            Ask::View { reply } => {
                let view = self.elections.view(sent, &election);
                held(election, reply, Ok(view))
            }
        }
    }

    fn watch_standing(&mut self, election: &FenceName, standing: Standing, watch: bool) -> Entered {
        let waits = matches!(standing.place, Place::Waiting { .. });
        let watcher = (watch && waits).then(|| self.watch(election, Some(standing.candidate)));
        (standing, watcher)
    }

    fn watch(&mut self, election: &FenceName, attends: Option<CandidateId>) -> Watcher {
        if let Some(candidate) = attends {
            self.elections.attend(candidate);
        }
        let seat = self.elections.seat(election);
        let watched = self
            .watched
            .0
            .entry(election.clone())
            .or_insert_with(|| Watched { seat: watch::Sender::new(seat), watchers: 0 });
        watched.watchers += 1;
        Watcher {
            seat: watched.seat.subscribe(),
            election: election.clone(),
            attends,
            inbox: self.outbox.clone(),
            clock: Arc::clone(&self.clock),
        }
    }

    fn unwatch(&mut self, sent: Duration, election: &FenceName, attends: Option<CandidateId>) {
        if let Some(candidate) = attends {
            self.elections.unattend(sent, candidate);
        }
        if let Some(watched) = self.watched.0.get_mut(election) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                self.watched.0.remove(election);
            }
        }
    }

    /// Stores what has changed, then answers.
    fn commit(&mut self, held: Vec<Held>) {
        let mut changed = HashSet::new();
        let mut elected = HashSet::new();
        for change in self.elections.changes() {
            changed.insert(change.election().clone());
            if let Change::Elected { election, .. } = change {
                elected.insert(election.clone());
            }
        }
        let (waiting, ready): (Vec<Held>, Vec<Held>) =
            held.into_iter().partition(|held| held.changed || elected.contains(&held.election));
        for held in ready {
            (held.answer)(Ok(()));
        }
        if changed.is_empty() {
            return self.followers.welcome(&self.elections);
        }
        fail::at(Point::ElectionDecided);
        match self.journal.save(self.elections.changes()) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("elections can be stored again");
                }
                self.elections.stored();
                self.followers.tell(&self.elections, &changed);
                self.followers.welcome(&self.elections);
                for election in &changed {
                    if let Some(watched) = self.watched.0.get(election) {
                        watched.seat.send_replace(self.elections.seat(election));
                    }
                }
                for held in waiting {
                    (held.answer)(Ok(()));
                }
                fail::at(Point::ElectionTold);
            }
            Err(error) => self.refuse(waiting, &error),
        }
    }

    /// The commit failed: nobody is told what it was about, and newcomers, who don't know their own ids and so could neither
    /// renew nor resign, are taken out again.
    fn refuse(&mut self, waiting: Vec<Held>, error: &JournalError) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "elections can't be stored; nobody new is elected until they can");
        }
        for held in waiting {
            if let Some(candidate) = held.entered {
                // It may have lapsed or resigned in the same round.
                let _ = self.elections.resign(Duration::ZERO, &held.election, candidate);
            }
            (held.answer)(Err((held.otherwise)(error.to_string())));
        }
    }
}

fn held<T: 'static>(election: FenceName, reply: Reply<T>, outcome: Result<T, CoordinatorError>) -> Held {
    // Whoever asked may be gone: an outcome that nobody takes is dropped, and a watcher in it says goodbye.
    let answer = move |stored: Result<(), CoordinatorError>| drop(reply.send(stored.and(outcome)));
    Held { election, changed: false, entered: None, answer: Box::new(answer), otherwise: CoordinatorError::Unavailable }
}

#[cfg(test)]
mod tests;
