//! Who knocked with a refused token, and how often: counted in memory, written to the database about once a second, so that a
//! flood of stale writes costs the database nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use crate::fence::{FenceName, Holder, Refusal, Token, Verdict};

use super::threads::now_ms;
use super::{Happened, Knock, Told};

/// Most different presenters counted between two writes to the database; past that, refusals count only in the metrics.
const PRESENTERS_MAX: usize = 4096;

/// Who was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Presenter {
    /// The fence.
    pub fence: FenceName,
    /// `stale`, `conflict` or `unissued`.
    pub verdict: Verdict,
    /// The token presented.
    pub token: Token,
    /// The holder presented.
    pub holder: Option<Holder>,
}

/// How often and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knocks {
    /// How often.
    pub count: u64,
    /// First, in milliseconds since 1970 (UTC).
    pub first_at_ms: i64,
    /// Last, likewise.
    pub last_at_ms: i64,
}

/// Refusals that are not in the database yet.
///
/// **Invariant.** While [`Refusals::steady`] is held, each refusal is in exactly one place: counted here, or committed in the
/// database. Between [`Refusals::take`] and the commit it is in neither or in both, so the writer holds it from before the one
/// until after the other, and so does who adds both up.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: Mutex<Counts>,
    steady: Mutex<()>,
}

#[derive(Debug, Default)]
struct Counts {
    /// The last one, who mostly comes again: not added to the others yet.
    last: Option<(Presenter, Knocks)>,
    /// Not told to anybody yet.
    fresh: HashMap<Presenter, Knocks>,
    /// Told, but not written yet.
    pending: HashMap<Presenter, Knocks>,
    /// Refusals that there was no room for, and that nobody was told of yet.
    missed: u64,
}

impl Counts {
    fn settle(&mut self) {
        if let Some((presenter, knocks)) = self.last.take()
            && !add(&mut self.fresh, presenter, knocks)
        {
            self.missed += knocks.count;
        }
    }
}

/// False where there is no room for one more.
fn add(counts: &mut HashMap<Presenter, Knocks>, presenter: Presenter, knocks: Knocks) -> bool {
    if counts.len() >= PRESENTERS_MAX && !counts.contains_key(&presenter) {
        return false;
    }
    let sum = counts.entry(presenter).or_insert(Knocks { count: 0, ..knocks });
    sum.count += knocks.count;
    sum.first_at_ms = sum.first_at_ms.min(knocks.first_at_ms);
    sum.last_at_ms = sum.last_at_ms.max(knocks.last_at_ms);
    true
}

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing moves from here to the database, but for what the holder moves.
    pub fn steady(&self) -> MutexGuard<'_, ()> {
        self.steady.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, where nobody has it: the writer doesn't wait for an operator who reads.
    pub fn steady_if_free(&self) -> Option<MutexGuard<'_, ()>> {
        match self.steady.try_lock() {
            Ok(steady) => Some(steady),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Counts one.
    pub fn count(&self, refusal: &Refusal) {
        let Refusal { verdict, fence, presented, holder, .. } = refusal.clone();
        self.count_presenter(Presenter { fence, verdict, token: presented, holder });
    }

    /// Counts one that wasn't refused by a mark.
    pub fn count_presenter(&self, presenter: Presenter) {
        let at = now_ms();
        let mut counts = self.lock();
        match &mut counts.last {
            Some((last, knocks)) if *last == presenter => {
                knocks.count += 1;
                knocks.last_at_ms = knocks.last_at_ms.max(at);
            }
            _ => {
                counts.settle();
                counts.last = Some((presenter, Knocks { count: 1, first_at_ms: at, last_at_ms: at }));
            }
        }
    }

    /// Tells what was counted since the last call. It stays to be written. What there was no room for is told as a gap.
    pub fn tell(&self, told: &Told) {
        let fresh = self.fresh();
        told.miss(std::mem::take(&mut self.lock().missed));
        fresh.into_iter().for_each(|(presenter, knocks)| told.add(presenter.happened(knocks)));
    }

    /// What was counted since the last call, for telling it. It stays to be written.
    pub fn fresh(&self) -> Vec<(Presenter, Knocks)> {
        let mut counts = self.lock();
        counts.settle();
        let fresh: Vec<_> = counts.fresh.drain().collect();
        for (presenter, knocks) in &fresh {
            add(&mut counts.pending, presenter.clone(), *knocks);
        }
        fresh
    }

    /// What was counted for one fence and is not in the database yet.
    pub fn unwritten(&self, fence: &str) -> Vec<(Presenter, Knocks)> {
        let mut counts = self.lock();
        counts.settle();
        let mut all = counts.pending.clone();
        for (presenter, knocks) in &counts.fresh {
            add(&mut all, presenter.clone(), *knocks);
        }
        all.into_iter().filter(|(presenter, _)| presenter.fence.as_str() == fence).collect()
    }

    /// Takes what is to be written.
    pub fn take(&self) -> HashMap<Presenter, Knocks> {
        std::mem::take(&mut self.lock().pending)
    }

    /// Puts back what could not be written.
    pub fn put_back(&self, taken: HashMap<Presenter, Knocks>) {
        let mut counts = self.lock();
        for (presenter, knocks) in taken {
            add(&mut counts.pending, presenter, knocks);
        }
    }
}

/// What stands in the database and what isn't written yet, put together for an operator: the latest first, at most a thousand.
pub fn merge(mut found: Vec<(Presenter, Knocks)>, written: Vec<(Presenter, Knocks)>) -> Vec<Knock> {
    for (presenter, knocks) in written {
        match found.iter_mut().find(|(other, _)| *other == presenter) {
            Some((_, sum)) => {
                sum.count += knocks.count;
                sum.first_at_ms = sum.first_at_ms.min(knocks.first_at_ms);
            }
            None => found.push((presenter, knocks)),
        }
    }
    found.sort_by_key(|(_, knocks)| std::cmp::Reverse(knocks.last_at_ms));
    let knock = |(presenter, knocks): (Presenter, Knocks)| Knock {
        verdict: presenter.verdict,
        token: presenter.token,
        holder: presenter.holder,
        count: knocks.count,
        first_at_ms: knocks.first_at_ms,
        last_at_ms: knocks.last_at_ms,
    };
    found.into_iter().take(1000).map(knock).collect()
}

impl Presenter {
    /// A refusal that was counted, as whoever watches is told of it.
    pub fn happened(self, knocks: Knocks) -> Happened {
        Happened {
            event: self.verdict.as_str(),
            fence: self.fence,
            token: Some(self.token),
            previous: None,
            holder: self.holder,
            count: knocks.count,
            at_ms: knocks.last_at_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_no_room_for_is_told_as_a_gap() {
        let refusals = Refusals::default();
        let presenter = |number: usize| Presenter {
            fence: "f".parse().expect("a name"),
            verdict: Verdict::Stale,
            token: (number + 1).to_string().parse().expect("a token"),
            holder: None,
        };
        (0..PRESENTERS_MAX).for_each(|number| refusals.count_presenter(presenter(number)));
        refusals.count_presenter(presenter(0));
        refusals.count_presenter(presenter(PRESENTERS_MAX));
        let told = Told::default();
        refusals.tell(&told);
        let news = told.take();
        assert_eq!(news.happened.iter().map(|event| event.count).sum::<u64>(), PRESENTERS_MAX as u64 + 1);
        assert_eq!(news.lost, 1, "one that is known has room");
        refusals.tell(&told);
        assert_eq!(told.take().lost, 0, "it is told once");
    }
}
