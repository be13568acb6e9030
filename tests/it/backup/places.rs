//! Where backups are made and restored: names of every kind, folders that are somebody else's, and what is in use.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use serde_json::json;

use crate::process::PROGRAM;

use super::{Said, World, claim, write};

#[test]
fn a_name_with_a_slash_behind_it_is_the_same_name() {
    let world = World::new();
    drop(world.gate());
    let text = format!("{}/", world.path("b").display());
    assert_eq!(world.run(&["backup", &text]).status, 0);
    assert!(world.path("b/manifest.json").exists() && !world.path("b.partial").exists());
    let said = world.run(&["backup", &text]);
    assert!(said.status == 1 && said.err.contains("never written over"), "{said:?}");
}

#[test]
fn a_backup_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::new();
    drop(world.gate());
    let folder = world.backup("b");
    let mode = |path: &Path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for file in std::fs::read_dir(&folder).expect("it can be listed").flatten() {
        assert_eq!(mode(&file.path()), 0o600, "{file:?}");
    }
}

#[test]
fn fences_of_services_begin_quarantined() {
    let world = World::new();
    let config = std::fs::read_to_string(world.path("gate.toml")).expect("read").replace("200ms", "10m");
    std::fs::write(world.path("gate.toml"), config).expect("written");
    let gate = world.gate();
    assert_eq!(claim(&mut gate.client(), "stock/7", 50).status, 200);
    world.backup("backup");
    assert_eq!(gate.terminate(), Some(0));
    assert_eq!(world.restore(&["--replace", "--above", "60"]).status, 0);
    let gate = world.gate();
    // One that the backup knows, and one that it doesn't.
    for fence in ["stock/7", "stock/8"] {
        let answer = claim(&mut gate.client(), fence, 70);
        assert_eq!((answer.status, answer.code().as_str()), (503, "QUARANTINED"), "{fence}");
    }
}

#[test]
fn a_folder_that_is_missing_is_named() {
    let world = World::new();
    drop(world.gate());
    let said = world.run(&["backup", world.path("no/such/b").to_str().expect("UTF-8")]);
    let missing = format!("{}: there is no such folder", world.path("no/such").display());
    assert!(said.status == 1 && said.err.contains(&missing), "{said:?}");
    assert!(!world.path("no").exists(), "a disk that isn't mounted is not made up for");
}

#[test]
fn somebody_elses_folder_is_left_alone() {
    let world = World::new();
    drop(world.gate());
    let (partial, text) = (world.path("b.partial"), world.path("b"));
    let text = text.to_str().expect("UTF-8");
    std::fs::create_dir(&partial).expect("made");
    std::fs::write(partial.join("customers.db"), "mine").expect("written");
    for lock in [false, true] {
        if lock {
            // As if a backup had begun there: its own files go, and no others.
            std::fs::write(partial.join("being-written.lock"), "").expect("written");
        }
        let said = world.run(&["backup", text]);
        assert!(said.status == 1 && said.err.contains("nothing that a backup has left"), "{said:?}");
        assert_eq!(std::fs::read(partial.join("customers.db")).expect("read"), b"mine");
    }
    std::fs::remove_file(partial.join("customers.db")).expect("removed");
    std::fs::write(partial.join("resource-app.db"), "half").expect("written");
    assert_eq!(world.run(&["backup", text]).status, 0);
}

/// Names with blanks, percent signs, question marks, and bytes that are no UTF-8.
#[test]
fn names_of_every_kind_are_taken() {
    let dir = tempfile::tempdir().expect("a directory");
    let odd = dir.path().join(OsStr::from_bytes(b"a b%3f?#&\xff"));
    std::fs::create_dir(&odd).expect("made");
    let (file, data, backup) = (odd.join("app?.db"), odd.join("data"), odd.join("backup"));
    let run = |command: &str, more: &[&OsStr]| {
        let mut run = Command::new(PROGRAM);
        run.arg(command).arg("--sqlite").arg(&file).args(["--fence", "app"]).arg("--data-dir").arg(&data).args(more);
        Said::of(run.output().expect("it runs"))
    };
    let mut gate = Command::new(PROGRAM);
    gate.args(["serve", "--fence", "app", "--sqlite"]).arg(&file);
    let gate = crate::process::Gate::run(gate, &odd).expect("it starts");
    assert_eq!(gate.client().sql(Some("7"), &["CREATE TABLE t (v)"]).status, 200);
    let said = run("backup", &["--json".as_ref(), backup.as_os_str()]);
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(said.json()["files"][0]["marks"], json!([{ "fence": "app", "token": "7" }]));
    assert_eq!(gate.terminate(), Some(0));
    let all = ["--replace", "--above", "9", "--json"].map(OsStr::new);
    let args: Vec<&OsStr> = all.into_iter().chain([backup.as_os_str()]).collect();
    let said = run("restore", &args);
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(said.json()["marks_at_least"], json!({ "app-": "10" }));
    let found = run("doctor", &["--json".as_ref()]);
    assert!(found.json()["findings"].is_array(), "{found:?}");
}

/// What is in the way of a restore, and what it leaves: nothing.
#[test]
fn a_database_that_is_in_use_stops_it_before_anything_is_in_place() {
    let world = World::new();
    let gate = world.gate();
    assert_eq!(write(&mut gate.client(), 50, "CREATE TABLE t (v)").status, 200);
    world.backup("backup");
    assert_eq!(gate.terminate(), Some(0));
    let before = ["app.db", "data/gate.db", "data/fences.db"].map(|name| inode(&world.path(name)));
    let reader = Connection::open(world.path("app.db")).expect("it opens");
    reader.execute_batch("BEGIN; SELECT * FROM t").expect("it reads");
    let said = world.restore(&["--replace", "--above", "60"]);
    assert!(said.status == 1 && said.err.contains("app.db") && said.err.contains("locked"), "{said:?}");
    assert_eq!(["app.db", "data/gate.db", "data/fences.db"].map(|name| inode(&world.path(name))), before);
    assert!(!world.path("app.db.restore-partial").exists() && !world.path("data/restore.partial").exists());
    drop(reader);
    assert_eq!(world.restore(&["--replace", "--above", "60"]).status, 0);
}

fn inode(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(path).expect("it is there").ino()
}

/// A resource that came after the backup: nobody is asked about it, and nothing is said that isn't so.
#[test]
fn what_the_backup_knows_nothing_of_stays() {
    let world = World::new();
    let gate = world.gate();
    assert_eq!(write(&mut gate.client(), 50, "CREATE TABLE t (v)").status, 200);
    assert_eq!(claim(&mut gate.client(), "stock/7", 50).status, 200);
    world.backup("backup");
    assert_eq!(gate.terminate(), Some(0));
    let config = std::fs::read_to_string(world.path("gate.toml")).expect("read");
    let later = "[[resource]]\nname = \"later\"\nkind = \"sqlite\"\npath = \"/later\"\nfile = \"later.db\"\n";
    std::fs::write(world.path("gate.toml"), format!("{config}{later}")).expect("written");
    let gate = world.gate();
    let path = "/-/fences/later/claim";
    let claim_later = |gate: &crate::process::Gate, token: &str| {
        gate.client().request("POST", path, &[("fencing-token", token)], b"").expect("an answer").status
    };
    assert_eq!(claim_later(&gate, "70"), 200);
    assert_eq!(gate.terminate(), Some(0));
    let said = world.restore(&["--replace", "--above", "app=60", "--above", "stock=60", "--json"]);
    assert_eq!(said.status, 0, "{said:?}");
    assert_eq!(said.json()["marks_at_least"], json!({ "app": "61", "stock": "61" }));
    let note = said.json()["notes"][0].to_string();
    assert!(note.contains("resource later") && note.contains("stays as it is"), "{note}");
    let said = world.restore(&["--replace", "--above", "later=80", "--above", "60"]);
    assert!(said.status == 1 && said.err.contains("the backup has no resource of this name"), "{said:?}");
    let gate = world.gate();
    assert_eq!((claim_later(&gate, "69"), claim_later(&gate, "70")), (412, 200));
}

#[test]
fn a_backup_without_its_elections_is_none() {
    let world = World::new();
    drop(world.gate());
    let folder = world.backup("backup");
    let manifest = folder.join("manifest.json");
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).expect("read")).expect("JSON");
    text["files"].as_array_mut().expect("a list").retain(|file| file["of"] != "elections");
    std::fs::write(&manifest, text.to_string()).expect("written");
    let said = world.restore(&["--replace", "--above", "60"]);
    assert!(said.status == 1 && said.err.contains("the backup has no elections"), "{said:?}");
}

/// A file system of 3 MiB, in a namespace of this test's own: nothing is left of what found no room.
#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    let world = World::new();
    let gate = world.gate();
    let fill = "CREATE TABLE t AS SELECT randomblob(1000) AS v FROM (WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i FROM n)";
    assert_eq!(write(&mut gate.client(), 50, fill).status, 200);
    std::fs::create_dir(world.path("small")).expect("made");
    let script = format!(
        "mount -t tmpfs -o size=3m none {small} || exit 99; {PROGRAM} backup --config {config} {small}/b; echo $?; ls -A {small}",
        small = world.path("small").display(),
        config = world.config()
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output();
    match output.map(Said::of) {
        Ok(said) if said.status != 99 && !said.out.is_empty() => {
            assert_eq!(said.out, "1\n", "{said:?}");
            assert!(said.err.contains("small/b.partial/resource-app.db") && said.err.contains("full"), "{said:?}");
        }
        other => eprintln!("SKIPPED: a_full_disk_is_told_and_nothing_is_left: no mount namespace ({other:?})"),
    }
}
