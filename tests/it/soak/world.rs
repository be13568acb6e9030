//! What all who take part share: where the gate is, what is written to, who issues its tokens, and the clock.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::checker::{Issued, Op, Told, Verdict, What};
use crate::process::{Answer, Client};
use crate::upstream::etcd;

/// What a fence guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A table of the database that is mounted here.
    Table { path: &'static str, table: &'static str },
    /// What is below this path of an HTTP service.
    Path(&'static str),
}

/// Who gives its leaders their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Issuer {
    /// A counter, as any coordinator is to a gate that believes what is presented.
    Counter,
    /// The gate's own elections.
    Embedded,
    /// etcd, below this prefix.
    Etcd(&'static str),
}

/// One fence.
pub struct Line {
    pub number: u16,
    pub name: &'static str,
    pub kind: Kind,
    pub issuer: Issuer,
    /// Whether operators reset its mark.
    pub is_reset: bool,
    terms: AtomicU64,
    pub issued: Mutex<Vec<Issued>>,
    /// Taken by whoever elects in etcd.
    pub electing: Mutex<()>,
    /// Held while something is asked about the fence, and by an operator who wants nobody to.
    pub busy: RwLock<()>,
    /// Operations that were done, and that were refused.
    done: AtomicU64,
    refused: AtomicU64,
    /// When a write that its client has given up, or whose outcome it wasn't told, may last have gone on.
    pub doubtful_at: AtomicU64,
}

impl Line {
    /// The next term of a counter.
    pub fn next_term(&self, world: &World) -> u64 {
        let at = world.now();
        let token = self.terms.fetch_add(1, Ordering::SeqCst) + 1;
        self.issued.lock().unwrap().push(Issued { token, at });
        token
    }

    /// The highest term of a counter.
    pub fn term(&self) -> u64 {
        self.terms.load(Ordering::SeqCst)
    }

    /// The coordinator's numbers go back.
    pub fn go_back(&self, to: u64) {
        self.terms.store(to, Ordering::SeqCst);
    }

    /// `/-/fences/NAME`.
    pub fn state_path(&self) -> String {
        format!("/-/fences/{}", self.name.replace('/', "%2F"))
    }
}

pub struct World {
    pub lines: Vec<Line>,
    begun: Instant,
    /// Where the gate listens at present, for data and for operators; `None` while it is down.
    gate: Mutex<Option<(SocketAddr, SocketAddr)>>,
    up: Condvar,
    /// Where etcd is.
    pub etcd: Option<SocketAddr>,
    pub ids: AtomicU64,
    pub holders: AtomicU64,
    /// Whether writers hold still where they are, in the middle of whatever they do.
    frozen: Mutex<bool>,
    thaw: Condvar,
    is_over: AtomicBool,
}

/// Ends everybody when it is dropped.
pub struct Stop<'a>(&'a World);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
        self.0.freeze(false);
        self.0.up.notify_all();
    }
}

impl World {
    pub fn new(lines: &[(&'static str, Kind, Issuer, bool)], etcd: Option<SocketAddr>) -> World {
        let line = |(number, line): (usize, &(&'static str, Kind, Issuer, bool))| Line {
            number: u16::try_from(number).expect("a few"),
            name: line.0,
            kind: line.1,
            issuer: line.2,
            is_reset: line.3,
            terms: AtomicU64::new(0),
            issued: Mutex::default(),
            electing: Mutex::default(),
            busy: RwLock::default(),
            done: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            doubtful_at: AtomicU64::new(0),
        };
        World {
            lines: lines.iter().enumerate().map(line).collect(),
            begun: Instant::now(),
            gate: Mutex::new(None),
            up: Condvar::new(),
            etcd,
            ids: AtomicU64::new(1),
            holders: AtomicU64::new(1),
            frozen: Mutex::new(false),
            thaw: Condvar::new(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Nanoseconds of the one clock; never 0.
    pub fn now(&self) -> u64 {
        1 + u64::try_from(self.begun.elapsed().as_nanos()).expect("less than 500 years")
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub fn set(&self, gate: Option<(SocketAddr, SocketAddr)>) {
        *self.gate.lock().unwrap() = gate;
        self.up.notify_all();
    }

    pub fn stop_when_dropped(&self) -> Stop<'_> {
        Stop(self)
    }

    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Everybody but the gate stops where they stand, or goes on.
    pub fn freeze(&self, frozen: bool) {
        *self.frozen.lock().unwrap() = frozen;
        self.thaw.notify_all();
    }

    /// Whether so much has happened on every fence that a run means something.
    pub fn is_enough(&self) -> bool {
        let is_enough =
            |line: &Line| line.done.load(Ordering::Relaxed) > 50 && line.refused.load(Ordering::Relaxed) > 5;
        self.lines.iter().all(is_enough)
    }

    /// Where somebody may be stopped.
    pub fn may_freeze(&self) {
        let frozen = self.frozen.lock().unwrap();
        drop(self.thaw.wait_while(frozen, |frozen| *frozen).unwrap());
    }

    /// A connection to the gate's data listener, once it is up; `None` when all is over.
    pub fn connect(&self) -> Option<Client> {
        self.connect_to(|(data, _)| data)
    }

    /// The same to the operators' listener.
    pub fn connect_admin(&self) -> Option<Client> {
        self.connect_to(|(_, admin)| admin)
    }

    fn connect_to(&self, which: fn((SocketAddr, SocketAddr)) -> SocketAddr) -> Option<Client> {
        while !self.is_over() {
            let gate = self.gate.lock().unwrap();
            let (gate, _) =
                self.up.wait_timeout_while(gate, Duration::from_millis(100), |gate| gate.is_none()).unwrap();
            let addr = gate.map(which);
            drop(gate);
            if let Some(client) = addr.and_then(|addr| Client::connect(addr).ok()) {
                return Some(client);
            }
        }
        None
    }

    /// A new leader by etcd: a candidate is put, and all others are taken away. The token, where all of that is known to be done.
    ///
    /// One that is put and can't be put first counts as issued too: it may come to lead later.
    pub fn elect_in_etcd(&self, line: &Line, prefix: &str, holder: &str) -> Option<u64> {
        let addr = self.etcd?;
        let _alone = line.electing.lock().unwrap();
        let mut client = Client::connect(addr).ok()?;
        client.give_up_after(Duration::from_secs(1));
        let at = self.now();
        let mut post = |path: &str, body: &str| {
            let answer = client.request("POST", path, &[], body.as_bytes()).ok()?;
            (answer.status == 200).then(|| answer.json())
        };
        let own = format!("{prefix}/{}/{:x}", line.name, self.ids.fetch_add(1, Ordering::SeqCst));
        let put = post("/v3/kv/put", &etcd::put(&own, holder))?;
        let token: u64 = put["header"]["revision"].as_str()?.parse().ok()?;
        line.issued.lock().unwrap().push(Issued { token, at });
        let all = post("/v3/kv/range", &etcd::below(&format!("{prefix}/{}/", line.name)))?;
        for key in all["kvs"].as_array()? {
            if key["create_revision"].as_str()? != token.to_string() {
                let key = serde_json::json!({ "key": key["key"] });
                post("/v3/kv/deleterange", &key.to_string())?;
            }
        }
        Some(token)
    }

    /// What is known of an operation before it is asked for.
    pub fn op(&self, line: &Line, what: What, token: u64, holder: u32) -> Op {
        Op {
            id: self.ids.fetch_add(1, Ordering::SeqCst),
            fence: line.number,
            token,
            holder,
            what,
            invoked: self.now(),
            completed: 0,
            told: Told::Unknown,
            verdict: Verdict::None,
            highest: 0,
            seen: 0,
            pair: None,
        }
    }

    /// What is known of it afterwards. `told`: what an answer of status 200 means.
    pub fn note(&self, line: &Line, op: &mut Op, answer: &std::io::Result<Answer>, told: impl Fn(&Answer) -> Told) {
        op.completed = self.now();
        let Ok(answer) = answer else {
            line.doubtful_at.store(op.completed, Ordering::SeqCst);
            return;
        };
        let is_http = matches!(line.kind, Kind::Path(_));
        let is_upstreams =
            is_http && matches!(op.what, What::Write(_) | What::Read) && answer.header("proxy-status").is_none();
        op.told = match answer.status {
            200 => told(answer),
            _ if is_upstreams => Told::Refused,
            _ if says_no(answer) => Told::Refused,
            _ => Told::Unknown,
        };
        if op.told == Told::Unknown {
            line.doubtful_at.store(op.completed, Ordering::SeqCst);
            return;
        }
        let count = if op.told == Told::Done { &line.done } else { &line.refused };
        count.fetch_add(1, Ordering::Relaxed);
        op.verdict = match answer.header("fencing-verdict") {
            None => Verdict::None,
            Some("admitted") => Verdict::Admitted,
            Some("advanced") => Verdict::Advanced,
            Some("stale") => Verdict::Stale,
            Some("conflict") => Verdict::Conflict,
            Some(_) => Verdict::Other,
        };
        op.highest = answer.header("fencing-highest").and_then(|marks| mark_of(line.name, marks)).unwrap_or(0);
    }
}

/// Whether an answer says that nothing was applied.
fn says_no(answer: &Answer) -> bool {
    // What turns a connection away for want of room has no body.
    let is_turned_away = answer.status == 503 && answer.body.is_empty() && answer.header("retry-after").is_some();
    is_turned_away || String::from_utf8_lossy(&answer.body).contains("\"applied\":\"no\"")
}

/// `7`, or `orders=7, jobs=12`.
fn mark_of(fence: &str, marks: &str) -> Option<u64> {
    if !marks.contains('=') {
        return marks.parse().ok();
    }
    let own = marks.split(',').filter_map(|mark| mark.trim().split_once('=')).find(|(name, _)| *name == fence);
    own.and_then(|(_, mark)| mark.parse().ok())
}
