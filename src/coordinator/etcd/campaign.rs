//! A candidacy: from its lease to its turn.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, WatchFilterType, WatchOptions};
use tokio::time::{Instant, sleep};

use super::failure::Failure;
use super::leadership::{EtcdLeadership, Term};
use super::members::{Lease, Members};
use super::seats::{self, Origin, Seats};
use super::{LOOK_AGAIN, TTL_MAX, TTL_MIN};
use crate::coordinator::{Bid, CoordinatorError};

/// How long to wait before standing anew where a candidacy was ended from outside: somebody may be doing that on purpose.
const STAND_AGAIN: Duration = Duration::from_millis(250);

/// Stands, with a new lease, until it leads. A candidacy that ends before its turn comes (this process was paused for longer than
/// its lease, or somebody deleted its key) is followed by another one at the back of the queue.
pub(super) async fn campaign(
    members: &Arc<Members>,
    seats: Seats,
    bid: &Bid,
) -> Result<EtcdLeadership, CoordinatorError> {
    if bid.ttl < TTL_MIN || bid.ttl > TTL_MAX {
        return Err(CoordinatorError::Ttl { asked: bid.ttl, min: TTL_MIN, max: TTL_MAX });
    }
    // Whole seconds, and rather more than was asked for than less.
    let seconds = bid.ttl.as_secs() + u64::from(bid.ttl.subsec_nanos() > 0);
    let seconds = i64::try_from(seconds).expect("an hour at most");
    let holder = bid.holder.as_deref().unwrap_or_default();
    loop {
        let grant = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let granted = members.ask(members.tries(), grant).await.map_err(Failure::changing)?;
        let since = Instant::now();
        // From here on, who drops this candidacy gives it up.
        let lease = Lease { members: Arc::clone(members), id: granted.id(), is_kept: false };
        let ttl = seats::seconds(granted.ttl()).unwrap_or(bid.ttl);
        let stand = |mut client: Client| {
            let (seats, id) = (&seats, lease.id);
            async move { seats.stand(&mut client, id, holder).await }
        };
        match members.ask(members.tries_within(ttl), stand).await {
            Ok(revision) => {
                if let Some(origin) = wait(members, &seats, lease.id, revision, ttl, since).await? {
                    let token =
                        seats::token(revision).map_err(|error| CoordinatorError::Unavailable(error.to_string()))?;
                    let term = Term { seats, lease: lease.id, revision };
                    return Ok(EtcdLeadership::new(lease, term, token, ttl, origin));
                }
            }
            Err(Failure::NoLease) => {}
            Err(failure) => return Err(failure.changing()),
        }
        tracing::info!(lease = lease.id, "this candidacy was ended before its turn came; standing again");
        sleep(STAND_AGAIN).await;
    }
}

/// Waits for its turn, keeping the lease alive. `None` where the candidacy has ended.
async fn wait(
    members: &Members,
    seats: &Seats,
    lease: i64,
    revision: i64,
    ttl: Duration,
    granted: Instant,
) -> Result<Option<Origin>, CoordinatorError> {
    let every = (ttl / 3).min(LOOK_AGAIN);
    let tries = members.tries_within(ttl);
    let mut renewed = granted;
    loop {
        // An outage that is shorter than the lease costs nobody its place, so it ends no wait either.
        let is_borne = |failure: &Failure, renewed: Instant| failure.is_passing() && renewed.elapsed() < ttl;
        if renewed.elapsed() >= every {
            let sent = Instant::now();
            let keep = |mut client: Client| async move { client.lease_keep_alive(lease).await.map(|_| ()) };
            match members.ask(tries, keep).await {
                Ok(()) => renewed = sent,
                // Whether that is so, the key will show.
                Err(Failure::NoLease) => {}
                Err(failure) if is_borne(&failure, renewed) => continue,
                Err(failure) => return Err(failure.reading()),
            }
        }
        let look = |mut client: Client| async move { seats.standing(&mut client, lease, revision).await };
        let standing = match members.ask(tries, look).await {
            Ok(standing) => standing,
            Err(failure) if is_borne(&failure, renewed) => continue,
            Err(failure) => return Err(failure.reading()),
        };
        // **Nobody leads whose own key has gone**, however long ago it was put and whatever woke us.
        if !standing.is_here {
            return Ok(None);
        }
        let Some(ahead) = standing.ahead else { return Ok(Some(standing.origin)) };
        let gone =
            WatchOptions::new().with_start_revision(standing.revision + 1).with_filters([WatchFilterType::NoPut]);
        let until_due = every.saturating_sub(renewed.elapsed()).max(every / 8);
        members.hint(&ahead, gone, until_due, |_| true).await;
    }
}
