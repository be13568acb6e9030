//! The door of a database whose tokens aren't believed as presented: who issues them is asked before a mark rises.
//!
//! Marks above which nothing was issued yet are raised here, by a request of their own, before the body of the request that
//! presents the token is read. So the word of who issues it is never older than that short way to the writer, and the request
//! itself finds its token at the mark.
//!
//! **Invariant.** Nobody waits for a question but the request that asks it: it is asked before anything is queued, and the writer
//! refuses to raise a mark for a claim that nobody vouches for ([`Believed`]).

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use crate::fence::{Claim, Token};
use crate::problem::{Kind, Problem};
use crate::resource::Boxed;
use crate::resource::issuer::{self, Issuer, Word};

use super::fences::FenceSet;
use super::front::{Sqlite, arrived};
use super::program::{Format, Program, Run};
use super::queue;
use super::shared::{Believed, Reply};

/// A request that the published marks, and who issues its tokens, have let in.
pub(super) struct Entered {
    /// Its claims, under the names that who issues the tokens has for their holders.
    pub claims: Arc<[Claim]>,
    /// A mark rises or is bound to a holder, or has risen here.
    pub changes: bool,
    /// Marks have risen here; the first claim's was this.
    pub raised: Option<Option<Token>>,
}

impl Sqlite {
    /// Judges claims against the published marks and, where one is above them and that isn't believed as presented, asks who
    /// issues its token, and raises the mark.
    ///
    /// # Errors
    /// A refusal; nobody to ask.
    pub(super) async fn enter(&self, claims: Arc<[Claim]>, presented: FenceSet) -> Result<Entered, Problem> {
        let changes = self.shared.judge_at_door(&claims)?;
        match &self.shared.trust {
            // Large and rare: not in every request's future.
            Some(issuer) if changes => Box::pin(self.believe(&**issuer, claims, presented)).await,
            _ => Ok(Entered { claims, changes, raised: None }),
        }
    }

    async fn believe(
        &self,
        issuer: &dyn Issuer,
        mut claims: Arc<[Claim]>,
        presented: FenceSet,
    ) -> Result<Entered, Problem> {
        loop {
            // Read before asking: an answer to a question from before a reset doesn't count after it.
            let resets = self.shared.resets.load(Ordering::Relaxed);
            let above = self.shared.above(&claims);
            if above.is_empty() {
                // What rises was only bound to a holder, or somebody else was faster.
                return Ok(Entered { claims, changes: true, raised: None });
            }
            let Some(believed) = self.ask(issuer, &claims, above).await? else {
                // A successor's claim has taken effect.
                self.shared.judge_at_door(&claims)?;
                continue;
            };
            claims = believed;
            let above = self.shared.above(&claims);
            if above.is_empty() {
                // In a rehearsal: nobody vouches for what is left out.
                return Ok(Entered { claims, changes: true, raised: None });
            }
            let believed = Believed { fences: above, resets: Some(resets), why: None };
            match self.judge_as(Arc::clone(&claims), presented, believed).await {
                Ok(reply) => return Ok(Entered { claims, changes: true, raised: Some(reply.previous) }),
                // An operator has reset a mark since the question: ask anew.
                Err(_) if self.shared.resets.load(Ordering::Relaxed) != resets => {}
                Err(problem) => return Err(problem),
            }
        }
    }

    /// Asks about each of these claims that is above its mark. `None`: a newer leader's claim was taken up instead of one of them;
    /// judge again.
    async fn ask(
        &self,
        issuer: &dyn Issuer,
        claims: &Arc<[Claim]>,
        above: FenceSet,
    ) -> Result<Option<Arc<[Claim]>>, Problem> {
        let is_above = |claim: &Claim| self.shared.fences.id(&claim.fence).is_some_and(|id| above.contains(id));
        let ask = |claim| -> Boxed<'_, Result<(Claim, Option<Word>), Problem>> {
            Box::pin(async move {
                let (claim, is_above): (&Claim, bool) = claim;
                let mark = self.shared.mark(claim).map(|dated| dated.mark);
                let word = if is_above { Some(issuer::ask(issuer, claim, mark.as_ref()).await?) } else { None };
                Ok((claim.clone(), word))
            })
        };
        let words = all(claims.iter().map(|claim| ask((claim, is_above(claim)))).collect()).await;
        let (mut believed, mut successors) = (Vec::with_capacity(claims.len()), Vec::new());
        for word in words {
            match word? {
                (claim, None) => believed.push(claim),
                (_, Some(Word::Believed(claim))) => believed.push(claim),
                (_, Some(Word::Succeeded(leader))) => successors.push(leader),
                (claim, Some(Word::Refused(verdict, problem))) => {
                    self.shared.count_presenter(issuer::presenter(&claim, verdict));
                    if self.shared.enforce {
                        return Err(problem);
                    }
                    // Left out: what would be refused must not raise a mark in a rehearsal either.
                }
            }
        }
        if successors.is_empty() {
            return Ok(Some(believed.into()));
        }
        for leader in successors {
            self.raise(leader, issuer::ASKED).await?;
        }
        Ok(None)
    }

    /// Raises a mark to the token of a leader that was elected, where it is higher. True where it rose.
    pub(super) async fn raise(&self, claim: Claim, why: &'static str) -> Result<bool, Problem> {
        let resets = self.shared.resets.load(Ordering::Relaxed);
        let Some(id) = self.shared.fences.id(&claim.fence) else {
            return Err(Problem::new(Kind::NotFound, format!("there is no fence {}", claim.fence)));
        };
        let claims: Arc<[Claim]> = Arc::new([claim]);
        if self.shared.above(&claims).is_empty() {
            return Ok(false);
        }
        let mut fences = FenceSet::default();
        fences.insert(id);
        let believed = Believed { fences, resets: Some(resets), why: Some(why) };
        match self.judge_as(claims, fences, believed).await {
            Ok(reply) => Ok(reply.verdict == crate::fence::Verdict::Advanced),
            // Somebody has claimed a higher token meanwhile.
            Err(problem) if matches!(problem.kind, Kind::StaleToken | Kind::TokenConflict) => Ok(false),
            Err(problem) => Err(problem),
        }
    }

    /// Judges claims, and raises their marks where they rise and that is believed, without running anything.
    pub(super) async fn judge_as(
        &self,
        claims: Arc<[Claim]>,
        presented: FenceSet,
        believed: Believed,
    ) -> Result<Reply, Problem> {
        let program = Program { requests: Vec::new(), format: Format::Pipeline };
        let room = self.shared.budget.room(queue::lane(presented));
        arrived(self.submit(claims, presented, believed, None, None, None, program, Run::once(), room)?).await
    }
}

/// Waits for all of them at once.
async fn all<T>(mut futures: Vec<Boxed<'_, T>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    poll_fn(|cx| {
        for (future, done) in futures.iter_mut().zip(&mut done).filter(|(_, done)| done.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(cx) {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}
