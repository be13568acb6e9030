//! The memory that requests and their answers may take, all together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::problem::{Kind, Problem};

/// A number of bytes that many requests share.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: usize,
}

/// What one request has taken of the budget; given back when dropped.
#[derive(Debug)]
pub struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// This many bytes.
    pub fn new(max: usize) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), max })
    }

    /// No bytes yet.
    pub fn room(self: &Arc<Budget>) -> Room {
        Room { budget: Arc::clone(self), bytes: 0 }
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Room {
    /// Takes more, before it is used.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] where the budget doesn't have it.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let before = self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before + bytes > self.budget.max {
            return Err(Problem::new(
                Kind::Overloaded,
                "too many bytes of requests and answers are in work; try again",
            ));
        }
        Ok(())
    }

    /// From here on it counts for an answer of this size, which is there already: what is decided is told, and new requests are
    /// turned away until there is room again. The bytes are given back when the answer is sent or dropped.
    pub fn hold(mut self, answer: Vec<u8>) -> Bytes {
        self.budget.used.fetch_add(answer.len(), Ordering::Relaxed);
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = answer.len();
        Bytes::from_owner(Held { answer, _room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Held {
    answer: Vec<u8>,
    _room: Room,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_until_it_is_gone() {
        let budget = Budget::new(100);
        let mut room = budget.room();
        room.grow(60).unwrap();
        assert!(budget.room().grow(50).is_err());
        assert_eq!(budget.used(), 60);
        let answer = room.hold(vec![0; 500]);
        assert_eq!((answer.len(), budget.used()), (500, 500));
        assert!(budget.room().grow(1).is_err());
        drop(answer);
        assert_eq!(budget.used(), 0);
    }
}
