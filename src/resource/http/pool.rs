//! Connections to one upstream, kept apart by thread.
//!
//! Each thread that serves has a runtime of its own, and a connection lives on the runtime where it was made. So each thread has a
//! slot of its own; the lock on it is never waited for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::Instant;

use super::conn::Connection;
use super::dial::{Unreachable, dial};
use super::limits::Limits;
use super::lookup::Lookup;
use super::upstream::{Host, Upstream};

/// The part of a thread's connections that is for writes only.
const WRITES_PART: usize = 4;
/// How many threads have a slot of their own. With more, some share one.
const SLOTS: usize = 64;

#[derive(Debug, Default)]
struct Shelf {
    /// Unused connections, the longest unused first.
    idle: VecDeque<Connection>,
    /// Connections that there are.
    open: usize,
    /// Whether a task looks after those that get old.
    is_tended: bool,
    is_closed: bool,
}

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot {
    shelf: Mutex<Shelf>,
    lookup: Lookup,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connections to one upstream.
#[derive(Debug)]
pub struct Pool {
    upstream: Upstream,
    limits: Limits,
    slots: Box<[Slot]>,
}

/// Why no connection is to be had. Nothing was sent.
#[derive(Debug)]
pub enum NoConnection {
    /// The upstream can't be reached.
    Unreachable(Unreachable),
    /// This thread has as many as it may.
    TooMany,
    /// The gate is stopping.
    Closed,
}

/// Where a connection is counted for as long as there is one.
#[derive(Debug)]
pub struct Place {
    pool: Weak<Pool>,
    slot: usize,
    /// Whether this is the one that counts.
    counts: bool,
}

impl Clone for Place {
    fn clone(&self) -> Place {
        Place { pool: Weak::clone(&self.pool), slot: self.slot, counts: false }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.counts
            && let Some(pool) = self.pool.upgrade()
        {
            pool.slots[self.slot].lock().open -= 1;
        }
    }
}

impl Place {
    /// Puts an unused connection on its shelf.
    pub fn put(&self, connection: Connection) {
        let Some(pool) = self.pool.upgrade() else { return };
        let mut shelf = pool.slots[self.slot].lock();
        if shelf.is_closed {
            // Counting it off takes the lock.
            drop(shelf);
            return;
        }
        shelf.idle.push_back(connection);
        if !std::mem::replace(&mut shelf.is_tended, true) {
            drop(shelf);
            let tending = Tending { pool: Weak::clone(&self.pool), slot: self.slot };
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(tending.run())),
                Err(_) => drop(tending),
            }
        }
    }
}

/// Closes the connections of one slot that were unused for too long.
struct Tending {
    pool: Weak<Pool>,
    slot: usize,
}

impl Tending {
    async fn run(self) {
        while let Some(next) = self.close_old() {
            tokio::time::sleep_until(next).await;
        }
    }

    /// When to look again; nothing where there are none.
    fn close_old(&self) -> Option<Instant> {
        let pool = self.pool.upgrade()?;
        let mut shelf = pool.slots[self.slot].lock();
        let idle_time = pool.limits.idle_time;
        let old = shelf.idle.iter().take_while(|idle| idle.idle_since().elapsed() >= idle_time || idle.is_closed());
        let count = old.count();
        let old: Vec<Connection> = shelf.idle.drain(..count).collect();
        let next = shelf.idle.front().map(|idle| idle.idle_since() + idle_time);
        if next.is_none() {
            shelf.is_tended = false;
        }
        drop(shelf);
        drop(old);
        next
    }
}

impl Drop for Tending {
    fn drop(&mut self) {
        // Where its runtime ends before it.
        if let Some(pool) = self.pool.upgrade() {
            let mut shelf = pool.slots[self.slot].lock();
            if !shelf.idle.is_empty() {
                shelf.is_tended = false;
            }
        }
    }
}

/// This thread's slot.
fn own_slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SLOTS;
    }
    OWN.with(|own| *own)
}

impl Pool {
    /// Without any connection yet.
    pub fn new(upstream: Upstream, limits: Limits) -> Arc<Pool> {
        let slots = std::iter::repeat_with(Slot::default).take(SLOTS).collect();
        Arc::new(Pool { upstream, limits, slots })
    }

    /// Where the connections go to.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether one more connection may be in use on this shelf, for a write or for what is none: reads leave some to the writes. Whoever
    /// reads slowly, on however many connections, keeps no leader from writing.
    fn may_use(&self, shelf: &Shelf, is_write: bool) -> bool {
        let most = self.limits.connections_per_thread;
        let most = if is_write { most } else { (most - most / WRITES_PART).max(1) };
        shelf.open - shelf.idle.len() < most
    }

    /// An unused connection that can be used now; the one used last, since it is the surest to be still open.
    pub fn take(&self, only_http1: bool, is_write: bool) -> Option<Connection> {
        let (slot, now) = (&self.slots[own_slot()], Instant::now());
        loop {
            let connection = {
                let mut shelf = slot.lock();
                if !self.may_use(&shelf, is_write) {
                    return None;
                }
                let at = shelf.idle.iter().rposition(|idle| !only_http1 || !idle.is_http2())?;
                shelf.idle.remove(at)?
            };
            let is_current =
                now - connection.idle_since() < self.limits.idle_time && !self.is_outdated(&connection, now);
            if is_current && connection.is_usable(now) {
                return Some(connection);
            }
        }
    }

    /// Whether its name may lead elsewhere by now. A connection that is always in use would otherwise stay with what the name once
    /// led to for as long as that goes on answering.
    fn is_outdated(&self, connection: &Connection, now: Instant) -> bool {
        matches!(self.upstream.host, Host::Name(_)) && now - connection.made() >= self.limits.name_time
    }

    /// A new connection.
    ///
    /// # Errors
    /// [`NoConnection`].
    pub async fn dial(self: &Arc<Pool>, only_http1: bool, is_write: bool) -> Result<Connection, NoConnection> {
        let slot = own_slot();
        {
            let mut shelf = self.slots[slot].lock();
            if shelf.is_closed {
                return Err(NoConnection::Closed);
            }
            if shelf.open >= self.limits.connections_per_thread || !self.may_use(&shelf, is_write) {
                return Err(NoConnection::TooMany);
            }
            shelf.open += 1;
        }
        let place = Place { pool: Arc::downgrade(self), slot, counts: true };
        // Rare, and large: not in every request's future.
        let dialled = Box::pin(dial(&self.upstream, &self.limits, &self.slots[slot].lookup, only_http1));
        let (speaks, wire) = dialled.await.map_err(NoConnection::Unreachable)?;
        Ok(Connection::new(speaks, wire, place))
    }

    /// Connections that there are, and how many of them are unused.
    pub fn counts(&self) -> (usize, usize) {
        self.slots
            .iter()
            .map(Slot::lock)
            .fold((0, 0), |(open, idle), shelf| (open + shelf.open, idle + shelf.idle.len()))
    }

    /// Closes the unused connections, and keeps none from now on.
    pub fn close(&self) {
        for slot in &self.slots {
            let mut shelf = slot.lock();
            shelf.is_closed = true;
            let idle = std::mem::take(&mut shelf.idle);
            drop(shelf);
            drop(idle);
        }
    }
}
