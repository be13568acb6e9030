//! Logs: structured, to standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. `filter` is as in `info` or `fencegate=debug`. Colours only on a terminal, and not where
/// `NO_COLOR` is set.
///
/// # Errors
/// A filter that can't be understood.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    start_to(filter, format, std::io::stderr)
}

/// The same to another writer, which takes one line at a time.
///
/// # Errors
/// As [`start`].
pub fn start_to<W>(filter: &str, format: LogFormat, writer: W) -> Result<(), String>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_new(filter).map_err(|error| format!("log filter {filter:?}: {error}"))?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_writer(writer).with_env_filter(filter).with_ansi(colours);
    // Where a subscriber is set already, that one stays.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}
