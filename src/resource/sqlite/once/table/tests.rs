use proptest::prelude::*;

use super::*;

const MIGRATION: &str = include_str!("../../../../../migrations/sqlite/V2__answers.sql");
const BOUNDS: Bounds = Bounds { retention_ms: 1000, hold_ms: 0, keys: 1000, bytes: 1 << 30 };

fn conn() -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(MIGRATION).unwrap();
    conn
}

fn put(conn: &Connection, key: &str, answer: Option<&[u8]>, now_ms: i64, bounds: &Bounds) -> Grown {
    let entry = Entry { key, request: &[7; 32], fences: "app", answer };
    let grown = keep(conn, "app", &entry, now_ms, bounds).unwrap();
    assert_eq!(grown.queue, queue(conn, "app").unwrap());
    grown
}

fn rows(conn: &Connection) -> i64 {
    conn.query_row("SELECT count(*) FROM fencegate_answers WHERE fence = 'app'", [], |row| row.get(0)).unwrap()
}

#[test]
fn what_is_kept_is_found_on_its_own_fence_until_its_time_is_up() {
    let conn = conn();
    put(&conn, "k", Some(b"done"), 5000, &BOUNDS);
    let kept = Kept { request: [7; 32], fences: "app".into(), answer: Some(b"done".to_vec()) };
    assert_eq!(find(&conn, "app", "k", 5000).unwrap(), Some(kept));
    assert_eq!(find(&conn, "app", "k", 5001).unwrap(), None);
    assert_eq!(find(&conn, "app", "l", 0).unwrap(), None);
    assert_eq!(find(&conn, "other", "k", 0).unwrap(), None);
    // Used anew once its time is up.
    put(&conn, "k", None, 7000, &BOUNDS);
    assert_eq!(find(&conn, "app", "k", 6000).unwrap().unwrap().answer, None);
    assert_eq!(rows(&conn), 1);
}

#[test]
fn what_has_expired_goes_a_few_at_a_time() {
    let conn = conn();
    for number in 0..20 {
        put(&conn, &number.to_string(), Some(b""), number, &BOUNDS);
    }
    let grown = put(&conn, "a", Some(b""), 1_000_000, &BOUNDS);
    assert_eq!((rows(&conn), grown.evicted), (17, 0));
    for key in ["b", "c", "d", "e"] {
        put(&conn, key, Some(b""), 1_000_000, &BOUNDS);
    }
    assert_eq!(rows(&conn), 5);
}

#[test]
fn the_oldest_goes_first_where_there_are_too_many() {
    let conn = conn();
    let bounds = Bounds { keys: 3, ..BOUNDS };
    let evicted: u64 = (0..10).map(|n| put(&conn, &n.to_string(), Some(b""), 0, &bounds).evicted).sum();
    assert_eq!((rows(&conn), evicted), (3, 7));
    for number in 0..10 {
        assert_eq!(find(&conn, "app", &number.to_string(), 0).unwrap().is_some(), number >= 7);
    }
}

#[test]
fn a_young_one_stays_whatever_comes() {
    let conn = conn();
    let bounds = Bounds { keys: 2, hold_ms: 100, ..BOUNDS };
    assert!(!put(&conn, "a", Some(b""), 0, &bounds).is_full);
    assert!(!put(&conn, "b", Some(b""), 50, &bounds).is_full);
    assert!(put(&conn, "c", Some(b""), 99, &bounds).is_full);
    assert_eq!(rows(&conn), 3);
    // Old enough now, both that there is one too many of, and the next.
    assert!(!put(&conn, "d", Some(b""), 150, &bounds).is_full);
    assert_eq!(rows(&conn), 2);
    // One that lasts no longer than it is held goes when it has expired.
    let bounds = Bounds { keys: 1, hold_ms: 1_000_000, ..BOUNDS };
    assert!(!put(&conn, "e", Some(b""), 5000, &bounds).is_full);
    assert_eq!(rows(&conn), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Within the bounds after every write once they were kept, with the newest always there, and no more removed than there came.
    #[test]
    fn a_queue_stays_within_its_bounds(
        keys in 1..20_i64,
        bytes in 1000..20_000_i64,
        writes in prop::collection::vec((0..40_u8, 0..4000_usize, 0..300_i64), 1..80),
    ) {
        let conn = conn();
        let bounds = Bounds { keys, bytes, ..BOUNDS };
        let mut now_ms = 0;
        let mut latest = std::collections::HashMap::new();
        for (key, len, later) in writes {
            now_ms += later;
            let key = key.to_string();
            // As the writer does: a key that is kept isn't kept again.
            if find(&conn, "app", &key, now_ms - bounds.retention_ms).unwrap().is_some() {
                continue;
            }
            let answer = vec![b'x'; len];
            let grown = put(&conn, &key, Some(&answer), now_ms, &bounds);
            latest.insert(key.clone(), now_ms);
            prop_assert!(!grown.is_full);
            prop_assert!(grown.queue.keys == 1 || (grown.queue.keys <= keys && grown.queue.bytes <= bytes));
            prop_assert!(rows(&conn) <= grown.queue.keys);
            prop_assert_eq!(find(&conn, "app", &key, now_ms).unwrap().unwrap().answer, Some(answer));
        }
        // Whatever is there is the latest of its key.
        for (key, at_ms) in latest {
            if find(&conn, "app", &key, 0).unwrap().is_some() {
                prop_assert!(find(&conn, "app", &key, at_ms).unwrap().is_some());
            }
        }
    }
}
