//! Questions to one coordinator: who leads this election?
//!
//! **Invariants.**
//! - One election has at most one question under way. Whoever comes meanwhile waits for the next, unless the answer under way
//!   settles it: so a flood of one election's tokens costs one question at a time, and a new leader, who may have been elected
//!   after the question under way was answered, is judged by one that was sent after it came.
//! - After an answer, an election isn't asked again for [`Limits::pace`], and at most [`Limits::questions_max`] are under way at
//!   once: what a coordinator is asked doesn't grow with what is presented to the gate.
//! - Whoever waits is answered within [`Limits::wait_time`], whatever becomes of the coordinator.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, counter};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::coordinator::CoordinatorError;
use crate::fence::{FenceName, Leader, Token};
use crate::problem::{Kind, Problem};

use super::source::Source;

/// How much is asked at once, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long one question may take.
    pub ask_time: Duration,
    /// How long one who asks waits in all.
    pub wait_time: Duration,
    /// How long an election isn't asked about after an answer.
    pub pace: Duration,
    /// Most questions under way at once.
    pub questions_max: usize,
    /// Most elections that are asked about or wait for it, or were asked about less than [`Limits::pace`] ago.
    pub elections_max: usize,
    /// Most that wait for an answer.
    pub waiting_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            ask_time: Duration::from_secs(2),
            wait_time: Duration::from_secs(3),
            pace: Duration::from_millis(5),
            questions_max: 8,
            elections_max: 4_096,
            waiting_max: 65_536,
        }
    }
}

type Answer = Result<Option<Leader>, CoordinatorError>;

/// One who waits to hear whether this token leads.
struct Waiting {
    token: Token,
    reply: oneshot::Sender<Answer>,
}

#[derive(Default)]
struct Desks {
    /// The elections that are asked about, each with those whom a question yet to be sent is for.
    open: HashMap<FenceName, Vec<Waiting>>,
    waiting: usize,
}

/// Where one coordinator is asked.
pub struct Desk {
    /// Set once, before anything is asked: a coordinator may need the marks of the resources that ask it.
    source: OnceLock<Arc<dyn Source>>,
    /// Where questions run: never on a thread that serves requests.
    runtime: Handle,
    limits: Limits,
    desks: Mutex<Desks>,
    permits: Semaphore,
    asked: Counter,
    failed: Counter,
}

impl Desk {
    /// A desk whose questions run on this runtime. `coordinator`: what it is called in metrics.
    pub fn new(coordinator: &str, runtime: Handle, limits: Limits) -> Arc<Desk> {
        let count = |answer: &'static str| counter!("fencegate_coordinator_questions_total", "coordinator" => coordinator.to_owned(), "answer" => answer);
        Arc::new(Desk {
            source: OnceLock::new(),
            runtime,
            limits,
            desks: Mutex::default(),
            permits: Semaphore::new(limits.questions_max),
            asked: count("known"),
            failed: count("failed"),
        })
    }

    /// Says who is asked. Only the first time counts.
    pub fn open(&self, source: Arc<dyn Source>) {
        let _ = self.source.set(source);
    }

    /// Who is asked; `None` before that was said.
    pub fn source(&self) -> Option<&Arc<dyn Source>> {
        self.source.get()
    }

    /// Where questions run.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// How many wait for a question that wasn't sent yet.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// How many elections are asked about, or were just now: each has its place until the pace lets it be asked about again.
    pub fn elections(&self) -> usize {
        self.lock().open.len()
    }

    fn lock(&self) -> MutexGuard<'_, Desks> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who leads this election. The answer is no older than this call, or it names a leader with `token` or a higher one.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] where there is no answer in time, [`Kind::Overloaded`] where too many ask.
    pub async fn leader(self: &Arc<Desk>, election: &FenceName, token: Token) -> Result<Option<Leader>, Problem> {
        let answer = self.wait(election, token)?;
        let unavailable =
            |why: &str| Problem::new(Kind::Unavailable, format!("the coordinator of election {election} {why}"));
        match timeout(self.limits.wait_time, answer).await {
            Err(_) => Err(unavailable("takes too long to answer; nothing was changed")),
            Ok(Err(_)) => Err(unavailable("can't be asked any more: the gate is stopping")),
            Ok(Ok(Err(error))) => Err(unavailable(&format!("can't be asked: {error}; nothing was changed"))),
            Ok(Ok(Ok(leader))) => Ok(leader),
        }
    }

    /// Joins those who wait for the election's next question, and sees to it that there is one.
    fn wait(self: &Arc<Desk>, election: &FenceName, token: Token) -> Result<oneshot::Receiver<Answer>, Problem> {
        let (reply, answer) = oneshot::channel();
        let full = |what: &str| {
            Problem::new(Kind::Overloaded, format!("too many {what} wait for the coordinator; nothing was changed"))
        };
        let mut desks = self.lock();
        if desks.waiting >= self.limits.waiting_max {
            return Err(full("requests"));
        }
        let elections = desks.open.len();
        match desks.open.entry(election.clone()) {
            Entry::Occupied(mut open) => open.get_mut().push(Waiting { token, reply }),
            Entry::Vacant(_) if elections >= self.limits.elections_max => return Err(full("elections")),
            Entry::Vacant(new) => {
                new.insert(vec![Waiting { token, reply }]);
                drop(self.runtime.spawn(Arc::clone(self).ask(election.clone())));
            }
        }
        desks.waiting += 1;
        Ok(answer)
    }

    /// Asks about one election for as long as somebody waits for it.
    async fn ask(self: Arc<Desk>, election: FenceName) {
        loop {
            let permit = self.permits.acquire().await;
            let Some(waiting) = self.next(&election) else { return };
            let answer = match self.source.get() {
                None => Err(CoordinatorError::Unavailable("it isn't there yet".to_owned())),
                Some(source) => timeout(self.limits.ask_time, source.leader(&election))
                    .await
                    .unwrap_or_else(|_| Err(CoordinatorError::Unavailable("it takes too long".to_owned()))),
            };
            drop(permit);
            if answer.is_ok() {
                self.asked.increment(1)
            } else {
                self.failed.increment(1)
            }
            // The question was sent before these came. It is an answer to them all the same where it names their token or a
            // higher one, since tokens rise.
            let leads = answer.as_ref().ok().and_then(|leader| leader.as_ref()).map(|leader| leader.token);
            let settled = self.lock().take(&election, |waiting| Some(waiting.token) <= leads);
            for Waiting { reply, .. } in waiting.into_iter().chain(settled) {
                // Whoever waited may be gone.
                let _ = reply.send(answer.clone());
            }
            tokio::time::sleep(self.limits.pace).await;
        }
    }

    /// Those whom the question that is sent now is for. `None`, and the election is closed, where nobody waits: under one lock, so
    /// that whoever comes later opens it anew.
    fn next(&self, election: &FenceName) -> Option<Vec<Waiting>> {
        let mut desks = self.lock();
        let waiting = desks.take(election, |_| true);
        if waiting.is_empty() {
            desks.open.remove(election);
            return None;
        }
        Some(waiting)
    }
}

impl Desks {
    /// Takes those who wait for this election and for whom this is true, and forgets who waits no more.
    fn take(&mut self, election: &FenceName, mut is_due: impl FnMut(&Waiting) -> bool) -> Vec<Waiting> {
        let Some(all) = self.open.get_mut(election) else { return Vec::new() };
        let before = all.len();
        all.retain(|waiting| !waiting.reply.is_closed());
        let due: Vec<Waiting> = all.extract_if(.., |waiting| is_due(waiting)).collect();
        self.waiting -= before - all.len();
        due
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("limits", &self.limits).finish_non_exhaustive()
    }
}
