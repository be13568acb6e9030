//! `fencegate bench` as people run it: real processes, real gates, and services that note what reaches them.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::PROGRAM;

mod ends;
mod measures;
mod safety;
mod service;

/// What a command printed, and its exit status.
pub struct Said {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The JSON that it printed.
    pub fn json(&self) -> Value {
        assert_eq!((self.status, self.err.as_str()), (0, ""), "{}", self.out);
        serde_json::from_str(&self.out).expect("JSON")
    }
}

/// `fencegate bench`, short, with its temporary folder in `dir`.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("bench").arg("--dir").arg(dir);
    let short = [
        ("--duration", "80ms"),
        ("--warm-up", "10ms"),
        ("--rounds", "3"),
        ("--connections", "4"),
        ("--answer-time", "30s"),
    ];
    for (flag, value) in short.into_iter().filter(|(flag, _)| !args.contains(flag)) {
        command.args([flag, value]);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end. Nothing that it made is left in `dir`.
pub fn bench(dir: &Path, args: &[&str]) -> Said {
    let output = command(dir, args).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    assert_eq!(left(dir), Vec::<String>::new(), "it tidies up");
    Said { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// The temporary folders in `dir`.
pub fn left(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with("fencegate-bench-")).collect()
}

/// Of JSON, what was measured under this name.
pub fn measured<'a>(run: &'a Value, name: &str) -> &'a Value {
    let all = run["measured"].as_array().expect("a list");
    all.iter()
        .find(|one| one["name"] == name)
        .unwrap_or_else(|| panic!("{name} is not among {}", names(run).join(", ")))
}

/// The names of all that was measured.
pub fn names(run: &Value) -> Vec<&str> {
    run["measured"].as_array().expect("a list").iter().map(|one| one["name"].as_str().expect("a name")).collect()
}
