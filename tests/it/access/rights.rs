//! Every right on every route.

use serde_json::{Value, json};

use super::{Yes, config, grant, principal, resources, secret};
use crate::process::{Answer, Client, Gate};

/// A request, and who may send it.
struct Route {
    is_admin: bool,
    method: &'static str,
    path: &'static str,
    token: Option<&'static str>,
    body: String,
    allowed: &'static [&'static str],
}

const EVERYBODY: &[&str] =
    &["nobody", "wrong", "observe", "read", "claim", "write", "operate", "read+claim", "read+write"];
const KNOWN: &[&str] = &["observe", "read", "claim", "write", "operate", "read+claim", "read+write"];
const READERS: &[&str] = &["read", "read+claim", "read+write"];
const CLAIMERS: &[&str] = &["claim", "write", "read+claim", "read+write"];
const WRITERS: &[&str] = &["write", "read+write"];
const BOTH: &[&str] = &["read+write"];

fn sql(text: &str) -> String {
    json!({"requests": [{"type": "execute", "stmt": {"sql": text}}, {"type": "close"}]}).to_string()
}

fn routes() -> Vec<Route> {
    let route =
        |is_admin, method, path, token, body: String, allowed| Route { is_admin, method, path, token, body, allowed };
    let data = |method, path, token, allowed| route(false, method, path, token, String::new(), allowed);
    let admin = |method, path, body: &str, allowed| route(true, method, path, None, body.to_owned(), allowed);
    let candidate = json!({"candidate": "AAAAAAAAAAAAAAAAAAAAAA"}).to_string();
    let reset = r#"{"highest": "7", "reason": "a test"}"#;
    vec![
        data("GET", "/-/healthz", None, EVERYBODY),
        data("GET", "/-/readyz", None, EVERYBODY),
        data("GET", "/-/fences/shop", None, KNOWN),
        data("HEAD", "/-/fences/stock%2Fa", None, KNOWN),
        data("POST", "/-/fences/shop/claim", Some("7"), CLAIMERS),
        data("POST", "/-/fences/stock%2Fa/claim", Some("7"), CLAIMERS),
        data("GET", "/-/elections/shop", None, KNOWN),
        data("GET", "/-/elections/of-no-fence/observe?wait_ms=0", None, KNOWN),
        route(false, "POST", "/-/elections/shop/campaign", None, String::new(), CLAIMERS),
        route(false, "POST", "/-/elections/of-no-fence/campaign", None, String::new(), CLAIMERS),
        route(false, "POST", "/-/elections/shop/renew", None, candidate.clone(), CLAIMERS),
        route(false, "POST", "/-/elections/shop/resign", None, candidate, CLAIMERS),
        data("GET", "/shop/v2", None, READERS),
        route(false, "POST", "/shop/v3/pipeline", None, sql("SELECT 1"), READERS),
        route(false, "POST", "/shop/v3/pipeline", Some("7"), sql("SELECT 1"), BOTH),
        route(false, "POST", "/shop/v3/pipeline", Some("7"), sql("CREATE TABLE IF NOT EXISTS t (v)"), BOTH),
        route(false, "POST", "/shop/v2/pipeline", Some("shop=7, scheduler=7"), sql("SELECT 1"), BOTH),
        route(false, "POST", "/shop/v3/cursor", None, "{}".to_owned(), READERS),
        data("GET", "/shop/nothing", None, READERS),
        data("GET", "/stock/a/1", None, READERS),
        data("HEAD", "/stock/a/1", None, READERS),
        data("GET", "/stock/", None, READERS),
        data("GET", "/stock/a/1", Some("7"), &["read+claim", "read+write"]),
        data("PUT", "/stock/a/1", Some("7"), WRITERS),
        data("DELETE", "/stock/a/1", Some("7"), WRITERS),
        data("PUT", "/stock/a/1", None, WRITERS),
        data("POST", "/stock/", Some("7"), WRITERS),
        admin("GET", "/healthz", "", EVERYBODY),
        admin("GET", "/readyz", "", EVERYBODY),
        admin("GET", "/", "", EVERYBODY),
        admin("GET", "/metrics", "", KNOWN),
        admin("GET", "/v1/status", "", KNOWN),
        admin("GET", "/v1/fences", "", KNOWN),
        admin("GET", "/v1/fences?name=shop", "", KNOWN),
        admin("GET", "/v1/overview", "", KNOWN),
        admin("GET", "/console/main.js", "", EVERYBODY),
        admin("GET", "/v1/fences/shop", "", KNOWN),
        admin("GET", "/v1/fences/stock%2Fa/history", "", KNOWN),
        admin("GET", "/v1/anything-new", "", KNOWN),
        admin("POST", "/v1/fences/shop/reset", reset, &["operate"]),
        admin("POST", "/v1/fences/stock%2Fa/reset", reset, &["operate"]),
        admin("POST", "/v1/fences/shop/release", r#"{"reason": "a test"}"#, &["operate"]),
        admin("POST", "/v1/anything-new", "", &["operate"]),
        admin("DELETE", "/anything-new", "", &["operate"]),
    ]
}

fn ask(gate: &Gate, route: &Route, secret: Option<&str>) -> Answer {
    let mut client = if route.is_admin { gate.admin() } else { gate.client() };
    let bearer = secret.map(|secret| format!("Bearer {secret}"));
    let mut headers: Vec<(&str, &str)> = route.token.iter().map(|token| ("fencing-token", *token)).collect();
    if !route.body.is_empty() {
        headers.push(("content-type", "application/json"));
    }
    headers.extend(bearer.iter().map(|bearer| ("authorization", bearer.as_str())));
    client.request(route.method, route.path, &headers, route.body.as_bytes()).expect("the gate answers")
}

fn principals(resource: &str, fence: &str) -> (String, Vec<(&'static str, Option<String>)>) {
    let mut text = String::new();
    let mut known = vec![("nobody", None), ("wrong", Some(secret(99).0))];
    for (index, name) in KNOWN.iter().enumerate() {
        let byte = u8::try_from(index).unwrap() + 1;
        let rights: Vec<&str> = name.split('+').collect();
        text.push_str(&principal(name, byte, &grant(resource, fence, &rights)));
        known.push((name, Some(secret(byte).0)));
    }
    (text, known)
}

#[test]
fn every_right_on_every_route() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let (principals, known) = principals("*", "*");
    let file = config(dir.path(), &format!("{}{principals}", resources(upstream.addr)));
    let gate = Gate::start(dir.path(), &["--config", &file]);
    for route in routes() {
        for (name, secret) in &known {
            let answer = ask(&gate, &route, secret.as_deref());
            let Route { method, path, token, .. } = &route;
            let what = format!("{name}: {method} {path} {token:?}: {answer:?}");
            let is_known = secret.is_some() && *name != "wrong";
            match route.allowed.contains(name) {
                true => assert!(!matches!(answer.status, 401 | 403), "{what}"),
                false => assert_eq!(answer.status, if is_known { 403 } else { 401 }, "{what}"),
            }
            if answer.status == 401 {
                assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer "), "{what}");
            }
            if matches!(answer.status, 401 | 403) && *method != "HEAD" {
                let code = if answer.status == 401 { "UNAUTHENTICATED" } else { "FORBIDDEN" };
                assert_eq!((answer.code().as_str(), &answer.json()["applied"]), (code, &Value::from("no")), "{what}");
                assert_eq!(answer.header("fencing-verdict"), None, "nothing was judged: {what}");
            }
        }
    }
}

#[test]
fn without_principals_everybody_may_do_everything() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &resources(upstream.addr))]);
    // The same requests: what is refused above is refused for want of rights.
    for route in routes() {
        for secret in [None, Some(secret(99).0)] {
            let answer = ask(&gate, &route, secret.as_deref());
            assert!(!matches!(answer.status, 401 | 403), "{} {}: {answer:?}", route.method, route.path);
        }
    }
}

#[test]
fn rights_elsewhere_are_none_here() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    // All rights, but on a fence that none of the routes below is about.
    let (principals, known) = principals("stock", "stock/other");
    let file = config(dir.path(), &format!("{}{principals}", resources(upstream.addr)));
    let gate = Gate::start(dir.path(), &["--config", &file]);
    let open = [
        "/-/healthz",
        "/-/readyz",
        "/healthz",
        "/readyz",
        "/",
        "/v1/status",
        "/v1/fences",
        "/v1/fences?name=shop",
        "/console/main.js",
    ];
    for route in routes().into_iter().filter(|route| !open.contains(&route.path)) {
        for (name, secret) in &known {
            let expected = if matches!(*name, "nobody" | "wrong") { 401 } else { 403 };
            let answer = ask(&gate, &route, secret.as_deref());
            assert_eq!(answer.status, expected, "{name}: {} {}: {answer:?}", route.method, route.path);
        }
    }
    let writer = known.iter().find(|(name, _)| *name == "write").unwrap().1.clone().unwrap();
    let bearer = format!("Bearer {writer}");
    let headers = [("authorization", bearer.as_str()), ("fencing-token", "7")];
    let mut client = gate.client();
    assert_eq!(client.request("PUT", "/stock/other/1", &headers, b"").unwrap().status, 200);
    assert_eq!(client.request("PUT", "/stock/others/1", &headers, b"").unwrap().status, 403);
    let listed = gate.admin().request("GET", "/v1/fences", &headers, b"").unwrap().json();
    let names: Vec<&Value> = listed["fences"].as_array().unwrap().iter().map(|info| &info["fence"]).collect();
    assert_eq!(names, [&Value::from("stock/other")], "it sees its own");
    let named = gate.admin().request("GET", "/v1/fences?name=shop&name=stock%2Fother", &headers, b"").unwrap().json();
    assert_eq!(named["fences"].as_array().unwrap().len(), 1, "and no other by its name: {named}");
    let status = gate.admin().request("GET", "/v1/status", &headers, b"").unwrap().json();
    assert_eq!(status["resources"].as_array().unwrap().len(), 1);
}

fn pipeline(client: &mut Client, secret: &str, token: Option<&str>, baton: Option<&str>, sql: &str) -> Answer {
    let bearer = format!("Bearer {secret}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(token.map(|token| ("fencing-token", token)));
    let body = json!({"baton": baton, "requests": [{"type": "execute", "stmt": {"sql": sql}}]}).to_string();
    client.request("POST", "/shop/v3/pipeline", &headers, body.as_bytes()).unwrap()
}

#[test]
fn a_write_needs_the_right_on_its_own_fence() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let read = grant("shop", "*", &["read"]);
    let jobs = principal("jobs", 1, &format!("{read}{}", grant("shop", "scheduler", &["write"])));
    let all = principal("all", 2, &format!("{read}{}", grant("shop", "*", &["write"])));
    let file = config(dir.path(), &format!("{}{jobs}{all}", resources(upstream.addr)));
    let gate = Gate::start(dir.path(), &["--config", &file]);
    let mut client = gate.client();
    let ((jobs, _), (all, _)) = (secret(1), secret(2));
    let both = "shop=7, scheduler=7";
    for sql in ["CREATE TABLE jobs (v)", "CREATE TABLE t (v)"] {
        assert_eq!(pipeline(&mut client, &all, Some(both), None, sql).json()["results"][0]["type"], "ok", "{sql}");
    }
    let mut ask = |token, sql| {
        let answer = pipeline(&mut client, &jobs, token, None, sql);
        let result = answer.json()["results"][0]["type"].as_str().map(str::to_owned);
        (answer.status, if answer.status == 200 { result.unwrap() } else { answer.code() })
    };
    let told = |status: u16, what: &str| (status, what.to_owned());
    assert_eq!(ask(Some("scheduler=7"), "INSERT INTO jobs VALUES (1)"), told(200, "ok"));
    // Its own fence is not enough for another table, and the other's token is not its to present.
    assert_eq!(ask(Some("scheduler=7"), "INSERT INTO t VALUES (1)"), told(428, "TOKEN_REQUIRED"));
    assert_eq!(ask(Some(both), "INSERT INTO t VALUES (1)"), told(403, "FORBIDDEN"));
    assert_eq!(ask(Some("7"), "INSERT INTO t VALUES (1)"), told(403, "FORBIDDEN"));
    assert_eq!(ask(None, "INSERT INTO t VALUES (1)"), told(428, "TOKEN_REQUIRED"));
    assert_eq!(ask(None, "SELECT * FROM t"), told(200, "ok"));
}

#[test]
fn a_rehearsal_gives_nobody_a_right() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let reader = principal("reader", 1, &grant("*", "*", &["read"]));
    let file = config(dir.path(), &format!("{}{reader}", resources(upstream.addr)));
    // Stale writes go through here, and those without a token to the HTTP service, but not those of who may not write.
    let gate = Gate::start(dir.path(), &["--config", &file, "--no-enforce"]);
    let (mut client, reader) = (gate.client(), secret(1).0);
    for token in [None, Some("7")] {
        let answer = pipeline(&mut client, &reader, token, None, "CREATE TABLE t (v)");
        assert!(matches!(answer.status, 403 | 428), "{answer:?}");
        let bearer = format!("Bearer {reader}");
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(token.map(|token| ("fencing-token", token)));
        assert_eq!(client.request("PUT", "/stock/a/1", &headers, b"").unwrap().status, 403);
        assert_eq!(client.request("POST", "/stock/", &headers, b"").unwrap().status, 403);
    }
    assert!(upstream.heads.lock().unwrap().is_empty(), "nothing came through");
}

#[test]
fn a_transaction_goes_on_for_nobody_but_who_began_it() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let leader = principal("leader", 1, &grant("shop", "*", &["read", "write"]));
    let other = principal("other", 2, &grant("shop", "*", &["read", "write"]));
    let reader = principal("reader", 3, &grant("shop", "*", &["read"]));
    let file = config(dir.path(), &format!("{}{leader}{other}{reader}", resources(upstream.addr)));
    let gate = Gate::start(dir.path(), &["--config", &file]);
    let mut client = gate.client();
    let (leader, other, reader) = (secret(1).0, secret(2).0, secret(3).0);
    pipeline(&mut client, &leader, Some("7"), None, "CREATE TABLE t (v)");
    let began = pipeline(&mut client, &leader, Some("7"), None, "BEGIN").json();
    let baton = began["baton"].as_str().unwrap().to_owned();
    // The transaction has a claim already: without this, whoever has the baton could write without one.
    for (secret, token) in [(&reader, None), (&other, None), (&other, Some("7"))] {
        let stolen = pipeline(&mut client, secret, token, Some(&baton), "INSERT INTO t VALUES ('stolen')");
        assert_eq!((stolen.status, stolen.code()), (400, "BATON_INVALID".to_owned()), "{stolen:?}");
    }
    let wrote = pipeline(&mut client, &leader, None, Some(&baton), "INSERT INTO t VALUES ('own')").json();
    assert_eq!(wrote["results"][0]["type"], "ok", "it goes on for its own: {wrote}");
    let baton = wrote["baton"].as_str().unwrap();
    assert_eq!(pipeline(&mut client, &leader, Some("7"), Some(baton), "COMMIT").json()["results"][0]["type"], "ok");
    let rows = pipeline(&mut client, &reader, None, None, "SELECT v FROM t").json();
    assert_eq!(rows["results"][0]["response"]["result"]["rows"].as_array().unwrap().len(), 1, "{rows}");
}

#[test]
fn events_are_told_to_who_may_see_their_fence() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let one = principal("one", 1, &grant("shop", "scheduler", &["observe"]));
    let all = principal("all", 2, &grant("*", "*", &["claim"]));
    let file = config(dir.path(), &format!("{}{one}{all}", resources(upstream.addr)));
    let gate = Gate::start(dir.path(), &["--config", &file]);
    let mut watching = gate.admin();
    let bearer = format!("Bearer {}", secret(1).0);
    let head = format!("GET /v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: {bearer}\r\n\r\n");
    watching.send(head.as_bytes()).unwrap();
    watching.read_until(": watching");
    let bearer = format!("Bearer {}", secret(2).0);
    for fence in ["shop", "scheduler"] {
        let headers = [("authorization", bearer.as_str()), ("fencing-token", "7")];
        let claimed = gate.client().request("POST", &format!("/-/fences/{fence}/claim"), &headers, b"").unwrap();
        assert_eq!(claimed.status, 200, "{claimed:?}");
    }
    let told = watching.read_until("\"fence\":\"scheduler\"");
    assert!(!told.contains("\"fence\":\"shop\""), "{told}");
}

#[test]
fn to_stand_in_an_election_is_to_claim_its_fences() {
    let dir = tempfile::tempdir().unwrap();
    // The mark of fence shop rises with election lead-shop, which has another name.
    let shop = "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\ntrust = \"coordinator\"\nelection = \"lead-shop\"\n";
    let by_name = principal("by-name", 1, &grant("*", "lead-shop", &["claim"]));
    let by_fence = principal("by-fence", 2, &grant("shop", "shop", &["claim"]));
    let unbound = principal("unbound", 3, &grant("*", "other*", &["claim"]));
    let gate =
        Gate::start(dir.path(), &["--config", &config(dir.path(), &format!("{shop}{by_name}{by_fence}{unbound}"))]);
    let campaign = |byte: u8, election: &str| {
        let bearer = format!("Bearer {}", secret(byte).0);
        let headers = [("authorization", bearer.as_str())];
        let path = format!("/-/elections/{election}/campaign");
        gate.client().request("POST", &path, &headers, b"{\"ttl_ms\": 60000}").unwrap().status
    };
    assert_eq!(campaign(1, "lead-shop"), 403, "whoever wins it leads fence shop");
    assert_eq!(campaign(2, "lead-shop"), 200);
    assert_eq!((campaign(1, "other"), campaign(2, "other")), (403, 403), "an election of no fence here");
    assert_eq!((campaign(3, "other-2"), campaign(3, "lead-shop")), (200, 403));
}
