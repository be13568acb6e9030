//! One election as it lies in etcd: which keys, and who is first.
//!
//! The layout is that of etcd's own elections, so that `etcdctl elect` and Go's `concurrency.Election` take part
//! (`client/v3/concurrency/election.go` and `key.go` of etcd 3.5; `clientv3/concurrency/` in 3.4; the server's own `v3election`
//! is built on the same):
//!
//! - a candidate is the key `<election>/<lease id in lower-case hex>`, put with its lease, its value the candidate's name
//! - it is put only where it doesn't exist (create revision 0), so that its create revision is the moment of its candidacy
//! - the leader is the candidate with the lowest create revision, and each other waits for the one just before it to go
//!
//! **Where this differs.** etcd's recipe takes every key below `<election>/` for a candidate, and so those of an election
//! `<election>/<more>` too. Here a candidate's key has no further slash behind the election's name: `stock` and `stock/7` are
//! two elections. A candidate of the recipe's own in `stock` still waits for those in `stock/7`: longer than need be, never
//! shorter, so there is no second leader from it.

use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, KeyValue, PutOptions, ResponseHeader, SortOrder, SortTarget, Txn,
    TxnOp, TxnOpResponse, TxnResponse,
};

use crate::coordinator::{Leader, VIEW_WAITING_MAX, View};
use crate::fence::{FenceName, Holder, Token};

/// How many keys are asked for, one step after the other, until a candidate is among them: those of elections whose names begin
/// with this one's may lie before it. 0 is all.
const STEPS: [i64; 4] = [1, 128, 4096, 0];

/// The keys of one election.
#[derive(Debug, Clone)]
pub(super) struct Seats {
    /// What all its candidates' keys begin with.
    prefix: String,
}

/// Which member answered, and in which term of the cluster's own leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    member: u64,
    raft_term: u64,
}

/// One candidate's view of its election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whether its key is still there, and still the one that it put.
    pub(super) is_here: bool,
    /// The key of the candidate just before it.
    pub(super) ahead: Option<Vec<u8>>,
    /// As of when that one was ahead.
    pub(super) revision: i64,
    pub(super) origin: Origin,
}

/// Who is first.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    pub(super) key: Vec<u8>,
    pub(super) leader: Leader,
}

impl Seats {
    pub(super) fn new(prefix: &str, election: &FenceName) -> Seats {
        Seats { prefix: format!("{prefix}{election}/") }
    }

    /// What all its candidates' keys begin with.
    pub(super) fn prefix(&self) -> &[u8] {
        self.prefix.as_bytes()
    }

    /// The key of the candidate with this lease.
    pub(super) fn key(&self, lease: i64) -> String {
        // As Go's %x: a negative one would have its sign. etcd itself gives positive ones only.
        let sign = if lease < 0 { "-" } else { "" };
        format!("{}{sign}{:x}", self.prefix, lease.unsigned_abs())
    }

    /// Whether this key is a candidate's of this election.
    pub(super) fn is_candidate(&self, key: &[u8]) -> bool {
        key.strip_prefix(self.prefix()).is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'/'))
    }

    /// Stands with this lease, unless it does already. The answer is the create revision of its key: **the token**, if and when
    /// it leads.
    pub(super) async fn stand(&self, client: &mut Client, lease: i64, holder: &str) -> Result<i64, Error> {
        let key = self.key(lease);
        let put = TxnOp::put(key.clone(), holder, Some(PutOptions::new().with_lease(lease)));
        let get = TxnOp::get(key.clone(), Some(GetOptions::new().with_keys_only()));
        let txn = Txn::new()
            .when([Compare::create_revision(key, CompareOp::Equal, 0)])
            .and_then([put, get.clone()])
            .or_else([get]);
        let answer = client.txn(txn).await?;
        let found = ranges(&answer).into_iter().flatten().next();
        found.map(|kv| kv.create_revision()).ok_or_else(|| odd("no key after it was put"))
    }

    /// Gives the seat up, or the place in the queue. The answer is whether it was there to give up.
    pub(super) async fn leave(&self, client: &mut Client, lease: i64, revision: i64) -> Result<bool, Error> {
        let key = self.key(lease);
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, revision)])
            .and_then([TxnOp::delete(key, None)]);
        Ok(client.txn(txn).await?.succeeded())
    }

    /// Where the candidate with this lease stands, whose key was created at `revision`.
    ///
    /// Two linearizable looks, in this order: once nobody is ahead nobody ever will be, since create revisions rise; so where its
    /// own key is there afterwards, it leads at that moment. (One transaction would do the same, but etcd refuses
    /// transactions that only read, too, when it has no space left: `quotaKVServer` in `api/v3rpc/quota.go`.)
    pub(super) async fn standing(&self, client: &mut Client, lease: i64, revision: i64) -> Result<Standing, Error> {
        let before = GetOptions::new()
            .with_prefix()
            .with_keys_only()
            .with_sort(SortTarget::Create, SortOrder::Descend)
            .with_max_create_revision(revision - 1);
        let (ahead, now) = self.first(client, before).await?;
        let (is_here, _, origin) = self.is_here(client, lease, revision).await?;
        Ok(Standing { is_here, ahead: ahead.map(|kv| kv.key().to_owned()), revision: now, origin })
    }

    /// The first candidate among what these options say, and as of which revision.
    async fn first(&self, client: &mut Client, options: GetOptions) -> Result<(Option<KeyValue>, i64), Error> {
        for limit in STEPS {
            let mut answer = client.get(self.prefix(), Some(options.clone().with_limit(limit))).await?;
            let (now, _) = header(answer.header())?;
            let is_all = !answer.more();
            let found = answer.take_kvs().into_iter().find(|kv| self.is_candidate(kv.key()));
            if found.is_some() || is_all {
                return Ok((found, now));
            }
        }
        Err(odd("more keys than all"))
    }

    /// Whether the key is there that the candidate with this lease created at `revision`, as of which revision, and who said so.
    pub(super) async fn is_here(
        &self,
        client: &mut Client,
        lease: i64,
        revision: i64,
    ) -> Result<(bool, i64, Origin), Error> {
        let answer = client.get(self.key(lease), Some(GetOptions::new().with_keys_only())).await?;
        let (now, origin) = header(answer.header())?;
        Ok((answer.kvs().iter().any(|kv| kv.create_revision() == revision), now, origin))
    }

    /// Who leads, and as of which revision.
    pub(super) async fn seat(&self, client: &mut Client) -> Result<(Option<Seat>, i64), Error> {
        let (first, now) = self.first(client, in_order()).await?;
        let seat = first.map(|kv| Ok::<_, Error>(Seat { leader: leader(&kv)?, key: kv.key().to_owned() }));
        Ok((seat.transpose()?, now))
    }

    /// The election for people. Keys and names are of one revision.
    pub(super) async fn view(&self, client: &mut Client) -> Result<View, Error> {
        let answer = client.get(self.prefix(), Some(in_order().with_keys_only())).await?;
        let (now, _) = header(answer.header())?;
        let count = answer.kvs().iter().filter(|kv| self.is_candidate(kv.key())).count();
        let mut named = self.candidates(client, count.min(1 + VIEW_WAITING_MAX), now).await?.into_iter();
        let Some(first) = named.next() else { return Ok(View::default()) };
        let ttl_left = match first.lease() {
            // A key of somebody's that was put without a lease leads until it is deleted.
            0 => None,
            // Whoever may not ask, or asks too late, doesn't learn it.
            lease => client.lease_time_to_live(lease, None).await.ok().and_then(|lease| seconds(lease.ttl())),
        };
        Ok(View {
            leader: Some(leader(&first)?),
            ttl_left,
            waiting: named.map(|kv| holder(&kv)).collect(),
            waiting_count: count - 1,
        })
    }

    /// So many candidates, from the first on, as of this revision; there are that many.
    async fn candidates(&self, client: &mut Client, count: usize, revision: i64) -> Result<Vec<KeyValue>, Error> {
        if count == 0 {
            return Ok(Vec::new());
        }
        for limit in STEPS {
            let options = in_order().with_revision(revision).with_limit(limit);
            let mut answer = client.get(self.prefix(), Some(options)).await?;
            let found: Vec<KeyValue> =
                answer.take_kvs().into_iter().filter(|kv| self.is_candidate(kv.key())).take(count).collect();
            if found.len() == count {
                return Ok(found);
            }
        }
        Err(odd("fewer keys than a moment ago, at the same revision"))
    }
}

/// All keys below a prefix in the order in which they were created.
fn in_order() -> GetOptions {
    GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend)
}

/// A number of seconds as etcd gives it; it has -1 for a lease that is over.
pub(super) fn seconds(number: i64) -> Option<std::time::Duration> {
    u64::try_from(number).ok().map(std::time::Duration::from_secs)
}

/// The token that a key's create revision is.
pub(super) fn token(revision: i64) -> Result<Token, Error> {
    u64::try_from(revision)
        .ok()
        .and_then(|number| Token::new(number).ok())
        .ok_or_else(|| odd("a create revision below 1"))
}

fn leader(kv: &KeyValue) -> Result<Leader, Error> {
    Ok(Leader { token: token(kv.create_revision())?, holder: holder(kv) })
}

/// Other clients may stand with any bytes as their value: what is no name is none.
pub(super) fn holder(kv: &KeyValue) -> Option<Holder> {
    kv.value_str().ok()?.parse().ok()
}

pub(super) fn header(header: Option<&ResponseHeader>) -> Result<(i64, Origin), Error> {
    let header = header.ok_or_else(|| odd("an answer without a header"))?;
    Ok((header.revision(), Origin { member: header.member_id(), raft_term: header.raft_term() }))
}

/// The keys that each read of a transaction found.
fn ranges(answer: &TxnResponse) -> Vec<Vec<KeyValue>> {
    let range = |response: TxnOpResponse| match response {
        TxnOpResponse::Get(mut found) => Some(found.take_kvs()),
        _ => None,
    };
    answer.op_responses().into_iter().filter_map(range).collect()
}

/// An answer that etcd doesn't give.
fn odd(what: &str) -> Error {
    Error::Internal(format!("not an answer of etcd's: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_own_elections() {
        let seats = Seats::new("prod/", &"stock/7".parse().unwrap());
        assert_eq!(seats.key(0x694d_81f2_0000_000a), "prod/stock/7/694d81f20000000a");
        assert_eq!(seats.key(0xa), "prod/stock/7/a");
        assert_eq!(seats.key(-0xa), "prod/stock/7/-a");
    }

    #[test]
    fn an_election_below_another_is_another() {
        let stock = Seats::new("", &"stock".parse().unwrap());
        let below = Seats::new("", &"stock/7".parse().unwrap());
        let odd = Seats::new("", &"stock/7/".parse().unwrap());
        for (key, of) in
            [("stock/a1", [1, 0, 0]), ("stock/7/a1", [0, 1, 0]), ("stock/7//a1", [0, 0, 1]), ("stock/", [0; 3])]
        {
            let is = [&stock, &below, &odd].map(|seats| u8::from(seats.is_candidate(key.as_bytes())));
            assert_eq!(is, of, "{key}");
        }
    }
}
