//! Connections that change their protocol.

use fencegate::fence::drain::{OnUnknown, Policy};

use super::{Gate, Peer, Plan, Raw, header, problem};
use crate::process::Client;

const ASK: &str = "GET /live HTTP/1.1\r\nhost: gate\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
     sec-websocket-key: abc\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: x\r\n\r\n";

fn tunnel(plan: &Plan, upstream: &Raw, token: &str) -> (Gate, Client, Peer) {
    let gate = plan.start();
    let mut client = gate.client();
    client.send(format!("{ASK}{token}\r\n").as_bytes()).unwrap();
    let mut peer = upstream.accept();
    let head = peer.head();
    assert_eq!((header(&head, "upgrade"), header(&head, "connection")), (vec!["websocket"], vec!["upgrade"]));
    assert_eq!(header(&head, "sec-websocket-key"), ["abc"]);
    peer.send(&format!("{SWITCH}first"));
    let head = client.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!((header(&head, "upgrade"), header(&head, "sec-websocket-accept")), (vec!["websocket"], vec!["x"]));
    assert_eq!(client.read_bytes(5).unwrap(), b"first");
    client.send(b"ping").unwrap();
    assert_eq!(peer.take(4), "ping");
    peer.send("pong");
    assert_eq!(client.read_bytes(4).unwrap(), b"pong");
    (gate, client, peer)
}

fn plan(upstream: &Raw) -> Plan {
    let policy = Policy { drain_ms: 300, settle_ms: 60_000, on_unknown: OnUnknown::Wait, enforce: true };
    Plan { policy, ..Plan::raw(upstream) }
}

const TOKEN: &str = "fencing-token: 7\r\n";

#[test]
fn it_needs_a_token() {
    let upstream = Raw::start();
    let gate = plan(&upstream).start();
    let mut client = gate.client();
    client.send(format!("{ASK}\r\n").as_bytes()).unwrap();
    assert_eq!(client.read_answer().unwrap().code(), "TOKEN_REQUIRED");
    assert!(!upstream.was_asked());
    let reads = vec!["GET /live".to_owned()];
    let (gate, client, _peer) = tunnel(&Plan { reads, ..plan(&upstream) }, &upstream, "");
    assert_eq!(gate.info("stock").in_flight, 0);
    drop(client);
}

#[test]
fn it_is_in_flight_until_both_have_closed() {
    let upstream = Raw::start();
    let (gate, client, mut peer) = tunnel(&plan(&upstream), &upstream, TOKEN);
    assert_eq!(gate.info("stock").in_flight, 1);
    client.half_close();
    assert_eq!(peer.end().unwrap(), b"");
    assert_eq!(gate.info("stock").in_flight, 1, "the upstream may still do something");
    peer.send("bye");
    drop(peer);
    gate.until_known("stock");
    let (gate, mut client, peer) = tunnel(&plan(&upstream), &upstream, TOKEN);
    drop(peer);
    assert_eq!(client.read_until_end(), "");
    gate.until_known("stock");
}

#[test]
fn an_advance_ends_it() {
    let upstream = Raw::start();
    let (gate, mut client, mut peer) = tunnel(&plan(&upstream), &upstream, TOKEN);
    let mut new = gate.client();
    new.send(b"POST /-/fences/stock/claim HTTP/1.1\r\nhost: gate\r\nfencing-token: 8\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    assert_eq!(client.read_until_end(), "", "the client's side is closed");
    assert_eq!(peer.end().unwrap(), b"", "the upstream hears that no more comes");
    assert_eq!(gate.info("stock").in_flight, 1);
    drop(peer);
    assert_eq!(new.read_answer().unwrap().status, 200);
    gate.until_known("stock");
}

#[test]
fn an_upstream_that_does_not_end_it_is_cut_off() {
    let upstream = Raw::start();
    let (gate, mut client, mut peer) = tunnel(&plan(&upstream), &upstream, TOKEN);
    let mut new = gate.client();
    new.send(b"POST /-/fences/stock/claim HTTP/1.1\r\nhost: gate\r\nfencing-token: 8\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    assert_eq!(client.read_until_end(), "");
    assert_eq!(new.read_answer().unwrap().code(), "QUARANTINED");
    assert_eq!(peer.end().unwrap(), b"");
    gate.until_unknown("stock");
}

#[test]
fn an_upstream_that_does_not_want_it() {
    let upstream = Raw::start();
    let gate = plan(&upstream).start();
    let mut client = gate.client();
    client.send(format!("{ASK}{TOKEN}\r\n").as_bytes()).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    peer.answer("400 Bad Request", "no");
    assert_eq!(client.read_answer().unwrap().status, 400);
    gate.until_known("stock");
    // HTTP/2 is an offer that is left alone, and the request is the read that it was.
    client.send(b"GET /a HTTP/1.1\r\nhost: gate\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n\r\n").unwrap();
    let head = peer.head();
    for name in ["upgrade", "connection", "http2-settings"] {
        assert!(header(&head, name).is_empty(), "{head}");
    }
    // One that changes the protocol without being asked can't be followed.
    peer.send(SWITCH);
    assert_eq!(problem(&client.read_answer().unwrap()).0, 502);
}

#[test]
fn much_data_both_ways() {
    let upstream = Raw::start();
    let (gate, mut client, peer) = tunnel(&plan(&upstream), &upstream, TOKEN);
    let echo = std::thread::spawn(move || {
        let mut stream = peer.stream.into_inner();
        let mut from = stream.try_clone().unwrap();
        std::io::copy(&mut from, &mut stream).unwrap()
    });
    let sent: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let mut writer = client.writer();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &copy).unwrap());
    assert!(client.read_bytes(sent.len()).unwrap() == sent, "all of it comes back in order");
    writing.join().unwrap();
    client.half_close();
    assert_eq!(echo.join().unwrap(), sent.len() as u64);
    gate.until_known("stock");
}
