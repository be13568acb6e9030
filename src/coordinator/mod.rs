//! Seam 2: what elects a leader and issues the token.
//!
//! - [`Coordinator`] and [`Leadership`]: what every coordinator offers, and no more
//! - [`Follow`]: hearing of every new leader of many elections at once
//! - [`embedded`]: elections by lease on the gate's own clock, no other server needed
//! - `etcd`: elections by etcd, with the cargo feature `etcd`
//! - [`gate`]: the same from outside, over HTTP
//! - [`any`]: whichever of them an address names
//! - [`candidate`]: the secret by which a candidate is known to the embedded one
//!
//! Every adapter passes the same suite, `tests/it/coordinator.rs`.
//!
//! **Invariants of the seam.** In one election, every leadership has a token higher than all before it. At any time at most one
//! leadership is alive by the coordinator's own clock. What keeps a deposed leader from writing is not the lease, which it may
//! outlive without noticing, but the gate, which refuses its token.

use std::time::Duration;

use crate::fence::{FenceName, Holder, Token};
use crate::problem::{Kind, Problem};

#[cfg(feature = "client")]
pub mod any;
#[cfg(any(feature = "server", feature = "client"))]
pub mod candidate;
#[cfg(feature = "server")]
pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
mod follow;
#[cfg(feature = "client")]
pub mod gate;

pub use crate::fence::Leader;
#[cfg(feature = "server")]
pub use embedded::Embedded;
#[cfg(feature = "etcd")]
pub use etcd::Etcd;
pub use follow::{Follow, Followed, Told};
#[cfg(feature = "client")]
pub use gate::GateCoordinator;

/// What a candidate stands with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bid {
    /// The candidate's own name for itself, which others see while it leads.
    pub holder: Option<Holder>,
    /// How long the lease lasts from each renewal. A coordinator may grant more (etcd rounds short ones up), never less.
    pub ttl: Duration,
}

/// The most candidates that a [`View`] names.
pub const VIEW_WAITING_MAX: usize = 100;

/// One election as people want to see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Who leads.
    pub leader: Option<Leader>,
    /// How much of its lease is left if it isn't renewed; `None` where nobody leads or the coordinator can't tell.
    pub ttl_left: Option<Duration>,
    /// The names of those who wait, the leader not counted, in the order in which they will lead: at most the first
    /// [`VIEW_WAITING_MAX`]. `None` is a candidate that stood without a name.
    pub waiting: Vec<Option<Holder>>,
    /// How many wait.
    pub waiting_count: usize,
}

/// Signed leadership credentials, which a gate checks without asking anybody: one for each fence. Kept out of `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials(Vec<(FenceName, String)>);

impl Credentials {
    /// The one for this fence.
    pub fn of(&self, fence: &FenceName) -> Option<&str> {
        self.0.iter().find(|(one, _)| one == fence).map(|(_, credential)| credential.as_str())
    }
}

impl FromIterator<(FenceName, String)> for Credentials {
    fn from_iter<I: IntoIterator<Item = (FenceName, String)>>(all: I) -> Credentials {
        Credentials(all.into_iter().collect())
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(fence, _)| fence.as_str())).finish()
    }
}

/// Elects one leader at a time in each election, and issues it a token.
///
/// Dropping any of these futures is safe: an abandoned candidacy lapses by its TTL at the latest.
pub trait Coordinator: Send + Sync {
    /// A term of leadership.
    type Leadership: Leadership;

    /// Stands for election and waits, as long as it takes, until it leads. Where the coordinator keeps a queue, candidates
    /// lead in order of arrival. Each call is a candidacy of its own: campaigning again gives a new term and a new token.
    ///
    /// The wait may have been longer than the TTL, so no lease can be counted from the call: [`Leadership::renew`] first.
    ///
    /// # Errors
    /// A bid that can't be granted, and a coordinator out of reach.
    fn campaign(
        &self,
        election: &FenceName,
        bid: &Bid,
    ) -> impl Future<Output = Result<Self::Leadership, CoordinatorError>> + Send;

    /// Who leads now; `None` where nobody does.
    ///
    /// # Errors
    /// A coordinator out of reach.
    fn leader(&self, election: &FenceName) -> impl Future<Output = Result<Option<Leader>, CoordinatorError>> + Send;

    /// Waits, as long as it takes, for a leader with a token higher than `after` (`None`: for any leader).
    ///
    /// # Errors
    /// A coordinator out of reach.
    fn observe(
        &self,
        election: &FenceName,
        after: Option<Token>,
    ) -> impl Future<Output = Result<Leader, CoordinatorError>> + Send;

    /// The election as people want to see it, taken at one moment. An election that nobody has entered is an empty one.
    ///
    /// # Errors
    /// A coordinator out of reach.
    fn view(&self, election: &FenceName) -> impl Future<Output = Result<View, CoordinatorError>> + Send;
}

/// One term of leadership, held as long as its lease is renewed. Dropping it doesn't resign: the lease then runs out.
pub trait Leadership: Send {
    /// The token of this term: the same from its first moment to its last.
    fn token(&self) -> Token;

    /// Renews the lease and says for how long. Count it by the local monotonic clock **from before the call**: the
    /// coordinator started its own count later than that, and so ends it later.
    ///
    /// # Errors
    /// [`CoordinatorError::Lost`] where the lease has run out: this term is over for good. After any other error the lease
    /// may or may not have been renewed: go on counting from the last success.
    fn renew(&mut self) -> impl Future<Output = Result<Duration, CoordinatorError>> + Send;

    /// Signed credentials of this term, as young as its last renewal; none where the coordinator signs nothing.
    fn credentials(&self) -> Credentials {
        Credentials::default()
    }

    /// Resolves as soon as the coordinator is known to have ended this term, however it did: so that a loss is noticed between
    /// two renewals. Otherwise it pends for ever, also while the coordinator is out of reach and where its answers are in
    /// doubt: that a lease can't be known to be alive any more is for whoever counts it to notice.
    ///
    /// It belongs to nobody's lifetime: it may outlive this value, and says nothing new then.
    fn ended(&self) -> impl Future<Output = ()> + Send + 'static;

    /// Gives the leadership up, so that the next candidate leads at once.
    ///
    /// # Errors
    /// [`CoordinatorError::Lost`] where it was over already; nobody else's term is touched. After any other error it may or
    /// may not have ended: it does so by its TTL at the latest.
    fn resign(self) -> impl Future<Output = Result<(), CoordinatorError>> + Send;
}

/// Why a coordinator doesn't do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoordinatorError {
    /// The lease has run out, was resigned, or never was the caller's.
    #[error("this candidate is not, or no longer, in the election: its lease ran out, it resigned, or it never stood")]
    Lost,
    /// A TTL outside the coordinator's bounds.
    #[error("a lease lasts from {min:?} to {max:?}; {asked:?} was asked for")]
    Ttl {
        /// The TTL that was asked for.
        asked: Duration,
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// The highest token there can be was issued or claimed, so no further leader can be elected.
    #[error("election {0} can't issue another token: the highest, {max}, is taken. An operator can reset the fence's mark if it was claimed by mistake", max = Token::MAX)]
    TokensExhausted(FenceName),
    /// A table or queue of bounded size is full.
    #[error("there are {max} {what} already, and no room for another")]
    Full {
        /// What there are too many of, in the plural.
        what: &'static str,
        /// How many there can be.
        max: usize,
    },
    /// The coordinator is out of reach or can't store what it decides; nothing was done.
    #[error("the coordinator can't be reached or can't store elections: {0}")]
    Unavailable(String),
    /// The coordinator doesn't know this client, or doesn't let it do this; nothing was done.
    #[error("the coordinator doesn't allow it: {0}")]
    Denied(String),
    /// The request was taken and its end isn't known.
    #[error("it isn't known whether the coordinator has done this: {0}")]
    OutcomeUnknown(String),
}

impl CoordinatorError {
    /// The same as what a client of the gate is told.
    pub fn problem(&self, election: &FenceName) -> Problem {
        let kind = match self {
            CoordinatorError::Lost => Kind::LeadershipLost,
            CoordinatorError::Ttl { .. } => Kind::BadRequest,
            CoordinatorError::TokensExhausted(_) => Kind::TokensExhausted,
            CoordinatorError::Full { .. } => Kind::Overloaded,
            // That the gate may not ask is no fault of its client's, who can only wait until it is put right.
            CoordinatorError::Unavailable(_) | CoordinatorError::Denied(_) => Kind::Unavailable,
            CoordinatorError::OutcomeUnknown(_) => Kind::OutcomeUnknown,
        };
        Problem::new(kind, self.to_string()).about(election, None)
    }
}
