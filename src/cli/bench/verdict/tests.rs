//! What is concluded from rounds that are made up.

use std::time::Duration;

use super::*;
use crate::cli::bench::load::Sample;
use crate::cli::bench::rounds::Round;
use crate::cli::bench::subject::Lane;

fn outcome(kind: Kind, rates: &[f64], cpus: &[f64]) -> Outcome {
    let rounds = rates.iter().zip(cpus).map(|(rate, cpu)| Round {
        per_second: *rate,
        p50_us: 1e6 / rate,
        p99_us: 3e6 / rate,
        gate_cpu_us: Some(*cpu),
        busy: 0.5,
        operations: 100,
    });
    let mut total = Sample::new();
    total.answers.insert(200, 100);
    Outcome { lane: Lane { kind, what: String::new() }, rounds: rounds.collect(), total }
}

fn plan(pace: Pace, rounds: usize) -> Plan {
    let time = Duration::from_millis(500);
    Plan {
        connections: 64,
        threads: 1,
        pace,
        warm_up: time,
        duration: time,
        rounds,
        time: None,
        size: 128,
        answer_time: time,
    }
}

/// Seven rounds of a gate whose check is off at 100 a second and 20 µs, and one with these parts of it.
fn compared(parts: [f64; 7]) -> Vec<Outcome> {
    let off = outcome(Kind::Off, &[100.0; 7], &[20.0; 7]);
    let on = outcome(Kind::Admitted, &parts.map(|part| 100.0 / part), &parts.map(|part| 20.0 * part));
    vec![off, on]
}

fn judged(outcomes: &[Outcome], noise: &Noise) -> Verdict {
    Verdict::of(outcomes, &plan(Pace::Closed, outcomes[0].rounds.len()), noise, None, "write")
}

#[test]
fn a_cost_beyond_its_spread_is_told() {
    let verdict = judged(&compared([1.02, 1.03, 1.025, 1.01, 1.02, 1.03, 1.02]), &Noise::default());
    assert_eq!(verdict.conclusion, Conclusion::Costs);
    let expected =
        "The check costs 2.0% ± 1.0% of the gate's processor time, and 2.0% ± 1.0% of the time for each write.";
    assert_eq!(verdict.sentence, expected);
}

#[test]
fn a_narrow_spread_around_nothing_is_too_small_to_measure() {
    let verdict = judged(&compared([1.0, 0.99, 1.01, 1.005, 0.995, 1.0, 1.002]), &Noise::default());
    assert_eq!(verdict.conclusion, Conclusion::TooSmall);
    assert!(
        verdict.sentence.starts_with("The check costs too little to be measured here: 0.0% ± 1.0%"),
        "{}",
        verdict.sentence
    );
}

#[test]
fn rounds_far_apart_still_tell_what_it_costs_at_most() {
    let parts = [1.02, 0.96, 1.08, 1.01, 0.97, 1.06, 1.03];
    let quiet = judged(&compared(parts), &Noise::default());
    assert_eq!((quiet.conclusion, quiet.reasons.len()), (Conclusion::AtMost, 0));
    let expected = "The check costs at most 8.0% of the gate's processor time for each write; the rounds lie too far apart to say \
         less (2.0% ± 6.0% of the gate's processor time, and 2.0% ± 6.0% of the time).";
    assert_eq!(quiet.sentence, expected);
    let loud = judged(&compared(parts), &Noise { others: Some(0.4), ..Noise::default() });
    assert_eq!(loud.conclusion, Conclusion::Inconclusive, "neither the rounds nor the machine speak for it");
    assert!(loud.reasons[0].contains("other processes took 40%"), "{:?}", loud.reasons);
}

#[test]
fn what_noise_could_have_done_is_inconclusive() {
    let parts = [1.02, 0.8, 1.3, 1.01, 0.97, 1.2, 1.03];
    let wide = judged(&compared(parts), &Noise::default());
    assert_eq!(wide.conclusion, Conclusion::Inconclusive);
    assert!(wide.reasons[0].contains("too far apart (-20.0% to 30.0%)"), "{:?}", wide.reasons);
    // Rounds that agree in spite of all the noise tell as much as those without it.
    let clear = compared([1.02, 1.03, 1.025, 1.01, 1.02, 1.03, 1.02]);
    let loud = judged(&clear, &Noise { others: Some(0.4), ..Noise::default() });
    assert_eq!(loud.conclusion, Conclusion::Costs);
    assert!(loud.notes.iter().any(|note| note.contains("a busy machine's")), "{:?}", loud.notes);
    // What isn't a comparison of pairs has no such protection.
    let alone = [outcome(Kind::Read, &[41_000.0; 5], &[20.0; 5])];
    assert_eq!(judged(&alone, &Noise { others: Some(0.4), ..Noise::default() }).conclusion, Conclusion::Inconclusive);
    let hardly = judged(&compared([0.99; 7]), &Noise::default());
    assert_eq!(hardly.conclusion, Conclusion::TooSmall, "less by a percent is something else's doing, and no cost");
    let cheaper = judged(&compared([0.9; 7]), &Noise::default());
    assert_eq!(cheaper.conclusion, Conclusion::Inconclusive, "a check that makes it faster");
    let mut few = clear.clone();
    few.iter_mut().for_each(|outcome| outcome.rounds.truncate(4));
    assert_eq!(judged(&few, &Noise::default()).conclusion, Conclusion::Inconclusive);
    let mut wrong = clear;
    wrong[1].total.unexpected = 3;
    wrong[1].total.answers.insert(503, 3);
    let wrong = judged(&wrong, &Noise::default());
    assert_eq!(wrong.reasons, ["admitted: not every answer was as expected (100 of 200, 3 of 503)"]);
}

#[test]
fn in_an_open_loop_latencies_are_compared_and_a_rate_that_is_not_reached_is_told() {
    let outcomes = compared([1.02, 1.03, 1.025, 1.01, 1.02, 1.03, 1.02]);
    let verdict = Verdict::of(&outcomes, &plan(Pace::Open(200.0), 7), &Noise::default(), None, "read");
    assert!(verdict.sentence.contains("of the median latency for each read"), "{}", verdict.sentence);
    assert!(
        verdict
            .notes
            .iter()
            .any(|note| note.contains("200 a second were asked for and not reached in: check off, admitted"))
    );
}

#[test]
fn a_gate_without_its_check_off_is_not_compared() {
    let outcomes = [outcome(Kind::Read, &[41_000.0; 5], &[20.0; 5]), outcome(Kind::Refused, &[1000.0; 5], &[9.0; 5])];
    let verdict = Verdict::of(&outcomes, &plan(Pace::Closed, 5), &Noise::default(), None, "read");
    assert_eq!(verdict.conclusion, Conclusion::NotCompared);
    let expected = "The gate answers 41,000 reads a second; a stale token is refused in 1.00 ms (median).";
    assert_eq!(verdict.sentence, expected);
}
