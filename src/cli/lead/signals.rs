//! Signals that `lead` gets.

use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Those that ask a process to end.
const ENDING: [Signal; 4] = [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
/// Those that a program may understand in its own way. Passed on to a command that runs; nothing where none does.
const OTHER: [Signal; 2] = [Signal::USR1, Signal::USR2];

/// All of them, one after the other.
#[derive(Debug)]
pub struct Signals(mpsc::UnboundedReceiver<Signal>);

impl Signals {
    /// From now on, no signal does what it does by default. One that was ignored stays so, for the command, too: `nohup` sees to
    /// that with SIGHUP, and a script with SIGINT for what it starts in the background.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start() -> std::io::Result<Signals> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let passed_on = ENDING.into_iter().chain(OTHER).filter(|kind| !is_ignored(*kind)).collect::<Vec<_>>();
        for kind in passed_on.into_iter().chain([Signal::TSTP, Signal::CONT]) {
            let mut stream = signal(SignalKind::from_raw(kind.as_raw()))?;
            let sender = sender.clone();
            tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(kind).is_ok() {} });
        }
        Ok(Signals(receiver))
    }

    /// The next. Dropping this future loses nothing.
    pub async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// Those that ask a process to end and aren't ignored.
pub fn ending() -> Vec<Signal> {
    ENDING.into_iter().filter(|kind| !is_ignored(*kind)).collect()
}

/// Whether this process ignores a signal.
fn is_ignored(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|ignored| ignored >> (signal.as_raw() - 1) & 1 == 1)
}

/// Whether it asks a process to end.
pub fn is_ending(signal: Signal) -> bool {
    ENDING.contains(&signal)
}
