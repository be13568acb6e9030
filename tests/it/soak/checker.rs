//! What clients were told, held against what was applied.
//!
//! A history is every operation with when it was asked for and answered, by the one monotonic clock of whoever ran it, and what there
//! is at the end: what the resources applied, in their order. Nothing here knows of the gate. Each rule is necessary: a history that
//! breaks one can't have come from a gate that keeps its promise (`linear.rs` holds that against an exhaustive search). And each is
//! tested with histories that break it (`seeded.rs`, `mutations.rs`).

use std::collections::{BTreeMap, HashMap, HashSet};

/// When something has not ended as far as anybody knows.
pub const NEVER: u64 = u64::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// So many rows, all or none.
    Write(u8),
    /// A claim, or anything else that presents a token and changes nothing.
    Claim,
    /// Of the data, with a token or without one.
    Read,
    /// Of the mark.
    Look,
    /// An operator sets the mark; `token` is what to.
    Reset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Done,
    /// With the word that nothing was applied.
    Refused,
    /// No answer, or one that says that it isn't known.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    None,
    Admitted,
    Advanced,
    Stale,
    Conflict,
    Other,
}

/// One operation on one fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// No two have the same.
    pub id: u64,
    pub fence: u16,
    /// 0: none.
    pub token: u64,
    /// 0: none is named.
    pub holder: u32,
    pub what: What,
    /// In nanoseconds of one monotonic clock.
    pub invoked: u64,
    /// When it was answered, or else when it can't have any effect any more; [`NEVER`] where nobody knows.
    pub completed: u64,
    pub told: Told,
    pub verdict: Verdict,
    /// The mark that the answer told of; 0: none.
    pub highest: u64,
    /// What a read saw: the position of the newest row; 0: none.
    pub seen: u64,
    /// The other half, on another fence, where both are one write.
    pub pair: Option<u64>,
}

/// One row that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// Which operation wrote it.
    pub id: u64,
    pub token: u64,
    /// Its position in the resource's order, from 1; rises.
    pub at: u64,
}

/// A token that was given to a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Issued {
    pub token: u64,
    pub at: u64,
}

/// One term of the coordinator's, as its leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    pub token: u64,
    /// When it was told that it leads.
    pub told: u64,
    /// Until when nobody else may lead: its lease, counted from when the last good renewal was sent; or when it began to resign.
    pub until: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Fence {
    pub name: String,
    /// In the order in which the resource applied it.
    pub applied: Vec<Applied>,
    /// `None` where it isn't known who issues its tokens.
    pub issued: Option<Vec<Issued>>,
    /// Of its election, where that has leases.
    pub terms: Vec<Term>,
}

#[derive(Debug, Clone, Default)]
pub struct History {
    pub fences: Vec<Fence>,
    pub ops: Vec<Op>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A term was applied after a higher one.
    Fell,
    /// What was acknowledged isn't there, or not all of it.
    Lost,
    /// A row is there more often than it was written.
    Twice,
    /// What was refused is there.
    Refused,
    /// Half of a write is there.
    Torn,
    /// A row that nobody wrote, or wrote otherwise.
    Astray,
    /// An answer told of a lower mark than one that came before the question.
    MarkFell,
    /// A token below a mark that was known before it was presented was let in.
    Stale,
    /// Two holders were let in with one token.
    Holders,
    /// A token that nobody had been given was let in.
    Unissued,
    /// A read didn't see what was acknowledged before it, or saw what wasn't written yet.
    Read,
    /// An answer contradicts itself.
    Answer,
    /// One token advanced the mark twice.
    Twofold,
    /// Two led at once.
    Led,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub what: String,
}

/// Everything that is wrong.
pub fn judge(history: &History) -> Vec<Violation> {
    let mut by_fence: Vec<Vec<&Op>> = vec![Vec::new(); history.fences.len()];
    let mut wrong = Wrong(Vec::new());
    let mut ids = HashMap::new();
    for op in &history.ops {
        assert!(ids.insert(op.id, op).is_none(), "two operations have one id: {op:?}");
        by_fence[usize::from(op.fence)].push(op);
    }
    for (number, fence) in history.fences.iter().enumerate() {
        let ops = &by_fence[number];
        let judged = Judged::new(fence, ops, &ids);
        judged.rows(u16::try_from(number).expect("a few fences"), &mut wrong);
        judged.order(&mut wrong);
        judged.real_time(&mut wrong);
        judged.holders(&mut wrong);
        judged.issued(&mut wrong);
        judged.answers(&mut wrong);
        judged.leases(&mut wrong);
    }
    pairs(history, &ids, &mut wrong);
    wrong.0
}

struct Wrong(Vec<Violation>);

impl Wrong {
    fn add(&mut self, rule: Rule, what: String) {
        self.0.push(Violation { rule, what });
    }
}

/// Both halves of a write on two fences are there, or neither.
fn pairs(history: &History, ids: &HashMap<u64, &Op>, wrong: &mut Wrong) {
    let there: HashSet<u64> =
        history.fences.iter().flat_map(|fence| fence.applied.iter().map(|applied| applied.id)).collect();
    for op in &history.ops {
        let Some(other) = op.pair.and_then(|pair| ids.get(&pair)).filter(|other| op.id < other.id) else { continue };
        if there.contains(&op.id) != there.contains(&other.id) {
            wrong.add(Rule::Torn, format!("of {op:?} and {other:?}, one half is there"));
        }
    }
}

/// What was known at an instant: the mark, by which answer, and the newest row.
#[derive(Debug, Clone, Copy, Default)]
struct Known<'a> {
    mark: u64,
    by: Option<&'a Op>,
    newest: u64,
}

/// One fence, as it is judged.
struct Judged<'a> {
    fence: &'a Fence,
    ops: &'a [&'a Op],
    ids: &'a HashMap<u64, &'a Op>,
    /// Those that may have been done.
    resets: Vec<&'a Op>,
    /// How many rows of an operation are there, and where the last is.
    rows: HashMap<u64, (u64, u64)>,
}

impl<'a> Judged<'a> {
    fn new(fence: &'a Fence, ops: &'a [&'a Op], ids: &'a HashMap<u64, &'a Op>) -> Judged<'a> {
        let is_reset = |op: &&&Op| op.what == What::Reset && op.told != Told::Refused;
        let resets = ops.iter().filter(is_reset).copied().collect();
        let mut rows: HashMap<u64, (u64, u64)> = HashMap::new();
        for applied in &fence.applied {
            let (count, last) = rows.entry(applied.id).or_default();
            *count += 1;
            *last = applied.at;
        }
        Judged { fence, ops, ids, resets, rows }
    }

    /// Whether an operator's reset may have come between these instants.
    fn may_be_reset(&self, from: u64, until: u64) -> bool {
        self.resets.iter().any(|reset| reset.invoked <= until && reset.completed >= from)
    }

    fn name(&self) -> &str {
        &self.fence.name
    }

    /// What was acknowledged is there once, what was refused isn't, what is unknown is whole or not there.
    fn rows(&self, number: u16, wrong: &mut Wrong) {
        for applied in &self.fence.applied {
            match self.ids.get(&applied.id) {
                Some(op) if op.fence == number && op.token == applied.token && matches!(op.what, What::Write(_)) => {}
                found => wrong.add(Rule::Astray, format!("{}: {applied:?} was written as {found:?}", self.name())),
            }
        }
        for op in self.ops {
            let What::Write(rows) = op.what else { continue };
            let (rows, there) = (u64::from(rows), self.rows.get(&op.id).map_or(0, |(count, _)| *count));
            let rule = match op.told {
                _ if there > rows => Rule::Twice,
                Told::Done if there < rows => Rule::Lost,
                Told::Refused if there > 0 => Rule::Refused,
                Told::Unknown if there > 0 && there < rows => Rule::Torn,
                Told::Done | Told::Refused | Told::Unknown => continue,
            };
            wrong.add(rule, format!("{}: {op:?}, and {there} rows are there", self.name()));
        }
    }

    /// Terms never fall in the resource's order, but for a reset.
    fn order(&self, wrong: &mut Wrong) {
        let (mut highest, mut since) = (0, 0);
        for applied in &self.fence.applied {
            let op = self.ids.get(&applied.id);
            if applied.token < highest {
                let until = op.map_or(NEVER, |op| op.completed);
                let excuses =
                    |reset: &&Op| reset.invoked <= until && reset.completed >= since && reset.token <= applied.token;
                if !self.resets.iter().any(excuses) {
                    wrong.add(Rule::Fell, format!("{}: {applied:?} was applied after term {highest}", self.name()));
                    continue;
                }
                highest = 0;
            }
            if applied.token > highest {
                (highest, since) = (applied.token, op.map_or(0, |op| op.invoked));
            }
        }
    }

    /// What was known when an operation was asked for, from answers that had come by then.
    fn floors(&self) -> Vec<Known<'a>> {
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(2 * self.ops.len());
        for (index, op) in self.ops.iter().enumerate() {
            events.push((op.invoked, false, index));
            events.push((op.completed, true, index));
        }
        // At one instant, questions come first: only what is surely earlier counts as known.
        events.sort_unstable();
        let mut floors = vec![Known::default(); self.ops.len()];
        let (mut known, mut cut, mut resetting) = (Known::default(), 0, 0_u32);
        for (at, is_end, index) in events {
            let op = self.ops[index];
            let is_reset = op.what == What::Reset && op.told != Told::Refused;
            match (is_end, is_reset) {
                (false, true) => resetting += 1,
                (false, false) if resetting == 0 => floors[index] = known,
                (false, false) => floors[index].newest = known.newest,
                (true, true) => {
                    resetting -= 1;
                    // Nothing that began before it says anything about marks after it.
                    (cut, known.by) = (at, Some(op));
                    // Of two at the same time either may have come last, whichever was answered first.
                    let at_once = |other: &&&Op| other.invoked <= op.completed && other.completed >= op.invoked;
                    let is_alone = self.resets.iter().filter(at_once).count() == 1;
                    known.mark = if op.told == Told::Done && is_alone { op.token } else { 0 };
                }
                (true, false) => {
                    let shown = if op.told == Told::Done { op.token.max(op.highest) } else { op.highest };
                    if (op.invoked > cut || cut == 0) && shown > known.mark {
                        (known.mark, known.by) = (shown, Some(op));
                    }
                    if let (What::Write(_), Told::Done, Some((_, last))) = (op.what, op.told, self.rows.get(&op.id)) {
                        known.newest = known.newest.max(*last);
                    }
                    known.newest = known.newest.max(op.seen);
                }
            }
        }
        floors
    }

    /// Marks never fall and data never goes back, as seen from outside; whoever is known to be replaced is not let in.
    fn real_time(&self, wrong: &mut Wrong) {
        for (op, Known { mark, by, newest }) in self.ops.iter().zip(self.floors()) {
            if op.what == What::Read && op.told == Told::Done {
                self.read(op, newest, wrong);
            }
            if op.what == What::Reset || self.may_be_reset(op.invoked, op.completed) {
                continue;
            }
            if op.highest > 0 && op.highest < mark {
                wrong.add(Rule::MarkFell, format!("{}: {op:?}, after the mark was {mark}: {by:?}", self.name()));
            }
            let is_let_in = op.told == Told::Done || self.rows.contains_key(&op.id);
            if op.token > 0 && op.token < mark && is_let_in {
                wrong
                    .add(Rule::Stale, format!("{}: {op:?} was let in, after the mark was {mark}: {by:?}", self.name()));
            }
        }
    }

    fn read(&self, op: &Op, newest: u64, wrong: &mut Wrong) {
        if op.seen < newest {
            wrong.add(Rule::Read, format!("{}: {op:?}, and row {newest} was there before", self.name()));
        }
        let last = self.fence.applied.partition_point(|applied| applied.at <= op.seen);
        let writer = last.checked_sub(1).and_then(|last| self.ids.get(&self.fence.applied[last].id));
        if writer.is_some_and(|writer| writer.invoked > op.completed) {
            wrong.add(Rule::Read, format!("{}: {op:?} saw what {writer:?} wrote only later", self.name()));
        }
    }

    /// The first holder that is named with a token is bound to it.
    fn holders(&self, wrong: &mut Wrong) {
        let mut bound: HashMap<u64, Vec<&Op>> = HashMap::new();
        for op in self.ops.iter().filter(|op| op.told == Told::Done && op.token > 0 && op.holder > 0) {
            let others = bound.entry(op.token).or_default();
            let is_other = |other: &&&Op| {
                let (from, until) = (other.invoked.min(op.invoked), other.completed.max(op.completed));
                other.holder != op.holder && !self.may_be_reset(from, until)
            };
            if let Some(other) = others.iter().find(is_other) {
                wrong.add(Rule::Holders, format!("{}: {op:?} and {other:?} were both let in", self.name()));
            }
            // One of each holder is enough, but where a reset may have come between.
            if !self.resets.is_empty() || others.iter().all(|other| other.holder != op.holder) {
                others.push(op);
            }
        }
    }

    fn issued(&self, wrong: &mut Wrong) {
        let Some(issued) = &self.fence.issued else { return };
        let mut given: HashMap<u64, u64> = HashMap::new();
        for issued in issued {
            let at = given.entry(issued.token).or_insert(issued.at);
            *at = issued.at.min(*at);
        }
        for op in self.ops.iter().filter(|op| op.token > 0 && op.what != What::Reset) {
            let is_let_in = op.told == Told::Done || self.rows.contains_key(&op.id);
            if is_let_in && given.get(&op.token).is_none_or(|at| *at > op.completed) {
                wrong.add(Rule::Unissued, format!("{}: {op:?} was let in", self.name()));
            }
        }
    }

    /// What an answer says of itself.
    fn answers(&self, wrong: &mut Wrong) {
        let mut advanced = HashSet::new();
        for op in self.ops.iter().filter(|op| op.token > 0 && op.what != What::Reset && op.pair.is_none()) {
            let is_right = match (op.told, op.verdict) {
                (Told::Done, Verdict::Admitted | Verdict::Advanced) => op.highest >= op.token,
                (Told::Refused, Verdict::Stale) => op.highest > op.token,
                (Told::Refused, Verdict::Conflict) => op.highest >= op.token,
                (Told::Done, _) => false,
                (Told::Refused | Told::Unknown, _) => true,
            };
            if !is_right {
                wrong.add(Rule::Answer, format!("{}: {op:?}", self.name()));
            }
            let is_advance = op.told == Told::Done && op.verdict == Verdict::Advanced;
            if is_advance && self.resets.is_empty() && !advanced.insert(op.token) {
                wrong.add(Rule::Twofold, format!("{}: {op:?} advanced the mark once more", self.name()));
            }
        }
    }

    /// Nobody is told that it leads while another's lease is known to be alive.
    fn leases(&self, wrong: &mut Wrong) {
        let mut terms: BTreeMap<u64, Term> = BTreeMap::new();
        for term in &self.fence.terms {
            let known = terms.entry(term.token).or_insert(*term);
            (known.told, known.until) = (known.told.min(term.told), known.until.max(term.until));
        }
        let mut before: Option<Term> = None;
        for term in terms.into_values() {
            if let Some(other) = before.filter(|other| term.told < other.until) {
                wrong.add(Rule::Led, format!("{}: {term:?} while {other:?} led", self.name()));
            }
            before = Some(term);
        }
    }
}
