//! How it ends: by itself, and with all that it has started, whoever ends it.

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use super::service::{Manner, Service};
use super::{bench, command, left};
use crate::process::{is_ignored, until};

/// A run that goes on for longer than any test, and the gates that it has started.
struct Long {
    child: Child,
    gates: Vec<i32>,
}

impl Long {
    fn start(dir: &Path, more: &[&str]) -> Long {
        let child = command(dir, &[&["--duration", "5m", "--json"], more].concat()).spawn().expect("it starts");
        let mut long = Long { child, gates: Vec::new() };
        // All gates are there, and the first thing is being measured: its database is being written.
        until("it measures", || {
            let number = long.child.id();
            let children =
                std::fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap_or_default();
            long.gates = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
            let is_written = left(dir).iter().any(|name| dir.join(name).join("plain.db-wal").exists());
            if more.is_empty() { long.gates.len() == 2 && is_written } else { long.gates.len() == 3 }
        });
        long
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end: the exit status.
    fn end(mut self) -> Option<i32> {
        let status = self.child.wait().expect("it ends").code();
        until("the gates are gone", || self.gates.iter().all(|gate| !Path::new(&format!("/proc/{gate}")).exists()));
        status
    }
}

#[test]
fn told_to_stop_it_leaves_nothing() {
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        if is_ignored(signal) {
            // By whoever runs the tests, and so by what they start.
            continue;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let long = Long::start(dir.path(), &[]);
        assert_eq!(left(dir.path()).len(), 1);
        long.signal(signal);
        assert_eq!(long.end(), Some(status));
        assert_eq!(left(dir.path()), Vec::<String>::new());
    }
}

#[test]
fn told_to_stop_in_the_middle_of_a_load_it_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let service = Service::start(Manner::Kind);
    let long = Long::start(dir.path(), &["--upstream", &service.url()]);
    let before = service.seen().count;
    until("it measures", || service.seen().count > before + 100);
    long.signal(Signal::TERM);
    assert_eq!(long.end(), Some(143));
    assert_eq!(left(dir.path()), Vec::<String>::new());
}

#[test]
fn killed_its_gates_die_with_it_and_the_next_run_removes_its_folder() {
    let dir = tempfile::tempdir().expect("a directory");
    let long = Long::start(dir.path(), &[]);
    long.signal(Signal::KILL);
    assert_eq!(long.end(), None);
    let folders = left(dir.path());
    assert_eq!(folders.len(), 1, "nobody was left to remove it");
    let folder: PathBuf = dir.path().join(&folders[0]);
    // A young one is left alone, since somebody may just be making it.
    let at = SystemTime::now() - Duration::from_secs(120);
    File::open(&folder).and_then(|open| open.set_times(FileTimes::new().set_modified(at))).expect("its owner may");
    assert_eq!(bench(dir.path(), &["--rounds", "1"]).status, 0);
    assert!(!folder.exists());
}

#[test]
fn a_service_that_hangs_ends_it() {
    for from in [1, 2, 3, 500] {
        let dir = tempfile::tempdir().expect("a directory");
        let service = Service::start(Manner::HangsFrom(from));
        let started = Instant::now();
        let said = bench(dir.path(), &["--upstream", &service.url(), "--answer-time", "500ms", "--duration", "10s"]);
        assert_eq!(said.status, 1, "from {from}: {}", said.err);
        assert!(
            said.err.contains("there was no answer for 500ms") || said.err.contains("status 504"),
            "from {from}: {}",
            said.err
        );
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
