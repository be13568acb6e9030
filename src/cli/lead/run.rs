//! The command while it runs: the lease is kept, signals are passed on, the terminal changes hands, and the loss ends it.

use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_current_process_group, kill_process};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};

use crate::client::clock::{BootClock, Clock};
use crate::client::{Leadership, Lost};

use super::super::failure::Failure;
use super::EXIT_NOT_EXECUTABLE;
use super::events::Events;
use super::signals::{self, Signals};
use super::term::{Ended, Setup};
use super::terminal::Terminal;
use super::warden::hold::Hold;
use super::warden::wire::{Order, Report, Status, Why};

/// The warden is told how long the lease is known to last each time that one of so many parts of it has passed.
const TOLD_PER_LEASE: u32 = 10;
const TELL_MIN: Duration = Duration::from_millis(20);
/// By how much a lease must last longer than was known to count as renewed.
const RENEWED_MIN: Duration = Duration::from_millis(5);
/// Of so many parts of the lease one passes between two looks at the gate's mark, but no less than a second.
const LOOKS_PER_LEASE: u32 = 3;
const LOOK_MIN: Duration = Duration::from_secs(1);
/// How long a warden may take to begin to end the command. It does nothing that takes time.
const END_TIME: Duration = Duration::from_secs(1);

/// Whom to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// This process.
    This,
    /// All of the job that it is part of.
    Job,
}

/// Stops, as Ctrl-Z does by default, and returns when it goes on: at once where nobody can be stopped, as the first process of a
/// container.
pub fn stop(whom: Whom) {
    let _ = match whom {
        Whom::This => kill_process(getpid(), Signal::STOP),
        Whom::Job => kill_current_process_group(Signal::STOP),
    };
}

/// Waits for this time, or for ever.
pub async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// One command, from its start until nothing is left of it.
pub struct Run<'a> {
    setup: &'a Setup<'a>,
    events: &'a Events,
    leadership: &'a Leadership,
    hold: &'a mut Hold,
    terminal: Option<Terminal>,
    /// The command's process group, once it is started.
    group: Option<Pid>,
    /// How the command ended while it led.
    status: Option<Status>,
    lost: Option<Lost>,
    /// Until when the lease was known to last, as told last.
    known_until: Duration,
    failed: Option<String>,
    told: bool,
    /// Whom to stop when the warden has stopped the command.
    suspending: Option<Whom>,
    /// When to give up a warden that was told to end the command.
    end_by: Option<Instant>,
}

impl<'a> Run<'a> {
    /// With a warden that is ready.
    pub fn new(setup: &'a Setup<'a>, events: &'a Events, leadership: &'a Leadership, hold: &'a mut Hold) -> Run<'a> {
        // One that is started again and again doesn't get the terminal: Ctrl-C is for `lead`, which then starts it no more.
        let terminal = if setup.args.supervise { None } else { Terminal::controlling() };
        Run {
            setup,
            events,
            leadership,
            hold,
            terminal,
            group: None,
            status: None,
            lost: None,
            known_until: Duration::ZERO,
            failed: None,
            told: false,
            suspending: None,
            end_by: None,
        }
    }

    /// Runs it. How that ended, and whether nothing is left of it; otherwise the warden is gone, and what it had is this process's
    /// to kill.
    pub async fn run(mut self, signals: &mut Signals) -> (Ended, bool) {
        let terminal_of = self.terminal.as_ref().and_then(Terminal::is_ours);
        let start = Order::Start {
            env: self.setup.environment(self.leadership.token()),
            terminal_of: terminal_of.map(|group| group.as_raw_nonzero().get()),
            until: self.until(),
        };
        self.hold.order(&start).await;
        let mut tell = tokio::time::interval((self.setup.args.ttl / TOLD_PER_LEASE).max(TELL_MIN));
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let leadership = self.leadership.clone();
        let looks = (self.setup.args.ttl / LOOKS_PER_LEASE).max(LOOK_MIN);
        let gate = self.setup.gate.as_ref();
        let watch = async {
            if let Some(gate) = gate {
                gate.replaced(&leadership, looks).await;
                leadership.give_up(Lost::Replaced);
            }
            std::future::pending::<()>().await;
        };
        tokio::pin!(watch);
        let clean = loop {
            let leads = self.lost.is_none() && self.status.is_none();
            tokio::select! {
                why = leadership.lost(), if leads => self.lose(why).await,
                report = self.hold.report() => match report {
                    Some(Report::Gone) => break true,
                    Some(report) => self.hear(report).await,
                    None => break false,
                },
                signal = signals.next() => self.signalled(signal).await,
                _ = tell.tick(), if leads => self.renewed().await,
                () = &mut watch, if leads => {}
                () = at(self.end_by) => self.hold.break_off(),
            }
        };
        self.take_terminal_back(!clean);
        (self.ended(), clean)
    }

    fn ended(self) -> Ended {
        // The warden notices the end of the lease by itself, and may have been the first.
        let lost = self.lost.or_else(|| self.leadership.check().err().filter(|_| self.status.is_none()));
        match (lost, self.status, self.failed) {
            (Some(why), ..) => Ended::Lost(why),
            (None, Some(status), _) => Ended::Itself { status, told: self.told },
            (None, None, Some(why)) => {
                Ended::Failed(Failure::exit(EXIT_NOT_EXECUTABLE, format!("the command can't be started: {why}")))
            }
            // With its warden, the command was killed.
            (None, None, None) => Ended::Itself { status: Status::Signal(Signal::KILL.as_raw()), told: self.told },
        }
    }

    /// Until when it is known to lead, by the clock that the warden has, too.
    fn until(&self) -> Duration {
        // In this order: a pause between the two makes the lease seem shorter, not longer.
        let now = BootClock.now();
        now + self.leadership.time_left()
    }

    /// Passes on until when the lease is known to last.
    async fn renewed(&mut self) {
        let until = self.until();
        // What it is short of the last reading by is the time between two readings of the clock.
        if until > self.known_until + RENEWED_MIN {
            if let Err(error) = self.setup.credentials.write(self.leadership) {
                tracing::warn!(%error, "the leader's credential can't be written; the one before may expire");
            }
            let left = u64::try_from(self.leadership.time_left().as_millis()).unwrap_or(u64::MAX);
            self.events.tell("renewed", Some(self.leadership.token()), json!({ "left_ms": left }), None);
            self.known_until = until;
        }
        self.hold.order(&Order::Alive { until }).await;
    }

    async fn lose(&mut self, why: Lost) {
        self.lost = Some(why);
        self.suspending = None;
        let (election, token) = (self.leadership.election(), self.leadership.token());
        let told = format!("no longer the leader of {election} (token {token}): {why}; ending the command");
        self.events.tell("lost", Some(token), json!({ "reason": why.to_string() }), Some(told));
        self.hold.wake();
        self.hold.order(&Order::End).await;
        self.end_by = Some(Instant::now() + END_TIME);
    }

    async fn hear(&mut self, report: Report) {
        let token = Some(self.leadership.token());
        match report {
            Report::Started(pid) => {
                self.group = Pid::from_raw(pid);
                if let (Some(terminal), Some(group)) = (&mut self.terminal, self.group) {
                    terminal.is_taken_by(group);
                }
                self.events.tell("started", token, json!({ "pid": pid }), None);
            }
            Report::Failed(why) => self.failed = Some(why),
            Report::Stopped(signal) => self.stopped(signal).await,
            Report::Suspended => {
                if let Some(whom) = self.suspending.take() {
                    self.suspend(whom).await;
                }
            }
            Report::Ended(status) => {
                // One that ends because it can't be known to lead any more doesn't end by itself.
                if self.lost.is_none() && self.leadership.is_alive() {
                    self.status = Some(status);
                }
                self.take_terminal_back(matches!(status, Status::Signal(_)));
                self.suspending = None;
                let (code, signal) = match status {
                    Status::Code(code) => (Some(code), None),
                    Status::Signal(signal) => (None, Some(signal)),
                };
                self.events.tell("ended", token, json!({ "status": code, "signal": signal }), None);
            }
            Report::Terminating(why) => {
                self.end_by = None;
                let why = match why {
                    Why::Told => "lost",
                    Why::Lease => "lease",
                    Why::Orphaned => "orphaned",
                    Why::LeftBehind => "left behind",
                };
                self.events.tell("terminating", token, json!({ "reason": why }), None);
            }
            Report::Killing(pids) => {
                let grace = humantime::format_duration(self.setup.args.grace);
                let told = format!("{} of the command's processes still there after {grace}; killing them", pids.len());
                self.events.tell("killed", token, json!({ "pids": pids }), Some(told));
            }
            Report::Stuck(pids) => {
                let told = format!("waiting for processes that don't go although they were killed: {pids:?}");
                self.events.tell("stuck", token, json!({ "pids": pids }), Some(told));
            }
            Report::Gone => {}
        }
    }

    /// The command was stopped by somebody else than `lead`.
    async fn stopped(&mut self, signal: i32) {
        let (Some(terminal), Some(group)) = (&mut self.terminal, self.group) else { return };
        if self.lost.is_some() || self.suspending.is_some() {
            return;
        }
        let wants_terminal = [Signal::TTIN, Signal::TTOU].map(Signal::as_raw).contains(&signal);
        if wants_terminal && terminal.is_ours().is_some() {
            // It was started in the background, and then somebody has called the job to the front.
            terminal.give(group);
            self.hold.order(&Order::Resume).await;
        } else if wants_terminal || signal == Signal::TSTP.as_raw() || terminal.is_of(group) {
            // Typed at the terminal: the whole job is to stop. A command that was stopped by SIGSTOP away from the terminal is
            // left alone: that is between it and whoever did it.
            self.suspending = Some(Whom::Job);
            self.hold.order(&Order::Suspend).await;
        }
    }

    /// Stops with the command, which is stopped already. **Invariant.** What was stopped goes on only if it is known to lead then.
    async fn suspend(&mut self, whom: Whom) {
        let token = Some(self.leadership.token());
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back(false);
        }
        self.events.tell("suspended", token, json!({}), None);
        self.events.flush();
        stop(whom);
        self.events.tell("continued", token, json!({}), None);
        if self.leadership.check().is_err() {
            // The loss is on its way, and with it SIGTERM.
            return;
        }
        if let (Some(terminal), Some(group)) = (&mut self.terminal, self.group) {
            terminal.give(group);
        }
        self.hold.order(&Order::Alive { until: self.until() }).await;
        self.hold.order(&Order::Resume).await;
    }

    async fn signalled(&mut self, signal: Signal) {
        if self.lost.is_some() {
            return;
        }
        match signal {
            Signal::TSTP => {
                self.suspending = Some(Whom::This);
                self.hold.order(&Order::Suspend).await;
            }
            // Called to the front: whoever was stopped without knowing it, too.
            Signal::CONT => {
                if let (Some(terminal), Some(group), None) = (&mut self.terminal, self.group, self.status) {
                    terminal.give(group);
                }
            }
            signal => {
                self.told |= signals::is_ending(signal);
                self.hold.order(&Order::Signal(signal.as_raw())).await;
            }
        }
    }

    fn take_terminal_back(&mut self, was_killed: bool) {
        if let Some(terminal) = &mut self.terminal {
            terminal.take_back(was_killed);
        }
    }
}
