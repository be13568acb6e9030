//! What happens to fences, and who is told of it: the journal, the store, those who wait, those who watch.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::task::Waker;

use crate::fail::{self, Point};
use crate::fence::Token;
use crate::fence::drain::{Blocked, Moment, Woken};
use crate::problem::{Kind, Problem};
use crate::resource::Happened;
use crate::resource::threads::now_ms;

use super::entry::{Entry, Flag};
use super::state::Shared;
use super::store::Write;
use super::worker::Job;

/// Most quarantines whose end is looked at in one go.
const SWEEP_MAX: usize = 10_000;

impl Shared {
    /// To be called after whatever was done to a fence, before anybody can act on it: brings the journal and the store up to
    /// date, tells of a quarantine that began, lets the lock go, and wakes those who wait.
    pub fn let_go(&self, id: u32, mut entry: MutexGuard<'_, Entry>, woken: Woken, now: Moment, why: &'static str) {
        self.note(id, &mut entry);
        if !entry.has(Flag::Quarantined) {
            match entry.fence.blocked(now) {
                Blocked::No => {}
                blocked => self.quarantine_began(id, &mut entry, blocked, why),
            }
        }
        if entry.fence.is_settled() && !entry.has(Flag::StoredSettled) && !entry.has(Flag::Storing) {
            entry.set(Flag::StoredSettled, true);
            // Under the fence's lock, so that it stands before a later mark in the queue. Where it is lost, the fence is
            // taken for one that hasn't settled, which is the safe side.
            let write = Write::Settled(entry.fence.mark().map(|mark| mark.token));
            self.write_down(id, &entry, write);
        }
        let wakers = match woken {
            Woken::Nobody => Vec::new(),
            Woken::Everybody => entry.wake(),
        };
        drop(entry);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Has something stored that nobody waits for.
    fn write_down(&self, id: u32, entry: &Entry, write: Write) {
        let Ok(fence) = entry.name.as_str().parse() else { return };
        // Too much of it waits only where the store doesn't keep up or is broken, which is told elsewhere.
        let _ = self.queue.push(Job { id, fence, scope: entry.home, write, reply: None });
    }

    /// Tells of something that happened to a fence.
    pub fn tell(&self, entry: &Entry, event: &'static str, previous: Option<Token>, at_ms: i64) {
        let (Some(scope), Ok(fence)) = (self.told(entry.home), entry.name.as_str().parse()) else { return };
        let mark = entry.fence.mark();
        scope.told.add(Happened {
            event,
            fence,
            token: mark.map(|mark| mark.token),
            previous,
            holder: mark.and_then(|mark| mark.holder.clone()),
            count: 1,
            at_ms,
        });
    }

    fn line(&self, id: u32, entry: &Entry, event: &'static str, reason: Option<String>) {
        if entry.has(Flag::Quiet) {
            return;
        }
        let (at_ms, mark) = (now_ms(), entry.fence.mark().cloned());
        let previous = mark.as_ref().map(|mark| mark.token);
        self.tell(entry, event, previous, at_ms);
        self.write_down(id, entry, Write::Line { event, at_ms, mark, reason });
    }

    /// Tells that a fence's quarantine has begun, and remembers to look for its end.
    pub fn quarantine_began(&self, id: u32, entry: &mut Entry, blocked: Blocked, why: &'static str) {
        entry.set(Flag::Quarantined, true);
        fail::at(Point::HttpQuarantined);
        if let Some(scope) = self.told(entry.home) {
            scope.quarantined.fetch_add(1, Ordering::Relaxed);
            scope.quarantines_on.lock().unwrap_or_else(PoisonError::into_inner).set(id, true);
            scope.quarantines.increment(1);
        }
        if let Blocked::Until(until) = blocked {
            self.ends.lock().unwrap_or_else(PoisonError::into_inner).push(Reverse((until, id)));
        }
        self.line(id, entry, "quarantined", Some(why.to_owned()));
        if !entry.has(Flag::Quiet) {
            tracing::warn!(fence = entry.name.as_str(), why, "the fence is quarantined");
        }
    }

    /// Remembers that a fence's quarantine is over.
    pub fn quarantine_over(&self, id: u32, entry: &mut Entry) {
        entry.set(Flag::Quarantined, false);
        if let Some(scope) = self.told(entry.home) {
            scope.quarantined.fetch_sub(1, Ordering::Relaxed);
            scope.quarantines_on.lock().unwrap_or_else(PoisonError::into_inner).set(id, false);
        }
    }

    /// Looks for quarantines that have run out.
    pub fn sweep(&self) {
        let now = self.now();
        for _ in 0..SWEEP_MAX {
            let id = {
                let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
                match ends.peek() {
                    Some(Reverse((until, _))) if *until <= now => ends.pop().map(|Reverse((_, id))| id),
                    _ => None,
                }
            };
            let Some(id) = id else { return };
            let mut entry = self.lock(id);
            if !entry.has(Flag::Quarantined) {
                // An operator was faster.
                continue;
            }
            entry.fence.tick(now);
            match entry.fence.blocked(now) {
                Blocked::No => {
                    fail::at(Point::HttpSettled);
                    self.line(id, &entry, "settled", None);
                    self.quarantine_over(id, &mut entry);
                    entry.set(Flag::Quiet, false);
                }
                // Another write has ended badly since.
                Blocked::Until(until) => {
                    self.ends.lock().unwrap_or_else(PoisonError::into_inner).push(Reverse((until, id)));
                }
                Blocked::Held => {}
            }
            self.let_go(id, entry, Woken::Everybody, now, "");
        }
    }

    /// What the store's thread does when it is done with a job.
    pub fn complete(&self, job: Job, result: Result<(), &str>, at_ms: i64) {
        let Job { id, fence, scope, write, reply } = job;
        if matches!(&write, Write::Mark { event: "reset", .. }) {
            fail::at(Point::HttpResetStored);
        }
        let answer = match (&write, result) {
            (Write::Mark { before, after, is_settled, event, .. }, Ok(())) => {
                let now = self.now();
                let mut entry = self.lock(id);
                entry.set(Flag::Storing, false);
                entry.set(Flag::StoredSettled, *is_settled);
                if *event != "bound" {
                    entry.advanced_at_ms = at_ms;
                }
                let woken = entry.fence.stored(now, self.policy(scope));
                if *event == "reset" {
                    self.resets.fetch_add(1, Ordering::Relaxed);
                }
                self.tell(&entry, event, before.as_ref().map(|mark| mark.token), at_ms);
                if let (true, Some(scope)) = (*event == "advanced", self.told(entry.home)) {
                    scope.advances.increment(1);
                }
                if *event == "reset" {
                    let to = after.as_ref().map_or_else(|| "none".to_owned(), |mark| mark.token.to_string());
                    tracing::warn!(%fence, to, "an operator reset the mark");
                }
                self.let_go(id, entry, woken, now, "");
                fail::at(Point::HttpMarkCompleted);
                Ok(true)
            }
            (Write::Mark { .. }, Err(why)) => {
                let mut entry = self.lock(id);
                entry.set(Flag::Storing, false);
                let woken = entry.fence.not_stored();
                let problem = self.unavailable(why).about(&fence, entry.fence.mark());
                self.let_go(id, entry, woken, self.now(), "");
                Err(problem)
            }
            (Write::Line { event: "released", at_ms, .. }, Ok(())) => Ok(self.released(id, *at_ms)),
            (_, Ok(())) => Ok(true),
            (_, Err(why)) => {
                Err(Problem::new(Kind::Unavailable, format!("it can't be stored: {why}")).about(&fence, None))
            }
        };
        if let Some(reply) = reply {
            // Whoever waited may have gone; what was done stands.
            let _ = reply.send(answer);
        }
    }

    fn released(&self, id: u32, at_ms: i64) -> bool {
        fail::at(Point::HttpReleaseStored);
        let now = self.now();
        let mut entry = self.lock(id);
        let was_on = entry.fence.release(now);
        if entry.has(Flag::Quarantined) {
            self.quarantine_over(id, &mut entry);
            entry.set(Flag::Quiet, false);
        }
        self.tell(&entry, "released", entry.fence.mark().map(|mark| mark.token), at_ms);
        tracing::warn!(fence = entry.name.as_str(), "an operator released the fence");
        self.let_go(id, entry, Woken::Everybody, now, "");
        fail::at(Point::HttpReleased);
        was_on
    }
}
