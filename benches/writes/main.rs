//! Durable fenced writes a second through the real gate, in interleaved rounds, medians and ratios: against a loop over rusqlite
//! that commits each write on the same disk, the same gate with its check off, the same gate where `fsync` does nothing, Redis
//! (`appendfsync always`, the token compared and the write made by one script), PostgreSQL (the same in one statement) and etcd (in
//! one transaction).
//!
//! `cargo bench --bench writes` (`-- --rounds 9 --clients 256 --seconds 2 --without etcd,PostgreSQL --json FILE`; `--slower-disk-ms 2`: as if the
//! disk took so much longer for each `fsync`, for Redis and the gate). What isn't installed is left
//! out, and said: `redis-server`, PostgreSQL, etcd, a C compiler for the gate without `fsync`. The load generator is one thread, and shares the processors.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::json;

use common::{list, median, option, rounds_of, write_json};
use load::{Rate, Talk};

#[path = "../common/mod.rs"]
mod common;
mod load;
mod servers;

struct Options {
    rounds: usize,
    clients: usize,
    time: Duration,
    /// How much longer a disk takes, as if it were a slower one; milliseconds.
    slower_ms: f64,
}

fn options() -> Options {
    Options {
        rounds: option("--rounds", 5),
        clients: option("--clients", 64),
        time: Duration::from_secs_f64(option("--seconds", 2.0)),
        slower_ms: option("--slower-disk-ms", 0.0),
    }
}

/// The loop's name.
const LOOP: &str = "rusqlite loop";

/// Commits a second of a loop that commits each write.
fn plain(dir: &Path, time: Duration) -> f64 {
    let db = Connection::open(dir.join("plain.db")).expect("it opens");
    db.pragma_update(None, "journal_mode", "WAL").expect("WAL");
    db.pragma_update(None, "synchronous", "FULL").expect("FULL");
    db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v TEXT)", []).expect("a table");
    let mut insert = db.prepare("INSERT INTO t (v) VALUES (?)").expect("a statement");
    let (started, mut count) = (Instant::now(), 0_u64);
    while started.elapsed() < time {
        insert.execute(["hello world"]).expect("written");
        count += 1;
    }
    count as f64 / started.elapsed().as_secs_f64()
}

fn report(name: &str, rates: &[Rate], fenced: &[Rate]) {
    let of = |pick: fn(&Rate) -> f64| median(rates.iter().map(pick));
    let ratio = median(fenced.iter().zip(rates).map(|(one, other)| one.per_s / other.per_s));
    let (per_s, server, load) = (of(|rate| rate.per_s), of(|rate| rate.server_us), of(|rate| rate.load_us));
    let share = load * per_s / 1e4;
    println!(
        "{name:<14} {per_s:>8.0}/s; fenced over it {ratio:>6.3}; processor time each: server {server:>5.1} us, load generator {load:>4.1} us ({share:.0}% of one)"
    );
}

fn main() {
    let options = options();
    // Beside the build, not in /tmp, which may be memory.
    let dirs = [(); 6].map(|()| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"));
    let [dir, open, unsafe_dir, redis_dir, postgres_dir, etcd_dir] = dirs.each_ref().map(|dir| dir.path());
    let is_slower = options.slower_ms > 0.0;
    let slower = is_slower.then(|| {
        let longer = Duration::from_secs_f64(options.slower_ms / 1e3);
        servers::slow_fsync(dir, longer).expect("a C compiler")
    });
    let slower = slower.as_deref();
    let fenced = servers::gate(dir, &[], slower);
    let unchecked = servers::gate(open, &["--no-enforce"], slower);
    let mut without = list("--without");
    if is_slower {
        // Who reads no library of ours: a program that links none, another user's, this one itself.
        without.extend(["etcd", "PostgreSQL", "fsync off", LOOP].map(str::to_owned));
    }
    let wanted = |name: &str| !without.iter().any(|other| other == name);
    let unsynced = wanted("fsync off").then(|| servers::no_fsync(unsafe_dir)).flatten();
    let unsynced = unsynced.map(|library| servers::gate(unsafe_dir, &[], Some(&library)));
    let mut talks: Vec<(&str, Talk)> = vec![
        ("fenced", servers::through_gate(&fenced, 7, "200")),
        ("refusals", servers::through_gate(&fenced, 6, "412")),
        ("check off", servers::through_gate(&unchecked, 7, "200")),
    ];
    talks.extend(unsynced.as_ref().map(|gate| ("fsync off", servers::through_gate(gate, 7, "200"))));
    let mut missing: Vec<&str> = Vec::new();
    if wanted("fsync off") && unsynced.is_none() {
        missing.push("fsync off");
    }
    let mut others = Vec::new();
    type Start<'a> = &'a dyn Fn(&Path) -> Option<(servers::Server, Talk)>;
    let starts: [(&str, &Path, Start<'_>); 3] = [
        ("Redis", redis_dir, &|dir| servers::redis(dir, slower)),
        ("PostgreSQL", postgres_dir, &servers::postgres),
        ("etcd", etcd_dir, &servers::etcd),
    ];
    for (name, dir, start) in starts.into_iter().filter(|(name, ..)| wanted(name)) {
        match start(dir) {
            Some((server, talk)) => {
                others.push(server);
                talks.push((name, talk));
            }
            None => missing.push(name),
        }
    }
    missing.iter().for_each(|name| println!("{name} isn't here, and is left out"));
    talks.retain(|(name, _)| wanted(name));
    let count = talks.len() + usize::from(wanted(LOOP));
    let mut rates = vec![Vec::new(); count];
    println!("{} rounds of {:?}, {} clients", options.rounds, options.time, options.clients);
    for round in 1..=options.rounds {
        print!("round {round}:");
        // Each begins with another.
        let order = (0..count).map(|place| (round + place) % count);
        for index in order {
            let (name, rate) = match talks.get(index) {
                Some((name, talk)) => (*name, load::load(talk, options.clients, options.time)),
                None => (LOOP, Rate { per_s: plain(dir, options.time), load_us: 0.0, server_us: 0.0 }),
            };
            print!(" {name} {:.0}/s,", rate.per_s);
            let _ = std::io::stdout().flush();
            rates[index].push(rate);
        }
        println!();
    }
    let names: Vec<&str> = talks.iter().map(|(name, _)| *name).chain([LOOP]).collect();
    names.iter().zip(&rates).for_each(|(name, other)| report(name, other, &rates[0]));
    let each = names.iter().zip(&rates).map(|(name, rates)| rounds_of(name, rates.iter().map(Rate::json)));
    let disk = if is_slower { format!(", {} ms more for each fsync", options.slower_ms) } else { String::new() };
    let group = json!({ "name": format!("durable writes, {} connections{disk}", options.clients), "servers": each.collect::<Vec<_>>() });
    let told =
        json!({ "rounds": options.rounds, "seconds": options.time.as_secs_f64(), "connections": options.clients });
    write_json(&json!({ "options": told, "groups": [group], "missing": missing }));
}
