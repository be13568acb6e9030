//! `fencegate demo`, as somebody runs it: what it tells, what it has stored, and that nothing is left of it.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::lead::having;
use crate::process::{PROGRAM, until};

mod late;
mod partition;

/// A demonstration that runs, telling in JSON at once. Killed when dropped.
struct Demo {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    dir: tempfile::TempDir,
}

/// What one that has ended has told.
struct Told {
    status: Option<i32>,
    lines: Vec<Value>,
    /// What it kept.
    kept: PathBuf,
    _dir: tempfile::TempDir,
}

impl Demo {
    /// Starts it with these arguments besides.
    fn start(args: &[&str]) -> Demo {
        let dir = tempfile::tempdir().expect("a directory");
        let temporary = dir.path().join("tmp");
        std::fs::create_dir(&temporary).expect("a directory");
        let mut child = Command::new(PROGRAM)
            .args(["demo", "--json"])
            .args(args)
            .env("TMPDIR", &temporary)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Demo { child, lines, dir }
    }

    /// The same, to its end; its databases and logs are kept.
    fn finish(args: &[&str]) -> Told {
        let kept = tempfile::tempdir().expect("a directory");
        let folder = kept.path().to_str().expect("UTF-8");
        let mut demo = Demo::start(&[args, &["--keep", folder]].concat());
        let lines: Vec<Value> = std::iter::from_fn(|| demo.next()).collect();
        let status = demo.child.wait().expect("it can be waited for").code();
        assert_eq!(demo.processes(), 0, "nothing is left of it");
        Told { status, lines, kept: kept.path().to_owned(), _dir: kept }
    }

    /// What it tells next.
    fn next(&mut self) -> Option<Value> {
        let line = self.lines.next()?.expect("UTF-8");
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}")))
    }

    /// Waits until it has told this.
    fn until(&mut self, is: impl Fn(&Value) -> bool) {
        while !is(&self.next().expect("it goes on")) {}
    }

    /// How many processes there are that it has started, itself included.
    fn processes(&self) -> usize {
        having(&format!("TMPDIR={}", self.dir.path().join("tmp").display())).len()
    }

    /// `kill -9`; and then nothing is left, no process and no file.
    fn kill(mut self) {
        assert!(self.processes() > 1, "the check sees them");
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it can be waited for");
        until("nothing is left of it", || self.processes() == 0);
        let left = std::fs::read_dir(self.dir.path().join("tmp")).expect("it can be listed").count();
        assert_eq!(left, 0, "no file is left");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Told {
    /// The figures of a scenario's two runs: of each, the measures in order, and the refused writes.
    fn damage(&self, scenario: &str) -> [(Vec<u64>, u64); 2] {
        let is = |line: &&Value| line["type"] == "damage" && line["scenario"] == scenario;
        let damage = self.lines.iter().find(is).expect("the damage is told");
        let figures = |run: &Value| {
            let measures = run["measures"].as_array().expect("measures");
            let counts = measures.iter().map(|measure| measure["count"].as_u64().expect("a number")).collect();
            (counts, run["writes_refused"].as_u64().expect("a number"))
        };
        [figures(&damage["runs"][0]), figures(&damage["runs"][1])]
    }

    /// What was told of the last attempt of one run.
    fn run(&self, side: &str) -> &[Value] {
        let begins = |line: &Value| line["type"] == "run" && line["side"] == side;
        let start = self.lines.iter().rposition(begins).expect("it was played") + 1;
        let ends = |line: &Value| line["type"] != "event";
        let end = self.lines[start..].iter().position(ends).map_or(self.lines.len(), |end| start + end);
        &self.lines[start..end]
    }

    /// The folder of that attempt.
    fn folder(&self, scenario: &str, side: &str) -> PathBuf {
        let begins = |line: &&Value| line["type"] == "run" && line["side"] == side && line["scenario"] == scenario;
        let attempt = self.lines.iter().rfind(begins).expect("it was played")["attempt"].clone();
        self.kept.join(format!("{scenario}-{side}-{attempt}"))
    }
}

/// Where in this run something of this kind has happened to somebody, in the order in which it is told.
fn find(run: &[Value], lane: &str, kind: &str) -> Option<usize> {
    run.iter().position(|event| event["lane"] == lane && event["kind"] == kind)
}

/// How many events of this kind there were.
fn count(run: &[Value], lane: &str, kind: &str) -> usize {
    run.iter().filter(|event| event["lane"] == lane && event["kind"] == kind).count()
}

/// The first column of what this gives, as whole numbers.
fn numbers(database: &Path, sql: &str) -> Vec<i64> {
    let database = rusqlite::Connection::open(database).expect("a database");
    let mut statement = database.prepare(sql).expect("a statement");
    let rows = statement.query_map((), |row| row.get(0)).expect("rows");
    rows.map(|row| row.expect("a number")).collect()
}

#[test]
fn what_is_not_to_be_had_is_said_with_a_status_of_its_own() {
    let run = |args: &[&str]| {
        let output = Command::new(PROGRAM).arg("demo").args(args).output().expect("it can be started");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    let (status, told) = run(&["partition", "--coordinator", "etcd://127.0.0.1:1"]);
    assert_eq!(status, Some(69), "{told}");
    assert!(told.contains("leave --coordinator out"), "{told}");
    let (status, told) = run(&["partition", "--members", "4"]);
    assert_eq!(status, Some(64), "{told}");
    assert!(told.contains("an odd number from 3 to 15"), "{told}");
}

#[test]
fn what_is_skipped_is_told_beside_what_is_shown() {
    // Without any other program, one of the two can be shown.
    let mut command = Command::new(PROGRAM);
    let output = command.args(["demo", "late", "partition", "--json"]).env("PATH", "").output().expect("it starts");
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let skipped: Vec<&Value> = lines.iter().filter(|line| line["type"] == "skipped").collect();
    // First of all, and again at the end, where it is not overlooked.
    assert_eq!((lines.first(), lines.last()), (Some(skipped[0]), Some(skipped[1])), "{told}");
    assert_eq!(skipped[0]["scenario"], "partition");
    let result = lines.iter().find(|line| line["type"] == "result").expect("it is told");
    assert_eq!((&result["ok"], output.status.code()), (&Value::Bool(true), Some(69)));
}
