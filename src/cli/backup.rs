//! `fencegate backup`.

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::backup;
use crate::config::Overrides;

use super::failure::Failure;
use super::setup::{FromFlags, SetupArgs};
use super::table::print;

/// Back up a gate while it runs: its databases with their marks, the marks of HTTP services, the elections.
///
/// Say what the gate is with the arguments that `fencegate serve` was given, on the same machine. It makes a new folder with one file for each
/// database and a manifest with checksums; nobody who writes has to wait. Back up the HTTP services themselves before this: a mark may
/// be ahead of the data, never behind. Restore it with `fencegate restore`, which sees to it that no leader of the time after the backup
/// gets in.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate backup backups/monday
  fencegate backup --config fencegate.toml backups/$(date +%F)
  fencegate backup --sqlite app.db --json backups/app")]
pub struct BackupArgs {
    /// The backup: a folder that isn't there yet.
    #[arg(value_name = "FOLDER")]
    to: PathBuf,
    #[command(flatten)]
    setup: SetupArgs,
    /// Print the manifest as JSON.
    #[arg(long)]
    json: bool,
}

/// Makes the backup.
///
/// # Errors
/// A configuration that is wrong; files that can't be copied.
pub fn run(args: &BackupArgs, from: FromFlags, out: &mut dyn Write) -> Result<(), Failure> {
    let config = args.setup.configuration(from, Overrides { allow_insecure: true, ..Overrides::default() })?;
    let is_watched = !args.json && std::io::stderr().is_terminal();
    let mut told = None;
    let mut tell = |of: &backup::Of, percent: u8| {
        if is_watched && told.as_ref().is_none_or(|(one, at)| one != of || *at != percent) {
            let _ = write!(std::io::stderr(), "\r\x1b[Kfencegate: {of}: {percent} %");
            told = Some((of.clone(), percent));
        }
    };
    let made = backup::take(&config, &args.to, &mut tell);
    if told.is_some() {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let manifest = made.map_err(|error| Failure::Other(error.to_string()))?;
    if args.json {
        let mut all = json!(manifest);
        // A name that isn't UTF-8 is told as well as can be.
        all["folder"] = json!(args.to.display().to_string());
        return Ok(writeln!(out, "{all}")?);
    }
    writeln!(out, "{} has everything as of {}:", args.to.display(), manifest.began_at)?;
    let rows: Vec<Vec<String>> = manifest
        .files
        .iter()
        .map(|file| {
            let highest = file.highest.clone().unwrap_or_else(|| "-".into());
            vec![file.name.clone(), file.bytes.to_string(), file.count.to_string(), highest]
        })
        .collect();
    Ok(print(out, &["FILE", "BYTES", "MARKS", "HIGHEST"], &rows)?)
}
