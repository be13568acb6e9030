//! What a program needs that leads and writes: leadership that knows when it ends, and clients bound to it.
//!
//! - [`leadership`]: a term of leadership that is kept alive in the background, and known to be over when it is
//! - [`lease`]: until when a lease is known to be alive, by the local clock. Pure
//! - [`clock`]: the clock that this is counted by
//!
//! **Invariant.** Once a [`Leadership`] has said that it may be lost, it never again says that it is alive.

pub mod clock;
pub mod leadership;
pub mod lease;

pub use leadership::{Leadership, campaign};
pub use lease::Lost;
