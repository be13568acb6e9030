//! What is told when the store is slow, and when it fails.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use tokio::sync::mpsc;

use super::*;
use crate::coordinator::embedded::clock::ManualClock;
use crate::coordinator::embedded::elections::Stored;
use crate::coordinator::embedded::{Embedded, Entry, Options};
use crate::coordinator::{Bid, CoordinatorError};

/// A store in memory that fails on demand, and shows each save before it does it.
struct Fake {
    broken: Arc<AtomicBool>,
    saved: Arc<Mutex<Vec<Change>>>,
    /// Where set, each save says so here, and then waits for a word on the other.
    stop_at: StopAt,
}

impl Journal for Fake {
    fn save(&mut self, changes: &[Change]) -> Result<(), JournalError> {
        if let Some((reached, go)) = &self.stop_at {
            reached.send(()).unwrap();
            go.recv().unwrap();
        }
        if self.broken.load(Ordering::SeqCst) {
            return Err(JournalError("no space left".to_owned()));
        }
        self.saved.lock().unwrap().extend_from_slice(changes);
        Ok(())
    }
}

struct Rig {
    coordinator: Embedded,
    clock: Arc<ManualClock>,
    broken: Arc<AtomicBool>,
    saved: Arc<Mutex<Vec<Change>>>,
}

type StopAt = Option<(mpsc::UnboundedSender<()>, std::sync::mpsc::Receiver<()>)>;

async fn rig(stop_at: StopAt) -> Rig {
    let (broken, saved) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let journal = Fake { broken: Arc::clone(&broken), saved: Arc::clone(&saved), stop_at };
    let clock = Arc::new(ManualClock::default());
    let options = Options { clock: Arc::clone(&clock) as _, ..Options::new(Arc::new(|_| None)) };
    let coordinator = Embedded::start(options, move || Ok((Stored::default(), journal))).await.unwrap();
    Rig { coordinator, clock, broken, saved }
}

fn name(text: &str) -> FenceName {
    text.parse().unwrap()
}

/// Leases of an hour: nothing runs out while a test runs.
fn new() -> Entry {
    Entry::New(Bid { holder: None, ttl: Duration::from_secs(3600) })
}

impl Rig {
    async fn enter(&self, election: &str) -> Result<Standing, CoordinatorError> {
        self.coordinator.enter(&name(election), new(), Duration::ZERO).await
    }

    async fn renew(&self, election: &str, standing: &Standing) -> Result<Standing, CoordinatorError> {
        self.coordinator.renew(&name(election), standing.candidate).await
    }
}

fn token(standing: &Standing) -> Option<u64> {
    match standing.place {
        Place::Leading { token } => Some(token.get()),
        Place::Waiting { .. } => None,
    }
}

#[tokio::test]
async fn a_token_is_told_only_after_it_is_stored() {
    let ((reached, mut saving), (go, wait)) = (mpsc::unbounded_channel(), std::sync::mpsc::channel());
    let rig = rig(Some((reached, wait))).await;
    let coordinator = rig.coordinator.clone();
    let task = tokio::spawn(async move { coordinator.enter(&name("a"), new(), Duration::ZERO).await });
    saving.recv().await.unwrap();
    assert!(!task.is_finished());
    assert_eq!(rig.saved.lock().unwrap().len(), 0);
    go.send(()).unwrap();
    assert_eq!(token(&task.await.unwrap().unwrap()), Some(1));
    assert_eq!(rig.saved.lock().unwrap().len(), 2, "entered and elected");
}

#[tokio::test]
async fn a_renewal_sent_in_time_counts_however_long_the_disk_takes() {
    let ((reached, mut saving), (go, wait)) = (mpsc::unbounded_channel(), std::sync::mpsc::channel());
    let rig = rig(Some((reached, wait))).await;
    go.send(()).unwrap();
    let leads = rig.enter("a").await.unwrap();
    saving.recv().await.unwrap();

    let coordinator = rig.coordinator.clone();
    let stalled = tokio::spawn(async move { coordinator.enter(&name("b"), new(), Duration::ZERO).await });
    saving.recv().await.unwrap();
    rig.clock.advance(leads.ttl - Duration::from_secs(1));
    let mut renewal = std::pin::pin!(rig.renew("a", &leads));
    tokio::select! { biased;
        _ = &mut renewal => panic!("the thread is still at the disk"),
        () = std::future::ready(()) => {}
    }
    rig.clock.advance(Duration::from_secs(2));
    go.send(()).unwrap();
    // For the save that there would be if the lease ended after all, so that the test fails rather than hangs.
    go.send(()).unwrap();
    assert_eq!(token(&renewal.await.unwrap()), Some(1));
    stalled.await.unwrap().unwrap();
}

#[tokio::test]
async fn while_nothing_can_be_stored_leaders_go_on_and_nobody_new_is_told_of() {
    let rig = rig(None).await;
    let (leads, next, elsewhere) =
        (rig.enter("a").await.unwrap(), rig.enter("a").await.unwrap(), rig.enter("b").await.unwrap());
    rig.broken.store(true, Ordering::SeqCst);

    let newcomer = rig.enter("b").await;
    assert!(matches!(newcomer, Err(CoordinatorError::Unavailable(_))), "{newcomer:?}");
    assert_eq!(token(&rig.renew("b", &elsewhere).await.unwrap()), Some(1), "a lease needs no disk");
    let resigned = rig.coordinator.resign(&name("a"), leads.candidate).await;
    assert!(matches!(resigned, Err(CoordinatorError::OutcomeUnknown(_))), "{resigned:?}");
    let renewed = rig.renew("a", &next).await;
    assert!(matches!(renewed, Err(CoordinatorError::Unavailable(_))), "its token isn't stored: {renewed:?}");
    assert!(rig.coordinator.status(&name("a")).await.is_err());

    rig.broken.store(false, Ordering::SeqCst);
    rig.coordinator.tick().await;
    assert_eq!(token(&rig.renew("a", &next).await.unwrap()), Some(2));
    assert_eq!(rig.coordinator.status(&name("b")).await.unwrap().waiting, 0, "who was refused doesn't wait");
}

#[tokio::test]
async fn a_token_that_could_not_be_stored_is_not_used_again() {
    let rig = rig(None).await;
    rig.broken.store(true, Ordering::SeqCst);
    assert!(rig.enter("a").await.is_err());
    rig.broken.store(false, Ordering::SeqCst);
    rig.coordinator.tick().await;
    // The commit that failed may have reached the disk after all.
    assert_eq!(token(&rig.enter("a").await.unwrap()), Some(2));
}

#[tokio::test]
async fn after_close_everything_is_unavailable() {
    let rig = rig(None).await;
    rig.coordinator.close().await;
    assert!(matches!(rig.enter("a").await, Err(CoordinatorError::Unavailable(_))));
    rig.coordinator.tick().await;
    rig.coordinator.close().await;
}
