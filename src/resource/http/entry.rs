//! One fence in memory, kept small: there may be millions.

use std::cell::RefCell;
use std::sync::Mutex;
use std::task::{Context, Waker};

use crate::fence::drain::{DrainedFence, Moment, OnUnknown, Policy};

use super::index::{Link, Linked};

/// What fits into a name without memory of its own.
const SHORT: usize = 22;

/// A fence's name. The usual ones need no memory besides.
#[derive(Debug)]
pub enum Name {
    /// Up to 22 bytes.
    Short(u8, [u8; SHORT]),
    /// More.
    Long(Box<str>),
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        match self {
            Name::Short(len, bytes) => {
                std::str::from_utf8(&bytes[..usize::from(*len)]).expect("it was made from text, and is never changed")
            }
            Name::Long(text) => text,
        }
    }

    /// Whether it is this one.
    pub fn is(&self, name: &str) -> bool {
        match self {
            Name::Short(len, bytes) => bytes[..usize::from(*len)] == *name.as_bytes(),
            Name::Long(text) => **text == *name,
        }
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Name {
        match u8::try_from(text.len()) {
            Ok(len) if text.len() <= SHORT => {
                let mut bytes = [0; SHORT];
                bytes[..text.len()].copy_from_slice(text.as_bytes());
                Name::Short(len, bytes)
            }
            _ => Name::Long(text.into()),
        }
    }
}

/// The home of a fence that no resource has any more.
pub const NOBODY: u16 = u16::MAX;

/// A fence with its lock and its place in the table.
#[derive(Debug, Default)]
pub struct Slot {
    link: Link,
    /// The fence.
    pub entry: Mutex<Entry>,
}

impl Linked for Slot {
    fn link(&self) -> &Link {
        &self.link
    }
}

/// One fence.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub name: Name,
    /// Its state.
    pub fence: DrainedFence,
    /// When the mark rose, in milliseconds since 1970 (UTC).
    pub advanced_at_ms: i64,
    /// Those who wait for it to change; there only while there are any.
    pub waiters: Option<Box<Waiters>>,
    /// Requests refused since the gate started.
    pub refused: u32,
    /// The resource that tells of it: the first that has a fence of this name. It needs not be asked again whether it has.
    pub home: u16,
    flags: u8,
}

/// Something about a fence that is true or not.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub enum Flag {
    /// A store is under way.
    Storing = 1,
    /// A quarantine was told, and its end not yet.
    Quarantined = 2,
    /// The store has it that the advance to the mark is complete.
    StoredSettled = 4,
    /// Its quarantine goes without a line in the history, because too many have the same.
    Quiet = 8,
    /// The journal says that it is dirty.
    Dirty = 16,
}

impl Entry {
    /// A fence, in the state in which it comes out of the store.
    pub fn new(name: &str, fence: DrainedFence, home: u16) -> Entry {
        Entry {
            name: Name::from(name),
            fence,
            advanced_at_ms: 0,
            waiters: None,
            refused: 0,
            home,
            flags: Flag::StoredSettled as u8,
        }
    }

    /// Whether this is true of it.
    pub fn has(&self, flag: Flag) -> bool {
        self.flags & flag as u8 != 0
    }

    /// Says whether this is true of it.
    pub fn set(&mut self, flag: Flag, is: bool) {
        match is {
            true => self.flags |= flag as u8,
            false => self.flags &= !(flag as u8),
        }
    }

    /// A place for somebody who waits.
    pub fn enter(&mut self) -> u32 {
        self.waiters.get_or_insert_with(pooled).enter()
    }

    /// Gives a place back.
    pub fn leave(&mut self, place: u32) {
        if let Some(waiters) = &mut self.waiters
            && waiters.leave(place)
            && let Some(waiters) = self.waiters.take()
        {
            give_back(waiters);
        }
    }

    /// Those who wait, to be woken when the fence's lock is let go.
    pub fn wake(&mut self) -> Vec<Waker> {
        self.waiters.as_mut().map(|waiters| waiters.wake()).unwrap_or_default()
    }
}

impl Default for Entry {
    fn default() -> Entry {
        // A fence without a mark and with nothing in flight: the policy decides nothing about it.
        let policy = Policy { drain_ms: 0, settle_ms: 0, on_unknown: OnUnknown::Wait, enforce: true };
        Entry::new("", DrainedFence::restored(None, true, false, Moment(0), &policy), NOBODY)
    }
}

/// One who waits.
#[derive(Debug)]
enum Place {
    Free,
    /// Nothing has happened, and nobody looks just now.
    Quiet,
    Waiting(Waker),
    /// Something happened.
    Woken,
}

/// Those who wait for one fence to change.
#[derive(Debug, Default)]
pub struct Waiters {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Waiters {
    fn enter(&mut self) -> u32 {
        if let Some(place) = self.free.pop() {
            self.places[place as usize] = Place::Quiet;
            return place;
        }
        self.places.push(Place::Quiet);
        u32::try_from(self.places.len() - 1).expect("fewer requests than that are in work")
    }

    /// True where nobody is left.
    fn leave(&mut self, place: u32) -> bool {
        self.places[place as usize] = Place::Free;
        self.free.push(place);
        self.free.len() == self.places.len()
    }

    /// Whether something has happened since the last time; otherwise the task is woken when it does.
    pub fn poll(&mut self, place: u32, cx: &Context<'_>) -> bool {
        let place = &mut self.places[place as usize];
        match place {
            Place::Woken => {
                *place = Place::Quiet;
                true
            }
            Place::Waiting(waker) if waker.will_wake(cx.waker()) => false,
            _ => {
                *place = Place::Waiting(cx.waker().clone());
                false
            }
        }
    }

    fn wake(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for place in self.places.iter_mut().filter(|place| !matches!(place, Place::Free)) {
            if let Place::Waiting(waker) = std::mem::replace(place, Place::Woken) {
                wakers.push(waker);
            }
        }
        wakers
    }
}

/// How many empty [`Waiters`] a thread keeps for the next fence that needs them.
const POOL: usize = 256;
/// Larger ones are not kept.
const POOLED_PLACES: usize = 64;

type Spare = Vec<Box<Waiters>>;

thread_local! {
    /// So that a write on a quiet fence allocates nothing.
    static SPARE: RefCell<Spare> = const { RefCell::new(Vec::new()) };
}

fn pooled() -> Box<Waiters> {
    SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default()
}

fn give_back(mut waiters: Box<Waiters>) {
    waiters.places.clear();
    waiters.free.clear();
    if waiters.places.capacity() <= POOLED_PLACES {
        // A thread that is ending has no pool any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < POOL {
                spare.push(waiters);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length() {
        for len in [1, 2, 21, 22, 23, 255] {
            let text = "x".repeat(len);
            let name = Name::from(text.as_str());
            assert_eq!(name.as_str(), text);
            assert!(name.is(&text) && !name.is(&text[1..]) && !name.is("y"), "{len}");
        }
        assert_eq!(size_of::<Name>(), 24);
    }

    #[test]
    fn a_fence_at_rest_is_small() {
        assert_eq!(size_of::<Slot>(), 112);
    }

    #[test]
    fn who_waits_is_woken_once_and_places_are_used_again() {
        let mut entry = Entry::default();
        let cx = Context::from_waker(Waker::noop());
        let (one, other) = (entry.enter(), entry.enter());
        assert!(!entry.waiters.as_mut().unwrap().poll(one, &cx));
        assert_eq!(entry.wake().len(), 1, "the other has not looked yet");
        for place in [one, other] {
            assert!(entry.waiters.as_mut().unwrap().poll(place, &cx), "it happened before it looked");
            assert!(!entry.waiters.as_mut().unwrap().poll(place, &cx));
        }
        entry.leave(one);
        assert_eq!(entry.enter(), one);
        entry.leave(one);
        entry.leave(other);
        assert!(entry.waiters.is_none());
    }
}
