//! HTTP/2: streams, resets, connections that nobody uses.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::gate::LONG;
use crate::process::{Answer, Gate};

use super::{gate, metric};

type Io = Connection<TokioIo<TcpStream>, Full<Bytes>, TokioExecutor>;

async fn connect(gate: &Gate) -> (SendRequest<Full<Bytes>>, Io) {
    let stream = TcpStream::connect(gate.data).await.expect("it is accepted");
    Builder::new(TokioExecutor::new()).handshake(TokioIo::new(stream)).await.expect("HTTP/2 is spoken")
}

/// A read that takes its time.
fn slow(gate: &Gate) -> Request<Full<Bytes>> {
    let sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 300000) SELECT max(n) FROM c";
    let body = serde_json::json!({ "requests": [{ "type": "execute", "stmt": { "sql": sql } }] }).to_string();
    Request::post(format!("http://{}/v3/pipeline", gate.data)).body(Full::from(body)).expect("a request")
}

fn health(gate: &Gate) -> Request<Full<Bytes>> {
    Request::get(format!("http://{}/-/healthz", gate.data)).body(Full::default()).expect("a request")
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(LONG, test).await.expect("in time") })
}

#[test]
fn whoever_begins_and_gives_up_is_shut_out_and_costs_no_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "");
    run(async {
        let (mut sender, connection) = connect(&gate).await;
        let connection = tokio::spawn(connection);
        for turn in 0..2_000 {
            if sender.ready().await.is_err() {
                break;
            }
            let begun: Vec<_> = (0..50).map(|_| sender.send_request(slow(&gate))).collect();
            // The connection's own task sends them, and then that they are given up: each is a HEADERS, a DATA and a RST_STREAM.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            drop(begun);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            assert!(turn < 1_999, "it goes on for ever");
        }
        let _ = connection.await.expect("no panic");
    });
    // By the protocol's own implementation where it sees the resets before the requests are begun, else by the gate (`in_work.rs`).
    // What nobody waits for is not begun: somebody else's read needn't wait for a thousand of those.
    assert_eq!(gate.client().sql(Some("7"), &["CREATE TABLE t (v)", "SELECT 1"]).status, 200);
}

#[test]
fn an_unused_connection_ends_and_one_in_use_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "header_time = \"1s\"\n");
    run(async {
        let (mut sender, connection) = connect(&gate).await;
        let connection = tokio::spawn(connection);
        assert_eq!(sender.send_request(health(&gate)).await.expect("an answer").status(), 200);
        // A request that takes longer than an unused connection is kept.
        let campaign = |body: &'static str| {
            let uri = format!("http://{}/-/elections/e/campaign", gate.data);
            Request::post(uri).body(Full::from(body)).expect("a request")
        };
        let first = sender.send_request(campaign(r#"{"holder":"a","ttl_ms":600000}"#)).await.expect("an answer");
        assert_eq!(first.status(), 200);
        let began = Instant::now();
        let second = sender.send_request(campaign(r#"{"holder":"b","wait_ms":2500}"#)).await.expect("it is in use");
        assert_eq!(second.status(), 202);
        assert!(began.elapsed() >= Duration::from_millis(2400));
        // And then it ends, for want of requests.
        let _ = connection.await.expect("no panic");
    });
    assert_eq!(metric(&gate, "fencegate_connections_closed_total{listener=\"data\",why=\"idle\"}"), 1);
}

#[test]
fn requests_on_one_connection_have_their_number() {
    let dir = tempfile::tempdir().expect("a directory");
    // One connection of HTTP/2 counts for four, and no more than four requests are in work on such connections.
    let gate = gate(dir.path(), "connections = 4\n");
    run(async {
        let (mut sender, connection) = connect(&gate).await;
        tokio::spawn(connection);
        assert_eq!(sender.send_request(health(&gate)).await.expect("an answer").status(), 200);
        let campaign = |wait_ms: u64| {
            let body = serde_json::json!({ "holder": format!("h{wait_ms}"), "wait_ms": wait_ms, "ttl_ms": 600_000 })
                .to_string();
            let uri = format!("http://{}/-/elections/e/campaign", gate.data);
            Request::post(uri).body(Full::from(body)).expect("a request")
        };
        assert_eq!(sender.send_request(campaign(0)).await.expect("an answer").status(), 200);
        let waiting: Vec<_> = (1..=4).map(|n| tokio::spawn(sender.send_request(campaign(59_000 + n)))).collect();
        // Streams begin in their order: this is the fifth.
        let fifth = sender.send_request(health(&gate)).await.expect("an answer");
        assert_eq!(fifth.status(), 503);
        assert!(fifth.headers()["proxy-status"].to_str().expect("text").contains("OVERLOADED"));
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        for task in waiting {
            let _ = task.await;
        }
        loop {
            match sender.send_request(health(&gate)).await.expect("an answer").status().as_u16() {
                200 => break,
                status => assert_eq!(status, 503),
            }
        }
    });
}

#[test]
fn a_stale_write_is_refused_in_the_same_words_however_it_comes() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate(dir.path(), "");
    assert_eq!(gate.client().sql(Some("7"), &["CREATE TABLE t (v)"]).status, 200);
    let body = r#"{"requests":[{"type":"execute","stmt":{"sql":"INSERT INTO t VALUES (1)"}}]}"#;
    let http1 = |version: &str, more: &str| {
        let (mut client, len) = (gate.client(), body.len());
        let head =
            format!("POST /v3/pipeline HTTP/{version}\r\nhost: gate\r\nfencing-token: 6\r\ncontent-length: {len}\r\n");
        client.send(format!("{head}{more}\r\n{body}").as_bytes()).expect("sent");
        client.read_answer().expect("an answer")
    };
    let words = |answer: &Answer| {
        let told = ["content-type", "content-length", "fencing-verdict", "fencing-highest"];
        (answer.status, told.map(|name| answer.header(name).map(str::to_owned)), answer.body.clone())
    };
    // The first is written for it, the others are told again; hyper writes those of HTTP/1.0, and those after what it has read by itself.
    let first = http1("1.1", "");
    assert_eq!(
        (first.status, first.header("fencing-highest"), first.header("fencing-verdict")),
        (412, Some("7"), Some("stale"))
    );
    for (version, more) in [("1.1", ""), ("1.0", ""), ("1.1", "connection: close\r\n"), ("1.1", "te: trailers\r\n")] {
        assert_eq!(words(&http1(version, more)), words(&first), "{version} {more}");
    }
    run(async {
        let (mut sender, connection) = connect(&gate).await;
        tokio::spawn(connection);
        for _ in 0..2 {
            let request = Request::post(format!("http://{}/v3/pipeline", gate.data)).header("fencing-token", "6");
            let answer =
                sender.send_request(request.body(Full::from(body)).expect("a request")).await.expect("an answer");
            let (head, body) = answer.into_parts();
            let body = body.collect().await.expect("all of it").to_bytes();
            let lines = head.headers.iter().map(|(name, value)| format!("\n{name}: {}", value.to_str().expect("text")));
            let (status, head) = (head.status.as_u16(), lines.collect());
            let answer = Answer { status, head, body: body.to_vec() };
            assert_eq!(words(&answer), words(&first));
        }
    });
}
