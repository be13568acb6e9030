//! fencegate: a storage proxy that enforces fencing tokens.
//!
//! A map of the modules, innermost first; dependencies point inward:
//!
//! - [`fence`]: the pure core: token, claim, mark, verdict
//! - [`problem`]: everything that is refused or fails, in one table
//! - [`lock`]: keeps a second process away
//! - [`resource`]: seam 1, the thing written to
//! - [`coordinator`]: seam 2, what elects a leader and issues the token
//! - [`trust`]: between the two: who is asked before a token is believed
//! - [`server`]: listeners, routes, responses
//! - [`config`], [`telemetry`], [`cli`]: outermost
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod coordinator;
pub mod fence;
pub mod lock;
pub mod problem;
pub mod resource;
pub mod server;
pub mod telemetry;
pub mod trust;
