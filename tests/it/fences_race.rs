//! Many leaders on many fences at once, and a judge that sees every write begin and end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fencegate::fence::drain::{OnUnknown, Outcome, Policy, Purpose};
use fencegate::problem::Kind;
use fencegate::resource::http::fences::Fences;

use crate::fences::{LONG, claim, info, name, open, policy};

const FENCES: usize = 6;
const WRITERS: u64 = 24;
const TIME: Duration = Duration::from_secs(3);
const SETTLE: Duration = Duration::from_millis(30);

/// What is in flight on one fence, and what may still be applied.
#[derive(Default)]
struct Upstream {
    alive: BTreeMap<u64, u64>,
    /// Of writes that ended badly: until when they may be applied.
    unknown: Vec<(u64, Instant)>,
    highest: u64,
}

impl Upstream {
    fn begin(&mut self, token: u64, checked: bool) {
        let now = Instant::now();
        assert!(!checked || self.alive.keys().all(|other| *other == token), "{:?} and {token}", self.alive);
        let settles = self.unknown.iter().all(|(other, until)| *other == token || *until <= now);
        assert!(!checked || settles, "{:?} and {token}", self.unknown);
        assert!(!checked || token >= self.highest, "{} and {token}", self.highest);
        self.unknown.retain(|(_, until)| *until > now);
        self.highest = self.highest.max(token);
        *self.alive.entry(token).or_default() += 1;
    }

    fn end(&mut self, token: u64, outcome: Outcome) {
        let left = self.alive.get_mut(&token).expect("it began");
        *left -= 1;
        if *left == 0 {
            self.alive.remove(&token);
        }
        if outcome == Outcome::Unknown {
            self.unknown.push((token, Instant::now() + SETTLE));
        }
    }
}

fn random(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below
}

struct World {
    fences: Arc<Fences>,
    upstreams: Vec<Mutex<Upstream>>,
    terms: Vec<AtomicU64>,
    done: AtomicU64,
    refused: AtomicU64,
    unknown: bool,
}

async fn lead(world: Arc<World>, seed: u64) {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let ends = Instant::now() + TIME;
    while Instant::now() < ends {
        let at = usize::try_from(random(&mut state, FENCES as u64)).unwrap();
        let fence = format!("stock/{at}");
        let term = match random(&mut state, 8) {
            0 => world.terms[at].fetch_add(1, Ordering::SeqCst) + 1,
            _ => world.terms[at].load(Ordering::SeqCst),
        };
        for _ in 0..random(&mut state, 20) {
            let presented = claim(&fence, term, None);
            let admit = world.fences.admit(0, &presented, Purpose::Write);
            // Some clients go away.
            let patience = if random(&mut state, 10) == 0 { Duration::from_micros(300) } else { LONG };
            let admitted = match tokio::time::timeout(patience, admit).await {
                Err(_) if patience == LONG => panic!("a request hangs"),
                Err(_) => continue,
                Ok(Err(problem)) => {
                    assert!(matches!(problem.kind, Kind::StaleToken | Kind::Quarantined), "{problem}");
                    world.refused.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Ok(Ok(admitted)) => admitted.write.unwrap(),
            };
            world.upstreams[at].lock().unwrap().begin(term, true);
            let takes = Duration::from_micros(random(&mut state, 3_000));
            let cut_off = tokio::time::timeout(takes, admitted.replaced()).await.is_ok();
            let outcome = match world.unknown && (cut_off || random(&mut state, 100) == 0) {
                true => Outcome::Unknown,
                false => Outcome::Known,
            };
            world.upstreams[at].lock().unwrap().end(term, outcome);
            admitted.finish(outcome);
            world.done.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn race(unknown: bool) {
    let dir = tempfile::tempdir().unwrap();
    let settle_ms = u64::try_from(SETTLE.as_millis()).unwrap();
    let fences = open(dir.path(), Policy { drain_ms: 50, settle_ms, ..policy(OnUnknown::Wait) });
    let world = Arc::new(World {
        fences: Arc::clone(&fences),
        upstreams: (0..FENCES).map(|_| Mutex::default()).collect(),
        terms: (0..FENCES).map(|_| AtomicU64::new(1)).collect(),
        done: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        unknown,
    });
    let tasks: Vec<_> = (0..WRITERS).map(|seed| tokio::spawn(lead(Arc::clone(&world), seed))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (done, refused) = (world.done.load(Ordering::Relaxed), world.refused.load(Ordering::Relaxed));
    assert!(done > 500 && refused > 10, "{done} writes, {refused} refused");
    for at in 0..FENCES {
        let fence = format!("stock/{at}");
        assert_eq!(info(&fences, &fence).in_flight, 0);
        let history = fences.history(0, &name(&fence), i64::MAX, 10_000).await.unwrap();
        let rises: Vec<_> = history.iter().rev().filter(|line| line.event == "advanced").collect();
        assert!(rises.iter().all(|line| line.previous < line.token));
        assert!(
            rises.windows(2).all(|pair| pair[0].token == pair[1].previous),
            "each rise starts where the last ended"
        );
    }
    let marks: Vec<_> = (0..FENCES).map(|at| info(&fences, &format!("stock/{at}")).highest).collect();
    drop(world);
    fences.stop();
    drop(fences);
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    let again: Vec<_> = (0..FENCES).map(|at| info(&fences, &format!("stock/{at}")).highest).collect();
    assert_eq!(marks, again);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_older_write_is_alive_while_a_newer_one_is() {
    race(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn and_none_that_may_still_be_applied() {
    race(true).await;
}
