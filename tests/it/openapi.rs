//! What both listeners say of themselves, and that they are so: their OpenAPI documents. Requests that are made from them:
//! `tests/drivers/judges/`.

use serde_json::Value;

use crate::access::{config, grant, principal, secret};
use crate::process::{Client, Gate};

/// Both listeners of a gate with principals, each with its document.
fn listeners(gate: &Gate) -> [(Client, Value); 2] {
    [(gate.admin(), "/v1/openapi.json"), (gate.client(), "/-/openapi.json")].map(|(mut client, path)| {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{path}");
        let head = client.request("HEAD", path, &[], b"").expect("an answer");
        assert_eq!((head.status, head.header("content-length")), (200, answer.header("content-length")), "{path}");
        let document = answer.json();
        assert_eq!(document["openapi"], "3.1.0");
        (client, document)
    })
}

fn gate(dir: &std::path::Path) -> Gate {
    let all = grant("*", "*", &["observe", "read", "claim", "write", "operate"]);
    let resource = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    let file = config(dir, &format!("{resource}{}", principal("all", 1, &all)));
    Gate::start(dir, &["--config", &file])
}

#[test]
fn whatever_a_path_does_not_take_is_refused_with_what_it_takes() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path());
    let bearer = format!("Bearer {}", secret(1).0);
    for (mut client, document) in listeners(&gate) {
        for (path, item) in document["paths"].as_object().expect("paths") {
            let taken: Vec<String> =
                item.as_object().expect("a path").keys().map(|method| method.to_uppercase()).collect();
            let asked =
                ["{fence}", "{election}", "{file}"].iter().fold(path.clone(), |path, name| path.replace(name, "app"));
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"] {
                if taken.iter().any(|taken| taken == method) {
                    continue;
                }
                let answer =
                    client.request(method, &asked, &[("authorization", &bearer)], b"").expect("the gate answers");
                assert_eq!(answer.status, 405, "{method} {path}");
                let mut allowed: Vec<&str> = answer.header("allow").expect("Allow").split(", ").collect();
                allowed.sort_unstable();
                assert_eq!(allowed, taken, "{method} {path}");
            }
        }
    }
}

#[test]
fn what_the_document_calls_open_is_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path());
    for (mut client, document) in listeners(&gate) {
        for (path, item) in document["paths"].as_object().expect("paths") {
            let asked = ["{fence}", "{election}"].iter().fold(path.clone(), |path, name| path.replace(name, "app"));
            let asked = asked.replace("{file}", "main.js");
            for (method, operation) in item.as_object().expect("a path") {
                let is_open = operation["security"].as_array().is_some_and(Vec::is_empty);
                let headers = [("fencing-token", "9")];
                let method = method.to_uppercase();
                let answer = client.request(&method, &asked, &headers, b"{}").expect("the gate answers");
                assert_eq!(answer.status, if is_open { 200 } else { 401 }, "{method} {path}");
            }
            // Who isn't asked for anything may also ask wrongly.
            if item["get"]["security"].as_array().is_some_and(Vec::is_empty) {
                let answer = client.request("TRACE", &asked, &[], b"").expect("the gate answers");
                assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")), "{path}");
            }
        }
    }
}

#[test]
fn parameters_are_what_the_document_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::patient(dir.path());
    let mut admin = gate.admin();
    for (query, status) in [
        ("limit=0", 200),
        ("limit=99999999999999999999999999", 200),
        ("limit=%2B5", 400),
        ("limit=-1", 400),
        ("limit=", 400),
        ("limit=1&limit=1", 400),
        ("prefix=a&prefix=a", 400),
        ("name=a&name=a&other=1&other=2", 200),
        ("part=%ff", 400),
    ] {
        assert_eq!(admin.get(&format!("/v1/fences?{query}")).status, status, "{query}");
    }
    for (query, status) in [("before=0", 200), ("before=-1", 400), ("before=9223372036854775807", 200)] {
        assert_eq!(admin.get(&format!("/v1/fences/app/history?{query}")).status, status, "{query}");
    }
    assert_eq!(admin.get("/v1/fences/app/history?before=9223372036854775808").status, 400);
    let mut reset = |reason: &str| {
        let body = serde_json::json!({ "highest": "5", "reason": reason }).to_string();
        let json = [("content-type", "application/json")];
        admin.request("POST", "/v1/fences/app/reset", &json, body.as_bytes()).expect("an answer").status
    };
    let (longest, longer) = ("ä".repeat(1000), "ä".repeat(1001));
    for (reason, status) in [
        (&*longest, 200),
        (&longer, 400),
        (" why ", 200),
        ("why\n", 400),
        ("\u{85}", 400),
        ("\u{3000}", 400),
        ("", 400),
    ] {
        assert_eq!(reset(reason), status, "{reason:?}");
    }
}

#[test]
fn whole_numbers_are_whole_however_they_are_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = Gate::patient(dir.path());
    let mut client = gate.client();
    let mut campaign = |body: &str| {
        let answer = client.request("POST", "/-/elections/app/campaign", &[], body.as_bytes()).expect("an answer");
        (answer.status, answer.json()["ttl_ms"].clone())
    };
    let candidate = r#""candidate":"AAAAAAAAAAAAAAAAAAAAAA","enter":true"#;
    for ttl in ["20000", "20000.0", "2e4"] {
        assert_eq!(
            campaign(&format!(r#"{{"ttl_ms":{ttl},"wait_ms":0.0,{candidate}}}"#)),
            (200, 20_000.into()),
            "{ttl}"
        );
    }
    for wrong in ["20000.5", "-1", "-1.0", "1e300", "\"20000\"", "true", "999", "3600001"] {
        assert_eq!(campaign(&format!(r#"{{"ttl_ms":{wrong},{candidate}}}"#)).0, 400, "{wrong}");
    }
    for (query, status) in [("wait_ms=0", 200), ("wait_ms=%2B0", 400), ("wait_ms=-0", 400), ("wait_ms=", 400)] {
        assert_eq!(client.get(&format!("/-/elections/app/observe?{query}")).status, status, "{query}");
    }
}
