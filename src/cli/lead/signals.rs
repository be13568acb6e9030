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
    /// From now on, no signal does what it does by default.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start() -> std::io::Result<Signals> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for kind in ENDING.into_iter().chain(OTHER).chain([Signal::TSTP, Signal::CONT]) {
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

/// Whether it asks a process to end.
pub fn is_ending(signal: Signal) -> bool {
    ENDING.contains(&signal)
}
