//! Streams: what a client keeps between HTTP requests, found again by a baton.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::fence::Claim;
use crate::problem::{Kind, Problem};

use super::db::Db;
use super::fences::FenceSet;
use super::program::StoredSql;
use super::shared::{Lease, WriteLock};

/// A stream.
#[derive(Debug, Default)]
pub struct Stream {
    /// Its number; 0 until it is first put into the table.
    id: u64,
    /// Who began it, where the gate knows; it goes on for nobody else.
    by: Option<String>,
    /// SQL texts that the client stored.
    pub stored: StoredSql,
    /// What `last_insert_rowid()` answers.
    pub last_rowid: i64,
    /// Its own connection, while it is inside a transaction.
    pub own: Option<Own>,
    /// Why its transaction was ended by the gate; told at the next request.
    pub ended: Option<Box<Problem>>,
}

impl Stream {
    /// A new one, begun by this sender.
    pub fn of(by: Option<String>) -> Stream {
        Stream { by, ..Stream::default() }
    }
}

/// A stream's own connection with its transaction.
///
/// **Invariant.** The write lock is let go after the connection has rolled back or committed: [`Own`]'s drop rolls back, then
/// its fields are dropped.
#[derive(Debug)]
pub struct Own {
    /// The connection; only gone while it is dropped.
    db: Option<Db>,
    /// Held from the transaction's first write to its end.
    pub lock: Option<WriteLock>,
    /// The claims that the transaction began with; empty for one that only reads.
    pub claims: Arc<[Claim]>,
    /// The fences of these claims.
    pub presented: FenceSet,
    /// When it began.
    pub began: Instant,
    /// `BEGIN TRANSACTION READONLY`.
    pub read_only: bool,
    /// The connection was changed (`PRAGMA foreign_keys`), so it stays with this stream and is not used by another.
    pub sticky: bool,
    /// Its place among the transactions that may be open: taken before it begins one.
    pub lease: Lease,
}

impl Own {
    /// A connection outside a transaction.
    pub fn new(db: Db, lease: Lease) -> Own {
        Own {
            db: Some(db),
            lock: None,
            claims: Arc::new([]),
            presented: FenceSet::default(),
            began: Instant::now(),
            read_only: false,
            sticky: false,
            lease,
        }
    }

    /// The connection.
    pub fn db(&mut self) -> &mut Db {
        self.db.as_mut().expect("the connection is taken only by drop")
    }

    /// Whether it is inside a transaction.
    pub fn in_transaction(&self) -> bool {
        self.db.as_ref().is_some_and(|db| !db.conn.is_autocommit())
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else { return };
        // Where rolling back fails, closing the connection rolls back.
        let clean = db.conn.is_autocommit() || db.own("ROLLBACK").is_ok();
        if clean && !self.sticky {
            self.lease.give_back(db);
        }
    }
}

/// How long an unused stream is kept that holds nothing but its place in the table.
const KEPT_WITHOUT_STATE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct Slot {
    secret: [u8; 16],
    /// `None` while a request works on it.
    stream: Option<Stream>,
    used: Instant,
}

/// All the streams of one resource.
#[derive(Debug)]
pub struct Streams {
    table: Mutex<Table>,
    max: usize,
}

#[derive(Debug)]
struct Table {
    slots: HashMap<u64, Slot>,
    last_id: u64,
    random: Vec<u8>,
}

impl Streams {
    /// A table for this many streams.
    pub fn new(max: usize) -> Streams {
        let table = Table { slots: HashMap::new(), last_id: 0, random: Vec::new() };
        Streams { table: Mutex::new(table), max }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of streams open.
    pub fn len(&self) -> usize {
        self.lock().slots.len()
    }

    /// Whether no stream is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the stream of a baton out for a request by this sender.
    ///
    /// # Errors
    /// A baton that was never given out, or to somebody else, was used already, or whose stream has expired.
    pub fn take(&self, baton: &str, by: Option<&str>) -> Result<Stream, Problem> {
        let invalid = |why: &str| Err(Problem::new(Kind::BatonInvalid, why));
        let Some((id, secret)) = decode(baton) else { return invalid("this baton was never given out") };
        let mut table = self.lock();
        if id == 0 || id > table.last_id {
            return invalid("this baton was never given out");
        }
        let Some(slot) = table.slots.get_mut(&id) else {
            return Err(Problem::new(Kind::StreamExpired, "the stream of this baton was closed or has expired"));
        };
        // Each baton is random and good for one request; comparing without an early exit tells nothing by its time.
        let difference = slot.secret.iter().zip(secret).fold(0, |sum, (one, other)| sum | (one ^ other));
        match slot.stream.take_if(|stream| difference == 0 && stream.by.as_deref() == by) {
            Some(stream) => Ok(stream),
            None => invalid("this baton was used already; each is good for one request"),
        }
    }

    /// Puts a stream back after a request and returns its next baton. `None`: there was no room for it, so it was closed.
    ///
    /// A stream inside a transaction always finds room: their number has a limit of its own.
    pub fn put(&self, mut stream: Stream) -> Option<String> {
        let mut evicted = Vec::new();
        let mut table = self.lock();
        if stream.id == 0 {
            if table.slots.len() >= self.max {
                evicted = evict(&mut table.slots, self.max);
                if table.slots.len() >= self.max && stream.own.is_none() {
                    return None;
                }
            }
            table.last_id += 1;
            stream.id = table.last_id;
        }
        let id = stream.id;
        let secret = table.secret();
        table.slots.insert(id, Slot { secret, stream: Some(stream), used: Instant::now() });
        drop(table);
        drop(evicted);
        Some(encode(id, &secret))
    }

    /// Forgets a stream that was taken out.
    pub fn forget(&self, stream: &Stream) {
        if stream.id != 0 {
            self.lock().slots.remove(&stream.id);
        }
    }

    /// Closes streams that were not used since `before` and hold something (a transaction, stored SQL texts), and those that hold
    /// nothing after an hour: drivers keep a baton for as long as their connection lives, and don't get over its end.
    /// Ends transactions that began before `began_before`.
    pub fn sweep(&self, before: Instant, began_before: Instant) -> usize {
        let mut gone = Vec::new();
        let mut late = Vec::new();
        let mut table = self.lock();
        table.slots.retain(|_, slot| {
            let holds = |stream: &Stream| stream.own.is_some() || !stream.stored.is_empty();
            let expired = match &slot.stream {
                Some(stream) if holds(stream) => slot.used < before,
                Some(_) => slot.used.elapsed() > KEPT_WITHOUT_STATE,
                None => false,
            };
            gone.extend(slot.stream.take_if(|_| expired));
            !expired
        });
        for stream in table.slots.values_mut().filter_map(|slot| slot.stream.as_mut()) {
            if let Some(own) = stream.own.take_if(|own| own.in_transaction() && own.began < began_before) {
                stream.ended = Some(Box::new(Problem::new(
                    Kind::StreamExpired,
                    "the transaction was open for longer than it may be, and was rolled back",
                )));
                late.push(own);
            }
        }
        drop(table);
        // Rolling back happens outside of the table's lock.
        gone.len() + late.len()
    }

    /// Ends every idle transaction for which `judge` gives a reason. Returns how many.
    ///
    /// A transaction that a request works on just now isn't seen here: it is judged when it is put back, and it can't commit
    /// before that, because a transaction that writes is only ever worked on by the writer thread, which calls this.
    pub fn end_where(&self, judge: impl Fn(&[Claim]) -> Option<Problem>) -> usize {
        let mut ended = Vec::new();
        let mut table = self.lock();
        for stream in table.slots.values_mut().filter_map(|slot| slot.stream.as_mut()) {
            let why = stream.own.as_ref().filter(|own| own.in_transaction()).and_then(|own| judge(&own.claims));
            if let Some(why) = why {
                stream.ended = Some(Box::new(why));
                ended.extend(stream.own.take());
            }
        }
        drop(table);
        ended.len()
    }
}

/// Closes the eighth of the streams that were unused longest, of those that have no transaction: clients that don't close
/// their streams must not keep others out.
fn evict(slots: &mut HashMap<u64, Slot>, max: usize) -> Vec<Stream> {
    let is_idle = |slot: &Slot| slot.stream.as_ref().is_some_and(|stream| stream.own.is_none());
    let mut idle: Vec<(Instant, u64)> =
        slots.iter().filter(|(_, slot)| is_idle(slot)).map(|(id, slot)| (slot.used, *id)).collect();
    idle.sort_unstable();
    idle.truncate(max / 8 + 1);
    idle.into_iter().filter_map(|(_, id)| slots.remove(&id)?.stream).collect()
}

impl Table {
    /// 16 random bytes, from a store that is filled by one system call for many.
    fn secret(&mut self) -> [u8; 16] {
        if self.random.len() < 16 {
            self.random.resize(4096, 0);
            getrandom::fill(&mut self.random).expect("the operating system has random bytes");
        }
        let start = self.random.len() - 16;
        let mut secret = [0; 16];
        secret.copy_from_slice(&self.random[start..]);
        self.random.truncate(start);
        secret
    }
}

/// The baton of a stream.
pub(crate) fn encode(id: u64, secret: &[u8; 16]) -> String {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    bytes[8..].copy_from_slice(secret);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The stream and the secret of a baton; nothing for what is none.
pub(crate) fn decode(baton: &str) -> Option<(u64, [u8; 16])> {
    if baton.len() != 32 {
        return None;
    }
    let bytes = URL_SAFE_NO_PAD.decode(baton).ok()?;
    let (id, secret) = bytes.split_at_checked(8)?;
    Some((u64::from_be_bytes(id.try_into().ok()?), secret.try_into().ok()?))
}
