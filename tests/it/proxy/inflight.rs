//! When a write has ended, and whether that is known.

use std::net::Shutdown;
use std::time::Duration;

use fencegate::resource::http::Limits;

use super::{Gate, Peer, Plan, Raw, problem, put};
use crate::process::Client;

/// A gate, a client that has sent a whole write, and the upstream that has read it.
fn written(limits: Limits) -> (Raw, Gate, Client, Peer) {
    let upstream = Raw::start();
    let gate = Plan { limits, ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    client.send(&put("/a", 7, 5)).unwrap();
    client.send(b"hello").unwrap();
    let mut peer = upstream.accept();
    peer.head();
    assert_eq!(peer.take(5), "hello");
    assert_eq!(gate.info("stock").in_flight, 1);
    (upstream, gate, client, peer)
}

fn soon() -> Limits {
    Limits { answer_time: Duration::from_millis(200), ..Limits::default() }
}

#[test]
fn it_lasts_until_the_whole_answer_is_there() {
    let (_upstream, gate, mut client, mut peer) = written(Limits::default());
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc");
    assert_eq!(gate.info("stock").in_flight, 1);
    peer.send("def");
    assert_eq!(client.read_answer().unwrap().body, b"abcdef");
    assert_eq!(gate.info("stock").in_flight, 0, "the fence knows before the client does");
    gate.until_known("stock");
}

#[test]
fn it_lasts_until_a_chunked_answer_has_ended() {
    let (_upstream, gate, mut client, mut peer) = written(Limits::default());
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    assert!(client.read_until("abc").contains("transfer-encoding: chunked"), "what comes is passed on");
    assert_eq!(gate.info("stock").in_flight, 1);
    peer.send("0\r\n\r\n");
    client.read_until("0\r\n\r\n");
    gate.until_known("stock");
}

#[test]
fn error_answers_are_answers() {
    for status in ["400 Bad Request", "412 Precondition Failed", "500 Internal Server Error", "503 Service Unavailable"]
    {
        let (_upstream, gate, mut client, mut peer) = written(Limits::default());
        peer.answer(status, "no");
        let answer = client.read_answer().unwrap();
        assert!(answer.head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{}", answer.head);
        assert_eq!(answer.header("fencing-verdict"), Some("advanced"));
        gate.until_known("stock");
    }
}

#[test]
fn a_gateway_that_does_not_know_is_believed_to_not_know() {
    for status in ["502 Bad Gateway", "504 Gateway Timeout"] {
        let (_upstream, gate, mut client, mut peer) = written(Limits::default());
        peer.answer(status, "who knows");
        let answer = client.read_answer().unwrap();
        assert!(answer.head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{}", answer.head);
        assert_eq!((answer.header("proxy-status"), &*answer.body), (None, &b"who knows"[..]), "the upstream's own");
        gate.until_unknown("stock");
    }
}

#[test]
fn a_connection_that_breaks_leaves_it_unknown() {
    for sent in
        ["", "HTTP/1.1 200 OK\r\ncontent-le", "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc", "nonsense\r\n\r\n"]
    {
        let (_upstream, gate, mut client, mut peer) = written(Limits::default());
        peer.send(sent);
        drop(peer);
        let answer = client.read_answer().unwrap();
        assert_eq!(problem(&answer), (502, "OUTCOME_UNKNOWN".into(), "unknown".into()), "{sent:?}");
        assert_eq!(answer.header("fencing-verdict"), Some("unknown"));
        let status = answer.header("proxy-status").unwrap();
        assert!(status.starts_with("fencegate; error=http_") || status.contains("connection_terminated"), "{status}");
        gate.until_unknown("stock");
    }
}

#[test]
fn an_answer_that_ends_in_two_places_leaves_it_unknown() {
    for (framing, error) in [
        ("content-length: 2\r\ncontent-length: 3", "http_protocol_error"),
        ("content-length: 2, 2", "http_protocol_error"),
        ("content-length: +2", "http_protocol_error"),
        ("transfer-encoding: gzip, chunked", "http_response_transfer_coding"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", "http_response_transfer_coding"),
        ("x: y\r\n folded: z\r\ncontent-length: 2", "http_protocol_error"),
        ("x: y\rz\r\ncontent-length: 2", "http_protocol_error"),
        ("content-length : 2", "http_protocol_error"),
        ("transfer-encoding: chunked\r\n\r\n+2\r\nok\r\n0", "http_protocol_error"),
        ("transfer-encoding: chunked\r\n\r\n2\nok\n0", "http_protocol_error"),
    ] {
        let (_upstream, gate, mut client, mut peer) = written(Limits::default());
        peer.send(&format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\nok"));
        let answer = client.read_answer().unwrap();
        assert_eq!(problem(&answer), (502, "OUTCOME_UNKNOWN".into(), "unknown".into()), "{framing:?}");
        let status = answer.header("proxy-status").unwrap();
        assert!(status.contains(error), "{framing:?}: {status}");
        peer.was_cut();
        gate.until_unknown("stock");
    }
}

#[test]
fn what_comes_after_an_answer_is_no_answer_to_the_next_request() {
    // In one piece with it; and what a length beside the chunks would have taken for the answer.
    for answer in [
        "content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
        "content-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let (upstream, gate, mut client, mut peer) = written(Limits::default());
        peer.send(&format!("HTTP/1.1 200 OK\r\n{answer}"));
        let answered = client.read_answer().unwrap();
        assert_eq!((&*answered.body, answered.header("content-length")), (&b"ok"[..], Some("2")));
        gate.until_known("stock");
        client.send(&put("/a", 7, 0)).unwrap();
        let mut other = upstream.accept();
        other.head();
        other.answer("200 OK", "good");
        assert_eq!(client.read_answer().unwrap().body, b"good");
    }
}

#[test]
fn a_long_answer_that_breaks_is_no_whole_answer_to_the_client_either() {
    let (_upstream, gate, client, mut peer) = written(Limits::default());
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut client = client;
    client.read_until("abc");
    drop(peer);
    let rest = client.read_until_end();
    assert!(!rest.contains("0\r\n\r\n"), "it must not look whole: {rest:?}");
    gate.until_unknown("stock");
}

#[test]
fn an_answer_without_a_length_is_never_known_to_be_whole() {
    let (_upstream, gate, mut client, mut peer) = written(Limits::default());
    peer.send("HTTP/1.1 200 OK\r\n\r\nall of it?");
    drop(peer);
    assert_eq!(client.read_answer().unwrap().body, b"all of it?");
    gate.until_unknown("stock");
    let (_upstream, gate, _client, mut peer) = written(Limits::default());
    peer.send("HTTP/1.1 500 Oh\r\n\r\nno");
    drop(peer);
    gate.until_known("stock");
}

#[test]
fn an_answer_that_does_not_come() {
    let (_upstream, gate, mut client, mut peer) = written(soon());
    let answer = client.read_answer().unwrap();
    assert_eq!(problem(&answer), (504, "OUTCOME_UNKNOWN".into(), "unknown".into()));
    assert!(answer.header("proxy-status").unwrap().starts_with("fencegate; error=http_response_timeout"));
    peer.was_cut();
    gate.until_unknown("stock");
}

#[test]
fn a_large_request_that_moves_is_not_late() {
    let upstream = Raw::start();
    let gate = Plan { limits: soon(), ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    client.send(&put("/a", 7, 12)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    for _ in 0..12 {
        // The time that the answer may take passes four times and more while the request is sent.
        std::thread::park_timeout(Duration::from_millis(80));
        client.send(b"x").unwrap();
        peer.take(1);
    }
    peer.answer("200 OK", "");
    assert_eq!(client.read_answer().unwrap().status, 200);
    gate.until_known("stock");
}

#[test]
fn a_client_that_goes_away_does_not_end_its_write() {
    let (_upstream, gate, client, mut peer) = written(Limits::default());
    drop(client);
    // Whoever asks next is served by the same thread, which has heard of it by then.
    assert_eq!(gate.client().get("/-/healthz").status, 200);
    assert_eq!(gate.info("stock").in_flight, 1);
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc");
    peer.send("def");
    gate.until_known("stock");
    // Nor in the middle of a long answer.
    let (_upstream, gate, mut client, mut peer) = written(Limits::default());
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    client.read_until("abc");
    drop(client);
    assert_eq!(gate.client().get("/-/healthz").status, 200);
    assert_eq!(gate.info("stock").in_flight, 1);
    peer.send("0\r\n\r\n");
    gate.until_known("stock");
}

#[test]
fn it_is_not_waited_for_without_end() {
    let (_upstream, gate, client, mut peer) = written(soon());
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
    let mut client = client;
    client.read_until("abc");
    drop(client);
    gate.until_unknown("stock");
    peer.was_cut();
}

#[test]
fn a_client_that_vanishes_in_the_middle_of_its_body() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    client.send(&put("/a", 7, 5)).unwrap();
    client.send(b"hel").unwrap();
    let mut peer = upstream.accept();
    peer.head();
    assert_eq!(peer.take(3), "hel");
    drop(client);
    assert_eq!(peer.end().unwrap_or_default(), b"");
    gate.until_unknown("stock");
}

#[test]
fn a_client_that_vanishes_before_anything_was_sent() {
    // Nobody accepts here, and the queue is full: connecting takes as long as it may.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    full.listen(0).unwrap();
    let addr = full.local_addr().unwrap().as_socket().unwrap();
    let _queued: Vec<_> = (0..3)
        .map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&addr.into());
            socket
        })
        .collect();
    let gate = Plan::to(format!("http://{addr}")).start();
    let mut client = gate.client();
    client.send(&put("/a", 7, 0)).unwrap();
    gate.until("stock", |info| info.in_flight == 1);
    drop(client);
    gate.until_known("stock");
    let limits = Limits { connect_time: Duration::from_millis(100), ..Limits::default() };
    let gate = Plan { limits, ..Plan::to(format!("http://{addr}")) }.start();
    let answer = gate.client().request("PUT", "/a", &[("fencing-token", "7")], b"").unwrap();
    assert_eq!(problem(&answer), (502, "UPSTREAM_UNREACHABLE".into(), "no".into()));
    assert!(answer.header("proxy-status").unwrap().starts_with("fencegate; error=connection_timeout"));
    gate.until_known("stock");
}

/// A write whose answer comes before the rest of its request.
fn answered_early(status: &str) -> (Raw, Gate, Client, Peer) {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    client.send(&put("/a", 7, 10)).unwrap();
    client.send(b"hello").unwrap();
    let mut peer = upstream.accept();
    peer.head();
    assert_eq!(peer.take(5), "hello");
    peer.answer(status, "early");
    (upstream, gate, client, peer)
}

#[test]
fn a_refusal_before_the_whole_request_ends_it() {
    for status in ["413 Content Too Large", "507 Insufficient Storage", "307 Temporary Redirect"] {
        let (_upstream, gate, mut client, mut peer) = answered_early(status);
        assert_eq!(client.read_answer().unwrap().body, b"early");
        peer.was_cut();
        gate.until_known("stock");
    }
}

#[test]
fn a_success_before_the_whole_request_is_no_known_end() {
    let (_upstream, gate, mut client, mut peer) = answered_early("200 OK");
    assert_eq!(client.read_answer().unwrap().body, b"early");
    peer.was_cut();
    gate.until_unknown("stock");
    // Unless the rest comes at once.
    let (_upstream, gate, mut client, mut peer) = answered_early("200 OK");
    client.send(b"world").unwrap();
    assert_eq!(peer.take(5), "world");
    assert_eq!(client.read_answer().unwrap().body, b"early");
    gate.until_known("stock");
}

#[test]
fn an_upstream_that_stops_reading_and_ends() {
    let (_upstream, gate, mut client, peer) = answered_early("403 Forbidden");
    peer.stream.get_ref().shutdown(Shutdown::Both).unwrap();
    drop(peer);
    assert_eq!(client.read_answer().unwrap().status, 403);
    gate.until_known("stock");
}
