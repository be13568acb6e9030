//! Histories that are wrong in one place: what a gate that breaks its promise would have left behind.

use super::checker::{Applied, History, Issued, Op, Rule, Told, Verdict, What};
use crate::dice::Dice;

/// Breaks one rule somewhere; `None` where the history has no place for it that was found.
pub type Break = fn(&mut History, &mut Dice) -> Option<()>;

/// For each rule, the ways to break it.
pub const BREAKS: [(Rule, &str, Break); 19] = [
    (Rule::Fell, "two rows of two terms change places", terms_fall),
    (Rule::Lost, "what was acknowledged is gone", a_write_is_lost),
    (Rule::Lost, "half of what was acknowledged is gone", half_is_lost),
    (Rule::Twice, "a row is there twice", a_row_is_there_twice),
    (Rule::Refused, "what was refused is there", a_refused_write_is_there),
    (Rule::Torn, "of an unknown write, half is there", an_unknown_write_is_torn),
    (Rule::Astray, "a row that nobody wrote", nobody_wrote_it),
    (Rule::Astray, "a row with another's term", of_another_term),
    (Rule::MarkFell, "an answer tells of an old mark", the_mark_fell),
    (Rule::Stale, "a stale write is let in", a_stale_write_is_let_in),
    (Rule::Stale, "a write of unknown outcome comes after its successor", a_stale_write_is_applied),
    (Rule::Holders, "a second holder", a_second_holder),
    (Rule::Unissued, "a token that nobody was given", unissued),
    (Rule::Unissued, "a token before it was given", issued_later),
    (Rule::Read, "a read misses what was acknowledged", a_read_misses),
    (Rule::Read, "a read foresees", a_read_foresees),
    (Rule::Answer, "let in, and above the mark", above_the_mark),
    (Rule::Twofold, "advanced twice", advanced_twice),
    (Rule::Led, "two lead at once", two_lead),
];

const TRIES: usize = 2000;

/// A random operation of this kind.
fn find(history: &History, dice: &mut Dice, is: impl Fn(&Op) -> bool) -> Option<usize> {
    if history.ops.is_empty() {
        return None;
    }
    (0..TRIES).map(|_| dice.index(history.ops.len())).find(|index| is(&history.ops[*index]))
}

fn is_write(op: &Op) -> bool {
    matches!(op.what, What::Write(_))
}

/// Whether the fence of an operation was ever reset: then marks may fall, and most rules have an excuse.
fn is_reset(history: &History, fence: u16) -> bool {
    history.ops.iter().any(|op| op.fence == fence && op.what == What::Reset)
}

fn applied<'a>(history: &'a mut History, op: &Op) -> &'a mut Vec<Applied> {
    &mut history.fences[usize::from(op.fence)].applied
}

/// The second of two operations on one fence that has no resets, of which the first was answered before it was asked for.
fn after(
    history: &History,
    dice: &mut Dice,
    first: impl Fn(&Op) -> bool,
    second: impl Fn(&Op, &Op) -> bool,
) -> Option<(usize, usize)> {
    for _ in 0..50 {
        let early = find(history, dice, &first)?;
        let op = history.ops[early];
        if is_reset(history, op.fence) {
            continue;
        }
        let is_late = |late: &Op| late.fence == op.fence && late.invoked > op.completed && second(&op, late);
        if let Some(late) = find(history, dice, is_late) {
            return Some((early, late));
        }
    }
    None
}

fn terms_fall(history: &mut History, dice: &mut Dice) -> Option<()> {
    for _ in 0..TRIES {
        let number = dice.index(history.fences.len());
        let is_free = !is_reset(history, u16::try_from(number).ok()?);
        let applied = &mut history.fences[number].applied;
        if !is_free || applied.len() < 2 {
            continue;
        }
        let at = dice.index(applied.len() - 1);
        if applied[at].token < applied[at + 1].token {
            let (a, b) = (applied[at].at, applied[at + 1].at);
            applied.swap(at, at + 1);
            (applied[at].at, applied[at + 1].at) = (a, b);
            return Some(());
        }
    }
    None
}

fn a_write_is_lost(history: &mut History, dice: &mut Dice) -> Option<()> {
    let op = history.ops[find(history, dice, |op| is_write(op) && op.told == Told::Done)?];
    applied(history, &op).retain(|applied| applied.id != op.id);
    Some(())
}

fn half_is_lost(history: &mut History, dice: &mut Dice) -> Option<()> {
    let op = history.ops[find(history, dice, |op| op.what == What::Write(2) && op.told == Told::Done)?];
    let rows = applied(history, &op);
    let at = rows.iter().position(|applied| applied.id == op.id)?;
    rows.remove(at);
    Some(())
}

fn a_row_is_there_twice(history: &mut History, dice: &mut Dice) -> Option<()> {
    let op = history.ops[find(history, dice, |op| is_write(op) && op.told == Told::Done)?];
    let rows = applied(history, &op);
    let at = rows.iter().position(|applied| applied.id == op.id)?;
    rows.insert(at, rows[at]);
    Some(())
}

fn a_refused_write_is_there(history: &mut History, dice: &mut Dice) -> Option<()> {
    let op = history.ops[find(history, dice, |op| is_write(op) && op.told == Told::Refused && op.token > 0)?];
    let rows = applied(history, &op);
    let at = rows.partition_point(|applied| applied.token <= op.token);
    let before = at.checked_sub(1).map_or(0, |before| rows[before].at);
    rows.insert(at, Applied { id: op.id, token: op.token, at: before });
    Some(())
}

fn an_unknown_write_is_torn(history: &mut History, dice: &mut Dice) -> Option<()> {
    let op = history.ops[find(history, dice, |op| op.what == What::Write(2) && op.told != Told::Refused)?];
    let index = history.ops.iter().position(|other| other.id == op.id)?;
    history.ops[index].told = Told::Unknown;
    let rows = applied(history, &op);
    let at = rows.iter().position(|applied| applied.id == op.id)?;
    rows.remove(at);
    Some(())
}

/// A fence of which something is there.
fn with_rows(history: &History, dice: &mut Dice) -> Option<usize> {
    (0..TRIES).map(|_| dice.index(history.fences.len())).find(|at| !history.fences[*at].applied.is_empty())
}

fn nobody_wrote_it(history: &mut History, dice: &mut Dice) -> Option<()> {
    let at = with_rows(history, dice)?;
    let rows = &mut history.fences[at].applied;
    let last = *rows.last()?;
    rows.push(Applied { id: u64::MAX, at: last.at + 1, ..last });
    Some(())
}

fn of_another_term(history: &mut History, dice: &mut Dice) -> Option<()> {
    let at = with_rows(history, dice)?;
    let row = history.fences[at].applied.last_mut()?;
    row.token += 1;
    Some(())
}

fn the_mark_fell(history: &mut History, dice: &mut Dice) -> Option<()> {
    let (early, late) = after(history, dice, |op| op.highest > 1, |_, late| late.highest > 0)?;
    history.ops[late].highest = history.ops[early].highest - 1;
    Some(())
}

fn a_stale_write_is_let_in(history: &mut History, dice: &mut Dice) -> Option<()> {
    let is_stale = |early: &Op, late: &Op| late.token > 0 && late.token < early.highest && late.told == Told::Refused;
    let (_, late) = after(history, dice, |op| op.highest > 1 && op.told == Told::Done, is_stale)?;
    let op = &mut history.ops[late];
    (op.told, op.verdict, op.highest) = (Told::Done, Verdict::Admitted, op.token);
    Some(())
}

fn a_stale_write_is_applied(history: &mut History, dice: &mut Dice) -> Option<()> {
    let is_stale = |early: &Op, late: &Op| is_write(late) && late.token > 0 && late.token < early.highest;
    let (_, late) = after(history, dice, |op| op.highest > 1 && op.told == Told::Done, is_stale)?;
    history.ops[late].told = Told::Unknown;
    let op = history.ops[late];
    let rows = applied(history, &op);
    let at = rows.last().map_or(1, |last| last.at + 1);
    rows.push(Applied { id: op.id, token: op.token, at });
    Some(())
}

fn a_second_holder(history: &mut History, dice: &mut Dice) -> Option<()> {
    let is_let_in = |op: &Op| op.told == Told::Done && op.token > 0 && op.holder > 0;
    let same = |early: &Op, late: &Op| is_let_in(late) && late.token == early.token;
    let (_, late) = after(history, dice, is_let_in, same)?;
    history.ops[late].holder = u32::MAX;
    Some(())
}

fn let_in(history: &History, dice: &mut Dice) -> Option<Op> {
    let is = |op: &Op| op.told == Told::Done && op.token > 0 && op.what != What::Reset;
    let op = history.ops[find(history, dice, is)?];
    history.fences[usize::from(op.fence)].issued.as_ref().map(|_| op)
}

fn unissued(history: &mut History, dice: &mut Dice) -> Option<()> {
    let op = let_in(history, dice)?;
    let issued = history.fences[usize::from(op.fence)].issued.as_mut()?;
    issued.retain(|issued| issued.token != op.token);
    Some(())
}

fn issued_later(history: &mut History, dice: &mut Dice) -> Option<()> {
    let op = let_in(history, dice)?;
    let issued = history.fences[usize::from(op.fence)].issued.as_mut()?;
    issued.retain(|issued| issued.token != op.token);
    issued.push(Issued { token: op.token, at: op.completed + 1 });
    Some(())
}

fn a_read_misses(history: &mut History, dice: &mut Dice) -> Option<()> {
    let is_read = |op: &Op| op.what == What::Read && op.told == Told::Done && op.seen > 0;
    let is_acknowledged = |op: &Op| is_write(op) && op.told == Told::Done;
    for _ in 0..50 {
        let early = history.ops[find(history, dice, is_acknowledged)?];
        let rows = &history.fences[usize::from(early.fence)].applied;
        let at = rows.iter().find(|row| row.id == early.id)?.at;
        let is_late = |op: &Op| op.fence == early.fence && op.invoked > early.completed && is_read(op);
        if let Some(late) = find(history, dice, is_late) {
            history.ops[late].seen = at - 1;
            return Some(());
        }
    }
    None
}

fn a_read_foresees(history: &mut History, dice: &mut Dice) -> Option<()> {
    let is_read = |op: &Op| op.what == What::Read && op.told == Told::Done;
    for _ in 0..50 {
        let read = find(history, dice, is_read)?;
        let op = history.ops[read];
        let is_later = |late: &Op| late.fence == op.fence && late.invoked > op.completed && is_write(late);
        let Some(late) = find(history, dice, |late| is_later(late) && late.told == Told::Done) else { continue };
        let (id, rows) = (history.ops[late].id, &history.fences[usize::from(op.fence)].applied);
        history.ops[read].seen = rows.iter().find(|row| row.id == id)?.at;
        return Some(());
    }
    None
}

fn above_the_mark(history: &mut History, dice: &mut Dice) -> Option<()> {
    let is = |op: &Op| op.told == Told::Done && op.token > 1 && op.what != What::Reset && op.pair.is_none();
    let at = find(history, dice, is)?;
    history.ops[at].highest = history.ops[at].token - 1;
    Some(())
}

fn advanced_twice(history: &mut History, dice: &mut Dice) -> Option<()> {
    let advances = |op: &Op| op.verdict == Verdict::Advanced && op.told == Told::Done && op.pair.is_none();
    let again = |early: &Op, late: &Op| late.token == early.token && late.told == Told::Done && late.pair.is_none();
    let (_, late) = after(history, dice, advances, again)?;
    history.ops[late].verdict = Verdict::Advanced;
    Some(())
}

fn two_lead(history: &mut History, dice: &mut Dice) -> Option<()> {
    for _ in 0..TRIES {
        let at = dice.index(history.fences.len());
        let terms = &mut history.fences[at].terms;
        terms.sort_by_key(|term| term.token);
        if terms.len() >= 2 {
            let at = dice.index(terms.len() - 1);
            if terms[at].token < terms[at + 1].token {
                terms[at].until = terms[at + 1].told + 1;
                return Some(());
            }
        }
    }
    None
}
