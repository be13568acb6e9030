//! Writers with rising terms before a database. Its rows carry their term; what was told is held against them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rusqlite::Connection;
use serde_json::{Value, json};

use super::Played;
use super::site::{Plays, Site, Successor};
use crate::gate::LONG;
use crate::kill::{Told, Written, held_against, stmt, told};
use crate::process::{Answer, Client, Gate, copy_dir};

/// What all who write know.
#[derive(Default)]
struct World {
    terms: AtomicU64,
    ids: AtomicU64,
    /// Counts resets: terms begin anew with each.
    epoch: AtomicU64,
    /// The highest term that anybody was told to be let in with, in this epoch.
    acknowledged: AtomicU64,
    written: Mutex<Vec<Written>>,
}

impl World {
    fn next_term(&self) -> u64 {
        self.terms.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn note(&self, id: u64, rows: u64, term: u64, told: Told) {
        if told == Told::Done {
            self.acknowledged.fetch_max(term, Ordering::SeqCst);
        }
        self.written.lock().unwrap().push(Written { id, rows, told });
    }

    fn insert(&self, id: u64, row: u64, term: u64) -> Value {
        let epoch = self.epoch.load(Ordering::SeqCst);
        stmt(&format!("INSERT INTO log (write_id, row, term, epoch) VALUES ({id}, {row}, {term}, {epoch})"))
    }

    fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// Comes with a newer term while the gate is stopped.
struct Next {
    world: Arc<World>,
    sent: Option<(u64, u64)>,
}

impl Successor for Next {
    fn send(&mut self, client: &mut Client) -> std::io::Result<()> {
        let (id, term) = (self.world.id(), self.world.next_term());
        self.sent = Some((id, term));
        let body = json!({ "requests": [self.world.insert(id, 0, term), { "type": "close" }] }).to_string();
        let head = format!(
            "POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\nfencing-token: {term}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.send(format!("{head}{body}").as_bytes())
    }

    fn hear(&mut self, answer: std::io::Result<Answer>) {
        if let Some((id, term)) = self.sent.take() {
            self.world.note(id, 1, term, told(&answer));
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum How {
    Plain,
    Batch,
    Interactive,
    Alone,
}

struct Player {
    site: Site,
    world: Arc<World>,
    term: u64,
    wrong: Vec<String>,
    /// An operator has asked for a reset and wasn't told what became of it.
    resetting: bool,
}

/// A directory with a database that an earlier gate has left.
pub fn template() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"]);
    let create = "CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, write_id INTEGER, row INTEGER, term INTEGER, epoch INTEGER)";
    assert_eq!(gate.client().sql(Some("1"), &[create]).status, 200);
    gate.kill();
    dir
}

/// The whole history, with the gate's first life armed like this.
pub fn play(template: &tempfile::TempDir, rules: &str) -> Played {
    let dir = copy_dir(template.path());
    let file = dir.path().join("app.db");
    let args = ["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"];
    let world = Arc::new(World { terms: AtomicU64::new(1), ..World::default() });
    let next = Box::new(Next { world: Arc::clone(&world), sent: None });
    let site = Site::new(dir, &args, rules, next);
    let mut player = Player { site, term: world.next_term(), world, wrong: Vec::new(), resetting: false };
    player.write(How::Plain);
    player.write(How::Plain);
    player.knock();
    player.write(How::Batch);
    player.write(How::Interactive);
    player.write(How::Alone);
    player.depose();
    player.claim();
    player.reset();
    player.write(How::Plain);
    player.knock();
    // Twice: the first life may have been armed to end only here.
    player.site.terminate();
    player.write(How::Plain);
    player.knock();
    player.end()
}

impl Plays for Player {
    fn site(&mut self) -> &mut Site {
        &mut self.site
    }

    fn look(&mut self) {
        let acknowledged = self.world.acknowledged.load(Ordering::SeqCst);
        let mut client = self.site.gate().client();
        let mark =
            client.get("/-/fences/app").json()["highest"].as_str().map_or(0, |mark| mark.parse().expect("a number"));
        if mark < acknowledged && !self.resetting {
            self.wrong.push(format!("the mark is {mark} after a restart, and {acknowledged} was told"));
        }
        self.knock();
    }
}

impl Player {
    /// A leader that was deposed doesn't believe it.
    fn knock(&mut self) {
        let acknowledged = self.world.acknowledged.load(Ordering::SeqCst);
        if acknowledged < 2 || self.resetting {
            return;
        }
        let Ok(mut client) = Client::connect(self.site.gate().data) else { return };
        let (id, term) = (self.world.id(), acknowledged - 1);
        let requests = json!([self.world.insert(id, 0, term), { "type": "close" }]);
        let told = told(&client.pipeline(Some(&term.to_string()), None, &requests));
        self.world.note(id, 1, term, told);
        if told == Told::Done {
            self.wrong.push(format!("term {term} was let in after {acknowledged}"));
        }
    }

    /// Writes, under the next term where this one is over, until it is told that it is done.
    fn write(&mut self, how: How) {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < LONG, "no write gets through: {how:?}");
            let (term, world) = (self.term, Arc::clone(&self.world));
            let Ok(mut client) = Client::connect(self.gate().data) else { continue };
            let id = world.id();
            let (rows, answer) = write(&mut client, &world, how, id, term);
            let told = told(&answer);
            world.note(id, rows, term, told);
            match told {
                Told::Done => return,
                Told::Refused => self.term = world.next_term(),
                Told::Nothing => {}
            }
        }
    }

    /// A leader is deposed in the middle of its transaction, and wants to commit it.
    fn depose(&mut self) {
        let (id, term, world) = (self.world.id(), self.term, Arc::clone(&self.world));
        let Ok(mut client) = Client::connect(self.gate().data) else { return };
        let begun = client.pipeline(
            Some(&term.to_string()),
            None,
            &json!([stmt("BEGIN IMMEDIATE"), world.insert(id, 0, term)]),
        );
        let baton = begun.ok().filter(|answer| answer.status == 200).map(|answer| answer.json()["baton"].clone());
        self.term = world.next_term();
        self.write(How::Plain);
        let told = match baton.as_ref().and_then(Value::as_str) {
            Some(baton) => {
                let rest = json!([world.insert(id, 1, term), stmt("COMMIT"), { "type": "close" }]);
                told(&client.pipeline(Some(&term.to_string()), Some(baton), &rest))
            }
            None => Told::Refused,
        };
        if told == Told::Done {
            self.wrong.push(format!("a transaction of term {term} was committed after its successor came"));
        }
        // Nothing was committed before the successor came, so that it must not be there, whatever was told.
        world.note(id, 2, term, Told::Refused);
    }

    /// Claims without writing.
    fn claim(&mut self) {
        self.term = self.world.next_term();
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < LONG, "no claim gets through");
            let term = self.term.to_string();
            let Ok(mut client) = Client::connect(self.gate().data) else { continue };
            let answer = client.request("POST", "/-/fences/app/claim", &[("fencing-token", &term)], b"");
            match told(&answer) {
                Told::Done => break,
                Told::Refused => self.term = self.world.next_term(),
                Told::Nothing => {}
            }
        }
        self.world.acknowledged.fetch_max(self.term, Ordering::SeqCst);
    }

    /// An operator sets the mark to 1, and terms begin anew.
    fn reset(&mut self) {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < LONG, "no reset gets through");
            let Ok(mut admin) = Client::connect(self.gate().admin) else { continue };
            self.resetting = true;
            let body = json!({ "highest": "1", "reason": "a test" }).to_string();
            let answer = admin.request("POST", "/v1/fences/app/reset", &[crate::process::JSON], body.as_bytes());
            if told(&answer) == Told::Done {
                break;
            }
        }
        self.world.epoch.fetch_add(1, Ordering::SeqCst);
        self.world.terms.store(1, Ordering::SeqCst);
        self.world.acknowledged.store(1, Ordering::SeqCst);
        self.resetting = false;
        self.term = self.world.next_term();
    }

    fn end(mut self) -> Played {
        self.site.rest();
        self.site.kill();
        let hits = self.site.hits();
        let wrong = self.judge();
        self.wrong.extend(wrong);
        let pauses = *self.site.pauses.lock().unwrap();
        Played { wrong: self.wrong, hits, lives: self.site.lives, pauses }
    }

    /// What is wrong with the database.
    fn judge(&self) -> Vec<String> {
        let db = Connection::open(self.site.dir.path().join("app.db")).expect("the database opens");
        let mut wrong = Vec::new();
        let intact: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it can be checked");
        if intact != "ok" {
            wrong.push(intact);
        }
        let mut stmt = db.prepare("SELECT write_id, epoch, term FROM log ORDER BY id").expect("the table is there");
        let rows = stmt.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).expect("it can be read");
        let mut found: HashMap<u64, u64> = HashMap::new();
        let mut highest = (0, 0);
        for row in rows {
            let (id, epoch, term): (i64, i64, i64) = row.expect("a row");
            *found.entry(id.unsigned_abs()).or_default() += 1;
            if (epoch, term) < highest {
                wrong.push(format!("write {id} of term {term} was committed after {highest:?}"));
            }
            highest = highest.max((epoch, term));
        }
        wrong.extend(held_against(&found, &self.world.written.lock().unwrap()));
        wrong
    }
}

fn write(client: &mut Client, world: &World, how: How, id: u64, term: u64) -> (u64, std::io::Result<Answer>) {
    let token = term.to_string();
    let mut send = |baton: Option<&str>, requests: Value| client.pipeline(Some(&token), baton, &requests);
    match how {
        How::Plain => (1, send(None, json!([world.insert(id, 0, term), { "type": "close" }]))),
        // A savepoint outside a transaction can't share the writer's.
        How::Alone => {
            let pragma = stmt("PRAGMA foreign_keys = off");
            (1, send(None, json!([pragma, world.insert(id, 0, term), { "type": "close" }])))
        }
        How::Batch => {
            let (one, two) = (world.insert(id, 0, term), world.insert(id, 1, term));
            let step = |stmt: &Value, after: Option<usize>| match after {
                Some(step) => json!({ "stmt": stmt["stmt"], "condition": { "type": "ok", "step": step } }),
                None => json!({ "stmt": stmt["stmt"] }),
            };
            let steps = json!([
                step(&stmt("BEGIN"), None),
                step(&one, Some(0)),
                step(&two, Some(1)),
                step(&stmt("COMMIT"), Some(2))
            ]);
            (2, send(None, json!([{ "type": "batch", "batch": { "steps": steps } }, { "type": "close" }])))
        }
        How::Interactive => {
            let begun = send(None, json!([stmt("BEGIN"), world.insert(id, 0, term)]));
            let baton = match &begun {
                Ok(answer) if answer.status == 200 => answer.json()["baton"].as_str().map(str::to_owned),
                // Nothing was committed, so that it must not be there, whatever was told.
                _ => return (2, begun),
            };
            (2, send(baton.as_deref(), json!([world.insert(id, 1, term), stmt("COMMIT"), { "type": "close" }])))
        }
    }
}
