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
/// Without arguments: one SQLite database and an embedded coordinator, in fencegate-data. With --upstream: an HTTP service. The bound addresses are printed on one
/// line of standard output, `listening data=ADDR admin=ADDR`; logs go to standard error. SIGTERM drains and exits 0.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate serve
  fencegate serve --sqlite app.db --fence app
  fencegate serve --upstream http://127.0.0.1:9000 --fence inventory
  fencegate serve --config fencegate.toml
  fencegate serve --listen 127.0.0.1:0 --admin 127.0.0.1:0")]
pub struct ServeArgs {
    /// Configuration file: many resources, tables with fences of their own, limits.
    #[arg(long, value_name = "FILE", env = "FENCEGATE_CONFIG")]
    config: Option<PathBuf>,
    /// SQLite database to front; made where it is missing.
    #[arg(long, value_name = "FILE", env = "FENCEGATE_SQLITE")]
    sqlite: Option<PathBuf>,
    /// HTTP service to front.
    #[arg(long, value_name = "URL", env = "FENCEGATE_UPSTREAM")]
    upstream: Option<String>,
    /// The fence; for an HTTP service also one made from the path, such as stock/{1} [default: the database file's name without its
    /// ending; upstream].
    #[arg(long, value_name = "NAME", env = "FENCEGATE_FENCE")]
    fence: Option<String>,
    /// Whether a token above the mark is believed as presented (client), or only if the coordinator confirms that it leads
    /// (coordinator) [default: client].
    #[arg(long, value_name = "WHOM", env = "FENCEGATE_TRUST")]
    trust: Option<String>,
    /// The coordinator that is asked: the gate's own (embedded), or etcd://HOST:PORT,... [default: embedded].
    #[arg(long, value_name = "URL", env = "FENCEGATE_COORDINATOR")]
    coordinator: Option<String>,
    /// The election that issues the fence's tokens; {fence} stands for the fence's name, {1} for the segment that it has in it
    /// [default: {fence}].
    #[arg(long, value_name = "NAME", env = "FENCEGATE_ELECTION")]
    election: Option<String>,
    /// Data listener; port 0 picks a free one [default: 127.0.0.1:7070].
    #[arg(long, value_name = "ADDR", env = "FENCEGATE_LISTEN")]
    listen: Option<String>,
    /// Admin listener; port 0 picks a free one [default: 127.0.0.1:7071].
    #[arg(long, value_name = "ADDR", env = "FENCEGATE_ADMIN")]
    admin: Option<String>,
    /// Certificate of both listeners, and those between it and its authority (PEM).
    #[arg(long, value_name = "FILE", env = "FENCEGATE_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", env = "FENCEGATE_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Listen where other machines can reach it, without TLS and principals.
    #[arg(long, env = "FENCEGATE_ALLOW_INSECURE", value_parser = clap::builder::FalseyValueParser::new())]
    allow_insecure: bool,
    /// Names under which the admin listener may be asked, besides its addresses and localhost; a comma between each two.
    #[arg(long, value_name = "NAMES", env = "FENCEGATE_ADMIN_HOSTS")]
    admin_hosts: Option<String>,
    /// One of the limits of the configuration file's [limits], such as connections=500 or header_time=10s; may be given several times.
    #[arg(long = "limit", value_name = "NAME=VALUE")]
    limits: Vec<String>,
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

/// Where the values of `--config`, and of the flags that say what one resource is, come from: a flag beats a variable.
#[derive(Debug, Clone, Copy)]
pub struct FromFlags {
    /// `--config` stands on the command line.
    pub config: bool,
    /// `--sqlite`, `--upstream`, `--fence`, `--trust`, `--coordinator` or `--election` does.
    pub resource: bool,
}

impl ServeArgs {
    /// The configuration that these arguments ask for.
    ///
    /// # Errors
    /// [`Failure::Usage`] or [`Failure::Config`].
    pub fn configuration(&self, from: FromFlags) -> Result<Config, Failure> {
        if self.upstream.is_some() && self.sqlite.is_some() {
            let why = "--sqlite and --upstream are one resource each; give one, or write a --config file with both";
            return Err(Failure::Usage(why.into()));
        }
        let overrides = Overrides {
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            admin_hosts: self.admin_hosts.clone(),
            data_dir: self.data_dir.clone(),
            sqlite: self.sqlite.clone(),
            upstream: self.upstream.clone(),
            fence: self.fence.clone(),
            no_enforce: self.no_enforce,
            trust: self.trust.clone(),
            coordinator: self.coordinator.clone(),
            election: self.election.clone(),
            tls: self.tls_cert.clone().zip(self.tls_key.clone()),
            allow_insecure: self.allow_insecure,
            limits: self.limits.clone(),
        };
        let trusts = self.trust.is_some() || self.coordinator.is_some() || self.election.is_some();
        let has_resource = self.sqlite.is_some() || self.upstream.is_some() || self.fence.is_some() || trusts;
        match &self.config {
            Some(_) if from.config && from.resource => {
                let why = "--config says which resources there are; leave out --sqlite, --upstream, --fence, --trust, \
                           --coordinator and --election";
                Err(Failure::Usage(why.into()))
            }
            Some(_) if from.resource && has_resource => Config::without_file(&overrides).map_err(Failure::Usage),
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
