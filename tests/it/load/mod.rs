//! The gate under load and attack: limits, fairness, memory.

mod connections;
mod fair;
mod flood;
mod http2;
mod memory;
mod slow;

use std::path::Path;

use crate::process::Gate;

/// A gate before `app.db` in `dir`, with these limits.
fn gate(dir: &Path, limits: &str) -> Gate {
    Gate::start(dir, &["--config", &config(dir, limits)])
}

/// A configuration file with a database `app` and these limits.
fn config(dir: &Path, limits: &str) -> String {
    let file = dir.join("gate.toml");
    let resource = "[[resource]]\nname = \"app\"\nkind = \"sqlite\"\nfile = \"app.db\"\n";
    std::fs::write(&file, format!("{resource}[limits]\n{limits}")).expect("written");
    file.to_str().expect("UTF-8").to_owned()
}

/// The value of a metric with these labels, which counts whole things; 0 where there is none.
fn metric(gate: &Gate, series: &str) -> u64 {
    let text = String::from_utf8(gate.admin().get("/metrics").body).expect("UTF-8");
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    value.unwrap_or(0)
}

/// One number of a process's `/proc/PID/status`, in KiB.
fn status_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is told");
    line.trim_start_matches(':').split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}
