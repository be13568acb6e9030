//! Listeners, routes, requests in and responses out.

pub mod elections;
pub mod respond;
