//! Which gate a command is about, for those that look at its files: the arguments that say so, the same for all of them.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};

use crate::config::{Config, Overrides};

use super::failure::Failure;

/// What a gate is in front of, and where it keeps what is its own.
#[derive(Debug, Clone, Args)]
pub struct SetupArgs {
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
    /// Folder for what belongs to no database of yours [default: fencegate-data].
    #[arg(long, value_name = "DIR", env = "FENCEGATE_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Where the values of `--config`, and of the flags that say what one resource is, come from: a flag beats a variable.
#[derive(Debug, Clone, Copy)]
pub struct FromFlags {
    /// `--config` stands on the command line.
    pub config: bool,
    /// `--sqlite`, `--upstream`, `--fence`, `--trust`, `--coordinator` or `--election` does.
    pub resource: bool,
}

impl FromFlags {
    /// What stands on the command line behind this command's name.
    pub fn of(matches: &ArgMatches, command: &str) -> FromFlags {
        let inner = matches.subcommand_matches(command);
        let is_flag = |name| inner.and_then(|inner| inner.value_source(name)) == Some(ValueSource::CommandLine);
        let resource = ["sqlite", "upstream", "fence", "trust", "coordinator", "election"].into_iter().any(is_flag);
        FromFlags { config: is_flag("config"), resource }
    }
}

impl SetupArgs {
    /// The configuration file that was named.
    pub fn file(&self) -> Option<&std::path::Path> {
        self.config.as_deref()
    }

    /// The configuration that these arguments ask for, with what else was said.
    ///
    /// # Errors
    /// [`Failure::Usage`] or [`Failure::Config`].
    pub fn configuration(&self, from: FromFlags, others: Overrides) -> Result<Config, Failure> {
        if self.upstream.is_some() && self.sqlite.is_some() {
            let why = "--sqlite and --upstream are one resource each; give one, or write a --config file with both";
            return Err(Failure::Usage(why.into()));
        }
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
            sqlite: self.sqlite.clone(),
            upstream: self.upstream.clone(),
            fence: self.fence.clone(),
            trust: self.trust.clone(),
            coordinator: self.coordinator.clone(),
            election: self.election.clone(),
            ..others
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
