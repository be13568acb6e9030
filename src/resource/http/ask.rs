//! What a request asks of a fence, and what it is told.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::fence::drain::{Asked, Moment, Pass, Purpose, Store, Woken};
use crate::fence::{Claim, FenceName, Mark, Refusal};
use crate::problem::{Kind, Problem};

use super::entry::{Entry, Flag};
use super::state::{Shared, not_found};
use super::store::Write;
use super::worker::Job;

/// What a fence says to a request.
pub enum Said {
    /// Go on. The mark's token is what was presented.
    Go(u32, Option<Pass>),
    /// No.
    No(Problem),
    /// Its mark is being stored; ask again then.
    Stored(oneshot::Receiver<Result<bool, Problem>>, Store),
    /// Ask again when this place is woken, at this moment at the latest.
    Wait(u32, u32, Option<Moment>, bool),
}

impl Shared {
    /// Asks the fence, and starts what it wants to have stored. `failures`: [`Shared::failures`] when the request came; where
    /// storing has failed since, it isn't tried once more.
    pub fn ask(&self, scope: u16, claim: &Claim, purpose: Purpose, failures: u64) -> Said {
        let (id, mut entry) = match self.find(&claim.fence) {
            Some((_, entry)) if !self.owns(scope, &claim.fence, entry.home) => {
                return Said::No(not_found(&claim.fence));
            }
            Some(found) => found,
            None if !(self.scopes[usize::from(scope)].given.owns)(&claim.fence) => {
                return Said::No(not_found(&claim.fence));
            }
            None => match self.make(scope, &claim.fence) {
                Ok(made) => made,
                Err(problem) => return Said::No(Problem { presented: Some(claim.token), ..problem }),
            },
        };
        if self.is_stopped() {
            let why = Problem::new(Kind::Unavailable, "the gate is stopping");
            return Said::No(Problem { presented: Some(claim.token), ..why.about(&claim.fence, entry.fence.mark()) });
        }
        let (now, policy) = (self.now(), self.policy(scope));
        match entry.fence.ask(&claim.fence, claim.token, claim.holder.as_ref(), purpose, now, policy) {
            Asked::Go(pass) => {
                if !policy.enforce {
                    self.count_unenforced(scope, claim, &mut entry);
                }
                self.let_go(id, entry, Woken::Nobody, now, "");
                Said::Go(id, pass)
            }
            Asked::Refused(refusal) => {
                entry.refused = entry.refused.saturating_add(1);
                drop(entry);
                self.scopes[usize::from(scope)].refusals.count(&refusal);
                Said::No(refusal.into())
            }
            Asked::Store(store) => {
                let event = if store.advances() { "advanced" } else { "bound" };
                let tried = match self.failures.load(Ordering::Relaxed) == failures {
                    true => self.store(scope, id, &mut entry, &claim.fence, &store, event, None),
                    false => Err(self.unavailable("the store doesn't work")),
                };
                match tried {
                    Ok(answer) => Said::Stored(answer, store),
                    Err(problem) => {
                        let problem = problem.about(&claim.fence, entry.fence.mark());
                        let woken = entry.fence.not_stored();
                        self.let_go(id, entry, woken, now, "");
                        Said::No(Problem { presented: Some(claim.token), ..problem })
                    }
                }
            }
            Asked::Wait(until) => {
                let is_storing = entry.has(Flag::Storing);
                Said::Wait(id, entry.enter(), until, is_storing)
            }
            Asked::Quarantined(until) => {
                let mark = entry.fence.mark().cloned();
                // An ask may have found that one has ended.
                self.let_go(id, entry, Woken::Nobody, now, "");
                Said::No(self.quarantined(claim, mark.as_ref(), until))
            }
        }
    }

    /// Hands over to the store's thread what a fence wants to have stored.
    #[expect(clippy::too_many_arguments, reason = "each is one fact about one mark")]
    pub fn store(
        &self,
        scope: u16,
        id: u32,
        entry: &mut Entry,
        fence: &FenceName,
        store: &Store,
        event: &'static str,
        reason: Option<String>,
    ) -> Result<oneshot::Receiver<Result<bool, Problem>>, Problem> {
        let (reply, answer) = oneshot::channel();
        let Store { before, after, is_settled } = store.clone();
        let write = Write::Mark { before, after, is_settled, event, reason };
        self.queue.push(Job { id, fence: fence.clone(), scope, write, reply: Some(reply) })?;
        entry.set(Flag::Storing, true);
        Ok(answer)
    }

    fn quarantined(&self, claim: &Claim, mark: Option<&Mark>, until: Option<Moment>) -> Problem {
        let (fence, now) = (&claim.fence, self.now());
        let (detail, retry_after) = match until {
            Some(until) => {
                let left = Duration::from_millis(until.0.saturating_sub(now.0).max(1));
                let rounded =
                    Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).div_ceil(100) * 100);
                let detail = format!(
                    "an older write on fence {fence} has ended without the gate knowing whether it was applied, and it may still \
                     be; newer writes wait for another {}",
                    humantime::format_duration(rounded)
                );
                (detail, left)
            }
            None => {
                let detail = format!(
                    "an older write on fence {fence} has ended without the gate knowing whether it was applied, and it may still \
                     be; newer writes wait until an operator has looked and says `fencegate fences release {fence}`"
                );
                (detail, Duration::from_secs(5))
            }
        };
        let problem = Problem::new(Kind::Quarantined, detail).about(fence, mark);
        Problem { presented: Some(claim.token), retry_after: Some(retry_after), ..problem }
    }

    /// Counts what would have been refused.
    fn count_unenforced(&self, scope: u16, claim: &Claim, entry: &mut Entry) {
        let verdict = Mark::judge(entry.fence.mark(), claim.token, claim.holder.as_ref());
        if let (false, Some(highest)) = (verdict.admits(), entry.fence.mark().cloned()) {
            let (fence, presented, holder) = (claim.fence.clone(), claim.token, claim.holder.clone());
            entry.refused = entry.refused.saturating_add(1);
            self.scopes[usize::from(scope)].refusals.count(&Refusal { verdict, fence, presented, holder, highest });
        }
    }
}
