//! At a terminal, with a shell that has job control: the README's story, Ctrl-C, Ctrl-Z, `fg`, `bg`, and a command that reads.

use std::path::Path;

use super::pty::Shell;
use super::{World, events, family, is_stopped, stat, text, unique};
use crate::process::{PROGRAM, until};
use crate::upstream::etcd::Etcd;
use crate::upstream::has;

impl World {
    /// What to type.
    fn command_line(&self, name: &str, more: &str, command: &str) -> String {
        let events = text(&self.path(&format!("{name}.events")));
        let url = self.url();
        format!("{PROGRAM} lead --election app --gate {url} --holder {name} --events {events} {more} -- {command}\n")
    }

    fn started(&self, name: &str) -> rustix::process::Pid {
        let path = self.path(&format!("{name}.events"));
        let mut pid = None;
        until("the command is started", || {
            pid =
                events(&path).iter().find(|event| event["event"] == "started").and_then(|event| event["pid"].as_i64());
            pid.is_some()
        });
        rustix::process::Pid::from_raw(i32::try_from(pid.expect("found")).expect("small")).expect("not zero")
    }
}

/// Whether a command is stopped, or waits in the kernel for a child that is.
fn rests(command: rustix::process::Pid) -> bool {
    stat(command).is_some_and(|stat| matches!(stat.state, 'T' | 'D'))
}

/// The story that the README tells, with the worker that it uses. `more`: who elects.
fn story(name: &str, more: &str, ttl: &str) {
    let world = World::new();
    let worker = text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/worker"));
    let first = unique(name);
    let second = unique(&format!("{name}-second"));
    let mut shell = Shell::start(world.dir.path());
    shell.types("PATH=$(dirname $FENCEGATE):$PATH\n");
    shell.types(&world.command_line(&first, &format!("{more} --ttl {ttl}"), &worker));
    shell.sees(&format!("{first} works, token "));
    let command = world.started(&first);
    shell.types("\u{1a}");
    shell.sees_stopped();
    until("the command is stopped with lead", || rests(command));
    let mut other = Shell::start(world.dir.path());
    other.types("PATH=$(dirname $FENCEGATE):$PATH\n");
    other.types(&world.command_line(&second, more, &worker));
    other.sees(&format!("{second} works, token "));
    assert!(rests(command), "what is stopped does no harm, and is left to whoever stopped it");
    let wrote = |who: &str, what: &str| {
        let count = format!("SELECT count(*) FROM work WHERE who = '{who}' AND what = '{what}'");
        let answer = world.gate.client().sql(None, &[&count]).json();
        answer["results"][0]["response"]["result"]["rows"][0][0]["value"] != "0"
    };
    until("the second has written", || wrote(&second, "work"));
    shell.types("fg\n");
    let shown = shell.sees("ready> ");
    for part in
        ["no longer the leader of app", "You've been replaced", &format!("you've been replaced: {second} leads app")]
    {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert_eq!(family(&first), [], "nothing is left");
    shell.types("echo \"status<$?>\"\n");
    shell.sees("status<75>");
    assert!(!wrote(&first, "goodbye"), "its last write was refused");
    // And told to end while it leads, it says goodbye.
    other.types("\u{1a}");
    other.sees_stopped();
    other.types("fg\n");
    until("it goes on", || family(&second).iter().all(|pid| !is_stopped(*pid)));
    other.types("\u{1a}");
    other.sees_stopped();
    other.types("kill %1; fg\n");
    assert_eq!(other.status(), "1");
    assert!(wrote(&second, "goodbye"));
}

#[test]
fn the_story_of_two_terminals() {
    story("first", "", "1s");
}

#[test]
fn the_story_of_two_terminals_over_etcd() {
    if !has("the_story_of_two_terminals_over_etcd", "etcd") {
        return;
    }
    let etcd = Etcd::shared();
    let coordinator = format!("--coordinator {}/{}", etcd.address(), unique("story"));
    story("etcd-story", &coordinator, "2s");
}

#[test]
fn brought_back_within_its_lease_it_goes_on() {
    let world = World::new();
    let name = unique("back");
    let mut shell = Shell::start(world.dir.path());
    let script = "'echo works; read line; echo \"got <$line>\"; exec sleep 1000'";
    shell.types(&world.command_line(&name, "--ttl 10m", &format!("sh -c {script}")));
    shell.sees("works");
    let command = world.started(&name);
    shell.types("\u{1a}");
    shell.sees_stopped();
    until("it is stopped", || is_stopped(command));
    shell.types("fg\n");
    until("it goes on", || stat(command).is_some_and(|stat| stat.state != 'T'));
    shell.types("typed\n");
    shell.sees("got <typed>");
    // In the background it goes on, too, and Ctrl-C isn't for it.
    shell.types("\u{1a}");
    shell.sees_stopped();
    shell.types("bg\n");
    shell.sees("ready> ");
    until("it goes on", || stat(command).is_some_and(|stat| stat.state != 'T'));
    // A shell that was just about to wait for a key hears of Ctrl-C with the next one.
    shell.types("\u{3}\n");
    shell.sees("ready> ");
    shell.types("echo still; kill %1; wait %1\n");
    shell.sees("still");
    assert_eq!(shell.status(), "143");
    assert_eq!(family(&name), []);
}

#[test]
fn ctrl_z_typed_again_at_once_stops_it_again() {
    let world = World::new();
    let name = unique("again");
    let mut shell = Shell::start(world.dir.path());
    // A shell that waits in the kernel, most of the time, until what it has started has begun.
    let script = "'echo works; while :; do /bin/true; done'";
    shell.types(&world.command_line(&name, "--ttl 10m", &format!("sh -c {script}")));
    shell.sees("works");
    for _ in 0..100 {
        shell.types("\u{1a}");
        shell.sees_stopped();
        shell.types("fg\n");
        until("it goes on", || family(&name).iter().all(|pid| !is_stopped(*pid)));
    }
    shell.types("\u{3}");
    assert_eq!(shell.status(), "130");
    assert_eq!(family(&name), []);
}

#[test]
fn one_that_reads_gets_the_terminal_and_ctrl_c() {
    let world = World::new();
    let mut shell = Shell::start(world.dir.path());
    let name = unique("reads");
    shell.types(&world.command_line(&name, "", "sh -c 'echo asks; read line; echo \"got <$line>\"; exit 4'"));
    shell.sees("asks");
    shell.types("an answer\n");
    shell.sees("got <an answer>");
    assert_eq!(shell.status(), "4");
    let name = unique("interrupted");
    shell.types(&world.command_line(&name, "", "sh -c 'echo works; exec sleep 1000'"));
    shell.sees("works");
    shell.types("\u{3}");
    assert_eq!(shell.status(), "130");
    // The shell has its terminal back, in the state that it was in.
    shell.types("read line; echo \"the shell got <$line>\"\nits own\n");
    shell.sees("the shell got <its own>");
}

#[test]
fn one_in_the_background_that_reads_stops_until_it_is_called_to_the_front() {
    let world = World::new();
    let mut shell = Shell::start(world.dir.path());
    let name = unique("background");
    let line = world.command_line(&name, "--ttl 10m", "sh -c 'echo asks; read line; echo \"got <$line>\"'");
    shell.types(&line.replace('\n', " &\n"));
    shell.sees("asks");
    let command = world.started(&name);
    let lead = stat(stat(command).expect("it is there").parent).expect("its warden is").parent;
    until("both are stopped", || is_stopped(command) && is_stopped(lead));
    // The shell hears of it a little later than it is so.
    let mut jobs = String::new();
    until("the shell knows", || {
        shell.types("jobs; echo those\n");
        jobs = shell.sees("those");
        jobs.contains("Stopped")
    });
    shell.types("fg\n");
    until("it goes on", || stat(command).is_some_and(|stat| stat.state != 'T'));
    shell.types("at last\n");
    shell.sees("got <at last>");
    assert_eq!(shell.status(), "0");
}

#[test]
fn supervised_the_terminal_stays_with_lead() {
    let world = World::new();
    let mut shell = Shell::start(world.dir.path());
    let name = unique("service");
    // Its standard input is empty, so that it never waits for a terminal.
    let script = "'read line || echo \"nothing to read\"; exec sleep 1000'";
    shell.types(&world.command_line(&name, "--supervise --ttl 10m", &format!("sh -c {script}")));
    shell.sees("nothing to read");
    let command = world.started(&name);
    shell.types("\u{1a}");
    shell.sees_stopped();
    // What runs on the other processor stops a moment after it was told to.
    until("Ctrl-Z reaches lead alone, which stops the command", || is_stopped(command));
    shell.types("fg\n");
    until("it goes on", || stat(command).is_some_and(|stat| stat.state != 'T'));
    shell.types("\u{3}");
    assert_eq!(shell.status(), "130", "and Ctrl-C ends both");
    assert_eq!(family(&name), []);
}
