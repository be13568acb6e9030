//! `fencegate check-config`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use humantime::format_duration;
use serde_json::{Value, json};

use crate::access::Access;
use crate::config::{Config, KindConfig, Overrides, ResourceConfig, TrustConfig};
use crate::fence::drain::OnUnknown;
use crate::server::memory::MemoryBound;
use crate::tls::server::{Options, ServerTls};

use super::failure::Failure;

/// Check a configuration file without starting anything.
///
/// Exit status 0 where it is right; 78 where it isn't, with the file, line and column of the mistake.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate check-config fencegate.toml
  fencegate check-config --json fencegate.toml")]
pub struct CheckConfigArgs {
    /// The configuration file.
    #[arg(value_name = "FILE", default_value = "fencegate.toml", env = "FENCEGATE_CONFIG")]
    file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the file and prints what it says.
///
/// # Errors
/// [`Failure::Config`].
pub fn run(args: &CheckConfigArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let config =
        Config::from_file(&args.file, &Overrides::default()).map_err(|error| Failure::Config(error.to_string()))?;
    for (listener, tls) in [("tls", &config.tls), ("admin_tls", &config.admin_tls)] {
        let opened = tls.clone().map(ServerTls::open).transpose();
        opened.map_err(|why| Failure::Config(format!("{}: [{listener}]: {why}", args.file.display())))?;
    }
    let memory = MemoryBound::of(&config, crate::server::threads());
    if args.json {
        let all = json!({
            "ok": true,
            "listen": config.listen,
            "admin": config.admin,
            "data_dir": config.data_dir,
            "tls": config.tls.is_some(),
            "admin_tls": config.admin_tls.is_some(),
            "allow_insecure": config.allow_insecure,
            "principals": config.access.as_ref().map(|access| principals(access)),
            "memory_bound": memory_json(&memory),
            "resources": config.resources.iter().map(resource_json).collect::<Vec<_>>(),
        });
        writeln!(out, "{all}")?;
        return Ok(());
    }
    writeln!(out, "{} is right", args.file.display())?;
    writeln!(out, "  data listener   {}{}", config.listen, tls(config.tls.as_ref()))?;
    writeln!(out, "  admin listener  {}{}", config.admin, tls(config.admin_tls.as_ref()))?;
    writeln!(out, "  data directory  {}", config.data_dir.display())?;
    writeln!(out, "  memory          at most {} MiB, with all limits reached at once", memory.total() >> 20)?;
    match &config.access {
        None => writeln!(out, "  principals      none: whoever reaches the listeners may do everything")?,
        Some(access) => writeln!(out, "  principals      {}", principals(access).join(", "))?,
    }
    if config.allow_insecure {
        writeln!(out, "  WARNING: allow_insecure = true: listeners may be open to other machines without protection")?;
    }
    for resource in &config.resources {
        let ResourceConfig { name, path, kind, enforce, trust } = resource;
        match kind {
            KindConfig::Sqlite(sqlite) => {
                writeln!(out, "  resource {name} at {path}: {}, fence {}", sqlite.file.display(), sqlite.fence)?;
                for table in &sqlite.tables {
                    writeln!(out, "    tables {:?}: fence {}", table.pattern, table.fence)?;
                }
            }
            KindConfig::Http(http) => {
                writeln!(out, "  resource {name} at {path}: {}, fence {}", http.upstream, http.fence)?;
                let (drain, settle) = (format_duration(http.drain), format_duration(http.settle));
                writeln!(out, "    drain {drain}, settle {settle}, on_unknown {}", http.on_unknown.as_str())?;
                if http.on_unknown == OnUnknown::Proceed {
                    writeln!(
                        out,
                        "    WARNING: on_unknown = \"proceed\": an older write may be applied after newer ones"
                    )?;
                }
            }
        }
        if let Some(TrustConfig { coordinator, elections }) = trust {
            writeln!(out, "    trust coordinator: {coordinator}, election {elections}")?;
        }
        if config.access.as_ref().is_some_and(|access| access.is_credential_only(name)) {
            writeln!(out, "    takes tokens from signed credentials only")?;
        }
        if !enforce {
            writeln!(out, "    WARNING: enforce = false: stale writes go through")?;
        }
    }
    Ok(())
}

fn memory_json(memory: &MemoryBound) -> Value {
    let parts: serde_json::Map<_, _> =
        memory.parts.iter().map(|(part, bytes)| ((*part).to_owned(), json!(bytes))).collect();
    json!({ "bytes": memory.total(), "parts": parts })
}

/// What is told of a listener's TLS.
fn tls(tls: Option<&Options>) -> &'static str {
    match tls.map(|tls| tls.clients.as_ref().map(|clients| clients.required)) {
        None => ", no TLS",
        Some(None) => ", TLS",
        Some(Some(true)) => ", TLS, client certificates required",
        Some(Some(false)) => ", TLS, client certificates optional",
    }
}

fn principals(access: &Access) -> Vec<String> {
    access.principals().map(|principal| principal.name.clone()).collect()
}

fn resource_json(resource: &ResourceConfig) -> Value {
    let mut all = json!({
        "name": resource.name,
        "kind": resource.kind_name(),
        "path": resource.path,
        "enforce": resource.enforce,
    });
    all["trust"] = json!(if resource.trust.is_some() { "coordinator" } else { "client" });
    if let Some(TrustConfig { coordinator, elections }) = &resource.trust {
        all["coordinator"] = json!(coordinator.to_string());
        all["election"] = json!(elections.as_str());
    }
    match &resource.kind {
        KindConfig::Sqlite(sqlite) => {
            let tables: serde_json::Map<_, _> =
                sqlite.tables.iter().map(|table| (table.pattern.clone(), json!(table.fence))).collect();
            all["file"] = json!(sqlite.file);
            all["fence"] = json!(sqlite.fence);
            all["tables"] = tables.into();
        }
        KindConfig::Http(http) => {
            all["upstream"] = json!(http.upstream.to_string());
            all["fence"] = json!(http.fence.to_string());
            all["drain"] = json!(format_duration(http.drain).to_string());
            all["settle"] = json!(format_duration(http.settle).to_string());
            all["on_unknown"] = json!(http.on_unknown.as_str());
        }
    }
    all
}
