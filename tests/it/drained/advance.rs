//! A newer token comes while older writes are in flight.

use std::process::Command;

use serde_json::json;

use super::*;
use crate::process::PROGRAM;

#[test]
fn a_newer_token_waits_for_older_writes_and_for_nobody_else() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        let mut older = bench.begin("a", 5, "read at:here apply answer");
        bench.upstream.reached("here");
        let mut claim = bench.begin_claim("a", 6);
        bench.until_state("a", "highest", &json!("6"));
        let mut newer = bench.begin("a", 6, "read apply answer");
        assert_eq!(bench.state("a")["in_flight"], 1);
        assert_problem(&bench.write("a", 5, "").expect("an answer"), 412, "STALE_TOKEN", "no");
        assert_done(&bench.write("b", 1, "read apply answer").expect("an answer"));
        assert_eq!(bench.claim("b", 2).status, 200);
        let read =
            bench.gate.client().request("GET", "/a/doc", &[], b"").expect("a read without a token waits for nobody");
        assert_eq!(read.status, 200);
        assert_eq!(bench.tokens("a"), [0; 0]);
        bench.upstream.open("here");
        assert_done(&older.read_answer().expect("it was let finish"));
        let claimed = claim.read_answer().expect("an answer");
        assert_eq!((claimed.status, &claimed.json()["verdict"]), (200, &json!("advanced")));
        assert_done(&newer.read_answer().expect("an answer"));
        assert_eq!(bench.tokens("a"), [5, 6]);
        assert!(!bench.is_quarantined("a"));
    }
}

#[test]
fn an_overdue_write_is_cut_off_and_quarantines_its_fence() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, "100ms", NEVER, "");
        let mut older = bench.begin("a", 5, "read at:never");
        bench.upstream.reached("never");
        assert_quarantined(&bench.claim("a", 6));
        assert_unknown(&older.read_answer().expect("an answer"));
        for token in [6, 7] {
            let refused = bench.write("a", token, "").expect("an answer");
            assert_quarantined(&refused);
            assert_ours(&refused);
        }
        let read = bench.gate.client().request("GET", "/a/doc", &[("fencing-token", "7")], b"").expect("an answer");
        assert_quarantined(&read);
        assert_problem(&bench.write("a", 5, "").expect("an answer"), 412, "STALE_TOKEN", "no");
        assert_done(&bench.write("b", 1, "").expect("an answer"));
        let state = bench.state("a");
        assert_eq!((&state["highest"], &state["in_flight"]), (&json!("7"), &json!(0)));
        assert!(bench.is_quarantined("a"));
        until("the history tells", || bench.history("a").contains(&"quarantined".to_owned()));
        let metrics = String::from_utf8(bench.gate.admin().get("/metrics").body).expect("UTF-8");
        let told =
            metrics.lines().any(|line| line.contains("quarantined") && !line.starts_with('#') && !line.ends_with(" 0"));
        assert!(told, "{metrics}");
        assert_eq!(bench.tokens("a"), [0; 0]);
    }
}

#[test]
fn a_quarantine_ends_by_itself() {
    let bench = Bench::new("auto", "10ms", "700ms", "");
    let older = bench.begin("a", 5, "read at:never");
    bench.upstream.reached("never");
    assert_quarantined(&bench.claim("a", 6));
    let until_when = bench.state("a")["quarantined_until"].as_str().map(str::to_owned);
    until("it ends", || bench.claim("a", 6).status == 200);
    if let Some(until_when) = until_when {
        // A moment more, because both clocks are read to the millisecond.
        let now = std::time::SystemTime::now() + std::time::Duration::from_millis(5);
        let now = humantime::format_rfc3339_millis(now).to_string();
        assert!(now >= until_when, "it is {now}, and was to end at {until_when}");
    }
    assert_done(&bench.write("a", 6, "").expect("an answer"));
    until("the history tells", || bench.history("a") == ["advanced", "advanced", "quarantined", "settled"]);
    drop(older);
}

#[test]
fn a_held_fence_waits_for_an_operator() {
    let bench = Bench::new("auto", "10ms", "10ms", "on_unknown = \"hold\"");
    let older = bench.begin("a", 5, "read at:never");
    bench.upstream.reached("never");
    assert_quarantined(&bench.claim("a", 6));
    assert!(bench.state("a")["quarantined_until"].as_str().is_some_and(|at| at.starts_with("9999")));
    assert_quarantined(&bench.claim("a", 6));
    let release = Command::new(PROGRAM)
        .args(["fences", "release", "item/a", "--reason", "looked at the upstream", "--admin-url"])
        .arg(format!("http://{}", bench.gate.admin))
        .output()
        .expect("it runs");
    assert!(release.status.success(), "{release:?}");
    assert_eq!(bench.claim("a", 6).status, 200);
    assert_done(&bench.write("a", 6, "").expect("an answer"));
    assert!(!bench.is_quarantined("a"));
    until("the history tells", || bench.history("a") == ["advanced", "advanced", "quarantined", "released"]);
    drop(older);
}

#[test]
fn with_the_risk_accepted_nobody_waits_longer_than_drain() {
    let bench = Bench::new("auto", "10ms", NEVER, "on_unknown = \"proceed\"");
    let mut older = bench.begin("a", 5, "read at:later apply");
    bench.upstream.reached("later");
    assert_eq!(bench.claim("a", 6).status, 200);
    assert_unknown(&older.read_answer().expect("an answer"));
    assert_done(&bench.write("a", 6, "").expect("an answer"));
    // This is the risk.
    bench.upstream.open("later");
    until("the older one is applied late", || bench.tokens("a") == [6, 5]);
}

#[test]
fn a_leader_that_was_let_in_goes_on_through_a_quarantine() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, NEVER, NEVER, "");
        assert_unknown(&bench.write("a", 5, "read apply cut").expect("an answer"));
        assert!(bench.is_quarantined("a"));
        assert_done(&bench.write("a", 5, "").expect("an answer"));
        assert_quarantined(&bench.claim("a", 6));
        assert_problem(&bench.write("a", 5, "").expect("an answer"), 412, "STALE_TOKEN", "no");
    }
}

#[test]
fn a_trickled_body_holds_up_nobody() {
    for protocol in PROTOCOLS {
        let bench = Bench::new(protocol, "300ms", NEVER, "");
        let mut older = bench.begin_body("a", 5, "at:seen read apply answer");
        bench.upstream.reached("seen");
        bench.upstream.open("seen");
        let mut claim = bench.begin_claim("a", 6);
        // It goes on for as long as it is let: a byte at a time, the length would last for hours.
        until("it is cut off", || older.send(b"x").is_err());
        assert_quarantined(&claim.read_answer().expect("an answer"));
        assert_eq!(bench.tokens("a"), [0; 0]);
    }
}

#[test]
fn a_gate_that_was_stopped_in_between_keeps_the_order() {
    let bench = Bench::new("auto", NEVER, NEVER, "");
    let mut older = bench.begin("a", 5, "read at:here apply answer");
    bench.upstream.reached("here");
    let mut newer = bench.begin("a", 6, "");
    bench.until_state("a", "highest", &json!("6"));
    bench.gate.signal(rustix::process::Signal::STOP);
    bench.upstream.open("here");
    until("the upstream applies while the gate stands", || bench.tokens("a") == [5]);
    bench.gate.signal(rustix::process::Signal::CONT);
    assert_done(&older.read_answer().expect("an answer"));
    assert_done(&newer.read_answer().expect("an answer"));
    assert_eq!(bench.tokens("a"), [5, 6]);
}

#[test]
fn a_gate_that_was_stopped_past_the_drain_quarantines_after_it() {
    let bench = Bench::new("auto", "200ms", NEVER, "");
    let mut older = bench.begin("a", 5, "read at:never");
    bench.upstream.reached("never");
    let mut newer = bench.begin("a", 6, "");
    bench.until_state("a", "highest", &json!("6"));
    bench.gate.signal(rustix::process::Signal::STOP);
    upstream::pass_time(400);
    bench.gate.signal(rustix::process::Signal::CONT);
    assert_unknown(&older.read_answer().expect("an answer"));
    assert_quarantined(&newer.read_answer().expect("an answer"));
}

#[test]
fn an_upgraded_connection_ends_when_its_fence_advances() {
    let bench = Bench::new("auto", "50ms", "50ms", "");
    let mut client = bench.gate.client();
    client
        .send(b"GET /a/doc HTTP/1.1\r\nhost: gate\r\nfencing-token: 5\r\nconnection: upgrade\r\nupgrade: hostile\r\nhostile: upgrade\r\n\r\n")
        .expect("sent");
    let head = client.read_head().expect("an answer");
    assert_eq!((head.status, head.header("upgrade")), (101, Some("hostile")), "{head:?}");
    client.send(b"x").expect("sent");
    assert_eq!(client.read_bytes(1).expect("it comes back"), b"x");
    assert_eq!(bench.tokens("a"), [5]);
    until("the newer leader comes in", || bench.claim("a", 6).status == 200);
    assert_done(&bench.write("a", 6, "").expect("an answer"));
    let _ = client.send(b"y");
    assert!(client.read_bytes(1).is_err(), "it was closed");
    assert_eq!(bench.tokens("a"), [5, 6]);
}
