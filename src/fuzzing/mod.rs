//! What has to hold whatever bytes come: one property a target, as a function of bytes.
//!
//! The same functions run in two places. `cargo test` replays the inputs that are kept in `fuzz/corpus` and changes them for a bounded
//! number of rounds (`tests.rs`); `make fuzz` gives them to libFuzzer, which looks for inputs that reach new code. docs/fuzzing.md has
//! the properties in words, and what was found.
//!
//! Not a part of the library: it is there in tests and with the cargo feature `fuzzing` only.
//!
//! **Invariant.** A property says how it is violated in words and never by a panic of its own: a panic is the code's under test. Where it
//! compares with a second way to read something, that way shares no code with the first.

pub mod answers;
pub mod batons;
pub mod config;
pub mod credentials;
pub mod headers;
pub mod hrana;
pub mod json;
pub mod paths;
pub mod plain;
pub mod requests;
pub mod sql;

#[cfg(test)]
mod tests;

/// Nothing, or how a property is violated.
pub type Checked = Result<(), String>;

/// Ends a property that doesn't hold.
macro_rules! hold {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err(format!($($why)+));
        }
    };
}
use hold;

/// What is fuzzed.
#[derive(Debug)]
pub struct Target {
    /// Its name: that of its corpus, its dictionary and its program.
    pub name: &'static str,
    /// The property.
    pub check: fn(&[u8]) -> Checked,
    /// How many changed inputs are tried in a short run.
    pub rounds: usize,
}

/// All targets.
pub const TARGETS: [Target; 11] = [
    Target { name: "headers", check: headers::check, rounds: 20_000 },
    Target { name: "credentials", check: credentials::check, rounds: 3_000 },
    Target { name: "paths", check: paths::check, rounds: 20_000 },
    Target { name: "hrana", check: hrana::check, rounds: 5_000 },
    Target { name: "batons", check: batons::check, rounds: 3_000 },
    Target { name: "config", check: config::check, rounds: 3_000 },
    Target { name: "sql", check: sql::check, rounds: 300 },
    Target { name: "answers", check: answers::check, rounds: 3_000 },
    Target { name: "requests", check: requests::check, rounds: 2_000 },
    Target { name: "plain", check: plain::check, rounds: 2_000 },
    Target { name: "json", check: json::check, rounds: 20_000 },
];

/// Checks one input.
///
/// # Panics
/// Where the property doesn't hold, and where there is no such target.
pub fn must_hold(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    if let Err(why) = (target.check)(input) {
        panic!("{name}: {why}");
    }
}

/// A folder of one input's own, gone when this is dropped.
#[derive(Debug)]
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(what: &str) -> Scratch {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("fencegate-fuzz-{what}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for temporary files");
        Scratch(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left behind is in the system's folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
