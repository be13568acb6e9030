//! The state machine of all elections: who leads, who waits, whose lease runs out when.
//!
//! Pure and synchronous: time is handed in, as a monotonic [`Duration`] since any fixed moment; what must be stored is handed
//! out, as [`Change`]s. It knows nothing of disks, threads or clients.
//!
//! **Invariants**, each upheld in one place:
//! - A token is issued once, rises in its election, and is above the fence's mark: `next_token`.
//! - At most one candidate leads an election: `settle`, the only place that elects, starts from an empty seat.
//! - Candidates lead in order of arrival: they join `queue` at its back and are elected from its front.
//! - A lease that has run out stays so: every operation first ends all that are due, [`Elections::expire`].

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::CandidateId;
use crate::coordinator::{CoordinatorError, Leader, VIEW_WAITING_MAX, View};
use crate::fence::{FenceName, Holder, Token};

/// The mark of the fence of an election's name, below or at which no token may be issued; `None` where it has none. Called on
/// the coordinator's own thread: it must not block on disks or networks, nor panic.
pub type Floor = Arc<dyn Fn(&FenceName) -> Option<Token> + Send + Sync>;

/// How much the coordinator takes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most elections. One that has ever issued a token counts for good, since its last token is kept for good.
    pub elections_max: usize,
    /// The most candidates that wait in one election, the leader not counted.
    pub waiting_max: usize,
    /// The shortest lease.
    pub ttl_min: Duration,
    /// The longest lease.
    pub ttl_max: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            elections_max: 100_000,
            waiting_max: 1_000,
            ttl_min: Duration::from_secs(1),
            ttl_max: Duration::from_secs(3600),
        }
    }
}

/// What must be stored, in this order, before anybody is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A candidate joined the queue.
    Entered(Entrant),
    /// The candidate that was first in the queue leads, with this token.
    Elected {
        /// The election.
        election: FenceName,
        /// Who leads it.
        candidate: CandidateId,
        /// The token of the new term.
        token: Token,
    },
    /// A candidate, leading or waiting, resigned or lapsed.
    Left {
        /// The election.
        election: FenceName,
        /// Who left.
        candidate: CandidateId,
    },
}

impl Change {
    /// The election that it is about.
    pub fn election(&self) -> &FenceName {
        match self {
            Change::Entered(Entrant { election, .. })
            | Change::Elected { election, .. }
            | Change::Left { election, .. } => election,
        }
    }
}

/// One candidate as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrant {
    /// The election it stands in.
    pub election: FenceName,
    /// Its id.
    pub candidate: CandidateId,
    /// Its place in the order of arrival, over all elections.
    pub arrival: u64,
    /// Its own name for itself.
    pub holder: Option<Holder>,
    /// How long its lease lasts from each renewal.
    pub ttl: Duration,
}

/// All that is stored: what [`Elections::restore`] starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stored {
    /// The last token that each election has issued.
    pub last_tokens: Vec<(FenceName, Token)>,
    /// What no election issues a token at or below: set where the store was restored from a backup.
    pub beneath: Option<Token>,
    /// Every candidate in order of arrival, with its token where it leads.
    pub candidates: Vec<(Entrant, Option<Token>)>,
}

/// Where one candidate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub candidate: CandidateId,
    /// The name it entered with.
    pub holder: Option<Holder>,
    /// How long its lease lasts from each renewal.
    pub ttl: Duration,
    /// Whether it leads.
    pub place: Place,
}

/// In front, or behind others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It leads.
    Leading {
        /// With this token.
        token: Token,
    },
    /// It waits for its turn.
    Waiting {
        /// 1 for the candidate that leads next.
        position: usize,
        /// Who leads meanwhile.
        leader: Option<Leader>,
    },
}

/// One election as everybody may see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Who leads, and how much of its lease is left if it isn't renewed.
    pub leader: Option<(Leader, Duration)>,
    /// How many wait, the leader not counted.
    pub waiting: usize,
    /// The names of the first [`VIEW_WAITING_MAX`] of them, in the order in which they will lead.
    pub waiting_holders: Vec<Option<Holder>>,
    /// The last token issued; `None` before the first.
    pub last_token: Option<Token>,
}

#[derive(Debug, Default)]
struct Election {
    last_token: Option<Token>,
    seat: Option<(CandidateId, Token)>,
    queue: VecDeque<CandidateId>,
}

#[derive(Debug)]
struct Candidate {
    election: FenceName,
    holder: Option<Holder>,
    ttl: Duration,
    /// When its lease runs out; `None` while it waits and is attended.
    deadline: Option<Duration>,
    /// How many requests are waiting on its behalf at this moment.
    attendants: usize,
}

/// All elections.
pub struct Elections {
    limits: Limits,
    floor: Floor,
    beneath: Option<Token>,
    now: Duration,
    next_arrival: u64,
    elections: HashMap<FenceName, Election>,
    candidates: HashMap<CandidateId, Candidate>,
    /// Every candidate that has a deadline, by it.
    deadlines: BTreeSet<(Duration, CandidateId)>,
    changes: Vec<Change>,
}

impl Elections {
    /// Starts from what is stored. Every lease gets its full TTL from `now`: renewals are not stored, so a leader may have
    /// renewed right up to the end, and nobody else may lead before that lease has run out by the leader's own clock.
    ///
    /// # Errors
    /// What is stored contradicts itself; the text says how.
    pub fn restore(limits: Limits, floor: Floor, stored: Stored, now: Duration) -> Result<Elections, String> {
        let mut this = Elections {
            limits,
            floor,
            beneath: stored.beneath,
            now,
            next_arrival: 1,
            elections: HashMap::new(),
            candidates: HashMap::new(),
            deadlines: BTreeSet::new(),
            changes: Vec::new(),
        };
        for (name, token) in stored.last_tokens {
            this.elections.insert(name, Election { last_token: Some(token), ..Election::default() });
        }
        for (Entrant { election: name, candidate: id, arrival, holder, ttl }, token) in stored.candidates {
            let election = this.elections.entry(name.clone()).or_default();
            match token {
                None => election.queue.push_back(id),
                Some(_) if election.seat.is_some() => return Err(format!("election {name} has two leaders")),
                Some(_) if token > election.last_token => {
                    return Err(format!("the leader of election {name} has a token above the last one issued"));
                }
                Some(token) => election.seat = Some((id, token)),
            }
            this.candidates.insert(id, Candidate { election: name, holder, ttl, deadline: None, attendants: 0 });
            this.extend(id);
            this.next_arrival = this.next_arrival.max(arrival + 1);
        }
        let names: Vec<FenceName> = this.elections.keys().cloned().collect();
        for name in names {
            // Only an election that had run out of tokens is stored with a queue and no leader, and may still be.
            let _ = this.settle(&name);
        }
        Ok(this)
    }

    /// A new candidate joins the election's queue, and leads at once where nobody does. One that is there already is renewed.
    ///
    /// # Errors
    /// A TTL out of bounds, a full table or queue, and an election that can issue no further token. Then nothing changes.
    /// [`CoordinatorError::Lost`] for a candidate of another election.
    pub fn enter(
        &mut self,
        now: Duration,
        name: &FenceName,
        id: CandidateId,
        holder: Option<Holder>,
        ttl: Duration,
    ) -> Result<Standing, CoordinatorError> {
        self.expire(now);
        if self.stands(id) {
            return self.renew(now, name, id);
        }
        let Limits { elections_max, waiting_max, ttl_min, ttl_max } = self.limits;
        if ttl < ttl_min || ttl > ttl_max {
            return Err(CoordinatorError::Ttl { asked: ttl, min: ttl_min, max: ttl_max });
        }
        match self.elections.get(name) {
            None if self.elections.len() >= elections_max => {
                return Err(CoordinatorError::Full { what: "elections", max: elections_max });
            }
            Some(election) if election.queue.len() >= waiting_max => {
                return Err(CoordinatorError::Full { what: "candidates waiting in this election", max: waiting_max });
            }
            _ => {}
        }
        // Where no token is left, no newcomer can ever win: better to say so now than to let it wait.
        self.next_token(name)?;
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.elections.entry(name.clone()).or_default().queue.push_back(id);
        let candidate =
            Candidate { election: name.clone(), holder: holder.clone(), ttl, deadline: None, attendants: 0 };
        self.candidates.insert(id, candidate);
        self.extend(id);
        self.changes.push(Change::Entered(Entrant { election: name.clone(), candidate: id, arrival, holder, ttl }));
        self.settle(name)?;
        self.standing(name, id)
    }

    /// A candidate shows that it is alive: its lease runs for its full TTL again, whether it leads or waits.
    ///
    /// # Errors
    /// [`CoordinatorError::Lost`] where it is in this election no more, and [`CoordinatorError::TokensExhausted`] where it is
    /// its turn and there is no token for it; it keeps its place.
    pub fn renew(&mut self, now: Duration, name: &FenceName, id: CandidateId) -> Result<Standing, CoordinatorError> {
        self.expire(now);
        self.check(name, id)?;
        self.extend(id);
        self.settle(name)?;
        self.standing(name, id)
    }

    /// A candidate leaves; where it led, the next one leads.
    ///
    /// # Errors
    /// [`CoordinatorError::Lost`] where it is in this election no more.
    pub fn resign(&mut self, now: Duration, name: &FenceName, id: CandidateId) -> Result<(), CoordinatorError> {
        self.expire(now);
        self.check(name, id)?;
        self.remove(id);
        // Where no token is left the seat stays empty, and the next candidate is told so when it asks.
        let _ = self.settle(name);
        Ok(())
    }

    /// From now on a request waits on behalf of this candidate, which so needs no renewal while it waits its turn.
    pub fn attend(&mut self, id: CandidateId) {
        if let Some(candidate) = self.candidates.get_mut(&id) {
            candidate.attendants += 1;
            self.extend(id);
        }
    }

    /// A request that waited on behalf of this candidate ended: its TTL runs from now.
    pub fn unattend(&mut self, now: Duration, id: CandidateId) {
        self.expire(now);
        let Some(candidate) = self.candidates.get_mut(&id) else { return };
        candidate.attendants = candidate.attendants.saturating_sub(1);
        // A leader's lease is its own affair: it has run since the election, with or without anybody attending.
        if !self.leads(id) {
            self.extend(id);
        }
    }

    /// One election as everybody may see it; an unknown one is as an empty one.
    pub fn status(&mut self, now: Duration, name: &FenceName) -> Status {
        self.expire(now);
        let Some(election) = self.elections.get(name) else {
            return Status { leader: None, waiting: 0, waiting_holders: Vec::new(), last_token: None };
        };
        let left =
            |(id, _): (CandidateId, Token)| self.candidates[&id].deadline.unwrap_or_default().saturating_sub(self.now);
        let first = election.queue.iter().take(VIEW_WAITING_MAX);
        Status {
            leader: self.leader(election).zip(election.seat.map(left)),
            waiting: election.queue.len(),
            waiting_holders: first.map(|id| self.candidates[id].holder.clone()).collect(),
            last_token: election.last_token,
        }
    }

    /// One election as people want to see it.
    pub fn view(&mut self, now: Duration, name: &FenceName) -> View {
        let Status { leader, waiting, waiting_holders, .. } = self.status(now, name);
        let (leader, ttl_left) = leader.unzip();
        View { leader, ttl_left, waiting: waiting_holders, waiting_count: waiting }
    }

    /// Who leads and with which token, as of the last operation.
    pub fn seat(&self, name: &FenceName) -> Option<(CandidateId, Token)> {
        self.elections.get(name)?.seat
    }

    /// Who leads an election, as of the last operation.
    pub fn leading(&self, name: &FenceName) -> Option<Leader> {
        self.leader(self.elections.get(name)?)
    }

    /// The names of all elections that somebody leads, as of the last operation.
    pub fn led(&self) -> impl Iterator<Item = &FenceName> {
        self.elections.iter().filter(|(_, election)| election.seat.is_some()).map(|(name, _)| name)
    }

    /// Ends every lease that has run out by `now`, and elects the next candidates. Time never goes back: an earlier `now`
    /// than the last changes nothing.
    pub fn expire(&mut self, now: Duration) {
        self.now = self.now.max(now);
        let mut seats_emptied = Vec::new();
        // All that are due leave before anybody is elected, so that nobody is elected whose own lease is over.
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= self.now
        {
            seats_emptied.extend(self.remove(id));
        }
        for name in seats_emptied {
            // As in resign: with no token left the seat stays empty.
            let _ = self.settle(&name);
        }
    }

    /// When the next lease runs out.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// What isn't stored yet.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Everything in [`Elections::changes`] is stored.
    pub fn stored(&mut self) {
        self.changes.clear();
    }

    /// The token of the next term: above the last one issued, above the fence's mark, and above what a restored store may have
    /// forgotten.
    fn next_token(&self, name: &FenceName) -> Result<Token, CoordinatorError> {
        let last = self.elections.get(name).and_then(|election| election.last_token);
        match last.max((self.floor)(name)).max(self.beneath) {
            None => Ok(Token::MIN),
            Some(highest) => highest.next().ok_or_else(|| CoordinatorError::TokensExhausted(name.clone())),
        }
    }

    /// Elects the first in the queue where the seat is empty.
    fn settle(&mut self, name: &FenceName) -> Result<(), CoordinatorError> {
        let Some(election) = self.elections.get(name) else { return Ok(()) };
        let (None, Some(&id)) = (election.seat, election.queue.front()) else { return Ok(()) };
        let token = self.next_token(name)?;
        let election = self.elections.get_mut(name).expect("it was there three lines above");
        election.queue.pop_front();
        election.seat = Some((id, token));
        election.last_token = Some(token);
        self.changes.push(Change::Elected { election: name.clone(), candidate: id, token });
        self.extend(id);
        Ok(())
    }

    /// Whether this candidate is in any election, as of the last operation.
    pub fn stands(&self, id: CandidateId) -> bool {
        self.candidates.contains_key(&id)
    }

    fn check(&self, name: &FenceName, id: CandidateId) -> Result<(), CoordinatorError> {
        let here = self.candidates.get(&id).is_some_and(|candidate| candidate.election == *name);
        if here { Ok(()) } else { Err(CoordinatorError::Lost) }
    }

    fn leads(&self, id: CandidateId) -> bool {
        self.candidates.get(&id).and_then(|candidate| self.seat(&candidate.election)).is_some_and(|seat| seat.0 == id)
    }

    /// Gives a candidate its full TTL from now, or no deadline at all while it waits and is attended.
    fn extend(&mut self, id: CandidateId) {
        let leads = self.leads(id);
        let Some(candidate) = self.candidates.get_mut(&id) else { return };
        let deadline = (leads || candidate.attendants == 0).then(|| self.now + candidate.ttl);
        let before = std::mem::replace(&mut candidate.deadline, deadline);
        if let Some(before) = before {
            self.deadlines.remove(&(before, id));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
    }

    /// Takes a candidate out. Returns its election where it led, which now has an empty seat.
    fn remove(&mut self, id: CandidateId) -> Option<FenceName> {
        let candidate = self.candidates.remove(&id)?;
        if let Some(deadline) = candidate.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        let name = candidate.election;
        self.changes.push(Change::Left { election: name.clone(), candidate: id });
        let election = self.elections.get_mut(&name)?;
        if election.seat.is_some_and(|seat| seat.0 == id) {
            election.seat = None;
            return Some(name);
        }
        election.queue.retain(|other| *other != id);
        None
    }

    fn leader(&self, election: &Election) -> Option<Leader> {
        let (id, token) = election.seat?;
        Some(Leader { token, holder: self.candidates.get(&id)?.holder.clone() })
    }

    fn standing(&self, name: &FenceName, id: CandidateId) -> Result<Standing, CoordinatorError> {
        let election = self.elections.get(name).ok_or(CoordinatorError::Lost)?;
        let candidate = self.candidates.get(&id).ok_or(CoordinatorError::Lost)?;
        let place = match election.seat {
            Some((leader, token)) if leader == id => Place::Leading { token },
            _ => {
                let ahead = election.queue.iter().position(|other| *other == id).ok_or(CoordinatorError::Lost)?;
                Place::Waiting { position: ahead + 1, leader: self.leader(election) }
            }
        };
        Ok(Standing { candidate: id, holder: candidate.holder.clone(), ttl: candidate.ttl, place })
    }
}

#[cfg(test)]
mod tests;
