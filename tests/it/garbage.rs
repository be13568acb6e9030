//! Arbitrary bytes, and almost right ones: each gets its 4xx or a closed connection, and the gate goes on serving.

use std::cell::RefCell;
use std::io::Read;
use std::net::TcpStream;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::json;

use crate::process::{Client, Gate};

fn gate() -> (tempfile::TempDir, Gate) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.db");
    let gate = Gate::start(dir.path(), &["--sqlite", file.to_str().expect("UTF-8"), "--fence", "app"]);
    gate.client().sql(Some("1"), &["CREATE TABLE t (v)"]);
    (dir, gate)
}

fn serves(gate: &Gate) {
    let answer = gate.client().sql(Some("1"), &["INSERT INTO t VALUES (1)", "DELETE FROM t"]);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn raw_bytes_on_the_sockets() {
    let (_dir, gate) = gate();
    let pieces = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        Just(b"GET / HTTP/1.1\r\n".to_vec()),
        Just(b"POST /v3/pipeline HTTP/1.1\r\nhost: g\r\n".to_vec()),
        Just(b"fencing-token: 1\r\n".to_vec()),
        Just(b"fencing-token: \xff\xfe\r\n".to_vec()),
        Just(b"content-length: 5\r\n".to_vec()),
        Just(b"content-length: 99999999999999999999\r\n".to_vec()),
        Just(b"transfer-encoding: chunked\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"5\r\nhello\r\n0\r\n\r\n".to_vec()),
        Just(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ];
    let messages = proptest::collection::vec(pieces, 1..8);
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&messages, |pieces| {
        for addr in [gate.data, gate.admin] {
            let mut client = Client::connect(addr).expect("it accepts");
            // The gate may have closed already: that is its right.
            let _ = client.send(&pieces.concat());
            client.finish();
        }
        Ok(())
    });
    result.expect("no message may hang the gate");
    serves(&gate);
}

#[test]
fn almost_right_bodies() {
    let (_dir, gate) = gate();
    let client = RefCell::new(gate.client());
    let text = "[a-zA-Z0-9{}\\[\\]\":,. \\\\-]{0,120}";
    let value = prop_oneof![
        Just(json!(null)),
        Just(json!(-1)),
        Just(json!(1e300)),
        Just(json!("execute")),
        Just(json!({ "type": "integer", "value": "9223372036854775808" })),
        Just(json!({ "type": "blob", "base64": "!!" })),
        Just(json!({ "type": "blob" })),
        Just(json!({ "type": "text", "value": "\u{0}\u{10ffff}" })),
        Just(json!([[], {}])),
        Just(json!({ "sql": "SELECT ?" })),
        Just(json!({ "sql": "INSERT INTO t VALUES (1)", "args": [{ "type": "null" }] })),
        Just(json!({ "type": "and", "conds": [{ "type": "ok", "step": 4_000_000_000_u32 }] })),
    ];
    let key = prop_oneof![
        Just("type"),
        Just("stmt"),
        Just("sql"),
        Just("sql_id"),
        Just("batch"),
        Just("steps"),
        Just("condition"),
        Just("args"),
        Just("named_args"),
        Just("want_rows"),
    ];
    let object = proptest::collection::btree_map(key, value, 0..5);
    let kind =
        prop_oneof![Just("execute"), Just("batch"), Just("sequence"), Just("describe"), Just("store_sql"), Just("x")];
    let request = (kind, object).prop_map(|(kind, object)| {
        let mut request = json!(object);
        request["type"] = json!(kind);
        request
    });
    let body = prop_oneof![
        text.prop_map(String::into_bytes),
        proptest::collection::vec(request, 0..4)
            .prop_map(|requests| json!({ "requests": requests }).to_string().into_bytes()),
        (text, text).prop_map(|(baton, sql)| {
            json!({ "baton": baton, "requests": [{ "type": "execute", "stmt": { "sql": sql } }] })
                .to_string()
                .into_bytes()
        }),
    ];
    let path = prop_oneof![Just("/v2/pipeline"), Just("/v3/pipeline"), Just("/v3/cursor")];
    let token = prop_oneof![Just(Some("1")), Just(None)];
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&(path, token, body), |(path, token, body)| {
        let headers: Vec<(&str, &str)> = token.iter().map(|token| ("fencing-token", *token)).collect();
        let answer = client.borrow_mut().request("POST", path, &headers, &body).expect("an answer");
        prop_assert!(matches!(answer.status, 200 | 400 | 428), "{:?}", answer);
        Ok(())
    });
    result.expect("each body gets its answer");
    serves(&gate);
}

#[test]
fn arbitrary_sql() {
    let (_dir, gate) = gate();
    let client = RefCell::new(gate.client());
    let word = proptest::sample::select(vec![
        "SELECT",
        "INSERT INTO t VALUES",
        "(",
        ")",
        "1",
        "'a'",
        "t",
        ";",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT s",
        "RELEASE s",
        "EXPLAIN",
        "PRAGMA",
        "foreign_keys",
        "=",
        "off",
        "WITH x AS",
        "RECURSIVE",
        "UNION ALL",
        "FROM",
        "--",
        "/*",
        "*/",
        "?",
        ":a",
        "\u{0}",
        "VACUUM",
        "ATTACH 'x' AS y",
        "fencegate_marks",
        "DROP TABLE",
        "CREATE TRIGGER",
        "TEMP",
        "RETURNING *",
        "END",
        "ON CONFLICT DO NOTHING",
    ]);
    let sql = proptest::collection::vec(word, 0..14).prop_map(|words| words.join(" "));
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&(sql, any::<bool>()), |(sql, script)| {
        let request = if script {
            json!({ "type": "sequence", "sql": sql })
        } else {
            json!({ "type": "execute", "stmt": { "sql": sql } })
        };
        let answer =
            client.borrow_mut().pipeline(Some("1"), None, &json!([request, { "type": "close" }])).expect("an answer");
        prop_assert_eq!(answer.status, 200, "{}: {:?}", sql, answer);
        Ok(())
    });
    result.expect("each text gets its answer");
    client.borrow_mut().sql(Some("1"), &["DROP TABLE IF EXISTS t", "CREATE TABLE t (v)"]);
    serves(&gate);
}

/// Each value is within its limit, and no row is given back: what the statement takes meanwhile has a limit, too.
#[test]
fn one_row_never_takes_all_memory() {
    let (_dir, gate) = gate();
    let fat = format!("SELECT {}", vec!["hex(zeroblob(7999999))"; 400].join(","));
    let insert = format!("INSERT INTO t SELECT length({})", vec!["hex(zeroblob(7999999))"; 120].join(") + length("));
    for token in [None, Some("1")] {
        for sql in [&fat, &insert.replace("length(", "max('', ")] {
            let requests = json!([{ "type": "execute", "stmt": { "sql": sql } }, { "type": "close" }]);
            let answer = gate.client().pipeline(token, None, &requests).expect("an answer");
            assert!(matches!(answer.status, 200 | 428), "{answer:?}");
            let other = gate.client().sql(Some("1"), &["INSERT INTO t VALUES (1)"]);
            assert_eq!(other.status, 200, "{other:?}");
        }
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", gate.pid())).expect("the process runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 1_400_000, "{kib} KiB");
    serves(&gate);
}

#[test]
fn too_large_and_too_slow() {
    let (_dir, gate) = gate();
    let mut client = gate.client();
    let large = vec![b' '; (8 << 20) + 1];
    match client.request("POST", "/v3/pipeline", &[], &large) {
        Ok(answer) => assert_eq!((answer.status, answer.code().as_str()), (413, "BODY_TOO_LARGE")),
        // The gate answers and closes while the client still sends: the client may see only that.
        Err(error) => {
            assert!(matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
        }
    }
    let header = "x".repeat(1_000_000);
    if let Ok(answer) = gate.client().request("GET", "/v3", &[("x-large", &header)], b"") {
        assert_eq!(answer.status, 431);
    }
    let half = TcpStream::connect(gate.data).expect("it accepts");
    half.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut rest = Vec::new();
    (&half).read_to_end(&mut rest).expect("the gate closes its half");
    serves(&gate);
}
