//! What the others know of a client's connection: whether it only waits, and since when. Where connections are scarce, those that wait give way.
//!
//! A connection waits while no request is in work on it. It also does while the body of one doesn't come that nothing has been done for yet, and
//! while a refusal is held back: [`Seat::here`] is how the request's own task says so.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

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

thread_local! {
    static HERE: RefCell<Option<Arc<Seat>>> = const { RefCell::new(None) };
}

/// For longer than anything here lasts.
const LONG: Duration = Duration::from_secs(7 * 24 * 3600);

impl Seat {
    /// Of a connection that has something to do. In the context of the runtime that it lives on.
    pub fn new(began: Instant, header_time: Duration) -> Seat {
        let sleep = Mutex::new(Box::pin(tokio::time::sleep(header_time)));
        Seat { began, header_time, since_ms: AtomicU64::new(0), is_needed: AtomicBool::new(false), sleep }
    }

    /// What [`Seat::since_ms`] says of a connection that waits since so long after the beginning.
    pub fn ms(since: Duration) -> u64 {
        since.as_secs() * 1000 + u64::from(since.subsec_millis()) + 1
    }

    fn sleep(&self) -> MutexGuard<'_, Pin<Box<Sleep>>> {
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place is needed: it ends, if it still only waits.
    pub fn give_way(&self) {
        self.is_needed.store(true, Ordering::SeqCst);
        self.sleep().as_mut().reset(tokio::time::Instant::now());
    }

    /// Since when it waits; 0: it doesn't.
    pub fn since_ms(&self) -> u64 {
        self.since_ms.load(Ordering::Relaxed)
    }

    /// Does something for the connection that sits here, in its task.
    pub fn seated<T>(self: &Arc<Seat>, act: impl FnOnce() -> T) -> T {
        /// However that ends, what this thread does next is for another one.
        struct Seated;
        impl Drop for Seated {
            fn drop(&mut self) {
                HERE.set(None);
            }
        }
        HERE.set(Some(Arc::clone(self)));
        let _seated = Seated;
        act()
    }

    /// The seat of the connection whose task this is, where it has all of its requests in that task.
    pub fn here() -> Option<Arc<Seat>> {
        HERE.with_borrow(Clone::clone)
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

/// Waits until a deadline or for as long as the place isn't needed: for one thing at a time. Others see that it waits for as long as this is there.
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

    /// From now on, for as long as the place isn't needed.
    pub fn unless_needed(seat: &Arc<Seat>) -> Waiting {
        seat.since_ms.store(Seat::ms(seat.began.elapsed()), Ordering::Relaxed);
        Waiting { seat: Arc::clone(seat), deadline: tokio::time::Instant::now() + LONG }
    }

    /// The same, and it goes before all others: one whose request was refused.
    pub fn first(seat: &Arc<Seat>) -> Waiting {
        seat.since_ms.store(1, Ordering::Relaxed);
        Waiting { seat: Arc::clone(seat), deadline: tokio::time::Instant::now() + LONG }
    }

    /// From now on, until then.
    pub fn until(seat: &Arc<Seat>, deadline: Instant) -> Waiting {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_sits_only_where_it_sits() {
        let seat = Arc::new(Seat::new(Instant::now(), LONG));
        assert!(Seat::here().is_none());
        let here = seat.seated(Seat::here);
        assert!(here.is_some_and(|here| Arc::ptr_eq(&here, &seat)));
        assert!(Seat::here().is_none());
        let thrown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| seat.seated(|| panic!("in the middle"))));
        assert!(thrown.is_err() && Seat::here().is_none());
    }

    #[tokio::test]
    async fn what_waits_is_seen_and_ends_when_it_is_needed() {
        let seat = Arc::new(Seat::new(Instant::now(), LONG));
        assert_eq!(seat.since_ms(), 0);
        let waiting = Waiting::unless_needed(&seat);
        assert!(seat.since_ms() > 0);
        drop(waiting);
        assert_eq!(seat.since_ms(), 0);
        let waiting = Waiting::first(&seat);
        assert_eq!(seat.since_ms(), 1);
        seat.give_way();
        waiting.await;
    }
}
