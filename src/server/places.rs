//! The places for connections of one listener, shared by the threads that serve it.
//!
//! When all are taken and one more client comes, connections that only wait (see [`crate::resource::seat`]) give way to it, the longest waiting
//! first: whoever holds connections open, with half a request on each or nothing at all, or sends stale writes on all of them, keeps no
//! leader out. Only where all the others have a request in work is the new one turned away.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;

use crate::resource::seat::{Seat, Waiting};

/// How long a connection has to have waited before it gives way: a client that has just come has its time to ask.
const WAITS_MIN: Duration = Duration::from_secs(1);
/// The part of all places that is made free at once, where so many connections wait: to look for them takes a look at all.
const FREED_PART: usize = 32;

/// The places of one listener.
#[derive(Debug)]
pub struct Places {
    listener: &'static str,
    max: usize,
    header_time: Duration,
    began: Instant,
    table: Mutex<Table>,
    /// Places taken; changed only under the table's lock.
    taken: AtomicUsize,
    /// Requests in work on connections of HTTP/2.
    requests: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    seats: HashMap<u64, (Arc<Seat>, usize)>,
    last: u64,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
    /// Where it sits.
    pub seat: Arc<Seat>,
}

impl Places {
    /// So many. A connection waits at most `header_time` for the head of its next request.
    pub fn new(listener: &'static str, max: usize, header_time: Duration) -> Arc<Places> {
        Arc::new(Places {
            listener,
            max,
            header_time,
            began: Instant::now(),
            table: Mutex::default(),
            taken: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The listener's name.
    pub fn listener(&self) -> &'static str {
        self.listener
    }

    /// How long a connection may wait.
    pub fn header_time(&self) -> Duration {
        self.header_time
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether more than half of them are.
    pub fn is_crowded(&self) -> bool {
        self.taken() > self.max / 2
    }

    /// A place for a connection. Nothing where all are taken by those that have something to do.
    pub fn take(self: &Arc<Places>) -> Option<Place> {
        let mut table = self.lock();
        if !self.make_room(&mut table, 1) {
            drop(table);
            counter!("fencegate_connections_turned_away_total", "listener" => self.listener).increment(1);
            return None;
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        table.last += 1;
        let seat = Arc::new(Seat::new(self.began, self.header_time));
        let number = table.last;
        table.seats.insert(number, (Arc::clone(&seat), 1));
        Some(Place { places: Arc::clone(self), number, seat })
    }

    /// False where there are not so many places, and none that wait.
    fn make_room(&self, table: &mut Table, wanted: usize) -> bool {
        if self.taken() + wanted <= self.max {
            return true;
        }
        let now = self.began.elapsed();
        let longest = Seat::ms(now.saturating_sub(WAITS_MIN));
        let mut waiting: Vec<(u64, u64)> = table
            .seats
            .iter()
            .map(|(number, (seat, _))| (seat.since_ms(), *number))
            .filter(|(since, _)| *since != 0 && *since <= longest)
            .collect();
        waiting.sort_unstable();
        waiting.truncate((self.max / FREED_PART).max(wanted));
        counter!("fencegate_connections_closed_total", "listener" => self.listener, "why" => "needed")
            .increment(waiting.len() as u64);
        for (_, number) in waiting {
            // Its place is free from now on; the connection itself a moment later.
            if let Some((seat, count)) = table.seats.remove(&number) {
                self.taken.fetch_sub(count, Ordering::Relaxed);
                seat.give_way();
            }
        }
        self.taken() + wanted <= self.max
    }

    /// Counts one that was closed by the gate.
    pub fn closed(&self, why: &'static str) {
        counter!("fencegate_connections_closed_total", "listener" => self.listener, "why" => why).increment(1);
    }

    /// One more request on a connection of HTTP/2. False where as many are in work as there may be connections.
    pub fn begin(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed) < self.max
    }

    /// It is over.
    pub fn end(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Place {
    /// The listener's places.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// From here on it counts for so many. False where they are not to be had.
    pub fn counts_for(&self, count: usize) -> bool {
        let mut table = self.places.lock();
        if !self.places.make_room(&mut table, count - 1) {
            return false;
        }
        let Some((_, counted)) = table.seats.get_mut(&self.number) else { return false };
        let more = count - std::mem::replace(counted, count);
        self.places.taken.fetch_add(more, Ordering::Relaxed);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.lock();
        if let Some((_, count)) = table.seats.remove(&self.number) {
            self.places.taken.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

/// hyper's timer for one connection of HTTP/1.1: it asks for one while it waits for a head, and only then.
#[derive(Debug)]
pub struct HeadTime(pub Arc<Seat>);

impl hyper::rt::Sleep for Waiting {}

impl hyper::rt::Timer for HeadTime {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Waiting::until(&self.0, deadline))
    }
}

#[cfg(test)]
mod tests;
