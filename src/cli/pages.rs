//! `fencegate completions` and `fencegate man`.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::Failure;

/// Print a shell's completion script.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate completions bash > /etc/bash_completion.d/fencegate
  fencegate completions zsh > \"${fpath[1]}/_fencegate\"")]
pub struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// An output that can't be written to.
pub fn completions(args: &CompletionsArgs, mut command: Command, out: &mut dyn Write) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "fencegate", &mut script);
    Ok(out.write_all(&script)?)
}

/// Print the manual page, or write one for each command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  fencegate man | man -l -
  fencegate man --dir /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Write fencegate.1, fencegate-serve.1 … into this folder.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints or writes the pages.
///
/// # Errors
/// An output that can't be written to.
pub fn man(args: &ManArgs, command: Command, out: &mut dyn Write) -> Result<(), Failure> {
    let Some(dir) = &args.dir else {
        return Ok(clap_mangen::Man::new(command).render(&mut ByRef(out))?);
    };
    std::fs::create_dir_all(dir).map_err(|error| Failure::Other(format!("{}: {error}", dir.display())))?;
    write_pages(dir, command, "fencegate", "fencegate")
}

/// `name` is the page's, such as fencegate-serve; `typed` is what one types: fencegate serve.
fn write_pages(dir: &Path, command: Command, name: &str, typed: &str) -> Result<(), Failure> {
    let file = dir.join(format!("{name}.1"));
    let mut page = Vec::new();
    let command = command.display_name(name.to_owned()).bin_name(typed.to_owned());
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    std::fs::write(&file, page).map_err(|error| Failure::Other(format!("{}: {error}", file.display())))?;
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        let inner_name = inner.get_name();
        write_pages(dir, inner.clone(), &format!("{name}-{inner_name}"), &format!("{typed} {inner_name}"))?;
    }
    Ok(())
}

/// clap_mangen wants a sized writer.
struct ByRef<'a>(&'a mut dyn Write);

impl Write for ByRef<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}
