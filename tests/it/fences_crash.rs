//! What the fences of HTTP resources know after a crash: the process killed, the machine lost, files lost or damaged.

use std::path::Path;
use std::sync::Arc;

use fencegate::fence::drain::{OnUnknown, Outcome, Policy, Purpose};
use fencegate::problem::Kind;
use fencegate::resource::http::fences::{Fences, OpenError};
use tempfile::TempDir;

use crate::fences::{ask, highest, info, name, open, policy, scope, until, write};

/// What a process leaves that is killed at this moment.
fn killed(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["fences.db", "fences.db-wal", "fences.journal"] {
        std::fs::copy(dir.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

/// Something that is done to what a process has left.
type Damage = fn(&Path);

fn reopened(dir: &Path) -> Arc<Fences> {
    open(dir, policy(OnUnknown::Wait))
}

/// Fences `stock/flying` with a write in flight, `stock/quiet` without, `stock/bad` with one whose outcome isn't known.
async fn running(dir: &Path) -> Arc<Fences> {
    let fences = reopened(dir);
    for fence in ["stock/quiet", "stock/flying"] {
        write(&fences, fence, 5).await.finish(Outcome::Known);
    }
    Box::leak(Box::new(write(&fences, "stock/flying", 5).await));
    write(&fences, "stock/bad", 5).await.finish(Outcome::Unknown);
    fences
}

fn quarantined(fences: &Fences) -> [bool; 3] {
    ["stock/flying", "stock/quiet", "stock/bad"].map(|fence| info(fences, fence).quarantine.is_some())
}

#[tokio::test]
async fn killed_it_knows_which_fences_had_writes_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let fences = running(dir.path()).await;
    let left = killed(dir.path());
    drop(fences);
    let fences = reopened(left.path());
    assert_eq!(quarantined(&fences), [true, false, true]);
    write(&fences, "stock/quiet", 6).await.finish(Outcome::Known);
    // The mark's own token goes on: its advance was complete.
    write(&fences, "stock/flying", 5).await.finish(Outcome::Known);
    assert_eq!(ask(&fences, "stock/flying", 6, Purpose::Write).await.unwrap_err().kind, Kind::Quarantined);
    // Not so now, after another crash.
    let left = killed(left.path());
    let fences = reopened(left.path());
    assert_eq!(quarantined(&fences), [true, false, true]);
    assert_eq!(highest(&fences, "stock/flying"), Some(6), "the mark was durable before it was said to wait");
    assert_eq!(ask(&fences, "stock/flying", 6, Purpose::Write).await.unwrap_err().kind, Kind::Quarantined);
    let history = fences.history(0, &name("stock/flying"), i64::MAX, 10).await.unwrap();
    assert_eq!(history[0].event, "quarantined");
    assert!(history[0].reason.as_deref().unwrap().contains("did not stop cleanly"));
    assert!(fences.release(0, &name("stock/flying"), "checked".into()).await.unwrap());
    write(&fences, "stock/flying", 6).await.finish(Outcome::Known);
}

#[tokio::test]
async fn stopped_cleanly_only_what_is_still_in_flight_is_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let fences = reopened(dir.path());
    write(&fences, "stock/quiet", 5).await.finish(Outcome::Known);
    write(&fences, "stock/bad", 5).await.finish(Outcome::Unknown);
    let flying = write(&fences, "stock/flying", 5).await;
    fences.stop();
    // Too late to be said to anybody.
    flying.finish(Outcome::Known);
    drop(fences);
    assert_eq!(quarantined(&reopened(dir.path())), [true, false, true]);
}

#[tokio::test]
async fn a_clean_stop_is_believed_on_another_boot_too() {
    let dir = tempfile::tempdir().unwrap();
    let fences = reopened(dir.path());
    write(&fences, "stock/quiet", 5).await.finish(Outcome::Known);
    fences.stop();
    drop(fences);
    patch_boot(dir.path());
    assert_eq!(info(&reopened(dir.path()), "stock/quiet").quarantine, None);
}

/// Makes the journal one of another boot of the machine.
fn patch_boot(dir: &Path) {
    let path = dir.join("fences.journal");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[32..40].copy_from_slice(b"zzzzzzzz");
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn where_the_journal_cannot_be_believed_everything_is_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let fences = running(dir.path()).await;
    let damages: [(&str, Damage); 6] = [
        ("another boot", patch_boot),
        ("missing", |dir| std::fs::remove_file(dir.join("fences.journal")).unwrap()),
        ("empty", |dir| std::fs::write(dir.join("fences.journal"), "").unwrap()),
        ("cut off", |dir| std::fs::write(dir.join("fences.journal"), "fgjourn\n").unwrap()),
        ("garbage", |dir| std::fs::write(dir.join("fences.journal"), vec![b'x'; 100_000]).unwrap()),
        ("of another store", |dir| {
            let other = tempfile::tempdir().unwrap();
            drop(reopened(other.path()));
            std::fs::copy(other.path().join("fences.journal"), dir.join("fences.journal")).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let left = killed(dir.path());
        damage(left.path());
        let again = reopened(left.path());
        assert_eq!(quarantined(&again), [true; 3], "{what}");
        assert_eq!(ask(&again, "stock/quiet", 6, Purpose::Read).await.unwrap_err().kind, Kind::Quarantined, "{what}");
        write(&again, "stock/new", 1).await.finish(Outcome::Known);
        // The journal that it has begun is believed, and says the same of those.
        let left = killed(left.path());
        let again = reopened(left.path());
        assert_eq!(quarantined(&again), [true; 3], "{what}, once more");
        assert_eq!(info(&again, "stock/new").quarantine, None, "{what}");
    }
    drop(fences);
}

#[tokio::test]
async fn a_quarantine_after_a_crash_runs_out() {
    let dir = tempfile::tempdir().unwrap();
    let fences = running(dir.path()).await;
    for damage in [None, Some(patch_boot as Damage)] {
        let left = killed(dir.path());
        damage.inspect(|damage| damage(left.path()));
        let again = open(left.path(), Policy { settle_ms: 50, ..policy(OnUnknown::Wait) });
        until("it settles", || {
            again.happened(0);
            quarantined(&again) == [false; 3]
        })
        .await;
        write(&again, "stock/flying", 6).await.finish(Outcome::Known);
        drop(again);
        assert_eq!(quarantined(&reopened(left.path())), [false; 3], "it was stopped cleanly");
    }
    drop(fences);
}

#[tokio::test]
async fn with_hold_an_operator_has_to_look_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let fences = running(dir.path()).await;
    let left = killed(dir.path());
    let again = open(left.path(), policy(OnUnknown::Hold));
    assert_eq!(info(&again, "stock/flying").quarantine, Some(fencegate::resource::Quarantined::Held));
    drop(again);
    let again = open(left.path(), policy(OnUnknown::Hold));
    assert!(info(&again, "stock/flying").quarantine.is_some(), "it is held over a clean restart, too");
    drop((fences, again));
}

#[tokio::test]
async fn a_file_that_is_none_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("fences.journal")).unwrap();
    let error = Fences::open(dir.path(), vec![scope(policy(OnUnknown::Wait))]).unwrap_err();
    assert!(matches!(&error, OpenError::File { file, .. } if file.ends_with("fences.journal")), "{error}");
    std::fs::remove_dir(dir.path().join("fences.journal")).unwrap();
    let fences = reopened(dir.path());
    write(&fences, "stock/1", 5).await.finish(Outcome::Known);
    drop(fences);
    let conn = rusqlite::Connection::open(dir.path().join("fences.db")).unwrap();
    conn.execute_batch("DROP TRIGGER mark_keeps_its_place; UPDATE mark SET fence = 'ä'").unwrap();
    drop(conn);
    let error = Fences::open(dir.path(), vec![scope(policy(OnUnknown::Wait))]).unwrap_err();
    assert!(error.to_string().contains("fences.db"), "a mark is never guessed: {error}");
}
