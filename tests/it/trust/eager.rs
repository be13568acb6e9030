//! Eager fencing: a new leader's mark rises before its first request. Order is asserted by events, never by a clock.

use serde_json::json;

use crate::process::until;

use super::{KINDS, Kind, World, assert_told};

fn until_mark(world: &World, kind: Kind, mark: &str) {
    until("the mark rises by itself", || world.mark(kind) == mark);
}

#[test]
fn a_predecessor_is_shut_out_before_its_successors_first_request() {
    let world = World::new();
    world.follow();
    for kind in KINDS {
        let (before, asked) = (world.applied(kind), world.coordinator.counts().asked);
        assert_eq!(world.write(kind, "1", "").status, 200);
        world.coordinator.announce(kind.election(), 7, "node-b");
        until_mark(&world, kind, "7 node-b");
        assert_told(&world.write(kind, "1", ""), 412, "STALE_TOKEN", "stale");
        assert_eq!(world.applied(kind), before + 1, "nothing of it arrived");
        let event = world.history(kind).remove(0);
        assert_eq!((event.event.as_str(), event.holder.as_deref()), ("advanced", Some("node-b")));
        assert_eq!(event.reason.as_deref(), Some("the coordinator elected this leader"));
        let first = world.write(kind, "7", "");
        assert_eq!((first.status, first.header("fencing-verdict")), (200, Some("admitted")), "{first:?}");
        assert_eq!(world.coordinator.counts().asked, asked, "its first write is at the mark already");
    }
}

/// The negative control: nobody follows, and the predecessor goes on until its successor's first request.
#[test]
fn without_following_the_predecessor_goes_on_until_then() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.announce(kind.election(), 7, "");
        assert_eq!(world.write(kind, "1", "").status, 200);
        assert_eq!(world.write(kind, "7", "").status, 200);
        assert_told(&world.write(kind, "1", ""), 412, "STALE_TOKEN", "stale");
    }
}

#[test]
fn an_open_transaction_is_rolled_back_at_the_election() {
    let world = World::new();
    world.follow();
    let begin = json!([{"type": "execute", "stmt": {"sql": "BEGIN IMMEDIATE"}},
        {"type": "execute", "stmt": {"sql": "INSERT INTO t VALUES (1)"}}]);
    let open = world.client().pipeline(Some("1"), None, &begin).unwrap();
    let baton = open.json()["baton"].as_str().unwrap().to_owned();
    world.coordinator.announce("led/app", 7, "");
    until_mark(&world, Kind::Sql, "7");
    let commit = json!([{"type": "execute", "stmt": {"sql": "COMMIT"}}]);
    assert_told(&world.client().pipeline(Some("1"), Some(&baton), &commit).unwrap(), 412, "STALE_TOKEN", "stale");
    assert_eq!(world.applied(Kind::Sql), 0);
}

#[test]
fn a_write_in_flight_at_the_election_ends_before_the_successors_first() {
    let world = World::new();
    world.follow();
    let mut old = world.client();
    let script = "hostile: read at:here apply answer\r\ncontent-length: 5\r\n\r\nhello";
    old.send(format!("PUT /stock/7/doc HTTP/1.1\r\nhost: gate\r\nfencing-token: 1\r\n{script}").as_bytes()).unwrap();
    world.upstream.reached("here");
    world.coordinator.announce("shelf-7", 7, "");
    until_mark(&world, Kind::Http, "7");
    assert_told(&world.write(Kind::Http, "1", ""), 412, "STALE_TOKEN", "stale");
    let mut new = world.begin(Kind::Http, "7", "");
    assert!(!new.is_answered(), "an older write is in flight");
    world.upstream.open("here");
    assert_eq!(old.read_answer().unwrap().status, 200, "it was let through before");
    assert_eq!(new.read_answer().unwrap().status, 200);
    let tokens: Vec<u64> = world.upstream.applied().iter().map(|applied| applied.token).collect();
    assert_eq!(tokens, [1, 1, 7]);
}

#[test]
fn what_has_no_mark_is_left_alone() {
    let world = World::new();
    world.follow();
    for election in ["shelf-new", "shelf-a/b", "led/other", "somebody-elses"] {
        world.coordinator.announce(election, 7, "");
    }
    world.coordinator.announce("shelf-7", 2, "");
    until_mark(&world, Kind::Http, "2");
    assert_eq!(world.mark_of(Kind::Http, "stock/new"), "");
    let gauges = world.resource(Kind::Http).gauges();
    assert!(gauges.contains(&("fencegate_http_fences", 1.0)), "no fence was made: {gauges:?}");
}

#[test]
fn whoever_was_elected_while_nobody_could_hear_is_heard_of_afterwards() {
    let world = World::new();
    world.follow();
    world.coordinator.break_off(true);
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 9, "");
        assert_eq!(world.write(kind, "1", "").status, 200, "nobody knows");
    }
    world.coordinator.break_off(false);
    for kind in KINDS {
        until_mark(&world, kind, "9");
    }
}

/// What is told is handled in order: when this has arrived, so has what was told before.
fn settle(world: &World, kind: Kind, token: u64) {
    let other = if kind == Kind::Sql { Kind::Http } else { Kind::Sql };
    world.coordinator.announce(other.election(), token, "");
    until_mark(world, other, &token.to_string());
}

#[test]
fn a_coordinator_whose_numbers_went_back_is_explained_and_an_operator_can_help() {
    for kind in KINDS {
        let world = World::new();
        world.follow();
        world.coordinator.announce(kind.election(), 900, "");
        until_mark(&world, kind, "900");
        world.coordinator.announce(kind.election(), 12, "");
        settle(&world, kind, 50);
        assert_eq!(world.mark(kind), "900", "a mark never falls by itself");
        for answer in [world.write(kind, "12", ""), world.claim(kind.fence(), "12")] {
            assert_told(&answer, 412, "STALE_TOKEN", "stale");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            let way_out = format!("fencegate fences reset {} --to 12 --reason", kind.fence());
            for part in
                [&format!("token 12 leads election {} now", kind.election()), "restored from a backup", &way_out]
            {
                assert!(detail.to_lowercase().contains(&part.to_lowercase()), "{detail}");
            }
        }
        let other = world.write(kind, "11", "").json()["detail"].as_str().unwrap().to_owned();
        assert!(!other.contains("restored"), "whoever doesn't lead is just stale: {other}");
        world.reset(kind, 12);
        assert_eq!(world.write(kind, "12", "").status, 200);
        assert_told(&world.write(kind, "900", ""), 403, "TOKEN_UNISSUED", "unissued");
    }
}

#[test]
fn a_reset_stands_until_a_leader_is_told_or_comes() {
    for kind in KINDS {
        let world = World::new();
        world.follow();
        world.coordinator.announce(kind.election(), 9, "");
        until_mark(&world, kind, "9");
        world.reset(kind, 3);
        settle(&world, kind, 50);
        assert_eq!(world.mark(kind), "3", "what was told before doesn't come back by itself");
        assert_eq!(world.write(kind, "9", "").status, 200, "the present leader's token is what it is");
        world.reset(kind, 3);
        world.coordinator.announce(kind.election(), 10, "");
        until_mark(&world, kind, "10");
    }
}

#[test]
fn a_mark_that_could_not_be_stored_is_raised_later_by_whoever_leads_then() {
    let world = World::new();
    world.follow();
    let lock = rusqlite::Connection::open(world.dir.path().join("fences.db")).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let asked = world.coordinator.counts().asked;
    world.coordinator.announce("shelf-7", 7, "");
    // It failed: before it is tried again, the coordinator is asked.
    world.coordinator.until_asked(asked + 1);
    // Nobody is told of this one. The question after the next was surely sent later.
    world.coordinator.elect("shelf-7", 8, "");
    world.coordinator.until_asked(world.coordinator.counts().asked + 2);
    assert_eq!(world.mark(Kind::Http), "1");
    lock.execute_batch("ROLLBACK").unwrap();
    until_mark(&world, Kind::Http, "8");
}
