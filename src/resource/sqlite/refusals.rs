//! Who knocked with a refused token, and how often: counted in memory, written to the database about once a second, so that a
//! flood of stale writes costs the database nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::fence::{FenceName, Holder, Refusal, Token, Verdict};

use super::now_ms;

/// Most different presenters counted between two writes to the database; past that, refusals count only in the metrics.
const PRESENTERS_MAX: usize = 4096;

/// Who was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Presenter {
    /// The fence.
    pub fence: FenceName,
    /// `stale` or `conflict`.
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
#[derive(Debug, Default)]
pub struct Refusals {
    pending: Mutex<HashMap<Presenter, Knocks>>,
}

impl Refusals {
    /// Counts one.
    pub fn count(&self, refusal: &Refusal) {
        let Refusal { verdict, fence, presented, holder, .. } = refusal.clone();
        let at = now_ms();
        self.add(
            Presenter { fence, verdict, token: presented, holder },
            Knocks { count: 1, first_at_ms: at, last_at_ms: at },
        );
    }

    fn add(&self, presenter: Presenter, knocks: Knocks) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= PRESENTERS_MAX && !pending.contains_key(&presenter) {
            return;
        }
        let sum = pending.entry(presenter).or_insert(Knocks { count: 0, ..knocks });
        sum.count += knocks.count;
        sum.first_at_ms = sum.first_at_ms.min(knocks.first_at_ms);
        sum.last_at_ms = sum.last_at_ms.max(knocks.last_at_ms);
    }

    /// What was counted for one fence and is not in the database yet.
    pub fn pending(&self, fence: &str) -> Vec<(Presenter, Knocks)> {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending
            .iter()
            .filter(|(presenter, _)| presenter.fence.as_str() == fence)
            .map(|(p, k)| (p.clone(), *k))
            .collect()
    }

    /// Takes all that was counted.
    pub fn take(&self) -> HashMap<Presenter, Knocks> {
        std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts back what could not be written.
    pub fn put_back(&self, taken: HashMap<Presenter, Knocks>) {
        taken.into_iter().for_each(|(presenter, knocks)| self.add(presenter, knocks));
    }
}
