//! Bounded queues between the gate's front and its database threads, in which no fence gets ahead of another.
//!
//! What waits stands in lanes: one for each fence, one for what presents no token. The lane whose items have taken the least time so far
//! goes next: start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queueing", 1996), with the time that an item is expected to
//! take, from those before it, put right once it is known. So a fence whose statements take long waits for one whose statements don't,
//! and never the other way round for longer than the one item that runs.
//!
//! A lane may have as many items waiting as the queue has places left (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory
//! Packet Switches", 1998). One alone fills half of the queue, two fill a third each: whoever comes next finds a place.
//!
//! **Invariants.** An item that waits is in one lane, and in `active` is every lane that has some, once. `ready` and `urgent` count all
//! that wait; `aside` counts those that the taker has put aside, which count for the queue's length until they are taken back.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::problem::{Kind, Problem};

mod lanes;

pub use lanes::{LANES, LaneId, Laned, NOBODY, OWN, lane};

/// A queue of bounded length with a lane for each fence.
///
/// In each lane, urgent items go first. They are for requests of a new leader: when it is served before what its predecessor still has
/// waiting, all of that is refused at once instead of being carried out first.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    len_max: usize,
}

/// An item that was taken, and what its lane was charged for it.
#[derive(Debug)]
pub struct Taken<T> {
    /// The item.
    pub item: T,
    lane: LaneId,
    is_urgent: bool,
    charged_ns: u64,
}

/// How long items have taken that were taken from a queue, lane by lane.
#[derive(Debug, Default)]
pub struct Spent(Vec<(LaneId, Took)>);

#[derive(Debug, Clone, Copy, Default)]
struct Took {
    items: u64,
    charged_ns: u64,
    took_ns: u64,
}

impl Spent {
    /// One more item, and how long it has taken.
    pub fn add<T>(&mut self, taken: &Bill<T>, time: Duration) {
        let at = match self.0.iter().rposition(|(lane, _)| *lane == taken.lane) {
            Some(at) => at,
            None => {
                self.0.push((taken.lane, Took::default()));
                self.0.len() - 1
            }
        };
        let took = &mut self.0[at].1;
        took.items += 1;
        took.charged_ns += taken.charged_ns;
        took.took_ns += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    }
}

/// What is left of [`Taken`] once its item has gone.
#[derive(Debug, Clone, Copy)]
pub struct Bill<T> {
    lane: LaneId,
    charged_ns: u64,
    item: std::marker::PhantomData<fn() -> T>,
}

impl<T> Taken<T> {
    /// The item, and what [`Spent`] needs to know of it.
    pub fn split(self) -> (T, Bill<T>) {
        (self.item, Bill { lane: self.lane, charged_ns: self.charged_ns, item: std::marker::PhantomData })
    }
}

#[derive(Debug)]
struct Lane<T> {
    urgent: VecDeque<T>,
    normal: VecDeque<T>,
    /// Items that were put aside.
    aside: usize,
    /// How long its items have taken, in nanoseconds, from where it last began.
    at_ns: u64,
    /// How long an item takes, about.
    cost_ns: u64,
}

impl<T> Lane<T> {
    fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.normal.is_empty()
    }
}

#[derive(Debug)]
struct State<T> {
    lanes: Vec<Lane<T>>,
    active: Vec<LaneId>,
    ready: usize,
    urgent: usize,
    aside: usize,
    /// Where the lane stood that was served last: where one begins that comes anew.
    clock_ns: u64,
    /// Where the lane stands that has had most.
    latest_ns: u64,
    poked: bool,
    closed: bool,
    /// How many wait in [`Queue::take`]. To notify is a system call even where nobody waits.
    takers: usize,
    /// Of these, who waits in [`Queue::take_when`] waits for so many items.
    wanted: usize,
}

impl<T> State<T> {
    fn new() -> State<T> {
        let lane =
            || Lane { urgent: VecDeque::new(), normal: VecDeque::new(), aside: 0, at_ns: 0, cost_ns: COST_FIRST_NS };
        State {
            lanes: std::iter::repeat_with(lane).take(LANES).collect(),
            active: Vec::new(),
            ready: 0,
            urgent: 0,
            aside: 0,
            clock_ns: 0,
            latest_ns: 0,
            poked: false,
            closed: false,
            takers: 0,
            wanted: 0,
        }
    }

    fn waiting(&self) -> usize {
        self.ready + self.urgent
    }

    /// Whether what there is is what one waits for who wants so many.
    fn is_awaited(&self) -> bool {
        self.waiting() >= self.wanted || self.urgent > 0 || self.poked || self.closed
    }

    /// Whether one more may wait in this lane.
    fn has_room(&self, lane: LaneId, urgent: bool, len_max: usize) -> bool {
        let own = &self.lanes[lane];
        // What a deposed leader has waiting doesn't turn its successor away.
        let (own, all) = if urgent {
            (own.urgent.len(), self.urgent)
        } else {
            (own.normal.len() + own.aside, self.ready + self.aside)
        };
        !self.closed && own < len_max.saturating_sub(all)
    }

    fn add(&mut self, item: T, lane: LaneId, urgent: bool) {
        let own = &mut self.lanes[lane];
        if own.is_empty() {
            // What others have had meanwhile isn't held against it, nor its rest against them.
            own.at_ns = own.at_ns.max(self.clock_ns);
            self.active.push(lane);
        }
        if urgent {
            own.urgent.push_back(item);
            self.urgent += 1;
        } else {
            own.normal.push_back(item);
            self.ready += 1;
        }
    }

    /// The place in `active` of the lane that goes next.
    fn next(&self) -> Option<usize> {
        let at = |lane: LaneId| if lane == OWN { 0 } else { self.lanes[lane].at_ns.max(1) };
        (0..self.active.len()).min_by_key(|place| at(self.active[*place]))
    }

    fn take(&mut self, most: usize) -> Vec<Taken<T>> {
        let mut items = Vec::with_capacity(self.waiting().min(most));
        while items.len() < most
            && let Some(place) = self.next()
        {
            let (lane, is_alone) = (self.active[place], self.active.len() == 1);
            let own = &mut self.lanes[lane];
            loop {
                let (item, is_urgent) = match own.urgent.pop_front() {
                    Some(item) => (Some(item), true),
                    None => (own.normal.pop_front(), false),
                };
                let Some(item) = item else { break };
                if is_urgent {
                    self.urgent -= 1
                } else {
                    self.ready -= 1
                }
                self.clock_ns = self.clock_ns.max(own.at_ns);
                let charged_ns = if lane == OWN { 0 } else { own.cost_ns };
                own.at_ns += charged_ns;
                items.push(Taken { item, lane, is_urgent, charged_ns });
                if !is_alone || items.len() == most {
                    break;
                }
            }
            self.latest_ns = self.latest_ns.max(own.at_ns);
            if own.is_empty() {
                self.active.swap_remove(place);
            }
        }
        items
    }

    /// Puts the lanes' accounts right.
    fn settle(&mut self, spent: &mut Spent) {
        for (lane, took) in spent.0.drain(..).filter(|(lane, _)| *lane != OWN) {
            let own = &mut self.lanes[lane];
            own.at_ns = own.at_ns.saturating_add(took.took_ns).saturating_sub(took.charged_ns);
            own.cost_ns = (own.cost_ns - own.cost_ns / 8 + took.took_ns / took.items.max(1) / 8).max(1);
            self.latest_ns = self.latest_ns.max(own.at_ns);
        }
    }
}

/// How long an item is expected to take before any has, in nanoseconds.
const COST_FIRST_NS: u64 = 20_000;

impl<T: Laned> Queue<T> {
    /// A queue for this many items, and for as many urgent ones.
    pub fn new(len_max: usize) -> Queue<T> {
        Queue { state: Mutex::new(State::new()), changed: Condvar::new(), len_max }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item.
    ///
    /// # Errors
    /// The item, where its lane has no room for it or the queue is closed.
    pub fn push(&self, item: T, urgent: bool) -> Result<(), T> {
        let mut state = self.lock();
        let lane = item.lane();
        if !state.has_room(lane, urgent, self.len_max) {
            return Err(item);
        }
        state.add(item, lane, urgent);
        self.wake(state);
        Ok(())
    }

    /// Adds an item that others wait for, whatever waits: it goes first in its lane.
    ///
    /// # Errors
    /// The item, where the queue is closed.
    pub fn push_over(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        let lane = item.lane();
        state.add(item, lane, true);
        self.wake(state);
        Ok(())
    }

    /// Adds items at once, none of them urgent. Returns those that were not taken in: the queue is full or closed.
    pub fn push_all(&self, items: impl Iterator<Item = T>) -> Vec<T> {
        let mut state = self.lock();
        let mut left = Vec::new();
        for item in items {
            let lane = item.lane();
            if state.has_room(lane, false, self.len_max) {
                state.add(item, lane, false);
            } else {
                left.push(item);
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
        let lane = item.lane();
        state.add(item, lane, false);
        self.wake(state);
    }

    /// Puts back what was taken and not looked at, where it was.
    pub fn give_back(&self, items: impl DoubleEndedIterator<Item = Taken<T>>) {
        let mut state = self.lock();
        let state = &mut *state;
        for Taken { item, lane, is_urgent, charged_ns } in items.rev() {
            let own = &mut state.lanes[lane];
            if own.is_empty() {
                state.active.push(lane);
            }
            own.at_ns = own.at_ns.saturating_sub(charged_ns);
            if is_urgent {
                own.urgent.push_front(item);
                state.urgent += 1;
            } else {
                own.normal.push_front(item);
                state.ready += 1;
            }
        }
    }

    /// From here on, one more of this lane's items is put aside by the taker: it still counts for the queue's length.
    pub fn put_aside(&self, lane: LaneId) {
        let mut state = self.lock();
        state.aside += 1;
        state.lanes[lane].aside += 1;
    }

    /// One of this lane's items isn't put aside any more.
    pub fn take_back(&self, lane: LaneId) {
        let mut state = self.lock();
        state.aside -= 1;
        state.lanes[lane].aside -= 1;
    }

    /// Wakes whoever waits in [`Queue::take`], so that it looks at the world anew.
    pub fn poke(&self) {
        let mut state = self.lock();
        state.poked = true;
        self.wake(state);
    }

    /// Wakes one who waits. Whoever begins to wait after this has looked at the queue under the same lock, as it is now.
    fn wake(&self, state: MutexGuard<'_, State<T>>) {
        let waits = state.takers > 0 && state.is_awaited();
        drop(state);
        if waits {
            self.changed.notify_one();
        }
    }

    /// Waits to be woken, for so long at most.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State<T>>, time: Duration) -> MutexGuard<'a, State<T>> {
        state.takers += 1;
        state = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
        state.takers -= 1;
        state
    }

    /// Nothing more is taken in; what is in it can still be taken out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The number of items waiting.
    pub fn waiting(&self) -> usize {
        self.lock().waiting()
    }

    /// Takes up to `most` items that are there, without waiting. `spent`: what those before have taken.
    pub fn take_ready(&self, most: usize, spent: &mut Spent) -> Vec<Taken<T>> {
        let mut state = self.lock();
        state.settle(spent);
        state.take(most)
    }

    /// Waits until there are so many items, or an urgent one, or until `until`, and takes up to `most` of those that are there. For one taker.
    pub fn take_when(&self, wanted: usize, until: Instant, most: usize, spent: &mut Spent) -> Vec<Taken<T>> {
        let mut state = self.lock();
        state.settle(spent);
        state.wanted = wanted;
        while !state.is_awaited() {
            let left = until.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }
            state = self.wait(state, left);
        }
        state.wanted = 0;
        state.take(most)
    }

    /// Waits for items until `until` and takes up to `most`. Empty after a [`Queue::poke`] or when the time is up; `None` when the
    /// queue is closed and empty. `spent`: what those before have taken.
    pub fn take(&self, most: usize, until: Instant, spent: &mut Spent) -> Option<Vec<Taken<T>>> {
        let mut state = self.lock();
        state.settle(spent);
        loop {
            let items = state.take(most);
            if !items.is_empty() {
                return Some(items);
            }
            if state.closed {
                return None;
            }
            // Nobody waits: what anybody has had so far is held against nobody.
            state.clock_ns = state.latest_ns;
            let left = until.saturating_duration_since(Instant::now());
            if std::mem::take(&mut state.poked) || left == Duration::ZERO {
                return Some(Vec::new());
            }
            state = self.wait(state, left);
        }
    }
}

#[cfg(test)]
mod tests;
