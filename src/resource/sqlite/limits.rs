//! What one database's clients may use.

use std::time::Duration;

/// The limits of one SQLite resource.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest SQL text, in bytes.
    pub sql_bytes: usize,
    /// Longest string or blob, in bytes.
    pub value_bytes: usize,
    /// Longest run of one statement.
    pub statement_time: Duration,
    /// Most rows in one statement's result.
    pub result_rows: usize,
    /// Most bytes in one statement's result, as JSON.
    pub result_bytes: usize,
    /// Most streams open at once.
    pub streams: usize,
    /// Most streams that are inside a transaction at once.
    pub transactions: usize,
    /// How long a stream may stay unused before it is closed.
    pub stream_idle: Duration,
    /// How long a transaction may stay open.
    pub transaction_time: Duration,
    /// How long a write waits for another client's open transaction.
    pub lock_wait: Duration,
    /// Most requests waiting for the writer, and as many waiting for readers.
    pub queue_requests: usize,
    /// Longest request body, in bytes.
    pub body_bytes: usize,
    /// How long a request body may take to arrive.
    pub body_time: Duration,
    /// Most bytes of requests in work at once; beyond it new requests are turned away.
    pub queue_bytes: usize,
    /// How long an `Idempotency-Key` is known again.
    pub idempotency_retention: Duration,
    /// How long it is known again whatever else comes. Where there is no room for it, new ones are turned away.
    pub idempotency_hold: Duration,
    /// Most keys that are kept of one fence.
    pub idempotency_keys: usize,
    /// Most bytes that keys and answers of one fence take.
    pub idempotency_bytes: usize,
    /// Longest answer that is kept, in bytes.
    pub idempotency_answer_bytes: usize,
    /// Most bytes of answers that clients haven't taken; beyond it no request is begun.
    pub answer_bytes: usize,
    /// Most memory of SQLite itself, of all databases of the process together, in bytes.
    pub sqlite_bytes: usize,
    /// Threads that read.
    pub readers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sql_bytes: 1_000_000,
            value_bytes: 16 << 20,
            statement_time: Duration::from_secs(10),
            result_rows: 100_000,
            result_bytes: 32 << 20,
            streams: 1024,
            transactions: 64,
            stream_idle: Duration::from_secs(10),
            transaction_time: Duration::from_secs(60),
            lock_wait: Duration::from_secs(5),
            queue_requests: 4096,
            body_bytes: 8 << 20,
            body_time: Duration::from_secs(30),
            queue_bytes: 64 << 20,
            idempotency_retention: Duration::from_secs(24 * 3600),
            idempotency_hold: Duration::from_secs(20),
            idempotency_keys: 1_000_000,
            idempotency_bytes: 512 << 20,
            idempotency_answer_bytes: 64 << 10,
            answer_bytes: 256 << 20,
            sqlite_bytes: 512 << 20,
            readers: 4,
        }
    }
}
