use super::*;

/// An item of a lane, with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct One(LaneId, usize);

impl Laned for One {
    fn lane(&self) -> LaneId {
        self.0
    }
}

const A: LaneId = 0;
const B: LaneId = 1;
const C: LaneId = 2;

fn filled(len_max: usize, lanes: &[(LaneId, usize)]) -> Queue<One> {
    let queue = Queue::new(len_max);
    for (lane, count) in lanes {
        for number in 0..*count {
            queue.push(One(*lane, number), false).expect("there is room");
        }
    }
    queue
}

/// Takes and runs all that waits, piece by piece; `costs` says how long an item of a lane takes. The order in which they ran.
fn run(queue: &Queue<One>, piece: usize, costs: impl Fn(LaneId) -> Duration) -> Vec<One> {
    let (mut spent, mut order) = (Spent::default(), Vec::new());
    loop {
        let items = queue.take_ready(piece, &mut spent);
        if items.is_empty() {
            return order;
        }
        for taken in items {
            let (item, bill) = taken.split();
            spent.add(&bill, costs(item.0));
            order.push(item);
        }
    }
}

fn place(order: &[One], item: One) -> usize {
    order.iter().position(|other| *other == item).expect("it was run")
}

#[test]
fn one_write_among_a_thousand_of_another_fence_is_next() {
    let even = |_| Duration::from_micros(20);
    let queue = filled(4096, &[(A, 1000), (B, 1)]);
    assert!(place(&run(&queue, 64, even), One(B, 0)) <= 1);
    // Also where the other has been served for long, and has had it to itself.
    let queue = filled(4096, &[(A, 1000)]);
    let mut spent = Spent::default();
    for taken in queue.take_ready(700, &mut spent) {
        spent.add(&taken.split().1, Duration::from_micros(90));
    }
    queue.push(One(B, 0), false).expect("there is room");
    assert!(place(&run(&queue, 1, even), One(B, 0)) <= 1);
    // What has no lane of its own waits for all before it: that is what lanes are for.
    let queue = filled(4096, &[(A, 1001)]);
    assert_eq!(place(&run(&queue, 64, even), One(A, 1000)), 1000);
}

#[test]
fn lanes_have_equal_times_not_equal_numbers() {
    let costs = |lane| Duration::from_micros(if lane == A { 1000 } else { 10 });
    let queue = filled(4096, &[(A, 500), (B, 1300)]);
    let order = run(&queue, 16, costs);
    // When all of B's 13 ms are done, A has had about as much.
    let last = place(&order, One(B, 1299));
    let before = order[..last].iter().filter(|item| item.0 == A).count();
    assert!((5..=45).contains(&before), "{before}");
}

#[test]
fn an_idle_lane_saves_up_nothing() {
    let even = |_| Duration::from_micros(100);
    let queue = filled(4096, &[(A, 1000)]);
    run(&queue, 10, even);
    let mut spent = Spent::default();
    assert_eq!(queue.take(1, Instant::now(), &mut spent).map(|items| items.len()), Some(0));
    // B was away all the time. It doesn't go first for as long as A had the queue to itself.
    for number in 0..100 {
        queue.push(One(B, number), false).expect("there is room");
        queue.push(One(A, number), false).expect("there is room");
    }
    let order = run(&queue, 10, even);
    let before = order[..place(&order, One(B, 99))].iter().filter(|item| item.0 == A).count();
    assert!(before > 80, "{before}");
}

#[test]
fn a_lane_has_as_many_places_as_are_left() {
    let fill =
        |queue: &Queue<One>, lane| (0..100).take_while(|number| queue.push(One(lane, *number), false).is_ok()).count();
    let queue = Queue::new(60);
    assert_eq!([fill(&queue, A), fill(&queue, B), fill(&queue, C)], [30, 15, 8]);
    assert!(queue.push(One(NOBODY, 0), false).is_ok(), "whoever comes next finds a place");
    assert!(queue.push_over(One(A, 99)).is_ok(), "but for what all others wait for");
    assert_eq!(run(&queue, 1, |_| Duration::from_micros(20)).iter().find(|item| item.0 == A), Some(&One(A, 99)));
    // What is put aside still counts.
    let queue = Queue::new(60);
    assert_eq!(fill(&queue, A), 30);
    for _ in queue.take_ready(30, &mut Spent::default()) {
        queue.put_aside(A);
    }
    assert_eq!((queue.waiting(), fill(&queue, A), fill(&queue, B)), (0, 0, 15));
    (0..30).for_each(|_| queue.take_back(A));
    assert_eq!(fill(&queue, A), 23);
}

#[test]
fn the_urgent_go_first_in_their_lane_and_only_there() {
    let queue = filled(100, &[(A, 3), (B, 2)]);
    for number in 10..30 {
        queue.push(One(A, number), true).expect("there is room");
    }
    queue.push(One(OWN, 0), true).expect("there is room");
    let order = run(&queue, 4, |_| Duration::from_micros(20));
    assert_eq!(order[0], One(OWN, 0), "the gate's own tasks go before all");
    assert!(place(&order, One(A, 10)) < place(&order, One(A, 0)));
    assert!(place(&order, One(B, 1)) <= 5, "{order:?}");
}

#[test]
fn what_is_given_back_is_where_it_was() {
    let queue = filled(100, &[(A, 4)]);
    queue.push(One(A, 9), true).expect("there is room");
    let mut items = queue.take_ready(10, &mut Spent::default()).into_iter();
    assert_eq!(items.next().map(|taken| taken.split().0), Some(One(A, 9)));
    assert_eq!(items.next().map(|taken| taken.split().0), Some(One(A, 0)));
    queue.push(One(A, 4), false).expect("there is room");
    queue.give_back(items);
    assert_eq!(queue.waiting(), 4);
    let order = run(&queue, 10, |_| Duration::from_micros(20));
    assert_eq!(order, [One(A, 1), One(A, 2), One(A, 3), One(A, 4)]);
}

#[test]
fn who_waits_for_several_is_woken_for_all_of_them_or_for_an_urgent_one() {
    let queue = filled(16, &[(A, 1)]);
    let taken = |wanted, until| {
        let mut spent = Spent::default();
        queue.take_when(wanted, until, 16, &mut spent).into_iter().map(|taken| taken.item.1).collect::<Vec<_>>()
    };
    let (soon, never) = (|| Instant::now() + Duration::from_millis(5), Instant::now() + Duration::from_secs(3600));
    assert_eq!(taken(1, never), [0]);
    assert!(taken(1, soon()).is_empty());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| taken(3, never));
        for number in 1..=3 {
            queue.push(One(A, number), false).expect("there is room");
        }
        assert_eq!(waits.join().expect("no panic"), [1, 2, 3]);
        let waits = scope.spawn(|| taken(3, never));
        queue.push(One(A, 4), true).expect("there is room");
        assert_eq!(waits.join().expect("no panic"), [4]);
        let waits = scope.spawn(|| taken(3, never));
        queue.close();
        assert!(waits.join().expect("no panic").is_empty());
    });
}
