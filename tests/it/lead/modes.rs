//! Handing over, and standing again.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use super::{World, family, unique};
use crate::process::until;

const WRITES: &str = "$FENCEGATE sql \"INSERT INTO t VALUES ('$ME')\"; echo wrote >$DIR/$ME.wrote; read end";

#[test]
fn where_only_the_worker_crashes_the_next_leads_at_once() {
    let world = World::new();
    // Leases that outlast the test: nobody waits for one.
    let first = world.lead("a", &["--ttl", "10m"], WRITES);
    world.written("a.wrote");
    let mut second = world.lead("b", &["--ttl", "10m"], WRITES);
    until("it waits", || world.gate.client().get("/-/elections/app").json()["candidates"] == 1);
    let crashed = Instant::now();
    kill_process(first.command(), Signal::KILL).expect("it can be killed");
    second.told("started");
    let elapsed = crashed.elapsed();
    world.written("b.wrote");
    assert_eq!(first.wait().status, Some(137));
    second.write("end\n");
    assert_eq!(second.wait().status, Some(0));
    assert_eq!(world.rows(), ["a", "b"]);
    // The benchmark measures it; here only that no lease and no timer is waited for, on however busy a machine.
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
}

#[test]
fn supervised_it_stands_again_after_a_crash_and_ends_when_the_command_is_done() {
    let world = World::new();
    let script = "n=$(cat $DIR/n 2>/dev/null || echo 0); echo $((n+1)) >$DIR/n; echo \"$n $FENCING_TOKEN\"; \
                  [ $n -lt 1 ] && exit 3; exit 0";
    let lead = world.lead("a", &["--supervise"], script);
    lead.told("again");
    let said = lead.wait();
    assert_eq!(said.status, Some(0), "{said:?}");
    assert_eq!(said.out, "0 2\n1 3\n", "each term has a token of its own");
    assert!(said.err.contains("the command ended with status 3; standing again in 1s"), "{said:?}");
}

#[test]
fn supervised_it_stands_again_after_a_loss_and_ends_when_it_is_told_to() {
    let world = World::new();
    let name = unique("again");
    let script = "echo $FENCING_TOKEN >>$DIR/tokens; exec sleep 1000";
    let lead = world.lead(&name, &["--supervise", "--ttl", "1s"], script);
    world.written("tokens");
    lead.signal(Signal::STOP);
    until("the command is gone", || family(&name).is_empty());
    lead.signal(Signal::CONT);
    lead.told_often("started", 2);
    until("it runs again", || std::fs::read_to_string(world.path("tokens")).unwrap_or_default() == "2\n3\n");
    lead.signal(Signal::TERM);
    assert_eq!(lead.wait().status, Some(143), "and not once more");
    // One that is told so while nobody runs.
    let lead = world.lead("b", &["--supervise"], "exit 1");
    lead.told("again");
    lead.signal(Signal::INT);
    assert_eq!(lead.wait().status, Some(130));
}

#[test]
fn without_being_asked_to_it_leads_one_term_only() {
    let world = World::new();
    let lead = world.lead("a", &["--once"], "exit 1");
    assert_eq!(lead.wait().status, Some(1));
    let names: Vec<String> = super::events(&world.path("a.events"))
        .iter()
        .map(|event| event["event"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names.iter().filter(|name| *name == "elected").count(), 1);
    assert!(!names.contains(&"again".to_owned()));
}
