//! The processes below this one, as the kernel shows them in `/proc`, and signals that reach them and nobody else.

use std::collections::HashSet;
use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

/// One process, as it was when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: Pid,
    /// When it was started, in clock ticks since the machine was: with the number, it names one process for good.
    started: u64,
    parent: i32,
    group: i32,
    state: char,
    threads: i64,
}

impl Process {
    /// The process with this number; `None` where there is none, or its owner hides it.
    pub fn read(pid: Pid) -> Option<Process> {
        parse(pid, &std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
    }

    /// Whether any of it still runs or can run again. A first thread that has ended leaves the others running.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x') || self.threads > 1
    }

    /// Whether it is stopped, as by Ctrl-Z.
    pub fn is_stopped(&self) -> bool {
        self.state == 'T'
    }

    /// Whether it waits for something that no signal interrupts.
    pub fn is_stuck(&self) -> bool {
        self.state == 'D'
    }

    /// Whether it belongs to this process group.
    pub fn is_in(&self, group: Pid) -> bool {
        self.group == group.as_raw_nonzero().get()
    }

    /// What tells it from every other process, before and after.
    pub fn key(&self) -> (Pid, u64) {
        (self.pid, self.started)
    }

    /// Sends it a signal. A number that another process has by now gets none: the process is held by a descriptor, and looked
    /// at again, before the signal is sent by that descriptor.
    ///
    /// # Errors
    /// It belongs to somebody else, as after `sudo`. That it has ended is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let sent = match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(held) if self.is_still_there() => pidfd_send_signal(held, signal),
            // Kernels from before 5.3.
            Err(Errno::NOSYS) if self.is_still_there() => kill_process(self.pid, signal),
            Ok(_) | Err(Errno::NOSYS) => Ok(()),
            Err(error) => Err(error),
        };
        match sent {
            Err(Errno::SRCH) => Ok(()),
            sent => Ok(sent?),
        }
    }

    fn is_still_there(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.key() == self.key())
    }
}

/// All that live below a process: its children, theirs, and so on, whatever group or session they have made for themselves. One
/// that starts while this looks may be missed; look again.
pub fn descendants(of: Pid) -> Vec<Process> {
    descendants_but(of, &HashSet::new())
}

/// The same without these, and what is below them.
pub fn descendants_but(of: Pid, strangers: &HashSet<(Pid, u64)>) -> Vec<Process> {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    let all = pids.filter_map(Process::read).filter(|process| !strangers.contains(&process.key()));
    below(of.as_raw_nonzero().get(), all.collect())
}

fn below(root: i32, all: Vec<Process>) -> Vec<Process> {
    let mut known = HashSet::from([root]);
    let mut rest = all;
    let mut found = Vec::new();
    loop {
        let (children, others): (Vec<Process>, Vec<Process>) =
            rest.into_iter().partition(|process| known.contains(&process.parent));
        if children.is_empty() {
            break;
        }
        known.extend(children.iter().map(|process| process.pid.as_raw_nonzero().get()));
        found.extend(children);
        rest = others;
    }
    found.retain(Process::is_alive);
    found
}

/// Reads a line of `/proc/PID/stat` (`man 5 proc`). The name, second, may hold spaces and parentheses.
fn parse(pid: Pid, stat: &str) -> Option<Process> {
    let rest: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Process {
        pid,
        state: rest.first()?.chars().next()?,
        parent: rest.get(1)?.parse().ok()?,
        group: rest.get(2)?.parse().ok()?,
        threads: rest.get(17)?.parse().ok()?,
        started: rest.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, state: char) -> Process {
        Process { pid: Pid::from_raw(pid).unwrap(), started: 1, parent, group: pid, state, threads: 1 }
    }

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let pid = Pid::from_raw(12).unwrap();
        let line = "12 (a) R 1 (b) S 7 5 5 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 4711 0 0";
        let parsed = parse(pid, line).unwrap();
        assert_eq!((parsed.state, parsed.parent, parsed.group), ('S', 7, 5));
        assert_eq!((parsed.threads, parsed.started), (3, 4711));
        assert_eq!(parse(pid, "12 (cut off) S 7"), None);
    }

    #[test]
    fn those_below_are_found_in_any_order_and_the_dead_are_not_counted() {
        let all = vec![
            process(5, 4, 'S'),
            process(4, 3, 'T'),
            process(3, 2, 'Z'),
            process(2, 1, 'S'),
            process(9, 1, 'S'),
            Process { threads: 2, ..process(6, 4, 'Z') },
        ];
        let mut found: Vec<i32> = below(2, all).iter().map(|process| process.pid.as_raw_nonzero().get()).collect();
        found.sort_unstable();
        assert_eq!(found, [4, 5, 6]);
    }

    #[test]
    fn this_process_is_there_and_no_other_is_taken_for_it() {
        let own = Process::read(rustix::process::getpid()).unwrap();
        assert!(own.is_alive() && !own.is_stopped());
        let earlier = Process { started: own.started - 1, ..own };
        assert!(earlier.signal(Signal::KILL).is_ok(), "it is not there, so nobody was killed");
    }
}
