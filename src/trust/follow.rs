//! Eager fencing: the gate hears of a new leader from its coordinator, and raises the mark before the leader's first write.
//!
//! Only marks that are there are raised: a fence that nobody has claimed has nobody to shut out, and made names of elections in
//! a coordinator that others use, too, must not become fences here.
//!
//! **Invariant.** A mark is only ever raised here, by the same rule as a claim would ([`Resource::succeed`]): what is told late, twice
//! or of a leader that is gone changes nothing above the mark. After an operator has set a mark to less, the next leader's token
//! is above it, and so is the present one's: it counts again as soon as it is told or presented again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metrics::{Counter, counter};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::coordinator::{Followed, Told};
use crate::fence::{Claim, FenceName, Leader, Token};
use crate::problem::{Kind, Problem};
use crate::resource::{Resource, issuer};

use super::desk::Desk;
use super::names::Elections;

/// Most elections whose leader is known without asking. Past that, refusals aren't explained, and nothing else.
const KNOWN_MAX: usize = 100_000;
/// Most marks that are being raised at once.
const RAISING_MAX: usize = 256;
/// How long until a coordinator that can't be followed is tried again.
const AGAIN: Duration = Duration::from_millis(250);
/// How often marks that couldn't be raised are tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Failures in a row after which an operator is told.
const TOLD_AFTER: u32 = 4;

/// Who leads the elections that are followed, as last told. It may be out of date, and decides nothing: it explains.
#[derive(Debug, Default)]
pub struct Known(RwLock<HashMap<FenceName, Token>>);

impl Known {
    /// The token that leads an election.
    pub fn leads(&self, election: &str) -> Option<Token> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(election).copied()
    }

    fn set(&self, election: &FenceName, token: Option<Token>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match token {
            None => drop(known.remove(election)),
            Some(token) if known.len() < KNOWN_MAX || known.contains_key(election) => {
                known.insert(election.clone(), token);
            }
            Some(_) => {}
        }
    }

    fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A resource whose fences' elections are followed.
struct Led {
    resource: Arc<dyn Resource>,
    elections: Elections,
    advances: Counter,
}

/// Follows the elections of all resources that have one coordinator.
#[allow(missing_debug_implementations, reason = "resources are trait objects")]
pub struct Follower {
    desk: Arc<Desk>,
    known: Arc<Known>,
    led: Vec<Arc<Led>>,
    followed: Followed,
    /// What couldn't be raised: tried again after asking who leads then, since what was told may be long ago by then.
    lagging: HashSet<FenceName>,
    raising: JoinSet<(FenceName, bool)>,
}

impl Follower {
    /// For the resources that this coordinator is asked for, each with the elections of its fences.
    pub fn new(desk: Arc<Desk>, known: Arc<Known>, resources: Vec<(Arc<dyn Resource>, Elections)>) -> Follower {
        let mut followed = Followed::default();
        let led = resources.into_iter().map(|(resource, elections)| {
            elections.follow(&mut followed);
            let advances = counter!("fencegate_coordinator_advances_total", "resource" => resource.name().to_owned());
            Arc::new(Led { resource, elections, advances })
        });
        let led = led.collect();
        Follower { desk, known, led, followed, lagging: HashSet::new(), raising: JoinSet::new() }
    }

    /// Follows for as long as the coordinator does. `ends`: it ends with the gate, and isn't followed anew then.
    pub async fn run(mut self, ends: bool) {
        let mut failures = 0;
        loop {
            let Some(source) = self.desk.source().map(Arc::clone) else { return };
            match source.follow(&self.followed).await {
                Ok(told) => {
                    failures = 0;
                    // All that leads is told again; what isn't leads no more.
                    self.known.clear();
                    self.hear(told).await;
                }
                Err(error) => {
                    failures += 1;
                    if failures == TOLD_AFTER {
                        let what =
                            "until it can, a new leader's predecessor is shut out only with the leader's first request";
                        tracing::warn!(%error, "the coordinator can't be followed; {what}");
                    }
                }
            }
            if ends {
                return;
            }
            sleep(AGAIN).await;
        }
    }

    async fn hear(&mut self, mut told: UnboundedReceiver<Told>) {
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(done) = self.raising.join_next() => self.raised(done.ok()),
                _ = retry.tick(), if !self.lagging.is_empty() => self.retry(),
                // What waits in here is small, and waits for marks that are being stored.
                heard = told.recv(), if self.raising.len() < RAISING_MAX => match heard {
                    Some(Told { election, leader }) => self.heard(election, leader),
                    None => return,
                },
            }
        }
    }

    fn heard(&mut self, election: FenceName, leader: Option<Leader>) {
        self.known.set(&election, leader.as_ref().map(|leader| leader.token));
        self.lagging.remove(&election);
        if let Some(leader) = leader {
            self.raise(election, leader);
        }
    }

    /// Has the marks of this election's fences raised, those that are there and lower.
    fn raise(&mut self, election: FenceName, leader: Leader) {
        let behind = behind(&self.led, &election, leader.token);
        if !behind.is_empty() {
            self.raising.spawn(async move { (election, raise(behind, leader).await) });
        }
    }

    fn raised(&mut self, done: Option<(FenceName, bool)>) {
        // A task that panicked has said so; its election is told again with its next leader.
        if let Some((election, false)) = done {
            self.lagging.insert(election);
        }
    }

    fn retry(&mut self) {
        let room = RAISING_MAX.saturating_sub(self.raising.len());
        let due: Vec<FenceName> = self.lagging.iter().take(room).cloned().collect();
        for election in due {
            self.lagging.remove(&election);
            let (desk, led) = (Arc::clone(&self.desk), self.led.clone());
            self.raising.spawn(async move {
                // The highest token: only a question that is sent from now on is an answer.
                let is_done = match desk.leader(&election, Token::MAX).await {
                    Ok(Some(leader)) => raise(behind(&led, &election, leader.token), leader).await,
                    Ok(None) => true,
                    Err(_) => false,
                };
                (election, is_done)
            });
        }
    }
}

/// The fences of this election whose mark is there and lower than the token.
fn behind(led: &[Arc<Led>], election: &FenceName, token: Token) -> Vec<(Arc<Led>, FenceName)> {
    let is_lower = |led: &Led, fence: &FenceName| {
        led.resource.fence(fence).and_then(|info| info.highest).is_some_and(|highest| highest < token)
    };
    let fence = |led: &Arc<Led>| Some((Arc::clone(led), led.elections.fence(election)?));
    led.iter().filter_map(fence).filter(|(led, fence)| is_lower(led, fence)).collect()
}

/// Raises the marks of these fences to the leader's token. False where one of them has to be tried again.
async fn raise(behind: Vec<(Arc<Led>, FenceName)>, leader: Leader) -> bool {
    let mut is_done = true;
    for (led, fence) in behind {
        let claim = Claim { fence, token: leader.token, holder: leader.holder.clone() };
        match led.resource.succeed(claim.clone(), issuer::ELECTED).await {
            Ok(true) => led.advances.increment(1),
            Ok(false) => {}
            Err(problem) => {
                is_done = !is_passing(&problem) && is_done;
                tracing::warn!(fence = %claim.fence, token = %claim.token, %problem, "a new leader's predecessor can't be shut out yet");
            }
        }
    }
    is_done
}

/// Whether it may go well the next time.
fn is_passing(problem: &Problem) -> bool {
    matches!(problem.kind, Kind::Unavailable | Kind::Overloaded | Kind::Busy | Kind::OutcomeUnknown)
}
