//! Those who hear of every new leader. What isn't stored is told to nobody: all of this is called after a commit.

use std::collections::HashSet;

use tokio::sync::mpsc::UnboundedSender;

use super::elections::Elections;
use crate::coordinator::{Followed, Told};
use crate::fence::FenceName;

struct Follower {
    followed: Followed,
    tell: UnboundedSender<Told>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Followers {
    told: Vec<Follower>,
    /// Those who weren't told yet who leads at present.
    new: Vec<Follower>,
}

impl Follower {
    /// False where nobody listens any more.
    fn tell(&self, elections: &Elections, election: &FenceName) -> bool {
        let told = || Told { election: election.clone(), leader: elections.leading(election) };
        if self.followed.has(election) { self.tell.send(told()).is_ok() } else { !self.tell.is_closed() }
    }
}

impl Followers {
    /// Adds one. It hears of the present leaders when all that has changed is stored.
    pub(super) fn add(&mut self, followed: Followed, tell: UnboundedSender<Told>) {
        self.new.push(Follower { followed, tell });
    }

    /// Tells of elections that have changed, and forgets who doesn't listen any more.
    pub(super) fn tell(&mut self, elections: &Elections, changed: &HashSet<FenceName>) {
        self.told.retain(|follower| changed.iter().all(|election| follower.tell(elections, election)));
    }

    /// Tells those who are new who leads.
    pub(super) fn welcome(&mut self, elections: &Elections) {
        for follower in self.new.drain(..) {
            if elections.led().all(|election| follower.tell(elections, election)) {
                self.told.push(follower);
            }
        }
    }
}
