//! The embedded coordinator from outside, over HTTP: the same suite, and what may happen on the way.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use fencegate::coordinator::embedded::Options;
use fencegate::coordinator::embedded::clock::ManualClock;
use fencegate::coordinator::{Coordinator, CoordinatorError, Embedded, GateCoordinator, Leadership, View};
use fencegate::fence::FenceName;
use fencegate::resource::Received;
use fencegate::server::places::Places;
use fencegate::server::respond::Answer;
use fencegate::server::{data, elections, http};
use http_body_util::BodyExt;
use hyper::Request;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::suite::{SOON, conforms, until_waiting};
use super::{Site, TTL, bid, election};

/// A gate's election routes on a port, on a clock that the test moves.
struct Remote {
    coordinator: Embedded,
    client: GateCoordinator,
    clock: Arc<ManualClock>,
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<std::io::Result<()>>,
    dir: tempfile::TempDir,
}

async fn answer(coordinator: Embedded, request: Request<Received>) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let path = data::segments(parts.uri.path().strip_prefix("/-/elections").unwrap()).unwrap();
    Ok(elections::handle(&coordinator, &parts.method, &path, parts.uri.query(), &body, &|_, _| None).await)
}

impl Remote {
    async fn start() -> Remote {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = GateCoordinator::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        Remote::open(tempfile::tempdir().unwrap(), listener, client).await
    }

    async fn open(dir: tempfile::TempDir, listener: TcpListener, client: GateCoordinator) -> Remote {
        let clock = Arc::new(ManualClock::default());
        let options = Options { clock: Arc::clone(&clock) as _, ..Options::new(Arc::new(|_| None)) };
        let coordinator = Embedded::open(dir.path(), options).await.unwrap();
        let addr = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let settings = http::Settings { places: Places::new("data", 1000, 6 * TTL), tls: None };
        let (stop, stopping) = watch::channel(false);
        let serves = coordinator.clone();
        let serve = move |request, _| {
            let coordinator = serves.clone();
            answer(coordinator, request)
        };
        let accepting = tokio::spawn(http::accept(listener, settings, stopping, TTL, serve));
        Remote { coordinator, client, clock, addr, stop, accepting, dir }
    }

    /// Stops it as a gate stops, which tells those who wait, and starts it again at the same address.
    async fn restart(self) -> Remote {
        let Remote { coordinator, client, addr, stop, accepting, dir, .. } = self;
        stop.send_replace(true);
        coordinator.close().await;
        accepting.await.unwrap().unwrap();
        // Without SO_REUSEADDR, which the standard library sets, connections in TIME_WAIT would keep it.
        Remote::open(dir, TcpListener::bind(addr).unwrap(), client).await
    }
}

impl Site for Remote {
    type Coordinator = GateCoordinator;
    const TTL: Duration = Duration::from_secs(10);

    fn coordinator(&self) -> &GateCoordinator {
        &self.client
    }

    async fn pass(&self, time: Duration) {
        self.coordinator.tick().await;
        self.clock.advance(time);
        self.coordinator.tick().await;
    }

    async fn waiting(&self, election: &FenceName) -> usize {
        self.coordinator.status(election).await.unwrap().waiting
    }
}

conforms!(Remote::start());

#[tokio::test]
async fn one_who_waits_keeps_its_place_over_a_restart_of_the_gate() {
    let site = Remote::start().await;
    let orders = election("orders");
    let mut first = site.client.campaign(&orders, &bid("first")).await.unwrap();
    let (client, name) = (site.client.clone(), orders.clone());
    let second = tokio::spawn(async move { client.campaign(&name, &bid("second")).await });
    until_waiting(&site, &orders, 1).await;
    let ended = first.ended();

    let site = site.restart().await;
    let bid_of_third = bid("third");
    let third = site.client.campaign(&orders, &bid_of_third);
    let resigns = async {
        until_waiting(&site, &orders, 2).await;
        let waiting = ["second", "third"].map(|name| bid(name).holder).to_vec();
        let View { leader, ttl_left, waiting: seen, waiting_count } = site.client.view(&orders).await.unwrap();
        assert_eq!((leader.unwrap().token, ttl_left), (first.token(), Some(TTL)));
        assert_eq!((seen, waiting_count), (waiting, 2), "nobody stands twice, and in their order");
        first.renew().await.expect("a restart ends no term");
        first.resign().await.unwrap();
        let second = timeout(SOON, second).await.expect("it leads next").unwrap().unwrap();
        timeout(SOON, ended).await.expect("over the restart");
        second.resign().await.unwrap();
    };
    let (third, ()) = tokio::join!(third, resigns);
    assert_eq!(third.unwrap().token().get(), 3);
}

#[tokio::test]
async fn a_campaign_that_is_given_up_is_gone_before_its_lease_ends() {
    let site = Remote::start().await;
    let orders = election("orders");
    let _first = site.client.campaign(&orders, &bid("first")).await.unwrap();
    let second = bid("second");
    tokio::select! { biased;
        _ = site.client.campaign(&orders, &second) => panic!("two lead at once"),
        () = until_waiting(&site, &orders, 1) => {}
    }
    // No time passes by the gate's clock.
    until_waiting(&site, &orders, 0).await;
}

#[tokio::test]
async fn an_end_without_a_successor_is_told() {
    let site = Remote::start().await;
    let orders = election("orders");
    let first = site.client.campaign(&orders, &bid("first")).await.unwrap();
    let ended = tokio::spawn(first.ended());
    site.pass(TTL).await;
    timeout(SOON, ended).await.expect("it is told").unwrap();
}

#[tokio::test]
async fn out_of_reach_at_the_start_is_said_at_once_and_later_after_a_while() {
    let site = Remote::start().await;
    let orders = election("orders");
    let _leads = site.client.campaign(&orders, &bid("first")).await.unwrap();
    let hasty = GateCoordinator::new(&format!("http://{}", site.addr)).unwrap().with_patience(Duration::ZERO);
    let name = orders.clone();
    let waits = tokio::spawn(async move { hasty.campaign(&name, &bid("second")).await });
    until_waiting(&site, &orders, 1).await;
    site.stop.send_replace(true);
    site.coordinator.close().await;
    site.accepting.await.unwrap().unwrap();
    let outcome = timeout(SOON, waits).await.expect("it gives up").unwrap();
    assert!(matches!(outcome, Err(CoordinatorError::Unavailable(_))), "{:?}", outcome.map(|term| term.token()));
    // With all the patience there is by default.
    let outcome = timeout(SOON, site.client.campaign(&orders, &bid("third"))).await.expect("at once");
    assert!(matches!(outcome, Err(CoordinatorError::Unavailable(_))), "{:?}", outcome.map(|term| term.token()));
}

#[tokio::test]
async fn a_lease_out_of_bounds_is_refused_here() {
    let site = Remote::start().await;
    for ttl in [Duration::from_millis(999), Duration::from_millis(3_600_001)] {
        let bid = fencegate::coordinator::Bid { holder: None, ttl };
        let outcome = site.client.campaign(&election("orders"), &bid).await;
        assert!(matches!(outcome, Err(CoordinatorError::Ttl { .. })));
    }
}
