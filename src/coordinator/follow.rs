//! Hearing of every new leader of many elections at once.

use tokio::sync::mpsc::UnboundedReceiver;

use super::{Coordinator, CoordinatorError, Leader};
use crate::fence::FenceName;

/// The elections that somebody wants to hear of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Followed {
    /// These.
    pub names: Vec<FenceName>,
    /// All whose names begin with one of these.
    pub prefixes: Vec<String>,
}

impl Followed {
    /// Whether this election is one of them.
    pub fn has(&self, election: &str) -> bool {
        self.names.iter().any(|name| name.as_str() == election)
            || self.prefixes.iter().any(|prefix| election.starts_with(prefix.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.prefixes.is_empty()
    }
}

/// Who leads an election from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The election.
    pub election: FenceName,
    /// Its leader; `None`: nobody leads it any more.
    pub leader: Option<Leader>,
}

/// A coordinator that tells of new leaders by itself.
pub trait Follow: Coordinator {
    /// Tells of the leader of each of these elections that has one, and then of each change, in order and as soon as it is
    /// known: of each at least the last, where several follow each other at once. It ends where the coordinator is out of
    /// reach or has stopped; follow anew then, and all is told again. Dropping the receiver ends it, too.
    ///
    /// It is no promise that what is told is still so.
    ///
    /// # Errors
    /// A coordinator out of reach.
    fn follow(
        &self,
        followed: &Followed,
    ) -> impl Future<Output = Result<UnboundedReceiver<Told>, CoordinatorError>> + Send;
}
