//! The clock that leases are counted by.

use std::fmt::Debug;
use std::time::Duration;

/// A clock that never goes back. What counts is the difference of two readings.
pub trait Clock: Debug + Send + Sync {
    /// Time since some moment in the past.
    fn now(&self) -> Duration;
}

/// The machine's clock that goes on while the machine is suspended: `CLOCK_BOOTTIME` on Linux. The standard library's
/// [`Instant`](std::time::Instant) stands still then, and a laptop that was closed would take its lease for alive.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Clock for BootClock {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn now(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn now(&self) -> Duration {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let mut last = BootClock.now();
        for _ in 0..1000 {
            let now = BootClock.now();
            assert!(now >= last);
            last = now;
        }
    }
}
