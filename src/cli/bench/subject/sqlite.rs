//! A database of `bench`'s own, in its temporary folder.

use std::ffi::OsString;
use std::path::Path;

use super::{Fenced, Kind, Lane, Shape, Subject, failure, own_fence};
use crate::cli::bench::Plan;
use crate::cli::bench::child::OwnGate;
use crate::cli::bench::load::once::once;
use crate::cli::bench::load::{Expect, Sample};
use crate::cli::bench::plain::{CLEAR, Plain, TABLE, WRITE};
use crate::cli::bench::stop::Stop;
use crate::cli::bench::target::{Body, Target};
use crate::cli::failure::Failure;

const PIPELINE: &str = "/v3/pipeline";
/// The token that leads at first; the one below it is stale.
const FIRST: u64 = 2;

/// A gate with its check on, one with its check off, and two databases without any.
#[derive(Debug)]
pub struct Sqlite {
    on: (OwnGate, Fenced),
    off: (OwnGate, Fenced),
    plain: Plain,
    batched: Plain,
    batch: usize,
}

impl Sqlite {
    /// Makes all of it.
    ///
    /// # Errors
    /// A gate doesn't start; a database can't be made.
    pub fn start(folder: &Path, plan: &Plan, stop: &Stop) -> Result<Sqlite, Failure> {
        let gate = |name: &str, more: &[&str]| {
            let file: OsString = folder.join(format!("{name}.db")).into();
            let mut args: Vec<OsString> = vec!["--sqlite".into(), file, "--fence".into(), "bench".into()];
            args.extend(more.iter().map(OsString::from));
            let gate = OwnGate::start(folder, name, &args, stop)?;
            let shape = Shape {
                method: "POST".into(),
                path: PIPELINE.into(),
                body: Body::sql(WRITE, plan.size),
                expect: Expect::Sql,
            };
            let target = Target::own(gate.addr, &[]);
            let mut fenced =
                Fenced { target, cpu: gate.cpu, fence: own_fence(), shape, mark: 0, stale: None, last: u64::MAX >> 1 };
            fenced.claim(FIRST, plan.answer_time)?;
            run(&fenced, TABLE, plan)?;
            fenced.probe(Kind::Admitted, plan.answer_time)?;
            Ok::<_, Failure>((gate, fenced))
        };
        let (on, off) = (gate("gate", &[])?, gate("unchecked", &["--no-enforce"])?);
        on.1.probe(Kind::Refused, plan.answer_time)?;
        let plain = |name: &str| Plain::make(&folder.join(name), plan.size).map_err(|error| failure(&error, None));
        Ok(Sqlite { on, off, plain: plain("plain.db")?, batched: plain("batched.db")?, batch: plan.connections })
    }
}

/// Runs a statement through a gate.
fn run(fenced: &Fenced, sql: &str, plan: &Plan) -> Result<(), Failure> {
    let request = fenced.target.request("POST", PIPELINE, Some(fenced.mark), &Body::sql(sql, 0));
    let answer = once(fenced.target.addr, &request, plan.answer_time).map_err(|error| failure(&error, None))?;
    let is_done = answer.status == 200 && !Expect::Sql.is_spoilt(&answer.body);
    if is_done { Ok(()) } else { Err(Failure::Other(format!("{sql}: {}", answer.reason()))) }
}

impl Subject for Sqlite {
    fn name(&self) -> String {
        "a SQLite database made for this run".into()
    }

    fn unit(&self) -> &'static str {
        "write"
    }

    fn is_own(&self) -> bool {
        true
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.on.0.pid(), self.off.0.pid()]
    }

    fn lanes(&self) -> Vec<Lane> {
        let lane = |kind, what: &str| Lane { kind, what: what.to_owned() };
        vec![
            lane(Kind::Direct, "a loop in one process without any gate, one commit for each write"),
            lane(Kind::Batched, &format!("the same loop, {} writes in each commit", self.batch)),
            lane(Kind::Off, "through a gate that checks no token"),
            lane(Kind::Admitted, "through the gate, with the token that leads"),
            lane(Kind::Refused, "refused by the gate: the token of a deposed leader"),
            lane(Kind::Takeover, "a new leader's claim and its first write; one at a time"),
            lane(Kind::Newer, "each write with a newer token; one at a time"),
        ]
    }

    fn visit(&mut self, kind: Kind, plan: &Plan, stop: &Stop) -> Result<Sample, Failure> {
        let plain = |plain: &Plain, batch| {
            plain.run(batch, plan.warm_up, plan.duration, stop).map_err(|error| failure(&error, Some(stop)))
        };
        let (gate, fenced) = match kind {
            Kind::Direct => return plain(&self.plain, 1),
            Kind::Batched => return plain(&self.batched, self.batch),
            Kind::Off => &mut self.off,
            _ => &mut self.on,
        };
        let visited = run(fenced, CLEAR, plan).and_then(|()| fenced.visit(kind, plan, stop));
        if visited.is_err() && !stop.is_set() && !gate.is_running() {
            return Err(gate.failed("has ended"));
        }
        visited
    }
}
