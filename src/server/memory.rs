//! How much memory a gate takes at most: what all limits come to when all of them are reached at once.
//!
//! docs/operations.md has the same as a formula. It is a bound, not an estimate: a gate of which nobody asks too much takes a few dozen
//! megabytes.

use crate::config::{Config, KindConfig};
use crate::resource::http::pump::{BACKLOG_BYTES_MAX, FRAMES};
use crate::resource::sqlite;
use crate::resource::sqlite::fences::FENCES_MAX;
use crate::resource::sqlite::program::STORED_BYTES_MAX;

use super::events;
use super::http::HEAD_BYTES_MAX;

/// What a connection takes beside its buffers: its task, its request's future, what TLS keeps of it. In bytes.
const TASK: usize = 40 << 10;
/// The program itself, its threads, the pages that its allocator keeps. In bytes.
const PROGRAM: usize = 64 << 20;
/// How much larger a body is while it is parsed, at most, than as text: of many small objects of JSON.
const PARSED: usize = 16;
/// A fence of a database in memory, its refusals included; of an HTTP service, its share of the table. In bytes.
const FENCE: usize = 4 << 10;
/// What is kept of a request that waits in a queue, besides what it said. In bytes.
const WAITS: usize = 2 << 10;
/// What is kept of an open stream, besides its texts. In bytes.
const STREAM: usize = 1 << 10;
/// Presenters that were refused, and events that nobody has asked for: of each as many as there can be. In bytes.
const KEPT: usize = 16 << 20;
/// What the elections can take: their candidates. In bytes.
const ELECTIONS: usize = 32 << 20;
/// Marks and events that wait to be stored, of HTTP services. In bytes.
const MARKS: usize = 64 << 20;

/// The parts of the bound, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryBound {
    /// Each part, with what it is for.
    pub parts: Vec<(&'static str, usize)>,
}

impl MemoryBound {
    /// Of a gate with this configuration and so many threads that serve.
    pub fn of(config: &Config, threads: usize) -> MemoryBound {
        let limits = &config.limits;
        let databases = config.resources.iter().filter(|one| matches!(one.kind, KindConfig::Sqlite(_))).count();
        let head = HEAD_BYTES_MAX as usize;
        // What is read of it, what is sent to it.
        let connection = 2 * head + TASK;
        let upstream: usize = config
            .resources
            .iter()
            .filter_map(|one| match &one.kind {
                KindConfig::Http(http) => Some(http.limits.connections_per_thread.saturating_mul(threads)),
                KindConfig::Sqlite(_) => None,
            })
            .fold(0, usize::saturating_add)
            .min(limits.connections);
        let mut parts = vec![
            ("program", PROGRAM),
            ("connections", limits.connections.saturating_add(limits.connections / 16).saturating_mul(connection)),
            ("admin connections", limits.admin_connections.saturating_mul(connection)),
            ("events", events::STREAMS_MAX * events::TOGETHER_BYTES * 2 + KEPT),
            ("elections", ELECTIONS),
        ];
        if upstream > 0 {
            // What is read from it, the frames on their way to the client, and what is sent to it.
            parts.push(("connections to upstreams", upstream.saturating_mul((FRAMES + 2) * head + TASK)));
            parts.push(("answers read ahead of their clients", BACKLOG_BYTES_MAX));
            parts.push(("marks that wait to be stored", MARKS));
        }
        if databases > 0 {
            parts.push(("SQLite", limits.sqlite.sqlite_bytes));
            parts
                .push(("bodies being parsed", threads.saturating_mul(limits.sqlite.body_bytes).saturating_mul(PARSED)));
            parts.push(("databases", databases.saturating_mul(database(&limits.sqlite))));
        }
        MemoryBound { parts }
    }

    /// All parts together.
    pub fn total(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| *bytes).fold(0, usize::saturating_add)
    }
}

/// What one database takes at most.
fn database(limits: &sqlite::Limits) -> usize {
    let waiting = limits.queue_requests.saturating_mul(4).saturating_mul(WAITS);
    let streams = limits.streams.saturating_mul(STORED_BYTES_MAX + STREAM);
    // A result stands once in its rows and once in the answer while that is put together, each in a buffer that has grown by doubling.
    let result = limits.result_bytes.saturating_mul(4);
    let running = result.saturating_mul(limits.readers + 2);
    [limits.queue_bytes, limits.answer_bytes, waiting, streams, running, FENCES_MAX * FENCE]
        .into_iter()
        .fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn bound(change: impl FnOnce(&mut Config)) -> usize {
        let mut config = Config::without_file(&Overrides::default()).expect("it is right");
        change(&mut config);
        MemoryBound::of(&config, 2).total()
    }

    #[test]
    fn every_limit_counts() {
        let before = bound(|_| {});
        for (name, value) in [
            ("connections", "20000"),
            ("admin_connections", "1000"),
            ("body_bytes", "\"1GiB\""),
            ("result_bytes", "\"1GiB\""),
            ("queue_bytes", "\"1GiB\""),
            ("answer_bytes", "\"1GiB\""),
            ("queue_requests", "100000"),
            ("streams", "5000"),
            ("readers", "64"),
            ("sqlite_bytes", "\"1GiB\""),
        ] {
            let table: toml::Table = format!("x = {value}").parse().expect("TOML");
            let after = bound(|config| config.limits.set(name, &table["x"]).expect("a limit"));
            assert!(after > before + (1 << 20), "{name}: {before} {after}");
        }
        assert!(bound(|config| config.limits.connections = usize::MAX) == usize::MAX);
    }
}
