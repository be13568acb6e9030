//! The fenced client on a database: what a leader is told of its writes, and when it stops.

use std::time::Duration;

use fencegate::client::{
    self, Applied, Error, Fenced, Leadership, Lost, NotApplied, Refused, Statement, Value, params,
};
use fencegate::coordinator::{Bid, GateCoordinator};
use fencegate::fence::FenceName;
use tokio::time::timeout;

use crate::gate::LONG;
use crate::process::{Gate, until};

pub fn url(gate: &Gate) -> String {
    format!("http://{}", gate.data)
}

pub fn name(text: &str) -> FenceName {
    text.parse().unwrap()
}

/// Leads an election that nobody else stands in, for longer than any test runs.
pub async fn lead(gate: &Gate, election: &str) -> Leadership {
    let bid = Bid { holder: Some("node-a".parse().unwrap()), ttl: 10 * LONG };
    let coordinator = GateCoordinator::new(&url(gate)).unwrap();
    client::campaign(&coordinator, &name(election), &bid).await.unwrap()
}

/// A leader that has claimed the fence of its election.
pub async fn fenced(gate: &Gate, election: &str) -> Fenced {
    let leadership = lead(gate, election).await;
    client::Gate::new(&url(gate)).unwrap().fenced(&leadership, &name(election)).await.unwrap()
}

/// Somebody else claims the fence with this token.
pub fn claim(gate: &Gate, fence: &str, token: u64) {
    let path = format!("/-/fences/{fence}/claim");
    let answer = gate.client().request("POST", &path, &[("fencing-token", &token.to_string())], b"").unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Waits until the leadership is lost.
pub async fn lost(leadership: &Leadership) -> Lost {
    timeout(LONG, leadership.lost()).await.expect("it is lost")
}

fn count(gate: &Gate) -> String {
    let answer = gate.client().sql(None, &["SELECT count(*) FROM t"]).json();
    answer["results"][0]["response"]["result"]["rows"][0][0]["value"].as_str().unwrap().to_owned()
}

struct Rig {
    gate: Gate,
    fenced: Fenced,
    db: client::Sql,
    _dir: tempfile::TempDir,
}

/// A gate before a database with a table, and a leader. The second leader there ever was: token 2.
async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::patient(dir.path());
    claim(&gate, "app", 1);
    let fenced = fenced(&gate, "app").await;
    let db = fenced.sql("/");
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE)", ()).await.unwrap();
    Rig { gate, fenced, db, _dir: dir }
}

fn replaced<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    match outcome {
        Err(error @ Error::Replaced { .. }) => {
            assert_eq!(error.applied(), Applied::No);
            let Error::Replaced { fence, presented, highest } = error else { unreachable!() };
            assert_eq!((fence.as_str(), presented.get(), highest.map(|token| token.get())), ("app", 2, Some(9)));
        }
        other => panic!("{other:?}"),
    }
}

fn ended<T: std::fmt::Debug>(outcome: Result<T, Error>) {
    match outcome {
        Err(Error::NotApplied { why: NotApplied::TransactionEnded, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_claims_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::patient(dir.path());
    claim(&gate, "app", 5);
    let fenced = fenced(&gate, "app").await;
    assert_eq!((fenced.previous().unwrap().get(), fenced.leadership().token().get()), (5, 6));
    let mark = gate.client().get("/-/fences/app").json();
    assert_eq!((&mark["highest"], &mark["holder"]), (&"6".into(), &"node-a".into()), "before it has written");
}

#[tokio::test]
async fn values_of_every_kind_go_there_and_back() {
    let rig = rig().await;
    let Rig { db, .. } = &rig;
    let values = [
        Value::Null,
        Value::Integer(i64::MAX),
        Value::Integer(i64::MIN),
        Value::Real(0.1),
        Value::Real(-5e-324),
        Value::Text("grüße \" \\ \0 \u{2028}🎉".to_owned()),
        Value::Text(String::new()),
        Value::Blob((0..=255).collect()),
    ];
    for (id, value) in values.iter().enumerate() {
        let id = i64::try_from(id).unwrap();
        let done = db.execute("INSERT INTO t VALUES (?, ?)", params![id, value.clone()]).await.unwrap();
        assert_eq!((done.rows_changed, done.last_insert_rowid), (1, Some(id)));
    }
    let rows = db.query("SELECT id, v, typeof(v) AS kind FROM t ORDER BY id", ()).await.unwrap();
    assert_eq!((rows.columns(), rows.len()), (&["id", "v", "kind"].map(str::to_owned)[..], values.len()));
    for (row, value) in rows.iter().zip(&values) {
        assert_eq!((row.get::<Value>("v").as_ref(), row.get("kind")), (Ok(value), Ok(value.kind().to_owned())));
    }
    let rows = db.query("SELECT 9e999, -9e999, :a || $b", [(":a", "x".into()), ("$b", 7.into())]).await.unwrap();
    let expected = [Value::Real(f64::INFINITY), Value::Real(f64::NEG_INFINITY), Value::Text("x7".into())];
    assert_eq!(rows[0].values(), expected);
    let returned = db.query("INSERT INTO t VALUES (100, 'r') RETURNING v", ()).await.unwrap();
    assert_eq!(returned[0].get(0), Ok("r".to_owned()));
}

#[tokio::test]
async fn a_leader_that_was_replaced_is_told_so_and_stops_by_itself() {
    let rig = rig().await;
    let Rig { gate, fenced, db, .. } = &rig;
    db.execute("INSERT INTO t VALUES (1, 'mine')", ()).await.unwrap();
    claim(gate, "app", 9);
    replaced(db.execute("INSERT INTO t VALUES (2, 'too late')", ()).await);
    assert_eq!(lost(fenced.leadership()).await, Lost::Replaced);
    // From now on nothing is even sent.
    let refusals = |gate: &Gate| gate.admin().get("/v1/fences/app").json()["refusals"].to_string();
    let before = refusals(gate);
    for _ in 0..3 {
        let outcome = db.query("SELECT 1", ()).await;
        assert!(matches!(outcome, Err(Error::Lost { why: Lost::Replaced, applied: Applied::No })), "{outcome:?}");
    }
    assert_eq!(refusals(gate), before);
    assert_eq!(count(gate), "1");
}

#[tokio::test]
async fn reads_of_a_replaced_leader_are_refused_as_well() {
    let rig = rig().await;
    let Rig { gate, db, .. } = &rig;
    db.query("SELECT 1", ()).await.unwrap();
    claim(gate, "app", 9);
    replaced(db.query("SELECT 1", ()).await);
}

#[tokio::test]
async fn a_fence_that_was_claimed_higher_is_not_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::patient(dir.path());
    let leadership = lead(&gate, "app").await;
    claim(&gate, "app", 9);
    let outcome = client::Gate::new(&url(&gate)).unwrap().fenced(&leadership, &name("app")).await;
    assert!(matches!(outcome, Err(Error::Replaced { .. })), "{outcome:?}");
    assert_eq!(leadership.check(), Err(Lost::Replaced));
}

#[tokio::test]
async fn what_the_gate_refuses_is_told_by_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("two.toml");
    let resource = |name: &str, rest: &str| {
        format!("[[resource]]\nname = \"{name}\"\npath = \"/{name}\"\nkind = \"sqlite\"\nfile = \"{name}.db\"\n{rest}")
    };
    let text = resource("a", "tables = { \"jobs\" = \"scheduler\" }\n") + &resource("b", "");
    std::fs::write(&config, text).unwrap();
    let gate = Gate::start(dir.path(), &["--config", config.to_str().unwrap()]);
    let refused = |outcome: Result<client::Executed, Error>, wanted: Refused| match outcome {
        Err(Error::Refused { why, .. }) => assert_eq!(why, wanted),
        other => panic!("{other:?}"),
    };
    let leads = fenced(&gate, "a").await;
    // A database that belongs to another fence: nothing is claimed there by mistake.
    refused(leads.sql("/b").execute("CREATE TABLE t (v)", ()).await, Refused::WrongFence);
    assert_eq!(gate.client().get("/-/fences/b").json()["highest"], serde_json::Value::Null);
    refused(leads.sql("/a").execute("CREATE TABLE jobs (v)", ()).await, Refused::OtherFence);
    refused(leads.sql("/nowhere").execute("CREATE TABLE t (v)", ()).await, Refused::NotFound);
    let client = client::Gate::new(&url(&gate)).unwrap();
    let nobody = client.fenced(leads.leadership(), &name("nobody")).await.map(drop);
    assert!(matches!(nobody, Err(Error::Refused { why: Refused::NotFound, .. })), "{nobody:?}");
    // Somebody else with the same token.
    let headers = [("fencing-token", "1"), ("fencing-holder", "node-b")];
    gate.client().request("POST", "/-/fences/b/claim", &headers, b"").unwrap();
    let conflict = client.fenced(leads.leadership(), &name("b")).await.map(drop);
    assert!(matches!(conflict, Err(Error::Refused { why: Refused::Conflict, .. })), "{conflict:?}");
    assert!(leads.leadership().is_alive(), "none of this ends a term");
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let rig = rig().await;
    let Rig { gate, db, .. } = &rig;
    let insert = |v: &str| Statement::new("INSERT INTO t (v) VALUES (?) RETURNING id").with(params![v]);
    let rows = db.batch(&[insert("a"), Statement::new("SELECT count(*) FROM t"), insert("b")]).await.unwrap();
    let values: Vec<i64> = rows.iter().map(|rows| rows[0].get(0).unwrap()).collect();
    assert_eq!(values, [1, 1, 2]);
    let outcome = db.batch(&[insert("c"), insert("a"), insert("d")]).await;
    let Err(Error::Sql { code, statement, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!((code.as_str(), statement), ("SQLITE_CONSTRAINT", 1));
    assert_eq!(count(gate), "2");
    assert_eq!(db.batch(&[]).await, Ok(Vec::new()));
    assert!(matches!(db.batch(&[insert("e"), Statement::new("COMMIT")]).await, Err(Error::Misuse(_))));
    assert!(matches!(db.execute("BEGIN", ()).await, Err(Error::Misuse(_))));
    assert_eq!(count(gate), "2");
}

#[tokio::test]
async fn a_transaction_commits_or_leaves_nothing() {
    let rig = rig().await;
    let Rig { gate, db, .. } = &rig;
    let mut transaction = db.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (1, 'a')", ()).await.unwrap();
    let seen = transaction.query("SELECT count(*) FROM t", ()).await.unwrap();
    assert_eq!((seen[0].get(0), count(gate)), (Ok(1_i64), "0".to_owned()), "only it sees what isn't committed");
    let again = transaction.execute("INSERT INTO t VALUES (1, 'b')", ()).await;
    assert!(matches!(again, Err(Error::Sql { .. })), "{again:?}");
    transaction.execute("SAVEPOINT s", ()).await.unwrap();
    transaction.execute("INSERT INTO t VALUES (2, 'b')", ()).await.unwrap();
    transaction.execute("ROLLBACK TO s", ()).await.unwrap();
    assert!(matches!(transaction.execute("COMMIT", ()).await, Err(Error::Misuse(_))));
    transaction.commit().await.unwrap();
    assert_eq!(count(gate), "1", "one statement that failed, and one that was taken back");

    let mut transaction = db.transaction().await.unwrap();
    transaction.execute("DELETE FROM t", ()).await.unwrap();
    transaction.rollback().await.unwrap();
    let mut transaction = db.transaction().await.unwrap();
    transaction.execute("DELETE FROM t", ()).await.unwrap();
    drop(transaction);
    // It waits until the one that was dropped has let go of the write lock.
    db.execute("INSERT INTO t VALUES (2, 'c')", ()).await.unwrap();
    assert_eq!(count(gate), "2");
}

#[tokio::test]
async fn a_transaction_that_sqlite_has_ended_goes_on_with_nothing() {
    let rig = rig().await;
    let Rig { gate, db, .. } = &rig;
    db.execute("INSERT INTO t VALUES (1, 'a')", ()).await.unwrap();
    let mut transaction = db.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (2, 'b')", ()).await.unwrap();
    let outcome = transaction.execute("INSERT OR ROLLBACK INTO t VALUES (1, 'c')", ()).await;
    assert!(matches!(outcome, Err(Error::Sql { .. })), "{outcome:?}");
    // On the same stream it would be applied at once, outside of any transaction.
    ended(transaction.execute("INSERT INTO t VALUES (3, 'd')", ()).await);
    ended(transaction.commit().await);
    assert_eq!(count(gate), "1");
}

#[tokio::test]
async fn an_open_transaction_is_rolled_back_when_the_fence_advances() {
    let rig = rig().await;
    let Rig { gate, fenced, db, .. } = &rig;
    let mut transaction = db.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (1, 'a')", ()).await.unwrap();
    claim(gate, "app", 9);
    replaced(transaction.execute("INSERT INTO t VALUES (2, 'b')", ()).await);
    ended(transaction.commit().await);
    assert_eq!((count(gate), lost(fenced.leadership()).await), ("0".to_owned(), Lost::Replaced));
}

#[tokio::test]
async fn a_commit_after_the_fence_has_advanced_is_refused() {
    let rig = rig().await;
    let Rig { gate, db, .. } = &rig;
    let mut transaction = db.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (1, 'a')", ()).await.unwrap();
    claim(gate, "app", 9);
    replaced(transaction.commit().await);
    assert_eq!(count(gate), "0");
}

#[tokio::test]
async fn a_transaction_does_not_outlive_the_gate() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::patient(dir.path());
    let leads = fenced(&gate, "app").await;
    let db = leads.sql("/");
    db.execute("CREATE TABLE t (v)", ()).await.unwrap();
    let mut one = db.transaction().await.unwrap();
    one.execute("INSERT INTO t VALUES (1)", ()).await.unwrap();
    gate.kill();
    ended(one.execute("INSERT INTO t VALUES (2)", ()).await.map_err(|error| match error {
        // Nobody is there any more, which is as sure.
        Error::NotApplied { why: NotApplied::GateOutOfReach, message, retry_after } => {
            Error::NotApplied { why: NotApplied::TransactionEnded, message, retry_after }
        }
        other => other,
    }));
    ended(one.commit().await);
}

#[tokio::test]
async fn who_gives_up_the_leadership_sends_nothing_more() {
    let rig = rig().await;
    let Rig { gate, fenced, db, .. } = &rig;
    fenced.leadership().clone().resign().await.unwrap();
    let outcome = db.execute("INSERT INTO t VALUES (1, 'a')", ()).await;
    assert!(matches!(outcome, Err(Error::Lost { why: Lost::Resigned, applied: Applied::No })), "{outcome:?}");
    assert_eq!(count(gate), "0");
}

#[tokio::test]
async fn the_write_lock_is_waited_for_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("gate.toml");
    let resource = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    std::fs::write(&config, format!("{resource}[limits]\nlock_wait = \"50ms\"\nstream_idle = \"10m\"\n")).unwrap();
    let gate = Gate::start(dir.path(), &["--config", config.to_str().unwrap()]);
    let leads = fenced(&gate, "app").await;
    let db = leads.sql("/");
    db.execute("CREATE TABLE t (v)", ()).await.unwrap();
    let transaction = db.transaction().await.unwrap();
    let hasty = client::Gate::new(&url(&gate)).unwrap().with_retry_for(Duration::ZERO);
    let hasty = hasty.fenced(leads.leadership(), &name("app")).await.unwrap().sql("/");
    let outcome = hasty.execute("INSERT INTO t VALUES (1)", ()).await;
    assert!(matches!(outcome, Err(Error::NotApplied { why: NotApplied::Busy, .. })), "{outcome:?}");
    let busy = |gate: &Gate| gate.admin().get("/metrics").body.windows(4).filter(|word| word == b"BUSY").count() > 0;
    until("the metrics know of it", || busy(&gate));
    let (waits, ()) = tokio::join!(db.execute("INSERT INTO t VALUES (2)", ()), async {
        tokio::task::yield_now().await;
        drop(transaction);
    });
    waits.unwrap();
    assert_eq!(count(&gate), "1");
}
