//! Listeners, routes, requests in and responses out.

pub mod respond;
