//! The time that a client may take for the next request's head, on one connection.
//!
//! hyper asks for a new timer with every request and drops it once the head has come. To put each among the runtime's timers and take
//! it away again costs as much as the check of a token. So there is one for a connection: it stays where it is, and is moved only
//! when it fires, which is before a head is late, never after.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// hyper's timer for one connection of HTTP/1.1.
#[derive(Debug)]
pub struct HeadTime(Arc<Mutex<Pin<Box<Sleep>>>>);

impl HeadTime {
    /// For a connection whose heads have to come in this time.
    pub fn new(time: Duration) -> HeadTime {
        HeadTime(Arc::new(Mutex::new(Box::pin(tokio::time::sleep(time)))))
    }
}

impl hyper::rt::Timer for HeadTime {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(Until { deadline: deadline.into(), sleep: Arc::clone(&self.0) })
    }
}

/// Ends at a deadline.
struct Until {
    deadline: tokio::time::Instant,
    sleep: Arc<Mutex<Pin<Box<Sleep>>>>,
}

impl hyper::rt::Sleep for Until {}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut sleep = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        if sleep.deadline() > self.deadline {
            sleep.as_mut().reset(self.deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if tokio::time::Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(self.deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Timer as _;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_deadline_is_kept() {
        let second = Duration::from_secs(1);
        let time = HeadTime::new(10 * second);
        let now = || tokio::time::Instant::now().into_std();
        for after in [10, 10, 3, 12] {
            // What was asked for and dropped before its time leaves nothing behind.
            let mut dropped = time.sleep_until(now() + 10 * second);
            assert!(futures_poll(&mut dropped).await.is_pending());
            drop(dropped);
            advance(2 * second).await;
            let (began, deadline) = (now(), now() + after * second);
            time.sleep_until(deadline).await;
            assert!(now() >= deadline && now() - began < (after * second) + second / 100, "{after} s");
            // One that is over stays so.
            time.sleep_until(began).await;
        }
    }

    async fn futures_poll(sleep: &mut Pin<Box<dyn hyper::rt::Sleep>>) -> Poll<()> {
        std::future::poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx))).await
    }
}
