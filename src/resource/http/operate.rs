//! What operators see of the fences of HTTP resources, and what they do to them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::fence::drain::Blocked;
use crate::fence::{FenceName, Mark, Token};
use crate::problem::{Kind, Problem};
use crate::resource::threads::now_ms;
use crate::resource::{Event, FenceInfo, Found, Knock, Look, News, Quarantined, Tally, records, refusals};

use super::ask::Waiter;
use super::entry::{Entry, Flag};
use super::fences::{Fences, STORE_WAIT};
use super::state::not_found;
use super::store::{self, Write};
use super::worker::Job;

fn number(scope: usize) -> u16 {
    u16::try_from(scope).expect("a scope's number comes from the list that was given")
}

/// How long reading waits for what happened to be stored.
const HISTORY_WAIT: Duration = Duration::from_secs(1);

/// Waits for the store. A disk that fails may keep it for as long as it fails.
async fn stored(answer: oneshot::Receiver<Result<bool, Problem>>) -> Result<bool, Problem> {
    match timeout(STORE_WAIT, answer).await {
        Ok(answer) => answer.map_err(|_| Problem::new(Kind::Unavailable, "the gate is stopping"))?,
        Err(_) => {
            let why =
                "it takes too long to store it; it will be done once the disk works, if the gate isn't stopped before";
            Err(Problem::new(Kind::OutcomeUnknown, why))
        }
    }
}

/// How far a reset has come.
enum Reset<'a> {
    /// It is being stored. This was the mark.
    Begun(Option<Token>, oneshot::Receiver<Result<bool, Problem>>),
    /// Another store of this fence is under way.
    Later(Waiter<'a>),
}

impl Fences {
    /// The state of the fence of this name; `None` for a name that this resource can't have.
    pub fn info(&self, scope: usize, name: &str) -> Option<FenceInfo> {
        let found = self.shared.find(name);
        let home = found.as_ref().map_or(super::entry::NOBODY, |(_, entry)| entry.home);
        if !self.shared.owns(number(scope), name, home) {
            return None;
        }
        let fence = name.parse().ok()?;
        Some(match found {
            Some((_, entry)) => self.describe(fence, &entry),
            None => self.describe(fence, &self.shared.unknown(number(scope), name)),
        })
    }

    fn describe(&self, fence: FenceName, entry: &Entry) -> FenceInfo {
        let mark = entry.fence.mark();
        FenceInfo {
            fence,
            highest: mark.map(|mark| mark.token),
            holder: mark.and_then(|mark| mark.holder.clone()),
            advanced_at_ms: mark.map(|_| entry.advanced_at_ms),
            in_flight: entry.fence.in_flight(),
            quarantine: match entry.fence.blocked(self.shared.now()) {
                Blocked::No => None,
                Blocked::Until(until) => Some(Quarantined::UntilMs(self.shared.wall_ms(until))),
                Blocked::Held => Some(Quarantined::Held),
            },
            refused: u64::from(entry.refused),
            writes: u64::from(entry.fence.passes()),
        }
    }

    /// Fences that are looked for, of those with a mark, or with one that an operator took away. It looks at
    /// [`NAMES_MAX`](store::NAMES_MAX) names at most, and then says from where to go on.
    pub fn list(&self, scope: usize, look: &Look) -> Found {
        let mut found = Found::default();
        if look.limit == 0 {
            return found;
        }
        let mut look_on = |name: &str| {
            if let Some(info) = self.info(scope, name) {
                if found.fences.len() == look.limit {
                    // One more than asked for tells that there is another page.
                    found.next = found.fences.last().map(|last| last.fence.to_string());
                    return false;
                }
                found.fences.push(info);
            }
            true
        };
        // The store has the names in order; here they are in none.
        let conn = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = store::names(&conn, look, &mut look_on).unwrap_or_else(|error| {
            tracing::error!(%error, "the fences can't be listed");
            None
        });
        drop(conn);
        found.next = found.next.or(stopped);
        found
    }

    /// How many there are.
    pub fn tally(&self, scope: usize) -> Tally {
        let scope = &self.shared.scopes[scope];
        let quarantined = scope.quarantined.load(Ordering::Relaxed);
        Tally { fences: scope.fences.load(Ordering::Relaxed), quarantined: u64::try_from(quarantined).unwrap_or(0) }
    }

    /// Fences that are quarantined, in no order, at most `limit`.
    pub fn quarantined(&self, scope: usize, limit: usize) -> Vec<FenceInfo> {
        let ids = self.shared.scopes[scope].quarantines_on.lock().unwrap_or_else(PoisonError::into_inner).first(limit);
        let describe = |id| {
            let entry = self.shared.lock(id);
            let fence = entry.name.as_str().parse().ok()?;
            Some(self.describe(fence, &entry)).filter(|info| info.quarantine.is_some())
        };
        ids.into_iter().filter_map(describe).collect()
    }

    /// Reads from the store, off the runtime's threads.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let reader = Arc::clone(&self.reader);
        let task = tokio::task::spawn_blocking(move || read(&reader.lock().unwrap_or_else(PoisonError::into_inner)));
        let result = task.await.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
        result.map_err(|error| Problem::new(Kind::Unavailable, error.to_string()))
    }

    fn own(&self, scope: usize, fence: &FenceName) -> Result<(), Problem> {
        let home = self.shared.find(fence).map_or(super::entry::NOBODY, |(_, entry)| entry.home);
        if self.shared.owns(number(scope), fence, home) { Ok(()) } else { Err(not_found(fence)) }
    }

    /// Has something stored, and waits for it.
    async fn write(&self, scope: usize, id: u32, fence: &FenceName, write: Write) -> Result<bool, Problem> {
        let (reply, answer) = oneshot::channel();
        self.shared.queue.push(Job { id, fence: fence.clone(), scope: number(scope), write, reply: Some(reply) })?;
        stored(answer).await
    }

    /// Events of a fence with a number below `before`, newest first, at most `limit`.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; a store that can't be read.
    pub async fn history(
        &self,
        scope: usize,
        fence: &FenceName,
        before: i64,
        limit: usize,
    ) -> Result<Vec<Event>, Problem> {
        self.own(scope, fence)?;
        // What happened stands in the store a little later. Where it can't be stored, what stands there is told.
        let _ = timeout(HISTORY_WAIT, self.write(scope, 0, fence, Write::Nothing)).await;
        let fence = fence.clone();
        self.read(move |conn| records::history(conn, &fence, before, limit)).await
    }

    /// Who was refused on a fence, the latest first, at most a thousand.
    ///
    /// # Errors
    /// As [`Fences::history`].
    pub async fn knocks(&self, scope: usize, fence: &FenceName) -> Result<Vec<Knock>, Problem> {
        self.own(scope, fence)?;
        let unwritten = self.shared.scopes.iter().flat_map(|scope| scope.refusals.unwritten(fence)).collect();
        let fence = fence.clone();
        Ok(refusals::merge(unwritten, self.read(move |conn| records::refusals(conn, &fence, 1000)).await?))
    }

    /// Sets the mark to what an operator says, lower or higher or none, and keeps the reason in the history. Returns the mark
    /// before.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; a store that doesn't work or keep up.
    pub async fn reset(
        &self,
        scope: usize,
        fence: &FenceName,
        to: Option<Token>,
        reason: String,
    ) -> Result<Option<Token>, Problem> {
        self.own(scope, fence)?;
        let to = to.map(|token| Mark { token, holder: None });
        loop {
            match self.begin_reset(number(scope), fence, to.clone(), &reason)? {
                Reset::Begun(before, answer) => {
                    return stored(answer).await.map(|_| before);
                }
                Reset::Later(waiter) => timeout(STORE_WAIT, waiter.woken()).await.map_err(|_| {
                    let why = "another mark of this fence takes too long to store; nothing was changed";
                    Problem::new(Kind::Unavailable, why)
                })?,
            }
        }
    }

    fn begin_reset(&self, scope: u16, fence: &FenceName, to: Option<Mark>, reason: &str) -> Result<Reset<'_>, Problem> {
        let (id, mut entry) = match self.shared.find(fence) {
            Some(found) => found,
            None => self.shared.make(scope, fence)?,
        };
        let Some(store) = entry.fence.reset(to, self.shared.now()) else {
            return Ok(Reset::Later(Waiter { shared: &self.shared, id, place: entry.enter() }));
        };
        let before = store.before.as_ref().map(|mark| mark.token);
        match self.shared.store(scope, id, &mut entry, fence, &store, "reset", Some(reason.to_owned())) {
            Ok(answer) => Ok(Reset::Begun(before, answer)),
            Err(problem) => {
                let woken = entry.fence.not_stored();
                self.shared.let_go(id, entry, woken, self.shared.now(), "");
                Err(problem)
            }
        }
    }

    /// Ends the fence's quarantine, and keeps the reason in the history. False where there was none.
    ///
    /// # Errors
    /// As [`Fences::reset`]; then the quarantine goes on.
    pub async fn release(&self, scope: usize, fence: &FenceName, reason: String) -> Result<bool, Problem> {
        self.own(scope, fence)?;
        let Some((id, mark)) = self.shared.find(fence).and_then(|(id, entry)| {
            let is_on = entry.fence.blocked(self.shared.now()) != Blocked::No || entry.has(Flag::Quarantined);
            is_on.then(|| (id, entry.fence.mark().cloned()))
        }) else {
            return Ok(false);
        };
        let write = Write::Line { event: "released", at_ms: now_ms(), mark, reason: Some(reason) };
        self.write(scope, id, fence, write).await
    }

    /// What happened since the last call, for whoever watches. Looks for quarantines that have run out, too.
    pub fn happened(&self, scope: usize) -> News {
        self.shared.sweep();
        let scope = &self.shared.scopes[scope];
        scope.refusals.tell(&scope.told);
        scope.told.take()
    }

    /// Numbers for the metrics: gauge name and value.
    pub fn gauges(&self, scope: usize) -> Vec<(&'static str, f64)> {
        let scope = &self.shared.scopes[scope];
        vec![
            ("fencegate_http_fences", scope.fences.load(Ordering::Relaxed) as f64),
            ("fencegate_http_quarantined", scope.quarantined.load(Ordering::Relaxed) as f64),
            ("fencegate_http_queue_marks", self.shared.queue.len() as f64),
        ]
    }

    /// Why no mark can be stored now; `None` while all is well.
    pub fn trouble(&self) -> Option<String> {
        let since = self.shared.failing_since_ms()?;
        let ago = Duration::from_millis(u64::try_from(now_ms() - since).unwrap_or(0));
        Some(format!("marks can't be stored; that began {} ago", humantime::format_duration(ago)))
    }
}
