//! Rounds: everything that is measured once, in turn, then again (A B C A B C …), so that what happens to the machine meanwhile
//! happens to all of it.

use super::Plan;
use super::load::Sample;
use super::progress::Progress;
use super::stop::Stop;
use super::subject::{Kind, Lane, Subject, stopped};
use crate::cli::failure::Failure;

/// One visit, in short.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    /// Operations a second.
    pub per_second: f64,
    /// The median of the latencies, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile of the latencies, in microseconds.
    pub p99_us: f64,
    /// Processor time of the gate for each operation, in microseconds.
    pub gate_cpu_us: Option<f64>,
    /// How much of one processor each thread of the load generator took, from 0 to 1.
    pub busy: f64,
    /// How many operations the latencies are of.
    pub operations: u64,
}

/// All rounds of one thing that was measured.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What.
    pub lane: Lane,
    /// Its rounds.
    pub rounds: Vec<Round>,
    /// All of them together.
    pub total: Sample,
}

impl Outcome {
    fn new(lane: Lane) -> Outcome {
        Outcome { lane, rounds: Vec::new(), total: Sample::new() }
    }

    fn add(&mut self, sample: &Sample) {
        let us = |quantile| sample.latency.value_at_quantile(quantile) as f64 / 1e3;
        self.rounds.push(Round {
            per_second: sample.per_second,
            p50_us: us(0.5),
            p99_us: us(0.99),
            gate_cpu_us: sample.gate_cpu_us(),
            busy: sample.busy,
            operations: sample.latency.len(),
        });
        self.total.add(sample);
    }

    /// One figure of each round.
    pub fn each(&self, figure: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(figure).collect()
    }

    /// The gate's processor time of each round, where it is known of all.
    pub fn gate_cpu_us(&self) -> Option<Vec<f64>> {
        self.rounds.iter().map(|round| round.gate_cpu_us).collect()
    }

    /// The latency, in microseconds, that this part of all operations didn't exceed.
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.total.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// The one of this kind.
pub fn of(outcomes: &[Outcome], kind: Kind) -> Option<&Outcome> {
    outcomes.iter().find(|outcome| outcome.lane.kind == kind)
}

/// Runs all rounds.
///
/// # Errors
/// What can't be gone on after; told to stop.
pub fn run(subject: &mut dyn Subject, plan: &Plan, stop: &Stop, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes: Vec<Outcome> = subject.lanes().into_iter().map(Outcome::new).collect();
    for round in 1..=plan.rounds {
        for outcome in &mut outcomes {
            if stop.is_set() {
                return Err(stopped(stop.signal()));
            }
            let last = outcome.rounds.last().map(|round| round.per_second);
            progress.show(round, plan.rounds, outcome.lane.kind.name(), last);
            let sample = subject.visit(outcome.lane.kind, plan, stop)?;
            outcome.add(&sample);
        }
    }
    Ok(outcomes)
}
