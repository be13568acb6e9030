//! How fast refusals are told.
//!
//! A deposed leader that doesn't give up asks again as soon as it is refused, on as many connections as it has, and each refusal costs
//! what a small request costs. So while anybody else is served, each thread tells only so many refusals a second at once. More wait, each
//! for its turn (the generic cell rate algorithm, ITU-T I.371), but for a second at most: nobody is kept waiting who asks only once,
//! and whoever asks again and again waits for every answer. Where nobody else is served, none waits.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a refusal waits at most.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// What may be told at once after a while without refusals, as time.
const BURST: Duration = Duration::from_millis(100);
/// Threads that say by themselves whether they serve; more share what they say.
const SLOTS: usize = 64;

/// When a thread last served somebody. On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Slot(AtomicU64);

/// The present second, from the start of the process; the first is 2.
static SECOND: AtomicU64 = AtomicU64::new(2);
static SERVED: [Slot; SLOTS] = [const { Slot(AtomicU64::new(0)) }; SLOTS];

thread_local! {
    static OWN: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS
    };
    /// When the next refusal is due on this thread.
    static DUE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A second has passed since the last call, or less: every thread that serves says so.
pub fn tick(began: Instant) {
    SECOND.fetch_max(began.elapsed().as_secs() + 2, Ordering::Relaxed);
}

/// A request was served on this thread.
pub fn served() {
    let second = SECOND.load(Ordering::Relaxed);
    let slot = OWN.with(|own| &SERVED[*own].0);
    if slot.load(Ordering::Relaxed) != second {
        slot.store(second, Ordering::Relaxed);
    }
}

/// Whether a request was served on any thread, in this second or the last one.
fn is_anybody_served() -> bool {
    let second = SECOND.load(Ordering::Relaxed);
    SERVED.iter().any(|slot| slot.0.load(Ordering::Relaxed) + 1 >= second)
}

/// How many refusals a thread tells at once.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    every: Duration,
}

impl Pace {
    /// So many in a second.
    pub fn new(per_second: usize) -> Pace {
        Pace { every: Duration::from_secs(1) / u32::try_from(per_second).unwrap_or(u32::MAX).max(1) }
    }

    /// How long the next refusal on this thread waits before it is told; mostly not at all. `is_crowded`: connections are scarce, so that
    /// others may want to be served who can't ask.
    pub fn wait(self, is_crowded: bool) -> Option<Duration> {
        if !is_crowded && !is_anybody_served() {
            return None;
        }
        let (wait, due) = self.turn(DUE.get(), Instant::now());
        DUE.set(Some(due));
        wait
    }

    /// How long one waits that comes now, and when the next one is due; `due`: when this one is.
    fn turn(self, due: Option<Instant>, now: Instant) -> (Option<Duration>, Instant) {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        // However many come: what is over the most that one waits is not held against those who come later.
        let due = due.unwrap_or(earliest).clamp(earliest, now + WAIT_MAX);
        (due.checked_duration_since(now).filter(|wait| !wait.is_zero()), due + self.every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_at_once_then_each_in_its_turn() {
        let pace = Pace::new(1000);
        let start = Instant::now() + Duration::from_secs(10);
        let mut due = None;
        let mut ask = |at: Duration| {
            let (wait, next) = pace.turn(due, start + at);
            due = Some(next);
            wait
        };
        let at_once = (0..1000).take_while(|_| ask(Duration::ZERO).is_none()).count();
        assert_eq!(at_once, 101, "a tenth of a second's, and this one");
        assert_eq!(ask(Duration::ZERO), Some(Duration::from_millis(2)));
        let longest = (0..5000).filter_map(|_| ask(Duration::ZERO)).max();
        assert_eq!(longest, Some(WAIT_MAX));
        // A while later it is as if nothing had been.
        assert_eq!(ask(2 * WAIT_MAX), None);
    }

    #[test]
    fn nobody_waits_where_nobody_is_served() {
        // Other tests of this process may serve; but no test says that time passes.
        let pace = Pace::new(1);
        SECOND.store(1000, Ordering::Relaxed);
        assert!((0..100).all(|_| pace.wait(false).is_none()));
        served();
        assert!((0..100).filter_map(|_| pace.wait(false)).count() > 90);
        SECOND.store(2000, Ordering::Relaxed);
        assert!((0..100).all(|_| pace.wait(false).is_none()));
        assert!((0..100).filter_map(|_| pace.wait(true)).count() > 90);
    }
}
