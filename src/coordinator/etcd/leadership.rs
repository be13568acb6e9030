//! A term, from its election to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, WatchFilterType, WatchOptions};
use tokio::time::{sleep, timeout};

use super::LOOK_AGAIN;
use super::failure::Failure;
use super::members::{Lease, Members};
use super::seats::{Origin, Seats};
use crate::coordinator::{CoordinatorError, Leadership};
use crate::fence::Token;

/// How often a renewal is begun anew, in one call, because it can't be trusted.
const RENEWALS_MAX: u32 = 4;
/// How long to wait before that.
const RENEW_AGAIN: Duration = Duration::from_millis(20);
/// How long to wait before etcd, once it was out of reach, is asked again whether a term goes on.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What tells one term from all others.
#[derive(Debug, Clone)]
pub(super) struct Term {
    pub(super) seats: Seats,
    pub(super) lease: i64,
    /// The create revision of its key: the token, as etcd has it.
    pub(super) revision: i64,
}

/// A term of leadership by etcd.
pub struct EtcdLeadership {
    lease: Lease,
    term: Term,
    token: Token,
    ttl: Duration,
    /// Who said last that the key is there.
    origin: Origin,
}

impl EtcdLeadership {
    pub(super) fn new(mut lease: Lease, term: Term, token: Token, ttl: Duration, origin: Origin) -> EtcdLeadership {
        // From here on it is for its holder to give it up: dropping a leadership doesn't resign.
        lease.is_kept = true;
        EtcdLeadership { lease, term, token, ttl, origin }
    }

    /// The lease that the key of this term has, as etcd knows it: `etcdctl lease timetolive` takes it in hexadecimal.
    pub fn lease_id(&self) -> i64 {
        self.term.lease
    }

    /// Renews once. Whether the lease can be counted on for its full TTL from before this call.
    ///
    /// A member that was the cluster's leader and doesn't know yet that it isn't (it was paused, or cut off) answers keep-alives
    /// all the same in etcd before 3.4.31 and 3.5.13, and no lease is renewed by it. So a renewal counts only between two linearizable reads from
    /// one member in one raft term: in that term, up to the second read, the member's leader was the cluster's.
    async fn renew_once(&mut self) -> Result<bool, CoordinatorError> {
        let term = &self.term;
        let renew = |mut client: Client| async move {
            let renewed = match client.lease_keep_alive(term.lease).await {
                Ok(_) => true,
                Err(error) if Failure::of("", &error) == Failure::NoLease => false,
                Err(error) => return Err(error),
            };
            let (is_here, _, origin) = term.seats.is_here(&mut client, term.lease, term.revision).await?;
            Ok((renewed, is_here, origin))
        };
        let members = &self.lease.members;
        let asked = members.ask(members.tries_within(self.ttl), renew).await;
        let (renewed, is_here, origin) = asked.map_err(Failure::changing)?;
        if !is_here {
            return Err(CoordinatorError::Lost);
        }
        let same = std::mem::replace(&mut self.origin, origin) == origin;
        Ok(renewed && same)
    }
}

impl Leadership for EtcdLeadership {
    fn token(&self) -> Token {
        self.token
    }

    async fn renew(&mut self) -> Result<Duration, CoordinatorError> {
        let ttl = self.ttl;
        let renewed = async {
            for _ in 0..RENEWALS_MAX {
                if self.renew_once().await? {
                    return Ok(ttl);
                }
                sleep(RENEW_AGAIN).await;
            }
            Err(CoordinatorError::OutcomeUnknown("the etcd cluster is changing its leader".to_owned()))
        };
        // Later than that, the answer is worth nothing to anybody.
        let late = || CoordinatorError::OutcomeUnknown(format!("etcd has not confirmed it within {ttl:?}"));
        timeout(ttl, renewed).await.unwrap_or_else(|_| Err(late()))
    }

    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let (members, term) = (Arc::clone(&self.lease.members), self.term.clone());
        async move { until_ended(&members, &term).await }
    }

    async fn resign(mut self) -> Result<(), CoordinatorError> {
        // The lease, too, is of no use any more; the next leader doesn't wait for that.
        self.lease.is_kept = false;
        let (term, asked) = (&self.term, AtomicUsize::new(0));
        let leave = |mut client: Client| {
            let nth = asked.fetch_add(1, Ordering::Relaxed);
            async move { Ok((nth, term.seats.leave(&mut client, term.lease, term.revision).await?)) }
        };
        let members = &self.lease.members;
        match members.ask(members.tries(), leave).await {
            Ok((_, true)) => Ok(()),
            Ok((0, false)) => Err(CoordinatorError::Lost),
            // An earlier try, whose answer was lost, may have done it. It is over in any case.
            Ok((_, false)) => Ok(()),
            // Without space left etcd takes no transactions, or takes them and says that it didn't. The key goes with its lease.
            Err(Failure::Refused(_)) => {
                let revoke = |mut client: Client| async move { client.lease_revoke(term.lease).await.map(|_| ()) };
                members.ask(members.tries(), revoke).await.map_err(Failure::changing)
            }
            Err(failure) => Err(failure.changing()),
        }
    }
}

/// Waits until the key of a term has gone. Nobody else can lead before: a later candidate's create revision is higher.
async fn until_ended(members: &Members, term: &Term) {
    loop {
        let look = |mut client: Client| async move { term.seats.is_here(&mut client, term.lease, term.revision).await };
        match members.ask(members.tries(), look).await {
            Ok((false, ..)) => return,
            Ok((true, revision, _)) => {
                let gone = WatchOptions::new().with_start_revision(revision + 1).with_filters([WatchFilterType::NoPut]);
                members.hint(term.seats.key(term.lease).as_bytes(), gone, LOOK_AGAIN, |_| true).await;
            }
            Err(_) => sleep(ASK_AGAIN).await,
        }
    }
}
