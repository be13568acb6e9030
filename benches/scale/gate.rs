//! The gate that is measured, a process of its own; the service behind it; and what is sent.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fencegate::cli::bench::clock::CpuClock;
use fencegate::cli::bench::load::{Expect, Load, Pace, Scattered, Work};
use fencegate::cli::bench::stop::Stop;
use fencegate::cli::bench::target::{Body, Target};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{comes_to, listening};

#[path = "../common/hello.rs"]
mod hello;

pub use hello::service;

/// For so long nothing counts, each time.
const WARM_UP: Duration = Duration::from_millis(200);
/// What the gate calls the thread that writes to a database.
const WRITER: &str = "fg-writer";
/// How long a gate may take to end by itself.
const END_TIME: Duration = Duration::from_secs(60);

/// A running gate; stopped when dropped.
pub struct Gate {
    child: Child,
    pub addr: SocketAddr,
    /// From its start to its word that it listens.
    pub ready: Duration,
}

impl Gate {
    /// With its data in `dir`.
    pub fn start(dir: &Path, args: &[&str]) -> Gate {
        let started = Instant::now();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fencegate"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "error", "--data-dir"])
            .arg(dir)
            .args(args);
        let (child, addr) = listening(&mut command);
        Gate { child, addr, ready: started.elapsed() }
    }

    /// Before a database with one table, `t (id, v)`.
    pub fn sqlite(dir: &Path) -> Gate {
        let (file, config) = (dir.join("scale.db"), dir.join("scale.toml"));
        // Ten thousand that wait for the writer at once would be turned away otherwise.
        let text = format!(
            "[limits]\nqueue_requests = 16384\nqueue_bytes = \"1GiB\"\n\n\
             [[resource]]\nname = \"app\"\npath = \"/\"\nkind = \"sqlite\"\nfence = \"app\"\nfile = {file:?}\n"
        );
        std::fs::write(&config, text).expect("a file");
        let gate = Gate::start(&dir.join("data"), &["--config", &config.to_string_lossy()]);
        gate.once(&Target::own(gate.addr, &[]).request(
            "POST",
            PIPELINE,
            Some(7),
            &Body::sql("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, v TEXT)", 0),
        ));
        gate
    }

    /// Before a service, with a fence for each first segment of a path.
    pub fn http(dir: &Path, upstream: SocketAddr) -> Gate {
        Gate::start(dir, &["--fence", "{1}", "--upstream", &format!("http://{upstream}")])
    }

    /// Bytes of memory that it has: its own pages, not those of files that it has mapped.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("this is Linux");
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
    }

    /// Processor time of the thread that writes to the database.
    fn writer_time(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let ns = |task: std::fs::DirEntry| {
            let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let is_it = read("comm").trim_end() == WRITER;
            read("schedstat").split_whitespace().next().filter(|_| is_it).and_then(|ns| ns.parse::<u64>().ok())
        };
        Duration::from_nanos(tasks.filter_map(ns).sum())
    }

    /// One request that is answered with success.
    pub fn once(&self, request: &[u8]) {
        let answer =
            fencegate::cli::bench::load::once::once(self.addr, request, Duration::from_secs(60)).expect("answered");
        let is_done = (200..300).contains(&answer.status) && !Expect::Sql.is_spoilt(&answer.body);
        assert!(is_done, "{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }

    /// Loads it, and says what that took: processor time each, how many a second, 99% are below, in microseconds, seconds, milliseconds.
    pub fn load(&self, work: Work, connections: usize, time: Duration) -> Result<Point, String> {
        let load = Load {
            addr: self.addr,
            work,
            expect: Expect::Sql,
            connections,
            threads: 1,
            pace: Pace::Closed,
            warm_up: WARM_UP,
            duration: time,
            answer_time: Duration::from_secs(60),
        };
        let (before, accepted) = (self.writer_time(), hello::ACCEPTED.load(Ordering::Relaxed));
        let sample = load.run(&Stop::default(), CpuClock::of(self.child.id())).map_err(|error| error.to_string())?;
        // Of the warm-up, too, in which as many are written.
        let writes = sample.per_second * (WARM_UP + time).as_secs_f64();
        let writer_us = self.writer_time().saturating_sub(before).as_secs_f64() * 1e6 / writes;
        let dials = (hello::ACCEPTED.load(Ordering::Relaxed) - accepted) as f64 / writes;
        if sample.unexpected + sample.broken > 0 || sample.answered() == 0 {
            return Err(format!("answers {:?}, and {} connections broke", sample.answers, sample.broken));
        }
        let p99_ms = sample.latency.value_at_quantile(0.99) as f64 / 1e6;
        let cpu_us = sample.gate_cpu_us().ok_or("the gate's clock can't be read")?;
        Ok(Point { cpu_us, per_second: sample.per_second, p99_ms, writer_us, dials })
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // In order: the next gate on these files isn't to find a crash.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        comes_to(END_TIME, || matches!(self.child.try_wait(), Ok(Some(_))));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one load has given.
#[derive(Clone, Copy)]
pub struct Point {
    pub cpu_us: f64,
    pub per_second: f64,
    pub p99_ms: f64,
    /// Of the processor time, that of the thread that writes to the database. There is one of those, however many processors there are.
    pub writer_us: f64,
    /// Connections to the service that were made for each write.
    pub dials: f64,
}

const PIPELINE: &str = "/v3/pipeline";

/// A statement with the leader's token; a `?` in it is a text of so many bytes.
pub fn statement(gate: &Gate, sql: &str, size: usize) -> Work {
    Work::Same(Target::own(gate.addr, &[]).request("POST", PIPELINE, Some(7), &Body::sql(sql, size)).into())
}

/// So many inserts in one request, as a batch.
pub fn batch(gate: &Gate, inserts: usize) -> Work {
    let step = r#"{"stmt":{"sql":"INSERT INTO t (v) VALUES (?)","args":[{"type":"text","value":"hello world"}]}}"#;
    let steps = vec![step; inserts].join(",");
    let bytes = format!(r#"{{"requests":[{{"type":"batch","batch":{{"steps":[{steps}]}}}},{{"type":"close"}}]}}"#);
    let body = Body { media_type: Some("application/json"), bytes: bytes.into_bytes() };
    Work::Same(Target::own(gate.addr, &[]).request("POST", PIPELINE, Some(7), &body).into())
}

/// Writes to so many fences at random, `tenant-0000000000000` and those that follow.
pub fn scattered(gate: &Gate, fences: u64) -> Work {
    let mark = "NUMBER";
    let path = format!("/tenant-{mark}/items");
    let request = Target::own(gate.addr, &[]).request("POST", &path, Some(7), &Body::text(128));
    let at = memchr::memmem::find(&request, mark.as_bytes()).expect("it is in the path");
    let around = (request[..at].to_vec(), request[at + mark.len()..].to_vec());
    Work::Scattered(Scattered { around, digits: 13, count: fences, state: 0x9e37_79b9_7f4a_7c15 })
}
