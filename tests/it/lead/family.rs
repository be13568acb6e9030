//! Nothing of the command is left when the term is over: no grandchild, no daemon in a session of its own.

use rustix::process::{Signal, kill_process, test_kill_process};

use super::{World, family, stat, unique};
use crate::process::until;

/// A command with a child, one that ignores SIGTERM, and a daemon: forked twice, with a session of its own, whose parent has gone.
const FAMILY: &str = "sleep 1000 >/dev/null 2>&1 & \
     (trap '' TERM; echo child >$DIR/$ME.child; exec sleep 1000 >/dev/null 2>&1) & \
     (setsid sh -c 'echo $$ >$DIR/$ME.daemon; trap \"\" TERM HUP; while :; do sleep 1000; done' >/dev/null 2>&1 &) ; ";

/// Waits until the family is whole; the daemon's number.
fn whole(world: &World, name: &str) -> rustix::process::Pid {
    world.written(&format!("{name}.child"));
    let daemon = world.written(&format!("{name}.daemon"));
    let daemon = rustix::process::Pid::from_raw(daemon.trim().parse().expect("a number")).expect("not zero");
    let its = stat(daemon).expect("it runs");
    assert_eq!(its.session, daemon.as_raw_nonzero().get(), "a session of its own");
    daemon
}

#[test]
fn when_the_command_ends_so_does_what_it_started() {
    let world = World::new();
    let name = unique("ends");
    let mut lead = world.lead(&name, &["--grace", "200ms"], &format!("{FAMILY} read end; exit 5"));
    let daemon = whole(&world, &name);
    until("the daemon's own parent has gone", || stat(daemon).expect("it runs").parent == lead.warden());
    assert!(family(&name).len() >= 4, "the check sees them");
    lead.write("end\n");
    let said = lead.wait();
    assert_eq!(said.status, Some(5), "{said:?}");
    assert_eq!(family(&name), [], "nothing is left when it exits");
}

#[test]
fn when_lead_is_killed() {
    let world = World::new();
    let name = unique("killed");
    let lead = world.lead(&name, &["--grace", "200ms"], &format!("{FAMILY} read end"));
    whole(&world, &name);
    let warden = lead.warden();
    lead.signal(Signal::KILL);
    assert_eq!(lead.wait().status, None);
    until("nothing is left", || family(&name).is_empty());
    until("and the warden neither", || test_kill_process(warden).is_err());
}

#[test]
fn when_its_warden_is_killed() {
    let world = World::new();
    let name = unique("warden");
    let lead = world.lead(&name, &[], &format!("{FAMILY} read end"));
    whole(&world, &name);
    kill_process(lead.warden(), Signal::KILL).expect("it can be killed");
    let said = lead.wait();
    assert_eq!(said.status, Some(137), "{said:?}");
    assert!(said.err.contains("warden was killed"), "{said:?}");
    assert_eq!(family(&name), []);
}

#[test]
fn what_was_there_before_is_nobodys_to_end() {
    let world = World::new();
    for (name, kills_warden) in [(unique("clean"), false), (unique("unclean"), true)] {
        // A script that starts something of its own, and becomes `lead`.
        let script =
            format!("FENCING_HOLDER=sidecar-{name} sleep 1000 </dev/null >/dev/null 2>&1 & exec \"$0\" \"$@\"");
        let args = world.args(&name, &[]);
        let mut lead = std::process::Command::new("sh")
            .args(["-c", &script, crate::process::PROGRAM])
            .args(args)
            .args(["--", "sh", "-c", "read end"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("it starts");
        let events = world.path(&format!("{name}.events"));
        until("it is started", || super::events(&events).iter().any(|event| event["event"] == "started"));
        let sidecar = family(&format!("sidecar-{name}"));
        assert_eq!(sidecar.len(), 1);
        if kills_warden {
            let started = super::events(&events).into_iter().find(|event| event["event"] == "started").expect("told");
            let command = i32::try_from(started["pid"].as_i64().expect("a number")).expect("small");
            let command = rustix::process::Pid::from_raw(command).expect("not zero");
            kill_process(stat(command).expect("it runs").parent, Signal::KILL).expect("it can be killed");
        } else {
            drop(lead.stdin.take());
        }
        lead.wait().expect("it ends");
        assert_eq!((family(&name), family(&format!("sidecar-{name}"))), (vec![], sidecar.clone()));
        kill_process(sidecar[0], Signal::KILL).expect("it is there");
    }
}

/// The negative control, and the limit that the docs tell of: with both protectors killed at one moment, the command still dies, and
/// its daemon lives. So the check of the other tests would see a survivor.
#[test]
fn with_both_killed_at_once_the_daemon_survives() {
    let world = World::new();
    let name = unique("both");
    let lead = world.lead(&name, &[], &format!("{FAMILY} read end"));
    let daemon = whole(&world, &name);
    let (warden, command) = (lead.warden(), lead.command());
    for pid in [lead.pid(), warden] {
        kill_process(pid, Signal::STOP).expect("it can be stopped");
        until("it is stopped", || super::is_stopped(pid));
    }
    for pid in [lead.pid(), warden] {
        kill_process(pid, Signal::KILL).expect("it can be killed");
    }
    assert_eq!(lead.wait().status, None);
    until("the command is gone", || stat(command).is_none());
    assert!(family(&name).contains(&daemon));
    for pid in family(&name) {
        let _ = kill_process(pid, Signal::KILL);
    }
    until("the test has cleaned up", || family(&name).is_empty());
}
