//! What stops a running statement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Stops a running statement: by its deadline, or from another thread.
#[derive(Debug, Default)]
pub struct Guard {
    deadline: Mutex<Option<Instant>>,
    cancelled: AtomicBool,
    shielded: AtomicBool,
}

impl Guard {
    /// Sets the time at which the running statement is stopped.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        *self.deadline.lock().unwrap_or_else(PoisonError::into_inner) = deadline;
    }

    /// Stops the running statement and every later one until [`Guard::revive`].
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Lets statements run again.
    pub fn revive(&self) {
        self.cancelled.store(false, Ordering::SeqCst);
    }

    /// Whether [`Guard::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Runs what must not be stopped: the gate's own statements, and those that steer transactions. SQLite looks at the time even
    /// after a statement's last instruction, so that a COMMIT that is on disk would be told as interrupted.
    pub fn shield<T>(&self, run: impl FnOnce() -> T) -> T {
        let outer = self.shielded.swap(true, Ordering::SeqCst);
        let result = run();
        self.shielded.store(outer, Ordering::SeqCst);
        result
    }

    /// Whether the running statement has to end now.
    pub fn must_stop(&self) -> bool {
        if self.shielded.load(Ordering::SeqCst) {
            return false;
        }
        let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_cancelled() || deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether it has to end for a newer leader: costs less than [`Guard::must_stop`], which looks at the clock.
    pub fn must_give_way(&self) -> bool {
        self.is_cancelled() && !self.shielded.load(Ordering::SeqCst)
    }
}
