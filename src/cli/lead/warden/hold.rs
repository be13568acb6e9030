//! `lead`'s end of its warden.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};

use super::super::PROGRAM;
use super::WARDEN;
use super::tree::{self, Process};
use super::wire::{self, Order, Receiver, Report, Sender};

/// How long the warden may take to take an order. It does nothing that takes time.
const ORDER_TIME: Duration = Duration::from_secs(1);

/// A warden that runs. Dropped, it is told by the closed socket, and ends what it has started.
#[derive(Debug)]
pub struct Hold {
    warden: Child,
    orders: Sender,
    reports: Receiver,
    is_broken: bool,
    /// It has told that nothing is left.
    is_done: bool,
    /// What this process had below it before: the sidecar of a script that became `lead` by `exec`.
    strangers: HashSet<(Pid, u64)>,
}

impl Hold {
    /// Starts a warden that is ready to start the command.
    ///
    /// # Errors
    /// It can't be started.
    pub fn new(command: &[OsString], grace: Duration, stdin: &OwnedFd) -> std::io::Result<Hold> {
        // So that what a killed warden leaves behind comes to this process.
        set_child_subreaper(Some(getpid()))?;
        let strangers = tree::descendants(getpid()).iter().map(Process::key).collect();
        let (own, other) = UnixStream::pair()?;
        let warden = Command::new(PROGRAM)
            .arg0("fencegate-warden")
            .arg(WARDEN)
            .arg(grace.as_millis().to_string())
            .args(command)
            .stdin(OwnedFd::from(other))
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit())
            // In a group of its own: what is typed at the terminal, or sent to the job, is for `lead`.
            .process_group(0)
            .spawn()?;
        send_descriptor(&own, stdin)?;
        let (orders, reports) = wire::split(own)?;
        Ok(Hold { warden, orders, reports, is_broken: false, is_done: false, strangers })
    }

    /// Gives an order. A warden that doesn't take it is killed, and with it the command. One that has gone has told before what
    /// it had to tell: [`Hold::report`] has it.
    pub async fn order(&mut self, order: &Order) {
        if tokio::time::timeout(ORDER_TIME, self.orders.send(order)).await.is_err() {
            self.break_off();
        }
    }

    /// What it tells next; `None` once it is gone, however that came.
    pub async fn report(&mut self) -> Option<Report> {
        if self.is_broken {
            return None;
        }
        let report = self.reports.receive().await;
        self.is_broken = report.is_none();
        self.is_done |= report == Some(Report::Gone);
        report
    }

    /// Wakes it, if somebody has stopped it.
    pub fn wake(&self) {
        let _ = kill_process(Pid::from_child(&self.warden), Signal::CONT);
    }

    /// Kills it, and with it the command.
    pub fn break_off(&mut self) {
        self.is_broken = true;
        let _ = self.warden.kill();
    }

    /// Waits for the warden's end. If it was killed before nothing was left, what it had is this process's by now: kills that. The
    /// numbers of those that were killed.
    pub async fn finish(mut self) -> Vec<i32> {
        let mut killed = Vec::new();
        self.wake();
        if self.is_broken {
            // It has closed the socket, or was killed: it is about to end.
            let _ = self.warden.kill();
        }
        drop((self.orders, self.reports));
        while self.warden.try_wait().is_ok_and(|status| status.is_none()) {
            tokio::time::sleep(super::LOOK_AGAIN).await;
        }
        while !self.is_done {
            let left = tree::descendants_but(getpid(), &self.strangers);
            self.is_done = left.is_empty();
            for process in &left {
                let number = process.pid.as_raw_nonzero().get();
                if process.signal(Signal::KILL).is_ok() && !killed.contains(&number) {
                    killed.push(number);
                }
            }
            if !self.is_done {
                tokio::time::sleep(super::LOOK_AGAIN).await;
            }
        }
        killed
    }
}

fn send_descriptor(socket: &UnixStream, descriptor: &OwnedFd) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
