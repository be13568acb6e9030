//! What happens to writes in flight when a newer token comes, one scenario each: the real program before an upstream that does what
//! it is told.
//!
//! What is waited for is a condition. Times are so short that a test needn't wait, or so long that they can't run out.

use std::path::Path;

use serde_json::Value;

use crate::process::{Answer, Client, Gate, until};
use crate::upstream;
use crate::upstream::hostile::Hostile;

mod advance;
mod outcomes;
mod restarts;

/// Longer than any test runs: what waits for this waits for good.
const NEVER: &str = "10m";
/// The same for both versions of HTTP to the upstream.
const PROTOCOLS: [&str; 2] = ["http1", "http2"];

/// A gate before a hostile upstream, with the fences `item/{1}` below `/`.
struct Bench {
    gate: Gate,
    upstream: Hostile,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new(protocol: &str, drain: &str, settle: &str, more: &str) -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let upstream = Hostile::start(dir.path());
        let config = format!(
            "[[resource]]\nname = \"items\"\nkind = \"http\"\nupstream = \"{}\"\nfence = \"item/{{1}}\"\n\
             protocol = \"{protocol}\"\ndrain = \"{drain}\"\nsettle = \"{settle}\"\n{more}\n",
            upstream.url()
        );
        let gate = upstream::gate(dir.path(), &config);
        Bench { gate, upstream, dir }
    }

    /// Ends the gate and starts another.
    fn restart(self, end: impl FnOnce(Gate)) -> Bench {
        let Bench { gate, upstream, dir } = self;
        end(gate);
        Bench { gate: upstream::restart(dir.path()), upstream, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A write that does what the script says, on a connection of its own.
    fn write(&self, item: &str, token: u64, script: &str) -> std::io::Result<Answer> {
        let mut client = self.gate.client();
        client.send(&write(item, token, script, "hello"))?;
        client.read_answer()
    }

    /// Sends one and leaves the answer to whoever has the connection.
    fn begin(&self, item: &str, token: u64, script: &str) -> Client {
        let mut client = self.gate.client();
        client.send(&write(item, token, script, "hello")).expect("sent");
        client
    }

    /// Sends the head of one, and a byte of its body.
    fn begin_body(&self, item: &str, token: u64, script: &str) -> Client {
        let mut client = self.gate.client();
        let head = format!(
            "PUT /{item}/doc HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\nhostile: {script}\r\n\
             content-length: 1000000\r\n\r\nx"
        );
        client.send(head.as_bytes()).expect("sent");
        client
    }

    fn claim(&self, item: &str, token: u64) -> Answer {
        self.begin_claim(item, token).read_answer().expect("an answer")
    }

    fn begin_claim(&self, item: &str, token: u64) -> Client {
        let mut client = self.gate.client();
        let claim = format!(
            "POST /-/fences/item%2F{item}/claim HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\ncontent-length: 0\r\n\r\n"
        );
        client.send(claim.as_bytes()).expect("sent");
        client
    }

    fn state(&self, item: &str) -> Value {
        self.gate.client().get(&format!("/-/fences/item%2F{item}")).json()
    }

    fn until_state(&self, item: &str, key: &str, value: &Value) {
        until(&format!("{key} is {value}"), || self.state(item)[key] == *value);
    }

    fn is_quarantined(&self, item: &str) -> bool {
        !self.state(item)["quarantined_until"].is_null()
    }

    /// What happened on a fence, the oldest first.
    fn history(&self, item: &str) -> Vec<String> {
        let history = self.gate.admin().get(&format!("/v1/fences/item%2F{item}/history")).json();
        let mut events: Vec<String> = history["events"]
            .as_array()
            .expect("events")
            .iter()
            .map(|event| event["event"].as_str().expect("a word").to_owned())
            .collect();
        events.reverse();
        events
    }

    fn tokens(&self, item: &str) -> Vec<u64> {
        self.upstream.tokens(&format!("item/{item}"))
    }
}

fn write(item: &str, token: u64, script: &str, body: &str) -> Vec<u8> {
    format!(
        "PUT /{item}/doc HTTP/1.1\r\nhost: gate\r\nfencing-token: {token}\r\nhostile: {script}\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// In an upstream's place the gate says that it is the gate.
fn assert_ours(answer: &Answer) {
    let told = answer.header("proxy-status").unwrap_or_default();
    assert!(told.starts_with("fencegate; error="), "{answer:?}");
}

fn assert_done(answer: &Answer) {
    assert_eq!((answer.status, answer.header("proxy-status")), (200, None), "{answer:?}");
}

fn assert_problem(answer: &Answer, status: u16, code: &str, applied: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer:?}");
    assert_eq!(answer.json()["applied"], applied, "{answer:?}");
}

fn assert_quarantined(answer: &Answer) {
    assert_problem(answer, 503, "QUARANTINED", "no");
    assert_eq!(answer.header("fencing-verdict"), Some("quarantined"), "{answer:?}");
    let again: u64 = answer.header("retry-after").and_then(|again| again.parse().ok()).unwrap_or(0);
    assert!(again >= 1, "{answer:?}");
}

/// An answer that tells that the outcome isn't known; which of the two statuses depends on what happened.
fn assert_unknown(answer: &Answer) {
    assert_problem(answer, answer.status, "OUTCOME_UNKNOWN", "unknown");
    assert!(matches!(answer.status, 502 | 504), "{answer:?}");
    assert_ours(answer);
}
