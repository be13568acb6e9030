//! An HTTP service behind the gate, fenced with guarantee *drained*.
//!
//! The way of a request:
//! - [`path`]: one normal form of its path
//! - [`template`]: the fence's name, made from that form
//! - [`rules`]: whether it is a write
//! - [`upstream`], [`tls`]: where an upstream is and how it is spoken to
//! - [`limits`]: how long things may take

mod ask;
mod changes;
pub mod entry;
pub mod fences;
pub mod index;
pub mod journal;
pub mod limits;
mod load;
mod operate;
pub mod path;
pub mod rules;
mod state;
pub mod store;
pub mod template;
pub mod tls;
pub mod upstream;
mod worker;

pub use limits::Limits;
pub use rules::Rules;
pub use template::Template;
pub use upstream::{Protocol, Upstream};
