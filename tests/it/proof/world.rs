//! Writers that believe they lead.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::{Client, LATE_MS, Note, Told, pass_time};
use crate::dice::Dice;
use crate::process::Answer;

pub struct Fence {
    /// Also the path of what it guards, without its first slash.
    pub name: String,
    /// Issues terms, as a coordinator would.
    terms: AtomicU64,
    /// The highest mark that any answer has told of.
    pub highest_told: AtomicU64,
}

impl Fence {
    pub fn next_term(&self) -> u64 {
        self.terms.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn state_path(&self) -> String {
        format!("/-/fences/{}", self.name.replace('/', "%2F"))
    }
}

pub struct World {
    pub fences: Vec<Fence>,
    /// Where the gate listens at present; `None` while it is down.
    gate: Mutex<Option<SocketAddr>>,
    up: Condvar,
    ids: AtomicU64,
    /// Whether everything written now takes long: something is about to happen to it.
    pub is_slow: AtomicBool,
    is_over: AtomicBool,
}

/// Ends the writers when it is dropped.
pub struct Stop<'a>(&'a World);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        self.0.up.notify_all();
    }
}

impl World {
    /// Three fences over each version of HTTP.
    pub fn new() -> World {
        let fence = |name: &str| Fence { name: name.into(), terms: AtomicU64::new(0), highest_told: AtomicU64::new(0) };
        World {
            fences: ["one/a", "one/b", "one/c", "two/a", "two/b", "two/c"].map(fence).into(),
            gate: Mutex::new(None),
            up: Condvar::new(),
            ids: AtomicU64::new(0),
            is_slow: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn set(&self, gate: Option<SocketAddr>) {
        *self.gate.lock().unwrap() = gate;
        self.up.notify_all();
    }

    pub fn stop_when_dropped(&self) -> Stop<'_> {
        Stop(self)
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn connect(&self) -> Option<Client> {
        while !self.is_over() {
            let gate = self.gate.lock().unwrap();
            let (gate, _) =
                self.up.wait_timeout_while(gate, Duration::from_millis(100), |gate| gate.is_none()).unwrap();
            let addr = *gate;
            drop(gate);
            if let Some(client) = addr.and_then(|addr| Client::connect(addr).ok()) {
                return Some(client);
            }
        }
        None
    }

    /// Writes with one term after the other, until it is over. What it was told, and what was wrong with that.
    pub fn writer(&self, fence: &Fence, mut dice: Dice) -> (Vec<Note>, Vec<String>) {
        let (mut notes, mut wrong) = (Vec::new(), Vec::new());
        let mut client: Option<Client> = None;
        let mut term = fence.next_term();
        let mut highest = 0;
        while !self.is_over() {
            let Some(mut connected) = client.take().or_else(|| self.connect()) else { break };
            let id = self.ids.fetch_add(1, Ordering::SeqCst);
            let script = if self.is_slow.load(Ordering::SeqCst) { slow(&mut dice) } else { script(&mut dice) };
            let answer = write(&mut connected, &mut dice, fence, term, id, &script);
            let told = told(&answer);
            notes.push(Note { id: id.to_string(), fence: fence.name.clone(), token: term, told, script });
            let Ok(answer) = answer else {
                // A leader doesn't always know that it is none, nor always believes that it still is one.
                if dice.roll(2) == 0 {
                    term = fence.next_term();
                }
                continue;
            };
            if answer.header("proxy-status").is_none() && answer.body.starts_with(b"{") && !is_about(&answer, id) {
                wrong.push(format!("write {id} of fence {} was answered with {answer:?}", fence.name));
            }
            if let Some(mark) = answer.header("fencing-highest") {
                let mark = mark.parse().expect("a number");
                if mark < highest {
                    wrong.push(format!("fence {}: told of mark {mark} after {highest}", fence.name));
                }
                highest = mark;
                fence.highest_told.fetch_max(mark, Ordering::SeqCst);
            }
            client = (answer.header("connection") != Some("close")).then_some(connected);
            match answer.status {
                412 | 409 => term = fence.next_term(),
                503 => pass_time(20 + dice.roll(60)),
                _ if dice.roll(15) == 0 => term = fence.next_term(),
                _ if dice.roll(20) == 0 => pass_time(dice.roll(600)),
                _ => {}
            }
        }
        (notes, wrong)
    }
}

/// Whether it is the upstream's answer to this write, and not to another one.
fn is_about(answer: &Answer, id: u64) -> bool {
    answer.json()["path"].as_str().is_some_and(|path| path.ends_with(&format!("/doc?{id}")))
}

fn told(answer: &std::io::Result<Answer>) -> Told {
    match answer {
        Ok(answer) if answer.header("proxy-status").is_none() => {
            if answer.status == 200 {
                Told::Done
            } else {
                Told::Failed
            }
        }
        Ok(answer) if answer.json()["applied"] == "no" => Told::NotApplied,
        Ok(_) | Err(_) => Told::Nothing,
    }
}

/// What the upstream is to do about a write.
pub fn script(dice: &mut Dice) -> String {
    let wait = dice.roll(280);
    let words = match dice.roll(80) {
        0 => format!("read wait:{wait} apply answer"),
        1 => format!("read apply wait:{wait} answer"),
        2 => "apply answer".to_owned(),
        3 => "answer:403".to_owned(),
        4 | 5 => format!("read cut wait:{wait} apply"),
        6 => "read apply cut".to_owned(),
        7 => "read cut".to_owned(),
        8 => "read apply half cut".to_owned(),
        9 => format!("read half cut wait:{wait} apply"),
        10 => format!("read half wait:{wait} apply rest"),
        11 => "read apply half break".to_owned(),
        12 => format!("read wait:{wait} apply"),
        13 => format!("half wait:{wait} apply break"),
        14 => "read".to_owned(),
        15 => format!("read half wait:{wait} break wait:{wait} apply"),
        _ => "read apply answer".to_owned(),
    };
    format!("limit:{LATE_MS} {words}")
}

/// Applied as late as the upstream does anything.
fn slow(dice: &mut Dice) -> String {
    format!("limit:{LATE_MS} read wait:{} apply answer", LATE_MS - 20 - dice.roll(100))
}

/// One write, with its body at once, slowly, or not to its end.
fn write(
    client: &mut Client,
    dice: &mut Dice,
    fence: &Fence,
    term: u64,
    id: u64,
    script: &str,
) -> std::io::Result<Answer> {
    let len = match dice.roll(4) {
        0 => 0,
        1 => dice.roll(200_000),
        _ => dice.roll(200),
    };
    let body = vec![b'x'; usize::try_from(len).expect("it is small")];
    let is_chunked = dice.roll(2) == 0;
    let framing =
        if is_chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {}", body.len()) };
    let head = format!(
        "PUT /{}/doc?{id} HTTP/1.1\r\nhost: gate\r\nfencing-token: {term}\r\nwrite-id: {id}\r\nhostile: {}\r\n{framing}\r\n\r\n",
        fence.name, script
    );
    let piece = |bytes: &[u8]| match bytes {
        [] => Vec::new(),
        bytes if is_chunked => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
        bytes => bytes.to_vec(),
    };
    let end: &[u8] = if is_chunked { b"0\r\n\r\n" } else { b"" };
    let (first, second) = body.split_at(body.len() / 2);
    // Where the gate answers before it has read everything, and closes, there may still be an answer to read.
    let _ = client.send(&[head.as_bytes(), &piece(first)].concat());
    match dice.roll(60) {
        0..5 => pass_time(dice.roll(400)),
        5 if !body.is_empty() => return Err(std::io::ErrorKind::Interrupted.into()),
        _ => {}
    }
    let _ = client.send(&[&piece(second), end].concat());
    if dice.roll(60) == 0 {
        return Err(std::io::ErrorKind::Interrupted.into());
    }
    client.read_answer()
}
