//! The short run: every kept input, and changed ones for a bounded number of rounds.
//!
//! `FENCEGATE_FUZZ_TIMES=100` makes a hundred times as many rounds; `FENCEGATE_SEED` repeats a run that failed. An input that violates
//! a property is kept in `fuzz/artifacts`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::*;

mod change;
mod controls;

use change::{Dice, words};

/// Most bytes of all kept inputs.
const CORPORA_BYTES_MAX: u64 = 1 << 20;
/// Most of one target.
const INPUTS_MAX: usize = 600;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The kept inputs of a target, with their names.
fn kept(name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(fuzz().join("corpus").join(name)).expect("a corpus");
    let mut all: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let entry = entry.expect("an input");
            (entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path()).expect("an input"))
        })
        .collect();
    all.sort();
    all
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}

/// A violation, or a panic, in words.
fn violation(target: &Target, input: &[u8]) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| (target.check)(input))) {
        Ok(checked) => checked.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("panics: {}", text.unwrap_or_default()))
        }
    }
}

fn short_run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let kept = kept(name);
    for (file, input) in &kept {
        if let Some(why) = violation(target, input) {
            panic!("fuzz/corpus/{name}/{file}: {why}");
        }
    }
    let times = usize::try_from(number("FENCEGATE_FUZZ_TIMES", 1)).expect("a small number");
    let seed = number("FENCEGATE_SEED", u64::from(std::process::id()));
    println!("{name}: {} kept inputs, {} rounds, FENCEGATE_SEED={seed}", kept.len(), target.rounds * times);
    let mut dice = Dice(seed);
    let words = words(&fuzz().join("dict").join(format!("{name}.dict")));
    for round in 0..target.rounds * times {
        let input = dice.change(&kept, &words);
        if let Some(why) = violation(target, &input) {
            let folder = fuzz().join("artifacts").join(name);
            let file = folder.join(format!("seed-{seed}-round-{round}"));
            let is_kept = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, &input));
            panic!("{name}: {why}\nFENCEGATE_SEED={seed}, round {round}, {}: {is_kept:?}", file.display());
        }
    }
}

macro_rules! short_runs {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            short_run(stringify!($name));
        })*

        const RUN: &[&str] = &[$(stringify!($name)),*];
    };
}

short_runs!(headers, credentials, paths, hrana, batons, config, sql, answers, requests, plain, json);

#[test]
fn every_target_has_a_program_and_a_small_corpus() {
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).expect("the programs' manifest");
    let mut bytes = 0;
    for Target { name, .. } in &TARGETS {
        assert!(RUN.contains(name), "{name} is not run");
        let program = std::fs::read_to_string(fuzz().join("fuzz_targets").join(format!("{name}.rs")));
        assert!(program.is_ok_and(|text| text.contains(&format!("\"{name}\""))), "{name} has no program");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
        let kept = kept(name);
        assert!((1..=INPUTS_MAX).contains(&kept.len()), "{name} has {} inputs", kept.len());
        bytes += kept.iter().map(|(_, input)| input.len() as u64).sum::<u64>();
    }
    assert!(bytes <= CORPORA_BYTES_MAX, "{bytes} bytes of inputs: `scripts/fuzz keep` leaves those that are needed");
}
