//! How writes end, and what the gate makes of it.

use serde_json::json;

use super::*;

#[test]
fn a_client_that_leaves_after_its_request_leaves_no_doubt() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        let client = bench.begin("a", 5, "read at:here apply answer");
        bench.upstream.reached("here");
        drop(client);
        assert_eq!(bench.state("a")["in_flight"], 1);
        bench.upstream.open("here");
        bench.until_state("a", "in_flight", &json!(0));
        assert!(!bench.is_quarantined("a"));
        assert_eq!(bench.claim("a", 6).status, 200);
        assert_eq!(bench.tokens("a"), [5]);
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_of_its_body_leaves_doubt() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        let client = bench.begin_body("a", 5, "at:here read apply answer");
        bench.upstream.reached("here");
        assert_eq!(bench.state("a")["in_flight"], 1);
        drop(client);
        bench.until_state("a", "in_flight", &json!(0));
        assert!(bench.is_quarantined("a"));
        assert_quarantined(&bench.claim("a", 6));
    }
}

#[test]
fn an_upstream_that_is_down_leaves_no_doubt() {
    for protocol in PROTOCOLS {
        let mut bench = Bench::new(protocol, NEVER, NEVER, "");
        assert_done(&bench.write("a", 5, "").expect("an answer"));
        bench.upstream.kill();
        // The connection that was kept is broken; that is found out at once, or by the next write.
        until("the upstream is missed", || {
            bench.write("b", 1, "").is_ok_and(|answer| answer.code() == "UPSTREAM_UNREACHABLE")
        });
        assert_problem(&bench.write("a", 5, "").expect("an answer"), 502, "UPSTREAM_UNREACHABLE", "no");
        assert!(!bench.is_quarantined("a"));
        assert_eq!(bench.claim("a", 6).status, 200);
        assert_problem(&bench.write("a", 6, "").expect("an answer"), 502, "UPSTREAM_UNREACHABLE", "no");
        bench.upstream.restart();
        assert_done(&bench.write("a", 6, "").expect("an answer"));
        assert_eq!(bench.tokens("a"), [5, 6]);
    }
}

#[test]
fn what_breaks_is_not_known_and_never_sent_again() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        for (item, script, applied) in [("a", "read cut", 0), ("b", "cut", 0), ("c", "read apply cut", 1)] {
            // On a fresh connection, then on one that was used before.
            for token in [5, 5] {
                assert_unknown(&bench.write(item, token, script).expect("an answer"));
                assert_done(&bench.write("other", 1, "").expect("an answer"));
            }
            assert!(bench.is_quarantined(item), "{script}");
            assert_quarantined(&bench.claim(item, 6));
            assert_eq!(bench.tokens(item).len(), 2 * applied, "{script}");
        }
    }
}

#[test]
fn half_an_answer_is_none() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        for (item, end) in [("a", "cut"), ("b", "break")] {
            // The gate doesn't tell the client of a short answer before it has all of it.
            assert_unknown(&bench.write(item, 5, &format!("read apply half {end}")).expect("an answer"));
            assert!(bench.is_quarantined(item), "{end}");
        }
        let long = 1_000_000;
        for (item, end) in [("c", "cut"), ("d", "break")] {
            let mut client = bench.begin(item, 5, &format!("read apply half:{long} at:{item} {end}"));
            let head = client.read_head().expect("a head");
            assert_eq!((head.status, head.header("fencing-verdict")), (200, Some("advanced")), "{head:?}");
            client.read_bytes(long).expect("half of it");
            bench.upstream.reached(item);
            assert_eq!(bench.state(item)["in_flight"], 1, "it is in flight until its answer has come");
            assert!(!bench.is_quarantined(item));
            bench.upstream.open(item);
            assert!(client.read_bytes(long).is_err(), "the client is told by a broken answer");
            bench.until_state(item, "in_flight", &json!(0));
            assert!(bench.is_quarantined(item), "{end}");
            assert_quarantined(&bench.claim(item, 6));
        }
    }
}

#[test]
fn an_answer_before_the_end_of_the_body_leaves_doubt_only_where_it_is_a_yes() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        for (item, script, status, applied) in [("a", "apply answer", 200, vec![5]), ("b", "answer:403", 403, vec![])] {
            let mut client = bench.begin_body(item, 5, script);
            let answer = client.read_answer().expect("an answer");
            assert_eq!((answer.status, answer.header("proxy-status")), (status, None), "{answer:?}");
            assert_eq!(answer.header("fencing-highest"), Some("5"));
            bench.until_state(item, "in_flight", &json!(0));
            // An upstream that says no does nothing with the rest of the body, which never comes.
            assert_eq!(bench.is_quarantined(item), status == 200, "{protocol} {script}");
            assert_eq!(bench.claim(item, 6).status == 200, status != 200, "{protocol} {script}");
            assert_eq!(bench.tokens(item), applied);
        }
    }
}

#[test]
fn an_answer_that_does_not_come_in_time_is_not_known() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "answer_time = \"200ms\"");
        let answer = bench.write("a", 5, "read at:never").expect("an answer");
        assert_problem(&answer, 504, "OUTCOME_UNKNOWN", "unknown");
        assert_eq!(answer.header("fencing-verdict"), Some("unknown"));
        assert!(bench.is_quarantined("a"));
        assert_quarantined(&bench.claim("a", 6));
    }
}

#[test]
fn a_connection_that_the_upstream_closed_is_not_written_into_twice() {
    let bench = Bench::new("http1", NEVER, "1ms", "");
    let (mut done, mut unknown) = (0, 0);
    for round in 0..120 {
        // When they close is theirs: before the next write, in the middle of it, or before the one after it.
        if round % 2 == 1 {
            bench.upstream.close_idle();
        }
        let answer = bench.write("a", 5, "").expect("an answer");
        if answer.status == 200 {
            done += 1;
        } else {
            assert_unknown(&answer);
            unknown += 1;
        }
    }
    assert_eq!(bench.tokens("a").len(), done, "{unknown} of unknown outcome were not applied, none twice");
    assert!(done > 0, "a closed connection is mostly noticed");
}

#[test]
fn connections_are_used_again() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        let mut client = bench.gate.client();
        for number in 0..50 {
            client.send(&write(&format!("item{number}"), 5, "", "hello")).expect("sent");
            assert_done(&client.read_answer().expect("an answer"));
        }
        let connections = bench.upstream.connections();
        assert!(connections <= 3, "{connections} connections for 50 writes, one after the other");
    }
}

#[test]
fn a_refusal_leaves_the_connection_to_the_next_request_or_says_that_it_does_not() {
    let bench = Bench::new("auto", NEVER, NEVER, "");
    assert_eq!(bench.claim("a", 6).status, 200);
    let head = |len: usize, more: &str| {
        format!("PUT /a/doc HTTP/1.1\r\nhost: g\r\nfencing-token: 5\r\ncontent-length: {len}\r\n{more}\r\n")
            .into_bytes()
    };
    let mut client = bench.gate.client();
    for _ in 0..3 {
        // Refused before its body is sent, which comes all the same.
        client.send(&head(100_000, "")).expect("sent");
        let refused = client.read_answer().expect("an answer");
        assert_problem(&refused, 412, "STALE_TOKEN", "no");
        assert_eq!(refused.header("connection"), None);
        client.send(&[b'x'; 100_000]).expect("sent");
        client.send(&write("a", 6, "", "hello")).expect("sent");
        assert_done(&client.read_answer().expect("an answer"));
    }
    for (len, more) in [(1_000_000_000, ""), (5, "expect: 100-continue\r\n")] {
        let mut client = bench.gate.client();
        client.send(&head(len, more)).expect("sent");
        let refused = client.read_answer().expect("an answer");
        assert_problem(&refused, 412, "STALE_TOKEN", "no");
        assert_eq!(refused.header("connection"), Some("close"));
    }
}

#[test]
fn the_upstream_is_told_the_token_and_the_fence() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        let told = |headers: &[(&str, &str)]| {
            let answer = bench.gate.client().request("PUT", "/a/doc?x=1", headers, b"hello").expect("an answer");
            assert_done(&answer);
            answer.json()
        };
        for headers in [
            &[("fencing-token", "5")][..],
            &[("fencing-token", "item/a=5"), ("fencing-fence", "item/b")],
            &[("authorization", "Bearer fgt.5")],
        ] {
            let told = told(headers);
            assert_eq!((&told["token"], &told["fence"]), (&json!("5"), &json!("item/a")), "{headers:?}");
            assert_eq!(
                (&told["bytes"], told["path"].as_str().is_some_and(|path| path.ends_with("/a/doc?x=1"))),
                (&json!(5), true)
            );
        }
    }
}
