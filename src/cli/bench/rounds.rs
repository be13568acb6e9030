//! Rounds: everything that is measured once, in turn, then again the other way round (A B C C B A A B C …), so that what happens to the
//! machine meanwhile, and what is left over from what was measured before, happens to all of it.
//!
//! What is compared in the end, a gate with its check on and one with its check off, then goes on by itself until the difference is
//! known well enough or the time is over. **When to stop is told by how wide the interval is, never by where it lies**: stopping as soon
//! as there is something to be seen would see things that aren't there.

use std::time::{Duration, Instant};

use super::Plan;
use super::load::Sample;
use super::progress::Progress;
use super::stop::Stop;
use super::subject::{Kind, Lane, Subject, stopped};
use super::verdict::{Cost, costs};
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

/// A difference that is known to so many percentage points isn't measured any further.
const PRECISE_PERCENT: f64 = 1.0;

/// What is compared: the check off, and on.
const COMPARED: [Kind; 2] = [Kind::Off, Kind::Admitted];

/// How long all rounds will take at most, without what is between them.
pub fn expected(plan: &Plan, lanes: &[Lane]) -> Duration {
    let visits = u32::try_from(plan.rounds * lanes.len()).unwrap_or(u32::MAX);
    let least = (plan.warm_up + plan.duration) * visits;
    let is_compared = COMPARED.iter().all(|kind| lanes.iter().any(|lane| lane.kind == *kind));
    plan.time.filter(|_| is_compared).map_or(least, |time| time.max(least))
}

/// Runs all rounds.
///
/// # Errors
/// What can't be gone on after; told to stop.
pub fn run(subject: &mut dyn Subject, plan: &Plan, stop: &Stop, progress: &Progress) -> Result<Vec<Outcome>, Failure> {
    let begun = Instant::now();
    let mut outcomes: Vec<Outcome> = subject.lanes().into_iter().map(Outcome::new).collect();
    let all: Vec<usize> = (0..outcomes.len()).collect();
    let mut visit = |round: usize, outcomes: &mut Vec<Outcome>, order: &[usize]| {
        let turned: Vec<usize> = order.iter().rev().copied().collect();
        for index in if round % 2 == 1 { order } else { &turned } {
            if stop.is_set() {
                return Err(stopped(stop.signal()));
            }
            let known = costs(outcomes, plan.pace).into_iter().next().filter(|cost| cost.percent.is_sure());
            let outcome = &mut outcomes[*index];
            let last = outcome.rounds.last().map(|round| round.per_second);
            progress.show(round, outcome.lane.kind.name(), last, known.as_ref());
            outcome.add(&subject.visit(outcome.lane.kind, plan, stop)?);
        }
        Ok(())
    };
    for round in 1..=plan.rounds {
        visit(round, &mut outcomes, &all)?;
    }
    let compared: Vec<usize> =
        all.iter().copied().filter(|index| COMPARED.contains(&outcomes[*index].lane.kind)).collect();
    let Some(time) = plan.time.filter(|_| compared.len() == COMPARED.len()) else { return Ok(outcomes) };
    let mut round = plan.rounds;
    while begun.elapsed() + (plan.warm_up + plan.duration) * 2 <= time && !is_precise(&costs(&outcomes, plan.pace)) {
        round += 1;
        visit(round, &mut outcomes, &compared)?;
    }
    Ok(outcomes)
}

/// Whether what decides is known well enough.
fn is_precise(costs: &[Cost]) -> bool {
    costs.first().is_none_or(|cost| cost.percent.is_sure() && cost.percent.plus_minus() <= PRECISE_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::load::Pace;

    /// Takes no time, and gives the figures that it is told to.
    struct Made {
        kinds: Vec<Kind>,
        visited: Vec<Kind>,
        /// How far the gate whose check is on is from the other, in every second of its first rounds.
        apart: f64,
    }

    impl Subject for Made {
        fn name(&self) -> String {
            "made up".into()
        }

        fn unit(&self) -> &'static str {
            "write"
        }

        fn lanes(&self) -> Vec<Lane> {
            self.kinds.iter().map(|kind| Lane { kind: *kind, what: String::new() }).collect()
        }

        fn visit(&mut self, kind: Kind, _: &Plan, _: &Stop) -> Result<Sample, Failure> {
            let before = self.visited.iter().filter(|visited| **visited == kind).count();
            self.visited.push(kind);
            let is_apart = kind == Kind::Admitted && before % 2 == 1 && before < 9;
            let busy = if is_apart { 1.0 + self.apart } else { 1.0 };
            Ok(Sample { per_second: 1000.0, gate_busy: Some(busy), ..Sample::new() })
        }
    }

    fn visits(kinds: &[Kind], apart: f64, time: Option<Duration>) -> Vec<Kind> {
        let mut made = Made { kinds: kinds.into(), visited: Vec::new(), apart };
        let no = Duration::ZERO;
        let plan = Plan {
            connections: 1,
            threads: 1,
            pace: Pace::Closed,
            warm_up: no,
            duration: no,
            rounds: 7,
            time,
            size: 1,
            answer_time: no,
        };
        run(&mut made, &plan, &Stop::default(), &Progress::new()).unwrap();
        made.visited
    }

    const ALL: [Kind; 3] = [Kind::Direct, Kind::Off, Kind::Admitted];

    #[test]
    fn each_round_is_the_one_before_turned_round() {
        let visited = visits(&ALL, 0.0, None);
        assert_eq!(visited[..6], [Kind::Direct, Kind::Off, Kind::Admitted, Kind::Admitted, Kind::Off, Kind::Direct]);
        assert_eq!(visited.len(), 21);
    }

    #[test]
    fn it_goes_on_with_the_pair_until_the_difference_is_known_or_the_time_is_over() {
        let time = Some(Duration::from_secs(600));
        assert_eq!(visits(&ALL, 0.005, time).len(), 21, "half a point apart: known after seven rounds");
        let wide = visits(&ALL, 0.2, time);
        assert!(wide.len() > 21 && wide.len() % 2 == 1, "{}", wide.len());
        assert!(wide[21..].iter().all(|kind| COMPARED.contains(kind)));
        assert_eq!(visits(&ALL, 0.2, Some(Duration::ZERO)).len(), 21, "the time is over");
        assert_eq!(visits(&ALL, 0.2, None).len(), 21, "exactly as many as were asked for");
        assert_eq!(visits(&[Kind::Read, Kind::Refused], 0.2, time).len(), 14, "nothing is compared");
    }
}
