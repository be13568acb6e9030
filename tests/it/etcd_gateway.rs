//! etcd behind the gate, through its JSON gateway: one fence for the whole store, and reads that are POSTs.

use crate::upstream::etcd::{Etcd, ONE, get, put, value};
use crate::upstream::{self, has};

#[test]
fn a_key_is_put_with_5_and_6_and_not_with_5_again() {
    if !has("a_key_is_put_with_5_and_6_and_not_with_5_again", "etcd") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let etcd = Etcd::start(&ONE);
    let config = format!(
        "[[resource]]\nname = \"settings\"\nkind = \"http\"\nupstream = \"{}\"\nreads = [\"POST /v3/kv/range\"]\n",
        etcd.url()
    );
    let gate = upstream::gate(dir.path(), &config);
    let mut client = gate.client();
    let mut post = |path: &str, token: Option<&str>, body: &str| {
        let headers: Vec<(&str, &str)> = token.iter().map(|token| ("fencing-token", *token)).collect();
        client.request("POST", path, &headers, body.as_bytes()).expect("an answer")
    };
    for (token, status, after) in [("5", 200, "of 5"), ("6", 200, "of 6"), ("5", 412, "of 6"), ("6", 200, "of 6")] {
        let answer = post("/v3/kv/put", Some(token), &put("leader", &format!("of {token}")));
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("proxy-status").is_some(), status == 412, "{answer:?}");
        assert_eq!(etcd.value("leader").as_deref(), Some(after));
        let read = post("/v3/kv/range", None, &get("leader"));
        assert_eq!((read.status, value(&read.json()).as_deref()), (200, Some(after)), "a read without a token");
    }
    assert_eq!(post("/v3/kv/range", Some("5"), &get("leader")).status, 412, "a read with one is judged");
    for path in ["/v3/kv/put", "/v3/kv/deleterange", "/v3/kv/txn", "/v3/lease/grant"] {
        let answer = post(path, None, "{}");
        assert_eq!((answer.status, answer.code().as_str()), (428, "TOKEN_REQUIRED"), "{path}");
    }
    assert_eq!(post("/v3/kv/put", Some("6"), "no JSON").header("proxy-status"), None, "etcd's own refusal");
    assert_eq!(etcd.value("leader").as_deref(), Some("of 6"));
    let state = client.get("/-/fences/settings").json();
    assert_eq!((&state["highest"], &state["quarantined_until"]), (&serde_json::json!("6"), &serde_json::Value::Null));
}
