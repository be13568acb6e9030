//! The story that the product is about, with real processes: a leader's worker is stopped with SIGSTOP in the middle of its work,
//! its lease runs out, a successor is elected and writes, and then the worker wakes up and writes, still believing.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::process::{Client, Gate, PROGRAM, until};

fn campaign(client: &mut Client, holder: &str, ttl_ms: u32) -> Value {
    let body = json!({ "holder": holder, "ttl_ms": ttl_ms, "wait_ms": 60_000 }).to_string();
    client.request("POST", "/-/elections/app/campaign", &[], body.as_bytes()).expect("the gate answers").json()
}

/// A worker that has its token and waits for its work, which comes on its standard input.
fn worker(gate: &Gate, token: &str) -> Child {
    Command::new(PROGRAM)
        .args(["sql", "--token", token, "-"])
        .env("FENCEGATE_URL", format!("http://{}", gate.data))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts")
}

/// Whether the kernel says that the process is stopped.
fn is_stopped(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("the process is there");
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

/// Who has written in the end, the worker's exit status, and what it said.
fn story(dir: &Path, args: &[&str]) -> (Vec<String>, Option<i32>, String) {
    let file = dir.join("app.db");
    let mut all = vec!["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"];
    all.extend(args);
    let gate = Gate::start(dir, &all);
    let mut client = gate.client();
    let first = campaign(&mut client, "first", 1000);
    let token = first["token"].as_str().expect("it leads").to_owned();
    client.sql(Some(&token), &["CREATE TABLE t (who TEXT)", "INSERT INTO t VALUES ('first')"]);
    let mut worker = worker(&gate, &token);
    kill_process(Pid::from_child(&worker), Signal::STOP).expect("it can be stopped");
    until("the worker is stopped", || is_stopped(&worker));
    let mut stdin = worker.stdin.take().expect("piped");
    stdin.write_all(b"INSERT INTO t VALUES ('first, woken up');").expect("written");
    drop(stdin);
    // Nobody renews the first one's lease; this waits until it has run out. The second's own outlasts the test.
    let second = campaign(&mut client, "second", 600_000);
    assert_eq!(second["state"], "leading");
    let next = second["token"].as_str().expect("it leads");
    assert_eq!(client.sql(Some(next), &["INSERT INTO t VALUES ('second')"]).status, 200);
    kill_process(Pid::from_child(&worker), Signal::CONT).expect("it can be woken");
    let mut said = String::new();
    worker.stderr.take().expect("piped").read_to_string(&mut said).expect("UTF-8");
    let status = worker.wait().expect("it ends").code();
    let rows = client.sql(None, &["SELECT who FROM t ORDER BY rowid"]).json();
    let rows = rows["results"][0]["response"]["result"]["rows"].as_array().cloned().unwrap_or_default();
    (rows.iter().map(|row| row[0]["value"].as_str().unwrap_or_default().to_owned()).collect(), status, said)
}

#[test]
fn a_worker_that_was_paused_past_its_lease_is_told_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (rows, status, said) = story(dir.path(), &[]);
    assert_eq!(rows, ["first", "second"]);
    assert_eq!(status, Some(77));
    assert!(said.contains("You've been replaced"), "{said}");
}

#[test]
fn with_the_check_off_a_stale_transaction_goes_through_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app", "--no-enforce"]);
    let mut client = gate.client();
    assert_eq!(client.sql(Some("6"), &["CREATE TABLE t (who TEXT)"]).status, 200);
    let sequence = json!([{ "type": "sequence", "sql": "BEGIN IMMEDIATE; INSERT INTO t VALUES ('five'); COMMIT" }]);
    let answer = client.pipeline(Some("5"), None, &sequence).expect("the gate answers");
    assert_eq!((answer.status, answer.json()["results"][0]["type"].as_str()), (200, Some("ok")), "{answer:?}");
    let count = client.sql(None, &["SELECT count(*) FROM t"]).json();
    assert_eq!(count["results"][0]["response"]["result"]["rows"][0][0]["value"], "1");
}

#[test]
fn with_the_check_off_the_same_worker_writes_over_its_successor() {
    let dir = tempfile::tempdir().expect("a directory");
    let (rows, status, _) = story(dir.path(), &["--no-enforce"]);
    assert_eq!(rows, ["first", "second", "first, woken up"]);
    assert_eq!(status, Some(0));
}
