//! Who is asked before a token is believed: the coordinators that the configuration names, and the resources that ask them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{CoordinatorConfig, ResourceConfig, TrustConfig};
use crate::coordinator::Embedded;
use crate::fence::{FenceName, Token};
use crate::resource::Resource;
use crate::resource::issuer::Trust;
use crate::trust::{Desk, Elections, Follower, Known, Limits, Office, Source, Trusted};

use super::ServeError;

/// The coordinators that are asked, and the thread that asks them.
pub(super) struct Desks {
    desks: BTreeMap<CoordinatorConfig, (Arc<Desk>, Arc<Known>)>,
    office: Office,
}

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
        let mut desks = BTreeMap::new();
        for TrustConfig { coordinator, .. } in named {
            let desk = || Desk::new(&coordinator.to_string(), office.runtime().clone(), Limits::default());
            desks.entry(coordinator.clone()).or_insert_with(|| (desk(), Arc::new(Known::default())));
        }
        Ok(Some(Desks { desks, office }))
    }

    /// What a resource is given to ask.
    pub(super) fn trust(&self, config: Option<&TrustConfig>) -> Trust {
        let TrustConfig { coordinator, elections } = config?;
        let (desk, known) = self.desks.get(coordinator)?;
        Some(Arc::new(Trusted { desk: Arc::clone(desk), known: Arc::clone(known), elections: elections.clone() }))
    }

    /// Says who is asked, and begins to follow their elections.
    pub(super) fn start(&self, resources: &[Asking], embedded: &Embedded) {
        for (coordinator, (desk, known)) in &self.desks {
            let source: Arc<dyn Source> = match coordinator {
                CoordinatorConfig::Embedded => Arc::new(embedded.clone()),
            };
            desk.open(source);
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

/// The highest mark of the fences that an election of the embedded coordinator is for: the one of its name and, where resources
/// say which election is whose, theirs. It issues no token at or below.
pub(super) fn floor(resources: &[Asking]) -> impl Fn(&FenceName) -> Option<Token> + Send + Sync + 'static {
    let all: Vec<(Arc<dyn Resource>, Option<Elections>)> = resources
        .iter()
        .map(|(resource, trust)| {
            let own = trust.as_ref().filter(|trust| trust.coordinator == CoordinatorConfig::Embedded);
            (Arc::clone(resource), own.map(|trust| trust.elections.clone()))
        })
        .collect();
    move |election| {
        let marks = all.iter().flat_map(|(resource, elections)| {
            let named = elections.as_ref().and_then(|elections| elections.fence(election));
            let mark = |fence: &FenceName| resource.fence(fence).and_then(|info| info.highest);
            [mark(election), named.as_ref().and_then(mark)]
        });
        marks.flatten().max()
    }
}
