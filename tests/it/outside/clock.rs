//! The wall clock is set, forward and back, under a running gate. Nothing that protects data goes by it: leases, quarantines and
//! transactions are counted by the monotonic clock. Signed credentials do, as they must, and what becomes of them is told here.

use serde_json::{Value, json};

use super::{Place, WallClock, skip};
use crate::process::{Answer, Gate, until};
use crate::upstream::hostile::Hostile;

const DAY: i64 = 86_400;
/// Forward and back, by little and by much, and almost to 1970, before which Linux sets no clock.
const JUMPS: [i64; 6] = [3600, -3600, 400 * DAY, -400 * DAY, 2 * DAY, -20_000 * DAY];

/// A database `shop` and an HTTP service `stock/{1}`, with a clock that can be set.
struct World {
    gate: Gate,
    clock: WallClock,
    _upstream: Hostile,
    dir: tempfile::TempDir,
}

impl World {
    fn start(test: &str, settle: &str, more: &str) -> Option<World> {
        let dir = tempfile::tempdir().expect("a directory");
        let Some(clock) = WallClock::new(dir.path()) else {
            skip(test, "there is no C compiler (scripts/ensure cc)");
            return None;
        };
        let upstream = Hostile::start(dir.path());
        let config = format!(
            "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\n\
             [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"{}\"\nfence = \"stock/{{1}}\"\n\
             settle = \"{settle}\"\n{more}",
            upstream.url()
        );
        std::fs::write(dir.path().join("gate.toml"), config).expect("written");
        let gate = Place { clock: Some(&clock), ..Place::default() }.start(dir.path(), &dir.path().join("gate.toml"));
        Some(World { gate, clock, _upstream: upstream, dir })
    }

    fn restart(self) -> World {
        let World { gate, clock, _upstream, dir } = self;
        gate.kill();
        let gate = Place { clock: Some(&clock), ..Place::default() }.start(dir.path(), &dir.path().join("gate.toml"));
        World { gate, clock, _upstream, dir }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.gate.client().request(method, path, headers, body.as_bytes()).expect("an answer")
    }

    fn election(&self, what: &str, body: &Value) -> Answer {
        self.ask("POST", &format!("/-/elections/shop/{what}"), &[], &body.to_string())
    }

    fn leader(&self) -> Value {
        self.ask("GET", "/-/elections/shop", &[], "").json()["leader"].clone()
    }

    fn write(&self, token: &str, script: &str) -> Answer {
        self.ask("PUT", "/stock/7/doc", &[("fencing-token", token), ("hostile", script)], "hello")
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

/// What year the gate takes it to be, by what it says of itself.
fn year(world: &World) -> String {
    let about = world.gate.admin().get("/v1/fences/shop").json();
    text(&about["at"])[..4].to_owned()
}

#[test]
fn the_gates_clock_can_be_set() {
    let Some(world) = World::start("outside::clock", "1s", "") else { return };
    let now = year(&world);
    world.clock.set(10_000 * DAY);
    assert_ne!(year(&world), now, "or none of the tests here means anything");
}

#[test]
fn a_lease_is_neither_over_early_nor_late() {
    let Some(mut world) = World::start("outside::clock", "1s", "") else { return };
    let bid = json!({"holder": "node-a", "ttl_ms": 60_000});
    let leads = world.election("campaign", &bid).json();
    let waits = world.election("campaign", &json!({"holder": "node-b", "ttl_ms": 600_000})).json();
    assert_eq!((&leads["state"], &waits["state"]), (&json!("leading"), &json!("waiting")));
    for jump in JUMPS {
        world.clock.set(jump);
        let left = world.leader()["ttl_left_ms"].as_u64().expect("somebody leads");
        assert!((1..=60_000).contains(&left), "after {jump} s: {left}");
        assert_eq!(world.election("renew", &json!({"candidate": leads["candidate"]})).status, 200, "after {jump} s");
        assert_eq!(world.leader()["token"], leads["token"]);
    }
    // Nor does a clock that is set while the gate is down change anything.
    world.clock.set(400 * DAY);
    world = world.restart();
    assert_eq!(world.leader()["token"], leads["token"]);
    assert_eq!(world.election("renew", &json!({"candidate": leads["candidate"]})).status, 200);
    assert_eq!(world.election("resign", &json!({"candidate": leads["candidate"]})).status, 200);
    assert_eq!(world.leader()["holder"], "node-b");

    // One that isn't renewed ends, however far the clock goes back meanwhile.
    let brief = world.election("resign", &json!({"candidate": waits["candidate"]}));
    assert_eq!(brief.status, 200);
    let brief = world.election("campaign", &json!({"holder": "node-c", "ttl_ms": 1000})).json();
    assert_eq!(brief["state"], "leading");
    world.clock.set(-400 * DAY);
    until("its lease is over", || world.leader().is_null());
    let next = world.election("campaign", &bid).json();
    let number = |answer: &Value| text(&answer["token"]).parse::<u64>().expect("a number");
    assert!(number(&next) > number(&brief));
}

#[test]
fn a_quarantine_is_neither_over_early_nor_late() {
    let test = "outside::clock";
    let Some(world) = World::start(test, "10m", "") else { return };
    assert_eq!(world.write("5", "read cut").code(), "OUTCOME_UNKNOWN");
    for jump in JUMPS {
        world.clock.set(jump);
        let newer = world.write("6", "");
        assert_eq!((newer.status, newer.code().as_str()), (503, "QUARANTINED"), "after {jump} s");
        let wait: u64 = newer.header("retry-after").expect("it says when").parse().expect("a number");
        assert!((1..=600).contains(&wait), "after {jump} s: {wait}");
    }
    drop(world);
    let Some(world) = World::start(test, "500ms", "") else { return };
    assert_eq!(world.write("5", "read cut").code(), "OUTCOME_UNKNOWN");
    world.clock.set(-400 * DAY);
    until("the quarantine ends by itself", || world.write("6", "").status == 200);
}

#[test]
fn open_transactions_and_the_order_of_a_history_stay() {
    let Some(world) = World::start("outside::clock", "1s", "") else { return };
    let mut client = world.gate.client();
    let path = "/shop/v3/pipeline";
    let mut ask = |token: &str, baton: &Value, sql: &[&str]| {
        let requests: Vec<Value> = sql.iter().map(|sql| json!({"type": "execute", "stmt": {"sql": sql}})).collect();
        let body = json!({"baton": baton, "requests": requests}).to_string();
        client.request("POST", path, &[("fencing-token", token)], body.as_bytes()).expect("an answer")
    };
    let begun = ask("5", &Value::Null, &["CREATE TABLE t (v)", "BEGIN IMMEDIATE", "INSERT INTO t VALUES (1)"]);
    assert_eq!(begun.status, 200);
    // By far more than a transaction may take, or a stream may lie unused.
    world.clock.set(2 * DAY);
    let rest = ask("5", &begun.json()["baton"], &["INSERT INTO t VALUES (2)", "COMMIT"]);
    assert!(rest.status == 200 && !String::from_utf8_lossy(&rest.body).contains("\"error\""), "{rest:?}");
    for (token, seconds) in [("6", 0), ("7", -DAY), ("8", 30 * DAY)] {
        world.clock.set(seconds);
        assert_eq!(ask(token, &Value::Null, &["SELECT count(*) FROM t"]).status, 200);
    }
    let history = world.gate.admin().get("/v1/fences/shop/history").json();
    let tokens: Vec<String> =
        history["events"].as_array().expect("events").iter().map(|event| text(&event["token"])).collect();
    assert_eq!(tokens, ["8", "7", "6", "5"], "the newest first, whatever the clock said");
}

#[test]
fn credentials_go_by_the_wall_clock_and_tokens_do_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let made =
        std::process::Command::new(crate::process::PROGRAM).args(["keys", "new"]).arg(dir.path().join("lead")).output();
    assert!(made.is_ok_and(|output| output.status.success()));
    let key = dir.path().join("lead.key");
    let lines = format!(
        "[credentials]\naudience = \"fencegate\"\nsigning_key = {key:?}\n\
         [[principal]]\nname = \"anybody\"\nanonymous = true\n\
         grants = [{{ resource = \"*\", fence = \"*\", rights = [\"claim\", \"observe\"] }}]\n"
    );
    let Some(world) = World::start("outside::clock", "1s", &lines) else { return };
    let leads = world.election("campaign", &json!({"holder": "node-a", "ttl_ms": 600_000})).json();
    let signed = |answer: &Value| format!("Bearer {}", text(&answer["credentials"]["shop"]));
    let select = json!({"requests": [{"type": "execute", "stmt": {"sql": "SELECT 1"}}, {"type": "close"}]}).to_string();
    let show = |bearer: &str| {
        let answer = world.ask("POST", "/shop/v3/pipeline", &[("authorization", bearer)], &select);
        (answer.status, if answer.status == 200 { String::new() } else { answer.code() })
    };
    let good = (200, String::new());
    let bad = (401, "UNAUTHENTICATED".to_owned());
    let renew = || signed(&world.election("renew", &json!({"candidate": leads["candidate"]})).json());
    let first = signed(&leads);
    assert_eq!(show(&first), good);
    // Forward: what was signed before has expired. The leader renews its lease as always, and has a good one.
    world.clock.set(DAY);
    assert_eq!(show(&first), bad);
    let second = renew();
    assert_eq!(show(&second), good);
    // Back: what was signed meanwhile isn't valid yet, and what had expired is good again.
    world.clock.set(0);
    assert_eq!(show(&second), bad);
    assert_eq!(show(&first), good);
    assert_eq!(show(&renew()), good);
    // By that nobody who was replaced comes in: the token in it is as old as it was.
    assert_eq!(world.election("resign", &json!({"candidate": leads["candidate"]})).status, 200);
    let next = world.election("campaign", &json!({"holder": "node-b", "ttl_ms": 600_000})).json();
    assert_eq!(show(&signed(&next)), good);
    assert_eq!(show(&first), (412, "STALE_TOKEN".to_owned()));
}
