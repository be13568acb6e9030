//! What is known of all fences, and what changes it. Everything that happens to one fence happens under that fence's own lock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::Counter;
use tokio::time::Instant;

use crate::fail::{self, Point};
use crate::fence::drain::{Blocked, DrainedFence, Moment, Policy};
use crate::fence::{Claim, FenceName, Mark, Refusal, Verdict};
use crate::problem::{Kind, Problem};
use crate::resource::Told;
use crate::resource::refusals::Refusals;
use crate::resource::threads::now_ms;

use super::entry::{Entry, Flag, NOBODY, Slot};
use super::fences::Scope;
use super::index::{FENCES_MAX, Index};
use super::journal::Journal;
use super::worker::Queue;

/// How long a store that fails is left alone by fences that it doesn't know yet, in milliseconds.
const PROBE_EVERY_MS: i64 = 1_000;

/// What one resource's fences have in common, and what is counted and told of them.
pub struct ScopeState {
    /// As it was given.
    pub given: Scope,
    /// Who was refused.
    pub refusals: Refusals,
    /// Events for whoever watches.
    pub told: Told,
    /// Its fences.
    pub fences: AtomicU64,
    /// How many of them are quarantined.
    pub quarantined: AtomicI64,
    /// Which.
    pub quarantines_on: Mutex<Numbered>,
    /// Times that a mark rose.
    pub advances: Counter,
    /// Times that a fence was quarantined.
    pub quarantines: Counter,
    /// The mark of every fence that has none of its own, where the store was restored from a backup.
    pub floor: Option<Floor>,
}

/// What a restored store may have forgotten is below this.
#[derive(Debug, Clone)]
pub struct Floor {
    /// The mark.
    pub mark: Mark,
    /// When it was set, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
}

impl ScopeState {
    /// A scope of which nothing is known yet.
    pub fn new(mut given: Scope) -> ScopeState {
        // Moments are cut off to whole milliseconds: a quarantine must not end early for that.
        given.policy.settle_ms = given.policy.settle_ms.saturating_add(1);
        let resource = given.resource.clone();
        ScopeState {
            advances: metrics::counter!("fencegate_advances_total", "resource" => resource.clone()),
            quarantines: metrics::counter!("fencegate_quarantines_total", "resource" => resource),
            given,
            refusals: Refusals::default(),
            told: Told::default(),
            fences: AtomicU64::new(0),
            quarantined: AtomicI64::new(0),
            quarantines_on: Mutex::default(),
            floor: None,
        }
    }
}

/// A set of fences by number: a bit each, so that a million of them take no more than that, and the first are found at once.
#[derive(Debug, Default)]
pub struct Numbered {
    words: Vec<u64>,
}

impl Numbered {
    /// Adds a fence, or takes it out.
    pub fn set(&mut self, id: u32, is_in: bool) {
        let (word, bit) = (id as usize / 64, 1 << (id % 64));
        if word >= self.words.len() {
            if !is_in {
                return;
            }
            self.words.resize(word + 1, 0);
        }
        if is_in { self.words[word] |= bit } else { self.words[word] &= !bit }
    }

    /// The first so many.
    pub fn first(&self, limit: usize) -> Vec<u32> {
        let words = self.words.iter().zip(0_u32..).filter(|(word, _)| **word != 0);
        let bits = words
            .flat_map(|(word, place)| (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| place * 64 + bit));
        bits.take(limit).collect()
    }
}

/// Numbers for new fences.
#[derive(Debug, Default)]
pub struct Numbers {
    /// The next that was never used.
    pub next: u32,
    /// Those that were left out.
    pub free: Vec<u32>,
}

/// Everything that requests and the store's thread share.
pub struct Shared {
    /// The resources.
    pub scopes: Vec<ScopeState>,
    /// The fences, by number and by name.
    pub index: Index<Slot>,
    hasher: RandomState,
    /// Numbers for new ones. Held locked while one is made.
    pub numbers: Mutex<Numbers>,
    /// The crash journal.
    pub journal: Journal,
    /// What waits to be stored.
    pub queue: Queue,
    /// Quarantines by their end. Some have been released since, or made longer.
    pub ends: Mutex<BinaryHeap<Reverse<(Moment, u32)>>>,
    beginning: Instant,
    stopped: AtomicBool,
    /// Since when nothing could be stored, and when that was last tried, in milliseconds since 1970; 0 while all is well.
    failing_since_ms: AtomicI64,
    failed_at_ms: AtomicI64,
    /// How often storing has failed.
    pub failures: AtomicU64,
    /// How often an operator has reset a mark. Counted under the fence's lock, with the mark.
    pub resets: AtomicU64,
}

impl Shared {
    /// The state without any fences.
    pub fn new(scopes: Vec<ScopeState>, journal: Journal, numbers: u32) -> Shared {
        Shared {
            scopes,
            index: Index::with_room(numbers),
            hasher: RandomState::new(),
            numbers: Mutex::new(Numbers::default()),
            journal,
            queue: Queue::default(),
            ends: Mutex::default(),
            beginning: Instant::now(),
            stopped: AtomicBool::new(false),
            failing_since_ms: AtomicI64::new(0),
            failed_at_ms: AtomicI64::new(0),
            failures: AtomicU64::new(0),
            resets: AtomicU64::new(0),
        }
    }

    /// Now.
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.beginning.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The instant of a moment.
    pub fn instant(&self, moment: Moment) -> Instant {
        let far = std::time::Duration::from_secs(60 * 60 * 24 * 365);
        self.beginning.checked_add(std::time::Duration::from_millis(moment.0)).unwrap_or_else(|| self.beginning + far)
    }

    /// The wall clock's time of a moment, for people.
    pub fn wall_ms(&self, moment: Moment) -> i64 {
        now_ms().saturating_add_unsigned(moment.0.saturating_sub(self.now().0))
    }

    /// The policy of a resource.
    pub fn policy(&self, scope: u16) -> &Policy {
        &self.scopes[usize::from(scope)].given.policy
    }

    /// Who tells of a fence.
    pub fn told(&self, home: u16) -> Option<&ScopeState> {
        self.scopes.get(usize::from(home))
    }

    /// A name's hash. Its key is random, so that nobody can make up names that collide.
    pub fn hash(&self, name: &str) -> u32 {
        let hash = self.hasher.hash_one(name);
        u32::try_from(hash >> 32).unwrap_or_default()
    }

    /// The lock of a fence.
    pub fn lock(&self, id: u32) -> MutexGuard<'_, Entry> {
        self.index.thing(id).entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fence of this name, locked.
    pub fn find(&self, name: &str) -> Option<(u32, MutexGuard<'_, Entry>)> {
        self.index.find(self.hash(name), |id| {
            let entry = self.lock(id);
            entry.name.is(name).then_some((id, entry))
        })
    }

    /// Whether a resource has the fence.
    pub fn owns(&self, scope: u16, name: &str, home: u16) -> bool {
        home == scope || (self.scopes[usize::from(scope)].given.owns)(name)
    }

    /// Puts a fence in its place, where nobody finds it by its name yet. Returns the name's hash.
    pub fn put(&self, id: u32, entry: Entry) -> u32 {
        let hash = self.hash(entry.name.as_str());
        if let Some(scope) = self.told(entry.home) {
            scope.fences.fetch_add(1, Ordering::Relaxed);
        }
        *self.lock(id) = entry;
        hash
    }

    /// Notes in the journal whether a fence is dirty.
    pub fn note(&self, id: u32, entry: &mut Entry) {
        let is_dirty = entry.fence.is_dirty();
        if entry.has(Flag::Dirty) != is_dirty && !self.is_stopped() {
            entry.set(Flag::Dirty, is_dirty);
            if !(is_dirty && fail::skips(Point::HttpJournalSet)) {
                self.journal.set(id, is_dirty);
            }
        }
    }

    /// The fence of this name, locked, made where it isn't there yet: for a mark that is about to be stored, or an operator.
    ///
    /// # Errors
    /// There are too many, the journal has no room, or the store doesn't work.
    pub fn make(&self, scope: u16, name: &FenceName) -> Result<(u32, MutexGuard<'_, Entry>), Problem> {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = self.find(name) {
            return Ok(found);
        }
        self.queue.has_room()?;
        if self.failing_since_ms.load(Ordering::Relaxed) != 0
            && now_ms() - self.failed_at_ms.swap(now_ms(), Ordering::Relaxed) < PROBE_EVERY_MS
        {
            return Err(self.unavailable("the last one failed").about(name, None));
        }
        let id = numbers.free.pop().unwrap_or(numbers.next);
        if id >= FENCES_MAX {
            let why = format!("there are {FENCES_MAX} fences, as many as a gate can have");
            return Err(Problem::new(Kind::Overloaded, why).about(name, None));
        }
        if let Err(error) = self.journal.make_room(id) {
            numbers.free.push(id);
            return Err(self.unavailable(&error.to_string()).about(name, None));
        }
        numbers.next = numbers.next.max(id + 1);
        let mut entry = self.unknown(scope, name);
        // What was there before, a journal that was lost may have left.
        let is_dirty = entry.fence.is_dirty();
        entry.set(Flag::Dirty, is_dirty);
        self.journal.set(id, is_dirty);
        let blocked = entry.fence.blocked(self.now());
        if blocked != Blocked::No {
            let why = "the store was restored from a backup, and a write from after it may be in flight";
            self.quarantine_began(id, &mut entry, blocked, why);
        }
        let hash = self.put(id, entry);
        self.index.insert(id, hash);
        fail::at(Point::HttpFenceMade);
        Ok((id, self.lock(id)))
    }

    /// A fence that the store doesn't know. Where that was restored from a backup, it may have known it after the backup was made:
    /// then it starts from the floor, and for as long as a write may take to settle, one of that time may still be under way.
    pub fn unknown(&self, scope: u16, name: &str) -> Entry {
        let (now, policy) = (self.now(), self.policy(scope));
        let floor = self.scopes[usize::from(scope)].floor.as_ref();
        let was_dirty = floor.is_some() && now.0 < policy.settle_ms;
        let fence = DrainedFence::restored(floor.map(|floor| floor.mark.clone()), !was_dirty, was_dirty, now, policy);
        let mut entry = Entry::new(name, fence, scope);
        entry.advanced_at_ms = floor.map_or(0, |floor| floor.at_ms);
        entry
    }

    /// Whether a claim on a fence that the store doesn't know is below the floor: such a one is refused before anything is made for
    /// it, so that names which somebody makes up take no memory.
    pub fn is_below_floor(&self, scope: u16, claim: &Claim) -> Option<Refusal> {
        let ScopeState { floor, given, .. } = &self.scopes[usize::from(scope)];
        let floor = floor.as_ref().filter(|floor| given.policy.enforce && claim.token < floor.mark.token)?;
        let Claim { fence, token, holder } = claim.clone();
        Some(Refusal { verdict: Verdict::Stale, fence, presented: token, holder, highest: floor.mark.clone() })
    }

    /// Nothing can be stored.
    pub fn unavailable(&self, why: &str) -> Problem {
        Problem::new(Kind::Unavailable, format!("the mark can't be stored: {why}; nothing was forwarded"))
    }

    /// Something was stored.
    pub fn stored_well(&self) {
        self.failing_since_ms.store(0, Ordering::Relaxed);
    }

    /// Nothing could be stored.
    pub fn stored_badly(&self, error: &rusqlite::Error) {
        let now = now_ms();
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.failed_at_ms.store(now, Ordering::Relaxed);
        if self.failing_since_ms.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            tracing::error!(%error, "marks can't be stored");
        }
    }

    /// Since when nothing could be stored, in milliseconds since 1970.
    pub fn failing_since_ms(&self) -> Option<i64> {
        Some(self.failing_since_ms.load(Ordering::Relaxed)).filter(|since| *since != 0)
    }

    /// Whether nothing is let through any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Lets nothing through any more, from the moment that each fence's lock has been held once.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Brings the journal up to date for the last time.
    pub fn close_journal(&self) {
        let next = self.numbers.lock().unwrap_or_else(PoisonError::into_inner).next;
        for id in 0..next {
            let mut entry = self.lock(id);
            // Whoever comes after this finds that all is stopped, and leaves the journal alone.
            entry.fence.tick(self.now());
            self.journal.set(id, entry.fence.is_dirty());
        }
        if let Err(error) = self.journal.close() {
            tracing::error!(%error, "the crash journal can't be closed; the next start is one after a crash");
        }
    }

    /// The first resource that has a fence of this name.
    pub fn home(&self, name: &str) -> u16 {
        let home = self.scopes.iter().position(|scope| (scope.given.owns)(name));
        home.and_then(|home| u16::try_from(home).ok()).unwrap_or(NOBODY)
    }
}

/// There is no such fence here.
pub fn not_found(name: &FenceName) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no fence {name}"))
}
