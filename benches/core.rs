//! Micro-benchmarks of what every request passes: reading the claim, judging it, raising a mark, reading and answering Hrana, the
//! way from a path to a fence's name, the crash journal; and what many writes that are committed together cost each.
//!
//! `cargo bench --bench core`. What a fence of an HTTP service costs, and a start with many of them, is in `fences`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fencegate::fence::Claim;

#[path = "common/batch.rs"]
mod batch;
#[path = "common/hot.rs"]
mod hot;

/// Each of the paths by itself, as `make instructions` counts them.
fn paths(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut group = c.benchmark_group("hot");
    for mut path in hot::all(dir.path()) {
        group.bench_function(path.name, |b| b.iter(&mut path.run));
    }
    group.finish();
}

/// How a check grows with the number of fences: by what the processor's caches don't hold.
fn many_fences(c: &mut Criterion) {
    let mut group = c.benchmark_group("check");
    for fences in [1, 1_000, 1_000_000] {
        let (ledger, claims): (_, Vec<Claim>) = hot::ledger(fences);
        let mut next = 0;
        group.bench_function(format!("admitted, {fences} fences"), |b| {
            b.iter(|| {
                next = (next + 1) % claims.len();
                ledger.judge(black_box(std::slice::from_ref(&claims[next])))
            });
        });
    }
    group.finish();
}

/// Writes that wait for the writer at the same time are committed together.
fn commits(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut batches = batch::Batches::open(dir.path());
    let mut group = c.benchmark_group("commit");
    for writes in [1, 8, 64, 256] {
        group.throughput(Throughput::Elements(writes as u64));
        batches.connect(writes);
        group.bench_function(format!("{writes} writes at once, durable"), |b| b.iter(|| batches.write()));
    }
    group.finish();
}

fn config() -> Criterion {
    Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = config(); targets = paths, many_fences, commits }
criterion_main!(benches);
