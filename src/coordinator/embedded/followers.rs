//! Those who hear of every new leader. What isn't stored is told to nobody: all of this is called after a commit.

use std::collections::{HashMap, HashSet};

use tokio::sync::mpsc::UnboundedSender;

use super::elections::Elections;
use crate::coordinator::{Followed, Told};
use crate::fence::{FenceName, Token};

struct Follower {
    followed: Followed,
    tell: UnboundedSender<Told>,
    /// The leader of each election that it was told of: that somebody joins the queue is nothing to tell.
    last: HashMap<FenceName, Token>,
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
    fn tell(&mut self, elections: &Elections, election: &FenceName) -> bool {
        if !self.followed.has(election) {
            return !self.tell.is_closed();
        }
        let leader = elections.leading(election);
        let token = leader.as_ref().map(|leader| leader.token);
        let before = match token {
            Some(token) => self.last.insert(election.clone(), token),
            None => self.last.remove(election),
        };
        before == token || self.tell.send(Told { election: election.clone(), leader }).is_ok()
    }
}

impl Followers {
    /// Adds one. It hears of the present leaders when all that has changed is stored.
    pub(super) fn add(&mut self, followed: Followed, tell: UnboundedSender<Told>) {
        self.new.push(Follower { followed, tell, last: HashMap::new() });
    }

    /// Tells of elections that have changed, and forgets who doesn't listen any more.
    pub(super) fn tell(&mut self, elections: &Elections, changed: &HashSet<FenceName>) {
        self.told.retain_mut(|follower| changed.iter().all(|election| follower.tell(elections, election)));
    }

    /// Tells those who are new who leads.
    pub(super) fn welcome(&mut self, elections: &Elections) {
        for mut follower in self.new.drain(..) {
            if elections.led().all(|election| follower.tell(elections, election)) {
                self.told.push(follower);
            }
        }
    }
}
