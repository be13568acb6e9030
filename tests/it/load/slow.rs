//! Those who send slowly, and those who don't take what they are sent.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

use fencegate::resource::sqlite::Limits;

use crate::gate::{Gate, patient};
use crate::process::{Client, until};

use super::{gate, metric};

/// A connection that takes next to nothing before it is read from.
pub fn narrow(addr: SocketAddr) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a socket option");
    socket.connect(&addr.into()).expect("it is accepted");
    Client::over(socket.into())
}

/// A read whose answer has so many bytes, and some more.
pub fn large(bytes: usize) -> Vec<u8> {
    let sql = format!("SELECT printf('%.*c', {bytes}, 'x')");
    let body = serde_json::json!({ "requests": [{ "type": "execute", "stmt": { "sql": sql } }, { "type": "close" }] });
    let body = body.to_string();
    format!("POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[test]
fn slow_readers_keep_no_leader_out_and_are_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "answer_bytes = \"64MiB\"\nsend_time = \"2s\"\n");
    let mut leader = gate.client();
    assert_eq!(leader.sql(Some("7"), &["CREATE TABLE t (v)"]).status, 200);
    let mut slow = Vec::new();
    // Whoever reads without a token may have a quarter of that waiting.
    let refused = loop {
        let mut client = narrow(gate.data);
        client.send(&large(8 << 20)).expect("sent");
        until("it is answered", || client.is_answered());
        slow.push(client);
        assert!(slow.len() < 20, "{} answers wait", slow.len());
        let mut other = gate.client();
        let read = other.sql(None, &["SELECT 1"]);
        if read.status != 200 {
            break read;
        }
    };
    assert_eq!((refused.status, refused.code().as_str()), (503, "OVERLOADED"));
    assert_eq!(leader.sql(Some("7"), &["INSERT INTO t VALUES (1)"]).status, 200);
    // Nobody takes anything: they are given up, and there is room again.
    until("they are given up", || metric(&gate, "fencegate_sqlite_bytes{resource=\"app\"}") == 0);
    assert_eq!(gate.client().sql(None, &["SELECT 1"]).status, 200);
    drop(slow);
}

#[test]
fn bodies_that_do_not_come_end_with_their_time_and_hold_up_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "body_time = \"1s\"\nqueue_bytes = \"1MiB\"\n");
    let mut leader = gate.client();
    assert_eq!(leader.sql(Some("7"), &["CREATE TABLE t (v)"]).status, 200);
    // Half of a large body each, without a token: together more than there may be.
    let mut slow: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = gate.client();
            let head = b"POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\ncontent-length: 200000\r\n\r\n";
            let _ = client.send(&[head.as_slice(), &[b' '; 100_000]].concat());
            client
        })
        .collect();
    until("some wait", || metric(&gate, "fencegate_sqlite_bytes{resource=\"app\"}") > 100_000);
    assert_eq!(leader.sql(Some("7"), &["INSERT INTO t VALUES (1)"]).status, 200);
    let mut told = slow.iter_mut().map(|client| client.read_answer().map(|answer| answer.code()));
    assert!(told.all(|code| code.is_ok_and(|code| code == "REQUEST_TIMEOUT" || code == "OVERLOADED")));
    until("nothing is left", || metric(&gate, "fencegate_sqlite_bytes{resource=\"app\"}") == 0);
}

#[tokio::test]
async fn a_reader_that_stays_makes_the_log_grow_only_until_its_time_is_over() {
    let gate = Gate::with(&[], Limits { stream_idle: std::time::Duration::from_secs(600), ..patient() });
    gate.script("1", "CREATE TABLE t (v)").await;
    let log = gate.file.with_extension("db-wal");
    let write = async || {
        // More than a thousand pages, which is when SQLite copies the log back and begins anew.
        for _ in 0..40 {
            gate.sql("1", "INSERT INTO t SELECT zeroblob(200000)").await.unwrap();
        }
        std::fs::metadata(&log).unwrap().len()
    };
    write().await;
    let usual = write().await;
    let mut reader = gate.client("");
    reader.sql("BEGIN").await.unwrap();
    reader.sql("SELECT count(*) FROM t").await.unwrap();
    write().await;
    let grown = write().await;
    assert!(grown > usual + 8_000_000, "{usual} {grown}: its snapshot is kept");
    // As its limits end it.
    reader.close().await;
    gate.until_gauge("transactions", 0.0).await;
    write().await;
    let after = write().await;
    assert!(after < grown + 8_000_000, "{grown} {after}: the log is used anew");
}
