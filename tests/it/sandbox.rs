//! What no client can do, whatever token it presents: SQLite decides, through the gate's authorizer.

use serde_json::json;

use fencegate::resource::Resource;
use fencegate::resource::sqlite::Limits;

use crate::gate::{Gate, batch, code, execute, patient, result, sequence};

const SCHEMA: &str = "
    CREATE TABLE t (id INTEGER PRIMARY KEY, v);
    INSERT INTO t VALUES (1, 'a');
    CREATE VIEW marks AS SELECT * FROM fencegate_marks;
    CREATE TRIGGER meddles AFTER UPDATE ON t BEGIN UPDATE fencegate_marks SET token = 1; END;
    CREATE TRIGGER looks AFTER DELETE ON t BEGIN INSERT INTO t SELECT token, fence FROM fencegate_marks; END;
    CREATE VIRTUAL TABLE full USING fts5(body);
    CREATE VIRTUAL TABLE old USING fts4(body);
    INSERT INTO old VALUES ('a b');";

const FORBIDDEN: &[&str] = &[
    // The gate's tables.
    "SELECT * FROM fencegate_marks",
    "SELECT count(*) FROM FENCEGATE_MARKS",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM main.\"fencegate_history\")",
    "SELECT rowid FROM [fencegate_refusals]",
    "SELECT * FROM fencegate_migrations",
    "SELECT * FROM fencegate_answers",
    "WITH m AS (SELECT * FROM fencegate_marks) SELECT * FROM m",
    "SELECT * FROM marks",
    "SELECT (SELECT max(token) FROM fencegate_marks)",
    "INSERT INTO t SELECT token, fence FROM fencegate_marks",
    "INSERT INTO fencegate_marks VALUES ('app', 99, NULL, 0)",
    "INSERT OR REPLACE INTO fencegate_marks VALUES ('app', 1, NULL, 0)",
    "UPDATE fencegate_marks SET token = 1",
    "UPDATE t SET v = 2 FROM fencegate_marks",
    "UPDATE t SET v = 2 RETURNING (SELECT token FROM fencegate_marks)",
    "UPDATE t SET v = 2",
    "DELETE FROM t",
    "DELETE FROM fencegate_marks",
    "DELETE FROM fencegate_marks RETURNING *",
    "WITH m AS (SELECT 1) DELETE FROM fencegate_marks",
    "INSERT INTO t VALUES (5, 5) RETURNING (SELECT token FROM fencegate_marks)",
    "DROP TABLE fencegate_marks",
    "DROP TABLE IF EXISTS fencegate_refusals",
    "DROP INDEX fencegate_history_by_fence",
    "ALTER TABLE fencegate_marks RENAME TO mine",
    "ALTER TABLE fencegate_marks ADD COLUMN x",
    "ALTER TABLE fencegate_marks DROP COLUMN holder",
    "ALTER TABLE fencegate_marks RENAME COLUMN token TO tokens",
    "CREATE INDEX i ON fencegate_marks (token)",
    "CREATE UNIQUE INDEX i ON fencegate_history (fence)",
    "CREATE TRIGGER g BEFORE UPDATE ON fencegate_marks BEGIN SELECT RAISE(IGNORE); END",
    // Names that are the gate's.
    "CREATE TABLE fencegate_more (x)",
    "CREATE TABLE FenceGate_more AS SELECT 1",
    "CREATE VIEW fencegate_more AS SELECT 1",
    "CREATE INDEX fencegate_more ON t (v)",
    "CREATE TRIGGER fencegate_more AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE VIRTUAL TABLE fencegate_more USING fts5(x)",
    "ALTER TABLE t RENAME TO fencegate_more",
    "ALTER TABLE full RENAME TO fencegate_more",
    "SAVEPOINT fencegate_job",
    "RELEASE fencegate_tx",
    "ROLLBACK TO FENCEGATE_stmt",
    // Foreign keys that would keep marks from changing.
    "CREATE TABLE evil (x REFERENCES fencegate_marks (token))",
    "CREATE TABLE evil (x, FOREIGN KEY (x) REFERENCES FenceGate_Marks (fence) ON DELETE RESTRICT)",
    "ALTER TABLE t ADD COLUMN evil REFERENCES fencegate_marks (token)",
    // Other files.
    "ATTACH 'other.db' AS other",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "SELECT load_extension('x')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT optimize(old) FROM old",
    // What other clients of the connection would see.
    "CREATE TEMP TABLE x (y)",
    "CREATE TABLE temp.x (y)",
    "CREATE TEMP VIEW x AS SELECT 1",
    "CREATE TEMP TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
    "CREATE TEMPORARY TABLE x AS SELECT 1",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA journal_mode(MEMORY)",
    "PRAGMA main.journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA writable_schema",
    "PRAGMA locking_mode = EXCLUSIVE",
    "PRAGMA query_only = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA recursive_triggers = ON",
    "PRAGMA ignore_check_constraints = ON",
    "PRAGMA legacy_alter_table = ON",
    "PRAGMA case_sensitive_like = ON",
    "PRAGMA temp_store_directory = '/'",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "PRAGMA wal_autocheckpoint = 0",
    "PRAGMA max_page_count = 1",
    "PRAGMA cache_size = 1",
    "PRAGMA busy_timeout = 0",
    "PRAGMA schema_version = 1",
    "PRAGMA incremental_vacuum",
    "PRAGMA optimize",
    "PRAGMA encoding = 'UTF-16'",
    "PRAGMA page_size = 512",
    "PRAGMA auto_vacuum = 1",
    "PRAGMA secure_delete = ON",
    "PRAGMA mmap_size = 1",
    "PRAGMA hard_heap_limit = 1",
    "PRAGMA threads = 4",
    "PRAGMA shrink_memory",
    "PRAGMA reverse_unordered_selects = ON",
    "SELECT * FROM pragma_optimize",
    "SELECT * FROM pragma_wal_checkpoint('TRUNCATE')",
    // SQLite's own rules, which the gate's settings keep.
    "UPDATE sqlite_schema SET sql = 'x'",
    "DELETE FROM sqlite_master",
    "INSERT INTO sqlite_schema VALUES ('table', 'x', 'x', 2, 'CREATE TABLE x (y)')",
    "UPDATE full_data SET block = x'00'",
    "DROP TABLE full_content",
    "SELECT * FROM sqlite_dbpage",
    "UPDATE sqlite_dbpage SET data = x'00' WHERE pgno = 1",
    "SELECT sqlite_rename_table('main', 'table', 't', 'CREATE TABLE t (x)', 't', 'u', 0)",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "DROP TABLE sqlite_schema",
    "CREATE TABLE sqlite_x (y)",
];

#[tokio::test]
async fn what_no_token_allows() {
    for token in ["1", ""] {
        let gate = Gate::new();
        gate.script("1", SCHEMA).await;
        let before = gate.dump();
        for sql in FORBIDDEN {
            for prefix in ["", "/* c */ ", "-- c\n;"] {
                let sql = format!("{prefix}{sql}");
                assert_ne!(code(&gate.sql(token, &sql).await), "ok", "{sql} with {token:?}");
            }
            let several = vec![execute("SELECT 1"), batch(&[sql, "SELECT 1"]), sequence(&format!("SELECT 1; {sql}"))];
            if let Ok(answer) = gate.ask(token, several).await {
                assert_ne!(answer[1]["response"]["result"]["step_errors"][0], json!(null), "{sql}");
                assert_eq!(answer[2]["type"], "error", "{sql}");
            }
            // In a transaction of its own, and in one that is shared.
            for script in [format!("BEGIN; {sql}; COMMIT"), format!("SAVEPOINT s; {sql}; RELEASE s")] {
                let close = json!({"type": "close"});
                if let Ok(answer) = gate.ask(token, vec![sequence(&script), close]).await {
                    assert_eq!(answer[0]["type"], "error", "{script}");
                }
            }
        }
        assert_eq!(gate.dump(), before, "with {token:?}");
        assert_eq!(gate.db.fence("app").unwrap().highest.unwrap().get(), 1);
        // The gate is well: a new leader's mark rises, and an operator's reset lowers it.
        gate.sql("2", "INSERT INTO t VALUES (2, 'b')").await.unwrap();
        gate.db.reset(&"app".parse().unwrap(), None, "test".into()).await.unwrap();
        gate.sql("1", "INSERT INTO t VALUES (3, 'c')").await.unwrap();
    }
}

#[tokio::test]
async fn what_a_token_allows() {
    let gate = Gate::new();
    gate.script(
        "1",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE auto (id INTEGER PRIMARY KEY AUTOINCREMENT)",
    )
    .await;
    for sql in [
        "ANALYZE",
        "ANALYZE t",
        "REINDEX",
        "CREATE INDEX i ON t (v)",
        "REINDEX i",
        "DROP INDEX i",
        "PRAGMA user_version = 7",
        "PRAGMA application_id = 8",
        "ALTER TABLE t RENAME TO u",
        "ALTER TABLE u ADD COLUMN w",
        "ALTER TABLE u RENAME COLUMN w TO x",
        "ALTER TABLE u DROP COLUMN x",
        "CREATE VIEW w AS SELECT * FROM u",
        "DROP VIEW w",
        "CREATE TABLE x AS SELECT 1 AS y",
        "DROP TABLE x",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
        "INSERT INTO f VALUES ('a')",
        "INSERT INTO f(f) VALUES ('optimize')",
        "DROP TABLE f",
        "CREATE VIRTUAL TABLE r USING rtree(id, a, b)",
        "INSERT INTO r VALUES (1, 2, 3)",
        "INSERT INTO auto DEFAULT VALUES",
        "DELETE FROM sqlite_sequence",
        "CREATE TABLE child (p REFERENCES u (id), x REFERENCES later (y))",
        "DROP TABLE child",
        "DROP TABLE auto",
        "CREATE TABLE self (id INTEGER PRIMARY KEY, p REFERENCES self)",
        "INSERT INTO self VALUES (1, 1)",
    ] {
        let answer = gate.sql("1", sql).await;
        assert_eq!(code(&answer), "ok", "{sql}: {answer:?}");
    }
    assert_eq!(gate.column("PRAGMA user_version").await, ["7"]);
    assert_eq!(gate.column("PRAGMA application_id").await, ["8"]);
}

#[tokio::test]
async fn transactions_in_odd_places() {
    let gate = Gate::new();
    gate.script("1", "CREATE TABLE t (v)").await;
    let ask = async |sql: &str| {
        code(&result(&gate.ask("1", vec![sequence(sql), json!({"type": "close"})]).await.unwrap()[0])).to_owned()
    };
    for (script, expected, rows) in [
        ("BEGIN; INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2)", "ok", 2),
        ("INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2)", "SQLITE_ERROR", 1),
        ("INSERT INTO t VALUES (1); /* c */ END TRANSACTION", "SQLITE_ERROR", 1),
        ("INSERT INTO t VALUES (1); -- c\nROLLBACK", "SQLITE_ERROR", 1),
        ("INSERT INTO t VALUES (1); RELEASE s", "SQLITE_ERROR", 1),
        ("INSERT INTO t VALUES (1); ROLLBACK TO s", "SQLITE_ERROR", 1),
        ("INSERT INTO t VALUES (1); EXPLAIN COMMIT; EXPLAIN ROLLBACK; INSERT INTO t VALUES (2)", "ok", 2),
        ("BEGIN; INSERT INTO t VALUES (1); BEGIN; COMMIT", "SQLITE_ERROR", 0),
        ("BEGIN; INSERT INTO t VALUES (1)", "ok", 0),
        ("/**/ BEGIN IMMEDIATE; INSERT INTO t VALUES (1); /**/ COMMIT", "ok", 1),
        ("BEGIN EXCLUSIVE; INSERT INTO t VALUES (1); END", "ok", 1),
        (
            "SAVEPOINT a; INSERT INTO t VALUES (1); SAVEPOINT b; INSERT INTO t VALUES (2); ROLLBACK TO b; RELEASE a",
            "ok",
            1,
        ),
        ("SAVEPOINT a; INSERT INTO t VALUES (1); COMMIT; INSERT INTO t VALUES (2)", "ok", 2),
        ("BEGIN; INSERT INTO t VALUES (1); ROLLBACK; BEGIN; INSERT INTO t VALUES (2); COMMIT", "ok", 1),
        ("BEGIN; SAVEPOINT a; INSERT INTO t VALUES (1); ROLLBACK TRANSACTION TO SAVEPOINT a; END", "ok", 0),
    ] {
        assert_eq!(ask(script).await, expected, "{script}");
        assert_eq!(gate.column("SELECT count(*) FROM t").await, [rows.to_string()], "{script}");
        gate.sql("1", "DELETE FROM t").await.unwrap();
        let steps: Vec<&str> = script.split("; ").collect();
        if expected == "ok" {
            let answer = gate.ask("1", vec![batch(&steps), json!({"type": "close"})]).await.unwrap();
            let errors = answer[0]["response"]["result"]["step_errors"].as_array().unwrap().clone();
            assert!(errors.iter().all(serde_json::Value::is_null), "{script}: {errors:?}");
            assert_eq!(gate.column("SELECT count(*) FROM t").await, [rows.to_string()], "{script}");
            gate.sql("1", "DELETE FROM t").await.unwrap();
        }
    }
    for sql in ["COMMIT", " /* c */ COMMIT", "-- c\nEND", "ROLLBACK", "RELEASE x"] {
        assert_eq!(code(&gate.sql("1", sql).await), "SQLITE_ERROR", "{sql}");
        assert_eq!(code(&gate.sql("", sql).await), "SQLITE_ERROR", "{sql}");
    }
    for sql in ["EXPLAIN COMMIT", "EXPLAIN ROLLBACK", "EXPLAIN BEGIN IMMEDIATE", "EXPLAIN SAVEPOINT s"] {
        assert_eq!(code(&gate.sql("", sql).await), "ok", "{sql}");
        assert_eq!(code(&gate.sql("1", sql).await), "ok", "{sql}");
    }
}

/// SQLite itself doesn't notice: what it would show of a plan made before may point into memory that was given back.
#[tokio::test]
async fn explain_tells_of_the_schema_as_it_is() {
    let gate = Gate::new();
    gate.script("1", "CREATE TABLE t (a, b)").await;
    for (change, least) in [
        ("CREATE INDEX by_a ON t (a)", "by_a"),
        ("DROP INDEX by_a; CREATE INDEX with_b ON t (a, b)", "with_b"),
        ("ALTER TABLE t RENAME TO old; CREATE TABLE t (b, a); CREATE INDEX anew ON t (a)", "anew"),
    ] {
        gate.script("1", change).await;
        // More often than there are connections for reading.
        for _ in 0..20 {
            let plan = gate.sql("", "EXPLAIN QUERY PLAN SELECT a FROM t WHERE a = 1").await.unwrap().to_string();
            assert!(plan.contains(least), "after {change}: {plan}");
            assert_eq!(code(&gate.sql("", "EXPLAIN INSERT INTO t SELECT * FROM t").await), "ok");
        }
    }
}

/// SQLite stops reading at a NUL: what follows would be left out, and the script called done.
#[tokio::test]
async fn no_text_has_a_hidden_end() {
    let gate = Gate::new();
    gate.script("1", "CREATE TABLE t (v)").await;
    let script = "INSERT INTO t VALUES (1);\0INSERT INTO t VALUES (2)";
    let stored = json!({"type": "store_sql", "sql_id": 1, "sql": script});
    for requests in [
        vec![sequence(script)],
        vec![execute(script)],
        vec![batch(&[script])],
        vec![json!({"type": "describe", "sql": script})],
        vec![stored, json!({"type": "sequence", "sql_id": 1})],
    ] {
        let answer = gate.ask("1", requests.clone()).await.unwrap();
        let text = answer.last().unwrap().to_string();
        assert!(text.contains("NUL"), "{requests:?}: {text}");
    }
    assert_eq!(gate.column("SELECT count(*) FROM t").await, ["0"]);
}

#[tokio::test]
async fn statements_that_no_stack_or_memory_would_hold() {
    let gate = Gate::with(&[], Limits { statement_time: std::time::Duration::from_millis(300), ..patient() });
    gate.script("1", "CREATE TABLE t (v)").await;
    let union = vec!["SELECT 1"; 5000].join(" UNION ALL ");
    let sum = format!("SELECT {}", vec!["1"; 5000].join("+"));
    let nested = format!("SELECT {}1{}", "abs(".repeat(2000), ")".repeat(2000));
    let from = format!("SELECT * FROM {}", vec!["t"; 200].join(","));
    let views = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT max(n) FROM c";
    let cross = "SELECT count(*) FROM json_each(json_array(1,2,3,4,5,6,7,8,9)) a, generate_series(1, 10)";
    let glob = "SELECT replace(hex(zeroblob(8000000)), '0', hex(zeroblob(1000)))";
    for sql in [
        union.as_str(),
        &sum,
        &nested,
        &from,
        views,
        cross,
        glob,
        "SELECT 'a' LIKE '%' || hex(zeroblob(600))",
        "SELECT 'a' GLOB '*' || hex(zeroblob(600))",
        "SELECT printf('%99999999d', 1)",
        "SELECT zeroblob(2147483647)",
        "SELECT randomblob(1000000000)",
        "INSERT INTO t VALUES (zeroblob(99999999))",
    ] {
        let answer = gate.sql("1", sql).await;
        assert_ne!(code(&answer), "ok", "{}", &sql[..sql.len().min(60)]);
        assert_ne!(code(&answer), "UNAVAILABLE", "{}", &sql[..sql.len().min(60)]);
    }
    assert_eq!(code(&gate.sql("1", "INSERT INTO t VALUES (1)").await), "ok");
}
