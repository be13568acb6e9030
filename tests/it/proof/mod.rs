//! The promise *drained*, attacked: writers with interleaved terms, an upstream that breaks, delays and applies late, and a gate that
//! is killed with SIGKILL, started again, stopped and woken up, while the upstream is killed, too.
//!
//! The judge is the upstream's own log of what it applied. With `on_unknown = "proceed"`, with the check switched off, and with a
//! `settle` that is too short, the same harness has to find a violation.
//!
//! `FENCEGATE_PROOF_SECONDS` says for how long, `FENCEGATE_PROOF_SEED` repeats the dice of a run that failed.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::dice::{Dice, seed};
use crate::gate::LONG;
use crate::process::{Client, Gate};
use crate::upstream::hostile::{Applied, Hostile};
use crate::upstream::{self, pass_time};

pub mod judge;
pub mod world;

use judge::{Note, Told, judge};
use world::World;

/// What the upstream applies later than this after a request came, it doesn't apply. Far below the `settle` of
/// [`SOUND`]: between them lies what the scheduler of a busy machine may do to either process.
pub const LATE_MS: u64 = 300;

/// How the gate is configured, and attacked until when.
struct Rules {
    settle: &'static str,
    more: &'static str,
    goal: Goal,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Processes are killed and stopped for so many seconds, and until enough has happened for the run to mean something.
    Holding(u64),
    /// Until terms have fallen.
    Falling,
}

const SOUND: Rules = Rules { settle: "1s", more: "", goal: Goal::Holding(8) };

/// What became of a run.
struct Report {
    notes: Vec<Note>,
    wrong: Vec<String>,
    deeds: Deeds,
    applied: Vec<Applied>,
}

/// How often each thing was done.
#[derive(Debug, Default)]
struct Deeds {
    gate_kills: usize,
    gate_stops: usize,
    upstream_kills: usize,
}

fn number_in(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|number| number.parse().ok())
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
    let upstream = Hostile::start(dir);
    let gate = upstream::gate(dir, &configuration(&upstream, rules));
    let world = &World::new();
    let dice = Dice::new(seed);
    let mut attack = Attack { dir, world, upstream, dice, deeds: Deeds::default(), wrong: Vec::new() };
    let notes = std::thread::scope(|scope| {
        let writers: Vec<_> = world
            .fences
            .iter()
            .flat_map(|fence| [fence, fence])
            .map(|fence| {
                let dice = Dice::new(attack.dice.roll(u64::MAX));
                scope.spawn(move || world.writer(fence, dice))
            })
            .collect();
        // Whatever happens here, the writers must end, or the failure would never be told.
        let stop = world.stop_when_dropped();
        world.set(Some(gate.data));
        let gate = attack.run(gate, rules.goal);
        drop(stop);
        let mut notes = Vec::new();
        for writer in writers {
            let (more, faults) = writer.join().expect("the writer didn't panic");
            notes.extend(more);
            attack.wrong.extend(faults);
        }
        attack.check_marks(&gate);
        everybody_advances(world, &gate);
        notes
    });
    let Attack { upstream, deeds, mut wrong, .. } = attack;
    let applied = upstream.applied();
    wrong.extend(judge(&applied, &notes));
    Report { notes, wrong, deeds, applied }
}

/// What happens to the gate and the upstream while writers write.
struct Attack<'a> {
    dir: &'a Path,
    world: &'a World,
    upstream: Hostile,
    dice: Dice,
    deeds: Deeds,
    wrong: Vec<String>,
}

impl Attack<'_> {
    fn run(&mut self, mut gate: Gate, goal: Goal) -> Gate {
        let started = Instant::now();
        for number in 0.. {
            let (elapsed, applied) = (started.elapsed(), self.upstream.applied());
            let is_over = match goal {
                Goal::Holding(seconds) => {
                    let seconds = Duration::from_secs(number_in("FENCEGATE_PROOF_SECONDS").unwrap_or(seconds));
                    elapsed > seconds && (is_enough(&applied) || elapsed > seconds + LONG)
                }
                Goal::Falling => elapsed > LONG || !judge::falls(&applied).is_empty(),
            };
            if is_over {
                break;
            }
            assert!(gate.is_running(), "the gate ended by itself");
            if goal == Goal::Falling {
                pass_time(50);
                continue;
            }
            pass_time(100 + self.dice.roll(900));
            // Each at least once.
            let which = if number < 3 { number } else { self.dice.roll(6) };
            gate = self.strike(gate, which);
        }
        gate
    }

    fn strike(&mut self, mut gate: Gate, which: u64) -> Gate {
        self.world.is_slow.store(true, Ordering::SeqCst);
        pass_time(self.dice.roll(100));
        match which {
            0 => {
                self.world.set(None);
                gate.kill();
                self.world.is_slow.store(false, Ordering::SeqCst);
                self.deeds.gate_kills += 1;
                gate = upstream::restart(self.dir);
                self.check_marks(&gate);
                self.world.set(Some(gate.data));
            }
            1 => {
                gate.signal(Signal::STOP);
                pass_time(self.dice.roll(800));
                gate.signal(Signal::CONT);
                self.deeds.gate_stops += 1;
            }
            2 => {
                self.upstream.kill();
                self.deeds.upstream_kills += 1;
                pass_time(self.dice.roll(300));
                self.upstream.restart();
            }
            _ => {}
        }
        self.world.is_slow.store(false, Ordering::SeqCst);
        gate
    }

    /// No mark is below what was told of it, nor below what was applied with it.
    fn check_marks(&mut self, gate: &Gate) {
        let mut client = gate.client();
        for fence in &self.world.fences {
            let told = fence.highest_told.load(Ordering::SeqCst);
            let applied = self.upstream.tokens(&fence.name).into_iter().max().unwrap_or(0);
            let state = client.get(&fence.state_path()).json();
            let mark = state["highest"].as_str().map_or(0, |mark| mark.parse().expect("a number"));
            if mark < told.max(applied) {
                let name = &fence.name;
                self.wrong.push(format!("fence {name}: the mark is {mark}; {told} was told, {applied} applied"));
            }
        }
    }
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

fn late(applied: &[Applied]) -> usize {
    applied.iter().filter(|applied| applied.is_late).count()
}

/// How many leaders wrote something.
fn leaders(applied: &[Applied]) -> usize {
    applied.iter().map(|applied| (&applied.fence, applied.token)).collect::<HashSet<_>>().len()
}

/// Whether enough has been applied for a run to mean something.
fn is_enough(applied: &[Applied]) -> bool {
    late(applied) >= 1 && leaders(applied) >= 15
}

#[test]
fn terms_never_fall_whatever_breaks() {
    let seed = seed("FENCEGATE_PROOF_SEED");
    let dir = tempfile::tempdir().expect("a directory");
    let Report { notes, wrong, deeds, applied } = run(dir.path(), &SOUND, seed);
    let told = |what| count(&notes, what);
    eprintln!(
        "seed {seed}: {} writes answered by the upstream, {} refused or not sent, {} of unknown outcome; {} applied, of {} leaders, \
         {} of them late; {deeds:?}",
        told(Told::Done) + told(Told::Failed),
        told(Told::NotApplied),
        told(Told::Nothing),
        applied.len(),
        leaders(&applied),
        late(&applied),
    );
    assert!(wrong.is_empty(), "seed {seed}: {} wrong, the first: {:?}", wrong.len(), wrong.first());
    assert!(is_enough(&applied), "seed {seed}: hardly anything happened");
    for what in [Told::Done, Told::NotApplied, Told::Nothing] {
        assert!(told(what) > 5, "seed {seed}: hardly anybody was told {what:?}");
    }
}

fn finds_a_violation(rules: &Rules) {
    let seed = seed("FENCEGATE_PROOF_SEED");
    let dir = tempfile::tempdir().expect("a directory");
    let Report { wrong, .. } = run(dir.path(), rules, seed);
    assert!(wrong.iter().any(|what| what.contains(judge::FELL)), "seed {seed}: the judge saw nothing");
}

#[test]
fn with_the_risk_accepted_the_same_judge_finds_a_violation() {
    finds_a_violation(&Rules { more: "on_unknown = \"proceed\"", goal: Goal::Falling, ..SOUND });
}

#[test]
fn with_the_check_off_the_same_judge_finds_a_violation() {
    finds_a_violation(&Rules { more: "enforce = false", goal: Goal::Falling, ..SOUND });
}

#[test]
fn with_an_upstream_later_than_settle_the_same_judge_finds_a_violation() {
    finds_a_violation(&Rules { settle: "1ms", goal: Goal::Falling, ..SOUND });
}
