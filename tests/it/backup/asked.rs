//! What is restored where the gate asks the coordinator before it believes a token: no mark stands for somebody's word.

use serde_json::json;

use crate::process::{Client, until};

use super::{World, claim, elected, election, term, write};

/// A gate before a database and an HTTP service, which ask this coordinator.
fn world(coordinator: &str) -> World {
    let trust = format!("trust = \"coordinator\"\ncoordinator = \"{coordinator}\"");
    World::with(&format!(
        "data_dir = \"data\"
        [[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n{trust}
        [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"http://127.0.0.1:9\"\nfence = \"stock/{{1}}\"\nsettle = \"200ms\"\n\
        election = \"shelf/{{1}}\"\n{trust}\n"
    ))
}

/// A claim, once the quarantine of a restored fence is over.
fn settled(client: &mut Client, fence: &str, token: u64) -> (u16, String) {
    let mut answer = claim(client, fence, token);
    until("the quarantine is over", || {
        if answer.code() == "QUARANTINED" {
            answer = claim(client, fence, token);
        }
        answer.code() != "QUARANTINED"
    });
    (answer.status, answer.code())
}

fn insert(client: &mut Client, token: u64) -> (u16, String) {
    let answer = write(client, token, "INSERT INTO t VALUES ('x')");
    (answer.status, answer.code())
}

fn told(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn neither_the_backups_leader_nor_a_made_up_token_gets_in() {
    let world = world("embedded");
    let gate = world.gate();
    let mut client = gate.client();
    let (first, candidate) = elected(&mut client, "app");
    assert_eq!(write(&mut client, first, "CREATE TABLE t (v)").status, 200);
    let (shelf, on_shelf) = elected(&mut client, "shelf/7");
    assert_eq!(claim(&mut client, "stock/7", shelf).status, 200);
    world.backup("backup");
    for (name, candidate) in [("app", candidate), ("shelf/7", on_shelf)] {
        assert_eq!(election(&mut client, name, "resign", &json!({ "candidate": candidate })).status, 200);
    }
    let last = term(&mut client, "app");
    assert_eq!(gate.terminate(), Some(0));
    let said = world.restore(&["--replace", "--json"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(said.json()["marks_at_least"], json!({ "app": null, "stock": null }));
    let above: u64 = said.json()["next_tokens_above"].as_str().expect("a text").parse().expect("a number");
    let gate = world.gate();
    let mut client = gate.client();
    for token in [first, last, above, above + 1, above + 7] {
        assert_eq!(insert(&mut client, token), told(403, "TOKEN_UNISSUED"), "{token}");
    }
    // Fences that the backup knows, and one that it doesn't.
    for fence in ["stock/7", "stock/8"] {
        for token in [shelf, above, above + 1] {
            assert_eq!(settled(&mut client, fence, token), told(403, "TOKEN_UNISSUED"), "{fence} {token}");
        }
    }
    let (next, _) = elected(&mut client, "app");
    assert!(next > above);
    assert_eq!(insert(&mut client, next).0, 200);
    for token in [first, last, above] {
        assert_eq!(insert(&mut client, token), told(412, "STALE_TOKEN"), "{token}");
    }
    let (next, _) = elected(&mut client, "shelf/7");
    assert_eq!(settled(&mut client, "stock/7", next).0, 200);
    assert_eq!(settled(&mut client, "stock/7", shelf), told(412, "STALE_TOKEN"));
    // That the mark is gone, and what it was, is on the record.
    for (fence, mark) in [("app", first), ("stock%2F7", shelf)] {
        let events = gate.admin().get(&format!("/v1/fences/{fence}/history")).json();
        let events = events["events"].as_array().expect("a list").clone();
        let line = events.iter().find(|event| event["event"] == "restored").expect("a line");
        assert_eq!((&line["token"], &line["previous"]), (&json!(null), &json!(mark.to_string())), "{line}");
    }
}

#[cfg(feature = "etcd")]
#[test]
fn an_etcd_is_asked_about_the_backups_own_leader() {
    use crate::upstream::etcd::{Etcd, ONE};
    if !crate::upstream::has("an_etcd_is_asked_about_the_backups_own_leader", "etcd") {
        return;
    }
    let etcd = Etcd::start(&ONE);
    let stand = |key: &str| -> u64 {
        etcd.told(&["put", key, "anna"]);
        let got: serde_json::Value = serde_json::from_str(&etcd.told(&["get", key, "-w", "json"])).expect("JSON");
        got["kvs"][0]["create_revision"].as_u64().expect("a number")
    };
    let world = world(&format!("{}/prod", etcd.address()));
    let gate = world.gate();
    let first = stand("prod/app/1");
    assert_eq!(write(&mut gate.client(), first, "CREATE TABLE t (v)").status, 200);
    let shelf = stand("prod/shelf/7/1");
    assert_eq!(claim(&mut gate.client(), "stock/7", shelf).status, 200);
    world.backup("backup");
    etcd.told(&["del", "prod/app/1"]);
    etcd.told(&["del", "prod/shelf/7/1"]);
    assert_eq!(gate.terminate(), Some(0));
    assert_eq!(world.restore(&["--replace"]).status, 0);
    let gate = world.gate();
    let mut client = gate.client();
    assert_eq!(insert(&mut client, first), told(403, "TOKEN_UNISSUED"), "its term is over, and nobody else leads");
    assert_eq!(settled(&mut client, "stock/7", shelf), told(403, "TOKEN_UNISSUED"));
    let next = stand("prod/app/2");
    assert_eq!(insert(&mut client, next).0, 200, "whoever leads now needs no new election");
    assert_eq!(insert(&mut client, first), told(412, "STALE_TOKEN"));
}
