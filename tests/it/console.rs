//! The admin listener as a browser sees it: the console's files, whose requests are taken, and streams of events that nobody reads.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::gate::LONG;
use crate::process::{Answer, Client, Gate, JSON, until};

fn gate(hosts: &str) -> (tempfile::TempDir, Gate) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--admin-hosts", hosts]);
    (dir, gate)
}

/// A request whose headers are all the test's own.
fn bare(gate: &Gate, head: &str, body: &str) -> Answer {
    let mut client = gate.admin();
    client.send(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).expect("sent");
    client.read_answer().expect("an answer")
}

#[test]
fn the_page_is_for_browsers_and_the_text_for_curl() {
    let (_dir, gate) = gate("");
    let mut admin = gate.admin();
    let text = admin.request("GET", "/", &[("accept", "*/*")], b"").expect("an answer");
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(String::from_utf8_lossy(&text.body).contains("/v1/overview"));
    let html = [("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8")];
    let page = admin.request("GET", "/", &html, b"").expect("an answer");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(page.header("vary"), Some("accept"));
    let body = String::from_utf8(page.body.clone()).expect("UTF-8");
    let mut files: Vec<&str> = body.split('"').filter(|part| part.starts_with("/console/")).collect();
    files.push("/console/timeline.js");
    assert!(files.len() > 3, "{files:?}");
    for path in files {
        let file = admin.get(path);
        assert_eq!(file.status, 200, "{path}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(file.header("cache-control"), Some("no-cache"));
        assert!(!file.header("content-type").expect("a type").starts_with("text/plain"), "{path}");
    }
    for path in ["/console/", "/console/mod.rs", "/console/..%2Fadmin.rs", "/console/nothing.js"] {
        assert_eq!(admin.get(path).status, 404, "{path}");
    }
    let posted = admin.request("POST", "/console/main.js", &[JSON], b"{}").expect("an answer");
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
    // A browser asks whether what it has is still the same.
    let tag = page.header("etag").expect("a tag").to_owned();
    let again = admin.request("GET", "/", &[html[0], ("if-none-match", &tag)], b"").expect("an answer");
    assert_eq!((again.status, again.body.len()), (304, 0));
    let other = admin.request("GET", "/", &[html[0], ("if-none-match", "\"0\"")], b"").expect("an answer");
    assert_eq!(other.status, 200);
    let head = admin.request("HEAD", "/", &html, b"").expect("an answer");
    assert_eq!((head.status, head.header("etag")), (200, Some(tag.as_str())));
}

#[test]
fn every_answer_says_what_may_be_done_with_it() {
    let (_dir, gate) = gate("");
    let mut admin = gate.admin();
    for path in ["/", "/console/main.js", "/v1/fences", "/v1/overview", "/nothing", "/metrics"] {
        let answer = admin.request("GET", path, &[("accept", "text/html")], b"").expect("an answer");
        let policy = answer.header("content-security-policy").expect("a policy");
        for rule in ["default-src 'none'", "script-src 'self'", "form-action 'none'", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{path}");
        assert!(!answer.head.to_ascii_lowercase().contains("access-control-"), "{path}: {}", answer.head);
        assert!(!answer.head.to_ascii_lowercase().contains("set-cookie"), "{path}: {}", answer.head);
    }
}

#[test]
fn whose_requests_are_taken() {
    let (_dir, gate) = gate("gate.internal, Other");
    let reset = json!({ "highest": "9", "reason": "x" }).to_string();
    let post = |headers: &str| bare(&gate, &format!("POST /v1/fences/app/reset HTTP/1.1\r\n{headers}"), &reset).status;
    let get = |path: &str, host: &str| bare(&gate, &format!("GET {path} HTTP/1.1\r\nhost: {host}"), "").status;
    let json = "content-type: application/json";
    for host in ["gate.internal:7071", "other", "127.0.0.1:1", "[::1]:7071", "localhost"] {
        assert_eq!(get("/v1/fences", host), 200, "{host}");
        assert_eq!(post(&format!("host: {host}\r\n{json}")), 200, "{host}");
    }
    for host in ["evil.example", "127.0.0.1.evil.example:7071", "xgate.internal", "gate.internal.evil.example"] {
        for path in ["/", "/v1/fences", "/v1/events", "/metrics", "/console/main.js"] {
            assert_eq!(get(path, host), 403, "{host} {path}");
        }
        assert_eq!(post(&format!("host: {host}\r\n{json}")), 403, "{host}");
        // Who looks whether it is alive has whatever name it has.
        assert_eq!((get("/healthz", host), get("/readyz", host)), (200, 200));
    }
    let own = format!("host: localhost\r\n{json}");
    assert_eq!(post(&format!("{own}\r\norigin: http://localhost\r\nsec-fetch-site: same-origin")), 200);
    assert_eq!(post(&format!("{own}\r\norigin: http://evil.example")), 403);
    assert_eq!(post(&format!("{own}\r\norigin: null")), 403);
    assert_eq!(post(&format!("{own}\r\nsec-fetch-site: same-site")), 403);
    for page in ["origin: http://localhost", "sec-fetch-site: same-origin"] {
        assert_eq!(post(&format!("host: localhost\r\n{page}\r\ncontent-type: text/plain")), 400);
        assert_eq!(post(&format!("host: localhost\r\n{page}")), 400);
    }
    assert_eq!(post("host: localhost"), 200, "no browser");
    assert_eq!(bare(&gate, "OPTIONS /v1/fences/app/reset HTTP/1.1\r\nhost: localhost", "").status, 405, "no preflight");
}

#[test]
fn control_characters_are_refused_at_the_door() {
    let (_dir, gate) = gate("");
    let mut client = gate.client();
    for holder in ["a\tb", "a\u{1}b", "a\u{7f}", "é", ""] {
        let headers = [("fencing-token", "5"), ("fencing-holder", holder)];
        let answer = client.request("POST", "/-/fences/app/claim", &headers, b"");
        // Some are no header for HTTP itself, which ends the connection.
        match answer {
            Ok(answer) => assert_eq!(answer.status, 400, "{holder:?}: {answer:?}"),
            Err(_) => client = gate.client(),
        }
        if let Ok(fresh) = Client::connect(gate.data) {
            client = fresh;
        }
    }
    for path in ["/-/fences/a%00b/claim", "/-/fences/a%0Ab/claim", "/-/fences/%3Cb%3E/claim"] {
        assert_eq!(
            client.request("POST", path, &[("fencing-token", "5")], b"").expect("an answer").status,
            404,
            "{path}"
        );
    }
    assert_eq!(gate.admin().get("/v1/fences/app").json()["highest"], json!(null));
}

#[test]
fn what_an_operator_sees_first() {
    let (_dir, gate) = gate("");
    let mut client = gate.client();
    client.sql(Some("50"), &["CREATE TABLE t (v)"]);
    for _ in 0..3 {
        client.sql(Some("49"), &["INSERT INTO t VALUES (1)"]);
    }
    client.sql(Some("50"), &["INSERT INTO t VALUES (1)"]);
    let mut admin = gate.admin();
    let mut overview = json!(null);
    until("the refusals are counted", || {
        overview = admin.get("/v1/overview").json();
        overview["refused_last_minute"] == 3
    });
    assert_eq!(
        (&overview["fences"], &overview["quarantined"], &overview["fences_refusing"]),
        (&json!(1), &json!(0), &json!(1))
    );
    assert_eq!((&overview["ready"], &overview["troubles"]), (&json!(true), &json!([])));
    let first = &overview["attention"][0];
    assert_eq!((&first["fence"], &first["highest"], &first["writes"]), (&json!("app"), &json!("50"), &json!(2)));
    assert_eq!((&first["knocked"]["token"], &first["knocked"]["last_minute"]), (&json!("49"), &json!(3)));
    let named = admin.get("/v1/fences?name=nothing&name=app").json();
    assert_eq!((named["fences"].as_array().map(Vec::len), &named["fences"][0]["refused"]), (Some(1), &json!(3)));
    assert_eq!(admin.get(&format!("/v1/fences?{}", "name=a&".repeat(201))).status, 400);
}

/// A stream of events that takes next to nothing from the network, so that what isn't read stays with the gate.
fn narrow(addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(&addr.into()).expect("connected");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
    stream
}

/// Reads until all these texts have come.
fn read_until(stream: &mut TcpStream, text: &str) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 64 * 1024]);
    let started = Instant::now();
    loop {
        let len = stream.read(&mut buffer).expect("more comes");
        // A stream that has nothing to tell says so every few seconds.
        assert!(started.elapsed() < LONG, "{text} doesn't come");
        assert!(len > 0, "it ended after {} bytes without {text}", all.len());
        let from = all.len().saturating_sub(text.len());
        all.extend_from_slice(&buffer[..len]);
        if all[from..].windows(text.len()).any(|window| window == text.as_bytes()) {
            return String::from_utf8_lossy(&all).into_owned();
        }
    }
}

fn resident_kib(gate: &Gate) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Refusals with these tokens, each of which is an event of its own; the processor time that they took.
fn knock(gate: &Gate, tokens: std::ops::Range<u32>) -> Duration {
    let before = gate.processor_time();
    let mut client = gate.client();
    let count = tokens.len();
    let requests: String = tokens
        .map(|token| {
            format!(
                "POST /-/fences/app/claim HTTP/1.1\r\nhost: x\r\nfencing-token: {token}\r\ncontent-length: 0\r\n\r\n"
            )
        })
        .collect();
    // In parts, so that neither side waits for the other to read.
    let mut left = requests.as_bytes();
    for part in 0..count.div_ceil(64) {
        let many = 64.min(count - part * 64);
        let len: usize = left.split_inclusive(|byte| *byte == b'\n').take(many * 5).map(<[u8]>::len).sum();
        let (now, rest) = left.split_at(len);
        client.send(now).expect("sent");
        left = rest;
        for _ in 0..many {
            assert_eq!(client.read_answer().expect("an answer").status, 412);
        }
    }
    gate.processor_time() - before
}

#[test]
fn a_browser_that_stops_reading_costs_nothing() {
    let (_dir, gate) = gate("");
    let claimed = gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "1000000")], b"");
    assert_eq!(claimed.expect("an answer").status, 200);
    knock(&gate, 1..4_000);
    let alone = knock(&gate, 10_000..20_000);
    let mut silent: Vec<TcpStream> = (0..40).map(|_| narrow(gate.admin)).collect();
    for stream in &mut silent {
        read_until(stream, ": watching");
    }
    knock(&gate, 20_000..30_000);
    let before = resident_kib(&gate);
    let watched = knock(&gate, 30_000..40_000) + knock(&gate, 40_000..50_000);
    let grown = resident_kib(&gate).saturating_sub(before);
    eprintln!("alone {alone:?}, with 40 who don't read {:?}, {grown} KiB more", watched / 2);
    assert!(grown < 16 * 1024, "{grown} KiB for those who don't read");
    // Not a measurement, which is in the docs: forty copies of the work, which is what this would catch, are far above it on the noisiest machine.
    assert!(watched / 2 < alone * 4, "{alone:?} and {:?}", watched / 2);
    // One who reads meanwhile gets what happens.
    let mut reader = narrow(gate.admin);
    let mut told = read_until(&mut reader, ": watching\n\n");
    // Until all from before is told there may be no room for more, and then a gap is.
    while !told.contains("\"token\":\"70000\"") {
        knock(&gate, 70_000..70_001);
        told += &read_until(&mut reader, "\n\n");
    }
    // And one who reads again is told that something is missing.
    let told = read_until(&mut silent[0], "\"token\":\"70000\"");
    assert!(told.contains("event: lost\ndata: {\"count\":"), "{} bytes without a gap", told.len());
}

#[test]
fn streams_have_their_number() {
    let (_dir, gate) = gate("");
    let mut streams: Vec<TcpStream> = (0..64).map(|_| narrow(gate.admin)).collect();
    for stream in &mut streams {
        read_until(stream, ": watching");
    }
    let answer = gate.admin().get("/v1/events");
    assert_eq!((answer.status, answer.code()), (503, "OVERLOADED".to_owned()));
    assert_eq!(gate.admin().get("/v1/overview").status, 200, "all else goes on");
    streams.pop();
    until("the place is free again", || {
        let mut admin = gate.admin();
        admin.send(b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
        admin.read_head().expect("an answer").status == 200
    });
}
