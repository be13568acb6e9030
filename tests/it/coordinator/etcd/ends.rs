//! How candidacies and terms end, other than by the candidate: and that a leader hears of it.

use std::pin::pin;
use std::time::Duration;

use fencegate::coordinator::{Coordinator as _, CoordinatorError, Leadership as _};
use tokio::time::timeout;

use super::super::suite::{SOON, lead, lead_for, until_waiting};
use super::super::{Site as _, TTL, bid, bid_for, election};
use super::Shared;

/// Shorter than the time after which the adapter would look again by itself: what is told within it was told by a watch.
const BY_A_WATCH: Duration = Duration::from_secs(4);

#[tokio::test]
async fn that_the_key_or_the_lease_was_taken_away_is_noticed_between_renewals() {
    let site = Shared::start().await;
    let (orders, jobs) = (election("orders"), election("jobs"));
    let other = lead(&site, &jobs, "node-b").await;
    let others = other.ended();
    let all = async {
        for by_lease in [false, true] {
            let mut leadership = lead(&site, &orders, "node-a").await;
            let mut ended = pin!(leadership.ended());
            assert!(timeout(Duration::from_millis(200), &mut ended).await.is_err(), "nothing has happened yet");
            let lease = format!("{:x}", leadership.lease_id());
            let key = format!("{}orders/{lease}", site.prefix);
            let took = if by_lease { ["lease", "revoke", &lease] } else { ["del", "--", &key] };
            site.etcd.told(&took);
            timeout(BY_A_WATCH, ended).await.expect("it is told");
            assert_eq!(leadership.renew().await, Err(CoordinatorError::Lost));
            assert_eq!(leadership.resign().await, Err(CoordinatorError::Lost));
        }
    };
    tokio::select! { biased;
        () = others => panic!("another election's term has not ended"),
        () = all => {}
    }
}

#[tokio::test]
async fn a_key_put_back_by_somebody_is_not_the_term_again() {
    let site = Shared::start().await;
    let orders = election("orders");
    let mut leadership = lead(&site, &orders, "node-a").await;
    let lease = format!("{:x}", leadership.lease_id());
    let key = format!("{}orders/{lease}", site.prefix);
    site.etcd.told(&["del", "--", &key]);
    // The same key and value: but it was created later than the leader's was.
    site.etcd.told(&["put", "--", &key, "node-a"]);
    assert_eq!(leadership.renew().await, Err(CoordinatorError::Lost));
    timeout(SOON, leadership.ended()).await.expect("it has ended");
    let now = site.coordinator.leader(&orders).await.unwrap().unwrap();
    assert!(now.token > leadership.token());
    assert_eq!(leadership.resign().await, Err(CoordinatorError::Lost));
    assert_eq!(site.coordinator.leader(&orders).await, Ok(Some(now)), "whoever put it is left alone");
}

#[tokio::test]
async fn who_lost_its_place_while_it_waited_does_not_lead_by_it_and_stands_again() {
    let site = Shared::start().await;
    let orders = election("orders");
    let first = lead(&site, &orders, "node-0").await;
    let mut paused = pin!(lead(&site, &orders, "node-1"));
    let mut behind = pin!(lead(&site, &orders, "node-2"));
    tokio::select! { biased;
        _ = &mut paused => panic!("two lead at once"),
        () = until_waiting(&site, &orders, 1) => {}
    }
    tokio::select! { biased;
        _ = &mut behind => panic!("two lead at once"),
        () = until_waiting(&site, &orders, 2) => {}
    }
    // Nobody polls the second one now, as if its process was stopped: it loses its lease, and then the leader goes.
    let keys =
        site.etcd.told(&["get", "--prefix", "--keys-only", "--sort-by=CREATE", &format!("{}orders/", site.prefix)]);
    let lease = keys.lines().filter(|line| !line.is_empty()).nth(1).unwrap().rsplit('/').next().unwrap().to_owned();
    site.etcd.told(&["lease", "revoke", &lease]);
    first.resign().await.unwrap();
    let third = timeout(SOON, &mut behind).await.expect("it is its turn");
    // It wakes, and sees at once that whom it waited for has gone; but so has its own place.
    tokio::select! { biased;
        _ = &mut paused => panic!("it leads without a key"),
        () = until_waiting(&site, &orders, 1) => {}
    }
    let view = site.coordinator.view(&orders).await.unwrap();
    assert_eq!((view.leader.unwrap().token, view.waiting), (third.token(), vec![bid("node-1").holder]));
    let third_token = third.token();
    third.resign().await.unwrap();
    assert!(timeout(SOON, paused).await.expect("it is its turn").token() > third_token);
}

#[tokio::test]
async fn a_candidate_that_is_killed_lapses_by_its_lease_and_one_that_waits_long_does_not() {
    let site = Shared::start().await;
    let orders = election("orders");
    let first = lead(&site, &orders, "node-0").await;
    let waits = lead_for(&site, &orders, "node-1", Shared::TTL);
    let address = format!("{}/{}", site.etcd.address(), site.prefix);
    let killed = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let coordinator = super::open(&address);
        let (bid, orders) = (bid_for("node-2", Shared::TTL), election("orders"));
        let mut campaign = Box::pin(coordinator.campaign(&orders, &bid));
        runtime.block_on(async {
            let stands = async {
                while coordinator.view(&orders).await.unwrap().waiting_count < 2 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! { biased;
                _ = &mut campaign => panic!("two lead at once"),
                () = stands => {}
            }
        });
        // Outside the runtime nobody can say goodbye.
        drop(runtime);
        drop(campaign);
    });
    let passes = async {
        killed.await.unwrap();
        assert_eq!(site.waiting(&orders).await, 2, "it is still there");
        until_waiting(&site, &orders, 1).await;
        site.pass(Shared::TTL).await;
        assert_eq!(site.waiting(&orders).await, 1, "the other waits on, longer than its lease");
        first.resign().await.unwrap();
    };
    let (second, ()) = tokio::join!(waits, passes);
    let leader = site.coordinator.leader(&orders).await.unwrap().unwrap();
    assert_eq!((leader.token, leader.holder), (second.token(), bid("node-1").holder));
}

#[tokio::test]
async fn elections_below_an_election_are_others() {
    let site = Shared::start().await;
    // More of them than are read at first, and all of them older.
    let mut client = site.client.clone();
    for nth in 0..70 {
        client.put(format!("{}stock/{nth}/a1", site.prefix), "other", None).await.unwrap();
    }
    let mut leadership = lead(&site, &election("stock"), "node-a").await;
    leadership.renew().await.unwrap();
    let view = site.coordinator.view(&election("stock")).await.unwrap();
    assert_eq!((view.leader.map(|leader| leader.token), view.waiting_count), (Some(leadership.token()), 0));
    let leader = site.coordinator.leader(&election("stock")).await.unwrap().unwrap();
    assert_eq!((leader.token, leader.holder), (leadership.token(), bid("node-a").holder));
    let other = site.coordinator.view(&election("stock/7")).await.unwrap();
    assert_eq!((other.leader.unwrap().holder, other.ttl_left), (bid("other").holder, None), "a key without a lease");
    leadership.resign().await.unwrap();
    assert_eq!(site.coordinator.leader(&election("stock")).await, Ok(None));
}

#[tokio::test]
async fn a_view_names_a_hundred_and_counts_all() {
    let site = Shared::start().await;
    let mut client = site.client.clone();
    for nth in 0..105 {
        client.put(format!("{}jobs/{nth:x}", site.prefix), format!("node-{nth}"), None).await.unwrap();
    }
    let view = site.coordinator.view(&election("jobs")).await.unwrap();
    assert_eq!((view.waiting.len(), view.waiting_count), (100, 104));
    assert_eq!((view.leader.unwrap().holder, &view.waiting[99]), (bid("node-0").holder, &bid("node-100").holder));
}

#[tokio::test]
async fn a_lease_is_never_shorter_than_asked_for_and_has_bounds() {
    let site = Shared::start().await;
    let orders = election("orders");
    let mut leadership = lead_for(&site, &orders, "node-a", Duration::from_millis(2001)).await;
    assert_eq!(leadership.renew().await, Ok(Duration::from_secs(3)));
    for ttl in [Duration::from_millis(999), Duration::from_millis(3_600_001)] {
        let refused = site.coordinator.campaign(&orders, &bid_for("node-b", ttl)).await.err();
        assert!(matches!(refused, Some(CoordinatorError::Ttl { asked, .. }) if asked == ttl), "{refused:?}");
    }
    assert_eq!(TTL.as_secs(), 60, "and is within them");
}
