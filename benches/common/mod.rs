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

/// The values that stand behind this option, separated by commas.
pub fn list(name: &str) -> Vec<String> {
    let text: String = option(name, String::new());
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Writes this to the file that `--json` names, if it does.
pub fn write_json(value: &serde_json::Value) {
    let file: String = option("--json", String::new());
    if !file.is_empty() {
        std::fs::write(&file, format!("{value:#}\n")).expect("the file of --json can be written");
    }
}
