//! Real gates that ask the coordinator of their own.

use serde_json::{Value, json};

use crate::process::{Client, Gate, JSON, PROGRAM, until};
use crate::upstream::{self, hostile::Hostile};

fn post(client: &mut Client, election: &str, action: &str, body: &Value) -> Value {
    let path = format!("/-/elections/{}/{action}", election.replace('/', "%2F"));
    let answer = client.request("POST", &path, &[], body.to_string().as_bytes()).expect("the gate answers");
    assert!(answer.status < 300, "{answer:?}");
    answer.json()
}

/// Enters the election; the candidate and, where it leads, its token.
fn campaign(gate: &Gate, election: &str, holder: &str) -> (Value, String) {
    let body = json!({ "holder": holder, "ttl_ms": 600_000 });
    let stands = post(&mut gate.client(), election, "campaign", &body);
    (stands["candidate"].clone(), stands["token"].as_str().unwrap_or_default().to_owned())
}

fn resign(gate: &Gate, election: &str, candidate: &Value) {
    post(&mut gate.client(), election, "resign", &json!({ "candidate": candidate }));
}

fn fence(gate: &Gate, name: &str) -> Value {
    gate.client().get(&format!("/-/fences/{}", name.replace('/', "%2F"))).json()
}

fn insert(gate: &Gate, token: &str) -> (u16, String) {
    let answer = gate.client().sql(Some(token), &["INSERT INTO t VALUES (1)"]);
    (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn a_database_before_the_gates_own_coordinator_over_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let args = ["--sqlite", file.to_str().expect("UTF-8"), "--trust", "coordinator"];
    let gate = Gate::start(dir.path(), &args);
    assert_eq!(insert(&gate, "5"), refused(403, "TOKEN_UNISSUED"), "nobody was elected yet");
    let (first, one) = campaign(&gate, "app", "first");
    assert_eq!(gate.client().sql(Some(&one), &["CREATE TABLE t (v)"]).status, 200);
    assert_eq!(insert(&gate, "9223372036854775807"), refused(403, "TOKEN_UNISSUED"));
    let (second, _) = campaign(&gate, "app", "second");
    resign(&gate, "app", &first);
    until("the successor's mark, without a request of its", || fence(&gate, "app")["holder"] == "second");
    assert_eq!(insert(&gate, &one), refused(412, "STALE_TOKEN"));
    let history = gate.admin().get("/v1/fences/app/history").json();
    assert_eq!(history["events"][0]["reason"], "the coordinator elected this leader", "{history}");
    let metrics = String::from_utf8(gate.admin().get("/metrics").body).expect("UTF-8");
    for line in [
        r#"fencegate_requests_total{resource="app",verdict="unissued"} 2"#,
        r#"fencegate_problems_total{resource="app",code="TOKEN_UNISSUED"} 2"#,
        r#"fencegate_coordinator_advances_total{resource="app"} 1"#,
        r#"fencegate_coordinator_questions_total{coordinator="embedded",answer="known"} 3"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let two = fence(&gate, "app")["highest"].as_str().expect("a mark").to_owned();
    gate.kill();

    let gate = Gate::start(dir.path(), &args);
    assert_eq!(insert(&gate, &two), (200, String::new()), "it leads on over a restart");
    assert_eq!(insert(&gate, &one), refused(412, "STALE_TOKEN"));
    assert_eq!(insert(&gate, "100"), refused(403, "TOKEN_UNISSUED"));
    let (_, none) = campaign(&gate, "app", "third");
    assert_eq!(none, "", "it waits");
    resign(&gate, "app", &second);
    until("the third's mark", || fence(&gate, "app")["holder"] == "third");
    assert_eq!(insert(&gate, &two), refused(412, "STALE_TOKEN"));
}

#[test]
fn what_is_configured_is_shown_and_mistakes_are_told() {
    let run = |args: &[&str]| {
        let output = std::process::Command::new(PROGRAM).args(args).output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("gate.toml");
    let config = "[[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"http://127.0.0.1:9\"\n\
                  fence = \"stock/{1}\"\ntrust = \"coordinator\"\nelection = \"shelf-{1}\"\n";
    std::fs::write(&file, config).expect("written");
    let file = file.to_str().expect("UTF-8");
    let (status, shown, _) = run(&["check-config", file]);
    assert!(status == Some(0) && shown.contains("trust coordinator: embedded, election shelf-{1}"), "{shown}");
    let json: Value = serde_json::from_str(&run(&["check-config", "--json", file]).1).expect("JSON");
    let resource = &json["resources"][0];
    assert_eq!((&resource["trust"], &resource["election"]), (&json!("coordinator"), &json!("shelf-{1}")));
    for (args, why) in [
        (&["serve", "--trust", "nobody"][..], "trust \"nobody\" is not known"),
        (&["serve", "--election", "x"], "election is for trust = \"coordinator\""),
        (&["serve", "--trust", "coordinator", "--election", "{1}"], "come from no path"),
        (&["serve", "--config", file, "--trust", "client"], "leave out --sqlite, --upstream, --fence, --trust"),
    ] {
        let (status, _, told) = run(args);
        assert!(status == Some(64) && told.contains(why), "{args:?}: {status:?} {told}");
    }
}

#[test]
fn one_leader_writes_to_two_resources_with_one_token() {
    let dir = tempfile::tempdir().expect("a directory");
    let upstream = Hostile::start(dir.path());
    let config = format!(
        "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\ntrust = \"coordinator\"\nelection = \"app\"\n\
         [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"{}\"\ntrust = \"coordinator\"\nelection = \"app\"\n",
        upstream.url()
    );
    let gate = upstream::gate(dir.path(), &config);
    let (candidate, one) = campaign(&gate, "app", "node-a");
    let sql = |token: &str| {
        let body =
            json!({ "requests": [{ "type": "execute", "stmt": { "sql": "CREATE TABLE IF NOT EXISTS t (v)" } }] });
        let headers = [("fencing-token", token)];
        gate.client()
            .request("POST", "/shop/v3/pipeline", &headers, body.to_string().as_bytes())
            .expect("an answer")
            .status
    };
    let put = |token: &str| {
        gate.client().request("PUT", "/stock/doc", &[("fencing-token", token)], b"x").expect("an answer").status
    };
    assert_eq!((sql(&one), put(&one)), (200, 200));
    // An operator sets one of the marks far up: the election's next token is above both.
    let reset = json!({ "highest": "100", "reason": "a test" }).to_string();
    assert_eq!(
        gate.admin().request("POST", "/v1/fences/stock/reset", &[JSON], reset.as_bytes()).expect("an answer").status,
        200
    );
    resign(&gate, "app", &candidate);
    let (_, next) = campaign(&gate, "app", "node-b");
    assert_eq!(next, "101");
    for name in ["shop", "stock"] {
        until("both marks rise by themselves", || fence(&gate, name)["highest"] == "101");
    }
    assert_eq!((sql(&one), put(&one), sql(&next), put(&next)), (412, 412, 200, 200));
    let metrics = String::from_utf8(gate.admin().get("/metrics").body).expect("UTF-8");
    for line in [
        r#"fencegate_advances_total{resource="stock"} 2"#,
        r#"fencegate_coordinator_advances_total{resource="stock"} 1"#,
        r#"fencegate_coordinator_advances_total{resource="shop"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
