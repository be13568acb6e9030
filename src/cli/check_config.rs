//! `fencegate check-config`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::config::{Config, Overrides};

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
    if args.json {
        let resources: Vec<_> = config
            .resources
            .iter()
            .map(|resource| {
                let tables: serde_json::Map<_, _> =
                    resource.tables.iter().map(|table| (table.pattern.clone(), json!(table.fence))).collect();
                json!({
                    "name": resource.name,
                    "kind": "sqlite",
                    "path": resource.path,
                    "file": resource.file,
                    "fence": resource.fence,
                    "tables": tables,
                    "enforce": resource.enforce,
                })
            })
            .collect();
        let all = json!({
            "ok": true,
            "listen": config.listen,
            "admin": config.admin,
            "data_dir": config.data_dir,
            "resources": resources,
        });
        writeln!(out, "{all}")?;
        return Ok(());
    }
    writeln!(out, "{} is right", args.file.display())?;
    writeln!(out, "  data listener   {}", config.listen)?;
    writeln!(out, "  admin listener  {}", config.admin)?;
    writeln!(out, "  data directory  {}", config.data_dir.display())?;
    for resource in &config.resources {
        writeln!(
            out,
            "  resource {} at {}: {}, fence {}",
            resource.name,
            resource.path,
            resource.file.display(),
            resource.fence
        )?;
        for table in &resource.tables {
            writeln!(out, "    tables {:?}: fence {}", table.pattern, table.fence)?;
        }
        if !resource.enforce {
            writeln!(out, "    WARNING: enforce = false: stale writes go through")?;
        }
    }
    Ok(())
}
