//! `lead` over a real etcd, in one election with `etcdctl elect`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{World, family, is_stopped, unique};
use crate::process::{PROGRAM, until};
use crate::upstream::etcd::{Etcd, ONE};
use crate::upstream::has;

/// The shared etcd, with a prefix of the test's own.
struct Site {
    world: World,
    etcd: Arc<Etcd>,
    prefix: String,
    coordinator: String,
}

impl Site {
    fn new(prefix: &str) -> Site {
        let etcd = Etcd::shared();
        let prefix = unique(prefix);
        let coordinator = format!("{}/{prefix}", etcd.address());
        Site { world: World::new(), etcd, prefix, coordinator }
    }

    fn told(&self, arguments: &[&str]) -> String {
        self.etcd.told(arguments)
    }

    fn keys(&self) -> Vec<String> {
        let told = self.told(&["get", "--prefix", &format!("{}/app/", self.prefix), "--keys-only"]);
        told.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }
}

#[test]
fn the_token_is_the_keys_create_revision_and_status_shows_both_sides() {
    if !has("the_token_is_the_keys_create_revision_and_status_shows_both_sides", "etcd") {
        return;
    }
    let site = Site::new("status");
    let coordinator = ["--coordinator", site.coordinator.as_str()];
    let script = "echo $FENCING_TOKEN >$DIR/token; read end";
    let mut first = site.world.lead("first", &coordinator, script);
    let token = site.world.written("token").trim().to_owned();
    let told = site.told(&["get", "--prefix", &format!("{}/app/", site.prefix), "-w", "fields"]);
    assert!(told.contains(&format!("\"CreateRevision\" : {token}\n")), "{told}");
    let _second = site.world.lead("second", &coordinator, "exit 0");
    until("two stand", || site.keys().len() == 2);
    let status = |more: &[&str]| {
        let output = Command::new(PROGRAM)
            .args(["status", "--election", "app", "--gate", &site.world.url()])
            .args(coordinator)
            .args(more)
            .output()
            .expect("it runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    let (code, json) = status(&["--json"]);
    let shown: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(code, Some(0));
    assert_eq!((&shown["leader"]["token"], &shown["leader"]["holder"]), (&json!(token), &json!("first")));
    assert!(shown["leader"]["ttl_left_ms"].as_u64().is_some_and(|left| left <= 10_000), "{json}");
    assert_eq!((&shown["waiting"], &shown["mark"]["highest"]), (&json!(["second"]), &json!(token)));
    assert_eq!(shown["standing"], "agreed");
    let (_, text) = status(&[]);
    for part in
        [format!("leader   first, token {token}, "), "waiting  second".into(), format!("mark     {token}, of first")]
    {
        assert!(text.contains(&part), "{part}: {text}");
    }
    assert!(!text.contains("DISAGREE"), "{text}");
    site.world
        .gate
        .client()
        .request("POST", "/-/fences/app/claim", &[("fencing-token", "999999999")], b"")
        .expect("sent");
    assert!(status(&[]).1.contains("DISAGREE the gate has admitted a higher token"), "{}", status(&[]).1);
    first.write("end\n");
}

#[test]
fn a_lease_revoked_or_a_key_deleted_is_a_loss_at_once() {
    if !has("a_lease_revoked_or_a_key_deleted_is_a_loss_at_once", "etcd") {
        return;
    }
    let site = Site::new("ends");
    for how in ["revoke", "delete"] {
        let name = unique(how);
        // A lease that outlasts the test: the loss is told, not waited for.
        let args = ["--coordinator", site.coordinator.as_str(), "--ttl", "10m"];
        let lead = site.world.lead(&name, &args, "exec sleep 1000");
        lead.told("started");
        let key = site.keys().pop().expect("it stands");
        match how {
            "revoke" => site.told(&["lease", "revoke", key.rsplit('/').next().expect("the lease's id")]),
            _ => site.told(&["del", &key]),
        };
        let said = lead.wait();
        assert_eq!(said.status, Some(75), "{how}: {said:?}");
        assert!(said.err.contains("the coordinator has ended this term"), "{how}: {said:?}");
        assert_eq!(family(&name), []);
    }
}

#[test]
fn stopped_past_its_lease_it_is_replaced_by_etcdctl_and_told_so() {
    if !has("stopped_past_its_lease_it_is_replaced_by_etcdctl_and_told_so", "etcd") {
        return;
    }
    let site = Site::new("replaced");
    let first = unique("etcd-first");
    let args = ["--coordinator", site.coordinator.as_str(), "--ttl", "2s"];
    let lead = site.world.lead(&first, &args, "exec sleep 1000");
    lead.told("started");
    lead.signal(Signal::STOP);
    until("it is stopped", || is_stopped(lead.pid()));
    let mut elect = site.etcd.ctl(&["elect", &format!("{}/app", site.prefix), "by-hand"]);
    let mut elect = elect.stdout(Stdio::piped()).spawn().expect("etcdctl starts");
    // Kept open: it writes more than the line that says that it leads, and dies without resigning where nobody reads.
    let mut lines = BufReader::new(elect.stdout.take().expect("piped"));
    lines.read_line(&mut String::new()).expect("it is elected");
    until("the command is gone", || family(&first).is_empty());
    lead.signal(Signal::CONT);
    let said = lead.wait();
    assert_eq!(said.status, Some(75), "{said:?}");
    assert!(said.err.contains("you've been replaced: by-hand leads app with token"), "{said:?}");
    // And back: a command that ends hands over to whoever waits.
    let mut next = site.world.lead("next", &args, "read end");
    until("two stand", || site.keys().len() == 2);
    kill_process(Pid::from_child(&elect), Signal::INT).expect("it runs");
    elect.wait().expect("it ends");
    drop(lines);
    next.told("started");
    next.write("end\n");
    assert_eq!(next.wait().status, Some(0));
    assert_eq!(site.keys(), Vec::<String>::new(), "it has resigned");
}

#[test]
fn an_etcd_that_is_gone_ends_what_it_has_elected() {
    if !has("an_etcd_that_is_gone_ends_what_it_has_elected", "etcd") {
        return;
    }
    let world = World::new();
    let mut etcd = Etcd::start(&ONE);
    let address = etcd.address();
    let name = unique("etcd-gone");
    let lead = world.lead(&name, &["--coordinator", &address, "--ttl", "2s"], "exec sleep 1000");
    lead.told("started");
    etcd.members[0].kill();
    let said = lead.wait();
    assert_eq!(said.status, Some(75), "{said:?}");
    assert_eq!(family(&name), []);
    let said = world.lead("late", &["--coordinator", &address], "exit 0").wait();
    assert_eq!(said.status, Some(69), "{said:?}");
}
