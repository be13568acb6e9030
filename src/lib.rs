//! fencegate: a storage proxy that enforces fencing tokens.
//!
//! A map of the modules, innermost first; dependencies point inward:
//!
//! - [`fence`]: the pure core: token, claim, mark, verdict
//! - [`problem`]: everything that is refused or fails, in one table
//! - [`access`]: who may do what
//! - [`tls`]: certificates and keys, of both sides
//! - [`endpoint`]: a small HTTP client to one listener of a gate
//! - [`headers`]: the names of the contract's headers; `json`: strings straight into an answer's bytes
//! - [`lock`]: keeps a second process away; `files`: what outlives a loss of power
//! - [`fail`]: where tests kill the process; nothing in release builds
//! - [`resource`]: seam 1, the thing written to
//! - [`coordinator`]: seam 2, what elects a leader and issues the token
//! - [`client`]: leadership that knows when it ends, and clients bound to it
//! - [`trust`]: between the two: who is asked before a token is believed
//! - [`server`]: listeners, routes, responses
//! - `backup`: everything of a gate copied while it runs, and put back
//! - [`config`], [`telemetry`], [`cli`]: outermost
//!
//! `fuzzing`, in tests and for the programs of `fuzz/` only, has what must hold for any bytes.
//!
//! Cargo features: `client` and `etcd` for a program that leads and writes; `server` for the gate; `cli`, the default, for all.
#![deny(unsafe_code)]

#[cfg(feature = "server")]
pub mod access;
#[cfg(feature = "cli")]
pub mod backup;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
pub mod config;
pub mod coordinator;
#[cfg(feature = "client")]
pub mod endpoint;
#[cfg(feature = "server")]
pub mod fail;
pub mod fence;
#[cfg(feature = "server")]
mod files;
#[cfg(all(feature = "server", any(test, feature = "fuzzing")))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(feature = "server", feature = "client"))]
pub mod headers;
#[cfg(feature = "server")]
mod json;
#[cfg(feature = "server")]
pub mod lock;
pub mod problem;
#[cfg(feature = "server")]
pub mod resource;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
mod socket;
#[cfg(feature = "cli")]
pub mod telemetry;
#[cfg(any(feature = "server", feature = "tls"))]
pub mod tls;
#[cfg(feature = "server")]
pub mod trust;
