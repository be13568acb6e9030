//! Real gates that ask a real etcd.

use std::path::Path;
use std::process::{Child, Stdio};

use fencegate::coordinator::etcd::{Etcd as Adapter, EtcdLeadership, Options};
use fencegate::coordinator::{Bid, Coordinator as _, Leadership as _};
use serde_json::Value;

use crate::gate::LONG;
use crate::process::{Answer, Gate, JSON, until};
use crate::upstream::etcd::{Etcd, ONE, Setup};
use crate::upstream::{self, has, hostile::Hostile};

use super::assert_told;

/// A gate with a database `shop` and an HTTP service `stock/{1}`, which ask an etcd; and candidates.
struct World {
    etcd: Etcd,
    gate: Gate,
    adapter: Adapter,
    runtime: tokio::runtime::Runtime,
    _upstream: Hostile,
    dir: tempfile::TempDir,
}

/// Where the tests' elections are: etcd itself knows nothing of them.
const SHOP: &str = "shop";
const STOCK: &str = "shelf/7";

impl World {
    /// `None` where etcd isn't installed.
    fn start(test: &str) -> Option<World> {
        World::of(test, &ONE)
    }

    fn of(test: &str, setup: &Setup<'_>) -> Option<World> {
        if !has(test, "etcd") {
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let (etcd, upstream) = (Etcd::start(setup), Hostile::start(dir.path()));
        let address = format!("{}/prod", etcd.address());
        let trust = format!("trust = \"coordinator\"\ncoordinator = \"{address}?timeout=500ms\"\n");
        let config = format!(
            "[[resource]]\nname = \"shop\"\nkind = \"sqlite\"\nfile = \"shop.db\"\n{trust}\
             [[resource]]\nname = \"stock\"\nkind = \"http\"\nupstream = \"{}\"\nfence = \"stock/{{1}}\"\n\
             election = \"shelf/{{1}}\"\n{trust}",
            upstream.url()
        );
        let gate = upstream::gate(dir.path(), &config);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let adapter = Adapter::open(&Options::parse(&address).expect("an address")).expect("it opens");
        Some(World { etcd, gate, adapter, runtime, _upstream: upstream, dir })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leads, as soon as nobody else does.
    fn lead(&self, election: &str, holder: &str) -> EtcdLeadership {
        let bid = Bid { holder: Some(holder.parse().expect("a name")), ttl: LONG };
        let election = election.parse().expect("a name");
        let campaign = async { tokio::time::timeout(LONG, self.adapter.campaign(&election, &bid)).await };
        self.runtime.block_on(campaign).expect("in time").expect("it leads")
    }

    fn resign(&self, leadership: EtcdLeadership) {
        self.runtime.block_on(leadership.resign()).expect("it resigns");
    }

    /// `etcdctl elect`, and the number that its key has already while it waits.
    fn wait_in_line(&self, election: &str, holder: &str) -> (Waiting, String) {
        let key = format!("prod/{election}");
        let before = self.candidates(&key).len();
        let mut command = self.etcd.ctl(&["elect", &key, holder]);
        let child = command.stdout(Stdio::null()).spawn().expect("etcdctl can be started");
        until("it stands", || self.candidates(&key).len() > before);
        let number = self.candidates(&key).last().expect("it stands").clone();
        (Waiting(child), number)
    }

    /// The create revisions of all who stand, the leader's first.
    fn candidates(&self, key: &str) -> Vec<String> {
        let all = self.etcd.told(&["get", "--prefix", &format!("{key}/"), "--sort-by=CREATE", "-w", "json"]);
        let all: Value = serde_json::from_str(&all).expect("JSON");
        let number = |kv: &Value| kv["create_revision"].to_string();
        all["kvs"].as_array().map(|kvs| kvs.iter().map(number).collect()).unwrap_or_default()
    }

    fn sql(&self, token: &str, sql: &str) -> Answer {
        let body = format!(r#"{{"requests":[{{"type":"execute","stmt":{{"sql":"{sql}"}}}},{{"type":"close"}}]}}"#);
        let headers = [("fencing-token", token)];
        self.gate.client().request("POST", "/shop/v3/pipeline", &headers, body.as_bytes()).expect("an answer")
    }

    fn put(&self, token: &str) -> Answer {
        let headers = [("fencing-token", token)];
        self.gate.client().request("PUT", "/stock/7/doc", &headers, b"x").expect("an answer")
    }

    fn mark(&self, fence: &str) -> Value {
        self.gate.client().get(&format!("/-/fences/{}", fence.replace('/', "%2F"))).json()
    }

    fn until_mark(&self, fence: &str, token: &str) {
        until("the mark rises by itself", || self.mark(fence)["highest"] == token);
    }
}

/// A candidate that waits; it lets go when it is dropped.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_leader_of_etcds_writes_a_candidate_that_waits_does_not_and_the_election_deposes() {
    let Some(world) = World::start("trust::etcd") else { return };
    let (shop, stock) = (world.lead(SHOP, "node-a"), world.lead(STOCK, "node-a"));
    let (one, shelf) = (shop.token().to_string(), stock.token().to_string());
    assert_eq!(world.sql(&one, "CREATE TABLE t (v)").status, 200);
    assert_eq!(world.put(&shelf).status, 200);
    assert_eq!((&world.mark("shop")["holder"], &world.mark("stock/7")["holder"]), (&"node-a".into(), &"node-a".into()));
    assert_told(&world.sql("9223372036854775807", "SELECT 1"), 403, "TOKEN_UNISSUED", "unissued");
    let (_waits, two) = world.wait_in_line(SHOP, "node-b");
    let (_also_waits, next) = world.wait_in_line(STOCK, "node-b");
    assert_told(&world.sql(&two, "INSERT INTO t VALUES (1)"), 403, "TOKEN_UNISSUED", "unissued");
    assert_told(&world.put(&next), 403, "TOKEN_UNISSUED", "unissued");
    assert_eq!(world.sql(&one, "INSERT INTO t VALUES (1)").status, 200, "the leader goes on");
    world.resign(shop);
    world.until_mark("shop", &two);
    assert_told(&world.sql(&one, "INSERT INTO t VALUES (1)"), 412, "STALE_TOKEN", "stale");
    world.resign(stock);
    world.until_mark("stock/7", &next);
    assert_told(&world.put(&shelf), 412, "STALE_TOKEN", "stale");
    assert_eq!((world.sql(&two, "INSERT INTO t VALUES (2)").status, world.put(&next).status), (200, 200));
    assert_eq!(world.mark("shop")["holder"], "node-b");
}

#[test]
fn etcd_down_paused_and_back() {
    let Some(mut world) = World::start("trust::etcd") else { return };
    let shop = world.lead(SHOP, "node-a");
    let one = shop.token().to_string();
    assert_eq!(world.sql(&one, "CREATE TABLE t (v)").status, 200);
    for kills in [true, false] {
        match kills {
            true => world.etcd.members[0].kill(),
            false => world.etcd.members[0].pause(),
        }
        assert_told(&world.sql("9999", "INSERT INTO t VALUES (1)"), 503, "UNAVAILABLE", "");
        assert_told(&world.put("9999"), 503, "UNAVAILABLE", "");
        assert_eq!(world.sql(&one, "INSERT INTO t VALUES (1)").status, 200, "who is at the mark goes on");
        match kills {
            true => world.etcd.members[0].start(),
            false => world.etcd.members[0].go_on(),
        }
        world.etcd.until_serving();
    }
    world.resign(shop);
    let next = world.lead(SHOP, "node-b");
    world.until_mark("shop", &next.token().to_string());
    assert_told(&world.sql(&one, "INSERT INTO t VALUES (1)"), 412, "STALE_TOKEN", "stale");
}

#[test]
fn a_member_that_hangs_is_not_asked_for_long() {
    let Some(world) = World::of("trust::etcd", &Setup { members: 3, ..ONE }) else { return };
    let shop = world.lead(SHOP, "node-a");
    let one = shop.token().to_string();
    assert_eq!(world.sql(&one, "CREATE TABLE t (v)").status, 200);
    // The one that is asked first, and watched. It may lead the cluster, too.
    world.etcd.members[0].pause();
    let shelf = world.lead(STOCK, "node-a");
    until("whom nobody has heard of is confirmed by another member", || {
        let answer = world.put(&shelf.token().to_string());
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        answer.status == 200
    });
    world.resign(shop);
    let next = world.lead(SHOP, "node-b");
    world.until_mark("shop", &next.token().to_string());
    assert_told(&world.sql(&one, "INSERT INTO t VALUES (1)"), 412, "STALE_TOKEN", "stale");
    world.etcd.members[0].go_on();
}

#[test]
fn whoever_is_elected_while_the_gate_is_down_deposes_when_it_starts() {
    let Some(mut world) = World::start("trust::etcd") else { return };
    let shop = world.lead(SHOP, "node-a");
    let one = shop.token().to_string();
    assert_eq!(world.sql(&one, "CREATE TABLE t (v)").status, 200);
    let another = Gate::start(&world.path().join("another"), &[]);
    std::mem::replace(&mut world.gate, another).kill();
    world.resign(shop);
    let next = world.lead(SHOP, "node-b");
    world.gate = upstream::restart(world.path());
    world.until_mark("shop", &next.token().to_string());
    assert_told(&world.sql(&one, "INSERT INTO t VALUES (1)"), 412, "STALE_TOKEN", "stale");
}

#[test]
fn an_etcd_restored_from_a_backup_is_explained() {
    let Some(mut world) = World::start("trust::etcd") else { return };
    let snapshot = world.path().join("snapshot").display().to_string();
    world.etcd.told(&["snapshot", "save", &snapshot]);
    for _ in 0..10 {
        world.etcd.told(&["put", "something", "else"]);
    }
    let shop = world.lead(SHOP, "node-a");
    let high = shop.token().to_string();
    assert_eq!(world.sql(&high, "CREATE TABLE t (v)").status, 200);
    world.etcd.members[0].restore(&snapshot);
    world.etcd.until_serving();
    let after = world.lead(SHOP, "node-b");
    let low = after.token().to_string();
    assert!(after.token() < shop.token(), "the numbers went back");
    let explained = || {
        let answer = world.sql(&low, "INSERT INTO t VALUES (1)");
        assert_told(&answer, 412, "STALE_TOKEN", "stale");
        answer.json()["detail"].as_str().expect("a text").contains("restored from a backup")
    };
    until("the gate has heard who leads now", explained);
    let reset = format!(r#"{{"highest": "{low}", "reason": "restored"}}"#);
    let mut admin = world.gate.admin();
    let reset = admin.request("POST", "/v1/fences/shop/reset", &[JSON], reset.as_bytes()).expect("an answer");
    assert_eq!(reset.status, 200, "{reset:?}");
    assert_eq!(world.sql(&low, "INSERT INTO t VALUES (1)").status, 200);
    assert_told(&world.sql(&high, "INSERT INTO t VALUES (1)"), 403, "TOKEN_UNISSUED", "unissued");
}
