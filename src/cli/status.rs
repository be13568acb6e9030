//! `fencegate status`.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use hyper::Method;

use crate::fence::FenceName;

use super::failure::Failure;
use super::fences;
use super::http::Endpoint;
use super::identity::IdentityArgs;
use super::table::cell;

mod election;

/// Show what a gate serves, and where its fences stand; or, with --election, who leads, and the gate's mark beside it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate status
  fencegate status --json --admin-url http://127.0.0.1:7071
  fencegate status --ready
  fencegate status --election orders
  fencegate status --election orders --coordinator etcd://127.0.0.1:2379")]
pub struct StatusArgs {
    /// Show this election.
    #[arg(long, value_name = "NAME")]
    election: Option<FenceName>,
    /// Who holds the election: etcd://HOST:PORT, etcds://… with TLS, or http://… for a gate's embedded coordinator [default: that of
    /// --gate].
    #[arg(long, value_name = "URL", env = "FENCEGATE_COORDINATOR")]
    coordinator: Option<String>,
    /// The election's fence [default: the election's name].
    #[arg(long, value_name = "NAME", requires = "election")]
    fence: Option<FenceName>,
    /// The gate's data listener, for the fence's mark.
    #[arg(long, value_name = "URL", env = "FENCEGATE_URL", default_value = "http://127.0.0.1:7070")]
    gate: String,
    /// The gate's admin listener.
    #[arg(long, value_name = "URL", env = "FENCEGATE_ADMIN_URL", default_value = "http://127.0.0.1:7071")]
    admin_url: String,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Only ask whether the gate serves, for health checks: exit status 0, or another. It takes no rights.
    #[arg(long, conflicts_with_all = ["election", "json"])]
    ready: bool,
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
    let identity = args.identity.open()?;
    if let Some(election) = &args.election {
        let wanted = election::Wanted {
            election,
            coordinator: args.coordinator.as_ref().unwrap_or(&args.gate),
            gate: &args.gate,
            fence: args.fence.as_ref().unwrap_or(election),
            identity: &identity,
        };
        return election::show(&wanted, args.json, out);
    }
    let admin = Endpoint::open(&args.admin_url, "--admin-url", &identity)?;
    if args.ready {
        let reply = admin.send(&Method::GET, "/readyz", &[], Vec::new())?;
        return match reply.status {
            200 => Ok(writeln!(out, "ready")?),
            status => Err(Failure::Other(format!("the gate at {} isn't ready ({status})", args.admin_url))),
        };
    }
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
