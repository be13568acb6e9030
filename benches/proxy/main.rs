//! What a proxied, fenced write costs, against nginx and HAProxy on the same work in interleaved rounds: CPU time of the proxy for each
//! request, for small bodies and for large ones, and the 99th percentile of the latency at a load that is the same for all of them. Load
//! generator and upstream run on one processor, the proxy on another. Then what a refusal costs, against a bare hyper server and against
//! nginx, both of which answer 412 by themselves; and how long a new leader's claim and first write take where nothing is in flight,
//! beside one `fsync` of the same disk. All of it takes about four minutes.
//!
//! The others do less for each request: they judge no token, and add no `Forwarded`, `X-Forwarded-*` and `Via`.
//!
//! `make bench-proxy`, or `cargo bench --bench proxy` with taskset, and with nginx and haproxy at hand: what isn't is left out
//! (`-- --rounds 9 --seconds 2 --connections 64`; `--body 1024`: only writes with bodies of that size, and refusals of them; `--json FILE`)
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use fencegate::cli::bench::load::{Expect, Load, Pace, Work};
use fencegate::cli::bench::stop::Stop;
use fencegate::cli::bench::target::{Body, Target};
use hyper::StatusCode;
use serde_json::{Value, json};

use common::{median, option, rounds_of, write_json};
use servers::{LOADING, MEASURED, Server, bare, fencegate, haproxy, has, nginx, nginx_proxy};

#[path = "../common/mod.rs"]
mod common;
mod servers;

struct Options {
    rounds: usize,
    time: Duration,
    connections: usize,
    /// Sizes of bodies; refusals are of the first.
    bodies: Vec<usize>,
}

/// A small body, and a large one.
const BODIES: [usize; 2] = [128, 64 * 1024];
/// For so long nothing counts, each time.
const WARM_UP: Duration = Duration::from_millis(200);
/// What part of what the slowest can do is asked of all of them where latencies are compared. At half of it, requests come one by one instead of
/// many at once, and load generator and upstream keep their processor busy nine tenths of the time: what is measured then is how they wait
/// for each other.
const EQUAL_LOAD: f64 = 0.3;

fn options() -> Options {
    Options {
        rounds: option("--rounds", 9),
        time: Duration::from_secs_f64(option("--seconds", 2.0)),
        connections: option("--connections", 64),
        bodies: match option("--body", 0) {
            0 => BODIES.into(),
            one => vec![one],
        },
    }
}

/// One round against one server: CPU microseconds a request, 99th percentile in milliseconds, requests a second.
#[derive(Clone, Copy)]
struct Sample {
    cpu_us: f64,
    p99_ms: f64,
    rate: f64,
}

/// What is sent, and how fast.
#[derive(Clone, Copy)]
struct What {
    body: usize,
    /// 7 is the leader's, 6 is refused.
    token: u64,
    pace: Pace,
}

fn load(server: &Server, what: What, options: &Options) -> Sample {
    let request = Target::own(server.addr, &[]).request("POST", "/items/1", Some(what.token), &Body::text(what.body));
    let load = Load {
        addr: server.addr,
        work: Work::Same(request.into()),
        expect: if what.token < 7 { Expect::Stale } else { Expect::Success },
        connections: options.connections,
        threads: 1,
        pace: what.pace,
        warm_up: WARM_UP,
        duration: options.time,
        answer_time: Duration::from_secs(20),
    };
    let sample = load.run(&Stop::default(), server.clock()).unwrap_or_else(|error| panic!("{}: {error}", server.name));
    let wrong = (sample.unexpected, sample.broken);
    assert!(sample.answered() > 0 && wrong == (0, 0), "{}: {wrong:?} of {:?}", server.name, sample.answers);
    Sample {
        cpu_us: sample.gate_cpu_us().unwrap_or(f64::NAN),
        p99_ms: sample.latency.value_at_quantile(0.99) as f64 / 1e6,
        rate: sample.per_second,
    }
}

/// Runs all servers in turn, round by round, each round beginning with another; the first one warms up. No server runs twice in a row: whoever
/// does has a worse p99 the second time (`docs/measurements.md`).
fn rounds(title: &str, servers: &[&Server], what: What, options: &Options) -> (Value, f64) {
    println!("\n{title}");
    let mut samples: Vec<Vec<Sample>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 0..=options.rounds {
        let order = (0..servers.len()).map(|place| (round + place) % servers.len());
        for number in order {
            let sample = load(servers[number], what, options);
            if round > 0 {
                samples[number].push(sample);
            }
        }
        eprint!("\r{title}: {round} of {} rounds ", options.rounds);
    }
    eprintln!();
    println!("{:26} {:>10} {:>10} {:>12}", "median", "req/s", "p99 ms", "CPU us/req");
    for (server, samples) in servers.iter().zip(&samples) {
        let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
        println!("{:26} {:>10.0} {:>10.2} {:>12.2}", server.name, of(|s| s.rate), of(|s| s.p99_ms), of(|s| s.cpu_us));
    }
    let ratio = |other: usize, value: fn(&Sample) -> f64| {
        median(samples[0].iter().zip(&samples[other]).map(|(ours, theirs)| value(ours) / value(theirs)))
    };
    for (other, server) in servers.iter().enumerate().skip(1) {
        let (cpu, p99) = (ratio(other, |s| s.cpu_us), ratio(other, |s| s.p99_ms));
        let of = options.rounds;
        println!("{} over {:26} CPU {cpu:.2}, p99 {p99:.2} (medians of {of} pairs)", servers[0].name, server.name);
    }
    let slowest = samples.iter().map(|of| median(of.iter().map(|s| s.rate))).fold(f64::INFINITY, f64::min);
    let each = servers.iter().zip(&samples).map(|(server, samples)| {
        let round = |s: &Sample| json!({ "per_second": s.rate, "cpu_us": s.cpu_us, "p99_ms": s.p99_ms });
        rounds_of(server.name, samples.iter().map(round))
    });
    (json!({ "name": title, "servers": each.collect::<Vec<_>>() }), slowest)
}

/// One request on a connection of its own, and the status of its answer.
fn ask(stream: &mut BufReader<TcpStream>, head: &str) -> u16 {
    let request = format!("{head}host: gate\r\ncontent-length: 2\r\n\r\nok");
    stream.get_mut().write_all(request.as_bytes()).expect("sent");
    let (mut status, mut len) = (0, 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("an answer");
        if status == 0 {
            status = line.split_whitespace().nth(1).and_then(|status| status.parse().ok()).expect("a status");
        }
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            len = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    stream.read_exact(&mut vec![0; len]).expect("a body");
    status
}

/// How long a new leader's claim and first write take together, in milliseconds, and one `fsync` beside each.
fn successions(gate: &Server, dir: &Path, times: u64) -> (f64, f64) {
    let mut stream = BufReader::new(TcpStream::connect(gate.addr).expect("it accepts"));
    stream.get_ref().set_nodelay(true).expect("a socket option");
    let mut file = std::fs::File::create(dir.join("synced")).expect("a file");
    let (mut taken, mut synced) = (Vec::new(), Vec::new());
    for token in 1000..1000 + times {
        let started = Instant::now();
        let claim = format!("POST /-/fences/inventory/claim HTTP/1.1\r\nfencing-token: {token}\r\n");
        assert_eq!(ask(&mut stream, &claim), 200);
        let write = format!("POST /items/1 HTTP/1.1\r\nfencing-token: {token}\r\n");
        assert_eq!(ask(&mut stream, &write), 200);
        taken.push(started.elapsed().as_secs_f64() * 1000.0);
        let started = Instant::now();
        file.write_all(&[0; 4096]).and_then(|()| file.sync_data()).expect("synced");
        synced.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    (median(taken.into_iter()), median(synced.into_iter()))
}

/// The load generator's threads start where the one that starts them is.
fn move_to(processor: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    rustix::thread::sched_setaffinity(None, &set).expect("there are two processors");
}

fn main() {
    if servers::serve_hello() {
        return;
    }
    let options = options();
    if !has("taskset") || std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        println!("proxy: needs taskset, and two processors to keep the load away from what is measured");
        return;
    }
    move_to(LOADING);
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let dir = dir.path();
    let missing: Vec<&str> = ["nginx", "haproxy"].into_iter().filter(|program| !has(program)).collect();
    missing.iter().for_each(|program| println!("{program} isn't here, and is left out; make bench-peers installs it"));
    let is_here = |program| !missing.contains(&program);
    let upstream = match is_here("nginx") {
        true => nginx("upstream", dir, LOADING, "", "location / { return 200 \"ok\"; }"),
        false => bare("upstream", LOADING, StatusCode::OK),
    };
    let gate = fencegate("fencegate", dir, upstream.addr, &[]);
    let unchecked = fencegate("fencegate, check off", dir, upstream.addr, &["--no-enforce"]);
    let proxies = [
        is_here("nginx").then(|| nginx_proxy(dir, upstream.addr)),
        is_here("haproxy").then(|| haproxy(dir, upstream.addr)),
    ];
    let proxies: Vec<&Server> = proxies.iter().flatten().collect();
    let refuser = is_here("nginx").then(|| nginx("nginx, return 412", dir, MEASURED, "", "location / { return 412; }"));
    let hyper = bare("hyper, answering 412", MEASURED, StatusCode::PRECONDITION_FAILED);
    let Options { rounds: of, time, connections, ref bodies } = options;
    println!("{of} rounds of {time:?}, {connections} connections");
    let mut groups = Vec::new();
    for (number, body) in bodies.iter().enumerate() {
        let mut what = What { body: *body, token: 7, pace: Pace::Closed };
        let mut rivals = [&[&gate], &proxies[..]].concat();
        // The check doesn't depend on the body, and neither does what a queue makes of it.
        if number == 0 {
            rivals.push(&unchecked);
        }
        let (group, slowest) = rounds(&format!("writes of {body} bytes"), &rivals, what, &options);
        groups.push(group);
        if number == 0 {
            let rate = (slowest * EQUAL_LOAD / 1000.0).round().max(1.0) * 1000.0;
            what.pace = Pace::Open(rate);
            let rivals = [&[&gate], &proxies[..]].concat();
            groups.push(rounds(&format!("writes of {body} bytes, {rate} a second"), &rivals, what, &options).0);
        }
    }
    let refusals: Vec<&Server> = [&gate, &hyper].into_iter().chain(&refuser).collect();
    // Its mark is there since the writes.
    let what = What { body: bodies[0], token: 6, pace: Pace::Closed };
    groups.push(rounds("refusals of stale writes", &refusals, what, &options).0);
    let (taken, synced) = successions(&gate, dir, 200);
    println!(
        "\na new leader's claim and first write: {taken:.2} ms; one fsync beside it: {synced:.2} ms (medians of 200)"
    );
    let succession = json!({ "claim_and_write_ms": taken, "fsync_ms": synced });
    let options = json!({ "rounds": of, "seconds": time.as_secs_f64(), "connections": connections });
    write_json(&json!({ "options": options, "groups": groups, "succession": succession, "missing": missing }));
}
