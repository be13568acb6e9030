//! A request does with a key what it does without, and what failed is tried again.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{INSERT, again, body, count, execute, first, found, gate, post, refusal, rig, write};
use crate::gate::dump;
use crate::process::{Answer, Gate, until};
use crate::upstream;

/// What an answer says of each request, without times.
fn told(answer: &Answer) -> Value {
    let mut results = answer.json()["results"].clone();
    fn untimed(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.remove("query_duration_ms");
                members.values_mut().for_each(untimed);
            }
            Value::Array(items) => items.iter_mut().for_each(untimed),
            _ => {}
        }
    }
    untimed(&mut results);
    json!([answer.status, results])
}

const SCHEMA: [&str; 8] = [
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
    "CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
    "CREATE TABLE raising (v)",
    "CREATE TRIGGER raises BEFORE INSERT ON raising WHEN NEW.v = 1 BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE TABLE log (v)",
    "CREATE TRIGGER logs AFTER INSERT ON t BEGIN INSERT INTO log VALUES (NEW.v); END",
    "CREATE VIRTUAL TABLE words USING fts5(w)",
];

/// Requests that are one transaction in whatever way: shared, or of their own.
fn programs() -> Vec<Value> {
    let each = |statements: &[&str]| {
        let mut all: Vec<Value> = statements.iter().map(|sql| execute(sql)).collect();
        all.push(json!({"type": "get_autocommit"}));
        all.push(json!({"type": "close"}));
        json!(all)
    };
    let batch = |steps: &[(&str, Value)]| {
        let steps: Vec<Value> =
            steps.iter().map(|(sql, condition)| json!({"stmt": {"sql": sql}, "condition": condition})).collect();
        json!([{"type": "batch", "batch": {"steps": steps}}, {"type": "close"}])
    };
    let ok = |step: usize| json!({"type": "ok", "step": step});
    vec![
        each(&["INSERT INTO t (v) VALUES ('a')", "INSERT INTO t (v) VALUES ('a')", "INSERT INTO t (v) VALUES ('b')"]),
        each(&["INSERT OR FAIL INTO t (v) SELECT value FROM json_each('[\"c\", \"a\", \"d\"]')", "SELECT v FROM t"]),
        each(&[
            "BEGIN",
            "SAVEPOINT s",
            "INSERT INTO t (v) VALUES ('e')",
            "ROLLBACK TO s",
            "INSERT INTO t (v) VALUES ('f')",
            "RELEASE s",
            "COMMIT",
        ]),
        each(&[
            "BEGIN",
            "INSERT INTO t (v) VALUES ('g')",
            "SAVEPOINT s",
            "ROLLBACK TO nowhere",
            "ROLLBACK",
            "INSERT INTO t (v) VALUES ('h')",
        ]),
        each(&[
            "INSERT INTO t (v) VALUES ('i')",
            "COMMIT",
            "ROLLBACK",
            "ROLLBACK TO s",
            "RELEASE s",
            "BEGIN",
            "BEGIN",
            "COMMIT",
        ]),
        each(&["INSERT INTO child VALUES (1, 1)", "INSERT INTO parent VALUES (1)", "INSERT INTO child VALUES (1, 1)"]),
        each(&[
            "BEGIN",
            "INSERT INTO child VALUES (2, 2)",
            "COMMIT",
            "INSERT INTO parent VALUES (2)",
            "COMMIT",
            "SELECT * FROM child",
        ]),
        each(&["BEGIN", "INSERT INTO child VALUES (3, 3)", "COMMIT", "ROLLBACK", "INSERT INTO t (v) VALUES ('j')"]),
        each(&[
            "INSERT INTO parent VALUES (4)",
            "BEGIN",
            "PRAGMA defer_foreign_keys = on",
            "DELETE FROM parent WHERE id = 1",
            "INSERT INTO parent VALUES (1)",
            "COMMIT",
            "SELECT count(*) FROM parent",
        ]),
        each(&["INSERT INTO raising VALUES (2)", "INSERT INTO raising VALUES (1)", "INSERT INTO raising VALUES (3)"]),
        each(&["INSERT INTO child VALUES (9, 9)", "INSERT INTO nowhere VALUES (1)", "SELECT 1; SELECT 2", ""]),
        each(&[
            "INSERT INTO words VALUES ('one two')",
            "INSERT INTO child VALUES (9, 9)",
            "SELECT w FROM words WHERE words MATCH 'two'",
        ]),
        each(&[
            "CREATE TABLE made AS SELECT v FROM t",
            "INSERT INTO child VALUES (9, 9)",
            "SELECT count(*) FROM made",
            "DROP TABLE made",
        ]),
        each(&[
            "BEGIN TRANSACTION READONLY",
            "SELECT count(*) FROM t",
            "INSERT INTO t (v) VALUES ('no')",
            "COMMIT",
            "INSERT INTO t (v) VALUES ('k')",
        ]),
        each(&["INSERT INTO t (v) VALUES ('l')", "BEGIN READONLY", "INSERT INTO t (v) VALUES ('no')", "COMMIT"]),
        each(&["INSERT INTO t (v) VALUES (CAST(x'ff' AS TEXT)) RETURNING v", "INSERT INTO t (v) VALUES ('m')"]),
        batch(&[
            ("BEGIN", Value::Null),
            ("INSERT INTO t (v) VALUES ('n')", ok(0)),
            ("INSERT INTO t (v) VALUES ('a')", ok(1)),
            ("COMMIT", ok(2)),
            ("ROLLBACK", json!({"type": "not", "cond": ok(3)})),
        ]),
        json!([{"type": "sequence", "sql": "INSERT INTO t (v) VALUES ('o'); BEGIN; SAVEPOINT s; INSERT INTO t (v) VALUES ('p'); RELEASE s; COMMIT; DELETE FROM nowhere; DELETE FROM t"}, {"type": "close"}]),
        json!([{"type": "store_sql", "sql_id": 1, "sql": "INSERT INTO t (v) VALUES ('q')"}, {"type": "execute", "stmt": {"sql_id": 1}}, {"type": "execute", "stmt": {"sql_id": 1}}, {"type": "close"}]),
        json!([{"type": "describe", "sql": "INSERT INTO t (v) VALUES (?)"}, execute("WITH x AS (SELECT 'r' AS v) INSERT INTO t (v) SELECT v FROM x"), {"type": "close"}]),
    ]
}

#[test]
fn a_request_does_with_a_key_what_it_does_without() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let [with, without] = [&dirs[0], &dirs[1]].map(|dir| gate(dir.path(), ""));
    for gate in [&with, &without] {
        assert_eq!(gate.client().sql(Some("5"), &SCHEMA).status, 200);
    }
    let send = |gate: &Gate, key: Option<&str>, body: &str| {
        let headers = [("fencing-token", "5"), ("idempotency-key", key.unwrap_or_default())];
        let headers = if key.is_some() { &headers[..] } else { &headers[..1] };
        gate.client().request("POST", "/v3/pipeline", headers, body.as_bytes()).expect("an answer")
    };
    let dump = |dir: &tempfile::TempDir| dump(&Connection::open(dir.path().join("app.db")).expect("it opens"));
    for (number, requests) in programs().iter().enumerate() {
        let (key, body) = (number.to_string(), json!({ "requests": requests }).to_string());
        let (one, other) = (send(&with, Some(&key), &body), send(&without, None, &body));
        assert_eq!(told(&one), told(&other), "{body}");
        assert_eq!(dump(&dirs[0]), dump(&dirs[1]), "{body}");
        if is_kept(&dirs[0], &key) {
            again(&send(&with, Some(&key), &body), &one);
        }
        assert_eq!(dump(&dirs[0]), dump(&dirs[1]), "{body}, once more");
    }
    // Hardly any of them has changed nothing.
    assert!(
        (0..programs().len()).filter(|number| is_kept(&dirs[0], &number.to_string())).count() >= programs().len() - 2
    );
}

fn is_kept(dir: &tempfile::TempDir, key: &str) -> bool {
    let conn = Connection::open(dir.path().join("app.db")).expect("it opens");
    conn.prepare("SELECT 1 FROM fencegate_answers WHERE key = ?")
        .and_then(|mut stmt| stmt.exists([key]))
        .expect("asked")
}

#[test]
fn where_a_shared_transaction_is_run_again_each_write_is_applied_once() {
    let (_dir, gate) = rig("");
    let schema = [
        "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
        "CREATE TABLE child (parent REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
    ];
    assert_eq!(gate.client().sql(Some("5"), &schema).status, 200);
    // What comes while a client's transaction has the lock is run in one go when it ends.
    let begun = gate.client().pipeline(Some("5"), None, &json!([execute("BEGIN IMMEDIATE")])).expect("an answer");
    let baton = begun.json()["baton"].as_str().expect("a stream").to_owned();
    let orphan = "INSERT INTO child VALUES (1)";
    let plan = [
        ("k", INSERT),
        ("k", INSERT),
        ("", orphan),
        ("l", INSERT),
        ("k", "DELETE FROM t"),
        ("l", INSERT),
        ("", orphan),
    ];
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (key, sql) in plan {
            let headers = [("fencing-token", "5"), ("idempotency-key", key)];
            let (gate, shown) = (&gate, if key.is_empty() { 1 } else { 2 });
            threads.push(scope.spawn(move || {
                let body = body(&[sql]);
                gate.client().request("POST", "/v3/pipeline", &headers[..shown], body.as_bytes()).expect("an answer")
            }));
            until("it waits", || gate.client().get("/-/fences/app").json()["in_flight"] == threads.len());
        }
        let end = json!([execute("ROLLBACK"), {"type": "close"}]);
        assert_eq!(gate.client().pipeline(Some("5"), Some(&baton), &end).expect("an answer").status, 200);
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(super::metric(&gate, "fencegate_sqlite_transactions_repeated_total") > 0.0, "nothing was run again");
    first(&answers[0]);
    again(&answers[1], &answers[0]);
    first(&answers[3]);
    refusal(&answers[4], 422, "IDEMPOTENCY_KEY_REUSED");
    again(&answers[5], &answers[3]);
    for orphan in [&answers[2], &answers[6]] {
        assert_eq!(orphan.json()["results"][0]["error"]["code"], "SQLITE_CONSTRAINT");
    }
    assert_eq!((count(&gate).as_str(), found(&gate, "SELECT count(*) FROM child").as_str()), ("2", "0"));
}

#[test]
fn what_applied_nothing_is_tried_again() {
    let (_dir, gate) = rig("");
    let error = |answer: &Answer| answer.json()["results"][0]["error"]["code"].as_str().map(str::to_owned);
    for statements in [
        &["INSERT INTO later VALUES (1)"][..],
        &["INSERT INTO later VALUES (1)", "INSERT INTO later VALUES (2)"],
        &["INSERT INTO later VALUES (1)", "BEGIN", INSERT, "ROLLBACK"],
    ] {
        for _ in 0..2 {
            let answer = write(&gate, "k", statements);
            first(&answer);
            assert_eq!(error(&answer).as_deref(), Some("SQLITE_ERROR"), "{answer:?}");
        }
        assert_eq!(count(&gate), "0");
    }
    assert_eq!(gate.client().sql(Some("5"), &["CREATE TABLE later (v)"]).status, 200);
    // The key is as good as new, for whatever request.
    let answer = write(&gate, "k", &["INSERT INTO later VALUES (1)"]);
    first(&answer);
    assert_eq!(error(&answer), None);
    refusal(&write(&gate, "k", &[INSERT]), 422, "IDEMPOTENCY_KEY_REUSED");
}

#[test]
fn what_failed_in_part_is_answered_so_again() {
    let (_dir, gate) = rig("");
    let statements = [INSERT, "INSERT INTO later VALUES (1)", INSERT];
    let answer = write(&gate, "k", &statements);
    first(&answer);
    assert_eq!(answer.json()["results"][1]["error"]["code"], "SQLITE_ERROR");
    assert_eq!(gate.client().sql(Some("5"), &["CREATE TABLE later (v)"]).status, 200);
    again(&write(&gate, "k", &statements), &answer);
    assert_eq!((count(&gate).as_str(), found(&gate, "SELECT count(*) FROM later").as_str()), ("2", "0"));
}

#[test]
fn a_long_one_keeps_nobody_waiting_and_is_kept() {
    let (_dir, gate) = rig("");
    // Longer than a request may take of a transaction that it shares: about half a second.
    let long = "INSERT INTO t SELECT count(*) FROM (WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 6000000) SELECT i FROM n)";
    let answer = write(&gate, "k", &[long, INSERT]);
    first(&answer);
    again(&write(&gate, "k", &[long, INSERT]), &answer);
    assert_eq!(count(&gate), "2");
}

#[test]
fn what_can_not_be_given_back_is_undone_and_what_is_stopped_undoes_all() {
    let dir = tempfile::tempdir().expect("a directory");
    let app = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    let limits = "[limits]\nstatement_time = \"300ms\"\nresult_rows = 10\n";
    let gate = upstream::gate(dir.path(), &format!("{app}{limits}"));
    assert_eq!(gate.client().sql(Some("5"), &["CREATE TABLE t (v)"]).status, 200);
    // SQLite rolls the transaction back with a statement that is stopped.
    refusal(&write(&gate, "k", &[INSERT, ENDLESS, INSERT]), 400, "IDEMPOTENCY_KEY_UNUSABLE");
    assert_eq!(count(&gate), "0");
    let large = "INSERT INTO t SELECT value FROM json_each('[1,2,3,4,5,6,7,8,9,10,11]') RETURNING v";
    let statements = [INSERT, large, INSERT];
    let answer = write(&gate, "k", &statements);
    first(&answer);
    let code = |index: usize| answer.json()["results"][index]["error"]["code"].clone();
    assert_eq!((code(0), code(1), code(2)), (Value::Null, "RESPONSE_TOO_LARGE".into(), Value::Null));
    again(&write(&gate, "k", &statements), &answer);
    assert_eq!(count(&gate), "2");
}

const ENDLESS: &str = "INSERT INTO t WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";

#[test]
fn a_newer_leader_stops_it_and_it_leaves_nothing() {
    let (_dir, gate) = rig("");
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| write(&gate, "k", &[INSERT, ENDLESS]));
        until("it runs", || gate.client().get("/-/fences/app").json()["in_flight"] == 1);
        first(&post(gate.data, "6", "l", &body(&[INSERT])));
        refusal(&stopped.join().expect("no panic"), 412, "STALE_TOKEN");
    });
    assert_eq!(count(&gate), "1");
    first(&post(gate.data, "6", "k", &body(&[INSERT])));
}
