//! An answer that is read by a task of its own.
//!
//! hyper asks for more of an answer only when the client has taken what there is. A client that reads slowly, or not at all, would
//! decide how long its write is in flight. So a long answer to a write is read here: as fast as the client takes it while nobody
//! waits, and as fast as the upstream sends it once a newer token has taken the fence.
//!
//! So is an answer that comes before all of its request was sent, to a read, too: a client may not read any of it before then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::body::{Pumped, passed_on};
use super::exchange::{Exchange, Failure, Step};

/// Frames on their way to the client.
pub const FRAMES: usize = 4;
/// Most bytes kept for a client that doesn't take them while its write has to end.
const CLIENTS_BYTES_MAX: usize = 1024 * 1024;
/// The same, of all clients of the process.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes in all backlogs.
static BACKLOGS: AtomicUsize = AtomicUsize::new(0);

/// What a client hasn't taken.
#[derive(Debug, Default)]
struct Backlog {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
}

impl Backlog {
    fn put(&mut self, frame: Frame<Bytes>) {
        let bytes = len(&frame);
        self.bytes += bytes;
        BACKLOGS.fetch_add(bytes, Ordering::Relaxed);
        self.frames.push_back(frame);
    }

    fn take(&mut self) -> Option<Frame<Bytes>> {
        let frame = self.frames.pop_front()?;
        let bytes = len(&frame);
        self.bytes -= bytes;
        BACKLOGS.fetch_sub(bytes, Ordering::Relaxed);
        Some(frame)
    }

    fn is_too_large(&self) -> bool {
        self.bytes > CLIENTS_BYTES_MAX || BACKLOGS.load(Ordering::Relaxed) > BACKLOG_BYTES_MAX
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        BACKLOGS.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Pump {
    exchange: Exchange,
    /// None once the client is gone or given up.
    client: Option<mpsc::Sender<Pumped>>,
    backlog: Backlog,
    /// Whether a newer token has taken the fence.
    is_hurried: bool,
    /// How long to read on without a client.
    alone_until: Option<Instant>,
}

/// Reads the rest of an answer, of which `first` was taken already, and sees to the write's end.
pub async fn run(exchange: Exchange, first: Vec<Frame<Bytes>>, client: mpsc::Sender<Pumped>) {
    let mut backlog = Backlog::default();
    first.into_iter().for_each(|frame| backlog.put(frame));
    let mut pump = Pump { exchange, client: Some(client), backlog, is_hurried: false, alone_until: None };
    while pump.turn().await {}
}

/// What comes next.
enum Next {
    /// The client has taken a frame.
    Given,
    /// The client is gone.
    Gone,
    /// There was no client for too long.
    TooLong,
    /// The upstream went on, or the fence.
    Step(Result<Step, Failure>),
}

impl Pump {
    /// False at the end.
    async fn turn(&mut self) -> bool {
        match self.next().await {
            Next::Given => {}
            Next::Gone if self.exchange.is_write() => self.leave_client(),
            Next::Step(Ok(Step::Frame(Some(frame)))) => self.keep(frame),
            Next::Step(Ok(Step::Hurry)) => self.is_hurried = true,
            Next::Step(Ok(Step::Frame(None))) => {
                self.end().await;
                return false;
            }
            Next::Step(Err(_)) | Next::TooLong | Next::Gone => {
                self.exchange.fail();
                return false;
            }
        }
        true
    }

    async fn next(&mut self) -> Next {
        let Pump { exchange, client, backlog, is_hurried, alone_until } = self;
        let waits = !backlog.frames.is_empty();
        let reads = client.is_none() || *is_hurried || !waits;
        let client = client.as_ref();
        let gone = async {
            match client {
                Some(client) => client.closed().await,
                None => std::future::pending().await,
            }
        };
        let room = async {
            match client {
                Some(client) if waits => client.reserve().await,
                _ => std::future::pending().await,
            }
        };
        let too_long = async {
            match *alone_until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            room = room => {
                let Ok(room) = room else { return Next::Gone };
                if let Some(frame) = backlog.take() {
                    room.send(Some(passed_on(frame)));
                }
                Next::Given
            }
            step = exchange.step(reads, *is_hurried) => Next::Step(step),
            () = gone => Next::Gone,
            () = too_long => Next::TooLong,
        }
    }

    fn keep(&mut self, frame: Frame<Bytes>) {
        if self.client.is_none() {
            return;
        }
        self.backlog.put(frame);
        // That the write's end is known matters more than that its client hears all of it.
        if self.is_hurried && self.backlog.is_too_large() {
            self.leave_client();
        }
    }

    fn leave_client(&mut self) {
        self.client = None;
        self.backlog = Backlog::default();
        self.alone_until = Some(Instant::now() + self.exchange.answer_time());
    }

    /// The whole answer is here. The fence hears of it first.
    async fn end(&mut self) {
        self.exchange.end().await;
        let Some(client) = self.client.take() else { return };
        while let Some(frame) = self.backlog.take() {
            if client.send(Some(passed_on(frame))).await.is_err() {
                return;
            }
        }
        let _ = client.send(None).await;
    }
}

fn len(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}
