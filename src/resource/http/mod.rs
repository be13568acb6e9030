//! An HTTP service behind the gate, fenced with guarantee *drained*.
//!
//! - [`path`]: one normal form of a request's path
//! - [`template`]: the fence's name, made from that form
//! - [`rules`]: what is a write
//! - [`upstream`], [`tls`]: where an upstream is and how it is spoken to
//! - [`limits`]: how long things may take

pub mod limits;
pub mod path;
pub mod rules;
pub mod template;
pub mod tls;
pub mod upstream;

pub use limits::Limits;
pub use rules::Rules;
pub use template::Template;
pub use upstream::{Protocol, Upstream};
