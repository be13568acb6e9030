//! `fencegate demo` as people run it: what it shows is counted here once more, and nothing of it is left behind.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::process::{PROGRAM, until, with_variable};

mod late;
mod left;
mod partition;
mod shown;
mod skipped;
mod told;

/// A variable that all processes of one demonstration inherit, and nobody else has.
const MARK: &str = "DEMO_OF_TEST";

/// A demonstration that runs.
pub struct Demo {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
    mark: String,
    /// Where it works. Empty again when it has ended.
    tmp: tempfile::TempDir,
}

/// One that has ended.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

/// `fencegate demo` with these arguments, marked so that its processes can be found.
fn command(args: &[&str], tmp: &Path, mark: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("demo").args(args).env(MARK, mark).env("TMPDIR", tmp).stdin(Stdio::null());
    command
}

fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Demo {
    pub fn start(args: &[&str]) -> Demo {
        let (tmp, mark) = (tempfile::tempdir().expect("a directory"), mark());
        let mut child =
            command(args, tmp.path(), &mark).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let stdout = child.stdout.take().expect("piped");
        let lines = Box::new(BufReader::new(stdout).lines().map_while(Result::ok));
        Demo { child, lines, mark, tmp }
    }

    /// Runs one to its end.
    pub fn run(args: &[&str]) -> Said {
        let mut demo = Demo::start(args);
        let out: Vec<String> = demo.lines.by_ref().collect();
        let mut err = String::new();
        demo.child.stderr.take().expect("piped").read_to_string(&mut err).expect("UTF-8");
        let status = demo.child.wait().expect("it ends").code();
        demo.is_gone("it has ended");
        Said { status, out: out.join("\n"), err }
    }

    /// Reads JSON lines until one is like that.
    pub fn reads(&mut self, is: impl Fn(&Value) -> bool) -> Value {
        let mut read = Vec::new();
        for line in self.lines.by_ref() {
            let value = serde_json::from_str(&line).expect("JSON");
            if is(&value) {
                return value;
            }
            read.push(line);
        }
        panic!("it ended after {read:?}");
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it can be signalled");
    }

    /// Its processes, itself among them while it runs.
    pub fn processes(&self) -> Vec<Pid> {
        with_variable(&format!("{MARK}={}", self.mark))
    }

    /// Waits for its end; the exit status.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().expect("it can be waited for").code()
    }

    /// Waits until none of its processes is there any more, and no file of its.
    pub fn is_gone(&self, when: &str) {
        until(&format!("no process is left, {when}"), || self.processes().is_empty());
        let left = || std::fs::read_dir(self.tmp.path()).expect("it can be listed").count();
        until(&format!("no file is left, {when}"), || left() == 0);
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// JSON lines.
pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// The lines of this type.
pub fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}
