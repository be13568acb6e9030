//! What can be concluded from the rounds, and whether anything can.

use super::Plan;
use super::load::Pace;
use super::machine::{Disk, Noise};
use super::report::numbers::{micros, percent, whole};
use super::rounds::{Outcome, of};
use super::stats::{Interval, Spread};
use super::subject::Kind;

/// What the check costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conclusion {
    /// Something: all of the interval is above zero.
    Costs,
    /// Too little to be told from nothing: the interval is narrow, and not above zero.
    TooSmall,
    /// No more than the interval's upper end. The rounds lie too far apart to say whether it is anything at all.
    AtMost,
    /// Nothing was compared, because there is no gate here whose check is off.
    NotCompared,
    /// Nothing can be concluded.
    Inconclusive,
}

impl Conclusion {
    /// Its name, in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Conclusion::Costs => "costs",
            Conclusion::TooSmall => "too small to measure",
            Conclusion::AtMost => "at most",
            Conclusion::NotCompared => "not compared",
            Conclusion::Inconclusive => "inconclusive",
        }
    }
}

/// A cost that is known to this.
#[derive(Debug, Clone)]
pub struct Cost {
    /// Of what, for people.
    pub of: &'static str,
    /// In percent, more than without the check.
    pub percent: Interval,
    /// The same of each round.
    pub rounds: Vec<f64>,
}

/// What is said in the end.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// In a word.
    pub conclusion: Conclusion,
    /// In a sentence or two.
    pub sentence: String,
    /// What the check costs; the first decides.
    pub costs: Vec<Cost>,
    /// Why nothing can be concluded.
    pub reasons: Vec<String>,
    /// What to know besides.
    pub notes: Vec<String>,
}

/// An interval that reaches farther than so many percentage points from its median doesn't tell a cost from none.
const VAGUE_PERCENT: f64 = 5.0;
/// And one that reaches farther than this says nothing.
const USELESS_PERCENT: f64 = 25.0;
/// From here on a thread of the load generator counts as busy all the time.
const BUSY: f64 = 0.9;
/// An open loop that reaches less of its rate than this doesn't reach it.
const RATE_REACHED: f64 = 0.95;

/// One figure of each round over another's of the same round.
pub fn pairs(one: &[f64], other: &[f64]) -> Vec<f64> {
    one.iter().zip(other).map(|(one, other)| one / other).collect()
}

/// How much more each of the rounds took with the check than without, in percent.
pub fn costs(outcomes: &[Outcome], pace: Pace) -> Vec<Cost> {
    let (Some(on), Some(off)) = (of(outcomes, Kind::Admitted), of(outcomes, Kind::Off)) else { return Vec::new() };
    let cost = |what, ratios: Vec<f64>| {
        let rounds: Vec<f64> = ratios.iter().map(|ratio| (ratio - 1.0) * 100.0).collect();
        Interval::of(&rounds).map(|percent| Cost { of: what, percent, rounds })
    };
    let cpu = on
        .gate_cpu_us()
        .zip(off.gate_cpu_us())
        .and_then(|(on, off)| cost("the gate's processor time", pairs(&on, &off)));
    let time = match pace {
        Pace::Closed => {
            cost("the time", pairs(&off.each(|round| round.per_second), &on.each(|round| round.per_second)))
        }
        Pace::Open(_) => {
            cost("the median latency", pairs(&on.each(|round| round.p50_us), &off.each(|round| round.p50_us)))
        }
    };
    cpu.into_iter().chain(time).collect()
}

/// `1.2% ± 0.4%`.
pub fn range(cost: &Cost) -> String {
    format!("{} ± {}", percent(cost.percent.median), percent(cost.percent.plus_minus()))
}

fn shown(cost: &Cost) -> String {
    format!("{} of {}", range(cost), cost.of)
}

/// Why an interval says nothing.
fn says_nothing(cost: &Cost) -> Option<String> {
    let (Interval { low, high, .. }, count) = (cost.percent, cost.rounds.len());
    if !cost.percent.is_sure() {
        Some(format!("{count} rounds are too few to know how far a median can be trusted"))
    } else if high < -VAGUE_PERCENT {
        Some("it took less with the check than without, which is something else's doing".into())
    } else if cost.percent.plus_minus() > USELESS_PERCENT {
        let range = format!("{} to {}", percent(low), percent(high));
        Some(format!("the rounds lie too far apart ({range}) to tell a cost from none"))
    } else {
        None
    }
}

impl Verdict {
    /// Of these outcomes.
    pub fn of(outcomes: &[Outcome], plan: &Plan, noise: &Noise, disk: Option<&Disk>, unit: &str) -> Verdict {
        let costs = costs(outcomes, plan.pace);
        let mut reasons: Vec<String> = outcomes.iter().filter_map(wrong).collect();
        let mut notes = notes(outcomes, plan, disk);
        let is_narrow = |cost: &Cost| cost.percent.is_sure() && cost.percent.plus_minus() <= VAGUE_PERCENT;
        // Other work on the machine comes over both sides of a pair. It makes the interval wider, so a narrow one holds in spite of it.
        match costs.first() {
            Some(cost) if is_narrow(cost) => notes.extend(noise.reasons().into_iter().map(|reason| {
                format!("{reason}: what is said of the check holds, because both sides of each pair had it; the other figures are a busy machine's")
            })),
            _ => reasons.extend(noise.reasons()),
        }
        reasons.extend(costs.first().and_then(says_nothing));
        let conclusion = match costs.first() {
            _ if !reasons.is_empty() => Conclusion::Inconclusive,
            None => Conclusion::NotCompared,
            Some(cost) if cost.percent.low > 0.0 => Conclusion::Costs,
            Some(cost) if is_narrow(cost) => Conclusion::TooSmall,
            Some(_) => Conclusion::AtMost,
        };
        let sentence = sentence(conclusion, &costs, outcomes, unit);
        Verdict { conclusion, sentence, costs, reasons, notes }
    }
}

fn sentence(conclusion: Conclusion, costs: &[Cost], outcomes: &[Outcome], unit: &str) -> String {
    let all = costs.iter().map(shown).collect::<Vec<_>>().join(", and ");
    match conclusion {
        Conclusion::Costs => format!("The check costs {all} for each {unit}."),
        Conclusion::TooSmall => format!("The check costs too little to be measured here: {all} for each {unit}."),
        Conclusion::AtMost => {
            let most = costs.first().map(at_most).unwrap_or_default();
            format!("The check costs {most} for each {unit}; the rounds lie too far apart to say less ({all}).")
        }
        Conclusion::Inconclusive if costs.is_empty() => "Nothing can be concluded from this run.".into(),
        Conclusion::Inconclusive => format!("Nothing can be concluded from this run (the check: {all})."),
        Conclusion::NotCompared => {
            let median = |kind, figure: fn(&super::rounds::Round) -> f64| {
                of(outcomes, kind).and_then(|outcome| Spread::of(&outcome.each(figure))).map(|spread| spread.median)
            };
            let rate =
                median(Kind::Admitted, |round| round.per_second).or(median(Kind::Read, |round| round.per_second));
            let refusal = median(Kind::Refused, |round| round.p50_us);
            let refused = refusal.map(|us| format!("; a stale token is refused in {} (median)", micros(us)));
            format!("The gate answers {} {unit}s a second{}.", whole(rate.unwrap_or(0.0)), refused.unwrap_or_default())
        }
    }
}

fn at_most(cost: &Cost) -> String {
    format!("at most {} of {}", percent(cost.percent.high.max(0.0)), cost.of)
}

/// What went wrong in one of them.
fn wrong(outcome: &Outcome) -> Option<String> {
    let (name, total) = (outcome.lane.kind.name(), &outcome.total);
    if total.unexpected > 0 {
        let statuses: Vec<String> =
            total.answers.iter().map(|(status, count)| format!("{} of {status}", whole(*count as f64))).collect();
        return Some(format!("{name}: not every answer was as expected ({})", statuses.join(", ")));
    }
    (total.broken > 0).then(|| format!("{name}: {} connections broke under a request", whole(total.broken as f64)))
}

fn notes(outcomes: &[Outcome], plan: &Plan, disk: Option<&Disk>) -> Vec<String> {
    let mut notes = Vec::new();
    let busy: Vec<&str> = outcomes
        .iter()
        // A loop without a gate has nothing else to be busy with.
        .filter(|outcome| !outcome.total.answers.is_empty() && outcome.total.busy > BUSY)
        .map(|outcome| outcome.lane.kind.name())
        .collect();
    if !busy.is_empty() {
        let more = "it may be what limits them: try --threads";
        notes.push(format!("the load generator was busy all the time in: {}; {more}", busy.join(", ")));
    }
    // Less than a microsecond for each is no gate at work.
    let is_idle = |outcome: &Outcome| outcome.gate_cpu_us().is_some_and(|cpu| cpu.iter().all(|us| *us < 1.0));
    if outcomes.iter().any(is_idle) {
        notes.push("the process that is taken for the gate did nothing meanwhile: is --gate-pid the gate's?".into());
    }
    if let Pace::Open(rate) = plan.pace {
        let reached = |outcome: &&Outcome| {
            let is_lower =
                Spread::of(&outcome.each(|round| round.per_second)).is_some_and(|s| s.median < rate * RATE_REACHED);
            is_lower && !outcome.lane.kind.is_serial() && !outcome.total.answers.is_empty()
        };
        let slow: Vec<&str> = outcomes.iter().filter(reached).map(|outcome| outcome.lane.kind.name()).collect();
        if !slow.is_empty() {
            let (rate, slow) = (whole(rate), slow.join(", "));
            notes.push(format!(
                "{rate} a second were asked for and not reached in: {slow}; latencies tell of the queue"
            ));
        }
    }
    if let Some(disk) = disk.filter(|disk| disk.is_memory()) {
        notes.push(format!("the databases were on {}, which is memory: name a folder on a disk with --dir", disk.kind));
    }
    notes
}

#[cfg(test)]
mod tests;
