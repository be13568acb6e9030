//! The command line: one file a command. `main.rs` parses and calls.

use std::io::Write;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

pub mod backup;
#[cfg(target_os = "linux")]
pub mod bench;
pub mod check_config;
pub mod claim;
#[cfg(target_os = "linux")]
pub mod demo;
#[cfg(target_os = "linux")]
pub mod doctor;
pub mod failure;
pub mod fences;
#[cfg(target_os = "linux")]
pub mod html;
pub mod http;
pub mod identity;
pub mod keyed;
pub mod keys;
#[cfg(target_os = "linux")]
pub mod lead;
pub mod pages;
#[cfg(target_os = "linux")]
pub mod paint;
pub mod principal;
pub mod restore;
pub mod serve;
pub mod setup;
pub mod sql;
pub mod status;
pub mod table;
#[cfg(target_os = "linux")]
pub mod tied;

use failure::Failure;
use setup::FromFlags;

/// A storage proxy that enforces fencing tokens: a deposed leader's write is refused.
///
/// Start one with `fencegate serve`. Then whoever writes presents a token, the number of its leader term; a token below the
/// highest that was admitted is refused: You've been replaced.
#[derive(Debug, Parser)]
#[command(
    name = "fencegate",
    version,
    max_term_width = 80,
    after_help = "Exit status:
  0 done   1 failed   64 wrong usage   69 gate or coordinator out of reach
  75 leadership lost   77 refused by the gate   78 wrong configuration

A variable that is empty counts as not set."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Backup(backup::BackupArgs),
    Restore(restore::RestoreArgs),
    #[cfg(target_os = "linux")]
    Doctor(doctor::DoctorArgs),
    #[cfg(target_os = "linux")]
    Lead(lead::LeadArgs),
    #[cfg(target_os = "linux")]
    Bench(Box<bench::BenchArgs>),
    Claim(claim::ClaimArgs),
    #[cfg(target_os = "linux")]
    Demo(demo::DemoArgs),
    Sql(sql::SqlArgs),
    Status(status::StatusArgs),
    Fences(fences::FencesArgs),
    Principal(principal::PrincipalArgs),
    Keys(keys::KeysArgs),
    CheckConfig(check_config::CheckConfigArgs),
    Completions(pages::CompletionsArgs),
    Man(pages::ManArgs),
}

/// Exit status of wrong usage, as in BSD's sysexits.
pub const EXIT_USAGE: u8 = 64;

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    if let Some(status) = lead::inner(std::env::args_os()).or_else(|| demo::inner(std::env::args_os())) {
        return ExitCode::from(status);
    }
    let matches = match without_empty_variables(Cli::command()).try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let mut out = std::io::stdout().lock();
    let result = run(&matches, &mut out).and_then(|()| Ok(out.flush()?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !matches!(failure, Failure::BrokenPipe | Failure::Exit(_, None)) {
                let _ = writeln!(std::io::stderr(), "fencegate: {failure}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Scripts and unit files write `FENCING_HOLDER=` for what they don't set: an empty variable counts as not there.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| if is_empty(&arg) { arg.env(clap::builder::Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

fn run(matches: &ArgMatches, out: &mut dyn Write) -> Result<(), Failure> {
    let cli = Cli::from_arg_matches(matches).map_err(|error| Failure::Usage(error.to_string()))?;
    match cli.command {
        Command::Serve(args) => serve::run(&args, FromFlags::of(matches, "serve"), out),
        Command::Backup(args) => backup::run(&args, FromFlags::of(matches, "backup"), out),
        Command::Restore(args) => restore::run(&args, FromFlags::of(matches, "restore"), out),
        #[cfg(target_os = "linux")]
        Command::Doctor(args) => doctor::run(&args, FromFlags::of(matches, "doctor"), out),
        #[cfg(target_os = "linux")]
        Command::Lead(args) => lead::run(&args),
        #[cfg(target_os = "linux")]
        Command::Bench(args) => bench::run(&args, out),
        Command::Claim(args) => claim::run(&args, out),
        #[cfg(target_os = "linux")]
        Command::Demo(args) => demo::run(&args, out),
        Command::Sql(args) => sql::run(&args, out),
        Command::Status(args) => status::run(&args, out),
        Command::Fences(args) => fences::run(&args, out),
        Command::Principal(args) => principal::run(&args, out),
        Command::Keys(args) => keys::run(&args, out),
        Command::CheckConfig(args) => check_config::run(&args, out),
        Command::Completions(args) => pages::completions(&args, Cli::command(), out),
        Command::Man(args) => pages::man(&args, Cli::command(), out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal_of_80_columns() {
        fn check(command: &mut clap::Command) {
            for line in command.render_long_help().to_string().lines().chain(command.render_help().to_string().lines())
            {
                assert!(line.trim_end().chars().count() <= 80, "{}: {line}", command.get_name());
            }
            command.get_subcommands_mut().for_each(check);
        }
        let mut command = Cli::command();
        command.build();
        check(&mut command);
    }
}
