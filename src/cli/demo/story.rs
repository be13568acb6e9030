//! What happened in one run, as it is told and drawn: who was there, and what happened to whom when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::clock::{BootClock, Clock};
use crate::fence::Token;

/// One process, or what is drawn as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lane {
    /// Its short name, at most 8 characters. What is written to stands in the first lane; `gate` or `proxy` is what refuses.
    pub name: String,
    /// What it is, in a few words.
    pub role: String,
}

/// Something that happened.
///
/// A child process reports the same, one JSON object a line on its standard output ([`report`]): its `at_us` is then the machine's
/// boot clock, which all processes share, so that the order of what different processes report is the true one; and it leaves `lane`
/// out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in microseconds since the run began.
    pub at_us: u64,
    /// Whom it happened to.
    #[serde(default)]
    pub lane: String,
    /// What.
    #[serde(flatten)]
    pub kind: Kind,
    /// One plain sentence without a full stop, as it is told in the terminal. Empty: it is drawn, but not told.
    #[serde(default)]
    pub text: String,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// It runs.
    Started,
    /// It was elected, with this token. Its lease begins.
    Elected {
        /// The token of its term.
        token: Token,
    },
    /// Its lease is known to run until then, unless it is renewed.
    Lease {
        /// On the same clock as `at_us`.
        until_us: u64,
    },
    /// Its lease has run out by the clock, and nobody has renewed it.
    LeaseOver,
    /// It has noticed that it doesn't lead any more.
    Deposed,
    /// It works, or reads something to work with.
    Works,
    /// It is about to send off a write.
    Sends,
    /// Its work is done.
    Done,
    /// It was stopped with SIGSTOP, and stands still.
    Paused,
    /// It was woken with SIGCONT.
    Resumed,
    /// A write of its went through.
    Accepted {
        /// What it presented, if anything.
        token: Option<Token>,
        /// It was stale: this higher token had been issued before. The stage finds that out ([`Story::leads_over`]); whoever writes
        /// can't know.
        #[serde(default)]
        behind: Option<Token>,
    },
    /// A write of its was refused, and changed nothing.
    Refused {
        /// What it presented.
        token: Option<Token>,
        /// The fence's mark.
        highest: Option<Token>,
        /// The HTTP status.
        status: u16,
    },
    /// A write whose outcome its sender doesn't know.
    Unknown,
    /// It was killed.
    Killed,
    /// It ended by itself.
    Ended,
    /// From now on it is cut off from others.
    Cut,
    /// It isn't any more.
    Healed,
    /// Anything else.
    Note,
}

/// Everything that happened in one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Story {
    /// In the order in which they came up.
    pub lanes: Vec<Lane>,
    /// In the order in which they became known; [`Story::in_order`] sorts them.
    pub events: Vec<Event>,
    /// How long the run was, in microseconds. Nothing is drawn beyond it.
    pub length_us: u64,
}

impl Story {
    /// How many events of this lane are like that.
    pub fn count(&self, lane: &str, is: impl Fn(&Kind) -> bool) -> usize {
        self.events.iter().filter(|event| event.lane == lane && is(&event.kind)).count()
    }

    /// What it did last, its lease aside.
    pub fn last(&self, lane: &str) -> Option<&Kind> {
        let mut own = self.events.iter().filter(|event| event.lane == lane).map(|event| &event.kind);
        own.rfind(|kind| !matches!(kind, Kind::Lease { .. }))
    }

    /// Until when its lease is known to run, in microseconds since the run began; `None` where it never had one.
    pub fn lease_until(&self, lane: &str) -> Option<u64> {
        let own = self.events.iter().filter(|event| event.lane == lane);
        let untils = own.filter_map(|event| match event.kind {
            Kind::Lease { until_us } => Some(until_us),
            _ => None,
        });
        untils.max()
    }

    /// Whether the lane has come to this.
    pub fn has(&self, lane: &str, kind: &Kind) -> bool {
        self.count(lane, |other| other == kind) > 0
    }

    /// How many writes of this lane went through.
    pub fn accepted(&self, lane: &str) -> usize {
        self.count(lane, |kind| matches!(kind, Kind::Accepted { .. }))
    }

    /// How many writes of this lane were refused.
    pub fn refused(&self, lane: &str) -> usize {
        self.count(lane, |kind| matches!(kind, Kind::Refused { .. }))
    }

    /// How many writes of anybody were refused.
    pub fn refusals(&self) -> u64 {
        let refused = self.events.iter().filter(|event| matches!(event.kind, Kind::Refused { .. }));
        u64::try_from(refused.count()).unwrap_or(u64::MAX)
    }

    /// Who was elected after this token (`None`: at all), and with which.
    pub fn elected_after(&self, after: Option<Token>) -> Option<(String, Token)> {
        self.events.iter().find_map(|event| match event.kind {
            Kind::Elected { token } if Some(token) > after => Some((event.lane.clone(), token)),
            _ => None,
        })
    }

    /// The token that was issued above this one up to then, if any.
    pub fn leads_over(&self, token: Token, at_us: u64) -> Option<Token> {
        let issued = self.events.iter().filter(|event| event.at_us <= at_us).filter_map(|event| match event.kind {
            Kind::Elected { token } => Some(token),
            _ => None,
        });
        issued.max().filter(|leads| *leads > token)
    }

    /// The events by time.
    pub fn in_order(&self) -> Vec<&Event> {
        let mut events: Vec<&Event> = self.events.iter().collect();
        events.sort_by_key(|event| event.at_us);
        events
    }
}

/// The clock that all processes of a run share, in microseconds.
pub fn now_us() -> u64 {
    micros(BootClock.now())
}

/// A time in microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Reports something from a child process to the stage: one line, in one write, so that a process which is frozen at any moment has
/// reported it whole or not at all.
pub fn report(kind: Kind, text: impl Into<String>) {
    let event = Event { at_us: now_us(), lane: String::new(), kind, text: text.into() };
    let line = serde_json::to_string(&event).unwrap_or_default() + "\n";
    // If nobody listens any more, the demonstration has ended, and this process with it.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
}
