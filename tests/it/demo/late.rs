//! A write that lands late: the order is in the store's log.

use rustix::process::Signal;
use serde_json::Value;

use super::shown::{damage, events, kept, shown};
use super::{Demo, lines};
use crate::upstream::etcd::Etcd;
use crate::upstream::has;

/// What the store has applied in each run, by its log: the tokens in order.
fn applied(dir: &tempfile::TempDir) -> [Vec<String>; 2] {
    kept(dir, "late", "applied.jsonl").map(|log| {
        let applied = lines(&std::fs::read_to_string(log).expect("it was kept"));
        applied.iter().map(|write| write["token"].as_str().expect("a token").to_owned()).collect()
    })
}

/// Whether this happened to somebody, and where in the story.
fn find(events: &[Value], lane: &str, kind: &str) -> Option<usize> {
    events.iter().position(|event| event["lane"] == lane && event["kind"] == kind)
}

#[test]
fn after_a_newer_one_where_it_is_checked_and_forwarded_and_never_through_the_gate() {
    let (told, dir) = shown("late", &[]);
    assert_eq!(damage(&told), [(2, 2), (0, 2)]);
    assert_eq!(applied(&dir), [["2", "1", "3", "2"], ["1", "2", "2", "3"]]);
    let [without, with] = events(&told);
    for run in [&without, &with] {
        // Both turns of events: a leader is frozen while its write is under way, and refused when it writes once more.
        for name in ["anna", "bert"] {
            let kinds = ["works", "paused", "resumed", "refused"];
            let found = kinds.map(|kind| find(run, name, kind).expect(kind));
            assert!(found.is_sorted(), "{name}: {found:?} in {run:#?}");
        }
        assert_eq!(find(run, "cleo", "refused"), None);
    }
    // The naive proxy says of what lands late that it was done; the gate, of what it has cut off, that nobody knows.
    let late = |run: &[Value]| run.iter().filter(|event| event["behind"].is_string()).count();
    assert_eq!((late(&without), find(&without, "bert", "unknown")), (2, None));
    assert_eq!((late(&with), find(&with, "bert", "unknown").is_some()), (0, true));
}

#[test]
fn etcd_can_elect_in_it() {
    if !has("late::etcd_can_elect_in_it", "etcd") {
        return;
    }
    let etcd = Etcd::shared();
    let coordinator = format!("{}/{}", etcd.address(), crate::lead::unique("late"));
    let (told, _dir) = shown("late", &["--coordinator", &coordinator]);
    assert_eq!(damage(&told), [(2, 2), (0, 2)]);
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    let mut demo = Demo::start(&["late", "--json"]);
    // The store has a write that it is slow with, and a leader is frozen.
    demo.reads(|line| line["kind"] == "paused");
    demo.signal(Signal::KILL);
    demo.wait();
    demo.is_gone("it was killed");
}
