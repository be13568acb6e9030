//! One fence doesn't starve another, and reads don't starve writes: told by counts, not by times.

use std::sync::Arc;

use fencegate::resource::sqlite::Limits;
use fencegate::resource::sqlite::hrana::Version;
use fencegate::resource::sqlite::program::Format;

use crate::gate::{Client, Gate, code, column, execute, patient, presented, refusal};

/// A database with a fence `app`, and one for the table `b`.
async fn gate(limits: Limits) -> Arc<Gate> {
    let gate = Gate::with(&[("b", "fb")], limits);
    gate.script("app=1", "CREATE TABLE a (v); CREATE TABLE last (v)").await;
    gate.script("app=1, fb=1", "CREATE TABLE b (v)").await;
    gate
}

/// So many writes of the fence `app`, begun and not waited for.
fn writes(gate: &Arc<Gate>, count: usize, sql: &'static str) -> Vec<tokio::task::JoinHandle<Result<(), String>>> {
    let begin = |_| {
        let gate = Arc::clone(gate);
        tokio::spawn(async move { gate.sql("app=1", sql).await.map(|_| ()) })
    };
    (0..count).map(begin).collect()
}

/// Keeps the writer from beginning a transaction until it is dropped, once it has one write in hand.
async fn hold(gate: &Arc<Gate>) -> (rusqlite::Connection, tokio::task::JoinHandle<Result<(), String>>) {
    let holder = gate.plain();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let first = writes(gate, 1, "INSERT INTO a VALUES (0)").remove(0);
    crate::gate::until("the writer has it", || {
        use fencegate::resource::Resource as _;
        gate.db.fence("app").unwrap().in_flight == 1 && gate.gauge("queue_writes") == 0.0
    })
    .await;
    (holder, first)
}

#[tokio::test]
async fn a_write_is_not_behind_a_thousand_of_another_fence() {
    let gate = gate(patient()).await;
    let (holder, first) = hold(&gate).await;
    let many = writes(&gate, 1000, "INSERT INTO a VALUES (1)");
    gate.until_gauge("queue_writes", 1000.0).await;
    // Last of the same fence, and one of another, which comes after that. Each notes how many were before it.
    let last = writes(&gate, 1, "INSERT INTO last SELECT count(*) FROM a").remove(0);
    gate.until_gauge("queue_writes", 1001.0).await;
    let other = Arc::clone(&gate);
    let other = tokio::spawn(async move { other.sql("fb=1", "INSERT INTO b SELECT count(*) FROM a").await });
    gate.until_gauge("queue_writes", 1002.0).await;
    holder.execute_batch("ROLLBACK").unwrap();
    other.await.unwrap().unwrap();
    for write in many.into_iter().chain([first, last]) {
        write.await.unwrap().unwrap();
    }
    let before: u64 = gate.column("SELECT v FROM b").await[0].parse().unwrap();
    assert!(before <= 2, "{before} of the thousand were before it");
    assert_eq!(gate.column("SELECT v FROM last").await, ["1001"], "in one lane each waits for all before it");
}

#[tokio::test]
async fn a_fence_that_fills_the_queue_is_turned_away_alone() {
    let gate = gate(Limits { queue_requests: 20, ..patient() }).await;
    let (holder, first) = hold(&gate).await;
    let many = writes(&gate, 10, "INSERT INTO a VALUES (1)");
    gate.until_gauge("queue_writes", 10.0).await;
    assert_eq!(code(&gate.sql("app=1", "INSERT INTO a VALUES (2)").await), "OVERLOADED", "half of it is full");
    let other = Arc::clone(&gate);
    let other = tokio::spawn(async move { other.sql("fb=1", "INSERT INTO b VALUES (1)").await });
    gate.until_gauge("queue_writes", 11.0).await;
    holder.execute_batch("ROLLBACK").unwrap();
    other.await.unwrap().unwrap();
    for write in many.into_iter().chain([first]) {
        write.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn what_waits_for_a_transaction_counts_for_the_queue() {
    let gate = gate(Limits { queue_requests: 20, ..patient() }).await;
    let mut inside = Client { gate: Arc::clone(&gate), token: "app=1".into(), holder: None, baton: None };
    inside.sql("BEGIN IMMEDIATE").await.unwrap();
    let many = writes(&gate, 10, "INSERT INTO a VALUES (1)");
    assert_eq!(code(&gate.sql("app=1", "SELECT 1 FROM a WHERE v = 3").await), "ok", "reads go on");
    crate::gate::until("they wait", || {
        use fencegate::resource::Resource as _;
        gate.db.fence("app").unwrap().in_flight == 10 && gate.gauge("queue_writes") == 0.0
    })
    .await;
    assert_eq!(code(&gate.sql("app=1", "INSERT INTO a VALUES (2)").await), "OVERLOADED");
    inside.sql("COMMIT").await.unwrap();
    for write in many {
        write.await.unwrap().unwrap();
    }
    assert_eq!(gate.column("SELECT count(*) FROM a").await, ["10"]);
}

const ENDLESS: &str = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";

#[tokio::test]
async fn reads_without_an_end_keep_no_write_waiting() {
    // At the end, the gate waits for what runs.
    let gate = gate(Limits { statement_time: std::time::Duration::from_secs(6), ..patient() }).await;
    let readers = Limits::default().readers;
    let reads: Vec<_> = (0..readers + 20)
        .map(|_| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.sql("", ENDLESS).await })
        })
        .collect();
    // All that read are busy, and more wait.
    gate.until_gauge("queue_reads", 20.0).await;
    for write in writes(&gate, 100, "INSERT INTO a VALUES (1)") {
        write.await.unwrap().unwrap();
    }
    assert!(reads.iter().all(|read| !read.is_finished()), "none of them has ended");
    assert_eq!(gate.plain().query_row("SELECT count(*) FROM a", [], |row| row.get::<_, i64>(0)).unwrap(), 100);
    // What nobody waits for any more is not begun.
    reads.iter().for_each(tokio::task::JoinHandle::abort);
    gate.until_gauge("queue_reads", 0.0).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_turn_away_nobody_else() {
    let gate = gate(Limits { answer_bytes: 1 << 20, ..patient() }).await;
    let ask = async |token: &str| {
        let sql = serde_json::json!({ "requests": [execute("SELECT printf('%.*c', 100000, 'x')")] }).to_string();
        let presented = presented(token);
        gate.db.hrana(presented.as_ref(), Version::V3, Format::Pipeline, sql.as_bytes()).await
    };
    // Held as a connection holds them whose client doesn't read.
    let mut held = Vec::new();
    while let Ok(reply) = ask("").await {
        held.push(reply);
        assert!(held.len() < 100, "it goes on for ever");
    }
    assert!(held.len() >= 2, "a quarter of a megabyte is more than two of them");
    assert_eq!(refusal(&ask("").await), "OVERLOADED");
    gate.sql("app=1", "INSERT INTO a VALUES (1)").await.unwrap();
    gate.sql("fb=1", "INSERT INTO b VALUES (1)").await.unwrap();
    // A leader that doesn't take its answers turns away itself.
    while let Ok(reply) = ask("app=1").await {
        held.push(reply);
    }
    assert_eq!(code(&gate.sql("app=1", "INSERT INTO a VALUES (2)").await), "OVERLOADED");
    gate.sql("fb=1", "INSERT INTO b VALUES (2)").await.unwrap();
    // Its claim takes effect all the same.
    assert_eq!(code(&gate.sql("app=2", "INSERT INTO a VALUES (3)").await), "ok");
    drop(held);
    assert_eq!(column(&gate.sql("", "SELECT count(*) FROM a").await.unwrap()), ["2"]);
}
