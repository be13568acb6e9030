//! `fencegate restore`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::backup::{self, Above, Fate, Manifest, Of, Restored};
use crate::config::Overrides;
use crate::fence::Token;

use super::failure::Failure;
use super::setup::{FromFlags, SetupArgs};

/// Restore a backup, so that nobody of the time after it gets in.
///
/// Stop the gate first; say what it is with the arguments that `fencegate serve` is given. A backup doesn't know the tokens that were
/// issued after it, so every mark is raised above them: where the gate's own coordinator elects, by a margin of 10^12, and it goes on from
/// there; where another one does, say with --above from where on tokens are new. Where the gate asks the coordinator (trust), marks are
/// taken away, so that it asks about the next token. Leaders have to be elected anew. Fences of HTTP services begin quarantined.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate restore backups/monday
  fencegate restore --config fencegate.toml --replace backups/2026-11-23
  fencegate restore --sqlite app.db --above 4711 backups/app
  fencegate restore --check backups/monday")]
pub struct RestoreArgs {
    /// The backup.
    #[arg(value_name = "FOLDER")]
    from: PathBuf,
    #[command(flatten)]
    setup: SetupArgs,
    /// Move aside what is there already. Where its marks are higher, they count.
    #[arg(long)]
    replace: bool,
    /// No token above this had been issued when the gate was stopped: for the resource named, or for all whose tokens the gate's own
    /// coordinator doesn't issue. `embedded`: it does. May be repeated.
    #[arg(long, value_name = "[RESOURCE=]N|embedded")]
    above: Vec<String>,
    /// Only check that the backup is whole.
    #[arg(long, conflicts_with_all = ["replace", "above"])]
    check: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Restores it.
///
/// # Errors
/// A backup or a configuration that is wrong, a gate that runs, tokens of which the operator has to say more.
pub fn run(args: &RestoreArgs, from: FromFlags, out: &mut dyn Write) -> Result<(), Failure> {
    let failed = |error: backup::BackupError| Failure::Other(error.to_string());
    if args.check {
        let manifest = Manifest::read(&args.from).map_err(failed)?;
        manifest.verify(&args.from).map_err(failed)?;
        let (began_at, files) = (&manifest.began_at, manifest.files.len());
        match args.json {
            true => writeln!(out, "{}", json!({ "ok": true, "began_at": began_at, "files": files }))?,
            false => writeln!(out, "{} is whole: {files} files as of {began_at}", args.from.display())?,
        }
        return Ok(());
    }
    let above = Above::parse(&args.above).map_err(Failure::Usage)?;
    let config = args.setup.configuration(from, Overrides { allow_insecure: true, ..Overrides::default() })?;
    let restored = backup::restore(&args.from, &config, args.replace, &above).map_err(failed)?;
    if args.json { json_of(&restored, out) } else { text_of(&restored, out) }
}

/// `None` where the coordinator is asked.
fn level_of(fate: Fate) -> Option<Token> {
    match fate {
        Fate::AtLeast(level) => Some(level),
        Fate::Asked => None,
    }
}

fn json_of(restored: &Restored, out: &mut dyn Write) -> Result<(), Failure> {
    let files = restored.files.iter().map(|(of, file, aside, rose)| {
        let mut one = json!(of);
        // Names that aren't UTF-8 are told as well as can be.
        one["file"] = json!(file.display().to_string());
        one["aside"] = json!(aside.as_ref().map(|aside| aside.display().to_string()));
        one["marks_changed"] = json!(rose);
        one
    });
    let levels: serde_json::Map<_, _> = restored
        .levels
        .resources
        .iter()
        .map(|(name, fate)| (name.clone(), json!(level_of(*fate).map(|level| level.to_string()))))
        .collect();
    let all = json!({
        "files": files.collect::<Vec<_>>(),
        "marks_at_least": levels,
        "next_tokens_above": restored.levels.elections.to_string(),
        "terms_ended": restored.ended,
        "notes": restored.notes,
    });
    Ok(writeln!(out, "{all}")?)
}

fn text_of(restored: &Restored, out: &mut dyn Write) -> Result<(), Failure> {
    for note in &restored.notes {
        writeln!(out, "note: {note}")?;
    }
    for (of, file, aside, rose) in &restored.files {
        write!(out, "{}: {}", of, file.display())?;
        match of {
            Of::Elections => writeln!(out, ", terms and candidacies ended: {}", restored.ended)?,
            Of::Database { .. } | Of::Fences => writeln!(out, ", marks changed: {rose}")?,
        }
        if let Some(aside) = aside {
            writeln!(out, "  what was there: {}", aside.display())?;
        }
    }
    for (name, fate) in &restored.levels.resources {
        match level_of(*fate) {
            Some(level) => writeln!(out, "resource {name}: tokens below {level} are refused")?,
            None => writeln!(
                out,
                "resource {name}: it has no marks; the coordinator is asked about each fence's first token"
            )?,
        }
    }
    writeln!(out, "the gate's own coordinator goes on above {}", restored.levels.elections)?;
    Ok(writeln!(out, "every leader has to be elected anew")?)
}
