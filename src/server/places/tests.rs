use std::task::Poll;

use hyper::rt::Timer as _;
use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn each_deadline_is_kept() {
    let places = Places::new("data", 1, 10 * SECOND);
    let place = places.take().expect("one is free");
    let time = HeadTime(Arc::clone(&place.seat));
    let now = || tokio::time::Instant::now().into_std();
    for after in [10, 10, 3, 12] {
        // What was asked for and dropped before its time leaves nothing behind.
        let mut dropped = time.sleep_until(now() + 10 * SECOND);
        assert!(poll_once(&mut dropped).await.is_pending());
        drop(dropped);
        advance(2 * SECOND).await;
        let (began, deadline) = (now(), now() + after * SECOND);
        time.sleep_until(deadline).await;
        assert!(now() >= deadline && now() - began < (after * SECOND) + SECOND / 100, "{after} s");
        // One that is over stays so.
        time.sleep_until(began).await;
    }
}

async fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin + ?Sized)) -> Poll<T> {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

/// A place whose connection waits since so many milliseconds after the listener began, for longer than the test takes.
fn waits(place: &Place, since_ms: u64) -> Waiting {
    let since = place.places().began + Duration::from_millis(since_ms);
    Waiting::until(&place.seat, since + place.places().header_time)
}

/// As if the listener had begun an hour ago.
fn places(max: usize) -> Arc<Places> {
    let mut places = Places::new("data", max, 7200 * SECOND);
    let began = Instant::now().checked_sub(3600 * SECOND).expect("the machine runs for longer");
    Arc::get_mut(&mut places).expect("nobody else has it").began = began;
    places
}

#[tokio::test]
async fn the_longest_waiting_gives_way() {
    let places = places(3);
    let [first, second, busy] = [(); 3].map(|()| places.take().expect("there is room"));
    let (mut long, mut longer) = (waits(&first, 2000), waits(&second, 1000));
    assert!(poll_once(&mut long).await.is_pending() && poll_once(&mut longer).await.is_pending());
    let fourth = places.take().expect("one gives way");
    longer.await;
    assert!(poll_once(&mut long).await.is_pending());
    assert_eq!(places.taken(), 3);
    // Its connection ends later; its place was given away before.
    drop(second);
    assert_eq!(places.taken(), 3);
    let _fifth = places.take().expect("the other gives way");
    long.await;
    assert!(places.take().is_none(), "all of the rest have something to do");
    drop((busy, fourth));
    assert!(places.take().is_some());
}

#[tokio::test]
async fn one_that_has_just_come_has_its_time() {
    let places = places(1);
    let first = places.take().expect("there is room");
    let _waiting = Waiting::from_now(&first.seat);
    assert!(places.take().is_none());
}

#[tokio::test]
async fn one_that_was_to_give_way_and_got_a_request_answers_it() {
    let places = places(1);
    let first = places.take().expect("there is room");
    let waiting = waits(&first, 1000);
    let _second = places.take().expect("it gives way");
    // Its request came at that moment: it ends when it waits again.
    drop(waiting);
    Waiting::from_now(&first.seat).await;
}

#[tokio::test]
async fn one_of_http2_counts_for_more() {
    let places = places(5);
    let (first, second) = (places.take().expect("there is room"), places.take().expect("there is room"));
    assert!(first.counts_for(4));
    assert_eq!(places.taken(), 5);
    assert!(!second.counts_for(4), "they are not there");
    drop(first);
    assert!(second.counts_for(4));
    assert_eq!(places.taken(), 4);
}

#[test]
fn requests_have_their_number() {
    let places = Places::new("data", 2, SECOND);
    assert_eq!([(); 3].map(|()| places.begin()), [true, true, false]);
    (0..3).for_each(|_| places.end());
    assert!(places.begin());
}

#[tokio::test]
async fn one_whose_request_was_refused_goes_first() {
    let places = places(2);
    let (first, second) = (places.take().expect("there is room"), places.take().expect("there is room"));
    let (mut long, refused) = (waits(&first, 1000), Waiting::first(&second.seat));
    let _third = places.take().expect("one gives way");
    refused.await;
    assert!(poll_once(&mut long).await.is_pending());
}
