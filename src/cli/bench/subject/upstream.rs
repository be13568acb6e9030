//! An HTTP service, directly and through gates that `bench` starts before it.

use std::ffi::OsString;
use std::path::Path;

use super::{Fenced, Kind, Lane, Shape, Subject, failure, own_fence};
use crate::cli::bench::Plan;
use crate::cli::bench::child::OwnGate;
use crate::cli::bench::load::once::once;
use crate::cli::bench::load::{Expect, Sample};
use crate::cli::bench::stop::Stop;
use crate::cli::bench::target::{Body, Header, Target};
use crate::cli::failure::Failure;

/// The token that leads at first; the one below it is stale.
const FIRST: u64 = 2;

/// The service, a gate before it with its check on, and one with its check off.
#[derive(Debug)]
pub struct Upstream {
    url: String,
    writes: bool,
    direct: Fenced,
    on: (OwnGate, Fenced),
    off: (OwnGate, Fenced),
    /// One for claims, where nothing is written: reads carry the token that leads to the service, and no high one is to reach it.
    claims: Option<(OwnGate, Fenced)>,
}

/// What is asked of the service.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Its URL.
    pub url: &'a str,
    /// The path below it.
    pub path: &'a str,
    /// The method of writes; `None` where only reads may be sent.
    pub method: Option<&'a str>,
    /// Lines that every request has.
    pub headers: &'a [Header],
    /// Whether it may be on another machine.
    pub allow_remote: bool,
}

impl Upstream {
    /// Looks at the service, and starts the gates.
    ///
    /// # Errors
    /// The service doesn't answer, or not with success; it is a gate; a gate doesn't start.
    pub fn start(asked: &Asked<'_>, folder: &Path, plan: &Plan, stop: &Stop) -> Result<Upstream, Failure> {
        let Asked { url, path, method, headers, allow_remote } = *asked;
        let target = Target::parse("--upstream", url, headers, allow_remote)?;
        refuse_gate(&target, plan)?;
        let shape = Shape {
            method: method.unwrap_or("GET").to_owned(),
            path: path.to_owned(),
            body: if method.is_some() { Body::text(plan.size) } else { Body::default() },
            expect: Expect::Success,
        };
        let fenced = |target, cpu| Fenced {
            target,
            cpu,
            fence: own_fence(),
            shape: shape.clone(),
            mark: 0,
            stale: None,
            last: u64::MAX >> 1,
        };
        let direct = fenced(target, None);
        direct.probe(Kind::Direct, plan.answer_time)?;
        let gate = |name: &str, more: &[&str]| {
            let mut args: Vec<OsString> = vec!["--upstream".into(), url.into(), "--fence".into(), "bench".into()];
            args.extend(more.iter().map(OsString::from));
            let gate = OwnGate::start(folder, name, &args, stop)?;
            let mut fenced = fenced(Target::own(gate.addr, headers), gate.cpu);
            fenced.claim(FIRST, plan.answer_time)?;
            fenced.probe(Kind::Admitted, plan.answer_time)?;
            Ok::<_, Failure>((gate, fenced))
        };
        let (on, off) = (gate("gate", &[])?, gate("unchecked", &["--no-enforce"])?);
        on.1.probe(Kind::Refused, plan.answer_time)?;
        let claims = if method.is_some() { None } else { Some(gate("claims", &[])?) };
        Ok(Upstream { url: url.to_owned(), writes: method.is_some(), direct, on, off, claims })
    }
}

/// A gate takes the tokens that reach it for claims: tokens of a benchmark would depose its leaders.
fn refuse_gate(target: &Target, plan: &Plan) -> Result<(), Failure> {
    let request = target.root().request("GET", "/-/fences/fencegate-bench", None, &Body::default());
    let answer = once(target.addr, &request, plan.answer_time).map_err(|error| failure(&error, None))?;
    let body = answer.json();
    let is_gate = body["type"].as_str().is_some_and(|name| name.starts_with("urn:fencegate:"))
        || body["fence"].is_string() && !body["highest"].is_null();
    if !is_gate {
        return Ok(());
    }
    let why = "this is a gate itself, and the tokens of a benchmark would depose its leaders; measure it with --gate";
    Err(Failure::Usage(format!("--upstream: {why}")))
}

impl Subject for Upstream {
    fn name(&self) -> String {
        format!("the HTTP service at {}", self.url)
    }

    fn unit(&self) -> &'static str {
        if self.writes { "write" } else { "read" }
    }

    fn processes(&self) -> Vec<u32> {
        [&self.on, &self.off].into_iter().chain(&self.claims).map(|(gate, _)| gate.pid()).collect()
    }

    fn lanes(&self) -> Vec<Lane> {
        let lane = |kind, what: &str| Lane { kind, what: what.to_owned() };
        let unit = self.unit();
        let mut lanes = vec![
            lane(Kind::Direct, &format!("{unit}s sent to the service itself")),
            lane(Kind::Off, "through a gate that checks no token"),
            lane(Kind::Admitted, "through the gate, with the token that leads"),
            lane(Kind::Refused, "refused by the gate: the token of a deposed leader"),
        ];
        if self.writes {
            lanes.push(lane(Kind::Takeover, "a new leader's claim and its first write; one at a time"));
            lanes.push(lane(Kind::Newer, "each write with a newer token; one at a time"));
        } else {
            lanes.push(lane(Kind::Claim, "a new leader's claim, without a write; one at a time"));
        }
        lanes
    }

    fn visit(&mut self, kind: Kind, plan: &Plan, stop: &Stop) -> Result<Sample, Failure> {
        let (gate, fenced) = match kind {
            Kind::Direct => return self.direct.visit(kind, plan, stop),
            Kind::Off => &mut self.off,
            Kind::Claim => self.claims.as_mut().unwrap_or(&mut self.on),
            _ => &mut self.on,
        };
        let visited = fenced.visit(kind, plan, stop);
        if visited.is_err() && !stop.is_set() && !gate.is_running() {
            return Err(gate.failed("has ended"));
        }
        visited
    }
}
