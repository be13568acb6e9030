//! How much a flood of stale writes slows the leader's own: one deposed leader that asks again as soon as it is refused, on many
//! connections, beside a leader that writes; to a SQLite database, and to an HTTP service. Interleaved rounds with the flood and without it,
//! by a gate as it is and by one that doesn't hold refusals back (`--limit refusals`), which shows what that is for. Medians, ratios of
//! pairs, and the gate's processor time for each of the leader's writes, which other work on the machine changes least.
//!
//! Leader, flood, gate and upstream share the processors, as they would on the machine of somebody who tries: so the flood takes from the
//! leader what sending it takes, too.
//!
//! The last lines say whether enough is kept, and hold that against the gate that doesn't hold back: where that one keeps as much, nothing was
//! shown, and that is said, too.
//!
//! `make bench-flood`, or `cargo bench --bench flood` (`-- --rounds 7 --seconds 1 --clients 16 --flood 64 --json FILE`): a minute and a half
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::net::SocketAddr;
use std::time::Duration;

use common::{dir, median, option, pass, rounds_of, write_json};
use fencegate::cli::bench::stats::Interval;
use load::{Rate, Talk};
use serde_json::{Value, json};
use tempfile::TempDir;

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/hello.rs"]
mod hello;
#[path = "../writes/load.rs"]
#[allow(dead_code, reason = "it is shared")]
mod load;
#[path = "../writes/servers.rs"]
#[allow(dead_code, reason = "they are shared")]
mod servers;

/// Of the leader's throughput, what has to be left to it in the flood, and what should be.
const FLOOR: f64 = 0.90;
const AIM: f64 = 0.97;
/// How much longer the flood lasts than what is measured, at each end.
const MARGIN: Duration = Duration::from_millis(250);

/// A small write to a service, with this token, each answered so.
fn proxied(gate: &servers::Server, token: u64, wanted: &str) -> Talk {
    let body = "x".repeat(128);
    let head =
        format!("POST /items/1 HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\ncontent-length: {}", body.len());
    let request = format!("{head}\r\n\r\n{body}").into_bytes();
    Talk { request, ..servers::through_gate(gate, token, wanted) }
}

/// One gate before a database or a service, with a leader's talk and that of the one that was deposed.
struct Subject {
    /// The gate as it is, or its control.
    name: &'static str,
    leader: Talk,
    stale: Talk,
    _gate: servers::Server,
    _dir: TempDir,
    /// Without the flood, and with it.
    rates: [Vec<Rate>; 2],
}

impl Subject {
    fn sqlite(name: &'static str, limits: &[&str]) -> Subject {
        let dir = dir();
        let file = dir.path().join("gate.db");
        let gate = servers::gate_with(dir.path(), &[&["--sqlite", &*file.to_string_lossy()], limits].concat(), None);
        servers::create(&gate);
        let (leader, stale) = (servers::through_gate(&gate, 7, "200"), servers::through_gate(&gate, 6, "412"));
        Subject { name, leader, stale, _gate: gate, _dir: dir, rates: [const { Vec::new() }; 2] }
    }

    fn http(upstream: SocketAddr, name: &'static str, limits: &[&str]) -> Subject {
        let (dir, upstream) = (dir(), format!("http://{upstream}"));
        let gate = servers::gate_with(dir.path(), &[&["--upstream", &*upstream], limits].concat(), None);
        let talk = |token, wanted| proxied(&gate, token, wanted);
        let (leader, stale) = (talk(7, "200"), talk(6, "412"));
        // The mark, before anybody is stale.
        load::load(&leader, 1, Duration::ZERO);
        Subject { name, leader, stale, _gate: gate, _dir: dir, rates: [const { Vec::new() }; 2] }
    }

    fn round(&mut self, clients: usize, flood: usize, time: Duration, with_flood: bool) {
        let rate = std::thread::scope(|scope| {
            if with_flood {
                scope.spawn(|| load::load(&self.stale, flood, time + 2 * MARGIN));
                pass(MARGIN);
            }
            load::load(&self.leader, clients, time)
        });
        self.rates[usize::from(with_flood)].push(rate);
        pass(Duration::from_millis(50));
    }

    /// In the flood over without it, round by round.
    fn ratios(&self, pick: fn(&Rate) -> f64) -> Vec<f64> {
        let [quiet, flooded] = &self.rates;
        quiet.iter().zip(flooded).map(|(quiet, flooded)| pick(flooded) / pick(quiet)).collect()
    }

    /// What of its throughput is left to the leader.
    fn kept(&self) -> Interval {
        Interval::of(&self.ratios(|rate| rate.per_s)).expect("there was a round")
    }

    fn report(&self, kind: &str) {
        let [quiet, flooded] = &self.rates;
        let of = |rates: &[Rate], pick: fn(&Rate) -> f64| median(rates.iter().map(pick));
        let ratio = |pick: fn(&Rate) -> f64| median(self.ratios(pick).into_iter());
        println!(
            "{:<28} {:>8.0}/s alone, {:>8.0}/s in the flood: ratio {:.3}; gate's processor time for each write {:.1} us, {:.1} us: ratio {:.3}",
            format!("{kind}, {}", self.name),
            of(quiet, |rate| rate.per_s),
            of(flooded, |rate| rate.per_s),
            ratio(|rate| rate.per_s),
            of(quiet, |rate| rate.server_us),
            of(flooded, |rate| rate.server_us),
            ratio(|rate| rate.server_us),
        );
    }

    fn json(&self) -> [Value; 2] {
        let [quiet, flooded] = &self.rates;
        let of =
            |when: &str, rates: &[Rate]| rounds_of(&format!("{}, {when}", self.name), rates.iter().map(Rate::json));
        [of("in the flood", flooded), of("alone", quiet)]
    }
}

/// A gate as it is, and its control: the same one where refusals aren't held back.
struct Pair {
    kind: &'static str,
    usual: Subject,
    control: Subject,
}

impl Pair {
    fn of(kind: &'static str, subject: impl Fn(&'static str, &[&str]) -> Subject) -> Pair {
        let (usual, control) =
            (subject("as it is", &[]), subject("not held back", &["--limit", "refusals=1000000000"]));
        Pair { kind, usual, control }
    }

    /// Whether enough is kept, and whether it is what holds back that keeps it.
    fn verdict(&self) -> String {
        let (kept, control) = (self.usual.kept(), self.control.kept());
        let is_clear = control.high < kept.low;
        let word = match (kept.median >= FLOOR, is_clear) {
            (true, true) if kept.median >= AIM => "aim reached",
            (true, true) => "passed",
            (true, false) => {
                "NOTHING SHOWN: without holding back it keeps no less; the flood is too weak, or the machine too noisy"
            }
            (false, true) => "MISSED",
            (false, false) => {
                "MISSED, and no better than without holding back: is the limit lifted for the gate as it is, too?"
            }
        };
        let told = |kept: Interval| format!("{:.2} ({:.2} to {:.2})", kept.median, kept.low, kept.high);
        format!(
            "{}: of the leader's throughput {} is kept, {} where refusals aren't held back; floor {FLOOR:.2}, aim {AIM:.2}: {word}",
            self.kind,
            told(kept),
            told(control),
        )
    }

    fn json(&self) -> Value {
        let name = format!("a leader's writes beside a flood of stale ones, {}", self.kind);
        let servers = [self.usual.json(), self.control.json()].concat();
        json!({ "name": name, "servers": servers })
    }
}

fn main() {
    let (rounds, clients, flood) = (option("--rounds", 7), option("--clients", 16), option("--flood", 64));
    let time = Duration::from_secs_f64(option("--seconds", 1.0));
    let upstream = hello::service();
    let mut pairs = [
        Pair::of("SQLite", Subject::sqlite),
        Pair::of("HTTP service", |name, limits| Subject::http(upstream, name, limits)),
    ];
    println!("{rounds} rounds of {time:?}; a leader with {clients} connections, a flood of stale writes on {flood}");
    for round in 0..=rounds {
        for subject in pairs.iter_mut().flat_map(|pair| [&mut pair.usual, &mut pair.control]) {
            // Each second time the other way round; the first round warms up.
            for with_flood in [round % 2 == 1, round % 2 == 0] {
                subject.round(clients, flood, time, with_flood);
            }
            if round == 0 {
                subject.rates.iter_mut().for_each(Vec::clear);
            }
        }
    }
    for pair in &pairs {
        pair.usual.report(pair.kind);
        pair.control.report(pair.kind);
    }
    println!();
    pairs.iter().for_each(|pair| println!("{}", pair.verdict()));
    let told = json!({ "rounds": rounds, "seconds": time.as_secs_f64(), "clients": clients, "flood": flood });
    let groups: Vec<Value> = pairs.iter().map(Pair::json).collect();
    write_json(&json!({ "options": told, "groups": groups, "missing": [] }));
}
