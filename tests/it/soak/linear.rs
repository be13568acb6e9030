//! The rule as one object that does one thing after the other, and an exhaustive search for an order in which it could have answered as
//! it did (stateright's tester for linearizability). It is far too slow for a soak; small histories it judges without any rule of ours.

use std::collections::HashMap;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::checker::{History, NEVER, Op, Told, Verdict, What};

/// One fence and its data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Register {
    pub mark: u64,
    /// 0: nobody is bound.
    pub holder: u32,
    /// The position of the newest row.
    pub newest: u64,
    /// Whether positions are of no interest.
    pub is_blind: bool,
}

impl Register {
    /// Only the mark.
    pub fn without_data() -> Register {
        Register { is_blind: true, ..Register::default() }
    }
}

/// What is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub what: What,
    pub token: u64,
    pub holder: u32,
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    told: Told,
    verdict: Verdict,
    mark: u64,
    /// Of a read what it saw, of a write where its last row is.
    at: u64,
}

impl SequentialSpec for Register {
    type Op = Asked;
    type Ret = Said;

    fn invoke(&mut self, asked: &Asked) -> Said {
        let verdict = match asked.token {
            0 => Verdict::None,
            _ if asked.what == What::Reset => {
                (self.mark, self.holder) = (asked.token, 0);
                Verdict::None
            }
            token if token < self.mark => Verdict::Stale,
            token if token > self.mark => {
                (self.mark, self.holder) = (token, asked.holder);
                Verdict::Advanced
            }
            _ if asked.holder > 0 && self.holder > 0 && asked.holder != self.holder => Verdict::Conflict,
            _ => {
                self.holder = self.holder.max(asked.holder);
                Verdict::Admitted
            }
        };
        let is_refused = matches!(verdict, Verdict::Stale | Verdict::Conflict);
        let at = match asked.what {
            _ if is_refused || self.is_blind => 0,
            What::Write(rows) => {
                self.newest += u64::from(rows);
                self.newest
            }
            What::Read => self.newest,
            What::Claim | What::Look | What::Reset => 0,
        };
        Said { told: if is_refused { Told::Refused } else { Told::Done }, verdict, mark: self.mark, at }
    }

    fn is_valid_step(&mut self, asked: &Asked, said: &Said) -> bool {
        let mut after = self.clone();
        let own = after.invoke(asked);
        // What isn't told isn't compared.
        let mark = if said.mark == 0 { own.mark } else { said.mark };
        let verdict = if said.verdict == Verdict::Other { own.verdict } else { said.verdict };
        *self = after;
        own == Said { mark, verdict, ..said.clone() }
    }
}

/// A request with a newer token may be two steps: it raises the mark, and then reads, or goes to its upstream. Where a still newer token
/// comes between them, it is refused, and the mark has risen for it all the same. For the search that is a claim by itself, of unknown
/// outcome.
fn claims_of_refused(history: &History) -> impl Iterator<Item = Op> {
    let is_one = |op: &&Op| op.told == Told::Refused && op.verdict == Verdict::Stale;
    let claim = |op: &Op| Op { id: u64::MAX - op.id, what: What::Claim, told: Told::Unknown, completed: NEVER, ..*op };
    history.ops.iter().filter(is_one).map(claim)
}

/// Whether the only fence of this small history could have answered like this, had it done one thing after the other.
pub fn is_linearizable(history: &History, start: Register) -> bool {
    let mut last: HashMap<u64, u64> = HashMap::new();
    for applied in &history.fences[0].applied {
        last.insert(applied.id, applied.at);
    }
    let mut events: Vec<(u64, bool, &Op)> = Vec::new();
    let claims: Vec<Op> = if start.is_blind { claims_of_refused(history).collect() } else { Vec::new() };
    for op in history.ops.iter().chain(&claims) {
        events.push((op.invoked, false, op));
        // One of unknown outcome may have its effect at any time, or never; but where it is there, it had.
        if op.told != Told::Unknown {
            events.push((op.completed, true, op));
        } else if last.contains_key(&op.id) {
            events.push((NEVER, true, op));
        }
    }
    events.sort_by_key(|(at, is_end, op)| (*at, *is_end, op.id));
    let is_blind = start.is_blind;
    let mut tester = LinearizabilityTester::new(start);
    for (_, is_end, op) in events {
        if is_end {
            let at = match op.what {
                _ if is_blind => 0,
                What::Read => op.seen,
                _ => last.get(&op.id).copied().unwrap_or(0),
            };
            let said = match op.told {
                Told::Unknown => Said { told: Told::Done, verdict: Verdict::Other, mark: 0, at },
                told => Said { told, verdict: op.verdict, mark: op.highest, at },
            };
            tester.on_return(op.id, said).expect("it was asked for before");
        } else {
            let asked = Asked { what: op.what, token: op.token, holder: op.holder };
            tester.on_invoke(op.id, asked).expect("each is asked for once");
        }
    }
    tester.is_consistent()
}
