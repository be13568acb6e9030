//! Durable fenced writes a second through the real gate, in interleaved rounds, medians and ratios: against a loop over rusqlite
//! that commits each write on the same disk, the same gate with its check off, the same gate where `fsync` does nothing, Redis
//! (`appendfsync always`, the token compared and the write made by one script), PostgreSQL (the same in one statement) and etcd (in
//! one transaction).
//!
//! `cargo bench --bench writes` (`-- --rounds 9 --clients 256 --seconds 2`). What isn't installed is left out: `redis-server`,
//! PostgreSQL, etcd, a C compiler for the gate without `fsync`. The load generator is one thread, and shares the processors.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use common::{median, option};
use load::{Rate, Talk};

#[path = "../common/mod.rs"]
mod common;
mod load;
mod servers;

struct Options {
    rounds: usize,
    clients: usize,
    time: Duration,
}

fn options() -> Options {
    Options {
        rounds: option("--rounds", 5),
        clients: option("--clients", 64),
        time: Duration::from_secs(option("--seconds", 2)),
    }
}

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
    let fenced = servers::gate(dir, &[], None);
    let unchecked = servers::gate(open, &["--no-enforce"], None);
    let unsynced = servers::no_fsync(unsafe_dir).map(|library| servers::gate(unsafe_dir, &[], Some(&library)));
    let mut talks: Vec<(&str, Talk)> = vec![
        ("fenced", servers::through_gate(&fenced, 7, "200")),
        ("refusals", servers::through_gate(&fenced, 6, "412")),
        ("check off", servers::through_gate(&unchecked, 7, "200")),
    ];
    talks.extend(unsynced.as_ref().map(|gate| ("fsync off", servers::through_gate(gate, 7, "200"))));
    let (redis, redis_talk) = servers::redis(redis_dir).unzip();
    let (postgres, postgres_talk) = servers::postgres(postgres_dir).unzip();
    let (etcd, etcd_talk) = servers::etcd(etcd_dir).unzip();
    talks.extend(redis_talk.map(|talk| ("Redis", talk)));
    talks.extend(postgres_talk.map(|talk| ("PostgreSQL", talk)));
    talks.extend(etcd_talk.map(|talk| ("etcd", talk)));
    let mut rates = vec![Vec::new(); talks.len() + 1];
    println!("{} rounds of {:?}, {} clients", options.rounds, options.time, options.clients);
    for round in 1..=options.rounds {
        print!("round {round}:");
        for ((name, talk), rates) in talks.iter().zip(&mut rates) {
            let rate = load::load(talk, options.clients, options.time);
            print!(" {name} {:.0}/s,", rate.per_s);
            rates.push(rate);
        }
        let per_s = plain(dir, options.time);
        println!(" rusqlite loop {per_s:.0}/s");
        rates[talks.len()].push(Rate { per_s, load_us: 0.0, server_us: 0.0 });
    }
    let names = talks.iter().map(|(name, _)| *name).chain(["rusqlite loop"]);
    names.zip(&rates).for_each(|(name, other)| report(name, other, &rates[0]));
    drop((redis, postgres, etcd));
}
