//! Loss of the leadership, however it comes: the command ends, with all that it started, and `lead` exits with 75.

use rustix::process::Signal;

use super::{World, family, is_stopped, unique};
use crate::process::until;

/// Says when it works, and what it gets. Its goodbye is a write.
const WORKER: &str = "trap '$FENCEGATE sql \"INSERT INTO t VALUES ('\"'goodbye of $ME'\"')\" 2>>$DIR/$ME.said; \
                      echo ended >>$DIR/$ME.said; exit 1' TERM; echo works >$DIR/$ME.works; while :; do sleep 0.02 & wait $!; done";

#[test]
fn a_lead_that_is_stopped_past_its_lease_loses_its_command_at_once() {
    let world = World::new();
    let first = unique("stopped");
    let lead = world.lead(&first, &["--ttl", "1s"], WORKER);
    world.written(&format!("{first}.works"));
    lead.signal(Signal::STOP);
    // It can't do anything itself: its warden counts the lease, too.
    until("the command is gone", || family(&first).is_empty());
    assert!(is_stopped(lead.pid()), "lead hasn't woken");
    let mut second = world.lead("second", &[], "$FENCEGATE sql \"INSERT INTO t VALUES ('second')\"; read end");
    second.told("started");
    lead.signal(Signal::CONT);
    let said = lead.wait();
    assert_eq!(said.status, Some(75), "{said:?}");
    for part in ["no longer the leader of app (token 2)", "you've been replaced: second leads app with token 3"] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    second.write("end\n");
    assert_eq!(second.wait().status, Some(0));
}

#[test]
fn both_stopped_the_command_wakes_to_find_that_it_has_to_end() {
    let world = World::new();
    let first = unique("both-stopped");
    let lead = world.lead(&first, &["--ttl", "1s"], WORKER);
    world.written(&format!("{first}.works"));
    let command = lead.command();
    lead.signal(Signal::STOP);
    rustix::process::kill_process_group(command, Signal::STOP).expect("it can be stopped");
    until("the command is gone", || family(&first).is_empty());
    assert!(world.written(&format!("{first}.said")).ends_with("ended\n"), "it got SIGTERM, not only SIGKILL");
    lead.signal(Signal::CONT);
    assert_eq!(lead.wait().status, Some(75));
}

#[test]
fn all_stopped_and_woken_after_the_lease_nothing_goes_on() {
    let world = World::new();
    let first = unique("all-stopped");
    let lead = world.lead(&first, &["--ttl", "1s"], WORKER);
    world.written(&format!("{first}.works"));
    let (warden, command) = (lead.warden(), lead.command());
    rustix::process::kill_process_group(command, Signal::STOP).expect("it can be stopped");
    for pid in [warden, lead.pid()] {
        rustix::process::kill_process(pid, Signal::STOP).expect("it can be stopped");
        until("it is stopped", || is_stopped(pid));
    }
    let mut second = world.lead("second", &[], "read end");
    second.told("started");
    assert!(is_stopped(command), "nobody is there to end it");
    lead.signal(Signal::CONT);
    let said = lead.wait();
    assert_eq!(said.status, Some(75), "{said:?}");
    assert_eq!(family(&first), []);
    assert!(world.written(&format!("{first}.said")).contains("You've been replaced"), "its goodbye was refused");
    second.write("end\n");
}

#[test]
fn a_warden_that_somebody_has_stopped_is_woken() {
    let world = World::new();
    let name = unique("warden-stopped");
    let lead = world.lead(&name, &["--ttl", "2s"], "echo works >$DIR/$ME.works; exec sleep 1000");
    world.written(&format!("{name}.works"));
    let warden = lead.warden();
    rustix::process::kill_process(warden, Signal::STOP).expect("it can be stopped");
    until("it is stopped", || is_stopped(warden));
    world.gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "50")], b"").expect("an answer");
    assert_eq!(lead.wait().status, Some(75));
    assert_eq!(family(&name), []);
}

#[test]
fn a_gate_that_is_gone_takes_its_elections_with_it() {
    let World { dir, gate } = World::new();
    let name = unique("gate");
    let world = World { dir, gate };
    let lead = world.lead(&name, &["--ttl", "1s"], "echo works >$DIR/$ME.works; exec sleep 1000");
    world.written(&format!("{name}.works"));
    let World { dir: _dir, gate } = world;
    gate.kill();
    let said = lead.wait();
    assert_eq!(said.status, Some(75), "{said:?}");
    assert!(said.err.contains("can no longer be known to be alive"), "{said:?}");
    assert_eq!(family(&name), []);
}

#[test]
fn a_higher_token_at_the_gate_is_a_loss_too() {
    let world = World::new();
    let name = unique("replaced");
    let lead = world.lead(&name, &["--ttl", "2s"], WORKER);
    world.written(&format!("{name}.works"));
    let claimed = world.gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "50")], b"");
    assert_eq!(claimed.expect("an answer").status, 200);
    let said = lead.wait();
    assert_eq!(said.status, Some(75), "{said:?}");
    assert!(said.err.contains("the gate has admitted token 50 on fence app"), "{said:?}");
    assert!(world.written(&format!("{name}.said")).contains("You've been replaced"), "its write was refused");
    assert_eq!(world.rows(), Vec::<String>::new());
}

#[test]
fn one_that_ignores_sigterm_is_killed_after_the_time_of_grace() {
    let world = World::new();
    let name = unique("ignores");
    let script = "trap '' TERM; (setsid sleep 1000 &); echo works >$DIR/$ME.works; while :; do sleep 1000; done";
    let lead = world.lead(&name, &["--ttl", "1s", "--grace", "300ms"], script);
    world.written(&format!("{name}.works"));
    let world = World { dir: world.dir, gate: world.gate };
    world.gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "50")], b"").expect("an answer");
    lead.told("terminating");
    assert!(!family(&name).is_empty(), "SIGTERM alone changes nothing");
    let killed = lead.told("killed");
    assert!(!killed["pids"].as_array().expect("numbers").is_empty());
    let said = lead.wait();
    assert_eq!(said.status, Some(75), "{said:?}");
    assert!(said.err.contains("still there after 300ms"), "{said:?}");
    assert_eq!(family(&name), []);
}
