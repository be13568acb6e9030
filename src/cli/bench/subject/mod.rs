//! What is measured: a database of `bench`'s own, an HTTP service, or a gate that runs.
//!
//! **Invariant.** Without `--write-to-it`, nothing that may write goes to what `bench` has not made: to a service only GETs, with no
//! token above 2; to a running gate only requests that it would refuse if they wrote (no token, or a stale one), and no mark of a
//! running gate rises.

use std::time::Duration;

use super::Plan;
use super::clock::CpuClock;
use super::load::once::once;
use super::load::{Expect, Load, LoadError, Pace, Rising, Sample, Work};
use super::stop::Stop;
use super::target::{Body, Target};
use crate::cli::failure::Failure;
use crate::cli::http::segment;
use crate::fence::FenceName;

pub mod gate;
pub mod sqlite;
pub mod upstream;

/// One of the things that are measured in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Without any gate; of a database, a commit for each write.
    Direct,
    /// A database without any gate, as many writes in one commit as there are connections.
    Batched,
    /// Through a gate that checks nothing.
    Off,
    /// Reads without a token.
    Read,
    /// Through the gate, with the token that leads.
    Admitted,
    /// Refused by the gate: a stale token.
    Refused,
    /// A claim and the first write with the claimed token; one after the other.
    Takeover,
    /// Writes of which each has a newer token; one after the other.
    Newer,
    /// Claims, each with a newer token, and no writes; one after the other.
    Claim,
}

impl Kind {
    /// Its name, in the table and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Batched => "direct, batched",
            Kind::Off => "check off",
            Kind::Read => "read, no token",
            Kind::Admitted => "admitted",
            Kind::Refused => "refused (stale)",
            Kind::Takeover => "takeover",
            Kind::Newer => "always newer",
            Kind::Claim => "claim",
        }
    }

    /// Whether it is done on one connection, one operation after the other, as fast as the answers come.
    pub fn is_serial(self) -> bool {
        matches!(self, Kind::Takeover | Kind::Newer | Kind::Claim)
    }
}

/// One of them, and what it is in this run.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Which.
    pub kind: Kind,
    /// What happens in it, for people.
    pub what: String,
}

/// Which tokens were presented to whose fence.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// The fence.
    pub fence: String,
    /// Its mark before, with its holder; `None` where it had none.
    pub before: Option<(u64, Option<String>)>,
    /// Its mark now, as far as `bench` has raised it.
    pub now: u64,
    /// Whether somebody else has raised it since.
    pub is_taken: bool,
    /// The token that is presented where nothing is to be refused; `None` where none is.
    pub taken: Option<u64>,
}

impl Tokens {
    /// Whether the mark is another than it was.
    pub fn have_risen(&self) -> bool {
        self.before.as_ref().map_or(0, |(highest, _)| *highest) < self.now
    }
}

/// What is measured.
pub trait Subject {
    /// What it is, for people.
    fn name(&self) -> String;
    /// What one operation is called: `write`, `read`.
    fn unit(&self) -> &'static str;
    /// What is measured in it, in the order of a round.
    fn lanes(&self) -> Vec<Lane>;
    /// Measures one of them once.
    ///
    /// # Errors
    /// What can't be gone on after.
    fn visit(&mut self, kind: Kind, plan: &Plan, stop: &Stop) -> Result<Sample, Failure>;
    /// The tokens presented, where the gate isn't `bench`'s own.
    fn tokens(&self) -> Option<Tokens> {
        None
    }
    /// The processes that `bench` has started for it.
    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }
    /// Whether everything that works in it belongs to `bench`, so that other work on the machine can be told from it.
    fn is_own(&self) -> bool {
        false
    }
}

/// The fence of a gate that `bench` has started.
fn own_fence() -> FenceName {
    "bench".parse().expect("five letters are a fence's name")
}

/// A request that is made again and again.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The body.
    pub body: Body,
    /// What answers are expected where it isn't refused.
    pub expect: Expect,
}

/// A fence at a gate, and what is sent to it.
#[derive(Debug)]
pub struct Fenced {
    /// The gate.
    pub target: Target,
    /// Its clock, where its process is known.
    pub cpu: Option<CpuClock>,
    /// The fence's name.
    pub fence: FenceName,
    /// The request.
    pub shape: Shape,
    /// The fence's mark, as far as is known here.
    pub mark: u64,
    /// A token that is stale; `None`: the one below the mark.
    pub stale: Option<u64>,
    /// The highest token that may be presented.
    pub last: u64,
}

impl Fenced {
    /// The path of a claim.
    fn claim_path(&self) -> String {
        format!("/-/fences/{}/claim", segment(&self.fence))
    }

    /// Claims this token.
    ///
    /// # Errors
    /// It is refused, or there is no answer.
    pub fn claim(&mut self, token: u64, answer_time: Duration) -> Result<(), Failure> {
        let request = self.target.request("POST", &self.claim_path(), Some(token), &Body::empty());
        let answer = once(self.target.addr, &request, answer_time).map_err(|error| failure(&error, None))?;
        if answer.status != 200 {
            let why = format!("token {token} can't be claimed on fence {}: {}", self.fence, answer.reason());
            return Err(Failure::Refused(why));
        }
        self.mark = token;
        Ok(())
    }

    /// What is sent, and what is expected.
    fn work(&self, kind: Kind) -> (Work, Expect) {
        let Shape { method, path, body, expect } = &self.shape;
        let same = |token: Option<u64>| Work::Same(self.target.request(method, path, token, body).into());
        let rising = |steps| Work::Rising(Rising { steps, token: self.mark + 1, last: self.last });
        let claim = || self.target.for_token("POST", &self.claim_path(), &Body::empty());
        let write = || self.target.for_token(method, path, body);
        match kind {
            Kind::Direct | Kind::Batched | Kind::Read => (same(None), *expect),
            Kind::Off | Kind::Admitted => (same(Some(self.mark)), *expect),
            Kind::Refused => (same(Some(self.stale.unwrap_or(self.mark - 1))), Expect::Stale),
            Kind::Takeover => (rising(vec![claim(), write()]), *expect),
            Kind::Newer => (rising(vec![write()]), *expect),
            Kind::Claim => (rising(vec![claim()]), Expect::Success),
        }
    }

    /// Sends one such request and looks whether the answer is the expected one, before thousands of them are sent.
    ///
    /// # Errors
    /// It isn't.
    pub fn probe(&self, kind: Kind, answer_time: Duration) -> Result<(), Failure> {
        let (mut work, expect) = self.work(kind);
        let answer = once(self.target.addr, &work.request(0), answer_time).map_err(|error| failure(&error, None))?;
        if expect.is_met(answer.status) && !expect.is_spoilt(&answer.body) {
            return Ok(());
        }
        let Shape { method, path, .. } = &self.shape;
        let says = match answer.json()["results"][0]["error"]["message"].as_str() {
            Some(message) => message.to_owned(),
            None => answer.reason(),
        };
        let why = format!("{}: {method} {path} is answered with status {}: {says}", kind.name(), answer.status);
        Err(if answer.status == 428 {
            Failure::Usage(format!("{why}; it writes: say --write-to-it if it may"))
        } else {
            Failure::Other(why)
        })
    }

    /// Measures it once.
    ///
    /// # Errors
    /// What can't be gone on after.
    pub fn visit(&mut self, kind: Kind, plan: &Plan, stop: &Stop) -> Result<Sample, Failure> {
        let (work, expect) = self.work(kind);
        let load = plan.load(&self.target, work, expect, kind);
        let sample = load.run(stop, self.cpu).map_err(|error| failure(&error, Some(stop)))?;
        self.mark = self.mark.max(sample.token.unwrap_or(0));
        if sample.answered() == 0 {
            let why = format!("{}: no answer came; {} connections broke", kind.name(), sample.broken);
            return Err(Failure::Other(why));
        }
        if sample.unexpected == sample.answered() {
            let statuses: Vec<String> = sample.answers.keys().map(u16::to_string).collect();
            let why = format!("{}: no answer was as expected; they had status {}", kind.name(), statuses.join(", "));
            return Err(Failure::Other(why));
        }
        Ok(sample)
    }
}

impl Plan {
    /// A load on this target.
    pub fn load(&self, target: &Target, work: Work, expect: Expect, kind: Kind) -> Load {
        let is_serial = kind.is_serial();
        Load {
            addr: target.addr,
            work,
            expect,
            connections: if is_serial { 1 } else { self.connections },
            threads: if is_serial { 1 } else { self.threads },
            pace: if is_serial { Pace::Closed } else { self.pace },
            warm_up: self.warm_up,
            duration: self.duration,
            answer_time: self.answer_time,
        }
    }
}

/// What the command says of a load that ended early.
pub fn failure(error: &LoadError, stop: Option<&Stop>) -> Failure {
    match error {
        LoadError::Stopped => stopped(stop.and_then(Stop::signal)),
        LoadError::Unreachable { .. } => Failure::Unreachable(error.to_string()),
        LoadError::Late { .. } | LoadError::System(_) => Failure::Other(error.to_string()),
    }
}

/// As shells have it: 128 and the signal's number.
pub fn stopped(signal: Option<i32>) -> Failure {
    let signal = signal.unwrap_or(0);
    let status = u8::try_from(128 + signal).unwrap_or(u8::MAX);
    Failure::exit(status, format!("stopped by signal {signal}; what was started is gone"))
}
