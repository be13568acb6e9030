//! How much time of processors a process, or this thread, has used: the kernel's own account, in nanoseconds.

use std::time::Duration;

use nix::unistd::Pid;
use rustix::time::{ClockId, clock_gettime};

/// The largest number that Linux gives to a process (`PID_MAX_LIMIT` of linux/threads.h).
const PID_MAX: i32 = 1 << 22;

/// The clock of a process. It counts all of its threads, those that have ended, too.
#[derive(Debug, Clone, Copy)]
pub struct CpuClock(nix::time::ClockId);

impl CpuClock {
    /// Of this process; `None` where there is none.
    pub fn of(pid: u32) -> Option<CpuClock> {
        // Larger ones would not fit into a clock's number, and name another clock.
        let pid = Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid <= PID_MAX)?);
        nix::time::ClockId::pid_cpu_clock_id(pid).ok().map(CpuClock)
    }

    /// What it has used so far; `None` once it has gone.
    pub fn now(self) -> Option<Duration> {
        self.0.now().ok().map(Duration::from)
    }
}

/// What this thread has used so far.
pub fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_finer_than_in_ticks() {
        let clock = CpuClock::of(std::process::id()).unwrap();
        let (before, thread_before) = (clock.now().unwrap(), thread_time());
        let mut sum = 0_u64;
        while thread_time() - thread_before < Duration::from_millis(2) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(clock.now().unwrap() - before >= Duration::from_millis(2));
        assert!(CpuClock::of(5_000_000).is_none(), "nobody has this number");
    }
}
