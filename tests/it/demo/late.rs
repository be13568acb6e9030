//! A write that lands late: the order is in the store's log.

use serde_json::Value;

use super::{Demo, Told, count, find};

/// The tokens of what the store has applied, in the order in which it did.
fn applied(told: &Told, side: &str) -> Vec<String> {
    let log = std::fs::read_to_string(told.folder("late", side).join("applied.jsonl")).expect("it was kept");
    let token = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["token"].as_str().map(str::to_owned);
    log.lines().map(|line| token(line).expect("a token")).collect()
}

#[test]
fn lands_after_a_newer_one_where_it_is_checked_and_forwarded_and_never_through_the_gate() {
    let told = Demo::finish(&["late"]);
    assert_eq!(told.status, Some(0), "{:#?}", told.lines);
    let [without, with] = told.damage("late");
    assert_eq!((without, with), ((vec![4, 2], 2), (vec![4, 0], 2)));
    // The same from what was stored, counted by this test.
    assert_eq!(applied(&told, "without"), ["2", "1", "3", "2"]);
    assert_eq!(applied(&told, "with"), ["1", "2", "2", "3"]);

    let (without, with) = (told.run("without"), told.run("with"));
    for run in [without, with] {
        // Both turns of events: a leader is frozen while its write is under way, and refused when it writes once more.
        for name in ["anna", "bert"] {
            let [works, paused, resumed, refused] =
                ["works", "paused", "resumed", "refused"].map(|kind| find(run, name, kind).expect(kind));
            assert!(works < paused && paused < resumed && resumed < refused, "{run:#?}");
        }
        assert_eq!(count(run, "cleo", "refused"), 0);
    }
    // What lands late is told to have succeeded, before the naive proxy; the gate says that nobody knows of the one that it cut off.
    let late = |run: &[Value]| run.iter().filter(|event| !event["behind"].is_null()).count();
    assert_eq!((late(without), count(without, "bert", "unknown")), (2, 0));
    assert_eq!((late(with), count(with, "bert", "unknown")), (0, 1));
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    let mut demo = Demo::start(&["late"]);
    // The store has a write that it is slow with, and a leader is frozen.
    demo.until(|line| line["kind"] == "paused");
    demo.kill();
}
