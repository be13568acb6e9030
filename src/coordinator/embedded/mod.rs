//! The embedded coordinator: elections by lease on the gate's own clock.
//!
//! - [`elections`]: the state machine, pure: who leads, who waits, whose lease runs out when
//! - [`store`]: what outlives a restart, in SQLite
//! - `worker`: the thread that has both; nothing is told before it is stored
//! - [`clock`]: the clock that leases are counted by
//!
//! [`Embedded`] is the async side: it asks the thread and waits for answers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub mod clock;
pub mod elections;
mod followers;
pub mod store;
mod worker;

pub use elections::{Floor, Limits, Place, Standing, Status};
pub use store::OpenError;

use self::clock::{Clock, MonotonicClock};
use self::elections::{Elections, Stored};
use self::followers::Followers;
use self::store::{Journal, Store};
use self::worker::{Ask, Message, Reply, Watches, Worker};
pub use super::candidate::{CandidateId, CandidateIdError};
use super::{Bid, Coordinator, CoordinatorError, Follow, Followed, Leader, Leadership, Told, View};
use crate::fail::{self, Point};
use crate::fence::{FenceName, Token};

/// The lease of a candidate that names none.
pub const TTL_DEFAULT: Duration = Duration::from_secs(10);
/// The longest that one request waits for its turn or for a new leader.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long to wait before a coordinator that couldn't say whether a term goes on is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// The most requests that wait for the coordinator's thread at a time.
const QUEUED_MAX: usize = 100_000;

/// How the embedded coordinator runs.
#[derive(Clone)]
pub struct Options {
    /// How much it takes on.
    pub limits: Limits,
    /// The fences' marks. They must be known before the coordinator opens: opening may elect.
    pub floor: Floor,
    /// The clock that leases are counted by.
    pub clock: Arc<dyn Clock>,
}

impl Options {
    /// The default limits and the system's monotonic clock, above these marks.
    pub fn new(floor: Floor) -> Options {
        Options { limits: Limits::default(), floor, clock: Arc::new(MonotonicClock::start()) }
    }
}

/// What a request brings to an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A new candidacy.
    New(Bid),
    /// One that goes on.
    Known(CandidateId),
    /// One whose id its candidate has made itself: the same may be asked any number of times, and it stands once. Where it is in
    /// the election already, it goes on as it entered.
    As(CandidateId, Bid),
}

/// A handle on the coordinator's thread; clones share it. The thread ends with [`Embedded::close`], or some time after the
/// last handle is dropped.
#[derive(Clone)]
pub struct Embedded {
    handle: Arc<Handle>,
}

struct Handle {
    inbox: Sender<Message>,
    queued: Arc<AtomicUsize>,
    clock: Arc<dyn Clock>,
}

impl Embedded {
    /// Starts the coordinator on a data directory. Every lease that is stored there gets its full TTL from now.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(data_dir: &Path, options: Options) -> Result<Embedded, OpenError> {
        let data_dir = data_dir.to_owned();
        Embedded::start(options, move || {
            let store = Store::open(&data_dir)?;
            let stored = store.load()?;
            fail::at(Point::ElectionLoaded);
            Ok((stored, store))
        })
        .await
    }

    async fn start<J: Journal + 'static>(
        options: Options,
        open: impl FnOnce() -> Result<(Stored, J), OpenError> + Send + 'static,
    ) -> Result<Embedded, OpenError> {
        let (inbox, messages) = mpsc::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let handle = Handle { inbox: inbox.clone(), queued: Arc::clone(&queued), clock: Arc::clone(&options.clock) };
        let (opened, ready) = oneshot::channel();
        let work = move || {
            let Options { limits, floor, clock } = options;
            let worker = open().and_then(|(stored, journal)| {
                let elections = Elections::restore(limits, floor, stored, clock.now()).map_err(OpenError::Damaged)?;
                let watched = Watches::default();
                Ok(Worker {
                    elections,
                    journal,
                    clock,
                    inbox: messages,
                    outbox: inbox,
                    queued,
                    watched,
                    followers: Followers::default(),
                    failing: false,
                })
            });
            match worker {
                Err(error) => drop(opened.send(Err(error))),
                Ok(worker) => {
                    let _ = opened.send(Ok(()));
                    worker.run();
                }
            }
        };
        std::thread::Builder::new().name("elections".to_owned()).spawn(work).map_err(OpenError::Thread)?;
        let died = || OpenError::Thread(std::io::Error::other("it ended before it was ready"));
        ready.await.map_err(|_| died())??;
        Ok(Embedded { handle: Arc::new(handle) })
    }

    /// Enters an election or goes on waiting in it, for at most `wait`: returns as soon as the candidate leads, else where it
    /// stands then. Coming back within the TTL keeps its place; to come back as the leader renews the lease. Where the future
    /// is dropped, the candidate lapses by its TTL.
    ///
    /// # Errors
    /// [`CoordinatorError::Lost`] for a known candidate that is in this election no more, and the others for new ones.
    pub async fn enter(
        &self,
        election: &FenceName,
        entry: Entry,
        wait: Duration,
    ) -> Result<Standing, CoordinatorError> {
        let until = Instant::now() + wait;
        let watch = !wait.is_zero();
        let (standing, watcher) = match entry {
            Entry::New(Bid { holder, ttl }) => {
                let candidate = CandidateId::random()
                    .map_err(|error| CoordinatorError::Unavailable(format!("no randomness: {error}")))?;
                self.ask(election, |reply| Ask::Enter { candidate, holder, ttl, watch, reply }).await?
            }
            Entry::As(candidate, Bid { holder, ttl }) => {
                self.ask(election, |reply| Ask::Enter { candidate, holder, ttl, watch, reply }).await?
            }
            Entry::Known(candidate) => self.ask(election, |reply| Ask::Renew { candidate, watch, reply }).await?,
        };
        let Some(mut watcher) = watcher else { return Ok(standing) };
        let candidate = standing.candidate;
        loop {
            let elected = watcher.until(|seat| seat.is_some_and(|(leader, _)| leader == candidate));
            let timed_out = timeout_at(until, elected).await.is_err();
            let standing = self.renew(election, candidate).await?;
            if timed_out || matches!(standing.place, Place::Leading { .. }) {
                return Ok(standing);
            }
        }
    }

    /// Renews a candidate's lease, whether it leads or waits: its full TTL runs again.
    ///
    /// # Errors
    /// [`CoordinatorError::Lost`] where it is in this election no more.
    pub async fn renew(&self, election: &FenceName, candidate: CandidateId) -> Result<Standing, CoordinatorError> {
        let (standing, _) = self.ask(election, |reply| Ask::Renew { candidate, watch: false, reply }).await?;
        Ok(standing)
    }

    /// Takes a candidate out, whether it leads or waits.
    ///
    /// # Errors
    /// [`CoordinatorError::Lost`] where it is in this election no more.
    pub async fn resign(&self, election: &FenceName, candidate: CandidateId) -> Result<(), CoordinatorError> {
        self.ask(election, |reply| Ask::Resign { candidate, reply }).await
    }

    /// One election as everybody may see it.
    ///
    /// # Errors
    /// Only those of a coordinator that can't store or is stopped.
    pub async fn status(&self, election: &FenceName) -> Result<Status, CoordinatorError> {
        let (status, _) = self.ask(election, |reply| Ask::Status { watch: false, reply }).await?;
        Ok(status)
    }

    /// The same, as soon as somebody leads with a token higher than `after` (`None`: any leader), or when `wait` has passed.
    ///
    /// # Errors
    /// As [`Embedded::status`].
    pub async fn watch(
        &self,
        election: &FenceName,
        after: Option<Token>,
        wait: Duration,
    ) -> Result<Status, CoordinatorError> {
        self.watch_until(election, wait, |leads| leads > after).await
    }

    /// The same, as soon as another leads than the one with this token, or nobody, or when `wait` has passed.
    ///
    /// # Errors
    /// As [`Embedded::status`].
    pub async fn watch_while(
        &self,
        election: &FenceName,
        token: Token,
        wait: Duration,
    ) -> Result<Status, CoordinatorError> {
        self.watch_until(election, wait, |leads| leads != Some(token)).await
    }

    /// The same, as soon as the leader's token, or that nobody leads, is what is wanted, or when `wait` has passed.
    async fn watch_until(
        &self,
        election: &FenceName,
        wait: Duration,
        wanted: impl Fn(Option<Token>) -> bool,
    ) -> Result<Status, CoordinatorError> {
        let until = Instant::now() + wait;
        let watch = !wait.is_zero();
        let (mut status, mut watcher) = self.ask(election, |reply| Ask::Status { watch, reply }).await?;
        loop {
            let leads = status.leader.as_ref().map(|(leader, _)| leader.token);
            let (false, Some(watcher)) = (wanted(leads), &mut watcher) else { return Ok(status) };
            let changed = watcher.until(|seat| wanted(seat.map(|(_, token)| token)));
            let timed_out = timeout_at(until, changed).await.is_err();
            status = self.status(election).await?;
            if timed_out {
                return Ok(status);
            }
        }
    }

    /// Has the coordinator look at its clock now, and returns when leases that have run out by then are handed over. Only needed
    /// with a clock that jumps, as in tests; by the system's clock the coordinator wakes by itself.
    pub async fn tick(&self) {
        let (done, ticked) = oneshot::channel();
        if self.handle.inbox.send(Message::Tick(done)).is_ok() {
            let _ = ticked.await;
        }
    }

    /// Stops the coordinator and closes its store. Returns when the data directory is free for another.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.handle.inbox.send(Message::Stop(done)).is_ok() {
            let _ = closed.await;
        }
    }

    async fn ask<T>(&self, election: &FenceName, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, CoordinatorError> {
        let Handle { inbox, queued, clock } = &*self.handle;
        if queued.fetch_add(1, Ordering::Relaxed) >= QUEUED_MAX {
            queued.fetch_sub(1, Ordering::Relaxed);
            return Err(CoordinatorError::Full { what: "requests waiting for the coordinator", max: QUEUED_MAX });
        }
        let stopped = || CoordinatorError::Unavailable("the coordinator has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        let message = Message::Ask { sent: clock.now(), election: election.clone(), ask: ask(reply) };
        inbox.send(message).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The thread has a sender of its own, so it would not notice otherwise. It may have stopped already.
        let _ = self.inbox.send(Message::Stop(oneshot::channel().0));
    }
}

impl Coordinator for Embedded {
    type Leadership = EmbeddedLeadership;

    async fn campaign(&self, election: &FenceName, bid: &Bid) -> Result<EmbeddedLeadership, CoordinatorError> {
        let mut entry = Entry::New(bid.clone());
        loop {
            let standing = self.enter(election, entry, WAIT_MAX).await?;
            if let Place::Leading { token } = standing.place {
                let (coordinator, election) = (self.clone(), election.clone());
                return Ok(EmbeddedLeadership { coordinator, election, candidate: standing.candidate, token });
            }
            entry = Entry::Known(standing.candidate);
        }
    }

    async fn leader(&self, election: &FenceName) -> Result<Option<Leader>, CoordinatorError> {
        Ok(self.status(election).await?.leader.map(|(leader, _)| leader))
    }

    async fn observe(&self, election: &FenceName, after: Option<Token>) -> Result<Leader, CoordinatorError> {
        loop {
            let leader = self.watch(election, after, WAIT_MAX).await?.leader;
            if let Some((leader, _)) = leader.filter(|(leader, _)| Some(leader.token) > after) {
                return Ok(leader);
            }
        }
    }

    async fn view(&self, election: &FenceName) -> Result<View, CoordinatorError> {
        self.ask(election, |reply| Ask::View { reply }).await
    }
}

impl Follow for Embedded {
    async fn follow(&self, followed: &Followed) -> Result<UnboundedReceiver<Told>, CoordinatorError> {
        let (tell, told) = unbounded_channel();
        let message = Message::Follow { followed: followed.clone(), tell };
        let stopped = |_| CoordinatorError::Unavailable("the coordinator has stopped".to_owned());
        self.handle.inbox.send(message).map_err(stopped)?;
        Ok(told)
    }
}

/// A term of leadership by the embedded coordinator.
pub struct EmbeddedLeadership {
    coordinator: Embedded,
    election: FenceName,
    candidate: CandidateId,
    token: Token,
}

impl Leadership for EmbeddedLeadership {
    fn token(&self) -> Token {
        self.token
    }

    async fn renew(&mut self) -> Result<Duration, CoordinatorError> {
        Ok(self.coordinator.renew(&self.election, self.candidate).await?.ttl)
    }

    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let (coordinator, election, token) = (self.coordinator.clone(), self.election.clone(), self.token);
        async move {
            loop {
                // A coordinator that has stopped, or can't store a change of leader yet, says nothing about this term.
                if let Ok((status, watcher)) =
                    coordinator.ask(&election, |reply| Ask::Status { watch: true, reply }).await
                {
                    if status.leader.is_none_or(|(leader, _)| leader.token != token) {
                        return;
                    }
                    if let Some(mut watcher) = watcher {
                        watcher.until(|seat| seat.is_none_or(|(_, leads)| leads != token)).await;
                        continue;
                    }
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        }
    }

    async fn resign(self) -> Result<(), CoordinatorError> {
        self.coordinator.resign(&self.election, self.candidate).await
    }
}
