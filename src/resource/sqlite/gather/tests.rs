use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

/// Clients who ask again as soon as they are answered: after so long at the earliest, and each so much later than the one before it.
struct Closed {
    clients: usize,
    back: Duration,
    apart: Duration,
}

/// What became of so many transactions whose commit takes so long: requests in each, on average, and how many waited in vain.
fn committed(closed: &Closed, commit: Duration, transactions: usize) -> (f64, usize) {
    let start = Instant::now();
    let (mut linger, mut now) = (Linger::default(), start);
    // When each comes.
    let mut coming: BinaryHeap<Reverse<Instant>> =
        (0..closed.clients).map(|client| Reverse(start + closed.apart * client as u32)).collect();
    let come = |coming: &mut BinaryHeap<Reverse<Instant>>, now: Instant| {
        let mut count = 0;
        while coming.peek().is_some_and(|Reverse(at)| *at <= now) {
            coming.pop();
            count += 1;
        }
        count
    };
    let (mut all, mut in_vain, mut waiting) = (0, 0, 0);
    for _ in 0..transactions {
        if waiting == 0 {
            now = now.max(coming.peek().expect("somebody comes").0);
            waiting = come(&mut coming, now);
        }
        let mut len = waiting;
        while let Some((wanted, until)) = linger.until(len, now) {
            let nth = coming.clone().into_sorted_vec().into_iter().rev().nth(wanted - 1).map(|Reverse(at)| at);
            now = nth.filter(|at| *at < until).unwrap_or(until).max(now);
            len += come(&mut coming, now);
        }
        now += commit;
        waiting = come(&mut coming, now);
        let goal = linger.goal.map(|(goal, _)| goal);
        in_vain += usize::from(goal.is_some_and(|goal| len < goal));
        linger.committed(len, waiting, now - commit, commit);
        coming.extend((0..len).map(|client| Reverse(now + closed.back + closed.apart * client as u32)));
        all += len;
    }
    (all as f64 / transactions as f64, in_vain)
}

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

#[test]
fn who_comes_back_in_time_is_waited_for() {
    // Without waiting, it is half of them each time.
    let (len, in_vain) = committed(&Closed { clients: 64, back: 100 * US, apart: 10 * US }, 2 * MS, 1000);
    assert!(len > 56.0 && in_vain < 10, "{len}, {in_vain} in vain");
}

#[test]
fn who_takes_longer_than_a_commit_is_not() {
    let (_, in_vain) = committed(&Closed { clients: 64, back: 5 * MS, apart: 100 * US }, MS, 10_000);
    assert!(in_vain < 200, "{in_vain} in vain");
}

#[test]
fn nobody_is_waited_for_where_the_disk_is_quick() {
    let (_, in_vain) = committed(&Closed { clients: 8, back: 10 * US, apart: US }, WORTH - US, 1000);
    let mut linger = Linger::default();
    let now = Instant::now();
    linger.committed(4, 4, now - (WORTH - US), WORTH - US);
    assert_eq!((in_vain, linger.until(4, now)), (0, None));
}

#[test]
fn who_is_alone_never_waits() {
    let (len, in_vain) = committed(&Closed { clients: 1, back: 50 * US, apart: US }, 2 * MS, 100);
    assert_eq!((len, in_vain), (1.0, 0));
    let mut linger = Linger::default();
    let now = Instant::now();
    for _ in 0..100 {
        assert_eq!(linger.until(1, now), None);
        linger.committed(1, 0, now, 2 * MS);
    }
}

#[test]
fn it_waits_for_a_part_of_what_a_commit_takes_and_a_while_at_most() {
    let now = Instant::now();
    for (takes, waits) in [(3 * MS, 2 * MS), (40 * MS, LINGER_MAX)] {
        let mut linger = Linger::default();
        linger.committed(4, 4, now - takes, takes);
        assert_eq!(linger.until(4, now), Some((4, now + waits)));
        // And not anew for each that comes.
        assert_eq!(linger.until(5, now + waits / 2), Some((3, now + waits)));
        assert_eq!(linger.until(5, now + waits), None);
        linger.committed(5, 0, now - takes, takes);
        // In vain: the next ones don't wait.
        for _ in 0..4 {
            assert_eq!(linger.until(2, now), None);
            linger.committed(4, 4, now - takes, takes);
        }
        // Nor one that begins when it is too late.
        assert_eq!(linger.until(4, now + waits), None);
        assert!(linger.until(4, now).is_some());
    }
}
