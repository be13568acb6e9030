//! One suite that every coordinator passes, and what only the embedded one promises.
//!
//! The suite is the functions in [`suite`], each generic over a [`Site`]: a running coordinator, and the two things that a test
//! must be able to do to it. A new adapter implements `Site` and adds one line of `conforms!`.

use std::time::Duration;

use fencegate::coordinator::{Bid, Coordinator};
use fencegate::fence::FenceName;

mod embedded;
#[cfg(feature = "etcd")]
mod etcd;
mod gate;
mod suite;

/// A coordinator under test.
pub trait Site: Sync {
    /// The adapter.
    type Coordinator: Coordinator;

    /// The lease of those whom a test lets run out, or be renewed in time: short where time is real.
    const TTL: Duration;

    /// A connection to it.
    fn coordinator(&self) -> &Self::Coordinator;

    /// Lets time pass by the coordinator's clock, and returns once it has ended the leases that ran out.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// How many candidates wait in this election now, the leader not counted.
    fn waiting(&self, election: &FenceName) -> impl Future<Output = usize> + Send;
}

/// Long enough that nothing runs out unless a test lets time pass.
pub const TTL: Duration = Duration::from_secs(60);

/// An election of this name.
pub fn election(name: &str) -> FenceName {
    name.parse().unwrap()
}

/// A bid under this holder's name.
pub fn bid(holder: &str) -> Bid {
    bid_for(holder, TTL)
}

/// A bid for a lease of this length.
pub fn bid_for(holder: &str, ttl: Duration) -> Bid {
    Bid { holder: Some(holder.parse().unwrap()), ttl }
}
