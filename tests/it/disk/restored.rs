//! The power goes away while a backup is made, while it is restored, and right afterwards: each store is as it was before or as it is after, and
//! what was said to be done is done. `FENCEGATE_POWER_IMAGES`, whatever it is: four disks of each moment in place of one.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _};
use serde_json::json;

use super::BadDisk;
use super::image::{Disk, Luck, Record, read};
use crate::dice::Dice;
use crate::process::{Client, Gate, PROGRAM};

/// Tokens are raised by this.
const MARGIN: u64 = 1_000_000_000_000;

/// Where the stores are: as the backup was made, and on another machine, where not even the folder is.
const HERE: &str = "data_dir = \"data\"\n[[resource]]\nfile = \"app.db\"\n";
const THERE: &str = "data_dir = \"there/data\"\n[[resource]]\nfile = \"there/app.db\"\n";
const RESOURCES: &str = "name = \"app\"\nkind = \"sqlite\"\npath = \"/app\"\n\
     [[resource]]\nname = \"stock\"\nkind = \"http\"\npath = \"/stock\"\nupstream = \"http://127.0.0.1:9\"\nfence = \"stock/{1}\"\n";

/// What was written down of a command: how many calls there were before it, and after it.
struct Part {
    before: usize,
    after: usize,
}

struct Scene {
    disk: BadDisk,
    /// The last token that was told, at the election, and as the marks of both fences.
    last: u64,
}

fn term(client: &mut Client) -> u64 {
    let mut post = |action: &str, body: serde_json::Value| {
        let path = format!("/-/elections/app/{action}");
        client.request("POST", &path, &[], body.to_string().as_bytes()).expect("an answer").json()
    };
    let answer = post("campaign", json!({ "ttl_ms": 60_000 }));
    post("resign", json!({ "candidate": answer["candidate"] }));
    answer["token"].as_str().expect("a token").parse().expect("a number")
}

impl Scene {
    fn new(test: &str) -> Option<Scene> {
        let disk = BadDisk::new(test)?;
        for (name, start) in [("here.toml", HERE), ("there.toml", THERE)] {
            std::fs::write(disk.dir.path().join(name), format!("{start}{RESOURCES}")).expect("written");
        }
        let mut scene = Scene { disk, last: 0 };
        scene.lead(3);
        Some(scene)
    }

    /// So many terms, each of whose leaders claims both fences.
    fn lead(&mut self, terms: usize) {
        let config = self.disk.dir.path().join("here.toml");
        let gate = self.disk.try_start(&["--config", config.to_str().expect("UTF-8")], &[], true).expect("it starts");
        let mut client = gate.client();
        for _ in 0..terms {
            self.last = term(&mut client);
            let token = self.last.to_string();
            for fence in ["app", "stock%2F7"] {
                let path = format!("/-/fences/{fence}/claim");
                let answer = client.request("POST", &path, &[("fencing-token", &token)], b"").expect("an answer");
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
        assert_eq!(gate.terminate(), Some(0));
    }

    fn records(&self) -> Vec<Record> {
        read(&self.disk.log())
    }

    fn run(&self, args: &[&str]) -> Part {
        let before = self.records().len();
        let output = self.disk.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Part { before, after: self.records().len() }
    }

    /// What is wrong with disks as the power may leave them in this part, by a judge who is told whether it was said to be done.
    fn judge(&self, part: &Part, lies: bool, look: &dyn Fn(&Path, bool) -> Vec<String>) -> (usize, Vec<String>) {
        let records = self.records();
        let (mut disk, mut dice) = (Disk::new(lies), Dice::new(7));
        let (mut count, mut wrong) = (0, Vec::new());
        for (place, record) in records.iter().enumerate().take(part.after) {
            let is_turning = place >= part.before && record.is_turning_point();
            disk.take(place, record);
            let is_done = place + 1 == part.after;
            if !is_turning && !is_done {
                continue;
            }
            // One after the other, or all of them: where that is asked for, and in the end.
            let is_long = std::env::var_os("FENCEGATE_POWER_IMAGES").is_some() || is_done;
            let lucks = if is_long { &Luck::ALL[..] } else { &Luck::ALL[place % 4..=place % 4] };
            for luck in lucks.iter().copied() {
                let dir = tempfile::tempdir().expect("a directory");
                disk.image(luck, &mut dice, self.disk.dir.path(), dir.path());
                count += 1;
                let found = look(dir.path(), is_done);
                wrong.extend(found.into_iter().map(|what| format!("after {} calls, {luck:?}: {what}", place + 1)));
            }
        }
        (count, wrong)
    }

    /// The judge finds nothing wrong.
    fn holds(&self, part: &Part, look: &dyn Fn(&Path, bool) -> Vec<String>) {
        let (count, wrong) = self.judge(part, false, look);
        eprintln!("{count} disks judged");
        assert!(wrong.is_empty(), "{} wrong, the first: {}", wrong.len(), wrong[0]);
    }
}

/// The number that this gives; 0 where there is none, or no such file.
fn number(file: &Path, sql: &str) -> Result<u64, String> {
    if !file.exists() {
        return Ok(0);
    }
    let read = || -> rusqlite::Result<(String, Option<i64>)> {
        let conn = Connection::open(file)?;
        let whole = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        Ok((whole, conn.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).optional()?.flatten()))
    };
    match read().map_err(|error| error.to_string()) {
        Ok((whole, found)) if whole == "ok" => Ok(found.map_or(0, i64::unsigned_abs)),
        Ok((why, _)) | Err(why) => Err(format!("{}: {why}", file.display())),
    }
}

/// What stands in the three stores: the database's mark, the service's, and what tokens are issued above.
fn stands(app: &Path, data: &Path) -> Result<[u64; 3], String> {
    Ok([
        number(app, "SELECT token FROM fencegate_marks WHERE fence = 'app'")?,
        number(&data.join("fences.db"), "SELECT token FROM mark WHERE fence = 'stock/7'")?,
        number(
            &data.join("gate.db"),
            "SELECT max((SELECT ifnull(max(last_token), 0) FROM election), (SELECT ifnull(max(token), 0) FROM floor))",
        )?,
    ])
}

/// Each store is as it was before or as it is after, the elections no later than the others.
fn look(app: &Path, data: &Path, before: u64, last: u64, is_done: bool) -> Vec<String> {
    let found = match stands(app, data) {
        Ok(found) => found,
        Err(why) => return vec![why],
    };
    let [.., issued] = found;
    let after = last + MARGIN;
    let mut wrong = Vec::new();
    for number in found {
        if (number != before && number != after) || number > issued || (is_done && number != after) {
            wrong.push(format!("{number} stands there, and it was {before} and has to be {after}: {found:?}"));
        }
    }
    wrong
}

#[test]
fn a_restore_with_the_power_lost_at_any_moment_lets_nobody_in() {
    let Some(mut scene) = Scene::new("a_restore_with_the_power_lost_at_any_moment_lets_nobody_in") else { return };
    scene.run(&["backup", "--config", "here.toml", "backup"]);
    scene.lead(4);
    let part = scene.run(&["restore", "--config", "here.toml", "--replace", "--above", "stock=embedded", "backup"]);
    let last = scene.last;
    let judged = |dir: &Path, is_done| look(&dir.join("app.db"), &dir.join("data"), last, last, is_done);
    scene.holds(&part, &judged);
    let (_, wrong) = scene.judge(&part, true, &judged);
    assert!(!wrong.is_empty(), "with a disk that lies, the judge has to see it");
}

#[test]
fn a_restore_on_another_machine_is_there_once_it_says_so() {
    let Some(scene) = Scene::new("a_restore_on_another_machine_is_there_once_it_says_so") else { return };
    scene.run(&["backup", "--config", "here.toml", "backup"]);
    let part = scene.run(&["restore", "--config", "there.toml", "--above", "stock=embedded", "backup"]);
    let last = scene.last;
    let judged = |dir: &Path, is_done: bool| {
        let there = dir.join("there");
        look(&there.join("app.db"), &there.join("data"), 0, last, is_done)
    };
    scene.holds(&part, &judged);
}

#[test]
fn a_backup_with_the_power_lost_at_any_moment_is_none_or_whole() {
    let Some(scene) = Scene::new("a_backup_with_the_power_lost_at_any_moment_is_none_or_whole") else { return };
    let part = scene.run(&["backup", "--config", "here.toml", "backup"]);
    let judged = |dir: &Path, is_done: bool| {
        let folder = dir.join("backup");
        if !folder.exists() {
            return if is_done { vec!["it was made, and isn't there".to_owned()] } else { Vec::new() };
        }
        let check = ["restore", "--check", folder.to_str().expect("UTF-8")];
        let output = std::process::Command::new(PROGRAM).args(check).output().expect("it runs");
        if output.status.success() { Vec::new() } else { vec![String::from_utf8_lossy(&output.stderr).into_owned()] }
    };
    scene.holds(&part, &judged);
    let (_, wrong) = scene.judge(&part, true, &judged);
    assert!(!wrong.is_empty(), "with a disk that lies, the judge has to see it");
}

/// A gate on what a restore has left on disk, the power gone right after it.
#[test]
fn a_gate_goes_on_from_a_restore_after_the_power_was_lost() {
    let Some(mut scene) = Scene::new("a_gate_goes_on_from_a_restore_after_the_power_was_lost") else { return };
    scene.run(&["backup", "--config", "here.toml", "backup"]);
    scene.lead(4);
    scene.run(&["restore", "--config", "here.toml", "--replace", "--above", "stock=embedded", "backup"]);
    let mut disk = Disk::new(false);
    scene.records().iter().enumerate().for_each(|(place, record)| disk.take(place, record));
    let dir = tempfile::tempdir().expect("a directory");
    disk.image(Luck::None, &mut Dice::new(7), scene.disk.dir.path(), dir.path());
    std::fs::write(dir.path().join("here.toml"), format!("{HERE}{RESOURCES}")).expect("written");
    let config = dir.path().join("here.toml");
    let gate = Gate::start(dir.path(), &["--config", config.to_str().expect("UTF-8")]);
    let claim = |token: u64| {
        let headers = [("fencing-token", &*token.to_string())];
        gate.client().request("POST", "/-/fences/app/claim", &headers, b"").expect("an answer").status
    };
    assert_eq!(claim(scene.last), 412);
    let next = term(&mut gate.client());
    assert!(next > scene.last + MARGIN);
    assert_eq!(claim(next), 200);
}
