//! The load generator: connections that are kept, over which the same work is done again and again, as fast as the answers come
//! (a closed loop) or at a fixed rate (an open one).
//!
//! - `worker.rs`: one thread, with an epoll and a timer of its own
//! - `conn.rs`, `answer.rs`: one connection; where an answer ends
//! - `schedule.rs`: when requests are due; **why a stall is seen**
//! - `work.rs`: what is sent, and which answers are expected
//! - `tally.rs`: what is counted
//! - `once.rs`: one request, and its whole answer
//!
//! It is made by hand, and not by the HTTP client that the rest uses, because it shares the processors with what it measures: a
//! request costs it little more than its system calls.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::clock::CpuClock;
use super::stop::Stop;
use conn::Conn;
use worker::{Window, Worker};

pub mod answer;
pub mod conn;
pub mod once;
pub mod schedule;
pub mod tally;
pub mod work;
pub mod worker;

pub use schedule::Pace;
pub use tally::Sample;
pub use work::{Expect, Rising, Scattered, Work};

/// What to do to whom, how fast and how long.
#[derive(Debug, Clone)]
pub struct Load {
    /// Whom.
    pub addr: SocketAddr,
    /// What is sent.
    pub work: Work,
    /// Which answers are expected. In an operation of several requests, those before the last are to succeed.
    pub expect: Expect,
    /// Connections, of all threads together.
    pub connections: usize,
    /// Threads; no more than connections.
    pub threads: usize,
    /// How fast.
    pub pace: Pace,
    /// For so long nothing counts.
    pub warm_up: Duration,
    /// For so long it does.
    pub duration: Duration,
    /// How long an answer may take. One that takes longer ends the load.
    pub answer_time: Duration,
}

/// Why a load ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// There is no connection to be had.
    #[error("nobody answers at {addr} ({why})")]
    Unreachable {
        /// Where.
        addr: SocketAddr,
        /// What the system says.
        why: String,
    },
    /// Answers don't come.
    #[error("there was no answer for {limit:?} ({count} waited for): it hangs, or --answer-time is too short")]
    Late {
        /// How many.
        count: usize,
        /// How long was waited.
        limit: Duration,
    },
    /// The process was told to stop.
    #[error("told to stop")]
    Stopped,
    /// The operating system refuses.
    #[error("the load generator: {0}")]
    System(String),
}

impl Load {
    /// What is expected of one request of an operation.
    fn expect_of(&self, step: usize) -> Expect {
        if step + 1 < self.work.steps() { Expect::Success } else { self.expect }
    }

    /// Runs it. `gate`: the clock of the process that is measured, where it is known.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn run(&self, stop: &Stop, gate: Option<CpuClock>) -> Result<Sample, LoadError> {
        let system = |error: std::io::Error| LoadError::System(error.to_string());
        let mut conns = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            if stop.is_set() {
                return Err(LoadError::Stopped);
            }
            let gone = |error: std::io::Error| LoadError::Unreachable { addr: self.addr, why: error.to_string() };
            conns.push(Conn::open(self.addr).map_err(gone)?);
        }
        let start = Instant::now();
        let from = start + self.warm_up;
        let window = Window { start, from, to: from + self.duration };
        let mut workers = Vec::with_capacity(self.threads);
        for index in 0..self.threads {
            // As even as can be.
            let own = conns.split_off(conns.len() - conns.len().div_ceil(self.threads - index));
            let gate = gate.filter(|_| index == 0);
            workers.push(Worker::new((self, index), own, stop, window, gate).map_err(system)?);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = workers.into_iter().map(|worker| scope.spawn(move || worker.run())).collect();
            let mut whole: Option<Sample> = None;
            for thread in threads {
                let sample = thread.join().map_err(|_| LoadError::System("a thread panicked".into()))??;
                match &mut whole {
                    Some(whole) => whole.add(&sample),
                    None => whole = Some(sample),
                }
            }
            whole.ok_or_else(|| LoadError::System("there is no thread".into()))
        })
    }
}

#[cfg(test)]
mod tests;
