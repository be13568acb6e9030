//! How long nobody leads, over etcd. From `kill -9` of everything of the leader to its successor's first accepted write, beside what
//! was left of the lease, interleaved with `etcdctl lock` (the same recipe as `etcdctl elect`, whose lease can't be chosen) doing the
//! same. From the crash of a worker whose `lead` survives, and from a planned hand-over, to the same.
//!
//! `make bench-failover`, or `cargo bench --bench failover` with etcd and etcdctl at hand (`-- --trials 18 --without etcdctl,planned --json FILE`):
//! some ten seconds a trial
#![allow(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use common::{Killed, dir, family, list, listening, option, pass, rounds_of, write_json};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

mod common;

const PROGRAM: &str = env!("CARGO_BIN_EXE_fencegate");
/// The lease, in seconds: the shortest that etcd grants by its defaults.
const TTL_S: u64 = 2;
/// Writes once, says that it was accepted, and goes on.
const WORKER: &str = "$FENCEGATE sql --path $AT \"INSERT INTO t VALUES ('$ME')\" >/dev/null && echo wrote >$DIR/$ME.wrote; exec sleep 1000";

struct World {
    dir: tempfile::TempDir,
    etcd: SocketAddr,
    gate: SocketAddr,
    _servers: Vec<Killed>,
}

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "not in time: {what}");
        pass(Duration::from_micros(200));
    }
}

impl World {
    fn new() -> World {
        let dir = dir();
        let quiet = ["--log-level", "error", "--logger", "zap"];
        let (server, etcd) = common::etcd(&dir.path().join("etcd"), &quiet).expect("etcd starts");
        let server = Killed(server);
        until("etcd answers", || {
            let ctl = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &etcd.to_string(), "get", "x"])
                .output();
            ctl.is_ok_and(|ctl| ctl.status.success()).then_some(())
        });
        let config = dir.path().join("fencegate.toml");
        let resource = |name: &str| {
            format!("[[resource]]\nname = \"{name}\"\npath = \"/{name}\"\nkind = \"sqlite\"\nfile = \"{name}.db\"\n")
        };
        std::fs::write(&config, resource("app") + &resource("other")).expect("written");
        let mut command = Command::new(PROGRAM);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "warn", "--config"])
            .arg(&config)
            .arg("--data-dir")
            .arg(dir.path().join("data"));
        let (gate, address) = listening(&mut command);
        let gate = Killed(gate);
        until("the gate answers", || TcpStream::connect(address).ok());
        for at in ["/app", "/other"] {
            let made = Command::new(PROGRAM)
                .args([
                    "sql",
                    "--token",
                    "1",
                    "--path",
                    at,
                    "--gate",
                    &format!("http://{address}"),
                    "CREATE TABLE t (who TEXT)",
                ])
                .output();
            assert!(made.is_ok_and(|made| made.status.success()), "the table is made");
        }
        World { dir, etcd, gate: address, _servers: vec![server, gate] }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn prepared(&self, mut command: Command, name: &str, at: &str) -> Killed {
        command.env("AT", at).env("DIR", self.dir.path()).env("ME", name).env("FENCEGATE", PROGRAM);
        command.env("FENCEGATE_URL", format!("http://{}", self.gate));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Killed(command.spawn().expect("it starts"))
    }

    fn lead(&self, name: &str, ttl: &str) -> Killed {
        let mut command = Command::new(PROGRAM);
        command.args([
            "lead",
            "--election",
            "app",
            "--ttl",
            ttl,
            "--holder",
            name,
            "--coordinator",
            &format!("etcd://{}", self.etcd),
        ]);
        command.arg("--events").arg(self.path(&format!("{name}.events"))).args(["--", "sh", "-c", WORKER]);
        self.prepared(command, name, "/app")
    }

    /// On a fence of its own, with tokens of the benchmark's own: what etcdctl gives its command, the header's revision, is none.
    fn etcdctl(&self, name: &str, lock: &str) -> Killed {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args([
            "--endpoints",
            &self.etcd.to_string(),
            "lock",
            "--ttl",
            &TTL_S.to_string(),
            "--",
            lock,
        ]);
        command.args(["sh", "-c", &WORKER.replace("sql ", "sql --token $TOKEN ")]).env("TOKEN", next_token());
        self.prepared(command, name, "/other")
    }

    fn wrote(&self, name: &str) {
        let path = self.path(&format!("{name}.wrote"));
        until(&format!("{name} wrote"), || std::fs::read(&path).ok().filter(|text| text.ends_with(b"\n")));
    }

    /// Until how many candidates stand below this key.
    fn standing(&self, prefix: &str, count: usize) {
        until("they stand", || {
            let ctl = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &self.etcd.to_string(), "get", "--prefix", prefix, "--keys-only"])
                .output()
                .expect("etcdctl runs");
            let keys = String::from_utf8_lossy(&ctl.stdout).lines().filter(|line| !line.is_empty()).count();
            (keys == count).then_some(())
        });
    }
}

/// Each higher than the one before.
fn next_token() -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    since.as_millis().to_string()
}

fn kill_all(killed: &Killed) {
    let all = family(killed.0.id());
    // Stopped first, so that nobody has time for anything.
    for signal in [Signal::STOP, Signal::KILL] {
        for pid in &all {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
    }
}

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// How long the lease would have lasted at this moment, by the last renewal that was told: it is counted on for 98% of its length. A
/// renewal is told a little after it is done, and done every third of a lease: the last may have gone untold.
fn left_at(events: &[Value], killed: SystemTime) -> f64 {
    let last = events.iter().rfind(|event| event["event"] == "renewed").expect("it was renewed");
    let told = last["time"].as_str().and_then(|time| humantime::parse_rfc3339(time).ok()).expect("a time");
    let mut left = last["left_ms"].as_f64().expect("a number") / 1000.0 + TTL_S as f64 * 0.02;
    left -= killed.duration_since(told).map_or(0.0, seconds);
    let third = TTL_S as f64 / 3.0;
    while left < 2.0 * third {
        left += third;
    }
    left
}

/// Lets a part of the time between two renewals pass, another one in each trial.
fn wander(trial: usize) {
    pass(Duration::from_millis(1000 + (trial as u64 * 271) % 667));
}

fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process");
    kill_process(pid, signal).expect("it runs");
}

/// Kills all of the leader. Seconds to the successor's first write, and those over what was left of the lease.
fn ours_killed(world: &World, trial: usize) -> (f64, f64) {
    let names = [format!("a{trial}"), format!("b{trial}")];
    let first = world.lead(&names[0], &format!("{TTL_S}s"));
    world.wrote(&names[0]);
    let second = world.lead(&names[1], &format!("{TTL_S}s"));
    world.standing("app/", 2);
    wander(trial);
    let (killed, at) = (SystemTime::now(), Instant::now());
    kill_all(&first);
    world.wrote(&names[1]);
    let taken = seconds(at.elapsed());
    let left = left_at(&events(&world.path(&format!("{}.events", names[0]))), killed);
    // It gives way by itself, so that the next trial needn't wait for a lease's end.
    send(second.0.id(), Signal::TERM);
    world.standing("app/", 0);
    (taken, taken - left)
}

fn theirs_killed(world: &World, trial: usize) -> f64 {
    let names = [format!("c{trial}"), format!("d{trial}")];
    let first = world.etcdctl(&names[0], "lock");
    world.wrote(&names[0]);
    let second = world.etcdctl(&names[1], "lock");
    world.standing("lock/", 2);
    wander(trial);
    let at = Instant::now();
    kill_all(&first);
    world.wrote(&names[1]);
    let taken = seconds(at.elapsed());
    // Where its command has ended, it unlocks.
    family(second.0.id()).into_iter().skip(1).for_each(|pid| send(pid, Signal::KILL));
    world.standing("lock/", 0);
    taken
}

/// The worker ends, by this signal, and its `lead` sees to the rest.
fn handed_over(world: &World, name: &str, trial: usize, signal: Signal) -> f64 {
    let names = [format!("{name}a{trial}"), format!("{name}b{trial}")];
    let first = world.lead(&names[0], "60s");
    world.wrote(&names[0]);
    let second = world.lead(&names[1], "60s");
    world.standing("app/", 2);
    wander(trial);
    let started = events(&world.path(&format!("{}.events", names[0])));
    let started = started.iter().find(|event| event["event"] == "started").expect("it was started");
    // A planned hand-over is asked of `lead`; a crash happens to the worker.
    let pid = match signal {
        Signal::KILL => started["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process"),
        _ => first.0.id(),
    };
    let at = Instant::now();
    send(pid, signal);
    world.wrote(&names[1]);
    let taken = seconds(at.elapsed());
    send(second.0.id(), Signal::TERM);
    world.standing("app/", 0);
    taken
}

fn tell(what: &str, values: &[f64], unit: f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(max) = sorted.last() else { return };
    let (min, median) = (sorted[0], sorted[sorted.len() / 2]);
    println!("{what:68} {:8.2} {:8.2} {:8.2}", min * unit, median * unit, max * unit);
}

/// Writes it down, in milliseconds.
fn write_down(trials: usize, killed: &[(f64, f64)], others: [(&str, &[f64]); 3]) {
    let ours = killed
        .iter()
        .map(|(taken, over)| json!({ "until_written_ms": taken * 1000.0, "over_lease_ms": over * 1000.0 }));
    let mut servers = vec![rounds_of("lead, all of it killed", ours)];
    for (name, values) in others.into_iter().filter(|(_, values)| !values.is_empty()) {
        servers.push(rounds_of(name, values.iter().map(|taken| json!({ "until_written_ms": taken * 1000.0 }))));
    }
    let groups = [json!({ "name": format!("failover over etcd, a lease of {TTL_S} s"), "servers": servers })];
    write_json(&json!({ "options": { "trials": trials }, "groups": groups, "missing": [] }));
}

fn main() {
    if ["etcd", "etcdctl"].iter().any(|tool| Command::new(tool).arg("--version").output().is_err()) {
        println!("failover: needs etcd and etcdctl; `make bench-failover` gets them");
        write_json(&json!({ "groups": [], "missing": ["etcd"] }));
        return;
    }
    let trials: usize = option("--trials", 18);
    let without = list("--without");
    let wanted = |name: &str| !without.iter().any(|other| other == name);
    let world = World::new();
    let (mut ours, mut theirs, mut crashed, mut planned) = (vec![], vec![], vec![], vec![]);
    for trial in 0..trials {
        ours.push(ours_killed(&world, trial));
        crashed.push(handed_over(&world, "crash", trial, Signal::KILL));
        if wanted("planned") {
            planned.push(handed_over(&world, "plan", trial, Signal::TERM));
        }
        if wanted("etcdctl") {
            theirs.push(theirs_killed(&world, trial));
        }
    }
    println!(
        "\nto the successor's first accepted write, {trials} trials{:25} {:>8} {:>8} {:>8}",
        "", "min", "median", "max"
    );
    let (taken, over): (Vec<f64>, Vec<f64>) = ours.iter().copied().unzip();
    tell(&format!("kill -9 of all of the leader, lease of {TTL_S} s: lead, s"), &taken, 1.0);
    tell("  over what was left of the lease, s", &over, 1.0);
    tell(&format!("  the same with etcdctl lock --ttl {TTL_S}, s"), &theirs, 1.0);
    tell("crash of the worker, lead survives, ms", &crashed, 1000.0);
    tell("planned hand-over (SIGTERM to lead), ms", &planned, 1000.0);
    let others = [
        ("lead survives, its worker is killed", &crashed[..]),
        ("lead, a planned hand-over", &planned),
        ("etcdctl lock, all of it killed", &theirs),
    ];
    write_down(trials, &ours, others);
}
