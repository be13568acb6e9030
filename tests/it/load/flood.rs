//! A flood of stale writes beside a leader. How much it slows the leader is measured by `make bench-flood`; here, that it is held back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::process::Client;

use super::gate;

#[test]
fn refusals_are_held_back_while_a_leader_is_served() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "refusals = 10\n");
    let mut leader = gate.client();
    assert_eq!(leader.sql(Some("8"), &["CREATE TABLE t (v)"]).status, 200);
    let (written, is_over, refused) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    const REFUSALS: usize = 60;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(leader.sql(Some("8"), &["INSERT INTO t VALUES (1)"]).status, 200);
                written.fetch_add(1, Ordering::Relaxed);
            }
        });
        let began = Instant::now();
        let floods: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut client: Client = gate.client();
                    while refused.fetch_add(1, Ordering::Relaxed) < REFUSALS {
                        let answer = client.sql(Some("7"), &["INSERT INTO t VALUES (2)"]);
                        assert_eq!((answer.status, answer.code().as_str()), (412, "STALE_TOKEN"));
                    }
                })
            })
            .collect();
        floods.into_iter().for_each(|flood| flood.join().expect("no panic"));
        let took = began.elapsed();
        is_over.store(true, Ordering::Relaxed);
        // Eight at a time, and none of them sooner than its turn: at most ten a second on each thread, or one second each.
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8) as u32;
        assert!(took > Duration::from_secs(3) / threads, "{REFUSALS} refusals took {took:?}");
    });
    assert!(written.load(Ordering::Relaxed) > 0);
    let count = leader.sql(None, &["SELECT count(*) FROM t WHERE v = 2"]).json();
    assert_eq!(count["results"][0]["response"]["result"]["rows"][0][0]["value"], "0");
}
