//! The metrics: names, units, and their one registry. docs/operations.md lists them.

use std::sync::OnceLock;

use metrics::{Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::problem::{Kind, Problem};

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the registry of this process, once, and describes every metric.
pub fn install() -> PrometheusHandle {
    HANDLE.get_or_init(build).clone()
}

fn build() -> PrometheusHandle {
    let seconds =
        [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
    let requests = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full("fencegate_sqlite_commit_seconds".into()), &seconds)
        .and_then(|builder| {
            builder.set_buckets_for_metric(Matcher::Full("fencegate_sqlite_commit_requests".into()), &requests)
        })
        .expect("the buckets are not empty")
        .build_recorder();
    let handle = recorder.handle();
    if metrics::set_global_recorder(recorder).is_err() {
        tracing::warn!("this process had a metrics recorder already; /metrics stays empty");
    }
    describe();
    handle
}

fn describe() {
    describe_counter!("fencegate_requests_total", Unit::Count, "Requests to resources, by verdict");
    describe_counter!("fencegate_problems_total", Unit::Count, "Requests that were refused or failed, by code");
    describe_counter!("fencegate_advances_total", Unit::Count, "Times that a mark rose");
    describe_counter!("fencegate_quarantines_total", Unit::Count, "Times that a fence was quarantined");
    describe_gauge!("fencegate_http_fences", Unit::Count, "Fences of a resource in memory");
    describe_gauge!("fencegate_http_connections", Unit::Count, "Connections to an upstream");
    describe_gauge!("fencegate_http_connections_idle", Unit::Count, "Connections to an upstream that are unused");
    describe_gauge!("fencegate_http_quarantined", Unit::Count, "Fences that are quarantined");
    describe_gauge!(
        "fencegate_http_queue_marks",
        Unit::Count,
        "Marks and events that wait to be stored, of all resources"
    );
    describe_histogram!("fencegate_sqlite_commit_seconds", Unit::Seconds, "How long a commit took");
    describe_histogram!("fencegate_sqlite_commit_requests", Unit::Count, "Requests that shared one commit");
    describe_counter!("fencegate_sqlite_commit_failures_total", Unit::Count, "Commits that failed");
    let repeated = "Shared transactions that were rolled back and run again without one of their requests";
    describe_counter!("fencegate_sqlite_transactions_repeated_total", Unit::Count, repeated);
    describe_gauge!("fencegate_sqlite_queue_writes", Unit::Count, "Requests that wait for the writer");
    describe_gauge!("fencegate_sqlite_queue_reads", Unit::Count, "Requests that wait for a reader");
    describe_gauge!("fencegate_sqlite_bytes", Unit::Bytes, "Bytes of requests and answers in work");
    describe_gauge!("fencegate_sqlite_streams", Unit::Count, "Streams that are open");
    describe_counter!("fencegate_idempotency_replays_total", Unit::Count, "Writes that were given their first answer");
    let evicted = "Idempotency keys that went before their time because there were too many";
    describe_counter!("fencegate_idempotency_evicted_total", Unit::Count, evicted);
    describe_gauge!("fencegate_idempotency_keys", Unit::Count, "Idempotency keys that are kept");
    describe_gauge!("fencegate_idempotency_bytes", Unit::Bytes, "Bytes that kept keys and answers take");
    describe_gauge!("fencegate_sqlite_transactions", Unit::Count, "Clients' transactions that are open");
    describe_gauge!("fencegate_fence_highest", Unit::Count, "The mark of a fence (first 100 fences of a resource)");
    describe_gauge!("fencegate_fence_in_flight", Unit::Count, "Requests in work on a fence (first 100 fences)");
    describe_counter!("fencegate_fence_refused_total", Unit::Count, "Requests refused on a fence (first 100 fences)");
    let questions = "Questions to a coordinator about who leads, by whether it answered";
    describe_counter!("fencegate_coordinator_questions_total", Unit::Count, questions);
    let advances = "Times that a mark rose because the coordinator told of a new leader, before its first request";
    describe_counter!("fencegate_coordinator_advances_total", Unit::Count, advances);
    let refusals = "Requests that were refused for who sent them, by listener and code";
    describe_counter!("fencegate_access_refusals_total", Unit::Count, refusals);
    let failures = "Times that a connection could not be accepted, mostly for want of file descriptors";
    describe_counter!("fencegate_accept_failures_total", Unit::Count, failures);
    describe_counter!("fencegate_tls_handshakes_failed_total", Unit::Count, "TLS handshakes that came to nothing");
    describe_counter!("fencegate_tls_reloads_total", Unit::Count, "Times that a changed certificate was read again");
    let connections = "Places taken by connections, by listener; one of HTTP/2 takes four";
    describe_gauge!("fencegate_connections", Unit::Count, connections);
    let turned_away = "Connections that there was no place for, by listener";
    describe_counter!("fencegate_connections_turned_away_total", Unit::Count, turned_away);
    let closed = "Connections closed by the gate while they had nothing to do, by listener and reason";
    describe_counter!("fencegate_connections_closed_total", Unit::Count, closed);
    describe_gauge!("fencegate_uptime_seconds", Unit::Seconds, "Time since the gate started");
}

/// The request counters of one resource, looked up once.
#[derive(Debug)]
pub struct RequestCounters {
    resource: String,
    none: Counter,
    admitted: Counter,
    advanced: Counter,
    refused: Vec<(&'static str, Counter)>,
}

/// Every verdict that a problem can carry.
const REFUSED: [&str; 7] = ["stale", "conflict", "missing", "malformed", "unissued", "quarantined", "unknown"];

impl RequestCounters {
    /// The counters of a resource.
    pub fn new(resource: &str) -> RequestCounters {
        let with = |verdict: &'static str| counter!("fencegate_requests_total", "resource" => resource.to_owned(), "verdict" => verdict);
        RequestCounters {
            none: with("none"),
            admitted: with("admitted"),
            advanced: with("advanced"),
            refused: REFUSED.map(|verdict| (verdict, with(verdict))).into(),
            resource: resource.to_owned(),
        }
    }

    /// Counts a request that was let through, whatever became of it then.
    pub fn served(&self, verdict: Option<crate::fence::Verdict>) {
        match verdict {
            None => self.none.increment(1),
            Some(crate::fence::Verdict::Advanced) => self.advanced.increment(1),
            Some(_) => self.admitted.increment(1),
        }
    }

    /// Counts a request that was refused or failed.
    pub fn refused(&self, problem: &Problem) {
        let row = problem.kind.row();
        match row.verdict.and_then(|verdict| self.refused.iter().find(|(known, _)| *known == verdict)) {
            Some((_, counter)) => counter.increment(1),
            None => self.served(problem.verdict),
        }
        if problem.kind != Kind::StaleToken {
            counter!("fencegate_problems_total", "resource" => self.resource.clone(), "code" => row.code).increment(1);
        }
    }
}
