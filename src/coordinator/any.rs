//! The coordinator that an address names, whichever kind it is.

use std::time::Duration;

#[cfg(feature = "etcd")]
use super::etcd::{Etcd, EtcdLeadership, OpenError, Options, OptionsError};
use super::gate::{GateCoordinator, GateLeadership};
use super::{Bid, Coordinator, CoordinatorError, Credentials, Leader, Leadership, View};
use crate::endpoint::{Identity, UrlError};
use crate::fence::{FenceName, Token};

/// One of the coordinators that can be named by an address.
#[derive(Debug, Clone)]
pub enum AnyCoordinator {
    /// A gate's embedded one, at `http://…`.
    Gate(GateCoordinator),
    /// etcd, at `etcd://…` or `etcds://…`.
    #[cfg(feature = "etcd")]
    Etcd(Etcd),
}

/// A term by one of them.
pub enum AnyLeadership {
    /// By a gate's embedded one.
    Gate(GateLeadership),
    /// By etcd.
    #[cfg(feature = "etcd")]
    Etcd(EtcdLeadership),
}

/// Why an address names no coordinator.
#[derive(Debug, thiserror::Error)]
pub enum AnyError {
    /// Neither of the kinds that there are.
    #[error("{0:?} names no coordinator: write etcd://HOST:PORT, or http://HOST:PORT for a gate's embedded one")]
    Scheme(String),
    /// A kind that this program was built without.
    #[error("this program was built without {0}")]
    Without(&'static str),
    /// Not the address of a gate.
    #[error("{0}")]
    Gate(#[from] UrlError),
    /// Not an address of etcd.
    #[cfg(feature = "etcd")]
    #[error("{0}")]
    EtcdAddress(#[from] OptionsError),
    /// What the address names, such as a file with a certificate, can't be had.
    #[cfg(feature = "etcd")]
    #[error("{0}")]
    EtcdOpen(#[from] OpenError),
}

impl AnyCoordinator {
    /// Opens the coordinator at an address: `etcd://…` or `etcds://…`, or a gate's embedded one at `http://…`. Nothing is asked of
    /// it yet.
    ///
    /// # Errors
    /// See [`AnyError`].
    pub fn open(address: &str) -> Result<AnyCoordinator, AnyError> {
        AnyCoordinator::open_as(address, &Identity::default())
    }

    /// The same; `identity` is what a gate is shown that asks who one is.
    ///
    /// # Errors
    /// See [`AnyError`].
    pub fn open_as(address: &str, identity: &Identity) -> Result<AnyCoordinator, AnyError> {
        match address.split_once("://").map(|(scheme, _)| scheme) {
            Some("http" | "https") => Ok(AnyCoordinator::Gate(GateCoordinator::open(address, identity)?)),
            #[cfg(feature = "etcd")]
            Some("etcd" | "etcds") => Ok(AnyCoordinator::Etcd(Etcd::open(&Options::parse(address)?)?)),
            #[cfg(not(feature = "etcd"))]
            Some("etcd" | "etcds") => Err(AnyError::Without("etcd")),
            _ => Err(AnyError::Scheme(address.to_owned())),
        }
    }
}

impl Coordinator for AnyCoordinator {
    type Leadership = AnyLeadership;

    async fn campaign(&self, election: &FenceName, bid: &Bid) -> Result<AnyLeadership, CoordinatorError> {
        match self {
            AnyCoordinator::Gate(gate) => gate.campaign(election, bid).await.map(AnyLeadership::Gate),
            #[cfg(feature = "etcd")]
            AnyCoordinator::Etcd(etcd) => etcd.campaign(election, bid).await.map(AnyLeadership::Etcd),
        }
    }

    async fn leader(&self, election: &FenceName) -> Result<Option<Leader>, CoordinatorError> {
        match self {
            AnyCoordinator::Gate(gate) => gate.leader(election).await,
            #[cfg(feature = "etcd")]
            AnyCoordinator::Etcd(etcd) => etcd.leader(election).await,
        }
    }

    async fn observe(&self, election: &FenceName, after: Option<Token>) -> Result<Leader, CoordinatorError> {
        match self {
            AnyCoordinator::Gate(gate) => gate.observe(election, after).await,
            #[cfg(feature = "etcd")]
            AnyCoordinator::Etcd(etcd) => etcd.observe(election, after).await,
        }
    }

    async fn view(&self, election: &FenceName) -> Result<View, CoordinatorError> {
        match self {
            AnyCoordinator::Gate(gate) => gate.view(election).await,
            #[cfg(feature = "etcd")]
            AnyCoordinator::Etcd(etcd) => etcd.view(election).await,
        }
    }
}

impl Leadership for AnyLeadership {
    fn token(&self) -> Token {
        match self {
            AnyLeadership::Gate(term) => term.token(),
            #[cfg(feature = "etcd")]
            AnyLeadership::Etcd(term) => term.token(),
        }
    }

    async fn renew(&mut self) -> Result<Duration, CoordinatorError> {
        match self {
            AnyLeadership::Gate(term) => term.renew().await,
            #[cfg(feature = "etcd")]
            AnyLeadership::Etcd(term) => term.renew().await,
        }
    }

    fn credentials(&self) -> Credentials {
        match self {
            AnyLeadership::Gate(term) => term.credentials(),
            #[cfg(feature = "etcd")]
            AnyLeadership::Etcd(term) => term.credentials(),
        }
    }

    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        type Ended = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
        let ended: Ended = match self {
            AnyLeadership::Gate(term) => Box::pin(term.ended()),
            #[cfg(feature = "etcd")]
            AnyLeadership::Etcd(term) => Box::pin(term.ended()),
        };
        ended
    }

    async fn resign(self) -> Result<(), CoordinatorError> {
        match self {
            AnyLeadership::Gate(term) => term.resign().await,
            #[cfg(feature = "etcd")]
            AnyLeadership::Etcd(term) => term.resign().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_decides() {
        assert!(matches!(AnyCoordinator::open("http://127.0.0.1:7070"), Ok(AnyCoordinator::Gate(_))));
        for (address, says) in [
            ("127.0.0.1:2379", "write etcd://HOST:PORT"),
            ("zookeeper://127.0.0.1", "write etcd://HOST:PORT"),
            ("https://user@gate.example", "a user or password"),
        ] {
            let error = AnyCoordinator::open(address).unwrap_err().to_string();
            assert!(error.contains(says), "{address}: {error}");
        }
    }
}
