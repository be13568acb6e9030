//! A bounded queue between the gate's front and its database threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::problem::{Kind, Problem};

/// A queue of bounded length with a lane that goes first.
///
/// The urgent lane is for requests of a new leader: when it is served before what its predecessor still has waiting, all of
/// that is refused at once instead of being carried out first.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    len_max: usize,
}

#[derive(Debug)]
struct State<T> {
    urgent: VecDeque<T>,
    normal: VecDeque<T>,
    poked: bool,
    closed: bool,
    /// How many wait in [`Queue::take`]. To notify is a system call even where nobody waits.
    takers: usize,
}

impl<T> State<T> {
    fn take(&mut self, most: usize) -> Vec<T> {
        let urgent = self.urgent.len().min(most);
        let normal = self.normal.len().min(most - urgent);
        let mut items = Vec::with_capacity(urgent + normal);
        items.extend(self.urgent.drain(..urgent));
        items.extend(self.normal.drain(..normal));
        items
    }
}

impl<T> Queue<T> {
    /// A queue for this many items.
    pub fn new(len_max: usize) -> Queue<T> {
        let state = State { urgent: VecDeque::new(), normal: VecDeque::new(), poked: false, closed: false, takers: 0 };
        Queue { state: Mutex::new(state), changed: Condvar::new(), len_max }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item.
    ///
    /// # Errors
    /// The item, where the queue is full or closed.
    pub fn push(&self, item: T, urgent: bool) -> Result<(), T> {
        let mut state = self.lock();
        // What a deposed leader has waiting doesn't turn its successor away.
        let waiting = if urgent { state.urgent.len() } else { state.urgent.len() + state.normal.len() };
        if state.closed || waiting >= self.len_max {
            return Err(item);
        }
        if urgent {
            state.urgent.push_back(item)
        } else {
            state.normal.push_back(item)
        }
        self.wake(state);
        Ok(())
    }

    /// Adds items at once, none of them urgent. Returns those that were not taken in: the queue is full or closed.
    pub fn push_all(&self, items: impl Iterator<Item = T>) -> Vec<T> {
        let mut state = self.lock();
        let mut left = Vec::new();
        for item in items {
            if state.closed || state.urgent.len() + state.normal.len() >= self.len_max {
                left.push(item);
            } else {
                state.normal.push_back(item);
            }
        }
        self.wake(state);
        left
    }

    /// What one is told whose item was not taken in.
    pub fn why_not(&self, what: &str) -> Problem {
        if self.lock().closed {
            Problem::new(Kind::Unavailable, "the gate is stopping; nothing was applied")
        } else {
            Problem::new(Kind::Overloaded, format!("too many {what} are waiting; try again"))
        }
    }

    /// Adds an item that was in the queue before, whatever its length.
    pub fn push_again(&self, item: T) {
        let mut state = self.lock();
        state.normal.push_back(item);
        self.wake(state);
    }

    /// Wakes whoever waits in [`Queue::take`], so that it looks at the world anew.
    pub fn poke(&self) {
        let mut state = self.lock();
        state.poked = true;
        self.wake(state);
    }

    /// Wakes one who waits. Whoever begins to wait after this has looked at the queue under the same lock, as it is now.
    fn wake(&self, state: MutexGuard<'_, State<T>>) {
        let waits = state.takers > 0;
        drop(state);
        if waits {
            self.changed.notify_one();
        }
    }

    /// Nothing more is taken in; what is in it can still be taken out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The number of items waiting.
    pub fn waiting(&self) -> usize {
        let state = self.lock();
        state.urgent.len() + state.normal.len()
    }

    /// Takes up to `most` items that are there, the urgent ones first, without waiting.
    pub fn take_ready(&self, most: usize) -> Vec<T> {
        self.lock().take(most)
    }

    /// Waits for items until `until` and takes up to `most`, the urgent ones first. Empty after a [`Queue::poke`] or when the
    /// time is up; `None` when the queue is closed and empty.
    pub fn take(&self, most: usize, until: Instant) -> Option<Vec<T>> {
        let mut state = self.lock();
        loop {
            let items = state.take(most);
            if !items.is_empty() {
                return Some(items);
            }
            if state.closed {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            if std::mem::take(&mut state.poked) || left == Duration::ZERO {
                return Some(Vec::new());
            }
            state.takers += 1;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.takers -= 1;
        }
    }
}
