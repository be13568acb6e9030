//! What is believed, what isn't, and what goes on while nobody can be asked.

use std::time::Duration;

use serde_json::json;

use super::{KINDS, Kind, Limits, PATIENT, World, assert_told};

#[test]
fn a_leaders_token_is_believed_and_bound_to_its_name() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 7, "node-a");
        let before = world.applied(kind);
        let first = world.write(kind, "7", "");
        assert_eq!((first.status, first.header("fencing-verdict")), (200, Some("advanced")), "{first:?}");
        assert_eq!(first.header("fencing-highest"), Some("7"));
        assert_eq!(world.mark(kind), "7 node-a", "the coordinator's name for it");
        assert_eq!(world.applied(kind), before + 1);
        let asked = world.coordinator.counts().asked;
        for answer in [world.write(kind, "7", "node-a"), world.read(kind, "7"), world.claim(kind.fence(), "7")] {
            assert_eq!((answer.status, answer.header("fencing-verdict")), (200, Some("admitted")), "{answer:?}");
        }
        assert_eq!(world.coordinator.counts().asked, asked, "what is at the mark is not asked about");
        assert_told(&world.write(kind, "7", "node-b"), 409, "TOKEN_CONFLICT", "conflict");
    }
}

#[test]
fn a_token_that_was_never_issued_is_refused_and_poisons_nothing() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 7, "node-a");
        let before = world.applied(kind);
        for answer in [
            world.write(kind, "9223372036854775807", ""),
            world.write(kind, "8", "node-a"),
            world.read(kind, "8"),
            world.claim(kind.fence(), "8"),
        ] {
            assert_told(&answer, 403, "TOKEN_UNISSUED", "unissued");
            assert_eq!(answer.header("fencing-highest"), Some("1"), "{answer:?}");
        }
        assert_eq!((world.mark(kind).as_str(), world.applied(kind)), ("1", before), "nothing was changed");
        assert_eq!(world.resource(kind).fence(kind.fence()).unwrap().refused, 4, "each was counted");
        let knocks = super::block_on(world.resource(kind).knocks(&kind.fence().parse().unwrap())).unwrap();
        assert!(knocks.iter().all(|knock| knock.verdict.as_str() == "unissued") && knocks.len() == 3, "{knocks:?}");
        assert_eq!(world.write(kind, "7", "node-a").status, 200, "the leader goes on");
        world.coordinator.depose(kind.election());
        assert_told(&world.write(kind, "8", ""), 403, "TOKEN_UNISSUED", "unissued");
        assert_eq!(world.write(kind, "7", "").status, 200, "whoever is at the mark needs no coordinator");
    }
    // A fence that nobody has claimed leaves nothing behind.
    assert_told(&world.claim("stock/never", "5"), 403, "TOKEN_UNISSUED", "unissued");
    assert_eq!(world.mark_of(Kind::Http, "stock/never"), "");
    let gauges = world.resource(Kind::Http).gauges();
    assert!(gauges.contains(&("fencegate_http_fences", 1.0)), "{gauges:?}");
}

/// The negative control: the same forged token where clients are believed.
#[test]
fn without_a_coordinator_a_forged_token_poisons_the_fence() {
    let world = World::with(PATIENT, false, true);
    for kind in KINDS {
        assert_eq!(world.claim(kind.fence(), "9223372036854775807").status, 200);
        assert_told(&world.claim(kind.fence(), "7"), 412, "STALE_TOKEN", "stale");
    }
    assert_eq!(world.coordinator.counts().asked, 0);
}

#[test]
fn the_first_claim_of_a_fence_is_asked_about_too() {
    let world = World::new();
    world.coordinator.elect("shelf-new", 3, "");
    assert_told(&world.claim("stock/new", "4"), 403, "TOKEN_UNISSUED", "unissued");
    assert_eq!(world.claim("stock/new", "3").status, 200);
    assert_eq!(world.mark_of(Kind::Http, "stock/new"), "3");
}

#[test]
fn a_candidate_that_waits_does_not_depose_the_leader() {
    let world = World::new();
    for kind in KINDS {
        // In etcd its key has a create revision already, and a higher one.
        world.coordinator.elect(kind.election(), 7, "");
        assert_eq!(world.write(kind, "7", "").status, 200);
        assert_told(&world.write(kind, "9", ""), 403, "TOKEN_UNISSUED", "unissued");
        assert_eq!(world.write(kind, "7", "").status, 200);
        world.coordinator.elect(kind.election(), 9, "");
        assert_eq!(world.write(kind, "9", "").status, 200, "now it leads");
        assert_told(&world.write(kind, "7", ""), 412, "STALE_TOKEN", "stale");
    }
}

#[test]
fn a_leader_that_was_replaced_before_its_first_write_is_told_so() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 9, "node-b");
        let before = world.applied(kind);
        let stale = world.write(kind, "7", "node-a");
        assert_told(&stale, 412, "STALE_TOKEN", "stale");
        assert_eq!(stale.header("fencing-highest"), Some("9"));
        assert_eq!((world.mark(kind).as_str(), world.applied(kind)), ("9 node-b", before));
        let event = world.history(kind).remove(0);
        let why = "the coordinator named this leader when an older token was presented";
        assert_eq!((event.event.as_str(), event.reason.as_deref()), ("advanced", Some(why)));
        let asked = world.coordinator.counts().asked;
        assert_told(&world.write(kind, "8", ""), 412, "STALE_TOKEN", "stale");
        assert_eq!(world.coordinator.counts().asked, asked, "what is below the mark is not asked about");
    }
}

#[test]
fn the_mark_is_not_raised_under_a_wrong_name() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 7, "node-a");
        let before = world.applied(kind);
        let wrong = world.write(kind, "7", "node-b");
        assert_told(&wrong, 409, "TOKEN_CONFLICT", "conflict");
        assert_eq!((world.mark(kind).as_str(), world.applied(kind)), ("1", before));
        assert!(wrong.json()["detail"].as_str().unwrap().contains("holder node-a"), "{wrong:?}");
        assert_eq!(world.write(kind, "7", "node-a").status, 200);
    }
}

#[test]
fn out_of_reach_nothing_advances_and_all_else_goes_on() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.break_off(true);
        let before = world.applied(kind);
        world.coordinator.elect(kind.election(), 7, "");
        for answer in [world.write(kind, "7", ""), world.read(kind, "7"), world.claim(kind.fence(), "7")] {
            assert_told(&answer, 503, "UNAVAILABLE", "");
            assert!(answer.header("retry-after").is_some(), "{answer:?}");
        }
        assert_eq!((world.mark(kind).as_str(), world.applied(kind)), ("1", before), "nothing was changed");
        for answer in [world.write(kind, "1", ""), world.read(kind, "1"), world.claim(kind.fence(), "1")] {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        assert_eq!(world.applied(kind), before + 1);
        world.coordinator.break_off(false);
        assert_eq!(world.write(kind, "7", "").status, 200);
    }
}

#[test]
fn one_that_takes_too_long_is_as_good_as_out_of_reach() {
    for short in [
        Limits { ask_time: Duration::from_millis(500), ..PATIENT },
        Limits { wait_time: Duration::from_millis(500), ..PATIENT },
    ] {
        let world = World::with(short, true, true);
        for kind in KINDS {
            world.coordinator.elect(kind.election(), 7, "");
            world.coordinator.hold(true);
            assert_told(&world.claim(kind.fence(), "7"), 503, "UNAVAILABLE", "");
            world.coordinator.hold(false);
        }
    }
}

#[test]
fn several_fences_are_asked_about_at_once_and_one_refusal_refuses_all() {
    let world = World::new();
    world.coordinator.elect("led/app", 7, "node-a");
    world.coordinator.elect("led/jobs", 4, "node-a");
    let both = ["INSERT INTO t VALUES (1)", "INSERT INTO jobs VALUES (1)"];
    assert_told(&world.sql("app=7, jobs=5", &both), 403, "TOKEN_UNISSUED", "unissued");
    assert_eq!((world.mark(Kind::Sql).as_str(), world.mark_of(Kind::Sql, "jobs").as_str()), ("1", "1"));
    world.coordinator.hold(true);
    let before = world.coordinator.counts().asked;
    let mut client = world.client();
    let body = r#"{"requests":[{"type":"execute","stmt":{"sql":"INSERT INTO jobs VALUES (2)"}}]}"#;
    let head = format!("fencing-token: app=7, jobs=4\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    client.send(format!("POST /v3/pipeline HTTP/1.1\r\nhost: gate\r\n{head}").as_bytes()).unwrap();
    world.coordinator.until_asked(before + 2);
    assert_eq!(world.coordinator.counts().under_way, 2, "at once");
    world.coordinator.hold(false);
    let answer = client.read_answer().unwrap();
    assert_eq!((answer.status, answer.header("fencing-verdict")), (200, Some("advanced")), "{answer:?}");
    assert_eq!(answer.header("fencing-highest"), Some("app=7, jobs=4"));
    // One stale: the other one's mark stays where it is.
    world.coordinator.elect("led/app", 8, "");
    world.coordinator.elect("led/jobs", 9, "");
    assert_told(&world.sql("app=8, jobs=8", &both), 412, "STALE_TOKEN", "stale");
    assert_eq!((world.mark(Kind::Sql).as_str(), world.mark_of(Kind::Sql, "jobs").as_str()), ("7 node-a", "9"));
}

#[test]
fn a_transaction_ends_when_a_confirmed_successor_comes() {
    let world = World::new();
    let begin = json!([{"type": "execute", "stmt": {"sql": "BEGIN IMMEDIATE"}},
        {"type": "execute", "stmt": {"sql": "INSERT INTO t VALUES ('deposed')"}}]);
    let open = world.client().pipeline(Some("1"), None, &begin).unwrap();
    let baton = open.json()["baton"].as_str().unwrap().to_owned();
    assert_told(&world.write(Kind::Sql, "9", ""), 403, "TOKEN_UNISSUED", "unissued");
    let go_on = |baton: &str, sql: &str| {
        let requests = json!([{"type": "execute", "stmt": {"sql": sql}}]);
        world.client().pipeline(Some("1"), Some(baton), &requests).unwrap()
    };
    let goes_on = go_on(&baton, "INSERT INTO t VALUES ('deposed, too')");
    assert_eq!(goes_on.status, 200, "a token that nobody issued ends nobody's transaction: {goes_on:?}");
    let baton = goes_on.json()["baton"].as_str().unwrap().to_owned();
    world.coordinator.elect("led/app", 9, "");
    assert_eq!(world.write(Kind::Sql, "9", "").status, 200);
    assert_told(&go_on(&baton, "COMMIT"), 412, "STALE_TOKEN", "stale");
    let left = world.sql("9", &["SELECT count(*) FROM t WHERE v LIKE 'deposed%'"]).json();
    assert_eq!(left["results"][0]["response"]["result"]["rows"][0][0]["value"], "0");
    // And in the middle of one, on its own stream, the successor's claim is asked about as anywhere.
    assert_told(&world.sql("10", &["BEGIN", "INSERT INTO t VALUES (1)", "COMMIT"]), 403, "TOKEN_UNISSUED", "unissued");
}

#[test]
fn in_a_rehearsal_writes_go_through_and_marks_stay_true() {
    let world = World::with(PATIENT, true, false);
    for kind in KINDS {
        let before = world.applied(kind);
        assert_eq!(world.write(kind, "999", "").status, 200);
        assert_eq!((world.mark(kind).as_str(), world.applied(kind)), ("1", before + 1));
        assert_eq!(world.resource(kind).fence(kind.fence()).unwrap().refused, 1, "it was counted");
        world.coordinator.elect(kind.election(), 7, "");
        assert_eq!(world.write(kind, "7", "").status, 200);
        assert_eq!(world.mark(kind), "7");
        assert_eq!(world.write(kind, "1", "").status, 200, "stale, and in a rehearsal");
    }
}
