//! Each scenario: damage without the check, none with it, and a refusal; and the story says so truly.

use std::path::PathBuf;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Demo, lines, of_type};
use crate::upstream::etcd::Etcd;
use crate::upstream::has;

/// Runs a scenario and keeps its databases; what it told, and the folder.
pub fn shown(scenario: &str, more: &[&str]) -> (Vec<Value>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let keep = dir.path().join("kept");
    let args = [&[scenario, "--json", "--keep", keep.to_str().expect("UTF-8")], more].concat();
    let said = Demo::run(&args);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{}", said.out);
    let told = lines(&said.out);
    assert_eq!(of_type(&told, "result")[0]["ok"], true);
    (told, dir)
}

/// The damage, without and with; how many writes were refused, too.
pub fn damage(told: &[Value]) -> [(u64, u64); 2] {
    let runs = of_type(told, "damage")[0]["runs"].as_array().expect("two runs").clone();
    [0, 1].map(|run| {
        let number = |key: &str| runs[run][key].as_u64().expect("a number");
        (number("damage"), number("writes_refused"))
    })
}

/// A file that was kept of each run: of the last attempt, which is the one that was counted.
pub fn kept(dir: &tempfile::TempDir, scenario: &str, file: &str) -> [PathBuf; 2] {
    ["without", "with"].map(|side| {
        let attempt = (1..=4).rev().map(|attempt| dir.path().join(format!("kept/{scenario}-{side}-{attempt}/{file}")));
        attempt.into_iter().find(|path| path.exists()).expect("it was kept")
    })
}

/// The damage once more, from the databases that were kept.
pub fn counted(dir: &tempfile::TempDir, scenario: &str, file: &str, sql: &str) -> [u64; 2] {
    kept(dir, scenario, file).map(|path| {
        let count: i64 =
            Connection::open(path).expect("it opens").query_row(sql, (), |row| row.get(0)).expect("a number");
        u64::try_from(count).expect("not negative")
    })
}

/// The events of the last run of each side.
pub fn events(told: &[Value]) -> [Vec<Value>; 2] {
    ["without", "with"].map(|side| {
        let begins = |line: &&Value| line["type"] == "run" && line["side"] == side;
        let last = told.iter().rposition(|line| begins(&line)).expect("it was played");
        let run = told[last + 1..].iter().take_while(|line| line["type"] == "event");
        run.cloned().collect()
    })
}

/// The order of the story: the first leader stands still, its lease runs out, a second is elected with a higher token, the first wakes
/// and writes. Gives that write's kind.
fn the_late_write(events: &[Value]) -> Value {
    let position = |is: &dyn Fn(&Value) -> bool| events.iter().position(is).expect("it happened");
    let paused = position(&|event| event["kind"] == "paused");
    let first = events[paused]["lane"].clone();
    let token = |event: &Value| event["token"].as_str().expect("a token").parse::<u64>().expect("a number");
    let elected: Vec<&Value> = events.iter().filter(|event| event["kind"] == "elected").collect();
    assert_eq!(elected[0]["lane"], first);
    assert!(elected[1]["lane"] != first && token(elected[1]) > token(elected[0]), "{elected:?}");
    let over = position(&|event| event["kind"] == "lease_over" && event["lane"] == first);
    let resumed = position(&|event| event["kind"] == "resumed");
    assert!(paused < over && over < resumed);
    let at = |event: &Value| event["at_us"].as_u64().expect("a time");
    assert!(at(elected[1]) < at(&events[resumed]), "it woke up after it had been replaced");
    let is_write = |event: &&Value| event["kind"] == "accepted" || event["kind"] == "refused";
    let late = events[resumed..].iter().filter(is_write).find(|event| event["lane"] == first).expect("it wrote");
    assert_eq!(late["token"], elected[0]["token"]);
    late.clone()
}

fn is_told_truly(told: &[Value]) {
    let [without, with] = events(told);
    let late = the_late_write(&without);
    assert_eq!(late["kind"], "accepted");
    assert!(late["behind"].is_string(), "{late}");
    let late = the_late_write(&with);
    assert_eq!((&late["kind"], &late["status"]), (&json!("refused"), &json!(412)));
    assert!(late["highest"].as_str() > late["token"].as_str(), "{late}");
    let stale = with.iter().filter(|event| event["kind"] == "accepted" && event["behind"].is_string());
    assert_eq!(stale.count(), 0);
}

#[test]
fn a_leader_that_wakes_too_late_sells_what_is_sold() {
    let (told, dir) = shown("pause", &[]);
    is_told_truly(&told);
    let [(without, _), (with, refused)] = damage(&told);
    assert!(without >= 1 && with == 0 && refused == 1, "{without} {with} {refused}");
    let twice = "SELECT count(DISTINCT a.seat) FROM tickets a JOIN tickets b ON a.seat = b.seat AND a.rowid < b.rowid";
    assert_eq!(counted(&dir, "pause", "seats.db", twice), [without, with]);
}

#[test]
fn a_job_that_must_run_once_charges_nobody_twice() {
    let (told, dir) = shown("billing", &[]);
    is_told_truly(&told);
    let [(without, _), (with, refused)] = damage(&told);
    assert!(without >= 2 && with == 0 && refused == 1, "{without} {with} {refused}");
    let twice = "SELECT count(DISTINCT a.customer) FROM charges a JOIN charges b \
                 ON a.customer = b.customer AND a.rowid < b.rowid";
    assert_eq!(counted(&dir, "billing", "billing.db", twice), [without, with]);
    // Once and not never, either.
    assert_eq!(counted(&dir, "billing", "billing.db", "SELECT count(DISTINCT customer) FROM charges"), [24, 24]);
}

#[test]
fn etcd_can_elect_in_it() {
    if !has("etcd_can_elect_in_it", "etcd") {
        return;
    }
    let etcd = Etcd::shared();
    let coordinator = format!("{}/{}", etcd.address(), crate::lead::unique("demo"));
    let said = Demo::run(&["pause", "--json", "--coordinator", &coordinator]);
    assert_eq!((said.status, said.err.as_str()), (Some(0), ""), "{}", said.out);
    is_told_truly(&lines(&said.out));
}
