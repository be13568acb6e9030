//! An HTTP service behind the gate, fenced with guarantee *drained*.
//!
//! The way of a request:
//! - [`path`]: one normal form of its path
//! - [`template`]: the fence's name, made from that form
//! - [`rules`]: whether it is a write
//! - [`head`], [`seen`], [`destination`]: headers on their way through
//! - `forward.rs`, `answer.rs`: judged, forwarded, answered
//! - [`exchange`], `pump.rs`, `upgrade.rs`: under way on a connection, and how that ends
//! - [`pool`], [`conn`], [`wire`], [`body`]: connections, and what moves on them
//! - [`upstream`], [`tls`]: where an upstream is and how it is spoken to
//! - [`limits`]: how long things may take
//!
//! The fences:
//! - [`fences`]: the registry; what every request passes

mod answer;
mod ask;
pub mod body;
mod changes;
pub mod conn;
pub mod destination;
pub mod entry;
pub mod exchange;
pub mod fences;
mod forward;
pub mod head;
pub mod index;
pub mod journal;
pub mod limits;
mod load;
mod operate;
pub mod path;
pub mod pool;
mod pump;
mod resource;
pub mod rules;
pub mod seen;
mod state;
pub mod store;
pub mod template;
pub mod tls;
mod upgrade;
pub mod upstream;
pub mod wire;
mod worker;

pub use limits::Limits;
pub use resource::{Http, Options};
pub use rules::Rules;
pub use template::Template;
pub use upstream::{Protocol, Upstream};
