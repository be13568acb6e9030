//! What a resource asks before a mark rises, where a token isn't believed as presented (`trust = "coordinator"`).
//!
//! The resource decides *when* to ask: before a mark would rise, outside of every lock and queue. [`Issuer`] knows *whom*: which
//! election a fence's tokens come from, and who coordinates it.

use std::sync::Arc;

use crate::fence::{Belief, Claim, FenceName, Leader, Mark, Token, Verdict};
use crate::problem::{Kind, Problem};

use super::Boxed;
use super::refusals::Presenter;

/// Why a mark rose whose token nobody has presented yet: a predecessor's claim made the gate ask.
pub const ASKED: &str = "the coordinator named this leader when an older token was presented";
/// The same, where the gate heard of the election.
pub const ELECTED: &str = "the coordinator elected this leader";

/// What issues the tokens of a resource's fences. `None` in its place: every token is believed as presented.
pub type Trust = Option<Arc<dyn Issuer>>;

/// What issues the tokens of a resource's fences.
pub trait Issuer: Send + Sync {
    /// Who leads the election of this fence; `None` where nobody does. The answer is no older than this call, or it names a
    /// leader with `presented` or a higher token.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] where the coordinator is out of reach or takes too long, [`Kind::Overloaded`] where too many ask.
    fn leader<'a>(&'a self, fence: &'a FenceName, presented: Token) -> Boxed<'a, Result<Option<Leader>, Problem>>;

    /// The election that issues this fence's tokens, for people.
    fn election(&self, fence: &FenceName) -> String;

    /// Whether this token is the present leader's as far as is known here, without asking anybody.
    fn leads(&self, fence: &FenceName, token: Token) -> bool;
}

/// What to do with a claim above the mark.
#[derive(Debug)]
pub enum Word {
    /// It may take effect, as this.
    Believed(Claim),
    /// This leader's claim takes effect first; then the other is judged again.
    Succeeded(Claim),
    /// It is refused.
    Refused(Verdict, Problem),
}

/// Asks what is to be believed of a claim above the mark, which is `mark`.
///
/// # Errors
/// As [`Issuer::leader`]: then nothing is known, and the claim must not take effect.
pub async fn ask(issuer: &dyn Issuer, claim: &Claim, mark: Option<&Mark>) -> Result<Word, Problem> {
    let told = |problem: Problem| Problem { presented: Some(claim.token), ..problem.about(&claim.fence, mark) };
    let leader = issuer.leader(&claim.fence, claim.token).await.map_err(told)?;
    let led = leader.as_ref().map(|leader| leader.token);
    let election = || issuer.election(&claim.fence);
    Ok(match Belief::weigh(claim, leader) {
        Belief::Issued(claim) => Word::Believed(claim),
        Belief::Stale(Leader { token, holder }) => Word::Succeeded(Claim { fence: claim.fence.clone(), token, holder }),
        Belief::Conflict(leader) => {
            let why = format!(
                "token {} on fence {} belongs to holder {}, as the coordinator of election {} says",
                claim.token,
                claim.fence,
                leader.holder.as_ref().map_or("?", |holder| holder.as_str()),
                election()
            );
            Word::Refused(Verdict::Conflict, told(Problem::new(Kind::TokenConflict, why)))
        }
        Belief::Unissued => {
            let led = led.map_or_else(|| "nobody leads it".to_owned(), |token| format!("token {token} leads it"));
            let why = format!(
                "the coordinator does not know token {} as the leader's in election {}: {led}; nothing was changed",
                claim.token,
                election()
            );
            Word::Refused(Verdict::Unissued, told(Problem::new(Kind::TokenUnissued, why)))
        }
    })
}

/// The same refusal, and where its presenter leads by the coordinator's word and is refused all the same, why and what to do.
pub fn explain(trust: &Trust, problem: Problem) -> Problem {
    let (Some(issuer), Kind::StaleToken) = (trust, problem.kind) else { return problem };
    let (Some(fence), Some(token)) = (&problem.fence, problem.presented) else { return problem };
    if !issuer.leads(fence, token) {
        return problem;
    }
    let detail = format!(
        "{}. Token {token} leads election {} now, but the mark is higher: the coordinator was restored from a backup, so that its \
         numbers went back, or a token was claimed by mistake. An operator who has made sure that no older leader can still write \
         sets it right: fencegate fences reset {fence} --to {token} --reason ...",
        problem.detail(),
        issuer.election(fence)
    );
    Problem { detail: Some(detail), ..problem }
}

/// Who is counted for a claim that was refused.
pub fn presenter(claim: &Claim, verdict: Verdict) -> Presenter {
    let Claim { fence, token, holder } = claim.clone();
    Presenter { fence, verdict, token, holder }
}
