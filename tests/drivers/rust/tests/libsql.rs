//! The Rust driver `libsql` (remote), as it is, through the gate.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use libsql::{Builder, Connection, TransactionBehavior, Value, params};

struct Gate {
    process: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl Gate {
    fn start() -> Gate {
        let program = std::env::var("FENCEGATE")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../target/debug/fencegate").into());
        let dir = tempfile::tempdir().unwrap();
        // Paths in it are relative to where it is.
        let config = dir.path().join("gate.toml");
        std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../gate.toml"), &config).unwrap();
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "warn", "--config"])
            .arg(config)
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("data=")).unwrap();
        Gate { process, url: format!("http://{address}"), _dir: dir }
    }

    async fn connect(&self, token: Option<u64>) -> Connection {
        let auth = token.map(|token| format!("fgt.{token}")).unwrap_or_default();
        let remote = Builder::new_remote(self.url.clone(), auth).connector(hyper::client::HttpConnector::new());
        remote.build().await.unwrap().connect().unwrap()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn number(db: &Connection, sql: &str) -> i64 {
    db.query(sql, ()).await.unwrap().next().await.unwrap().unwrap().get(0).unwrap()
}

#[tokio::test]
async fn statements_and_values() {
    let gate = Gate::start();
    let db = gate.connect(Some(1)).await;
    db.execute("CREATE TABLE vals (id INTEGER PRIMARY KEY, i, f REAL, t TEXT, b BLOB, n)", ()).await.unwrap();
    let insert = "INSERT INTO vals (i, f, t, b, n) VALUES (?1, ?2, ?3, ?4, ?5)";
    let changed = db.execute(insert, params![i64::MAX, 1.5, "grüße 🎉", vec![0_u8, 255, 1], Value::Null]).await.unwrap();
    assert_eq!((changed, db.last_insert_rowid()), (1, 1));
    let mut rows = db.query("SELECT i, f, t, b, n FROM vals WHERE id = :id", [(":id", 1)]).await.unwrap();
    assert_eq!(rows.column_name(2), Some("t"));
    let row = rows.next().await.unwrap().unwrap();
    assert_eq!(row.get::<i64>(0).unwrap(), i64::MAX);
    assert_eq!(row.get::<f64>(1).unwrap(), 1.5);
    assert_eq!(row.get::<String>(2).unwrap(), "grüße 🎉");
    assert_eq!(row.get::<Vec<u8>>(3).unwrap(), [0, 255, 1]);
    assert_eq!(row.get_value(4).unwrap(), Value::Null);
    assert!(rows.next().await.unwrap().is_none());

    let mut stmt = db.prepare("INSERT INTO vals (i) VALUES (?)").await.unwrap();
    for i in 0..3 {
        stmt.execute([i]).await.unwrap();
        stmt.reset();
    }
    db.execute_batch("INSERT INTO vals (i) VALUES (8); INSERT INTO vals (i) VALUES (9);").await.unwrap();
    assert_eq!(number(&db, "SELECT count(*) FROM vals").await, 6);
}

#[tokio::test]
async fn errors() {
    let gate = Gate::start();
    let db = gate.connect(Some(1)).await;
    db.execute("CREATE TABLE uniq (v UNIQUE)", ()).await.unwrap();
    db.execute("INSERT INTO uniq VALUES (1)", ()).await.unwrap();
    let error = db.execute("INSERT INTO uniq VALUES (1)", ()).await.unwrap_err().to_string();
    assert!(error.contains("UNIQUE constraint failed: uniq.v"), "{error}");
    let error = db.execute("SELEC 1", ()).await.unwrap_err().to_string();
    assert!(error.contains("syntax error"), "{error}");
    let error = gate.connect(None).await.execute("INSERT INTO uniq VALUES (2)", ()).await.unwrap_err().to_string();
    assert!(error.contains("TOKEN_REQUIRED") || error.contains("needs a fencing token"), "{error}");
}

#[tokio::test]
async fn transactions() {
    let gate = Gate::start();
    let db = gate.connect(Some(1)).await;
    db.execute("CREATE TABLE tx (v)", ()).await.unwrap();
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).await.unwrap();
    tx.execute("INSERT INTO tx VALUES (1)", ()).await.unwrap();
    assert_eq!(number(&tx, "SELECT count(*) FROM tx").await, 1);
    assert_eq!(number(&gate.connect(None).await, "SELECT count(*) FROM tx").await, 0);
    tx.commit().await.unwrap();
    let tx = db.transaction().await.unwrap();
    tx.execute("INSERT INTO tx VALUES (2)", ()).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(number(&gate.connect(None).await, "SELECT count(*) FROM tx").await, 1);
}

#[tokio::test]
async fn being_replaced() {
    let gate = Gate::start();
    let old = gate.connect(Some(5)).await;
    old.execute("CREATE TABLE led (who)", ()).await.unwrap();
    let tx = old.transaction_with_behavior(TransactionBehavior::Immediate).await.unwrap();
    tx.execute("INSERT INTO led VALUES ('old')", ()).await.unwrap();
    let new = gate.connect(Some(6)).await;
    let write = new.execute("INSERT INTO led VALUES ('new')", ()).await;
    write.expect("the successor doesn't wait for its predecessor's transaction");
    for error in [
        tx.execute("INSERT INTO led VALUES ('old')", ()).await.unwrap_err().to_string(),
        gate.connect(Some(5)).await.execute("INSERT INTO led VALUES ('old')", ()).await.unwrap_err().to_string(),
    ] {
        assert!(error.contains("You've been replaced"), "{error}");
    }
    assert_eq!(number(&gate.connect(None).await, "SELECT count(*) FROM led").await, 1);
}

#[tokio::test]
async fn every_kind_of_value_comes_back() {
    let gate = Gate::start();
    let db = gate.connect(None).await;
    let texts = ["", "a\0b", "漢字 עברית 👩‍👩‍👧", "quote ' \" \\ \u{2028}"].map(|text| Value::Text(text.into()));
    let blobs = [vec![], vec![255], (0..=255).collect(), vec![7; 70_000]].map(Value::Blob);
    let integers = [0, -1, i64::MAX, i64::MIN, 1 << 53, (1 << 53) + 1].map(Value::Integer);
    let reals = [0.1, 5e-324, f64::MAX, 2.0_f64.powi(62)].map(Value::Real);
    for value in texts.into_iter().chain(blobs).chain(integers).chain(reals).chain([Value::Null]) {
        let mut rows = db.query("SELECT ?1, ?1", [value.clone()]).await.unwrap();
        let row = rows.next().await.unwrap().unwrap();
        assert_eq!(row.get_value(1).unwrap(), value);
    }
}

#[tokio::test]
async fn prepared_statements() {
    let gate = Gate::start();
    let db = gate.connect(Some(1)).await;
    db.execute("CREATE TABLE prep (id INTEGER PRIMARY KEY, v)", ()).await.unwrap();
    let mut read = db.prepare("SELECT id, v AS label, 1 + 1 FROM prep WHERE id > :after").await.unwrap();
    let names: Vec<String> = read.columns().iter().map(|column| column.name().to_owned()).collect();
    assert_eq!(names, ["id", "label", "1 + 1"]);
    let write = db.prepare("INSERT INTO prep (v) VALUES (?) RETURNING id").await.unwrap();
    for id in 1..=3_i64 {
        let mut rows = write.query([format!("row {id}")]).await.unwrap();
        assert_eq!(rows.next().await.unwrap().unwrap().get::<i64>(0).unwrap(), id);
        assert!(rows.next().await.unwrap().is_none());
    }
    let row = read.query_row([(":after", 2)]).await.unwrap();
    assert_eq!(row.get::<String>(1).unwrap(), "row 3");
    let error = db.prepare("SELECT * FROM nowhere").await.err().unwrap().to_string();
    assert!(error.contains("no such table: nowhere"), "{error}");
}

#[tokio::test]
async fn batches() {
    let gate = Gate::start();
    let db = gate.connect(Some(1)).await;
    db.execute_batch("CREATE TABLE bat (v UNIQUE); INSERT INTO bat VALUES (1);").await.unwrap();
    let read = "SELECT count(*) FROM bat";
    db.execute_transactional_batch("INSERT INTO bat VALUES (2); INSERT INTO bat VALUES (3)").await.unwrap();
    assert_eq!(number(&db, read).await, 3);
    let half = db.execute_transactional_batch("INSERT INTO bat VALUES (4); INSERT INTO bat VALUES (1)").await;
    let error = half.err().unwrap().to_string();
    assert!(error.contains("UNIQUE constraint failed"), "{error}");
    assert_eq!(number(&db, read).await, 3, "nothing of a failed transactional batch stays");
    let script = "BEGIN; INSERT INTO bat VALUES (5); COMMIT; BEGIN; INSERT INTO bat VALUES (6); ROLLBACK;";
    db.execute_batch(script).await.unwrap();
    assert_eq!(number(&db, read).await, 4);
}

#[tokio::test]
async fn transactions_by_statement_and_by_drop() {
    let gate = Gate::start();
    let db = gate.connect(Some(1)).await;
    db.execute("CREATE TABLE tx (v UNIQUE)", ()).await.unwrap();
    db.execute("BEGIN IMMEDIATE", ()).await.unwrap();
    assert!(!db.is_autocommit());
    db.execute("INSERT INTO tx VALUES (1)", ()).await.unwrap();
    db.execute("INSERT INTO tx VALUES (1)", ()).await.unwrap_err();
    db.execute("INSERT INTO tx VALUES (2)", ()).await.unwrap();
    db.execute("COMMIT", ()).await.unwrap();
    assert!(db.is_autocommit());
    assert_eq!(number(&gate.connect(None).await, "SELECT count(*) FROM tx").await, 2);

    let dropped = db.transaction_with_behavior(TransactionBehavior::Immediate).await.unwrap();
    dropped.execute("INSERT INTO tx VALUES (3)", ()).await.unwrap();
    drop(dropped);
    // Waits for the lock until the driver has rolled back.
    gate.connect(Some(1)).await.execute("INSERT INTO tx VALUES (4)", ()).await.unwrap();
    assert_eq!(number(&gate.connect(None).await, "SELECT sum(v) FROM tx").await, 7);
}

#[tokio::test]
async fn many_connections() {
    let gate = Gate::start();
    gate.connect(Some(1)).await.execute("CREATE TABLE many (v)", ()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for v in 0..100 {
        let db = gate.connect(Some(1)).await;
        tasks.spawn(async move { db.execute("INSERT INTO many VALUES (?)", [v]).await.unwrap() });
    }
    tasks.join_all().await;
    assert_eq!(number(&gate.connect(None).await, "SELECT count(DISTINCT v) FROM many").await, 100);
}

#[tokio::test]
async fn a_claim_by_reading_refuses_the_commit() {
    let gate = Gate::start();
    let old = gate.connect(Some(5)).await;
    old.execute("CREATE TABLE led (who)", ()).await.unwrap();
    let tx = old.transaction_with_behavior(TransactionBehavior::Immediate).await.unwrap();
    tx.execute("INSERT INTO led VALUES ('old')", ()).await.unwrap();
    assert_eq!(number(&gate.connect(Some(6)).await, "SELECT count(*) FROM led").await, 0);
    let errors = [
        tx.commit().await.unwrap_err().to_string(),
        old.query("SELECT 1", ()).await.err().unwrap().to_string(),
        old.execute_transactional_batch("INSERT INTO led VALUES ('old')").await.err().unwrap().to_string(),
        old.transaction().await.err().unwrap().to_string(),
    ];
    for error in errors {
        assert!(error.contains("status=412") && error.contains("STALE_TOKEN"), "{error}");
    }
    assert_eq!(number(&gate.connect(None).await, "SELECT count(*) FROM led").await, 0);
}

#[tokio::test]
async fn a_token_belongs_to_its_first_holder() {
    let gate = Gate::start();
    let remote = |auth: &str| {
        Builder::new_remote(gate.url.clone(), auth.into()).connector(hyper::client::HttpConnector::new()).build()
    };
    // node-a and node-b
    let first = remote("fgt.7.bm9kZS1h").await.unwrap().connect().unwrap();
    assert_eq!(number(&first, "SELECT 1").await, 1);
    let second = remote("fgt.7.bm9kZS1i").await.unwrap().connect().unwrap();
    let error = second.query("SELECT 1", ()).await.err().unwrap().to_string();
    assert!(error.contains("status=409") && error.contains("TOKEN_CONFLICT"), "{error}");
    let error = remote("fgt.07").await.unwrap().connect().unwrap().query("SELECT 1", ()).await.err().unwrap().to_string();
    assert!(error.contains("status=400") && error.contains("TOKEN_MALFORMED"), "{error}");
}
