//! The fences of HTTP resources: what a check costs, what a fence takes, how long a start takes.
//!
//! `cargo bench --bench fences`; `FENCES=10000000` for more than a million. With `-- --json FILE` (and `--rounds 7`) no such benchmarks, but what
//! `scripts/peers` holds against its targets: a gate's start with a million fences, and its memory; checks of ten million fences at random.
//! A minute, 4 GB of memory and 2 GB of disk; with less memory the ten million are left out.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use common::{dir, median, option, rounds_of, write_json};
use criterion::{Criterion, Throughput, criterion_group};
use fencegate::fence::drain::{Outcome, Purpose};
use fencegate::fence::{Claim, Token, Verdict};
use fencegate::problem::Kind;
use fencegate::resource::Look;
use fencegate::resource::http::fences::Fences;
use serde_json::{Value, json};

mod common;
#[path = "scale/gate.rs"]
#[allow(dead_code, reason = "it is shared")]
mod gate;
#[path = "common/marks.rs"]
mod marks;

use marks::{filled, open};

/// Claims that a benchmark goes through in turn.
const CLAIMS: usize = 100_000;
/// Claims of one round of [`checks`], each of which is asked once: so many that no cache has them from the round before.
const ASKED_ONCE: usize = 500_000;
/// Fences of which memory and start are told.
const MILLION: usize = 1_000_000;
/// Fences among which checks are told.
const AMONG: [usize; 2] = [MILLION, 10 * MILLION];
/// What the most of those take, with what the start takes for a while, in bytes.
const MEMORY_NEEDED: u64 = 4 << 30;

/// Claims of fences at random, of so many.
struct Claims {
    fences: usize,
    state: u64,
}

impl Claims {
    fn of(fences: usize) -> Claims {
        Claims { fences, state: 0x9e37_79b9_7f4a_7c15 }
    }

    fn next(&mut self, count: usize) -> Vec<Claim> {
        let claim = |number: u64| Claim {
            fence: format!("tenant-{number:013}").parse().expect("a name"),
            token: Token::new(7).expect("a token"),
            holder: None,
        };
        let mut random = || {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            claim(self.state % self.fences as u64)
        };
        (0..count).map(|_| random()).collect()
    }
}

/// One of them, in turn. A request has just read its claim from its connection: what a cold one costs is not what is measured here.
fn warm(claims: &[Claim], number: usize) -> &Claim {
    let ahead = |by: usize| &claims[(number + by) % claims.len()].fence;
    black_box(ahead(8).len() + usize::from(ahead(4).as_bytes()[0]));
    black_box(&claims[number])
}

/// A read's check.
fn read(fences: &Arc<Fences>, claim: &Claim) -> Verdict {
    now(fences.admit(0, claim, Purpose::Read)).expect("it is admitted").verdict
}

/// A write's, noted in the journal and crossed out again.
fn write(fences: &Arc<Fences>, claim: &Claim) {
    let admitted = now(fences.admit(0, claim, Purpose::Write)).expect("it is admitted");
    let write = admitted.write.expect("it is a write");
    assert!(pin!(write.replaced()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    write.finish(Outcome::Known);
}

/// What a future that never waits is ready with.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the steady path never waits"),
    }
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("this is Linux");
    let pages: u64 =
        text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).expect("the second is a number");
    pages * 4096
}

fn most() -> usize {
    std::env::var("FENCES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000)
}

fn check(c: &mut Criterion) {
    let mut group = c.benchmark_group("fences");
    let most = most();
    for number in [1, 1_000, most] {
        let dir = tempfile::tempdir().expect("a directory");
        filled(dir.path(), number);
        let before = resident();
        let started = Instant::now();
        let fences = open(dir.path());
        let took = started.elapsed();
        if number == most {
            let each = (resident() - before) / number as u64;
            eprintln!("{number} fences: opened in {took:.2?}, {each} bytes each (resident memory, names of 20 bytes)");
        }
        let claims = Claims::of(number).next(CLAIMS);
        let mut next = 0;
        let mut claim = || {
            next = (next + 1) % CLAIMS;
            warm(&claims, next)
        };
        group.bench_function(format!("read, {number} fences"), |b| b.iter(|| read(&fences, claim())));
        group.bench_function(format!("write, watched and finished, {number} fences"), |b| {
            b.iter(|| write(&fences, claim()));
        });
        if number == most {
            let stale = Claim { token: Token::MIN, ..claims[0].clone() };
            group.bench_function("stale", |b| {
                b.iter(|| {
                    let problem = now(fences.admit(0, black_box(&stale), Purpose::Write)).expect_err("it is refused");
                    assert_eq!(problem.kind, Kind::StaleToken);
                });
            });
            group.bench_function(format!("a page of 100 of {number} fences"), |b| {
                let look = |after: String| Look { prefix: "tenant-".into(), after, limit: 100, ..Look::default() };
                b.iter(|| fences.list(0, &look(claim().fence.to_string())).fences.len());
            });
            group.bench_function("a part that no name has, among a hundred thousand", |b| {
                let look = Look { part: "nowhere".into(), ..Look::first(100) };
                b.iter(|| fences.list(0, &look).fences.len());
            });
        }
    }
    group.finish();
}

/// A start with so many marks: all of them are read, and held ready.
fn start(c: &mut Criterion) {
    let mut group = c.benchmark_group("start");
    group.sample_size(10);
    for number in [1, 1_000, 100_000, most()] {
        let dir = tempfile::tempdir().expect("a directory");
        filled(dir.path(), number);
        group.throughput(Throughput::Elements(number as u64));
        group.bench_function(format!("{number} fences"), |b| {
            b.iter_custom(|times| {
                let mut all = Duration::ZERO;
                for _ in 0..times {
                    let started = Instant::now();
                    let fences = open(dir.path());
                    all += started.elapsed();
                    // Closing them isn't part of a start, and has to come before the next one.
                    drop(fences);
                }
                all
            });
        });
    }
    group.finish();
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = config(); targets = check, start }

/// A gate's start with a million fences, from its process's begin to its word that it listens, and what each takes of the process's
/// memory: what it has more than a gate with one fence.
fn starts(rounds: usize) -> Value {
    let (few_dir, many_dir, upstream) = (dir(), dir(), gate::service());
    filled(few_dir.path(), 1);
    filled(many_dir.path(), MILLION);
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let started = |dir: &tempfile::TempDir| {
            let gate = gate::Gate::http(dir.path(), upstream);
            (gate.ready.as_secs_f64(), gate.memory())
        };
        let ((few_ready, few_memory), (many_ready, many_memory)) = (started(&few_dir), started(&many_dir));
        let each = many_memory.saturating_sub(few_memory) as f64 / MILLION as f64;
        // The first one warms up.
        if round > 0 {
            println!("{MILLION} fences: ready after {many_ready:.2} s, {each:.0} bytes each");
            few.push(json!({ "ready_s": few_ready }));
            many.push(json!({ "ready_s": many_ready, "each_bytes": each }));
        }
    }
    let servers = [rounds_of("a million fences", many), rounds_of("one fence", few)];
    json!({ "name": "a gate's start, and the memory of its process", "servers": servers })
}

/// Microseconds of a check of one of so many fences, each as likely as the others, none asked just before.
fn checks(number: usize, rounds: usize) -> Value {
    let dir = dir();
    filled(dir.path(), number);
    let fences = open(dir.path());
    let mut claims = Claims::of(number);
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let mut timed = |check: &dyn Fn(&Claim)| {
            let claims = claims.next(ASKED_ONCE);
            let started = Instant::now();
            for next in 0..claims.len() {
                check(warm(&claims, next));
            }
            started.elapsed().as_secs_f64() * 1e6 / claims.len() as f64
        };
        let read = timed(&|claim| {
            black_box(read(&fences, claim));
        });
        let write = timed(&|claim| write(&fences, claim));
        if round > 0 {
            reads.push(read);
            writes.push(write);
        }
    }
    let told = |name: &str, values: Vec<f64>| {
        println!("{number} fences: {name} {:.2} us", median(values.iter().copied()));
        rounds_of(name, values.into_iter().map(|check| json!({ "check_us": check })))
    };
    let servers = [told("a read's check", reads), told("a write's, with the journal and its end", writes)];
    json!({ "name": format!("checks of {} million fences at random", number / MILLION), "servers": servers })
}

/// Memory that can be had without taking it from somebody, in bytes.
fn memory_available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("this is Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("it says so");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// What `scripts/peers` shows.
fn figures() {
    let rounds = option("--rounds", 7);
    let (mut groups, mut missing) = (vec![starts(rounds)], Vec::new());
    for number in AMONG {
        let available = memory_available();
        if number > MILLION && available < MEMORY_NEEDED {
            let gigabytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            missing.push(format!(
                "checks of {number} fences (they need {:.0} GB of memory, {:.1} are available)",
                gigabytes(MEMORY_NEEDED),
                gigabytes(available)
            ));
            continue;
        }
        groups.push(checks(number, rounds));
    }
    missing.iter().for_each(|what| println!("left out: {what}"));
    write_json(&json!({ "options": { "rounds": rounds }, "groups": groups, "missing": missing }));
}

fn main() {
    if option("--json", String::new()).is_empty() {
        benches();
        Criterion::default().configure_from_args().final_summary();
    } else {
        figures();
    }
}
