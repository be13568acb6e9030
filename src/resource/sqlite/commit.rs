//! The writer's shared transaction: how it begins, commits, fails, and is published.

use std::sync::atomic::Ordering;
use std::time::Instant;

use metrics::{counter, histogram};

use crate::fail::{self, Point};
use crate::fence::{Admission, FenceName, Mark};
use crate::problem::{Kind, Problem};
use crate::resource::Happened;

use super::answers::{Answers, Decided, Parcel};
use super::fences::FenceSet;
use super::own::unavailable;
use super::raw::SqliteError;
use super::shared::{Shared, Work};
use super::writer::Writer;
use super::{now_ms, store};

/// A shared transaction.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// The requests run in it, each with how it will be answered.
    pub done: Vec<(Box<Work>, Result<(), Problem>)>,
    /// What it admitted, in order.
    pub admissions: Vec<Admission>,
    /// When it began, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
    /// Bytes of the answers that wait in it.
    pub bytes: usize,
}

impl Shared {
    /// Whether the mark that a problem tells of is durable. Transactions are ended before their successor's mark rises.
    pub fn is_published(&self, problem: &Problem) -> bool {
        let (Some(fence), Some(highest)) = (&problem.fence, problem.highest) else { return true };
        let mark = self.fences.id(fence).and_then(|id| self.states[id].mark());
        mark.is_some_and(|dated| dated.mark.token >= highest)
    }
}

impl Writer {
    /// Reads the marks from the database into the ledger, and publishes them.
    pub(super) fn reload(&mut self) -> Result<(), SqliteError> {
        self.data_version = store::data_version(&self.db)?;
        let mut marks = store::marks(&self.db)?;
        for (id, name) in self.shared.fences.names().iter().enumerate() {
            let dated = marks.remove(name);
            self.ledger.put(name.clone(), dated.as_ref().map(|dated| dated.mark.clone()));
            self.shared.states[id].publish(dated);
        }
        Ok(())
    }

    /// Begins the shared transaction.
    pub(super) fn begin(&mut self) -> Result<(), SqliteError> {
        if self.group.is_some() {
            return Ok(());
        }
        self.place.check().map_err(moved)?;
        self.db.own("BEGIN IMMEDIATE")?;
        fail::at(Point::SqliteBegun);
        self.group = Some(Group { at_ms: now_ms(), ..Group::default() });
        // The mark in the file is the truth. Another connection has changed the file where a client's own transaction committed,
        // or where somebody wrote to it past the gate.
        let version = store::data_version(&self.db);
        let loaded = version.and_then(|version| if version == self.data_version { Ok(()) } else { self.reload() });
        fail::at(Point::SqliteMarksRead);
        loaded.inspect_err(|_| self.rollback())
    }

    pub(super) fn rollback(&mut self) {
        if !self.db.conn.is_autocommit() {
            let _ = self.db.own("ROLLBACK");
        }
        if let Some(group) = self.group.take() {
            self.linger.failed();
            group.admissions.iter().rev().for_each(|admission| self.ledger.undo(admission));
            debug_assert!(group.done.is_empty(), "the requests were taken out first");
        }
    }

    /// Makes the shared transaction durable and answers its requests. `false` where that failed; they are answered all the same.
    pub(super) fn commit(&mut self) -> bool {
        let Some(group) = &mut self.group else { return true };
        let done = std::mem::take(&mut group.done);
        let started = Instant::now();
        let committed = if fail::skips(Point::SqliteCommit) { Ok(()) } else { self.db.own("COMMIT") };
        if let Err(error) = committed {
            self.rollback();
            self.storage_failed(&error);
            let problem = commit_problem(&error);
            done.into_iter().for_each(|(work, _)| self.shared.finish(work, Err(problem.clone())));
            return false;
        }
        fail::at(Point::SqliteCommitted);
        // Its marks stand all the same, for as long as the gate runs: they only keep others out.
        let gone = self.place.check().err().map(|why| lost(&why));
        let name = || self.shared.name.clone();
        let took = started.elapsed();
        histogram!("fencegate_sqlite_commit_seconds", "resource" => name()).record(took);
        histogram!("fencegate_sqlite_commit_requests", "resource" => name()).record(done.len() as f64);
        if gone.is_none() && self.shared.failing_since_ms.swap(0, Ordering::Relaxed) != 0 {
            tracing::info!(resource = self.shared.name, "the database can be written again");
        }
        self.linger.committed(done.len(), self.shared.writer.waiting(), started, took);
        let Some(group) = self.group.take() else { return true };
        self.publish(&group);
        fail::at(Point::SqlitePublished);
        self.count_writes(&done);
        let mut answers = Answers::default();
        for (mut work, outcome) in done {
            let outcome = match &gone {
                Some(problem) => outcome.and_then(|()| Err(problem.clone())),
                None => outcome,
            };
            // What has a connection of its own, which may hold SQLite's lock, is ended here, before anything else is run.
            match work.reply.take_if(|_| work.stream.own.is_none()) {
                Some(waiting) => {
                    work.checkpoint = None;
                    answers.put(waiting, Parcel::Decided(Decided::new(&self.shared, work, outcome)));
                }
                None => self.shared.finish(work, outcome),
            }
        }
        answers.tell();
        fail::at(Point::SqliteAnswered);
        true
    }

    /// Counts the requests that were carried out, on the fences that they named.
    fn count_writes(&self, done: &[(Box<Work>, Result<(), Problem>)]) {
        let carried_out = done
            .iter()
            .filter(|(work, outcome)| outcome.is_ok() && !work.replayed && !work.program.requests.is_empty());
        // Mostly, all of them are of one fence.
        let (mut fences, mut count) = (FenceSet::default(), 0);
        for (work, _) in carried_out {
            if work.presented != fences {
                self.shared.count_writes(fences, count);
                (fences, count) = (work.presented, 0);
            }
            count += 1;
        }
        self.shared.count_writes(fences, count);
    }

    pub(super) fn publish(&self, group: &Group) {
        if group.admissions.iter().all(|admission| admission.changes.is_empty()) {
            return;
        }
        for change in group.admissions.iter().flat_map(|admission| &admission.changes) {
            let Some(id) = self.shared.fences.id(&change.fence) else { continue };
            let state = &self.shared.states[id];
            state.publish(Some(store::dated(change, state.mark(), group.at_ms)));
            if change.advances() {
                counter!("fencegate_advances_total", "resource" => self.shared.name.clone()).increment(1);
                let holder = change.after.holder.as_ref().map_or("-", |holder| holder.as_str());
                self.tell("advanced", &change.fence, Some(&change.after), change.before.as_ref(), group.at_ms);
                tracing::info!(fence = %change.fence, token = %change.after.token, holder, "the mark advanced");
            }
        }
        // Once more, now that the marks are published: what came to the table in between was judged by the old ones.
        self.shared.end_deposed(&self.ledger);
    }

    pub(super) fn tell(
        &self,
        event: &'static str,
        fence: &FenceName,
        after: Option<&Mark>,
        before: Option<&Mark>,
        at_ms: i64,
    ) {
        self.shared.told.add(Happened {
            event,
            fence: fence.clone(),
            token: after.map(|mark| mark.token),
            previous: before.map(|mark| mark.token),
            holder: after.and_then(|mark| mark.holder.clone()),
            count: 1,
            at_ms,
        });
    }

    /// The whole shared transaction failed: nothing of it was applied.
    pub(super) fn fail(&mut self, error: &SqliteError, work: Option<Box<Work>>) {
        let done = self.group.as_mut().map(|group| std::mem::take(&mut group.done)).unwrap_or_default();
        self.rollback();
        self.storage_failed(error);
        let problem = unavailable(error);
        for work in done.into_iter().map(|(work, _)| work).chain(work) {
            self.shared.finish(work, Err(problem.clone()));
        }
    }

    pub(super) fn storage_failed(&self, error: &SqliteError) {
        counter!("fencegate_sqlite_commit_failures_total", "resource" => self.shared.name.clone()).increment(1);
        if self.shared.failing_since_ms.swap(now_ms(), Ordering::Relaxed) == 0 {
            tracing::error!(resource = self.shared.name, %error, "the database can't be written");
        }
    }
}

/// The database isn't where it was.
pub(super) fn moved(why: String) -> SqliteError {
    SqliteError { code: rusqlite::ffi::SQLITE_READONLY_DBMOVED, message: why }
}

/// It went away while a transaction was committed.
pub(super) fn lost(why: &str) -> Problem {
    Problem::new(Kind::OutcomeUnknown, format!("what was committed may be lost: {why}"))
}

/// What a failed COMMIT means for the requests in it.
pub(super) fn commit_problem(error: &SqliteError) -> Problem {
    if matches!(error.primary(), rusqlite::ffi::SQLITE_IOERR | rusqlite::ffi::SQLITE_NOMEM) {
        // Frames may have reached the disk although the sync, or what comes after it, failed; after a crash they could count.
        return Problem::new(
            Kind::OutcomeUnknown,
            format!("{}: the commit may or may not survive a crash", error.message),
        );
    }
    unavailable(error)
}

/// What the owner of a transaction is told that goes on with it under another holder's name.
pub(super) fn other_claims() -> Problem {
    let why = "the transaction began with other claims than this request presents, and was rolled back";
    Problem::new(Kind::TokenConflict, why)
}

/// A request that was run by itself stopped after some of its statements were committed, each by itself.
pub(super) fn partly(why: &str) -> Problem {
    Problem::new(Kind::OutcomeUnknown, format!("earlier statements of this request were applied, then: {why}"))
}
