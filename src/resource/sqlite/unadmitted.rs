//! What becomes of a request whose claims don't take effect.

use crate::fence::Refusal;
use crate::problem::{Kind, Problem};

use super::raw::SqliteError;
use super::shared::Work;
use super::writer::Writer;

/// Why a request's claims don't take effect.
pub(super) enum Unadmitted {
    /// By a mark.
    Refused(Refusal),
    /// Nobody vouches for them.
    Doubted(Problem),
    /// They can't be stored.
    Storage(SqliteError),
}

impl Writer {
    pub(super) fn turn_away(&mut self, work: Box<Work>, why: Unadmitted) {
        match why {
            Unadmitted::Refused(refusal) => self.refuse(work, refusal),
            Unadmitted::Doubted(problem) => self.done(work, Err(problem)),
            Unadmitted::Storage(error) => self.fail(&error, Some(work)),
        }
    }

    pub(super) fn refuse(&mut self, work: Box<Work>, refusal: Refusal) {
        // What the coordinator has told of an election nobody has presented.
        if work.believed.why.is_none() {
            self.shared.count(&refusal);
        }
        // The mark that refuses may be one that this transaction has only just raised: it is told when that is durable.
        self.done(work, Err(refusal.into()));
    }

    pub(super) fn not_durable(&self, work: Box<Work>) {
        let why = "its claims could not be made durable; nothing was applied";
        self.shared.finish(work, Err(Problem::new(Kind::Unavailable, why)));
    }
}
