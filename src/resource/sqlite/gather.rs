//! Which requests share a transaction.
//!
//! All that wait when it begins, and all that come while those are run. Where the disk is slow that isn't enough: clients who ask again
//! as soon as they are answered fall into two halves, one of which waits while the other is committed, and each waits for the disk twice.
//! So the writer waits for those who were just answered to come back, for two thirds of the time that a commit takes (who takes longer
//! does as well with the next one), and only where waiting has paid off: PostgreSQL's `commit_delay` and `commit_siblings` (its
//! documentation, "Write Ahead Log"), set by what is seen.

use std::time::{Duration, Instant};

use super::queue::Taken;
use super::shared::Item;
use super::writer::{PIECE_MAX, Writer};

/// Most requests in one shared transaction.
const BATCH_MAX: usize = 1024;
/// How long a shared transaction may take before it is committed: what another fence writes waits for no more than that, and the
/// statement that runs.
const BATCH_TIME_MAX: Duration = Duration::from_millis(50);
/// Bytes of answers after which a shared transaction is committed.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// Where a commit takes less, a thread that sleeps and is woken takes as long as what is to be gained.
const WORTH: Duration = Duration::from_micros(500);
/// How long it waits for others at most.
const LINGER_MAX: Duration = Duration::from_millis(10);
/// After waiting in vain, so many transactions are committed without, four times as many each time: at most two to the power of this.
const MISSES_MAX: u32 = 10;

impl Writer {
    /// Runs these, and those that come in the meantime: they would wait for the disk twice, and be a small transaction.
    pub(super) fn gather(&mut self, mut items: Vec<Taken<Item>>) {
        let mut room = BATCH_MAX;
        let began = Instant::now();
        let mut at = began;
        while !items.is_empty() {
            room = room.saturating_sub(items.len());
            let mut left = items.into_iter();
            while let Some(taken) = left.next() {
                let (item, bill) = taken.split();
                match item {
                    Item::Work(work) => {
                        self.process(work);
                        if self.group.as_ref().is_some_and(|group| group.bytes > BATCH_BYTES_MAX) {
                            self.commit();
                        }
                    }
                    Item::Task(task) => {
                        self.commit();
                        task(self);
                    }
                }
                let now = Instant::now();
                self.spent.add(&bill, now - at);
                at = now;
                if now - began > BATCH_TIME_MAX {
                    return self.shared.writer.give_back(left);
                }
            }
            items = self.more(room.min(PIECE_MAX), at);
            at = Instant::now();
        }
    }

    /// What else belongs to the open transaction, if there is one.
    fn more(&mut self, most: usize, now: Instant) -> Vec<Taken<Item>> {
        let (Some(group), queue) = (&self.group, &self.shared.writer) else { return Vec::new() };
        let items = queue.take_ready(most, &mut self.spent);
        // A new leader isn't kept waiting, nor who waits for its mark.
        if !items.is_empty() || most == 0 || !group.admissions.is_empty() {
            return items;
        }
        match self.linger.until(group.done.len(), now) {
            Some((wanted, until)) => queue.take_when(wanted, until, most, &mut self.spent),
            None => items,
        }
    }
}

/// Whether a transaction waits for those who were answered after the last ones.
#[derive(Debug, Default)]
pub(super) struct Linger {
    /// How many ask, as far as is known: who was in the last transaction, and who waited at its end.
    crowd: usize,
    /// How long a commit takes.
    takes: Duration,
    /// So long after the last one's end: who comes back later had better not be waited for.
    late: Option<Instant>,
    /// The present transaction waits until it has so many, and until then at most.
    goal: Option<(usize, Instant)>,
    /// How often too few came, which counts twice, less how often enough did.
    misses: u32,
    /// So many transactions don't wait.
    skips: u32,
}

impl Linger {
    /// How many more to wait for, and until when; nothing where that isn't worth it. `len`: how many the transaction has.
    fn until(&mut self, len: usize, now: Instant) -> Option<(usize, Instant)> {
        if self.goal.is_none() && self.skips == 0 && len < self.crowd {
            // One in eight may take its time.
            let missing = self.crowd - len;
            self.goal = self.late.filter(|late| now < *late).map(|late| (len + missing - missing / 8, late));
        }
        let (goal, until) = self.goal?;
        (len < goal && now < until).then(|| (goal - len, until))
    }

    /// A transaction of this length is committed, which began then and took so long; `left`: how many wait for the next.
    pub(super) fn committed(&mut self, len: usize, left: usize, began: Instant, took: Duration) {
        match self.goal.take() {
            None => self.skips = self.skips.saturating_sub(1),
            Some((goal, _)) if len >= goal => self.misses = self.misses.saturating_sub(1),
            Some(_) => {
                self.misses = (self.misses + 2).min(MISSES_MAX);
                self.skips = 1 << self.misses;
            }
        }
        self.crowd = len + left;
        self.takes = if self.takes.is_zero() { took } else { (self.takes * 7 + took) / 8 };
        // Who takes as long as a commit gains nothing by it, and what else there is to do for a transaction counts, too.
        self.late = (self.takes >= WORTH).then(|| began + took + (self.takes * 2 / 3).min(LINGER_MAX));
    }

    /// It failed.
    pub(super) fn failed(&mut self) {
        *self = Linger::default();
    }
}

#[cfg(test)]
mod tests;
