//! Who is refused, and why.

use serde_json::json;

use super::{CREATE, INSERT, again, body, configured, count, execute, first, found, gate, post, refusal, rig, write};
use crate::access::{config, grant, principal, secret};
use crate::process::{Answer, Gate, until};

#[test]
fn the_same_key_with_another_body_is_refused() {
    let (_dir, gate) = rig("");
    let answer = write(&gate, "k", &[INSERT]);
    first(&answer);
    refusal(&write(&gate, "k", &["DELETE FROM t"]), 422, "IDEMPOTENCY_KEY_REUSED");
    // Another path is another request.
    let headers = [("fencing-token", "5"), ("idempotency-key", "k")];
    let other = gate.client().request("POST", "/v2/pipeline", &headers, body(&[INSERT]).as_bytes()).expect("an answer");
    refusal(&other, 422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!((other.header("fencing-verdict"), other.header("fencing-highest")), (Some("admitted"), Some("5")));
    again(&write(&gate, "k", &[INSERT]), &answer);
    assert_eq!(count(&gate), "1");
}

#[test]
fn a_stale_token_gets_no_answer_and_a_newer_one_does() {
    let (_dir, gate) = rig("");
    let answer = post(gate.data, "5", "k", &body(&[INSERT]));
    first(&answer);
    let claimed = gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "6")], b"");
    assert_eq!(claimed.expect("an answer").status, 200);
    let stale = post(gate.data, "5", "k", &body(&[INSERT]));
    refusal(&stale, 412, "STALE_TOKEN");
    assert_eq!(stale.header("fencing-verdict"), Some("stale"));
    // Its successor finishes what it has begun, and advances with that; what the answer says of marks is true now.
    let later = post(gate.data, "7", "k", &body(&[INSERT]));
    again(&later, &answer);
    assert_eq!((later.header("fencing-verdict"), later.header("fencing-highest")), (Some("advanced"), Some("7")));
    refusal(&post(gate.data, "6", "k", &body(&[INSERT])), 412, "STALE_TOKEN");
    assert_eq!(count(&gate), "1");
}

#[test]
fn an_operators_reset_forgets_no_key() {
    let (_dir, gate) = rig("");
    let answer = post(gate.data, "5", "k", &body(&[INSERT]));
    first(&answer);
    let reset = json!({"highest": null, "reason": "a test"}).to_string();
    let reset = gate.admin().request("POST", "/v1/fences/app/reset", &[crate::process::JSON], reset.as_bytes());
    assert_eq!(reset.expect("an answer").status, 200);
    again(&post(gate.data, "1", "k", &body(&[INSERT])), &answer);
    assert_eq!(count(&gate), "1");
}

#[test]
fn a_write_without_a_token_is_refused_with_a_key_as_without() {
    let (_dir, gate) = rig("");
    let headers = [("idempotency-key", "k")];
    let answer = gate.client().request("POST", "/v3/pipeline", &headers, body(&[INSERT]).as_bytes());
    refusal(&answer.expect("an answer"), 428, "TOKEN_REQUIRED");
    first(&write(&gate, "k", &[INSERT]));
}

#[test]
fn a_malformed_key_is_refused() {
    let (_dir, gate) = rig("");
    let (long, long_quoted) = ("k".repeat(256), format!("\"{}\"", "k".repeat(256)));
    for key in ["", "\"\"", "\"a", "a b", "a,b", "\"a\";p=1", "\"a\" \"b\"", "\u{e4}", &long, &long_quoted] {
        refusal(&write(&gate, key, &[INSERT]), 400, "IDEMPOTENCY_KEY_MALFORMED");
    }
    let headers = [("fencing-token", "5"), ("idempotency-key", "a"), ("idempotency-key", "a")];
    let twice = gate.client().request("POST", "/v3/pipeline", &headers, body(&[INSERT]).as_bytes());
    refusal(&twice.expect("an answer"), 400, "IDEMPOTENCY_KEY_MALFORMED");
    assert_eq!(count(&gate), "0");
    // Fencing comes first.
    let claimed = gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "6")], b"");
    assert_eq!(claimed.expect("an answer").status, 200);
    refusal(&write(&gate, "a b", &[INSERT]), 412, "STALE_TOKEN");
    first(&post(gate.data, "6", &"k".repeat(255), &body(&[INSERT])));
}

#[test]
fn what_can_be_no_transaction_is_refused() {
    let (_dir, gate) = rig("");
    let unusable = |answer: &Answer| refusal(answer, 400, "IDEMPOTENCY_KEY_UNUSABLE");
    for statements in [
        &[INSERT, "BEGIN", INSERT][..],
        &["BEGIN", INSERT],
        &["BEGIN"],
        &["SAVEPOINT s", INSERT, "RELEASE s"],
        &[INSERT, "PRAGMA foreign_keys = off", INSERT],
        &["PRAGMA foreign_keys = off"],
        &[INSERT, "CREATE TABLE u (v UNIQUE)", "INSERT INTO u VALUES (1)", "INSERT OR ROLLBACK INTO u VALUES (1)"],
    ] {
        let statements: Vec<&str> = statements.to_vec();
        unusable(&write(&gate, "k", &statements));
        assert_eq!(count(&gate), "0", "{statements:?}");
        assert_eq!(found(&gate, "SELECT count(*) FROM sqlite_schema WHERE name = 'u'"), "0");
    }
    // A stream that is open goes on without the key.
    let begun =
        gate.client().pipeline(Some("5"), None, &json!([execute("BEGIN"), execute(INSERT)])).expect("an answer");
    let baton = begun.json()["baton"].as_str().expect("a stream").to_owned();
    let commit = json!({"baton": baton, "requests": [execute("COMMIT"), {"type": "close"}]}).to_string();
    for token in [Some("5"), None] {
        let headers = [("idempotency-key", "k"), ("fencing-token", token.unwrap_or_default())];
        let headers = if token.is_some() { &headers[..] } else { &headers[..1] };
        unusable(&gate.client().request("POST", "/v3/pipeline", headers, commit.as_bytes()).expect("an answer"));
    }
    assert_eq!(count(&gate), "0");
    let headers = [("fencing-token", "5")];
    let committed = gate.client().request("POST", "/v3/pipeline", &headers, commit.as_bytes()).expect("an answer");
    assert_eq!((committed.status, count(&gate).as_str()), (200, "1"));
    // The key was never used up.
    first(&write(&gate, "k", &[INSERT]));
}

#[test]
fn fences_have_keys_of_their_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = configured(dir.path(), "tables = { \"jobs\" = \"scheduler\" }", "");
    let both = "app=5, scheduler=8";
    first(&post(gate.data, both, "made", &body(&[CREATE, "CREATE TABLE jobs (v)"])));
    let job = &body(&["INSERT INTO jobs VALUES (1)"]);
    let (row, both_rows) = (&body(&[INSERT]), &body(&[INSERT, "INSERT INTO jobs VALUES (2)"]));
    first(&post(gate.data, "5", "k", row));
    first(&post(gate.data, "scheduler=8", "k", job));
    assert_eq!((count(&gate).as_str(), found(&gate, "SELECT count(*) FROM jobs").as_str()), ("1", "1"));
    // One that writes to both has its key in both.
    let answer = post(gate.data, both, "b", both_rows);
    first(&answer);
    refusal(&post(gate.data, "5", "b", row), 422, "IDEMPOTENCY_KEY_REUSED");
    refusal(&post(gate.data, "scheduler=8", "b", job), 422, "IDEMPOTENCY_KEY_REUSED");
    again(&post(gate.data, both, "b", both_rows), &answer);
    // Its answer is for none who may not write all that it wrote.
    for (token, missing) in [("5", "scheduler"), ("scheduler=8", "app")] {
        let answer = post(gate.data, token, "b", both_rows);
        refusal(&answer, 428, "TOKEN_REQUIRED");
        assert_eq!(answer.json()["fence"], missing);
    }
    assert_eq!((count(&gate).as_str(), found(&gate, "SELECT count(*) FROM jobs").as_str()), ("2", "2"));
}

#[test]
fn a_key_gives_nobody_an_answer_who_may_not_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let all = ["read", "claim", "write"];
    let principals = principal("leader", 1, &grant("*", "*", &all))
        + &principal("successor", 2, &grant("app", "app", &all))
        + &principal("reader", 3, &grant("*", "*", &["read"]))
        + &principal("elsewhere", 4, &grant("app", "other", &all));
    let resource = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &format!("{resource}{principals}"))]);
    let send = |who: Option<u8>, token: &str, body: &str| {
        let bearer = format!("Bearer {}", who.map_or_else(String::new, |byte| secret(byte).0));
        let headers = [("idempotency-key", "k"), ("fencing-token", token), ("authorization", &bearer)];
        let headers = if who.is_some() { &headers[..] } else { &headers[..2] };
        gate.client().request("POST", "/v3/pipeline", headers, body.as_bytes()).expect("an answer")
    };
    let answer = send(Some(1), "5", &body(&[CREATE]));
    first(&answer);
    for (who, status, code) in
        [(None, 401, "UNAUTHENTICATED"), (Some(3), 403, "FORBIDDEN"), (Some(4), 403, "FORBIDDEN")]
    {
        refusal(&send(who, "5", &body(&[CREATE])), status, code);
    }
    // Who may lead the fence may finish what its leader has begun.
    again(&send(Some(2), "6", &body(&[CREATE])), &answer);
    refusal(&send(Some(1), "5", &body(&[CREATE])), 412, "STALE_TOKEN");
}

#[test]
fn the_table_of_answers_is_the_gates_own() {
    let (_dir, gate) = rig("");
    first(&write(&gate, "k", &[INSERT]));
    for sql in [
        "SELECT * FROM fencegate_answers",
        "DELETE FROM fencegate_answers",
        "UPDATE fencegate_answers SET key = 'l'",
        "DROP TABLE fencegate_answers",
        "DROP INDEX fencegate_answers_by_key",
        "CREATE TRIGGER g AFTER INSERT ON fencegate_answers BEGIN SELECT 1; END",
    ] {
        let answer = gate.client().sql(Some("5"), &[sql]).json();
        assert_eq!(answer["results"][0]["error"]["code"], "SQLITE_AUTH", "{sql}: {answer}");
    }
}

#[test]
fn a_request_that_waits_keeps_no_other_out() {
    // Behind a client's transaction the first of the two waits, and so does the second; then one is applied.
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "");
    assert_eq!(gate.client().sql(Some("5"), &[CREATE]).status, 200);
    let begun = gate.client().pipeline(Some("5"), None, &json!([execute("BEGIN IMMEDIATE")])).expect("an answer");
    let baton = begun.json()["baton"].as_str().expect("a stream").to_owned();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(|| write(&gate, "k", &[INSERT]))).collect();
        let in_flight = || gate.client().get("/-/fences/app").json()["in_flight"] == 2;
        until("both are there", in_flight);
        let end = json!([execute("ROLLBACK"), {"type": "close"}]);
        assert_eq!(gate.client().pipeline(Some("5"), Some(&baton), &end).expect("an answer").status, 200);
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!((answers[0].status, &answers[0].body), (200, &answers[1].body));
    assert_eq!(count(&gate), "1");
}
