//! Writes that name themselves by an `Idempotency-Key`: applied once, however often they come (docs/idempotency.md).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Barrier;

use serde_json::{Value, json};

use crate::process::{Answer, Client, Gate};
use crate::upstream;

mod apart;
mod bounds;
mod crash;
mod cut;
mod library;
mod refused;
mod semantics;

/// A gate before `app.db` in `dir`, with these lines in `[limits]`, and times that no test runs into.
pub fn gate(dir: &Path, limits: &str) -> Gate {
    configured(dir, "", limits)
}

/// The same, with these lines for the resource.
pub fn configured(dir: &Path, resource: &str, limits: &str) -> Gate {
    let times = ["drain", "body_time", "statement_time", "transaction_time", "stream_idle", "lock_wait"];
    let times: String = times.iter().map(|time| format!("{time} = \"10m\"\n")).collect();
    let app = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    upstream::gate(dir, &format!("{app}{resource}\n[limits]\n{times}{limits}"))
}

pub fn execute(sql: &str) -> Value {
    json!({ "type": "execute", "stmt": { "sql": sql } })
}

/// The body of a pipeline that executes these statements and closes its stream.
pub fn body(statements: &[&str]) -> String {
    let mut requests: Vec<Value> = statements.iter().map(|sql| execute(sql)).collect();
    requests.push(json!({ "type": "close" }));
    json!({ "requests": requests }).to_string()
}

/// A pipeline with this token and this key.
pub fn try_post(client: &mut Client, token: &str, key: &str, body: &str) -> std::io::Result<Answer> {
    let headers = [("fencing-token", token), ("idempotency-key", key)];
    client.request("POST", "/v3/pipeline", &headers, body.as_bytes())
}

/// The same, of a gate that is there.
pub fn post(addr: SocketAddr, token: &str, key: &str, body: &str) -> Answer {
    let mut client = Client::connect(addr).expect("the gate accepts connections");
    try_post(&mut client, token, key, body).expect("the gate answers")
}

/// Token 5 and these statements.
pub fn write(gate: &Gate, key: &str, statements: &[&str]) -> Answer {
    post(gate.data, "5", key, &body(statements))
}

pub fn is_replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == Some("true")
}

/// An answer that went well and wasn't there before.
pub fn first(answer: &Answer) {
    assert_eq!((answer.status, is_replayed(answer)), (200, false), "{answer:?}");
}

/// An answer that is this one again.
pub fn again(answer: &Answer, first: &Answer) {
    assert_eq!((answer.status, is_replayed(answer)), (200, true), "{answer:?}");
    assert_eq!(answer.body, first.body);
}

/// A refusal of which nothing was applied.
pub fn refusal(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert_eq!((answer.json()["applied"].as_str(), is_replayed(answer)), (Some("no"), false), "{answer:?}");
}

/// What a read finds in the first column of its first row.
pub fn found(gate: &Gate, sql: &str) -> String {
    let answer = gate.client().sql(None, &[sql]).json();
    let value = &answer["results"][0]["response"]["result"]["rows"][0][0]["value"];
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub fn count(gate: &Gate) -> String {
    found(gate, "SELECT count(*) FROM t")
}

/// The value of a metric of resource `app`.
pub fn metric(gate: &Gate, name: &str) -> f64 {
    let text = String::from_utf8(gate.admin().get("/metrics").body).expect("text");
    let line = format!("{name}{{resource=\"app\"}} ");
    text.lines().find_map(|metric| metric.strip_prefix(&line)?.parse().ok()).unwrap_or(0.0)
}

const CREATE: &str = "CREATE TABLE t (v)";
const INSERT: &str = "INSERT INTO t VALUES ('x') RETURNING rowid, hex(randomblob(8))";

/// A gate with a table.
pub fn rig(limits: &str) -> (tempfile::TempDir, Gate) {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), limits);
    assert_eq!(gate.client().sql(Some("5"), &[CREATE]).status, 200);
    (dir, gate)
}

#[test]
fn the_same_write_is_applied_once_and_answered_the_same() {
    let (dir, gate) = rig("");
    let answer = write(&gate, "k", &[INSERT]);
    first(&answer);
    // Both forms of the key, on other connections, and after a restart.
    again(&write(&gate, "k", &[INSERT]), &answer);
    again(&write(&gate, "\"k\"", &[INSERT]), &answer);
    assert_eq!(gate.terminate(), Some(0));
    let gate = upstream::restart(dir.path());
    again(&write(&gate, "k", &[INSERT]), &answer);
    assert_eq!(count(&gate), "1");
    // Another key is another write, and none is none.
    first(&write(&gate, "l", &[INSERT]));
    for _ in 0..2 {
        assert_eq!(gate.client().sql(Some("5"), &[INSERT]).status, 200);
    }
    assert_eq!(count(&gate), "4");
    assert_eq!(metric(&gate, "fencegate_idempotency_keys"), 2.0);
    assert_eq!(metric(&gate, "fencegate_idempotency_replays_total"), 1.0);
    assert!(metric(&gate, "fencegate_idempotency_bytes") > 500.0);
}

#[test]
fn fifty_at_once_are_applied_once() {
    let (_dir, gate) = rig("");
    // Each way that a request takes through the writer: in a transaction with others, and in one of its own.
    for (key, statements) in [("k", &[INSERT][..]), ("l", &["BEGIN", "SAVEPOINT s", INSERT, "RELEASE s", "COMMIT"])] {
        let before: u64 = count(&gate).parse().expect("a number");
        let barrier = Barrier::new(50);
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let one = || {
                let mut client = gate.client();
                barrier.wait();
                try_post(&mut client, "5", key, &body(statements)).expect("the gate answers")
            };
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let (again, first): (Vec<&Answer>, Vec<&Answer>) = answers.iter().partition(|answer| is_replayed(answer));
        assert_eq!((first.len(), again.len()), (1, 49));
        for answer in answers.iter() {
            assert_eq!((answer.status, &answer.body), (200, &first[0].body), "{answer:?}");
        }
        assert_eq!(count(&gate), (before + 1).to_string());
    }
}

#[test]
fn a_key_does_no_harm_to_reads() {
    let (_dir, gate) = rig("");
    for token in ["5", "6"] {
        for sql in [&["SELECT count(*) FROM t"][..], &["BEGIN", "SELECT 1", "COMMIT"], &["PRAGMA table_info(t)"]] {
            first(&post(gate.data, token, "k", &body(sql)));
        }
    }
    let batch = ["BEGIN TRANSACTION READONLY", "SELECT 1", "COMMIT"].map(|sql| json!({"stmt": {"sql": sql}}));
    let batch = json!({"requests": [{"type": "batch", "batch": {"steps": batch}}, {"type": "close"}]}).to_string();
    for token in ["6", "7"] {
        let answer = post(gate.data, token, "k", &batch);
        first(&answer);
        assert_eq!(answer.json()["results"][0]["response"]["result"]["step_errors"], json!([null, null, null]));
    }
    let headers = [("idempotency-key", "k")];
    let read = body(&["SELECT count(*) FROM t"]);
    first(&gate.client().request("POST", "/v3/pipeline", &headers, read.as_bytes()).expect("an answer"));
    first(&post(gate.data, "7", "k", &body(&[INSERT])));
    assert_eq!(count(&gate), "1");
}

#[test]
fn a_cursor_is_kept_as_well() {
    let (_dir, gate) = rig("");
    let cursor = |key: &str| {
        let body =
            json!({"batch": {"steps": [{"stmt": {"sql": INSERT}}, {"stmt": {"sql": "SELECT count(*) FROM t"}}]}});
        let headers = [("fencing-token", "5"), ("idempotency-key", key)];
        gate.client().request("POST", "/v3/cursor", &headers, body.to_string().as_bytes()).expect("an answer")
    };
    let lines = |answer: &Answer| {
        String::from_utf8(answer.body.clone()).expect("text").split_once('\n').map(|it| it.1.to_owned())
    };
    let answer = cursor("k");
    first(&answer);
    let later = cursor("k");
    assert!(is_replayed(&later), "{later:?}");
    assert_eq!(lines(&later), lines(&answer));
    // The stream of the first answer isn't opened again.
    assert!(String::from_utf8_lossy(&answer.body).contains("{\"baton\":\""), "{answer:?}");
    assert!(later.body.starts_with(b"{\"baton\":null,"), "{later:?}");
    first(&cursor("l"));
    assert_eq!(count(&gate), "2");
}

#[test]
fn a_batons_stream_does_not_come_back_to_life() {
    let (_dir, gate) = rig("");
    let body = json!({"requests": [execute(INSERT)]}).to_string();
    let answer = post(gate.data, "5", "k", &body);
    first(&answer);
    let baton = answer.json()["baton"].as_str().expect("a stream is open").to_owned();
    let later = post(gate.data, "5", "k", &body).json();
    assert_eq!((&later["baton"], &later["results"]), (&Value::Null, &answer.json()["results"]));
    // The stream itself goes on.
    let next = gate.client().pipeline(Some("5"), Some(&baton), &json!([execute("SELECT last_insert_rowid()")]));
    assert_eq!(next.expect("an answer").status, 200);
}
