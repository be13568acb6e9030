//! What stops a running statement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Stops a running statement: by its deadline, or from another thread.
#[derive(Debug, Default)]
pub struct Guard {
    deadline: Mutex<Option<Instant>>,
    cancelled: AtomicBool,
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

    /// Whether the running statement has to end now.
    pub fn must_stop(&self) -> bool {
        let deadline = *self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_cancelled() || deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }
}
