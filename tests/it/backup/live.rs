//! Backups under full load: what the judge finds in a copy.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use rusqlite::Connection;

use crate::gate::LONG;
use crate::process::{Gate, until};

use super::{World, claim, term, write};

/// What writers have been told so far.
#[derive(Default)]
struct Load {
    term: AtomicU64,
    ids: AtomicU64,
    /// Writes that were answered 200.
    done: Mutex<HashSet<u64>>,
    /// The highest token that was claimed on the fence of the HTTP service, and answered.
    claimed: AtomicU64,
    over: AtomicBool,
}

impl Load {
    fn count(&self) -> usize {
        self.done.lock().expect("nobody panics with it").len()
    }

    fn done(&self) -> HashSet<u64> {
        self.done.lock().expect("nobody panics with it").clone()
    }

    /// Writes with the present term, and now and then begins a new one.
    fn write(&self, gate: &Gate) {
        let mut client = gate.client();
        while !self.over.load(Ordering::SeqCst) {
            let id = self.ids.fetch_add(1, Ordering::SeqCst);
            let term = if id.is_multiple_of(7) {
                self.term.fetch_add(1, Ordering::SeqCst) + 1
            } else {
                self.term.load(Ordering::SeqCst)
            };
            let answer =
                write(&mut client, term.max(1), &format!("INSERT INTO log (id, term) VALUES ({id}, {})", term.max(1)));
            if answer.status == 200 {
                self.done.lock().expect("nobody panics with it").insert(id);
            }
        }
    }

    /// Elects leaders, who claim what they were elected for.
    fn elect(&self, gate: &Gate) {
        let mut client = gate.client();
        while !self.over.load(Ordering::SeqCst) {
            let token = term(&mut client, "stock/7");
            if claim(&mut client, "stock/7", token).status == 200 {
                self.claimed.fetch_max(token, Ordering::SeqCst);
            }
        }
    }
}

/// A gate under load from beginning to end of `during`.
fn under_load(world: &World, during: impl FnOnce(&Load)) {
    let gate = world.gate();
    let create = "CREATE TABLE log (place INTEGER PRIMARY KEY AUTOINCREMENT, id INTEGER, term INTEGER)";
    assert_eq!(write(&mut gate.client(), 1, create).status, 200);
    let load = Load::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| load.write(&gate));
        }
        scope.spawn(|| load.elect(&gate));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("writes are done", || load.count() > 300 && load.claimed.load(Ordering::SeqCst) > 20);
            during(&load);
        }));
        load.over.store(true, Ordering::SeqCst);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Everything that is wrong with a copy of the database, made when these writes had been answered.
fn judge(file: &Path, done: &HashSet<u64>) -> Vec<String> {
    let read = || -> rusqlite::Result<Vec<String>> {
        let db = Connection::open(file)?;
        let mut wrong = Vec::new();
        let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if whole != "ok" {
            wrong.push(whole);
        }
        let mark: i64 = db.query_row("SELECT token FROM fencegate_marks WHERE fence = 'app'", [], |row| row.get(0))?;
        let mut stmt = db.prepare("SELECT id, term FROM log ORDER BY place")?;
        let rows =
            stmt.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<Vec<(i64, i64)>>>()?;
        let mut highest = 0;
        for (id, term) in &rows {
            if *term > mark {
                wrong.push(format!("write {id} has term {term}, above the mark {mark}"));
            }
            if *term < highest {
                wrong.push(format!("write {id} of term {term} comes after term {highest}"));
            }
            highest = highest.max(*term);
        }
        let found: HashSet<u64> = rows.iter().map(|(id, _)| id.unsigned_abs()).collect();
        wrong.extend(done.difference(&found).map(|id| format!("write {id} was answered, and isn't there")));
        Ok(wrong)
    };
    read().unwrap_or_else(|error| vec![error.to_string()])
}

#[test]
fn a_backup_under_load_has_all_that_was_answered_and_its_marks() {
    let world = World::new();
    under_load(&world, |load| {
        for number in 0..5 {
            let (done, claimed) = (load.done(), load.claimed.load(Ordering::SeqCst));
            let folder = world.backup(&format!("backup-{number}"));
            let wrong = judge(&folder.join("resource-app.db"), &done);
            assert!(wrong.is_empty(), "{} wrong, the first: {:?}", wrong.len(), wrong.first());
            let token = |file: &str, sql: &str| -> i64 {
                let db = Connection::open(folder.join(file)).expect("it opens");
                db.query_row(sql, [], |row| row.get(0)).expect("a row")
            };
            let mark = token("fences.db", "SELECT token FROM mark WHERE fence = 'stock/7'").unsigned_abs();
            let issued = token("gate.db", "SELECT last_token FROM election WHERE name = 'stock/7'").unsigned_abs();
            assert!(mark >= claimed, "the mark {mark} is behind {claimed}, which was answered before");
            assert!(issued >= mark, "the elections know of {issued} only, and the mark is {mark}");
            let check = world.run(&["restore", "--check", folder.to_str().expect("UTF-8")]);
            assert_eq!(check.status, 0, "nothing has changed it since: {check:?}");
        }
    });
}

#[test]
fn the_same_judge_finds_a_file_that_was_merely_copied() {
    let world = World::new();
    under_load(&world, |load| {
        let started = Instant::now();
        loop {
            let done = load.done();
            let naive = world.path("naive.db");
            std::fs::copy(world.path("app.db"), &naive).expect("copied");
            let wrong = judge(&naive, &done);
            let _ = std::fs::remove_file(world.path("naive.db-wal"));
            if !wrong.is_empty() {
                break;
            }
            assert!(started.elapsed() < LONG, "the judge sees nothing");
        }
    });
}

#[test]
fn what_isn_t_there_is_not_backed_up_in_silence() {
    let world = World::new();
    let said = world.run(&["backup", world.path("b").to_str().expect("UTF-8")]);
    assert!(said.status == 1 && said.err.contains("has a gate run here?"), "{said:?}");
    assert!(!world.path("b").exists() && !world.path("b.partial").exists());
    drop(world.gate());
    let said = world.run(&["backup", "--json", world.path("b").to_str().expect("UTF-8")]);
    assert_eq!(said.status, 0, "{said:?}");
    let names: Vec<_> =
        said.json()["files"].as_array().expect("a list").iter().map(|file| file["name"].clone()).collect();
    assert_eq!(names, ["resource-app.db", "fences.db", "gate.db"], "in this order");
}
