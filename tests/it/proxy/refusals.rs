//! What doesn't go through.

use super::{Plan, Raw, header, problem};

/// Sends bytes to a gate in front of an upstream that nobody asks, and reads the status of the answer; 0: it only closed.
fn refused(request: &str) -> u16 {
    let upstream = Raw::start();
    let gate = Plan { fence: "stock/{1}", ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    client.send(request.as_bytes()).unwrap();
    let status = client.read_answer().map_or(0, |answer| answer.status);
    assert!(!upstream.was_asked(), "{request:?} reached the upstream");
    status
}

#[test]
fn requests_that_end_in_two_places() {
    for (lines, status) in [
        ("content-length: 5\r\ncontent-length: 6", 400),
        ("content-length: 5, 5", 400),
        ("content-length: +5", 400),
        ("content-length: -5", 400),
        ("content-length: 5 5", 400),
        ("content-length: ", 400),
        ("content-length: 0x5", 400),
        ("content-length: 99999999999999999999", 400),
        ("transfer-encoding: gzip, chunked", 501),
        ("transfer-encoding: chunked, chunked", 501),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", 501),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity", 400),
        ("transfer-encoding: identity", 400),
        ("transfer-encoding: xchunked", 400),
        ("transfer-encoding: \x0bchunked", 400),
        ("transfer-encoding : chunked", 400),
        (" transfer-encoding: chunked", 400),
        ("x: y\r\n transfer-encoding: chunked", 400),
        ("x: y\r\n\tz", 400),
        ("x: a\rb", 400),
        ("x: a\0b", 400),
        ("x y: z", 400),
        ("x\r\n: z", 400),
        ("no colon", 400),
    ] {
        let request = format!("POST /a HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\n{lines}\r\n\r\nhello");
        assert_eq!(refused(&request), status, "{lines:?}");
    }
}

/// What RFC 9112, section 6.3, leaves to choose: the parser before us takes one of the two, and ends the connection, so that
/// nothing after the request can be taken for another one. The upstream gets it framed anew, in one way.
#[test]
fn requests_framed_twice_are_framed_once_by_the_gate() {
    for lines in ["content-length: 3\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 3"]
    {
        let upstream = Raw::start();
        let gate = Plan::raw(&upstream).start();
        let mut client = gate.client();
        let smuggled = "PUT /evil HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\ncontent-length: 0\r\n\r\n";
        let head = format!("POST /a HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\n{lines}\r\n\r\n");
        client.send(format!("{head}2\r\nab\r\n0\r\n\r\n{smuggled}").as_bytes()).unwrap();
        let mut peer = upstream.accept();
        let head = peer.head();
        assert_eq!((header(&head, "transfer-encoding"), header(&head, "content-length")), (vec!["chunked"], vec![]));
        assert_eq!(peer.take_until("0\r\n\r\n"), "2\r\nab\r\n0\r\n\r\n");
        peer.answer("200 OK", "");
        let answer = client.read_answer().unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert_eq!(client.read_until_end(), "");
        assert!(!upstream.was_asked());
    }
    let upstream = Raw::start();
    let gate = Plan::raw(&upstream).start();
    let mut client = gate.client();
    client
        .send(b"POST /a HTTP/1.1\r\nhost: a\r\nfencing-token: 7\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab")
        .unwrap();
    let mut peer = upstream.accept();
    assert_eq!(header(&peer.head(), "content-length"), ["2"]);
}

#[test]
fn heads_that_are_none() {
    for (request, status) in [
        ("POST /a HTTP/1.1\r\nfencing-token: 7\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nhost: a\r\nhost: b\r\nfencing-token: 7\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nhost: a b\r\nfencing-token: 7\r\n\r\n", 400),
        ("POST /a HTTP/1.1\r\nhost: a/b\r\nfencing-token: 7\r\n\r\n", 400),
        ("POST /a HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\nfencing-token: 7\r\n\r\n0\r\n\r\n", 400),
        ("CONNECT gate:80 HTTP/1.1\r\nhost: gate:80\r\n\r\n", 501),
        ("POST  /a HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("POST /a b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        ("POST /a HTTP/1.1\rhost: a\r\n\r\n", 400),
    ] {
        assert_eq!(refused(request), status, "{request:?}");
    }
}

#[test]
fn a_chunk_that_is_none_ends_an_unknown_write() {
    for chunk in ["5;x\n\rhello\r\n", "g\r\n", "-1\r\n", "5\r\nhelloX\r\n", "ffffffffffffffffff\r\n"] {
        let upstream = Raw::start();
        let gate = Plan::raw(&upstream).start();
        let mut client = gate.client();
        let head = "POST /a HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\ntransfer-encoding: chunked\r\n\r\n";
        client.send(format!("{head}2\r\nab\r\n").as_bytes()).unwrap();
        let mut peer = upstream.accept();
        peer.head();
        peer.take(7);
        client.send(chunk.as_bytes()).unwrap();
        let rest = peer.end().unwrap_or_default();
        assert!(!rest.windows(5).any(|end| end == b"0\r\n\r\n"), "{chunk:?}: it looks whole to the upstream: {rest:?}");
        gate.until_unknown("stock");
    }
}

#[test]
fn paths_that_can_be_read_in_two_ways() {
    for path in [
        "/7/../8",
        "/7/%2e%2e/8",
        "/7/.%2E/8",
        "/7/..;/8",
        "//8",
        "/7//8",
        "/7%2F..%2F8",
        "/7\\..\\8",
        "/7%5C8",
        "/7%00",
        "/7%0a",
        "/7%",
        "/7%zz",
        "/%c0%ae/8",
        "/7;x",
        "/7.",
        "/7%20",
        "/7%2e",
        "/./7",
        "/7%252f8",
        "/;/7",
    ] {
        let request = format!("PUT {path} HTTP/1.1\r\nhost: gate\r\nfencing-token: 7\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(refused(&request), 400, "{path}");
    }
}

#[test]
fn whose_token_it_is() {
    let upstream = Raw::start();
    let gate = Plan { fence: "stock/{1}", ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    let mut ask = |method: &str, path: &str, headers: &[(&str, &str)]| {
        problem(&client.request(method, path, headers, b"x").unwrap())
    };
    for (method, path, headers, status, code) in [
        ("PUT", "/7", &[][..], 428, "TOKEN_REQUIRED"),
        ("PUT", "/7", &[("fencing-holder", "me")], 428, "TOKEN_REQUIRED"),
        ("PUT", "/7", &[("fencing-token", "x")], 400, "TOKEN_MALFORMED"),
        ("PUT", "/7", &[("fencing-token", "stock/8=9")], 400, "WRONG_FENCE"),
        ("PUT", "/7", &[("fencing-token", "stock/7=9, stock/8=9")], 400, "WRONG_FENCE"),
        ("GET", "/7", &[("fencing-token", "stock/8=9")], 400, "WRONG_FENCE"),
        ("PUT", "/", &[("fencing-token", "9")], 400, "WRONG_FENCE"),
        ("GET", "/", &[("fencing-token", "9")], 400, "WRONG_FENCE"),
        ("PUT", "/", &[], 400, "BAD_REQUEST"),
        ("GET", "/7", &[("x-http-method-override", "DELETE")], 428, "TOKEN_REQUIRED"),
        ("GET", "/7.", &[("fencing-token", "9")], 400, "AMBIGUOUS_PATH"),
    ] {
        assert_eq!(ask(method, path, headers), (status, code.into(), "no".into()), "{method} {path} {headers:?}");
    }
    assert!(!upstream.was_asked());
    for path in ["/", "/7.", "/a%20b/c"] {
        client.send(format!("GET {path} HTTP/1.1\r\nhost: gate\r\n\r\n").as_bytes()).unwrap();
        let mut peer = upstream.accept();
        assert!(peer.head().starts_with(&format!("GET {path} ")));
        peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        assert_eq!(client.read_answer().unwrap().status, 200, "tokenless reads pass");
    }
}

#[test]
fn all_spellings_of_a_path_are_of_one_fence() {
    let upstream = Raw::start();
    let gate = Plan { fence: "{1}", lower: true, ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    client.send(b"PUT /%41b/x HTTP/1.1\r\nhost: gate\r\nfencing-token: 9\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut peer = upstream.accept();
    let head = peer.head();
    assert!(head.starts_with("PUT /Ab/x HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "fencing-fence"), ["ab"]);
    peer.answer("200 OK", "");
    assert_eq!(client.read_answer().unwrap().status, 200);
    for path in ["/ab", "/AB", "/aB/", "/%61%42"] {
        let answer = client.request("PUT", path, &[("fencing-token", "8")], b"").unwrap();
        assert_eq!(answer.status, 412, "{path}");
    }
}

#[test]
fn a_destination_is_of_the_same_fence() {
    let upstream = Raw::start();
    let gate = Plan { fence: "stock/{1}", mount: "/dav", ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    for (destination, code) in [
        ("/dav/8/a", "WRONG_FENCE"),
        ("http://localhost/dav/8/a", "WRONG_FENCE"),
        ("/dav/", "WRONG_FENCE"),
        ("/dav/7/../8/a", "AMBIGUOUS_PATH"),
        ("/dav/7/%2e%2e/8", "AMBIGUOUS_PATH"),
        ("//dav/7/a", "BAD_REQUEST"),
        ("/8/a", "BAD_REQUEST"),
        ("http://other/dav/7/a", "BAD_REQUEST"),
    ] {
        let headers = [("fencing-token", "9"), ("destination", destination)];
        assert_eq!(client.request("MOVE", "/dav/7/x", &headers, b"").unwrap().code(), code, "{destination}");
    }
    assert!(!upstream.was_asked());
    client
        .send(b"MOVE /dav/7/x HTTP/1.1\r\nhost: gate\r\nfencing-token: 9\r\ndestination: http://gate/dav/%37/y\r\n\r\n")
        .unwrap();
    let mut peer = upstream.accept();
    let head = peer.head();
    assert!(head.starts_with("MOVE /7/x "), "{head}");
    assert_eq!(header(&head, "destination"), [format!("http://{}/7/y", upstream.addr)]);
    peer.answer("201 Created", "");
    assert_eq!(client.read_answer().unwrap().status, 201);
}

#[test]
fn rules_of_the_configuration() {
    let upstream = Raw::start();
    let (reads, writes) = (vec!["POST /search".to_owned()], vec!["GET /trigger/*".to_owned()]);
    let gate = Plan { reads, writes, ..Plan::raw(&upstream) }.start();
    let mut client = gate.client();
    assert_eq!(client.get("/trigger/now").code(), "TOKEN_REQUIRED");
    client.send(b"POST /search HTTP/1.1\r\nhost: gate\r\ncontent-length: 2\r\n\r\nab").unwrap();
    let mut peer = upstream.accept();
    peer.head();
    assert_eq!(peer.take(2), "ab");
    peer.answer("200 OK", "found");
    assert_eq!(client.read_answer().unwrap().body, b"found");
}

#[test]
fn a_request_that_goes_in_circles() {
    let via = "1.1 fencegate, ".repeat(9);
    let request = format!("GET /a HTTP/1.1\r\nhost: gate\r\nvia: {}\r\n\r\n", via.trim_end_matches(", "));
    assert_eq!(refused(&request), 400);
}
