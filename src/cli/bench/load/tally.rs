//! What is counted while a load runs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies are counted in nanoseconds, from 100 ns to 10 minutes, to three digits.
const LATENCY_NS: (u64, u64) = (100, 600_000_000_000);
/// Significant digits of a latency.
const DIGITS: u8 = 3;

/// An empty histogram of latencies, in nanoseconds.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(LATENCY_NS.0, LATENCY_NS.1, DIGITS).expect("the bounds are as the crate wants them")
}

/// A time in nanoseconds, for a histogram.
pub fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What one visit to something measured has given.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Operations a second: those that ended in the time that counts, over that time.
    pub per_second: f64,
    /// Latencies of all operations that were begun, or due, in the time that counts.
    pub latency: Histogram<u64>,
    /// The last answer's status of each of them, and how often.
    pub answers: BTreeMap<u16, u64>,
    /// How many of them were answered in another way than expected.
    pub unexpected: u64,
    /// Operations of which the connection broke.
    pub broken: u64,
    /// Of an open loop: requests that were due and never answered in time. Their latency is counted as at least what it was.
    pub unfinished: u64,
    /// How much of one processor each thread of the load generator took, from 0 to 1.
    pub busy: f64,
    /// How many processors the gate took; `None` where its process isn't known.
    pub gate_busy: Option<f64>,
    /// The highest token that was presented and not refused, where it rose.
    pub token: Option<u64>,
}

impl Sample {
    /// An empty one.
    pub fn new() -> Sample {
        Sample {
            per_second: 0.0,
            latency: latencies(),
            answers: BTreeMap::new(),
            unexpected: 0,
            broken: 0,
            unfinished: 0,
            busy: 0.0,
            gate_busy: None,
            token: None,
        }
    }

    /// Takes in what another thread has counted at the same time.
    pub fn add(&mut self, other: &Sample) {
        self.per_second += other.per_second;
        self.latency.add(&other.latency).expect("both have the same bounds");
        for (status, count) in &other.answers {
            *self.answers.entry(*status).or_default() += count;
        }
        self.unexpected += other.unexpected;
        self.broken += other.broken;
        self.unfinished += other.unfinished;
        self.busy = self.busy.max(other.busy);
        self.token = self.token.max(other.token);
        self.gate_busy = self.gate_busy.or(other.gate_busy);
    }

    /// Processor time of the gate for each operation, in microseconds.
    pub fn gate_cpu_us(&self) -> Option<f64> {
        self.gate_busy.filter(|_| self.per_second > 0.0).map(|busy| busy * 1e6 / self.per_second)
    }

    /// How many operations have an answer.
    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }
}

impl Default for Sample {
    fn default() -> Sample {
        Sample::new()
    }
}
