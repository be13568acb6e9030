//! Exactly once: a write that names itself by an `Idempotency-Key` is applied once, however often it comes (docs/idempotency.md).
//!
//! - [`key`]: the header, and what a request is known again by
//! - [`table`]: what is kept
//!
//! **Invariants.**
//! - *One transaction.* A request with a key is one transaction, and its key and its answer are a part of that. So what is
//!   remembered as done is done, whole, and what isn't remembered was never done, wherever the gate was killed. What can't be one
//!   transaction is refused: a transaction that stays open, `PRAGMA foreign_keys`, a statement that rolls everything back.
//! - *Fencing first.* A key is looked for only once the request's claims are admitted, in the transaction that admits them: no stale
//!   token is ever handed an answer.
//! - *One order.* Keys are looked for and kept by the one thread that writes. The same write twice at the same time is one after the
//!   other there, and the second finds what the first has left, be it in the same commit.
//! - *No dates.* Time is counted while a gate runs, on from what the newest row says. Nothing is forgotten too early because a clock
//!   jumps, or the gate was down, or frozen.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use metrics::counter;

use crate::problem::{Kind, Problem};

use super::fences::{FenceId, FenceSet};
use super::limits::Limits;
use super::own::unavailable;
use super::raw::SqliteError;
use super::shared::{Checkpoint, Shared, Work};
use super::writer::Writer;

pub mod key;
pub mod table;

use key::Key;
use table::{Bounds, Entry, Kept, Queue};

/// What the writer knows of keys besides what is in the table.
#[derive(Debug)]
pub struct Once {
    bounds: Bounds,
    clock: RunningTime,
    /// Of each fence: until when it takes no new keys, because those that it has must stay.
    full_until_ms: Vec<i64>,
}

impl Once {
    /// For a database with so many fences.
    pub fn new(limits: &Limits, fences: usize) -> Once {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let bounds = Bounds {
            retention_ms: ms(limits.idempotency_retention),
            hold_ms: ms(limits.idempotency_hold),
            keys: count(limits.idempotency_keys),
            bytes: count(limits.idempotency_bytes),
        };
        Once { bounds, clock: RunningTime { ms: 0, seen: Instant::now() }, full_until_ms: vec![0; fences] }
    }

    /// The time, in milliseconds. Asked for often enough, by the writer's tick, none is lost but what the gate was frozen for.
    pub(super) fn now_ms(&mut self) -> i64 {
        self.clock.advance(Instant::now());
        self.clock.ms
    }
}

/// How long gates have run with this database.
#[derive(Debug, Clone, Copy)]
struct RunningTime {
    /// In milliseconds: no less than when the newest row was kept.
    ms: i64,
    /// Until when that was counted.
    seen: Instant,
}

impl RunningTime {
    /// More than this at once is a gate that was frozen, or busy with one statement: it doesn't count for more.
    const STEP_MAX: Duration = Duration::from_secs(2);

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.seen);
        let counted = passed.min(RunningTime::STEP_MAX).as_millis();
        self.ms = self.ms.saturating_add(i64::try_from(counted).unwrap_or(0));
        // What is less than a millisecond counts the next time.
        self.seen = if passed > RunningTime::STEP_MAX {
            now
        } else {
            self.seen + Duration::from_millis(u64::try_from(counted).unwrap_or(0))
        };
    }
}

impl Limits {
    /// For how long a key is surely known again.
    pub fn keys_kept_for(&self) -> Duration {
        self.idempotency_hold.min(self.idempotency_retention)
    }
}

impl Writer {
    /// Goes on from where the file's newest rows are.
    pub(super) fn remember(&mut self) -> Result<(), SqliteError> {
        for id in 0..self.shared.states.len() {
            let fence = self.shared.fences.name(id);
            let queue = self.db.as_gate(|| table::queue(&self.db.conn, fence))?;
            self.once.clock.ms = self.once.clock.ms.max(queue.newest_ms);
            self.shared.show_keys(id, queue);
        }
        Ok(())
    }

    /// Answers a request with a key from what is kept, or runs it. It is admitted, in the shared transaction.
    pub(super) fn run_once(&mut self, mut work: Box<Work>) {
        // A reader may have given it a connection, for a transaction that only read and has ended.
        work.stream.own = None;
        let now_ms = self.once.now_ms();
        let Some(key) = work.key.as_deref() else { return self.run_shared(work) };
        let outcome = match self.kept(key, work.presented, now_ms) {
            Err(error) => return self.fail(&error, Some(work)),
            Ok(Some((at, kept))) => self.answer_of(key, work.presented, at, kept),
            Ok(None) => match self.room_for_keys(work.presented, now_ms) {
                Err(problem) => Err(problem),
                Ok(()) if work.alone => return self.run_sole(work),
                Ok(()) => return self.run_shared(work),
            },
        };
        match outcome {
            Err(problem) => self.done(work, Err(problem)),
            Ok(answer) => {
                work.checkpoint = Some(Checkpoint::of(&work.run, &work.stream.stored, work.stream.last_rowid));
                work.run.end_with(answer);
                work.replayed = true;
                self.done(work, Ok(()));
            }
        }
    }

    /// What is kept of a key on one of these fences.
    fn kept(&self, key: &Key, presented: FenceSet, now_ms: i64) -> Result<Option<(FenceId, Kept)>, SqliteError> {
        let since_ms = now_ms.saturating_sub(self.once.bounds.retention_ms);
        self.db.as_gate(|| {
            for id in presented.iter() {
                let fence = self.shared.fences.name(id);
                if let Some(kept) = table::find(&self.db.conn, fence, &key.text, since_ms)? {
                    return Ok(Some((id, kept)));
                }
            }
            Ok(None)
        })
    }

    /// The answer that is kept, for whoever sends the same request and may write all that it wrote.
    fn answer_of(&self, key: &Key, presented: FenceSet, at: FenceId, kept: Kept) -> Result<Vec<u8>, Problem> {
        let shared = &self.shared;
        let about = |problem: Problem| {
            let mark = shared.states[at].mark();
            problem.about(shared.fences.name(at), mark.as_ref().map(|dated| &dated.mark))
        };
        if kept.request != key.request {
            let why = "another request with this key was applied before; nothing of this one was";
            return Err(about(Problem::new(Kind::IdempotencyKeyReused, why)));
        }
        // A fence that the configuration no longer has can't be presented.
        let mut wrote = kept.fences.split(' ').filter_map(|name| shared.fences.id(name));
        if let Some(missing) = wrote.find(|fence| !presented.contains(*fence)) {
            return Err(shared.missing(missing));
        }
        kept.answer.ok_or_else(|| {
            let max = answer_max(&shared.limits, kept.fences.len());
            let why = format!("this was applied when it came first; its answer had more than {max} bytes");
            about(Problem::new(Kind::AnswerNotKept, why))
        })
    }

    /// Whether these fences take new keys.
    fn room_for_keys(&self, fences: FenceSet, now_ms: i64) -> Result<(), Problem> {
        match fences.iter().map(|id| self.once.full_until_ms[id]).filter(|until| *until > now_ms).max() {
            None => Ok(()),
            Some(until_ms) => {
                let why = "there is no room for more idempotency keys (idempotency_keys, idempotency_bytes); \
                    nothing was applied";
                let wait = Duration::from_millis((until_ms - now_ms).unsigned_abs());
                Err(Problem { retry_after: Some(wait), ..Problem::new(Kind::Overloaded, why) })
            }
        }
    }

    /// Keeps what a request with a key is answered, in the transaction in which it wrote to these fences. Where it wrote nothing, there
    /// is nothing to keep: it may as well be run again.
    pub(super) fn keep(&mut self, work: &Work, wrote: FenceSet) -> Result<(), SqliteError> {
        let Some(key) = work.key.as_deref().filter(|_| !wrote.is_empty()) else { return Ok(()) };
        let (shared, now_ms) = (Arc::clone(&self.shared), self.once.now_ms());
        let names: Vec<&str> = wrote.iter().map(|id| shared.fences.name(id).as_str()).collect();
        let fences = names.join(" ");
        let answer = Some(work.run.results()).filter(|it| it.len() <= answer_max(&shared.limits, fences.len()));
        let entry = Entry { key: &key.text, request: &key.request, fences: &fences, answer };
        for id in wrote.iter() {
            let (fence, bounds) = (shared.fences.name(id), &self.once.bounds);
            let grown = self.db.as_gate(|| table::keep(&self.db.conn, fence, &entry, now_ms, bounds))?;
            if grown.is_full {
                self.once.full_until_ms[id] = grown.queue.oldest_ms.saturating_add(bounds.hold_ms);
            }
            if grown.evicted > 0 {
                counter!("fencegate_idempotency_evicted_total", "resource" => shared.name.clone())
                    .increment(grown.evicted);
            }
            shared.show_keys(id, grown.queue);
        }
        Ok(())
    }

    /// Runs a request with a key that can't share a transaction in one of its own, after what is open is committed.
    pub(super) fn run_sole(&mut self, mut work: Box<Work>) {
        if !self.commit() {
            return self.not_durable(work);
        }
        if let Err(error) = self.begin() {
            return self.shared.finish(work, Err(unavailable(&error)));
        }
        let judged = (work.verdict, work.previous);
        // Its claims took effect in the commit just made; what it is told is what was decided then.
        if let Err(why) = self.admit(&mut work) {
            return self.turn_away(work, why);
        }
        (work.verdict, work.previous) = judged;
        work.alone = true;
        self.run_shared(work);
        self.commit();
    }
}

/// Longest answer that is kept, beside so many bytes of names: a row, too, is no longer than a value may be.
fn answer_max(limits: &Limits, names: usize) -> usize {
    limits.idempotency_answer_bytes.min(limits.value_bytes.saturating_sub(names + 1024))
}

impl Shared {
    fn show_keys(&self, fence: FenceId, queue: Queue) {
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        self.states[fence].keys.store(count(queue.keys), Ordering::Relaxed);
        self.states[fence].keys_bytes.store(count(queue.bytes), Ordering::Relaxed);
    }
}

/// What one is told whose request can't be kept.
pub fn unusable(why: &str) -> Problem {
    Problem::new(Kind::IdempotencyKeyUnusable, format!("with an Idempotency-Key, {why}; nothing was applied"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_while_the_gate_runs() {
        let start = Instant::now();
        let after = |micros: u64| start + Duration::from_micros(micros);
        let mut clock = RunningTime { ms: 7, seen: start };
        for (micros, ms) in [(0, 7), (900, 7), (1_800, 8), (2_000, 9), (500_000, 507), (2_500_000, 2507)] {
            clock.advance(after(micros));
            assert_eq!(clock.ms, ms, "{micros}");
        }
        // Frozen for an hour.
        clock.advance(after(3_600_000_000));
        assert_eq!(clock.ms, 4507);
        clock.advance(after(3_600_001_000));
        assert_eq!(clock.ms, 4508);
        // A clock that goes back, which this one never does.
        clock.advance(start);
        assert_eq!(clock.ms, 4508);
    }
}
