//! What a gate knows of the one before it.

use rustix::process::Signal;
use serde_json::json;

use super::*;

#[test]
fn after_kill_9_only_fences_with_writes_in_flight_are_quarantined() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        assert_done(&bench.write("idle", 5, "").expect("an answer"));
        assert_eq!(bench.claim("claimed", 5).status, 200);
        let busy = bench.begin("busy", 5, "read at:never");
        bench.upstream.reached("never");
        let bench = bench.restart(Gate::kill);
        drop(busy);
        assert!(bench.is_quarantined("busy"));
        assert_quarantined(&bench.claim("busy", 6));
        for item in ["idle", "claimed", "new"] {
            assert!(!bench.is_quarantined(item), "{item}");
            assert_eq!(bench.claim(item, 6).status, 200, "{item}");
            assert_done(&bench.write(item, 6, "").expect("an answer"));
        }
        assert_problem(&bench.write("idle", 5, "").expect("an answer"), 412, "STALE_TOKEN", "no");
        // The quarantine outlives the next one, too, and the leader that was let in goes on in the end.
        let bench = bench.restart(Gate::kill);
        assert!(bench.is_quarantined("busy"));
        assert_eq!(bench.state("busy")["highest"], "6");
        assert_problem(&bench.write("busy", 5, "").expect("an answer"), 412, "STALE_TOKEN", "no");
    }
}

#[test]
fn after_kill_9_the_leader_that_was_let_in_goes_on() {
    let bench = Bench::new("auto", NEVER, NEVER, "");
    assert_done(&bench.write("a", 5, "").expect("an answer"));
    let busy = bench.begin("a", 5, "read at:never");
    bench.upstream.reached("never");
    let bench = bench.restart(Gate::kill);
    drop(busy);
    assert!(bench.is_quarantined("a"));
    assert_done(&bench.write("a", 5, "").expect("what may still be applied is its own"));
    assert_quarantined(&bench.claim("a", 6));
}

#[test]
fn a_clean_stop_quarantines_nobody() {
    let bench = Bench::new("auto", NEVER, NEVER, "[limits]\ndrain = \"10m\"");
    for item in ["a", "b"] {
        assert_done(&bench.write(item, 5, "").expect("an answer"));
    }
    let mut last = bench.begin("a", 5, "read at:here apply answer");
    bench.upstream.reached("here");
    bench.gate.signal(Signal::TERM);
    until("it stops", || Client::connect(bench.gate.data).is_err());
    bench.upstream.open("here");
    assert_done(&last.read_answer().expect("it is let finish"));
    let bench = bench.restart(terminate);
    for item in ["a", "b"] {
        assert!(!bench.is_quarantined(item));
        assert_eq!(bench.state(item)["highest"], "5");
        assert_eq!(bench.claim(item, 6).status, 200);
    }
}

#[test]
fn a_stop_that_is_not_clean_is_remembered() {
    let bench = Bench::new("auto", NEVER, NEVER, "");
    assert_done(&bench.write("idle", 5, "").expect("an answer"));
    assert_unknown(&bench.write("a", 5, "read cut").expect("an answer"));
    let bench = bench.restart(terminate);
    assert!(bench.is_quarantined("a"), "a quarantine outlives a clean stop");
    assert_quarantined(&bench.claim("a", 6));
    assert_eq!(bench.claim("idle", 6).status, 200);
}

fn terminate(gate: Gate) {
    assert_eq!(gate.terminate(), Some(0));
}

#[test]
fn marks_outlive_everything() {
    let mut bench = Bench::new("auto", NEVER, NEVER, "");
    for (term, end) in [(5, Gate::kill as fn(Gate)), (6, terminate), (7, Gate::kill)] {
        assert_eq!(bench.claim("a", term).status, 200);
        bench = bench.restart(end);
        assert_eq!(bench.state("a")["highest"], json!(term.to_string()));
        assert_problem(&bench.write("a", term - 1, "").expect("an answer"), 412, "STALE_TOKEN", "no");
    }
}

#[test]
fn a_second_gate_on_one_data_directory_does_not_start() {
    let bench = Bench::new("auto", NEVER, NEVER, "");
    let file = bench.path().join("fencegate.toml");
    let error = Gate::try_start(bench.path(), &["--config", file.to_str().expect("UTF-8")]).err();
    assert!(error.expect("it must not start").contains(&bench.gate.pid().to_string()));
}
