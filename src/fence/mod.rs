//! The core that decides: fencing tokens, claims, marks and verdicts.
//!
//! Everything here is pure: no I/O, no clock, no runtime, nothing of ours outside this folder. The same code is what the
//! gate runs, what the property tests drive and what a model checker can explore.
//!
//! - [`token`]: the number a writer presents, and how it is written on the wire
//! - [`name`]: fence names, holder names, and patterns over them
//! - [`claim`]: what one request presents, and the parsers of every form it can take
//! - [`mark`]: the high-water mark, and [`Mark::judge`], the one comparison that the product is about
//! - [`ledger`]: the marks of many fences, judged together for one request
//! - [`leader`]: what a coordinator's word means for a claim above the mark
//! - [`drain`]: one fence of a resource that can't check by itself: advance, drain, quarantine

pub mod claim;
pub mod drain;
pub mod leader;
pub mod ledger;
pub mod mark;
pub mod name;
pub mod token;

pub use claim::{Claim, ClaimError, Presented};
pub use leader::{Belief, Leader};
pub use ledger::{Admission, Ledger, Refusal};
pub use mark::{Mark, Verdict};
pub use name::{FenceName, Holder, NameError};
pub use token::{Token, TokenError};
