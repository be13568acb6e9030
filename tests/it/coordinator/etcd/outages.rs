//! etcd that is restarted, compacted, out of reach.

use std::time::Duration;

use fencegate::coordinator::{Coordinator as _, CoordinatorError, Leadership as _};
use tokio::time::timeout;

use super::super::suite::SOON;
use super::super::{bid, bid_for, election};
use super::open;
use crate::upstream::etcd::{Etcd, ONE, Setup};

/// Forgets all of etcd's history but its present state.
fn compact(etcd: &Etcd) {
    let told = etcd.told(&["put", "something", "else", "-w", "fields"]);
    let revision = told.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap().trim().to_owned();
    etcd.told(&["compaction", "--physical", &revision]);
}

#[tokio::test]
async fn a_lease_and_a_wait_outlive_restarts_and_compaction() {
    let mut etcd = Etcd::start(&ONE);
    let coordinator = open(&etcd.address());
    let orders = election("orders");
    let mut first = coordinator.campaign(&orders, &bid("node-a")).await.unwrap();
    let (token, ended) = (first.token(), first.ended());
    let (waits, observes) = (coordinator.clone(), coordinator.clone());
    let next = tokio::spawn(async move { waits.campaign(&election("orders"), &bid("node-b")).await });
    let seen = tokio::spawn(async move { observes.observe(&election("orders"), Some(token)).await });
    let story = async {
        let waits = async || coordinator.view(&orders).await.unwrap().waiting == [bid("node-b").holder];
        while !waits().await {
            tokio::task::yield_now().await;
        }
        compact(&etcd);
        for _ in 0..2 {
            etcd.members[0].kill();
            // In the middle of an outage, too.
            let (renewed, ()) = tokio::join!(first.renew(), async { etcd.members[0].start() });
            assert_eq!(renewed, Ok(Duration::from_secs(60)));
            etcd.until_serving();
            compact(&etcd);
        }
        assert!(waits().await, "it keeps its place");
        assert_eq!(coordinator.leader(&orders).await.unwrap().unwrap().token, token);
        first.renew().await.unwrap();
    };
    let mut ended = std::pin::pin!(ended);
    tokio::select! { biased;
        () = &mut ended => panic!("it goes on"),
        () = story => {}
    }
    first.resign().await.unwrap();
    timeout(SOON, ended).await.expect("now it is over");
    let next = timeout(SOON, next).await.expect("it is its turn").unwrap().unwrap();
    let seen = timeout(SOON, seen).await.expect("somebody leads").unwrap().unwrap();
    assert!(next.token() > token);
    assert_eq!((seen.token, seen.holder), (next.token(), bid("node-b").holder));
}

#[tokio::test]
async fn out_of_reach_is_said_in_time_and_ends_no_term() {
    let mut etcd = Etcd::start(&ONE);
    let coordinator = open(&format!("{}?timeout=100ms", etcd.address()));
    let orders = election("orders");
    let mut leadership = coordinator.campaign(&orders, &bid("node-a")).await.unwrap();
    let ended = leadership.ended();
    let waits = coordinator.clone();
    let waits = tokio::spawn(async move { waits.campaign(&election("orders"), &bid("node-0")).await });
    while coordinator.view(&orders).await.unwrap().waiting_count == 0 {
        tokio::task::yield_now().await;
    }
    let address = etcd.members[0].client.addr.to_string();
    let story = async {
        etcd.members[0].kill();
        let unreached = coordinator.leader(&orders).await;
        assert!(
            matches!(&unreached, Err(CoordinatorError::Unavailable(text)) if text.contains(&address)),
            "{unreached:?}"
        );
        assert!(coordinator.view(&orders).await.is_err());
        assert!(coordinator.observe(&orders, None).await.is_err());
        let campaign = coordinator.campaign(&orders, &bid("node-b")).await.err();
        assert!(matches!(campaign, Some(CoordinatorError::Unavailable(_))), "nothing was ever sent: {campaign:?}");
        let renewal = leadership.renew().await;
        assert!(matches!(renewal, Err(CoordinatorError::Unavailable(_))), "{renewal:?}");
        etcd.members[0].start();
        etcd.until_serving();
        leadership.renew().await.unwrap();
        // One that takes requests and answers none.
        etcd.members[0].pause();
        let renewal = leadership.renew().await;
        assert!(matches!(renewal, Err(CoordinatorError::OutcomeUnknown(_))), "{renewal:?}");
        let read = coordinator.leader(&orders).await;
        assert!(matches!(read, Err(CoordinatorError::Unavailable(_))), "a read has no outcome: {read:?}");
        etcd.members[0].go_on();
        etcd.until_serving();
        leadership.renew().await.unwrap();
    };
    tokio::select! { biased;
        () = ended => panic!("nobody has said so"),
        () = story => {}
    }
    leadership.resign().await.unwrap();
    // Far longer than a request is tried, far shorter than a lease.
    timeout(SOON, waits).await.expect("it has waited on through it all").unwrap().unwrap();
}

#[tokio::test]
async fn without_space_nobody_new_stands_and_those_who_do_go_on() {
    let etcd = Etcd::start(&Setup { arguments: &["--quota-backend-bytes=2000000"], ..ONE });
    let coordinator = open(&etcd.address());
    let orders = election("orders");
    let mut first = coordinator.campaign(&orders, &bid("node-a")).await.unwrap();
    let waits = coordinator.clone();
    let next = tokio::spawn(async move {
        // Short enough that it has to be renewed while it waits.
        waits.campaign(&election("orders"), &bid_for("node-b", Duration::from_secs(2))).await
    });
    while coordinator.view(&orders).await.unwrap().waiting_count == 0 {
        tokio::task::yield_now().await;
    }
    let much = "x".repeat(100_000);
    while etcd.ctl(&["put", "something", &much]).output().unwrap().status.success() {
        tokio::task::yield_now().await;
    }
    let refused = coordinator.campaign(&orders, &bid("node-c")).await.err();
    assert!(
        matches!(&refused, Some(CoordinatorError::Unavailable(text)) if text.contains("database space exceeded")),
        "{refused:?}"
    );
    first.renew().await.unwrap();
    assert_eq!(coordinator.leader(&orders).await.unwrap().unwrap().token, first.token());
    let _ = timeout(Duration::from_millis(2500), std::future::pending::<()>()).await;
    assert_eq!(coordinator.view(&orders).await.unwrap().waiting, [bid("node-b").holder]);
    first.resign().await.unwrap();
    let next = timeout(SOON, next).await.expect("it is its turn").unwrap().unwrap();
    next.resign().await.unwrap();
    assert_eq!(coordinator.leader(&orders).await, Ok(None));
}

#[tokio::test]
async fn a_restored_cluster_gives_old_tokens_again_and_the_term_that_it_never_saw_is_over() {
    let mut etcd = Etcd::start(&ONE);
    let coordinator = open(&etcd.address());
    let orders = election("orders");
    let snapshot = etcd.dir().join("snapshot").display().to_string();
    etcd.told(&["snapshot", "save", &snapshot]);
    etcd.told(&["put", "something", "else"]);
    let mut before = coordinator.campaign(&orders, &bid("node-a")).await.unwrap();
    etcd.members[0].restore(&snapshot);
    etcd.until_serving();
    timeout(SOON, before.ended()).await.expect("it is not there any more");
    assert_eq!(before.renew().await, Err(CoordinatorError::Lost));
    let after = coordinator.campaign(&orders, &bid("node-b")).await.unwrap();
    assert!(after.token() < before.token(), "so a fence that has seen the first refuses the second: docs/etcd.md");
    assert_eq!(coordinator.leader(&orders).await.unwrap().unwrap().token, after.token());
}
