//! All runs of the model are looked at here, for what must never happen and for what must always be possible.
//!
//! `FENCEGATE_MODEL=large` takes bigger worlds, which takes minutes.

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::*;

impl World {
    /// Every step that the gate can take.
    fn gate_steps(&self, setup: &Setup, gate: &Gate, steps: &mut Vec<Step>) {
        let has_room = self.flights.len() < setup.flights;
        for token in (1..=setup.tokens).filter(|token| self.may_ask(*token)) {
            for holder in 0..=setup.holders {
                steps.push(Step::Ask(token, holder, Purpose::Read));
                if has_room {
                    steps.push(Step::Ask(token, holder, Purpose::Write));
                }
            }
        }
        match &gate.storing {
            Some(Storing { is_committed: true, .. }) => steps.push(Step::Stored),
            Some(_) => {
                if setup.settles_out_of_order() || gate.settling.is_none() {
                    steps.push(Step::Commit);
                }
                steps.extend(setup.stores_fail.then_some(Step::Fail(false)));
                steps.extend((setup.fault == Fault::CommitsButSaysNot).then_some(Step::Fail(true)));
            }
            None if self.resets_left > 0 => steps.extend((0..=setup.tokens).map(Step::Reset)),
            None => {}
        }
        steps.extend(gate.settling.is_some().then_some(Step::StoreSettled));
        if self.dirty && if setup.fault == Fault::ClearsWithoutLock { gate.seen_idle } else { !gate.fence.is_dirty() } {
            steps.push(Step::ClearDirt);
        }
        if setup.fault == Fault::RecordsAfterForward && gate.fence.is_dirty() && !self.dirty {
            steps.push(Step::RecordDirt);
        }
        // Looking changes something only when a quarantine has run out.
        let has_run_out = gate.fence.quarantine_on() != Quarantine::None && gate.fence.blocked(NOW) == Blocked::No;
        if has_run_out || setup.fault == Fault::SettledBeforeDoor {
            steps.push(Step::Look);
        }
        // An operator releases a fence when the upstream was looked at.
        let is_quiet = self.flights.iter().all(|flight| !matches!(flight.phase, Phase::Late(_)));
        if setup.policy.on_unknown == OnUnknown::Hold && gate.fence.blocked(NOW) == Blocked::Held && is_quiet {
            steps.push(Step::Release);
        }
        if setup.kills {
            steps.extend([Step::Kill(false), Step::Kill(true)]);
        }
    }

    /// Whether a write in flight has used up its time.
    fn is_overdue(&self, flight: &Flight) -> bool {
        let Some(gate) = &self.gate else { return false };
        let is_ours = !matches!(flight.phase, Phase::Late(_));
        is_ours && gate.fence.ends_at(&Pass { term: flight.pass }).is_some_and(|ends| ends <= NOW)
    }

    fn flight_steps(&self, setup: &Setup, steps: &mut Vec<Step>) {
        for (at, flight) in self.flights.iter().enumerate() {
            // Two that are equal do the same.
            if at > 0 && self.flights[at - 1] == *flight {
                continue;
            }
            match flight.phase {
                Phase::Granted if setup.fault == Fault::RecordsAfterForward => steps.push(Step::Forward(at)),
                // The client went away, or nothing could be sent: surely not applied.
                Phase::Granted => steps.extend([Step::Record(at), Step::Answer(at)]),
                Phase::Recorded => steps.extend([Step::Forward(at), Step::Answer(at)]),
                Phase::Open => steps.extend([Step::Apply(at), Step::Answer(at)]),
                Phase::Applied => steps.push(Step::Answer(at)),
                Phase::Late(EVER) => steps.extend([Step::Apply(at), Step::Lost(at)]),
                Phase::Late(_) => steps.push(Step::Apply(at)),
            }
            if setup.breaks && matches!(flight.phase, Phase::Open | Phase::Applied) {
                steps.push(Step::Break(at));
            }
        }
    }
}

impl Setup {
    /// Every step that can be taken.
    fn steps(&self, world: &World, steps: &mut Vec<Step>) {
        match &world.gate {
            Some(gate) => world.gate_steps(self, gate, steps),
            None => steps.push(Step::Start),
        }
        world.flight_steps(self, steps);
        let waits_for_none =
            (self.breaks && !self.is_quick) || !world.flights.iter().any(|flight| world.is_overdue(flight));
        steps.extend(waits_for_none.then_some(Step::Tick));
    }
}

impl World {
    /// Whether the newest leader gets to go, if from now on nothing is killed, nothing fails, and the upstream answers nobody: by the
    /// gate's own doing, without an operator unless the policy is to hold, and within this time.
    fn goes_on(&self, setup: &Setup, leader: u8, mut ticks: u64) -> bool {
        let mut world = self.clone();
        loop {
            let step = match world.next_calm_step(setup, leader) {
                Some(step) => step,
                None if ticks == 0 => return false,
                None => {
                    ticks -= 1;
                    Step::Tick
                }
            };
            match world.step(setup, step) {
                Some(Some(Asked::Go(_))) => return true,
                // It asks again when it was told that it may.
                Some(Some(Asked::Quarantined(until))) => {
                    world.waiting[usize::from(leader) - 1] = Some(until.map(|until| until.0 - NOW.0));
                }
                _ => {}
            }
        }
    }

    /// Whether the mark's own leader has waited for as long as anybody may have to, and still can't go.
    fn waits_too_long(&self, setup: &Setup) -> bool {
        let Some(Gate { storing: None, era, fence, .. }) = &self.gate else { return false };
        let (_, leader) = term(*era, fence.mark());
        setup.is_quick && leader > 0 && self.age == setup.longest_wait() && !self.goes_on(setup, leader, 0)
    }

    fn next_calm_step(&self, setup: &Setup, leader: u8) -> Option<Step> {
        let Some(gate) = &self.gate else { return Some(Step::Start) };
        if let Some(storing) = &gate.storing {
            let is_first = gate.settling.is_some() && !setup.settles_out_of_order();
            return Some(match storing.is_committed {
                true => Step::Stored,
                false if is_first => Step::StoreSettled,
                false => Step::Commit,
            });
        }
        let overdue = self.flights.iter().position(|flight| self.is_overdue(flight));
        if let Some(at) = overdue.filter(|_| setup.fault != Fault::NeverCuts) {
            let is_sent = matches!(self.flights[at].phase, Phase::Open | Phase::Applied);
            return Some(if is_sent { Step::Break(at) } else { Step::Answer(at) });
        }
        if setup.policy.on_unknown == OnUnknown::Hold && gate.fence.blocked(NOW) == Blocked::Held {
            return Some(match self.flights.iter().position(|flight| matches!(flight.phase, Phase::Late(_))) {
                Some(at) => Step::Lost(at),
                None => Step::Release,
            });
        }
        if self.may_ask(leader) {
            return Some(Step::Ask(leader, 0, Purpose::Read));
        }
        None
    }
}

const TERMS: &str = "terms never fall in the order in which the upstream applies";
const EARLY: &str = "nothing newer goes while something older can be applied";
const MARK: &str = "the mark never falls";
const HOLDERS: &str = "no two holders go with one token";
const QUARANTINE: &str = "a quarantine has a reason and an end";
const PROGRESS: &str = "the newest leader can always go on";
const PROMPT: &str = "nobody waits longer than drain and settle";

impl Model for Setup {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![self.first()]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        // What follows a lost order tells nothing.
        if !world.wrong.term_fell {
            self.steps(world, steps);
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        next.step(self, step)?;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Setup>> {
        vec![
            Property::always(TERMS, |_, world: &World| !world.wrong.term_fell),
            Property::always(EARLY, |_, world: &World| !world.wrong.went_early),
            Property::always(MARK, |_, world: &World| !world.wrong.mark_fell),
            Property::always(HOLDERS, |_, world: &World| !world.wrong.two_holders),
            Property::always(QUARANTINE, |_, world: &World| !world.wrong.bad_quarantine),
            Property::always(PROGRESS, |setup: &Setup, world: &World| {
                world.goes_on(setup, setup.tokens, setup.longest_wait())
            }),
            Property::always(PROMPT, |setup: &Setup, world: &World| !world.waits_too_long(setup)),
        ]
    }
}

const WAIT: Policy = Policy { drain_ms: 1, settle_ms: 2, on_unknown: OnUnknown::Wait, enforce: true };
const HOLD: Policy = Policy { on_unknown: OnUnknown::Hold, ..WAIT };
const PROCEED: Policy = Policy { on_unknown: OnUnknown::Proceed, ..WAIT };
const OFF: Policy = Policy { enforce: false, ..WAIT };

fn is_large() -> bool {
    std::env::var("FENCEGATE_MODEL").is_ok_and(|size| size == "large")
}

fn setup(policy: Policy, tokens: u8, flights: usize) -> Setup {
    Setup {
        tokens,
        holders: 0,
        flights,
        policy,
        applies_late: false,
        breaks: true,
        is_quick: false,
        kills: true,
        stores_fail: true,
        resets: 0,
        fault: Fault::None,
        name: "f".parse().expect("a name"),
    }
}

/// Looks at every run.
fn prove(what: &str, setup: Setup) {
    let begun = std::time::Instant::now();
    let checker = setup.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{what}: {states} states, depth {}, {:.1} s", checker.max_depth(), begun.elapsed().as_secs_f64());
    if let Some((property, path)) = checker.discoveries().into_iter().next() {
        let end = path.last_state().clone();
        panic!("{what}: not so: {property}\n{:?}\n{end:?}", path.into_actions());
    }
    assert!(checker.is_done());
}

/// Looks until this property is found violated.
fn refute(what: &str, property: &'static str, setup: Setup) {
    let begun = std::time::Instant::now();
    let any_of = HasDiscoveries::AnyOf([property].into());
    let checker = setup.checker().threads(2).finish_when(any_of).spawn_bfs().join();
    let (states, seconds) = (checker.unique_state_count(), begun.elapsed().as_secs_f64());
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{what}: nothing found in {states} states"));
    println!("{what}: found after {states} states, {seconds:.1} s: {:?}", path.into_actions());
}

/// How many writes can be under way at once.
fn flights() -> usize {
    if is_large() { 6 } else { 3 }
}

#[test]
fn a_fence_that_waits_keeps_the_order() {
    prove("wait", setup(WAIT, 3, flights()));
}

#[test]
fn a_fence_that_holds_keeps_the_order() {
    prove("hold", setup(HOLD, 3, flights()));
}

#[test]
fn long_drains_and_no_time_to_settle_keep_the_order() {
    for (drain_ms, settle_ms) in [(3, 1), (0, 2), (2, 0), (2, 3)] {
        let (tokens, flights) = if is_large() { (3, 5) } else { (2, 2) };
        let policy = Policy { drain_ms, settle_ms, ..WAIT };
        prove(&format!("drain {drain_ms}, settle {settle_ms}"), setup(policy, tokens, flights));
    }
}

#[test]
fn two_holders_of_one_token_are_told_apart() {
    let (tokens, flights) = if is_large() { (3, 3) } else { (2, 2) };
    prove("holders", Setup { holders: 2, ..setup(WAIT, tokens, flights) });
}

#[test]
fn a_reset_begins_a_new_line_that_keeps_the_order() {
    let (resets, flights) = if is_large() { (2, 3) } else { (1, 2) };
    prove("resets", Setup { resets, ..setup(WAIT, 2, flights) });
    prove("resets, hold", Setup { resets, ..setup(HOLD, 2, flights) });
}

#[test]
fn without_a_reset_settled_may_be_stored_in_any_order() {
    prove("settled in any order", Setup { fault: Fault::SettlesOutOfOrder, ..setup(WAIT, 3, 2) });
}

#[test]
fn where_every_answer_comes_in_time_nothing_is_quarantined() {
    for policy in [WAIT, HOLD, PROCEED] {
        prove("answers in time", Setup { breaks: false, kills: false, ..setup(policy, 3, flights()) });
    }
}

#[test]
fn no_leader_waits_longer_than_drain_and_settle() {
    for (drain_ms, settle_ms) in [(1, 2), (2, 1)] {
        let policy = Policy { drain_ms, settle_ms, ..WAIT };
        prove(
            &format!("drain {drain_ms}, settle {settle_ms}"),
            Setup { is_quick: true, ..setup(policy, 3, flights() - 1) },
        );
    }
}

#[test]
fn proceeding_loses_the_order() {
    refute("proceed", TERMS, setup(PROCEED, 2, 2));
}

#[test]
fn unenforced_the_order_is_lost() {
    refute("unenforced", TERMS, Setup { breaks: false, kills: false, ..setup(OFF, 2, 2) });
}

#[test]
fn an_upstream_that_applies_after_settle_loses_the_order() {
    refute("late upstream", TERMS, Setup { applies_late: true, ..setup(WAIT, 2, 2) });
}

#[test]
fn a_driver_with_a_fault_loses_the_order() {
    for fault in [
        Fault::RecordsAfterForward,
        Fault::SettledBeforeDoor,
        Fault::ClearsWithoutLock,
        Fault::CommitsButSaysNot,
        Fault::ForgetsAtStart,
        Fault::SettlesAnyMark,
    ] {
        refute(&format!("{fault:?}"), TERMS, Setup { fault, ..setup(WAIT, 2, 2) });
    }
}

#[test]
fn with_resets_settled_has_to_be_stored_in_order() {
    refute("settled out of order", TERMS, Setup { fault: Fault::SettlesOutOfOrder, resets: 1, ..setup(WAIT, 1, 2) });
}

#[test]
fn a_driver_that_never_cuts_off_or_never_wakes_gets_stuck() {
    for fault in [Fault::NeverCuts, Fault::NeverWakes] {
        refute(&format!("{fault:?}"), PROGRESS, Setup { fault, ..setup(WAIT, 2, 2) });
    }
}
