//! How long things may take towards an upstream, and how much is kept.

use std::time::Duration;

/// The limits of an HTTP resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest time to get a connection: looking up the name, trying its addresses, TLS.
    pub connect_time: Duration,
    /// Longest wait for the head of the answer, from the last time that a piece of the request went out; and for the whole rest of
    /// an answer whose client has gone away.
    pub answer_time: Duration,
    /// How long an unused connection is kept. Below what common servers keep theirs (5 s and more): a request that meets a closing
    /// server is of unknown outcome. Until then all are: with fewer, hundreds of requests at once would close and dial again all the time,
    /// which costs more than they do.
    pub idle_time: Duration,
    /// How long a connection to an upstream by name is used: after that the name is looked up anew, since it may lead elsewhere.
    pub name_time: Duration,
    /// Most connections of each thread; more requests at once are answered 503.
    pub connections_per_thread: usize,
    /// Largest head of an answer, in bytes.
    pub head_bytes: usize,
    /// Answers to writes up to this size are taken in before they are passed on, so that one that breaks off is an error with a
    /// status, in bytes.
    pub collect_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect_time: Duration::from_secs(5),
            answer_time: Duration::from_secs(60),
            idle_time: Duration::from_secs(4),
            name_time: Duration::from_secs(60),
            connections_per_thread: 4096,
            head_bytes: 64 * 1024,
            collect_bytes: 64 * 1024,
        }
    }
}
