//! The examples as they stand in `examples/`, as processes of their own: killed, stopped and woken up.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};

use crate::gate::LONG;
use crate::process::{Client, Gate, until};

/// Where the examples are built. `cargo test` has done so already, unless it was asked for this test binary only.
fn built() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let this = std::env::current_exe().expect("this program has a file");
        let profile = this.ancestors().nth(2).expect("it is in deps/").to_owned();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--locked", "--examples", "--target-dir"]);
        cargo.arg(profile.parent().expect("in the target folder")).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo runs").success(), "the examples can't be built");
        profile.join("examples")
    })
}

/// A running example. Killed when dropped.
struct Example {
    child: Child,
    lines: Receiver<String>,
}

impl Example {
    fn start(name: &str, gate: &Gate, settings: &[(&str, &str)]) -> Example {
        let mut child = Command::new(built().join(name))
            .env("FENCEGATE_URL", format!("http://{}", gate.data))
            .env("ELECTION", "app")
            .env("LEASE_MS", "1000")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Example { child, lines }
    }

    /// Waits for a line that starts so; the rest of it.
    fn says(&self, start: &str) -> String {
        let mut said = Vec::new();
        loop {
            let line = self.lines.recv_timeout(LONG).unwrap_or_else(|error| panic!("no {start:?} ({error}): {said:?}"));
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim().to_owned();
            }
            said.push(line);
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it can be signalled");
    }

    /// SIGSTOP, and returns when it stands still.
    fn stop(&self) {
        self.signal(Signal::STOP);
        until("it is stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it is there");
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
        });
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gate() -> (tempfile::TempDir, Gate) {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::patient(dir.path());
    (dir, gate)
}

/// A query's rows, each as its values with spaces between.
fn rows(gate: &Gate, sql: &str) -> Vec<String> {
    let answer = gate.client().sql(None, &[sql]).json();
    let rows = answer["results"][0]["response"]["result"]["rows"].as_array().cloned().unwrap_or_default();
    let value = |value: &serde_json::Value| value["value"].as_str().unwrap_or("-").to_owned();
    rows.iter().map(|row| row.as_array().expect("a row").iter().map(value).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_job_runs_once_in_every_interval_whoever_is_killed() {
    let (_dir, gate) = gate();
    let settings = [("EVERY_MS", "40")];
    let first = Example::start("cron", &gate, &settings);
    assert_eq!(first.says("leading with token"), "1");
    let second = Example::start("cron", &gate, &settings);
    for _ in 0..3 {
        first.says("ran");
    }
    drop(first);
    assert_eq!(second.says("leading with token"), "2");
    for _ in 0..3 {
        second.says("ran");
    }
    let runs = rows(&gate, "SELECT token FROM runs ORDER BY slot");
    assert!(runs.is_sorted() && runs.contains(&"1".to_owned()) && runs.contains(&"2".to_owned()), "{runs:?}");
    assert_eq!(rows(&gate, "SELECT count(DISTINCT who) FROM runs"), ["2"]);
}

#[test]
fn a_worker_that_slept_past_its_lease_writes_nothing_when_it_wakes() {
    let (_dir, gate) = gate();
    let first = Example::start("queue_worker", &gate, &[("FENCING_HOLDER", "first"), ("WORK_MS", "300")]);
    assert_eq!(first.says("leading with token"), "1");
    until("there is a queue", || !rows(&gate, "SELECT name FROM sqlite_schema WHERE name = 'jobs'").is_empty());
    let jobs = "INSERT INTO jobs (what) VALUES ('one'), ('two')";
    assert_eq!(gate.client().sql(Some("1"), &[jobs]).status, 200);
    assert_eq!(first.says("working on"), "1: one");
    first.stop();
    // It has its lease to wait for.
    let second = Example::start("queue_worker", &gate, &[("FENCING_HOLDER", "second"), ("WORK_MS", "1")]);
    assert_eq!(second.says("leading with token"), "2");
    assert_eq!((second.says("done"), second.says("done")), ("1".to_owned(), "2".to_owned()));
    first.signal(Signal::CONT);
    let why = first.says("stepping down:");
    // It may hear it from its own clock first, or from the coordinator; of its write it knows in both cases.
    assert!(why.contains("this was not applied"), "{why}");
    let done = ["1 second 2", "2 second 2"];
    assert_eq!(rows(&gate, "SELECT id, done_by, token FROM jobs ORDER BY id"), done);
    // And it stands again, for the next term.
    second.signal(Signal::KILL);
    assert_eq!(first.says("leading with token"), "3");
}

#[test]
fn a_leader_that_sleeps_inside_its_write_says_truly_whether_it_was_applied() {
    let (_dir, gate) = gate();
    let first = Example::start("queue_worker", &gate, &[("FENCING_HOLDER", "first"), ("WORK_MS", "100")]);
    assert_eq!(first.says("leading with token"), "1");
    until("there is a queue", || !rows(&gate, "SELECT name FROM sqlite_schema WHERE name = 'jobs'").is_empty());
    assert_eq!(gate.client().sql(Some("1"), &["INSERT INTO jobs (what) VALUES ('one')"]).status, 200);
    assert_eq!(first.says("working on"), "1: one");
    // The gate stands still while the write is sent, and goes on when its sender does.
    gate.signal(Signal::STOP);
    crate::upstream::pass_time(200);
    first.stop();
    gate.signal(Signal::CONT);
    // Longer than the lease, by every clock there is.
    crate::upstream::pass_time(1500);
    first.signal(Signal::CONT);
    let why = first.says("stepping down:");
    let done = rows(&gate, "SELECT done_by, token FROM jobs");
    match &done[..] {
        [done] if done == "first 1" => assert!(why.contains("this was still applied"), "{why}"),
        [done] if done == "- -" => assert!(why.contains("not applied"), "{why}"),
        other => panic!("{other:?}: {why}"),
    }
}

#[test]
fn of_two_copies_of_a_service_one_writes() {
    let (_dir, gate) = gate();
    let start = || {
        let example = Example::start("web_service", &gate, &[("LISTEN", "127.0.0.1:0")]);
        let addr: std::net::SocketAddr = example.says("listening on").parse().expect("an address");
        (example, addr)
    };
    let visit = |addr, who: &str| {
        let mut client = Client::connect(addr).expect("it listens");
        client.request("POST", "/visits", &[], who.as_bytes()).expect("an answer").status
    };
    let (first, first_addr) = start();
    assert_eq!(first.says("leading with token"), "1");
    let (second, second_addr) = start();
    assert_eq!((visit(first_addr, "alice"), visit(second_addr, "bob")), (201, 503));
    first.stop();
    assert_eq!(second.says("leading with token"), "2");
    assert_eq!(visit(second_addr, "bob"), 201);
    first.signal(Signal::CONT);
    first.says("stepping down:");
    assert_eq!(visit(first_addr, "carol"), 503);
    assert_eq!(rows(&gate, "SELECT who, token FROM visits ORDER BY rowid"), ["alice 1", "bob 2"]);
    let seen = Client::connect(second_addr).expect("it listens").get("/visits");
    assert_eq!(String::from_utf8_lossy(&seen.body), "alice\nbob\n");
}
