//! One gate, one fence, writers and a slow upstream, as a model whose every run is looked at.
//!
//! The fence in it is the one that ships, with a driver around it as the gate has one: it records that the fence is dirty before it
//! forwards, stores mark and `is_settled` in one transaction, stores later that a fence has settled, and clears the record of
//! dirt when nothing is in flight any more. The gate can be killed between any two steps; stores can fail; the upstream applies a
//! write at any moment until its answer, and one that was cut off at any moment until `settle` has passed.
//!
//! **Why it ends.** Every time in a world counts from its now, which never moves: what is in the past is equal to now, because the
//! fence only compares. Terms are told apart only as *this one* and *an earlier one*. So worlds repeat, and all runs of any length are
//! looked at, with any number of kills, failures and retries.

use super::*;

mod proofs;

/// The world's now.
const NOW: Moment = Moment(100);
/// What is left to a write that the upstream may apply whenever it likes.
const EVER: u64 = 99;

/// What the driver gets wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    None,
    /// Records that the fence is dirty after it has forwarded.
    RecordsAfterForward,
    /// Looks whether nothing is in flight before it closes the door.
    SettledBeforeDoor,
    /// Clears the record of dirt after it has let go of the fence's lock.
    ClearsWithoutLock,
    /// Says `not_stored` where the commit failed after it had taken effect.
    CommitsButSaysNot,
    /// Starts with a new record of dirt, after it has looked at the one that it found.
    ForgetsAtStart,
    /// Stores that a fence has settled in no order with other stores, whatever the mark is by then.
    SettlesAnyMark,
    /// Stores that a fence has settled in no order with other stores, if the mark is still the same.
    SettlesOutOfOrder,
    /// Never cuts off a write that is overdue.
    NeverCuts,
    /// Doesn't wake those who wait when a write ends.
    NeverWakes,
}

/// The size of the world and what can happen in it.
#[derive(Debug, Clone)]
struct Setup {
    tokens: u8,
    /// Named holders; a request may always name none.
    holders: u8,
    /// Writes that can be under way at once, those included that may only still be applied.
    flights: usize,
    policy: Policy,
    /// Whether the upstream may apply a write later than `settle` after its end.
    applies_late: bool,
    /// Whether connections break and upstreams are late. Without, every answer comes in time.
    breaks: bool,
    /// Whether the gate is quick: what is overdue is cut off before time goes on, and how long the mark waits is counted.
    is_quick: bool,
    kills: bool,
    stores_fail: bool,
    resets: u8,
    fault: Fault,
    name: FenceName,
}

/// Which resets came before, and the token: what must never fall.
type Term = (u8, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    /// It has its pass.
    Granted,
    /// That the fence is dirty is recorded.
    Recorded,
    /// It is forwarded, and not applied.
    Open,
    /// It is applied, and not answered.
    Applied,
    /// The gate is done with it, and it may be applied while this much time is left.
    Late(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Flight {
    term: Term,
    phase: Phase,
    /// The term in its pass.
    pass: u32,
}

/// What survives a kill.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Disk {
    era: u8,
    mark: Option<Mark>,
    is_settled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Storing {
    disk: Disk,
    is_committed: bool,
}

/// The running gate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Gate {
    fence: DrainedFence,
    era: u8,
    storing: Option<Storing>,
    /// Whether it is known that the store says *settled*.
    knows_settled: bool,
    /// The mark that is to be stored as settled.
    settling: Option<(u8, Mark)>,
    /// What a faulty driver has seen before it did something.
    seen_idle: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// None: it was killed.
    gate: Option<Gate>,
    disk: Disk,
    dirty: bool,
    flights: Vec<Flight>,
    /// Who waits: until something wakes it, and with a number at most for so long.
    waiting: [Option<Option<u64>>; 3],
    resets_left: u8,
    /// How long ago the gate started, or the mark left a term that had settled; up to what nobody may have to wait longer than.
    /// Tokens that rise before the first of them has settled don't begin it anew.
    age: u64,
    /// The highest term that was applied.
    applied: Term,
    /// The highest mark that anybody was told.
    told: Term,
    /// The first holder that went with each token.
    bound: [u8; 3],
    wrong: Wrong,
}

/// What must never happen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Wrong {
    /// A write was applied after one of a higher term.
    term_fell: bool,
    /// A request went while an older write could still be applied.
    went_early: bool,
    /// The mark is lower than one that was told.
    mark_fell: bool,
    /// Two holders went with one token.
    two_holders: bool,
    /// A quarantine without a reason, or without an end where it has to have one.
    bad_quarantine: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Ask(u8, u8, Purpose),
    Commit,
    /// Of the store; true: after it took effect.
    Fail(bool),
    Stored,
    StoreSettled,
    Record(usize),
    Forward(usize),
    Apply(usize),
    Answer(usize),
    Break(usize),
    /// It turns out that it will never be applied.
    Lost(usize),
    RecordDirt,
    ClearDirt,
    Look,
    Tick,
    /// True: the power is lost.
    Kill(bool),
    Start,
    Release,
    Reset(u8),
}

fn mark_of(token: u8, holder: u8) -> Mark {
    Mark { token: Token::new(u64::from(token)).expect("not 0"), holder: holder_of(holder) }
}

fn holder_of(holder: u8) -> Option<Holder> {
    ["", "a", "b"].get(usize::from(holder)).and_then(|name| name.parse().ok())
}

fn term(era: u8, mark: Option<&Mark>) -> Term {
    (era, mark.map_or(0, |mark| u8::try_from(mark.token.get()).expect("tokens are small here")))
}

impl Gate {
    fn term(&self) -> Term {
        term(self.era, self.fence.mark())
    }

    /// Leaves only what the fence can tell apart. See the top of this file.
    fn fold(&mut self, flights: &mut [Flight]) {
        let fence = &mut self.fence;
        for flight in flights.iter_mut() {
            flight.pass = u32::from(flight.pass == fence.term && !matches!(flight.phase, Phase::Late(_)));
        }
        fence.term = 1;
        let Some(rare) = &mut fence.rare else { return };
        if rare.older > 0 {
            rare.drain_until = rare.drain_until.max(NOW);
        }
        if let Quarantine::Until(until) = &mut rare.quarantine {
            *until = (*until).max(NOW);
        }
    }

    /// Time passes: everything comes nearer by one.
    fn tick(&mut self) {
        let Some(rare) = &mut self.fence.rare else { return };
        if rare.older > 0 {
            rare.drain_until.0 -= 1;
        }
        if let Quarantine::Until(until) = &mut rare.quarantine {
            until.0 -= 1;
        }
    }
}

impl World {
    fn wake(&mut self, setup: &Setup, woken: Woken, by_end: bool) {
        if woken == Woken::Everybody && !(by_end && setup.fault == Fault::NeverWakes) {
            self.waiting = [None; 3];
        }
    }

    fn may_ask(&self, token: u8) -> bool {
        matches!(self.waiting[usize::from(token) - 1], None | Some(Some(0)))
    }

    /// The driver's part of a request.
    fn ask(&mut self, setup: &Setup, token: u8, holder: u8, purpose: Purpose) -> Option<Asked> {
        let gate = self.gate.as_mut()?;
        let presented = mark_of(token, holder);
        let named = presented.holder.as_ref();
        let asked = gate.fence.ask(&setup.name, presented.token, named, purpose, NOW, &setup.policy);
        let waits = &mut self.waiting[usize::from(token) - 1];
        *waits = None;
        match &asked {
            Asked::Go(pass) => {
                let pass = pass.as_ref().map(|pass| pass.term);
                let term = (gate.era, token);
                self.went(term, holder, pass, setup);
            }
            Asked::Refused(_) => {}
            Asked::Store(store) => {
                let is_settled = store.is_settled
                    || (setup.fault == Fault::SettledBeforeDoor && std::mem::take(&mut gate.seen_idle));
                let disk = Disk { era: gate.era, mark: store.after.clone(), is_settled };
                gate.storing = Some(Storing { disk, is_committed: false });
                *waits = Some(None);
            }
            Asked::Wait(until) => *waits = Some(until.map(|until| until.0 - NOW.0)),
            Asked::Quarantined(until) => {
                let is_wait = setup.policy.on_unknown == OnUnknown::Wait;
                let is_right = until.is_some_and(|until| until > NOW) == is_wait && setup.breaks;
                self.wrong.bad_quarantine |= !is_right || setup.policy.on_unknown == OnUnknown::Proceed;
            }
        }
        Some(asked)
    }

    fn went(&mut self, term: Term, holder: u8, pass: Option<u32>, setup: &Setup) {
        let proceeds = setup.policy.on_unknown == OnUnknown::Proceed;
        let can_harm = |flight: &Flight| flight.term < term && !(proceeds && matches!(flight.phase, Phase::Late(_)));
        self.wrong.went_early |= self.flights.iter().any(can_harm);
        if holder != 0 {
            let bound = &mut self.bound[usize::from(term.1) - 1];
            self.wrong.two_holders |= *bound != 0 && *bound != holder;
            *bound = holder;
        }
        if let Some(pass) = pass {
            self.flights.push(Flight { term, phase: Phase::Granted, pass });
        }
    }

    fn end(&mut self, setup: &Setup, at: usize, outcome: Outcome) {
        let gate = self.gate.as_mut().expect("only a running gate ends a write");
        let flight = &mut self.flights[at];
        let woken = gate.fence.finish(Pass { term: flight.pass }, outcome, NOW, &setup.policy);
        gate.seen_idle |= setup.fault == Fault::ClearsWithoutLock && !gate.fence.is_dirty();
        if outcome == Outcome::Unknown && flight.phase == Phase::Open {
            flight.phase = Phase::Late(setup.time_left());
        } else {
            self.flights.remove(at);
        }
        self.wake(setup, woken, true);
    }

    fn apply(&mut self, at: usize) {
        let flight = &mut self.flights[at];
        self.wrong.term_fell |= flight.term < self.applied;
        self.applied = self.applied.max(flight.term);
        if flight.phase == Phase::Open {
            flight.phase = Phase::Applied;
        } else {
            self.flights.remove(at);
        }
    }

    fn stored(&mut self, setup: &Setup) -> Option<()> {
        let gate = self.gate.as_mut()?;
        let storing = gate.storing.take()?;
        let (before, was_settled) = (gate.term(), gate.fence.is_settled());
        gate.era = storing.disk.era;
        gate.knows_settled = storing.disk.is_settled;
        let woken = gate.fence.stored(NOW, &setup.policy);
        if gate.term() != before && was_settled {
            self.age = 0;
        }
        self.wake(setup, woken, false);
        Some(())
    }

    fn fail(&mut self, setup: &Setup, takes_effect: bool) -> Option<()> {
        let gate = self.gate.as_mut()?;
        let storing = gate.storing.take()?;
        if takes_effect {
            self.disk = storing.disk;
        }
        let woken = gate.fence.not_stored();
        self.wake(setup, woken, false);
        Some(())
    }

    fn store_settled(&mut self, setup: &Setup) -> Option<()> {
        let gate = self.gate.as_mut()?;
        let (era, mark) = gate.settling.take()?;
        if self.disk.mark.as_ref() == Some(&mark) || setup.fault == Fault::SettlesAnyMark {
            self.disk.is_settled = true;
        }
        gate.knows_settled |= gate.era == era && gate.fence.mark() == Some(&mark);
        Some(())
    }

    fn kill(&mut self, setup: &Setup, is_power_lost: bool) {
        self.gate = None;
        self.waiting = [None; 3];
        self.dirty |= is_power_lost;
        self.flights.retain(|flight| matches!(flight.phase, Phase::Open | Phase::Late(_)));
        for flight in self.flights.iter_mut().filter(|flight| flight.phase == Phase::Open) {
            flight.phase = Phase::Late(setup.time_left());
        }
        for flight in &mut self.flights {
            flight.pass = 0;
        }
    }

    fn start(&mut self, setup: &Setup) {
        let Disk { era, mark, is_settled } = self.disk.clone();
        let fence = DrainedFence::restored(mark, is_settled, self.dirty, NOW, &setup.policy);
        if setup.fault == Fault::ForgetsAtStart {
            self.dirty = false;
        }
        let gate = Gate { fence, era, storing: None, knows_settled: is_settled, settling: None, seen_idle: false };
        self.gate = Some(gate);
        self.age = 0;
    }

    fn tick(&mut self, setup: &Setup) {
        if let Some(gate) = &mut self.gate {
            gate.tick();
            self.age = if setup.is_quick { setup.longest_wait().min(self.age + 1) } else { 0 };
        }
        for left in self.waiting.iter_mut().flatten().flatten() {
            *left = left.saturating_sub(1);
        }
        for flight in &mut self.flights {
            if let Phase::Late(left) = &mut flight.phase
                && *left != EVER
            {
                *left -= 1;
            }
        }
    }

    fn reset(&mut self, to: u8) -> Option<()> {
        let gate = self.gate.as_mut()?;
        let store = gate.fence.reset((to > 0).then(|| mark_of(to, 0)), NOW)?;
        self.resets_left -= 1;
        let disk = Disk { era: gate.era + 1, mark: store.after, is_settled: store.is_settled };
        gate.storing = Some(Storing { disk, is_committed: false });
        Some(())
    }

    /// What the gate does without being asked, and what is looked at after every step.
    fn settle_down(&mut self, setup: &Setup) {
        if let Some(gate) = &mut self.gate {
            let can_queue = setup.settles_out_of_order() || gate.storing.is_none();
            if gate.fence.is_settled() && !gate.knows_settled && gate.settling.is_none() && can_queue {
                gate.settling = gate.fence.mark().map(|mark| (gate.era, mark.clone()));
            }
            gate.fold(&mut self.flights);
            self.wrong.mark_fell |= gate.term() < self.told;
            self.told = self.told.max(gate.term());
            self.wrong.bad_quarantine |= !setup.breaks && gate.fence.blocked(NOW) != Blocked::No;
        }
        self.wrong.mark_fell |= term(self.disk.era, self.disk.mark.as_ref()) < self.told;
        self.flights.retain(|flight| flight.phase != Phase::Late(0));
        self.flights.sort();
    }

    /// One step. The answer, where it was a request.
    fn step(&mut self, setup: &Setup, step: Step) -> Option<Option<Asked>> {
        let mut answer = None;
        match step {
            Step::Ask(token, holder, purpose) => answer = self.ask(setup, token, holder, purpose),
            Step::Commit => {
                let storing = self.gate.as_mut()?.storing.as_mut()?;
                storing.is_committed = true;
                self.disk = storing.disk.clone();
            }
            Step::Fail(takes_effect) => self.fail(setup, takes_effect)?,
            Step::Stored => self.stored(setup)?,
            Step::StoreSettled => self.store_settled(setup)?,
            Step::Record(at) => {
                self.dirty = true;
                self.flights[at].phase = Phase::Recorded;
            }
            Step::Forward(at) => self.flights[at].phase = Phase::Open,
            Step::Apply(at) => self.apply(at),
            Step::Answer(at) => self.end(setup, at, Outcome::Known),
            Step::Break(at) => self.end(setup, at, Outcome::Unknown),
            Step::Lost(at) => drop(self.flights.remove(at)),
            Step::RecordDirt => self.dirty = true,
            Step::ClearDirt => {
                self.gate.as_mut()?.seen_idle = false;
                self.dirty = false;
            }
            Step::Look => {
                if setup.fault == Fault::SettledBeforeDoor {
                    let gate = self.gate.as_mut()?;
                    gate.seen_idle = gate.fence.in_flight() == 0 && gate.fence.blocked(NOW) == Blocked::No;
                }
                self.gate.as_mut()?.fence.tick(NOW);
            }
            Step::Tick => self.tick(setup),
            Step::Kill(is_power_lost) => self.kill(setup, is_power_lost),
            Step::Start => self.start(setup),
            Step::Release => drop(self.gate.as_mut()?.fence.release(NOW)),
            Step::Reset(to) => self.reset(to)?,
        }
        self.settle_down(setup);
        Some(answer)
    }
}

impl Setup {
    fn settles_out_of_order(&self) -> bool {
        matches!(self.fault, Fault::SettlesOutOfOrder | Fault::SettlesAnyMark)
    }

    /// How long the upstream may apply a write after the gate is done with it.
    fn time_left(&self) -> u64 {
        if self.applies_late || self.policy.on_unknown == OnUnknown::Hold { EVER } else { self.policy.settle_ms }
    }

    /// How long a mark may have to wait for the older ones.
    fn longest_wait(&self) -> u64 {
        self.policy.drain_ms + self.policy.settle_ms
    }

    /// The world before anything happened.
    fn first(&self) -> World {
        let disk = Disk { era: 0, mark: None, is_settled: false };
        let mut world = World {
            gate: None,
            disk,
            dirty: false,
            flights: Vec::new(),
            waiting: [None; 3],
            resets_left: self.resets,
            age: 0,
            applied: (0, 0),
            told: (0, 0),
            bound: [0; 3],
            wrong: Wrong::default(),
        };
        world.start(self);
        world.settle_down(self);
        world
    }
}
