//! The places for connections of one listener, shared by the threads that serve it.
//!
//! When all are taken and one more client comes, connections that only wait for their next request give way to it, the longest waiting
//! first: whoever holds connections open, with half a request on each or nothing at all, keeps no leader out. Only where all the others have
//! a request in work is the new one turned away.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use metrics::counter;
use tokio::time::Sleep;

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
    /// Requests in work on connections of HTTP/2.
    requests: AtomicUsize,
}

#[derive(Debug, Default)]
struct Table {
    seats: HashMap<u64, (Arc<Seat>, usize)>,
    last: u64,
    taken: usize,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
    /// Where it sits.
    pub seat: Arc<Seat>,
}

/// What the others know of a connection: whether it waits for a request, and since when.
#[derive(Debug)]
pub struct Seat {
    began: Instant,
    /// How long it waits.
    header_time: Duration,
    /// Since when it waits, in milliseconds from `began`, and one more; 0 while it has something to do.
    since_ms: AtomicU64,
    is_needed: AtomicBool,
    /// One timer for all that it waits for. It stays where it is, and is moved only when it fires, which is before its time, never after:
    /// to put each among the runtime's timers and take it away again costs as much as the check of a token.
    sleep: Mutex<Pin<Box<Sleep>>>,
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
        self.lock().taken
    }

    /// A place for a connection. Nothing where all are taken by those that have something to do.
    pub fn take(self: &Arc<Places>) -> Option<Place> {
        let mut table = self.lock();
        if !self.make_room(&mut table, 1) {
            drop(table);
            counter!("fencegate_connections_turned_away_total", "listener" => self.listener).increment(1);
            return None;
        }
        table.taken += 1;
        table.last += 1;
        let seat = Arc::new(Seat::new(self.began, self.header_time));
        let number = table.last;
        table.seats.insert(number, (Arc::clone(&seat), 1));
        Some(Place { places: Arc::clone(self), number, seat })
    }

    /// False where there are not so many places, and none that wait.
    fn make_room(&self, table: &mut Table, wanted: usize) -> bool {
        if table.taken + wanted <= self.max {
            return true;
        }
        let now = self.began.elapsed();
        let longest = Seat::ms(now.saturating_sub(WAITS_MIN));
        let mut waiting: Vec<(u64, u64)> = table
            .seats
            .iter()
            .map(|(number, (seat, _))| (seat.since_ms.load(Ordering::Relaxed), *number))
            .filter(|(since, _)| *since != 0 && *since <= longest)
            .collect();
        waiting.sort_unstable();
        waiting.truncate((self.max / FREED_PART).max(wanted));
        counter!("fencegate_connections_closed_total", "listener" => self.listener, "why" => "needed")
            .increment(waiting.len() as u64);
        for (_, number) in waiting {
            // Its place is free from now on; the connection itself a moment later.
            if let Some((seat, count)) = table.seats.remove(&number) {
                table.taken -= count;
                seat.give_way();
            }
        }
        table.taken + wanted <= self.max
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
        table.taken += more;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.places.lock();
        if let Some((_, count)) = table.seats.remove(&self.number) {
            table.taken -= count;
        }
    }
}

impl Seat {
    /// Of a connection that has something to do. In the context of the runtime that it lives on.
    fn new(began: Instant, header_time: Duration) -> Seat {
        let sleep = Mutex::new(Box::pin(tokio::time::sleep(header_time)));
        Seat { began, header_time, since_ms: AtomicU64::new(0), is_needed: AtomicBool::new(false), sleep }
    }

    fn ms(since: Duration) -> u64 {
        since.as_secs() * 1000 + u64::from(since.subsec_millis()) + 1
    }

    fn sleep(&self) -> MutexGuard<'_, Pin<Box<Sleep>>> {
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place is needed: it ends, if it still only waits.
    fn give_way(&self) {
        self.is_needed.store(true, Ordering::SeqCst);
        self.sleep().as_mut().reset(tokio::time::Instant::now());
    }

    /// Whether it has waited for long enough, by its deadline or because its place is needed.
    fn poll_over(&self, deadline: tokio::time::Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.sleep();
        if self.is_needed.load(Ordering::SeqCst) {
            return Poll::Ready(());
        }
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if tokio::time::Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// Waits for a request, until a deadline or for as long as the place isn't needed. Others see that it waits for as long as this is there.
#[derive(Debug)]
pub struct Waiting {
    seat: Arc<Seat>,
    deadline: tokio::time::Instant,
}

impl Waiting {
    /// From now on, for the time that there is for a head.
    pub fn from_now(seat: &Arc<Seat>) -> Waiting {
        Waiting::until(seat, Instant::now() + seat.header_time)
    }

    /// From now on, until then.
    fn until(seat: &Arc<Seat>, deadline: Instant) -> Waiting {
        // By the deadline, which spares a look at the clock for each request.
        let since = deadline.saturating_duration_since(seat.began).saturating_sub(seat.header_time);
        seat.since_ms.store(Seat::ms(since), Ordering::Relaxed);
        Waiting { seat: Arc::clone(seat), deadline: deadline.into() }
    }
}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.seat.poll_over(self.deadline, cx)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.seat.since_ms.store(0, Ordering::Relaxed);
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
