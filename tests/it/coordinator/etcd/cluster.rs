//! Three members, of which some are killed or stopped.

use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions};
use fencegate::coordinator::{Coordinator as _, CoordinatorError, Leadership as _};
use tokio::time::timeout;

use super::super::suite::SOON;
use super::super::{TTL, bid, bid_for, election};
use super::open;
use crate::process::until;
use crate::upstream::etcd::{Etcd, ONE, Setup};

pub const THREE: Setup = Setup { members: 3, ..ONE };

/// The address of these members, in this order.
pub fn address_of(etcd: &Etcd, members: &[usize]) -> String {
    let hosts: Vec<String> = members.iter().map(|member| etcd.members[*member].client.addr.to_string()).collect();
    format!("etcd://{}", hosts.join(","))
}

/// Which member leads the others: it, and two others.
pub fn leader_of(etcd: &Etcd) -> (usize, [usize; 2]) {
    let mut leader = None;
    until("the members agree on a leader", || {
        let told: Vec<Option<usize>> = (0..3).map(|member| etcd.leader(member)).collect();
        leader = told[0].filter(|_| told.iter().all(|one| *one == told[0]));
        leader.is_some()
    });
    let leader = leader.unwrap();
    (leader, [(leader + 1) % 3, (leader + 2) % 3])
}

#[tokio::test]
async fn a_term_and_a_queue_outlive_the_members_that_served_them() {
    let mut etcd = Etcd::start(&THREE);
    let (leads, [one, other]) = leader_of(&etcd);
    let coordinator = open(&format!("{}?timeout=1s", address_of(&etcd, &[leads, one, other])));
    let orders = election("orders");
    let mut first = coordinator.campaign(&orders, &bid("node-a")).await.unwrap();
    let token = first.token();
    let mut ended = std::pin::pin!(first.ended());
    let (waits, observes) = (coordinator.clone(), coordinator.clone());
    let next = tokio::spawn(async move { waits.campaign(&election("orders"), &bid("node-b")).await });
    let seen = tokio::spawn(async move { observes.observe(&election("orders"), Some(token)).await });
    let story = async {
        let waits = async || coordinator.view(&orders).await.unwrap().waiting == [bid("node-b").holder];
        while !waits().await {
            tokio::task::yield_now().await;
        }
        etcd.members[leads].kill();
        assert_eq!(first.renew().await, Ok(TTL), "another member is asked, and the cluster elects another leader");
        assert!(waits().await);
        etcd.members[leads].start();
        etcd.until_serving();
        let (leads, _) = leader_of(&etcd);
        etcd.members[leads].pause();
        let started = Instant::now();
        assert_eq!(first.renew().await, Ok(TTL), "the same with one that hangs");
        assert!(started.elapsed() < Duration::from_secs(30), "long before the lease is over");
        assert!(waits().await);
        etcd.members[leads].go_on();
        etcd.until_serving();
        first.renew().await.unwrap();
        assert_eq!(coordinator.leader(&orders).await.unwrap().unwrap().token, token);
    };
    tokio::select! { biased;
        () = &mut ended => panic!("it goes on"),
        () = story => {}
    }
    first.resign().await.unwrap();
    timeout(SOON, ended).await.expect("now it is over");
    let next = timeout(SOON, next).await.expect("it is its turn").unwrap().unwrap();
    let seen = timeout(SOON, seen).await.expect("somebody leads").unwrap().unwrap();
    assert!(next.token() > token);
    assert_eq!(seen.token, next.token());
}

#[tokio::test]
async fn a_minority_elects_nobody_and_renews_nothing() {
    let mut etcd = Etcd::start(&THREE);
    let (leads, others) = leader_of(&etcd);
    let orders = election("orders");
    let left = open(&format!("{}?timeout=100ms", address_of(&etcd, &[leads])));
    let mut leadership = left.campaign(&orders, &bid("node-a")).await.unwrap();
    let ended = leadership.ended();
    others.iter().for_each(|member| etcd.members[*member].kill());
    let story = async {
        // The one that led the cluster may answer for as long as it hasn't noticed: so more than once.
        let started = Instant::now();
        let mut refused = 0;
        while refused < 3 || started.elapsed() < Duration::from_secs(1) {
            refused = if leadership.renew().await.is_err() { refused + 1 } else { 0 };
            assert!(started.elapsed() < SOON, "a minority goes on renewing");
        }
        let campaign = left.campaign(&election("jobs"), &bid("node-b")).await.err();
        assert!(
            matches!(campaign, Some(CoordinatorError::Unavailable(_) | CoordinatorError::OutcomeUnknown(_))),
            "{campaign:?}"
        );
        for answer in [left.leader(&orders).await.err(), left.observe(&orders, None).await.err()] {
            assert!(matches!(answer, Some(CoordinatorError::Unavailable(_))), "{answer:?}");
        }
        // It is up and reached, and would tell what it last knew to whoever is content with that.
        let mut client = Client::connect([format!("http://{}", etcd.members[leads].client.addr)], None).await.unwrap();
        let stale = client.get("orders/", Some(GetOptions::new().with_prefix().with_serializable())).await.unwrap();
        assert_eq!(stale.kvs().len(), 1);
        others.iter().for_each(|member| etcd.members[*member].start());
        etcd.until_serving();
        leadership.renew().await.unwrap();
    };
    tokio::select! { biased;
        () = ended => panic!("nobody has said so"),
        () = story => {}
    }
    assert_eq!(left.leader(&election("jobs")).await.unwrap(), None, "what was asked for is not done later");
}

/// Before 3.4.31 and 3.5.13 a member that was stopped while it led, and doesn't know yet that it doesn't any more, answers a
/// keep-alive with the full TTL. Nobody else has renewed that lease.
#[tokio::test]
async fn a_member_that_slept_through_its_deposition_renews_nothing() {
    let etcd = Etcd::start(&THREE);
    let (leads, others) = leader_of(&etcd);
    let orders = election("orders");
    let asleep = open(&format!("{}?timeout=20s", address_of(&etcd, &[leads])));
    let awake = open(&address_of(&etcd, &others));
    let ttl = Duration::from_secs(3);
    let mut leadership = asleep.campaign(&orders, &bid_for("node-a", ttl)).await.unwrap();
    leadership.renew().await.unwrap();
    etcd.members[leads].pause();
    let reads = async {
        // A linearizable read: the two that are left have a leader.
        while awake.leader(&orders).await.is_err() {
            tokio::task::yield_now().await;
        }
        crate::upstream::pass_time(700);
        Instant::now()
    };
    reads.await;
    let sent = Instant::now();
    let wakes = async {
        // The renewal lies in its socket by now.
        tokio::task::yield_now().await;
        etcd.members[leads].go_on();
    };
    let (renewed, ()) = tokio::join!(leadership.renew(), wakes);
    let Ok(ttl) = renewed else { return };
    // It says that the lease was renewed. Then it was: it is alive until then.
    while sent.elapsed() < ttl - Duration::from_millis(100) {
        let now = sent.elapsed();
        let leader = awake.leader(&orders).await.unwrap();
        assert_eq!(leader.map(|leader| leader.token), Some(leadership.token()), "after {now:?} of {ttl:?}");
    }
}
