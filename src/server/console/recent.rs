//! Who knocked lately: the last minute's refusals, of the fences that had any, for the first look of an operator.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fence::{FenceName, Holder, Token};
use crate::resource::Happened;

/// Most fences that are remembered. Past that, those that were knocked at least lately are forgotten.
const FENCES_MAX: usize = 1000;
/// A minute in parts: the oldest part falls out when a new one begins.
const PARTS: usize = 12;
/// How long one part is, in milliseconds.
const PART_MS: u64 = 5_000;
/// How long a fence is remembered after the last refusal, in milliseconds.
const REMEMBERED_MS: i64 = 10 * 60 * 1000;

/// Refusals of the last minute, give or take one part of it.
#[derive(Debug, Clone, Copy, Default)]
struct Minute {
    counts: [u64; PARTS],
    /// The part that was counted in last, from 1970 on.
    last: u64,
}

impl Minute {
    /// Forgets what is older than a minute at this time.
    fn turn(&mut self, now_ms: i64) {
        let part = u64::try_from(now_ms).unwrap_or(0) / PART_MS;
        let oldest = part.saturating_sub(PARTS as u64 - 1);
        for passed in oldest.max(self.last + 1)..=part {
            self.counts[place(passed)] = 0;
        }
        self.last = self.last.max(part);
    }

    fn add(&mut self, now_ms: i64, count: u64) {
        self.turn(now_ms);
        self.counts[place(self.last)] += count;
    }

    fn sum(&mut self, now_ms: i64) -> u64 {
        self.turn(now_ms);
        self.counts.iter().sum()
    }
}

fn place(part: u64) -> usize {
    usize::try_from(part % PARTS as u64).unwrap_or(0)
}

/// A fence that somebody knocked at with a token that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knocked {
    /// The fence.
    pub fence: FenceName,
    /// The latest refusal: `stale`, `conflict` or `unissued`.
    pub verdict: &'static str,
    /// Its token.
    pub token: Option<Token>,
    /// Its holder.
    pub holder: Option<Holder>,
    /// When, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
    /// Refusals of the last minute.
    pub in_minute: u64,
    /// When the latest conflict was, likewise.
    pub conflict_at_ms: Option<i64>,
}

#[derive(Debug)]
struct Entry {
    latest: Knocked,
    minute: Minute,
}

#[derive(Debug, Default)]
struct State {
    fences: HashMap<FenceName, Entry>,
    minute: Minute,
}

/// What was refused lately. Its memory is bounded, whoever knocks with whatever names.
#[derive(Debug, Default)]
pub struct Recent {
    state: Mutex<State>,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the refusals among what happened.
    pub fn note(&self, happened: &[Happened]) {
        let refusals = happened.iter().filter(|event| matches!(event.event, "stale" | "conflict" | "unissued"));
        let mut state = self.lock();
        for event in refusals {
            state.note(event);
        }
    }

    /// Refusals of the last minute, and the fences that were knocked at lately, the worst first: those with a conflict, then by the
    /// time of the latest refusal. At most `limit`.
    pub fn knocked(&self, now_ms: i64, limit: usize) -> (u64, Vec<Knocked>) {
        let mut state = self.lock();
        state.fences.retain(|_, entry| now_ms - entry.latest.at_ms <= REMEMBERED_MS);
        let mut all: Vec<Knocked> = state
            .fences
            .values_mut()
            .map(|entry| Knocked { in_minute: entry.minute.sum(now_ms), ..entry.latest.clone() })
            .collect();
        let in_minute = state.minute.sum(now_ms);
        drop(state);
        all.sort_by_key(|knocked| (knocked.conflict_at_ms.is_none(), std::cmp::Reverse(knocked.at_ms)));
        all.truncate(limit);
        (in_minute, all)
    }
}

impl State {
    fn note(&mut self, event: &Happened) {
        if self.fences.len() >= FENCES_MAX && !self.fences.contains_key(&event.fence) {
            // Half at once, so that a flood of names doesn't look through all of them for each.
            let mut times: Vec<i64> = self.fences.values().map(|entry| entry.latest.at_ms).collect();
            times.sort_unstable();
            let middle = times[times.len() / 2];
            self.fences.retain(|_, entry| entry.latest.at_ms > middle);
        }
        self.minute.add(event.at_ms, event.count);
        let latest = Knocked {
            fence: event.fence.clone(),
            verdict: event.event,
            token: event.token,
            holder: event.holder.clone(),
            at_ms: event.at_ms,
            in_minute: 0,
            conflict_at_ms: (event.event == "conflict").then_some(event.at_ms),
        };
        let minute = Minute::default();
        let entry = self.fences.entry(event.fence.clone()).or_insert(Entry { latest: latest.clone(), minute });
        entry.minute.add(event.at_ms, event.count);
        let conflict_at_ms = latest.conflict_at_ms.max(entry.latest.conflict_at_ms);
        if latest.at_ms >= entry.latest.at_ms {
            entry.latest = latest;
        }
        entry.latest.conflict_at_ms = conflict_at_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(fence: &str, event: &'static str, count: u64, at_ms: i64) -> Happened {
        let fence = fence.parse().expect("a name");
        Happened { event, fence, token: "5".parse().ok(), previous: None, holder: None, count, at_ms }
    }

    #[test]
    fn a_minute_passes() {
        let recent = Recent::default();
        recent.note(&[refusal("a", "stale", 3, 1_000_000), refusal("a", "advanced", 9, 1_000_000)]);
        recent.note(&[refusal("b", "stale", 4, 1_030_000)]);
        let (all, fences) = recent.knocked(1_031_000, 10);
        assert_eq!((all, fences[0].fence.as_str(), fences[0].in_minute, fences[1].in_minute), (7, "b", 4, 3));
        let (all, fences) = recent.knocked(1_061_000, 10);
        assert_eq!((all, fences[0].in_minute, fences[1].in_minute), (4, 4, 0));
        assert_eq!(recent.knocked(1_000_000 + REMEMBERED_MS + 1, 10).1.len(), 1);
        assert_eq!(recent.knocked(1_030_000 + REMEMBERED_MS + 1, 10), (0, Vec::new()));
    }

    #[test]
    fn a_conflict_stands_first_also_after_stale_ones() {
        let recent = Recent::default();
        recent.note(&[
            refusal("a", "conflict", 1, 1_000),
            refusal("a", "stale", 1, 2_000),
            refusal("b", "stale", 1, 9_000),
        ]);
        let (_, fences) = recent.knocked(9_000, 10);
        assert_eq!(
            (fences[0].fence.as_str(), fences[0].verdict, fences[0].conflict_at_ms),
            ("a", "stale", Some(1_000))
        );
        assert_eq!(recent.knocked(9_000, 1).1.len(), 1);
    }

    #[test]
    fn whoever_knocks_with_many_names_takes_no_more_memory() {
        let recent = Recent::default();
        for number in 0..100_000_i64 {
            recent.note(&[refusal(&format!("f/{number}"), "stale", 1, 1_000_000 + number / 100)]);
        }
        let (all, fences) = recent.knocked(1_001_000, usize::MAX);
        assert_eq!(all, 100_000);
        assert!((1..=FENCES_MAX).contains(&fences.len()), "{}", fences.len());
        assert_eq!(fences[0].at_ms, 1_000_999);
    }
}
