//! A folder behind nginx with WebDAV, behind the gate: whatever WebDAV clients do, no file is touched with a stale token.

use std::io::{Read, Write};
use std::path::Path;

use serde_json::json;

use crate::process::{Answer, Client, Gate};
use crate::upstream::nginx::Nginx;
use crate::upstream::{self, has};

/// A gate on a folder, with a fence for each folder in it.
fn folder(dir: &Path) -> (Nginx, Gate) {
    let nginx = Nginx::start(dir);
    let config = format!(
        "[[resource]]\nname = \"dav\"\nkind = \"http\"\npath = \"/dav\"\nupstream = \"{}\"\nfence = \"dav/{{1}}\"\n\
         drain = \"10m\"\nsettle = \"10m\"\n",
        nginx.url()
    );
    let gate = upstream::gate(dir, &config);
    (nginx, gate)
}

fn ask(client: &mut Client, method: &str, path: &str, token: u64, headers: &[(&str, &str)], body: &str) -> Answer {
    let token = token.to_string();
    let mut all = vec![("fencing-token", token.as_str())];
    all.extend(headers);
    client.request(method, path, &all, body.as_bytes()).expect("an answer")
}

fn put(client: &mut Client, path: &str, token: u64, body: &str) -> Answer {
    ask(client, "PUT", path, token, &[], body)
}

#[test]
fn a_file_is_written_with_5_and_6_and_not_with_5_again() {
    if !has("a_file_is_written_with_5_and_6_and_not_with_5_again", "nginx") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let nginx = Nginx::start(dir.path());
    // The one-liner of the documentation.
    let gate = Gate::start(dir.path(), &["--upstream", &nginx.url(), "--fence", "inventory"]);
    let mut client = gate.client();
    let first = put(&mut client, "/stock.txt", 5, "of 5");
    assert_eq!((first.status, first.header("fencing-verdict")), (201, Some("advanced")), "{first:?}");
    let second = put(&mut client, "/stock.txt", 6, "of 6");
    assert_eq!((second.status, second.header("fencing-highest")), (204, Some("6")), "{second:?}");
    let third = put(&mut client, "/stock.txt", 5, "of 5 again");
    assert_eq!((third.status, third.code().as_str()), (412, "STALE_TOKEN"));
    assert_eq!(third.json()["applied"], "no");
    assert_eq!((third.header("fencing-verdict"), third.header("fencing-highest")), (Some("stale"), Some("6")));
    assert!(
        third.header("proxy-status").is_some_and(|status| status.starts_with("fencegate; error=http_request_denied"))
    );
    assert_eq!(nginx.file("stock.txt").as_deref(), Some("of 6"));
    assert_eq!(client.get("/stock.txt").body, b"of 6");
    let state = client.get("/-/fences/inventory").json();
    assert_eq!(
        (&state["highest"], &state["in_flight"], &state["quarantined_until"]),
        (&json!("6"), &json!(0), &json!(null))
    );
    let without = client.request("PUT", "/stock.txt", &[], b"of nobody").expect("an answer");
    assert_eq!((without.status, without.code().as_str()), (428, "TOKEN_REQUIRED"));
    let fence = gate.admin().get("/v1/fences/inventory").json();
    assert_eq!((&fence["guarantee"], &fence["refusals"][0]["token"]), (&json!("drained"), &json!("5")));
    assert_eq!(nginx.file("stock.txt").as_deref(), Some("of 6"));
}

#[test]
fn each_folder_has_a_fence_of_its_own() {
    if !has("each_folder_has_a_fence_of_its_own", "nginx") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (nginx, gate) = folder(dir.path());
    let mut client = gate.client();
    assert_eq!(ask(&mut client, "MKCOL", "/dav/a/", 9, &[], "").status, 201);
    assert_eq!(put(&mut client, "/dav/a/x", 9, "a9").status, 201);
    assert_eq!(put(&mut client, "/dav/b/x", 3, "b3").status, 201);
    assert_eq!(put(&mut client, "/dav/a/y/z", 8, "a8").status, 412);
    assert_eq!(put(&mut client, "/dav/%61/x", 8, "a8").status, 412, "one folder by another spelling");
    assert_eq!(put(&mut client, "/dav/b/../a/x", 3, "b3").code(), "AMBIGUOUS_PATH");
    assert_eq!(put(&mut client, "/dav/b/%2e%2e/a/x", 3, "b3").code(), "AMBIGUOUS_PATH");
    assert_eq!(put(&mut client, "/dav/b%2F..%2Fa/x", 3, "b3").code(), "AMBIGUOUS_PATH");
    assert_eq!(put(&mut client, "/dav//a/x", 3, "b3").code(), "AMBIGUOUS_PATH");
    assert_eq!(ask(&mut client, "DELETE", "/dav/a/x", 8, &[], "").status, 412);
    assert_eq!(nginx.file("a/x").as_deref(), Some("a9"));
    assert_eq!(ask(&mut client, "DELETE", "/dav/a/x", 9, &[], "").status, 204);
    assert_eq!((nginx.file("a/x"), nginx.file("b/x").as_deref()), (None, Some("b3")));
    for (name, mark) in [("dav%2Fa", json!("9")), ("dav%2Fb", json!("3")), ("dav%2Fc", json!(null))] {
        assert_eq!(client.get(&format!("/-/fences/{name}")).json()["highest"], mark, "{name}");
    }
    assert_eq!(client.get("/-/fences/other").status, 404);
}

#[test]
fn a_file_is_not_moved_or_copied_into_another_fence() {
    if !has("a_file_is_not_moved_or_copied_into_another_fence", "nginx") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (nginx, gate) = folder(dir.path());
    let mut client = gate.client();
    put(&mut client, "/dav/a/x", 9, "a9");
    put(&mut client, "/dav/b/x", 3, "b3");
    for method in ["MOVE", "COPY"] {
        for destination in [
            "/dav/a/x".to_owned(),
            "http://localhost/dav/a/x".into(),
            format!("{}/a/x", nginx.url()),
            "/a/x".into(),
            "/dav/b/../a/x".into(),
            "/dav/b/%2e%2e/a/x".into(),
            "/dav/%61/x".into(),
            "/elsewhere".into(),
            "/b/x2".into(),
            "nonsense".into(),
            String::new(),
        ] {
            let answer = ask(&mut client, method, "/dav/b/x", 3, &[("destination", destination.as_str())], "");
            let is_ours = answer.header("proxy-status").is_some() && answer.json()["applied"] == "no";
            assert!((400..500).contains(&answer.status) && is_ours, "{method} {destination}: {answer:?}");
            assert_eq!(nginx.file("a/x").as_deref(), Some("a9"), "{method} {destination}");
            assert_eq!(nginx.file("b/x").as_deref(), Some("b3"), "{method} {destination}");
        }
    }
}

#[test]
fn a_file_is_moved_within_its_fence() {
    if !has("a_file_is_moved_within_its_fence", "nginx") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (nginx, gate) = folder(dir.path());
    let mut client = gate.client();
    put(&mut client, "/dav/b/x", 3, "b3");
    // The client calls the gate so in its header Host.
    for (from, to) in [("x", "/dav/b/y"), ("y", "http://localhost/dav/b/%7A")] {
        let answer = ask(&mut client, "MOVE", &format!("/dav/b/{from}"), 3, &[("destination", to)], "");
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    assert_eq!((nginx.file("b/x"), nginx.file("b/z").as_deref()), (None, Some("b3")));
    assert_eq!(ask(&mut client, "MOVE", "/dav/b/z", 2, &[("destination", "/dav/b/x")], "").status, 412);
    assert_eq!(nginx.file("b/z").as_deref(), Some("b3"));
}

#[test]
fn what_clients_of_files_do() {
    if !has("what_clients_of_files_do", "nginx") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (nginx, gate) = folder(dir.path());
    let mut client = gate.client();
    // All of it on one connection.
    let framed = "PUT /dav/a/x HTTP/1.1\r\nhost: g\r\nfencing-token: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n, you!\r\n0\r\n\r\n";
    client.send(framed.as_bytes()).expect("sent");
    assert_eq!(client.read_answer().expect("an answer").status, 201);
    assert_eq!(nginx.file("a/x").as_deref(), Some("hello, you!"));
    let expecting =
        "PUT /dav/a/y HTTP/1.1\r\nhost: g\r\nfencing-token: 5\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    client.send(expecting.as_bytes()).expect("sent");
    assert_eq!(client.read_answer().expect("an interim answer").status, 100);
    client.send(b"later").expect("sent");
    assert_eq!(client.read_answer().expect("an answer").status, 201);
    assert_eq!(nginx.file("a/y").as_deref(), Some("later"));
    let whole = client.get("/dav/a/x");
    let (tag, modified) = (whole.header("etag").expect("a tag"), whole.header("last-modified").expect("a time"));
    let mut get =
        |method: &str, headers: &[(&str, &str)]| client.request(method, "/dav/a/x", headers, b"").expect("an answer");
    assert_eq!(get("GET", &[("if-none-match", tag)]).status, 304);
    assert_eq!(get("GET", &[("if-modified-since", modified)]).status, 304);
    let other = get("GET", &[("if-match", "\"other\"")]);
    assert_eq!((other.status, other.header("proxy-status")), (412, None), "the upstream's own 412 can be told");
    let part = get("GET", &[("range", "bytes=7-9")]);
    assert_eq!((part.status, &part.body[..]), (206, &b"you"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 7-9/11"));
    assert_eq!(get("GET", &[("range", "bytes=99-")]).status, 416);
    let head = get("HEAD", &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some("11")));
    assert_eq!(get("GET", &[("fencing-token", "4")]).status, 412);
    assert_eq!(get("GET", &[("fencing-token", "5")]).body, b"hello, you!");
    assert_eq!(get("OPTIONS", &[]).header("proxy-status"), None);
    assert_eq!(client.get("/dav/a/nothing").status, 404);
    // Refused before the body is asked for.
    let expecting = expecting.replace("token: 5", "token: 4");
    client.send(expecting.as_bytes()).expect("sent");
    assert_eq!(client.read_answer().expect("an answer").status, 412);
}

/// The most memory that a process ever had, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn a_big_file_streams_through() {
    if !has("a_big_file_streams_through", "nginx") {
        return;
    }
    const PIECES: usize = 768;
    let dir = tempfile::tempdir().expect("a directory");
    let (nginx, gate) = folder(dir.path());
    let piece: Vec<u8> = (0..65_536_u32).map(|at| (at % 251) as u8).collect();
    let mut client = gate.client();
    assert_eq!(put(&mut client, "/dav/a/small", 5, "small").status, 201);
    let before = peak_kib(gate.pid());
    let head = format!(
        "PUT /dav/a/big HTTP/1.1\r\nhost: g\r\nfencing-token: 5\r\ncontent-length: {}\r\n\r\n",
        PIECES * piece.len()
    );
    client.send(head.as_bytes()).expect("sent");
    for _ in 0..PIECES {
        client.send(&piece).expect("sent");
    }
    assert_eq!(client.read_answer().expect("an answer").status, 201);
    let mut file = std::fs::File::open(nginx.place("a/big")).expect("it is there");
    client.send(b"GET /dav/a/big HTTP/1.1\r\nhost: g\r\n\r\n").expect("sent");
    let head = client.read_head().expect("a head");
    assert_eq!(head.header("content-length"), Some((PIECES * piece.len()).to_string().as_str()));
    // The gate and nginx get time to read ahead, if they would.
    let _ = std::io::stderr().flush();
    upstream::pass_time(200);
    for _ in 0..PIECES {
        let mut written = vec![0; piece.len()];
        file.read_exact(&mut written).expect("it is as long");
        assert!(written == piece, "it was written as it was sent");
        assert!(client.read_bytes(piece.len()).expect("it comes back") == piece, "and is read so");
    }
    let grown = peak_kib(gate.pid()) - before;
    assert!(grown < 16 * 1024, "the gate took {grown} KiB for a file of {} KiB", PIECES * piece.len() / 1024);
}
