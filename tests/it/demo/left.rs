//! Whatever ends the demonstration, and whenever: no process is left behind, not even one that stands still, and no folder.

use rustix::process::Signal;
use serde_json::Value;

use super::Demo;
use crate::process::until;

type Is = fn(&Value) -> bool;

/// Moments at which it can be ended: before there is a gate; with a leader and others who wait; with a leader that stands still; when
/// that has woken; in the middle of the second run.
const MOMENTS: [(&str, Is); 5] = [
    ("it begins", |line| line["type"] == "run"),
    ("somebody leads", |line| line["kind"] == "elected"),
    ("the leader stands still", |line| line["kind"] == "paused"),
    ("it has woken", |line| line["kind"] == "resumed"),
    ("the second run goes on", |line| line["type"] == "run" && line["side"] == "with"),
];

fn nothing_is_left(moments: &[(&str, Is)], scenario: &str, signal: Signal, status: Option<i32>) {
    for (when, is) in moments {
        let mut demo = Demo::start(&[scenario, "--json"]);
        demo.reads(is);
        assert!(!demo.processes().is_empty(), "the check sees them");
        demo.signal(signal);
        assert_eq!(demo.wait(), status, "{when}");
        demo.is_gone(when);
    }
}

#[test]
fn after_sigkill() {
    nothing_is_left(&MOMENTS, "billing", Signal::KILL, None);
}

#[test]
fn after_sigterm() {
    nothing_is_left(&MOMENTS[1..3], "billing", Signal::TERM, Some(143));
}

#[test]
fn after_sigint() {
    nothing_is_left(&MOMENTS[2..4], "pause", Signal::INT, Some(130));
}

/// Nobody may be there to hear a signal: what reads its output has gone.
#[test]
fn after_its_reader_has_gone() {
    let mut demo = Demo::start(&["pause", "--json"]);
    demo.reads(|line| line["kind"] == "elected");
    demo.lines = Box::new(std::iter::empty());
    assert_eq!(demo.wait(), Some(1));
    demo.is_gone("nobody reads");
}

/// The negative control: the sweeper, too, is seen by the check, and the folder is there while it runs.
#[test]
fn while_it_runs_all_of_it_is_seen() {
    let mut demo = Demo::start(&["billing", "--json"]);
    demo.reads(|line| line["kind"] == "paused");
    // Itself, the sweeper, the gate, ten servers.
    until("all are there", || demo.processes().len() == 13);
    assert_eq!(std::fs::read_dir(demo.tmp.path()).expect("it can be listed").count(), 1);
    demo.signal(Signal::KILL);
    demo.wait();
    demo.is_gone("at last");
}
