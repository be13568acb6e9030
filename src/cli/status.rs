//! `fencegate status`.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::fences;
use super::http::Endpoint;
use super::table::cell;

/// Show what a gate serves, and where its fences stand.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate status
  fencegate status --json --admin-url http://127.0.0.1:7071")]
pub struct StatusArgs {
    /// The gate's admin listener.
    #[arg(long, value_name = "URL", env = "FENCEGATE_ADMIN_URL", default_value = "http://127.0.0.1:7071")]
    admin_url: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Most fences shown; `fences list` shows all.
const FENCES_SHOWN_MAX: usize = 100;

/// Shows it.
///
/// # Errors
/// [`Failure::Unreachable`], …
pub fn run(args: &StatusArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let admin = Endpoint::parse(&args.admin_url, "--admin-url")?;
    let mut status = admin.get("/v1/status")?;
    let page = admin.get(&format!("/v1/fences?limit={FENCES_SHOWN_MAX}"))?;
    if args.json {
        status["fences"] = page["fences"].clone();
        return Ok(writeln!(out, "{status}")?);
    }
    let uptime = Duration::from_secs(status["uptime_ms"].as_u64().unwrap_or(0) / 1000);
    let ready = if status["ready"] == true { "ready" } else { "stopping" };
    writeln!(out, "fencegate {}, {ready}, up {}", cell(&status["version"]), humantime::format_duration(uptime))?;
    writeln!(out, "data {}, admin {}", cell(&status["data"]), cell(&status["admin"]))?;
    for resource in status["resources"].as_array().into_iter().flatten() {
        let [name, kind, path, file, guarantee] =
            ["name", "kind", "path", "file", "guarantee"].map(|key| cell(&resource[key]));
        writeln!(out, "\nresource {name} at {path}: {kind} {file}, guarantee {guarantee}")?;
        if let Some(trouble) = resource["trouble"].as_str() {
            writeln!(out, "  TROUBLE: {trouble}")?;
        }
    }
    writeln!(out)?;
    fences::table(out, page["fences"].as_array().map_or(&[], Vec::as_slice))?;
    if !page["next"].is_null() {
        writeln!(out, "… and more: fencegate fences list")?;
    }
    Ok(())
}
