//! Who is asked before a token is believed: the coordinators that the configuration names, and the resources that ask them.

use std::sync::Arc;
#[cfg(feature = "etcd")]
use std::time::Duration;

use crate::config::{CoordinatorConfig, ResourceConfig, TrustConfig};
use crate::coordinator::Embedded;
#[cfg(feature = "etcd")]
use crate::coordinator::etcd::{Etcd, OpenError};
use crate::fence::{FenceName, Token};
use crate::resource::Resource;
use crate::resource::issuer::Trust;
use crate::trust::{Desk, Elections, Follower, Known, Limits, Office, Source, Trusted};

use super::ServeError;
use super::guard::ElectionFences;

/// The coordinators that are asked, and the thread that asks them.
pub(super) struct Desks {
    desks: Vec<Place>,
    office: Office,
}

/// Where one coordinator is asked.
struct Place {
    coordinator: CoordinatorConfig,
    /// `None` for the gate's own, which is opened when the resources are: it needs to know their marks.
    source: Option<Arc<dyn Source>>,
    desk: Arc<Desk>,
    known: Arc<Known>,
}

impl Place {
    fn open(coordinator: &CoordinatorConfig, office: &Office) -> Result<Place, ServeError> {
        let (source, limits) = match coordinator {
            CoordinatorConfig::Embedded => (None, Limits::default()),
            #[cfg(feature = "etcd")]
            CoordinatorConfig::Etcd(options) => {
                let failed = |error: OpenError| ServeError::Coordinator {
                    name: coordinator.to_string(),
                    why: error.to_string(),
                };
                let source: Arc<dyn Source> = Arc::new(Etcd::open(options).map_err(failed)?);
                // So that a second member is asked where the first hangs.
                let ask_time = options.timeout * 2 + GRACE;
                (Some(source), Limits { ask_time, wait_time: ask_time + GRACE, ..Limits::default() })
            }
        };
        let desk = Desk::new(&coordinator.to_string(), office.runtime().clone(), limits);
        Ok(Place { coordinator: coordinator.clone(), source, desk, known: Arc::new(Known::default()) })
    }
}

/// What is added to the times that members of a cluster have.
#[cfg(feature = "etcd")]
const GRACE: Duration = Duration::from_millis(500);

/// A resource, and what its configuration says of whom it believes.
pub(super) type Asking = (Arc<dyn Resource>, Option<TrustConfig>);

impl Desks {
    /// One desk for each coordinator that a resource names. `None` where none does: then nothing of all this is there.
    pub(super) fn open(resources: &[ResourceConfig]) -> Result<Option<Desks>, ServeError> {
        let mut named = resources.iter().filter_map(|resource| resource.trust.as_ref()).peekable();
        if named.peek().is_none() {
            return Ok(None);
        }
        let office = Office::open().map_err(|source| ServeError::System { what: "starting a thread", source })?;
        let mut desks: Vec<Place> = Vec::new();
        for TrustConfig { coordinator, .. } in named {
            if desks.iter().all(|place| place.coordinator != *coordinator) {
                desks.push(Place::open(coordinator, &office)?);
            }
        }
        Ok(Some(Desks { desks, office }))
    }

    /// What a resource is given to ask.
    pub(super) fn trust(&self, config: Option<&TrustConfig>) -> Trust {
        let TrustConfig { coordinator, elections } = config?;
        let Place { desk, known, .. } = self.desks.iter().find(|place| place.coordinator == *coordinator)?;
        Some(Arc::new(Trusted { desk: Arc::clone(desk), known: Arc::clone(known), elections: elections.clone() }))
    }

    /// Says who is asked, and begins to follow their elections.
    pub(super) fn start(&self, resources: &[Asking], embedded: &Embedded) {
        for Place { coordinator, source, desk, known } in &self.desks {
            desk.open(source.clone().unwrap_or_else(|| Arc::new(embedded.clone())));
            let led = resources.iter().filter_map(|(resource, trust)| {
                let trust = trust.as_ref().filter(|trust| trust.coordinator == *coordinator)?;
                Some((Arc::clone(resource), trust.elections.clone()))
            });
            let follower = Follower::new(Arc::clone(desk), Arc::clone(known), led.collect());
            let ends = *coordinator == CoordinatorConfig::Embedded;
            drop(self.office.runtime().spawn(follower.run(ends)));
        }
    }
}

/// Which elections of the embedded coordinator resources say are theirs.
struct Led(Vec<(Arc<dyn Resource>, Option<Elections>)>);

impl Led {
    fn new(resources: &[Asking]) -> Led {
        let own =
            |trust: &TrustConfig| (trust.coordinator == CoordinatorConfig::Embedded).then(|| trust.elections.clone());
        Led(resources.iter().map(|(resource, trust)| (Arc::clone(resource), trust.as_ref().and_then(own))).collect())
    }

    /// The fences that an election is for: the one of its name and, where resources say which election is whose, theirs.
    fn fences<'a>(&'a self, election: &'a FenceName) -> impl Iterator<Item = (&'a dyn Resource, FenceName)> {
        self.0.iter().flat_map(move |(resource, elections)| {
            let named = elections.as_ref().and_then(|elections| elections.fence(election));
            let of_its_name = resource.fence(election).map(|_| election.clone());
            [of_its_name, named].into_iter().flatten().map(|fence| (&**resource, fence))
        })
    }
}

/// The fences that an election of the embedded coordinator is for, each with its resource's name.
pub(super) fn fences_of(resources: &[Asking]) -> ElectionFences {
    let led = Led::new(resources);
    Arc::new(move |election| {
        let mut found: Vec<_> =
            led.fences(election).map(|(resource, fence)| (resource.name().to_owned(), fence)).collect();
        found.dedup();
        found
    })
}

/// The highest mark of the fences that an election of the embedded coordinator is for. It issues no token at or below.
pub(super) fn floor(resources: &[Asking]) -> impl Fn(&FenceName) -> Option<Token> + Send + Sync + 'static {
    let led = Led::new(resources);
    move |election| led.fences(election).filter_map(|(resource, fence)| resource.fence(&fence)?.highest).max()
}
