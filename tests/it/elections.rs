//! The embedded coordinator as a client sees it, together with the fence of the same name.

use serde_json::{Value, json};

use crate::process::{Answer, Client, Gate};

fn post(client: &mut Client, action: &str, body: &Value) -> Answer {
    let path = format!("/-/elections/app/{action}");
    client.request("POST", &path, &[], body.to_string().as_bytes()).expect("the gate answers")
}

#[test]
fn from_election_to_write_to_succession_over_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let args = ["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"];
    let gate = Gate::start(dir.path(), &args);
    let mut client = gate.client();
    // Somebody has claimed by hand: no token at or below that is ever issued.
    assert_eq!(client.sql(Some("100"), &["CREATE TABLE t (who TEXT)"]).status, 200);
    let first = post(&mut client, "campaign", &json!({ "holder": "first", "ttl_ms": 600_000 }));
    assert_eq!((first.status, &first.json()["token"]), (200, &json!("101")), "{first:?}");
    assert_eq!(client.sql(Some("101"), &["INSERT INTO t VALUES ('first')"]).status, 200);
    let second = post(&mut client, "campaign", &json!({ "holder": "second", "ttl_ms": 600_000 }));
    assert_eq!((second.status, &second.json()["state"]), (202, &json!("waiting")));
    gate.kill();

    let gate = Gate::start(dir.path(), &args);
    let mut client = gate.client();
    let leader = client.get("/-/elections/app").json();
    assert_eq!(leader["leader"]["token"], "101", "a restart ends no lease");
    let candidate = first.json()["candidate"].clone();
    assert_eq!(post(&mut client, "renew", &json!({ "candidate": candidate })).json()["token"], "101");
    assert_eq!(post(&mut client, "resign", &json!({ "candidate": candidate })).status, 200);
    let waiting = json!({ "candidate": second.json()["candidate"], "wait_ms": 60_000 });
    let elected = post(&mut client, "campaign", &waiting);
    assert_eq!((elected.status, &elected.json()["token"]), (200, &json!("102")), "{elected:?}");
    assert_eq!(client.sql(Some("102"), &["INSERT INTO t VALUES ('second')"]).status, 200);
    assert_eq!(client.sql(Some("101"), &["INSERT INTO t VALUES ('first, woken up')"]).status, 412);
    assert_eq!(post(&mut client, "renew", &json!({ "candidate": candidate })).status, 410);
}
