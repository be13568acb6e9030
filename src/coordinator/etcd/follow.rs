//! Hearing of every new leader of many elections: who stands in them is read once, and then kept up to date by a watch from
//! that revision on.
//!
//! What a watch leaves out would be missed, so a watch that breaks, is cancelled, or says nothing for too long ends the whole, and
//! whoever follows reads all anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error, EventType, GetOptions, KeyValue, WatchOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Etcd;
use super::failure::Failure;
use super::members::Members;
use super::seats::{self, Seats};
use crate::coordinator::{CoordinatorError, Follow, Followed, Leader, Told};
use crate::fence::{FenceName, Holder};

/// How many keys are read at once.
const PAGE: i64 = 1_000;
/// After how long a silent watch is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(2);
/// How many times it is asked.
const ASKED_MAX: u32 = 2;

/// The elections below one key prefix, and who stands in them.
struct Place {
    /// What comes before an election's name in each key.
    before: Arc<str>,
    /// What all its keys begin with.
    prefix: Vec<u8>,
    followed: Arc<Followed>,
    /// By the create revision of their keys: the first one leads.
    candidates: HashMap<FenceName, BTreeMap<i64, Candidate>>,
    /// As of which revision.
    revision: i64,
}

struct Candidate {
    key: Vec<u8>,
    holder: Option<Holder>,
}

impl Follow for Etcd {
    async fn follow(&self, followed: &Followed) -> Result<UnboundedReceiver<Told>, CoordinatorError> {
        let shared = Arc::new(followed.clone());
        let place = |prefix: Vec<u8>| {
            let (before, followed) = (Arc::clone(&self.prefix), Arc::clone(&shared));
            Place { before, prefix, followed, candidates: HashMap::new(), revision: 0 }
        };
        let names = followed.names.iter().map(|name| Seats::new(&self.prefix, name).prefix().to_vec());
        let prefixes = followed.prefixes.iter().map(|prefix| format!("{}{prefix}", self.prefix).into_bytes());
        let (tell, told) = unbounded_channel();
        let mut places = Vec::new();
        for mut place in names.chain(prefixes).map(place) {
            let (prefix, tries) = (&place.prefix, self.members.tries());
            let look = |mut client: Client| async move { list(&mut client, prefix).await };
            let (found, revision) = self.members.ask(tries, look).await.map_err(Failure::reading)?;
            place.revision = revision;
            found.iter().for_each(|kv| place.put(kv));
            for election in place.candidates.keys() {
                let _ = tell.send(Told { election: election.clone(), leader: place.leader(election) });
            }
            places.push(place);
        }
        tokio::spawn(watch_all(Arc::clone(&self.members), places, tell));
        Ok(told)
    }
}

/// The keys that begin with this, as of one revision, which is told with them.
async fn list(client: &mut Client, prefix: &[u8]) -> Result<(Vec<KeyValue>, i64), Error> {
    let end = after(prefix);
    // An empty key is none: the first that there can be is a zero byte.
    let mut from = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
    let (mut found, mut revision) = (Vec::new(), 0);
    loop {
        let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
        let mut answer = client.get(from, Some(options)).await?;
        if revision == 0 {
            revision = seats::header(answer.header())?.0;
        }
        let is_last = !answer.more();
        let page = answer.take_kvs();
        let Some(last) = page.last() else { return Ok((found, revision)) };
        from = last.key().to_vec();
        from.push(0);
        found.extend(page);
        if is_last {
            return Ok((found, revision));
        }
    }
}

/// The first key behind all that begin with this; a zero byte is etcd's word for the end of all.
fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    vec![0]
}

/// Watches all of them until one of the watches ends, or nobody listens any more.
async fn watch_all(members: Arc<Members>, places: Vec<Place>, tell: UnboundedSender<Told>) {
    let mut watches = JoinSet::new();
    for place in places {
        watches.spawn(watch(Arc::clone(&members), place, tell.clone()));
    }
    // With the first that ends, all end: what it has missed would be missed for good.
    tokio::select! {
        _ = watches.join_next() => {}
        () = tell.closed() => {}
    }
}

async fn watch(members: Arc<Members>, mut place: Place, tell: UnboundedSender<Told>) {
    let (used, client) = match members.used().await {
        Ok(used) => used,
        Err(error) => return tracing::debug!(%error, "elections can't be watched"),
    };
    if let Err(error) = place.watch(client, members.tries().each, &tell).await {
        tracing::debug!(%error, "a watch of elections broke; looking again");
        members.failed(used).await;
    }
}

impl Place {
    /// Watches until the watch is cancelled or nobody listens any more.
    async fn watch(&mut self, mut client: Client, each: Duration, tell: &UnboundedSender<Told>) -> Result<(), Error> {
        let late = |_| Error::WatchError("no answer in time".to_owned());
        let from = WatchOptions::new().with_range(after(&self.prefix)).with_start_revision(self.revision + 1);
        let first = if self.prefix.is_empty() { vec![0] } else { self.prefix.clone() };
        let mut stream = timeout(each, client.watch(first, Some(from))).await.map_err(late)??;
        let mut asked = 0;
        loop {
            let Ok(message) = timeout(SILENCE, stream.message()).await else {
                asked += 1;
                if asked > ASKED_MAX {
                    return Err(Error::WatchError("it says nothing any more".to_owned()));
                }
                timeout(each, stream.request_progress()).await.map_err(late)??;
                continue;
            };
            asked = 0;
            let Some(change) = message? else { return Err(Error::WatchError("the watch has ended".to_owned())) };
            if change.canceled() {
                // Its history was compacted away, for example: the member is as good as any.
                return Ok(());
            }
            let mut before: HashMap<FenceName, Option<Leader>> = HashMap::new();
            for (event, kv) in change.events().iter().filter_map(|event| Some((event.event_type(), event.kv()?))) {
                let Some(election) = self.election(kv.key()) else { continue };
                before.entry(election.clone()).or_insert_with(|| self.leader(&election));
                match event {
                    EventType::Put => self.put(kv),
                    EventType::Delete => self.delete(&election, kv.key()),
                }
            }
            for (election, before) in before {
                let leader = self.leader(&election);
                if leader != before && tell.send(Told { election, leader }).is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// The election that a key is a candidate's of, where that is one of those that are followed.
    fn election(&self, key: &[u8]) -> Option<FenceName> {
        let key = std::str::from_utf8(key).ok()?.strip_prefix(&*self.before)?;
        let (election, lease) = key.rsplit_once('/')?;
        if lease.is_empty() || !self.followed.has(election) {
            return None;
        }
        election.parse().ok()
    }

    fn put(&mut self, kv: &KeyValue) {
        let Some(election) = self.election(kv.key()) else { return };
        let candidate = Candidate { key: kv.key().to_vec(), holder: seats::holder(kv) };
        self.candidates.entry(election).or_default().insert(kv.create_revision(), candidate);
    }

    fn delete(&mut self, election: &FenceName, key: &[u8]) {
        let Some(candidates) = self.candidates.get_mut(election) else { return };
        candidates.retain(|_, candidate| candidate.key != key);
        if candidates.is_empty() {
            self.candidates.remove(election);
        }
    }

    fn leader(&self, election: &FenceName) -> Option<Leader> {
        let (revision, candidate) = self.candidates.get(election)?.first_key_value()?;
        Some(Leader { token: seats::token(*revision).ok()?, holder: candidate.holder.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_range() {
        assert_eq!(after(b"stock/"), b"stock0");
        assert_eq!(after(&[b'a', 255]), b"b");
        assert_eq!(after(&[255, 255]), [0]);
        assert_eq!(after(b""), [0]);
    }

    #[test]
    fn whose_candidate_a_key_is() {
        let followed = Followed { names: vec!["app".parse().unwrap()], prefixes: vec!["stock/".to_owned()] };
        let place = Place {
            before: "prod/".into(),
            prefix: Vec::new(),
            followed: Arc::new(followed),
            candidates: HashMap::new(),
            revision: 0,
        };
        for (key, election) in [
            ("prod/app/a1", Some("app")),
            ("prod/stock/7/a1", Some("stock/7")),
            ("prod/stock/7//a1", Some("stock/7/")),
            ("prod/stock/a1", None),
            ("prod/app/", None),
            ("prod/app", None),
            ("prod/other/a1", None),
            ("app/a1", None),
            ("prod/stock/a b/a1", None),
        ] {
            assert_eq!(place.election(key.as_bytes()).as_deref(), election, "{key}");
        }
    }
}
