//! `fencegate lead`: stands for election, and runs a command for as long as it leads.
//!
//! - [`term`]: one term, from the candidacy to the last process of the command
//! - [`run`](mod@run): the command while it runs: signals, the terminal, the loss
//! - [`claim`]: the fence at the gate
//! - [`credential`]: the leader's signed credential
//! - [`warden`]: the process that sees to it that nothing of the command outlives the term
//! - [`terminal`], [`signals`], [`program`]: whose the terminal is, what is passed on, what can be started
//! - [`events`]: what it tells of itself
//!
//! For its users: `docs/lead.md`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::{Signal, getpid};
use serde_json::json;

use crate::access::credential::AUDIENCE_DEFAULT;
use crate::client::Lost;
use crate::coordinator::any::AnyCoordinator;
use crate::endpoint::{self, Endpoint};
use crate::fence::{FenceName, Holder};
use crate::telemetry::{self, LogFormat};

use super::failure::Failure;
use super::identity::{Hidden, IdentityArgs};
use claim::Gate;
use credential::Credentials;
use events::Events;
use signals::Signals;
use term::{Ended, Setup};

pub mod claim;
pub mod credential;
pub mod events;
pub mod program;
pub mod run;
pub mod signals;
pub mod term;
pub mod terminal;
pub mod warden;

/// This program, also where its file was replaced or removed since it was started.
pub const PROGRAM: &str = "/proc/self/exe";
/// Exit status where the leadership was lost, or not won in time: as `EX_TEMPFAIL` of BSD's sysexits.
pub const EXIT_LOST: u8 = 75;
/// As shells have it.
pub const EXIT_NOT_EXECUTABLE: u8 = 126;
/// As shells have it.
pub const EXIT_NOT_FOUND: u8 = 127;
/// With `--supervise`, the pause after a term that failed: each is twice the one before, within these bounds.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A term that lasted so long counts as a good one: the next pause is short again.
const GOOD_TERM: Duration = Duration::from_secs(60);

/// Stand for election, and run a command for as long as it leads.
///
/// Waits its turn, claims the fence at the gate, and runs the command with FENCING_TOKEN, FENCING_FENCE, FENCING_HOLDER,
/// FENCEGATE_URL and FENCEGATE_AUTH_TOKEN in its environment. When the command ends, the next candidate leads at once. When the
/// leadership is lost, the command and whatever it started get SIGTERM, and after the time of grace SIGKILL.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate lead --election orders -- ./worker
  fencegate lead --election orders --coordinator etcd://127.0.0.1:2379 -- ./worker
  fencegate lead --election backup --no-gate --wait 1s -- ./backup
  fencegate lead --election orders --supervise -- ./worker

Exit status:
  the command's own, 128+n for signal n
  75 leadership lost, or not won within --wait   69 coordinator or gate out of
  reach   77 refused by the gate   64 wrong usage   126 the command can't be
  executed   127 it isn't found")]
pub struct LeadArgs {
    /// The election to stand in.
    #[arg(long, value_name = "NAME", env = "FENCEGATE_ELECTION")]
    election: FenceName,
    /// Who holds the election: etcd://HOST:PORT, etcds://… with TLS, or http://… for a gate's embedded coordinator [default: that of
    /// --gate].
    #[arg(long, value_name = "URL", env = "FENCEGATE_COORDINATOR")]
    coordinator: Option<String>,
    /// The gate's data listener.
    #[arg(long, value_name = "URL", env = "FENCEGATE_URL", default_value = "http://127.0.0.1:7070")]
    gate: String,
    /// Lead without claiming a fence at a gate.
    #[arg(long)]
    no_gate: bool,
    /// The fence [default: the election's name].
    #[arg(long, value_name = "NAME")]
    fence: Option<FenceName>,
    /// The candidate's own name for itself [default: the host's name and the process's number].
    #[arg(long, value_name = "NAME", env = "FENCING_HOLDER")]
    holder: Option<Holder>,
    /// How long the lease lasts from each renewal: after a crash, about so long nobody leads.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// How long the command has from SIGTERM to SIGKILL when the leadership is lost.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Give up when it isn't elected in this time [default: wait for ever].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    wait: Option<Duration>,
    /// Lead one term, then exit; this is what happens without --supervise, too.
    #[arg(long, conflicts_with = "supervise")]
    once: bool,
    /// Stand again after a loss, and when the command failed; exit when it ends with status 0.
    #[arg(long)]
    supervise: bool,
    /// Sign the leader's credentials with this private key (PEM), which the gate trusts by [[credential_key]].
    #[arg(long, value_name = "FILE", env = "FENCEGATE_CREDENTIAL_KEY")]
    credential_key: Option<PathBuf>,
    /// Which gate the credentials are for: its audience.
    #[arg(long, value_name = "NAME", default_value = AUDIENCE_DEFAULT)]
    credential_audience: String,
    /// Keep the leader's credential in this file while it leads, for the command, which finds the name in FENCEGATE_CREDENTIAL_FILE.
    #[arg(long, value_name = "FILE", env = "FENCEGATE_CREDENTIAL_FILE")]
    credential_file: Option<PathBuf>,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Tell what happens as JSON lines on standard error.
    #[arg(long)]
    json: bool,
    /// Add the same JSON lines to this file; /dev/fd/3 is descriptor 3.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// What to log, such as info or fencegate=debug.
    #[arg(long, value_name = "FILTER", env = "FENCEGATE_LOG", default_value = "warn")]
    log: String,
    /// The command and its arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The parts of `lead` that are programs of their own; `None` where the arguments are a person's.
pub fn inner(args: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut args = args.into_iter().skip(1);
    let first = args.next()?;
    match first.to_str()? {
        warden::WARDEN => Some(warden::run(args)),
        warden::r#become::BECOME => Some(warden::r#become::run(args)),
        _ => None,
    }
}

/// Leads.
///
/// # Errors
/// An exit status that isn't 0; what there is to say of it is said.
pub fn run(args: &LeadArgs) -> Result<(), Failure> {
    // Before there are other threads, which all take after this one.
    terminal::let_background_change_terminals();
    program::check(&args.command)?;
    let open = |error| Failure::Usage(format!("--events: {error}"));
    let events = Events::start(&args.election, args.json, args.events.as_deref()).map_err(open)?;
    let format = if args.json { LogFormat::Json } else { LogFormat::Text };
    telemetry::start_to(&args.log, format, events.log()).map_err(Failure::Usage)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(lead(args, &events));
    // A look-up of a name may hang.
    runtime.shutdown_timeout(Duration::from_millis(100));
    let (status, why) = match outcome {
        Ok(()) => (0, None),
        Err(Failure::Exit(status, why)) => (status, why),
        Err(failure) => (failure.exit_code(), Some(failure.to_string())),
    };
    events.tell("exit", None, json!({ "status": status, "reason": why }), why);
    events.finish();
    if status == 0 { Ok(()) } else { Err(Failure::Exit(status, None)) }
}

async fn lead(args: &LeadArgs, events: &Events) -> Result<(), Failure> {
    let mut signals = Signals::start()?;
    let setup = setup(args)?;
    let mut pause = PAUSE.0;
    loop {
        let started = tokio::time::Instant::now();
        let ended = match setup.look_at_gate().await {
            Ok(()) => term::term(&setup, &mut signals, events).await,
            Err(failure) => Ended::Failed(failure),
        };
        if !args.supervise || ended.is_final() {
            return ended.outcome(args.wait);
        }
        if started.elapsed() >= GOOD_TERM || matches!(ended, Ended::Lost(_)) {
            pause = PAUSE.0;
        }
        // Whoever was deposed may stand again at once: the successor leads, so there is a queue to wait in.
        let wait = if matches!(ended, Ended::Lost(_)) { Duration::ZERO } else { pause };
        let why = ended.to_string();
        let told = format!("{why}; standing again in {wait:?}");
        events.tell("again", None, json!({ "reason": why, "pause_ms": wait.as_millis() as u64 }), Some(told));
        if let Some(signal) = pass(wait, &mut signals).await {
            return Ended::Told(signal).outcome(args.wait);
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Waits; a signal that asks to end ends that.
async fn pass(wait: Duration, signals: &mut Signals) -> Option<Signal> {
    let wait = tokio::time::sleep(wait);
    tokio::pin!(wait);
    loop {
        tokio::select! {
            () = &mut wait => return None,
            signal = signals.next() => match signal {
                Signal::TSTP => run::stop(run::Whom::This),
                signal if signals::is_ending(signal) => return Some(signal),
                _ => {}
            }
        }
    }
}

fn setup(args: &LeadArgs) -> Result<Setup<'_>, Failure> {
    let options = endpoint::Options::default();
    let identity = args.identity.open()?;
    let endpoint =
        Endpoint::open(&args.gate, options, &identity).map_err(|error| Failure::Usage(format!("--gate {error}")))?;
    let coordinator = args.coordinator.clone().unwrap_or_else(|| args.gate.clone());
    let opened = AnyCoordinator::open_as(&coordinator, &identity);
    let fence = args.fence.clone().unwrap_or_else(|| args.election.clone());
    let credentials = Credentials::open(args, &fence)?;
    Ok(Setup {
        gate: (!args.no_gate).then(|| Gate::new(endpoint, fence.clone(), credentials.clone())),
        credentials,
        coordinator: opened.map_err(|error| Failure::Usage(format!("--coordinator {error}")))?,
        coordinator_name: coordinator,
        secret: args.identity.secret()?.map(|(secret, _)| Hidden(secret)),
        holder: args.holder.clone().unwrap_or_else(holder),
        fence,
        args,
    })
}

/// `HOST:PID`, which nobody else has at this moment.
fn holder() -> Holder {
    let uname = rustix::system::uname();
    let pid = getpid().as_raw_nonzero();
    let host: String = uname.nodename().to_string_lossy().chars().filter(char::is_ascii_graphic).take(200).collect();
    format!("{host}:{pid}").parse().expect("visible ASCII, and short enough")
}

impl Ended {
    /// Whether standing again makes no sense.
    fn is_final(&self) -> bool {
        match self {
            Ended::Told(_) | Ended::NotElected => true,
            Ended::Itself { status, told } => {
                *told || [0, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND].contains(&status.exit_code())
            }
            Ended::Lost { .. } => false,
            Ended::Failed(Failure::Unreachable(_)) => false,
            Ended::Failed(_) => true,
        }
    }

    fn outcome(self, wait: Option<Duration>) -> Result<(), Failure> {
        match self {
            Ended::Itself { status, .. } if status.exit_code() == 0 => Ok(()),
            Ended::Itself { status, .. } => Err(Failure::Exit(status.exit_code(), None)),
            // Said when it happened.
            Ended::Lost(_) => Err(Failure::Exit(EXIT_LOST, None)),
            Ended::Told(signal) => Err(Failure::Exit(u8::try_from(128 + signal.as_raw()).unwrap_or(u8::MAX), None)),
            Ended::NotElected => {
                let wait = wait.map(|wait| humantime::format_duration(wait).to_string()).unwrap_or_default();
                Err(Failure::exit(EXIT_LOST, format!("not elected within {wait}; nothing was started")))
            }
            Ended::Failed(failure) => Err(failure),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Itself { status: warden::wire::Status::Code(code), .. } => {
                write!(f, "the command ended with status {code}")
            }
            Ended::Itself { status: warden::wire::Status::Signal(signal), .. } => {
                write!(f, "the command was ended by signal {signal}")
            }
            Ended::Lost(why) => lost(why, f),
            Ended::Told(signal) => write!(f, "told to end by signal {}", signal.as_raw()),
            Ended::NotElected => f.write_str("not elected in time"),
            Ended::Failed(failure) => failure.fmt(f),
        }
    }
}

fn lost(why: &Lost, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    write!(f, "no longer the leader: {why}")
}
