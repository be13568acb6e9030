//! `fencegate bench`: what fencing costs, on its user's own set-up.
//!
//! - [`args`], [`target`]: what is asked for; where a load may go
//! - [`subject`]: what is measured: a database of its own, a service, a running gate; **what may be written to**
//! - [`load`], [`plain`]: the load generator; the loop without any gate
//! - [`rounds`], [`stats`], [`verdict`]: in turn; medians and how far they can be trusted; what can be concluded
//! - [`machine`], [`clock`]: other work on the machine; processor time
//! - [`child`], [`folder`], [`stop`]: what is started and made, and that nothing of it stays
//! - [`progress`], [`report`]: what is told
//!
//! For its users: `docs/bench.md`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime};

use super::failure::Failure;
use crate::files::folder_of;
use args::What;
use clock::CpuClock;
use folder::Folder;
use load::Pace;
use machine::{Disk, Machine, Noise, Watch};
use progress::Progress;
use rounds::Outcome;
use stop::Stop;
use subject::{Subject, Tokens};
use verdict::Verdict;

pub mod args;
pub mod child;
pub mod clock;
pub mod folder;
pub mod load;
pub mod machine;
pub mod plain;
pub mod progress;
pub mod report;
pub mod rounds;
pub mod stats;
pub mod stop;
pub mod subject;
pub mod target;
pub mod verdict;

pub use args::BenchArgs;

/// How something is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Connections.
    pub connections: usize,
    /// Threads of the load generator.
    pub threads: usize,
    /// How fast requests come.
    pub pace: Pace,
    /// For how long nothing counts, at the beginning of each visit.
    pub warm_up: Duration,
    /// How long each visit counts.
    pub duration: Duration,
    /// How often each is visited.
    pub rounds: usize,
    /// Until when, from the beginning, what is compared is visited again until the difference is known well enough; `None`: not at all.
    pub time: Option<Duration>,
    /// Bytes of each value written.
    pub size: usize,
    /// How long an answer may take.
    pub answer_time: Duration,
}

/// A whole run, and what it is told from.
#[derive(Debug)]
pub struct Run<'a> {
    /// How.
    pub plan: &'a Plan,
    /// What was measured, for people.
    pub subject: String,
    /// What one operation is called.
    pub unit: &'static str,
    /// The command as it was given, without what is secret.
    pub command: String,
    /// When it began, as RFC 3339 has it.
    pub started_at: String,
    /// How long the rounds took.
    pub took: Duration,
    /// The rounds.
    pub outcomes: Vec<Outcome>,
    /// The machine.
    pub machine: Machine,
    /// Other work on it.
    pub noise: Noise,
    /// Where the databases were.
    pub disk: Option<Disk>,
    /// The tokens that were presented at a running gate.
    pub tokens: Option<Tokens>,
    /// What can be concluded.
    pub verdict: Verdict,
}

impl Run<'_> {
    /// How often what is compared was measured more often than all the rest.
    pub fn more_pairs(&self) -> usize {
        let most = self.outcomes.iter().map(|outcome| outcome.rounds.len()).max();
        most.unwrap_or(0).saturating_sub(self.plan.rounds)
    }

    /// How much of a processor a thread of the load generator took where it took most, from 0 to 1. A loop without a gate isn't one.
    pub fn busiest(&self) -> f64 {
        let loads = self.outcomes.iter().filter(|outcome| !outcome.total.answers.is_empty());
        loads.map(|outcome| outcome.total.busy).fold(0.0, f64::max)
    }
}

/// For so long it is looked whether the machine is quiet, before and after.
const LOOK: Duration = Duration::from_millis(300);

/// Measures.
///
/// # Errors
/// What can't be measured; 128 + n where it was told to stop by signal n.
pub fn run(args: &BenchArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let plan = args.plan()?;
    let what = args.what()?;
    check_report(args)?;
    more_files(plan.connections);
    let stop = Stop::on_signals()?;
    let folder = Folder::make(&args.dir()).map_err(Failure::Other)?;
    let started_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut progress = Progress::new();
    progress.say("starting");
    let mut noise = Noise { load_average: Noise::load_average(), ..Noise::default() };
    noise.busy_before = Noise::idle_look(LOOK, &stop);
    let disk = matches!(what, What::Sqlite).then(|| Disk::of(folder.path()));
    let mut subject: Box<dyn Subject> = match &what {
        What::Sqlite => Box::new(subject::sqlite::Sqlite::start(folder.path(), &plan, &stop)?),
        What::Upstream(asked) => Box::new(subject::upstream::Upstream::start(asked, folder.path(), &plan, &stop)?),
        What::Gate(asked) => Box::new(subject::gate::Running::start(asked, &plan)?),
    };
    progress.expect(rounds::expected(&plan, &subject.lanes()));
    let clocks: Vec<CpuClock> =
        [std::process::id()].into_iter().chain(subject.processes()).filter_map(CpuClock::of).collect();
    let (watch, begun) = (Watch::start(&clocks), Instant::now());
    let outcomes = match rounds::run(&mut *subject, &plan, &stop, &progress) {
        Ok(outcomes) => outcomes,
        Err(failure) => {
            drop(progress);
            if let Some(tokens) = subject.tokens().filter(Tokens::have_risen) {
                let _ = writeln!(std::io::stderr(), "fencegate: {}", report::json::tokens_told(&tokens));
            }
            return Err(failure);
        }
    };
    let machine = Machine::this();
    noise.stolen = watch.load().map(|load| load.stolen);
    noise.others = watch.others(&clocks, machine.cpus).filter(|_| subject.is_own());
    let took = begun.elapsed();
    let (name, unit, tokens) = (subject.name(), subject.unit(), subject.tokens());
    drop(subject);
    noise.busy_after = Noise::idle_look(LOOK, &stop);
    drop((folder, progress));
    let verdict = Verdict::of(&outcomes, &plan, &noise, disk.as_ref(), unit);
    let command = command(std::env::args());
    let run = Run {
        plan: &plan,
        subject: name,
        unit,
        command,
        started_at,
        took,
        outcomes,
        machine,
        noise,
        disk,
        tokens,
        verdict,
    };
    tell(args, &run, out)
}

fn tell(args: &BenchArgs, run: &Run<'_>, out: &mut dyn Write) -> Result<(), Failure> {
    if let Some(file) = &args.report {
        let failed = |error: std::io::Error| Failure::Other(format!("{}: {error}", file.display()));
        std::fs::write(file, report::html::render(run)).map_err(failed)?;
    }
    if args.json {
        return Ok(writeln!(out, "{}", report::json::render(run))?);
    }
    let may_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    report::text::print(out, run, may_colour && std::io::stdout().is_terminal())?;
    if let Some(file) = &args.report {
        writeln!(out, "The page is {}.", file.display())?;
    }
    Ok(())
}

/// That a page can't be written is better known before a minute of measuring than after it.
fn check_report(args: &BenchArgs) -> Result<(), Failure> {
    let Some(file) = &args.report else { return Ok(()) };
    let why = if !folder_of(file).is_dir() {
        "its folder isn't there"
    } else if file.is_dir() {
        "it is a folder"
    } else {
        return Ok(());
    };
    Err(Failure::Usage(format!("--report {}: {why}", file.display())))
}

/// Each connection is an open file, of which a process may have few by default.
fn more_files(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections as u64 + 100;
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        // Where it is refused, the connection that is one too many says so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    }
}

/// The command, to be given again. What a header says may be secret.
fn command(args: impl Iterator<Item = String>) -> String {
    let (mut words, mut is_header) = (vec!["fencegate".to_owned()], false);
    for arg in args.skip(1) {
        let secret = |value: &str| value.split_once(':').map_or("…".to_owned(), |(name, _)| format!("{name}: …"));
        let word = match arg.strip_prefix("--header=") {
            Some(value) => format!("--header={}", secret(value)),
            None if is_header => secret(&arg),
            None => arg.clone(),
        };
        is_header = arg == "--header";
        let is_plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c));
        words.push(if is_plain { word } else { format!("'{}'", word.replace('\'', r"'\''")) });
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_given_again_and_tells_no_secret() {
        let args = [
            "/a/fencegate",
            "bench",
            "--sql",
            "SELECT 'a'",
            "--header",
            "X-Key: s3cret",
            "--header=A: b",
            "--path",
            "/",
        ];
        let told = command(args.into_iter().map(str::to_owned));
        let expected = r"fencegate bench --sql 'SELECT '\''a'\''' --header 'X-Key: …' '--header=A: …' --path /";
        assert_eq!(told, expected);
    }
}
