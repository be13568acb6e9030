//! What goes through, and how it looks on the other side.

use std::io::Write;

use fencegate::resource::http::Limits;

use super::{Plan, Raw, header, problem, put};

#[test]
fn a_write_and_its_answer() {
    let upstream = Raw::start();
    let gate = Plan { upstream: format!("http://{}/base/", upstream.addr), ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    let request = "POST /a/%62?x=%zz&y HTTP/1.1\r\nhost: gate:1\r\nfencing-token: stock=7\r\nfencing-holder: me\r\n\
         fencing-fence: other\r\nconnection: x-hop, close\r\nx-hop: 1\r\nkeep-alive: 5\r\nproxy-connection: x\r\n\
         te: trailers\r\nx-forwarded-for: 10.0.0.1\r\nx-original-url: /admin\r\ncookie: a=b\r\ncontent-length: 5\r\n\r\nhello";
    client.send(request.as_bytes()).unwrap();
    let mut peer = upstream.accept();
    let head = peer.head();
    assert!(head.starts_with("POST /base/a/b?x=%zz&y HTTP/1.1\r\n"), "{head}");
    let authority = upstream.addr.to_string();
    for (name, value) in [
        ("host", &[&*authority][..]),
        ("fencing-token", &["7"]),
        ("fencing-fence", &["stock"]),
        ("fencing-holder", &["me"]),
        ("x-hop", &[]),
        ("keep-alive", &[]),
        ("proxy-connection", &[]),
        ("x-original-url", &[]),
        ("connection", &["te"]),
        ("te", &["trailers"]),
        ("cookie", &["a=b"]),
        ("x-forwarded-for", &["10.0.0.1, 127.0.0.1"]),
        ("x-forwarded-host", &["gate:1"]),
        ("x-forwarded-proto", &["http"]),
        ("forwarded", &["for=127.0.0.1;host=\"gate:1\";proto=http"]),
        ("via", &["1.1 fencegate"]),
        ("content-length", &["5"]),
        ("transfer-encoding", &[]),
    ] {
        assert_eq!(header(&head, name), value, "{name} in {head}");
    }
    assert_eq!(peer.take(5), "hello");
    peer.send(
        "HTTP/1.1 201 Sure\r\ncontent-length: 2\r\nfencing-verdict: stale\r\nfencing-highest: 99\r\nconnection: x-hop\r\n\
         x-hop: 1\r\nset-cookie: a\r\nset-cookie: b\r\n\r\nok",
    );
    let answer = client.read_answer().unwrap();
    assert_eq!((answer.status, &*answer.body), (201, &b"ok"[..]));
    assert!(answer.head.starts_with("HTTP/1.1 201 Sure\r\n"), "{}", answer.head);
    assert_eq!(header(&answer.head, "fencing-verdict"), ["advanced"]);
    assert_eq!(header(&answer.head, "fencing-highest"), ["7"]);
    assert_eq!(header(&answer.head, "set-cookie"), ["a", "b"]);
    assert_eq!(header(&answer.head, "via"), ["1.1 fencegate"]);
    assert!(header(&answer.head, "x-hop").is_empty() && header(&answer.head, "proxy-status").is_empty());
    gate.until_known("stock");
}

#[test]
fn reads_pass_and_are_judged_where_they_carry_a_token() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    client.send(b"GET /a HTTP/1.1\r\nhost: gate\r\nfencing-fence: x\r\nfencing-holder: y\r\n\r\n").unwrap();
    let mut peer = upstream.accept();
    let head = peer.head();
    for name in ["fencing-token", "fencing-fence", "fencing-holder", "content-length", "transfer-encoding"] {
        assert!(header(&head, name).is_empty(), "{name} in {head}");
    }
    peer.answer("200 OK", "one");
    let answer = client.read_answer().unwrap();
    assert_eq!((answer.status, &*answer.body, answer.header("fencing-verdict")), (200, &b"one"[..], None));
    // The same connection is used again, and the gate's own credential stays with the gate.
    client.send(b"GET /a HTTP/1.1\r\nhost: gate\r\nauthorization: bearer fgt.7\r\n\r\n").unwrap();
    let head = peer.head();
    assert_eq!((header(&head, "fencing-token"), header(&head, "authorization")), (vec!["7"], vec![]));
    assert_eq!(gate.info("stock").in_flight, 0, "nothing of a read is waited for");
    peer.answer("200 OK", "two");
    assert_eq!(client.read_answer().unwrap().header("fencing-verdict"), Some("advanced"));
    let stale = client.request("GET", "/a", &[("fencing-token", "6")], b"").unwrap();
    assert_eq!(problem(&stale), (412, "STALE_TOKEN".into(), "no".into()));
    client.send(b"GET /a HTTP/1.1\r\nhost: gate\r\nauthorization: Basic abc\r\n\r\n").unwrap();
    assert_eq!(header(&peer.head(), "authorization"), ["Basic abc"]);
    peer.answer("404 Not Found", "");
    assert_eq!(client.read_answer().unwrap().status, 404);
}

#[test]
fn answers_without_a_body() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    client.send(b"HEAD /a HTTP/1.1\r\nhost: gate\r\n\r\n").unwrap();
    let mut peer = upstream.accept();
    for (next, answer, status, len) in [
        ("DELETE", "200 OK\r\ncontent-length: 1234", "200", vec!["1234"]),
        ("GET", "204 No Content", "204", vec![]),
        ("PUT", "304 Not Modified\r\netag: \"a\"", "304", vec![]),
        ("GET", "205 Reset Content\r\ncontent-length: 0", "205", vec!["0"]),
    ] {
        peer.head();
        peer.send(&format!("HTTP/1.1 {answer}\r\n\r\n"));
        let head = client.read_until("\r\n\r\n");
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(header(&head, "content-length"), len, "{head}");
        client.send(format!("{next} /a HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\n\r\n").as_bytes()).unwrap();
    }
    assert!(peer.head().starts_with("GET /a"), "one connection for all of them");
}

#[test]
fn interim_answers_are_not_the_answer() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    client.send(&put("/a", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    peer.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n");
    assert_eq!(gate.info("stock").in_flight, 1);
    peer.answer("200 OK", "done");
    assert_eq!(client.read_answer().unwrap().body, b"done");
    gate.until_known("stock");
}

#[test]
fn a_refusal_comes_before_the_body() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    let expecting = |token: u64| {
        let head = "PUT /a HTTP/1.1\r\nhost: gate\r\nexpect: 100-continue\r\ncontent-length: 5";
        format!("{head}\r\nfencing-token: {token}\r\n\r\n")
    };
    client.send(expecting(7).as_bytes()).unwrap();
    let mut peer = upstream.accept();
    assert_eq!(client.read_until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"hello").unwrap();
    assert_eq!(header(&peer.head(), "expect"), [""; 0], "the gate has met it");
    assert_eq!(peer.take(5), "hello");
    peer.answer("200 OK", "");
    assert_eq!(client.read_answer().unwrap().status, 200);
    client.send(expecting(6).as_bytes()).unwrap();
    let refused = client.read_answer().unwrap();
    assert_eq!(problem(&refused), (412, "STALE_TOKEN".into(), "no".into()));
    assert!(refused.header("proxy-status").unwrap().starts_with("fencegate; error=http_request_denied"));
    assert!(!upstream.was_asked());
}

#[test]
fn a_connection_that_has_ended_is_not_used_again() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    for round in 0..3_u64 {
        client.send(&put("/a", 7 + round, 0)).unwrap();
        let mut peer = upstream.accept();
        peer.head();
        peer.answer("200 OK", "");
        assert_eq!(client.read_answer().unwrap().status, 200);
        // Orderly, by a reset, and with an answer to nothing.
        match round {
            0 => drop(peer),
            1 => {
                socket2::SockRef::from(peer.stream.get_ref()).set_linger(Some(std::time::Duration::ZERO)).unwrap();
                drop(peer);
            }
            _ => peer.answer("200 OK", "nobody asked"),
        }
    }
    client.send(&put("/a", 10, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    peer.answer("200 OK", "the right one");
    assert_eq!(client.read_answer().unwrap().body, b"the right one");
    gate.until_known("stock");
}

#[test]
fn connections_are_closed_when_they_get_old() {
    let upstream = Raw::start();
    let limits = Limits { idle_time: std::time::Duration::from_millis(30), ..Limits::default() };
    let gate = Plan { limits, ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    client.send(&put("/a", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    peer.answer("200 OK", "");
    assert_eq!(client.read_answer().unwrap().status, 200);
    assert_eq!(peer.end().unwrap(), b"", "the gate closes it, in an orderly way");
}

#[test]
fn one_that_asks_to_close_is_closed() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    for _ in 0..2 {
        client.send(&put("/a", 7, 0)).unwrap();
        let mut peer = upstream.accept();
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
        let answer = client.read_answer().unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, None), "the client's connection stays");
        peer.stream.get_mut().flush().unwrap();
        drop(peer);
    }
    gate.until_known("stock");
}

#[test]
fn no_upstream() {
    let addr = Raw::start().addr;
    let gate = Plan::to(format!("http://{addr}")).start();
    let mut client = gate.client();
    let answer = client.request("PUT", "/a", &[("fencing-token", "7")], b"x").unwrap();
    assert_eq!(problem(&answer), (502, "UPSTREAM_UNREACHABLE".into(), "no".into()));
    assert!(answer.header("proxy-status").unwrap().starts_with("fencegate; error=connection_refused"));
    assert_eq!(answer.header("fencing-verdict"), Some("advanced"), "who presents a token claims");
    gate.until_known("stock");
    let gate = Plan::to("http://no-such-host.invalid").start();
    let answer = gate.client().request("PUT", "/a", &[("fencing-token", "7")], b"x").unwrap();
    assert_eq!(problem(&answer).1, "UPSTREAM_UNREACHABLE");
    assert!(answer.header("proxy-status").unwrap().starts_with("fencegate; error=dns_error"));
    gate.until_known("stock");
}

#[test]
fn every_address_of_a_name_is_tried() {
    let upstream = Raw::start();
    // Where it means ::1 first, nobody listens there.
    let gate = Plan::to(format!("http://localhost:{}", upstream.addr.port())).start();
    let mut client = gate.client();
    client.send(b"GET /a HTTP/1.1\r\nhost: gate\r\n\r\n").unwrap();
    let mut peer = upstream.accept();
    assert_eq!(header(&peer.head(), "host"), [format!("localhost:{}", upstream.addr.port())]);
    peer.answer("200 OK", "ok");
    assert_eq!(client.read_answer().unwrap().status, 200);
}

#[test]
fn too_many_connections_at_once() {
    let upstream = Raw::start();
    let limits = Limits { connections_per_thread: 1, ..Limits::default() };
    let gate = Plan { limits, ..Plan::raw(&upstream) }.start();
    let (mut one, mut two) = (gate.client(), gate.client());
    one.send(&put("/a", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    let answer = two.request("PUT", "/b", &[("fencing-token", "7")], b"").unwrap();
    assert_eq!(problem(&answer), (503, "OVERLOADED".into(), "no".into()));
    peer.answer("200 OK", "");
    assert_eq!(one.read_answer().unwrap().status, 200);
    two.send(&put("/b", 7, 0)).unwrap();
    peer.head();
    peer.answer("200 OK", "");
    assert_eq!(two.read_answer().unwrap().status, 200);
    gate.until_known("stock");
}

#[test]
fn reads_leave_connections_to_the_writes() {
    let upstream = Raw::start();
    let limits = Limits { connections_per_thread: 4, ..Limits::default() };
    let gate = Plan { limits, ..Plan::raw(&upstream) }.start();
    let read = b"GET /a HTTP/1.1\r\nhost: gate\r\n\r\n";
    // Three whose answers don't come, as where a client takes none of them; the fourth connection is not for a read.
    let mut reads: Vec<_> = (0..3)
        .map(|_| {
            let mut client = gate.client();
            client.send(read).unwrap();
            let mut peer = upstream.accept();
            peer.head();
            (client, peer)
        })
        .collect();
    let answer = gate.client().request("GET", "/b", &[], b"").unwrap();
    assert_eq!(problem(&answer), (503, "OVERLOADED".into(), "no".into()));
    let mut leader = gate.client();
    leader.send(&put("/c", 7, 0)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    peer.answer("200 OK", "");
    assert_eq!(leader.read_answer().unwrap().status, 200);
    // Neither is one that a write has left unused.
    let answer = gate.client().request("GET", "/b", &[], b"").unwrap();
    assert_eq!(problem(&answer), (503, "OVERLOADED".into(), "no".into()));
    let (mut client, mut peer) = reads.pop().unwrap();
    peer.answer("200 OK", "");
    assert_eq!(client.read_answer().unwrap().status, 200);
    client.send(read).unwrap();
    peer.head();
    peer.answer("200 OK", "");
    assert_eq!(client.read_answer().unwrap().status, 200);
}
