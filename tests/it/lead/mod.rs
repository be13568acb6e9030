//! `fencegate lead` as people and service managers run it: real processes, a real gate, and whoever elects.
//!
//! A command's whole family is found by a variable that all its processes inherit, whatever group, session or parent they have by
//! then.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::{Gate, PROGRAM, until, with_variable};

mod etcd;
mod family;
mod loss;
mod modes;
pub mod pty;
mod status;
mod terminal;

/// A gate before a database with the fence `app`, and a folder.
pub struct World {
    pub dir: tempfile::TempDir,
    pub gate: Gate,
}

impl World {
    pub fn new() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let gate = Gate::start(dir.path(), &["--sqlite", &text(&dir.path().join("app.db")), "--fence", "app"]);
        gate.client().sql(Some("1"), &["CREATE TABLE t (who TEXT)"]);
        World { dir, gate }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.gate.data)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The arguments before the `--`.
    pub fn args(&self, name: &str, more: &[&str]) -> Vec<String> {
        let events = text(&self.path(&format!("{name}.events")));
        let url = self.url();
        let mut args = vec!["lead"];
        let given = [("--election", "app"), ("--gate", &url), ("--holder", name), ("--events", &events)];
        args.extend(given.iter().filter(|(flag, _)| !more.contains(flag)).flat_map(|(flag, value)| [*flag, *value]));
        args.iter().chain(more).map(|arg| (*arg).to_owned()).collect()
    }

    /// `fencegate lead --election app … -- sh -c SCRIPT`. In the script, `$DIR` is the folder and `$ME` the name.
    pub fn lead(&self, name: &str, more: &[&str], script: &str) -> Lead {
        self.lead_command(name, more, &["sh", "-c", script])
    }

    pub fn lead_command(&self, name: &str, more: &[&str], command: &[&str]) -> Lead {
        let child = Command::new(PROGRAM)
            .args(self.args(name, more))
            .arg("--")
            .args(command)
            .env("DIR", self.dir.path())
            .env("ME", name)
            .env("FENCEGATE", PROGRAM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        Lead { child: Some(child), name: name.to_owned(), events: self.path(&format!("{name}.events")) }
    }

    /// Who has written, in order.
    pub fn rows(&self) -> Vec<String> {
        let answer = self.gate.client().sql(None, &["SELECT who FROM t ORDER BY rowid"]).json();
        let rows = answer["results"][0]["response"]["result"]["rows"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| row[0]["value"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until a script has written a whole line into this file; all of it.
    pub fn written(&self, name: &str) -> String {
        let path = self.path(name);
        let read = || std::fs::read_to_string(&path).unwrap_or_default();
        until(&format!("{name} is written"), || read().ends_with('\n'));
        read()
    }
}

/// A `fencegate lead` that runs. Killed when dropped, and its command with it.
pub struct Lead {
    child: Option<Child>,
    pub name: String,
    events: PathBuf,
}

/// What one that has ended left.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Lead {
    fn child(&self) -> &Child {
        self.child.as_ref().expect("it wasn't waited for yet")
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it can be signalled");
    }

    /// All that it told up to now.
    pub fn events(&self) -> Vec<Value> {
        events(&self.events)
    }

    /// Waits until it has told of this.
    pub fn told(&self, event: &str) -> Value {
        self.told_often(event, 1)
    }

    /// Waits until it has told of this so often; the last.
    pub fn told_often(&self, event: &str, times: usize) -> Value {
        let mut found = Vec::new();
        until(&format!("{}: {event}", self.name), || {
            found = self.events();
            found.retain(|line| line["event"] == event);
            found.len() >= times
        });
        found.swap_remove(times - 1)
    }

    /// The command's process number.
    pub fn command(&self) -> Pid {
        let pid = self.told("started")["pid"].as_i64().expect("a number");
        Pid::from_raw(i32::try_from(pid).expect("small")).expect("not zero")
    }

    /// The warden's.
    pub fn warden(&self) -> Pid {
        stat(self.command()).expect("the command is there").parent
    }

    /// Writes to the command's standard input.
    pub fn write(&mut self, text: &str) {
        let child = self.child.as_mut().expect("it wasn't waited for yet");
        child.stdin.as_mut().expect("piped").write_all(text.as_bytes()).expect("written");
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Said {
        let mut child = self.child.take().expect("once only");
        drop(child.stdin.take());
        let mut said = Said { status: None, out: String::new(), err: String::new() };
        let mut stderr = child.stderr.take().expect("piped");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("UTF-8");
            text
        });
        child.stdout.take().expect("piped").read_to_string(&mut said.out).expect("UTF-8");
        said.err = reader.join().expect("it doesn't panic");
        said.status = child.wait().expect("it can be waited for").code();
        said
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The whole lines of a file of events.
pub fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What `/proc` says of a process.
#[derive(Debug, Clone, Copy)]
pub struct Stat {
    pub state: char,
    pub parent: Pid,
    pub group: i32,
    pub session: i32,
}

/// `None` where the process is gone, or dead and only not yet waited for.
pub fn stat(pid: Pid) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let state = rest[0].chars().next()?;
    let number = |at: usize| rest[at].parse::<i32>().ok();
    let parent = Pid::from_raw(number(1)?)?;
    (!matches!(state, 'Z' | 'X')).then_some(Stat { state, parent, group: number(2)?, session: number(3)? })
}

pub fn is_stopped(pid: Pid) -> bool {
    stat(pid).is_some_and(|stat| stat.state == 'T')
}

/// All processes that have inherited this holder's name.
pub fn family(holder: &str) -> Vec<Pid> {
    with_variable(&format!("FENCING_HOLDER={holder}"))
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// A name that no other test has.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}
