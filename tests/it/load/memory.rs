//! All limits reached at once: memory stays under the bound that they come to.

use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Client, Gate, PROGRAM, until};

use super::slow::{large, narrow};
use super::{config, metric, status_kib};

/// Small enough to be reached quickly, and patient: what is held is held for as long as the test takes.
const LIMITS: &str = "
    connections = 420
    admin_connections = 80
    body_bytes = \"2MiB\"
    result_bytes = \"4MiB\"
    queue_bytes = \"16MiB\"
    sqlite_bytes = \"48MiB\"
    streams = 64
    transactions = 4
    readers = 2
    queue_requests = 400
    body_time = \"10m\"
    header_time = \"10m\"
    send_time = \"10m\"
    stream_idle = \"10m\"
    transaction_time = \"10m\"
    lock_wait = \"10m\"
";
/// An answer that counts: far more than the operating system takes in for a client that doesn't read.
const ANSWER: usize = (4 << 20) - 8192;

fn start(dir: &std::path::Path, answer_bytes: &str) -> (Gate, u64) {
    let file = config(dir, &format!("{LIMITS}answer_bytes = \"{answer_bytes}\"\n"));
    let told = Command::new(PROGRAM).args(["check-config", "--json", &file]).output().expect("it runs");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let bytes = told["memory_bound"]["bytes"].as_u64().expect("a number");
    (Gate::start(dir, &["--config", &file]), bytes / 1024)
}

/// Asks for answers and takes nothing of them but the head. How many there were before the first refusal.
fn unread(gate: &Gate, most: usize, held: &mut Vec<Client>) -> usize {
    for number in 0..most {
        let mut client = narrow(gate.data);
        client.send(&large(ANSWER)).expect("sent");
        if client.read_head().expect("an answer").status != 200 {
            return number;
        }
        held.push(client);
    }
    most
}

fn execute(sql: &str) -> Value {
    json!({ "type": "execute", "stmt": { "sql": sql } })
}

/// Streams with as many SQL texts as they may have, and transactions that have begun to read.
fn streams(gate: &Gate) -> Client {
    let mut client = gate.client();
    let text = format!("SELECT '{}'", "x".repeat(60_000));
    for number in 0..80 {
        let store = |id: i32| json!({ "type": "store_sql", "sql_id": id, "sql": text });
        let mut requests = vec![store(1), store(2)];
        if number % 8 == 0 {
            requests.extend([execute("BEGIN"), execute("SELECT * FROM t")]);
        }
        let answer = client.pipeline(None, None, &requests.into()).expect("an answer");
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
    }
    client
}

/// A pipeline that presents token 7, as bytes.
fn write(body: &str) -> Vec<u8> {
    let head = format!(
        "POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// Everything that clients can hold, all at once.
fn attack(gate: &Gate) -> Vec<Client> {
    let mut held = Vec::new();
    let mut keep = |mut client: Client, bytes: &[u8]| {
        // Where there is no room for more, it is told so: that is what limits are for.
        let _ = client.send(bytes);
        held.push(client);
    };
    let half_a_head = [b"GET / HTTP/1.1\r\nhost: gate\r\nx: ".as_slice(), &[b'x'; 60_000]].concat();
    (0..100).for_each(|_| keep(gate.client(), &half_a_head));
    let half_a_body =
        [b"POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\ncontent-length: 2000000\r\n\r\n".as_slice(), &[b' '; 1_000_000]]
            .concat();
    (0..30).for_each(|_| keep(gate.client(), &half_a_body));
    // Many small things in one body, which take far more room than their text.
    let many = format!("{{\"requests\":[{}{{\"type\":\"close\"}}]}}", "{\"type\":\"close\"},".repeat(110_000));
    (0..8).for_each(|_| keep(gate.client(), &write(&many)));
    (0..64).for_each(|_| keep(gate.admin(), b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n"));
    held.push(streams(gate));
    assert!((1..=4).contains(&unread(gate, 40, &mut held)), "a quarter of what may wait is given to one lane");
    // A transaction that doesn't end, and behind it all the writes that may wait.
    let mut lock = gate.client();
    let begun = lock.pipeline(Some("7"), None, &json!([execute("BEGIN IMMEDIATE")])).expect("an answer");
    let value = "x".repeat(40_000);
    let insert = json!({ "requests": [execute(&format!("INSERT INTO t VALUES ('{value}')"))] }).to_string();
    for _ in 0..220 {
        let mut client = gate.client();
        let _ = client.send(&write(&insert));
        held.push(client);
    }
    assert!(matches!(begun.status, 200 | 503), "{begun:?}");
    held.push(lock);
    held
}

#[test]
fn all_limits_at_once_stay_under_the_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let (gate, bound) = start(dir.path(), "48MiB");
    assert_eq!(gate.client().sql(Some("7"), &["CREATE TABLE t (v)", "INSERT INTO t VALUES (1)"]).status, 200);
    let idle = status_kib(gate.pid(), "VmRSS");
    let held = attack(&gate);
    until("the queue is full", || metric(&gate, "fencegate_sqlite_bytes{resource=\"app\"}") > 14_000_000);
    let most = status_kib(gate.pid(), "VmHWM");
    println!("idle {} MiB, under attack {} MiB, bound {} MiB", idle >> 10, most >> 10, bound >> 10);
    assert!(most <= bound, "{most} KiB, and the bound is {bound} KiB");
    assert!(most > idle + (64 << 10), "there was no attack");
    assert_eq!(gate.admin().get("/healthz").status, 200);
    drop(held);
    until("all is over", || metric(&gate, "fencegate_sqlite_bytes{resource=\"app\"}") == 0);
    assert_eq!(gate.client().sql(Some("8"), &["INSERT INTO t VALUES (2)"]).status, 200);
}

#[test]
fn a_limit_that_is_lifted_breaks_the_bound() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, bound) = start(dir.path(), "48MiB");
    // All that is different: how many bytes of answers may wait for their clients.
    let dir = tempfile::tempdir().expect("a directory");
    let (gate, lifted) = start(dir.path(), "100GiB");
    assert!(lifted > bound);
    let mut held = Vec::new();
    let needed = usize::try_from(bound).expect("few") * 1024 / ANSWER + 20;
    assert_eq!(unread(&gate, needed, &mut held), needed);
    let most = status_kib(gate.pid(), "VmHWM");
    assert!(most > bound, "{most} KiB, though the limit was lifted: the check above checks nothing");
}
