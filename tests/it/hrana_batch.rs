//! Batches, their conditions, and cursors.

use serde_json::{Value, json};

use fencegate::resource::sqlite::hrana::Version;
use fencegate::resource::sqlite::program::Format;

use crate::gate::{Gate, column, text};

fn step(sql: &str, condition: impl Into<Value>) -> Value {
    let condition = condition.into();
    json!({"stmt": {"sql": sql}, "condition": condition})
}

fn steps() -> (Value, [&'static str; 13]) {
    let (ok, error) = (|n: u32| json!({"type": "ok", "step": n}), |n: u32| json!({"type": "error", "step": n}));
    let not = |cond: Value| json!({"type": "not", "cond": cond});
    let and = |conds: Vec<Value>| json!({"type": "and", "conds": conds});
    let or = |conds: Vec<Value>| json!({"type": "or", "conds": conds});
    let steps = json!([
        step("SELECT 1", Value::Null),
        step("SELECT * FROM missing", ok(0)),
        step("SELECT 2", ok(1)),
        step("SELECT 3", error(1)),
        step("SELECT 4", not(ok(1))),
        // A skipped step is neither.
        step("SELECT 5", ok(2)),
        step("SELECT 6", error(2)),
        step("SELECT 7", not(or(vec![ok(2), error(2)]))),
        step("SELECT 8", and(vec![ok(0), error(1), not(ok(2))])),
        step("SELECT 9", and(vec![ok(0), ok(1)])),
        step("SELECT 10", or(vec![ok(1), ok(2), ok(3)])),
        step("SELECT 11", and(vec![])),
        step("SELECT 12", or(vec![])),
    ]);
    let ran = ["1", "error", "", "3", "4", "", "", "7", "8", "", "10", "11", ""];
    (json!({ "steps": steps }), ran)
}

#[tokio::test]
async fn each_condition() {
    let gate = Gate::new();
    let (batch, expected) = steps();
    for version in [Version::V2, Version::V3] {
        let body = json!({"requests": [{"type": "batch", "batch": batch}]}).to_string();
        let answer = gate.raw("", version, Format::Pipeline, body.as_bytes()).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let result = &answer["results"][0]["response"]["result"];
        let (results, errors) = (result["step_results"].as_array().unwrap(), result["step_errors"].as_array().unwrap());
        assert_eq!((results.len(), errors.len()), (expected.len(), expected.len()));
        for (index, expected) in expected.iter().enumerate() {
            let told = match (&results[index], &errors[index]) {
                (Value::Null, Value::Null) => String::new(),
                (Value::Null, error) => {
                    assert!(error["message"].is_string() && error["code"].is_string());
                    "error".to_owned()
                }
                (result, error) => {
                    assert!(error.is_null());
                    column(result)[0].clone()
                }
            };
            assert_eq!(told, *expected, "step {index}");
        }
    }
}

#[tokio::test]
async fn is_autocommit_is_of_version_3() {
    let gate = Gate::new();
    gate.script("1", "CREATE TABLE t (v)").await;
    let auto = json!({"type": "is_autocommit"});
    let steps = json!([
        step("SELECT 0", auto.clone()),
        step("BEGIN", Value::Null),
        step("INSERT INTO t VALUES (1)", Value::Null),
        step("SELECT 1", auto.clone()),
        step("ROLLBACK", json!({"type": "not", "cond": auto})),
        step("SELECT 2", auto),
    ]);
    let body =
        json!({"requests": [{"type": "batch", "batch": {"steps": steps}}, {"type": "get_autocommit"}]}).to_string();
    for token in ["1", "2"] {
        let answer = gate.raw(token, Version::V3, Format::Pipeline, body.as_bytes()).await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let ran: Vec<bool> = answer["results"][0]["response"]["result"]["step_results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|result| !result.is_null())
            .collect();
        assert_eq!(ran, [true, true, true, false, true, true]);
        assert_eq!(answer["results"][1]["response"], json!({"type": "get_autocommit", "is_autocommit": true}));
    }
    let refused = gate.raw("1", Version::V2, Format::Pipeline, body.as_bytes()).await.unwrap_err();
    assert_eq!(refused.kind.row().status, 400);
    let only = json!({"requests": [{"type": "get_autocommit"}]}).to_string();
    assert_eq!(gate.raw("", Version::V2, Format::Pipeline, only.as_bytes()).await.unwrap_err().kind.row().status, 400);
}

#[tokio::test]
async fn conditions_that_make_no_sense() {
    let gate = Gate::new();
    let mut deep = json!({"type": "ok", "step": 0});
    for _ in 0..500 {
        deep = json!({"type": "not", "cond": deep});
    }
    for condition in [
        json!({"type": "ok", "step": 1}),
        json!({"type": "ok", "step": 9}),
        json!({"type": "error", "step": 2}),
        json!({"type": "ok"}),
        json!({"type": "ok", "step": -1}),
        json!({"type": "ok", "step": 4_294_967_296_u64}),
        json!({"type": "not"}),
        json!({"type": "and"}),
        json!({"type": "or", "conds": 5}),
        json!({"type": "maybe"}),
        json!({}),
        json!({"type": "and", "conds": [{"type": "not", "cond": {"type": "ok", "step": 1}}]}),
        deep,
    ] {
        let batch = json!({"steps": [step("SELECT 1", Value::Null), step("SELECT 2", condition.clone())]});
        let body = json!({"requests": [{"type": "batch", "batch": batch}]}).to_string();
        assert_eq!(gate.body("", body.as_bytes()).await.unwrap_err().kind.row().code, "BAD_REQUEST", "{condition}");
        let body = json!({ "batch": batch }).to_string();
        let refused = gate.raw("", Version::V3, Format::Cursor, body.as_bytes()).await.unwrap_err();
        assert_eq!(refused.kind.row().code, "BAD_REQUEST", "{condition}");
    }
}

#[tokio::test]
async fn a_cursor_entry_by_entry() {
    let gate = Gate::new();
    gate.script("1", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)").await;
    let skip = json!({"type": "error", "step": 0});
    let batch = json!({"steps": [
        step("INSERT INTO t (v) VALUES ('a'), ('b')", Value::Null),
        step("SELECT 1", skip),
        step("SELECT v FROM t", Value::Null),
        step("nonsense", Value::Null),
        step("SELECT 5 WHERE 0", Value::Null),
    ]});
    let body = json!({"baton": null, "batch": batch, "unknown": 1}).to_string();
    let answer = gate.raw("1", Version::V3, Format::Cursor, body.as_bytes()).await.unwrap();
    assert!(answer.ends_with('\n'));
    let lines: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines[0]["baton"].is_string() && lines[0]["base_url"].is_null());
    let value = |text: &str| json!([{"type": "text", "value": text}]);
    let expected = [
        json!({"type": "step_begin", "step": 0, "cols": []}),
        json!({"type": "step_end", "affected_row_count": 2, "last_insert_rowid": "2"}),
        json!({"type": "step_begin", "step": 2, "cols": [{"name": "v", "decltype": "TEXT"}]}),
        json!({"type": "row", "row": value("a")}),
        json!({"type": "row", "row": value("b")}),
        json!({"type": "step_end", "affected_row_count": 0, "last_insert_rowid": null}),
    ];
    for (line, expected) in lines[1..].iter().zip(&expected) {
        let mut line = line.clone();
        // For other statements than INSERT the value is undefined.
        if line["affected_row_count"] == 0 {
            line["last_insert_rowid"] = Value::Null;
        }
        assert_eq!(line, *expected);
    }
    assert_eq!((text(&lines[7]["type"]), &lines[7]["step"]), ("step_error", &json!(3)));
    assert!(lines[7]["error"]["message"].is_string());
    assert_eq!((text(&lines[8]["type"]), &lines[8]["step"]), ("step_begin", &json!(4)));
    assert_eq!(lines[9]["type"], "step_end");
    assert_eq!(lines.len(), 10);
    let baton = &lines[0]["baton"];
    let next = json!({"baton": baton, "requests": [{"type": "close"}]}).to_string();
    assert_eq!(gate.body("1", next.as_bytes()).await.unwrap()["baton"], Value::Null);
    for body in ["{}", "[]", r#"{"batch":{}}"#, r#"{"requests":[]}"#] {
        assert_eq!(
            gate.raw("1", Version::V3, Format::Cursor, body.as_bytes()).await.unwrap_err().kind.row().status,
            400
        );
    }
}
