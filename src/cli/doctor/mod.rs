//! `fencegate doctor`: whether a set-up can really fence.
//!
//! - `finding`: what was looked at, and how it was found
//! - `files`: file systems, rights, room, and whether the disk syncs
//! - `processes`: who has a file or a connection open
//! - `upstream`: routes to HTTP services around the gate
//! - `coordinator`: whether it is reached, and whether marks are ahead of it
//! - `access`: listeners, certificates, keys, settings that switch the check off
//! - `clock`: this machine's clocks, and how far they are from others'
//!
//! **Invariant.** It changes nothing: it reads, asks `HEAD` and reads of a coordinator, and writes one small file beside each database, which it
//! takes away again.

use std::io::{IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, KindConfig, Overrides};

use super::failure::Failure;
use super::paint::Paper;
use super::setup::{FromFlags, SetupArgs};

mod access;
mod clock;
mod coordinator;
mod files;
mod finding;
mod processes;
mod upstream;

use finding::{Level, Report};

/// Look whether a gate's set-up can really fence.
///
/// Say what the gate is with the arguments that `fencegate serve` is given, on the machine where it runs (it may be running), best as root: who
/// else has a file open is seen of one's own processes only, otherwise. It looks for routes around the gate, file systems on which SQLite can't
/// lock, disks that don't sync, marks ahead of the coordinator, clocks, certificates, and settings that switch the check off, and says what
/// to do. It changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 no problem   1 problems, or with --strict warnings   78 wrong configuration

Examples:
  fencegate doctor --config fencegate.toml
  fencegate doctor --sqlite app.db --issuer etcd://127.0.0.1:2379
  fencegate doctor --config fencegate.toml --strict --json")]
pub struct DoctorArgs {
    #[command(flatten)]
    setup: SetupArgs,
    /// Its data listener, where that is told to `fencegate serve` by a flag.
    #[arg(long, value_name = "ADDR", env = "FENCEGATE_LISTEN")]
    listen: Option<String>,
    /// Its admin listener.
    #[arg(long, value_name = "ADDR", env = "FENCEGATE_ADMIN")]
    admin: Option<String>,
    /// Who issues the tokens of resources that don't ask: etcd://HOST:PORT,... Their marks are compared with it.
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Warnings count as problems in the exit status.
    #[arg(long)]
    strict: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Looks.
///
/// # Errors
/// A configuration that is wrong; [`Failure::Exit`] with status 1 where problems were found.
pub fn run(args: &DoctorArgs, from: FromFlags, out: &mut dyn Write) -> Result<(), Failure> {
    // A listener without protection is a finding, not the end.
    let (listen, admin) = (args.listen.clone(), args.admin.clone());
    let config =
        args.setup.configuration(from, Overrides { listen, admin, allow_insecure: true, ..Overrides::default() })?;
    let mut report = Report::default();
    let places = places(&config);
    for place in &places {
        files::check(place, &mut report);
    }
    let seen = processes::look(&config);
    processes::check(&config, &seen, &mut report);
    for resource in &config.resources {
        if let KindConfig::Http(http) = &resource.kind {
            upstream::check(&resource.name, &http.upstream, &seen, &mut report);
        }
    }
    coordinator::check(&config, args.issuer.as_deref(), &mut report)?;
    access::check(&config, args.setup.file(), &seen, &mut report);
    clock::check(&mut report);
    match args.json {
        true => writeln!(out, "{}", report.json())?,
        false => {
            let stdout = std::io::stdout();
            report.print(Paper::of(stdout.is_terminal().then(|| stdout.as_fd())), out)?;
        }
    }
    let is_bad = report.count(Level::Problem) > 0 || args.strict && report.count(Level::Warning) > 0;
    if is_bad { Err(Failure::Exit(1, None)) } else { Ok(()) }
}

/// A file or folder that a gate depends on.
#[derive(Debug, Clone)]
pub struct Place {
    /// What it is, for people.
    pub name: String,
    /// Where.
    pub path: PathBuf,
    /// Whether it is a database, so that SQLite's locks have to work there.
    pub is_database: bool,
}

fn places(config: &Config) -> Vec<Place> {
    let databases = config.resources.iter().filter_map(|resource| match &resource.kind {
        KindConfig::Sqlite(sqlite) => Some(Place {
            name: format!("database of {} ({})", resource.name, sqlite.file.display()),
            path: sqlite.file.clone(),
            is_database: true,
        }),
        KindConfig::Http(_) => None,
    });
    let data_dir = Place {
        name: format!("data directory ({})", config.data_dir.display()),
        path: config.data_dir.clone(),
        is_database: false,
    };
    databases.chain([data_dir]).collect()
}
