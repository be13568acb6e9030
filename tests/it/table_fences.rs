//! Tables with a fence of their own: what they need a token for is what SQLite says is written.

use std::sync::Arc;

use serde_json::json;

use fencegate::resource::Resource;

use crate::gate::{Gate, batch, code, execute, patient, refusal, sequence};

const BOTH: &str = "app=1, jobs=1, billing=1";

async fn gate() -> Arc<Gate> {
    let tables = [("job", "jobs"), ("job_*", "jobs"), ("invoice*", "billing")];
    let gate = Gate::with(&tables, patient());
    gate.script(BOTH, "
        CREATE TABLE t (id INTEGER PRIMARY KEY, v UNIQUE);
        CREATE TABLE parent (id INTEGER PRIMARY KEY, v);
        CREATE TABLE job (id INTEGER PRIMARY KEY, v UNIQUE, t REFERENCES t (id) ON DELETE CASCADE);
        CREATE TABLE invoice_line (id INTEGER PRIMARY KEY, p REFERENCES parent (id) ON DELETE SET NULL ON UPDATE CASCADE);
        CREATE TABLE job_auto (id INTEGER PRIMARY KEY AUTOINCREMENT);
        INSERT INTO job_auto DEFAULT VALUES; ANALYZE;
        CREATE VIEW jobs_view AS SELECT * FROM job;
        CREATE TRIGGER into_job INSTEAD OF INSERT ON jobs_view BEGIN INSERT INTO job (v) VALUES (new.v); END;
        CREATE TRIGGER copies AFTER UPDATE ON t BEGIN INSERT INTO job (v) VALUES (new.v); END;
        CREATE VIRTUAL TABLE job_text USING fts5(body);
        INSERT INTO t VALUES (1, 'a'), (2, 'b');
        INSERT INTO parent VALUES (1, 'a'), (2, 'b');
        INSERT INTO job (v, t) VALUES ('x', 1);
        INSERT INTO invoice_line (p) VALUES (1);
        INSERT INTO job_text VALUES ('hello')").await;
    gate
}

#[tokio::test]
async fn each_write_needs_every_fence_that_it_touches() {
    let gate = gate().await;
    for (sql, fences) in [
        ("INSERT INTO t (v) VALUES ('n')", "app"),
        ("INSERT INTO job (v) VALUES ('n')", "jobs"),
        ("insert into JOB (v) values ('n')", "jobs"),
        ("INSERT INTO main.[job] (v) VALUES ('n')", "jobs"),
        ("INSERT INTO job (v) SELECT v || 'z' FROM t", "jobs"),
        ("INSERT INTO Invoice_Line DEFAULT VALUES", "billing"),
        ("REPLACE INTO job (id, v) VALUES (1, 'n')", "jobs"),
        ("INSERT INTO job (id, v) VALUES (1, 'n') ON CONFLICT DO UPDATE SET v = 'm'", "jobs"),
        ("UPDATE job SET v = 'n' RETURNING id", "jobs"),
        // A trigger, a view with its trigger, foreign-key actions, a conflict that deletes.
        ("UPDATE t SET v = v || 'n'", "app, jobs"),
        ("INSERT INTO t VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET v = 'q'", "app, jobs"),
        ("INSERT INTO jobs_view (v) VALUES ('n')", "app, jobs"),
        ("DELETE FROM t", "app, jobs"),
        ("REPLACE INTO t VALUES (1, 'n')", "app, jobs"),
        ("DELETE FROM parent", "app, billing"),
        ("UPDATE parent SET id = id + 10", "app, billing"),
        ("REPLACE INTO parent VALUES (1, 'n')", "app, billing"),
        ("DROP TABLE parent", "app, billing"),
        ("DELETE FROM job", "jobs"),
        ("DROP TABLE job", "jobs"),
        ("CREATE TABLE job_more (x)", "jobs"),
        ("CREATE TABLE invoices AS SELECT * FROM t", "billing"),
        ("CREATE TABLE plain AS SELECT * FROM job", "app"),
        ("CREATE INDEX job_i ON t (v)", "app"),
        ("CREATE INDEX i ON job (v)", "jobs"),
        ("CREATE VIEW invoice_view AS SELECT 1", "billing"),
        ("CREATE TRIGGER g AFTER INSERT ON job BEGIN DELETE FROM t; END", "jobs"),
        ("DROP TRIGGER copies", "app"),
        ("ALTER TABLE job ADD COLUMN w", "jobs"),
        ("ALTER TABLE job RENAME TO other", "app, jobs"),
        ("ALTER TABLE job RENAME TO job_b", "jobs"),
        ("ALTER TABLE parent RENAME TO job_b", "app, jobs"),
        ("ALTER TABLE parent RENAME TO invoice", "app, billing"),
        ("ALTER TABLE job RENAME TO invoice", "jobs, billing"),
        ("INSERT INTO job_text VALUES ('more')", "jobs"),
        ("INSERT INTO job_text(job_text) VALUES ('rebuild')", "jobs"),
        ("CREATE VIRTUAL TABLE job_words USING fts5(x)", "jobs"),
        ("CREATE VIRTUAL TABLE job USING rtree(id, a, b)", "none"),
        ("DROP TABLE job_text", "jobs"),
        ("PRAGMA user_version = 5", "app"),
        ("REINDEX", "app, jobs, billing"),
        ("DROP TABLE job_auto", "jobs"),
        ("ALTER TABLE job_auto RENAME TO job_auto2", "jobs"),
        ("INSERT INTO job_auto DEFAULT VALUES", "jobs"),
        ("UPDATE sqlite_sequence SET seq = 90", "app, jobs, billing"),
    ] {
        let all = ["app", "jobs", "billing"];
        for held in 0..8_usize {
            let tokens: Vec<String> =
                (0..3).filter(|bit| held & (1 << bit) != 0).map(|bit| format!("{}=1", all[bit])).collect();
            let is_enough = fences.split(", ").all(|fence| tokens.contains(&format!("{fence}=1")));
            let tokens = tokens.join(", ");
            let undone = vec![execute("BEGIN"), execute(sql), execute("ROLLBACK"), json!({"type": "close"})];
            let before = gate.dump();
            for requests in [vec![execute("SELECT 1"), batch(&["SELECT 1", sql]), execute("nonsense")], undone] {
                if is_enough && requests.len() == 3 || fences == "none" {
                    continue;
                }
                let answer = gate.ask(&tokens, requests).await;
                let expected = if is_enough { "ok" } else { "TOKEN_REQUIRED" };
                assert_eq!(refusal(&answer), expected, "{sql} with {tokens:?}: {answer:?}");
                if let Ok(answer) = answer {
                    assert_eq!(answer[1]["type"], "ok", "{sql} with {tokens:?}: {}", answer[1]);
                }
            }
            assert_eq!(gate.dump(), before, "{sql} with {tokens:?}");
        }
    }
}

#[tokio::test]
async fn a_bare_token_speaks_for_no_table() {
    let gate = gate().await;
    assert_eq!(code(&gate.sql("9", "INSERT INTO job (v) VALUES (1)").await), "TOKEN_REQUIRED");
    assert_eq!(code(&gate.sql("9", "INSERT INTO t (v) VALUES (1)").await), "ok");
    assert_eq!(gate.db.fence("jobs").unwrap().highest.unwrap().get(), 1);
    assert_eq!(gate.db.fence("app").unwrap().highest.unwrap().get(), 9);
    assert_eq!(code(&gate.sql("shop=1", "SELECT 1").await), "WRONG_FENCE");
    assert_eq!(code(&gate.sql("jobs=1, shop=1", "SELECT 1").await), "WRONG_FENCE");
    assert!(gate.db.fence("shop").is_none());
}

#[tokio::test]
async fn one_stale_token_refuses_all() {
    let gate = gate().await;
    gate.sql("jobs=5", "SELECT 1").await.unwrap();
    let before = gate.dump();
    let answer = gate.sql("app=7, jobs=4", "INSERT INTO t (v) VALUES (1)").await;
    assert_eq!(code(&answer), "STALE_TOKEN");
    assert_eq!(gate.db.fence("app").unwrap().highest.unwrap().get(), 1, "no other mark has risen");
    let scripts = sequence("INSERT INTO t (v) VALUES (5); INSERT INTO job (v) VALUES (5)");
    assert_eq!(refusal(&gate.ask("app=1", vec![scripts.clone()]).await), "TOKEN_REQUIRED");
    assert_eq!(gate.dump(), before, "the first half is undone with the second");
    assert_eq!(refusal(&gate.ask("app=1, jobs=5", vec![scripts]).await), "ok");
    assert_eq!(gate.column("SELECT count(*) FROM t, job WHERE t.v = 5 AND job.v = 5").await, ["1"]);
}

#[tokio::test]
async fn a_trigger_that_came_after_the_statement_was_cached() {
    let gate = gate().await;
    let insert = "INSERT INTO parent (v) VALUES ('n')";
    for _ in 0..3 {
        gate.sql("app=1", insert).await.unwrap();
    }
    let mut inside = gate.client("app=1");
    inside.sql("BEGIN IMMEDIATE").await.unwrap();
    inside.sql(insert).await.unwrap();
    inside.sql("COMMIT").await.unwrap();
    let trigger = "CREATE TRIGGER late AFTER INSERT ON parent BEGIN INSERT INTO job (v) VALUES (new.id); END";
    gate.sql("app=1", trigger).await.unwrap();
    let before = gate.dump();
    assert_eq!(code(&gate.sql("app=1", insert).await), "TOKEN_REQUIRED");
    let innocents = [gate.sql("app=1", "INSERT INTO parent (id) VALUES (70)"), gate.sql("app=1", insert)];
    for answer in innocents {
        assert_eq!(code(&answer.await), "TOKEN_REQUIRED");
    }
    inside.sql("BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(code(&inside.sql(insert).await), "TOKEN_REQUIRED");
    assert_eq!(gate.dump(), before);
    // Once somebody who may has run it as it is now, it still needs both.
    let mut both = gate.client("app=1, jobs=1");
    both.sql("BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(code(&both.sql(insert).await), "ok");
    both.sql("COMMIT").await.unwrap();
    assert_eq!(code(&gate.sql("app=1, jobs=1", insert).await), "ok");
    let before = gate.dump();
    for _ in 0..2 {
        assert_eq!(code(&gate.sql("app=1", insert).await), "TOKEN_REQUIRED");
        inside.sql("BEGIN IMMEDIATE").await.unwrap();
        assert_eq!(code(&inside.sql(insert).await), "TOKEN_REQUIRED");
    }
    assert_eq!(gate.dump(), before);
    gate.sql("app=1", "DROP TRIGGER late").await.unwrap();
    assert_eq!(code(&gate.sql("app=1", insert).await), "ok");
}

/// DROP TABLE deletes what SQLite keeps about the table, and, through foreign keys, sets off triggers that delete more.
#[tokio::test]
async fn a_trigger_that_a_dropped_table_sets_off() {
    let gate = gate().await;
    gate.script("app=1", "CREATE TABLE child (p REFERENCES parent ON DELETE CASCADE); INSERT INTO child VALUES (2)")
        .await;
    gate.sql("billing=1", "DROP TABLE invoice_line").await.unwrap();
    let trigger = "CREATE TRIGGER x AFTER DELETE ON child BEGIN DELETE FROM sqlite_sequence; END";
    gate.sql("app=1", trigger).await.unwrap();
    let before = gate.dump();
    assert_eq!(code(&gate.sql("app=1", "DROP TABLE parent").await), "TOKEN_REQUIRED");
    assert_eq!(gate.dump(), before);
    gate.sql(BOTH, "DROP TABLE parent").await.unwrap();
}

/// A virtual table writes its rows by statements that SQLite asks about only once: nothing may carry them on to another fence.
#[tokio::test]
async fn what_a_virtual_table_writes_stays_in_its_fence() {
    let gate = Gate::with(&[("docs*", "docs"), ("page", "pages")], patient());
    let all = "app=1, docs=1, pages=1";
    gate.script(all, "CREATE TABLE early (x REFERENCES docs_later_content ON DELETE CASCADE)").await;
    gate.script(all, "CREATE VIRTUAL TABLE docs USING fts5(body); CREATE VIRTUAL TABLE d USING fts5(body)").await;
    let before = gate.dump();
    for sql in [
        "CREATE TABLE evil (x REFERENCES docs_content (id) ON DELETE CASCADE)",
        "CREATE TABLE evil (x, FOREIGN KEY (x) REFERENCES DOCS_DATA (id) ON UPDATE SET NULL)",
        "ALTER TABLE early ADD COLUMN y REFERENCES d_docsize (id)",
        "CREATE VIRTUAL TABLE docs_later USING fts5(body)",
        "ALTER TABLE d RENAME TO docs_later",
        "CREATE VIRTUAL TABLE page USING fts5(body)",
        "ALTER TABLE d RENAME TO page",
    ] {
        assert_eq!(code(&gate.sql(all, sql).await), "SQLITE_AUTH", "{sql}");
    }
    assert_eq!(gate.dump(), before);
    gate.sql(all, "ALTER TABLE d RENAME TO docs_two").await.unwrap();
    gate.sql("docs=1", "INSERT INTO docs_two VALUES ('one')").await.unwrap();
}

/// fts5 writes what it has pending when the next savepoint begins, be that inside another client's statement.
#[tokio::test]
async fn what_a_full_text_table_has_pending_is_its_writers() {
    let gate = gate().await;
    let mut crowd = tokio::task::JoinSet::new();
    for n in 0..40 {
        let gate = Arc::clone(&gate);
        crowd.spawn(async move {
            match n % 2 {
                0 => gate.sql("jobs=1", &format!("INSERT INTO job_text VALUES ('word{n}')")).await,
                _ => gate.sql("app=1", &format!("INSERT INTO t (v) VALUES ('m{n}'), ('n{n}')")).await,
            }
        });
    }
    while let Some(answer) = crowd.join_next().await {
        answer.unwrap().unwrap();
    }
    assert_eq!(gate.column("SELECT count(*) FROM job_text WHERE job_text MATCH 'word*'").await, ["20"]);
    let check = gate.sql("jobs=1", "INSERT INTO job_text(job_text) VALUES ('integrity-check')").await;
    assert_eq!(code(&check), "ok");
}

#[tokio::test]
async fn what_was_applied_is_not_called_refused() {
    let gate = gate().await;
    // The setting makes the request run by itself, each statement in a transaction of its own.
    let requests = vec![
        execute("PRAGMA foreign_keys = OFF"),
        execute("INSERT INTO t VALUES (50, 'kept')"),
        execute("INSERT INTO job (v) VALUES ('refused')"),
        json!({"type": "close"}),
    ];
    let answer = gate.ask("app=1", requests).await.unwrap();
    assert_eq!(answer[1]["type"], "ok");
    assert_eq!(answer[2]["error"]["code"], "TOKEN_REQUIRED");
    assert_eq!(gate.column("SELECT v FROM t WHERE id = 50").await, ["kept"]);
    assert_eq!(gate.column("SELECT count(*) FROM job WHERE v = 'refused'").await, ["0"]);
}
