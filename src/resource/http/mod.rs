//! An HTTP service behind the gate, fenced with guarantee *drained*.
//!
//! The way of a request:
//! - [`path`]: one normal form of its path
//! - [`template`]: the fence's name, made from that form
//! - [`rules`]: whether it is a write
//! - [`head`], [`seen`], [`gained`], [`destination`]: headers on their way through
//! - `forward.rs`, `answer.rs`: judged, forwarded, answered
//! - [`exchange`], `pump.rs`, `upgrade.rs`: under way on a connection, and how that ends
//! - [`message`], [`body`]: what moves on a connection
//! - [`conn`]: a connection; [`pool`]: those that are unused; [`dial`]: making one
//! - [`http1`] ([`sending`], [`decode`]) and [`http2`] ([`progress`]): the two ways to speak on it
//! - [`stream`], [`wire`]: TLS or none; the socket, and how it is cut off
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
pub mod decode;
pub mod destination;
pub mod dial;
pub mod entry;
pub mod exchange;
pub mod fences;
mod forward;
pub mod gained;
pub mod head;
pub mod http1;
pub mod http2;
pub mod index;
pub mod journal;
pub mod limits;
pub mod lines;
mod load;
pub mod lookup;
pub mod message;
mod operate;
pub mod path;
pub mod pool;
pub mod progress;
pub mod pump;
mod resource;
pub mod rules;
pub mod seen;
pub mod sending;
mod state;
pub mod store;
pub mod stream;
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
