//! Where a request comes back to when the writer has to run it again.

use crate::resource::sqlite::program::{Run, StoredSql};

use super::Work;

/// A request as it was when the writer took it up.
#[derive(Debug)]
pub struct Checkpoint {
    last_rowid: i64,
    /// The run and the stored SQL texts; `None` where nothing was run and nothing stored, as mostly.
    kept: Option<Box<(Run, StoredSql)>>,
}

impl Checkpoint {
    /// Of a request that has come so far.
    pub fn of(run: &Run, stored: &StoredSql, last_rowid: i64) -> Checkpoint {
        let is_new = run.is_new() && stored.is_empty();
        Checkpoint { last_rowid, kept: (!is_new).then(|| Box::new((run.clone(), stored.clone()))) }
    }

    /// Puts a request back to it.
    pub fn restore(self, work: &mut Work) {
        work.stream.last_rowid = self.last_rowid;
        work.replayed = false;
        match self.kept {
            Some(kept) => (work.run, work.stream.stored) = *kept,
            None => {
                work.run.begin_anew();
                work.stream.stored.clear();
            }
        }
    }
}
