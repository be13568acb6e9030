//! Every exit status, the command's environment, and the signals that are passed on.

use std::process::Command;

use rustix::process::{Signal, getpgrp};
use serde_json::{Value, json};

use super::{World, stat};
use crate::process::{PROGRAM, is_ignored};

#[test]
fn the_commands_own_status() {
    let world = World::new();
    for (script, status) in [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        for mode in [&[][..], &["--once"]] {
            let said = world.lead("a", mode, script).wait();
            assert_eq!(said.status, Some(status), "{script}: {said:?}");
        }
    }
    // Each has resigned at once: with the default lease of 10 s, this would have taken long otherwise.
    let election = world.gate.client().get("/-/elections/app").json();
    assert_eq!(election["leader"], Value::Null);
    assert_eq!(election["last_token"], "9", "the first was above the mark");
}

#[test]
fn a_command_that_cant_be_started_costs_nobody_a_term() {
    let world = World::new();
    std::fs::write(world.path("no-program"), "exit 0").expect("written");
    let no_program = super::text(&world.path("no-program"));
    for (command, status) in [("no-such-command", 127), ("./no/such", 127), (no_program.as_str(), 126), ("/", 126)] {
        let said = world.lead_command("a", &[], &[command]).wait();
        assert_eq!(said.status, Some(status), "{command}: {said:?}");
        assert!(said.err.contains(command), "{said:?}");
    }
    assert_eq!(world.gate.client().get("/-/elections/app").json()["last_token"], Value::Null);
    // It is there and may be executed, but nothing can be made of it: only seen when it is tried.
    std::fs::write(world.path("broken"), "#!/no/such/interpreter\n").expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(world.path("broken"), mode).expect("it can be made executable");
    let said = world.lead_command("a", &[], &[&super::text(&world.path("broken"))]).wait();
    assert_eq!(said.status, Some(126), "{said:?}");
}

#[test]
fn wrong_usage() {
    let world = World::new();
    for args in [
        &["--coordinator", "zookeeper://127.0.0.1"][..],
        &["--coordinator", "https://u@127.0.0.1"],
        &["--gate", "127.0.0.1:7070"],
        &["--ttl", "1ms"],
        &["--ttl", "soon"],
        &["--fence", "two words"],
        &["--once", "--supervise"],
        &["--events", "/no/such/folder/events"],
    ] {
        let said = world.lead("a", args, "exit 0").wait();
        assert_eq!(said.status, Some(64), "{args:?}: {said:?}");
    }
    assert_eq!(world.lead_command("a", &[], &[]).wait().status, Some(64), "no command");
}

#[test]
fn out_of_reach() {
    let world = World::new();
    for args in [
        &["--gate", "http://127.0.0.1:1"][..],
        &["--no-gate", "--coordinator", "http://127.0.0.1:1"],
        &["--coordinator", "http://127.0.0.1:1"],
    ] {
        let said = world.lead("a", args, "exit 0").wait();
        assert_eq!(said.status, Some(69), "{args:?}: {said:?}");
        assert!(said.err.contains("127.0.0.1:1"), "{said:?}");
    }
}

#[test]
fn a_stale_token_is_explained_and_the_way_out_leads_out() {
    let world = World::new();
    world.gate.client().sql(Some("100"), &["INSERT INTO t VALUES ('by hand')"]);
    // Another election's tokens know nothing of this fence's mark: as after a coordinator was restored.
    let args = ["--election", "other", "--fence", "app"];
    let lead = |name: &str| {
        let said = world.lead(name, &args, "exit 3").wait();
        (said.status, said.err)
    };
    let (status, err) = lead("a");
    assert_eq!(status, Some(77), "{err}");
    for part in ["with token 1,", "has admitted token 100", "fencegate fences reset app --to 1 --reason", "restored"] {
        assert!(err.contains(part), "{part}: {err}");
    }
    let admin = format!("http://{}", world.gate.admin);
    let reset = Command::new(PROGRAM)
        .args(["fences", "reset", "app", "--to", "1", "--reason", "a test", "--yes", "--admin-url", &admin])
        .output()
        .expect("it runs");
    assert!(reset.status.success(), "{reset:?}");
    assert_eq!(lead("b").0, Some(3));
}

#[test]
fn a_fence_that_isnt_there_is_refused_before_anybody_stands() {
    let world = World::new();
    let said = world.lead("a", &["--fence", "nowhere"], "exit 0").wait();
    assert_eq!(said.status, Some(77), "{said:?}");
    assert!(said.err.contains("--fence"), "{said:?}");
    assert_eq!(world.gate.client().get("/-/elections/app").json()["last_token"], Value::Null);
}

#[test]
fn one_that_isnt_elected_in_time_says_so_and_leaves_no_candidate() {
    let world = World::new();
    let mut first = world.lead("a", &[], "read end");
    first.told("started");
    let second = world.lead("b", &["--wait", "300ms"], "exit 0").wait();
    assert_eq!(second.status, Some(75), "{second:?}");
    assert!(second.err.contains("not elected within 300ms"), "{second:?}");
    // One that is told to end while it waits.
    let third = world.lead("c", &["--ttl", "10m"], "exit 0");
    crate::process::until("it waits", || world.gate.client().get("/-/elections/app").json()["candidates"] == 1);
    third.signal(Signal::TERM);
    assert_eq!(third.wait().status, Some(143));
    crate::process::until("it has withdrawn", || world.gate.client().get("/-/elections/app").json()["candidates"] == 0);
    first.write("end\n");
    assert_eq!(first.wait().status, Some(0));
}

#[test]
fn the_commands_environment() {
    let world = World::new();
    let script = "env | grep ^FENC | grep -v ^FENCEGATE= | sort; grep -E '^Sig(Blk|Ign)' /proc/self/status; cat; \
                  $FENCEGATE sql \"INSERT INTO t VALUES ('$ME')\"";
    let mut lead = world.lead("node a", &[], script);
    let command = stat(lead.command()).expect("it waits for its input");
    assert_eq!(command.group, lead.command().as_raw_nonzero().get(), "a process group of its own");
    assert_ne!(command.group, getpgrp().as_raw_nonzero().get());
    lead.write("through\n");
    let said = lead.wait();
    assert_eq!(said.status, Some(0), "{said:?}");
    let url = world.url();
    // What this process ignores is ignored by all that it starts, but for what Rust's own start ignores. The two signals that the C
    // library keeps for itself are its affair.
    let ignored = |status: &str| {
        let number = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).expect("it is told");
        u64::from_str_radix(number, 16).expect("a number") & !(0b11 << 31)
    };
    let own = ignored(&std::fs::read_to_string("/proc/self/status").expect("it can be read"));
    assert_eq!(ignored(&said.out), own & !(1 << (Signal::PIPE.as_raw() - 1)));
    let expected = format!(
        "FENCEGATE_AUTH_TOKEN=fgt.2.bm9kZSBh\nFENCEGATE_URL={url}\nFENCING_FENCE=app\nFENCING_HOLDER=node a\nFENCING_TOKEN=2\n\
         SigBlk:\t0000000000000000\nSigIgn:"
    );
    assert!(said.out.starts_with(&expected) && said.out.contains("\nthrough\n"), "{said:?}");
    assert_eq!(world.rows(), ["node a"]);
    assert_eq!(world.gate.client().get("/-/fences/app").json()["holder"], "node a");

    let said = world.lead("b", &["--no-gate"], "env | grep ^FENCEGATE_URL; echo $FENCING_TOKEN").wait();
    assert_eq!((said.status, said.out.as_str()), (Some(0), "3\n"));
    assert_eq!(world.gate.client().get("/-/fences/app").json()["highest"], "2", "nothing was claimed");
    let said = world.lead("c", &["--json"], "echo out; echo err >&2").wait();
    assert_eq!(said.out, "out\n");
    let events: Vec<Value> = said.err.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    let names: Vec<_> = names.into_iter().filter(|name| *name != "renewed").collect();
    assert_eq!(names, ["campaigning", "elected", "claimed", "started", "ended", "resigned", "exit"], "{said:?}");
    assert!(events.iter().all(|event| event["election"] == "app" && event["time"].is_string()));
    assert_eq!((&events[1]["token"], &events[events.len() - 1]["status"]), (&json!("4"), &json!(0)));
}

#[test]
fn signals_are_passed_on() {
    let world = World::new();
    let script = "for s in HUP INT QUIT TERM USR1; do trap \"echo $s >>$DIR/got\" $s; done; trap 'exit 9' USR2; \
                  echo ready >$DIR/ready; while :; do sleep 0.02 & wait $!; done";
    let lead = world.lead("a", &[], script);
    world.written("ready");
    let mut expected = String::new();
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::USR1, "USR1"),
    ] {
        if is_ignored(signal) {
            // By whoever runs the tests, and so by the command, too.
            continue;
        }
        lead.signal(signal);
        expected += &format!("{name}\n");
        let got = || std::fs::read_to_string(world.path("got")).unwrap_or_default();
        crate::process::until(name, || got() == expected);
    }
    lead.signal(Signal::USR2);
    assert_eq!(lead.wait().status, Some(9), "it led to the end");
}

#[test]
fn what_was_ignored_stays_so() {
    let world = World::new();
    let args = world.args("a", &[]);
    let script = "trap '' HUP; \"$0\" \"$@\" & wait $!";
    let output = Command::new("sh")
        .args(["-c", script, PROGRAM])
        .args(args)
        .args(["--", "sh", "-c", "kill -HUP $PPID; kill -HUP 0; kill -HUP $$; echo survived"])
        .output()
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "survived\n", "{output:?}");
}
