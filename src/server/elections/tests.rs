use std::sync::Arc;

use http_body_util::BodyExt as _;

use super::*;
use crate::coordinator::embedded::Options;
use crate::coordinator::embedded::clock::ManualClock;

struct Rig {
    coordinator: Embedded,
    clock: Arc<ManualClock>,
    _dir: tempfile::TempDir,
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let options = Options { clock: Arc::clone(&clock) as _, ..Options::new(Arc::new(|_| Token::new(6).ok())) };
    Rig { coordinator: Embedded::open(dir.path(), options).await.unwrap(), clock, _dir: dir }
}

impl Rig {
    async fn send(&self, method: Method, path: &[&str], query: Option<&str>, body: &str) -> (u16, Value) {
        let path: Vec<String> = path.iter().map(|segment| (*segment).to_owned()).collect();
        let answer = handle(&self.coordinator, &method, &path, query, body.as_bytes(), &|_, _| None).await;
        assert_eq!(answer.headers()[CACHE_CONTROL], "no-store");
        let status = answer.status().as_u16();
        assert_eq!(answer.headers().contains_key("allow"), status == 405);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn post(&self, action: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, &["team/orders", action], None, &body.to_string()).await
    }

    async fn get(&self) -> Value {
        let (status, body) = self.send(Method::GET, &["team/orders"], None, "").await;
        assert_eq!(status, 200);
        body
    }
}

#[tokio::test]
async fn a_leader_from_campaign_to_resignation() {
    let rig = rig().await;
    let nobody =
        json!({ "election": "team/orders", "leader": null, "candidates": 0, "waiting": [], "last_token": null });
    assert_eq!(rig.get().await, nobody);

    let (status, leads) = rig.post("campaign", &json!({ "holder": "node-a", "ttl_ms": 5000, "later": [1] })).await;
    let candidate = leads["candidate"].as_str().unwrap().to_owned();
    let expected = json!({
        "election": "team/orders", "candidate": candidate, "state": "leading", "token": "7", "holder": "node-a",
        "ttl_ms": 5000,
    });
    assert_eq!((status, &leads), (200, &expected));

    rig.clock.advance(Duration::from_millis(1500));
    let leader = json!({ "token": "7", "holder": "node-a", "ttl_left_ms": 3500 });
    let expected =
        json!({ "election": "team/orders", "leader": leader, "candidates": 0, "waiting": [], "last_token": "7" });
    assert_eq!(rig.get().await, expected);

    let id = json!({ "candidate": candidate });
    assert_eq!(rig.post("renew", &id).await, (200, leads));
    assert_eq!(rig.get().await["leader"]["ttl_left_ms"], 5000);
    assert_eq!(rig.post("resign", &id).await, (200, json!({ "election": "team/orders", "resigned": true })));
    for action in ["resign", "renew", "campaign"] {
        let (status, problem) = rig.post(action, &id).await;
        assert_eq!((status, &problem["code"]), (410, &json!("LEADERSHIP_LOST")), "{action}");
        assert_eq!(problem["fence"], "team/orders");
    }
    assert_eq!(rig.get().await["last_token"], "7");
}

#[tokio::test]
async fn a_candidate_waits_and_goes_on_waiting() {
    let rig = rig().await;
    let (_, leads) = rig.post("campaign", &json!({ "holder": "node-a" })).await;
    let (status, waits) = rig.send(Method::POST, &["team/orders", "campaign"], None, "").await;
    let expected = json!({
        "election": "team/orders", "candidate": waits["candidate"], "state": "waiting", "token": null, "holder": null,
        "position": 1, "leader": { "token": "7", "holder": "node-a" }, "ttl_ms": 10_000,
    });
    assert_eq!((status, &waits), (202, &expected));
    let id = json!({ "candidate": waits["candidate"] });
    assert_eq!(rig.post("renew", &id).await, (200, waits.clone()), "one that waits renews its place");

    let goes_on = json!({ "candidate": waits["candidate"], "wait_ms": 60_000 });
    let resigns = json!({ "candidate": leads["candidate"] });
    // The wait is polled first, and ends by the resignation, not by its time.
    let (won, _) = tokio::join!(biased; rig.post("campaign", &goes_on), rig.post("resign", &resigns));
    assert_eq!((won.0, &won.1["state"], &won.1["token"]), (200, &json!("leading"), &json!("8")));
}

#[tokio::test]
async fn a_wait_ends_with_its_time() {
    let rig = rig().await;
    rig.post("campaign", &json!({})).await;
    let (status, waits) = rig.post("campaign", &json!({ "wait_ms": 1 })).await;
    assert_eq!((status, &waits["state"]), (202, &json!("waiting")));
    let (status, seen) = rig.send(Method::GET, &["team/orders", "observe"], Some("after=7&wait_ms=1&x=y"), "").await;
    assert_eq!((status, &seen["leader"]["token"], &seen["candidates"]), (200, &json!("7"), &json!(1)));
}

#[tokio::test]
async fn an_observer_hears_of_the_next_leader() {
    let rig = rig().await;
    let observe = |query| rig.send(Method::GET, &["team/orders", "observe"], Some(query), "");
    let anybody = json!({});
    let (first, _) = tokio::join!(biased; observe("wait_ms=60000"), rig.post("campaign", &anybody));
    assert_eq!(first.1["leader"]["token"], "7");
    let (_, now) = observe("after=6&wait_ms=60000").await;
    assert_eq!(now["leader"]["token"], "7", "at once, where it is so already");

    rig.post("campaign", &json!({ "holder": "node-b" })).await;
    let lapse = async {
        rig.clock.advance(Duration::from_secs(5));
        // Only the one that waits renews: the leader's lease runs out.
        rig.post("campaign", &json!({ "holder": "node-c" })).await;
        rig.clock.advance(Duration::from_secs(5));
        rig.coordinator.tick().await;
    };
    let (next, ()) = tokio::join!(biased; observe("after=%37&wait_ms=60000"), lapse);
    assert_eq!(next.1["leader"]["holder"], "node-c");
    assert_eq!(next.1["last_token"], "8");
    assert!(!next.1.to_string().contains("candidate\""), "ids are told to nobody else: {}", next.1);
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let rig = rig().await;
    let id = CandidateId::random().unwrap();
    for (action, body) in [
        ("campaign", "{"),
        ("campaign", "[]"),
        ("campaign", "null"),
        ("campaign", r#"{"ttl_ms": 999}"#),
        ("campaign", r#"{"ttl_ms": 3600001}"#),
        ("campaign", r#"{"ttl_ms": -1}"#),
        ("campaign", r#"{"ttl_ms": "10s"}"#),
        ("campaign", r#"{"wait_ms": 60001}"#),
        ("campaign", r#"{"holder": ""}"#),
        ("campaign", r#"{"holder": "a\u0000"}"#),
        ("campaign", r#"{"candidate": "mine"}"#),
        ("campaign", r#"{"ttl_ms": 5000, "ttl_ms": 6000}"#),
        ("renew", ""),
        ("renew", "{}"),
        ("resign", r#"{"candidate": 7}"#),
        ("resign", &format!(r#"["{id}"]"#)),
    ] {
        let (status, problem) = rig.send(Method::POST, &["team/orders", action], None, body).await;
        assert_eq!((status, &problem["code"]), (400, &json!("BAD_REQUEST")), "{action} {body}: {problem}");
    }
    for query in ["after=07", "after=", "after=7&after=8", "wait_ms=x", "wait_ms=60001"] {
        let (status, problem) = rig.send(Method::GET, &["team/orders", "observe"], Some(query), "").await;
        assert_eq!((status, &problem["code"]), (400, &json!("BAD_REQUEST")), "{query}: {problem}");
    }
    assert_eq!(rig.send(Method::GET, &["not a name"], None, "").await.0, 400);
    assert_eq!(rig.get().await["candidates"], 0, "nobody has entered by any of these");
}

#[tokio::test]
async fn paths_and_methods_that_are_none() {
    let rig = rig().await;
    for path in [&[][..], &["a", "elect"], &["a", "renew", ""], &["team", "orders", "renew"]] {
        assert_eq!(rig.send(Method::POST, path, None, "{}").await.0, 404, "{path:?}");
    }
    for (method, path) in [
        (Method::POST, &["a"][..]),
        (Method::POST, &["a", "observe"]),
        (Method::GET, &["a", "campaign"]),
        (Method::DELETE, &["a", "resign"]),
        (Method::PUT, &["a", "renew"]),
    ] {
        let (status, problem) = rig.send(method, path, None, "{}").await;
        assert_eq!((status, &problem["code"]), (405, &json!("METHOD_NOT_ALLOWED")), "{path:?}");
    }
}

#[tokio::test]
async fn a_candidate_that_has_made_its_own_id_stands_once_however_often_it_asks() {
    let rig = rig().await;
    let campaign = |candidate: &CandidateId, holder: &str| json!({ "candidate": candidate.to_string(), "enter": true, "holder": holder, "ttl_ms": 5000 });
    let (one, two) = (CandidateId::random().unwrap(), CandidateId::random().unwrap());
    for _ in 0..3 {
        let (status, leads) = rig.post("campaign", &campaign(&one, "node-a")).await;
        assert_eq!((status, &leads["token"], &leads["candidate"]), (200, &json!("7"), &json!(one.to_string())));
        let (status, waits) = rig.post("campaign", &campaign(&two, "node-b")).await;
        assert_eq!((status, &waits["position"]), (202, &json!(1)));
    }
    let seen = rig.get().await;
    assert_eq!((&seen["candidates"], &seen["waiting"]), (&json!(1), &json!(["node-b"])));
    // It is known to this election only, and only where it asks to enter.
    let path = ["other", "campaign"];
    let (status, _) = rig.send(Method::POST, &path, None, &campaign(&one, "node-a").to_string()).await;
    assert_eq!(status, 410);
    let three = json!({ "candidate": CandidateId::random().unwrap().to_string() });
    assert_eq!(rig.post("campaign", &three).await.0, 410);
    // One that has lapsed enters anew, and has a new token.
    rig.clock.advance(Duration::from_secs(5));
    rig.coordinator.tick().await;
    let (status, leads) = rig.post("campaign", &campaign(&two, "node-b")).await;
    assert_eq!((status, &leads["token"]), (200, &json!("8")), "{leads}");
}

#[tokio::test]
async fn an_observer_of_one_term_hears_of_its_end_without_a_successor() {
    let rig = rig().await;
    let (_, leads) = rig.post("campaign", &json!({})).await;
    let path = ["team/orders", "observe"];
    let ended = rig.send(Method::GET, &path, Some("while=7&wait_ms=60000"), "");
    let resigns = async { rig.post("resign", &json!({ "candidate": leads["candidate"] })).await };
    let ((status, seen), (resigned, _)) = tokio::join!(ended, resigns);
    assert_eq!((status, resigned, &seen["leader"]), (200, 200, &Value::Null));
    for (query, expected) in [("while=6&wait_ms=60000", 200), ("while=x", 400), ("while=1&after=1", 400)] {
        assert_eq!(rig.send(Method::GET, &path, Some(query), "").await.0, expected, "{query}");
    }
}
