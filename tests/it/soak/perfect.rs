//! Histories of a gate that makes no mistakes, with operations that overlap and answers that are lost.

use super::checker::{Applied, Fence, History, Issued, NEVER, Op, Term, Told, Verdict, What};
use crate::dice::Dice;

/// What one client is about.
#[derive(Clone, Copy)]
enum Stage {
    Idle,
    Asked(Op),
    /// Its place in the order is taken; it is told later, if ever.
    Done(Op),
}

/// The whole truth of one fence.
pub struct Perfect {
    dice: Dice,
    clock: u64,
    mark: u64,
    holder: u32,
    newest: u64,
    terms: u64,
    history: History,
}

impl Perfect {
    /// So many operations of so many clients, on one fence.
    pub fn run(seed: u64, clients: usize, ops: usize, has_resets: bool) -> History {
        let fence = Fence { name: "perfect".into(), issued: Some(Vec::new()), ..Fence::default() };
        let history = History { fences: vec![fence], ops: Vec::new() };
        let (dice, clock, mark, holder, newest, terms) = (Dice::new(seed), 0, 0, 0, 0, 0);
        let mut perfect = Perfect { dice, clock, mark, holder, newest, terms, history };
        perfect.elect();
        let mut stages = vec![Stage::Idle; clients];
        let mut asked = 0;
        while asked < ops || stages.iter().any(|stage| !matches!(stage, Stage::Idle)) {
            perfect.clock += 1 + perfect.dice.roll(5);
            let client = usize::try_from(perfect.dice.roll(clients as u64)).expect("a few clients");
            stages[client] = match stages[client] {
                Stage::Idle if asked == ops => Stage::Idle,
                Stage::Idle => {
                    asked += 1;
                    Stage::Asked(perfect.ask(has_resets))
                }
                Stage::Asked(op) => perfect.decide(op),
                Stage::Done(op) => {
                    perfect.history.ops.push(Op { completed: perfect.clock, ..op });
                    Stage::Idle
                }
            };
        }
        perfect.history
    }

    /// A new leader, after the last one's lease.
    fn elect(&mut self) {
        self.terms += 1;
        let (token, at) = (self.terms, self.clock);
        let fence = &mut self.history.fences[0];
        fence.issued.as_mut().expect("it has been made so").push(Issued { token, at });
        if let Some(last) = fence.terms.last_mut() {
            last.until = last.until.min(at);
        }
        fence.terms.push(Term { token, told: at, until: at + 1000 });
    }

    fn ask(&mut self, has_resets: bool) -> Op {
        if self.dice.roll(6) == 0 {
            self.elect();
        }
        let id = 1 + self.history.ops.len() as u64 + 1000 * self.clock;
        let what = match self.dice.roll(12) {
            0 => What::Claim,
            1 | 2 => What::Read,
            3 => What::Look,
            4 if has_resets && self.dice.roll(3) == 0 => What::Reset,
            5 => What::Write(2),
            _ => What::Write(1),
        };
        let token = match what {
            What::Look => 0,
            What::Read if self.dice.roll(2) == 0 => 0,
            // Most are of late leaders.
            _ => self.terms - self.dice.roll(self.terms.min(4)),
        };
        let holder = if token == 0 || self.dice.roll(4) == 0 { 0 } else { holder_of(token) };
        Op {
            id,
            fence: 0,
            token,
            holder,
            what,
            invoked: self.clock,
            completed: NEVER,
            told: Told::Refused,
            verdict: Verdict::None,
            highest: 0,
            seen: 0,
            pair: None,
        }
    }

    /// One operation takes its place in the order, or never does.
    fn decide(&mut self, mut op: Op) -> Stage {
        let is_lost = self.dice.roll(12) == 0;
        if is_lost && self.dice.roll(2) == 0 {
            op.told = Told::Unknown;
            self.history.ops.push(op);
            return Stage::Idle;
        }
        self.judge(&mut op);
        op.highest = self.mark;
        if !is_lost {
            return Stage::Done(op);
        }
        (op.told, op.verdict, op.highest, op.seen) = (Told::Unknown, Verdict::None, 0, 0);
        self.history.ops.push(op);
        Stage::Idle
    }

    fn judge(&mut self, op: &mut Op) {
        op.told = Told::Done;
        if op.what == What::Reset {
            (self.mark, self.holder) = (op.token, 0);
            return;
        }
        if op.token > 0 {
            if op.token < self.mark {
                (op.told, op.verdict) = (Told::Refused, Verdict::Stale);
                return;
            }
            if op.token == self.mark && op.holder > 0 && self.holder > 0 && op.holder != self.holder {
                (op.told, op.verdict) = (Told::Refused, Verdict::Conflict);
                return;
            }
            op.verdict = if op.token > self.mark { Verdict::Advanced } else { Verdict::Admitted };
            if op.token > self.mark {
                (self.mark, self.holder) = (op.token, 0);
            }
            self.holder = self.holder.max(op.holder);
        }
        match op.what {
            What::Write(rows) => {
                for _ in 0..rows {
                    self.newest += 1;
                    let applied = Applied { id: op.id, token: op.token, at: self.newest };
                    self.history.fences[0].applied.push(applied);
                }
            }
            What::Read => op.seen = self.newest,
            What::Claim | What::Look | What::Reset => {}
        }
    }
}

/// Each leader has one name.
fn holder_of(token: u64) -> u32 {
    u32::try_from(token).expect("a small number")
}
