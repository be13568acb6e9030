//! Programs that die with the thread that starts them.

use std::ffi::{OsStr, OsString};
use std::process::Command;

use super::lead::warden::r#become;

/// A program that is tied to this process and has a process group of its own.
pub fn command(program: &OsStr, args: impl IntoIterator<Item = OsString>) -> Command {
    let words: Vec<OsString> = std::iter::once(program.to_owned()).chain(args).collect();
    let mut command = r#become::command(&words, None);
    // What a person has set for their own gate is not meant for these.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FENCEGATE_") || name.to_string_lossy().starts_with("FENCING_") {
            command.env_remove(name);
        }
    }
    command
}
