//! `fencegate demo`: shows what fencing is for, with real processes that are really frozen, a real gate and a real database.
//!
//! - [`scenario`]: what a scenario is and what it counts (**the seam**); one file or folder each:
//!   [`pause`](mod@pause), [`billing`], [`partition`], [`late`]
//! - [`stage`]: where a run is played
//! - [`parts`], [`worker`]: what this program plays itself, as processes of their own
//! - [`children`], [`scratch`]: processes that die with the demonstration, and a folder that goes with it
//! - [`story`]: what happened
//! - [`look`]: waiting for what nobody reports
//! - [`teller`], [`report`]: how it is told, and drawn
//!
//! For its users: `docs/demo.md`.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::coordinator::Coordinator;
use crate::coordinator::any::AnyCoordinator;
use crate::coordinator::candidate::CandidateId;
use crate::files::folder_of;

use super::failure::Failure;
use super::lead::signals;
use scenario::{ALL, Damage, Failed, Scenario, Side};
use scratch::Scratch;
use stage::{Setup, Stage};
use story::Story;
use teller::Teller;

pub mod billing;
pub mod children;
pub mod late;
pub mod look;
pub mod partition;
pub mod parts;
pub mod pause;
pub mod report;
pub mod scenario;
pub mod scratch;
pub mod stage;
pub mod story;
pub mod teller;
pub mod worker;

/// The scenarios that are shown where none is named: those that need nothing and are soon told.
const DEFAULT: [&str; 2] = ["pause", "billing"];
/// Exit status where a scenario that was asked for by its name lacks what it needs: as `EX_OSERR` of BSD's sysexits.
pub const EXIT_SKIPPED: u8 = 71;
/// How long a coordinator that was asked for may take for its first answer.
const COORDINATOR_TIME: Duration = Duration::from_secs(5);
/// How often a run is played until what it is about has come about.
const ATTEMPTS: u32 = 4;

/// See what fencing is for: real processes, really frozen.
///
/// Each scenario runs twice, first without the gate's check and then with it, and counts the damage from the database. Nothing is
/// needed but this program, and nothing is left behind. Exit status 0 only if it was all observed: damage without the check, none with
/// it, and a refused write.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate demo
  fencegate demo pause --report pause.html
  fencegate demo --coordinator etcd://127.0.0.1:2379
  fencegate demo all --json

Exit status:
  0 all that is claimed was observed   1 it was not
  71 skipped: a scenario that was asked for by its name lacks what it needs
  64 wrong usage   69 the coordinator can't be reached   128+n ended by signal n")]
pub struct DemoArgs {
    /// What to show, or all that can be shown here (all) [default: pause billing].
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// List the scenarios, and what they need.
    #[arg(long)]
    list: bool,
    /// Whoever elects the leaders, such as etcd://127.0.0.1:2379 [default: the gate's embedded coordinator].
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
    /// Members of the cluster that `partition` starts.
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = partition::members)]
    members: u8,
    /// How fast it is told: 0.5 takes twice as long. What happens takes its own time.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// Write a page with the timelines and the damage: one HTML file that needs nothing else.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Keep databases and logs in this folder.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print JSON lines, at once.
    #[arg(long)]
    json: bool,
}

/// One scenario as it was played.
#[derive(Debug)]
pub struct Shown {
    /// Which.
    pub scenario: &'static Scenario,
    /// Its two runs, in order: what happened, and what it has left behind.
    pub runs: Vec<(Story, Damage)>,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.05..=1000.0).contains(&speed) => Ok(speed),
        _ => Err("a number from 0.05 to 1000".into()),
    }
}

/// The parts of the demonstration that are programs of their own; `None` where the arguments are a person's.
pub fn inner(args: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut args = args.into_iter().skip(1);
    let first = args.next()?;
    match first.to_str()? {
        scratch::SWEEPER => Some(scratch::run(args)),
        parts::PART => Some(parts::run(args)),
        _ => None,
    }
}

/// Shows.
///
/// # Errors
/// Anything that isn't as claimed.
pub fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    look_at_report(args)?;
    if args.list {
        return list(args, out);
    }
    let chosen = chosen(args)?;
    if chosen.scenarios.iter().any(|scenario| scenario.name == partition::SCENARIO.name) {
        partition::network::enter();
    }
    // One thread: children are tied to the thread that starts them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        look_at_coordinator(args).await?;
        let (teller, ends) = Teller::start(args.json, args.speed)?;
        tokio::select! { biased;
            signal = ending() => Err(Failure::Exit(128 + u8::try_from(signal?.as_raw()).unwrap_or(0), None)),
            outcome = show(args, &chosen, &teller, ends) => outcome,
        }
    })
}

/// That a page can't be written is said before all of it is played.
fn look_at_report(args: &DemoArgs) -> Result<(), Failure> {
    let Some(file) = &args.report else { return Ok(()) };
    if file.is_dir() || !folder_of(file).is_dir() {
        return Err(Failure::Usage(format!("--report {}: no file can be written there", file.display())));
    }
    Ok(())
}

/// A coordinator that nobody can reach would only be noticed by leaders that never come.
async fn look_at_coordinator(args: &DemoArgs) -> Result<(), Failure> {
    let Some(address) = &args.coordinator else { return Ok(()) };
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(format!("--coordinator {error}"));
    let coordinator = AnyCoordinator::open(address).map_err(|error| usage(&error))?;
    let election = "fencegate-demo".parse().map_err(|error| usage(&error))?;
    let asked = tokio::time::timeout(COORDINATOR_TIME, coordinator.leader(&election)).await;
    let unreachable = |why: &str| Failure::Unreachable(format!("--coordinator {address}: {why}"));
    match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(unreachable(&error.to_string())),
        Err(_) => Err(unreachable("no answer")),
    }
}

/// Waits for a signal that asks to end. One that was ignored from the start, as by `nohup`, stays so.
async fn ending() -> std::io::Result<Signal> {
    let (sender, mut first) = mpsc::channel(1);
    for kind in signals::ending() {
        let mut stream = signal(SignalKind::from_raw(kind.as_raw()))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            stream.recv().await;
            let _ = sender.send(kind).await;
        });
    }
    match first.recv().await {
        Some(signal) => Ok(signal),
        None => std::future::pending().await,
    }
}

fn list(args: &DemoArgs, out: &mut dyn Write) -> Result<(), Failure> {
    for scenario in ALL {
        let lacks = (scenario.lacks)(args);
        if args.json {
            let (name, title) = (scenario.name, scenario.title);
            writeln!(out, "{}", serde_json::json!({ "scenario": name, "title": title, "lacks": lacks }))?;
        } else {
            writeln!(out, "{:<10} {}", scenario.name, scenario.title)?;
            if let Some(lacks) = lacks {
                writeln!(out, "{:<10} not here: {lacks}", "")?;
            }
        }
    }
    Ok(())
}

/// What is to be shown.
#[derive(Debug)]
struct Chosen {
    scenarios: Vec<&'static Scenario>,
    /// What can't be shown here, and why.
    skipped: Vec<(&'static str, String)>,
    /// Whether somebody has asked for one of those by its name.
    lacks_asked: bool,
}

/// What is asked for, without what can't be shown here.
///
/// # Errors
/// A name that isn't one; nothing that can be shown.
fn chosen(args: &DemoArgs) -> Result<Chosen, Failure> {
    let is_all = args.scenarios.iter().any(|name| name == "all");
    let known: Vec<&'static str> = ALL.iter().map(|scenario| scenario.name).collect();
    let asked: Vec<&str> = args.scenarios.iter().map(String::as_str).filter(|name| *name != "all").collect();
    if let Some(name) = asked.iter().find(|name| !known.contains(name)) {
        return Err(Failure::Usage(format!("there is no scenario {name:?}; there are {} and all", known.join(", "))));
    }
    let names = if is_all {
        known
    } else if asked.is_empty() {
        DEFAULT.to_vec()
    } else {
        asked.clone()
    };
    let mut chosen = Chosen { scenarios: Vec::new(), skipped: Vec::new(), lacks_asked: false };
    for scenario in names.iter().filter_map(|name| ALL.iter().find(|scenario| scenario.name == *name)) {
        match (scenario.lacks)(args) {
            None => chosen.scenarios.push(scenario),
            Some(lacks) => {
                chosen.lacks_asked |= asked.contains(&scenario.name);
                chosen.skipped.push((scenario.name, lacks));
            }
        }
    }
    if chosen.scenarios.is_empty() {
        return Err(Failure::exit(EXIT_SKIPPED, skipped(&chosen)));
    }
    Ok(chosen)
}

/// What can't be shown, in a sentence; empty where everything can.
fn skipped(chosen: &Chosen) -> String {
    let sentence = |(name, lacks): &(&str, String)| format!("{name} can't be shown here: {lacks}");
    chosen.skipped.iter().map(sentence).collect::<Vec<_>>().join("; ")
}

async fn show(args: &DemoArgs, chosen: &Chosen, teller: &Teller, mut ends: teller::Ends) -> Result<(), Failure> {
    let gone = || Failure::Exit(1, None);
    for (name, lacks) in &chosen.skipped {
        teller.skipped(name, lacks);
    }
    let shown = tokio::select! { biased;
        _ = &mut ends.done => return Err(gone()),
        shown = play_all(args, &chosen.scenarios, teller) => shown?,
    };
    let wrong: Vec<String> = shown.iter().filter_map(unlike_claimed).collect();
    if let Some(file) = &args.report {
        let page = report::page(&shown);
        std::fs::write(file, page).map_err(|error| Failure::Other(format!("{}: {error}", file.display())))?;
    }
    let sentence = match (&wrong[..], &args.report) {
        ([], None) => "All of this has just happened on this machine. Next: docs/guarantees.md says what is promised; \
                       `fencegate demo --report demo.html` draws what you have seen."
            .to_owned(),
        ([], Some(file)) => format!(
            "All of this has just happened on this machine. It is drawn in {}. Next: docs/guarantees.md says what is \
             promised.",
            file.display()
        ),
        (wrong, _) => wrong.join("; "),
    };
    for (name, lacks) in &chosen.skipped {
        teller.skipped(name, lacks);
    }
    teller.verdict(wrong.is_empty(), &sentence);
    teller.finish();
    let is_told = ends.done.await.unwrap_or(false);
    match (is_told && wrong.is_empty(), chosen.lacks_asked) {
        (true, false) => Ok(()),
        (true, true) => Err(Failure::Exit(EXIT_SKIPPED, None)),
        (false, _) => Err(gone()),
    }
}

async fn play_all(args: &DemoArgs, scenarios: &[&'static Scenario], teller: &Teller) -> Result<Vec<Shown>, Failure> {
    let scratch = match &args.keep {
        Some(folder) => Scratch::kept(folder),
        None => Scratch::new(),
    };
    let scratch = scratch.map_err(|error| Failure::Other(format!("a folder to work in: {error}")))?;
    let mut shown = Vec::new();
    teller.intro();
    for scenario in scenarios {
        teller.scenario(scenario);
        let mut runs = Vec::new();
        for side in Side::BOTH {
            runs.push(play(args, scenario, side, scratch.path(), teller).await?);
        }
        let counted: Vec<(Damage, u64)> =
            runs.iter().map(|(story, damage)| (damage.clone(), story.refusals())).collect();
        teller.damage(scenario, &counted);
        shown.push(Shown { scenario, runs });
    }
    Ok(shown)
}

/// One run, again where what it is about didn't come about.
async fn play(
    args: &DemoArgs,
    scenario: &'static Scenario,
    side: Side,
    scratch: &std::path::Path,
    teller: &Teller,
) -> Result<(Story, Damage), Failure> {
    let mut why = String::new();
    for attempt in 1..=ATTEMPTS {
        teller.run(scenario, side, attempt);
        let side_name = if side == Side::With { "with" } else { "without" };
        let dir = scratch.join(format!("{}-{side_name}-{attempt}", scenario.name));
        std::fs::create_dir(&dir).map_err(|error| Failure::Other(format!("{}: {error}", dir.display())))?;
        let id = CandidateId::random().map_err(|error| Failure::Other(error.to_string()))?;
        let election =
            if args.coordinator.is_some() { format!("fencegate-demo/{id}") } else { scenario.name.to_owned() };
        let coordinator = args.coordinator.as_deref();
        let mut stage = Stage::new(Setup { side, dir, coordinator, election, members: args.members }, teller.clone());
        match (scenario.run)(&mut stage).await {
            Ok(damage) => return Ok((std::mem::take(&mut stage.story), damage)),
            Err(Failed::Broken(broken)) => return Err(Failure::Other(format!("{}: {broken}", scenario.name))),
            Err(Failed::Missed(missed)) => why = missed,
        }
        drop(stage);
        if attempt < ATTEMPTS {
            teller.again(&why);
        }
    }
    Err(Failure::Other(format!("{}: what it shows did not come about in {ATTEMPTS} attempts: {why}", scenario.name)))
}

/// What was not observed of what is claimed.
fn unlike_claimed(shown: &Shown) -> Option<String> {
    let name = shown.scenario.name;
    let [without, with] = &shown.runs[..] else { return Some(format!("{name}: a run is missing")) };
    if without.1.total() == 0 {
        return Some(format!("{name}: without the check there should have been damage, and there was none"));
    }
    if with.1.total() > 0 {
        return Some(format!("{name}: with the check there was damage"));
    }
    (with.0.refusals() == 0).then(|| format!("{name}: with the check a write should have been refused, and none was"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use scenario::Measure;
    use story::{Event, Kind};

    fn shown(without: u64, with: u64, refused: usize) -> Shown {
        let damage = |count| {
            let measure = |is_damage, count| Measure { what: "seats", count, is_damage, counted_by: String::new() };
            Damage { measures: vec![measure(false, 7), measure(true, count)] }
        };
        let refusal = Kind::Refused { token: None, highest: None, status: 412 };
        let event = Event { at_us: 1, lane: "anna".into(), kind: refusal, text: String::new() };
        let story = Story { events: vec![event; refused], ..Story::default() };
        Shown { scenario: &pause::SCENARIO, runs: vec![(Story::default(), damage(without)), (story, damage(with))] }
    }

    #[test]
    fn what_was_not_seen_is_not_claimed() {
        assert_eq!(unlike_claimed(&shown(3, 0, 1)), None);
        for (seen, says) in [
            (shown(0, 0, 1), "should have been damage"),
            (shown(3, 1, 1), "with the check there was damage"),
            (shown(3, 0, 0), "should have been refused"),
        ] {
            assert!(unlike_claimed(&seen).unwrap().contains(says), "{seen:?}");
        }
    }

    #[test]
    fn what_is_said_of_scenarios_fits() {
        for Scenario { name, title, sides, .. } in ALL {
            assert!(name.chars().all(|c| c.is_ascii_lowercase()), "{name}");
            assert!(title.chars().count() <= 60, "{title}");
            assert!(sides.iter().all(|side| side.chars().count() <= 18), "{sides:?}");
        }
    }
}
