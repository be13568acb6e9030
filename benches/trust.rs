//! Eager fencing: how long after a leader gives way its writes are refused, and how long after its successor has been told that it
//! leads. Nobody sends a request with the successor's token. Before the gate's own coordinator, and before etcd where it is
//! installed.
//!
//! `cargo bench --bench trust` (`-- --rounds 500`)
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{Killed, listening, option};
use fencegate::coordinator::etcd::{Etcd, EtcdLeadership, Options};
use fencegate::coordinator::{Bid, Coordinator as _, Leadership as _};
use serde_json::{Value, json};

mod common;

/// A gate before an empty database, whose fence is `app`; its address.
fn gate(dir: &Path, coordinator: &str) -> (Killed, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fencegate"));
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--fence", "app", "--log", "warn"])
        .args(["--trust", "coordinator", "--coordinator", coordinator])
        .arg("--sqlite")
        .arg(dir.join("gate.db"))
        .arg("--data-dir")
        .arg(dir.join("data"));
    let (child, addr) = listening(&mut command);
    (Killed(child), addr.to_string())
}

/// A keep-alive connection.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(addr: &str) -> Client {
        let stream = TcpStream::connect(addr).expect("it accepts");
        stream.set_nodelay(true).expect("a socket option");
        Client(BufReader::new(stream))
    }

    fn post(&mut self, path: &str, token: Option<u64>, body: &Value) -> (u16, Value) {
        self.send("POST", path, token, body)
    }

    fn send(&mut self, method: &str, path: &str, token: Option<u64>, body: &Value) -> (u16, Value) {
        let (body, token) = (body.to_string(), token.map(|token| format!("fencing-token: {token}\r\n")));
        let head = format!("host: gate\r\n{}content-length: {}", token.unwrap_or_default(), body.len());
        write!(self.0.get_mut(), "{method} {path} HTTP/1.1\r\n{head}\r\n\r\n{body}").expect("sent");
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        while self.0.read_line(&mut line).expect("an answer") > 2 {
            if status == 0 {
                status = line.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a status");
            }
            if let Some(number) = line.strip_prefix("content-length: ") {
                length = number.trim().parse().expect("a length");
            }
            line.clear();
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("the body");
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn write(&mut self, token: u64, sql: &str) -> u16 {
        let body = json!({ "requests": [{ "type": "execute", "stmt": { "sql": sql } }, { "type": "close" }] });
        self.post("/v3/pipeline", Some(token), &body).0
    }
}

/// Elections, as a leader and its successor see them.
trait Elections {
    /// Somebody leads from now on; its token.
    fn first(&mut self) -> u64;

    /// Lets somebody else wait, and then has the leader give way: when it did, when the other was told, and its token.
    fn hand_over(&mut self) -> (Instant, Instant, u64);
}

/// Those of the gate itself.
struct Embedded {
    addr: String,
    leader: Value,
}

impl Embedded {
    fn ask(&self, action: &str, body: &Value) -> Value {
        Client::connect(&self.addr).post(&format!("/-/elections/app/{action}"), None, body).1
    }

    fn get(&self) -> Value {
        Client::connect(&self.addr).send("GET", "/-/elections/app", None, &Value::Null).1
    }
}

fn token(stands: &Value) -> u64 {
    stands["token"].as_str().and_then(|token| token.parse().ok()).expect("it leads")
}

impl Elections for Embedded {
    fn first(&mut self) -> u64 {
        self.leader = self.ask("campaign", &json!({ "ttl_ms": 600_000 }));
        token(&self.leader)
    }

    fn hand_over(&mut self) -> (Instant, Instant, u64) {
        let addr = self.addr.clone();
        let waiting = std::thread::spawn(move || {
            let wait = json!({ "ttl_ms": 600_000, "wait_ms": 60_000 });
            let stands = Client::connect(&addr).post("/-/elections/app/campaign", None, &wait).1;
            (Instant::now(), stands)
        });
        while self.get()["candidates"] != 1 {}
        let given_up = Instant::now();
        self.ask("resign", &json!({ "candidate": self.leader["candidate"] }));
        let (told, stands) = waiting.join().expect("no panic");
        self.leader = stands;
        (given_up, told, token(&self.leader))
    }
}

/// Those of etcd.
struct ByEtcd {
    runtime: tokio::runtime::Runtime,
    etcd: Etcd,
    leader: Option<EtcdLeadership>,
}

async fn campaign(etcd: Etcd) -> (Instant, EtcdLeadership) {
    let bid = Bid { holder: None, ttl: Duration::from_secs(600) };
    let leadership = etcd.campaign(&"app".parse().expect("a name"), &bid).await.expect("it leads");
    (Instant::now(), leadership)
}

impl Elections for ByEtcd {
    fn first(&mut self) -> u64 {
        let (_, leader) = self.runtime.block_on(campaign(self.etcd.clone()));
        let token = leader.token().get();
        self.leader = Some(leader);
        token
    }

    fn hand_over(&mut self) -> (Instant, Instant, u64) {
        let waiting = self.runtime.spawn(campaign(self.etcd.clone()));
        let leader = self.leader.take().expect("somebody leads");
        let etcd = self.etcd.clone();
        let story = async move {
            while etcd.view(&"app".parse().expect("a name")).await.expect("an answer").waiting_count == 0 {}
            let given_up = Instant::now();
            leader.resign().await.expect("it resigns");
            let (told, leader) = waiting.await.expect("no panic");
            (given_up, told, leader)
        };
        let (given_up, told, leader) = self.runtime.block_on(story);
        let token = leader.token().get();
        self.leader = Some(leader);
        (given_up, told, token)
    }
}

/// Milliseconds from one moment to another, which may be before it.
fn ms(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64() * 1e3 - from.saturating_duration_since(to).as_secs_f64() * 1e3
}

fn measure(what: &str, addr: &str, elections: &mut dyn Elections, rounds: usize) {
    let mut leads = elections.first();
    assert_eq!(Client::connect(addr).write(leads, "CREATE TABLE IF NOT EXISTS t (v)"), 200);
    let (mut from_giving_up, mut from_being_told) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (addr, old) = (addr.to_owned(), leads);
        let (started, writes) = mpsc::channel();
        let deposed = std::thread::spawn(move || {
            let mut client = Client::connect(&addr);
            loop {
                match client.write(old, "INSERT INTO t VALUES (1)") {
                    200 => drop(started.send(())),
                    412 => return Instant::now(),
                    status => panic!("status {status}"),
                }
            }
        });
        writes.recv().expect("the leader writes");
        let (given_up, told, next) = elections.hand_over();
        let refused = deposed.join().expect("no panic");
        from_giving_up.push(ms(given_up, refused));
        from_being_told.push(ms(told, refused));
        leads = next;
    }
    for (from, values) in [("giving way", &mut from_giving_up), ("the successor being told", &mut from_being_told)] {
        values.sort_by(f64::total_cmp);
        let at = |share: usize| values[(values.len() * share / 100).min(values.len() - 1)];
        let (median, most) = (at(50), at(99));
        println!("{what}: from {from} to the first refusal of the old leader: median {median:.2} ms, p99 {most:.2} ms");
    }
}

/// An etcd of its own with its data in `dir`; `None` where there is none.
fn etcd(dir: &Path) -> Option<(Killed, String)> {
    let quick = ["--log-level=error", "--logger=zap", "--heartbeat-interval=50", "--election-timeout=500"];
    let (child, client) = common::etcd(&dir.join("etcd"), &quick)?;
    let child = Killed(child);
    assert!(common::comes_to(common::STARTS_WITHIN, || TcpStream::connect(client).is_ok()), "etcd doesn't listen");
    Some((child, format!("etcd://{client}/bench")))
}

fn main() {
    let rounds = option("--rounds", 200);
    let dir = tempfile::tempdir().expect("a directory");
    let (_gate, addr) = gate(dir.path(), "embedded");
    let mut elections = Embedded { addr: addr.clone(), leader: Value::Null };
    measure("embedded", &addr, &mut elections, rounds);
    let dir = tempfile::tempdir().expect("a directory");
    let Some((_etcd, address)) = etcd(dir.path()) else {
        return println!("etcd is not installed (scripts/ensure etcd)");
    };
    let (_gate, addr) = gate(dir.path(), &address);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let etcd = Etcd::open(&Options::parse(&address).expect("an address")).expect("it opens");
    measure("etcd", &addr, &mut ByEtcd { runtime, etcd, leader: None }, rounds);
}
