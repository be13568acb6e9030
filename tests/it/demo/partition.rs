//! The network splits. Each test needs a network of its own, and etcd; `fencegate demo --list` says what is lacking.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::{Demo, Told, count, find, numbers};
use crate::process::PROGRAM;

/// Whether it can be shown here. Where not, the test says that it is skipped.
fn can_be_shown(test: &str) -> bool {
    let output = Command::new(PROGRAM).args(["demo", "--list", "--json"]).output().expect("it can be started");
    let told = String::from_utf8(output.stdout).expect("UTF-8");
    let scenarios: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
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

/// The numbers of the invoices that a leader has written.
fn invoices(told: &Told, side: &str, name: &str) -> Vec<i64> {
    let sql = format!("SELECT number FROM invoices WHERE written_by = '{name}' ORDER BY rowid");
    numbers(&told.folder("partition", side).join("invoices.db"), &sql)
}

fn splits(members: &str) {
    let told = Demo::finish(&["partition", "--members", members]);
    assert_eq!(told.status, Some(0), "{:#?}", told.lines);
    let [(without, refused_without), (with, refused_with)] = told.damage("partition");
    assert!(without[1] > 0 && refused_without == 0, "{without:?}");
    assert!(with[1] == 0 && refused_with == 1, "{with:?}");
    for side in ["without", "with"] {
        let run = told.run(side);
        // Quorum's part: one is elected while the other still leads by all that the smaller side knows, and with a higher token.
        let [cut, healed] = ["cut", "healed"].map(|kind| find(run, "left", kind).expect(kind));
        let [anna, bert] = ["anna", "bert"].map(|name| find(run, name, "elected").expect("elected"));
        assert!(anna < cut && cut < bert && bert < healed, "{run:#?}");
        let token = |event: usize| run[event]["token"].as_str().expect("a token").parse::<u64>().expect("a number");
        assert!(token(anna) < token(bert));
        let elections = run.iter().filter(|event| event["kind"] == "elected").count();
        assert_eq!(elections, 2, "nobody else was elected");
        // Fencing's part, counted by this test.
        let (annas, berts) = (invoices(&told, side, "anna"), invoices(&told, side, "bert"));
        assert!(!annas.is_empty() && !berts.is_empty());
        let twice = berts.iter().filter(|number| annas.contains(number)).count();
        let counted = if side == "with" { &with } else { &without };
        assert_eq!(u64::try_from(twice).expect("small"), counted[1]);
        assert_eq!(count(run, "bert", "refused"), 0);
    }
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

#[test]
fn no_process_and_no_network_is_left_when_it_is_killed() {
    if !can_be_shown("no_process_and_no_network_is_left_when_it_is_killed") {
        return;
    }
    let (own, before) = (std::fs::read_link("/proc/self/ns/net").expect("it can be read"), interfaces());
    let moments: [(&str, &str); 4] = [("gate", "started"), ("right", "started"), ("anna", "elected"), ("left", "cut")];
    for (lane, kind) in moments {
        let mut demo = Demo::start(&["partition"]);
        demo.until(|line| line["lane"] == lane && line["kind"] == kind);
        // It itself, and whatever was started in it, is in other networks than this test.
        let pid = demo.child.id();
        let its = std::fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
        assert_ne!(its, own, "it has a network of its own");
        assert!(networks().contains(&its));
        demo.kill();
        assert!(!networks().contains(&its), "killed when {lane} had {kind}");
        assert_eq!(interfaces(), before, "nothing is left in this network");
    }
}
