//! The memory that requests and their answers may take, all together, and how it is shared.
//!
//! Requests in work and answers on their way to clients have an account each. Both are kept by lane, as the queues are: what one
//! fence's leader, or whoever presents no token, has taken is not missing to the others.
//!
//! - *Requests*: a lane may take as much as is left, as in [`super::queue`]. One alone fills half.
//! - *Answers*: what is decided is told, whatever its size. But while clients have not taken a quarter of what there may be of one lane's
//!   answers, none of its requests is begun; and nobody's, where there are as many as there may be of all. So there is never more than that
//!   and what was being run by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use crate::problem::{Kind, Problem};

use super::queue::{LANES, LaneId};

/// Numbers of bytes that many requests share.
#[derive(Debug)]
pub struct Budget {
    requests: Account,
    answers: Account,
}

#[derive(Debug)]
struct Account {
    used: AtomicUsize,
    by_lane: Box<[AtomicUsize]>,
    max: usize,
}

impl Account {
    fn new(max: usize) -> Account {
        Account { used: AtomicUsize::new(0), by_lane: (0..LANES).map(|_| AtomicUsize::new(0)).collect(), max }
    }

    /// What the lane, and what all have now.
    fn add(&self, lane: LaneId, bytes: usize) -> (usize, usize) {
        let add = |to: &AtomicUsize| to.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (add(&self.by_lane[lane]), add(&self.used))
    }

    fn take_off(&self, lane: LaneId, bytes: usize) {
        self.by_lane[lane].fetch_sub(bytes, Ordering::Relaxed);
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// What one request has taken of the budget; given back when dropped.
#[derive(Debug)]
pub struct Room {
    budget: Arc<Budget>,
    lane: LaneId,
    bytes: usize,
    is_answer: bool,
}

/// The part of the answers' account that one lane may have.
const LANES_PART: usize = 4;

impl Budget {
    /// So many bytes of requests in work, and of answers that clients haven't taken.
    pub fn new(requests: usize, answers: usize) -> Arc<Budget> {
        Arc::new(Budget { requests: Account::new(requests), answers: Account::new(answers) })
    }

    /// No bytes yet, in this lane.
    pub fn room(self: &Arc<Budget>, lane: LaneId) -> Room {
        Room { budget: Arc::clone(self), lane, bytes: 0, is_answer: false }
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.requests.used() + self.answers.used()
    }

    /// Whether a request of this lane may be begun.
    ///
    /// # Errors
    /// [`Kind::Overloaded`]: clients don't take their answers.
    pub fn may_begin(&self, lane: LaneId) -> Result<(), Problem> {
        let answers = &self.answers;
        let (own, all) = (answers.by_lane[lane].load(Ordering::Relaxed), answers.used());
        if own < answers.max / LANES_PART && all < answers.max {
            return Ok(());
        }
        let why = "too many bytes of answers wait for clients to take them; nothing was applied; try again";
        Err(Problem::new(Kind::Overloaded, why))
    }
}

impl Room {
    /// Takes more, before it is used.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] where the lane may not have it.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let requests = &self.budget.requests;
        let (own, all) = requests.add(self.lane, bytes);
        self.bytes += bytes;
        if own > requests.max.saturating_sub(all) {
            return Err(Problem::new(Kind::Overloaded, "too many bytes of requests are in work; try again"));
        }
        Ok(())
    }

    /// From here on it counts for an answer of this size, which is there already. The bytes are given back when the answer is sent or
    /// dropped.
    pub fn hold(mut self, answer: Vec<u8>) -> Bytes {
        self.budget.answers.add(self.lane, answer.capacity());
        self.budget.requests.take_off(self.lane, self.bytes);
        (self.bytes, self.is_answer) = (answer.capacity(), true);
        Bytes::from_owner(Held { answer, _room: self })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let account = if self.is_answer { &self.budget.answers } else { &self.budget.requests };
        account.take_off(self.lane, self.bytes);
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

    const A: LaneId = 0;
    const B: LaneId = 1;

    #[test]
    fn an_answer_counts_until_it_is_gone() {
        let budget = Budget::new(1000, 1000);
        let mut room = budget.room(A);
        room.grow(400).unwrap();
        let answer = room.hold(vec![0; 700]);
        assert_eq!((answer.len(), budget.used()), (700, 700));
        assert!(budget.may_begin(A).is_err(), "it has more than its part of the answers");
        assert!(budget.may_begin(B).is_ok(), "which is nothing to the others");
        assert!(budget.room(A).grow(400).is_ok(), "and other bytes than those of requests");
        let others = budget.room(B).hold(vec![0; 300]);
        assert!(budget.may_begin(2).is_err(), "there are as many as there may be");
        drop(answer);
        assert!(budget.may_begin(A).is_ok());
        drop(others);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_lane_may_have_as_much_as_it_leaves() {
        let budget = Budget::new(1000, 1000);
        let fill = |lane| {
            let mut rooms = Vec::new();
            loop {
                let mut room = budget.room(lane);
                if room.grow(10).is_err() {
                    return rooms;
                }
                rooms.push(room);
            }
        };
        let first = fill(A);
        assert_eq!(first.len(), 50);
        let second = fill(B);
        assert_eq!(second.len(), 25);
        assert!(!fill(2).is_empty(), "and whoever comes next finds some");
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }
}
