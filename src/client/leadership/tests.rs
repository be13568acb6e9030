//! The keeper against a coordinator of the test's own, in simulated time: slow and lost messages, pauses, clocks that run wrong.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::{Instant, advance, sleep};

use super::*;
use crate::coordinator::{Leader, View};

const TTL: Duration = Duration::from_secs(10);
/// Trials with other numbers each.
const TRIALS: u64 = 1000;

/// Numbers that are the same for the same seed (SplitMix64).
#[derive(Debug)]
struct Dice(Mutex<u64>);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(Mutex::new(seed))
    }

    fn below(&self, end: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = *state;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % end
    }

    /// Mostly short, now and then as long as a lease.
    fn delay(&self) -> Duration {
        let most = if self.below(8) == 0 { 12_000 } else { 40 };
        Duration::from_millis(self.below(most))
    }
}

/// How fast a clock runs, and whether it stands still while its process is paused.
#[derive(Debug)]
struct WrongClock {
    start: Instant,
    per_mille: u32,
    paused: Mutex<Duration>,
    stops_in_pauses: bool,
}

impl WrongClock {
    fn new(per_mille: u32, stops_in_pauses: bool) -> Arc<WrongClock> {
        Arc::new(WrongClock { start: Instant::now(), per_mille, paused: Mutex::default(), stops_in_pauses })
    }
}

impl Clock for WrongClock {
    fn now(&self) -> Duration {
        let paused = if self.stops_in_pauses { *self.paused.lock().unwrap() } else { Duration::ZERO };
        (self.start.elapsed() - paused) * self.per_mille / 1000
    }
}

/// One lease, and when it ends in true time: the coordinator's clock runs wrong, too.
#[derive(Debug)]
struct Site {
    dice: Dice,
    lease: Duration,
    until: Mutex<Instant>,
    out_of_reach: AtomicBool,
    ended: watch::Sender<bool>,
    resigned: AtomicBool,
}

impl Site {
    fn new(seed: u64, per_mille: u32) -> Arc<Site> {
        Arc::new(Site {
            dice: Dice::new(seed),
            lease: TTL * 1000 / per_mille,
            until: Mutex::new(Instant::now() + TTL),
            out_of_reach: AtomicBool::new(false),
            ended: watch::channel(false).0,
            resigned: AtomicBool::new(false),
        })
    }

    fn is_alive(&self) -> bool {
        Instant::now() < *self.until.lock().unwrap()
    }
}

struct Term(Arc<Site>);

impl coordinator::Leadership for Term {
    fn token(&self) -> Token {
        "7".parse().unwrap()
    }

    async fn renew(&mut self) -> Result<Duration, CoordinatorError> {
        let site = &self.0;
        // The request arrives in its own time, whatever becomes of its sender meanwhile.
        let arrives = Instant::now() + site.dice.delay();
        let answered = arrives + site.dice.delay();
        let lost = site.dice.below(10) == 0 || site.out_of_reach.load(Ordering::Relaxed);
        tokio::time::sleep_until(answered).await;
        let mut until = site.until.lock().unwrap();
        if lost {
            return Err(CoordinatorError::Unavailable("lost on its way".into()));
        }
        if arrives >= *until {
            return Err(CoordinatorError::Lost);
        }
        *until = arrives + site.lease;
        Ok(TTL)
    }

    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.0.ended.subscribe();
        async move {
            if ended.wait_for(|ended| *ended).await.is_err() {
                std::future::pending().await
            }
        }
    }

    async fn resign(self) -> Result<(), CoordinatorError> {
        self.0.resigned.store(true, Ordering::Relaxed);
        if self.0.is_alive() { Ok(()) } else { Err(CoordinatorError::Lost) }
    }
}

struct Elects(Arc<Site>);

impl Coordinator for Elects {
    type Leadership = Term;

    async fn campaign(&self, _: &FenceName, _: &Bid) -> Result<Term, CoordinatorError> {
        *self.0.until.lock().unwrap() = Instant::now() + self.0.lease;
        Ok(Term(Arc::clone(&self.0)))
    }

    async fn leader(&self, _: &FenceName) -> Result<Option<Leader>, CoordinatorError> {
        Ok(None)
    }

    async fn observe(&self, _: &FenceName, _: Option<Token>) -> Result<Leader, CoordinatorError> {
        std::future::pending().await
    }

    async fn view(&self, _: &FenceName) -> Result<View, CoordinatorError> {
        Ok(View::default())
    }
}

async fn lead(site: &Arc<Site>, clock: &Arc<WrongClock>) -> Result<Leadership, CoordinatorError> {
    let bid = Bid { holder: None, ttl: TTL };
    campaign_by(&Elects(Arc::clone(site)), &"orders".parse().unwrap(), &bid, Arc::clone(clock) as Arc<dyn Clock>).await
}

/// One leader under pauses and lost messages; whether it ever believed to lead while its lease was over.
async fn believed_too_long(seed: u64, ours: u32, theirs: u32, stops_in_pauses: bool) -> bool {
    let (dice, site, clock) = (Dice::new(!seed), Site::new(seed, theirs), WrongClock::new(ours, stops_in_pauses));
    let leadership = loop {
        if let Ok(leadership) = lead(&site, &clock).await {
            break leadership;
        }
    };
    let mut believed = false;
    let mut lost = false;
    for _ in 0..400 {
        if dice.below(25) == 0 {
            // A pause: nothing of this process runs, all clocks but perhaps ours go on.
            let pause = Duration::from_millis(dice.below(15_000));
            *clock.paused.lock().unwrap() += pause;
            advance(pause).await;
        } else {
            sleep(Duration::from_millis(dice.below(300))).await;
        }
        let alive = leadership.is_alive();
        assert!(!(alive && lost), "seed {seed}: what was lost lives again");
        lost = !alive;
        believed |= alive && !site.is_alive();
        if lost {
            break;
        }
    }
    if lost {
        leadership.lost().await;
    }
    believed
}

#[tokio::test(start_paused = true)]
async fn loss_is_noticed_before_the_lease_can_have_run_out() {
    for seed in 0..TRIALS {
        let drift = Dice::new(seed ^ 0xd1f7);
        let rate = || 990 + u32::try_from(drift.below(21)).unwrap();
        assert!(!believed_too_long(seed, rate(), rate(), false).await, "seed {seed}");
    }
}

/// The negative controls: a clock that is further out than it may be, and one that stands still in pauses, as those of suspended
/// machines do.
#[tokio::test(start_paused = true)]
async fn a_bad_clock_is_found_out() {
    let mut found = [0; 2];
    for seed in 0..TRIALS {
        found[0] += u32::from(believed_too_long(seed, 900, 1010, false).await);
        found[1] += u32::from(believed_too_long(seed, 1000, 1000, true).await);
    }
    assert!(found.iter().all(|times| *times > 0), "{found:?}");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_term_is_told_at_once() {
    let (site, clock) = (Site::new(1, 1000), WrongClock::new(1000, false));
    let leadership = lead(&site, &clock).await.unwrap();
    let others = leadership.clone();
    let waits = tokio::spawn(async move { others.lost().await });
    let before = Instant::now();
    site.ended.send_replace(true);
    assert_eq!(waits.await.unwrap(), Lost::Ended);
    assert_eq!(Instant::now(), before);
    assert_eq!(leadership.check(), Err(Lost::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_out_of_reach_costs_the_leadership_in_time() {
    let (site, clock) = (Site::new(2, 1000), WrongClock::new(1000, false));
    let leadership = lead(&site, &clock).await.unwrap();
    site.out_of_reach.store(true, Ordering::Relaxed);
    assert_eq!(leadership.lost().await, Lost::Expired);
    assert!(site.is_alive(), "the coordinator ends it later");
    assert_eq!(leadership.resign().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn who_resigns_knows_it_before_the_coordinator_does() {
    let (site, clock) = (Site::new(3, 1000), WrongClock::new(1000, false));
    let leadership = lead(&site, &clock).await.unwrap();
    let other = leadership.clone();
    let resigning = leadership.resign();
    let mut resigning = std::pin::pin!(resigning);
    assert!(futures_poll(resigning.as_mut()).await.is_none());
    assert_eq!(other.check(), Err(Lost::Resigned));
    assert_eq!(resigning.await, Ok(()));
    assert!(site.resigned.load(Ordering::Relaxed));
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(mut future: F) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut future).poll(cx) {
            std::task::Poll::Ready(out) => Some(out),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn who_forgets_it_resigns_it() {
    let (site, clock) = (Site::new(4, 1000), WrongClock::new(1000, false));
    let leadership = lead(&site, &clock).await.unwrap();
    let clone = leadership.clone();
    drop(leadership);
    sleep(TTL).await;
    assert!(!site.resigned.load(Ordering::Relaxed) && clone.is_alive());
    drop(clone);
    sleep(Duration::from_millis(1)).await;
    assert!(site.resigned.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_refuses_ends_it() {
    let (site, clock) = (Site::new(5, 1000), WrongClock::new(1000, false));
    let leadership = lead(&site, &clock).await.unwrap();
    assert_eq!(leadership.give_up(Lost::Replaced), Lost::Replaced);
    assert_eq!(leadership.lost().await, Lost::Replaced);
    assert_eq!(leadership.check(), Err(Lost::Replaced));
    assert!(!site.resigned.load(Ordering::Relaxed), "whoever holds it decides");
}
