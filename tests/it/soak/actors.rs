//! Those who write, read and operate. Each notes what it asked for and what it was told.

use std::io;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::checker::{Op, Term, Told, Verdict, What};
use super::leaders::{Leader, name};
use super::world::{Issuer, Kind, Line, World};
use crate::dice::Dice;
use crate::process::{Answer, Client, JSON};
use crate::proof::world::script;
use crate::upstream::pass_time;

/// What somebody has to tell afterwards.
#[derive(Default)]
pub struct Notes {
    pub ops: Vec<Op>,
    pub terms: Vec<(u16, Vec<Term>)>,
    pub wrong: Vec<String>,
    pub releases: usize,
}

pub struct Actor<'a> {
    pub world: &'a World,
    pub line: &'a Line,
    pub dice: Dice,
    notes: Notes,
    client: Option<Client>,
    /// Asks at once, of an upstream that does as it should.
    is_tame: bool,
}

/// How long ago the last write must have ended whose outcome isn't known, before an operator says that nothing of it can still come:
/// longer than the upstream takes, and is paused for.
const SURE: u64 = 2_000_000_000;

impl<'a> Actor<'a> {
    pub fn new(world: &'a World, line: &'a Line, dice: Dice) -> Actor<'a> {
        Actor { world, line, dice, notes: Notes::default(), client: None, is_tame: false }
    }

    fn connected(&mut self) -> Option<Client> {
        self.client.take().or_else(|| self.world.connect())
    }

    fn keep(&mut self, client: Client, answer: &io::Result<Answer>) {
        if answer.as_ref().is_ok_and(|answer| answer.header("connection") != Some("close")) {
            self.client = Some(client);
        }
    }

    /// Leads, is deposed, doesn't believe it, and leads again.
    pub fn lead(mut self) -> Notes {
        let mut terms = Vec::new();
        let mut leader = Leader::next(self.world, self.line, &mut self.dice, &mut terms);
        while let Some(mut leads) = leader.take() {
            self.world.may_freeze();
            let Some(mut client) = self.connected() else { break };
            leads.keep(self.world, self.line, &mut client, &mut terms);
            let answer = self.act(&mut client, &leads);
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            let is_replaced = matches!(status, 403 | 409 | 412) && self.dice.roll(3) > 0;
            let gives_up = self.dice.roll(60) == 0;
            if gives_up && answer.is_ok() {
                leads.resign(self.world, self.line, &mut client, &mut terms);
            }
            self.keep(client, &answer);
            match status {
                // A leader doesn't always know that it is none, nor always believes that it still is one.
                0 if self.dice.roll(2) == 0 => pass_time(self.dice.roll(30)),
                503 => pass_time(20 + self.dice.roll(60)),
                _ if self.dice.roll(400) == 0 => pass_time(self.dice.roll(1500)),
                _ => {}
            }
            leader = if is_replaced || gives_up {
                Leader::next(self.world, self.line, &mut self.dice, &mut terms)
            } else {
                Some(leads)
            };
        }
        self.notes.terms.push((self.line.number, terms));
        self.notes
    }

    /// One operation of a leader's.
    fn act(&mut self, client: &mut Client, leader: &Leader) -> io::Result<Answer> {
        let line = self.line;
        let _busy = line.busy.read().unwrap();
        // Now and then somebody else comes with the same token.
        let is_another = line.issuer == Issuer::Counter && self.dice.roll(300) == 0;
        let holder = match self.dice.roll(4) {
            _ if is_another => u32::try_from(self.world.holders.fetch_add(1, Ordering::SeqCst)).expect("not so many"),
            0 => 0,
            _ => leader.holder,
        };
        match (self.dice.roll(16), line.kind) {
            (0, _) => self.claim(client, leader.token, holder),
            (1, _) => self.read(client, leader.token, holder),
            (2, Kind::Table { path, table }) => self.insert(client, (path, table), 2, leader.token, holder),
            (3, Kind::Table { path, table }) => self.interactive(client, path, table, leader.token, holder),
            (_, Kind::Table { path, table }) => self.insert(client, (path, table), 1, leader.token, holder),
            (_, Kind::Path(path)) => self.put(client, path, leader.token, holder),
        }
    }

    fn note(&mut self, mut op: Op, answer: &io::Result<Answer>, told: impl Fn(&Answer) -> Told) {
        self.world.note(self.line, &mut op, answer, told);
        self.notes.ops.push(op);
    }

    fn claim(&mut self, client: &mut Client, token: u64, holder: u32) -> io::Result<Answer> {
        let op = self.world.op(self.line, What::Claim, token, holder);
        let head = head("POST", &format!("{}/claim", self.line.state_path()), &token.to_string(), holder);
        let answer = self.send(client, &head, b"");
        self.note(op, &answer, |_| Told::Done);
        answer
    }

    /// One row, or two in one transaction.
    fn insert(
        &mut self,
        client: &mut Client,
        place: (&str, &str),
        rows: u8,
        token: u64,
        holder: u32,
    ) -> io::Result<Answer> {
        let op = self.world.op(self.line, What::Write(rows), token, holder);
        let row = insert(place.1, op.id, token);
        let asked = if rows == 1 { execute(&row) } else { batch(&["BEGIN IMMEDIATE", &row, &row, "COMMIT"]) };
        let body = format!("{{\"requests\":[{asked},{CLOSE}]}}");
        let answer = self.pipeline(client, place.0, &self.tokens(token), holder, &body);
        self.note(op, &answer, told_by_results);
        answer
    }

    /// Two rows in one transaction, in two requests.
    fn interactive(
        &mut self,
        client: &mut Client,
        path: &str,
        table: &str,
        token: u64,
        holder: u32,
    ) -> io::Result<Answer> {
        let op = self.world.op(self.line, What::Write(2), token, holder);
        let row = insert(table, op.id, token);
        let begin = if self.dice.roll(2) == 0 { "BEGIN" } else { "BEGIN IMMEDIATE" };
        let body = format!("{{\"requests\":[{},{}]}}", execute(begin), execute(&row));
        let begun = self.pipeline(client, path, &self.tokens(token), holder, &body);
        let baton = match &begun {
            Ok(answer) if answer.status == 200 && told_by_results(answer) == Told::Done => {
                answer.json()["baton"].clone()
            }
            // Nothing was committed, whatever became of it.
            _ => {
                self.note(op, &begun, |_| Told::Refused);
                let op = self.notes.ops.last_mut().expect("just noted");
                (op.told, op.verdict) = (Told::Refused, Verdict::Other);
                return begun;
            }
        };
        if self.dice.roll(20) == 0 {
            pass_time(self.dice.roll(300));
        }
        self.world.may_freeze();
        let body = format!("{{\"baton\":{baton},\"requests\":[{},{CLOSE}]}}", batch(&[&row, "COMMIT"]));
        let answer = self.pipeline(client, path, &self.tokens(token), holder, &body);
        self.note(op, &answer, told_by_results);
        answer
    }

    fn read(&mut self, client: &mut Client, token: u64, holder: u32) -> io::Result<Answer> {
        let mut op = self.world.op(self.line, What::Read, token, holder);
        let presented = if token == 0 { String::new() } else { self.tokens(token) };
        let answer = match self.line.kind {
            Kind::Table { path, table } => {
                let select = execute(&format!("SELECT coalesce(max(n), 0) FROM {table}"));
                self.pipeline(client, path, &presented, holder, &format!("{{\"requests\":[{select},{CLOSE}]}}"))
            }
            Kind::Path(path) => {
                let head = head("GET", &format!("{path}/doc?{}", op.id), &presented, holder);
                self.send(client, &head, b"")
            }
        };
        let seen =
            answer.as_ref().ok().filter(|answer| answer.status == 200).and_then(|answer| seen(self.line.kind, answer));
        op.seen = seen.unwrap_or(0);
        self.note(op, &answer, |_| if seen.is_some() { Told::Done } else { Told::Refused });
        answer
    }

    fn put(&mut self, client: &mut Client, path: &str, token: u64, holder: u32) -> io::Result<Answer> {
        let op = self.world.op(self.line, What::Write(1), token, holder);
        let len = match self.dice.roll(12) {
            0 => self.dice.roll(200_000),
            _ => self.dice.roll(200),
        };
        let body = vec![b'x'; usize::try_from(len).expect("small")];
        let script = if self.is_tame { String::new() } else { script(&mut self.dice) };
        let head = head("PUT", &format!("{path}/doc?{}", op.id), &self.tokens(token), holder)
            + &format!("write-id: {}\r\nhostile: {script}\r\n", op.id);
        let answer = self.send(client, &head, &body);
        if let Ok(answer) = &answer
            && answer.header("proxy-status").is_none()
            && answer.body.starts_with(b"{")
            && !answer.json()["path"].as_str().is_some_and(|path| path.ends_with(&format!("/doc?{}", op.id)))
        {
            self.notes.wrong.push(format!("{op:?} was answered with what is another's: {answer:?}"));
        }
        self.note(op, &answer, |_| Told::Done);
        answer
    }

    fn tokens(&self, token: u64) -> String {
        match self.line.kind {
            Kind::Table { .. } => format!("{}={token}", self.line.name),
            Kind::Path(_) => token.to_string(),
        }
    }

    fn pipeline(
        &mut self,
        client: &mut Client,
        path: &str,
        tokens: &str,
        holder: u32,
        body: &str,
    ) -> io::Result<Answer> {
        let head = head("POST", &format!("{path}/v3/pipeline"), tokens, holder) + "content-type: application/json\r\n";
        self.send(client, &head, body.as_bytes())
    }

    /// Sends a request: mostly at once, sometimes slowly, seldom not to its end.
    fn send(&mut self, client: &mut Client, head: &str, body: &[u8]) -> io::Result<Answer> {
        let head = format!("{head}content-length: {}\r\n\r\n", body.len());
        let way = self.dice.roll(400);
        if self.is_tame || way > 12 || body.len() < 4 {
            client.send(&[head.as_bytes(), body].concat())?;
            return client.read_answer();
        }
        let (first, second) = body.split_at(body.len() / 2);
        // Where the gate answers before it has read everything, and closes, there may still be an answer to read.
        let _ = client.send(&[head.as_bytes(), first].concat());
        match way {
            0 => return Err(io::ErrorKind::Interrupted.into()),
            1 => {
                for byte in second.chunks(second.len().div_ceil(20)) {
                    pass_time(50);
                    let _ = client.send(byte);
                }
                return client.read_answer();
            }
            _ => pass_time(self.dice.roll(400)),
        }
        self.world.may_freeze();
        let _ = client.send(second);
        client.read_answer()
    }

    /// So many operations with tokens of these, one after the other.
    pub fn few(mut self, ops: usize, token: impl Fn(&mut Dice) -> u64) -> Notes {
        self.is_tame = true;
        for _ in 0..ops {
            let Some(mut client) = self.connected() else { break };
            let token = token(&mut self.dice);
            let answer = match (self.dice.roll(6), self.line.kind) {
                (0, _) => self.claim(&mut client, token, 0),
                (1, _) => self.read(&mut client, token, 0),
                (2, _) => self.look(&mut client),
                (_, Kind::Table { path, table }) => self.insert(&mut client, (path, table), 1, token, 0),
                (_, Kind::Path(path)) => self.put(&mut client, path, token, 0),
            };
            self.keep(client, &answer);
        }
        self.notes
    }

    /// Presents tokens that nobody issued.
    pub fn forge(mut self) -> Notes {
        while !self.world.is_over() {
            let Some(mut client) = self.connected() else { break };
            let token = 1_000_000_000 + self.dice.roll(1_000_000_000);
            let answer = match self.dice.roll(3) {
                0 => self.claim(&mut client, token, 0),
                1 => self.read(&mut client, token, 0),
                _ => match self.line.kind {
                    Kind::Table { path, table } => self.insert(&mut client, (path, table), 1, token, 0),
                    Kind::Path(path) => self.put(&mut client, path, token, 0),
                },
            };
            self.keep(client, &answer);
            pass_time(self.dice.roll(100));
        }
        self.notes
    }

    /// Looks at every fence, and at what it guards.
    pub fn watch(mut self) -> Notes {
        while !self.world.is_over() {
            let Some(mut client) = self.connected() else { break };
            self.line = &self.world.lines[self.dice.index(self.world.lines.len())];
            let answer = if self.dice.roll(2) == 0 { self.look(&mut client) } else { self.read(&mut client, 0, 0) };
            self.keep(client, &answer);
            pass_time(self.dice.roll(3));
        }
        self.notes
    }

    fn look(&mut self, client: &mut Client) -> io::Result<Answer> {
        let op = self.world.op(self.line, What::Look, 0, 0);
        let answer = client.request("GET", &self.line.state_path(), &[], b"");
        self.note(op, &answer, |_| Told::Done);
        if let Ok(answer) = &answer
            && answer.status == 200
        {
            let mark = answer.json()["highest"].as_str().map_or(0, |mark| mark.parse().expect("a number"));
            self.notes.ops.last_mut().expect("just noted").highest = mark;
        }
        answer
    }

    /// Resets marks, as after a coordinator was restored, and releases quarantines of which it knows that nothing can come any more.
    pub fn operate(mut self) -> Notes {
        while !self.world.is_over() {
            pass_time(self.dice.roll(300));
            let lines: Vec<&Line> = self.world.lines.iter().filter(|line| is_operated(line)).collect();
            self.line = lines[self.dice.index(lines.len())];
            let Some(mut admin) = self.world.connect_admin() else { break };
            match self.line.kind {
                Kind::Table { .. } => self.reset(&mut admin),
                Kind::Path(_) => self.release(&mut admin),
            }
        }
        self.notes
    }

    fn operator(&self, admin: &mut Client, deed: &str, body: &Value) -> io::Result<Answer> {
        let path = format!("/v1/fences/{}/{deed}", self.line.name.replace('/', "%2F"));
        admin.request("POST", &path, &[JSON], body.to_string().as_bytes())
    }

    fn reset(&mut self, admin: &mut Client) {
        let to = self.line.term().saturating_sub(1 + self.dice.roll(5)).max(1);
        let op = self.world.op(self.line, What::Reset, to, 0);
        let answer = self.operator(admin, "reset", &json!({ "highest": to.to_string(), "reason": "a soak" }));
        self.note(op, &answer, |_| Told::Done);
        self.line.go_back(to);
    }

    fn release(&mut self, admin: &mut Client) {
        // Nobody asks anything meanwhile.
        let _alone = self.line.busy.write().unwrap();
        if self.world.now().saturating_sub(self.line.doubtful_at.load(Ordering::SeqCst)) < SURE {
            return;
        }
        let answer = self.operator(admin, "release", &json!({ "reason": "a soak" }));
        let is_released = answer.is_ok_and(|answer| answer.status == 200 && answer.json()["released"] == true);
        self.notes.releases += usize::from(is_released);
    }
}

/// Whether operators have anything to do with it.
fn is_operated(line: &Line) -> bool {
    line.is_reset || matches!(line.kind, Kind::Path(_))
}

/// Leads two fences of one database, and writes to both at once.
pub fn lead_both(world: &World, lines: [&Line; 2], dice: Dice) -> Notes {
    let mut actor = Actor::new(world, lines[0], dice);
    let mut terms = Vec::new();
    let tables = lines.map(|line| match line.kind {
        Kind::Table { path, table } => (path, table),
        Kind::Path(_) => panic!("only tables share a transaction"),
    });
    let next = |actor: &mut Actor<'_>, terms: &mut Vec<Term>| {
        let both = lines.map(|line| Leader::next(world, line, &mut actor.dice, terms));
        let [Some(one), Some(two)] = both else { return None };
        Some((one.token, two.token, one.holder))
    };
    let mut led = next(&mut actor, &mut terms);
    while let Some((one, two, holder)) = led {
        world.may_freeze();
        let Some(mut client) = actor.connected() else { break };
        let (mut first, mut second) =
            (world.op(lines[0], What::Write(1), one, holder), world.op(lines[1], What::Write(1), two, holder));
        (first.pair, second.pair) = (Some(second.id), Some(first.id));
        second.invoked = first.invoked;
        let rows = [insert(tables[0].1, first.id, one), insert(tables[1].1, second.id, two)];
        let body = format!("{{\"requests\":[{},{CLOSE}]}}", batch(&["BEGIN IMMEDIATE", &rows[0], &rows[1], "COMMIT"]));
        let tokens = format!("{}={one}, {}={two}", lines[0].name, lines[1].name);
        let answer = actor.pipeline(&mut client, tables[0].0, &tokens, holder, &body);
        for (line, mut op) in lines.into_iter().zip([first, second]) {
            world.note(line, &mut op, &answer, told_by_results);
            if op.told != Told::Done {
                // Which of the two it is about, doesn't matter here.
                (op.verdict, op.highest) = (Verdict::Other, 0);
            }
            actor.notes.ops.push(op);
        }
        let is_replaced = answer.as_ref().is_ok_and(|answer| matches!(answer.status, 409 | 412));
        actor.keep(client, &answer);
        pass_time(actor.dice.roll(5));
        if is_replaced {
            // Both fences have others who lead most of the time.
            pass_time(actor.dice.roll(20));
            led = next(&mut actor, &mut terms);
        }
    }
    actor.notes
}

const CLOSE: &str = "{\"type\":\"close\"}";

fn insert(table: &str, id: u64, token: u64) -> String {
    format!("INSERT INTO {table} (id, term) VALUES ({id}, {token})")
}

fn execute(sql: &str) -> String {
    format!("{{\"type\":\"execute\",\"stmt\":{{\"sql\":\"{sql}\"}}}}")
}

/// Steps that each need the one before.
fn batch(sqls: &[&str]) -> String {
    let step = |(number, sql): (usize, &&str)| match number.checked_sub(1) {
        None => format!("{{\"stmt\":{{\"sql\":\"{sql}\"}}}}"),
        Some(before) => {
            format!("{{\"stmt\":{{\"sql\":\"{sql}\"}},\"condition\":{{\"type\":\"ok\",\"step\":{before}}}}}")
        }
    };
    let steps: Vec<String> = sqls.iter().enumerate().map(step).collect();
    format!("{{\"type\":\"batch\",\"batch\":{{\"steps\":[{}]}}}}", steps.join(","))
}

/// An error inside a 200 is a statement that SQLite refused: here only for a lock that was not free.
fn told_by_results(answer: &Answer) -> Told {
    let text = String::from_utf8_lossy(&answer.body);
    let has_failed = text.contains("\"type\":\"error\"")
        || text
            .split("\"step_errors\":[")
            .skip(1)
            .any(|errors| !errors.starts_with("null,null]") && !errors.starts_with("null,null,null,null]"));
    if has_failed { Told::Refused } else { Told::Done }
}

fn head(method: &str, path: &str, tokens: &str, holder: u32) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: gate\r\n");
    if !tokens.is_empty() {
        head += &format!("fencing-token: {tokens}\r\n");
    }
    if holder > 0 && !tokens.is_empty() {
        head += &format!("fencing-holder: {}\r\n", name(holder));
    }
    head
}

/// How far a read has seen.
fn seen(kind: Kind, answer: &Answer) -> Option<u64> {
    let json = answer.json();
    match kind {
        Kind::Table { .. } => json["results"][0]["response"]["result"]["rows"][0][0]["value"].as_str()?.parse().ok(),
        Kind::Path(_) => json["lines"].as_u64(),
    }
}
