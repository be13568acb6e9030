//! Random runs against the contract's own words, read off the whole history each time.
//!
//! The plain fence keeps every write that ever went and every outcome, and has no counters, no flag *settled* and no deadline that
//! is carried on: what it says follows from what happened. The one that ships has to say the same.

use proptest::prelude::*;

use super::*;

const DRAIN: u64 = 5;
const SETTLE: u64 = 9;

#[derive(Debug, Clone)]
enum Event {
    Ask(u64, u8, Purpose),
    Stored,
    NotStored,
    /// One of the writes in flight ends.
    Finish(usize, Outcome),
    Time(u64),
    Tick,
    Release,
    Reset(u64),
    /// The gate is killed, before or after it learnt that the store succeeded, and started again.
    Kill(bool),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let purpose = prop_oneof![3 => Just(Purpose::Write), 1 => Just(Purpose::Read)];
    let outcome = prop_oneof![2 => Just(Outcome::Known), 1 => Just(Outcome::Unknown)];
    let event = prop_oneof![
        12 => (1..6u64, 0..3u8, purpose).prop_map(|(token, holder, purpose)| Event::Ask(token, holder, purpose)),
        6 => Just(Event::Stored),
        1 => Just(Event::NotStored),
        6 => (0..4usize, outcome).prop_map(|(which, outcome)| Event::Finish(which, outcome)),
        4 => (1..8u64).prop_map(Event::Time),
        1 => Just(Event::Tick),
        1 => Just(Event::Release),
        1 => (0..6u64).prop_map(Event::Reset),
        1 => any::<bool>().prop_map(Event::Kill),
    ];
    proptest::collection::vec(event, 0..80)
}

/// One write that went.
#[derive(Debug)]
struct Write {
    term: usize,
    pass: Option<Pass>,
    /// When it ended with an unknown outcome, as long as that matters.
    lost_at: Option<u64>,
}

/// What the contract says.
struct Plain {
    on_unknown: OnUnknown,
    mark: Option<Mark>,
    /// When each term began.
    terms: Vec<u64>,
    storing: Option<(Option<Mark>, bool)>,
    writes: Vec<Write>,
    now: u64,
}

/// What the plain fence says; times as they are.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Go,
    Refused(Verdict),
    Store,
    Wait(Option<u64>),
    Quarantined(Option<u64>),
}

impl Plain {
    fn term(&self) -> usize {
        self.terms.len() - 1
    }

    /// Whether newer tokens are held back because of writes of unknown outcome, and until when.
    fn quarantine(&self) -> Option<Option<u64>> {
        let lost = || self.writes.iter().filter_map(|write| write.lost_at);
        match self.on_unknown {
            OnUnknown::Proceed => None,
            OnUnknown::Hold => lost().next().map(|_| None),
            OnUnknown::Wait => lost().map(|at| at + SETTLE).filter(|until| self.now < *until).max().map(Some),
        }
    }

    /// Whether a write of an earlier term may still be applied, for all that the gate knows.
    fn has_older(&self, are_in_flight: bool) -> bool {
        let is_recent = |at: u64| self.on_unknown == OnUnknown::Hold || self.now < at + SETTLE;
        self.writes.iter().filter(|write| write.term < self.term()).any(|write| match write.lost_at {
            Some(at) => !are_in_flight && is_recent(at) && self.on_unknown != OnUnknown::Proceed,
            None => are_in_flight && write.pass.is_some(),
        })
    }

    /// When the time of the older writes in flight is over: `drain` after the advance that shut them out.
    fn drain_end(&self) -> Option<u64> {
        let older = self.writes.iter().filter(|write| write.pass.is_some() && write.term < self.term());
        older.map(|write| self.terms[write.term + 1] + DRAIN).max()
    }

    fn says(&self, token: u64, holder: Option<&Holder>) -> Said {
        let highest = self.mark.as_ref().map_or(0, |mark| mark.token.get());
        let bound = self.mark.as_ref().and_then(|mark| mark.holder.as_ref());
        if token < highest {
            return Said::Refused(Verdict::Stale);
        }
        if token == highest && bound.is_some() && holder.is_some() && bound != holder {
            return Said::Refused(Verdict::Conflict);
        }
        if self.storing.is_some() {
            return Said::Wait(None);
        }
        if token > highest || (bound.is_none() && holder.is_some()) {
            return Said::Store;
        }
        let (in_flight, lost) = (self.has_older(true), self.has_older(false));
        match self.quarantine() {
            _ if !in_flight && !lost => Said::Go,
            Some(until) => Said::Quarantined(until),
            None => Said::Wait(self.drain_end().filter(|end| self.now < *end)),
        }
    }

    fn stored(&mut self) {
        let Some((mark, is_new_term)) = self.storing.take() else { return };
        self.mark = mark;
        if is_new_term {
            self.terms.push(self.now);
        }
    }

    /// Everything in flight is lost now; what was already lost counts from now again.
    fn killed(&mut self, was_committed: bool) {
        if was_committed {
            self.stored();
        }
        self.storing = None;
        for write in &mut self.writes {
            let is_recent = |at: u64| self.on_unknown == OnUnknown::Hold || self.now < at + SETTLE;
            let is_open = write.pass.take().is_some() || write.lost_at.is_some_and(is_recent);
            write.lost_at = is_open.then_some(self.now);
        }
    }
}

/// Both fences, and what the store holds.
struct Both {
    plain: Plain,
    fence: DrainedFence,
    policy: Policy,
    /// Whether *settled* is stored with the mark.
    settled: bool,
    storing_settled: bool,
}

impl Both {
    fn new(on_unknown: OnUnknown) -> Both {
        let policy = Policy { drain_ms: DRAIN, settle_ms: SETTLE, on_unknown, enforce: true };
        let plain = Plain { on_unknown, mark: None, terms: vec![0], storing: None, writes: Vec::new(), now: 0 };
        let fence = DrainedFence::restored(None, false, false, Moment(0), &policy);
        Both { plain, fence, policy, settled: false, storing_settled: false }
    }

    fn ask(&mut self, token: u64, holder: u8, purpose: Purpose) {
        let holder: Option<Holder> = ["", "a", "b"][usize::from(holder)].parse().ok();
        let says = self.plain.says(token, holder.as_ref());
        let token = Token::new(token).expect("not 0");
        let (name, now) = ("f".parse().expect("a name"), Moment(self.plain.now));
        let said = match self.fence.ask(&name, token, holder.as_ref(), purpose, now, &self.policy) {
            Asked::Go(pass) => {
                assert_eq!(pass.is_some(), purpose == Purpose::Write);
                let term = self.plain.term();
                self.plain.writes.extend(pass.map(|pass| Write { term, pass: Some(pass), lost_at: None }));
                Said::Go
            }
            Asked::Refused(refusal) => {
                assert_eq!(Some(&refusal.highest), self.plain.mark.as_ref());
                Said::Refused(refusal.verdict)
            }
            Asked::Store(store) => {
                assert_eq!(store.before, self.plain.mark);
                self.plain.storing = Some((store.after.clone(), store.advances()));
                self.storing_settled = store.is_settled;
                Said::Store
            }
            Asked::Wait(until) => Said::Wait(until.map(|until| until.0)),
            Asked::Quarantined(until) => Said::Quarantined(until.map(|until| until.0)),
        };
        assert_eq!(said, says);
    }

    fn kill(&mut self, was_committed: bool) {
        let was_dirty = self.fence.is_dirty();
        if was_committed && self.plain.storing.is_some() {
            self.settled = self.storing_settled;
        }
        self.plain.killed(was_committed);
        // What is lost may be of an earlier term where the advance is not known to be complete.
        if was_dirty && !self.settled && self.policy.on_unknown != OnUnknown::Proceed && self.plain.term() > 0 {
            let term = self.plain.term() - 1;
            self.plain.writes.push(Write { term, pass: None, lost_at: Some(self.plain.now) });
        }
        // A run-out quarantine that nobody looked at counts as well.
        if was_dirty {
            let term = self.plain.term();
            self.plain.writes.push(Write { term, pass: None, lost_at: Some(self.plain.now) });
        }
        let (mark, now) = (self.plain.mark.clone(), Moment(self.plain.now));
        self.fence = DrainedFence::restored(mark, self.settled, was_dirty, now, &self.policy);
    }

    fn happens(&mut self, event: &Event) {
        let now = Moment(self.plain.now);
        match *event {
            Event::Ask(token, holder, purpose) => self.ask(token, holder, purpose),
            Event::Stored => {
                if self.plain.storing.is_some() {
                    self.settled = self.storing_settled;
                }
                let _ = self.fence.stored(now, &self.policy);
                self.plain.stored();
            }
            Event::NotStored => {
                let _ = self.fence.not_stored();
                self.plain.storing = None;
            }
            Event::Finish(which, outcome) => {
                let mut in_flight = self.plain.writes.iter_mut().filter(|write| write.pass.is_some());
                let Some(write) = in_flight.nth(which) else { return };
                let pass = write.pass.take().expect("it is in flight");
                write.lost_at = (outcome == Outcome::Unknown).then_some(now.0);
                let _ = self.fence.finish(pass, outcome, now, &self.policy);
            }
            Event::Time(ms) => self.plain.now += ms,
            Event::Tick => drop(self.fence.tick(now)),
            Event::Release => {
                let was_on = self.fence.release(now);
                assert_eq!(was_on, self.plain.quarantine().is_some());
                self.plain.writes.retain(|write| write.pass.is_some());
            }
            Event::Reset(to) => {
                let to = Token::new(to).ok().map(|token| Mark { token, holder: None });
                if let Some(store) = self.fence.reset(to.clone(), now) {
                    self.plain.storing = Some((to, true));
                    self.storing_settled = store.is_settled;
                }
            }
            Event::Kill(was_committed) => self.kill(was_committed),
        }
    }

    /// What holds at any time.
    fn compare(&self) {
        let now = Moment(self.plain.now);
        assert_eq!(self.fence.mark(), self.plain.mark.as_ref());
        let blocked = match self.plain.quarantine() {
            None => Blocked::No,
            Some(None) => Blocked::Held,
            Some(Some(until)) => Blocked::Until(Moment(until)),
        };
        assert_eq!(self.fence.blocked(now), blocked);
        let passes = || self.plain.writes.iter().filter_map(|write| Some((write, write.pass.as_ref()?)));
        assert_eq!(self.fence.in_flight(), passes().count() as u64);
        assert!(self.fence.is_dirty() || (passes().next().is_none() && blocked == Blocked::No));
        for (write, pass) in passes() {
            let ends_at = self.plain.terms.get(write.term + 1).map(|at| Moment(at + DRAIN));
            assert_eq!(self.fence.ends_at(pass), ends_at);
        }
        let is_settled = !self.plain.has_older(true) && !self.plain.has_older(false);
        assert!(is_settled || !self.fence.is_settled(), "settled only where nothing older can be applied");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn the_fence_says_what_the_contract_says(
        events in events(),
        on_unknown in prop_oneof![3 => Just(OnUnknown::Wait), 1 => Just(OnUnknown::Hold), 1 => Just(OnUnknown::Proceed)],
    ) {
        let mut both = Both::new(on_unknown);
        for event in &events {
            both.happens(event);
            both.compare();
        }
    }
}
