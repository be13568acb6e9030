//! A gate that runs, with a fence of which somebody may be the leader.
//!
//! **Invariant.** Without `--advance-by`, a mark rises only where there was none, and then to 1. With it, by no more than that, and
//! only as long as nobody else has claimed; a fence with a holder only with `--depose`.

use std::time::Duration;

use serde_json::Value;

use super::{Fenced, Kind, Lane, Shape, Subject, Tokens, failure};
use crate::cli::bench::Plan;
use crate::cli::bench::clock::CpuClock;
use crate::cli::bench::load::once::once;
use crate::cli::bench::load::{Expect, Sample};
use crate::cli::bench::stop::Stop;
use crate::cli::bench::target::{Body, Header, Target};
use crate::cli::failure::Failure;
use crate::cli::http::segment;
use crate::fence::FenceName;

/// The name under which it claims.
const HOLDER: &str = "fencegate-bench";
/// What is refused: the lowest token, which even after a reset to nothing would do the least.
const STALE: u64 = 1;

/// A statement that reads nothing of anybody's.
const OWN_READ: &str = "SELECT 1";

/// What is asked of the gate.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Its data listener.
    pub url: &'a str,
    /// The fence.
    pub fence: &'a FenceName,
    /// The path of an HTTP service's requests; with `sql`, where the database is mounted.
    pub path: &'a str,
    /// A statement, for a database.
    pub sql: Option<&'a str>,
    /// The method of writes to an HTTP service; `None` where only reads may be sent.
    pub method: Option<&'a str>,
    /// Whether writes may be sent.
    pub writes: bool,
    /// By how much the mark may be raised.
    pub advance_by: Option<u64>,
    /// Whether a leader may be deposed by that.
    pub depose: bool,
    /// The gate's process, for its clock.
    pub pid: Option<u32>,
    /// Lines that every request has.
    pub headers: &'a [Header],
    /// Whether it may be on another machine.
    pub allow_remote: bool,
}

/// A running gate.
#[derive(Debug)]
pub struct Running {
    url: String,
    fenced: Fenced,
    /// The same with what `bench` reads with, and without a holder.
    bare: Fenced,
    /// What is refused: a read, and of a database one of `bench`'s own, in case the mark is reset meanwhile.
    refused: Shape,
    path: String,
    writes: bool,
    before: Option<(u64, Option<String>)>,
    /// Whether somebody else has claimed meanwhile.
    is_taken: bool,
    /// How many tokens one visit may take; `None` where the mark may not rise.
    quota: Option<u64>,
}

/// What a gate says of a fence.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    highest: Option<u64>,
    holder: Option<String>,
}

impl State {
    fn read(target: &Target, path: &str, plan: &Plan) -> Result<State, Failure> {
        let request = target.request("GET", path, None, &Body::default());
        let answer = once(target.addr, &request, plan.answer_time).map_err(|error| failure(&error, None))?;
        if answer.status != 200 {
            return Err(Failure::Other(format!("the gate says of the fence: {}", answer.reason())));
        }
        let body = answer.json();
        let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
        Ok(State { highest: number(&body["highest"]), holder: body["holder"].as_str().map(str::to_owned) })
    }
}

impl Asked<'_> {
    /// Whether the mark may be raised as is asked. `visits`: how often it would be.
    fn check(&self, state: &State, visits: u64) -> Result<(), Failure> {
        let Some(by) = self.advance_by else { return Ok(()) };
        if let (Some(holder), false) = (&state.holder, self.depose) {
            let (fence, token) = (self.fence, state.highest.unwrap_or(0));
            let what = "--advance-by would depose it: say --depose if that is meant";
            return Err(Failure::Refused(format!("fence {fence} is held by {holder} (token {token}); {what}")));
        }
        if by < visits {
            let why =
                format!("--advance-by {by} is too few: the mark is raised {visits} times at least, twice a round");
            return Err(Failure::Usage(why));
        }
        Ok(())
    }
}

/// What is sent to it.
struct Shapes {
    write: Shape,
    read: Shape,
    refused: Shape,
}

impl Shapes {
    fn of(asked: &Asked<'_>, plan: &Plan) -> Shapes {
        let Some(sql) = asked.sql else {
            let of = |method: &str, body| Shape {
                method: method.to_owned(),
                path: asked.path.to_owned(),
                body,
                expect: Expect::Success,
            };
            let read = of("GET", Body::default());
            let write = asked.method.map_or_else(|| read.clone(), |method| of(method, Body::text(plan.size)));
            return Shapes { write, refused: read.clone(), read };
        };
        let path = format!("{}/v3/pipeline", asked.path.trim_end_matches('/'));
        let of = |sql: &str| Shape {
            method: "POST".to_owned(),
            path: path.clone(),
            body: Body::sql(sql, plan.size),
            expect: Expect::Sql,
        };
        // Where the statement may write, what is read is another one.
        Shapes { write: of(sql), read: of(if asked.writes { OWN_READ } else { sql }), refused: of(OWN_READ) }
    }
}

impl Running {
    /// Looks at the gate and the fence.
    ///
    /// # Errors
    /// It doesn't answer as expected; the fence has a holder, and the mark would rise.
    pub fn start(asked: &Asked<'_>, plan: &Plan) -> Result<Running, Failure> {
        let bare = Target::parse("--gate", asked.url, asked.headers, asked.allow_remote)?;
        let path = format!("/-/fences/{}", segment(asked.fence));
        let state = State::read(&bare, &path, plan)?;
        let visits = 2 * plan.rounds as u64;
        asked.check(&state, visits)?;
        let Shapes { write, read, refused } = Shapes::of(asked, plan);
        let holder: Header = Header(format!("fencing-holder: {HOLDER}\r\n"));
        let named = Target::parse("--gate", asked.url, &[asked.headers, &[holder]].concat(), asked.allow_remote)?;
        let cpu = asked.pid.map(|pid| {
            CpuClock::of(pid).ok_or_else(|| Failure::Usage(format!("--gate-pid {pid}: there is no such process")))
        });
        let cpu = cpu.transpose()?;
        let fenced = |target, shape| Fenced {
            target,
            cpu,
            fence: asked.fence.clone(),
            shape,
            mark: state.highest.unwrap_or(0),
            stale: Some(STALE),
            last: state.highest.unwrap_or(0).saturating_add(asked.advance_by.unwrap_or(0)),
        };
        let mut running = Running {
            url: asked.url.to_owned(),
            fenced: fenced(named, write.clone()),
            bare: fenced(bare, read),
            refused,
            path,
            writes: asked.writes,
            before: state.highest.map(|highest| (highest, state.holder.clone())),
            is_taken: false,
            quota: asked.advance_by.map(|by| by / visits),
        };
        running.probe(asked, &state, &write, plan)?;
        Ok(running)
    }

    /// Sends one request of each kind that is to be measured, first one that changes nothing.
    fn probe(&mut self, asked: &Asked<'_>, state: &State, write: &Shape, plan: &Plan) -> Result<(), Failure> {
        let hint = |failure| match failure {
            Failure::Other(why) if asked.sql.is_none() => {
                Failure::Other(format!("{why}; a database's requests need --sql, a service's --path"))
            }
            other => other,
        };
        self.bare.probe(Kind::Read, plan.answer_time).map_err(hint)?;
        if asked.writes && state.highest.is_none() {
            // Nobody can write to a fence without a mark; the lowest token does the least.
            self.fenced.claim(1, plan.answer_time)?;
            self.fenced.last = self.fenced.last.max(1);
        }
        for kind in self.lanes().iter().map(|lane| lane.kind) {
            match kind {
                Kind::Refused => self.without_holder(&self.refused).probe(kind, plan.answer_time)?,
                Kind::Admitted => self.without_holder(write).probe(kind, plan.answer_time)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// With the mark itself and no holder, it is admitted whoever holds it, and raises nothing.
    fn without_holder(&self, shape: &Shape) -> Fenced {
        Fenced {
            target: self.bare.target.clone(),
            cpu: self.bare.cpu,
            fence: self.bare.fence.clone(),
            shape: shape.clone(),
            mark: self.fenced.mark,
            stale: Some(STALE),
            last: self.fenced.mark,
        }
    }

    /// Raises the mark no further than this visit may, and only if nobody else has.
    fn advance(&mut self, kind: Kind, plan: &Plan, stop: &Stop) -> Result<Sample, Failure> {
        let state = State::read(&self.bare.target, &self.path, plan)?;
        let (fence, mark, last) = (self.fenced.fence.clone(), self.fenced.mark, self.fenced.last);
        if state.highest.unwrap_or(0) != mark {
            self.is_taken = true;
            let now = state.highest.unwrap_or(0);
            let who = state.holder.map(|holder| format!(" by {holder}")).unwrap_or_default();
            let why = format!("fence {fence} was claimed{who} meanwhile: its mark is {now}, and was {mark}");
            return Err(Failure::Refused(why));
        }
        self.fenced.last = last.min(mark + self.quota.unwrap_or(0));
        // None of the few is spent on warming up.
        let visited = self.fenced.visit(kind, &Plan { warm_up: Duration::ZERO, ..*plan }, stop);
        self.fenced.last = last;
        if visited.is_err() {
            // Whoever ended it should still be told where the mark is now.
            if let Ok(State { highest: Some(highest), holder }) = State::read(&self.bare.target, &self.path, plan) {
                self.is_taken = holder.is_some_and(|holder| holder != HOLDER);
                self.fenced.mark = if self.is_taken { self.fenced.mark } else { highest.max(mark) };
            }
        }
        visited
    }
}

impl Subject for Running {
    fn name(&self) -> String {
        format!("the gate at {}, fence {}", self.url, self.fenced.fence)
    }

    fn unit(&self) -> &'static str {
        if self.writes { "write" } else { "read" }
    }

    fn lanes(&self) -> Vec<Lane> {
        let lane = |kind, what: &str| Lane { kind, what: what.to_owned() };
        let mut lanes = vec![lane(Kind::Read, "reads without a token")];
        if self.writes {
            let what = format!("writes with token {}, the fence's mark", self.fenced.mark);
            lanes.push(lane(Kind::Admitted, if self.quota.is_some() { "writes with the fence's mark" } else { &what }));
        }
        if self.fenced.mark > 1 {
            lanes.push(lane(Kind::Refused, "refused by the gate: a token below the mark"));
        }
        if self.quota.is_some() {
            lanes.push(lane(Kind::Takeover, "a new leader's claim and its first write; one at a time"));
            lanes.push(lane(Kind::Newer, "each write with a newer token; one at a time"));
        }
        lanes
    }

    fn visit(&mut self, kind: Kind, plan: &Plan, stop: &Stop) -> Result<Sample, Failure> {
        match kind {
            Kind::Takeover | Kind::Newer => self.advance(kind, plan, stop),
            Kind::Admitted => self.without_holder(&self.fenced.shape).visit(kind, plan, stop),
            Kind::Refused => self.without_holder(&self.refused).visit(kind, plan, stop),
            _ => self.bare.visit(kind, plan, stop),
        }
    }

    fn tokens(&self) -> Option<Tokens> {
        Some(Tokens {
            fence: self.fenced.fence.to_string(),
            before: self.before.clone(),
            now: self.fenced.mark,
            is_taken: self.is_taken,
            taken: self.writes.then_some(self.fenced.mark),
        })
    }
}
