//! Writes to a SQLite database of its own without any gate: what the gate is compared with.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::clock::thread_time;
use super::load::tally::ns;
use super::load::{LoadError, Sample};
use super::stop::Stop;

/// The table that is written to, here and behind a gate.
pub const TABLE: &str = "CREATE TABLE IF NOT EXISTS bench (id INTEGER PRIMARY KEY, body TEXT)";
/// The write.
pub const WRITE: &str = "INSERT INTO bench (body) VALUES (?)";
/// Before each visit, so that the file doesn't grow from one to the next.
pub const CLEAR: &str = "DELETE FROM bench";

/// A database with the gate's settings: WAL, and `synchronous=FULL`, so that a commit is on the disk when it returns.
#[derive(Debug)]
pub struct Plain {
    db: Connection,
    text: String,
}

impl Plain {
    /// Makes it. `size`: bytes of each value written.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn make(file: &Path, size: usize) -> Result<Plain, LoadError> {
        let db = Connection::open(file).map_err(failed)?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
        db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
        db.execute(TABLE, []).map_err(failed)?;
        Ok(Plain { db, text: "x".repeat(size) })
    }

    /// Writes for some time, so many writes a commit. A write's latency is that of its commit, which tells that it is durable.
    ///
    /// # Errors
    /// What SQLite says; told to stop.
    pub fn run(&self, batch: usize, warm_up: Duration, duration: Duration, stop: &Stop) -> Result<Sample, LoadError> {
        self.db.execute(CLEAR, []).map_err(failed)?;
        let mut insert = self.db.prepare(WRITE).map_err(failed)?;
        let mut sample = Sample::new();
        let start = Instant::now();
        let (mut from, mut before, mut thread_before) = (None, start, thread_time());
        loop {
            if stop.is_set() {
                return Err(LoadError::Stopped);
            }
            if batch > 1 {
                self.db.execute_batch("BEGIN").map_err(failed)?;
            }
            for _ in 0..batch {
                insert.execute([&self.text]).map_err(failed)?;
            }
            if batch > 1 {
                self.db.execute_batch("COMMIT").map_err(failed)?;
            }
            let now = Instant::now();
            let Some(from) = from else {
                if now.duration_since(start) >= warm_up {
                    (from, thread_before) = (Some(now), thread_time());
                }
                before = now;
                continue;
            };
            sample.latency.saturating_record_n(ns(now.duration_since(before)), batch as u64);
            before = now;
            let time = now.duration_since(from);
            if time >= duration {
                sample.per_second = sample.latency.len() as f64 / time.as_secs_f64();
                sample.busy = (thread_time() - thread_before).as_secs_f64() / time.as_secs_f64();
                return Ok(sample);
            }
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
fn failed(error: rusqlite::Error) -> LoadError {
    LoadError::System(format!("the database without a gate: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_is_counted_with_its_commit() {
        let dir = tempfile::tempdir().unwrap();
        let plain = Plain::make(&dir.path().join("plain.db"), 100).unwrap();
        for batch in [1, 8] {
            let time = Duration::from_millis(50);
            let sample = plain.run(batch, time / 5, time, &Stop::default()).unwrap();
            let rows: i64 = plain.db.query_row("SELECT count(*) FROM bench", [], |row| row.get(0)).unwrap();
            assert!(
                i64::try_from(sample.latency.len()).unwrap() <= rows
                    && sample.latency.len().is_multiple_of(batch as u64)
            );
            assert!(sample.per_second > 0.0);
        }
    }
}
