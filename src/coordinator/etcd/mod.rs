//! etcd as the coordinator, over its own protocol.
//!
//! - [`options`]: where etcd is and who we are to it, from one address
//! - `members`: the members of a cluster, and turning from one that fails to the next
//! - `seats`: which keys an election has, and who is first
//! - `follow`: hearing of every new leader of many elections
//! - `failure`: what went wrong, and whether to ask again
//! - `campaign`, `leadership`: a candidacy until it leads; its term until it ends
//!
//! **Invariants.**
//! - A term's token is the create revision of its key, which is read back with the key. Every term has a new lease, and so a new
//!   key. Revisions rise with every change in a cluster, so tokens do.
//! - Whatever is decided is decided by a linearizable read. Watches only say when to look again: that one breaks, is cancelled, or
//!   lies in a part of its history that was compacted away, costs time and nothing else.
//! - Every request may be done twice. One that is repeated finds what the first left behind.
//!
//! Only tokens of one cluster's history rise. Restored from a backup, a cluster gives tokens again that it has given before; the
//! gate refuses those, and `docs/etcd.md` says what to do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, WatchFilterType, WatchOptions};

mod campaign;
mod failure;
mod follow;
mod leadership;
mod members;
pub mod options;
mod seats;

pub use leadership::EtcdLeadership;
pub use options::{OpenError, Options, OptionsError, Password, Tls, User};

use self::members::{Members, Tries};
use self::seats::Seats;
use super::{Bid, Coordinator, CoordinatorError, Leader, View};
use crate::fence::{FenceName, Token};

/// The shortest lease that can be asked for: etcd counts in seconds. It grants no less than 1.5 times its election timeout, so by
/// its defaults 2 s (`minTTL` in `server.go` of etcd 3.4 and 3.5).
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest lease that can be asked for.
pub const TTL_MAX: Duration = Duration::from_secs(3600);
/// The longest that anything waits on a watch before it looks again, in case the watch hangs.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How many times its timeout a request is tried for, at all members together.
const PATIENCE: u32 = 3;

/// Elections by etcd; clones share the connections.
///
/// It has its connections' tasks on the runtime that it is first used on, so that runtime has to live as long as this does.
#[derive(Clone)]
pub struct Etcd {
    members: Arc<Members>,
    prefix: Arc<str>,
    address: Arc<str>,
}

impl Etcd {
    /// Reads the files and variables that the options name. Connects to nothing yet: etcd may come up later.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(options: &Options) -> Result<Etcd, OpenError> {
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let tries = Tries { each: options.timeout, all: options.timeout * PATIENCE };
        let members = Members::new(&options.members, scheme, options.read()?, tries);
        Ok(Etcd {
            members: Arc::new(members),
            prefix: options.prefix.as_str().into(),
            address: options.to_string().into(),
        })
    }

    /// The revision of the whole store: every token that it has given is at or below it, and every one that it gives from now on above.
    ///
    /// # Errors
    /// A cluster that can't be asked.
    pub async fn revision(&self) -> Result<Token, CoordinatorError> {
        // Any election will do: it's the answer's header that counts.
        let name = "fencegate".parse().expect("a name");
        let (_, revision) = self.seat(&self.seats(&name)).await?;
        let revision = u64::try_from(revision).ok().and_then(|revision| Token::new(revision).ok());
        revision.ok_or_else(|| CoordinatorError::Unavailable("its revision is no number of a token".to_owned()))
    }

    fn seats(&self, election: &FenceName) -> Seats {
        Seats::new(&self.prefix, election)
    }

    /// Who leads, with the key, and as of which revision.
    async fn seat(&self, seats: &Seats) -> Result<(Option<seats::Seat>, i64), CoordinatorError> {
        let look = |mut client: Client| async move { seats.seat(&mut client).await };
        self.members.ask(self.members.tries(), look).await.map_err(failure::Failure::reading)
    }
}

impl Coordinator for Etcd {
    type Leadership = EtcdLeadership;

    async fn campaign(&self, election: &FenceName, bid: &Bid) -> Result<EtcdLeadership, CoordinatorError> {
        campaign::campaign(&self.members, self.seats(election), bid).await
    }

    async fn leader(&self, election: &FenceName) -> Result<Option<Leader>, CoordinatorError> {
        let (seat, _) = self.seat(&self.seats(election)).await?;
        Ok(seat.map(|seat| seat.leader))
    }

    async fn observe(&self, election: &FenceName, after: Option<Token>) -> Result<Leader, CoordinatorError> {
        let seats = self.seats(election);
        loop {
            let (seat, revision) = self.seat(&seats).await?;
            let from = WatchOptions::new().with_start_revision(revision + 1);
            match seat {
                Some(seat) if Some(seat.leader.token) > after => return Ok(seat.leader),
                // There is no other leader before this one has gone.
                Some(seat) => {
                    let gone = from.with_filters([WatchFilterType::NoPut]);
                    self.members.hint(&seat.key, gone, LOOK_AGAIN, |_| true).await;
                }
                None => {
                    let came = from.with_prefix().with_filters([WatchFilterType::NoDelete]);
                    self.members.hint(seats.prefix(), came, LOOK_AGAIN, |key| seats.is_candidate(key)).await;
                }
            }
        }
    }

    async fn view(&self, election: &FenceName) -> Result<View, CoordinatorError> {
        let seats = &self.seats(election);
        let look = |mut client: Client| async move { seats.view(&mut client).await };
        self.members.ask(self.members.tries(), look).await.map_err(failure::Failure::reading)
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Etcd({})", self.address)
    }
}
