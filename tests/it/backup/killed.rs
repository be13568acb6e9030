//! Backups and restores that are killed at each of their steps (`src/fail.rs`), one after the other and by name: no step is left out.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Stdio;

use fencegate::fail::Point;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::process::{Gate, until};

use super::restore::History;
use super::{Said, World, claim, election, term, write};

/// Runs this with `FENCEGATE_FAIL` set so, and says whether it was killed.
fn armed(world: &World, args: &[&str], rules: &str) -> (Said, bool) {
    let output = world.command(args).env("FENCEGATE_FAIL", rules).output().expect("it runs");
    let is_killed = output.status.signal() == Some(9);
    (Said::of(output), is_killed)
}

/// Every time that a run comes to a label with this prefix: `label:nth`. All but these labels have to be come to.
fn steps(world: &World, args: &[&str], prefix: &str, others: &[&str]) -> Vec<String> {
    let log = world.path("points.log");
    let output = world.command(args).env("FENCEGATE_FAIL_LOG", &log).output().expect("it runs");
    assert!(output.status.success(), "{:?}", Said::of(output));
    let text = std::fs::read_to_string(log).expect("it is written");
    let mut counts: HashMap<&str, usize> = HashMap::new();
    text.lines().for_each(|label| *counts.entry(label).or_default() += 1);
    let ours = Point::ALL.iter().map(|(_, label)| *label);
    let ours: Vec<&str> = ours.filter(|label| label.starts_with(prefix) && !others.contains(label)).collect();
    let never: Vec<_> = ours.iter().filter(|label| !counts.contains_key(**label)).collect();
    assert!(never.is_empty(), "it doesn't come to {never:?}");
    ours.iter().flat_map(|label| (1..=counts[label]).map(move |nth| format!("{label}:{nth}"))).collect()
}

#[test]
fn a_backup_killed_at_any_step_is_none_or_whole() {
    let history = History::new();
    let (world, gate) = (&history.world, history.world.gate());
    let folder = world.path("another");
    let text = folder.to_str().expect("UTF-8");
    let steps = steps(world, &["backup", text], "backup.", &[]);
    assert!(steps.len() >= 6, "begun, three files, the manifest, the name: {steps:?}");
    std::fs::remove_dir_all(&folder).expect("removed");
    for step in steps {
        let (said, is_killed) = armed(world, &["backup", text], &format!("{step}:kill"));
        assert!(is_killed, "{step}: {said:?}");
        assert_eq!(folder.exists(), step.starts_with("backup.named"), "{step}");
        if folder.exists() {
            assert_eq!(world.run(&["restore", "--check", text]).status, 0, "{step}");
            std::fs::remove_dir_all(&folder).expect("removed");
        }
        // The next one clears away what was left.
        world.backup("another");
        assert!(!world.path("another.partial").exists(), "{step}");
        assert_eq!(world.run(&["restore", "--check", text]).status, 0, "{step}");
        std::fs::remove_dir_all(&folder).expect("removed");
    }
    drop(gate);
}

/// Runs this, which stops itself at this step; looks; and lets it go on.
fn paused(world: &World, args: &[&str], step: &str, look: impl FnOnce()) -> Said {
    let mut command = world.command(args);
    command.env("FENCEGATE_FAIL", format!("{step}:pause")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("it runs");
    let stat = format!("/proc/{}/stat", child.id());
    until("it stands still", || {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    });
    look();
    let pid = Pid::from_raw(child.id().cast_signed()).expect("not 0");
    kill_process(pid, Signal::CONT).expect("it is there");
    Said::of(child.wait_with_output().expect("it ends"))
}

#[test]
fn a_backup_that_stands_still_is_in_nobodys_way_and_of_one_moment() {
    let history = History::new();
    let world = &history.world;
    let gate = world.gate();
    let folder = world.path("another");
    let next = history.last.0 + 100;
    let said = paused(world, &["backup", folder.to_str().expect("UTF-8")], "backup.looked:1", || {
        let answer = write(&mut gate.client(), next, "INSERT INTO t VALUES ('meanwhile')");
        assert_eq!(answer.status, 200, "{answer:?}");
    });
    assert_eq!(said.status, 0, "{said:?}");
    let read = |file: &Path| -> (i64, i64) {
        let db = rusqlite::Connection::open(file).expect("it opens");
        let sql = "SELECT (SELECT token FROM fencegate_marks WHERE fence = 'app'), (SELECT count(*) FROM t WHERE v = 'meanwhile')";
        db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("a row")
    };
    let was = i64::try_from(history.last.0).expect("a token");
    assert_eq!(read(&folder.join("resource-app.db")), (was, 0));
    assert_eq!(read(&world.path("app.db")), (was + 100, 1));
}

#[test]
fn a_restore_keeps_gates_and_other_restores_away() {
    let history = History::new();
    let world = &history.world;
    let said = paused(
        world,
        &["restore", "--replace", world.path("backup").to_str().expect("UTF-8")],
        "restore.put:1",
        || {
            let why = try_gate(world).err().expect("it doesn't start");
            assert!(why.contains("in use by another"), "{why}");
            let second = world.restore(&["--replace"]);
            assert!(second.status == 1 && second.err.contains("another restore has it in use"), "{second:?}");
        },
    );
    assert_eq!(said.status, 0, "{said:?}");
    let wrong = history.judge(&world.gate());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A gate on what a restore that was killed has left: as it was before, or as it is after, nobody gets in who mustn't.
fn judge_between(history: &History, gate: &Gate) -> Vec<String> {
    let mut client = gate.client();
    let mut wrong = Vec::new();
    // A token from between the backup's mark and the last.
    let late = write(&mut client, history.before.0 + 3, "INSERT INTO t VALUES ('late')");
    if late.status != 412 {
        wrong.push(format!("a deposed leader is told {late:?}"));
    }
    let known = claim(&mut client, "stock/known", 1);
    if known.status != 412 {
        wrong.push(format!("the leader of the backup claims, and is told {known:?}"));
    }
    // Where it still leads, that is as it was before.
    let _ = election(&mut client, "app", "resign", &json!({ "candidate": history.last.1 }));
    let next = term(&mut client, "app");
    if next <= history.last.0 {
        wrong.push(format!("token {next} was issued before"));
    }
    wrong
}

/// Kills a restore there, and judges what it has left, and what a second one makes of that.
fn kill_restore(history: &History, step: &str) -> Vec<String> {
    let history = history.copy();
    let world = &history.world;
    let backup = world.path("backup");
    let args = ["restore", "--replace", backup.to_str().expect("UTF-8")];
    let (said, is_killed) = armed(world, &args, &format!("{step}:kill"));
    if !is_killed {
        return vec![format!("{step}: it was not killed: {said:?}")];
    }
    let mut wrong = judge_between(&history, &world.gate());
    let said = world.run(&args);
    if said.status == 0 {
        wrong.extend(history.judge(&world.gate()));
    } else {
        wrong.push(format!("the next one: {said:?}"));
    }
    for left in ["data/restore.partial", "app.db.restore-partial"] {
        if world.path(left).exists() {
            wrong.push(format!("{left} is left"));
        }
    }
    wrong.into_iter().map(|what| format!("{step}: {what}")).collect()
}

#[test]
fn a_restore_killed_at_any_step_lets_nobody_in() {
    let history = History::new();
    let undisturbed = history.copy();
    let backup = undisturbed.world.path("backup");
    let args = ["restore", "--replace", backup.to_str().expect("UTF-8")];
    // Those are of a damaged database.
    let steps = steps(&undisturbed.world, &args, "restore.", &["restore.logs_moved"]);
    assert!(steps.len() >= 13, "the locks, and four of each of three files: {steps:?}");
    let next = std::sync::Mutex::new(steps.iter());
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(step) = { next.lock().expect("not poisoned").next() } {
                    wrong.lock().expect("not poisoned").extend(kill_restore(&history, step));
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("not poisoned");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// With a mark that isn't raised, the judge has to see it.
#[test]
fn a_restore_with_a_step_left_out_is_found_out() {
    let history = History::new();
    let world = &history.world;
    let backup = world.path("backup");
    let args = ["restore", "--replace", backup.to_str().expect("UTF-8")];
    let rules = (1..8).map(|nth| format!("restore.raise:{nth}:skip")).collect::<Vec<_>>().join(",");
    let (said, _) = armed(world, &args, &rules);
    assert_eq!(said.status, 0, "{said:?}");
    let gate = world.gate();
    let between = judge_between(&history, &gate);
    assert!(between.iter().any(|what| what.starts_with("a deposed leader")), "{between:?}");
    let wrong = history.judge(&gate);
    assert!(wrong.iter().any(|what| what.starts_with("the last leader writes: 200")), "{wrong:?}");
}

/// A database that is damaged, with what was told last in its log only: mark 60 is there, 50 in the database itself.
fn damaged() -> World {
    let world = World::new();
    let gate = world.gate();
    let mut client = gate.client();
    assert_eq!(write(&mut client, 50, "CREATE TABLE t (v)").status, 200);
    let fill = "INSERT INTO t SELECT zeroblob(4000) FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50) SELECT i FROM n)";
    assert_eq!(write(&mut client, 50, fill).status, 200);
    world.backup("backup");
    assert_eq!(gate.terminate(), Some(0));
    let gate = world.gate();
    assert_eq!(write(&mut gate.client(), 60, "CREATE TABLE more (v)").status, 200);
    gate.kill();
    // A page of `t`, which nothing that the gate reads at its start is on.
    let file = world.path("app.db");
    let mut bytes = std::fs::read(&file).expect("read");
    let at = bytes.len() - 3 * 4096;
    bytes[at..at + 8].fill(0xff);
    std::fs::write(&file, bytes).expect("written");
    assert!(std::fs::metadata(world.path("app.db-wal")).is_ok_and(|log| log.len() > 0));
    world
}

fn try_gate(world: &World) -> Result<Gate, String> {
    Gate::try_start(world.dir(), &["--config", &world.config()])
}

#[test]
fn a_damaged_database_is_never_served_without_its_log() {
    // Why that matters: without it, a token that was deposed gets in.
    let world = damaged();
    std::fs::remove_file(world.path("app.db-wal")).expect("removed");
    let gate = world.gate();
    assert_eq!(write(&mut gate.client(), 55, "CREATE TABLE deposed (v)").status, 200, "the control");
    drop(gate);

    let world = damaged();
    // Who reads it keeps its log from being put into it, as a log that can't be read would.
    let reader = rusqlite::Connection::open(world.path("app.db")).expect("it opens");
    reader.execute_batch("BEGIN; SELECT * FROM fencegate_marks").expect("it reads");
    let backup = world.path("backup");
    let args = ["restore", "--replace", "--above", "100", backup.to_str().expect("UTF-8")];
    let (said, is_killed) = armed(&world, &args, "restore.logs_moved:1:kill");
    assert!(is_killed, "{said:?}");
    drop(reader);
    let why = try_gate(&world).err().expect("it doesn't start");
    assert!(why.contains("app.db") && why.contains("not a database"), "{why}");
    assert_eq!(world.run(&args).status, 0);
    let gate = world.gate();
    for (token, status) in [(55, 412), (100, 412), (101, 200)] {
        assert_eq!(write(&mut gate.client(), token, "INSERT INTO t VALUES ('x')").status, status, "{token}");
    }
    // What it was is kept, with its log.
    let names = std::fs::read_dir(world.dir()).expect("it can be listed").flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let log = names.iter().find(|name| name.starts_with("app.db.before-restore") && name.ends_with("-wal"));
    let log = log.unwrap_or_else(|| panic!("no log is kept: {names:?}"));
    assert!(Path::new(&world.path(log.strip_suffix("-wal").expect("it ends so"))).exists());
}
