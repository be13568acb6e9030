//! What a write costs as everything grows: fences from one to ten millions, connections from one to ten thousand, statements in a request,
//! writers of one fence, the database from empty to 10 gigabytes; and the memory of a fence and of an idle connection.
//!
//! `make bench-scale`, or `cargo bench --bench scale` (`-- --only fences,size --seconds 1 --rounds 3`; `--fences 1000000`,
//! `--connections 1000`, `--megabytes 1000` for less; `--out DIR`: where `data`, `images` and `scale.md` are, instead of docs). Processor
//! time hardly depends on what else the machine does; how many a second does.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use fencegate::cli::bench::machine::{Machine, Noise};
use serde_json::json;

use common::{list, median, option};

#[path = "../common/mod.rs"]
mod common;
mod curves;
mod gate;
#[path = "../common/marks.rs"]
mod marks;
mod told;

/// What is asked for.
pub struct Options {
    rounds: usize,
    time: Duration,
    fences: u64,
    connections: usize,
    megabytes: u64,
}

/// Says how far it has come.
fn say(text: &str) {
    println!("{text}");
}

/// Each connection is an open file, here and in the gates, which have the same limit.
fn more_files(wanted: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: Some(wanted), maximum: Some(limit.maximum.map_or(wanted, |most| most.max(wanted))) };
    let allowed = Rlimit { current: limit.maximum, ..limit };
    if setrlimit(Resource::Nofile, raised).or_else(|_| setrlimit(Resource::Nofile, allowed)).is_err() {
        say("there can't be more open files: some points will be missing");
    }
}

fn main() {
    let options = Options {
        rounds: option("--rounds", 3),
        time: Duration::from_secs_f64(option("--seconds", 1.0)),
        fences: option("--fences", 10_000_000),
        connections: option("--connections", 10_000),
        megabytes: option("--megabytes", 10_000),
    };
    more_files(65_536);
    let only = list("--only");
    let docs = PathBuf::from(option("--out", concat!(env!("CARGO_MANIFEST_DIR"), "/docs").to_owned()));
    let Machine { cpus, cpu_model, .. } = Machine::this();
    for (name, measure) in curves::ALL {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let (load, began) = (Noise::load_average().unwrap_or(f64::NAN), Instant::now());
        say(&format!("--- {name}"));
        let curves = measure(&options);
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let (rounds, time, model) = (options.rounds, options.time, cpu_model.clone().unwrap_or_default());
        let run = format!(
            "{}, {cpus} processors, {model}, load {load:.1} before, medians of {rounds} × {time:?}",
            &now[..10]
        );
        // After each, so that what was measured is there if the next one fails.
        let all = told::save(&docs.join("data/scale.json"), &curves, &json!(run));
        told::draw(&docs.join("images"), &all);
        told::tell(&docs.join("scale.md"), &all);
        say(&format!("--- {name}: {:.0} s", began.elapsed().as_secs_f64()));
    }
}
