//! What the writer does that no client asks for: expired streams, counted refusals, an operator's reset.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::fail::{self, Point};
use crate::fence::{FenceName, Mark};
use crate::problem::{Kind, Problem};
use crate::resource::refusals::Refusals;

use super::commit::{commit_problem, lost};
use super::fences::DatedMark;
use super::own::unavailable;
use super::writer::{TICK, Writer};
use super::{now_ms, store};

/// How often counted refusals are written down.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);

impl Writer {
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        if now - self.ticked_at < TICK {
            return;
        }
        self.ticked_at = now;
        // So that it misses no time.
        self.once.now_ms();
        let limits = &self.shared.limits;
        let ago = |time: Duration| now.checked_sub(time).unwrap_or(now);
        self.shared.refusals.tell(&self.shared.told);
        self.shared.streams.sweep(ago(limits.stream_idle), ago(limits.transaction_time));
        if now - self.refusals_at >= REFUSALS_EVERY {
            self.refusals_at = now;
            // Where an operator reads them just now, they are written the next time.
            if let Some(steady) = Arc::clone(&self.shared).refusals.steady_if_free() {
                self.flush_refusals(&steady);
            }
        }
    }

    /// Writes counted refusals to the database. `_steady`: see [`Refusals`].
    pub fn flush_refusals(&mut self, _steady: &MutexGuard<'_, ()>) {
        let refusals: &Refusals = &self.shared.refusals;
        let taken = refusals.take();
        // While a client is inside a transaction, a write of ours would make its snapshot too old to write from.
        if taken.is_empty() || self.shared.transactions() > 0 {
            return refusals.put_back(taken);
        }
        fail::at(Point::RefusalsTaken);
        let written = self.db.own("BEGIN IMMEDIATE").and_then(|()| store::write_refusals(&self.db, &taken));
        fail::at(Point::RefusalsWritten);
        if let Err(error) = written.and_then(|()| self.db.own("COMMIT")) {
            if !self.db.conn.is_autocommit() {
                let _ = self.db.own("ROLLBACK");
            }
            self.shared.refusals.put_back(taken);
            self.storage_failed(&error);
        }
        fail::at(Point::RefusalsCommitted);
    }

    /// Sets a fence's mark to what an operator says, and puts that into the history. Open transactions on the fence end.
    ///
    /// # Errors
    /// A database that can't be written.
    pub fn reset(&mut self, fence: &FenceName, to: Option<Mark>, reason: &str) -> Result<Option<Mark>, Problem> {
        self.shared.streams.end_where(|claims| {
            let why = "an operator reset the fence; the open transaction was rolled back";
            claims.iter().any(|claim| claim.fence == *fence).then(|| Problem::new(Kind::StreamExpired, why))
        });
        self.begin().map_err(|error| unavailable(&error))?;
        fail::at(Point::ResetBegun);
        let (before, at_ms) = (self.ledger.get(fence).cloned(), now_ms());
        let written = store::set_mark(&self.db, fence, to.as_ref(), before.as_ref(), "reset", Some(reason), at_ms);
        fail::at(Point::ResetWritten);
        let failed = match written {
            Ok(()) => self.db.own("COMMIT").map_err(|error| (commit_problem(&error), error)),
            Err(error) => Err((unavailable(&error), error)),
        };
        if let Err((problem, error)) = failed {
            self.rollback();
            self.storage_failed(&error);
            return Err(problem);
        }
        fail::at(Point::ResetCommitted);
        self.group = None;
        self.shared.resets.fetch_add(1, Ordering::Relaxed);
        self.ledger.put(fence.clone(), to.clone());
        if let Some(id) = self.shared.fences.id(fence) {
            self.shared.states[id].publish(to.map(|mark| DatedMark { mark, advanced_at_ms: at_ms }));
        }
        self.tell("reset", fence, self.ledger.get(fence), before.as_ref(), at_ms);
        tracing::warn!(%fence, reason, "an operator reset the mark");
        fail::at(Point::ResetPublished);
        self.place.check().map(|()| before).map_err(|why| lost(&why))
    }
}
