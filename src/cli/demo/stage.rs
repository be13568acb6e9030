//! Where a run is played: a folder, processes in lanes, the story so far, and whoever it is told to.
//!
//! What a scenario does with it: start a gate ([`Stage::gate`]) and other processes ([`Stage::part`], [`Stage::start`]), wait for
//! conditions ([`Stage::until`]), freeze and wake ([`Stage::freeze`], [`Stage::wake`]), tell what it does itself ([`Stage::tell`]), and
//! end what it has started before it counts ([`Stage::finish`]).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::Serialize;
use tokio::time::Instant;

use super::children::Child;
use super::parts::PART;
use super::scenario::{Failed, Side};
use super::story::{Event, Kind, Lane, Story, now_us};
use super::teller::Teller;
use super::worker::Worker;
use crate::cli::lead::PROGRAM;
use crate::cli::tied::command;

/// How long a condition may take to come about. All of them do within a second or two where the machine isn't overwhelmed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often conditions are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How long a gate has to end when it is told to.
const END_TIME: Duration = Duration::from_secs(5);
/// The lease of a leader: as short as the embedded coordinator grants it.
pub const TTL: Duration = Duration::from_secs(1);

/// One run's stage. What it has started is killed when it is dropped.
#[derive(Debug)]
pub struct Stage {
    /// Which of the two runs this is.
    pub side: Side,
    /// What has happened so far.
    pub story: Story,
    dir: PathBuf,
    coordinator: Option<String>,
    election: String,
    members: u8,
    began_us: u64,
    teller: Teller,
    children: HashMap<String, Actor>,
}

#[derive(Debug)]
struct Actor {
    child: Child,
    /// What it printed that isn't an event.
    lines: Vec<String>,
    /// Nothing goes on without it.
    is_essential: bool,
    log: PathBuf,
}

/// A gate that listens.
#[derive(Debug, Clone)]
pub struct GateAt {
    /// The data listener's URL.
    pub data: String,
    /// The admin listener's URL.
    pub admin: String,
}

/// What a stage is set up with.
#[derive(Debug)]
pub struct Setup<'a> {
    /// Which run.
    pub side: Side,
    /// An empty folder of its own.
    pub dir: PathBuf,
    /// Whoever elects; `None`: the gate's embedded coordinator.
    pub coordinator: Option<&'a str>,
    /// A name for elections that nobody else has.
    pub election: String,
    /// `--members`.
    pub members: u8,
}

impl Stage {
    /// An empty one.
    pub fn new(setup: Setup<'_>, teller: Teller) -> Stage {
        Stage {
            side: setup.side,
            story: Story::default(),
            dir: setup.dir,
            coordinator: setup.coordinator.map(str::to_owned),
            election: setup.election,
            members: setup.members,
            began_us: now_us(),
            teller,
            children: HashMap::new(),
        }
    }

    /// Whether the gate's check is on in this run.
    pub fn is_checked(&self) -> bool {
        self.side == Side::With
    }

    /// The run's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many members a coordinator that a scenario starts itself has (`--members`).
    pub fn members(&self) -> u8 {
        self.members
    }

    /// The election that this run's leaders stand in: nobody else's, also where the coordinator is shared.
    pub fn election(&self) -> &str {
        &self.election
    }

    /// The coordinator that was asked for, or this gate's embedded one.
    pub fn coordinator<'a>(&'a self, gate: &'a GateAt) -> &'a str {
        self.coordinator.as_deref().unwrap_or(&gate.data)
    }

    /// A worker that stands in this run's election and writes through this gate.
    ///
    /// # Errors
    /// The fence's name isn't one.
    pub fn worker(&self, name: &str, gate: &GateAt, fence: &str) -> Result<Worker, Failed> {
        Ok(Worker {
            holder: name.to_owned(),
            coordinator: self.coordinator(gate).to_owned(),
            election: self.election.clone(),
            gate: gate.data.clone(),
            fence: fence.parse().map_err(|error| Failed::Broken(format!("fence {fence}: {error}")))?,
            ttl_ms: u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Starts a gate before a SQLite database, and tells what it does in this run.
    ///
    /// # Errors
    /// It doesn't start.
    pub async fn sqlite_gate(&mut self, file: &Path, fence: &str) -> Result<GateAt, Failed> {
        self.lane("gate", "the gate, and the database behind it");
        let gate = self.gate(&["--sqlite", &file.to_string_lossy(), "--fence", fence]).await?;
        let checks = if self.is_checked() {
            "stands before the database, and checks every token"
        } else {
            "stands before the database; its check is off (--no-enforce)"
        };
        self.tell("gate", Kind::Started, checks);
        Ok(gate)
    }

    /// Introduces a lane. Lanes are drawn in the order in which they are introduced.
    pub fn lane(&mut self, name: &str, role: &str) {
        if self.story.lanes.iter().all(|lane| lane.name != name) {
            self.story.lanes.push(Lane { name: name.to_owned(), role: role.to_owned() });
        }
    }

    /// Notes that something happened now, and tells it.
    pub fn tell(&mut self, lane: &str, kind: Kind, text: impl Into<String>) {
        let event = Event { at_us: now_us(), lane: lane.to_owned(), kind, text: text.into() };
        self.happened(event);
    }

    fn happened(&mut self, mut event: Event) {
        event.at_us = event.at_us.saturating_sub(self.began_us);
        if let Kind::Lease { until_us } = &mut event.kind {
            *until_us = until_us.saturating_sub(self.began_us);
        }
        if let Kind::Accepted { token: Some(token), behind } = &mut event.kind {
            *behind = self.story.leads_over(*token, event.at_us);
        }
        self.teller.event(&event);
        self.story.events.push(event);
    }

    /// Starts a program in a lane. Lines on its standard output that are events go into the story, others are kept for
    /// [`Stage::lines`].
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(&mut self, lane: &str, program: &OsStr, args: &[&OsStr]) -> Result<(), Failed> {
        let log = self.dir.join(format!("{lane}.log"));
        let command = command(program, args.iter().map(|arg| (*arg).to_owned()));
        let child = Child::start(command, &log);
        let child = child.map_err(|error| Failed::Broken(format!("{lane} can't be started: {error}")))?;
        self.children.insert(lane.to_owned(), Actor { child, lines: Vec::new(), is_essential: false, log });
        Ok(())
    }

    /// Starts a part that this program plays itself ([`super::parts`]), with its settings.
    ///
    /// # Errors
    /// It can't be started.
    pub fn part(&mut self, lane: &str, part: &str, settings: &impl Serialize) -> Result<(), Failed> {
        let settings = serde_json::to_string(settings).map_err(|error| Failed::Broken(error.to_string()))?;
        self.start(lane, OsStr::new(PROGRAM), &[PART, part, &settings].map(OsStr::new))
    }

    /// Starts a gate, `fencegate serve` with these arguments besides, in the lane `gate`, and waits until it listens. Its check is off
    /// in the run without.
    ///
    /// # Errors
    /// It doesn't start.
    pub async fn gate(&mut self, args: &[&str]) -> Result<GateAt, Failed> {
        let data_dir = self.dir.join("gate");
        let free = "127.0.0.1:0";
        let mut all: Vec<&OsStr> = ["serve", "--log", "warn", "--listen", free, "--admin", free].map(OsStr::new).into();
        all.extend([OsStr::new("--data-dir"), data_dir.as_os_str()]);
        all.extend(args.iter().map(OsStr::new));
        if !self.is_checked() {
            all.push(OsStr::new("--no-enforce"));
        }
        self.start("gate", OsStr::new(PROGRAM), &all)?;
        self.is_essential("gate");
        let address = |line: &str, key: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(key).map(str::to_owned))?;
            Some(format!("http://{word}"))
        };
        self.until("the gate listens", |stage| {
            let line = stage.lines("gate").first()?;
            Some(GateAt { data: address(line, "data=")?, admin: address(line, "admin=")? })
        })
        .await
    }

    /// From now on the run is broken if this process ends.
    pub fn is_essential(&mut self, lane: &str) {
        if let Some(actor) = self.children.get_mut(lane) {
            actor.is_essential = true;
        }
    }

    /// What the process in this lane has printed that isn't an event.
    pub fn lines(&self, lane: &str) -> &[String] {
        self.children.get(lane).map_or(&[], |actor| &actor.lines)
    }

    /// Waits until something is so, and takes in what is reported meanwhile.
    ///
    /// # Errors
    /// [`Failed::Missed`] where it takes too long, or a process fails; [`Failed::Broken`] where one ends that everything depends on.
    pub async fn until<T>(&mut self, what: &str, mut look: impl FnMut(&Stage) -> Option<T>) -> Result<T, Failed> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.hear();
            if let Some(found) = look(self) {
                return Ok(found);
            }
            self.look_after()?;
            if Instant::now() >= deadline {
                return Err(Failed::Missed(format!("not in {PATIENCE:?}: {what}{}", self.complaints())));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Whether all is well with the processes.
    fn look_after(&mut self) -> Result<(), Failed> {
        for (lane, actor) in &mut self.children {
            if actor.is_essential && !actor.child.is_running() {
                return Err(Failed::Broken(format!("{lane} has ended: {}", last_line(&actor.log))));
            }
            if actor.child.has_failed() {
                return Err(Failed::Missed(format!("{lane} has failed: {}", last_line(&actor.log))));
            }
        }
        Ok(())
    }

    /// Takes in what the processes have reported, in the order in which it happened.
    fn hear(&mut self) {
        let mut events = Vec::new();
        for (lane, actor) in &mut self.children {
            for line in actor.child.lines() {
                match serde_json::from_str::<Event>(&line) {
                    Ok(event) => events.push(Event { lane: lane.clone(), ..event }),
                    Err(_) => actor.lines.push(line),
                }
            }
        }
        events.sort_by_key(|event| event.at_us);
        for event in events {
            self.happened(event);
        }
    }

    fn complaints(&self) -> String {
        let logs = self.children.iter().map(|(lane, actor)| (lane, last_line(&actor.log)));
        logs.filter(|(_, line)| !line.is_empty()).map(|(lane, line)| format!("\n  {lane}: {line}")).collect()
    }

    /// Stops a process with SIGSTOP, and returns when it stands still. All that it had reported by then is in the story.
    ///
    /// # Errors
    /// It can't be stopped.
    pub async fn freeze(&mut self, lane: &str, text: impl FnOnce(&Story) -> String) -> Result<(), Failed> {
        self.signal(lane, Signal::STOP)?;
        self.until("it stands still", |stage| stage.children.get(lane)?.child.is_stopped().then_some(())).await?;
        self.hear();
        let text = text(&self.story);
        self.tell(lane, Kind::Paused, text);
        Ok(())
    }

    /// The same in the middle of its work: after it has begun with a piece ([`Kind::Works`]), and before it sends off what comes of
    /// it ([`Kind::Sends`]). One that is caught at another moment is let go on, and caught in its next piece: so nothing of it is under
    /// way while it stands still, and what it does when it wakes it does then.
    ///
    /// # Errors
    /// It can't be stopped, or does no work.
    pub async fn freeze_at_work(&mut self, lane: &str, text: impl FnOnce(&Story) -> String) -> Result<(), Failed> {
        let is_at_work = |stage: &Stage| stage.story.last(lane) == Some(&Kind::Works);
        loop {
            self.until(&format!("{lane} works"), |stage| is_at_work(stage).then_some(())).await?;
            self.signal(lane, Signal::STOP)?;
            self.until("it stands still", |stage| stage.children.get(lane)?.child.is_stopped().then_some(())).await?;
            self.hear();
            if is_at_work(self) {
                break;
            }
            self.signal(lane, Signal::CONT)?;
        }
        let text = text(&self.story);
        self.tell(lane, Kind::Paused, text);
        Ok(())
    }

    /// Waits until the lease of a leader that stands still has run out, and tells so.
    ///
    /// # Errors
    /// It has none.
    pub async fn lease_runs_out(&mut self, lane: &str) -> Result<(), Failed> {
        let what = format!("the lease of {lane} runs out");
        self.until(&what, |stage| (stage.now_us() >= stage.story.lease_until(lane)?).then_some(())).await?;
        self.tell(lane, Kind::LeaseOver, "is still frozen: nobody renews its lease, and it runs out");
        Ok(())
    }

    /// How long the run has been, in microseconds.
    pub fn now_us(&self) -> u64 {
        now_us().saturating_sub(self.began_us)
    }

    /// Wakes a process with SIGCONT.
    ///
    /// # Errors
    /// It can't be woken.
    pub fn wake(&mut self, lane: &str, text: &str) -> Result<(), Failed> {
        self.tell(lane, Kind::Resumed, text);
        self.signal(lane, Signal::CONT)
    }

    /// Kills a process.
    pub fn kill(&mut self, lane: &str, text: &str) {
        if let Some(mut actor) = self.children.remove(lane) {
            actor.child.kill();
            self.tell(lane, Kind::Killed, text);
        }
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    /// There is none in this lane, or it can't be sent.
    pub fn signal(&mut self, lane: &str, signal: Signal) -> Result<(), Failed> {
        let actor = self.children.get_mut(lane);
        let actor = actor.ok_or_else(|| Failed::Broken(format!("there is no process {lane}")))?;
        actor.child.signal(signal).map_err(|error| Failed::Broken(format!("{lane}: {error}")))
    }

    /// Whether the process in this lane runs, or could if it were woken.
    pub fn is_running(&mut self, lane: &str) -> bool {
        self.children.get_mut(lane).is_some_and(|actor| actor.child.is_running())
    }

    /// Ends the run: workers are killed, the gate and whatever else is essential is told to end (SIGTERM) and waited for, so that
    /// what they have stored can be counted. Nothing is told of it.
    ///
    /// # Errors
    /// One doesn't end.
    pub async fn finish(&mut self) -> Result<(), Failed> {
        self.story.length_us = now_us().saturating_sub(self.began_us);
        self.children.retain(|_, actor| actor.is_essential);
        for actor in self.children.values_mut() {
            actor.is_essential = false;
            actor.child.signal(Signal::TERM)?;
        }
        let deadline = Instant::now() + END_TIME;
        while self.children.values_mut().any(|actor| actor.child.is_running()) {
            if Instant::now() >= deadline {
                return Err(Failed::Broken("the gate doesn't end".into()));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        self.children.clear();
        Ok(())
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).trim_end().lines().next_back().unwrap_or_default().to_owned()
}
