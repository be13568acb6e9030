//! One suite that every coordinator passes, and what only the embedded one promises.
//!
//! The suite is the functions in [`suite`], each generic over a [`Site`]: a running coordinator, and the two things that a test
//! must be able to do to it. A new adapter implements `Site` and adds one line of `conforms!`.

use std::time::Duration;

use fencegate::coordinator::{Bid, Coordinator};
use fencegate::fence::FenceName;

mod embedded;
mod gate;
mod suite;

/// A coordinator under test.
pub trait Site: Sync {
    /// The adapter.
    type Coordinator: Coordinator;

    /// A connection to it.
    fn coordinator(&self) -> &Self::Coordinator;

    /// Lets time pass by the coordinator's clock, and returns once it has ended the leases that ran out.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// How many candidates wait in this election now, the leader not counted.
    fn waiting(&self, election: &FenceName) -> impl Future<Output = usize> + Send;
}

/// Long enough that nothing runs out unless a test lets time pass.
pub const TTL: Duration = Duration::from_secs(10);

/// An election of this name.
pub fn election(name: &str) -> FenceName {
    name.parse().unwrap()
}

/// A bid under this holder's name.
pub fn bid(holder: &str) -> Bid {
    Bid { holder: Some(holder.parse().unwrap()), ttl: TTL }
}
