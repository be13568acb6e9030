//! Things to write to that know nothing of tokens: one of ours that misbehaves as it is told, nginx with WebDAV, etcd's JSON gateway.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::process::{Client, Gate, until};

mod applied;
#[cfg_attr(not(feature = "etcd"), allow(dead_code, reason = "as a coordinator it is used with that feature only"))]
pub mod etcd;
pub mod hostile;
pub mod nginx;

/// A port that nobody else gets for as long as this lives, whether somebody listens on it or not: a socket is bound to it and
/// doesn't listen. Servers that ask for `SO_REUSEADDR`, as all do, can listen there, go away, and come back.
pub struct Port {
    pub addr: SocketAddr,
    _held: TcpSocket,
}

impl Port {
    pub fn reserve() -> Port {
        let held = TcpSocket::new_v4().expect("a socket");
        held.set_reuseaddr(true).expect("an option of sockets");
        held.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        Port { addr: held.local_addr().expect("bound"), _held: held }
    }
}

/// Lets time pass where passing time is what a test is about: a slow client, a pause, a stop in service.
pub fn pass_time(ms: u64) {
    let (_open, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(Duration::from_millis(ms));
}

/// Waits until somebody listens there.
pub fn until_listening(addr: SocketAddr) {
    until("somebody listens", || TcpStream::connect(addr).is_ok());
}

/// Whether this program is here. Where it isn't, says that the test is skipped: past the test harness, which keeps what a passing
/// test prints to itself.
pub fn has(test: &str, program: &str) -> bool {
    let path = if program == "nginx" { nginx::program() } else { program };
    let is_here = Command::new(path).arg(if program == "nginx" { "-v" } else { "--version" }).output().is_ok();
    if !is_here {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {program} is not installed (scripts/ensure {program})");
    }
    is_here
}

/// Writes a configuration with these resources, and starts a gate with it.
pub fn gate(dir: &Path, resources: &str) -> Gate {
    let file = dir.join("fencegate.toml");
    std::fs::write(&file, resources).expect("written");
    restart(dir)
}

/// Starts a gate with the configuration that [`gate`] wrote.
pub fn restart(dir: &Path) -> Gate {
    let file: PathBuf = dir.join("fencegate.toml");
    Gate::start(dir, &["--config", file.to_str().expect("UTF-8")])
}

#[test]
fn the_hostile_upstream_does_as_it_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut upstream = hostile::Hostile::start(dir.path());
    let write = |upstream: &hostile::Hostile, id: &str, script: &str| {
        let addr = upstream.url().trim_start_matches("http://").parse().expect("an address");
        let headers = [("hostile", script), ("write-id", id), ("fencing-token", "5"), ("fencing-fence", "a")];
        Client::connect(addr).expect("it listens").request("PUT", "/a/doc", &headers, b"hello")
    };
    assert_eq!(write(&upstream, "usual", "").expect("an answer").json()["bytes"], 5);
    assert_eq!(write(&upstream, "refused", "answer:403").expect("an answer").status, 403);
    assert_eq!(write(&upstream, "too late", "limit:0 read wait:5 apply answer").expect("an answer").status, 500);
    assert_eq!(write(&upstream, "halves", "read half apply rest").expect("an answer").body.len(), 2 * hostile::HALF);
    assert!(write(&upstream, "cut", "read cut").is_err());
    assert!(write(&upstream, "broken", "read half break").is_err());
    upstream.kill();
    upstream.restart();
    assert!(write(&upstream, "late", "read cut at:here apply").is_err());
    upstream.reached("here");
    upstream.open("here");
    let ids = || upstream.applied().into_iter().map(|applied| (applied.id, applied.is_late)).collect::<Vec<_>>();
    until("it is applied late", || ids() == [("usual".into(), false), ("halves".into(), false), ("late".into(), true)]);
}
