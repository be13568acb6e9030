//! A term of leadership that is kept alive in the background, and known to be over when it is.
//!
//! One task, the keeper, owns the coordinator's term. It renews the lease at every third of it, watches for the end of the term,
//! and is the only one that talks to the coordinator. What it learns goes into one [`Lease`], which everybody asks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::clock::{BootClock, Clock};
use super::lease::{Lease, Lost};
use crate::coordinator::{self, Bid, Coordinator, CoordinatorError, Credentials};
use crate::fence::{FenceName, Holder, Token};

/// A lease is renewed when one of so many parts of it has passed.
const RENEWALS_PER_LEASE: u32 = 3;
/// How long after a renewal that failed the next is tried: a part of the lease, within these bounds.
const RETRY_PARTS: u32 = 20;
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A term of leadership. Clones are the same term; when the last is dropped, it is resigned.
///
/// ```
/// # async fn example(leadership: fencegate::client::Leadership) {
/// tokio::select! {
///     why = leadership.lost() => eprintln!("no longer the leader: {why}"),
///     () = async { /* the leader's work */ } => {}
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Leadership {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Resign>,
}

type Resign = oneshot::Sender<Result<(), CoordinatorError>>;

#[derive(Debug)]
struct Shared {
    election: FenceName,
    token: Token,
    holder: Option<Holder>,
    clock: Arc<dyn Clock>,
    lease: Mutex<Lease>,
    credentials: Mutex<Credentials>,
    lost: watch::Sender<Option<Lost>>,
}

/// Stands for election and waits, as long as it takes, until it leads.
///
/// # Errors
/// As [`Coordinator::campaign`]; [`CoordinatorError::Lost`] where the lease ran out before it could be renewed for the first
/// time.
pub async fn campaign<C: Coordinator>(
    coordinator: &C,
    election: &FenceName,
    bid: &Bid,
) -> Result<Leadership, CoordinatorError>
where
    C::Leadership: 'static,
{
    campaign_by(coordinator, election, bid, Arc::new(BootClock)).await
}

/// The same by another clock.
///
/// # Errors
/// As [`campaign`].
pub async fn campaign_by<C: Coordinator>(
    coordinator: &C,
    election: &FenceName,
    bid: &Bid,
    clock: Arc<dyn Clock>,
) -> Result<Leadership, CoordinatorError>
where
    C::Leadership: 'static,
{
    let mut term = coordinator.campaign(election, bid).await?;
    let (sent, granted) = match first_renewal(&mut term, bid.ttl, &*clock).await {
        Ok(renewed) => renewed,
        Err(why) => {
            // Nobody is to wait for what is left of its lease. Where that can't be said either, it runs out.
            let _ = coordinator::Leadership::resign(term).await;
            return Err(why);
        }
    };
    let lease = Lease::new(sent, granted);
    let (lost, _) = watch::channel(None);
    let shared = Arc::new(Shared {
        election: election.clone(),
        token: coordinator::Leadership::token(&term),
        holder: bid.holder.clone(),
        clock,
        lease: Mutex::new(lease),
        credentials: Mutex::new(coordinator::Leadership::credentials(&term)),
        lost,
    });
    let (orders, ordered) = mpsc::channel(1);
    tokio::spawn(Keeper { shared: Arc::clone(&shared), term, granted, sent }.run(ordered));
    let leadership = Leadership { shared, orders };
    match leadership.check() {
        Ok(_) => Ok(leadership),
        Err(_) => Err(CoordinatorError::Lost),
    }
}

/// The wait may have been longer than the lease: nothing is known of it until a renewal succeeds. Tries for as long as a lease may
/// last, and says when the one was sent that succeeded.
async fn first_renewal<T: coordinator::Leadership>(
    term: &mut T,
    ttl: Duration,
    clock: &dyn Clock,
) -> Result<(Duration, Duration), CoordinatorError> {
    let begun = clock.now();
    loop {
        let sent = clock.now();
        match term.renew().await {
            Ok(granted) => return Ok((sent, granted)),
            Err(CoordinatorError::Lost) => return Err(CoordinatorError::Lost),
            Err(why) if clock.now().saturating_sub(begun) >= ttl => return Err(why),
            Err(_) => tokio::time::sleep((ttl / RETRY_PARTS).clamp(RETRY.0, RETRY.1)).await,
        }
    }
}

impl Leadership {
    /// The token of this term, whether or not it still leads.
    pub fn token(&self) -> Token {
        self.shared.token
    }

    /// The name that it stood with.
    pub fn holder(&self) -> Option<&Holder> {
        self.shared.holder.as_ref()
    }

    /// The election that it won.
    pub fn election(&self) -> &FenceName {
        &self.shared.election
    }

    /// A signed credential of this term for this fence, as young as the last renewal; `None` where the coordinator signs nothing. A gate
    /// takes it in `Authorization: Bearer`, and clients bound to this leadership send it by themselves.
    pub fn credential(&self, fence: &FenceName) -> Option<String> {
        let credentials = self.shared.credentials.lock().unwrap_or_else(PoisonError::into_inner);
        credentials.of(fence).map(str::to_owned)
    }

    /// The token, if the leadership is known to be alive at this moment: by the clock, so that a process that was paused past its
    /// lease learns it from the first call after it wakes.
    ///
    /// # Errors
    /// [`Lost`], from then on for good.
    pub fn check(&self) -> Result<Token, Lost> {
        match self.shared.with_lease(Lease::check) {
            Ok(()) => Ok(self.shared.token),
            Err(why) => Err(why),
        }
    }

    /// Whether the leadership is known to be alive at this moment.
    pub fn is_alive(&self) -> bool {
        self.check().is_ok()
    }

    /// How long the lease is known to last if it isn't renewed; nothing where it is over.
    pub fn time_left(&self) -> Duration {
        self.shared.with_lease(Lease::left)
    }

    /// Waits until the leadership is lost, and says why. Any number of tasks may wait.
    pub async fn lost(&self) -> Lost {
        let mut lost = self.shared.lost.subscribe();
        let why = match lost.wait_for(Option::is_some).await {
            Ok(why) => *why,
            Err(_) => None,
        };
        why.unwrap_or(Lost::Ended)
    }

    /// Takes the leadership for lost, for a reason that the coordinator doesn't know of: a gate has refused the token. The lease
    /// goes on until it is resigned or runs out.
    pub fn give_up(&self, why: Lost) -> Lost {
        self.shared.end(why)
    }

    /// Gives the leadership up, so that the next candidate leads at once. All clones know that it is over before the coordinator
    /// is told. One that was lost before is resigned all the same: what may be left of its lease holds up nobody.
    ///
    /// # Errors
    /// [`CoordinatorError::Lost`] where it was over already. After any other error it may or may not have ended: it does so by
    /// its lease at the latest.
    pub async fn resign(self) -> Result<(), CoordinatorError> {
        self.shared.end(Lost::Resigned);
        let (done, told) = oneshot::channel();
        if self.orders.send(done).await.is_err() {
            return Err(CoordinatorError::Lost);
        }
        told.await.unwrap_or(Err(CoordinatorError::Lost))
    }
}

impl Shared {
    fn with_lease<T>(&self, ask: impl FnOnce(&mut Lease, Duration) -> T) -> T {
        let mut lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        // The clock is read under the lock: a reading from before somebody else's would make the lease seem younger.
        let now = self.clock.now();
        let answer = ask(&mut lease, now);
        let lost = lease.check(now).err();
        drop(lease);
        if let Some(why) = lost {
            self.lost.send_if_modified(|told| {
                let first = told.is_none();
                told.get_or_insert(why);
                first
            });
        }
        answer
    }

    fn end(&self, why: Lost) -> Lost {
        self.with_lease(|lease, _| lease.end(why))
    }
}

struct Keeper<T> {
    shared: Arc<Shared>,
    term: T,
    granted: Duration,
    sent: Duration,
}

impl<T: coordinator::Leadership> Keeper<T> {
    async fn run(mut self, mut orders: mpsc::Receiver<Resign>) {
        let order = tokio::select! {
            order = orders.recv() => order,
            () = self.keep() => orders.recv().await,
        };
        // The order to resign, or nothing where every clone was dropped. Before anybody else can lead, nobody here does.
        self.shared.end(Lost::Resigned);
        let resigned = self.term.resign().await;
        if let Some(done) = order {
            let _ = done.send(resigned);
        }
    }

    /// Renews until the term is lost. Dropping this future leaves a renewal of unknown outcome at most.
    async fn keep(&mut self) {
        let mut ended = std::pin::pin!(self.term.ended());
        let mut next = self.sent + self.granted / RENEWALS_PER_LEASE;
        loop {
            let left = self.shared.with_lease(Lease::left);
            if left.is_zero() {
                return;
            }
            let now = self.shared.clock.now();
            let step = async {
                if let Some(wait) = next.checked_sub(now) {
                    tokio::time::sleep(wait).await;
                }
                let sent = self.shared.clock.now();
                // One that hangs must not cost the whole lease: the next may find another way.
                let renewal = tokio::time::timeout(self.granted / RENEWALS_PER_LEASE, self.term.renew());
                let hangs = || Err(CoordinatorError::OutcomeUnknown("no answer in time".into()));
                (sent, renewal.await.unwrap_or_else(|_| hangs()))
            };
            let (sent, renewed) = tokio::select! {
                renewed = step => renewed,
                () = &mut ended => {
                    self.shared.end(Lost::Ended);
                    return;
                }
                // Only wakes up: the clock decides, at the head of the loop.
                () = tokio::time::sleep(left) => continue,
            };
            match renewed {
                Ok(granted) => {
                    self.granted = granted;
                    let credentials = self.term.credentials();
                    *self.shared.credentials.lock().unwrap_or_else(PoisonError::into_inner) = credentials;
                    if self.shared.with_lease(|lease, now| lease.renewed(sent, granted, now)).is_err() {
                        return;
                    }
                    next = sent + granted / RENEWALS_PER_LEASE;
                }
                Err(CoordinatorError::Lost) => {
                    self.shared.end(Lost::Ended);
                    return;
                }
                Err(why) => {
                    tracing::warn!("the lease of election {} could not be renewed: {why}", self.shared.election);
                    next = self.shared.clock.now() + (self.granted / RETRY_PARTS).clamp(RETRY.0, RETRY.1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
