//! What goes wrong around the gate: a second gate, a newer schema, a full disk, a taken port, a stop in the middle of work.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use crate::process::{Gate, PROGRAM, until};

#[test]
fn a_second_gate_on_one_database_says_who_has_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let args = ["--sqlite", file.to_str().expect("UTF-8")];
    let first = Gate::start(dir.path(), &args);
    let other = tempfile::tempdir().expect("a directory");
    let error = Gate::try_start(other.path(), &args).err().expect("the second gate must not start");
    assert!(error.contains("in use by another gate") && error.contains(&first.pid().to_string()), "{error}");
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    let error = Gate::try_start(other.path(), &["--sqlite", link.to_str().expect("UTF-8")]).err();
    assert!(error.expect("nor by another name").contains("in use"));
    first.kill();
    drop(Gate::start(other.path(), &args));
}

#[test]
fn a_restored_backup_has_its_mark() {
    let dir = tempfile::tempdir().expect("a directory");
    let (file, copy) = (dir.path().join("app.db"), dir.path().join("copy.db"));
    let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"]);
    gate.client().sql(Some("7"), &["CREATE TABLE t (v)", "INSERT INTO t VALUES (1)"]);
    let db = Connection::open(&file).expect("it opens");
    db.execute("VACUUM INTO ?1", [copy.to_str().expect("UTF-8")]).expect("a backup while the gate runs");
    gate.client().sql(Some("9"), &["INSERT INTO t VALUES (2)"]);
    gate.kill();
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    std::fs::rename(&copy, &file).expect("restored");
    let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"]);
    for (token, status) in [("6", 412), ("7", 200), ("9", 200), ("8", 412)] {
        let answer = gate.client().sql(Some(token), &["INSERT INTO t VALUES (3)"]);
        assert_eq!(answer.status, status, "{token}: {answer:?}");
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let args = ["--sqlite", file.to_str().expect("UTF-8")];
    assert_eq!(Gate::start(dir.path(), &args).terminate(), Some(0));
    let db = Connection::open(&file).expect("it opens");
    let row = "INSERT INTO fencegate_migrations VALUES (9999, 'later', '2100-01-01T00:00:00Z', '1')";
    db.execute(row, []).expect("a migration of a later version");
    drop(db);
    let error = Gate::try_start(dir.path(), &args).err().expect("it must not start");
    assert!(error.contains("newer fencegate"), "{error}");
}

#[test]
fn what_cannot_be_started_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").to_string();
    let run = |args: &[&str]| {
        let data = dir.path().join("data");
        let output = Command::new(PROGRAM).args(args).current_dir(dir.path()).env("FENCEGATE_DATA_DIR", data).output();
        let output = output.expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (args, status, text) in [
        (vec!["serve", "--listen", &port, "--admin", "127.0.0.1:0"], 1, "another program has this port"),
        (vec!["serve", "--listen", "nonsense"], 64, "no address to listen on"),
        (vec!["serve", "--sqlite", "no/such/folder/app.db"], 1, "no/such/folder"),
        (vec!["serve", "--sqlite", "."], 1, "can't be opened"),
        (vec!["serve", "--config", "none.toml"], 78, "none.toml: can't be read"),
        (vec!["serve", "--config", "none.toml", "--sqlite", "a.db"], 64, "--config says which resources"),
        (vec!["serve", "--upstream", "127.0.0.1:1"], 64, "127.0.0.1:1"),
        (vec!["serve", "--upstream", "http://127.0.0.1:1", "--sqlite", "a.db"], 64, "one resource each"),
        (vec!["serve", "--upstream", "http://127.0.0.1:1", "--fence", "a/{x}"], 64, "{x}"),
        (vec!["serve", "--fence", "two words"], 64, "fence \"two words\""),
        (vec!["serve", "--nonsense"], 64, "unexpected argument"),
        (vec![], 64, "Usage"),
    ] {
        let (code, stderr) = run(&args);
        assert_eq!(code, Some(status), "{args:?}: {stderr}");
        assert!(stderr.contains(text), "{args:?}: {stderr}");
    }
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("notes.txt");
    std::fs::write(&file, "these are my notes, and no database at all").expect("written");
    let error = Gate::try_start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8")]).err().expect("no start");
    assert!(error.contains("not a database"), "{error}");
    assert!(std::fs::read_to_string(&file).expect("read").starts_with("these are my notes"));
}

/// So that nothing in the environment of a released gate can kill it, stop it, or make it leave out a step.
#[cfg(not(debug_assertions))]
#[test]
fn a_release_build_has_no_fail_points() {
    let program = std::fs::read(PROGRAM).expect("it can be read");
    for text in ["FENCEGATE_FAIL", "sqlite.mark_write", "http.journal_set", "elections.issue"] {
        let is_there = program.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!is_there, "{text} is in the program");
    }
}

/// A small file system in memory, unmounted when dropped.
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where that isn't allowed.
    pub fn new() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("a directory");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(dir.path()).output();
        mount.is_ok_and(|output| output.status.success()).then_some(SmallDisk(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Changes how it is mounted.
    pub fn remount(&self, option: &str) {
        let option = format!("remount,{option}");
        let mounted = Command::new("mount").args(["-o", &option]).arg(self.path()).status().expect("mount runs");
        assert!(mounted.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// Says so past the test harness, which keeps what a passing test prints to itself.
pub fn skipped(test: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: mounting a small disk needs root");
}

#[test]
fn a_full_disk_loses_nothing_and_recovers() {
    let Some(disk) = SmallDisk::new() else {
        return skipped("a_full_disk_loses_nothing_and_recovers");
    };
    let dir = tempfile::tempdir().expect("a directory");
    let file = disk.0.path().join("app.db");
    let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"]);
    let mut client = gate.client();
    assert_eq!(client.sql(Some("1"), &["CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)"]).status, 200);
    let insert = "INSERT INTO t (v) VALUES (zeroblob(20000))";
    let mut acknowledged = 0;
    let refused = loop {
        let answer = client.sql(Some("1"), &[insert]);
        if answer.status != 200 {
            break answer;
        }
        acknowledged += 1;
        assert!(acknowledged < 1000, "a 2 MB disk never fills");
    };
    assert_eq!((refused.status, refused.code().as_str()), (503, "UNAVAILABLE"), "{refused:?}");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["applied"], "no");
    let count = |client: &mut crate::process::Client| {
        client.sql(None, &["SELECT count(*) FROM t"]).json()["results"][0]["response"]["result"]["rows"][0][0]["value"]
            .clone()
    };
    assert_eq!(count(&mut client), acknowledged.to_string(), "reads go on, and tell the truth");
    let trouble = gate.admin().get("/v1/status").json()["resources"][0]["trouble"].clone();
    assert!(trouble.is_string(), "operators are told: {trouble}");
    disk.remount("size=16m");
    assert_eq!(client.sql(Some("1"), &[insert]).status, 200, "there is room again");
    assert!(gate.admin().get("/v1/status").json()["resources"][0]["trouble"].is_null());
    gate.kill();
    let db = Connection::open(&file).expect("it opens");
    let rows: i64 = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("it can be read");
    assert_eq!(rows, acknowledged + 1);
}

#[test]
fn a_stop_lets_work_finish() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::patient(dir.path());
    let (mut client, mut admin) = (gate.client(), gate.admin());
    client.sql(Some("1"), &["CREATE TABLE t (v)"]);
    let slow = "INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 600000) SELECT x FROM n";
    let body = serde_json::json!({ "requests": [{ "type": "execute", "stmt": { "sql": slow } }, { "type": "close" }] });
    let body = body.to_string();
    let head = format!(
        "POST /v3/pipeline HTTP/1.1\r\nhost: g\r\nfencing-token: 1\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(head.as_bytes()).expect("sent");
    // The gate is at work on the request, and asks for its body. So all that is left of it is done while the gate stops.
    assert!(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 100 "));
    gate.signal(rustix::process::Signal::TERM);
    until("the gate is stopping", || admin.get("/readyz").status == 503);
    client.send(body.as_bytes()).expect("sent");
    assert_eq!(client.read_answer().expect("the answer still comes").status, 200);
    assert_eq!(gate.wait(), Some(0));
    let db = Connection::open(dir.path().join("app.db")).expect("it opens");
    let rows: i64 = db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("it can be read");
    assert_eq!(rows, 600_000);
}

#[test]
fn a_second_signal_ends_the_draining() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::start(dir.path(), &[]);
    let mut client = gate.client();
    // A request in work that will never be whole.
    let head = b"POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n";
    client.send(head).expect("sent");
    client.read_until("100 Continue");
    gate.signal(rustix::process::Signal::TERM);
    // The admin listener stays, and tells that the gate drains.
    until("it drains", || gate.admin().get("/readyz").status == 503);
    let stopping = std::time::Instant::now();
    assert_eq!(gate.terminate(), Some(0));
    assert!(stopping.elapsed() < std::time::Duration::from_secs(5), "it took {:?} to stop", stopping.elapsed());
}
