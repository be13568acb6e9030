//! The program that becomes the command: what a child has to do between its start and the command's first instruction, in a
//! process of its own, since nothing much is allowed between `fork` and `exec`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, getpgrp, getpid, getppid, set_parent_process_death_signal};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::super::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, PROGRAM, program, terminal};

/// The first argument of the program that becomes the command.
pub const BECOME: &str = "__become";

/// What the warden starts. The command's process group is already its own when this begins.
pub fn command(command: &[OsString], terminal_of: Option<i32>) -> Command {
    let mut program = Command::new(PROGRAM);
    program.arg0("fencegate-become").arg(BECOME).arg(getpid().as_raw_nonzero().to_string());
    program.arg(terminal_of.unwrap_or(0).to_string()).args(command);
    program.process_group(0).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    program
}

/// Becomes the command; an exit status where that fails.
pub fn run(mut args: impl Iterator<Item = OsString>) -> u8 {
    let mut number = || Pid::from_raw(args.next()?.to_str()?.parse().ok()?);
    let (warden, terminal_of) = (number(), number());
    let (Some(warden), Some(command)) = (warden, args.next()) else { return super::super::super::EXIT_USAGE };
    // Whoever kills the warden kills the command.
    let tied = set_parent_process_death_signal(Some(Signal::KILL));
    if tied.is_err() || getppid() != Some(warden) {
        return EXIT_NOT_EXECUTABLE;
    }
    if let Some(group) = terminal_of {
        take_terminal(group);
    }
    // The signals blocked here are not blocked in the command: the standard library starts it with none.
    let error = Command::new(&command).args(args).exec();
    // One that is there and yet isn't found has an interpreter that isn't.
    let is_gone = error.kind() == ErrorKind::NotFound && program::check(std::slice::from_ref(&command)).is_err();
    let status = if is_gone { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE };
    let _ = writeln!(std::io::stderr(), "fencegate: {} can't be started: {error}", shown(&command));
    status
}

/// As shells do for what they start in the foreground. If somebody else has the terminal by now, it stays theirs.
fn take_terminal(group: Pid) {
    terminal::let_background_change_terminals();
    let Ok(tty) = File::options().read(true).write(true).open(terminal::CONTROLLING) else { return };
    if tcgetpgrp(&tty).is_ok_and(|has| has == group) {
        let _ = tcsetpgrp(&tty, getpgrp());
    }
}

fn shown(program: &OsStr) -> std::path::Display<'_> {
    std::path::Path::new(program).display()
}
