//! The table, for a terminal of 80 columns.

use std::io::Write;

use super::super::load::Pace;
use super::super::rounds::{Outcome, of};
use super::super::stats::Spread;
use super::super::subject::Kind;
use super::super::verdict::{Conclusion, pairs};
use super::super::{Plan, Run};
use super::numbers::{bytes, micros, short, whole, within};

/// Columns of the terminal.
const COLUMNS: usize = 80;
/// Of each column of the table.
const WIDTHS: [usize; 8] = [15, 10, 6, 9, 9, 9, 8, 7];

/// Prints the table. `colour`: whether the conclusion may be coloured.
///
/// # Errors
/// An output that can't be written to.
pub fn print(out: &mut dyn Write, run: &Run, colour: bool) -> std::io::Result<()> {
    for line in wrapped(&format!("{}: {}", run.subject, settings(run)), 0) {
        writeln!(out, "{line}")?;
    }
    writeln!(out)?;
    let of = if matches!(run.plan.pace, Pace::Closed) { "rate" } else { "latency" };
    row(out, &["", "", "rounds", "median", "99% are", "gate's", of, of])?;
    row(out, &["", "a second", "within", "latency", "below", "CPU each", "/direct", "/off"])?;
    for outcome in &run.outcomes {
        let cells = cells(outcome, run);
        row(out, &cells.each_ref().map(String::as_str))?;
    }
    writeln!(out)?;
    for outcome in &run.outcomes {
        let line = format!("{:<17}{}", outcome.lane.kind.name(), outcome.lane.what);
        for line in wrapped(&line, 17) {
            writeln!(out, "{line}")?;
        }
    }
    writeln!(out)?;
    if let Some(tokens) = &run.tokens {
        for line in wrapped(&super::json::tokens_told(tokens), 0) {
            writeln!(out, "{line}")?;
        }
        writeln!(out)?;
    }
    for note in &run.verdict.notes {
        for line in wrapped(&format!("Note: {note}."), 6) {
            writeln!(out, "{line}")?;
        }
    }
    writeln!(out, "Each thread of the load generator took up to {:.0}% of a processor.", run.busiest() * 100.0)?;
    for line in conclusion(run, colour) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn conclusion(run: &Run, colour: bool) -> Vec<String> {
    let verdict = &run.verdict;
    let is_inconclusive = verdict.conclusion == Conclusion::Inconclusive;
    let text = if is_inconclusive {
        format!("INCONCLUSIVE: {}. {}", verdict.reasons.join("; "), verdict.sentence)
    } else {
        verdict.sentence.clone()
    };
    let mut lines = wrapped(&text, 0);
    if colour {
        let code = if is_inconclusive { "33" } else { "1" };
        lines.iter_mut().for_each(|line| *line = format!("\x1b[{code}m{line}\x1b[0m"));
    }
    lines
}

/// How it was measured, in a sentence.
pub fn settings(run: &Run) -> String {
    let Plan { connections, rounds, duration, size, .. } = run.plan;
    let s = if *connections == 1 { "" } else { "s" };
    let pace = match run.plan.pace {
        Pace::Closed => "each sending as soon as it is answered".to_owned(),
        Pace::Open(rate) => format!("{} requests a second due whatever is answered", whole(rate)),
    };
    let size = bytes(*size as u64);
    let more = match run.more_pairs() {
        0 => String::new(),
        more => format!(" (and {more} more of what is compared)"),
    };
    format!("{rounds} rounds of {duration:?} each{more}, {connections} connection{s}, {pace}, values of {size}")
}

fn cells(outcome: &Outcome, run: &Run) -> [String; 8] {
    let spread = |values: &[f64]| Spread::of(values);
    let rates = outcome.each(|round| round.per_second);
    let rate = spread(&rates);
    let cpu = outcome.gate_cpu_us().and_then(|cpu| spread(&cpu));
    let none = || "-".to_owned();
    let over =
        |kind| ratio(outcome, &run.outcomes, kind, run.plan.pace).map_or_else(none, |spread| short(spread.median));
    let latency = |figure: fn(&super::super::rounds::Round) -> f64| {
        spread(&outcome.each(figure)).map_or_else(none, |spread| micros(spread.median))
    };
    [
        outcome.lane.kind.name().to_owned(),
        rate.map_or_else(none, |rate| whole(rate.median)),
        rate.map_or_else(none, |rate| within(rate.relative())),
        latency(|round| round.p50_us),
        latency(|round| round.p99_us),
        cpu.map_or_else(none, |cpu| micros(cpu.median)),
        over(Kind::Direct),
        over(Kind::Off),
    ]
}

/// How much one is of another: of rates in a closed loop, of median latencies in an open one. `None` where there is nothing to
/// compare, or one of them has a single connection.
pub fn ratio(outcome: &Outcome, outcomes: &[Outcome], kind: Kind, pace: Pace) -> Option<Spread> {
    let other = of(outcomes, kind).filter(|_| !outcome.lane.kind.is_serial())?;
    // A loop without a gate knows no rate to keep.
    let is_loop = |outcome: &Outcome| outcome.total.answers.is_empty();
    match pace {
        Pace::Closed => {
            let rate = |outcome: &Outcome| outcome.each(|round| round.per_second);
            Spread::of(&pairs(&rate(outcome), &rate(other)))
        }
        Pace::Open(_) if is_loop(outcome) || is_loop(other) => None,
        Pace::Open(_) => {
            let latency = |outcome: &Outcome| outcome.each(|round| round.p50_us);
            Spread::of(&pairs(&latency(outcome), &latency(other)))
        }
    }
}

fn row(out: &mut dyn Write, cells: &[&str; 8]) -> std::io::Result<()> {
    let mut line = format!("{:<width$}", cells[0], width = WIDTHS[0]);
    for (cell, width) in cells.iter().zip(WIDTHS).skip(1) {
        line.push_str(&format!(" {cell:>width$}"));
    }
    writeln!(out, "{}", line.trim_end())
}

/// Breaks a text into lines of 80 columns, those after the first set in by so much.
pub fn wrapped(text: &str, indent: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.trim().is_empty() && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent) + word));
        } else {
            if !line.is_empty() || !lines.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_and_columns_add_up() {
        assert_eq!(WIDTHS.iter().sum::<usize>() + WIDTHS.len() - 1, COLUMNS);
        let text = format!("{:<17}{}", "name", "word ".repeat(40));
        let lines = wrapped(text.trim_end(), 17);
        assert!(lines.len() > 2 && lines.iter().all(|line| line.chars().count() <= COLUMNS));
        assert!(lines[1].starts_with(&" ".repeat(17)) && lines[1].as_bytes()[17] == b'w', "{lines:?}");
        assert!(lines[0].starts_with("name             word word"), "{lines:?}");
        assert_eq!(wrapped("short", 3), ["short"]);
    }
}
