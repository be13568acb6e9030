//! Statements, scripts and descriptions, as the public specification has them.

use serde_json::{Value, json};

use crate::gate::{Gate, code, column, execute, result, text};

async fn run(gate: &Gate, stmt: Value) -> Result<Value, String> {
    result(&gate.ask("1", vec![json!({"type": "execute", "stmt": stmt})]).await.unwrap()[0])
}

#[tokio::test]
async fn a_result_has_every_member() {
    let gate = Gate::new();
    gate.script("1", "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(10))").await;
    let insert = gate.sql("1", "INSERT INTO t (name) VALUES ('a'), ('b')").await.unwrap();
    assert_eq!(insert["affected_row_count"], 2);
    assert_eq!(insert["last_insert_rowid"], "2");
    assert_eq!((&insert["cols"], &insert["rows"]), (&json!([]), &json!([])));
    let select = gate.sql("", "SELECT id, name, id + 1 AS more FROM t").await.unwrap();
    let cols = json!([
        {"name": "id", "decltype": "INTEGER"},
        {"name": "name", "decltype": "VARCHAR(10)"},
        {"name": "more", "decltype": null}
    ]);
    assert_eq!(select["cols"], cols);
    assert_eq!(select["rows"][1][1], json!({"type": "text", "value": "b"}));
    assert_eq!(select["affected_row_count"], 0);
    assert_eq!(select["rows_read"], 2);
    assert!(select["rows_written"].is_u64() && select["query_duration_ms"].is_f64());
    let returning = gate.sql("1", "DELETE FROM t RETURNING name").await.unwrap();
    assert_eq!(column(&returning), ["a", "b"]);
    assert_eq!(returning["affected_row_count"], 2);
}

#[tokio::test]
async fn values_come_back_as_they_went() {
    let gate = Gate::new();
    let values = [
        json!({"type": "null"}),
        json!({"type": "integer", "value": "9223372036854775807"}),
        json!({"type": "integer", "value": "-9223372036854775808"}),
        json!({"type": "integer", "value": "9007199254740993"}),
        json!({"type": "integer", "value": "0"}),
        json!({"type": "float", "value": 0.1}),
        json!({"type": "float", "value": -1.5e300}),
        json!({"type": "float", "value": 5e-324}),
        json!({"type": "text", "value": ""}),
        json!({"type": "text", "value": "a\u{0}b"}),
        json!({"type": "text", "value": "\"\\\n\u{1f980} \u{7f} ß \u{2028}"}),
        json!({"type": "blob", "base64": ""}),
        json!({"type": "blob", "base64": "AP8="}),
        json!({"type": "blob", "base64": "AAECAw=="}),
    ];
    let list = vec!["?"; values.len()].join(", ");
    let answer = run(&gate, json!({"sql": format!("SELECT {list}"), "args": values})).await.unwrap();
    assert_eq!(answer["rows"][0], json!(values));
    gate.script("1", "CREATE TABLE t (v ANY)").await;
    for value in &values {
        run(&gate, json!({"sql": "INSERT INTO t VALUES (?)", "args": [value]})).await.unwrap();
    }
    let stored = gate.sql("", "SELECT v FROM t ORDER BY rowid").await.unwrap();
    let expected: Vec<Value> = values.iter().map(|value| json!([value])).collect();
    assert_eq!(stored["rows"], json!(expected));
}

#[tokio::test]
async fn values_in_forms_that_drivers_send() {
    let gate = Gate::new();
    for (given, expected) in [
        (json!({"type": "integer", "value": 7}), json!({"type": "integer", "value": "7"})),
        (json!({"type": "float", "value": 7}), json!({"type": "float", "value": 7.0})),
        // JavaScript writes 1e19 without an exponent: more than 64 bits, signed.
        (json!({"type": "float", "value": 10_000_000_000_000_000_000_u64}), json!({"type": "float", "value": 1e19})),
        (json!({"type": "blob", "base64": "AP8"}), json!({"type": "blob", "base64": "AP8="})),
        (json!({"type": "blob", "base64": "AAECAw"}), json!({"type": "blob", "base64": "AAECAw=="})),
        (json!({"type": "null", "value": null, "more": {}}), json!({"type": "null"})),
    ] {
        let answer = run(&gate, json!({"sql": "SELECT ?", "args": [given]})).await.unwrap();
        assert_eq!(answer["rows"][0][0], expected, "{given}");
    }
    for bad in [
        json!({"type": "integer", "value": "9223372036854775808"}),
        json!({"type": "integer", "value": 9_223_372_036_854_775_808_u64}),
        json!({"type": "integer", "value": "1.0"}),
        json!({"type": "integer", "value": 1.5}),
        json!({"type": "integer"}),
        json!({"type": "float", "value": null}),
        json!({"type": "text", "value": 5}),
        json!({"type": "blob"}),
        json!({"type": "blob", "base64": "A"}),
        json!({"type": "blob", "base64": "****"}),
        json!({"type": "date", "value": "x"}),
        json!({"value": "x"}),
        json!("x"),
    ] {
        let stmt = json!({"type": "execute", "stmt": {"sql": "SELECT ?", "args": [bad]}});
        let refused = gate.ask("", vec![stmt]).await.unwrap_err();
        assert_eq!(refused.kind.row().code, "BAD_REQUEST", "{bad}");
    }
}

#[tokio::test]
async fn what_json_has_no_word_for() {
    use fencegate::resource::sqlite::{hrana::Version, program::Format};
    let gate = Gate::new();
    let body = json!({"requests": [execute("SELECT 9e999, -9e999, 9e999 - 9e999")]}).to_string();
    let answer = gate.raw("", Version::V3, Format::Pipeline, body.as_bytes()).await.unwrap();
    let row = r#"[{"type":"float","value":1e999},{"type":"float","value":-1e999},{"type":"null"}]"#;
    assert!(answer.contains(row), "{answer}");
    let error = gate.sql("", "SELECT CAST(x'ff' AS TEXT)").await;
    assert_eq!(code(&error), "SQL_TEXT_NOT_UTF8");
    assert_eq!(gate.column("SELECT hex(CAST(x'ff' AS TEXT))").await, ["FF"]);
}

#[tokio::test]
async fn arguments_find_their_parameters() {
    let gate = Gate::new();
    let number = |number: i64| json!({"type": "integer", "value": number.to_string()});
    let named = |name: &str, value: i64| json!({"name": name, "value": number(value)});
    let ask = async |sql: &str, args: Vec<Value>, named: Vec<Value>| {
        run(&gate, json!({"sql": sql, "args": args, "named_args": named})).await.map(|answer| {
            let row = answer["rows"][0].as_array().unwrap().clone();
            row.iter().map(|value| text(&value["value"]).to_owned()).collect::<Vec<_>>().join(",")
        })
    };
    let good = [
        ("SELECT ?, ?", vec![number(1), number(2)], vec![], "1,2"),
        ("SELECT ?2, ?1", vec![number(1), number(2)], vec![], "2,1"),
        ("SELECT ?3", vec![number(1), number(2), number(3)], vec![], "3"),
        ("SELECT :a, @b, $c", vec![], vec![named(":a", 1), named("@b", 2), named("$c", 3)], "1,2,3"),
        ("SELECT :a, @b, $c", vec![], vec![named("c", 3), named("a", 1), named("b", 2)], "1,2,3"),
        ("SELECT :a, :b", vec![number(1), number(2)], vec![], "1,2"),
        ("SELECT :a, ?", vec![number(1), number(2)], vec![named("a", 9)], "9,2"),
        ("SELECT :a, :a", vec![], vec![named("a", 4)], "4,4"),
        ("SELECT ?2, ?1", vec![], vec![named("?1", 1), named("?2", 2)], "2,1"),
        ("SELECT 5", vec![], vec![], "5"),
    ];
    for (sql, args, names, expected) in good {
        assert_eq!(ask(sql, args.clone(), names.clone()).await.as_deref(), Ok(expected), "{sql} {args:?} {names:?}");
    }
    let bad = [
        ("SELECT ?", vec![], vec![]),
        ("SELECT ?", vec![number(1), number(2)], vec![]),
        ("SELECT 1", vec![number(1)], vec![]),
        ("SELECT :a", vec![], vec![named("b", 1)]),
        ("SELECT :a", vec![], vec![named("a", 1), named("b", 1)]),
        ("SELECT :a", vec![], vec![named("@a", 1)]),
        ("SELECT :a, ?", vec![number(1)], vec![named("a", 1)]),
        ("SELECT ?", vec![number(1)], vec![named("", 1)]),
    ];
    for (sql, args, names) in bad {
        let answer = ask(sql, args.clone(), names.clone()).await;
        assert_eq!(code(&answer), "ARGS_INVALID", "{sql} {args:?} {names:?}");
    }
}

#[tokio::test]
async fn as_many_arguments_as_a_body_holds() {
    let gate = Gate::new();
    let value = json!({"type": "null"});
    let names: Vec<Value> = (0..100_000).map(|n| json!({"name": format!("n{n}"), "value": value})).collect();
    let answer = run(&gate, json!({"sql": "SELECT ?32766", "named_args": names})).await;
    assert_eq!(code(&answer), "ARGS_INVALID");
    let params: Vec<String> = (0..30_000).map(|n| format!(":n{n}")).collect();
    let sql = format!("SELECT 1 WHERE 7 IN ({})", params.join(","));
    // By a gate of its own, whose work can be told from what else the machine does meanwhile.
    let dir = tempfile::tempdir().unwrap();
    let gate = crate::process::Gate::patient(dir.path());
    let stmt = json!([{"type": "execute", "stmt": {"sql": sql, "named_args": names[..30_000]}}]);
    let answer = gate.client().pipeline(None, None, &stmt).unwrap();
    assert_eq!(code(&result(&answer.json()["results"][0])), "ok");
    let took = gate.processor_time();
    assert!(took.as_secs() < 20, "looking up names took {took:?}");
}

#[tokio::test]
async fn rows_only_where_wanted() {
    let gate = Gate::new();
    let sql = "SELECT 1 AS one UNION ALL SELECT 2";
    for (wanted, rows) in [(json!(true), 2), (json!(false), 0), (Value::Null, 2)] {
        let answer = run(&gate, json!({"sql": sql, "want_rows": wanted})).await.unwrap();
        assert_eq!(answer["rows"].as_array().unwrap().len(), rows, "{wanted}");
        assert_eq!(answer["cols"][0]["name"], "one");
    }
}

#[tokio::test]
async fn one_statement_to_an_execute() {
    let gate = Gate::new();
    for (sql, expected) in [
        ("", "SQL_NO_STATEMENT"),
        ("  ;; ", "SQL_NO_STATEMENT"),
        ("-- nothing", "SQL_NO_STATEMENT"),
        ("/* nothing", "SQL_NO_STATEMENT"),
        ("\0SELECT 1", "SQLITE_ERROR"),
        ("SELECT 1; SELECT 2", "SQL_MANY_STATEMENTS"),
        ("SELECT 1; nonsense", "SQL_MANY_STATEMENTS"),
        ("SELECT 1;;;  ", "ok"),
        ("SELECT 1; -- one\n /* two */ ;", "ok"),
        ("\u{feff}SELECT 1", "ok"),
        ("SELECT", "SQLITE_ERROR"),
        ("SELECT * FROM missing", "SQLITE_ERROR"),
        ("SELECT '\u{1f980}", "SQLITE_ERROR"),
        ("SELECT 1 -- \u{1f980}", "ok"),
    ] {
        for token in ["", "1"] {
            assert_eq!(code(&gate.sql(token, sql).await), expected, "{sql:?} with {token:?}");
        }
    }
    // rusqlite's own check for a second statement would recurse once for every semicolon.
    let many = ";".repeat(500_000);
    assert_eq!(code(&gate.sql("1", &format!("SELECT 1{many}")).await), "ok");
    assert_eq!(code(&gate.sql("1", &many).await), "SQL_NO_STATEMENT");
    let longer = format!("SELECT 1{}", " ".repeat(1_000_000));
    assert_eq!(code(&gate.sql("1", &longer).await), "SQLITE_TOOBIG");
    let deep = format!("SELECT {}1{}", "(".repeat(50_000), ")".repeat(50_000));
    assert_eq!(code(&gate.sql("1", &deep).await), "SQLITE_ERROR");
}

#[tokio::test]
async fn a_sequence_runs_to_its_end_or_its_first_error() {
    let gate = Gate::new();
    let ask = async |sql: &str| {
        let answer = gate.ask("1", vec![json!({"type": "sequence", "sql": sql})]).await.unwrap();
        if answer[0]["type"] == "ok" {
            assert_eq!(answer[0]["response"], json!({"type": "sequence"}));
        }
        result(&answer[0])
    };
    let script = "-- a table; and rows\nCREATE TABLE t (v);; INSERT INTO t VALUES ('a;b'); /* ; */ SELECT * FROM t;
        INSERT INTO t VALUES (2) -- the end";
    assert_eq!(code(&ask(script).await), "ok");
    assert_eq!(gate.column("SELECT v FROM t").await, ["a;b", "2"]);
    assert_eq!(code(&ask("INSERT INTO t VALUES (3); INSERT INTO x VALUES (4); DELETE FROM t").await), "SQLITE_ERROR");
    assert_eq!(gate.column("SELECT count(*) FROM t").await, ["3"], "what came before the error stays");
    for sql in ["", ";", "-- only this", &";".repeat(500_000), "\u{feff}"] {
        assert_eq!(code(&ask(sql).await), "ok", "{:?}", &sql[..sql.len().min(20)]);
    }
    assert_eq!(code(&ask("INSERT INTO t VALUES (?)").await), "ARGS_INVALID");
    assert_eq!(gate.column("SELECT count(*) FROM t").await, ["3"]);
    let trigger =
        "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t WHERE v = 2; SELECT 1; END; INSERT INTO t VALUES (9)";
    assert_eq!(code(&ask(trigger).await), "ok");
    assert_eq!(gate.column("SELECT v FROM t ORDER BY rowid").await, ["a;b", "3", "9"]);
}

#[tokio::test]
async fn descriptions() {
    let gate = Gate::new();
    gate.script("1", "CREATE TABLE t (id INTEGER, name VARCHAR(10)); CREATE VIEW w AS SELECT name FROM t").await;
    let describe =
        async |sql: &str| result(&gate.ask("", vec![json!({"type": "describe", "sql": sql})]).await.unwrap()[0]);
    let full =
        describe("SELECT id, name AS n, 1 + 1 FROM t WHERE id = :a AND name = ?5 OR id = ? OR id = @b").await.unwrap();
    let names: Vec<&Value> = full["params"].as_array().unwrap().iter().map(|param| &param["name"]).collect();
    assert_eq!(json!(names), json!([":a", null, null, null, "?5", null, "@b"]));
    let cols = json!([
        {"name": "id", "decltype": "INTEGER"},
        {"name": "n", "decltype": "VARCHAR(10)"},
        {"name": "1 + 1", "decltype": null}
    ]);
    assert_eq!(full["cols"], cols);
    for (sql, explain, readonly) in [
        ("SELECT 1", false, true),
        ("SELECT name FROM w", false, true),
        ("EXPLAIN SELECT 1", true, true),
        ("EXPLAIN QUERY PLAN DELETE FROM t", true, true),
        ("EXPLAIN INSERT INTO t VALUES (1, 2)", true, true),
        ("INSERT INTO t VALUES (?, ?)", false, false),
        ("WITH x AS (SELECT 1) UPDATE t SET id = 1", false, false),
        ("DELETE FROM t RETURNING id", false, false),
        ("CREATE TABLE u (x)", false, false),
        ("PRAGMA user_version", false, true),
        ("PRAGMA user_version = 5", false, false),
        ("PRAGMA table_info(t)", false, true),
        ("PRAGMA journal_mode", false, true),
    ] {
        let answer = describe(sql).await.unwrap();
        assert_eq!((&answer["is_explain"], &answer["is_readonly"]), (&json!(explain), &json!(readonly)), "{sql}");
    }
    for (sql, expected) in [
        ("", "SQL_NO_STATEMENT"),
        ("SELECT 1; SELECT 2", "SQL_MANY_STATEMENTS"),
        ("SELECT * FROM missing", "SQLITE_ERROR"),
        ("DROP TABLE fencegate_marks", "SQLITE_AUTH"),
    ] {
        assert_eq!(code(&describe(sql).await), expected, "{sql}");
    }
    assert_eq!(gate.column("SELECT count(*) FROM t").await, ["0"], "describing runs nothing");
}

#[tokio::test]
async fn bodies_that_are_not_hrana() {
    let gate = Gate::new();
    let deep = format!("{{\"requests\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "null",
        "5",
        "[",
        "{",
        "{\"requests\":5}",
        "{\"requests\":[5]}",
        "{\"requests\":[{}]}",
        "\u{feff}{}",
        r#"{"baton":5,"requests":[]}"#,
        r#"{"requests":[{"type":"dance"}]}"#,
        r#"{"requests":[{"type":"Close"}]}"#,
        r#"{"requests":[{"type":"execute"}]}"#,
        r#"{"requests":[{"type":"execute","stmt":{}}]}"#,
        r#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT 1","sql_id":1}}]}"#,
        r#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT 1","args":5}}]}"#,
        r#"{"requests":[{"type":"batch"}]}"#,
        r#"{"requests":[{"type":"batch","batch":{}}]}"#,
        r#"{"requests":[{"type":"sequence"}]}"#,
        r#"{"requests":[{"type":"describe","sql":null,"sql_id":null}]}"#,
        r#"{"requests":[{"type":"store_sql","sql":"SELECT 1"}]}"#,
        r#"{"requests":[{"type":"store_sql","sql_id":1}]}"#,
        r#"{"requests":[{"type":"store_sql","sql_id":2147483648,"sql":"SELECT 1"}]}"#,
        r#"{"requests":[{"type":"close_sql"}]}"#,
        r#"{"requests":[{"type":"execute","stmt":{"sql":"\ud800"}}]}"#,
        deep.as_str(),
    ] {
        let refused = gate.body("1", body.as_bytes()).await.unwrap_err();
        assert_eq!(refused.kind.row().code, "BAD_REQUEST", "{}", &body[..body.len().min(80)]);
    }
    assert_eq!(gate.body("1", b"\xff\xfe").await.unwrap_err().kind.row().status, 400);
    let spaced = br#" {"unknown": [1, {"a": 2}], "requests": [{"type": "execute", "more": 1,
        "stmt": {"sql": "SELECT 1", "x": null, "args": null, "named_args": null, "want_rows": null, "sql_id": null}}]} "#;
    let answer = gate.body("", spaced).await.unwrap();
    assert_eq!(answer["results"][0]["type"], "ok", "{answer}");
}
