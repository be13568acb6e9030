//! What goes on, on one line of a terminal that is written over and over. Nothing where standard error is no terminal.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use super::report::numbers::whole;
use super::verdict::{Cost, range};

/// Columns of the line.
const COLUMNS: usize = 79;

/// The line.
#[derive(Debug)]
pub struct Progress {
    is_shown: bool,
    begun: Instant,
    expected: Duration,
}

impl Progress {
    /// Nothing is expected yet.
    pub fn new() -> Progress {
        let is_dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        Progress { is_shown: stderr().is_terminal() && !is_dumb, begun: Instant::now(), expected: Duration::ZERO }
    }

    /// From now on it is expected to take this long.
    pub fn expect(&mut self, expected: Duration) {
        (self.begun, self.expected) = (Instant::now(), expected);
    }

    /// Says something.
    pub fn say(&self, text: &str) {
        if self.is_shown {
            let text: String = text.chars().take(COLUMNS).collect();
            // Back to the line's beginning, and what stood there away.
            let _ = write!(stderr(), "\r\x1b[K{text}");
        }
    }

    /// Says what is measured. `last`: what it gave in the round before; `known`: what is known by now of what the check costs.
    pub fn show(&self, round: usize, name: &str, last: Option<f64>, known: Option<&Cost>) {
        let left = self.expected.saturating_sub(self.begun.elapsed()).as_secs();
        let last = last.map(|last| format!(", last {}/s", whole(last))).unwrap_or_default();
        let known = known.map(|cost| format!("; the check: {}", range(cost))).unwrap_or_default();
        self.say(&format!("round {round}, at most {left} s to go: {name}{last}{known}"));
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.say("");
    }
}
