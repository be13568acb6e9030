//! The checker, held against histories that are right and histories that are wrong.

use std::collections::HashSet;

use super::checker::{Applied, Fence, History, Issued, Op, Rule, Term, Told, Verdict, What, judge};
use super::linear::{Register, is_linearizable};
use super::mutations::BREAKS;
use super::perfect::Perfect;
use crate::dice::{Dice, seed};

fn rules(history: &History) -> Vec<Rule> {
    let mut rules: Vec<Rule> = judge(history).into_iter().map(|violation| violation.rule).collect();
    rules.sort_unstable();
    rules.dedup();
    rules
}

/// An operation on the only fence, answered as it is when all is well.
fn op(id: u64, what: What, token: u64, verdict: Verdict, highest: u64) -> Op {
    let told = match verdict {
        Verdict::Stale | Verdict::Conflict => Told::Refused,
        _ => Told::Done,
    };
    let (invoked, completed) = (10 * id, 10 * id + 5);
    Op { id, fence: 0, token, holder: 0, what, invoked, completed, told, verdict, highest, seen: 0, pair: None }
}

fn row(id: u64, token: u64, at: u64) -> Applied {
    Applied { id, token, at }
}

/// Leader 5 writes, leader 6 replaces it, 5 is refused, 6 writes twice and reads.
fn good() -> History {
    let write = What::Write(1);
    let mut ops = vec![
        op(1, write, 5, Verdict::Advanced, 5),
        op(2, write, 5, Verdict::Admitted, 5),
        op(3, What::Claim, 6, Verdict::Advanced, 6),
        op(4, write, 5, Verdict::Stale, 6),
        op(5, What::Write(2), 6, Verdict::Admitted, 6),
        Op { seen: 4, ..op(6, What::Read, 6, Verdict::Admitted, 6) },
        op(7, What::Look, 0, Verdict::None, 6),
        Op { told: Told::Unknown, ..op(8, What::Write(2), 6, Verdict::None, 0) },
    ];
    ops[0].holder = 1;
    ops[1].holder = 1;
    let fence = Fence {
        name: "one".into(),
        applied: vec![row(1, 5, 1), row(2, 5, 2), row(5, 6, 3), row(5, 6, 4)],
        issued: Some(vec![Issued { token: 5, at: 1 }, Issued { token: 6, at: 25 }]),
        terms: vec![Term { token: 5, told: 2, until: 20 }, Term { token: 6, told: 25, until: 99 }],
    };
    History { fences: vec![fence], ops }
}

/// Changes one operation of [`good`].
fn with(id: u64, change: impl Fn(&mut Op)) -> History {
    let mut history = good();
    change(history.ops.iter_mut().find(|op| op.id == id).expect("it is there"));
    history
}

/// Changes what there is.
fn there(change: impl Fn(&mut Fence)) -> History {
    let mut history = good();
    change(&mut history.fences[0]);
    history
}

#[test]
fn a_good_history_passes() {
    assert_eq!(judge(&good()), []);
    // What is unknown may be there, whole, also after it; and a mark of that.
    assert_eq!(rules(&there(|fence| fence.applied.extend([row(8, 6, 5), row(8, 6, 6)]))), []);
}

#[test]
fn each_rule_is_broken_once() {
    let stale = |op: &mut Op| (op.told, op.verdict, op.highest) = (Told::Done, Verdict::Admitted, 5);
    for (expected, history) in [
        (Rule::Fell, there(|fence| fence.applied = vec![row(1, 5, 1), row(5, 6, 2), row(5, 6, 3), row(2, 5, 4)])),
        (Rule::Lost, there(|fence| fence.applied.retain(|row| row.id != 2))),
        (Rule::Lost, there(|fence| fence.applied.truncate(3))),
        (Rule::Twice, there(|fence| fence.applied.insert(1, row(1, 5, 1)))),
        (Rule::Refused, there(|fence| fence.applied.insert(2, row(4, 5, 2)))),
        (Rule::Torn, there(|fence| fence.applied.push(row(8, 6, 5)))),
        (Rule::Astray, there(|fence| fence.applied.push(row(99, 6, 5)))),
        (Rule::Astray, there(|fence| fence.applied[3].token = 7)),
        (Rule::Astray, there(|fence| fence.applied.push(row(3, 6, 5)))),
        (Rule::MarkFell, with(7, |op| op.highest = 5)),
        (Rule::MarkFell, with(5, |op| op.highest = 5)),
        (Rule::Stale, with(4, stale)),
        (Rule::Stale, {
            let mut history = with(4, |op| op.told = Told::Unknown);
            history.fences[0].applied.push(row(4, 5, 5));
            history
        }),
        (Rule::Holders, with(2, |op| op.holder = 2)),
        (Rule::Unissued, there(|fence| fence.issued = Some(vec![Issued { token: 6, at: 0 }]))),
        (Rule::Unissued, there(|fence| fence.issued.as_mut().expect("it is there")[1].at = 36)),
        (Rule::Read, with(6, |op| op.seen = 2)),
        (Rule::Read, with(6, |op| (op.invoked, op.completed) = (21, 24))),
        (Rule::Answer, with(5, |op| op.verdict = Verdict::Stale)),
        (Rule::Answer, with(4, |op| op.highest = 5)),
        (Rule::Twofold, with(5, |op| op.verdict = Verdict::Advanced)),
        (Rule::Led, there(|fence| fence.terms[0].until = 26)),
    ] {
        assert!(rules(&history).contains(&expected), "{expected:?}: {:?}", judge(&history));
    }
}

#[test]
fn of_one_write_on_two_fences_both_halves_are_there() {
    let mut history = good();
    history.fences.push(Fence { name: "two".into(), ..Fence::default() });
    let half = Op { pair: Some(10), ..op(9, What::Write(1), 6, Verdict::Admitted, 6) };
    history.ops.extend([half, Op { id: 10, fence: 1, pair: Some(9), ..half }]);
    history.fences[0].applied.push(row(9, 6, 5));
    history.fences[1].applied.push(row(10, 6, 1));
    assert_eq!(judge(&history), []);
    history.fences[1].applied.clear();
    history.ops.iter_mut().filter(|op| op.pair.is_some()).for_each(|op| op.told = Told::Unknown);
    assert_eq!(rules(&history), [Rule::Torn]);
}

#[test]
fn a_reset_excuses_what_it_may_and_no_more() {
    // The mark goes back to 4, and 5 writes once more.
    let mut history = good();
    history.ops.push(Op { told: Told::Done, ..op(9, What::Reset, 4, Verdict::None, 4) });
    history.ops.push(op(10, What::Write(1), 5, Verdict::Advanced, 5));
    history.fences[0].applied.push(row(10, 5, 5));
    assert_eq!(judge(&history), []);
    let at = |id: u64, at: u64| {
        let mut other = history.clone();
        let op = other.ops.iter_mut().find(|op| op.id == id).expect("it is there");
        (op.invoked, op.completed) = (at, at + 5);
        other
    };
    // A reset that came only after it, or was refused, or was to a higher mark, excuses nothing.
    assert!(rules(&at(9, 200)).contains(&Rule::Fell));
    let mut refused = history.clone();
    refused.ops[8].told = Told::Refused;
    assert!(rules(&refused).contains(&Rule::Fell));
    let mut higher = history.clone();
    (higher.ops[8].token, higher.ops[8].highest) = (6, 6);
    assert!(rules(&higher).contains(&Rule::Fell) && rules(&higher).contains(&Rule::Stale));
    // One of which nobody knows whether it was done excuses as well.
    let mut unknown = history.clone();
    (unknown.ops[8].told, unknown.ops[8].highest) = (Told::Unknown, 0);
    assert_eq!(rules(&unknown), []);
}

#[test]
fn random_good_histories_pass_and_every_seeded_violation_is_found() {
    let seed = seed("FENCEGATE_SOAK_SEED");
    let mut dice = Dice::new(seed);
    let mut found = [0; BREAKS.len()];
    for number in 0..120 {
        let history = Perfect::run(dice.roll(u64::MAX), 6, 300, number % 3 == 0);
        assert_eq!(judge(&history), [], "seed {seed}, history {number}");
        for (count, (rule, what, break_it)) in found.iter_mut().zip(BREAKS) {
            let mut wrong = history.clone();
            if break_it(&mut wrong, &mut dice).is_some() {
                assert!(rules(&wrong).contains(&rule), "seed {seed}, history {number}: {what}: not found");
                *count += 1;
            }
        }
    }
    for (count, (_, what, _)) in found.iter().zip(BREAKS) {
        assert!(*count > 30, "{what}: tried only {count} times");
    }
}

/// Changes anything about any operation.
fn perturb(history: &mut History, dice: &mut Dice) {
    let at = dice.index(history.ops.len());
    let by = dice.roll(3) + 1;
    let up = dice.roll(2) == 0;
    let moved = |number: u64| if up { number + by } else { number.saturating_sub(by) };
    let op = &mut history.ops[at];
    if op.told == Told::Unknown {
        return;
    }
    match dice.roll(5) {
        0 if op.highest > 0 => op.highest = moved(op.highest).max(1),
        1 if op.what == What::Read => op.seen = moved(op.seen),
        2 if op.holder > 0 => op.holder = u32::try_from(1 + dice.roll(5)).expect("small"),
        3 if op.told == Told::Refused => {
            (op.told, op.verdict) = (Told::Done, Verdict::Admitted);
        }
        4 => op.completed = op.invoked.max(op.completed.saturating_sub(10 * by)),
        _ => {}
    }
}

#[test]
fn the_checker_blames_nobody_whom_an_exhaustive_search_acquits() {
    let seed = seed("FENCEGATE_SOAK_SEED");
    let mut dice = Dice::new(seed);
    let (mut guilty, mut blamed) = (0, 0);
    for number in 0..1500 {
        let mut history = Perfect::run(dice.roll(u64::MAX), 3, 8, number % 4 == 0);
        assert!(is_linearizable(&history, Register::default()), "seed {seed}, history {number}: {history:#?}");
        perturb(&mut history, &mut dice);
        let is_guilty = !is_linearizable(&history, Register::default());
        let found = judge(&history);
        // Who issued what is no matter of order.
        let is_blamed = found.iter().any(|violation| violation.rule != Rule::Unissued);
        assert!(is_guilty || !is_blamed, "seed {seed}, history {number}: {found:?}\n{history:#?}");
        guilty += u32::from(is_guilty);
        blamed += u32::from(is_guilty && is_blamed);
    }
    assert!(guilty > 150, "seed {seed}: hardly any of them was wrong: {guilty}");
    assert!(blamed * 10 > guilty * 7, "seed {seed}: of {guilty} wrong histories the checker found {blamed}");
}

/// The beginning of one fence's history: so many operations.
fn slice(history: &History, fence: usize, ops_max: usize) -> History {
    let mut ops: Vec<Op> = history.ops.iter().filter(|op| usize::from(op.fence) == fence).copied().collect();
    ops.sort_unstable_by_key(|op| op.invoked);
    ops.truncate(ops_max);
    let ids: HashSet<u64> = ops.iter().map(|op| op.id).collect();
    // Of the others there is nothing to say.
    let mut fences: Vec<Fence> =
        history.fences.iter().map(|fence| Fence { name: fence.name.clone(), ..Fence::default() }).collect();
    fences[fence] = history.fences[fence].clone();
    fences[fence].applied.retain(|applied| ids.contains(&applied.id));
    History { fences, ops }
}

/// Breaks a history that was recorded, and was right, in every way that there is.
pub fn every_violation_is_found_in(history: &History, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut found = [0; BREAKS.len()];
    for fence in 0..history.fences.len() {
        let part = slice(history, fence, 2000);
        assert_eq!(judge(&part), [], "seed {seed}");
        for (count, (rule, what, break_it)) in found.iter_mut().zip(BREAKS) {
            let mut wrong = part.clone();
            if break_it(&mut wrong, &mut dice).is_some() {
                let name = &history.fences[fence].name;
                assert!(rules(&wrong).contains(&rule), "seed {seed}, fence {name}: {what}: not found");
                *count += 1;
            }
        }
    }
    for (count, (_, what, _)) in found.iter().zip(BREAKS) {
        assert!(*count > 0, "seed {seed}: {what}: found no place for it");
    }
}
