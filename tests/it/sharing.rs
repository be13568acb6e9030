//! What one client does in the transaction that many share never shows at another.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use fencegate::problem::Problem;
use fencegate::resource::Resource;
use fencegate::resource::sqlite::Limits;

use crate::gate::{Gate, batch, code, execute, patient, result, sequence};

const SCHEMA: &str = "
    CREATE TABLE innocent (n INTEGER PRIMARY KEY, half TEXT);
    CREATE TABLE t (id INTEGER PRIMARY KEY, u UNIQUE);
    INSERT INTO t VALUES (1, 'one');
    CREATE TABLE parent (id INTEGER PRIMARY KEY);
    CREATE TABLE child (id INTEGER PRIMARY KEY, u UNIQUE,
        p REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED, q REFERENCES parent (id));
    CREATE TRIGGER raise_rollback BEFORE INSERT ON t WHEN new.u = 'rollback' BEGIN SELECT RAISE(ROLLBACK, 'no'); END;
    CREATE TRIGGER raise_abort BEFORE INSERT ON t WHEN new.u = 'abort' BEGIN SELECT RAISE(ABORT, 'no'); END;
    CREATE TRIGGER raise_fail BEFORE INSERT ON t WHEN new.u = 'fail' BEGIN SELECT RAISE(FAIL, 'no'); END;
    CREATE VIRTUAL TABLE f USING fts5(body, content='t', content_rowid='id');";

const SLOW: &str = "INSERT INTO t SELECT n + 10, 'slow' || n FROM
    (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 3000000) SELECT max(n) AS n FROM c)";

/// How many innocent clients there are on each side of a culprit.
const CROWD: i64 = 30;

async fn innocent(gate: Arc<Gate>, n: i64) -> Result<Vec<Value>, Problem> {
    if n % 2 == 0 {
        return gate.ask("1", vec![execute(&format!("INSERT INTO innocent VALUES ({n}, 'a')"))]).await;
    }
    let half = format!("INSERT INTO innocent VALUES ({n}, 'a')");
    let other = format!("UPDATE innocent SET half = half || 'b' WHERE n = {n}");
    gate.ask("1", vec![execute("BEGIN"), execute(&half), execute(&other), execute("COMMIT")]).await
}

/// Runs the culprit's requests in the midst of innocent clients, and checks that those are all well.
async fn among_innocents(gate: &Arc<Gate>, culprit: Vec<Value>) -> Result<Vec<Value>, Problem> {
    let mut crowd = JoinSet::new();
    let start = gate.column("SELECT count(*) FROM innocent").await[0].parse::<i64>().unwrap();
    for n in start..start + CROWD {
        crowd.spawn(innocent(Arc::clone(gate), n));
    }
    let theirs = Arc::clone(gate);
    let answer = tokio::spawn(async move { theirs.ask("1", culprit).await });
    for n in start + CROWD..start + 2 * CROWD {
        crowd.spawn(innocent(Arc::clone(gate), n));
    }
    while let Some(done) = crowd.join_next().await {
        for answer in done.unwrap().expect("no innocent client is refused") {
            assert_eq!(answer["type"], "ok", "{answer}");
        }
    }
    let good = "SELECT count(*) FROM innocent WHERE half = iif(n % 2, 'ab', 'a')";
    assert_eq!(gate.column(good).await, [(start + 2 * CROWD).to_string()]);
    answer.await.unwrap()
}

/// What SQLite itself does with these statements: `ok` or the error's text for each, and the database after them.
fn by_itself(sqls: &[&str]) -> (Vec<String>, String) {
    let conn = rusqlite::Connection::open_in_memory().unwrap();
    conn.execute_batch(SCHEMA).unwrap();
    let run = |sql: &&str| -> rusqlite::Result<()> {
        let mut stmt = conn.prepare(sql)?;
        let mut rows = stmt.query([])?;
        while rows.next()?.is_some() {}
        Ok(())
    };
    let told = |sql| match run(sql) {
        Ok(()) => "ok".to_owned(),
        Err(rusqlite::Error::SqliteFailure(_, Some(message))) => message,
        Err(rusqlite::Error::SqlInputError { msg, .. }) => msg,
        Err(other) => panic!("{other}"),
    };
    let answers = sqls.iter().map(told).collect();
    if !conn.is_autocommit() {
        conn.execute_batch("ROLLBACK").unwrap();
    }
    (answers, contents(&conn))
}

fn contents(conn: &rusqlite::Connection) -> String {
    [
        "SELECT group_concat(id || '=' || u, ',' ORDER BY id) FROM t",
        "SELECT count(*) FROM f_docsize",
        "SELECT group_concat(id || '=' || u || '>' || coalesce(p, q), ',' ORDER BY id) FROM child",
    ]
    .map(|sql| conn.query_row(sql, [], |row| row.get::<_, Option<rusqlite::types::Value>>(0)).unwrap())
    .iter()
    .map(|value| format!("{value:?}\n"))
    .collect()
}

#[tokio::test]
async fn a_culprit_gets_what_sqlite_gives_and_nobody_else_anything() {
    let cases: &[&[&str]] = &[
        &["INSERT OR ROLLBACK INTO t VALUES (2, 'one')"],
        &[
            "INSERT INTO t VALUES (2, 'two')",
            "INSERT OR ROLLBACK INTO t VALUES (3, 'one')",
            "INSERT INTO t VALUES (4, 'x')",
        ],
        &["BEGIN", "INSERT INTO t VALUES (2, 'two')", "INSERT OR ROLLBACK INTO t VALUES (3, 'one')", "COMMIT"],
        &["INSERT INTO t VALUES (2, 'rollback')"],
        &[
            "BEGIN",
            "INSERT INTO t VALUES (2, 'two')",
            "INSERT INTO t VALUES (3, 'rollback')",
            "INSERT INTO t VALUES (4, 'x')",
        ],
        &["INSERT INTO t VALUES (2, 'two'), (3, 'abort')"],
        &["INSERT INTO t VALUES (2, 'two'), (3, 'fail'), (4, 'x')"],
        &["INSERT OR FAIL INTO t VALUES (2, 'two'), (3, 'one'), (4, 'x')"],
        &["INSERT OR IGNORE INTO t VALUES (2, 'two'), (3, 'one'), (4, 'x')"],
        &["INSERT OR REPLACE INTO t VALUES (2, 'two'), (3, 'one'), (4, 'x')"],
        &["INSERT INTO t VALUES (2, 'two'), (1, 'one')", "INSERT INTO t VALUES (3, 'three')"],
        &["INSERT INTO child VALUES (1, 'a', 99, NULL)"],
        &["INSERT INTO child VALUES (1, 'a', NULL, 99)"],
        &["INSERT OR FAIL INTO child VALUES (1, 'a', 99, NULL), (2, 'a', NULL, NULL)"],
        &[
            "INSERT OR FAIL INTO child VALUES (1, 'a', NULL, NULL), (2, 'a', NULL, NULL)",
            "INSERT INTO t VALUES (2, 'x')",
        ],
        &["BEGIN", "INSERT INTO child VALUES (1, 'a', 99, NULL)", "COMMIT", "SELECT 1"],
        &["BEGIN", "INSERT INTO child VALUES (1, 'a', 99, NULL)", "COMMIT", "INSERT INTO parent VALUES (99)", "COMMIT"],
        &["BEGIN", "INSERT INTO child VALUES (1, 'a', 99, NULL)", "INSERT INTO parent VALUES (99)", "COMMIT"],
        &["BEGIN", "INSERT INTO child VALUES (1, 'a', 99, NULL)", "ROLLBACK", "INSERT INTO t VALUES (2, 'two')"],
        &["PRAGMA defer_foreign_keys = ON", "INSERT INTO child VALUES (1, 'a', NULL, 99)"],
        &[
            "BEGIN",
            "PRAGMA defer_foreign_keys = ON",
            "INSERT INTO child VALUES (1, 'a', NULL, 99)",
            "INSERT INTO parent VALUES (99)",
            "COMMIT",
            "INSERT INTO child VALUES (2, 'b', NULL, 98)",
        ],
        &[
            "BEGIN",
            "PRAGMA defer_foreign_keys = ON",
            "INSERT INTO child VALUES (1, 'a', NULL, 99)",
            "COMMIT",
            "ROLLBACK",
        ],
        &["PRAGMA foreign_keys = OFF", "INSERT INTO child VALUES (1, 'a', 99, 98)", "PRAGMA foreign_keys = ON"],
        &["BEGIN", "INSERT INTO t VALUES (2, 'two')"],
        &[
            "SAVEPOINT s",
            "INSERT INTO t VALUES (2, 'two')",
            "ROLLBACK TO s",
            "INSERT INTO t VALUES (3, 'three')",
            "RELEASE s",
        ],
        &["BEGIN", "SAVEPOINT s", "INSERT INTO t VALUES (2, 'two')", "ROLLBACK TO s", "COMMIT", "RELEASE s"],
        &["BEGIN", "BEGIN", "INSERT INTO t VALUES (2, 'two')", "END", "END"],
        &["COMMIT", "ROLLBACK", "RELEASE x", "ROLLBACK TO x", "INSERT INTO t VALUES (2, 'two')"],
        &["BEGIN", "CREATE TABLE extra (x)", "INSERT INTO extra VALUES (1)", "ROLLBACK", "SELECT * FROM extra"],
        &["DROP TABLE parent"],
        &["INSERT INTO f(f) VALUES ('integrity-check')"],
        &[
            "INSERT INTO t VALUES (2, 'two')",
            "INSERT INTO f(f, rank) VALUES ('integrity-check', 1)",
            "INSERT INTO t VALUES (3, 'x')",
        ],
        &["INSERT INTO f(rowid, body) VALUES (1, 'one')", "INSERT INTO f(f) VALUES ('rebuild')"],
        &[SLOW],
        &["INSERT INTO t VALUES (2, 'two')", SLOW, "INSERT INTO t VALUES (3, 'three')"],
        &["BEGIN", "INSERT INTO t VALUES (2, 'two')", SLOW, "ROLLBACK"],
        &["VACUUM"],
        &["INSERT INTO t VALUES (2, 'two')", "BEGIN", "INSERT INTO t VALUES (2, 'two')", "COMMIT"],
    ];
    for sqls in cases {
        let (expected, after) = by_itself(sqls);
        for as_batch in [false, true] {
            let gate = Gate::new();
            gate.script("1", SCHEMA).await;
            let mut requests: Vec<Value> =
                if as_batch { vec![batch(sqls)] } else { sqls.iter().map(|sql| execute(sql)).collect() };
            requests.push(json!({"type": "close"}));
            let answer = among_innocents(&gate, requests).await.unwrap();
            let answers: Vec<Value> = if as_batch {
                let result = &answer[0]["response"]["result"];
                result["step_errors"].as_array().unwrap().clone()
            } else {
                answer.iter().map(|answer| answer["error"].clone()).collect()
            };
            for ((sql, error), expected) in sqls.iter().zip(answers).zip(&expected) {
                let message = error["message"].as_str().map_or("ok", |text| text.trim_start_matches("SQLite error: "));
                let same = message == expected || (*sql == "VACUUM" && message != "ok");
                assert!(same, "{sql} of {sqls:?}: {message} instead of {expected}");
            }
            gate.until_gauge("transactions", 0.0).await;
            assert_eq!(contents(&gate.plain()), after, "{sqls:?}");
        }
    }
}

#[tokio::test]
async fn a_result_too_large_undoes_its_statement() {
    let limits = || Limits { result_bytes: 2_000, ..patient() };
    for sqls in [
        &["INSERT INTO t SELECT value, 'r' || value FROM json_each('[2,3,4]') RETURNING hex(zeroblob(1000))"][..],
        &["INSERT INTO t VALUES (9, 'x') RETURNING CAST(x'ff' AS TEXT)"],
    ] {
        let gate = Gate::with(&[], limits());
        gate.script("1", SCHEMA).await;
        for several in [false, true] {
            let mut requests: Vec<Value> = sqls.iter().map(|sql| execute(sql)).collect();
            if several {
                requests.push(execute("INSERT INTO t VALUES (50, 'after')"));
            }
            let answer = among_innocents(&gate, requests).await.unwrap();
            let code = code(&result(&answer[0])).to_owned();
            assert!(["RESPONSE_TOO_LARGE", "SQL_TEXT_NOT_UTF8"].contains(&code.as_str()), "{}", answer[0]);
            let expected = if several { "1=one,50=after" } else { "1=one" };
            assert_eq!(gate.column("SELECT group_concat(id || '=' || u, ',' ORDER BY id) FROM t").await, [expected]);
        }
    }
}

#[tokio::test]
async fn an_answer_never_grows_past_its_limit() {
    let limits = Limits { result_bytes: 100_000, ..patient() };
    let gate = Gate::with(&[], limits);
    let wide = format!("SELECT {} WHERE 0", vec!["1"; 2000].join(","));
    // Far from what SQLite may take of memory in this process, which all tests share.
    let fat = format!("SELECT {}", vec!["zeroblob(1000000)"; 50].join(","));
    let mut requests = vec![json!({"type": "store_sql", "sql_id": 1, "sql": wide})];
    requests.extend((0..200).map(|_| json!({"type": "execute", "stmt": {"sql_id": 1}})));
    requests.extend((0..200).map(|_| json!({"type": "describe", "sql": "SELECT ?32766"})));
    requests.push(execute(&fat));
    let nonsense = "A".repeat(60_000);
    requests.push(json!({"type": "store_sql", "sql_id": 2, "sql": nonsense}));
    requests.extend((0..300).map(|_| json!({"type": "execute", "stmt": {"sql_id": 2}})));
    let step = json!({"stmt": {"sql_id": 2}});
    requests.push(json!({"type": "batch", "batch": {"steps": vec![step; 300]}}));
    let body = json!({ "requests": requests }).to_string();
    let answer = gate.body("", body.as_bytes()).await.unwrap();
    assert!(answer.to_string().len() < 300_000, "{} bytes", answer.to_string().len());
    let results = answer["results"].as_array().unwrap();
    assert_eq!(code(&result(&results[1])), "ok");
    assert_eq!(code(&result(&results[200])), "RESPONSE_TOO_LARGE");
    assert_eq!(code(&result(&results[400])), "RESPONSE_TOO_LARGE");
    assert_eq!(code(&result(&results[401])), "RESPONSE_TOO_LARGE");
}

#[tokio::test]
async fn a_result_has_as_many_rows_as_it_may() {
    let gate = Gate::with(&[], Limits { result_rows: 3, ..patient() });
    gate.script("1", "CREATE TABLE t (v); INSERT INTO t VALUES (1), (2), (3)").await;
    assert_eq!(gate.column("SELECT v FROM t").await, ["1", "2", "3"]);
    let more = "SELECT v FROM t UNION ALL SELECT 4";
    let insert = "INSERT INTO t VALUES (4), (5), (6), (7) RETURNING v";
    for (token, sql) in [("", more), ("1", more), ("1", insert)] {
        assert_eq!(code(&gate.sql(token, sql).await), "RESPONSE_TOO_LARGE", "{sql} with {token:?}");
    }
    assert_eq!(gate.column("SELECT v FROM t").await, ["1", "2", "3"], "it is undone");
    // Rows that nobody wants are not a result.
    let unwanted = json!({"type": "execute", "stmt": {"sql": more, "want_rows": false}});
    assert_eq!(code(&result(&gate.ask("", vec![unwanted]).await.unwrap()[0])), "ok");
}

#[tokio::test]
async fn texts_values_and_messages_have_their_length() {
    let gate = Gate::with(&[], Limits { sql_bytes: 2000, value_bytes: 5000, ..patient() });
    let sql = |length: usize| format!("SELECT 1{}", " ".repeat(length - "SELECT 1".len()));
    let pattern = |operator: &str, length: usize| format!("SELECT 'a' {operator} printf('%.{length}c', 'a')");
    for (sql, expected) in [
        (sql(2000), "ok"),
        (sql(2001), "SQLITE_TOOBIG"),
        ("SELECT length(zeroblob(5000))".to_owned(), "ok"),
        ("SELECT length(randomblob(5001))".to_owned(), "SQLITE_TOOBIG"),
        (pattern("LIKE", 250), "ok"),
        (pattern("LIKE", 251), "SQLITE_ERROR"),
        (pattern("GLOB", 250), "ok"),
        (pattern("GLOB", 251), "SQLITE_ERROR"),
    ] {
        assert_eq!(code(&gate.sql("", &sql).await), expected, "{}", &sql[..sql.len().min(60)]);
    }
    let long = gate.sql("", &"A".repeat(1900)).await.unwrap_err();
    assert!(long.len() < 1100 && long.ends_with('…'), "{long}");
}

/// SQLite says that the database is full where an AUTOINCREMENT has come to its end, and then takes back the whole transaction.
#[tokio::test]
async fn a_table_that_is_full_is_no_full_disk() {
    let gate = Gate::new();
    gate.script("1", SCHEMA).await;
    gate.script(
        "1",
        "CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO a VALUES (9223372036854775807)",
    )
    .await;
    for _ in 0..5 {
        let answer = among_innocents(&gate, vec![execute("INSERT INTO a DEFAULT VALUES")]).await;
        assert_eq!(code(&result(&answer.unwrap()[0])), "SQLITE_FULL");
        assert_eq!(gate.db.trouble(), None);
    }
    let mut inside = gate.client("1");
    inside.sql("BEGIN").await.unwrap();
    inside.sql("INSERT INTO t VALUES (50, 'gone')").await.unwrap();
    assert_eq!(code(&inside.sql("INSERT INTO a DEFAULT VALUES").await), "SQLITE_FULL");
    assert_eq!(code(&inside.sql("COMMIT").await), "SQLITE_ERROR", "SQLite has rolled it back");
    assert_eq!(gate.column("SELECT count(*) FROM t WHERE id = 50").await, ["0"]);
}

#[tokio::test]
async fn many_short_statements_keep_nobody_waiting_for_all_of_them() {
    let gate = Gate::new();
    gate.script("1", SCHEMA).await;
    let busy = "SELECT count(*) FROM (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200000) SELECT n FROM c)";
    let script = format!("INSERT INTO t VALUES (2, 'two');{}", format!("{busy};").repeat(20));
    let answer = among_innocents(&gate, vec![sequence(&script)]).await.unwrap();
    assert_eq!(answer[0]["type"], "ok");
    assert_eq!(gate.column("SELECT count(*) FROM t").await, ["2"]);
}

#[tokio::test]
async fn the_last_rowid_is_the_streams_own() {
    let gate = Gate::new();
    gate.script("1", SCHEMA).await;
    let (mut one, mut other) = (gate.client("1"), gate.client("1"));
    let ask = "SELECT last_insert_rowid()";
    one.sql("INSERT INTO t VALUES (100, 'a')").await.unwrap();
    other.sql("INSERT INTO t VALUES (200, 'b')").await.unwrap();
    assert_eq!(one.column(ask).await, ["100"]);
    assert_eq!(other.column(ask).await, ["200"]);
    assert_eq!(gate.column(ask).await, ["0"]);
    one.sql("BEGIN IMMEDIATE").await.unwrap();
    assert_eq!(one.column(ask).await, ["100"]);
    one.sql("INSERT INTO t VALUES (101, 'c')").await.unwrap();
    assert_eq!(one.column(ask).await, ["101"]);
    one.sql("COMMIT").await.unwrap();
    assert_eq!(one.column(ask).await, ["101"]);
    // Run twice: what the first, undone run inserted is not the answer in the second.
    let answer = one
        .send(vec![
            execute("UPDATE t SET u = u"),
            execute(ask),
            execute("INSERT INTO t VALUES (300, 'd')"),
            execute("PRAGMA defer_foreign_keys = ON"),
            execute(ask),
        ])
        .await
        .unwrap();
    let rowid = |index: usize| answer[index]["response"]["result"]["rows"][0][0]["value"].clone();
    assert_eq!((rowid(1), rowid(4)), (json!("101"), json!("300")));
}

#[tokio::test]
async fn settings_stay_with_their_stream() {
    let gate = Gate::new();
    gate.script("1", SCHEMA).await;
    let off = "PRAGMA foreign_keys = OFF";
    let orphan = "INSERT INTO child (q) VALUES (99)";
    let describe = |sql: &str| json!({"type": "describe", "sql": sql});
    // Each of these only prepares the setting, on a connection that others use later.
    for prepared in [
        describe(off),
        execute("SELECT 1; PRAGMA foreign_keys = OFF"),
        execute("PRAGMA foreign_keys = OFF; SELECT 1"),
        execute("EXPLAIN PRAGMA foreign_keys = OFF"),
        execute("PRAGMA foreign_keys = OFF; nonsense"),
    ] {
        for token in ["", "1"] {
            let requests = vec![execute("BEGIN"), execute("SELECT 1 FROM t"), execute("COMMIT"), prepared.clone()];
            gate.ask(token, requests).await.unwrap();
            gate.ask(token, vec![prepared.clone()]).await.unwrap();
            assert_eq!(gate.column("PRAGMA foreign_keys").await, ["1"], "{prepared}");
            let answer =
                gate.ask("1", vec![sequence("SAVEPOINT a"), execute(orphan), json!({"type": "close"})]).await.unwrap();
            assert_eq!(code(&result(&answer[1])), "SQLITE_CONSTRAINT", "{prepared}");
        }
    }
    let mut one = gate.client("1");
    one.sql(off).await.unwrap();
    assert_eq!(one.column("PRAGMA foreign_keys").await, ["0"]);
    assert_eq!(gate.column("PRAGMA foreign_keys").await, ["1"]);
    one.sql(orphan).await.unwrap();
    assert_eq!(code(&gate.sql("1", orphan).await), "SQLITE_CONSTRAINT");
    one.sql("PRAGMA foreign_keys = ON").await.unwrap();
    assert_eq!(code(&one.sql(orphan).await), "SQLITE_CONSTRAINT");
}
