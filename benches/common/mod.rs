//! What the benchmarks share; none needs all of it.
#![allow(dead_code, reason = "each benchmark is a program of its own")]

use std::net::{SocketAddr, TcpListener};
use std::str::FromStr;

/// The number that stands behind this option on the command line.
pub fn option<T: FromStr>(name: &str, default: T) -> T {
    std::env::args().skip_while(|arg| arg != name).nth(1).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// An address that was free a moment ago.
pub fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// The middle one.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
