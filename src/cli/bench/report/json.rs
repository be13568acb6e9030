//! The same as JSON.

use serde_json::{Value, json};

use super::super::Run;
use super::super::load::Pace;
use super::super::load::tally::ns;
use super::super::machine::{Disk, Machine, Noise};
use super::super::rounds::{Outcome, Round};
use super::super::stats::{Interval, Spread};
use super::super::subject::{Kind, Tokens};
use super::super::verdict::{Cost, Verdict};
use super::text::ratio;

/// The quantiles that a curve is told by: each halves what is left above it. At most as far as there are values for.
pub fn quantiles(values: u64) -> Vec<f64> {
    let mut quantiles = vec![0.0];
    let mut above = 1.0;
    while above * values as f64 >= 2.0 {
        // Four steps to each halving.
        above /= 2_f64.powf(0.25);
        quantiles.push(1.0 - above);
    }
    quantiles.push(1.0);
    quantiles
}

/// The whole run.
pub fn render(run: &Run) -> Value {
    let plan = run.plan;
    let (pace, rate) = match plan.pace {
        Pace::Closed => ("closed", None),
        Pace::Open(rate) => ("open", Some(rate)),
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "command": run.command,
        "started_at": run.started_at,
        "took_ms": ns(run.took) / 1_000_000,
        "subject": run.subject,
        "unit": run.unit,
        "settings": {
            "loop": pace,
            "rate": rate,
            "connections": plan.connections,
            "threads": plan.threads,
            "rounds": plan.rounds,
            "more_pairs": run.more_pairs(),
            "time_ms": plan.time.map(|time| time.as_secs_f64() * 1e3),
            "duration_ms": plan.duration.as_secs_f64() * 1e3,
            "warm_up_ms": plan.warm_up.as_secs_f64() * 1e3,
            "size_bytes": plan.size,
        },
        "machine": machine(&run.machine, &run.noise, run.disk.as_ref()),
        "measured": run.outcomes.iter().map(|outcome| one(outcome, run)).collect::<Vec<_>>(),
        "tokens": run.tokens.as_ref().map(tokens),
        "verdict": verdict(&run.verdict),
    })
}

fn machine(machine: &Machine, noise: &Noise, disk: Option<&Disk>) -> Value {
    json!({
        "cpus": machine.cpus,
        "cpu_model": machine.cpu_model,
        "memory_bytes": machine.memory_bytes,
        "os": machine.os,
        "kernel": machine.kernel,
        "arch": machine.arch,
        "disk": disk.map(|disk| json!({ "kind": disk.kind, "sync_us": disk.sync_us.map(spread) })),
        "noise": {
            "load_average": noise.load_average,
            "busy_before": noise.busy_before,
            "busy_after": noise.busy_after,
            "others": noise.others,
            "stolen": noise.stolen,
        },
    })
}

fn one(outcome: &Outcome, run: &Run) -> Value {
    let total = &outcome.total;
    let latency = |name: &str, quantile| (name.to_owned(), json!(outcome.latency_us(quantile)));
    let named = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];
    let figure = |figure: fn(&Round) -> f64| Spread::of(&outcome.each(figure)).map(spread);
    let over = |kind: Kind| ratio(outcome, &run.outcomes, kind, run.plan.pace).map(spread);
    let curve =
        quantiles(total.latency.len()).into_iter().map(|quantile| json!([quantile, outcome.latency_us(quantile)]));
    json!({
        "name": outcome.lane.kind.name(),
        "what": outcome.lane.what,
        "connections": if outcome.lane.kind.is_serial() { 1 } else { run.plan.connections },
        "operations": total.latency.len(),
        "answers": total.answers.iter().map(|(status, count)| (status.to_string(), json!(count))).collect::<serde_json::Map<_, _>>(),
        "unexpected": total.unexpected,
        "broken": total.broken,
        "unfinished": total.unfinished,
        "per_second": figure(|round| round.per_second),
        "latency_us": named.into_iter().map(|(name, quantile)| latency(name, quantile)).collect::<serde_json::Map<_, _>>(),
        "gate_cpu_us": outcome.gate_cpu_us().and_then(|cpu| Spread::of(&cpu)).map(spread),
        "generator_busy": figure(|round| round.busy),
        "over_direct": over(Kind::Direct),
        "over_check_off": over(Kind::Off),
        "rounds": outcome.rounds.iter().map(round).collect::<Vec<_>>(),
        "curve": curve.collect::<Vec<_>>(),
    })
}

fn round(round: &Round) -> Value {
    json!({
        "per_second": round.per_second,
        "p50_us": round.p50_us,
        "p99_us": round.p99_us,
        "gate_cpu_us": round.gate_cpu_us,
        "generator_busy": round.busy,
        "operations": round.operations,
    })
}

fn spread(spread: Spread) -> Value {
    json!({ "median": spread.median, "min": spread.min, "max": spread.max })
}

fn tokens(tokens: &Tokens) -> Value {
    let before = tokens.before.as_ref();
    json!({
        "fence": tokens.fence,
        "before": before.map(|(highest, _)| highest.to_string()),
        "holder_before": before.and_then(|(_, holder)| holder.as_ref()),
        "now": tokens.now.to_string(),
        "taken": tokens.taken.map(|token| token.to_string()),
    })
}

/// The same in a sentence.
pub fn tokens_told(tokens: &Tokens) -> String {
    let Tokens { fence, before, now, is_taken, taken } = tokens;
    let before = before.as_ref().map(|(highest, _)| *highest);
    let raised = match before {
        _ if *is_taken => format!("Fence {fence} was at token {now} when somebody else claimed it."),
        Some(before) if before < *now => format!(
            "Fence {fence} is at token {now}, and was at {before}: a leader with a lower token is refused until an operator \
             resets it (fencegate fences reset {fence} --to {before} --reason …)."
        ),
        None if taken.is_some() => format!("Fence {fence} had no mark, and is at token {now}."),
        _ => format!("Fence {fence} stays at token {now}."),
    };
    match taken {
        Some(taken) if before == Some(*taken) => format!("{raised} Writes were made with token {taken}."),
        _ => raised,
    }
}

fn verdict(verdict: &Verdict) -> Value {
    json!({
        "conclusion": verdict.conclusion.name(),
        "sentence": verdict.sentence,
        "costs": verdict.costs.iter().map(cost).collect::<Vec<_>>(),
        "reasons": verdict.reasons,
        "notes": verdict.notes,
    })
}

fn cost(cost: &Cost) -> Value {
    let Interval { median, low, high, confidence } = cost.percent;
    json!({ "of": cost.of, "percent": median, "low": low, "high": high, "confidence": confidence, "rounds": cost.rounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_goes_as_far_as_there_are_values() {
        assert_eq!(quantiles(0), [0.0, 1.0]);
        let thousand = quantiles(1000);
        assert!(thousand.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(thousand[thousand.len() - 2] > 0.998 && thousand[thousand.len() - 2] < 0.9995);
        assert!(thousand.len() < 50);
    }
}
