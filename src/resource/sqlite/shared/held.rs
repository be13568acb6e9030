//! What a request or a transaction holds until it ends: dropping it gives it back.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::problem::{Kind, Problem};
use crate::resource::sqlite::db::Db;
use crate::resource::sqlite::fences::FenceSet;

use super::{FenceState, Shared};

/// A client's transaction holds the database's one write lock.
#[derive(Debug)]
pub struct WriteLock {
    pub(super) shared: Arc<Shared>,
}

impl Drop for WriteLock {
    fn drop(&mut self) {
        self.shared.locked.store(false, Ordering::SeqCst);
        self.shared.writer.poke();
    }
}

/// A place among the transactions that may be open, once it is taken.
#[derive(Debug)]
pub struct Lease {
    pub(super) shared: Arc<Shared>,
    pub(super) taken: bool,
}

impl Lease {
    /// Most connections kept for later.
    const SPARE_MAX: usize = 8;

    /// Takes the place.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] where too many transactions are open.
    pub fn take(&mut self) -> Result<(), Problem> {
        if self.taken {
            return Ok(());
        }
        self.taken = true;
        let max = self.shared.limits.transactions;
        if self.shared.transactions.fetch_add(1, Ordering::Relaxed) < max {
            return Ok(());
        }
        self.shared.transactions.fetch_sub(1, Ordering::Relaxed);
        self.taken = false;
        Err(Problem::new(Kind::Overloaded, format!("{max} transactions are open, as many as there may be")))
    }

    /// Keeps a connection for the next transaction.
    pub fn give_back(&self, db: Db) {
        let mut spare = self.shared.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < Lease::SPARE_MAX {
            spare.push(db);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.taken {
            self.shared.transactions.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A request's place in its fences' `in_flight`.
#[derive(Debug)]
pub struct InFlight {
    pub(super) shared: Arc<Shared>,
    pub(super) presented: FenceSet,
}

impl InFlight {
    pub(super) fn each(&self, act: impl Fn(&FenceState) -> u64) {
        for (id, state) in self.shared.states.iter().enumerate() {
            if self.presented.contains(id) {
                act(state);
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.each(|state| state.in_flight.fetch_sub(1, Ordering::Relaxed));
    }
}
