//! `fencegate serve`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::config::{Config, Overrides};
use crate::server;
use crate::telemetry::{self, LogFormat};

use super::failure::Failure;
use super::setup::{FromFlags, SetupArgs};

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
    #[command(flatten)]
    setup: SetupArgs,
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

impl ServeArgs {
    /// The configuration that these arguments ask for.
    ///
    /// # Errors
    /// [`Failure::Usage`] or [`Failure::Config`].
    pub fn configuration(&self, from: FromFlags) -> Result<Config, Failure> {
        let overrides = Overrides {
            listen: self.listen.clone(),
            admin: self.admin.clone(),
            admin_hosts: self.admin_hosts.clone(),
            no_enforce: self.no_enforce,
            tls: self.tls_cert.clone().zip(self.tls_key.clone()),
            allow_insecure: self.allow_insecure,
            limits: self.limits.clone(),
            ..Overrides::default()
        };
        self.setup.configuration(from, overrides)
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
