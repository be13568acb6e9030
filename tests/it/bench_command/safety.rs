//! What it must not do: load what isn't on this machine, write where it wasn't told to, depose a leader.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use super::service::{Manner, Service};
use super::{Said, bench, command, measured, names};
use crate::process::{Client, Gate, until};

fn gate(dir: &Path) -> Gate {
    let gate = Gate::start(dir, &["--sqlite", dir.join("app.db").to_str().expect("UTF-8"), "--fence", "app"]);
    assert_eq!(gate.client().sql(Some("5"), &["CREATE TABLE t (v TEXT)"]).status, 200);
    gate
}

fn rows(gate: &Gate) -> u64 {
    let answer = gate.client().sql(None, &["SELECT count(*) FROM t"]).json();
    let value = &answer["results"][0]["response"]["result"]["rows"][0][0]["value"];
    value.as_str().and_then(|text| text.parse().ok()).expect("a number")
}

fn mark(gate: &Gate, fence: &str) -> serde_json::Value {
    gate.client().get(&format!("/-/fences/{fence}")).json()["highest"].clone()
}

#[test]
fn wrong_usage_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Service::start(Manner::Kind);
    let url = service.url();
    let no_folder = dir.path().join("no/page.html");
    for (args, text) in [
        (&["--upstream", "http://192.0.2.1:80"][..], "--allow-remote"),
        (&["--gate", "http://192.0.2.1:80", "--fence", "a"], "--allow-remote"),
        (&["--upstream", "https://127.0.0.1:1"], "speaks plain http only"),
        (&["--upstream", &url, "--gate", &url, "--fence", "a"], "cannot be used with"),
        (&["--gate", &url], "--fence"),
        (&["--upstream", &url, "--method", "PUT"], "--write-to-it"),
        (&["--upstream", &url, "--write-to-it", "--method", "GET"], "the method of a write"),
        (&["--gate", &url, "--fence", "a", "--advance-by", "5"], "--write-to-it"),
        (&["--write-to-it"], "are for --upstream or --gate"),
        (&["--upstream", &url, "--path", "a"], "--path starts with a slash"),
        (&["--upstream", &url, "--header", "Fencing-Token: 9"], "written by bench itself"),
        (&["--threads", "5"], "--connections at least"),
        (&["--duration", "1ns"], "--duration is from"),
        (&["--rate", "0"], "write a number from"),
        (&["--report", no_folder.to_str().expect("UTF-8")], "its folder isn't there"),
    ] {
        let said = bench(dir.path(), args);
        assert_eq!(said.status, 64, "{args:?}: {}", said.err);
        assert!(said.err.contains(text), "{args:?}: {}", said.err);
    }
    assert_eq!(service.seen().count, 0);
}

#[test]
fn what_it_cannot_measure_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let empty = Service::start(Manner::Empty);
    let said = bench(dir.path(), &["--upstream", &empty.url(), "--path", "/a"]);
    assert_eq!(said.status, 1);
    assert!(said.err.contains("GET /a is answered with status 404"), "{}", said.err);
    let said = bench(dir.path(), &["--upstream", "http://127.0.0.1:1"]);
    assert_eq!((said.status, said.err.contains("nobody answers at 127.0.0.1:1")), (69, true), "{}", said.err);
    let said = bench(&dir.path().join("none"), &[]);
    assert_eq!(said.status, 1, "{}", said.err);
}

/// A gate takes each token that reaches it for a claim, also that of a read which another gate has forwarded.
#[test]
fn a_gate_is_no_upstream() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path());
    for more in [&[][..], &["--write-to-it"]] {
        let said = bench(dir.path(), &[&["--upstream", &format!("http://{}", gate.data)], more].concat());
        assert_eq!(said.status, 64, "{}", said.err);
        assert!(said.err.contains("measure it with --gate"), "{}", said.err);
    }
    assert_eq!(mark(&gate, "app"), "5");
}

struct Running {
    dir: tempfile::TempDir,
    gate: Gate,
}

impl Running {
    fn start() -> Running {
        let dir = tempfile::tempdir().expect("a directory");
        Running { gate: gate(dir.path()), dir }
    }

    fn bench(&self, more: &[&str]) -> Said {
        let url = format!("http://{}", self.gate.data);
        bench(self.dir.path(), &[&["--gate", &url, "--json"], more].concat())
    }
}

const WRITE: &str = "INSERT INTO t VALUES (?)";

#[test]
fn without_the_word_a_running_gate_is_read_and_refuses_and_nothing_else() {
    let running = Running::start();
    let run = running.bench(&["--fence", "app", "--sql", "SELECT * FROM t"]).json();
    assert_eq!(names(&run), ["read, no token", "refused (stale)"]);
    assert_eq!(
        measured(&run, "read, no token")["answers"].as_object().expect("a table").keys().collect::<Vec<_>>(),
        ["200"]
    );
    assert_eq!(
        measured(&run, "refused (stale)")["answers"].as_object().expect("a table").keys().collect::<Vec<_>>(),
        ["412"]
    );
    assert_eq!(
        (&run["tokens"]["before"], &run["tokens"]["now"], &run["tokens"]["taken"]),
        (&"5".into(), &"5".into(), &().into())
    );
    // A statement that writes is refused by the gate, and the first refusal ends the run.
    let said = running.bench(&["--fence", "app", "--sql", WRITE]);
    assert_eq!(said.status, 64, "{}", said.err);
    assert!(said.err.contains("--write-to-it"), "{}", said.err);
    assert_eq!((rows(&running.gate), mark(&running.gate, "app")), (0, "5".into()));
    assert_eq!(running.bench(&["--fence", "other", "--sql", "SELECT 1"]).status, 1, "no such fence");
    let said = running.bench(&["--fence", "app", "--sql", "SELECT 1", "--gate-pid", "5000000"]);
    assert!(said.status == 64 && said.err.contains("no such process"), "{}", said.err);
    let said = running.bench(&["--fence", "app"]);
    assert!(said.status == 1 && said.err.contains("--sql"), "{}", said.err);
}

#[test]
fn with_the_word_it_writes_with_the_mark_and_raises_nothing() {
    let running = Running::start();
    let run = running
        .bench(&["--fence", "app", "--sql", WRITE, "--write-to-it", "--gate-pid", &running.gate.pid().to_string()])
        .json();
    assert_eq!(names(&run), ["read, no token", "admitted", "refused (stale)"]);
    let admitted = measured(&run, "admitted");
    assert!(rows(&running.gate) >= admitted["operations"].as_u64().expect("a number"));
    assert!(admitted["gate_cpu_us"]["median"].as_f64().is_some_and(|cpu| cpu > 0.0));
    assert_eq!((&run["tokens"]["taken"], mark(&running.gate, "app")), (&"5".into(), "5".into()));
}

#[test]
fn a_leader_is_deposed_only_by_name_and_by_no_more_than_was_said() {
    let running = Running::start();
    let mut client = running.gate.client();
    let claim = |client: &mut Client| {
        let headers = [("fencing-token", "5"), ("fencing-holder", "node-a")];
        client.request("POST", "/-/fences/app/claim", &headers, b"").expect("an answer").status
    };
    assert_eq!(claim(&mut client), 200);
    let advance = ["--fence", "app", "--sql", WRITE, "--write-to-it", "--advance-by", "12"];
    let said = running.bench(&advance);
    assert_eq!(said.status, 77, "{}", said.err);
    assert!(said.err.contains("held by node-a (token 5)") && said.err.contains("--depose"), "{}", said.err);
    assert_eq!((rows(&running.gate), mark(&running.gate, "app")), (0, "5".into()));

    let run = running.bench(&[&advance[..], &["--depose"]].concat()).json();
    assert_eq!(names(&run), ["read, no token", "admitted", "refused (stale)", "takeover", "always newer"]);
    let now = mark(&running.gate, "app");
    assert_eq!(run["tokens"]["now"], now);
    assert_eq!((&run["tokens"]["before"], &run["tokens"]["holder_before"]), (&"5".into(), &"node-a".into()));
    let raised = now.as_str().and_then(|text| text.parse::<u64>().ok()).expect("a token");
    // In each of three rounds two of them take two at most, and one at least.
    assert!((5 + 6..=5 + 12).contains(&raised), "{raised}");
    assert_eq!(claim(&mut client), 412, "it was told that this would be");
}

/// Somebody else claims in the middle: it must not go on raising the mark above theirs.
#[test]
fn it_stops_where_somebody_else_claims_and_tells_where_the_mark_is() {
    let running = Running::start();
    let url = format!("http://{}", running.gate.data);
    let few = ["--rounds", "100", "--duration", "50ms", "--advance-by", "1000", "--write-to-it", "--sql", WRITE];
    let child = command(running.dir.path(), &[&["--gate", &url, "--fence", "app"], &few[..]].concat()).spawn();
    let mut child = child.expect("it starts");
    until("it raises the mark", || {
        assert!(matches!(child.try_wait(), Ok(None)), "it has ended");
        mark(&running.gate, "app") != "5"
    });
    let headers = [("fencing-token", "5000"), ("fencing-holder", "node-b")];
    let claimed = running.gate.client().request("POST", "/-/fences/app/claim", &headers, b"").expect("an answer");
    assert_eq!(claimed.status, 200);
    let output = child.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr);
    // Found out by a look before it raises the mark the next time, or by the refusals that it then gets.
    let is_told =
        error.contains("was claimed by node-b meanwhile: its mark is 5000") || error.contains("had status 412");
    assert!(matches!(output.status.code(), Some(77 | 1)) && is_told, "{error}");
    assert!(!error.contains("fences reset"), "that would shut out whoever has claimed: {error}");
    assert_eq!(mark(&running.gate, "app"), "5000");
}

#[test]
fn told_to_stop_it_still_tells_where_the_mark_is() {
    let running = Running::start();
    let url = format!("http://{}", running.gate.data);
    let long = ["--rounds", "100", "--duration", "50ms", "--advance-by", "1000", "--write-to-it", "--sql", WRITE];
    let child = command(running.dir.path(), &[&["--gate", &url, "--fence", "app"], &long[..]].concat()).spawn();
    let mut child = child.expect("it starts");
    until("it raises the mark", || {
        assert!(matches!(child.try_wait(), Ok(None)), "it has ended");
        mark(&running.gate, "app") != "5"
    });
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(143), "{error}");
    let now = mark(&running.gate, "app");
    let told = format!("Fence app is at token {}, and was at 5", now.as_str().expect("a token"));
    assert!(error.contains(&told) && error.contains("fencegate fences reset app --to 5"), "{error}");
}

#[test]
fn a_fence_without_a_mark_gets_the_lowest() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Service::start(Manner::Kind);
    let gate = Gate::start(dir.path(), &["--upstream", &service.url(), "--fence", "stock/{1}"]);
    let url = format!("http://{}", gate.data);
    let of = |more: &[&str]| {
        bench(dir.path(), &[&["--gate", &url, "--fence", "stock/a", "--path", "/a/x", "--json"], more].concat())
    };
    let run = of(&[]).json();
    assert_eq!(names(&run), ["read, no token"], "nothing is stale there");
    assert_eq!(mark(&gate, "stock%2Fa"), serde_json::Value::Null);
    assert_eq!(service.seen().tokens.len(), 0);
    let run = of(&["--write-to-it"]).json();
    assert_eq!(names(&run), ["read, no token", "admitted"]);
    assert_eq!(mark(&gate, "stock%2Fa"), "1");
    assert_eq!(service.seen().tokens.into_iter().collect::<Vec<_>>(), [1]);
}
