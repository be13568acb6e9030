//! One request under way on one connection, and how it ends.
//!
//! A write is *known* to have ended once its whole answer has come and its whole request has left; or when nothing of it was
//! sent; or when the upstream refused it (a status of 300 or more) and the connection is cut, so that no more of it can go out.
//! All else is *unknown*, and said only after the connection is cut. The order is always the same: first no byte can go out any
//! more, then the fence is told.
//!
//! An upstream that answers 502 or 504 is itself a gateway that doesn't know: such an answer is passed on, and counts as unknown.
//!
//! An answer to a write that ends with its connection, without a length, is never known to be whole: a dying server ends its
//! connections, too.
//!
//! A client that goes away doesn't end its write: what would be known a moment later would be unknown then, and hold up the next
//! leader. So the exchange goes on without it, in a task of its own, for a bounded time.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use hyper::{HeaderMap, StatusCode};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::fail::{self, Point};
use crate::fence::drain::Outcome;
use crate::resource::seat::{Seat, Waiting};

use super::conn::Connection;
use super::fences::InFlight;
use super::message::{Broken, Failed, Head, Message};
use super::upstream::Upstream;

/// Bad Gateway and Gateway Timeout: what is behind the upstream may still apply the write (RFC 9110, sections 15.6.3 and 15.6.5).
const UNKNOWING: [u16; 2] = [502, 504];
/// How long an upstream that has answered may take for the rest of the request.
const REST_TIME: Duration = Duration::from_secs(1);
/// How often to give the task of an HTTP/2 connection its turn before the rest of an answer counts as not there.
const PATIENCE: usize = 3;

/// Why an exchange came to no whole answer.
#[derive(Debug)]
pub enum Failure {
    /// It was never written: the connection had ended before. Here is the request.
    Unsent(Box<Message>),
    /// The connection broke, or what came on it was no answer, or the client broke off.
    Broken(Broken),
    /// The answer took too long.
    TimedOut,
    /// A newer token has taken the fence, and the time to finish is over.
    Replaced,
    /// It changes nothing, its body was still to come, and others needed the connection's place.
    Needed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The request is on its way, the answer's head hasn't come.
    Head,
    /// The answer's body is coming; its status.
    Body(u16),
    /// It is over, one way or the other.
    Over,
}

/// One request under way.
pub struct Exchange {
    stage: Stage,
    connection: Option<Connection>,
    /// For writes: what the fence has to be told. None once it is.
    write: Option<InFlight>,
    answer_time: Duration,
    /// Whether nobody waits for the answer any more.
    is_orphan: bool,
}

/// What a step of a long answer brought.
pub enum Step {
    /// A frame, or the end.
    Frame(Option<Frame<Bytes>>),
    /// A newer token has taken the fence: the write has to end by an instant that comes.
    Hurry,
}

/// Ends at the instant when a write has to have ended; never for one that hasn't been replaced, and for what is no write.
pub async fn overdue(write: Option<&InFlight>) {
    match write {
        Some(write) => {
            let by = write.replaced().await;
            // Rare, and large: not in every request's future.
            Box::pin(sleep_until(by)).await;
        }
        None => std::future::pending().await,
    }
}

/// What was taken in of an answer's body.
pub enum Taken {
    /// All of it, with its trailers.
    Whole(Bytes, Option<HeaderMap>),
    /// A part; the rest is still to come.
    Part(Vec<Frame<Bytes>>),
}

impl Exchange {
    /// Sends a request.
    pub fn begin(
        mut connection: Connection,
        message: Box<Message>,
        upstream: &Upstream,
        write: Option<InFlight>,
        answer_time: Duration,
    ) -> Exchange {
        connection.begin(message, upstream);
        Exchange { stage: Stage::Head, connection: Some(connection), write, answer_time, is_orphan: false }
    }

    /// Whether it is a write that the fence waits for.
    pub fn is_write(&self) -> bool {
        self.write.is_some()
    }

    /// Whether all of the request has left.
    pub fn is_sent(&self) -> bool {
        self.connection.as_ref().is_some_and(Connection::is_sent)
    }

    /// How many bytes of the answer's body are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        self.connection.as_ref().and_then(Connection::left)
    }

    /// How long an answer may take.
    pub fn answer_time(&self) -> Duration {
        self.answer_time
    }

    /// The connection, while the answer's body is coming.
    fn coming(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut().filter(|_| matches!(self.stage, Stage::Body(_)))
    }

    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// [`Failure`]; the fence isn't told yet.
    pub async fn head(&mut self) -> Result<Head, Failure> {
        let (Stage::Head, Some(connection)) = (self.stage, &mut self.connection) else {
            return Err(Failure::TimedOut);
        };
        let mut overdue = pin!(overdue(self.write.as_ref()));
        let (time, mut moved) = (self.answer_time, connection.moved());
        let (is_write, mut needed) = (self.write.is_some(), None);
        connection.expect_within(time);
        let head = poll_fn(|cx| {
            if let Poll::Ready(head) = connection.poll_head(cx) {
                return Poll::Ready(head.map_err(|failed| match failed {
                    Failed::Unsent(message) => Failure::Unsent(message),
                    Failed::Broken(broken) => Failure::Broken(broken),
                }));
            }
            if overdue.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Failure::Replaced));
            }
            if !is_write && !connection.is_sent() {
                // Its client may send it as slowly as it likes, without a token, on however many connections: it gives way.
                needed = needed.take().or_else(|| Seat::here().map(|seat| Box::pin(Waiting::unless_needed(&seat))));
                if needed.as_mut().is_some_and(|needed: &mut Pin<Box<Waiting>>| needed.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(Err(Failure::Needed));
                }
            } else {
                needed = None;
            }
            while connection.poll_late(cx).is_ready() {
                // A large request that is still being sent has no answer yet.
                if connection.moved() == moved {
                    return Poll::Ready(Err(Failure::TimedOut));
                }
                moved = connection.moved();
                connection.expect_within(time);
            }
            Poll::Pending
        });
        let head = head.await?;
        if self.write.is_some() {
            fail::at(Point::HttpHeadCome);
        }
        self.stage = Stage::Body(head.status.as_u16());
        Ok(head)
    }

    /// The next frame of the answer's body; `Ok(None)` at its end.
    ///
    /// # Errors
    /// [`Failure::Broken`], [`Failure::Replaced`].
    pub async fn frame(&mut self) -> Result<Option<Frame<Bytes>>, Failure> {
        match self.step(true, true).await? {
            Step::Frame(frame) => Ok(frame),
            Step::Hurry => Err(Failure::Replaced),
        }
    }

    /// The same, and tells when a newer token takes the fence, unless `is_hurried`. Without `reads` it only waits for that, and goes
    /// on with sending.
    ///
    /// # Errors
    /// As [`Exchange::frame`].
    pub async fn step(&mut self, reads: bool, is_hurried: bool) -> Result<Step, Failure> {
        let (Stage::Body(_), Some(connection)) = (self.stage, &mut self.connection) else {
            return Ok(Step::Frame(None));
        };
        let write = self.write.as_ref();
        let replaced = async {
            match write {
                Some(write) if !is_hurried => drop(write.replaced().await),
                _ => std::future::pending().await,
            }
        };
        let frame = poll_fn(|cx| {
            if reads {
                return connection.poll_frame(cx).map_err(Failure::Broken);
            }
            let _ = connection.poll_sent(cx);
            Poll::Pending
        });
        tokio::select! {
            biased;
            frame = frame => frame.map(Step::Frame),
            () = overdue(write) => Err(Failure::Replaced),
            () = replaced => Ok(Step::Hurry),
        }
    }

    /// An answer's body of which all is here: mostly it came with the head.
    pub fn take_now(&mut self, bytes_max: usize) -> Option<Bytes> {
        match self.left() {
            Some(0) => return Some(Bytes::new()),
            Some(len) if usize::try_from(len).is_ok_and(|len| len <= bytes_max) => {}
            _ => return None,
        }
        let connection = self.coming()?;
        if !connection.has_all() {
            return None;
        }
        match connection.poll_frame(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(Some(frame))) => frame.into_data().ok(),
            _ => None,
        }
    }

    /// Takes in an answer's body if it is small: then it is known whether all of it comes before the client is told anything.
    ///
    /// # Errors
    /// As [`Exchange::frame`], and [`Failure::TimedOut`].
    pub async fn take_small(&mut self, bytes_max: usize) -> Result<Taken, Failure> {
        let announced = self.left().map(|left| usize::try_from(left).unwrap_or(usize::MAX));
        if announced == Some(0) {
            return Ok(Taken::Whole(Bytes::new(), None));
        }
        let (is_small, is_large) = (announced.is_some_and(|len| len <= bytes_max), announced > Some(bytes_max));
        if is_large {
            return Ok(Taken::Part(Vec::new()));
        }
        let mut late_at = None;
        let (mut frames, mut len, mut trailers, mut patience) = (Vec::new(), 0, None, PATIENCE);
        loop {
            let next = match self.frame_soon(&mut patience).await? {
                Some(next) => next,
                None if is_small => {
                    let late_at = *late_at.get_or_insert_with(|| Instant::now() + self.answer_time);
                    timeout_at(late_at, self.frame()).await.map_err(|_| Failure::TimedOut)??
                }
                None => return Ok(Taken::Part(frames)),
            };
            let Some(frame) = next else { break };
            len += frame.data_ref().map_or(0, Bytes::len);
            let is_all = frames.is_empty() && self.connection.as_ref().is_some_and(Connection::is_at_end);
            match frame.into_trailers() {
                Ok(map) => trailers = Some(map),
                // Mostly it is one piece.
                Err(data) if is_all => return Ok(Taken::Whole(data.into_data().unwrap_or_default(), None)),
                Err(data) => frames.push(data),
            }
            if len > bytes_max {
                frames.extend(trailers.map(Frame::trailers));
                return Ok(Taken::Part(frames));
            }
        }
        Ok(Taken::Whole(joined(frames, len), trailers))
    }

    /// The next frame if it is as good as there; nothing if it isn't.
    async fn frame_soon(&mut self, patience: &mut usize) -> Result<Option<Option<Frame<Bytes>>>, Failure> {
        loop {
            let Some(connection) = self.coming() else { return Ok(Some(None)) };
            match poll_fn(|cx| Poll::Ready(connection.poll_frame(cx))).await {
                Poll::Ready(frame) => return frame.map(Some).map_err(Failure::Broken),
                Poll::Pending if *patience == 0 || !connection.is_http2() => return Ok(None),
                // The connection's own task may only need its turn.
                Poll::Pending => {
                    *patience -= 1;
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// The whole answer has come, and all of the request was sent: tells the fence. False where more is to be looked at first.
    pub fn end_now(&mut self) -> bool {
        let Stage::Body(status) = self.stage else { return false };
        let is_over =
            |connection: &Connection| connection.is_sent() && connection.is_delimited() && connection.is_at_end();
        if UNKNOWING.contains(&status) || !self.connection.as_ref().is_some_and(is_over) {
            return false;
        }
        self.stage = Stage::Over;
        self.tell(Outcome::Known);
        if let Some(connection) = self.connection.take() {
            connection.put_back();
        }
        true
    }

    /// The whole answer has come: tells the fence, and gives the connection back where it is of further use.
    pub async fn end(&mut self) {
        let Stage::Body(status) = std::mem::replace(&mut self.stage, Stage::Over) else { return };
        let Some(connection) = &mut self.connection else { return };
        let is_whole = connection.is_delimited() || self.write.is_none() || status >= 300;
        let knows = !UNKNOWING.contains(&status);
        let is_sent = if !is_whole {
            false
        } else if connection.is_sent() {
            true
        } else if status >= 300 || self.write.is_none() {
            false
        } else {
            // Done, says the upstream, without having heard all of it. What it does with the rest isn't known.
            tokio::select! {
                sent = timeout(REST_TIME, poll_fn(|cx| connection.poll_sent(cx))) => sent.unwrap_or(false),
                () = overdue(self.write.as_ref()) => false,
            }
        };
        if is_sent {
            self.tell(if knows { Outcome::Known } else { Outcome::Unknown });
            if let Some(connection) = self.connection.take() {
                connection.put_back();
            }
            return;
        }
        self.cut();
        // Refused, and no more of it can go out.
        self.tell(if status >= 300 && knows { Outcome::Known } else { Outcome::Unknown });
    }

    /// It came to nothing: cuts the connection, then tells the fence.
    pub fn fail(&mut self) {
        self.stage = Stage::Over;
        self.cut();
        self.tell(Outcome::Unknown);
    }

    /// Nothing of it was sent: what to tell the fence is left to the next try.
    pub fn give_up(&mut self) -> Option<InFlight> {
        self.stage = Stage::Over;
        self.connection = None;
        self.write.take()
    }

    /// The answer is no message any more but a tunnel: its owner is to tell the fence.
    pub fn into_tunnel(mut self) -> (Option<Connection>, Option<InFlight>) {
        self.stage = Stage::Over;
        (self.connection.take(), self.write.take())
    }

    /// The connection on which the answer to what is no write is coming.
    pub fn into_read(mut self) -> Option<Connection> {
        self.stage = Stage::Over;
        self.connection.take()
    }

    fn cut(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.cut();
        }
    }

    fn tell(&mut self, outcome: Outcome) {
        if let Some(write) = self.write.take() {
            fail::at(if outcome == Outcome::Known { Point::HttpAnswerCome } else { Point::HttpCut });
            write.finish(outcome);
        }
    }

    /// The same exchange, for a task that sees to its end.
    fn orphaned(&mut self) -> Exchange {
        Exchange {
            stage: std::mem::replace(&mut self.stage, Stage::Over),
            connection: self.connection.take(),
            write: self.write.take(),
            answer_time: self.answer_time,
            is_orphan: true,
        }
    }

    /// Waits for its end without a client.
    pub async fn see_out(mut self) {
        let time = self.answer_time;
        let whole = async {
            if self.stage == Stage::Head && self.head().await?.status == StatusCode::SWITCHING_PROTOCOLS {
                // A tunnel with nobody at its other end.
                return Err(Failure::TimedOut);
            }
            while self.frame().await?.is_some() {}
            Ok::<_, Failure>(())
        };
        match timeout(time, whole).await {
            Ok(Ok(())) => self.end().await,
            Ok(Err(Failure::Unsent(_))) => {
                if let Some(write) = self.give_up() {
                    write.finish(Outcome::Known);
                }
            }
            Ok(Err(_)) | Err(_) => self.fail(),
        }
    }
}

fn joined(frames: Vec<Frame<Bytes>>, len: usize) -> Bytes {
    let mut pieces = frames.into_iter().filter_map(|frame| frame.into_data().ok());
    let first = pieces.next().unwrap_or_default();
    if first.len() == len {
        return first;
    }
    let mut all = BytesMut::with_capacity(len);
    all.extend_from_slice(&first);
    pieces.for_each(|piece| all.extend_from_slice(&piece));
    all.freeze()
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.write.is_none() {
            return;
        }
        if !self.is_orphan
            && self.stage != Stage::Over
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(self.orphaned().see_out());
            return;
        }
        // The runtime ends, and with it the exchange: its end is unknown, but that no more of it goes out is certain.
        self.fail();
    }
}
