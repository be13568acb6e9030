//! Bodies and trailers on their way.

use std::io::{Read, Write};
use std::time::Duration;

use super::{Plan, Raw, header, put};

#[test]
fn chunks_and_trailers_both_ways() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    client
        .send(
            b"POST /a HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\
              trailer: checksum, fencing-token\r\nconnection: te\r\n\r\n3\r\nabc\r\n",
        )
        .unwrap();
    let mut peer = upstream.accept();
    let head = peer.head();
    assert_eq!((header(&head, "transfer-encoding"), header(&head, "content-length")), (vec!["chunked"], vec![]));
    assert_eq!(peer.take(8), "3\r\nabc\r\n", "what has come is passed on before the rest");
    client.send(b"2\r\nde\r\n0\r\nchecksum: 5\r\nfencing-token: 9\r\n\r\n").unwrap();
    assert_eq!(peer.take_until("\r\n\r\n"), "2\r\nde\r\n0\r\nchecksum: 5\r\n\r\n", "a trailer claims nothing");
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: state, fencing-verdict\r\n\r\n2\r\nok\r\n");
    let head = client.read_until("\r\n\r\n");
    assert_eq!(header(&head, "trailer"), ["state, fencing-verdict"]);
    peer.send("0\r\nstate: fine\r\nfencing-verdict: stale\r\n\r\n");
    assert_eq!(client.read_until("\r\n\r\n"), "2\r\nok\r\n0\r\nstate: fine\r\n\r\n");
    gate.until_known("stock");
}

#[test]
fn a_short_chunked_answer_with_trailers() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    for method in ["PUT", "GET"] {
        let mut client = gate.client();
        let head = "/a HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\nte: trailers\r\nconnection: te\r\n\r\n";
        client.send(format!("{method} {head}").as_bytes()).unwrap();
        let mut peer = upstream.accept();
        peer.head();
        peer.send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: state\r\n\r\n2\r\nok\r\n0\r\nstate: x\r\n\r\n",
        );
        let head = client.read_until("\r\n\r\n");
        assert_eq!(header(&head, "transfer-encoding"), ["chunked"], "{head}");
        assert_eq!(client.read_until("\r\n\r\n"), "2\r\nok\r\n0\r\nstate: x\r\n\r\n");
        gate.until_known("stock");
        socket2::SockRef::from(peer.stream.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

#[test]
fn a_body_of_a_read_is_passed_on() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    client.send(b"GET /a HTTP/1.1\r\nhost: gate\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n").unwrap();
    let mut peer = upstream.accept();
    assert_eq!(header(&peer.head(), "transfer-encoding"), ["chunked"]);
    assert_eq!(peer.take_until("0\r\n\r\n"), "2\r\nab\r\n0\r\n\r\n");
    peer.answer("200 OK", "ok");
    assert_eq!(client.read_answer().unwrap().status, 200);
}

#[test]
fn large_bodies_both_ways() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
    let len = body.len();
    let echo = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut peer = upstream.accept();
            peer.head();
            let mut read = vec![0; len];
            peer.stream.read_exact(&mut read).unwrap();
            peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n"));
            peer.stream.get_mut().write_all(&read).unwrap();
        }
    });
    let mut client = gate.client();
    for method in ["PUT", "GET"] {
        client.send(&String::from_utf8(put("/a", 7, len)).unwrap().replace("PUT", method).into_bytes()).unwrap();
        client.send(&body).unwrap();
        let answer = client.read_answer().unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body == body, "{method}: what comes back is what was sent");
        gate.until_known("stock");
    }
    echo.join().unwrap();
}

#[test]
fn a_client_may_send_all_before_it_reads() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    // More than all buffers on the way can hold, both ways; the answer begins before the request has ended.
    let len = 30_000_000;
    for method in ["GET", "PUT"] {
        let mut client = gate.client();
        client.send(&String::from_utf8(put("/a", 7, len)).unwrap().replace("PUT", method).into_bytes()).unwrap();
        let mut peer = upstream.accept();
        let answering = std::thread::spawn(move || {
            peer.head();
            peer.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n"));
            let mut writer = peer.stream.get_mut().try_clone().unwrap();
            let writing = std::thread::spawn(move || writer.write_all(&vec![b'y'; len]).unwrap());
            peer.stream.read_exact(&mut vec![0; len]).unwrap();
            writing.join().unwrap();
            peer
        });
        client.send(&vec![b'x'; len]).unwrap();
        assert_eq!(client.read_answer().unwrap().body.len(), len, "{method}");
        gate.until_known("stock");
        drop(answering.join().unwrap());
    }
}

/// How much can be written before the other side takes no more.
fn room(stream: &mut std::net::TcpStream) -> usize {
    // Blocked for so long is blocked: all that is in between is on one machine.
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let piece = vec![b'x'; 256 * 1024];
    let mut written = 0;
    while written < 200_000_000 {
        match stream.write(&piece) {
            Ok(count) => written += count,
            Err(_) => break,
        }
    }
    written
}

/// All buffers of the operating system between two ends on one machine, and more.
const BUFFERS: usize = 40_000_000;

#[test]
fn who_does_not_read_is_not_read_for() {
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    for (method, token) in [("GET", ""), ("PUT", "fencing-token: 7\r\n")] {
        client.send(format!("{method} /a HTTP/1.1\r\nhost: gate\r\n{token}\r\n").as_bytes()).unwrap();
        let mut peer = upstream.accept();
        peer.head();
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n");
        let written = room(peer.stream.get_mut());
        assert!(written < BUFFERS, "{method}: the gate took {written} bytes of an answer that nobody reads");
        client = gate.client();
    }
    let mut client = gate.client();
    client.send(&put("/a", 7, 1_000_000_000)).unwrap();
    let mut peer = upstream.accept();
    peer.head();
    let written = room(&mut client.writer());
    assert!(written < BUFFERS, "the gate took {written} bytes of a request that nobody reads");
}
