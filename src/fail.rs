//! Fail points: labelled places between two steps, where a test has the process killed or stopped, or the next step left out.
//!
//! Release builds have none: [`at`] and [`skips`] are empty there, and the labels aren't in the program. In a debug build of the program
//! `FENCEGATE_FAIL=label:nth:action[,…]` arms them: at the nth time that the label is come to, `kill` (SIGKILL), `pause` (SIGSTOP, of the
//! whole process) or `skip` (a mistake, for negative controls: only where [`skips`] asks). `FENCEGATE_FAIL_LOG=FILE` has each label that is
//! come to written there, one a line. docs/faults.md says what is tried at each.

macro_rules! points {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Every place there is. This is the one list of them; a test kills the gate at each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($(#[$doc])* $name,)* }

        #[cfg(all(debug_assertions, feature = "cli"))]
        impl Point {
            /// All of them, with their labels.
            pub const ALL: &[(Point, &str)] = &[$((Point::$name, $label),)*];
        }
    };
}

points! {
    /// The body of a request has been read.
    SqliteReceived = "sqlite.received",
    /// It waits for the database threads.
    SqliteQueued = "sqlite.queued",
    /// The writer has taken it up.
    SqliteTaken = "sqlite.taken",
    /// The shared transaction has begun: SQLite's write lock is held.
    SqliteBegun = "sqlite.begun",
    /// The marks are known to be those in the file.
    SqliteMarksRead = "sqlite.marks_read",
    /// A mark has risen in memory, and is about to be written. Skipped: it isn't.
    SqliteMarkWrite = "sqlite.mark_write",
    /// It is written, in the transaction.
    SqliteMarkWritten = "sqlite.mark_written",
    /// The statements of a request have run.
    SqliteRun = "sqlite.run",
    /// The shared transaction is about to be committed. Skipped: it isn't, and the requests are answered all the same.
    SqliteCommit = "sqlite.commit",
    /// It is on disk; nobody knows yet.
    SqliteCommitted = "sqlite.committed",
    /// The marks are published.
    SqlitePublished = "sqlite.published",
    /// The answers are on their way.
    SqliteAnswered = "sqlite.answered",
    /// The claims of a request that runs by itself are on disk.
    AloneClaimed = "sqlite.alone.claimed",
    /// Its own transaction has begun.
    AloneBegun = "sqlite.alone.begun",
    /// Its claims have been judged in that transaction.
    AloneVerified = "sqlite.alone.verified",
    /// Its statement has run.
    AloneRun = "sqlite.alone.run",
    /// Its transaction is committed.
    AloneCommitted = "sqlite.alone.committed",
    /// A client's own transaction has begun.
    TxBegun = "sqlite.tx.begun",
    /// It has SQLite's write lock.
    TxLocked = "sqlite.tx.locked",
    /// A statement in it has run.
    TxRun = "sqlite.tx.run",
    /// It is about to be committed or rolled back.
    TxEnds = "sqlite.tx.ends",
    /// It has ended.
    TxEnded = "sqlite.tx.ended",
    /// The transactions of deposed leaders have been rolled back; their successor's mark is about to rise.
    TxDeposed = "sqlite.tx.deposed",
    /// An operator's reset has begun.
    ResetBegun = "sqlite.reset.begun",
    /// It is written, in its transaction.
    ResetWritten = "sqlite.reset.written",
    /// It is on disk; nobody knows yet.
    ResetCommitted = "sqlite.reset.committed",
    /// It is published.
    ResetPublished = "sqlite.reset.published",
    /// Counted refusals are taken out of memory.
    RefusalsTaken = "sqlite.refusals.taken",
    /// They are written, in their transaction.
    RefusalsWritten = "sqlite.refusals.written",
    /// They are on disk.
    RefusalsCommitted = "sqlite.refusals.committed",
    /// A start has opened the database.
    SqliteOpened = "sqlite.start.opened",
    /// Its schema is up to date.
    SqliteMigrated = "sqlite.start.migrated",
    /// What a crash has left in a log is about to be written once more. Skipped: it isn't.
    Resync = "sqlite.start.resync",
    /// The marks are read.
    SqliteLoaded = "sqlite.start.loaded",
    /// The writer takes up nothing more.
    SqliteStopping = "sqlite.stop",
    /// A fence that was unknown has a place in the journal.
    HttpFenceMade = "http.fence_made",
    /// A mark waits to be stored.
    HttpMarkQueued = "http.mark_queued",
    /// The store's transaction has begun.
    HttpStoreBegun = "http.store_begun",
    /// A mark is about to be written in it. Skipped: it isn't.
    HttpMarkWrite = "http.mark_write",
    /// All of it is written.
    HttpStoreWritten = "http.store_written",
    /// It is on disk; no fence knows yet.
    HttpStored = "http.stored",
    /// A fence knows that its mark is on disk, and who waited is woken.
    HttpMarkCompleted = "http.mark_completed",
    /// That the advance is complete is written, in the store's transaction.
    HttpSettledWritten = "http.settled_written",
    /// A write has its pass.
    HttpPassGiven = "http.pass_given",
    /// Its fence is about to be noted as dirty in the journal. Skipped: it isn't.
    HttpJournalSet = "http.journal_set",
    /// It is.
    HttpAdmitted = "http.admitted",
    /// A write is being sent.
    HttpSending = "http.sending",
    /// The head of its answer has come.
    HttpHeadCome = "http.head_come",
    /// All of its answer has come.
    HttpAnswerCome = "http.answer_come",
    /// It came to nothing: no more of it can go out.
    HttpCut = "http.cut",
    /// It has given its pass back; the journal doesn't know yet.
    HttpPassBack = "http.pass_back",
    /// The last older write has ended.
    HttpDrained = "http.drained",
    /// The journal is up to date after a write.
    HttpWriteEnded = "http.write_ended",
    /// A quarantine has begun.
    HttpQuarantined = "http.quarantined",
    /// A quarantine is over by itself.
    HttpSettled = "http.settled",
    /// That an operator has released a fence is on disk.
    HttpReleaseStored = "http.release_stored",
    /// It is released.
    HttpReleased = "http.released",
    /// An operator's reset is on disk; its fence doesn't know yet.
    HttpResetStored = "http.reset_stored",
    /// A start has opened the store.
    HttpOpened = "http.start.opened",
    /// It has read what the journal says of the time before.
    HttpJournalOpened = "http.start.journal_opened",
    /// The fences are as they were; the journal still speaks of the time before.
    HttpRestored = "http.start.restored",
    /// The journal speaks of now.
    HttpStarted = "http.start.started",
    /// A stop has stored what waited.
    HttpStopStored = "http.stop.stored",
    /// The journal's bytes are on disk; it doesn't say yet that it was closed.
    HttpJournalSynced = "http.stop.journal_synced",
    /// It says so.
    HttpJournalClosed = "http.stop.journal_closed",
    /// Somebody was elected, entered or left, in memory.
    ElectionDecided = "elections.decided",
    /// The transaction that stores it has begun.
    ElectionBegun = "elections.begun",
    /// A token is about to be written as issued. Skipped: it isn't.
    ElectionIssue = "elections.issue",
    /// All of it is written.
    ElectionWritten = "elections.written",
    /// It is on disk; nobody knows yet.
    ElectionStored = "elections.stored",
    /// Everybody is told.
    ElectionTold = "elections.told",
    /// A lease is renewed.
    ElectionRenewed = "elections.renewed",
    /// A start has opened the store.
    ElectionOpened = "elections.start.opened",
    /// Its schema is up to date.
    ElectionMigrated = "elections.start.migrated",
    /// The elections are read.
    ElectionLoaded = "elections.start.loaded",
    /// A backup has its folder, and the lock on it.
    BackupBegun = "backup.begun",
    /// The moment is fixed that a file will be copied as of; nothing of it is copied.
    BackupLooked = "backup.looked",
    /// A file is in it.
    BackupCopied = "backup.copied",
    /// So is the manifest: it is whole, and has no name yet.
    BackupWritten = "backup.written",
    /// It has its name.
    BackupNamed = "backup.named",
    /// A restore has all locks.
    RestoreLocked = "restore.locked",
    /// A mark is about to be raised in a copy. Skipped: it isn't.
    RestoreRaise = "restore.raise",
    /// A copy is what will take its place.
    RestorePrepared = "restore.prepared",
    /// The logs of a damaged database have been moved to beside its second name.
    RestoreLogsMoved = "restore.logs_moved",
    /// What was there has a second name.
    RestoreAside = "restore.aside",
    /// No log is beside it.
    RestoreCleared = "restore.cleared",
    /// A copy has taken its place, on disk.
    RestorePut = "restore.put",
}

/// The process has come to this place.
#[inline(always)]
pub fn at(point: Point) {
    skips(point);
}

/// As [`at`]; true where a test wants the step that follows left out.
#[cfg(not(all(debug_assertions, feature = "cli")))]
#[inline(always)]
pub fn skips(_: Point) -> bool {
    false
}

#[cfg(all(debug_assertions, feature = "cli"))]
pub use armed::skips;

#[cfg(all(debug_assertions, feature = "cli"))]
mod armed {
    use std::fs::File;
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::Point;

    /// Longer than it takes the kernel to stop all threads of a process.
    const STOPS_WITHIN: Duration = Duration::from_millis(50);

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        Kill,
        Pause,
        Skip,
    }

    struct Plan {
        rules: Vec<(Point, u64, Action)>,
        hits: Vec<AtomicU64>,
        log: Option<File>,
    }

    /// Read once: `None` in every process that no test has armed.
    static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

    impl Plan {
        fn read() -> Option<Plan> {
            let (rules, log) = (std::env::var("FENCEGATE_FAIL"), std::env::var_os("FENCEGATE_FAIL_LOG"));
            if rules.is_err() && log.is_none() {
                return None;
            }
            let rules = rules.unwrap_or_default();
            let rules = rules.split(',').filter(|rule| !rule.is_empty()).map(rule).collect();
            let open =
                |file| File::options().create(true).append(true).open(file).expect("FENCEGATE_FAIL_LOG can be written");
            Some(Plan { rules, hits: Point::ALL.iter().map(|_| AtomicU64::new(0)).collect(), log: log.map(open) })
        }
    }

    fn rule(text: &str) -> (Point, u64, Action) {
        let parsed = || {
            let (label, rest) = text.split_once(':')?;
            let (nth, action) = rest.split_once(':')?;
            let point = Point::ALL.iter().find(|(_, known)| *known == label)?.0;
            let action = match action {
                "kill" => Action::Kill,
                "pause" => Action::Pause,
                "skip" => Action::Skip,
                _ => return None,
            };
            Some((point, nth.parse().ok()?, action))
        };
        parsed().unwrap_or_else(|| panic!("FENCEGATE_FAIL: {text:?} is not label:nth:action"))
    }

    /// The process has come to this place. True where a test wants the step that follows left out.
    pub fn skips(point: Point) -> bool {
        let Some(plan) = PLAN.get_or_init(Plan::read) else { return false };
        let nth = plan.hits[point as usize].fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(mut log) = plan.log.as_ref() {
            writeln!(log, "{}", Point::ALL[point as usize].1).expect("FENCEGATE_FAIL_LOG can be written");
        }
        let action = plan.rules.iter().find(|(armed, at, _)| *armed == point && *at == nth).map(|rule| rule.2);
        match action {
            Some(Action::Kill) => {
                let _ = kill_process(getpid(), Signal::KILL);
                // The kernel has it; this thread does nothing more.
                loop {
                    std::thread::park();
                }
            }
            Some(Action::Pause) => {
                let _ = kill_process(getpid(), Signal::STOP);
                std::thread::park_timeout(STOPS_WITHIN);
                false
            }
            Some(Action::Skip) => true,
            None => false,
        }
    }
}
