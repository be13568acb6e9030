//! Streams: batons, stored SQL texts, closing.

use serde_json::{Value, json};

use fencegate::resource::sqlite::Limits;

use crate::gate::{Gate, code, column, execute, patient, refusal, result};

fn store(sql_id: i64, sql: &str) -> Value {
    json!({"type": "store_sql", "sql_id": sql_id, "sql": sql})
}

fn stored(sql_id: i64) -> Value {
    json!({"type": "execute", "stmt": {"sql_id": sql_id}})
}

#[tokio::test]
async fn each_baton_is_good_once() {
    let gate = Gate::new();
    let mut client = gate.client("");
    client.sql("SELECT 1").await.unwrap();
    let first = client.baton.clone().unwrap();
    client.sql("SELECT 2").await.unwrap();
    let second = client.baton.clone().unwrap();
    assert_ne!(first, second);
    let used = json!({"baton": first, "requests": []}).to_string();
    assert_eq!(gate.body("", used.as_bytes()).await.unwrap_err().kind.row().code, "BATON_INVALID");
    client.sql("SELECT 3").await.expect("a wrong baton harms no stream");
    for foreign in
        ["", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "____________________________", &"é".repeat(16), &second[1..]]
    {
        let body = json!({"baton": foreign, "requests": [execute("SELECT 1")]}).to_string();
        assert_eq!(gate.body("", body.as_bytes()).await.unwrap_err().kind.row().code, "BATON_INVALID", "{foreign:?}");
    }
    client.close().await;
    assert_eq!(client.baton, None);
    let closed = json!({"baton": second, "requests": []}).to_string();
    assert_eq!(gate.body("", closed.as_bytes()).await.unwrap_err().kind.row().code, "STREAM_EXPIRED");
    for new in [json!({"baton": null, "requests": []}), json!({"requests": []}), json!({})] {
        let answer = gate.body("", new.to_string().as_bytes()).await.unwrap();
        assert!(answer["baton"].is_string() && answer["results"] == json!([]));
    }
}

#[tokio::test]
async fn after_close_nothing_runs() {
    let gate = Gate::new();
    gate.script("1", "CREATE TABLE t (v)").await;
    let insert = "INSERT INTO t VALUES (1)";
    let answer = gate
        .ask("1", vec![execute(insert), json!({"type": "close"}), execute(insert), json!({"type": "close"})])
        .await
        .unwrap();
    assert_eq!(answer[1], json!({"type": "ok", "response": {"type": "close"}}));
    assert_eq!((&answer[2]["type"], &answer[3]["type"]), (&json!("error"), &json!("error")));
    assert_eq!(answer[2]["error"]["code"], "STREAM_CLOSED");
    assert_eq!(gate.column("SELECT count(*) FROM t").await, ["1"]);
}

#[tokio::test]
async fn stored_texts() {
    let gate = Gate::new();
    let mut client = gate.client("1");
    let answer =
        client.send(vec![store(1, "SELECT ?"), store(-5, "CREATE TABLE t (v); SELECT 1"), stored(1)]).await.unwrap();
    assert_eq!(answer[0], json!({"type": "ok", "response": {"type": "store_sql"}}));
    assert_eq!(code(&result(&answer[2])), "ARGS_INVALID");
    let call = json!({"type": "execute", "stmt": {"sql_id": 1, "args": [{"type": "text", "value": "x"}]}});
    let batch = json!({"type": "batch", "batch": {"steps": [{"stmt": call["stmt"]}]}});
    let more = vec![call, batch, json!({"type": "sequence", "sql_id": -5}), json!({"type": "describe", "sql_id": 1})];
    let answer = client.send(more).await.unwrap();
    assert_eq!(column(&result(&answer[0]).unwrap()), ["x"]);
    assert_eq!(column(&result(&answer[1]).unwrap()["step_results"][0]), ["x"]);
    assert_eq!(answer[2]["type"], "ok");
    assert_eq!(result(&answer[3]).unwrap()["params"], json!([{"name": null}]));
    let again = client
        .send(vec![
            store(1, "SELECT 2"),
            json!({"type": "close_sql", "sql_id": 1}),
            stored(1),
            json!({"type": "close_sql", "sql_id": 1}),
            store(1, "SELECT 3"),
            stored(1),
            stored(77),
        ])
        .await
        .unwrap();
    assert_eq!(code(&result(&again[0])), "SQL_EXISTS");
    assert_eq!(again[1], json!({"type": "ok", "response": {"type": "close_sql"}}));
    assert_eq!(code(&result(&again[2])), "SQL_NOT_FOUND");
    assert_eq!(again[3]["type"], "ok", "closing what isn't there is no error");
    assert_eq!(column(&result(&again[5]).unwrap()), ["3"]);
    assert_eq!(code(&result(&again[6])), "SQL_NOT_FOUND");
    assert_eq!(code(&result(&gate.ask("1", vec![stored(1)]).await.unwrap()[0])), "SQL_NOT_FOUND", "of one stream only");
    let many: Vec<Value> = (100..200).map(|id| store(id, "SELECT 1")).collect();
    let answer = client.send(many).await.unwrap();
    assert_eq!(answer.iter().filter(|answer| answer["type"] == "ok").count(), 62);
    assert_eq!(code(&result(&answer[99])), "SQL_STORE_FULL");
    let long = gate.ask("1", vec![store(1, &"x".repeat(70_000))]).await.unwrap();
    assert_eq!(code(&result(&long[0])), "SQL_STORE_FULL");
}

#[tokio::test]
async fn more_streams_than_there_is_room_for() {
    let gate = Gate::with(&[], Limits { streams: 8, ..patient() });
    gate.script("1", "CREATE TABLE t (v)").await;
    let mut inside = gate.client("1");
    inside.sql("BEGIN IMMEDIATE").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = gate.client("");
        client.sql("SELECT 1").await.unwrap();
        clients.push(client);
    }
    assert!(gate.gauge("streams") <= 8.0);
    inside.sql("INSERT INTO t VALUES (1)").await.expect("a stream inside a transaction keeps its place");
    inside.sql("COMMIT").await.unwrap();
    let last = clients.last_mut().unwrap();
    last.sql("SELECT 1").await.expect("the latest stays");
    let first = clients[0].send(vec![execute("SELECT 1")]).await;
    assert_eq!(refusal(&first), "STREAM_EXPIRED");
}
