//! What the contract says of HTTP, seen from outside: headers, statuses, codes, reserved paths, the admin listener.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{Answer, Client, Gate, JSON};

fn gate() -> (tempfile::TempDir, Gate) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"]);
    (dir, gate)
}

const SELECT: &str = r#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT 1"}},{"type":"close"}]}"#;

fn read(client: &mut Client, headers: &[(&str, &str)]) -> Answer {
    client.request("POST", "/v2/pipeline", headers, SELECT.as_bytes()).expect("the gate answers")
}

#[test]
fn the_story_of_the_readme() {
    let (_dir, gate) = gate();
    let mut client = gate.client();
    let created = client.sql(Some("5"), &["CREATE TABLE t (v TEXT)", "INSERT INTO t VALUES ('first')"]);
    assert_eq!((created.status, created.header("fencing-verdict")), (200, Some("advanced")));
    let second = client.sql(Some("6"), &["INSERT INTO t VALUES ('second')"]);
    assert_eq!((second.status, second.header("fencing-highest")), (200, Some("6")));
    let again = client.sql(Some("6"), &["INSERT INTO t VALUES ('second again')"]);
    assert_eq!((again.status, again.header("fencing-verdict")), (200, Some("admitted")));
    let stale = client.sql(Some("5"), &["INSERT INTO t VALUES ('woken up')"]);
    assert_eq!((stale.status, stale.header("fencing-verdict")), (412, Some("stale")));
    assert_eq!((stale.header("fencing-highest"), stale.header("content-type")), (Some("6"), Some("application/json")));
    let body = stale.json();
    assert_eq!(body["title"], "You've been replaced");
    assert_eq!(body["type"], "urn:fencegate:stale-token");
    assert_eq!((&body["code"], &body["applied"]), (&json!("STALE_TOKEN"), &json!("no")));
    assert_eq!((&body["presented"], &body["highest"], &body["fence"]), (&json!("5"), &json!("6"), &json!("app")));
    assert!(body["message"].as_str().expect("text").starts_with("You've been replaced"));
    let rows = client.sql(None, &["SELECT count(*) FROM t"]).json();
    assert_eq!(rows["results"][0]["response"]["result"]["rows"][0][0]["value"], "3");
}

#[test]
fn tokens_in_every_form() {
    let (_dir, gate) = gate();
    let mut client = gate.client();
    for (headers, status, code) in [
        (vec![], 200, ""),
        (vec![("fencing-token", "7")], 200, ""),
        (vec![("Fencing-Token", "app=7")], 200, ""),
        (vec![("authorization", "Bearer fgt.7")], 200, ""),
        (vec![("authorization", "bearer fgt.7"), ("fencing-token", "7")], 200, ""),
        (vec![("authorization", "Bearer something-else")], 200, ""),
        (vec![("authorization", "Basic Zm9vOmJhcg==")], 200, ""),
        (vec![("fencing-holder", "nobody")], 200, ""),
        (vec![("fencing-token", "07")], 400, "TOKEN_MALFORMED"),
        (vec![("fencing-token", "")], 400, "TOKEN_MALFORMED"),
        (vec![("fencing-token", "7, 7")], 400, "TOKEN_MALFORMED"),
        (vec![("fencing-token", "9223372036854775808")], 400, "TOKEN_MALFORMED"),
        (vec![("fencing-token", "7"), ("fencing-token", "7")], 400, "TOKEN_MALFORMED"),
        (vec![("fencing-token", "7"), ("fencing-holder", "a"), ("fencing-holder", "a")], 400, "TOKEN_MALFORMED"),
        (vec![("authorization", "Bearer fgt.7."), ("fencing-token", "7")], 400, "TOKEN_MALFORMED"),
        (vec![("authorization", "Bearer fgt.8"), ("fencing-token", "7")], 400, "TOKEN_MALFORMED"),
        (vec![("fencing-token", "other=7")], 400, "WRONG_FENCE"),
        (vec![("fencing-token", "app=7, other=7")], 400, "WRONG_FENCE"),
        (vec![("fencing-token", "6")], 412, "STALE_TOKEN"),
        (vec![("authorization", "Bearer fgt.6")], 412, "STALE_TOKEN"),
        (vec![("fencing-token", "7"), ("fencing-holder", "node-a")], 200, ""),
        (vec![("authorization", "Bearer fgt.7.bm9kZS1h")], 200, ""),
        (vec![("fencing-token", "7"), ("fencing-holder", "node-b")], 409, "TOKEN_CONFLICT"),
        (vec![("fencing-token", "7")], 200, ""),
    ] {
        let answer = read(&mut client, &headers);
        assert_eq!(answer.status, status, "{headers:?}: {answer:?}");
        if !code.is_empty() {
            assert_eq!(answer.code(), code, "{headers:?}");
            assert!(answer.header("fencing-verdict").is_some(), "{headers:?}");
        }
    }
    assert_eq!(read(&mut client, &[]).header("fencing-verdict"), None, "a request without a token isn't judged");
}

#[test]
fn a_refusal_of_what_is_malformed_tells_the_mark_too() {
    let (_dir, gate) = gate();
    let mut client = gate.client();
    let unmarked = read(&mut client, &[("fencing-token", "x")]);
    assert_eq!((unmarked.header("fencing-verdict"), unmarked.header("fencing-highest")), (Some("malformed"), None));
    assert_eq!((&unmarked.json()["fence"], &unmarked.json()["highest"]), (&json!("app"), &Value::Null));
    assert_eq!(read(&mut client, &[("fencing-token", "7")]).status, 200);
    for headers in [
        vec![("fencing-token", "07")],
        vec![("fencing-token", "7"), ("fencing-token", "7")],
        vec![("fencing-token", "other=7")],
        vec![("fencing-holder", "")],
        vec![("authorization", "Bearer fgt.")],
    ] {
        let claim = client.request("POST", "/-/fences/app/claim", &headers, b"").expect("an answer");
        let answers = [read(&mut client, &headers), claim];
        for answer in answers {
            assert_eq!((answer.status, answer.header("fencing-verdict")), (400, Some("malformed")), "{headers:?}");
            assert_eq!(answer.header("fencing-highest"), Some("7"), "{headers:?}");
            let body = answer.json();
            assert_eq!((&body["fence"], &body["highest"]), (&json!("app"), &json!("7")), "{headers:?}");
        }
    }
}

#[test]
fn reads_claim_too() {
    let (_dir, gate) = gate();
    let mut client = gate.client();
    assert_eq!(read(&mut client, &[("fencing-token", "3")]).header("fencing-verdict"), Some("advanced"));
    let hello = client.request("GET", "/v3", &[("fencing-token", "4")], b"").expect("an answer");
    assert_eq!((hello.status, hello.header("fencing-verdict")), (200, Some("advanced")));
    assert_eq!(read(&mut client, &[("fencing-token", "3")]).status, 412);
    assert_eq!(client.request("GET", "/v2", &[("fencing-token", "3")], b"").expect("an answer").status, 412);
}

#[test]
fn whoever_presents_a_token_claims_whatever_becomes_of_the_request() {
    let (_dir, gate) = gate();
    let mut client = gate.client();
    for (number, (path, body, status)) in [
        ("/v3/pipeline", "this is no JSON", 400),
        ("/v3/pipeline", "[]", 400),
        ("/v3/pipeline", "[null,[]]", 400),
        ("/v3/cursor", r#"[null,{"steps":[]}]"#, 400),
        ("/v3/pipeline", r#"{"baton":"nonsense","requests":[]}"#, 400),
        ("/nothing", "", 404),
        ("/v3", "", 405),
    ]
    .into_iter()
    .enumerate()
    {
        let token = (10 + number).to_string();
        let answer = client.request("POST", path, &[("fencing-token", &token)], body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.header("fencing-verdict"), Some("advanced"), "{path}");
        assert_eq!(answer.header("fencing-highest"), Some(token.as_str()), "{path}");
        assert_eq!((&answer.json()["presented"], &answer.json()["fence"]), (&json!(token), &json!("app")), "{path}");
        assert_eq!(client.get("/-/fences/app").json()["highest"], token.as_str());
    }
}

#[test]
fn claims_and_fence_state() {
    let (_dir, gate) = gate();
    let mut client = gate.client();
    assert_eq!(client.get("/-/fences/app").json()["highest"], Value::Null);
    assert_eq!(client.get("/-/fences/other").status, 404);
    assert_eq!(client.get("/-/fences/a%20b").status, 404);
    let mut claim = |fence: &str, headers: &[(&str, &str)]| {
        client.request("POST", &format!("/-/fences/{fence}/claim"), headers, b"").expect("an answer")
    };
    let first = claim("app", &[("fencing-token", "5"), ("fencing-holder", "a")]);
    let body = json!({ "fence": "app", "token": "5", "highest": "5", "previous": null, "verdict": "advanced" });
    assert_eq!((first.status, first.json()), (200, body));
    assert_eq!(first.header("fencing-verdict"), Some("advanced"));
    assert_eq!(claim("app", &[("authorization", "Bearer fgt.9")]).json()["previous"], "5");
    assert_eq!(claim("app", &[("fencing-token", "9")]).json()["verdict"], "admitted");
    let stale = claim("app", &[("fencing-token", "8")]);
    assert_eq!((stale.status, stale.header("content-type")), (412, Some("application/problem+json")));
    assert_eq!(claim("app", &[]).code(), "TOKEN_REQUIRED");
    assert_eq!(claim("app", &[("fencing-token", "other=9")]).code(), "WRONG_FENCE");
    assert_eq!(claim("app", &[("fencing-token", "x")]).code(), "TOKEN_MALFORMED");
    assert_eq!(claim("other", &[("fencing-token", "9")]).status, 404);
    let state = client.get("/-/fences/app").json();
    assert_eq!((&state["highest"], &state["holder"]), (&json!("9"), &Value::Null));
    for key in ["advanced_at", "in_flight", "quarantined_until"] {
        assert!(state.get(key).is_some(), "{key}");
    }
}

#[test]
fn paths_and_methods() {
    let (_dir, gate) = gate();
    let mut client = gate.client();
    for (method, path, status) in [
        ("GET", "/-/healthz", 200),
        ("GET", "/-/readyz", 200),
        ("POST", "/-/healthz", 405),
        ("GET", "/-/nothing", 404),
        ("GET", "/-/-/healthz", 404),
        ("GET", "/-//healthz", 404),
        ("GET", "/-/fences/app/claim", 405),
        ("DELETE", "/-/fences/app", 405),
        ("GET", "/-/fences/%ff", 400),
        ("GET", "/-/elections/app", 200),
        ("DELETE", "/-/elections/app", 405),
        ("GET", "/-/elections/app/campaign", 405),
        ("GET", "/v2", 200),
        ("GET", "/v3", 200),
        ("GET", "/v3/pipeline", 405),
        ("POST", "/v3", 405),
        ("GET", "/nothing", 404),
        ("POST", "/v1/execute", 404),
        ("POST", "/v3/../v3/pipeline", 404),
    ] {
        let answer = client.request(method, path, &[], b"").expect("an answer");
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}: {answer:?}");
    }
    let mut admin = gate.admin();
    for (method, path, status) in [
        ("GET", "/", 200),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/v1/status", 200),
        ("GET", "/v1/fences", 200),
        ("GET", "/v1/fences/app", 200),
        ("GET", "/v1/fences/other", 404),
        ("GET", "/v1/fences/app/history", 200),
        ("GET", "/v1/fences?limit=x", 400),
        ("POST", "/v1/fences", 405),
        ("DELETE", "/v1/events", 405),
        ("GET", "/v1/fences/app/reset", 405),
        ("POST", "/v1/fences/app/reset", 400),
        ("GET", "/nothing", 404),
    ] {
        let answer = admin.request(method, path, &[], b"").expect("an answer");
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{method} {path}: {answer:?}");
    }
}

#[test]
fn what_operators_do() {
    let (_dir, gate) = gate();
    let (mut client, mut admin) = (gate.client(), gate.admin());
    client.sql(Some("50"), &["CREATE TABLE t (v)"]);
    for _ in 0..3 {
        assert_eq!(client.sql(Some("49"), &["INSERT INTO t VALUES (1)"]).status, 412);
    }
    let fence = admin.get("/v1/fences/app").json();
    assert_eq!((&fence["refusals"][0]["count"], &fence["refusals"][0]["token"]), (&json!(3), &json!("49")));
    let mut post = |action: &str, headers: &[(&str, &str)], body: &Value| {
        let path = format!("/v1/fences/app/{action}");
        let headers = [&[JSON], headers].concat();
        admin.request("POST", &path, &headers, body.to_string().as_bytes()).expect("an answer")
    };
    let reset = json!({ "highest": "40", "reason": "restored from a backup" });
    assert_eq!(post("reset", &[("origin", "http://evil.example")], &reset).status, 403);
    assert_eq!(post("reset", &[], &json!({ "highest": "40" })).status, 400, "a reason is needed");
    assert_eq!(post("reset", &[], &json!({ "reason": "x" })).status, 400, "highest is needed");
    assert_eq!(post("reset", &[], &json!({ "highest": 40, "reason": "x" })).status, 400, "tokens are strings");
    assert_eq!(post("reset", &[], &json!(["40", "x"])).status, 400, "an object is needed");
    assert_eq!(post("reset", &[], &reset).json(), json!({ "fence": "app", "highest": "40", "previous": "50" }));
    assert_eq!(post("release", &[], &json!({ "reason": "x" })).json()["released"], false);
    assert_eq!(client.sql(Some("41"), &["INSERT INTO t VALUES (1)"]).status, 200);
    assert_eq!(
        client.request("POST", "/v3/pipeline", &[("fencing-token", "41")], b"[").expect("an answer").status,
        400
    );
    let history = admin.get("/v1/fences/app/history?limit=2").json();
    assert_eq!(history["events"][1]["reason"], "restored from a backup");
    let before = history["next"].as_str().expect("there is more").to_owned();
    let rest = admin.get(&format!("/v1/fences/app/history?before={before}")).json();
    assert_eq!((&rest["events"][0]["token"], &rest["next"]), (&json!("50"), &Value::Null));
    let metrics = String::from_utf8(admin.get("/metrics").body).expect("UTF-8");
    for line in [
        "fencegate_requests_total{resource=\"app\",verdict=\"stale\"} 3",
        // The table's making, and a body that was not understood after the claim was judged.
        "fencegate_requests_total{resource=\"app\",verdict=\"advanced\"} 2",
        "fencegate_requests_total{resource=\"app\",verdict=\"admitted\"} 1",
        "fencegate_fence_highest{resource=\"app\",fence=\"app\"} 41",
        "fencegate_fence_refused_total{resource=\"app\",fence=\"app\"} 3",
        "fencegate_advances_total{resource=\"app\"} 2",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn events_are_told_as_they_happen() {
    let (_dir, gate) = gate();
    let mut watcher = gate.admin();
    watcher.send(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    assert!(watcher.read_until("watching").contains("text/event-stream"));
    let mut client = gate.client();
    client.sql(Some("8"), &["CREATE TABLE t (v)"]);
    let told = watcher.read_until("event: advanced");
    assert!(told.contains("event: advanced"));
    client.sql(Some("7"), &["INSERT INTO t VALUES (1)"]);
    watcher.read_until("event: stale");
    assert!(watcher.read_until("\"token\":\"7\"").contains("\"count\":1"));
}

#[test]
fn below_a_mount_point() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("gate.toml");
    let resource = |name: &str| format!("[[resource]]\nname = \"{name}\"\nkind = \"sqlite\"\nfile = \"{name}.db\"\n");
    std::fs::write(&config, resource("shop") + &resource("audit")).expect("written");
    let gate = Gate::start(dir.path(), &["--config", config.to_str().expect("UTF-8")]);
    let mut client = gate.client();
    let mut ask = |method: &str, path: &str| {
        let body = if method == "POST" { SELECT } else { "" };
        let answer = client.request(method, path, &[], body.as_bytes()).expect("an answer");
        (answer.status, answer.header("content-type").map(str::to_owned), answer)
    };
    for (method, path) in [
        ("GET", "/shop/v2"),
        ("GET", "/shop/v3"),
        ("POST", "/shop/v2/pipeline"),
        ("POST", "/shop/v3/pipeline"),
        ("POST", "/audit/v3/pipeline?a=b"),
    ] {
        assert_eq!(ask(method, path).0, 200, "{method} {path}");
    }
    for path in ["/shopping/v3/pipeline", "/Shop/v3/pipeline", "/", "/x"] {
        let (status, media_type, _) = ask("POST", path);
        assert_eq!((status, media_type.as_deref()), (404, Some("application/problem+json")), "{path}");
    }
    // What a libSQL driver asks for whose URL ends in /shop: it reads the message from application/json only.
    let (status, media_type, answer) = ask("POST", "/v3/pipeline");
    assert_eq!((status, media_type.as_deref()), (404, Some("application/json")));
    let message = answer.json()["message"].as_str().expect("text").to_owned();
    assert!(message.contains("/audit/, /shop/") && message.contains("slash at its end"), "{message}");
}

#[test]
fn connections_have_their_number_and_their_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("gate.toml");
    let resource = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    let limits = "[limits]\nconnections = 1\nheader_time = \"1s\"\nbody_time = \"1s\"\n";
    std::fs::write(&config, format!("{resource}{limits}")).expect("written");
    let gate = Gate::start(dir.path(), &["--config", config.to_str().expect("UTF-8")]);
    let mut first = gate.client();
    // One that sends no headers is closed; until then there is no room for another one.
    first.read_answer().expect_err("it is closed");
    let slow = loop {
        let mut slow = gate.client();
        let head = "POST /v2/pipeline HTTP/1.1\r\nhost: gate\r\ncontent-length: 100\r\n\r\n";
        let answer = slow.send(head.as_bytes()).and_then(|()| slow.read_answer());
        match answer {
            Ok(answer) if answer.status == 408 => break answer,
            // The place of the one before is free a moment after that one sees its end.
            Ok(answer) => assert_eq!(answer.status, 503),
            Err(_) => {}
        }
    };
    assert_eq!(slow.code(), "REQUEST_TIMEOUT");
}

#[test]
fn every_head_has_its_time_whatever_came_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("gate.toml");
    let resource = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    std::fs::write(&config, format!("{resource}[limits]\nheader_time = \"1s\"\n")).expect("written");
    let gate = Gate::start(dir.path(), &["--config", config.to_str().expect("UTF-8")]);
    // Of a connection that is only kept, and of one on which a part of a head has come.
    for part in ["", "GET /-/healthz HTTP/1.1\r\nhost:"] {
        let mut client = gate.client();
        for _ in 0..3 {
            assert_eq!(client.get("/-/healthz").status, 200);
        }
        let since = Instant::now();
        client.send(part.as_bytes()).expect("sent");
        client.read_answer().expect_err("it is closed");
        let taken = since.elapsed();
        assert!((Duration::from_millis(900)..Duration::from_secs(30)).contains(&taken), "{part:?}: {taken:?}");
    }
}

#[test]
fn bodies_of_every_kind_one_after_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::start(dir.path(), &[]);
    let mut client = gate.client();
    let body = r#"{"requests":[{"type":"close"}]}"#;
    // Whole, in two pieces, and in chunks; read by the resource, and refused before that.
    for turn in 0..12 {
        let (length, chunked) = (format!("content-length: {}", body.len()), "transfer-encoding: chunked".to_owned());
        let framing = if turn % 3 == 2 { chunked } else { length };
        let path = if turn % 2 == 0 { "/v3/pipeline" } else { "/nowhere" };
        let head = format!("POST {path} HTTP/1.1\r\nhost: gate\r\n{framing}\r\n\r\n");
        let (first, rest) = body.split_at(10);
        let pieces = match turn % 3 {
            0 => vec![head + body],
            1 => vec![head + first, rest.to_owned()],
            _ => vec![head, format!("{:x}\r\n{body}\r\n", body.len()), "0\r\n\r\n".to_owned()],
        };
        for piece in pieces {
            client.send(piece.as_bytes()).expect("sent");
            // The gate has seen so much of it when it has answered somebody else.
            assert_eq!(gate.client().get("/-/healthz").status, 200);
        }
        let status = client.read_answer().expect("an answer").status;
        assert_eq!(status, if turn % 2 == 0 { 200 } else { 404 }, "{turn}");
    }
}
