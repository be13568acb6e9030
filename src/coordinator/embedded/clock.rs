//! The clock that leases are counted by.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A clock that never goes back. Handed in, so that tests can have one of their own.
pub trait Clock: Send + Sync {
    /// The time since a moment that stays the same while this clock lives.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock (on Linux `CLOCK_MONOTONIC`): steps of the wall clock don't touch it, and **it stands still
/// while the machine is suspended**. That is the side to err on here: a suspended gate hears no renewals, so that time must not
/// count against the leaders, just as the time that a gate is down doesn't. Nobody is elected too early by it, only later. A
/// leader is in the opposite position, and should count its own lease by `CLOCK_BOOTTIME` where it has one.
pub struct MonotonicClock(Instant);

impl MonotonicClock {
    /// Counts from now.
    pub fn start() -> MonotonicClock {
        MonotonicClock(Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

impl fmt::Debug for MonotonicClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MonotonicClock({:?})", self.now())
    }
}

/// A clock that stands still until it is moved, for tests and simulations. After moving it, call
/// [`Embedded::tick`](super::Embedded::tick).
#[derive(Debug, Default)]
pub struct ManualClock(Mutex<Duration>);

impl ManualClock {
    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        *self.lock() += by;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Duration> {
        self.0.lock().expect("nothing can panic while it is held but an overflow of 2^64 seconds")
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.lock()
    }
}
