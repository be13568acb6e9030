//! The table `fencegate_answers`: what was answered, by fence and key, bounded in time and in space.
//!
//! Each fence has a queue of its own. Numbers and totals rise from row to row, so that the first and the last row of a queue tell
//! how many there are and what they take: nothing is counted, and nothing is swept. Each row that comes makes room for itself.
//!
//! **Invariants.**
//! - Nothing here is kept but in the transaction of the write that it tells of.
//! - A row younger than [`Bounds::hold_ms`] never goes for want of room.
//! - What one write removes is bounded by what it adds.

use rusqlite::{Connection, OptionalExtension, params};

/// What a row takes besides its texts: numbers, the fingerprint, the index.
const ROW_BYTES: usize = 256;
/// So many rows whose time is up go with each that comes: more than one, so that a queue that was longer gets shorter.
const EXPIRED_PER_WRITE: usize = 4;

/// How much is kept, for each fence.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How long a row is good for, in milliseconds.
    pub retention_ms: i64,
    /// How long one stays whatever else comes, in milliseconds.
    pub hold_ms: i64,
    /// Most rows.
    pub keys: i64,
    /// Most bytes.
    pub bytes: i64,
}

/// What is known of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The fingerprint of the request.
    pub request: [u8; 32],
    /// The fences that it wrote to, with spaces between.
    pub fences: String,
    /// What was answered; `None` where that was too large.
    pub answer: Option<Vec<u8>>,
}

/// One more to keep.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// The key.
    pub key: &'a str,
    /// As in [`Kept`].
    pub request: &'a [u8; 32],
    /// As in [`Kept`].
    pub fences: &'a str,
    /// As in [`Kept`].
    pub answer: Option<&'a [u8]>,
}

/// A queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Queue {
    /// Its rows, or a few more where some went out of turn.
    pub keys: i64,
    /// What they take.
    pub bytes: i64,
    /// When the oldest came.
    pub oldest_ms: i64,
    /// When the newest came.
    pub newest_ms: i64,
}

/// A queue after one more has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grown {
    /// The queue.
    pub queue: Queue,
    /// Whether it has more than it may, because its oldest row must stay.
    pub is_full: bool,
    /// Rows that went before their time.
    pub evicted: u64,
}

/// What is kept of a key since `since_ms`.
///
/// # Errors
/// SQLite's own.
pub fn find(conn: &Connection, fence: &str, key: &str, since_ms: i64) -> rusqlite::Result<Option<Kept>> {
    let sql = "SELECT request, fences, answer FROM fencegate_answers WHERE fence = ?1 AND key = ?2 AND kept_ms >= ?3";
    let mut stmt = conn.prepare_cached(sql)?;
    let read = |row: &rusqlite::Row<'_>| Ok(Kept { request: row.get(0)?, fences: row.get(1)?, answer: row.get(2)? });
    stmt.query_row(params![fence, key, since_ms], read).optional()
}

/// The queue of a fence.
///
/// # Errors
/// SQLite's own.
pub fn queue(conn: &Connection, fence: &str) -> rusqlite::Result<Queue> {
    match end(conn, fence, NEWEST)? {
        Some(newest) => queue_to(conn, fence, &newest),
        None => Ok(Queue::default()),
    }
}

/// The queue of a fence whose newest row is this one.
fn queue_to(conn: &Connection, fence: &str, newest: &End) -> rusqlite::Result<Queue> {
    let oldest = end(conn, fence, OLDEST)?;
    let oldest = oldest.as_ref().unwrap_or(newest);
    Ok(Queue {
        keys: newest.number - oldest.number + 1,
        bytes: newest.total - oldest.total + oldest.bytes,
        oldest_ms: oldest.kept_ms,
        newest_ms: newest.kept_ms,
    })
}

const OLDEST: &str =
    "SELECT number, total, bytes, kept_ms FROM fencegate_answers WHERE fence = ?1 ORDER BY number LIMIT 1";
const NEWEST: &str =
    "SELECT number, total, bytes, kept_ms FROM fencegate_answers WHERE fence = ?1 ORDER BY number DESC LIMIT 1";

struct End {
    number: i64,
    total: i64,
    bytes: i64,
    kept_ms: i64,
}

fn end(conn: &Connection, fence: &str, which: &str) -> rusqlite::Result<Option<End>> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(End { number: row.get(0)?, total: row.get(1)?, bytes: row.get(2)?, kept_ms: row.get(3)? })
    };
    conn.prepare_cached(which)?.query_row([fence], read).optional()
}

/// Keeps one more in the present transaction, and lets the oldest go.
///
/// # Errors
/// SQLite's own.
pub fn keep(
    conn: &Connection,
    fence: &str,
    entry: &Entry<'_>,
    now_ms: i64,
    bounds: &Bounds,
) -> rusqlite::Result<Grown> {
    let Entry { key, request, fences, answer } = *entry;
    let before = end(conn, fence, NEWEST)?.unwrap_or(End { number: 0, total: 0, bytes: 0, kept_ms: now_ms });
    let texts = 2 * (fence.len() + key.len()) + fences.len() + answer.map_or(0, <[u8]>::len);
    let bytes = i64::try_from(ROW_BYTES + texts).unwrap_or(i64::MAX);
    let newest = End { number: before.number + 1, total: before.total + bytes, bytes, kept_ms: now_ms };
    // One of the same key whose time is up may be there still: it becomes this one, at the queue's end.
    let put = "INSERT INTO fencegate_answers (fence, number, key, request, fences, kept_ms, bytes, total, answer)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (fence, key) DO UPDATE SET number = excluded.number,
        request = excluded.request, fences = excluded.fences, kept_ms = excluded.kept_ms, bytes = excluded.bytes,
        total = excluded.total, answer = excluded.answer";
    let row = params![fence, newest.number, key, &request[..], fences, now_ms, bytes, newest.total, answer];
    conn.prepare_cached(put)?.execute(row)?;
    trim(conn, fence, bounds, &newest)
}

/// Lets the oldest go until the queue is within its bounds: no more than what has come needs, and a few where the bounds are less
/// than they were.
fn trim(conn: &Connection, fence: &str, bounds: &Bounds, newest: &End) -> rusqlite::Result<Grown> {
    let row = i64::try_from(ROW_BYTES).unwrap_or(i64::MAX);
    let mut left = usize::try_from(newest.bytes / row + 1).unwrap_or(usize::MAX) + EXPIRED_PER_WRITE;
    let (mut expired, mut evicted) = (0, 0);
    loop {
        let queue = queue_to(conn, fence, newest)?;
        let age_ms = newest.kept_ms.saturating_sub(queue.oldest_ms);
        let is_over = queue.keys > bounds.keys || queue.bytes > bounds.bytes;
        let is_expired = age_ms > bounds.retention_ms;
        let is_held = !is_expired && age_ms < bounds.hold_ms;
        let goes = if is_over { !is_held && left > 0 } else { is_expired && expired < EXPIRED_PER_WRITE };
        // The last row is the one that has just come.
        if !goes || queue.keys <= 1 {
            return Ok(Grown { queue, is_full: is_over && is_held, evicted });
        }
        let delete = "DELETE FROM fencegate_answers WHERE fence = ?1
            AND number = (SELECT number FROM fencegate_answers WHERE fence = ?1 ORDER BY number LIMIT 1)";
        conn.prepare_cached(delete)?.execute([fence])?;
        left -= 1;
        expired += usize::from(is_expired);
        evicted += u64::from(!is_expired);
    }
}

#[cfg(test)]
mod tests;
