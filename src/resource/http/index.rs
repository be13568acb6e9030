//! From a fence's name to its number: a hash table that is read without any lock and that grows without moving anything.
//!
//! It is a split-ordered list (Shalev and Shavit): one linked list of everything, in the order of the bit-reversed hashes, and an
//! array of shortcuts into it. When the array doubles, each half of a bucket is already one run of the list, so that only the
//! shortcuts are new, and a reader who comes in between takes an older one and walks a little longer. Nothing is ever removed.
//! Those who add take turns.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The most fences that one gate can have.
pub const FENCES_MAX: u32 = 20_000_000;

/// Things that are made a chunk at a time, and then neither moved nor dropped.
const CHUNK: usize = 4096;

/// Things by number that never move, so that they can be looked at while others are added.
#[derive(Debug)]
pub struct Chunks<T> {
    chunks: Box<[OnceLock<Box<[T]>>]>,
}

impl<T: Default> Default for Chunks<T> {
    fn default() -> Chunks<T> {
        let chunks = (FENCES_MAX as usize).div_ceil(CHUNK);
        Chunks { chunks: std::iter::repeat_with(OnceLock::new).take(chunks).collect() }
    }
}

impl<T: Default> Chunks<T> {
    /// The thing of this number; `None` where its chunk isn't made.
    pub fn get(&self, id: u32) -> Option<&T> {
        let id = id as usize;
        self.chunks.get(id / CHUNK)?.get().map(|chunk| &chunk[id % CHUNK])
    }

    /// The thing of this number, making its chunk where that is missing.
    ///
    /// # Panics
    /// For a number from [`FENCES_MAX`] on.
    pub fn make(&self, id: u32) -> &T {
        let id = id as usize;
        let chunk = self.chunks[id / CHUNK].get_or_init(|| std::iter::repeat_with(T::default).take(CHUNK).collect());
        &chunk[id % CHUNK]
    }
}

/// Shortcuts in the first segment. Each further one doubles them.
const FIRST: u32 = 64;
/// Enough segments for more shortcuts than there can be fences.
const SEGMENTS: usize = 20;

/// The end of the list.
const END: u32 = u32::MAX;
/// A shortcut that isn't there yet.
const UNMADE: u32 = u32::MAX - 1;
/// Marks a place in the list that is a shortcut's, not a fence's.
const SHORTCUT: u32 = 1 << 31;

/// A fence's hash, and what follows it in the list.
#[derive(Debug, Default)]
pub struct Link {
    hash: AtomicU32,
    next: AtomicU32,
}

/// Something that stands in the list. It brings its own link: whoever comes to it has that in the processor's cache already.
pub trait Linked: Default {
    /// Its link.
    fn link(&self) -> &Link;
}

/// The table, with what it leads to.
#[derive(Debug)]
pub struct Index<T> {
    things: Chunks<T>,
    /// What follows each shortcut in the list.
    shortcuts: [OnceLock<Box<[AtomicU32]>>; SEGMENTS],
    /// How many shortcuts there are; a power of two.
    size: AtomicU32,
    /// How many fences there are.
    count: Mutex<u32>,
}

/// A fence's number and hash, for [`Index::fill`]: in the order of the list, and small, since millions are needed at once.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed(u64);

impl Listed {
    /// Of this fence.
    pub fn new(id: u32, hash: u32) -> Listed {
        Listed(u64::from(hash.reverse_bits()) << 32 | u64::from(id))
    }

    fn id(&self) -> u32 {
        self.0 as u32
    }

    fn hash(&self) -> u32 {
        ((self.0 >> 32) as u32).reverse_bits()
    }
}

fn fence_key(hash: u32) -> u64 {
    u64::from(hash.reverse_bits()) << 1 | 1
}

fn shortcut_key(shortcut: u32) -> u64 {
    u64::from(shortcut.reverse_bits()) << 1
}

/// The one that this shortcut was split off from.
fn parent(shortcut: u32) -> u32 {
    shortcut & !(1 << shortcut.ilog2())
}

fn segment(shortcut: u32) -> (usize, usize) {
    if shortcut < FIRST {
        return (0, shortcut as usize);
    }
    let top = shortcut.ilog2();
    ((top - FIRST.ilog2() + 1) as usize, (shortcut - (1 << top)) as usize)
}

impl<T: Linked> Index<T> {
    /// An empty table, with room for this many at once.
    pub fn with_room(fences: u32) -> Index<T> {
        let index = Index {
            things: Chunks::default(),
            shortcuts: [const { OnceLock::new() }; SEGMENTS],
            size: AtomicU32::new(FIRST),
            count: Mutex::new(0),
        };
        index.make_segment(0, FIRST);
        index.shortcut(0).store(END, Ordering::Release);
        while index.size.load(Ordering::Relaxed) < fences {
            index.double();
        }
        index
    }

    fn make_segment(&self, number: usize, len: u32) {
        let unmade = || std::iter::repeat_with(|| AtomicU32::new(UNMADE)).take(len as usize).collect();
        self.shortcuts[number].get_or_init(unmade);
    }

    fn double(&self) {
        let size = self.size.load(Ordering::Relaxed);
        let (number, _) = segment(size);
        if number < SEGMENTS {
            self.make_segment(number, size);
            self.size.store(size * 2, Ordering::Release);
        }
    }

    fn shortcut(&self, shortcut: u32) -> &AtomicU32 {
        let (number, offset) = segment(shortcut);
        &self.shortcuts[number].get().expect("a segment is made before the size says so")[offset]
    }

    fn link_of(&self, id: u32) -> &Link {
        self.things.get(id).expect("what is in the list was made before").link()
    }

    /// The fence of this number.
    pub fn thing(&self, id: u32) -> &T {
        self.things.make(id)
    }

    fn next_of(&self, place: u32) -> &AtomicU32 {
        match place & SHORTCUT {
            0 => &self.link_of(place).next,
            _ => self.shortcut(place & !SHORTCUT),
        }
    }

    fn key_of(&self, place: u32) -> u64 {
        match place & SHORTCUT {
            0 => fence_key(self.link_of(place).hash.load(Ordering::Relaxed)),
            _ => shortcut_key(place & !SHORTCUT),
        }
    }

    /// The first thing other than `None` that `look` makes of the fences with this hash.
    pub fn find<R>(&self, hash: u32, mut look: impl FnMut(u32) -> Option<R>) -> Option<R> {
        let key = fence_key(hash);
        let mut shortcut = hash & (self.size.load(Ordering::Acquire) - 1);
        let mut place = self.shortcut(shortcut).load(Ordering::Acquire);
        while place == UNMADE {
            shortcut = parent(shortcut);
            place = self.shortcut(shortcut).load(Ordering::Acquire);
        }
        while place != END {
            match self.key_of(place).cmp(&key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Greater => return None,
                std::cmp::Ordering::Equal => {
                    if let Some(found) = look(place) {
                        return Some(found);
                    }
                }
            }
            place = self.next_of(place).load(Ordering::Acquire);
        }
        None
    }

    /// Adds a fence that isn't there yet. All that a reader does with its number must be possible before.
    pub fn insert(&self, id: u32, hash: u32) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        if *count > self.size.load(Ordering::Relaxed) {
            self.double();
        }
        let shortcut = hash & (self.size.load(Ordering::Relaxed) - 1);
        self.make_shortcut(shortcut);
        let link = self.thing(id).link();
        link.hash.store(hash, Ordering::Relaxed);
        self.insert_behind(SHORTCUT | shortcut, id, &link.next, fence_key(hash));
    }

    /// Adds many to an empty table: in the order of the list, so that nothing is looked for. They are sorted where they are: what a start
    /// takes besides, the process keeps.
    pub fn fill(&self, mut fences: Vec<Listed>) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(*count, 0, "only an empty table is filled");
        *count = u32::try_from(fences.len()).expect("numbers of fences have 32 bits");
        while self.size.load(Ordering::Relaxed) < *count {
            self.double();
        }
        let size = self.size.load(Ordering::Relaxed);
        fences.sort_unstable();
        let mut shortcuts = (1..size).map(|number| number.reverse_bits() >> (32 - size.ilog2())).peekable();
        let mut last = self.shortcut(0);
        for fence in fences {
            let (hash, id) = (fence.hash(), fence.id());
            while let Some(shortcut) = shortcuts.next_if(|shortcut| shortcut_key(*shortcut) < fence_key(hash)) {
                last.store(SHORTCUT | shortcut, Ordering::Release);
                last = self.shortcut(shortcut);
            }
            let link = self.thing(id).link();
            link.hash.store(hash, Ordering::Relaxed);
            last.store(id, Ordering::Release);
            last = &link.next;
        }
        for shortcut in shortcuts {
            last.store(SHORTCUT | shortcut, Ordering::Release);
            last = self.shortcut(shortcut);
        }
        last.store(END, Ordering::Release);
    }

    fn make_shortcut(&self, shortcut: u32) {
        let own = self.shortcut(shortcut);
        if own.load(Ordering::Relaxed) == UNMADE {
            let parent = parent(shortcut);
            self.make_shortcut(parent);
            self.insert_behind(SHORTCUT | parent, SHORTCUT | shortcut, own, shortcut_key(shortcut));
        }
    }

    /// Puts a place with this key into the list, somewhere behind another.
    fn insert_behind(&self, behind: u32, place: u32, next: &AtomicU32, key: u64) {
        let mut before = behind;
        let after = loop {
            let after = self.next_of(before).load(Ordering::Relaxed);
            if after == END || self.key_of(after) > key {
                break after;
            }
            before = after;
        };
        // Whoever comes to the new place finds what follows it.
        next.store(after, Ordering::Release);
        self.next_of(before).store(place, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    /// A hash that spreads, with many collisions.
    fn hash(id: u32) -> u32 {
        (id / 2).wrapping_mul(0x9e37_79b1)
    }

    impl Linked for Link {
        fn link(&self) -> &Link {
            self
        }
    }

    fn has(index: &Index<Link>, id: u32) -> bool {
        index.find(hash(id), |found| (found == id).then_some(())).is_some()
    }

    #[test]
    fn everything_that_was_added_is_found_and_nothing_else() {
        for room in [0, 100_000] {
            let index = Index::<Link>::with_room(room);
            for id in 0..30_000 {
                assert!(!has(&index, id), "{id}");
                index.insert(id, hash(id));
                assert!(has(&index, id), "{id}");
            }
            assert!((0..30_000).all(|id| has(&index, id)));
            assert!(!has(&index, 30_001));
            assert_eq!(index.find(7, |_| None::<()>), None);
        }
    }

    #[test]
    fn filled_at_once_it_is_the_same() {
        for (number, more) in [(0, 100), (1, 1), (1000, 5000), (30_000, 3)] {
            let index = Index::<Link>::with_room(number);
            index.fill((0..number).map(|id| Listed::new(id, hash(id))).collect());
            for id in number..number + more {
                assert!(!has(&index, id), "{id}");
                index.insert(id, hash(id));
            }
            assert!((0..number + more).all(|id| has(&index, id)), "{number}");
            assert!(!has(&index, number + more));
        }
    }

    #[test]
    fn readers_find_what_is_there_while_it_grows() {
        let (index, done, added) = (Index::<Link>::with_room(0), AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut at = 0_u32;
                    while !done.load(Ordering::Relaxed) {
                        let there = added.load(Ordering::Acquire).max(1);
                        at = at.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        assert!(there == 1 || has(&index, at % there), "{} of {there}", at % there);
                    }
                });
            }
            for id in 0..100_000 {
                index.insert(id, hash(id));
                added.store(id + 1, Ordering::Release);
            }
            done.store(true, Ordering::Relaxed);
        });
    }
}
