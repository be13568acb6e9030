//! Micro-benchmarks of what every request passes: reading the claim, judging it, reading and rendering Hrana.
//!
//! `cargo bench --bench core`

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fencegate::fence::{Claim, Ledger, Mark, Presented, Token};
use fencegate::resource::sqlite::hrana::{Pipeline, Version};

fn claim(fence: &str, token: u64) -> Claim {
    Claim { fence: fence.parse().expect("a name"), token: Token::new(token).expect("a token"), holder: None }
}

/// A ledger of this many fences, and their claims in an order that caches can't guess.
fn ledger(fences: usize) -> (Ledger, Vec<Claim>) {
    let mut ledger = Ledger::default();
    let claims: Vec<Claim> =
        (0..fences).map(|number| claim(&format!("tenant-{:012}", number.wrapping_mul(7_919) % fences), 7)).collect();
    for claim in &claims {
        ledger.put(claim.fence.clone(), Some(Mark { token: claim.token, holder: None }));
    }
    (ledger, claims)
}

fn check(c: &mut Criterion) {
    let mut group = c.benchmark_group("check");
    for fences in [1, 1_000, 1_000_000] {
        let (ledger, claims) = ledger(fences);
        let mut next = 0;
        group.bench_function(format!("admitted, {fences} fences"), |b| {
            b.iter(|| {
                next = (next + 1) % claims.len();
                ledger.judge(black_box(std::slice::from_ref(&claims[next])))
            });
        });
    }
    let (ledger, _) = ledger(1_000);
    let stale = claim("tenant-000000000001", 6);
    group.bench_function("stale, 1000 fences", |b| b.iter(|| ledger.judge(black_box(std::slice::from_ref(&stale)))));
    group.finish();
}

fn headers(c: &mut Criterion) {
    let own = "orders".parse().expect("a name");
    let mut group = c.benchmark_group("headers");
    for (name, token, bearer) in [
        ("bare", Some("12345678"), None),
        ("two fences", Some("orders=12345678, jobs=42"), None),
        ("bearer with holder", None, Some("fgt.12345678.bm9kZS1hLmV4YW1wbGU")),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| Presented::gather(black_box(token), None, black_box(bearer), Some(&own)))
        });
    }
    group.finish();
}

fn hrana(c: &mut Criterion) {
    let one = br#"{"baton":null,"requests":[{"type":"execute","stmt":{"sql":"INSERT INTO t (a, b) VALUES (?, ?)","args":[{"type":"integer","value":"42"},{"type":"text","value":"hello world"}]}},{"type":"close"}]}"#;
    let mut group = c.benchmark_group("hrana");
    group.throughput(Throughput::Bytes(one.len() as u64));
    group.bench_function("parse one insert", |b| {
        b.iter_batched(|| &one[..], |body| Pipeline::parse(black_box(body), Version::V3), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, check, headers, hrana);
criterion_main!(benches);
