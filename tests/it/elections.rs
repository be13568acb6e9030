//! The embedded coordinator as a client sees it, together with the fence of the same name.

use serde_json::{Value, json};

use crate::process::{Answer, Client, Gate, until};

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

#[test]
fn those_who_wait_are_told_when_the_gate_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::start(dir.path(), &[]);
    let mut leader = gate.client();
    assert_eq!(post(&mut leader, "campaign", &json!({ "ttl_ms": 3_600_000 })).status, 200);
    // One that waits for its turn, and one that watches; both for longer than a gate takes to stop.
    let mut waiting = gate.client();
    let body = json!({ "wait_ms": 60_000, "ttl_ms": 3_600_000 }).to_string();
    let head =
        format!("POST /-/elections/app/campaign HTTP/1.1\r\nhost: gate\r\ncontent-length: {}\r\n\r\n", body.len());
    waiting.send(format!("{head}{body}").as_bytes()).expect("sent");
    let mut watching = gate.client();
    watching
        .send(b"GET /-/elections/app/observe?after=1000&wait_ms=60000 HTTP/1.1\r\nhost: gate\r\n\r\n")
        .expect("sent");
    let mut other = gate.client();
    until("one waits", || other.get("/-/elections/app").json()["candidates"] == 1);
    let stopping = std::time::Instant::now();
    assert_eq!(gate.terminate(), Some(0));
    assert!(stopping.elapsed() < std::time::Duration::from_secs(5), "it took {:?} to stop", stopping.elapsed());
    for mut client in [waiting, watching] {
        let answer = client.read_answer().expect("an answer, not a broken connection");
        assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"), "{answer:?}");
        assert!(answer.header("retry-after").is_some());
    }
}

#[test]
fn what_can_be_read_has_a_head() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::start(dir.path(), &[]);
    for path in ["/-/elections/app", "/-/elections/app/observe", "/-/fences/main", "/-/healthz", "/v3"] {
        let mut client = gate.client();
        client.send(format!("HEAD {path} HTTP/1.1\r\nhost: gate\r\n\r\n").as_bytes()).expect("sent");
        let head = client.read_until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {head}");
    }
}
