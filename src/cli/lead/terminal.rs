//! The terminal: the command gets it as from a shell, and it is taken back when the command stops or ends.
//!
//! A process group that doesn't have the terminal is stopped when it reads from it, and the command is in a group of its own. So
//! where `lead` has the terminal, it gives it to the command. Ctrl-C and Ctrl-Z then reach the command, and `lead` sees from what
//! becomes of it what was typed.

use std::fs::File;

use nix::sys::signal::{SigSet, Signal as BlockedSignal};
use rustix::process::{Pid, getpgrp, test_kill_process_group};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr, tcsetpgrp};

/// The terminal that a process's session has, whatever its standard streams are.
pub const CONTROLLING: &str = "/dev/tty";

/// From now on this thread, and those it starts, may write to the terminal and change whose it is while another process group
/// has it. Without this, the kernel stops the whole process group for it (SIGTTOU).
pub fn let_background_change_terminals() {
    let mut signals = SigSet::empty();
    signals.add(BlockedSignal::SIGTTOU);
    // It fails for wrong arguments only.
    let _ = signals.thread_block();
}

/// The controlling terminal.
#[derive(Debug)]
pub struct Terminal {
    tty: File,
    /// The process group that `lead` was started in.
    own: Pid,
    modes: Option<Termios>,
    given_to: Option<Pid>,
}

impl Terminal {
    /// The controlling terminal, if there is one.
    pub fn controlling() -> Option<Terminal> {
        let tty = File::options().read(true).write(true).open(CONTROLLING).ok()?;
        let modes = tcgetattr(&tty).ok();
        Some(Terminal { tty, own: getpgrp(), modes, given_to: None })
    }

    /// The process group that `lead` is in, if that one has the terminal.
    pub fn is_ours(&self) -> Option<Pid> {
        tcgetpgrp(&self.tty).is_ok_and(|has| has == self.own).then_some(self.own)
    }

    /// The command's group takes it for itself when it starts.
    pub fn is_taken_by(&mut self, group: Pid) {
        self.given_to = Some(group);
    }

    /// Gives it to the command's group, if it is ours to give.
    pub fn give(&mut self, group: Pid) {
        if self.is_ours().is_some() && tcsetpgrp(&self.tty, group).is_ok() {
            self.given_to = Some(group);
        }
    }

    /// Whether this group has it.
    pub fn is_of(&self, group: Pid) -> bool {
        tcgetpgrp(&self.tty).is_ok_and(|has| has == group)
    }

    /// Takes it back, if it was given away and nobody else, such as a shell, has it now. `restore`: in the state that it was in
    /// at the start, since whoever had it was killed and couldn't clean up.
    pub fn take_back(&mut self, restore: bool) {
        let Some(given_to) = self.given_to.take() else { return };
        let Ok(has) = tcgetpgrp(&self.tty) else { return };
        // A shell that ran below has put a group of its own there, which is gone with it.
        let is_gone = test_kill_process_group(has).is_err_and(|error| error == rustix::io::Errno::SRCH);
        if (has == given_to || is_gone) && tcsetpgrp(&self.tty, self.own).is_ok() && restore {
            let _ = self.modes.as_ref().map(|modes| tcsetattr(&self.tty, OptionalActions::Now, modes));
        }
    }
}
