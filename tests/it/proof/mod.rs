//! The promise *drained*, attacked: writers with interleaved terms, an upstream that breaks, delays and applies late, and a gate that
//! is killed with SIGKILL, started again, stopped and woken up, while the upstream is killed, too.
//!
//! The judge is the upstream's own log of what it applied. With `on_unknown = "proceed"`, with the check switched off, and with a
//! `settle` that is too short, the same harness has to find a violation.
//!
//! `FENCEGATE_PROOF_SECONDS` says for how long, `FENCEGATE_PROOF_SEED` repeats the dice of a run that failed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::gate::LONG;
use crate::process::{Client, Gate};
use crate::upstream::hostile::Hostile;
use crate::upstream::{self, pass_time};

mod judge;
mod world;

use judge::{Note, Told, judge};
use world::{Dice, World};

/// What the upstream applies later than this after a request came, it doesn't apply. Far below [`Rules::settle`] as it is used where
/// the promise has to hold: between them lies what the scheduler of a busy machine may do to either process.
const LATE_MS: u64 = 400;

/// How the gate is configured, and for how long it is attacked.
struct Rules {
    settle: &'static str,
    more: &'static str,
    seconds: u64,
    /// Whether processes are killed and stopped.
    is_rough: bool,
}

const SOUND: Rules = Rules { settle: "1500ms", more: "", seconds: 8, is_rough: true };

/// What became of a run.
struct Report {
    notes: Vec<Note>,
    wrong: Vec<String>,
    deeds: Deeds,
    late: usize,
}

/// How often each thing was done.
#[derive(Debug, Default)]
struct Deeds {
    gate_kills: usize,
    gate_stops: usize,
    upstream_kills: usize,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|number| number.parse().ok())
}

fn seed() -> u64 {
    // Twelve digits are enough, and can be copied by hand.
    let any = || RandomState::new().build_hasher().finish() % 1_000_000_000_000;
    number("FENCEGATE_PROOF_SEED").unwrap_or_else(any)
}

fn configuration(upstream: &Hostile, rules: &Rules) -> String {
    let resource = |name: &str, protocol: &str| {
        format!(
            "[[resource]]\nname = \"{name}\"\nkind = \"http\"\npath = \"/{name}\"\nupstream = \"{}/{name}\"\n\
             fence = \"{name}/{{1}}\"\nprotocol = \"{protocol}\"\ndrain = \"200ms\"\nsettle = \"{}\"\n\
             answer_time = \"2s\"\n{}\n",
            upstream.url(),
            rules.settle,
            rules.more
        )
    };
    format!("{}\n{}", resource("one", "http1"), resource("two", "http2"))
}

/// Runs writers against the gate.
fn run(dir: &Path, rules: &Rules, seed: u64) -> Report {
    let mut upstream = Hostile::start(dir);
    let gate = upstream::gate(dir, &configuration(&upstream, rules));
    let world = &World::new();
    let mut dice = Dice::new(seed);
    let mut deeds = Deeds::default();
    let (notes, mut wrong) = std::thread::scope(|scope| {
        let writers: Vec<_> = world
            .fences
            .iter()
            .flat_map(|fence| [fence, fence])
            .map(|fence| {
                let dice = Dice::new(dice.roll(u64::MAX));
                scope.spawn(move || world.writer(fence, dice))
            })
            .collect();
        // Whatever happens here, the writers must end, or the failure would never be told.
        let stop = world.stop_when_dropped();
        world.set(Some(gate.data));
        let mut wrong = Vec::new();
        let gate = attack(dir, rules, world, gate, &mut upstream, &mut dice, &mut deeds, &mut wrong);
        drop(stop);
        let mut notes = Vec::new();
        for writer in writers {
            let (more, faults) = writer.join().expect("the writer didn't panic");
            notes.extend(more);
            wrong.extend(faults);
        }
        wrong.extend(check_marks(world, &gate, &upstream));
        everybody_advances(world, &gate);
        (notes, wrong)
    });
    let applied = upstream.applied();
    wrong.extend(judge(&applied, &notes));
    let late = applied.iter().filter(|applied| applied.is_late).count();
    Report { notes, wrong, deeds, late }
}

/// The time of the run: now and then something happens to the gate or the upstream.
#[expect(clippy::too_many_arguments, reason = "all that there is")]
fn attack(
    dir: &Path,
    rules: &Rules,
    world: &World,
    mut gate: Gate,
    upstream: &mut Hostile,
    dice: &mut Dice,
    deeds: &mut Deeds,
    wrong: &mut Vec<String>,
) -> Gate {
    let started = Instant::now();
    let seconds =
        if rules.is_rough { number("FENCEGATE_PROOF_SECONDS").unwrap_or(rules.seconds) } else { rules.seconds };
    while started.elapsed() < Duration::from_secs(seconds) {
        pass_time(100 + dice.roll(700));
        assert!(gate.is_running(), "the gate ended by itself");
        match dice.roll(5) {
            _ if !rules.is_rough => {}
            0 | 1 => {
                world.set(None);
                gate.kill();
                deeds.gate_kills += 1;
                gate = upstream::restart(dir);
                wrong.extend(check_marks(world, &gate, upstream));
                world.set(Some(gate.data));
            }
            2 => {
                gate.signal(Signal::STOP);
                pass_time(dice.roll(800));
                gate.signal(Signal::CONT);
                deeds.gate_stops += 1;
            }
            3 => {
                upstream.kill();
                deeds.upstream_kills += 1;
                pass_time(dice.roll(300));
                upstream.restart();
            }
            _ => {}
        }
    }
    gate
}

/// No mark is below what was told of it, nor below what was applied with it.
fn check_marks(world: &World, gate: &Gate, upstream: &Hostile) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut client = gate.client();
    for fence in &world.fences {
        let told = fence.highest_told.load(Ordering::SeqCst);
        let applied = upstream.tokens(&fence.name).into_iter().max().unwrap_or(0);
        let state = client.get(&fence.state_path()).json();
        let mark = state["highest"].as_str().map_or(0, |mark| mark.parse().expect("a number"));
        if mark < told.max(applied) {
            wrong
                .push(format!("fence {}: the mark is {mark}, after {told} was told and {applied} applied", fence.name));
        }
    }
    wrong
}

/// Every fence lets a newer leader in before long.
fn everybody_advances(world: &World, gate: &Gate) {
    let started = Instant::now();
    let mut client = gate.client();
    for fence in &world.fences {
        let term = fence.next_term().to_string();
        loop {
            let path = format!("{}/claim", fence.state_path());
            let answer = client.request("POST", &path, &[("fencing-token", &term)], b"").expect("an answer");
            if answer.status == 200 {
                break;
            }
            assert!(started.elapsed() < LONG, "fence {} lets nobody in: {answer:?}", fence.name);
            pass_time(20);
        }
    }
}

fn count(notes: &[Note], told: Told) -> usize {
    notes.iter().filter(|note| note.told == told).count()
}

#[test]
fn terms_never_fall_whatever_breaks() {
    let seed = seed();
    let dir = tempfile::tempdir().expect("a directory");
    let report = run(dir.path(), &SOUND, seed);
    let Report { notes, wrong, deeds, late } = &report;
    eprintln!(
        "seed {seed}: {} writes answered by the upstream, {} refused or not sent, {} of unknown outcome, {late} applied late, {deeds:?}",
        count(notes, Told::Done) + count(notes, Told::Failed),
        count(notes, Told::NotApplied),
        count(notes, Told::Nothing),
    );
    assert!(wrong.is_empty(), "seed {seed}: {} wrong, the first: {:?}", wrong.len(), wrong.first());
    // The test means nothing unless all of it happened.
    for (what, enough) in [
        ("hardly anything was written", count(notes, Told::Done) > 50),
        ("hardly anybody was refused", count(notes, Told::NotApplied) > 20),
        ("hardly anything broke", count(notes, Told::Nothing) > 10),
        ("nothing was applied late", *late > 0),
        ("nothing was killed", deeds.gate_kills + deeds.gate_stops + deeds.upstream_kills > 0),
    ] {
        assert!(enough, "seed {seed}: {what}");
    }
}

/// Runs until the judge finds that terms fell.
fn finds_a_violation(rules: &Rules) {
    let seed = seed();
    for round in 0..30 {
        let dir = tempfile::tempdir().expect("a directory");
        let report = run(dir.path(), rules, seed + round);
        if report.wrong.iter().any(|what| what.contains(judge::FELL)) {
            return;
        }
    }
    panic!("seed {seed}: the judge saw nothing");
}

#[test]
fn with_the_risk_accepted_the_same_judge_finds_a_violation() {
    finds_a_violation(&Rules { more: "on_unknown = \"proceed\"", seconds: 2, is_rough: false, ..SOUND });
}

#[test]
fn with_the_check_off_the_same_judge_finds_a_violation() {
    finds_a_violation(&Rules { more: "enforce = false", seconds: 2, is_rough: false, ..SOUND });
}

#[test]
fn with_an_upstream_later_than_settle_the_same_judge_finds_a_violation() {
    finds_a_violation(&Rules { settle: "1ms", seconds: 2, is_rough: false, ..SOUND });
}
