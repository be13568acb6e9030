//! The warden: a process of its own between `lead` and the command, which sees to it that nothing of the command outlives the
//! leadership.
//!
//! - `wire.rs`: what it and `lead` tell each other
//! - `tree.rs`: the processes below it
//! - `become.rs`: the program that becomes the command
//! - `hold.rs`: `lead`'s end of it
//!
//! Why a process: whoever kills `lead` with SIGKILL, or stops it, must not leave the command running. The warden notices the first
//! by the closed socket, and the second by the lease, which it counts itself. It adopts what the command's processes leave behind
//! (`PR_SET_CHILD_SUBREAPER`), so that all stay below it, in whatever session. Whoever kills the warden kills the command with it
//! (`PR_SET_PDEATHSIG`), and `lead` adopts the rest. Only both killed at one moment can leave something behind.
//!
//! **Invariant.** The warden says [`Report::Gone`] only where it has no child at all, dead or alive, which for an adopter means that
//! nothing is left below it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process_group, set_child_subreaper, wait as wait_for_any,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{signals, terminal};
use crate::client::clock::{BootClock, Clock};
use tree::Process;
use wire::{Order, Report, Status, Why};

pub mod r#become;
pub mod hold;
pub mod tree;
pub mod wire;

/// The first argument of the program that is the warden.
pub const WARDEN: &str = "__warden";
/// While processes are being killed, how often it looks for those that were started meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// At a terminal, how often it looks whether Ctrl-Z has stopped a part of the command only.
const LOOK_HALF_STOPPED: Duration = Duration::from_millis(200);
/// How often it tells of processes that don't go although they were sent SIGKILL.
const STUCK_TOLD: Duration = Duration::from_secs(5);
/// How often it looks for processes that were started while it stopped the others.
const SUSPEND_ROUNDS_MAX: usize = 100;

/// Runs the warden: the arguments are the time of grace in milliseconds, and the command.
pub fn run(mut args: impl Iterator<Item = OsString>) -> u8 {
    let grace = args.next().and_then(|text| text.to_str()?.parse().ok()).map(Duration::from_millis);
    let Some(grace) = grace else { return super::super::EXIT_USAGE };
    let command: Vec<OsString> = args.collect();
    match serve(command, grace) {
        Ok(()) => 0,
        // Its standard error is the command's, but `lead` will only see that it is gone.
        Err(error) => {
            let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("fencegate: warden: {error}\n"));
            1
        }
    }
}

fn serve(command: Vec<OsString>, grace: Duration) -> std::io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let _ = rustix::thread::set_name(c"fencegate-warden");
    // Its standard input is the socket; the command's comes through it.
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let stdin = receive_descriptor(&socket)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (mut sender, mut receiver) = wire::split(socket)?;
        let (reports, mut outgoing) = mpsc::unbounded_channel::<Report>();
        // Reports go out beside the work: a `lead` that is stopped, and doesn't read them, must not keep the warden from it.
        let telling = tokio::spawn(async move {
            while let Some(report) = outgoing.recv().await {
                if sender.send(&report).await.is_err() {
                    break;
                }
            }
        });
        let (orders_in, orders) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(order) = receiver.receive().await {
                if orders_in.send(order).await.is_err() {
                    break;
                }
            }
        });
        let deadline = Deadline::new()?;
        let mut warden = Warden {
            command,
            grace,
            stdin: Some(stdin),
            reports,
            main: None,
            phase: Phase::Ready,
            until: Duration::ZERO,
            suspended: false,
            stopped: Vec::new(),
            has_terminal: std::fs::File::open(terminal::CONTROLLING).is_ok(),
            is_half_stopped: false,
            deadline,
        };
        warden.run(orders).await?;
        drop(warden);
        // What is told last is told, unless nobody listens.
        let _ = tokio::time::timeout(Duration::from_secs(1), telling).await;
        Ok(())
    })
}

/// Where the warden stands.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Nothing was started yet.
    Ready,
    Running,
    /// SIGTERM was sent; SIGKILL follows.
    Terminating {
        until: Instant,
    },
    /// SIGKILL was sent.
    Killing {
        tell: Instant,
    },
}

struct Warden {
    command: Vec<OsString>,
    grace: Duration,
    stdin: Option<OwnedFd>,
    reports: mpsc::UnboundedSender<Report>,
    /// The command itself, until it is reaped. As long as it isn't, its process group's number is nobody else's.
    main: Option<Pid>,
    phase: Phase,
    /// Until when `lead` is known to lead.
    until: Duration,
    /// Everything is stopped because `lead` was asked to stop. What is stopped needn't be ended with the lease: it does nothing.
    suspended: bool,
    /// What was stopped for that reason, one by one.
    stopped: Vec<Process>,
    /// Whether there is a terminal at which Ctrl-Z can be typed.
    has_terminal: bool,
    is_half_stopped: bool,
    deadline: Deadline,
}

impl Warden {
    async fn run(&mut self, mut orders: mpsc::Receiver<Order>) -> std::io::Result<()> {
        let mut children = signal(SignalKind::child())?;
        // Whoever ends a whole service sends SIGTERM to each of its processes. `lead` decides what that means here.
        // One that is ignored already is the command's to ignore, too.
        let ending = signals::ending();
        let _caught: Vec<_> = ending.iter().map(|kind| signal(SignalKind::from_raw(kind.as_raw()))).collect();
        let mut is_orphaned = false;
        loop {
            let nothing_left = self.reap();
            match self.phase {
                Phase::Ready if is_orphaned => return Ok(()),
                Phase::Ready => {}
                _ if nothing_left => {
                    self.tell(Report::Gone);
                    return Ok(());
                }
                Phase::Running if self.main.is_none() => self.end(Why::LeftBehind),
                Phase::Running if is_orphaned => self.end(Why::Orphaned),
                Phase::Running if !self.suspended && BootClock.now() >= self.until => self.end(Why::Lease),
                Phase::Terminating { until } if Instant::now() >= until => {
                    self.kill();
                    self.phase = Phase::Killing { tell: Instant::now() + STUCK_TOLD };
                }
                Phase::Killing { tell } => self.kill_again(tell),
                Phase::Running | Phase::Terminating { .. } => {}
            }
            let wake = match self.phase {
                Phase::Terminating { until } => Some(until),
                Phase::Killing { .. } => Some(Instant::now() + LOOK_AGAIN),
                Phase::Running if self.has_terminal => {
                    self.look_half_stopped();
                    Some(Instant::now() + LOOK_HALF_STOPPED)
                }
                Phase::Ready | Phase::Running => None,
            };
            tokio::select! {
                order = orders.recv(), if !is_orphaned => match order {
                    Some(order) => self.obey(order),
                    None => is_orphaned = true,
                },
                _ = children.recv() => {}
                () = self.deadline.passed(), if self.phase == Phase::Running => {}
                () = at(wake) => {}
            }
        }
    }

    fn tell(&self, report: Report) {
        let _ = self.reports.send(report);
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start { env, terminal_of, until } if self.phase == Phase::Ready => {
                self.know(until);
                self.start(env, terminal_of);
            }
            Order::Alive { until } => self.know(until),
            Order::Signal(number) => {
                if let (Some(main), Some(signal)) = (self.main, Signal::from_named_raw(number)) {
                    let _ = kill_process_group(main, signal);
                }
            }
            Order::Suspend if self.phase == Phase::Running => self.suspend(),
            Order::Resume if self.phase == Phase::Running => self.resume(),
            Order::End if self.phase == Phase::Running => self.end(Why::Told),
            Order::Start { .. } | Order::Suspend | Order::Resume | Order::End => {}
        }
    }

    fn know(&mut self, until: Duration) {
        self.until = until;
        self.deadline.set(until);
    }

    fn start(&mut self, env: Vec<(String, Option<String>)>, terminal_of: Option<i32>) {
        self.phase = Phase::Running;
        let mut program = r#become::command(&self.command, terminal_of);
        for (name, value) in env {
            match value {
                Some(value) => program.env(name, value),
                None => program.env_remove(name),
            };
        }
        program.stdin(self.stdin.take().map_or_else(Stdio::null, Stdio::from));
        // On the main thread, which lives as long as the process: the command is told of the end of the thread that started it.
        match program.spawn() {
            Ok(child) => {
                let pid = Pid::from_child(&child);
                self.main = Some(pid);
                self.tell(Report::Started(pid.as_raw_nonzero().get()));
            }
            Err(error) => self.tell(Report::Failed(error.to_string())),
        }
    }

    /// Takes in all that happened to children. Whether there are none.
    fn reap(&mut self) -> bool {
        loop {
            match wait_for_any(WaitOptions::NOHANG | WaitOptions::UNTRACED | WaitOptions::CONTINUED) {
                Ok(Some((pid, status))) if self.main == Some(pid) => self.happened(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => return false,
                // No children.
                Err(_) => return true,
            }
        }
    }

    fn happened(&mut self, status: WaitStatus) {
        let code = status.exit_status().map(|code| Status::Code(u8::try_from(code & 0xff).unwrap_or(u8::MAX)));
        if let Some(status) = code.or(status.terminating_signal().map(Status::Signal)) {
            self.main = None;
            self.tell(Report::Ended(status));
        } else if status.continued() {
            // By whomever: what runs is bound to the lease again.
            self.suspended = false;
        } else if let (Some(signal), false) = (status.stopping_signal(), self.suspended) {
            self.tell(Report::Stopped(signal));
        }
    }

    /// A shell that is starting something waits in the kernel, and can't be stopped, until that has begun (`vfork`). If Ctrl-Z stops
    /// the other first, neither goes on, and nobody is told: the command counts as stopped by it.
    fn look_half_stopped(&mut self) {
        let Some(main) = self.main.filter(|_| !self.suspended) else { return };
        let is_stuck = Process::read(main).is_some_and(|process| process.is_stuck());
        let is_stopped = |process: &Process| process.is_in(main) && process.is_stopped();
        let before = self.is_half_stopped;
        self.is_half_stopped = is_stuck && tree::descendants(getpid()).iter().any(is_stopped);
        if self.is_half_stopped && !before {
            self.tell(Report::Stopped(Signal::TSTP.as_raw()));
        }
    }

    /// All that is left gets a signal: the command's own group as one, what has left it one by one.
    fn signal_all(&self, signals: &[Signal]) {
        let all = tree::descendants(getpid());
        for signal in signals {
            if let Some(main) = self.main {
                let _ = kill_process_group(main, *signal);
            }
            for process in all.iter().filter(|process| self.main.is_none_or(|main| !process.is_in(main))) {
                let _ = process.signal(*signal);
            }
        }
    }

    fn suspend(&mut self) {
        self.suspended = true;
        let mut seen = HashSet::new();
        for _ in 0..SUSPEND_ROUNDS_MAX {
            let mut running = tree::descendants(getpid());
            running.retain(|process| !process.is_stopped() && seen.insert(process.key()));
            if running.is_empty() {
                break;
            }
            for process in running {
                let _ = process.signal(Signal::STOP);
                self.stopped.push(process);
            }
        }
        self.tell(Report::Suspended);
    }

    /// Each gets SIGCONT once: with a second one, a Ctrl-Z that was typed as soon as it went on would be taken back.
    fn resume(&mut self) {
        self.suspended = false;
        // From here on it is told anew: Ctrl-Z may be typed again before this has looked once.
        self.is_half_stopped = false;
        let main = self.main;
        let is_of_main =
            |process: &Process| main.zip(Process::read(process.pid)).is_some_and(|(main, now)| now.is_in(main));
        for process in self.stopped.drain(..).filter(|process| !is_of_main(process)) {
            let _ = process.signal(Signal::CONT);
        }
        // With those that the terminal has stopped, before this was asked to.
        if let Some(main) = main {
            let _ = kill_process_group(main, Signal::CONT);
        }
    }

    /// SIGTERM, then SIGCONT: one that is stopped wakes to find that it has to end, and to nothing else.
    fn end(&mut self, why: Why) {
        self.suspended = false;
        self.stopped.clear();
        self.signal_all(&[Signal::TERM, Signal::CONT]);
        self.phase = Phase::Terminating { until: Instant::now() + self.grace };
        self.tell(Report::Terminating(why));
    }

    fn kill(&mut self) {
        let all = tree::descendants(getpid());
        self.tell(Report::Killing(numbers(&all)));
        self.signal_all(&[Signal::KILL]);
    }

    fn kill_again(&mut self, tell: Instant) {
        self.signal_all(&[Signal::KILL]);
        if Instant::now() >= tell {
            self.tell(Report::Stuck(numbers(&tree::descendants(getpid()))));
            self.phase = Phase::Killing { tell: Instant::now() + STUCK_TOLD };
        }
    }
}

fn numbers(processes: &[Process]) -> Vec<i32> {
    processes.iter().map(|process| process.pid.as_raw_nonzero().get()).collect()
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// A timer on the clock that goes on while the machine is suspended, so that it fires as soon as the machine wakes.
struct Deadline(AsyncFd<OwnedFd>);

impl Deadline {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, because other types may close the descriptor; this one can't"
    )]
    fn new() -> std::io::Result<Deadline> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Deadline(AsyncFd::new(timerfd_create(TimerfdClockId::Boottime, flags)?)?))
    }

    fn set(&self, until: Duration) {
        let until = Timespec {
            tv_sec: i64::try_from(until.as_secs()).unwrap_or(i64::MAX),
            // Never zero, which would turn it off.
            tv_nsec: i64::from(until.subsec_nanos().max(1)),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: until };
        // It fails for times that are none.
        let _ = timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::ABSTIME, &once);
    }

    /// Waits until it has fired. Setting it anew takes back that it has.
    async fn passed(&self) {
        if let Ok(mut ready) = self.0.readable().await {
            let _ = rustix::io::read(self.0.get_ref(), &mut [0_u8; 8][..]);
            ready.clear_ready();
        }
    }
}

/// Receives the one descriptor that comes first.
fn receive_descriptor(socket: &UnixStream) -> std::io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| std::io::Error::other("no descriptor came with the first byte"))
}
