//! How the fences come out of the store.

use std::collections::HashMap;
use std::path::Path;

use rusqlite::Connection;

use crate::fail::{self, Point};
use crate::fence::drain::{Blocked, DrainedFence, OnUnknown, Policy};
use crate::fence::name::is_fence_byte;
use crate::fence::{Holder, Mark};
use crate::files::Place;
use crate::lock::LockFile;

use super::entry::{Entry, Flag};
use super::fences::Scope;
use super::index::Listed;
use super::journal::{Before, Journal};
use super::state::{Numbers, ScopeState, Shared};
use super::store::{JOURNAL_NAME, OpenError, Row, Store};

/// Holders that are remembered while loading, so that fences of one leader share its name.
const HOLDERS_MAX: usize = 65_536;

/// The fences, loaded, and what keeps them.
pub struct Loaded {
    /// The fences.
    pub shared: Shared,
    /// The connection for the store's thread.
    pub writer: Connection,
    /// Where the store is.
    pub place: Place,
    /// The connection for what operators read.
    pub reader: Connection,
    /// The lock on the files.
    pub lock: LockFile,
}

/// Opens the store and the journal and puts the two together.
///
/// # Errors
/// [`OpenError`].
pub fn load(dir: &Path, scopes: Vec<Scope>) -> Result<Loaded, OpenError> {
    let store = Store::open(dir)?;
    fail::at(Point::HttpOpened);
    let path = dir.join(JOURNAL_NAME);
    let cannot = |error: std::io::Error| OpenError::file(&path, &error);
    let (journal, before) = Journal::open(&path, store.id, store.numbers).map_err(cannot)?;
    fail::at(Point::HttpJournalOpened);
    let mut floors = store.floors()?;
    let scopes = scopes.into_iter().map(|scope| {
        let floor = floors.remove(&scope.resource);
        ScopeState { floor, ..ScopeState::new(scope) }
    });
    let scopes = scopes.collect();
    let shared = Shared::new(scopes, journal, store.numbers);
    let mut numbers = Numbers { next: store.numbers, free: Vec::new() };
    let mut holders = HashMap::new();
    let mut listed = Vec::with_capacity(store.numbers as usize);
    let (mut expected, mut dirty, mut damaged) = (0, 0_u64, None);
    store.load(|row| {
        if row.fence.is_empty() || row.fence.len() > 255 || !row.fence.bytes().all(is_fence_byte) {
            damaged = Some(row.fence.to_owned());
            return;
        }
        numbers.free.extend(expected..row.id);
        expected = row.id + 1;
        dirty += u64::from(restore(&shared, &mut holders, &mut listed, &row, before));
    })?;
    if let Some(fence) = damaged {
        return Err(OpenError::file(&store.file, &format!("{fence:?} is no name of a fence")));
    }
    shared.index.fill(listed);
    match before {
        Before::Clean => {}
        Before::Crashed => {
            tracing::warn!(dirty, "the gate did not stop cleanly; fences with writes in flight are quarantined")
        }
        Before::Unknown(_) if store.numbers == 0 => {}
        Before::Unknown(why) => {
            tracing::warn!(why, dirty, "what the crash journal said is lost; every fence is quarantined");
        }
    }
    *shared.numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = numbers;
    fail::at(Point::HttpRestored);
    shared.journal.start().map_err(cannot)?;
    fail::at(Point::HttpStarted);
    Ok(Loaded { shared, writer: store.writer, place: store.place, reader: store.reader, lock: store.lock })
}

/// Puts one fence there. True where it may have had writes in flight.
fn restore(
    shared: &Shared,
    holders: &mut HashMap<String, Holder>,
    listed: &mut Vec<Listed>,
    row: &Row<'_>,
    before: Before,
) -> bool {
    let was_dirty = matches!(before, Before::Unknown(_)) || shared.journal.is_dirty(row.id);
    let mark = row.mark.map(|(token, holder)| Mark { token, holder: holder.and_then(|text| named(holders, text)) });
    let now = shared.now();
    let policy = careful(shared, row.fence);
    let fence = DrainedFence::restored(mark, row.is_settled, was_dirty, now, &policy);
    let blocked = fence.blocked(now);
    let mut entry = Entry::new(row.fence, fence, shared.home(row.fence));
    entry.advanced_at_ms = row.advanced_at_ms;
    entry.set(Flag::StoredSettled, row.is_settled);
    let is_dirty = entry.fence.is_dirty();
    entry.set(Flag::Dirty, is_dirty);
    shared.journal.set(row.id, is_dirty);
    if blocked != Blocked::No {
        // A line for each of a million fences would say a million times what the log says once.
        entry.set(Flag::Quiet, matches!(before, Before::Unknown(_)));
        let why = "the gate did not stop cleanly, and a write may have been in flight";
        shared.quarantine_began(row.id, &mut entry, blocked, why);
    }
    listed.push(Listed::new(row.id, shared.put(row.id, entry)));
    was_dirty
}

/// A holder by its name, shared with the other fences that it has.
fn named(holders: &mut HashMap<String, Holder>, text: &str) -> Option<Holder> {
    if let Some(holder) = holders.get(text) {
        return Some(holder.clone());
    }
    let holder: Holder = text.parse().ok()?;
    if holders.len() < HOLDERS_MAX {
        holders.insert(text.to_owned(), holder.clone());
    }
    Some(holder)
}

/// The most careful policy among the resources that have the fence: which of them had the write in flight isn't known.
fn careful(shared: &Shared, fence: &str) -> Policy {
    let careful = |on_unknown| match on_unknown {
        OnUnknown::Proceed => 0,
        OnUnknown::Wait => 1,
        OnUnknown::Hold => 2,
    };
    let all = shared.scopes.iter().map(|scope| &scope.given).filter(|scope| (scope.owns)(fence));
    let most = all.map(|scope| scope.policy).reduce(|one, other| Policy {
        drain_ms: one.drain_ms.max(other.drain_ms),
        settle_ms: one.settle_ms.max(other.settle_ms),
        on_unknown: std::cmp::max_by_key(one.on_unknown, other.on_unknown, |policy| careful(*policy)),
        enforce: one.enforce || other.enforce,
    });
    most.unwrap_or(Policy { drain_ms: 5_000, settle_ms: 30_000, on_unknown: OnUnknown::Wait, enforce: true })
}
