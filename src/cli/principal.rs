//! `fencegate principal`.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::access::Secret;

use super::failure::Failure;

/// Make the secrets of principals.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate principal new worker
  fencegate principal new worker --out worker.secret >> fencegate.toml")]
pub struct PrincipalArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a secret: it is shown this once, and the lines for the configuration have its hash only.
    New {
        /// The principal's name.
        name: String,
        /// Write the secret to this new file, which only its owner can read, instead of showing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Makes it.
///
/// # Errors
/// A system without randomness; a file that is there already.
pub fn run(args: &PrincipalArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let Action::New { name, out: file, json } = &args.action;
    let is_plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(Failure::Usage(format!("{name:?} is no name: write visible characters of ASCII, without quotes")));
    }
    let secret = Secret::random().map_err(|error| Failure::Other(format!("no randomness: {error}")))?;
    let hash = secret.hash();
    if let Some(file) = file {
        let failed = |error| Failure::Other(format!("{}: {error}", file.display()));
        // Never over another one: whoever has that would be shut out.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
        writeln!(made.map_err(failed)?, "{}", secret.reveal()).map_err(failed)?;
    }
    let shown = file.is_none().then(|| secret.reveal());
    if *json {
        return Ok(writeln!(out, "{}", json!({ "name": name, "secret": shown, "secret_hash": hash.to_string() }))?);
    }
    if let Some(secret) = shown {
        writeln!(out, "# The secret, shown this once; give it to the principal as FENCEGATE_SECRET:\n#   {secret}")?;
    }
    writeln!(out, "[[principal]]\nname = \"{name}\"\nsecret_hash = \"{hash}\"")?;
    Ok(writeln!(out, "grants = [ {{ resource = \"*\", fence = \"*\", rights = [\"read\"] }} ]")?)
}
