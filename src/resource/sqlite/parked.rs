//! What waits for a client's transaction to end, beside the queue and counted in it.

use std::sync::atomic::Ordering;

use crate::problem::{Kind, Problem};

use super::queue::Laned as _;
use super::shared::Work;
use super::writer::Writer;

impl Writer {
    /// Lets a request wait until a client's transaction ends.
    pub(super) fn park(&mut self, work: Box<Work>) {
        self.shared.writer.put_aside(work.lane());
        self.parked.push_back(work);
    }

    fn unparked(&self, work: Box<Work>) -> Box<Work> {
        self.shared.writer.take_back(work.lane());
        work
    }

    /// Runs what waited for a client's transaction, as far as that has ended; answers what waited too long.
    pub(super) fn unpark(&mut self) {
        if !self.shared.locked.load(Ordering::SeqCst) {
            for work in std::mem::take(&mut self.parked) {
                let work = self.unparked(work);
                self.process(work);
            }
        }
        let wait = self.shared.limits.lock_wait;
        while self.parked.front().is_some_and(|work| work.queued.elapsed() >= wait) {
            let Some(work) = self.parked.pop_front() else { break };
            let why = "another client's open transaction held the write lock for too long; nothing was applied";
            let work = self.unparked(work);
            self.shared.finish(work, Err(Problem::new(Kind::Busy, why)));
        }
    }
}
