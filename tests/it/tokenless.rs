//! Writes without a token, in every guise: refused, and nothing has changed.

use serde_json::{Value, json};

use crate::gate::{Gate, batch, code, execute, refusal, sequence};

const SCHEMA: &str = "
    CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE);
    INSERT INTO t VALUES (1, 'a');
    CREATE INDEX i ON t (v);
    CREATE VIEW w AS SELECT * FROM t;
    CREATE TRIGGER instead INSTEAD OF INSERT ON w BEGIN INSERT INTO t VALUES (new.id, new.v); END;
    CREATE VIRTUAL TABLE f USING fts5(body);
    CREATE VIRTUAL TABLE g USING fts4(body);
    CREATE VIRTUAL TABLE r USING rtree(id, a, b);
    INSERT INTO f VALUES ('a b');
    INSERT INTO g VALUES ('a b');";

const WRITES: &[&str] = &[
    "INSERT INTO t VALUES (2, 'b')",
    "INSERT INTO t DEFAULT VALUES",
    "REPLACE INTO t VALUES (1, 'b')",
    "INSERT OR IGNORE INTO t VALUES (1, 'a')",
    "INSERT INTO t VALUES (1, 'x') ON CONFLICT DO NOTHING",
    "INSERT INTO t VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET v = 'x'",
    "WITH x(y) AS (SELECT 5) INSERT INTO t SELECT y, y FROM x",
    "WITH x(y) AS (SELECT 5) UPDATE t SET v = (SELECT y FROM x)",
    "WITH x(y) AS (SELECT 1) DELETE FROM t WHERE id IN (SELECT y FROM x)",
    "INSERT INTO t VALUES (2, 'b') RETURNING *",
    "UPDATE t SET v = 'b' RETURNING id",
    "DELETE FROM t RETURNING id",
    "UPDATE t SET v = v WHERE 0",
    "DELETE FROM t",
    "INSERT INTO w VALUES (2, 'b')",
    "CREATE TABLE u (x)",
    "CREATE TABLE IF NOT EXISTS t (x)",
    "CREATE TABLE u AS SELECT 1",
    "DROP TABLE t",
    "DROP TABLE IF EXISTS t",
    "CREATE INDEX j ON t (v)",
    "DROP INDEX i",
    "CREATE VIEW x AS SELECT 1",
    "DROP VIEW w",
    "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; END",
    "DROP TRIGGER instead",
    "ALTER TABLE t RENAME TO u",
    "ALTER TABLE t ADD COLUMN x",
    "ALTER TABLE t RENAME COLUMN v TO x",
    "PRAGMA user_version = 5",
    "PRAGMA user_version(5)",
    "PRAGMA main.application_id = 5",
    "REINDEX",
    "REINDEX i",
    "ANALYZE",
    "ANALYZE t",
    "INSERT INTO f VALUES ('c')",
    "DELETE FROM f",
    "INSERT INTO f(f) VALUES ('optimize')",
    "INSERT INTO g(g) VALUES ('optimize')",
    "INSERT INTO g VALUES ('c')",
    "INSERT INTO r VALUES (1, 2, 3)",
    "CREATE VIRTUAL TABLE h USING fts5(x)",
    "DROP TABLE f",
    "VACUUM",
];

#[tokio::test]
async fn every_write_needs_a_token() {
    let gate = Gate::new();
    gate.script("1", SCHEMA).await;
    let before = gate.dump();
    let close = || json!({"type": "close"});
    for sql in WRITES {
        let begun =
            |begin: &str| vec![execute(begin), execute("SELECT * FROM t, f"), execute(sql), execute("COMMIT"), close()];
        let guises: Vec<Vec<Value>> = vec![
            vec![execute(sql)],
            vec![execute(&format!("/* SELECT */ {sql}"))],
            vec![execute("SELECT 1"), execute(sql)],
            vec![batch(&["SELECT 1", sql])],
            vec![sequence(sql)],
            vec![sequence(&format!("SELECT 1; {sql}; SELECT 2"))],
            vec![sequence(&format!("BEGIN; {sql}; COMMIT")), close()],
            vec![
                json!({"type": "store_sql", "sql_id": 1, "sql": sql}),
                json!({"type": "execute", "stmt": {"sql_id": 1}}),
            ],
            vec![json!({"type": "execute", "stmt": {"sql": sql, "want_rows": false}})],
            begun("BEGIN"),
            begun("BEGIN DEFERRED TRANSACTION"),
            begun("SAVEPOINT s"),
        ];
        for requests in guises {
            let answer = gate.ask("", requests.clone()).await;
            assert_eq!(refusal(&answer), "TOKEN_REQUIRED", "{requests:?}: {answer:?}");
            assert_eq!(answer.unwrap_err().kind.row().status, 428);
        }
        for begin in ["BEGIN TRANSACTION READONLY", "begin readonly;", "BEGIN READONLY"] {
            for token in ["", "1"] {
                let readonly = gate.ask(token, begun(begin)).await.unwrap();
                assert_eq!(readonly[2]["error"]["code"], "SQLITE_READONLY", "{sql} with {token:?}");
                assert_eq!(readonly[3]["type"], "ok");
            }
        }
    }
    for begin in ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "/**/begin immediate"] {
        assert_eq!(refusal(&gate.ask("", vec![execute(begin)]).await), "TOKEN_REQUIRED", "{begin}");
    }
    assert_eq!(gate.dump(), before);
    assert_eq!(gate.gauge("transactions"), 0.0);
}

#[tokio::test]
async fn a_token_comes_too_late_for_a_transaction_that_began_without() {
    let gate = Gate::new();
    gate.script("1", SCHEMA).await;
    let before = gate.dump();
    for begin in ["BEGIN", "SAVEPOINT s"] {
        let mut client = gate.client("");
        client.sql(begin).await.unwrap();
        client.sql("SELECT * FROM t").await.unwrap();
        client.token = "1".into();
        assert_eq!(code(&client.sql("INSERT INTO t VALUES (2, 'b')").await), "TOKEN_REQUIRED");
        assert_eq!(gate.dump(), before);
    }
    gate.until_gauge("transactions", 0.0).await;
}

/// fts3's optimize() writes from within a SELECT, by statements that the table has kept from an earlier write on the connection.
#[tokio::test]
async fn a_connection_that_wrote_for_another() {
    let gate = Gate::new();
    gate.script("1", SCHEMA).await;
    for word in ["c", "d", "e"] {
        gate.ask("1", vec![sequence(&format!("SAVEPOINT s; INSERT INTO g VALUES ('{word}'); RELEASE s"))])
            .await
            .unwrap();
    }
    let before = gate.dump();
    let requests = vec![
        execute("BEGIN"),
        execute("SELECT optimize(g) FROM g LIMIT 1"),
        execute("COMMIT"),
        json!({"type": "close"}),
    ];
    let answer = gate.ask("", requests).await.unwrap();
    assert_eq!(answer[1]["error"]["code"], "SQLITE_AUTH");
    assert_eq!(gate.dump(), before);
}

#[tokio::test]
async fn reads_need_none() {
    let gate = Gate::new();
    gate.script("1", SCHEMA).await;
    let before = gate.dump();
    for sql in [
        "SELECT 1",
        "VALUES (1)",
        "WITH x AS (SELECT 1) SELECT * FROM x",
        "SELECT * FROM w",
        "SELECT * FROM f('a')",
        "SELECT body FROM g WHERE g MATCH 'a'",
        "SELECT highlight(f, 0, '<', '>') FROM f",
        "SELECT * FROM r",
        "EXPLAIN INSERT INTO t VALUES (2, 'b')",
        "EXPLAIN QUERY PLAN DELETE FROM t",
        "EXPLAIN DROP TABLE t",
        "EXPLAIN PRAGMA user_version = 5",
        "PRAGMA user_version",
        "PRAGMA table_info(t)",
        "PRAGMA temp.table_info(t)",
        "PRAGMA read_uncommitted",
        "PRAGMA table_list",
        "PRAGMA index_list(t)",
        "SELECT * FROM pragma_table_info('t')",
        "SELECT * FROM pragma_foreign_key_list('t')",
        "PRAGMA journal_mode",
        "PRAGMA integrity_check",
        "PRAGMA quick_check(1)",
        "PRAGMA foreign_key_check",
        "PRAGMA foreign_keys",
        "PRAGMA database_list",
        "PRAGMA page_count",
        "PRAGMA synchronous",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA defer_foreign_keys = ON",
        "SELECT * FROM sqlite_schema",
        "SELECT name FROM sqlite_master",
        "SELECT * FROM dbstat",
        "SELECT last_insert_rowid()",
        "SELECT changes(), total_changes()",
        "SELECT * FROM json_each('[1]')",
        "SELECT sqlite_version()",
    ] {
        for token in ["", "1"] {
            let answer = gate.sql(token, sql).await;
            assert_eq!(code(&answer), "ok", "{sql} with {token:?}: {answer:?}");
        }
        let inside = vec![execute("BEGIN"), execute(sql), execute("COMMIT"), json!({"type": "close"})];
        let answer = gate.ask("", inside).await.unwrap();
        assert!(answer.iter().all(|answer| answer["type"] == "ok"), "{sql}: {answer:?}");
    }
    assert_eq!(gate.dump(), before);
}
