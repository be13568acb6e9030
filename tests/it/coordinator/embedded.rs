//! The embedded coordinator: the suite, and what it promises over restarts and kills.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fencegate::coordinator::embedded::clock::ManualClock;
use fencegate::coordinator::embedded::{Entry, OpenError, Options, Place};
use fencegate::coordinator::{Coordinator, CoordinatorError, Embedded, Leadership};
use fencegate::fence::{FenceName, Token};

use tokio::time::timeout;

use super::suite::{cases, conforms};
use super::{Site, TTL, bid, election};

/// A coordinator on a clock that the test moves.
struct Local {
    coordinator: Embedded,
    clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
}

impl Local {
    async fn start() -> Local {
        Local::open(tempfile::tempdir().unwrap()).await
    }

    async fn open(dir: tempfile::TempDir) -> Local {
        let clock = Arc::new(ManualClock::default());
        let options = Options { clock: Arc::clone(&clock) as _, ..Options::new(Arc::new(|_| None)) };
        Local { coordinator: Embedded::open(dir.path(), options).await.unwrap(), clock, dir }
    }

    async fn restart(self) -> Local {
        self.coordinator.close().await;
        Local::open(self.dir).await
    }
}

impl Site for Local {
    type Coordinator = Embedded;
    const TTL: Duration = Duration::from_secs(10);

    fn coordinator(&self) -> &Embedded {
        &self.coordinator
    }

    async fn pass(&self, time: Duration) {
        // What was given up before this moment counts as of before it.
        self.coordinator.tick().await;
        self.clock.advance(time);
        self.coordinator.tick().await;
    }

    async fn waiting(&self, election: &FenceName) -> usize {
        self.coordinator.status(election).await.unwrap().waiting
    }
}

conforms!(Local::start());
cases!(each Local::start(), follows);

#[tokio::test]
async fn a_leader_leads_on_over_a_restart_and_nobody_else_before_its_lease_is_over() {
    let site = Local::start().await;
    let orders = election("orders");
    let enter =
        async |site: &Local| site.coordinator.enter(&orders, Entry::New(bid("node-a")), Duration::ZERO).await.unwrap();
    let (leads, next, last) = (enter(&site).await, enter(&site).await, enter(&site).await);

    let site = site.restart().await;
    site.pass(TTL - Duration::from_millis(1)).await;
    let renewed = site.coordinator.renew(&orders, leads.candidate).await.unwrap();
    assert_eq!(renewed, leads, "the same candidate, token and lease");
    assert_eq!(site.coordinator.renew(&orders, next.candidate).await, Ok(next.clone()));
    site.pass(Duration::from_millis(1)).await;
    assert_eq!(
        site.coordinator.renew(&orders, last.candidate).await,
        Err(CoordinatorError::Lost),
        "it didn't come back"
    );

    let site = site.restart().await;
    site.coordinator.renew(&orders, next.candidate).await.unwrap();
    site.pass(TTL / 2).await;
    site.coordinator.renew(&orders, next.candidate).await.unwrap();
    site.pass(TTL / 2).await;
    let elected = site.coordinator.renew(&orders, next.candidate).await.unwrap();
    assert_eq!(elected.place, Place::Leading { token: Token::new(2).unwrap() });
    assert_eq!(site.coordinator.renew(&orders, leads.candidate).await, Err(CoordinatorError::Lost));
}

#[tokio::test]
async fn a_second_gate_on_the_same_directory_is_refused() {
    let site = Local::start().await;
    let second = Embedded::open(site.dir.path(), Options::new(Arc::new(|_| None))).await;
    assert!(matches!(second.err(), Some(OpenError::InUse { .. })));
}

#[tokio::test]
async fn by_the_real_clock_a_lease_ends_without_being_asked() {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Embedded::open(dir.path(), Options::new(Arc::new(|_| None))).await.unwrap();
    let orders = election("orders");
    let bid = |ttl| fencegate::coordinator::Bid { holder: None, ttl };
    let first = coordinator.campaign(&orders, &bid(Duration::from_secs(1))).await.unwrap();
    // The second lease is long: it must not end, too, before this thread has its turn to hear of it.
    let campaign = timeout(6 * TTL, async { coordinator.campaign(&orders, &bid(6 * TTL)).await });
    let second = campaign.await.expect("the first lease ends").unwrap();
    assert!(second.token() > first.token());
}

/// Where the process that is to be killed works. Unset in every other process of this test binary.
const VICTIM_DIR: &str = "FENCEGATE_TEST_VICTIM_DIR";

/// Not a test of its own: what [`no_token_comes_twice_whenever_the_gate_is_killed`] starts, reads and kills.
#[tokio::test]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM_DIR) else { return };
    let coordinator = Embedded::open(Path::new(&dir), Options::new(Arc::new(|_| None))).await.unwrap();
    loop {
        let leadership = coordinator.campaign(&election("orders"), &bid("victim")).await.unwrap();
        println!("\ntoken {}", leadership.token());
        leadership.resign().await.unwrap();
    }
}

#[tokio::test]
async fn no_token_comes_twice_whenever_the_gate_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = 0_u64;
    for round in 0..8 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "coordinator::embedded::victim", "--nocapture"])
            .env(VICTIM_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        // A leader that was killed comes back after the restart for the rest of its lease: it must be let go first.
        let mut told = 0;
        for line in lines {
            let line = line.unwrap();
            let Some(token) = line.strip_prefix("token ") else { continue };
            let token: u64 = token.parse().unwrap();
            assert!(token > last, "round {round}: {token} after {last}");
            last = token;
            told += 1;
            if told == 3 + round {
                victim.kill().unwrap();
            }
        }
        assert!(told >= 3 + round, "it was killed, it didn't end by itself");
        victim.wait().unwrap();
        let stored = let_go(dir.path()).await;
        assert!(stored >= last, "round {round}: {last} was told, {stored} is stored");
        last = stored;
    }
}

/// Ends the term that a killed gate may have left behind, and says what token has been issued last.
async fn let_go(dir: &Path) -> u64 {
    let clock = Arc::new(ManualClock::default());
    let options = Options { clock: Arc::clone(&clock) as _, ..Options::new(Arc::new(|_| None)) };
    let coordinator = Embedded::open(dir, options).await.unwrap();
    clock.advance(TTL);
    coordinator.tick().await;
    let status = coordinator.status(&election("orders")).await.unwrap();
    assert_eq!(status.leader, None);
    coordinator.close().await;
    status.last_token.unwrap().get()
}
