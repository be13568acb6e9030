//! Every rule of the drained fence, one by one. `plain.rs` holds random runs, `model.rs` and `proofs.rs` all short ones.

use super::*;

const POLICY: Policy = Policy { drain_ms: 50, settle_ms: 300, on_unknown: OnUnknown::Wait, enforce: true };
const HOLD: Policy = Policy { on_unknown: OnUnknown::Hold, ..POLICY };
const PROCEED: Policy = Policy { on_unknown: OnUnknown::Proceed, ..POLICY };
const OFF: Policy = Policy { enforce: false, ..POLICY };

fn mark(token: u64, holder: &str) -> Mark {
    Mark { token: Token::new(token).expect("a token"), holder: named(holder) }
}

/// The holder of this name; none for the empty one.
fn named(holder: &str) -> Option<Holder> {
    (!holder.is_empty()).then(|| holder.parse().expect("a holder"))
}

/// A fence with its policy and the time.
struct Run {
    fence: DrainedFence,
    policy: Policy,
    now: Moment,
}

impl Run {
    /// A fence that nobody has claimed.
    fn new(policy: Policy) -> Run {
        Run::restored(None, false, false, policy)
    }

    /// A fence whose mark is 5, with nothing in flight.
    fn at_five(policy: Policy) -> Run {
        Run::restored(Some(mark(5, "")), true, false, policy)
    }

    fn restored(mark: Option<Mark>, is_settled: bool, was_dirty: bool, policy: Policy) -> Run {
        let now = Moment(1000);
        Run { fence: DrainedFence::restored(mark, is_settled, was_dirty, now, &policy), policy, now }
    }

    fn pass_time(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
    }

    fn ask_as(&mut self, token: u64, holder: &str, purpose: Purpose) -> Asked {
        let name = "f".parse().expect("a name");
        let token = Token::new(token).expect("a token");
        self.fence.ask(&name, token, named(holder).as_ref(), purpose, self.now, &self.policy)
    }

    fn ask(&mut self, token: u64) -> Asked {
        self.ask_as(token, "", Purpose::Write)
    }

    fn claim(&mut self, token: u64) -> Asked {
        self.ask_as(token, "", Purpose::Read)
    }

    /// A write that has to go.
    fn go(&mut self, token: u64) -> Pass {
        match self.ask(token) {
            Asked::Go(Some(pass)) => pass,
            other => panic!("token {token} has to go: {other:?}"),
        }
    }

    /// A claim that has to be stored.
    fn begin(&mut self, token: u64, holder: &str) -> Store {
        match self.ask_as(token, holder, Purpose::Read) {
            Asked::Store(store) => store,
            other => panic!("token {token} has to be stored: {other:?}"),
        }
    }

    fn stored(&mut self) {
        assert_eq!(self.fence.stored(self.now, &self.policy), Woken::Everybody);
    }

    /// A claim that has to be stored, and is.
    fn advance(&mut self, token: u64) -> Store {
        let store = self.begin(token, "");
        self.stored();
        store
    }

    fn finish(&mut self, pass: Pass, outcome: Outcome) -> Woken {
        self.fence.finish(pass, outcome, self.now, &self.policy)
    }

    fn blocked(&self) -> Blocked {
        self.fence.blocked(self.now)
    }
}

fn refused(asked: &Asked) -> Verdict {
    match asked {
        Asked::Refused(refusal) => refusal.verdict,
        other => panic!("it has to be refused: {other:?}"),
    }
}

#[test]
fn the_first_token_is_stored_and_then_goes() {
    let mut run = Run::new(POLICY);
    let store = run.advance(5);
    assert_eq!(store, Store { before: None, after: Some(mark(5, "")), is_settled: true });
    assert!(store.advances());
    assert_eq!(run.fence.mark(), Some(&mark(5, "")));
    let pass = run.go(5);
    assert_eq!((run.fence.in_flight(), run.fence.is_dirty()), (1, true));
    assert_eq!(run.fence.ends_at(&pass), None);
    assert_eq!(run.finish(pass, Outcome::Known), Woken::Nobody);
    assert_eq!((run.fence.in_flight(), run.fence.is_dirty()), (0, false));
}

#[test]
fn a_read_goes_without_a_pass_and_is_never_waited_for() {
    let mut run = Run::at_five(POLICY);
    assert_eq!(run.claim(5), Asked::Go(None));
    assert_eq!(run.fence.in_flight(), 0);
    assert!(run.advance(6).is_settled);
    assert_eq!(run.claim(6), Asked::Go(None));
}

#[test]
fn a_lower_token_is_refused_with_the_mark_at_any_time() {
    let mut run = Run::at_five(POLICY);
    for _ in 0..2 {
        let Asked::Refused(refusal) = run.ask_as(4, "late", Purpose::Write) else { panic!("it has to be refused") };
        assert_eq!((refusal.verdict, refusal.presented.get(), &refusal.highest), (Verdict::Stale, 4, &mark(5, "")));
        assert_eq!((refusal.holder, refusal.fence.as_str()), (named("late"), "f"));
        // The same while a store is under way.
        let _ = run.ask(6);
    }
}

#[test]
fn the_first_holder_named_is_bound_without_a_new_term() {
    let mut run = Run::at_five(POLICY);
    let unnamed = run.go(5);
    let store = run.begin(5, "a");
    assert_eq!(store, Store { before: Some(mark(5, "")), after: Some(mark(5, "a")), is_settled: true });
    assert!(!store.advances());
    // Until it is durable, nobody else is bound or let in.
    assert_eq!(run.ask_as(5, "b", Purpose::Write), Asked::Wait(None));
    assert_eq!(run.ask(5), Asked::Wait(None));
    run.stored();
    assert_eq!(refused(&run.ask_as(5, "b", Purpose::Write)), Verdict::Conflict);
    assert_eq!(run.fence.ends_at(&unnamed), None, "binding shuts nobody out");
    assert!(matches!(run.ask_as(5, "a", Purpose::Write), Asked::Go(Some(_))));
    assert!(matches!(run.ask(5), Asked::Go(Some(_))), "who names no holder is let in");
    assert!(run.fence.is_settled());
}

#[test]
fn binding_during_a_drain_does_not_complete_the_advance() {
    let mut run = Run::at_five(POLICY);
    let old = run.go(5);
    run.advance(6);
    assert!(!run.begin(6, "a").is_settled);
    run.stored();
    assert_eq!(run.ask_as(6, "a", Purpose::Write), Asked::Wait(Some(run.now.after_ms(50))));
    assert_eq!(run.finish(old, Outcome::Known), Woken::Everybody);
    assert!(matches!(run.ask_as(6, "a", Purpose::Write), Asked::Go(Some(_))));
}

#[test]
fn a_drain_that_ends_while_a_holder_is_bound_completes_the_advance() {
    let mut run = Run::at_five(POLICY);
    let old = run.go(5);
    run.advance(6);
    assert!(!run.begin(6, "a").is_settled, "as it is when the door closes");
    assert_eq!(run.finish(old, Outcome::Known), Woken::Everybody);
    run.stored();
    assert!(run.fence.is_settled());
}

#[test]
fn the_door_is_closed_while_a_mark_is_stored() {
    let mut run = Run::at_five(POLICY);
    let old = run.go(5);
    assert!(!run.begin(6, "a").is_settled);
    assert_eq!(run.ask(5), Asked::Wait(None), "the mark's own");
    assert_eq!(run.claim(5), Asked::Wait(None));
    assert_eq!(run.ask_as(6, "b", Purpose::Write), Asked::Wait(None), "the same token");
    assert_eq!(run.ask(7), Asked::Wait(None), "one higher still");
    assert_eq!(run.fence.reset(None, run.now), None, "and the operator");
    assert_eq!(run.fence.mark(), Some(&mark(5, "")), "not durable yet");
    assert_eq!(run.fence.ends_at(&old), None, "nothing has advanced yet");
    run.stored();
    assert_eq!(refused(&run.ask(5)), Verdict::Stale);
    assert_eq!(refused(&run.ask_as(6, "b", Purpose::Write)), Verdict::Conflict);
    assert_eq!(run.fence.ends_at(&old), Some(run.now.after_ms(50)));
}

#[test]
fn a_store_that_failed_changes_nothing() {
    let mut run = Run::at_five(POLICY);
    let before = run.fence.clone();
    run.begin(6, "");
    assert_eq!(run.fence.not_stored(), Woken::Everybody);
    assert_eq!(run.fence, before);
    let pass = run.go(5);
    assert_eq!(run.fence.ends_at(&pass), None);
    assert_eq!(run.finish(pass, Outcome::Known), Woken::Nobody);
    assert!(run.advance(6).is_settled);
}

#[test]
fn being_told_of_a_store_that_nobody_began_changes_nothing() {
    let mut run = Run::at_five(POLICY);
    let before = run.fence.clone();
    assert_eq!(run.fence.stored(run.now, &run.policy), Woken::Nobody);
    assert_eq!(run.fence, before);
}

#[test]
fn the_newer_waits_until_the_last_older_has_finished() {
    let mut run = Run::at_five(POLICY);
    let (one, two) = (run.go(5), run.go(5));
    assert!(!run.advance(6).is_settled);
    let deadline = run.now.after_ms(50);
    assert_eq!(run.ask(6), Asked::Wait(Some(deadline)));
    assert_eq!(run.claim(6), Asked::Wait(Some(deadline)), "a new leader reads when it can rely on what it reads");
    assert_eq!(run.finish(one, Outcome::Known), Woken::Nobody);
    assert_eq!(run.ask(6), Asked::Wait(Some(deadline)));
    assert!(!run.fence.is_settled());
    assert_eq!(run.finish(two, Outcome::Known), Woken::Everybody);
    assert!(run.fence.is_settled());
    let _ = run.go(6);
}

#[test]
fn after_the_deadline_the_newer_waits_for_those_that_cut_themselves_off() {
    let mut run = Run::at_five(POLICY);
    let old = run.go(5);
    run.advance(6);
    run.pass_time(50);
    assert_eq!(run.fence.ends_at(&old), Some(run.now));
    assert_eq!(run.ask(6), Asked::Wait(None));
    assert_eq!(run.finish(old, Outcome::Unknown), Woken::Everybody);
    let until = run.now.after_ms(300);
    assert_eq!(run.ask(6), Asked::Quarantined(Some(until)));
    assert_eq!(run.blocked(), Blocked::Until(until));
}

#[test]
fn a_second_advance_does_not_lengthen_the_drain() {
    let mut run = Run::at_five(POLICY);
    let old = run.go(5);
    run.advance(6);
    let deadline = run.now.after_ms(50);
    run.pass_time(40);
    assert!(!run.advance(7).is_settled);
    assert_eq!(run.fence.ends_at(&old), Some(deadline));
    assert_eq!(refused(&run.ask(6)), Verdict::Stale);
    assert_eq!(run.ask(7), Asked::Wait(Some(deadline)));
    assert_eq!(run.finish(old, Outcome::Known), Woken::Everybody);
    // With the next, the time starts over.
    let seven = run.go(7);
    run.advance(8);
    assert_eq!(run.fence.ends_at(&seven), Some(run.now.after_ms(50)));
}

#[test]
fn a_reset_does_not_lengthen_the_drain_either() {
    let mut run = Run::at_five(POLICY);
    let old = run.go(5);
    run.advance(6);
    let deadline = run.now.after_ms(50);
    run.pass_time(40);
    assert!(run.fence.reset(Some(mark(2, "")), run.now).is_some());
    run.stored();
    assert_eq!((run.fence.ends_at(&old), run.ask(2)), (Some(deadline), Asked::Wait(Some(deadline))));
}

#[test]
fn a_settled_holder_goes_on_through_its_own_quarantine_and_the_next_waits() {
    let mut run = Run::at_five(POLICY);
    let (lost, other) = (run.go(5), run.go(5));
    assert_eq!(run.finish(lost, Outcome::Unknown), Woken::Nobody);
    let until = run.now.after_ms(300);
    assert!(run.fence.is_dirty());
    assert_eq!(run.finish(other, Outcome::Known), Woken::Nobody);
    let more = run.go(5);
    assert_eq!(run.finish(more, Outcome::Known), Woken::Nobody);
    assert!(!run.advance(6).is_settled, "nothing is in flight, but a quarantine is on");
    assert_eq!((run.ask(6), run.claim(6)), (Asked::Quarantined(Some(until)), Asked::Quarantined(Some(until))));
    run.pass_time(299);
    assert_eq!(run.ask(6), Asked::Quarantined(Some(until)));
    assert!(!run.fence.tick(run.now));
    run.pass_time(1);
    assert_eq!(run.blocked(), Blocked::No);
    assert!(run.fence.is_dirty(), "until somebody looks");
    assert!(run.fence.tick(run.now));
    assert!(!run.fence.tick(run.now), "only once");
    assert_eq!((run.fence.is_dirty(), run.fence.is_settled()), (false, true));
    let _ = run.go(6);
}

#[test]
fn a_later_unknown_outcome_lengthens_the_quarantine_and_an_earlier_end_never_shortens_it() {
    let mut run = Run::at_five(POLICY);
    let (one, two) = (run.go(5), run.go(5));
    let _ = run.finish(one, Outcome::Unknown);
    run.pass_time(100);
    let _ = run.finish(two, Outcome::Unknown);
    assert_eq!(run.blocked(), Blocked::Until(run.now.after_ms(300)));
}

#[test]
fn a_quarantine_that_runs_out_during_the_drain_completes_nothing() {
    let mut run = Run::at_five(Policy { drain_ms: 500, ..POLICY });
    let (lost, slow) = (run.go(5), run.go(5));
    run.advance(6);
    let _ = run.finish(lost, Outcome::Unknown);
    assert_eq!(run.ask(6), Asked::Quarantined(Some(run.now.after_ms(300))));
    run.pass_time(300);
    assert!(run.fence.tick(run.now));
    assert_eq!(run.ask(6), Asked::Wait(Some(Moment(1500))));
    assert_eq!(run.finish(slow, Outcome::Known), Woken::Everybody);
    let _ = run.go(6);
}

#[test]
fn hold_waits_for_the_operator_however_long() {
    let mut run = Run::at_five(HOLD);
    let lost = run.go(5);
    let _ = run.finish(lost, Outcome::Unknown);
    let _ = run.go(5);
    run.advance(6);
    run.pass_time(1_000_000);
    assert!(!run.fence.tick(run.now));
    assert_eq!((run.ask(6), run.blocked()), (Asked::Quarantined(None), Blocked::Held));
    assert!(run.fence.release(run.now));
    assert!(!run.fence.release(run.now), "there is none any more");
    assert_eq!(run.ask(6), Asked::Wait(None), "one older is still in flight");
}

#[test]
fn a_hold_stays_one_when_the_policy_becomes_wait() {
    let mut run = Run::at_five(HOLD);
    let (one, two) = (run.go(5), run.go(5));
    let _ = run.finish(one, Outcome::Unknown);
    run.policy = POLICY;
    let _ = run.finish(two, Outcome::Unknown);
    assert_eq!(run.blocked(), Blocked::Held);
}

#[test]
fn a_wait_becomes_a_hold_when_the_policy_does() {
    let mut run = Run::at_five(POLICY);
    let (one, two) = (run.go(5), run.go(5));
    let _ = run.finish(one, Outcome::Unknown);
    run.policy = HOLD;
    let _ = run.finish(two, Outcome::Unknown);
    assert_eq!(run.blocked(), Blocked::Held);
}

#[test]
fn proceed_waits_for_the_drain_but_not_for_the_unknown() {
    let mut run = Run::at_five(PROCEED);
    let old = run.go(5);
    run.advance(6);
    assert_eq!(run.ask(6), Asked::Wait(Some(run.now.after_ms(50))));
    run.pass_time(50);
    assert_eq!(run.finish(old, Outcome::Unknown), Woken::Everybody);
    assert_eq!((run.blocked(), run.fence.is_dirty()), (Blocked::No, false));
    let _ = run.go(6);
}

#[test]
fn a_release_lets_the_newer_go() {
    let mut run = Run::at_five(POLICY);
    let lost = run.go(5);
    let _ = run.finish(lost, Outcome::Unknown);
    run.advance(6);
    assert!(matches!(run.ask(6), Asked::Quarantined(Some(_))));
    assert!(run.fence.release(run.now));
    assert_eq!((run.fence.is_settled(), run.fence.is_dirty()), (true, false));
    let _ = run.go(6);
}

#[test]
fn a_release_without_a_quarantine_says_so() {
    let mut run = Run::at_five(POLICY);
    assert!(!run.fence.release(run.now));
    let lost = run.go(5);
    let _ = run.finish(lost, Outcome::Unknown);
    run.pass_time(300);
    assert!(!run.fence.release(run.now), "it has run out by itself");
    assert!(!run.fence.is_dirty());
}

#[test]
fn a_reset_may_lower_the_mark_and_drains_like_an_advance() {
    let mut run = Run::at_five(POLICY);
    let old = run.go(5);
    let store = run.fence.reset(Some(mark(2, "b")), run.now).expect("nothing is being stored");
    assert_eq!(store, Store { before: Some(mark(5, "")), after: Some(mark(2, "b")), is_settled: false });
    assert!(!store.advances());
    assert_eq!(run.ask(5), Asked::Wait(None));
    run.stored();
    let deadline = run.now.after_ms(50);
    assert_eq!((run.fence.ends_at(&old), run.ask(2)), (Some(deadline), Asked::Wait(Some(deadline))));
    assert_eq!(run.finish(old, Outcome::Known), Woken::Everybody);
    let _ = run.go(2);
}

#[test]
fn a_reset_to_nothing_lets_any_token_be_the_first() {
    let mut run = Run::at_five(POLICY);
    let store = run.fence.reset(None, run.now).expect("nothing is being stored");
    assert_eq!(store, Store { before: Some(mark(5, "")), after: None, is_settled: true });
    assert!(!store.advances());
    run.stored();
    assert_eq!(run.fence.mark(), None);
    assert!(run.advance(1).is_settled);
    let _ = run.go(1);
}

#[test]
fn a_reset_ends_no_quarantine() {
    let mut run = Run::at_five(POLICY);
    let lost = run.go(5);
    let _ = run.finish(lost, Outcome::Unknown);
    let until = run.now.after_ms(300);
    assert!(!run.fence.reset(Some(mark(5, "")), run.now).expect("nothing is being stored").is_settled);
    run.stored();
    assert_eq!(run.ask(5), Asked::Quarantined(Some(until)));
}

#[test]
fn restored_clean_it_goes_on_whatever_was_settled() {
    for is_settled in [false, true] {
        let mut run = Run::restored(Some(mark(5, "")), is_settled, false, HOLD);
        assert_eq!((run.fence.is_settled(), run.blocked()), (true, Blocked::No));
        let _ = run.go(5);
    }
}

#[test]
fn restored_dirty_only_a_settled_mark_goes_on() {
    for policy in [POLICY, HOLD] {
        let until = (policy.on_unknown == OnUnknown::Wait).then_some(Moment(1300));
        let mut settled = Run::restored(Some(mark(5, "")), true, true, policy);
        assert!(settled.fence.is_dirty());
        let _ = settled.go(5);
        settled.advance(6);
        let mut unsettled = Run::restored(Some(mark(5, "")), false, true, policy);
        assert_eq!(unsettled.ask(5), Asked::Quarantined(until));
        unsettled.advance(6);
        assert_eq!(unsettled.ask(6), Asked::Quarantined(until));
    }
    let mut proceed = Run::restored(Some(mark(5, "")), false, true, PROCEED);
    let _ = proceed.go(5);
}

#[test]
fn unenforced_everything_goes_and_the_mark_still_rises() {
    let mut run = Run::at_five(OFF);
    let own = run.go(5);
    run.advance(6);
    let _ = run.go(6);
    let stale = run.go(4);
    assert_eq!(run.fence.ends_at(&own), Some(run.now.after_ms(50)));
    let _ = run.finish(own, Outcome::Unknown);
    let _ = run.finish(stale, Outcome::Known);
    run.begin(6, "a");
    assert!(matches!(run.ask_as(5, "z", Purpose::Write), Asked::Go(Some(_))), "the door is open too");
    run.stored();
    assert!(matches!(run.ask_as(6, "b", Purpose::Write), Asked::Go(Some(_))), "no conflict");
    assert_eq!(run.fence.in_flight(), 3);
}

#[test]
fn times_at_the_end_of_the_clock_do_not_wrap() {
    let mut run = Run::at_five(Policy { drain_ms: u64::MAX, settle_ms: u64::MAX, ..POLICY });
    let old = run.go(5);
    run.advance(6);
    assert_eq!(run.fence.ends_at(&old), Some(Moment(u64::MAX)));
    let _ = run.finish(old, Outcome::Unknown);
    assert_eq!(run.ask(6), Asked::Quarantined(Some(Moment(u64::MAX))));
}
