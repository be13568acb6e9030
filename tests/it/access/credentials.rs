//! Signed leadership credentials, from who signs them to what they open. What a credential's form may be is tested beside its code.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use fencegate::access::credential::{self, Signer, SigningKey};
use serde_json::{Value, json};

use super::{Yes, config, grant, principal, secret};
use crate::process::{Answer, Client, Gate, PROGRAM};

const LASTS: Duration = Duration::from_secs(600);

/// `fencegate keys new` in this folder; the lines for the configuration.
fn keys(dir: &Path, name: &str) -> String {
    let output = Command::new(PROGRAM).args(["keys", "new"]).arg(dir.join(name)).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn signer(dir: &Path, name: &str, audience: &str) -> Signer {
    Signer::new(SigningKey::open(&dir.join(name).with_extension("key")).unwrap(), "a test", audience)
}

fn sign(signer: &Signer, fence: &str, token: &str, holder: &str) -> String {
    let holder = (!holder.is_empty()).then(|| holder.parse().unwrap());
    signer.sign(&fence.parse().unwrap(), token.parse().unwrap(), holder.as_ref(), LASTS, credential::now())
}

/// Both kinds of resource, which take tokens from credentials only if `required`.
fn resources(upstream: &Yes, required: bool) -> String {
    format!(
        "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\nrequire_credential = {required}\n\
         tables = {{ \"jobs\" = \"scheduler\" }}\n\
         [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"http://{}\"\nfence = \"stock/{{1}}\"\n\
         require_credential = {required}\n",
        upstream.addr
    )
}

fn sql(text: &str) -> String {
    json!({"requests": [{"type": "execute", "stmt": {"sql": text}}, {"type": "close"}]}).to_string()
}

fn ask(gate: &Gate, method: &str, path: &str, bearer: &str, more: &[(&str, &str)], body: &str) -> Answer {
    let bearer = format!("Bearer {bearer}");
    let mut headers = vec![("authorization", bearer.as_str())];
    headers.extend(more);
    gate.client().request(method, path, &headers, body.as_bytes()).unwrap()
}

fn told(answer: &Answer) -> (u16, String) {
    (answer.status, if answer.status == 200 { String::new() } else { answer.code() })
}

#[test]
fn a_leader_does_what_its_credential_says_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let lines = keys(dir.path(), "lead") + &principal("worker", 1, &grant("*", "*", &["read", "write"]));
    keys(dir.path(), "stranger");
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &(resources(&upstream, true) + &lines))]);
    let ours = signer(dir.path(), "lead", "fencegate");
    let seven = sign(&ours, "shop", "7", "node-a");
    let insert = sql("CREATE TABLE IF NOT EXISTS t (v)");
    let write =
        |bearer: &str, more: &[(&str, &str)]| told(&ask(&gate, "POST", "/shop/v3/pipeline", bearer, more, &insert));
    let ok = (200, String::new());
    let no = |status: u16, code: &str| (status, code.to_owned());

    // Without a word about the token: it is in the credential, where libSQL drivers have their auth token.
    assert_eq!(write(&seven, &[]), ok);
    for agrees in [[("fencing-token", "7")], [("fencing-token", "shop=7")], [("fencing-holder", "node-a")]] {
        assert_eq!(write(&seven, &agrees), ok, "{agrees:?}");
    }
    for differs in [
        [("fencing-token", "8")],
        [("fencing-token", "shop=8")],
        [("fencing-token", "scheduler=7")],
        [("fencing-token", "shop=7, scheduler=7")],
        [("fencing-holder", "node-b")],
        [("fencing-token", "x")],
    ] {
        assert_eq!(write(&seven, &differs), no(400, "TOKEN_MALFORMED"), "{differs:?}");
    }
    assert_eq!(told(&ask(&gate, "POST", "/-/fences/shop/claim", &seven, &[], "")), ok);
    assert_eq!(told(&ask(&gate, "GET", "/-/fences/shop", &seven, &[], "")), ok);
    // Another fence, another resource, an operator's deed.
    for (method, path) in [
        ("POST", "/-/fences/scheduler/claim"),
        ("GET", "/-/fences/scheduler"),
        ("PUT", "/stock/a/1"),
        ("GET", "/stock/a/1"),
        ("POST", "/-/elections/scheduler/campaign"),
    ] {
        assert_eq!(told(&ask(&gate, method, path, &seven, &[], "")), no(403, "FORBIDDEN"), "{method} {path}");
    }
    let bearer = format!("Bearer {seven}");
    let reset = r#"{"highest": "1", "reason": "x"}"#;
    let reset = gate.admin().request("POST", "/v1/fences/shop/reset", &[("authorization", &bearer)], reset.as_bytes());
    assert_eq!(told(&reset.unwrap()), no(403, "FORBIDDEN"));
    let jobs = ask(&gate, "POST", "/shop/v3/pipeline", &seven, &[], &sql("CREATE TABLE jobs (v)"));
    assert_eq!(told(&jobs), no(428, "TOKEN_REQUIRED"), "its token is for no other fence");

    // Who has a good secret, but no credential, has no token here.
    let worker = secret(1).0;
    assert_eq!(write(&worker, &[("fencing-token", "9")]), no(403, "FORBIDDEN"));
    let fgt = format!("fgt.9..{}", &worker[4..]);
    assert_eq!(write(&fgt, &[]), no(403, "FORBIDDEN"));
    let claim = ask(&gate, "POST", "/-/fences/shop/claim", &worker, &[("fencing-token", "9")], "");
    assert_eq!(told(&claim), no(403, "FORBIDDEN"));
    assert_eq!(told(&ask(&gate, "PUT", "/stock/a/1", &worker, &[("fencing-token", "9")], "")), no(403, "FORBIDDEN"));
    assert_eq!(told(&ask(&gate, "POST", "/shop/v3/pipeline", &worker, &[], &sql("SELECT 1"))), ok, "it reads");

    // The successor, and the one who was deposed: its credential is good, and its token is stale.
    assert_eq!(write(&sign(&ours, "shop", "8", "node-b"), &[]), ok);
    assert_eq!(write(&seven, &[]), no(412, "STALE_TOKEN"));
    // Somebody who calls itself otherwise, with a token that isn't its own.
    assert_eq!(write(&sign(&ours, "shop", "8", "node-c"), &[]), no(409, "TOKEN_CONFLICT"));

    let stranger = signer(dir.path(), "stranger", "fencegate");
    let other_gate = signer(dir.path(), "lead", "another");
    let expired = ours.sign(&"shop".parse().unwrap(), "9".parse().unwrap(), None, LASTS, credential::now() - 2 * LASTS);
    let good = sign(&ours, "shop", "9", "");
    for (bad, says) in [
        (sign(&stranger, "shop", "9", ""), "doesn't know"),
        (sign(&other_gate, "shop", "9", ""), "another gate"),
        (expired, "expired"),
        (format!("{}AAAAAAAA", &good[..good.len() - 8]), ""),
        (good.replacen("ey", "eyJ", 1), ""),
    ] {
        let answer = ask(&gate, "POST", "/shop/v3/pipeline", &bad, &[], &insert);
        assert_eq!(told(&answer), no(401, "UNAUTHENTICATED"), "{bad}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(says), "{answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(bad.rsplit('.').next().unwrap()), "it isn't told");
    }
    assert_eq!(write(&good, &[]), ok, "the same, whole");
}

#[test]
fn an_upstream_learns_of_the_leader_and_not_its_credential() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let lines = keys(dir.path(), "lead");
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &(resources(&upstream, true) + &lines))]);
    let ours = signer(dir.path(), "lead", "fencegate");
    let credential = sign(&ours, "stock/a", "7", "node-a");
    assert_eq!(told(&ask(&gate, "PUT", "/stock/a/1", &credential, &[], "")).0, 200);
    assert_eq!(told(&ask(&gate, "GET", "/stock/a/1", &credential, &[], "")).0, 200);
    assert_eq!(told(&ask(&gate, "PUT", "/stock/b/1", &credential, &[], "")).0, 403);
    let heads = upstream.heads.lock().unwrap().join("\n").to_ascii_lowercase();
    for line in ["fencing-token: 7\r\n", "fencing-fence: stock/a\r\n", "fencing-holder: node-a\r\n"] {
        assert!(heads.contains(line), "{heads}");
    }
    assert!(!heads.contains("authorization") && !heads.contains("eyj"), "{heads}");
}

#[test]
fn without_it_anybody_can_borrow_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let lines = keys(dir.path(), "lead") + &principal("other", 1, &grant("*", "*", &["read", "write"]));
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &(resources(&upstream, false) + &lines))]);
    let ours = signer(dir.path(), "lead", "fencegate");
    let insert = sql("CREATE TABLE IF NOT EXISTS t (v)");
    let leader = sign(&ours, "shop", "7", "node-a");
    assert_eq!(told(&ask(&gate, "POST", "/shop/v3/pipeline", &leader, &[], &insert)).0, 200);
    let borrowed = [("fencing-token", "7"), ("fencing-holder", "node-a")];
    let answer = ask(&gate, "POST", "/shop/v3/pipeline", &secret(1).0, &borrowed, &insert);
    assert_eq!(told(&answer).0, 200, "this is what require_credential is against");
}

#[test]
fn the_embedded_coordinator_signs_for_whom_it_elects() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    keys(dir.path(), "gate");
    let lines = "[credentials]\naudience = \"prod\"\nsigning_key = \"gate.key\"\n".to_owned()
        + &principal("node", 1, &grant("*", "*", &["claim"]));
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &(lines + &resources(&upstream, true)))]);
    let node = secret(1).0;
    let campaign = json!({"holder": "node-a", "ttl_ms": 60_000}).to_string();
    let elected = ask(&gate, "POST", "/-/elections/shop/campaign", &node, &[], &campaign).json();
    assert_eq!(elected["state"], "leading", "{elected}");
    let bearer = elected["credentials"]["shop"].as_str().unwrap();
    // It claims no more than that; the credential does.
    let begin = |bearer: &str, baton: &Value, sql: &str| {
        let body = json!({"baton": baton, "requests": [{"type": "execute", "stmt": {"sql": sql}}]}).to_string();
        ask(&gate, "POST", "/shop/v3/pipeline", bearer, &[], &body)
    };
    assert_eq!(told(&begin(&node, &Value::Null, "SELECT 1")), (403, "FORBIDDEN".to_owned()));
    let began = begin(bearer, &Value::Null, "BEGIN IMMEDIATE").json();
    let renew = json!({"candidate": elected["candidate"]}).to_string();
    let renewed = ask(&gate, "POST", "/-/elections/shop/renew", &node, &[], &renew).json();
    let bearer = renewed["credentials"]["shop"].as_str().unwrap();
    // The transaction goes on with the renewed one.
    let wrote = begin(bearer, &began["baton"], "CREATE TABLE t (v)").json();
    let done = begin(bearer, &wrote["baton"], "COMMIT").json();
    assert_eq!(done["results"][0]["type"], "ok", "{done}");
    let waits = ask(&gate, "POST", "/-/elections/shop/campaign", &node, &[], "{}").json();
    assert_eq!((&waits["state"], &waits["credentials"]), (&Value::from("waiting"), &Value::Null), "{waits}");
    let verdict = ask(&gate, "GET", "/-/fences/shop", bearer, &[], "").json();
    assert_eq!((&verdict["highest"], &verdict["holder"]), (&elected["token"], &Value::from("node-a")));
}

#[test]
fn keys_have_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let lines =
        keys(dir.path(), "lead") + "resource = \"stock\"\nfence = \"stock/a*\"\nrights = [\"read\", \"claim\"]\n";
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &(resources(&upstream, true) + &lines))]);
    let ours = signer(dir.path(), "lead", "fencegate");
    let try_it = |fence: &str, method: &str, path: &str| {
        told(&ask(&gate, method, path, &sign(&ours, fence, "7", ""), &[], "")).0
    };
    assert_eq!(try_it("stock/a", "POST", "/-/fences/stock%2Fa/claim"), 200);
    assert_eq!(try_it("stock/a", "GET", "/stock/a/1"), 200);
    assert_eq!(try_it("stock/a", "PUT", "/stock/a/1"), 403, "it may not write");
    assert_eq!(try_it("stock/b", "GET", "/stock/b/1"), 401, "its key may not speak for this fence");
    assert_eq!(try_it("shop", "GET", "/shop/v2"), 401);
    for (text, says) in [
        ("[[credential_key]]\nfile = \"lead.key\"\n", "the public key in"),
        ("[credentials]\nsigning_key = \"lead.pub\"\n", "the private key in"),
        ("[[credential_key]]\nfile = \"lead.pub\"\n[[credential_key]]\nfile = \"lead.pub\"\n", "there already"),
        ("", "require_credential needs a key"),
    ] {
        let file = config(dir.path(), &(resources(&upstream, true) + text));
        let output = Command::new(PROGRAM).args(["check-config", &file]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(78) && said.contains(says), "{text}: {said}");
    }
}

#[test]
fn without_access_control_a_credential_says_nothing() {
    // The gate of the other tests refuses each of these: here nobody is asked, and no credential is a token.
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    keys(dir.path(), "lead");
    let gate = Gate::start(dir.path(), &["--config", &config(dir.path(), &resources(&upstream, false))]);
    let bearer = sign(&signer(dir.path(), "lead", "fencegate"), "shop", "7", "");
    let answer = ask(&gate, "POST", "/shop/v3/pipeline", &bearer, &[], &sql("CREATE TABLE t (v)"));
    assert_eq!(told(&answer), (428, "TOKEN_REQUIRED".to_owned()));
    assert_eq!(told(&ask(&gate, "GET", "/stock/a/1", &bearer, &[], "")).0, 200);
    assert!(!upstream.heads.lock().unwrap().join("").contains("eyJ"), "nor is it passed on");
    drop(Client::connect(gate.data));
}

/// A gate that takes tokens from credentials only, and signs them; a principal that may stand for election, in `node.secret`.
fn strict(dir: &Path, upstream: &Yes, more: &str) -> Gate {
    keys(dir, "gate");
    let node = principal("node", 1, &grant("*", "*", &["claim"]));
    std::fs::write(dir.join("node.secret"), secret(1).0).unwrap();
    let lines = format!("[credentials]\nsigning_key = \"gate.key\"\n{more}{node}");
    Gate::start(dir, &["--config", &config(dir, &(lines + &resources(upstream, true)))])
}

#[test]
fn a_command_that_is_led_has_its_credential_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let lines = keys(dir.path(), "lead");
    let gate = strict(dir.path(), &upstream, &lines);
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, own_key) = (at("credential"), at("lead.key"));
    let script = format!(
        "set -e; '{PROGRAM}' sql --path /shop 'CREATE TABLE IF NOT EXISTS t (v)' \"INSERT INTO t VALUES ('led')\"
         stat -c %a \"$FENCEGATE_CREDENTIAL_FILE\""
    );
    for own in [&[][..], &["--credential-key", &own_key]] {
        let mut lead = Command::new(PROGRAM);
        lead.args(["lead", "--election", "shop", "--secret-file", &at("node.secret"), "--credential-file", &file]);
        lead.args(own).args(["--", "sh", "-c", &script]).env("FENCEGATE_URL", format!("http://{}", gate.data));
        let output = lead.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("\n600\n"), "{own:?}: {said}");
        assert!(!std::fs::exists(&file).unwrap(), "it is gone with the leadership");
    }
    // The negative control: the same command without the file is refused.
    let mut lead = Command::new(PROGRAM);
    lead.args(["lead", "--election", "shop", "--secret-file", &at("node.secret"), "--", "sh", "-c", &script]);
    lead.env("FENCEGATE_URL", format!("http://{}", gate.data));
    assert_eq!(lead.output().unwrap().status.code(), Some(77));
}

#[tokio::test]
async fn the_library_shows_its_leaderships_credential() {
    use fencegate::client::{self, Error, Refused};
    use fencegate::coordinator::{Bid, GateCoordinator};
    use fencegate::endpoint::Identity;

    let dir = tempfile::tempdir().unwrap();
    let upstream = Yes::start();
    let gate = strict(dir.path(), &upstream, "");
    let url = format!("http://{}", gate.data);
    let identity = Identity::default().with_secret(&secret(1).0).unwrap();
    let coordinator = GateCoordinator::open(&url, &identity).unwrap();
    let bid = Bid { holder: Some("node-a".parse().unwrap()), ttl: Duration::from_secs(30) };
    let leadership = client::campaign(&coordinator, &"shop".parse().unwrap(), &bid).await.unwrap();
    let fence = "shop".parse().unwrap();
    assert!(leadership.credential(&fence).is_some() && leadership.credential(&"jobs".parse().unwrap()).is_none());
    assert!(!format!("{leadership:?}").contains("eyJ"), "it is kept out of Debug");
    // Even where the connection has no identity of its own.
    let fenced = client::Gate::new(&url).unwrap().fenced(&leadership, &fence).await.unwrap();
    fenced.sql("/shop").execute("CREATE TABLE t (v)", ()).await.unwrap();
    // Whoever stands without a secret is not let in.
    let stranger = GateCoordinator::new(&url).unwrap();
    assert!(client::campaign(&stranger, &"scheduler".parse().unwrap(), &bid).await.is_err());
    leadership.resign().await.unwrap();
    // A leader whose coordinator signs nothing has no token here.
    let other = tempfile::tempdir().unwrap();
    let plain = Gate::start(other.path(), &[]);
    let elsewhere = GateCoordinator::new(&format!("http://{}", plain.data)).unwrap();
    let leadership = client::campaign(&elsewhere, &fence, &bid).await.unwrap();
    let refused = client::Gate::open(&url, &identity).unwrap().fenced(&leadership, &fence).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { why: Refused::Forbidden, .. }), "{refused:?}");
}
