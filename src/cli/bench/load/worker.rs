//! One thread of the load generator: connections, an epoll, a timer, and what is counted.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::conn::{Conn, Event, Stage};
use super::schedule::{Pace, Schedule};
use super::tally::{Sample, ns};
use super::work::Work;
use super::{Load, LoadError};
use crate::cli::bench::clock::{CpuClock, thread_time};
use crate::cli::bench::stop::Stop;

/// How often it looks at what no event tells of: the end, an answer that doesn't come, being told to stop.
const LOOK: Duration = Duration::from_millis(20);
/// What is read at once, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// The number of the timer among the events.
const TIMER: u64 = u64::MAX;

/// The times of one visit.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// When it begins.
    pub start: Instant,
    /// From when on it counts.
    pub from: Instant,
    /// Until when.
    pub to: Instant,
}

/// What had been used and done at one moment.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    done: u64,
    thread: Duration,
    gate: Option<Duration>,
}

/// One thread's part of a load.
#[derive(Debug)]
pub struct Worker<'a> {
    load: &'a Load,
    stop: &'a Stop,
    window: Window,
    gate: Option<CpuClock>,
    work: Work,
    epoll: OwnedFd,
    timer: OwnedFd,
    conns: Vec<Conn>,
    /// Those that wait for something to do.
    idle: Vec<usize>,
    /// Of an open loop.
    schedule: Option<Schedule>,
    sample: Sample,
    /// Operations that have ended, also those that don't count.
    done: u64,
    /// At the beginning and the end of what counts.
    marks: (Option<Mark>, Option<Mark>),
    looked: Instant,
}

impl<'a> Worker<'a> {
    /// Of thread `index`. `gate`: the clock of what is measured, for one of the threads.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new(
        (load, index): (&'a Load, usize),
        conns: Vec<Conn>,
        stop: &'a Stop,
        window: Window,
        gate: Option<CpuClock>,
    ) -> std::io::Result<Worker<'a>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let mut schedule = None;
        if let Pace::Open(rate) = load.pace {
            schedule = Some(Schedule::new(window.start, window.to, rate, index, load.threads));
        }
        let worker = Worker {
            load,
            stop,
            window,
            gate,
            work: load.work.clone(),
            epoll,
            timer,
            idle: (0..conns.len()).rev().collect(),
            conns,
            schedule,
            sample: Sample::new(),
            done: 0,
            marks: (None, None),
            looked: window.start,
        };
        for index in 0..worker.conns.len() {
            worker.register(index)?;
        }
        Ok(worker)
    }

    fn register(&self, index: usize) -> std::io::Result<()> {
        let Some(stream) = &self.conns[index].stream else { return Ok(()) };
        Ok(epoll::add(&self.epoll, stream.as_fd(), epoll::EventData::new_u64(index as u64), self.flags(index))?)
    }

    fn flags(&self, index: usize) -> epoll::EventFlags {
        match self.conns[index].wants_to_write() {
            true => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            false => epoll::EventFlags::IN,
        }
    }

    /// Sends and reads until the time is over and everything is answered.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn run(mut self) -> Result<Sample, LoadError> {
        let mut events = Vec::with_capacity(self.conns.len() + 1);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let now = Instant::now();
            self.mark(now);
            if now.duration_since(self.looked) >= LOOK {
                self.looked = now;
                self.look(now)?;
            }
            self.dispatch(now)?;
            if self.is_over(now) {
                return Ok(self.finish(now));
            }
            self.arm(now)?;
            let until = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&until)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(LoadError::System(error.to_string())),
            }
            for event in events.drain(..) {
                let flags = event.flags;
                match event.data.u64() {
                    TIMER => {
                        let _ = rustix::io::read(&self.timer, &mut [0_u8; 8][..]);
                    }
                    index => self.event(usize::try_from(index).unwrap_or(0), flags, &mut buffer)?,
                }
            }
        }
    }

    /// Notes what was used and done, once at each end of the time that counts. Clock and count are read at one moment, whenever
    /// that is: a thread that is kept waiting for a processor begins late, and ends not before something was done.
    fn mark(&mut self, now: Instant) {
        let mark = |worker: &Worker<'_>| Mark {
            at: Instant::now(),
            done: worker.done,
            thread: thread_time(),
            gate: worker.gate.and_then(CpuClock::now),
        };
        if self.marks.0.is_none() && now >= self.window.from {
            let begun = mark(self);
            if self.schedule.is_none() {
                self.window.from = now;
                self.window.to = now + self.load.duration;
            }
            self.marks.0 = Some(begun);
        }
        // Of a closed loop, one that was begun in the time that counts.
        let has_counted = self.schedule.is_some() || !self.sample.latency.is_empty();
        let has_done = has_counted && self.marks.0.is_some_and(|begun| self.done > begun.done);
        let is_late = now > self.window.to + self.load.answer_time;
        if self.marks.1.is_none() && (now >= self.window.to && (has_done || is_late) || self.work.is_over()) {
            self.marks.1 = Some(mark(self));
        }
    }

    /// Whether the latency of an operation counts that was due, or begun, then.
    fn counts(&self, due: Instant) -> bool {
        match &self.schedule {
            Some(_) => (self.window.from..self.window.to).contains(&due),
            None => self.marks.0.is_some() && due >= self.window.from,
        }
    }

    /// Looks whether to stop, and for answers that don't come.
    fn look(&self, now: Instant) -> Result<(), LoadError> {
        // A token that is under way is waited for, so that the mark can be told afterwards.
        let is_rising = matches!(self.work, Work::Rising(_)) && self.idle.len() < self.conns.len();
        if self.stop.is_set() && !is_rising {
            return Err(LoadError::Stopped);
        }
        let limit = self.load.answer_time;
        let late = |conn: &Conn| conn.has_request && now.duration_since(conn.begun) > limit;
        match self.conns.iter().filter(|conn| late(conn)).count() {
            0 => Ok(()),
            count => Err(LoadError::Late { count, limit }),
        }
    }

    /// Gives work to those that have none.
    fn dispatch(&mut self, now: Instant) -> Result<(), LoadError> {
        if self.stop.is_set() {
            return Ok(());
        }
        while let Some(index) = self.idle.pop() {
            let due = match &mut self.schedule {
                Some(schedule) => schedule.take(now),
                None => self.marks.1.is_none().then_some(now),
            };
            let Some(due) = due.filter(|_| !self.work.is_over()) else {
                self.idle.push(index);
                return Ok(());
            };
            self.conns[index].due = due;
            self.begin(index, 0, now)?;
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, step: usize, now: Instant) -> Result<(), LoadError> {
        if self.conns[index].stream.is_none() {
            self.reopen(index)?;
        }
        self.conns[index].step = step;
        let request = self.work.request(step);
        let event = self.conns[index].begin(request, now);
        self.after(index, event)?;
        if self.conns[index].wants_to_write() {
            self.interest(index)?;
        }
        Ok(())
    }

    fn reopen(&mut self, index: usize) -> Result<(), LoadError> {
        let gone = |error: std::io::Error| LoadError::Unreachable { addr: self.load.addr, why: error.to_string() };
        self.conns[index].reopen().map_err(gone)?;
        self.register(index).map_err(|error| LoadError::System(error.to_string()))
    }

    fn interest(&self, index: usize) -> Result<(), LoadError> {
        let Some(stream) = &self.conns[index].stream else { return Ok(()) };
        let data = epoll::EventData::new_u64(index as u64);
        epoll::modify(&self.epoll, stream.as_fd(), data, self.flags(index))
            .map_err(|error| LoadError::System(error.to_string()))
    }

    fn event(&mut self, index: usize, flags: epoll::EventFlags, buffer: &mut [u8]) -> Result<(), LoadError> {
        let addr = self.load.addr;
        if flags.contains(epoll::EventFlags::OUT) || self.conns[index].stage == Stage::Connecting {
            let gone = |error: std::io::Error| LoadError::Unreachable { addr, why: error.to_string() };
            let event = self.conns[index].writable().map_err(gone)?;
            self.after(index, event)?;
            if !self.conns[index].wants_to_write() {
                self.interest(index)?;
            }
        }
        let event = self.conns[index].readable(buffer, self.load.expect);
        self.after(index, event)
    }

    fn after(&mut self, index: usize, event: Event) -> Result<(), LoadError> {
        match event {
            Event::Nothing => Ok(()),
            Event::Broken => {
                let due = self.conns[index].due;
                if self.counts(due) {
                    self.sample.broken += 1;
                    self.sample.latency.saturating_record(ns(due.elapsed()));
                }
                // Its token may have been seen.
                self.work.advance();
                self.idle.push(index);
                Ok(())
            }
            Event::Answered { status, is_spoilt } => {
                let now = Instant::now();
                let is_met = self.load.expect_of(self.conns[index].step).is_met(status) && !is_spoilt;
                if let (Work::Rising(rising), true) = (&self.work, is_met) {
                    self.sample.token = Some(rising.token);
                }
                let step = self.conns[index].step + 1;
                if is_met && step < self.work.steps() {
                    return self.begin(index, step, now);
                }
                self.count(index, status, is_met, now);
                Ok(())
            }
        }
    }

    /// An operation has ended.
    fn count(&mut self, index: usize, status: u16, is_met: bool, now: Instant) {
        let due = self.conns[index].due;
        if self.marks.1.is_none() {
            self.done += 1;
        }
        if self.counts(due) {
            self.sample.latency.saturating_record(ns(now.duration_since(due)));
            *self.sample.answers.entry(status).or_default() += 1;
            self.sample.unexpected += u64::from(!is_met);
        }
        self.work.advance();
        self.idle.push(index);
    }

    /// Whether nothing is due, and nothing under way. An open loop that can't keep up is cut off after some time.
    fn is_over(&self, now: Instant) -> bool {
        if self.marks.1.is_none() {
            return false;
        }
        let is_quiet = self.idle.len() == self.conns.len();
        let is_due = self.schedule.as_ref().is_some_and(|schedule| schedule.next().is_some());
        is_quiet && !is_due || now > self.window.to + self.load.answer_time
    }

    /// Sets the timer to when the next request is due, if somebody is there to send it; else to the end of the time that counts,
    /// which would otherwise have a pause in it in which nothing was asked for.
    fn arm(&self, now: Instant) -> Result<(), LoadError> {
        let Some(schedule) = &self.schedule else { return Ok(()) };
        let end = Some(self.window.to).filter(|_| self.marks.1.is_none());
        let Some(due) = schedule.next().filter(|_| !self.idle.is_empty()).or(end) else { return Ok(()) };
        let wait = due.duration_since(now).max(Duration::from_nanos(1));
        if wait >= LOOK {
            return Ok(());
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let once = Itimerspec { it_interval: zero, it_value: value };
        let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        set.map(drop).map_err(|error| LoadError::System(error.to_string()))
    }

    fn finish(mut self, now: Instant) -> Sample {
        // What was due and has no answer has waited at least until now.
        let mut unfinished: Vec<Instant> =
            self.conns.iter().filter(|conn| conn.has_request).map(|conn| conn.due).collect();
        while let Some(due) = self.schedule.as_mut().and_then(|schedule| schedule.take(now)) {
            unfinished.push(due);
        }
        unfinished.retain(|due| self.counts(*due));
        for due in &unfinished {
            self.sample.latency.saturating_record(ns(now.duration_since(*due)));
        }
        self.sample.unfinished = unfinished.len() as u64;
        if let (Some(from), Some(to)) = self.marks {
            let (time, done) = (to.at.duration_since(from.at).as_secs_f64(), to.done - from.done);
            self.sample.per_second = done as f64 / time.max(f64::MIN_POSITIVE);
            self.sample.busy = (to.thread - from.thread).as_secs_f64() / time.max(f64::MIN_POSITIVE);
            let used = to.gate.zip(from.gate).map(|(to, from)| to.saturating_sub(from));
            self.sample.gate_busy = used.map(|used| used.as_secs_f64() / time.max(f64::MIN_POSITIVE));
        }
        self.sample
    }
}
