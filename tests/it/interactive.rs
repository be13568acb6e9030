//! Transactions that span requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use fencegate::fence::Claim;
use fencegate::resource::Resource;
use fencegate::resource::sqlite::Limits;
use fencegate::resource::sqlite::db::{Access, Args, Db};
use fencegate::resource::sqlite::fences::{FenceSet, TableFences};
use fencegate::resource::sqlite::render::Rows;

use crate::gate::{Client, Gate, LONG, code, execute, patient, presented, refusal, result, until};

const INSERT: &str = "INSERT INTO t (v) VALUES ('mine')";
const COUNT: &str = "SELECT count(*) FROM t";

async fn gate(limits: Limits) -> Arc<Gate> {
    let gate = Gate::with(&[("job*", "jobs")], limits);
    gate.script("app=1, jobs=1", "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE job (v)").await;
    gate
}

async fn inside(gate: &Arc<Gate>, token: &str) -> Client {
    let mut client = gate.client(token);
    client.sql("BEGIN").await.unwrap();
    client.sql(INSERT).await.unwrap();
    client
}

#[tokio::test]
async fn one_sees_its_own_writes_and_nobody_elses() {
    let gate = gate(patient()).await;
    let mut one = inside(&gate, "1").await;
    assert_eq!(one.column(COUNT).await, ["1"]);
    assert_eq!(gate.column(COUNT).await, ["0"], "others don't see it");
    assert_eq!(one.send(vec![json!({"type": "get_autocommit"})]).await.unwrap()[0]["response"]["is_autocommit"], false);
    assert_eq!(code(&one.sql("INSERT INTO t (id) VALUES (1)").await), "SQLITE_CONSTRAINT");
    assert_eq!(code(&one.sql("nonsense").await), "SQLITE_ERROR");
    assert_eq!(one.column(COUNT).await, ["1"], "an error ends no transaction");
    one.sql("COMMIT").await.unwrap();
    assert_eq!(gate.column(COUNT).await, ["1"]);
    assert_eq!(one.send(vec![json!({"type": "get_autocommit"})]).await.unwrap()[0]["response"]["is_autocommit"], true);
    assert_eq!(gate.gauge("transactions"), 0.0);
}

#[tokio::test]
async fn a_snapshot_stays_what_it_was() {
    let gate = gate(patient()).await;
    let mut reader = gate.client("");
    reader.sql("BEGIN").await.unwrap();
    assert_eq!(reader.column(COUNT).await, ["0"]);
    gate.sql("1", INSERT).await.unwrap();
    assert_eq!(reader.column(COUNT).await, ["0"]);
    reader.sql("COMMIT").await.unwrap();
    assert_eq!(reader.column(COUNT).await, ["1"]);
    // One that wants to write from an old snapshot is told so, as by SQLite.
    let mut late = gate.client("1");
    late.sql("BEGIN").await.unwrap();
    late.column(COUNT).await;
    gate.sql("1", INSERT).await.unwrap();
    assert_eq!(code(&late.sql(INSERT).await), "SQLITE_BUSY");
    late.sql("ROLLBACK").await.unwrap();
    late.sql(INSERT).await.unwrap();
}

#[tokio::test]
async fn what_ends_a_transaction_rolls_it_back() {
    let gate = gate(patient()).await;
    let mut one = inside(&gate, "1").await;
    one.close().await;
    let mut two = inside(&gate, "1").await;
    two.sql("ROLLBACK").await.unwrap();
    let mut three = inside(&gate, "1").await;
    let bad = three.send(vec![json!({"type": "dance"})]).await;
    assert_eq!(refusal(&bad), "BAD_REQUEST");
    drop(three);
    // A body that can't be read never reached its stream, so that one is closed by its idle time, or by a new leader.
    gate.sql("2", "SELECT 1").await.unwrap();
    gate.until_gauge("transactions", 0.0).await;
    let mut four = inside(&gate, "2").await;
    assert_eq!(code(&four.sql("INSERT INTO job VALUES (1)").await), "TOKEN_REQUIRED");
    gate.until_gauge("transactions", 0.0).await;
    assert_eq!(gate.column(COUNT).await, ["0"]);
    gate.sql("2", INSERT).await.unwrap();
}

#[tokio::test]
async fn a_successor_doesnt_wait_for_an_open_transaction() {
    let gate = gate(patient()).await;
    for (token, how) in [(2, "write"), (3, "claim"), (4, "read"), (5, "begin")] {
        let (old_token, token) = ((token - 1).to_string(), token.to_string());
        let mut old = inside(&gate, &old_token).await;
        let rows = gate.column(COUNT).await;
        // Each has to be answered in LONG, and nothing but its own claim ends the old transaction in that time.
        match how {
            "write" => assert_eq!(code(&gate.sql(&token, "INSERT INTO job SELECT 1 WHERE 0").await), "TOKEN_REQUIRED"),
            "claim" => {
                let claim = Claim { fence: "app".parse().unwrap(), token: token.parse().unwrap(), holder: None };
                let claimed = timeout(LONG, gate.db.claim(claim)).await.expect("an answer in time").unwrap();
                assert_eq!(claimed.previous, Some(old_token.parse().unwrap()));
            }
            "read" => drop(gate.sql(&token, "SELECT 1").await.unwrap()),
            _ => gate.client(&token).sql("BEGIN IMMEDIATE").await.map(drop).unwrap(),
        }
        assert_eq!(gate.column(COUNT).await, rows, "{how}: the old transaction is gone");
        let next = old.send(vec![execute(INSERT), execute("COMMIT")]).await;
        assert_eq!(refusal(&next), "STALE_TOKEN", "{how}");
        assert_eq!(gate.column(COUNT).await, rows, "{how}");
        gate.db.reset(&"app".parse().unwrap(), Some(token.parse().unwrap()), "end".into()).await.unwrap();
    }
}

#[tokio::test]
async fn a_tokenless_request_goes_on_with_the_transactions_token() {
    let gate = gate(patient()).await;
    let mut one = inside(&gate, "1").await;
    one.token.clear();
    one.sql(INSERT).await.unwrap();
    one.sql("COMMIT").await.unwrap();
    assert_eq!(gate.column(COUNT).await, ["2"]);
    let mut old = inside(&gate, "1").await;
    old.token.clear();
    gate.sql("2", "SELECT 1").await.unwrap();
    let next = old.send(vec![execute(INSERT), execute("COMMIT")]).await;
    assert_eq!(refusal(&next), "STALE_TOKEN", "its transaction's, not its request's");
    assert_eq!(gate.column(COUNT).await, ["2"]);
}

#[tokio::test]
async fn another_token_on_a_transactions_baton() {
    let gate = gate(patient()).await;
    let mut one = inside(&gate, "1").await;
    one.token = "2".into();
    let next = one.send(vec![execute(INSERT), execute("COMMIT")]).await;
    assert_eq!(refusal(&next), "STALE_TOKEN", "{next:?}");
    assert_eq!(gate.db.fence("app").unwrap().highest.unwrap().get(), 2);
    let mut two = gate.client("2");
    two.sql("BEGIN").await.unwrap();
    two.token = "3".into();
    let next = two.send(vec![execute(INSERT), execute("COMMIT")]).await;
    assert_eq!(refusal(&next), "STALE_TOKEN", "{next:?}");
    let mut three = inside(&gate, "3").await;
    let baton = three.baton.clone();
    three.token = "2".into();
    assert_eq!(refusal(&three.send(vec![execute("COMMIT")]).await), "STALE_TOKEN");
    // Refused at the door, before its stream was looked for.
    (three.token, three.baton) = ("3".into(), baton);
    three.close().await;
    let mut four = gate.client("app=3");
    four.sql("BEGIN").await.unwrap();
    four.token = "app=3, jobs=1".into();
    assert_eq!(code(&four.sql("INSERT INTO job VALUES (1)").await), "TOKEN_REQUIRED", "it began without jobs");
    gate.sql("4", "SELECT 1").await.unwrap();
    assert_eq!(gate.column(COUNT).await, ["0"]);
}

#[tokio::test]
async fn a_second_writer_waits_for_the_first() {
    let gate = gate(patient()).await;
    let mut one = inside(&gate, "1").await;
    let waiting = {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { gate.sql("1", "INSERT INTO t (v) VALUES ('second')").await })
    };
    // Until it is with the writer, which has put it aside.
    until("the second writer is there", || gate.db.fence("app").unwrap().in_flight > 0).await;
    assert_eq!(gate.column(COUNT).await, ["0"], "reads go on");
    one.sql("INSERT INTO t (v) VALUES ('first')").await.unwrap();
    assert!(!waiting.is_finished());
    one.sql("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(gate.column("SELECT v FROM t ORDER BY id").await, ["mine", "first", "second"]);
}

#[tokio::test]
async fn who_waits_too_long_is_told_so() {
    let gate = gate(Limits { lock_wait: Duration::from_millis(50), ..patient() }).await;
    let mut one = inside(&gate, "1").await;
    assert_eq!(code(&gate.sql("1", INSERT).await), "BUSY");
    one.sql("COMMIT").await.unwrap();
    assert_eq!(gate.column(COUNT).await, ["1"]);
}

#[tokio::test]
async fn a_full_queue_turns_away_all_but_a_successor() {
    let slow = "INSERT INTO t (v) SELECT n FROM
        (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 1000000000) SELECT max(n) AS n FROM c)";
    let gate = gate(Limits { queue_requests: 1, ..Limits::default() }).await;
    let ask = |sql: &'static str| {
        let gate = Arc::clone(&gate);
        tokio::spawn(async move { gate.sql("1", sql).await })
    };
    let running = ask(slow);
    while gate.db.fence("app").unwrap().in_flight == 0 {
        tokio::task::yield_now().await;
    }
    gate.until_gauge("queue_writes", 0.0).await;
    let waiting = ask(INSERT);
    gate.until_gauge("queue_writes", 1.0).await;
    assert_eq!(code(&gate.sql("1", INSERT).await), "OVERLOADED");
    gate.sql("2", INSERT).await.unwrap();
    assert_eq!(code(&running.await.unwrap()), "STALE_TOKEN");
    assert_eq!(code(&waiting.await.unwrap()), "STALE_TOKEN");
    assert_eq!(gate.column(COUNT).await, ["1"]);
    let small = self::gate(Limits { queue_bytes: 1000, ..Limits::default() }).await;
    let long = format!("SELECT 1 -- {}", "x".repeat(1000));
    assert_eq!(code(&small.sql("", &long).await), "OVERLOADED");
    assert_eq!(code(&small.sql("", "SELECT 1").await), "ok");
}

#[tokio::test]
async fn as_many_transactions_as_there_may_be() {
    let gate = gate(Limits { transactions: 2, ..patient() }).await;
    let (mut one, mut two) = (gate.client(""), gate.client(""));
    one.sql("BEGIN").await.unwrap();
    two.sql("BEGIN").await.unwrap();
    assert_eq!(code(&gate.sql("", "BEGIN").await), "OVERLOADED");
    assert_eq!(code(&gate.sql("1", "BEGIN IMMEDIATE").await), "OVERLOADED");
    gate.sql("1", INSERT).await.unwrap();
    // Neither does one need a place that is run by itself, as any is that takes its time.
    let alone = "INSERT OR ROLLBACK INTO t (id) VALUES (900), (900)";
    assert_eq!(code(&gate.sql("1", alone).await), "SQLITE_CONSTRAINT");
    let late = gate.ask("1", vec![execute(INSERT), execute("SAVEPOINT s")]).await;
    assert_eq!(refusal(&late), "OVERLOADED", "before anything is applied: {late:?}");
    let setting = gate.ask("1", vec![execute(INSERT), execute("PRAGMA foreign_keys = off")]).await.unwrap();
    assert_eq!(setting.iter().map(|answer| code(&result(answer)).to_owned()).collect::<Vec<_>>(), ["ok", "OVERLOADED"]);
    assert_eq!(gate.column(COUNT).await, ["2"]);
    one.close().await;
    gate.client("1").sql("BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(code(&gate.sql("", "BEGIN").await), "OVERLOADED");
}

#[tokio::test]
async fn idle_streams_and_long_transactions_end() {
    // In one request: between two, the stream is idle, and may be closed.
    let begin = || vec![execute("BEGIN"), execute(INSERT)];
    let gate = gate(Limits { stream_idle: Duration::from_millis(1), ..patient() }).await;
    let mut one = gate.client("1");
    assert!(one.send(begin()).await.unwrap().iter().all(|result| result["type"] == "ok"));
    gate.until_gauge("transactions", 0.0).await;
    assert_eq!(refusal(&one.send(vec![execute("COMMIT")]).await), "STREAM_EXPIRED");
    gate.sql("1", INSERT).await.unwrap();
    assert_eq!(gate.column(COUNT).await, ["1"]);

    // The limit is on each request, too: this one's two statements must have their time.
    let gate = self::gate(Limits { transaction_time: Duration::from_secs(5), ..patient() }).await;
    let mut one = gate.client("1");
    assert!(one.send(begin()).await.unwrap().iter().all(|result| result["type"] == "ok"));
    gate.until_gauge("transactions", 0.0).await;
    let next = one.send(vec![execute(INSERT), execute("COMMIT")]).await;
    assert_eq!(refusal(&next), "STREAM_EXPIRED");
    assert_eq!(gate.column(COUNT).await, ["0"]);
}

/// What belongs to a transaction that has ended stays unapplied, even where the shared transaction that says so is repeated.
#[tokio::test]
async fn the_rest_of_an_ended_transaction_is_never_applied() {
    for _ in 0..20 {
        let gate = gate(patient()).await;
        let mut old = inside(&gate, "1").await;
        old.token = "2".into();
        let rollback = "INSERT OR ROLLBACK INTO t (id) VALUES (900), (900)";
        let (theirs, others) = (Arc::clone(&gate), Arc::clone(&gate));
        let rest = tokio::spawn(async move { old.send(vec![execute(INSERT), execute(INSERT)]).await });
        let culprit = tokio::spawn(async move { theirs.sql("2", rollback).await });
        let another = tokio::spawn(async move { others.sql("2", rollback).await });
        assert_ne!(refusal(&rest.await.unwrap()), "ok");
        assert_eq!(code(&culprit.await.unwrap()), "SQLITE_CONSTRAINT");
        assert_eq!(code(&another.await.unwrap()), "SQLITE_CONSTRAINT");
        assert_eq!(gate.column(COUNT).await, ["0"]);
    }
}

#[tokio::test]
async fn a_predecessors_long_statement_is_stopped() {
    // It never ends by itself, and its time is not up before the test's: its successor is answered only where it is stopped.
    let endless = "INSERT INTO t (v) SELECT n FROM
        (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) AS n FROM c)";
    let gate = gate(patient()).await;
    for (token, begin) in [(2, false), (3, true)] {
        let old_token = (token - 1).to_string();
        let mut old = gate.client(&old_token);
        if begin {
            old.sql("BEGIN IMMEDIATE").await.unwrap();
        }
        let running = tokio::spawn(async move { old.send(vec![execute(endless), execute("COMMIT")]).await });
        until("the statement is there", || gate.db.fence("app").unwrap().in_flight > 0).await;
        gate.sql(&token.to_string(), "INSERT INTO t (v) VALUES ('new')").await.unwrap();
        assert_eq!(refusal(&running.await.unwrap()), "STALE_TOKEN");
    }
    assert_eq!(gate.column("SELECT v FROM t").await, ["new", "new"]);
}

/// SQLite looks at the time after a statement's last instruction, too, once in some thousand instructions: a COMMIT that comes
/// through is never called interrupted, be it the client's or the gate's.
#[test]
fn what_is_committed_is_not_called_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let fences = Arc::new(TableFences::new("app".parse().unwrap(), &[]).unwrap());
    let open = Db::open(&folder.path().join("app.db"), Access::Write, &fences, &Arc::new(Limits::default()));
    let mut db = open.unwrap();
    for turn in 0..3000 {
        db.own("BEGIN").unwrap();
        db.guard().cancel();
        if turn % 2 == 0 {
            db.own("COMMIT").unwrap();
        } else {
            let (none, later) = (FenceSet::default(), Instant::now() + LONG);
            let (mut commit, _) = db.prepare("COMMIT", true, none, later).unwrap().unwrap();
            db.run(&mut commit, &Args::default(), none, later, &mut Rows::new(false, 0)).unwrap();
            db.keep(commit);
        }
        db.guard().revive();
    }
}

/// A text of many joins takes SQLite long to prepare, and a request has room for many thousand of it.
#[tokio::test]
async fn preparing_and_failing_take_a_requests_time_too() {
    let limits = Limits { transaction_time: Duration::from_millis(200), ..Limits::default() };
    let gate = gate(limits).await;
    let joins = format!("SELECT 1 FROM t {}", "JOIN t USING (id) ".repeat(60));
    for token in ["", "1"] {
        let mut requests = vec![json!({"type": "store_sql", "sql_id": 1, "sql": joins})];
        for _ in 0..3000 {
            requests.push(json!({"type": "describe", "sql_id": 1}));
            requests.push(json!({"type": "execute", "stmt": {"sql": "nonsense"}}));
        }
        requests.push(json!({"type": "close"}));
        let answer = gate.ask(token, requests).await.unwrap();
        let last = result(&answer[answer.len() - 2]);
        assert_eq!(code(&last), "SQLITE_INTERRUPT", "with {token:?}: {last:?}");
    }
}

#[tokio::test]
async fn a_statement_has_its_time() {
    let endless = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
    let gate = gate(Limits { statement_time: Duration::from_millis(400), ..patient() }).await;
    for (token, sql) in
        [("", endless.to_owned()), ("1", endless.to_owned()), ("1", format!("INSERT INTO t (v) {endless}"))]
    {
        assert_eq!(code(&gate.sql(token, &sql).await), "SQLITE_INTERRUPT", "{sql}");
    }
    let mut one = inside(&gate, "1").await;
    assert_eq!(code(&one.sql(&format!("INSERT INTO t (v) {endless}")).await), "SQLITE_INTERRUPT");
    let state = one.send(vec![json!({"type": "get_autocommit"}), execute("COMMIT")]).await.unwrap();
    assert_eq!(state[0]["response"]["is_autocommit"], true, "as in SQLite, which rolls back");
    assert_eq!(code(&result(&state[1])), "SQLITE_ERROR");
    assert_eq!(gate.column(COUNT).await, ["0"]);
    assert!(presented("1").is_some());
}

/// A gate whose table `jobs` has a fence of its own, and three who meet on it: who holds the write lock with a token for that fence, a
/// leader of the database with an open transaction, and that leader's successor, who has to wait for the lock.
async fn a_successor_that_waits(limits: Limits) -> (Arc<Gate>, Client, Client, JoinHandle<Result<Value, String>>) {
    let gate = Gate::with(&[("jobs", "jobs")], limits);
    gate.script("app=5, jobs=5", "CREATE TABLE t (v); CREATE TABLE jobs (v)").await;
    let mut holder = gate.client("jobs=5");
    for sql in ["BEGIN IMMEDIATE", "INSERT INTO jobs VALUES (1)"] {
        holder.sql(sql).await.unwrap();
    }
    let mut leader = gate.client("app=5");
    for sql in ["BEGIN", "SELECT count(*) FROM t"] {
        leader.sql(sql).await.unwrap();
    }
    gate.until_gauge("sqlite_transactions", 2.0).await;
    let own = Arc::clone(&gate);
    let successor = tokio::spawn(async move { own.sql("app=6", "INSERT INTO t VALUES (6)").await });
    gate.until_gauge("sqlite_transactions", 1.0).await;
    (gate, holder, leader, successor)
}

#[tokio::test]
async fn nobody_is_told_of_a_mark_before_it_is_there() {
    let (gate, mut holder, mut leader, successor) = a_successor_that_waits(patient()).await;
    let mark = |gate: &Gate| gate.db.fence("app").unwrap().highest.unwrap().get();
    assert_eq!(mark(&gate), 5);
    let told = async {
        let refused = leader.send(vec![execute("SELECT 1")]).await.unwrap_err();
        (refused.kind.row().code, refused.highest.map(|highest| highest.get()), mark(&gate))
    };
    let go_on = async {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        holder.sql("COMMIT").await
    };
    let (told, committed) = tokio::join!(told, go_on);
    assert_eq!(code(&committed), "ok");
    assert_eq!(told, ("STALE_TOKEN", Some(6), 6), "the mark was there when it was told");
    assert_eq!(code(&successor.await.unwrap()), "ok");
}

#[tokio::test]
async fn a_successor_that_is_turned_away_has_replaced_nobody() {
    let limits = Limits { lock_wait: Duration::from_millis(300), ..patient() };
    let (gate, mut holder, mut leader, successor) = a_successor_that_waits(limits).await;
    let turned_away = successor.await.unwrap();
    assert_ne!(code(&turned_away), "ok", "it waited for longer than it may");
    let refused = leader.send(vec![execute("SELECT 1")]).await.unwrap_err();
    assert_ne!(refused.kind.row().code, "STALE_TOKEN", "{refused:?}");
    assert_eq!(code(&holder.sql("COMMIT").await), "ok");
    assert_eq!(gate.db.fence("app").unwrap().highest.unwrap().get(), 5);
    assert_eq!(code(&gate.sql("app=5", "INSERT INTO t VALUES (5)").await), "ok", "it still leads");
}
