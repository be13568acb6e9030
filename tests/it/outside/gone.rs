//! The coordinator and the upstream go away and come back: what users are told, and what operators see.

use crate::process::{Answer, Client, until};
use crate::upstream::hostile::Hostile;
use crate::upstream::{self};

#[cfg(feature = "etcd")]
#[test]
fn without_a_coordinator_nobody_new_comes_in_and_all_else_goes_on() {
    use crate::upstream::etcd::{Etcd, ONE, put};
    if !upstream::has("outside::gone", "etcd") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let mut etcd = Etcd::start(&ONE);
    let gate = upstream::gate(
        dir.path(),
        &format!(
            "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\ntrust = \"coordinator\"\n\
             coordinator = \"{}/prod?timeout=500ms\"\n",
            etcd.address()
        ),
    );
    let elect = |etcd: &Etcd, key: &str| {
        let mut client = Client::connect(etcd.members[0].client.addr).expect("it listens");
        let body = put(&format!("prod/shop/{key}"), "node");
        let answer = client.request("POST", "/v3/kv/put", &[], body.as_bytes()).expect("an answer").json();
        answer["header"]["revision"].as_str().expect("a revision").to_owned()
    };
    let mut client = gate.client();
    let mut write = |token: &str, sql: &str| client.sql(Some(token), &[sql]);
    let counted = |answer: &str| {
        let metrics = String::from_utf8(gate.admin().get("/metrics").body).expect("text");
        let is = |line: &&str| line.starts_with("fencegate_coordinator_questions_total") && line.contains(answer);
        metrics
            .lines()
            .find(is)
            .map_or(0.0, |line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
    };
    let first = elect(&etcd, "1a");
    assert_eq!(write(&first, "CREATE TABLE t (v)").status, 200);
    etcd.members[0].kill();
    for _ in 0..2 {
        let newer = write("999999", "INSERT INTO t VALUES (1)");
        assert_eq!((newer.status, newer.code().as_str()), (503, "UNAVAILABLE"), "{newer:?}");
        assert!(newer.header("retry-after").is_some() && newer.json()["applied"] == "no", "{newer:?}");
        assert_eq!(write(&first, "INSERT INTO t VALUES (2)").status, 200, "who is at the mark goes on");
        assert_eq!(write("1", "INSERT INTO t VALUES (3)").status, 412, "and who is below it is refused");
    }
    assert!(counted("failed") >= 1.0);
    assert_eq!(gate.admin().get("/readyz").status, 200, "what the gate can do, it does");
    etcd.members[0].start();
    etcd.until_serving();
    assert_eq!(etcd.ctl(&["del", "prod/shop/1a"]).output().expect("it runs").status.code(), Some(0));
    let second = elect(&etcd, "2b");
    until("the next leader comes in", || write(&second, "INSERT INTO t VALUES (4)").status == 200);
    assert_eq!(write(&first, "INSERT INTO t VALUES (5)").status, 412);
}

#[test]
fn without_its_upstream_a_service_is_told_that_nothing_was_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut service = Hostile::start(dir.path());
    let config = format!(
        "[[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"{}\"\nfence = \"stock/{{1}}\"\n",
        service.url()
    );
    let gate = upstream::gate(dir.path(), &config);
    let mut client = gate.client();
    let mut write = |token: &str| -> Answer {
        client.request("PUT", "/7/doc", &[("fencing-token", token)], b"x").expect("an answer")
    };
    assert_eq!(write("5").status, 200);
    service.kill();
    // The one that was kept has gone with it. That nothing of a write was sent is certain, and the fence stays open for newer ones.
    for token in ["5", "6", "6"] {
        let answer = write(token);
        assert_eq!((answer.status, answer.code().as_str()), (502, "UPSTREAM_UNREACHABLE"), "{answer:?}");
        assert_eq!(answer.json()["applied"], "no");
        assert!(answer.header("proxy-status").is_some_and(|told| told.contains("connection_refused")), "{answer:?}");
    }
    assert_eq!(write("5").status, 412, "the mark rose all the same");
    assert_eq!(gate.admin().get("/readyz").status, 200);
    service.restart();
    assert_eq!(write("6").status, 200);
    assert_eq!(service.tokens("stock/7"), [5, 6]);
}
