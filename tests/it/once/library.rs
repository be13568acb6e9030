//! The library and the command send a key by themselves, and ask again with it.

use std::process::{Command, Output};
use std::time::Duration;

use fencegate::client::{self, Applied, Error, Lost, Statement, Unknown, params};

use super::cut::Cut;
use super::{again, count, rig};
use crate::client::{claim, lead, name};
use crate::process::{Gate, PROGRAM};
use crate::upstream;

struct Rig {
    dir: tempfile::TempDir,
    gate: Gate,
    cut: Cut,
    db: client::Sql,
    leadership: client::Leadership,
}

/// A leader whose requests go through what loses answers. Where `hides`, the gate doesn't seem to know of keys.
async fn leads(limits: &str, hides: bool) -> Rig {
    let (dir, gate) = rig(limits);
    let cut = Cut::before(&gate);
    if hides {
        cut.hide("idempotency-retention");
    }
    let leadership = lead(&gate, "app").await;
    let fenced =
        client::Gate::new(&format!("http://{}", cut.addr)).unwrap().fenced(&leadership, &name("app")).await.unwrap();
    Rig { db: fenced.sql("/"), dir, gate, cut, leadership }
}

fn unknown<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    match outcome {
        Err(Error::Unknown { why: Unknown::Broken, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_asked_for_again_and_applied_once() {
    let rig = leads("", false).await;
    rig.cut.lose(2);
    let done = rig.db.execute("INSERT INTO t VALUES ('a')", ()).await.unwrap();
    assert_eq!((done.rows_changed, rig.cut.lost().len(), count(&rig.gate).as_str()), (1, 2, "1"));
    rig.cut.lose(1);
    let rows = rig.db.query("INSERT INTO t VALUES ('b') RETURNING hex(randomblob(8))", ()).await.unwrap();
    let first = rig.cut.lost()[2].json();
    let first = first["results"][0]["response"]["result"]["rows"][0][0]["value"].as_str().unwrap().to_owned();
    assert_eq!(rows[0].get(0), Ok(first));
    rig.cut.lose(1);
    let insert = |v: i64| Statement::new("INSERT INTO t VALUES (?)").with(params![v]);
    assert_eq!(rig.db.batch(&[insert(1), insert(2)]).await.unwrap().len(), 2);
    assert_eq!(count(&rig.gate), "4");
}

#[tokio::test]
async fn with_a_gate_that_does_not_say_that_it_knows_keys_nothing_is_asked_again() {
    for (limits, hides) in [("", true), ("idempotency_hold = \"100ms\"\n", false)] {
        let rig = leads(limits, hides).await;
        rig.cut.lose(1);
        unknown(rig.db.execute("INSERT INTO t VALUES ('a')", ()).await);
        assert_eq!((rig.cut.lost().len(), count(&rig.gate).as_str()), (1, "1"));
    }
}

#[tokio::test]
async fn a_gate_that_is_killed_before_it_answers_is_asked_again_when_it_is_back() {
    let Rig { dir, gate, cut, db, .. } = leads("", false).await;
    cut.lose(1);
    let (there, (moved, path)) = (cut.clone(), (std::sync::Mutex::new(Some(gate)), dir.path().to_owned()));
    let back = std::sync::Arc::new(std::sync::Mutex::new(None));
    let kept = std::sync::Arc::clone(&back);
    cut.then(move || {
        if let Some(gate) = moved.lock().expect("no panic").take() {
            gate.kill();
            let gate = upstream::restart(&path);
            there.lead_to(&gate);
            *kept.lock().expect("no panic") = Some(gate);
        }
    });
    let done = db.execute("INSERT INTO t VALUES ('a')", ()).await.unwrap();
    let gate = back.lock().expect("no panic").take().expect("started anew");
    assert_eq!((done.rows_changed, cut.lost().len(), count(&gate).as_str()), (1, 1, "1"));
}

#[tokio::test]
async fn what_is_in_doubt_stays_so_though_the_last_attempt_was_surely_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let app = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    let limits = "[limits]\nlock_wait = \"20ms\"\nstream_idle = \"10m\"\ntransaction_time = \"10m\"\n";
    let gate = upstream::gate(dir.path(), &format!("{app}{limits}"));
    let cut = Cut::before(&gate);
    let leadership = lead(&gate, "app").await;
    let gates = client::Gate::new(&format!("http://{}", cut.addr)).unwrap().with_retry_for(Duration::from_millis(700));
    let db = gates.fenced(&leadership, &name("app")).await.unwrap().sql("/");
    db.execute("CREATE TABLE t (v)", ()).await.unwrap();
    cut.lose(1);
    // From the first attempt's end on the lock is somebody's, and whatever comes is told that it was not applied.
    let (addr, token) = (gate.data, leadership.token().to_string());
    cut.then(move || {
        let begin =
            serde_json::json!([super::execute("BEGIN IMMEDIATE"), super::execute("DELETE FROM t WHERE v = 'b'")]);
        let begun = crate::process::Client::connect(addr).expect("it listens").pipeline(Some(&token), None, &begin);
        assert_eq!(begun.expect("an answer").status, 200);
    });
    unknown(db.execute("INSERT INTO t VALUES ('a')", ()).await);
    assert_eq!((cut.lost().len(), count(&gate).as_str()), (1, "1"));
    let text = String::from_utf8(gate.admin().get("/metrics").body).unwrap();
    assert!(text.contains("code=\"BUSY\""), "the second attempt was not refused");
}

#[tokio::test]
async fn whoever_is_replaced_in_between_is_told_that_and_that_nobody_knows() {
    let Rig { dir: _dir, gate, cut, db, leadership } = leads("", false).await;
    cut.lose(1);
    let addr = gate.data;
    cut.then(move || {
        let claim = crate::process::Client::connect(addr).expect("it listens").request(
            "POST",
            "/-/fences/app/claim",
            &[("fencing-token", "99")],
            b"",
        );
        assert_eq!(claim.expect("an answer").status, 200);
    });
    let outcome = db.execute("INSERT INTO t VALUES ('a')", ()).await;
    assert!(matches!(outcome, Err(Error::Lost { why: Lost::Replaced, applied: Applied::Unknown })), "{outcome:?}");
    assert_eq!((leadership.check(), count(&gate).as_str()), (Err(Lost::Replaced), "1"));
    // Of one that was refused at once it is known.
    claim(&gate, "app", 100);
}

#[tokio::test]
async fn it_is_not_asked_again_for_longer_than_is_allowed() {
    let (_dir, gate) = rig("");
    let cut = Cut::before(&gate);
    let leadership = lead(&gate, "app").await;
    let gates = client::Gate::new(&format!("http://{}", cut.addr)).unwrap();
    for retry_for in [Duration::ZERO, Duration::from_millis(300)] {
        let fenced = gates.clone().with_retry_for(retry_for).fenced(&leadership, &name("app")).await.unwrap();
        cut.lose(usize::MAX);
        let before = cut.lost().len();
        unknown(fenced.sql("/").execute("INSERT INTO t VALUES ('a')", ()).await);
        let tries = cut.lost().len() - before;
        assert!(if retry_for.is_zero() { tries == 1 } else { (1..=4).contains(&tries) }, "{tries}");
        cut.lose(0);
    }
    assert_eq!(count(&gate), "2");
}

#[tokio::test]
async fn an_answer_that_is_lost_and_was_too_large_to_keep_is_known_to_be_applied() {
    let rig = leads("idempotency_answer_bytes = 1000\n", false).await;
    rig.cut.lose(1);
    let outcome = rig.db.query("INSERT INTO t VALUES (1) RETURNING hex(zeroblob(1000))", ()).await;
    assert!(matches!(outcome, Err(Error::AnswerLost { .. })), "{outcome:?}");
    assert_eq!((outcome.unwrap_err().applied(), count(&rig.gate).as_str()), (Applied::Yes, "1"));
}

#[tokio::test]
async fn what_can_not_be_kept_goes_without_a_key() {
    let rig = leads("", false).await;
    rig.db.execute("PRAGMA foreign_keys = off", ()).await.unwrap();
    rig.db.execute("CREATE TABLE u (v UNIQUE)", ()).await.unwrap();
    rig.db.execute("INSERT INTO u VALUES (1)", ()).await.unwrap();
    let outcome = rig.db.execute("INSERT OR ROLLBACK INTO u VALUES (1)", ()).await;
    assert!(matches!(&outcome, Err(Error::Sql { code, .. }) if code == "SQLITE_CONSTRAINT"), "{outcome:?}");
}

fn sql(cut: &Cut, statements: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.args(["sql", "--token", "5", "--json", "--gate", &format!("http://{}", cut.addr)]).args(statements);
    command.env_remove("FENCING_HOLDER").output().expect("it runs")
}

#[test]
fn the_command_asks_again_as_well() {
    let (dir, gate) = rig("");
    let cut = Cut::before(&gate);
    cut.lose(2);
    let output = sql(&cut, &["INSERT INTO t VALUES ('a') RETURNING hex(randomblob(8))"]);
    assert!(output.status.success(), "{output:?}");
    let lost = cut.lost();
    assert_eq!((lost.len(), count(&gate).as_str()), (2, "1"));
    again(&lost[1], &lost[0]);
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(printed["results"], lost[0].json()["results"]);
    // What can't be kept goes without a key, once.
    let output = sql(&cut, &["PRAGMA foreign_keys = off", "BEGIN", "INSERT INTO t VALUES ('b')", "COMMIT"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(count(&gate), "2");
    // Of a gate that says nothing of keys it asks once.
    cut.hide("idempotency-retention");
    cut.lose(1);
    let output = sql(&cut, &["INSERT INTO t VALUES ('c')"]);
    assert_eq!((output.status.code(), count(&gate).as_str()), (Some(1), "3"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("may or may not have been applied"), "{output:?}");
    drop(dir);
}

#[test]
fn the_command_tells_of_what_is_in_doubt_when_it_is_refused() {
    let (_dir, gate) = rig("");
    let cut = Cut::before(&gate);
    cut.lose(1);
    let addr = gate.data;
    cut.then(move || {
        let mut client = crate::process::Client::connect(addr).expect("it listens");
        let claimed = client.request("POST", "/-/fences/app/claim", &[("fencing-token", "9")], b"");
        assert_eq!(claimed.expect("an answer").status, 200);
    });
    let output = sql(&cut, &["INSERT INTO t VALUES ('a')"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(told.contains("You've been replaced") && told.contains("may have been applied"), "{told}");
    assert_eq!(count(&gate), "1");
}
