//! The marks of many fences, judged together for one request.

use std::collections::HashMap;

use super::{Claim, FenceName, Holder, Mark, Token, Verdict};

/// The marks of many fences in memory. Where a resource keeps its marks in a database, this is a copy that only the
/// owner of the database's one write transaction changes.
///
/// **Invariant.** Through [`Ledger::admit`] a mark never goes down. Only [`Ledger::put`], which loads what is stored, undoes
/// what was not committed, and carries out an operator's reset, can lower one.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    marks: HashMap<FenceName, Mark>,
}

/// All the claims of a request are admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// [`Verdict::Advanced`] where any of the claims raised a mark, else [`Verdict::Admitted`].
    pub verdict: Verdict,
    /// What must be made durable before the write goes through: each mark that rose or was bound to a holder.
    pub changes: Vec<Change>,
}

/// One mark that an admission changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The fence.
    pub fence: FenceName,
    /// Its mark before; `None` where this is the first.
    pub before: Option<Mark>,
    /// Its mark after.
    pub after: Mark,
}

impl Change {
    /// Whether the token rose; otherwise it was only bound to its first named holder.
    pub fn advances(&self) -> bool {
        self.before.as_ref().is_none_or(|before| before.token < self.after.token)
    }
}

/// One of the claims is refused, and with it the whole request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("token {presented} is {} on fence {fence}, whose highest is {}", verdict.as_str(), highest.token)]
pub struct Refusal {
    /// [`Verdict::Stale`] or [`Verdict::Conflict`].
    pub verdict: Verdict,
    /// The fence that refuses.
    pub fence: FenceName,
    /// The token that was presented for it.
    pub presented: Token,
    /// The holder that was presented with it.
    pub holder: Option<Holder>,
    /// The fence's mark, unchanged.
    pub highest: Mark,
}

impl Ledger {
    /// The mark of a fence; `None` before its first claim.
    pub fn get(&self, fence: &str) -> Option<&Mark> {
        self.marks.get(fence)
    }

    /// Sets or removes a mark whatever stood there. For loading, undoing and an operator's reset; never for a claim.
    pub fn put(&mut self, fence: FenceName, mark: Option<Mark>) {
        match mark {
            Some(mark) => self.marks.insert(fence, mark),
            None => self.marks.remove(&fence),
        };
    }

    /// Judges all the claims of one request, changing nothing: what [`Ledger::admit`] would say.
    ///
    /// # Errors
    /// The first claim that is refused, in the order presented. Then none of them takes effect: a request that is
    /// refused on one fence changes no other.
    pub fn judge(&self, claims: &[Claim]) -> Result<Admission, Refusal> {
        let mut admission = Admission { verdict: Verdict::Admitted, changes: Vec::new() };
        for claim in claims {
            let before = self.marks.get(&claim.fence);
            let verdict = Mark::judge(before, claim.token, claim.holder.as_ref());
            let binds = before.is_some_and(|mark| mark.holder.is_none()) && claim.holder.is_some();
            match verdict {
                Verdict::Stale | Verdict::Conflict | Verdict::Unissued => {
                    return Err(Refusal {
                        verdict,
                        fence: claim.fence.clone(),
                        presented: claim.token,
                        holder: claim.holder.clone(),
                        highest: before.cloned().expect("only a mark can refuse: without one, judge says advanced"),
                    });
                }
                Verdict::Admitted if !binds => {}
                Verdict::Admitted | Verdict::Advanced => admission.changes.push(Change {
                    fence: claim.fence.clone(),
                    before: before.cloned(),
                    after: Mark { token: claim.token, holder: claim.holder.clone() },
                }),
            }
            if verdict == Verdict::Advanced {
                admission.verdict = Verdict::Advanced;
            }
        }
        Ok(admission)
    }

    /// Judges all the claims of one request and, where all are admitted, raises and binds the marks.
    ///
    /// # Errors
    /// As [`Ledger::judge`].
    pub fn admit(&mut self, claims: &[Claim]) -> Result<Admission, Refusal> {
        let admission = self.judge(claims)?;
        self.apply(&admission);
        Ok(admission)
    }

    /// Raises and binds the marks of an admission that was judged here, with nothing changed since.
    pub fn apply(&mut self, admission: &Admission) {
        for change in &admission.changes {
            self.marks.insert(change.fence.clone(), change.after.clone());
        }
    }

    /// Takes back an admission that could not be made durable.
    pub fn undo(&mut self, admission: &Admission) {
        for change in admission.changes.iter().rev() {
            self.put(change.fence.clone(), change.before.clone());
        }
    }

    /// All fences that have a mark, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&FenceName, &Mark)> {
        self.marks.iter()
    }
}
