//! When requests are due.
//!
//! **Invariant.** In an open loop every request that was due has its latency counted from when it was due, whenever it could be
//! sent, and also where it never was. A server that stalls thereby can't keep the load from being asked of it, and the wait
//! from being seen: no coordinated omission.

use std::time::{Duration, Instant};

/// How fast requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each connection sends its next request when it has the answer to the one before.
    Closed,
    /// So many requests a second, over all connections, whether answers come or not.
    Open(f64),
}

/// The times at which the requests of one thread are due.
#[derive(Debug)]
pub struct Schedule {
    start: Instant,
    /// No request is due from then on.
    end: Instant,
    /// Seconds from one to the next.
    interval: f64,
    /// The first one's, so that those of several threads alternate.
    offset: f64,
    next: u64,
}

impl Schedule {
    /// Of thread `index` among `threads`, which together send `rate` a second.
    pub fn new(start: Instant, end: Instant, rate: f64, index: usize, threads: usize) -> Schedule {
        let apart = 1.0 / rate;
        Schedule { start, end, interval: apart * threads as f64, offset: apart * index as f64, next: 0 }
    }

    /// When the next one is due; `None` where there is none any more.
    pub fn next(&self) -> Option<Instant> {
        let at = self.start + Duration::from_secs_f64(self.offset + self.interval * self.next as f64);
        (at < self.end).then_some(at)
    }

    /// Takes the next one if it is due: the time at which it was.
    pub fn take(&mut self, now: Instant) -> Option<Instant> {
        let at = self.next().filter(|at| *at <= now)?;
        self.next += 1;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_alternate_and_together_send_the_rate() {
        let start = Instant::now();
        let end = start + Duration::from_secs(2);
        let mut due: Vec<Duration> = Vec::new();
        for index in 0..3 {
            let mut schedule = Schedule::new(start, end, 150.0, index, 3);
            assert_eq!(schedule.take(start).is_some(), index == 0, "nothing goes out early");
            due.extend((index == 0).then_some(Duration::ZERO));
            while let Some(at) = schedule.take(end) {
                due.push(at - start);
            }
        }
        due.sort();
        assert_eq!(due.len(), 300);
        let apart = due.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64());
        assert!(apart.into_iter().all(|apart| (apart - 1.0 / 150.0).abs() < 1e-6), "{due:?}");
    }
}
