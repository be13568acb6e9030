//! The requests in work on one connection of HTTP/2, on which a client can begin and give up requests faster than any can be answered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

use super::places::{Place, Places};
use crate::resource::seat::Waiting;

/// So many more requests may be given up than are answered on one connection; then it is closed. ("Rapid reset", CVE-2023-44487: to
/// give up a request costs its client less than it costs the gate.)
const GIVEN_UP_MAX: usize = 1000;

/// Why a connection is closed whose client gives up too many requests.
pub const GIVEN_UP: &str = "given_up";

/// The requests in work on one connection.
#[derive(Debug)]
pub struct InWork {
    places: Arc<Places>,
    count: AtomicUsize,
    given_up: AtomicUsize,
    changed: Notify,
}

/// A request in work, until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    all: Arc<InWork>,
    /// Whether there is a place for it.
    pub is_welcome: bool,
    is_answered: bool,
}

impl InWork {
    /// None yet.
    pub fn new(places: &Arc<Places>) -> Arc<InWork> {
        Arc::new(InWork {
            places: Arc::clone(places),
            count: AtomicUsize::new(0),
            given_up: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    /// One more.
    pub fn begin(self: &Arc<InWork>) -> Ticket {
        if self.count.fetch_add(1, Ordering::SeqCst) == 0 {
            self.changed.notify_one();
        }
        Ticket { all: Arc::clone(self), is_welcome: self.places.begin(), is_answered: false }
    }

    /// Ends when the connection should, and says why: nothing was asked for on it for its time, its place is needed, or its client gives
    /// up too many requests.
    pub async fn over(&self, place: &Place) -> &'static str {
        loop {
            if self.given_up.load(Ordering::SeqCst) > GIVEN_UP_MAX {
                return GIVEN_UP;
            }
            let changed = self.changed.notified();
            if self.count.load(Ordering::SeqCst) > 0 {
                changed.await;
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = Waiting::from_now(&place.seat) => return "idle",
            }
        }
    }
}

impl InWork {
    /// Ends when nothing was in work for so long.
    pub async fn quiet_for(&self, time: std::time::Duration) {
        loop {
            let changed = self.changed.notified();
            if self.count.load(Ordering::SeqCst) > 0 {
                changed.await;
                continue;
            }
            if tokio::time::timeout(time, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Ticket {
    /// The same, of a request whose answer has begun.
    pub fn answered(mut self) -> Ticket {
        self.is_answered = true;
        self
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let all = &self.all;
        all.places.end();
        let given_up = if self.is_answered {
            let less = |given_up: usize| given_up.checked_sub(1);
            let _ = all.given_up.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
            0
        } else {
            all.given_up.fetch_add(1, Ordering::SeqCst) + 1
        };
        if all.count.fetch_sub(1, Ordering::SeqCst) == 1 || given_up == GIVEN_UP_MAX + 1 {
            all.changed.notify_one();
        }
    }
}

/// The body of an answer: its request is in work until all of it has left.
#[derive(Debug)]
pub struct Leaving<B> {
    body: B,
    _ticket: Ticket,
}

impl<B> Leaving<B> {
    /// Of this request.
    pub fn new(body: B, ticket: Ticket) -> Leaving<B> {
        Leaving { body, _ticket: ticket }
    }
}

impl<B: Body + Unpin> Body for Leaving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_gives_up_more_than_it_hears_is_closed() {
        let places = Places::new("data", 10, std::time::Duration::from_secs(3600));
        let place = places.take().expect("there is room");
        let all = InWork::new(&places);
        for _ in 0..5 * GIVEN_UP_MAX {
            // Half of them answered: that may go on for ever.
            drop(all.begin());
            drop(all.begin().answered());
        }
        let mut over = Box::pin(all.over(&place));
        assert!(std::future::poll_fn(|cx| Poll::Ready(over.as_mut().poll(cx))).await.is_pending());
        for _ in 0..=GIVEN_UP_MAX {
            drop(all.begin());
        }
        assert_eq!(over.await, GIVEN_UP);
    }
}
