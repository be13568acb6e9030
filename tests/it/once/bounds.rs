//! How long keys are kept, and how many.

use std::time::Instant;

use rusqlite::Connection;

use super::{INSERT, again, body, count, first, is_replayed, metric, post, refusal, rig, write};
use crate::gate::LONG;
use crate::process::until;

#[test]
fn a_key_whose_time_is_up_is_new() {
    let (_dir, gate) = rig("idempotency_retention = \"50ms\"\n");
    first(&write(&gate, "k", &[INSERT]));
    // Known again at first, unless this machine takes longer than that for a request, and in the end no more.
    until("it is applied anew", || !is_replayed(&write(&gate, "k", &[INSERT])));
    assert_eq!(count(&gate), "2");
}

#[test]
fn the_oldest_goes_where_there_are_too_many_and_is_applied_anew() {
    let (dir, gate) = rig("idempotency_keys = 3\nidempotency_hold = \"1ms\"\n");
    let oldest = write(&gate, "k0", &[INSERT]);
    first(&oldest);
    let conn = Connection::open(dir.path().join("app.db")).expect("it opens");
    let rows = |key: &str| -> i64 {
        let sql = "SELECT count(*) FROM fencegate_answers WHERE key GLOB ?";
        conn.query_row(sql, [key], |row| row.get(0)).expect("counted")
    };
    let (mut sent, started) = (0, Instant::now());
    while rows("k0") > 0 {
        assert!(started.elapsed() < LONG, "it goes");
        sent += 1;
        // One that comes while those before it have to stay is turned away.
        write(&gate, &format!("k{sent}"), &[INSERT]);
    }
    assert!(rows("*") <= 4, "three, and one while they had to stay");
    assert!(metric(&gate, "fencegate_idempotency_evicted_total") >= 1.0);
    let before = count(&gate);
    until("there is room", || write(&gate, "k0", &[INSERT]).status == 200);
    assert_ne!(count(&gate), before, "nobody knows of it any more");
    again(&write(&gate, "k0", &[INSERT]), &write(&gate, "k0", &[INSERT]));
}

#[test]
fn what_must_stay_turns_new_keys_away() {
    for limit in ["idempotency_keys = 2\n", "idempotency_bytes = 1500\n"] {
        let (_dir, gate) = rig(&format!("{limit}idempotency_hold = \"10m\"\n"));
        let mut taken = Vec::new();
        let refused = loop {
            let key = format!("k{}", taken.len());
            let answer = write(&gate, &key, &[INSERT]);
            if answer.status != 200 {
                break answer;
            }
            first(&answer);
            taken.push((key, answer));
        };
        // One more than there is room for, since it came when nothing was known to lack.
        assert!((2..=4).contains(&taken.len()), "{limit}: {}", taken.len());
        refusal(&refused, 503, "OVERLOADED");
        assert!(refused.header("retry-after").expect("it may come again").parse::<u64>().expect("seconds") > 60);
        for (key, answer) in &taken {
            again(&write(&gate, key, &[INSERT]), answer);
        }
        // Without a key there is nothing to keep.
        assert_eq!(gate.client().sql(Some("5"), &[INSERT]).status, 200);
        assert_eq!(count(&gate), (taken.len() + 1).to_string());
    }
}

#[test]
fn an_answer_that_was_too_large_is_known_to_have_been_applied() {
    let (_dir, gate) = rig("idempotency_answer_bytes = 1000\n");
    let large = "INSERT INTO t VALUES (hex(zeroblob(1000))) RETURNING v";
    first(&write(&gate, "k", &[large]));
    for _ in 0..2 {
        let answer = write(&gate, "k", &[large]);
        assert_eq!((answer.status, answer.code().as_str()), (409, "IDEMPOTENCY_ANSWER_NOT_KEPT"), "{answer:?}");
        assert_eq!(answer.json()["applied"], "yes");
    }
    refusal(&write(&gate, "k", &[INSERT]), 422, "IDEMPOTENCY_KEY_REUSED");
    assert_eq!(count(&gate), "1");
}

#[test]
fn limits_that_were_lowered_are_reached_bit_by_bit() {
    let (dir, gate) = rig("idempotency_hold = \"1ms\"\n");
    for number in 0..60 {
        first(&write(&gate, &format!("k{number}"), &[INSERT]));
    }
    assert_eq!(gate.terminate(), Some(0));
    let gate = super::gate(dir.path(), "idempotency_keys = 10\nidempotency_hold = \"1ms\"\n");
    assert_eq!(metric(&gate, "fencegate_idempotency_keys"), 60.0);
    first(&write(&gate, "a", &[INSERT]));
    let left = metric(&gate, "fencegate_idempotency_keys");
    assert!(left > 50.0 && left < 60.0, "{left}");
    let mut number = 0;
    until("there are ten", || {
        number += 1;
        assert!(matches!(post(gate.data, "5", &format!("b{number}"), &body(&[INSERT])).status, 200 | 503));
        metric(&gate, "fencegate_idempotency_keys") <= 10.0
    });
}

#[test]
fn a_gates_claim_tells_for_how_long_a_key_is_surely_known() {
    for (limits, seconds) in [
        ("", Some("20")),
        ("idempotency_hold = \"90s\"\nidempotency_retention = \"60s\"\n", Some("60")),
        ("idempotency_hold = \"500ms\"\n", None),
    ] {
        let (_dir, gate) = rig(limits);
        let claimed = gate.client().request("POST", "/-/fences/app/claim", &[("fencing-token", "5")], b"");
        assert_eq!(claimed.expect("an answer").header("idempotency-retention"), seconds);
        assert_eq!(gate.client().get("/v3").header("idempotency-retention"), seconds);
    }
}
