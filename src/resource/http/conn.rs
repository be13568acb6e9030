//! A connection to an upstream: used for one exchange at a time, given back or cut off.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

use super::dial::Speaks;
use super::http1::Http1;
use super::message::{Broken, Failed, Head, Message};
use super::pool::Place;
use super::upstream::Upstream;
use super::wire::Wire;

/// A connection that lay unused for longer is looked at before it is used again: its upstream may just have closed it.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// A connection, for one exchange at a time. It goes from hand to hand several times in each: so it is only a pointer.
#[derive(Debug)]
pub struct Connection(Box<Inner>);

#[derive(Debug)]
struct Inner {
    speaks: Speaks,
    /// Its socket.
    wire: Arc<Wire>,
    /// Where it is counted, and put back.
    place: Place,
    made: Instant,
    /// When it was last put back.
    idle_since: Instant,
    /// Fires at `late_at` or before. It stays among the runtime's timers from one exchange to the next, and is moved there only when
    /// it fires: most answers come long before, and to put one there for each would cost more.
    late: Pin<Box<Sleep>>,
    late_at: Instant,
}

impl Connection {
    /// A new one.
    pub fn new(speaks: Speaks, wire: Arc<Wire>, place: Place) -> Connection {
        let now = Instant::now();
        let late = Box::pin(sleep_until(now));
        Connection(Box::new(Inner { speaks, wire, place, made: now, idle_since: now, late, late_at: now }))
    }

    /// When it was made.
    pub fn made(&self) -> Instant {
        self.0.made
    }

    /// When it was last put back.
    pub fn idle_since(&self) -> Instant {
        self.0.idle_since
    }

    /// Whether it speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.0.speaks, Speaks::Http2(_))
    }

    /// Whether it is over, of those that are unused.
    pub fn is_closed(&self) -> bool {
        match &self.0.speaks {
            Speaks::Http1(_) => !self.0.wire.is_quiet(false),
            Speaks::Http2(http2) => http2.is_closed(),
        }
    }

    /// Whether a request can go out on it now, of those that are unused.
    pub fn is_usable(&self, now: Instant) -> bool {
        match &self.0.speaks {
            Speaks::Http1(_) => self.0.wire.is_quiet(now - self.0.idle_since >= LOOK_AFTER),
            Speaks::Http2(http2) => http2.is_ready(),
        }
    }

    /// An answer that hasn't come after this time is late.
    pub fn expect_within(&mut self, time: Duration) {
        self.0.late_at = Instant::now() + time;
    }

    /// Waits until the answer is late.
    pub fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.0.late.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.0.late_at {
                return Poll::Ready(());
            }
            self.0.late.as_mut().reset(self.0.late_at);
        }
        Poll::Pending
    }

    /// A request is to be sent next.
    pub fn begin(&mut self, message: Box<Message>, upstream: &Upstream) {
        match &mut self.0.speaks {
            Speaks::Http1(http1) => http1.begin(message, upstream.authority.as_str()),
            Speaks::Http2(http2) => http2.begin(*message),
        }
    }

    /// Sends it, and waits for the head of the answer.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failed>> {
        match &mut self.0.speaks {
            Speaks::Http1(http1) => http1.poll_head(cx),
            Speaks::Http2(http2) => http2.poll_head(cx),
        }
    }

    /// The next frame of the answer's body; nothing at its end.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        match &mut self.0.speaks {
            Speaks::Http1(http1) => http1.poll_frame(cx),
            Speaks::Http2(http2) => http2.poll_frame(cx),
        }
    }

    /// Sends the rest of the request. True once all of it is with the operating system, false where it can't get there.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut self.0.speaks {
            Speaks::Http1(http1) => http1.poll_sent(cx),
            Speaks::Http2(http2) => http2.progress().poll_sent(cx),
        }
    }

    /// Whether all of the request is with the operating system.
    pub fn is_sent(&self) -> bool {
        match &self.0.speaks {
            Speaks::Http1(http1) => http1.is_sent(),
            Speaks::Http2(http2) => http2.progress().is_sent(),
        }
    }

    /// A number that rises while the request's body moves.
    pub fn moved(&self) -> u32 {
        match &self.0.speaks {
            Speaks::Http1(http1) => http1.moved(),
            Speaks::Http2(http2) => http2.progress().moved(),
        }
    }

    /// How many bytes of the answer's body are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match &self.0.speaks {
            Speaks::Http1(http1) => http1.left(),
            Speaks::Http2(http2) => http2.left(),
        }
    }

    /// Whether all that is left of the answer is here already, in one piece.
    pub fn has_all(&self) -> bool {
        match &self.0.speaks {
            Speaks::Http1(http1) => http1.has_all(),
            Speaks::Http2(_) => false,
        }
    }

    /// Whether all of the answer was taken.
    pub fn is_at_end(&self) -> bool {
        match &self.0.speaks {
            Speaks::Http1(http1) => http1.is_at_end(),
            Speaks::Http2(http2) => http2.is_at_end(),
        }
    }

    /// Whether the answer says where it ends.
    pub fn is_delimited(&self) -> bool {
        match &self.0.speaks {
            Speaks::Http1(http1) => http1.is_delimited(),
            Speaks::Http2(_) => true,
        }
    }

    /// Ends it at once. When this returns, no byte will go out on it any more.
    pub fn cut(&self) {
        self.0.wire.cut();
        if let Speaks::Http2(http2) = &self.0.speaks {
            http2.abort();
        }
    }

    /// Gives it back after a whole exchange.
    pub fn put_back(mut self) {
        let is_reusable = match &mut self.0.speaks {
            Speaks::Http1(http1) => http1.finish(),
            Speaks::Http2(http2) => http2.finish(),
        };
        if is_reusable {
            self.0.idle_since = Instant::now();
            let place = self.0.place.clone();
            place.put(self);
        }
    }

    /// What is left of it after an answer 101: bytes both ways.
    pub fn as_tunnel(&mut self) -> Option<&mut Http1> {
        match &mut self.0.speaks {
            Speaks::Http1(http1) => Some(http1),
            Speaks::Http2(_) => None,
        }
    }
}
