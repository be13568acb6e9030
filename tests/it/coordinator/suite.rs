//! What every coordinator does.

use std::pin::pin;
use std::time::Duration;

use fencegate::coordinator::{Coordinator, CoordinatorError, Follow, Followed, Leader, Leadership, Told, View};
use fencegate::fence::{FenceName, Token};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::{Site, TTL, bid, bid_for, election};

type LeadershipOf<S> = <<S as Site>::Coordinator as Coordinator>::Leadership;

/// Makes one test of each function of the suite, on a site that `$make` starts. With `in one`, those that let time pass are one
/// test, at the same time: for sites on which time is real.
macro_rules! conforms {
    ($make:expr) => {
        crate::coordinator::suite::cases!(each $make, at_once);
        crate::coordinator::suite::cases!(each $make, takes_time);
    };
    ($make:expr, in one) => {
        crate::coordinator::suite::cases!(each $make, at_once);
        crate::coordinator::suite::cases!(together $make, takes_time);
    };
}
pub(crate) use conforms;

macro_rules! cases {
    ($how:ident $make:expr, at_once) => {
        crate::coordinator::suite::cases!($how $make =>
            the_first_candidate_leads_under_its_name, elections_are_independent, a_resignation_hands_over,
            candidates_lead_in_order_of_arrival, who_observes_hears_of_each_new_leader,
            a_view_names_who_leads_and_who_waits, names_of_every_kind_work);
    };
    ($how:ident $make:expr, takes_time) => {
        crate::coordinator::suite::cases!($how $make =>
            every_term_has_a_higher_token, renewals_keep_the_lease, a_lease_that_ran_out_is_lost_for_good,
            a_deposed_leader_does_not_touch_its_successor, an_abandoned_campaign_lapses,
            the_end_of_a_term_is_told_however_it_came, a_term_that_goes_on_has_not_ended);
    };
    // Of those that tell of new leaders by themselves.
    ($how:ident $make:expr, follows) => {
        crate::coordinator::suite::cases!($how $make =>
            who_follows_hears_of_present_and_new_leaders_and_of_no_others, who_follows_hears_of_leases_that_ran_out);
    };
    (each $make:expr => $($case:ident),+) => {
        $(#[tokio::test]
        async fn $case() {
            let site = $make.await;
            crate::coordinator::suite::$case(&site).await;
        })+
    };
    (together $make:expr => $($case:ident),+) => {
        #[tokio::test]
        async fn the_suite_of_what_takes_time() {
            tokio::join!($(Box::pin(async {
                let site = $make.await;
                crate::coordinator::suite::$case(&site).await;
            })),+);
        }
    };
}
pub(crate) use cases;

/// A bound for what should happen at once: a test that hangs fails instead.
pub const SOON: Duration = Duration::from_secs(60);

pub async fn lead<S: Site>(site: &S, election: &FenceName, holder: &str) -> LeadershipOf<S> {
    lead_for(site, election, holder, TTL).await
}

pub async fn lead_for<S: Site>(site: &S, election: &FenceName, holder: &str, ttl: Duration) -> LeadershipOf<S> {
    let bid = bid_for(holder, ttl);
    timeout(SOON, site.coordinator().campaign(election, &bid)).await.expect("nobody else leads").unwrap()
}

pub async fn until_waiting<S: Site>(site: &S, election: &FenceName, count: usize) {
    let reached = async {
        while site.waiting(election).await != count {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, reached).await.expect("candidates join the queue");
}

fn lost<T>(outcome: &Result<T, CoordinatorError>) -> bool {
    matches!(outcome, Err(CoordinatorError::Lost))
}

pub async fn the_first_candidate_leads_under_its_name<S: Site>(site: &S) {
    let orders = election("orders");
    assert_eq!(site.coordinator().leader(&orders).await, Ok(None));
    let leadership = lead(site, &orders, "node-a").await;
    let leader = Leader { token: leadership.token(), holder: bid("node-a").holder };
    assert_eq!(site.coordinator().leader(&orders).await, Ok(Some(leader)));
    leadership.resign().await.unwrap();
    assert_eq!(site.coordinator().leader(&orders).await, Ok(None));
}

pub async fn every_term_has_a_higher_token<S: Site>(site: &S) {
    let orders = election("orders");
    let mut last = None;
    for term in 0..4 {
        // Terms end in both ways.
        let runs_out = term == 1;
        let ttl = if runs_out { S::TTL } else { TTL };
        let mut leadership = lead_for(site, &orders, "node-a", ttl).await;
        assert!(Some(leadership.token()) > last, "term {term}");
        last = Some(leadership.token());
        leadership.renew().await.unwrap();
        assert_eq!(last, Some(leadership.token()), "one token for the whole term");
        if runs_out {
            site.pass(S::TTL).await;
        } else {
            leadership.resign().await.unwrap();
        }
    }
}

pub async fn elections_are_independent<S: Site>(site: &S) {
    let (orders, jobs) = (election("orders"), election("jobs"));
    let one = lead(site, &orders, "node-a").await;
    let mut other = lead(site, &jobs, "node-b").await;
    one.resign().await.unwrap();
    assert!(other.renew().await.is_ok());
    assert_eq!(site.coordinator().leader(&orders).await, Ok(None));
}

pub async fn renewals_keep_the_lease<S: Site>(site: &S) {
    let orders = election("orders");
    let mut leadership = lead_for(site, &orders, "node-a", S::TTL).await;
    for _ in 0..3 {
        site.pass(S::TTL / 2).await;
        assert!(leadership.renew().await.unwrap() >= S::TTL, "never less than was asked for");
    }
    let leader = site.coordinator().leader(&orders).await.unwrap();
    assert_eq!(leader.map(|leader| leader.token), Some(leadership.token()));
}

pub async fn a_lease_that_ran_out_is_lost_for_good<S: Site>(site: &S) {
    let orders = election("orders");
    let mut leadership = lead_for(site, &orders, "node-a", S::TTL).await;
    site.pass(S::TTL).await;
    assert_eq!(site.coordinator().leader(&orders).await, Ok(None));
    assert!(lost(&leadership.renew().await));
    assert!(lost(&leadership.renew().await), "and stays so");
}

pub async fn a_deposed_leader_does_not_touch_its_successor<S: Site>(site: &S) {
    let orders = election("orders");
    let mut deposed = lead_for(site, &orders, "node-a", S::TTL).await;
    site.pass(S::TTL).await;
    let mut successor = lead(site, &orders, "node-a").await;
    assert!(successor.token() > deposed.token());
    assert!(lost(&deposed.renew().await));
    assert!(lost(&deposed.resign().await));
    assert!(successor.renew().await.is_ok());
    let leader = site.coordinator().leader(&orders).await.unwrap();
    assert_eq!(leader.map(|leader| leader.token), Some(successor.token()));
}

pub async fn a_resignation_hands_over<S: Site>(site: &S) {
    let orders = election("orders");
    let first = lead(site, &orders, "node-a").await;
    let first_token = first.token();
    let waits = lead(site, &orders, "node-b");
    let resigns = async {
        until_waiting(site, &orders, 1).await;
        let leader = site.coordinator().leader(&orders).await.unwrap();
        assert_eq!(leader.map(|leader| leader.token), Some(first_token), "one leader at a time");
        first.resign().await.unwrap();
    };
    let (second, ()) = tokio::join!(waits, resigns);
    assert!(second.token() > first_token);
}

/// For coordinators with a queue: a Kubernetes Lease has none.
pub async fn candidates_lead_in_order_of_arrival<S: Site>(site: &S) {
    let orders = election("orders");
    let mut order = Vec::new();
    let first = lead(site, &orders, "node-0").await;
    let names = ["node-1", "node-2", "node-3"];
    let (one, two, three) =
        (pin!(lead(site, &orders, names[0])), pin!(lead(site, &orders, names[1])), pin!(lead(site, &orders, names[2])));
    let mut waits = [one, two, three];
    for (count, wait) in waits.iter_mut().enumerate() {
        tokio::select! { biased;
            _ = wait => panic!("two lead at once"),
            () = until_waiting(site, &orders, count + 1) => {}
        }
    }
    first.resign().await.unwrap();
    for wait in waits {
        let leadership = wait.await;
        order.push(site.coordinator().leader(&orders).await.unwrap().unwrap().holder.unwrap().to_string());
        leadership.resign().await.unwrap();
    }
    assert_eq!(order, names);
}

pub async fn an_abandoned_campaign_lapses<S: Site>(site: &S) {
    let orders = election("orders");
    let first = lead(site, &orders, "node-a").await;
    tokio::select! { biased;
        _ = lead_for(site, &orders, "node-b", S::TTL) => panic!("two lead at once"),
        () = until_waiting(site, &orders, 1) => {}
    }
    site.pass(S::TTL).await;
    until_waiting(site, &orders, 0).await;
    first.resign().await.unwrap();
    assert_eq!(site.coordinator().leader(&orders).await, Ok(None));
}

pub async fn who_observes_hears_of_each_new_leader<S: Site>(site: &S) {
    let orders = election("orders");
    let observe = |after| timeout(SOON, site.coordinator().observe(&orders, after));
    let (seen, first) = tokio::join!(observe(None), lead(site, &orders, "node-a"));
    assert_eq!(seen.unwrap().unwrap().token, first.token());
    let at_once = observe(None).await.unwrap().unwrap();
    assert_eq!(at_once.token, first.token());
    let after = Some(first.token());
    let change = async {
        first.resign().await.unwrap();
        lead(site, &orders, "node-b").await
    };
    let (seen, second) = tokio::join!(observe(after), change);
    let seen = seen.unwrap().unwrap();
    assert_eq!((seen.token, seen.holder), (second.token(), bid("node-b").holder));
}

pub async fn the_end_of_a_term_is_told_however_it_came<S: Site>(site: &S) {
    let orders = election("orders");
    let resigned = lead(site, &orders, "node-a").await;
    // The future outlives the leadership.
    let (before, ended) = (resigned.ended(), resigned.ended());
    let hears = timeout(SOON, ended);
    let (heard, done) = tokio::join!(hears, resigned.resign());
    assert_eq!((heard, done), (Ok(()), Ok(())));
    assert_eq!(timeout(SOON, before).await, Ok(()), "also where it is first polled afterwards");

    let left_alone = lead_for(site, &orders, "node-b", S::TTL).await;
    let ended = timeout(SOON, left_alone.ended());
    let (heard, ()) = tokio::join!(ended, site.pass(S::TTL));
    assert_eq!(heard, Ok(()));
    let successor = lead(site, &orders, "node-c").await;
    assert_eq!(timeout(SOON, left_alone.ended()).await, Ok(()), "somebody else leads");
    drop(successor);
}

pub async fn a_term_that_goes_on_has_not_ended<S: Site>(site: &S) {
    let (orders, jobs) = (election("orders"), election("jobs"));
    let mut leadership = lead_for(site, &orders, "node-a", S::TTL).await;
    let ended = leadership.ended();
    let goes_on = async {
        for _ in 0..3 {
            site.pass(S::TTL / 2).await;
            leadership.renew().await.unwrap();
        }
        tokio::select! { biased;
            _ = lead(site, &orders, "node-b") => panic!("two lead at once"),
            () = until_waiting(site, &orders, 1) => {}
        }
        lead(site, &jobs, "node-c").await.resign().await.unwrap();
        leadership.renew().await.unwrap();
    };
    tokio::select! { biased;
        () = ended => panic!("it goes on"),
        () = goes_on => {}
    }
}

pub async fn a_view_names_who_leads_and_who_waits<S: Site>(site: &S) {
    let orders = election("orders");
    assert_eq!(site.coordinator().view(&orders).await, Ok(View::default()));
    let first = lead(site, &orders, "node-0").await;
    let (one, two) = (pin!(lead(site, &orders, "node-1")), pin!(lead(site, &orders, "node-2")));
    let mut waits = [one, two];
    for (count, wait) in waits.iter_mut().enumerate() {
        tokio::select! { biased;
            _ = wait => panic!("two lead at once"),
            () = until_waiting(site, &orders, count + 1) => {}
        }
    }
    let view = site.coordinator().view(&orders).await.unwrap();
    assert_eq!(view.leader, Some(Leader { token: first.token(), holder: bid("node-0").holder }));
    let left = view.ttl_left.expect("both know it");
    assert!(left > TTL / 2 && left <= TTL * 2, "{left:?}");
    assert_eq!((view.waiting, view.waiting_count), (vec![bid("node-1").holder, bid("node-2").holder], 2));
}

/// The next that is told, as election and token.
async fn next(told: &mut UnboundedReceiver<Told>) -> (String, Option<Token>) {
    let told = timeout(SOON, told.recv()).await.expect("it is told").expect("it goes on");
    (told.election.to_string(), told.leader.map(|leader| leader.token))
}

pub async fn who_follows_hears_of_present_and_new_leaders_and_of_no_others<S: Site>(site: &S)
where
    S::Coordinator: Follow,
{
    let names = ["orders", "stock/7", "stock", "other", "orders/sub"].map(election);
    let [orders, seven, stock, other, below] = &names;
    let first = lead(site, orders, "node-a").await;
    let not_followed = [lead(site, stock, "x").await, lead(site, other, "x").await, lead(site, below, "x").await];
    let followed = Followed { names: vec![orders.clone()], prefixes: vec!["stock/".to_owned()] };
    let mut told = site.coordinator().follow(&followed).await.unwrap();
    assert_eq!(next(&mut told).await, ("orders".to_owned(), Some(first.token())), "who leads already");
    let second = lead(site, seven, "node-b").await;
    assert_eq!(next(&mut told).await, ("stock/7".to_owned(), Some(second.token())));
    for leadership in not_followed {
        leadership.resign().await.unwrap();
    }
    // A successor that waits is told of as soon as it leads, and not before.
    let mut waits = pin!(lead(site, orders, "node-c"));
    tokio::select! { biased;
        _ = &mut waits => panic!("two lead at once"),
        () = until_waiting(site, orders, 1) => {}
    }
    second.resign().await.unwrap();
    assert_eq!(next(&mut told).await, ("stock/7".to_owned(), None));
    let (third, resigned) = tokio::join!(waits, first.resign());
    resigned.unwrap();
    assert_eq!(next(&mut told).await, ("orders".to_owned(), Some(third.token())));
    let mut other = site.coordinator().follow(&followed).await.unwrap();
    assert_eq!(next(&mut other).await, ("orders".to_owned(), Some(third.token())), "all is told anew");
    third.resign().await.unwrap();
    for told in [&mut told, &mut other] {
        assert_eq!(next(told).await, ("orders".to_owned(), None));
    }
}

pub async fn who_follows_hears_of_leases_that_ran_out<S: Site>(site: &S)
where
    S::Coordinator: Follow,
{
    let orders = election("orders");
    let followed = Followed { names: vec![orders.clone()], prefixes: Vec::new() };
    let mut told = site.coordinator().follow(&followed).await.unwrap();
    let first = lead_for(site, &orders, "node-a", S::TTL).await;
    assert_eq!(next(&mut told).await.1, Some(first.token()));
    site.pass(S::TTL).await;
    assert_eq!(next(&mut told).await.1, None);
}

pub async fn names_of_every_kind_work<S: Site>(site: &S) {
    let longest = "x".repeat(255);
    for name in ["stock/7", "stock/7/", "/", ".", "..", "A", "a", "a:b@c_d-e", &longest] {
        let leadership = lead(site, &election(name), "pod 7 (blue) \"%2F\" ~").await;
        let leader = site.coordinator().leader(&election(name)).await.unwrap().unwrap();
        assert_eq!(leader.token, leadership.token(), "{name}");
        assert_eq!(leader.holder, bid("pod 7 (blue) \"%2F\" ~").holder, "{name}");
    }
}
