//! `fencegate serve`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, Overrides};
use crate::server;
use crate::telemetry::{self, LogFormat};

use super::failure::Failure;

/// Run the gate.
///
/// Without arguments: one SQLite database and an embedded coordinator, in fencegate-data. The bound addresses are printed on one
/// line of standard output, `listening data=ADDR admin=ADDR`; logs go to standard error. SIGTERM drains and exits 0.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate serve
  fencegate serve --sqlite app.db --fence app
  fencegate serve --config fencegate.toml
  fencegate serve --listen 127.0.0.1:0 --admin 127.0.0.1:0")]
pub struct ServeArgs {
    /// Configuration file: many resources, tables with fences of their own, limits.
    #[arg(long, value_name = "FILE", env = "FENCEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// SQLite database to front; made where it is missing.
    #[arg(long, value_name = "FILE", env = "FENCEGATE_SQLITE")]
    sqlite: Option<PathBuf>,
    /// The database's fence [default: the file's name without its ending].
    #[arg(long, value_name = "NAME", env = "FENCEGATE_FENCE")]
    fence: Option<String>,
    /// HTTP service to front: not in this version.
    #[arg(long, value_name = "URL", env = "FENCEGATE_UPSTREAM", hide = true)]
    upstream: Option<String>,
    /// Data listener; port 0 picks a free one [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDR", env = "FENCEGATE_LISTEN")]
    listen: Option<String>,
    /// Admin listener; port 0 picks a free one [default: 127.0.0.1:7071].
    #[arg(long, value_name = "ADDR", env = "FENCEGATE_ADMIN")]
    admin: Option<String>,
    /// Folder for what belongs to no database of yours [default: fencegate-data].
    #[arg(long, value_name = "DIR", env = "FENCEGATE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// What to log, such as info or fencegate=debug.
    #[arg(long, value_name = "FILTER", env = "FENCEGATE_LOG", default_value = "info")]
    log: String,
    /// Form of the log lines.
    #[arg(long, value_name = "FORMAT", env = "FENCEGATE_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Count stale writes, but let them through. For rehearsals and measurements only.
    #[arg(long)]
    no_enforce: bool,
}

/// Where the values of `--config`, `--sqlite` and `--fence` come from: a flag beats a variable.
#[derive(Debug, Clone, Copy)]
pub struct FromFlags {
    /// `--config` stands on the command line.
    pub config: bool,
    /// `--sqlite` or `--fence` does.
    pub database: bool,
}

impl ServeArgs {
    /// The configuration that these arguments ask for.
    ///
    /// # Errors
    /// [`Failure::Usage`] or [`Failure::Config`].
    pub fn configuration(&self, from: FromFlags) -> Result<Config, Failure> {
        if self.upstream.is_some() {
            return Err(Failure::Usage("--upstream is not in this version; --sqlite is".into()));
        }
        let overrides = Overrides {
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            data_dir: self.data_dir.clone(),
            sqlite: self.sqlite.clone(),
            fence: self.fence.clone(),
            no_enforce: self.no_enforce,
        };
        let has_database = self.sqlite.is_some() || self.fence.is_some();
        match &self.config {
            Some(_) if from.config && from.database => {
                Err(Failure::Usage("--config says which databases there are; leave out --sqlite and --fence".into()))
            }
            Some(_) if from.database && has_database => Config::without_file(&overrides).map_err(Failure::Usage),
            Some(file) => Config::from_file(file, &overrides).map_err(|error| Failure::Config(error.to_string())),
            None => Config::without_file(&overrides).map_err(Failure::Usage),
        }
    }
}

/// Runs the gate until it is told to stop.
///
/// # Errors
/// A configuration that is wrong; a gate that can't start.
pub fn run(args: &ServeArgs, from: FromFlags, out: &mut dyn Write) -> Result<(), Failure> {
    telemetry::start(&args.log, args.log_format).map_err(Failure::Usage)?;
    let config = args.configuration(from)?;
    server::serve(config, out).map_err(|error| Failure::Other(error.to_string()))
}
