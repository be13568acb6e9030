//! A disk that is full, read-only or failing, at each call that can fail: clear answers, nothing wrong called done, and all well again
//! once the disk is.
//!
//! `FENCEGATE_FAIL_ALL=1`: every call of a start, not only some.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use rustix::io::Errno;
use serde_json::json;

use super::{BadDisk, CUT, Fault, KILL, MAKE, SYNC, WRITE};
use crate::gate::LONG;
use crate::kill::{Told, Written, held_against, told};
use crate::process::{Answer, Client, Gate, copy_dir, until};
use crate::upstream::pass_time;

const ERRORS: [Errno; 3] = [Errno::IO, Errno::NOSPC, Errno::ROFS];

/// As many calls as nothing here makes.
const NTH_MAX: u32 = 3000;

/// Writers before a database on such a disk.
struct Database {
    disk: BadDisk,
    gate: Gate,
    term: u64,
    id: u64,
    acknowledged: u64,
    written: Vec<Written>,
}

impl Database {
    fn new(test: &str) -> Option<Database> {
        let disk = BadDisk::new(test)?;
        let file = disk.dir.path().join("app.db");
        let args = ["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"];
        let gate = disk.try_start(&args, &[], false).expect("it starts");
        let create =
            "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, write_id INTEGER, term INTEGER, more BLOB)";
        assert_eq!(gate.client().sql(Some("1"), &[create]).status, 200);
        Some(Database { disk, gate, term: 1, id: 0, acknowledged: 1, written: Vec::new() })
    }

    /// Writes a row under the next term, with so much more.
    fn write(&mut self, bytes: usize) -> (Told, Answer) {
        self.term += 1;
        self.id += 1;
        let (id, term) = (self.id, self.term);
        let sql = format!("INSERT INTO log (write_id, term, more) VALUES ({id}, {term}, zeroblob({bytes}))");
        let answer = self.gate.client().try_sql(Some(&term.to_string()), &[&sql]);
        let told = told(&answer);
        if told == Told::Done {
            self.acknowledged = term;
        }
        self.written.push(Written { id, rows: 1, told });
        (told, answer.expect("the gate answers, whatever the disk does"))
    }

    /// A leader that was deposed, also by one whose write has failed in part, is never let in after what was acknowledged.
    fn knock(&mut self) {
        let old = (self.acknowledged - 1).max(1).to_string();
        let answer = self.gate.client().sql(Some(&old), &["DELETE FROM log"]);
        assert!(self.acknowledged == 1 || answer.status == 412, "term {old} after {}: {answer:?}", self.acknowledged);
    }

    /// Ends the gate as a crash does, and holds what is there against what was told.
    fn judge(self) {
        let Database { disk, gate, acknowledged, written, .. } = self;
        gate.kill();
        let file = disk.dir.path().join("app.db");
        let gate = Gate::start(disk.dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"]);
        let mark = gate.client().get("/-/fences/app").json()["highest"].as_str().map(|mark| mark.parse::<u64>());
        assert!(mark.is_some_and(|mark| mark.expect("a number") >= acknowledged));
        gate.kill();
        let db = rusqlite::Connection::open(file).expect("it opens");
        let intact: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it can be checked");
        assert_eq!(intact, "ok");
        let mut stmt = db.prepare("SELECT write_id, term FROM log ORDER BY id").expect("the table is there");
        let rows = stmt.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("it can be read");
        let rows: Vec<(i64, i64)> = rows.map(|row| row.expect("a row")).collect();
        assert!(rows.is_sorted_by_key(|row| row.1), "terms fell");
        let found: HashMap<u64, u64> = rows.iter().map(|row| (row.0.unsigned_abs(), 1)).collect();
        assert_eq!(held_against(&found, &written), Vec::<String>::new());
    }
}

#[test]
fn whatever_call_of_a_database_fails_it_tells_the_truth_and_recovers() {
    let Some(mut database) = Database::new("whatever_call_of_a_database_fails_it_tells_the_truth_and_recovers") else {
        return;
    };
    let mut failed: HashMap<&str, u32> = HashMap::new();
    for (file, ops) in [("app.db-wal", WRITE), ("app.db-wal", SYNC), ("", WRITE | SYNC | CUT | MAKE)] {
        for error in ERRORS {
            for stays in [false, true] {
                for nth in 1..NTH_MAX {
                    database.disk.fail(Fault { ops, file, nth, error: error.raw_os_error(), stays });
                    let (told, answer) = database.write(3000);
                    let hits = database.disk.hits();
                    let read = database.gate.client().sql(None, &["SELECT count(*) FROM log"]);
                    assert_eq!(read.status, 200, "reads go on: {read:?}");
                    database.disk.mend();
                    if hits == 0 {
                        assert_eq!(told, Told::Done, "{answer:?}");
                        break;
                    }
                    let case = format!("{error} at call {nth} of {ops} on {file:?}, stays: {stays}: {answer:?}");
                    match told {
                        Told::Done => assert_eq!(file, "", "{case}"),
                        Told::Refused => {
                            assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"), "{case}")
                        }
                        Told::Nothing => {
                            assert_eq!((answer.status, answer.code().as_str()), (502, "OUTCOME_UNKNOWN"), "{case}")
                        }
                    }
                    *failed.entry(if told == Told::Done { "done" } else { "not done" }).or_default() += 1;
                    database.knock();
                    let (told, answer) = database.write(10);
                    assert_eq!(told, Told::Done, "the first one after {case} gets {answer:?}");
                }
            }
        }
    }
    eprintln!("writes to a failing disk: {failed:?}");
    assert!(failed["not done"] > 20, "hardly anything failed");
    database.judge();
}

/// What doesn't share the writer's transaction: a statement by itself, a client's own transaction, an operator's reset.
#[test]
fn a_commit_of_ones_own_that_fails_is_not_called_done() {
    let Some(mut database) = Database::new("a_commit_of_ones_own_that_fails_is_not_called_done") else { return };
    assert_eq!(database.write(10).0, Told::Done);
    for (ops, expected) in [(SYNC, (502, "OUTCOME_UNKNOWN")), (WRITE, (502, "OUTCOME_UNKNOWN"))] {
        let fault = Fault { ops, file: "app.db-wal", nth: 1, error: Errno::IO.raw_os_error(), stays: true };
        let token = database.term.to_string();
        let mut client = database.gate.client();
        let insert = |id: u64| crate::kill::stmt(&format!("INSERT INTO log (write_id, term) VALUES ({id}, {token})"));
        let begun = client.pipeline(Some(&token), None, &json!([crate::kill::stmt("BEGIN IMMEDIATE"), insert(1001)]));
        let baton = begun.expect("an answer").json()["baton"].as_str().map(str::to_owned);
        database.disk.fail(fault);
        let commit = json!([crate::kill::stmt("COMMIT"), { "type": "close" }]);
        let committed = client.pipeline(Some(&token), baton.as_deref(), &commit).expect("an answer");
        let alone = json!([crate::kill::stmt("PRAGMA foreign_keys = off"), insert(1002), { "type": "close" }]);
        let alone = client.pipeline(Some(&token), None, &alone).expect("an answer");
        let body = json!({ "highest": token, "reason": "a test" }).to_string();
        let json_type = [crate::process::JSON];
        let reset = database.gate.admin().request("POST", "/v1/fences/app/reset", &json_type, body.as_bytes());
        assert!(database.disk.mend() >= 3, "each of them came to the disk");
        for answer in [committed, alone, reset.expect("an answer")] {
            assert_eq!((answer.status, answer.code().as_str()), expected, "{ops}: {answer:?}");
        }
        for id in [1001, 1002] {
            database.written.push(Written { id, rows: 1, told: Told::Nothing });
        }
        assert_eq!(database.write(10).0, Told::Done);
        database.knock();
    }
    database.judge();
}

#[test]
fn whatever_call_of_a_checkpoint_fails_nothing_is_lost() {
    let Some(mut database) = Database::new("whatever_call_of_a_checkpoint_fails_nothing_is_lost") else { return };
    let mut hit = 0;
    for error in ERRORS {
        for (ops, stays) in [(WRITE, false), (SYNC, false), (WRITE, true), (SYNC, true)] {
            database.disk.fail(Fault { ops, file: "app.db", nth: 1, error: error.raw_os_error(), stays });
            let before = hit;
            // The log is copied into the database when it has grown to a thousand pages.
            while hit == before {
                let (told, answer) = database.write(2_000_000);
                assert_eq!(told, Told::Done, "{answer:?}");
                hit += database.disk.hits();
            }
            database.disk.mend();
            assert_eq!(database.write(10).0, Told::Done);
            database.knock();
        }
    }
    database.judge();
}

/// The gate before an HTTP service on such a disk; nothing is forwarded here.
fn http(test: &str) -> Option<(BadDisk, Gate)> {
    let disk = BadDisk::new(test)?;
    let gate = disk.try_start(&HTTP, &[], false).expect("it starts");
    Some((disk, gate))
}

const HTTP: [&str; 4] = ["--upstream", "http://127.0.0.1:1", "--fence", "stock/{1}"];

fn begin_claim(gate: &Gate, fence: &str, term: u64) -> Client {
    let mut client = gate.client();
    let claim = format!(
        "POST /-/fences/stock%2F{fence}/claim HTTP/1.1\r\nhost: gate\r\nfencing-token: {term}\r\ncontent-length: 0\r\n\r\n"
    );
    client.send(claim.as_bytes()).expect("sent");
    client
}

#[test]
fn whatever_call_of_the_store_of_marks_fails_the_gate_lives_and_recovers() {
    let test = "whatever_call_of_the_store_of_marks_fails_the_gate_lives_and_recovers";
    let Some((disk, mut gate)) = http(test) else { return };
    for error in [Errno::IO, Errno::NOSPC] {
        disk.fail(Fault { ops: WRITE, file: "fences.journal", nth: 1, error: error.raw_os_error(), stays: true });
        let unplaced = begin_claim(&gate, "a", 1).read_answer().expect("an answer");
        assert_eq!((unplaced.status, unplaced.code().as_str()), (503, "UNAVAILABLE"), "{unplaced:?}");
        assert!(disk.mend() > 0, "the first fence has no place in the journal yet");
    }
    let (mut term, mut acknowledged, mut refused) = (1, 0, 0);
    for (file, ops) in [("fences.db-wal", WRITE), ("fences.db-wal", SYNC), ("", WRITE | SYNC | CUT | MAKE)] {
        for error in ERRORS {
            for stays in [false, true] {
                for nth in 1..NTH_MAX {
                    term += 1;
                    disk.fail(Fault { ops, file, nth, error: error.raw_os_error(), stays });
                    let mut claim = begin_claim(&gate, "a", term);
                    // One whose commit has failed in the middle is answered once that is known.
                    until("it fails or is answered", || disk.hits() > 0 || claim.is_answered());
                    let hits = disk.mend();
                    let answer = claim.read_answer().expect("the gate lives");
                    match (answer.status, hits) {
                        (200, _) => acknowledged = term,
                        (503, 1..) => {
                            refused += 1;
                            assert_eq!(
                                (answer.code().as_str(), &answer.json()["applied"]),
                                ("UNAVAILABLE", &json!("no"))
                            );
                        }
                        _ => panic!("{error} at call {nth} of {ops} on {file:?}, stays: {stays}: {answer:?}"),
                    }
                    let stale = begin_claim(&gate, "a", acknowledged - 1).read_answer().expect("an answer");
                    assert_eq!(stale.status, 412, "{stale:?}");
                    if hits == 0 {
                        break;
                    }
                    term += 1;
                    let started = Instant::now();
                    while begin_claim(&gate, "a", term).read_answer().expect("an answer").status != 200 {
                        assert!(started.elapsed() < LONG, "it doesn't recover");
                        pass_time(5);
                    }
                    acknowledged = term;
                }
            }
        }
    }
    assert!(refused > 5, "hardly anything failed");
    assert!(gate.is_running());
    assert!(gate.admin().get("/v1/status").json()["resources"][0]["trouble"].is_null());
    gate.kill();
    let gate = Gate::start(disk.dir.path(), &HTTP);
    let mark = gate.client().get("/-/fences/stock%2Fa").json()["highest"].as_str().map(|mark| mark.parse::<u64>());
    assert!(mark.is_some_and(|mark| mark.expect("a number") >= acknowledged));
}

#[test]
fn a_commit_of_marks_that_fails_in_the_middle_keeps_its_fence_closed_until_it_is_known() {
    let test = "a_commit_of_marks_that_fails_in_the_middle_keeps_its_fence_closed_until_it_is_known";
    let Some((disk, gate)) = http(test) else { return };
    for fence in ["a", "b"] {
        assert_eq!(begin_claim(&gate, fence, 5).read_answer().expect("an answer").status, 200);
    }
    disk.fail(Fault { ops: SYNC, file: "fences.db-wal", nth: 1, error: Errno::IO.raw_os_error(), stays: true });
    let mut newer = begin_claim(&gate, "a", 6);
    until("it fails", || disk.hits() > 1);
    // It may be on disk that term 6 has come, and that nothing older is in flight: so nothing older starts.
    let older = begin_claim(&gate, "a", 5);
    assert_eq!(begin_claim(&gate, "b", 5).read_answer().expect("an answer").status, 200, "other fences go on");
    until("it is tried again", || disk.hits() > 3);
    assert!(!older.is_answered() && !newer.is_answered());
    disk.mend();
    assert_eq!(newer.read_answer().expect("an answer").status, 200);
    let mut older = older;
    assert_eq!(older.read_answer().expect("an answer").status, 412);
    // Told to stop meanwhile, it stops, and the next one knows.
    disk.fail(Fault { ops: SYNC, file: "fences.db-wal", nth: 1, error: Errno::IO.raw_os_error(), stays: true });
    let mut newest = begin_claim(&gate, "a", 7);
    until("it fails", || disk.hits() > 1);
    assert_eq!(gate.terminate(), Some(0));
    assert!(!newest.read_answer().is_ok_and(|answer| answer.status == 200));
    let gate = Gate::start(disk.dir.path(), &HTTP);
    assert_eq!(begin_claim(&gate, "a", 5).read_answer().expect("an answer").status, 412);
    assert_eq!(begin_claim(&gate, "a", 7).read_answer().expect("an answer").status, 200);
}

#[test]
fn whatever_call_of_the_elections_fails_no_token_is_told_twice() {
    let test = "whatever_call_of_the_elections_fails_no_token_is_told_twice";
    let Some((disk, gate)) = http(test) else { return };
    let post = |gate: &Gate, action: &str, body: serde_json::Value| {
        let path = format!("/-/elections/app/{action}");
        gate.client().request("POST", &path, &[], body.to_string().as_bytes()).expect("an answer")
    };
    let mut highest = 0;
    let mut elect = |gate: &Gate| {
        let answer = post(gate, "campaign", json!({ "wait_ms": 5000, "ttl_ms": 1000 }));
        if answer.status == 200 {
            let token: u64 = answer.json()["token"].as_str().expect("a token").parse().expect("a number");
            assert!(token > highest, "token {token} after {highest}");
            highest = token;
            post(gate, "resign", json!({ "candidate": answer.json()["candidate"] }));
        }
        answer
    };
    let mut refused = 0;
    for error in ERRORS {
        for (ops, stays) in [(WRITE, false), (SYNC, false), (WRITE, true), (SYNC, true)] {
            for nth in [1, 2, 5, 9] {
                disk.fail(Fault { ops, file: "gate.db-wal", nth, error: error.raw_os_error(), stays });
                let answer = elect(&gate);
                assert!(answer.status == 200 || answer.code() == "UNAVAILABLE", "{answer:?}");
                refused += u32::from(answer.status != 200);
                disk.mend();
                until("somebody is elected again", || elect(&gate).status == 200);
            }
        }
    }
    assert!(refused > 5, "hardly anything failed");
    gate.kill();
    elect(&Gate::start(disk.dir.path(), &HTTP));
}

/// Starts a gate on copies of a directory, each time with another call failing; what it left has to do for the next.
fn start_on(test: &str, template: &Path, step: u32) {
    let Some(disk) = BadDisk::new(test) else { return };
    let (mut starts, mut refused) = (0, 0);
    for error in [Errno::IO.raw_os_error(), Errno::NOSPC.raw_os_error(), KILL] {
        let mut nth = 1;
        loop {
            let disk = disk.at(copy_dir(template));
            disk.fail(Fault { ops: WRITE | SYNC | CUT | MAKE, file: "", nth, error, stays: error != KILL });
            let args = config(disk.dir.path());
            let args = args.each_ref().map(String::as_str);
            let started = disk.try_start(&args, &[], false);
            let hits = disk.mend();
            starts += 1;
            if let Err(why) = &started {
                refused += 1;
                assert!(error == KILL || why.contains("fencegate: "), "{error} at call {nth}: {why:?}");
                assert!(!why.contains("panicked"), "{why}");
            }
            drop(started);
            let gate = Gate::try_start(disk.dir.path(), &args)
                .unwrap_or_else(|why| panic!("after {error} at call {nth}: {why}"));
            if template.join("data").exists() {
                let old = gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "6")], b"");
                assert_eq!(old.expect("an answer").status, 412, "after {error} at call {nth}");
                let stale = begin_claim(&gate, "a", 6).read_answer().expect("an answer");
                assert_eq!(stale.status, 412, "after {error} at call {nth}: {stale:?}");
            }
            gate.kill();
            if hits == 0 {
                break;
            }
            nth += step;
        }
    }
    eprintln!("{starts} starts, {refused} of them refused or killed");
    assert!(refused > 5, "hardly anything failed");
}

/// A gate before a database and an HTTP service, whose configuration is in this directory.
fn config(dir: &Path) -> [String; 2] {
    let file = dir.join("fencegate.toml");
    let resources = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\npath = \"/app\"\nfile = \"app.db\"\n\
         [[resource]]\nname = \"stock\"\nkind = \"http\"\npath = \"/stock\"\nupstream = \"http://127.0.0.1:1\"\nfence = \"stock/{1}\"\n";
    std::fs::write(&file, resources).expect("written");
    ["--config".into(), file.to_str().expect("UTF-8").into()]
}

fn step(usual: u32) -> u32 {
    if std::env::var_os("FENCEGATE_FAIL_ALL").is_some() { 1 } else { usual }
}

#[test]
fn whatever_call_of_a_first_start_fails_the_next_start_is_well() {
    let empty = tempfile::tempdir().expect("a directory");
    start_on("whatever_call_of_a_first_start_fails_the_next_start_is_well", empty.path(), step(11));
}

#[test]
fn whatever_call_of_a_start_after_a_crash_fails_the_next_start_knows_every_mark() {
    let dir = tempfile::tempdir().expect("a directory");
    let args = config(dir.path());
    let gate = Gate::start(dir.path(), &args.each_ref().map(String::as_str));
    assert_eq!(begin_claim(&gate, "a", 7).read_answer().expect("an answer").status, 200);
    let claim = gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "7")], b"");
    assert_eq!(claim.expect("an answer").status, 200);
    gate.kill();
    start_on("whatever_call_of_a_start_after_a_crash_fails_the_next_start_knows_every_mark", dir.path(), step(2));
}

#[test]
fn a_database_that_is_moved_away_is_not_called_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let args = config(dir.path());
    let mut gate = Gate::start(dir.path(), &args.each_ref().map(String::as_str));
    let sql = |gate: &Gate, token: &str, sql: &str| {
        let body = json!({ "requests": [crate::kill::stmt(sql), { "type": "close" }] }).to_string();
        gate.client()
            .request("POST", "/app/v3/pipeline", &[("fencing-token", token)], body.as_bytes())
            .expect("an answer")
    };
    let campaign =
        |gate: &Gate| gate.client().request("POST", "/-/elections/e/campaign", &[], b"{}").expect("an answer");
    assert_eq!(sql(&gate, "1", "CREATE TABLE t (v)").status, 200);
    assert_eq!(begin_claim(&gate, "a", 1).read_answer().expect("an answer").status, 200);
    let away = dir.path().join("away");
    std::fs::create_dir(&away).expect("made");
    let move_all = |from: &Path, to: &Path| {
        for name in ["app.db", "app.db-wal", "app.db-shm", "data"] {
            std::fs::rename(from.join(name), to.join(name)).expect("moved");
        }
    };
    move_all(dir.path(), &away);
    for (what, answer) in [
        ("a shared transaction", sql(&gate, "1", "INSERT INTO t VALUES (1)")),
        ("one of its own", sql(&gate, "1", "PRAGMA foreign_keys = off; INSERT INTO t VALUES (1)")),
        ("a mark", sql(&gate, "2", "INSERT INTO t VALUES (1)")),
        ("a mark of an HTTP service", begin_claim(&gate, "a", 2).read_answer().expect("an answer")),
        ("an election", campaign(&gate)),
    ] {
        let is_sql_error = answer.status == 200 && String::from_utf8_lossy(&answer.body).contains("\"error\":{");
        assert!(is_sql_error || (answer.status, answer.code().as_str()) == (503, "UNAVAILABLE"), "{what}: {answer:?}");
    }
    assert!(gate.is_running());
    move_all(&away, dir.path());
    assert_eq!(sql(&gate, "2", "INSERT INTO t VALUES (1)").status, 200, "it is back");
    assert_eq!(begin_claim(&gate, "a", 2).read_answer().expect("an answer").status, 200);
    until("elections are stored again", || campaign(&gate).status < 300);
}

#[test]
fn a_read_only_disk_is_said_to_be_one() {
    let Some(disk) = crate::faults::SmallDisk::new() else {
        return crate::faults::skipped("a_read_only_disk_is_said_to_be_one");
    };
    let args = config(disk.path());
    let args = args.each_ref().map(String::as_str);
    let gate = Gate::start(disk.path(), &args);
    assert_eq!(begin_claim(&gate, "a", 7).read_answer().expect("an answer").status, 200);
    gate.kill();
    disk.remount("ro");
    let error = Gate::try_start(disk.path(), &args).err().expect("it must not start");
    assert!(error.contains("Read-only file system") || error.contains("readonly"), "{error}");
    disk.remount("rw");
    let gate = Gate::start(disk.path(), &args);
    assert_eq!(begin_claim(&gate, "a", 6).read_answer().expect("an answer").status, 412);
}
