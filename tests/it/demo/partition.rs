//! The network splits. Each test needs a network of its own, and etcd; `fencegate demo --list` says what is lacking.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::until;

use super::shown::{counted, damage, events, shown};
use super::{Demo, lines, of_type};

/// Whether it can be shown here. Where not, the test says that it is skipped.
fn can_be_shown(test: &str) -> bool {
    let scenarios = lines(&Demo::run(&["--list", "--json"]).out);
    let lacks = &scenarios.iter().find(|line| line["scenario"] == "partition").expect("it is listed")["lacks"];
    if let Some(why) = lacks.as_str() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why} (scripts/ensure etcd iproute2)");
    }
    lacks.is_null()
}

/// The network namespaces that processes are in.
fn networks() -> BTreeSet<PathBuf> {
    let processes = std::fs::read_dir("/proc").expect("it can be listed").flatten();
    processes.filter_map(|entry| std::fs::read_link(entry.path().join("ns/net")).ok()).collect()
}

/// The interfaces of the network that this test is in.
fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/net/dev").expect("it can be read");
    table.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Quorum's part: one is elected while the other still leads by all that the smaller side knows, and with a higher token. And nobody
/// else is.
fn is_told_truly(run: &[Value]) {
    let find = |lane: &str, kind: &str| {
        let found = run.iter().position(|event| event["lane"] == lane && event["kind"] == kind);
        found.unwrap_or_else(|| panic!("{lane} {kind}: {run:#?}"))
    };
    let (first, second) = (find("anna", "elected"), find("bert", "elected"));
    let order = [first, find("left", "cut"), second, find("left", "healed")];
    assert!(order.is_sorted(), "{order:?} in {run:#?}");
    let token = |event: usize| run[event]["token"].as_str().expect("a token").parse::<u64>().expect("a number");
    assert!(token(first) < token(second));
    assert_eq!(run.iter().filter(|event| event["kind"] == "elected").count(), 2);
}

fn splits(members: &str) {
    let (told, dir) = shown("partition", &["--members", members]);
    let [(without, _), (with, refused)] = damage(&told);
    assert!(without >= 1 && with == 0 && refused == 1, "{without} {with} {refused}");
    let twice = "SELECT count(DISTINCT a.number) FROM invoices a JOIN invoices b \
                 ON a.number = b.number AND a.written_by < b.written_by";
    assert_eq!(counted(&dir, "partition", "invoices.db", twice), [without, with]);
    events(&told).iter().for_each(|run| is_told_truly(run));
}

#[test]
fn five_members_three_and_two() {
    if can_be_shown("five_members_three_and_two") {
        splits("5");
    }
}

#[test]
fn nine_members_five_and_four() {
    if can_be_shown("nine_members_five_and_four") {
        splits("9");
    }
}

/// Those before it have a network, too, and those after it.
#[test]
fn between_others() {
    if !can_be_shown("between_others") {
        return;
    }
    let said = Demo::run(&["late", "partition", "pause", "--json"]);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{}", said.out);
    let told = lines(&said.out);
    let shown: Vec<&Value> = of_type(&told, "damage").iter().map(|damage| &damage["scenario"]).collect();
    assert_eq!(shown, ["late", "partition", "pause"]);
}

#[test]
fn no_process_and_no_network_is_left_when_it_is_killed() {
    if !can_be_shown("no_process_and_no_network_is_left_when_it_is_killed") {
        return;
    }
    let (own, before) = (std::fs::read_link("/proc/self/ns/net").expect("it can be read"), interfaces());
    for (lane, kind) in [("gate", "started"), ("right", "started"), ("anna", "elected"), ("left", "cut")] {
        let mut demo = Demo::start(&["partition", "--json"]);
        demo.reads(|line| line["lane"] == lane && line["kind"] == kind);
        let pid = demo.pid().as_raw_nonzero();
        let its = std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
        assert!(its != own && networks().contains(&its), "it has a network of its own");
        demo.signal(Signal::KILL);
        demo.wait();
        let when = format!("killed when {lane} had {kind}");
        demo.is_gone(&when);
        // Its number may have been given to another test's network meanwhile, which ends, too.
        until(&format!("its network is gone, {when}"), || !networks().contains(&its));
        assert_eq!(interfaces(), before, "nothing is left in this network, {when}");
    }
}
