//! What the benchmarks share; none needs all of it.
#![allow(dead_code, reason = "each benchmark is a program of its own")]

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The number that stands behind this option on the command line.
pub fn option<T: FromStr>(name: &str, default: T) -> T {
    std::env::args().skip_while(|arg| arg != name).nth(1).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Waits until the condition holds, for so long at most; whether it does.
pub fn comes_to(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + within;
    while !condition() {
        if Instant::now() > until {
            return false;
        }
        pass(Duration::from_millis(1));
    }
    true
}

/// How long a server may take to be there.
pub const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// An address that was free a moment ago.
pub fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Starts a gate by this command; where it listens, once it does.
pub fn listening(command: &mut Command) -> (Child, SocketAddr) {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the gate starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it listens");
    let addr = line.split_whitespace().find_map(|word| word.strip_prefix("data=")).expect("an address");
    (child, addr.parse().expect("an address"))
}

/// One member of etcd as it comes, started; `None` where there is none.
pub fn etcd(data: &Path, more: &[&str]) -> Option<(Child, SocketAddr)> {
    let (addr, peer) = (free_addr(), format!("http://{}", free_addr()));
    let client = format!("http://{addr}");
    let child = Command::new("etcd")
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client, "--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer, "--initial-cluster", &format!("default={peer}"), "--data-dir"])
        .arg(data)
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    Some((child.ok()?, addr))
}

/// A process; killed when dropped.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process and all below it.
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        // Each thread has the children that it started.
        for thread in std::fs::read_dir(format!("/proc/{}/task", all[at])).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    all
}

/// A directory beside the build, not in /tmp, which may be memory.
pub fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Time passes: for what is to have begun, or to be over.
pub fn pass(time: Duration) {
    let (_nobody, told) = std::sync::mpsc::channel::<()>();
    let _ = told.recv_timeout(time);
}

/// The middle one.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The values that stand behind this option, separated by commas.
pub fn list(name: &str) -> Vec<String> {
    let text: String = option(name, String::new());
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// What one of a group has given, round by round, as `scripts/peers` reads it.
pub fn rounds_of(name: &str, rounds: impl IntoIterator<Item = Value>) -> Value {
    json!({ "name": name, "rounds": rounds.into_iter().collect::<Vec<_>>() })
}

/// Writes this to the file that `--json` names, if it does.
pub fn write_json(value: &Value) {
    let file: String = option("--json", String::new());
    if !file.is_empty() {
        std::fs::write(&file, format!("{value:#}\n")).expect("the file of --json can be written");
    }
}
