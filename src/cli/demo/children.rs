//! The processes of a run. They die with the demonstration, however that ends.
//!
//! **Invariant.** Every child is tied to this process before its program begins: the kernel sends it SIGKILL when this process is gone,
//! killed or not (`PR_SET_PDEATHSIG`, by `lead`'s `become`), and SIGKILL ends what is stopped, too. The tie is to the *thread* that
//! started it: children are started on the main thread only, which lives as long as the process. Grandchildren aren't tied; a child
//! that starts processes of its own ties them to itself in the same way, by [`command`].

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child as Process, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::mpsc;

use crate::cli::lead::warden::{r#become, tree};

/// A line that a child has printed, or its end.
#[derive(Debug)]
pub struct Said {
    /// Which child.
    pub lane: String,
    /// `None`: it will say nothing more.
    pub line: Option<String>,
}

/// A child that runs, or did. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: Process,
    is_over: bool,
}

/// A program that is tied to this process and has a process group of its own.
pub fn command(program: &OsStr, args: impl IntoIterator<Item = OsString>) -> Command {
    let words: Vec<OsString> = std::iter::once(program.to_owned()).chain(args).collect();
    let mut command = r#become::command(&words, None);
    // What a person has set for their own gate is not meant for these.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FENCEGATE_") || name.to_string_lossy().starts_with("FENCING_") {
            command.env_remove(name);
        }
    }
    command
}

impl Child {
    /// Starts it. What it prints goes to `said`, what it complains of into the file `log`.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(
        lane: &str,
        mut command: Command,
        log: &Path,
        said: mpsc::UnboundedSender<Said>,
    ) -> std::io::Result<Child> {
        let log = File::options().append(true).create(true).open(log)?;
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = process.stdout.take();
        let mut child = Child { process, is_over: false };
        let lane = lane.to_owned();
        let reader = move || {
            for line in stdout.into_iter().flat_map(|stdout| BufReader::new(stdout).lines()).map_while(Result::ok) {
                let _ = said.send(Said { lane: lane.clone(), line: Some(line) });
            }
            let _ = said.send(Said { lane, line: None });
        };
        if let Err(error) = std::thread::Builder::new().name("demo-reader".into()).spawn(reader) {
            child.kill();
            return Err(error);
        }
        Ok(child)
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Whether it still runs, or could if it were woken.
    pub fn is_running(&mut self) -> bool {
        if !self.is_over {
            self.is_over = !matches!(self.process.try_wait(), Ok(None));
        }
        !self.is_over
    }

    /// Sends it a signal, if it is there.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&mut self, signal: Signal) -> std::io::Result<()> {
        // Not yet waited for, so that its number is nobody else's.
        if self.is_running() { Ok(kill_process(self.pid(), signal)?) } else { Ok(()) }
    }

    /// Whether it stands still.
    pub fn is_stopped(&self) -> bool {
        !self.is_over && tree::Process::read(self.pid()).is_some_and(|process| process.is_stopped())
    }

    /// Kills it with all of its group, and waits for its end, which comes at once.
    pub fn kill(&mut self) {
        if self.is_running() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            // Its group is its own from the start, but a program can leave it.
            let _ = kill_process(self.pid(), Signal::KILL);
            let _ = self.process.wait();
            self.is_over = true;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}
