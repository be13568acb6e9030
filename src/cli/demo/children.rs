//! The processes of a run. They die with the demonstration, however that ends.
//!
//! **Invariant.** Every child is tied to this process before its program begins: the kernel sends it SIGKILL when this process is gone,
//! killed or not (`PR_SET_PDEATHSIG`, by `lead`'s `become`), and SIGKILL ends what is stopped, too. The tie is to the *thread* that
//! started it: children are started on the main thread only, which lives as long as the process. Grandchildren aren't tied; a child
//! that starts processes of its own ties them to itself in the same way, by [`tied::command`](crate::cli::tied::command).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child as Process, ChildStdout, Command, Stdio};

use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::cli::lead::warden::tree;

/// A child that runs, or did. Killed when dropped.
#[derive(Debug)]
pub struct Child {
    process: Process,
    stdout: Option<ChildStdout>,
    /// What it has printed of a line that isn't whole yet.
    begun: Vec<u8>,
    is_over: bool,
    /// It ended by itself, and not well.
    has_failed: bool,
}

impl Child {
    /// Starts it. What it complains of goes into the file `log`.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(mut command: Command, log: &Path) -> std::io::Result<Child> {
        let log = File::options().append(true).create(true).open(log)?;
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = process.stdout.take();
        let child = Child { process, stdout, begun: Vec::new(), is_over: false, has_failed: false };
        if let Some(stdout) = &child.stdout {
            // Of our end of the pipe only.
            ioctl_fionbio(stdout, true)?;
        }
        Ok(child)
    }

    /// The whole lines that it has printed since this was asked last. Of one that stands still, these are all that it has printed by
    /// then: nothing is on its way anywhere.
    pub fn lines(&mut self) -> Vec<String> {
        let mut part = [0; 16 * 1024];
        while let Some(stdout) = &mut self.stdout {
            match stdout.read(&mut part) {
                Ok(0) => self.stdout = None,
                Ok(len) => self.begun.extend_from_slice(&part[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.stdout = None,
            }
        }
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let lines: Vec<u8> = self.begun.drain(..whole).collect();
        String::from_utf8_lossy(&lines).lines().map(str::to_owned).collect()
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Whether it still runs, or could if it were woken.
    pub fn is_running(&mut self) -> bool {
        if !self.is_over {
            let ended = self.process.try_wait();
            self.is_over = !matches!(ended, Ok(None));
            self.has_failed = matches!(ended, Ok(Some(status)) if !status.success());
        }
        !self.is_over
    }

    /// Whether it has ended by itself with another status than 0.
    pub fn has_failed(&mut self) -> bool {
        !self.is_running() && self.has_failed
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
