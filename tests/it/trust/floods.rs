//! Many who ask at once, and what happens between a question and its answer.

use crate::process::Client;

use super::{KINDS, Kind, Limits, PATIENT, World, assert_told};

#[test]
fn whoever_waits_for_an_answer_keeps_nobody_else_waiting() {
    let world = World::new();
    world.coordinator.elect("shelf-8", 1, "");
    assert_eq!(world.claim("stock/8", "1").status, 200);
    for kind in KINDS {
        world.coordinator.hold(true);
        let asked = world.coordinator.counts().asked;
        let mut unissued = world.begin(kind, "99", "");
        world.coordinator.until_asked(asked + 1);
        for answer in [
            world.write(kind, "1", ""),
            world.read(kind, "1"),
            world.claim(kind.fence(), "1"),
            world.write(Kind::Sql, "1", ""),
            world.write(Kind::Http, "1", ""),
            world.claim("stock/8", "1"),
            world.claim("jobs", "1"),
        ] {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        assert!(!unissued.is_answered(), "it is still asked about");
        world.coordinator.hold(false);
        assert_told(&unissued.read_answer().unwrap(), 403, "TOKEN_UNISSUED", "unissued");
    }
}

#[test]
fn one_question_is_for_all_who_came_before_it_was_sent() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.hold(true);
        let asked = world.coordinator.counts().asked;
        let first = world.begin(kind, "50", "");
        world.coordinator.until_asked(asked + 1);
        // The question under way was sent before these came.
        let many: Vec<Client> = (0..40).map(|n| world.begin(kind, &(50 + n % 3).to_string(), "")).collect();
        let mut leader = world.begin(kind, "7", "");
        world.coordinator.elect(kind.election(), 7, "");
        world.until_waiting(41);
        world.coordinator.hold(false);
        assert_eq!(leader.read_answer().unwrap().status, 200, "it was elected after the first question");
        for mut client in many.into_iter().chain([first]) {
            assert_told(&client.read_answer().unwrap(), 403, "TOKEN_UNISSUED", "unissued");
        }
        assert_eq!(world.coordinator.counts().asked, asked + 2, "the one under way, and one for all the others");
        assert_eq!(world.mark(kind), "7");
    }
}

#[test]
fn an_answer_under_way_is_enough_for_the_token_that_it_names() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 7, "");
        world.coordinator.hold(true);
        let asked = world.coordinator.counts().asked;
        let mut unissued = world.begin(kind, "50", "");
        world.coordinator.until_asked(asked + 1);
        let (mut leader, mut stale) = (world.begin(kind, "7", ""), world.begin(kind, "6", ""));
        world.until_waiting(2);
        world.coordinator.hold(false);
        assert_eq!(leader.read_answer().unwrap().status, 200);
        assert_told(&stale.read_answer().unwrap(), 412, "STALE_TOKEN", "stale");
        assert_told(&unissued.read_answer().unwrap(), 403, "TOKEN_UNISSUED", "unissued");
        assert_eq!(world.coordinator.counts().asked, asked + 1);
    }
}

#[test]
fn a_flood_over_many_fences_asks_a_few_at_a_time_and_the_leader_gets_through() {
    let world = World::with(Limits { questions_max: 3, ..PATIENT }, true, true);
    let mut clients = Vec::new();
    for n in 0..60 {
        clients.push(world.begin_claim(&format!("stock/x{}", n % 20), "99"));
    }
    world.coordinator.elect("shelf-7", 7, "");
    assert_eq!(world.write(Kind::Http, "7", "").status, 200);
    for mut client in clients {
        assert_told(&client.read_answer().unwrap(), 403, "TOKEN_UNISSUED", "unissued");
    }
    let counts = world.coordinator.counts();
    assert!(counts.most_under_way <= 3, "{counts:?}");
}

#[test]
fn what_would_wait_past_all_bounds_is_turned_away() {
    let world = World::with(Limits { questions_max: 1, elections_max: 2, waiting_max: 3, ..PATIENT }, true, true);
    world.coordinator.hold(true);
    let asked = world.coordinator.counts().asked;
    let mut clients = vec![world.begin_claim("stock/a", "9")];
    world.coordinator.until_asked(asked + 1);
    clients.push(world.begin_claim("stock/b", "9"));
    world.until_waiting(1);
    assert_told(&world.claim("stock/c", "9"), 503, "OVERLOADED", "");
    clients.push(world.begin_claim("stock/a", "9"));
    clients.push(world.begin_claim("stock/b", "9"));
    world.until_waiting(3);
    assert_told(&world.claim("stock/a", "9"), 503, "OVERLOADED", "");
    assert_eq!(world.write(Kind::Http, "1", "").status, 200, "whoever is at the mark goes on");
    world.coordinator.hold(false);
    for mut client in clients {
        assert_told(&client.read_answer().unwrap(), 403, "TOKEN_UNISSUED", "unissued");
    }
}

#[test]
fn a_confirmation_that_comes_after_the_mark_rose_further_is_judged_again() {
    let world = World::new();
    world.follow();
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 7, "");
        world.coordinator.hold(true);
        let asked = world.coordinator.counts().asked;
        let before = world.applied(kind);
        let mut late = world.begin(kind, "7", "");
        world.coordinator.until_asked(asked + 1);
        world.coordinator.announce(kind.election(), 9, "");
        crate::process::until("the successor's mark", || world.mark(kind) == "9");
        world.coordinator.hold(false);
        assert_told(&late.read_answer().unwrap(), 412, "STALE_TOKEN", "stale");
        assert_eq!((world.mark(kind).as_str(), world.applied(kind)), ("9", before));
    }
}

#[test]
fn a_confirmation_from_before_an_operators_reset_does_not_undo_it() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 7, "");
        assert_eq!(world.write(kind, "7", "").status, 200);
        world.coordinator.elect(kind.election(), 900, "");
        world.coordinator.hold(true);
        let asked = world.coordinator.counts().asked;
        let mut late = world.begin(kind, "900", "");
        world.coordinator.until_asked(asked + 1);
        // The coordinator is restored from a backup: its numbers go back.
        world.coordinator.elect(kind.election(), 3, "");
        world.reset(kind, 2);
        world.coordinator.hold(false);
        assert_told(&late.read_answer().unwrap(), 403, "TOKEN_UNISSUED", "unissued");
        assert_eq!(world.coordinator.counts().asked, asked + 2, "it was asked about anew");
        assert_eq!(world.mark(kind), "2");
        assert_eq!(world.write(kind, "3", "").status, 200);
    }
}

#[test]
fn a_request_that_is_given_up_leaves_the_others_their_answer() {
    let world = World::new();
    for kind in KINDS {
        world.coordinator.elect(kind.election(), 7, "");
        world.coordinator.hold(true);
        let asked = world.coordinator.counts().asked;
        let gone = world.begin(kind, "7", "");
        world.coordinator.until_asked(asked + 1);
        let mut stays = world.begin(kind, "7", "");
        world.until_waiting(1);
        drop(gone);
        world.coordinator.hold(false);
        assert_eq!(stays.read_answer().unwrap().status, 200);
        assert_eq!(world.mark(kind), "7");
    }
}
