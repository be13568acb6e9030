//! The gate is killed with SIGKILL, and whoever got no answer asks again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::{again, body, execute, first, gate, is_replayed, try_post, write};
use crate::gate::LONG;
use crate::process::{Client, Gate, until};
use crate::upstream::{self, pass_time};

const LOG: &str = "CREATE TABLE log (id INTEGER PRIMARY KEY, write_id INTEGER, row INTEGER)";

#[test]
fn killed_between_the_commit_and_the_answer_it_gives_the_first_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut gate = gate(dir.path(), "");
    assert_eq!(gate.client().sql(Some("5"), &[LOG]).status, 200);
    let conn =
        Connection::open_with_flags(dir.path().join("app.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("it opens");
    let rows = |id: u64| -> u64 {
        let sql = "SELECT count(*) FROM log WHERE write_id = ?";
        conn.query_row(sql, [id.cast_signed()], |row| row.get(0).map(i64::cast_unsigned)).expect("counted")
    };
    for id in 1..=8 {
        let insert = format!("INSERT INTO log (write_id, row) VALUES ({id}, 0) RETURNING id, hex(randomblob(8))");
        // Alone and in company take different ways through the writer.
        let program: &[&str] =
            if id % 2 == 0 { &["BEGIN", "SAVEPOINT s", &insert, "RELEASE s", "COMMIT"] } else { &[&insert] };
        let (key, addr, request) = (format!("k{id}"), gate.data, body(program));
        let asked = std::thread::spawn({
            let key = key.clone();
            move || try_post(&mut Client::connect(addr)?, "5", &key, &request)
        });
        // It is committed; whether the answer has left is a matter of luck.
        until("it is committed", || rows(id) > 0);
        gate.kill();
        let answer = asked.join().expect("no panic");
        gate = upstream::restart(dir.path());
        let later = write(&gate, &key, program);
        match answer {
            Ok(answer) => again(&later, &answer),
            Err(_) => assert!(is_replayed(&later), "{later:?}"),
        }
        assert_eq!(rows(id), 1);
    }
}

#[test]
fn a_restored_backup_knows_the_writes_that_it_has_and_no_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let running = gate(dir.path(), "");
    assert_eq!(running.client().sql(Some("5"), &[LOG]).status, 200);
    let insert = |id: u64| format!("INSERT INTO log (write_id, row) VALUES ({id}, 0)");
    let (before, after) = (insert(1), insert(2));
    let answer = write(&running, "before", &[&before]);
    let (file, copy) = (dir.path().join("app.db"), dir.path().join("copy.db"));
    let vacuum = format!("VACUUM INTO '{}'", copy.display());
    Connection::open(&file).and_then(|conn| conn.execute_batch(&vacuum)).expect("a backup beside the gate");
    first(&write(&running, "after", &[&after]));
    assert_eq!(running.terminate(), Some(0));
    for ending in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.path().join(format!("app.db{ending}")));
    }
    std::fs::rename(&copy, &file).expect("restored");
    let restored = upstream::restart(dir.path());
    again(&write(&restored, "before", &[&before]), &answer);
    // Its write is lost, and so is its key: it is applied.
    first(&write(&restored, "after", &[&after]));
    assert_eq!(super::found(&restored, "SELECT count(*) || ' ' || sum(write_id) FROM log"), "2 3");
}

/// How a writer writes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    One,
    /// Two that are no transaction of the client's.
    Two,
    Transaction,
    /// One that can't share a commit with others.
    Apart,
}

impl Kind {
    fn rows(self) -> u64 {
        if matches!(self, Kind::One) { 1 } else { 2 }
    }

    fn body(self, id: u64) -> String {
        let insert = |row: u64| format!("INSERT INTO log (write_id, row) VALUES ({id}, {row})");
        let (one, two) = (insert(0), insert(1));
        match self {
            Kind::One => body(&[&one]),
            Kind::Two => body(&[&one, &two]),
            Kind::Transaction => {
                let steps = ["BEGIN", &one, &two, "COMMIT"].map(|sql| json!({"stmt": {"sql": sql}}));
                json!({"requests": [{"type": "batch", "batch": {"steps": steps}}, {"type": "close"}]}).to_string()
            }
            Kind::Apart => {
                let requests: Vec<Value> =
                    ["BEGIN", "SAVEPOINT s", &one, "RELEASE s", &two, "COMMIT"].map(execute).into();
                json!({ "requests": requests }).to_string()
            }
        }
    }
}

/// One write of a plan: how, and whether its first answer isn't waited for.
type Planned = (Kind, bool);

/// What happens in one run.
#[derive(Debug, Clone)]
struct Plan {
    /// Of each writer.
    writes: Vec<Vec<Planned>>,
    /// After so many more answers the gate is killed.
    kills: Vec<u64>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let kind = prop_oneof![Just(Kind::One), Just(Kind::Two), Just(Kind::Transaction), Just(Kind::Apart)];
    let writer = prop::collection::vec((kind, prop::bool::weighted(0.2)), 20..40);
    (prop::collection::vec(writer, 4), prop::collection::vec(1..30_u64, 1..4))
        .prop_map(|(writes, kills)| Plan { writes, kills })
}

struct World {
    gate: Mutex<SocketAddr>,
    answered: AtomicU64,
    left: AtomicU64,
    over: AtomicBool,
}

/// Writes one after the other, each until it is answered.
fn writer(world: &World, number: usize, writes: &[Planned], keyed: bool) {
    for (index, (kind, lost)) in writes.iter().enumerate() {
        let id = number as u64 * 1000 + index as u64;
        let (body, key, mut lost, started) = (kind.body(id), format!("w{id}"), *lost, Instant::now());
        let headers = [("fencing-token", "5"), ("idempotency-key", key.as_str())];
        let headers = if keyed { &headers[..] } else { &headers[..1] };
        loop {
            assert!(started.elapsed() < LONG && !world.over.load(Ordering::SeqCst), "no answer to {id}");
            let addr = *world.gate.lock().expect("no panic");
            let ask = |mut client: Client| client.request("POST", "/v3/pipeline", headers, body.as_bytes());
            let Ok(answer) = Client::connect(addr).and_then(ask) else {
                pass_time(1);
                continue;
            };
            // Its answer is lost, and it asks again.
            if std::mem::take(&mut lost) {
                continue;
            }
            match answer.status {
                200 => break,
                503 => {}
                _ => panic!("{answer:?}"),
            }
        }
        world.answered.fetch_add(1, Ordering::SeqCst);
    }
    world.left.fetch_sub(1, Ordering::SeqCst);
}

/// Runs a plan; everything that is wrong with the database afterwards.
fn run(dir: &Path, plan: &Plan, keyed: bool) -> Vec<String> {
    let mut gate = gate(dir, "");
    assert_eq!(gate.client().sql(Some("5"), &[LOG]).status, 200);
    let world = World {
        gate: Mutex::new(gate.data),
        answered: AtomicU64::new(0),
        left: AtomicU64::new(plan.writes.len() as u64),
        over: AtomicBool::new(false),
    };
    let world = &world;
    let gate: Gate = std::thread::scope(|scope| {
        for (number, writes) in plan.writes.iter().enumerate() {
            scope.spawn(move || writer(world, number, writes, keyed));
        }
        for kill in &plan.kills {
            let goal = world.answered.load(Ordering::SeqCst) + kill;
            let started = Instant::now();
            while world.answered.load(Ordering::SeqCst) < goal && world.left.load(Ordering::SeqCst) > 0 {
                if started.elapsed() > LONG {
                    world.over.store(true, Ordering::SeqCst);
                    panic!("nothing is answered any more");
                }
                pass_time(1);
            }
            gate.kill();
            gate = upstream::restart(dir);
            *world.gate.lock().expect("no panic") = gate.data;
        }
        gate
    });
    drop(gate);
    let conn = Connection::open(dir.join("app.db")).expect("it opens");
    let mut stmt = conn.prepare("SELECT write_id, count(*) FROM log GROUP BY write_id").expect("it is there");
    let found =
        stmt.query_map([], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, i64>(1)?.cast_unsigned())));
    let found: HashMap<u64, u64> = found.expect("asked").map(|row| row.expect("a row")).collect();
    let mut wrong = Vec::new();
    for (number, writes) in plan.writes.iter().enumerate() {
        for (index, (kind, _)) in writes.iter().enumerate() {
            let id = number as u64 * 1000 + index as u64;
            let rows = found.get(&id).copied().unwrap_or(0);
            if rows != kind.rows() {
                wrong.push(format!("write {id} ({kind:?}) has {rows} rows"));
            }
        }
    }
    wrong
}

#[test]
fn every_write_is_applied_exactly_once_through_kill_9() {
    let cases = std::env::var("FENCEGATE_ONCE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(6);
    let config = ProptestConfig { cases, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&plans(), |plan| {
        let dir = tempfile::tempdir().expect("a directory");
        let wrong = run(dir.path(), &plan, true);
        prop_assert!(wrong.is_empty(), "{:?}", wrong);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn without_keys_the_same_judge_finds_what_was_applied_twice() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut runner = TestRunner::deterministic();
    let plan = plans().new_tree(&mut runner).expect("a plan").current();
    let wrong = run(dir.path(), &plan, false);
    let twice = wrong.iter().filter(|wrong| wrong.ends_with("has 2 rows") || wrong.ends_with("has 4 rows")).count();
    assert!(twice > 3, "the judge saw nothing: {wrong:?}");
}
