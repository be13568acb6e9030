//! What a request asks of a fence, and what it is told.

use std::future::poll_fn;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::fail::{self, Point};
use crate::fence::drain::{Asked, Moment, Pass, Purpose, Store, Woken};
use crate::fence::{Claim, FenceName, Mark, Refusal, Verdict};
use crate::problem::{Kind, Problem};
use crate::resource::issuer;

use super::entry::{Entry, Flag};
use super::state::{Shared, not_found};
use super::store::Write;
use super::worker::Job;

/// What a request asks of a fence.
pub struct Question<'a> {
    /// The resource that it is for.
    pub scope: u16,
    /// What it presents.
    pub claim: &'a Claim,
    /// What it wants.
    pub purpose: Purpose,
    /// [`Shared::failures`] when it came; where storing has failed since, it isn't tried once more.
    pub failures: u64,
    /// The claim may raise the mark: who issues its token has said so, when [`Shared::resets`] was this.
    pub believed: Option<u64>,
    /// What the history says of why the mark rose.
    pub why: Option<&'static str>,
}

/// What a fence says to a request.
pub enum Said<'a> {
    /// Go on. The mark's token is what was presented.
    Go(u32, Option<Pass>),
    /// No.
    No(Problem),
    /// Its mark would rise, which is this now: who issues its token has to be asked first. Nothing was changed.
    Doubted(Option<Mark>),
    /// Its mark is being stored; ask again then.
    Stored(oneshot::Receiver<Result<bool, Problem>>, Store),
    /// Ask again when this place is woken, at this moment at the latest. True while a mark is being stored.
    Wait(Waiter<'a>, Option<Moment>, bool),
}

/// A place among those who wait for a fence to change.
pub struct Waiter<'a> {
    /// Where the fence is.
    pub shared: &'a Shared,
    /// Its number.
    pub id: u32,
    /// The place.
    pub place: u32,
}

impl Waiter<'_> {
    /// Ends when the fence has changed since this place was taken.
    pub async fn woken(&self) {
        poll_fn(|cx| {
            let mut entry = self.shared.lock(self.id);
            let waiters = entry.waiters.as_mut().expect("it has a place, so that somebody waits");
            if waiters.poll(self.place, cx) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.shared.lock(self.id).leave(self.place);
    }
}

impl Shared {
    /// Asks the fence, and starts what it wants to have stored.
    pub fn ask(&self, question: &Question<'_>) -> Said<'_> {
        let Question { scope, claim, purpose, failures, why, .. } = *question;
        let (id, mut entry) = match self.found_or_made(question) {
            Ok(found) => found,
            Err(said) => return said,
        };
        if self.is_stopped() {
            let why = Problem::new(Kind::Unavailable, "the gate is stopping");
            return Said::No(Problem { presented: Some(claim.token), ..why.about(&claim.fence, entry.fence.mark()) });
        }
        if self.is_doubted(question, entry.fence.mark()) {
            return Said::Doubted(entry.fence.mark().cloned());
        }
        let (now, policy) = (self.now(), self.policy(scope));
        match entry.fence.ask(&claim.fence, claim.token, claim.holder.as_ref(), purpose, now, policy) {
            Asked::Go(pass) => {
                if !policy.enforce {
                    self.count_unenforced(scope, claim, &mut entry);
                }
                self.go(id, entry, pass, now)
            }
            // What a coordinator has told of an election nobody has presented.
            Asked::Refused(refusal) if why.is_some() => Said::No(refusal.into()),
            Asked::Refused(refusal) => {
                entry.refused = entry.refused.saturating_add(1);
                drop(entry);
                self.scopes[usize::from(scope)].refusals.count(&refusal);
                Said::No(refusal.into())
            }
            Asked::Store(store) => {
                let event = if store.advances() { "advanced" } else { "bound" };
                let tried = match self.failures.load(Ordering::Relaxed) == failures {
                    true => self.store(scope, id, &mut entry, &claim.fence, &store, event, why.map(str::to_owned)),
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
                let place = entry.enter();
                Said::Wait(Waiter { shared: self, id, place }, until, is_storing)
            }
            Asked::Quarantined(until) => {
                let mark = entry.fence.mark().cloned();
                // An ask may have found that one has ended.
                self.let_go(id, entry, Woken::Nobody, now, "");
                Said::No(self.quarantined(claim, mark.as_ref(), until))
            }
        }
    }

    /// The fence, made where it isn't there yet; or what is said without it.
    fn found_or_made(&self, question: &Question<'_>) -> Result<(u32, MutexGuard<'_, Entry>), Said<'_>> {
        let Question { scope, claim, why, .. } = *question;
        match self.find(&claim.fence) {
            Some((_, entry)) if !self.owns(scope, &claim.fence, entry.home) => {
                return Err(Said::No(not_found(&claim.fence)));
            }
            Some(found) => return Ok(found),
            None => {}
        }
        if !(self.scopes[usize::from(scope)].given.owns)(&claim.fence) {
            return Err(Said::No(not_found(&claim.fence)));
        }
        // Before it is made: what is stale or was never issued leaves nothing behind.
        if let Some(refusal) = self.is_below_floor(scope, claim) {
            // What a coordinator has told of an election nobody has presented.
            if why.is_none() {
                self.scopes[usize::from(scope)].refusals.count(&refusal);
            }
            return Err(Said::No(refusal.into()));
        }
        if self.is_doubted(question, None) {
            return Err(Said::Doubted(None));
        }
        let failed = |problem| Said::No(Problem { presented: Some(claim.token), ..problem });
        self.make(scope, &claim.fence).map_err(failed)
    }

    /// Lets a request go on; the journal knows of a write before anybody can send it.
    fn go(&self, id: u32, entry: MutexGuard<'_, Entry>, pass: Option<Pass>, now: Moment) -> Said<'_> {
        if pass.is_some() {
            fail::at(Point::HttpPassGiven);
        }
        self.let_go(id, entry, Woken::Nobody, now, "");
        if pass.is_some() {
            fail::at(Point::HttpAdmitted);
        }
        Said::Go(id, pass)
    }

    /// Whether a claim would raise this mark without the word of who issues its token. A word from before an operator's reset
    /// doesn't count: it could undo the reset with a token that is led by no more.
    fn is_doubted(&self, question: &Question<'_>, mark: Option<&Mark>) -> bool {
        self.scopes[usize::from(question.scope)].given.trust.is_some()
            && mark.is_none_or(|mark| mark.token < question.claim.token)
            && question.believed != Some(self.resets.load(Ordering::Relaxed))
    }

    /// Counts a claim that was refused by the word of who issues its token, where there is a fence to count it for.
    pub fn count_disbelieved(&self, scope: u16, claim: &Claim, verdict: Verdict) {
        if let Some((_, mut entry)) = self.find(&claim.fence) {
            entry.refused = entry.refused.saturating_add(1);
            drop(entry);
            self.scopes[usize::from(scope)].refusals.count_presenter(issuer::presenter(claim, verdict));
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
        fail::at(Point::HttpMarkQueued);
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
