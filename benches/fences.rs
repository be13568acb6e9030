//! The fences of HTTP resources: what a check costs, what a fence takes, how long a start takes.
//!
//! `cargo bench --bench fences`; `FENCES=10000000` for more than a million.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fencegate::fence::drain::{Outcome, Purpose};
use fencegate::fence::{Claim, Token};
use fencegate::problem::Kind;
use fencegate::resource::Look;

#[path = "common/marks.rs"]
mod marks;

use marks::{filled, open};

/// Claims that a benchmark goes through in turn.
const CLAIMS: usize = 100_000;

fn claims(fences: usize) -> Vec<Claim> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let claim = |number: u64| Claim {
        fence: format!("tenant-{number:013}").parse().expect("a name"),
        token: Token::new(7).expect("a token"),
        holder: None,
    };
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        claim(state % fences as u64)
    })
    .take(CLAIMS)
    .collect()
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
        let claims = claims(number);
        let mut next = 0;
        let mut claim = || {
            next = (next + 1) % CLAIMS;
            // A request has just read its claim from its connection: what a cold one costs is not what is measured here.
            black_box(
                claims[(next + 8) % CLAIMS].fence.len() + usize::from(claims[(next + 4) % CLAIMS].fence.as_bytes()[0]),
            );
            &claims[next]
        };
        group.bench_function(format!("read, {number} fences"), |b| {
            b.iter(|| now(fences.admit(0, black_box(claim()), Purpose::Read)).expect("it is admitted").verdict);
        });
        group.bench_function(format!("write, watched and finished, {number} fences"), |b| {
            b.iter(|| {
                let admitted = now(fences.admit(0, black_box(claim()), Purpose::Write)).expect("it is admitted");
                let write = admitted.write.expect("it is a write");
                assert!(pin!(write.replaced()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
                write.finish(Outcome::Known);
            });
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
criterion_main!(benches);
