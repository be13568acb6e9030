//! etcd as the coordinator: the suite on a real one, and what only etcd can do to its clients.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::Client;
use fencegate::coordinator::Coordinator as _;
use fencegate::coordinator::etcd::{Etcd, Options};
use fencegate::fence::FenceName;
use tokio::time::timeout;

use super::Site;
use super::suite::{cases, conforms};
use crate::upstream::etcd;

mod access;
mod cluster;
mod ends;
mod outages;
mod partition;
mod recipe;

/// The etcd that tests share, with a prefix for one test's keys.
struct Shared {
    etcd: Arc<etcd::Etcd>,
    prefix: String,
    coordinator: Etcd,
    /// Past the adapter.
    client: Client,
}

/// A coordinator at this address.
fn open(address: &str) -> Etcd {
    Etcd::open(&Options::parse(address).unwrap()).unwrap()
}

impl Shared {
    async fn start() -> Shared {
        static PREFIXES: AtomicUsize = AtomicUsize::new(0);
        let etcd = etcd::Etcd::shared();
        let prefix = format!("test-{}/", PREFIXES.fetch_add(1, Ordering::Relaxed));
        let coordinator = open(&format!("{}/{prefix}", etcd.address()));
        let client = Client::connect([etcd.url()], None).await.unwrap();
        Shared { etcd, prefix, coordinator, client }
    }

    /// How much is left of a lease, in seconds rounded down; `None` where it is over.
    async fn left(&self, lease: i64) -> Option<i64> {
        let left = self.client.clone().lease_time_to_live(lease, None).await.unwrap().ttl();
        (left >= 0).then_some(left)
    }
}

impl Site for Shared {
    type Coordinator = Etcd;
    const TTL: Duration = Duration::from_secs(2);

    fn coordinator(&self) -> &Etcd {
        &self.coordinator
    }

    async fn pass(&self, time: Duration) {
        if time < Self::TTL {
            let _ = timeout(time, pending::<()>()).await;
            return;
        }
        // Those that were granted or renewed by now run out no later than one that is granted now; etcd notices twice a second.
        let mut client = self.client.clone();
        let known: Vec<i64> = client.leases().await.unwrap().leases().iter().map(|lease| lease.id()).collect();
        let mark = client.lease_grant(i64::try_from(time.as_secs()).unwrap(), None).await.unwrap();
        assert_eq!(mark.ttl(), 2, "or the suite would take longer than it should");
        while self.left(mark.id()).await.is_some() {
            let _ = timeout(Duration::from_millis(20), pending::<()>()).await;
        }
        for lease in known {
            while self.left(lease).await == Some(0) {
                let _ = timeout(Duration::from_millis(20), pending::<()>()).await;
            }
        }
    }

    async fn waiting(&self, election: &FenceName) -> usize {
        self.coordinator.view(election).await.unwrap().waiting_count
    }
}

conforms!(Shared::start(), in one);
cases!(each Shared::start(), follows);
