//! Writers with rising terms before an HTTP service that applies some writes late. Its own log judges.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::json;

use super::Played;
use super::site::{Plays, Site, Successor};
use crate::gate::LONG;
use crate::process::{Answer, Client, JSON, copy_dir};
use crate::proof::judge::{Note, Told, judge};
use crate::upstream::hostile::Hostile;
use crate::upstream::pass_time;

/// The upstream that all gates are before, and a data directory that an earlier gate has left.
pub struct Stage {
    upstream: Hostile,
    template: tempfile::TempDir,
    cases: AtomicU64,
}

fn configuration(upstream: &Hostile) -> String {
    // What is quarantined stays so until an operator has looked: no test depends on how fast anything is.
    let resource = |name: &str, settle: &str| {
        format!(
            "[[resource]]\nname = \"{name}\"\nkind = \"http\"\npath = \"/{name}\"\nupstream = \"{}/{name}\"\n\
             fence = \"{name}/{{1}}\"\ndrain = \"100ms\"\nsettle = \"{settle}\"\n",
            upstream.url()
        )
    };
    format!("{}\n{}", resource("held", "10m"), resource("quick", "50ms"))
}

impl Stage {
    pub fn new() -> Stage {
        let template = tempfile::tempdir().expect("a directory");
        let upstream = Hostile::start(template.path());
        let config = configuration(&upstream);
        let gate = crate::upstream::gate(template.path(), &config);
        let answer = gate.client().request("POST", "/-/fences/held%2Fold/claim", &[("fencing-token", "1")], b"");
        assert_eq!(answer.expect("an answer").status, 200);
        gate.kill();
        Stage { upstream, template, cases: AtomicU64::new(0) }
    }

    /// The whole history, with the gate's first life armed like this.
    pub fn play(&self, rules: &str) -> Played {
        let case = self.cases.fetch_add(1, Ordering::SeqCst);
        let dir = copy_dir(self.template.path());
        let config = dir.path().join("fencegate.toml");
        let args = ["--config", config.to_str().expect("UTF-8")];
        let world = Arc::new(World { fence: format!("c{case}"), terms: AtomicU64::new(1), ..World::default() });
        let next = Box::new(Next { world: Arc::clone(&world), sent: None });
        let site = Site::new(dir, &args, rules, next);
        let (term, place) = (world.next_term(), format!("late{case}"));
        let mut player = Player { stage: self, site, world, term, place, is_late: false, wrong: Vec::new() };
        player.write("held", "");
        player.write("held", "");
        player.knock("held");
        player.write("quick", "");
        player.drain();
        player.quarantine();
        player.late();
        player.write("held", "");
        player.knock("held");
        player.reset();
        player.site.terminate();
        player.write("held", "");
        player.end()
    }
}

#[derive(Default)]
struct World {
    /// The last part of the names of this case's fences.
    fence: String,
    terms: AtomicU64,
    ids: AtomicU64,
    notes: Mutex<Vec<Note>>,
}

impl World {
    fn next_term(&self) -> u64 {
        self.terms.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn request(&self, resource: &str, term: u64, script: &str) -> (Note, String) {
        let fence = format!("{resource}/{}", self.fence);
        let id = format!("{}-{}", self.fence, self.ids.fetch_add(1, Ordering::SeqCst));
        let head = format!(
            "PUT /{fence}/doc HTTP/1.1\r\nhost: gate\r\nfencing-token: {term}\r\nwrite-id: {id}\r\nhostile: {script}\r\n\
             content-length: 5\r\n\r\nhello"
        );
        (Note { id, fence, token: term, told: Told::Nothing, script: script.into() }, head)
    }

    fn note(&self, note: Note, answer: &std::io::Result<Answer>) -> Told {
        let told = told(answer);
        self.notes.lock().unwrap().push(Note { told, ..note });
        told
    }
}

fn told(answer: &std::io::Result<Answer>) -> Told {
    match answer {
        Ok(answer) if answer.header("proxy-status").is_none() && answer.status == 200 => Told::Done,
        Ok(answer) if answer.header("proxy-status").is_none() => Told::Failed,
        Ok(answer) if answer.json()["applied"] == "no" => Told::NotApplied,
        Ok(_) | Err(_) => Told::Nothing,
    }
}

/// Comes with a newer term while the gate is stopped.
struct Next {
    world: Arc<World>,
    sent: Option<Note>,
}

impl Successor for Next {
    fn send(&mut self, client: &mut Client) -> std::io::Result<()> {
        let (note, head) = self.world.request("held", self.world.next_term(), "");
        self.sent = Some(note);
        client.send(head.as_bytes())
    }

    fn hear(&mut self, answer: std::io::Result<Answer>) {
        if let Some(note) = self.sent.take() {
            self.world.note(note, &answer);
        }
    }
}

struct Player<'a> {
    stage: &'a Stage,
    site: Site,
    world: Arc<World>,
    term: u64,
    /// Where the late write stands.
    place: String,
    /// Whether it was sent, and may not go on yet.
    is_late: bool,
    wrong: Vec<String>,
}

impl Plays for Player<'_> {
    fn site(&mut self) -> &mut Site {
        &mut self.site
    }

    fn look(&mut self) {
        for resource in ["held", "quick"] {
            self.look_at(resource);
            self.knock(resource);
        }
    }
}

impl Player<'_> {
    /// What a gate knows that was started anew.
    fn look_at(&mut self, resource: &str) {
        let fence = format!("{resource}/{}", self.world.fence);
        let is_acknowledged = |note: &&Note| note.fence == fence && note.told == Told::Done;
        let acknowledged = self.world.notes.lock().unwrap().iter().filter(is_acknowledged).map(|note| note.token).max();
        let applied = self.stage.upstream.tokens(&fence).into_iter().max();
        let told = acknowledged.max(applied).unwrap_or(0);
        let path = format!("/-/fences/{}", fence.replace('/', "%2F"));
        let mark = self.site.gate().client().get(&path).json()["highest"]
            .as_str()
            .map_or(0, |mark| mark.parse().expect("a number"));
        if mark < told {
            self.wrong.push(format!("fence {fence}: the mark is {mark} after a restart; {told} was told or applied"));
        }
    }

    fn send(&mut self, resource: &str, term: u64, script: &str) -> Option<(Told, std::io::Result<Answer>)> {
        let mut client = Client::connect(self.gate().data).ok()?;
        let (note, head) = self.world.request(resource, term, script);
        let answer = client.send(head.as_bytes()).and_then(|()| client.read_answer());
        Some((self.world.note(note, &answer), answer))
    }

    /// A leader that was deposed doesn't believe it.
    fn knock(&mut self, resource: &str) {
        let highest = self
            .world
            .notes
            .lock()
            .unwrap()
            .iter()
            .filter(|note| note.told == Told::Done && note.fence.starts_with(resource))
            .map(|note| note.token)
            .max();
        if let Some(term) = highest.filter(|term| *term > 1) {
            let (note, head) = self.world.request(resource, term - 1, "");
            if let Ok(mut client) = Client::connect(self.site.gate().data) {
                let answer = client.send(head.as_bytes()).and_then(|()| client.read_answer());
                self.world.note(note, &answer);
            }
        }
    }

    /// Writes, under the next term where this one is over, until it is told that it is done. Where the fence is quarantined, an operator
    /// looks what has become of the older write, and releases it.
    fn write(&mut self, resource: &str, script: &str) {
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < LONG, "no write gets through to {resource}");
            let Some((told, answer)) = self.send(resource, self.term, script) else { continue };
            let code = answer.ok().filter(|_| told == Told::NotApplied).map(|answer| answer.code());
            match (told, code.as_deref()) {
                (Told::Done, _) => return,
                (_, Some("QUARANTINED")) if resource == "held" => self.release(),
                (_, Some("QUARANTINED")) => pass_time(5),
                (_, Some("STALE_TOKEN" | "TOKEN_CONFLICT")) => self.term = self.world.next_term(),
                _ => {}
            }
        }
    }

    /// What is late comes now, and the fence is released.
    fn release(&mut self) {
        self.let_go();
        let Ok(mut admin) = Client::connect(self.gate().admin) else { return };
        let path = format!("/v1/fences/held%2F{}/release", self.world.fence);
        let body = json!({ "reason": "a test" }).to_string();
        let _ = admin.request("POST", &path, &[JSON], body.as_bytes());
    }

    /// The late write is applied, if it has come to the upstream.
    fn let_go(&mut self) {
        if !std::mem::take(&mut self.is_late) {
            return;
        }
        self.stage.upstream.open(&self.place);
        // If it stands there at all: what has left a gate that was killed a moment ago may still be under way.
        for _ in 0..10 {
            if self.applied_late() {
                return;
            }
            pass_time(2);
        }
    }

    fn applied_late(&self) -> bool {
        let late = format!("read at:{} apply answer", self.place);
        let notes = self.world.notes.lock().unwrap();
        let ids: Vec<&str> = notes.iter().filter(|note| note.script == late).map(|note| note.id.as_str()).collect();
        self.stage.upstream.applied().iter().any(|applied| ids.contains(&applied.id.as_str()))
    }

    /// An older write takes its time, and its successor waits for it.
    fn drain(&mut self) {
        let Ok(mut client) = Client::connect(self.gate().data) else { return };
        let (note, head) = self.world.request("quick", self.term, "limit:45 read wait:20 apply answer");
        let sent = client.send(head.as_bytes());
        self.term = self.world.next_term();
        self.write("quick", "");
        let answer = sent.and_then(|()| client.read_answer());
        self.world.note(note, &answer);
    }

    /// The upstream breaks off, and the quarantine ends by itself.
    fn quarantine(&mut self) {
        let _ = self.send("quick", self.term, "read apply cut");
        let lives = self.site.lives;
        self.term = self.world.next_term();
        self.write("quick", "");
        // Whoever asks may find the end of a quarantine before the gate's own look, which is in the history, too.
        let started = Instant::now();
        while self.site.lives == lives && self.site.is_alive() && !self.is_settled() {
            assert!(started.elapsed() < LONG, "a quarantine isn't over");
            pass_time(5);
        }
    }

    /// Whether the gate has told that the quarantine is over; a gate that can't be asked has nothing to tell.
    fn is_settled(&mut self) -> bool {
        let path = format!("/v1/fences/quick%2F{}/history", self.world.fence);
        let answer = Client::connect(self.gate().admin).and_then(|mut admin| admin.request("GET", &path, &[], b""));
        answer.is_ok_and(|answer| String::from_utf8_lossy(&answer.body).contains("\"settled\""))
    }

    /// A write is in flight that is applied when nobody waits for it any more.
    fn late(&mut self) {
        // The fence is this term's, whatever an earlier life has left in flight.
        self.write("held", "");
        let Ok(mut client) = Client::connect(self.gate().data) else { return };
        let script = format!("read at:{} apply answer", self.place);
        let (note, head) = self.world.request("held", self.term, &script);
        let sent = client.send(head.as_bytes());
        self.is_late = true;
        // Known to nobody until its answer comes; what became of it is seen in the log.
        self.world.notes.lock().unwrap().push(note.clone());
        if sent.is_ok() {
            self.until_it_stands(&client);
        }
        self.term = self.world.next_term();
        self.write("held", "");
        // Where the gate has died before that, it may have come to nothing.
        self.let_go();
    }

    /// Waits until the late write has come to the upstream, or was turned away, or the gate has ended.
    fn until_it_stands(&mut self, late: &Client) {
        let place = self.place.clone();
        let stands = self.stage.upstream.asks_whether_reached(&place);
        let started = Instant::now();
        while !stands.is_answered() && !late.is_answered() && self.site.is_alive() {
            assert!(started.elapsed() < LONG, "the late write doesn't come");
            pass_time(1);
        }
    }

    /// An operator sets the mark of a fence that nobody has written to, twice, and to less.
    fn reset(&mut self) {
        let path = format!("/v1/fences/held%2F{}x/reset", self.world.fence);
        for highest in ["9", "3"] {
            let started = Instant::now();
            loop {
                assert!(started.elapsed() < LONG, "no reset gets through");
                let Ok(mut admin) = Client::connect(self.gate().admin) else { continue };
                let body = json!({ "highest": highest, "reason": "a test" }).to_string();
                if admin.request("POST", &path, &[JSON], body.as_bytes()).is_ok_and(|answer| answer.status == 200) {
                    break;
                }
            }
        }
        let path = format!("/-/fences/held%2F{}x", self.world.fence);
        let started = Instant::now();
        let answer = loop {
            assert!(started.elapsed() < LONG, "nobody tells the mark");
            let Ok(mut client) = Client::connect(self.gate().data) else { continue };
            if let Ok(answer) = client.request("GET", &path, &[], b"") {
                break answer;
            }
        };
        let mark = answer.json()["highest"].clone();
        if mark != "3" {
            self.wrong.push(format!("a mark that was reset to 3 is {mark}"));
        }
    }

    fn end(mut self) -> Played {
        self.site.rest();
        self.site.kill();
        let own = format!("/{}", self.world.fence);
        let applied: Vec<_> =
            self.stage.upstream.applied().into_iter().filter(|applied| applied.fence.ends_with(&own)).collect();
        self.wrong.extend(judge(&applied, &self.world.notes.lock().unwrap()));
        let pauses = *self.site.pauses.lock().unwrap();
        Played { wrong: self.wrong, hits: self.site.hits(), lives: self.site.lives, pauses }
    }
}
