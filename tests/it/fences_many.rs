//! Very many fences: what operators ask of them stays quick, and small.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fencegate::fence::drain::OnUnknown;
use fencegate::resource::Look;
use fencegate::resource::http::fences::{Fences, Scope};

use crate::fences::{open, policy, scope};

/// More than are looked at in one go.
const MANY: usize = 220_000;

/// Fences `stock/000000` to `stock/219999` and `x/1`, as they are in the store.
fn store(dir: &std::path::Path) {
    let fences = open(dir, policy(OnUnknown::Wait));
    fences.stop();
    drop(fences);
    let conn = rusqlite::Connection::open(dir.join("fences.db")).unwrap();
    let rows = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})
         INSERT INTO mark (id, fence, token, holder, advanced_at_ms, settled)
         SELECT i, printf('stock/%06d', i - 1), i, 'node', 1, 1 FROM n"
    );
    conn.execute(&rows, []).unwrap();
    let other = "INSERT INTO mark (id, fence, token, advanced_at_ms, settled) VALUES (?1, 'x/1', 1, 1, 1)";
    conn.execute(other, [i64::try_from(MANY).unwrap() + 1]).unwrap();
}

#[test]
fn a_page_and_a_search_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path());
    let other = Scope {
        resource: "x".into(),
        policy: policy(OnUnknown::Wait),
        owns: Box::new(|n| n.starts_with("x/")),
        trust: None,
    };
    // No journal was kept for these rows: all of them start quarantined, which is the worst there is to list.
    std::fs::remove_file(dir.path().join("fences.journal")).unwrap();
    let fences = Fences::open(dir.path(), vec![scope(policy(OnUnknown::Wait)), other]).unwrap();
    let timed = |what: &str, look: &Look| {
        let began = Instant::now();
        let found = fences.list(0, look);
        eprintln!("{what}: {:?}", began.elapsed());
        (found, began.elapsed())
    };
    let page = |look: Look| Look { limit: 50, ..look };
    let (found, first) = timed("first page", &page(Look::default()));
    assert_eq!((found.fences.len(), found.next.as_deref()), (50, Some("stock/000049")));
    let (found, middle) = timed("page in the middle", &page(Look { after: "stock/150000".into(), ..Look::default() }));
    assert_eq!(found.fences[0].fence.as_str(), "stock/150001");
    let (found, prefix) = timed("prefix near the end", &page(Look { prefix: "stock/2199".into(), ..Look::default() }));
    assert_eq!((found.fences.len(), found.fences[0].fence.as_str()), (50, "stock/219900"));
    // Two hundred thousand names lie before it: those must not have been read.
    let (_, search) = timed("part, to where one stops", &page(Look { part: "219999".into(), ..Look::default() }));
    for quick in [first, middle, prefix] {
        assert!(
            quick * 4 < search + Duration::from_millis(20),
            "{quick:?}, where reading a hundred thousand takes {search:?}"
        );
    }

    // A part is looked for in steps, and what is found is all there is.
    let mut look = page(Look { part: "99".into(), ..Look::default() });
    look.limit = 1000;
    let (mut names, mut steps) = (BTreeSet::new(), 0);
    loop {
        let found = fences.list(0, &look);
        assert!(found.fences.len() <= 1000);
        names.extend(found.fences.into_iter().map(|info| info.fence.to_string()));
        steps += 1;
        match found.next {
            Some(next) => look.after = next,
            None => break,
        }
    }
    let expected: BTreeSet<String> =
        (0..MANY).map(|number| format!("stock/{number:06}")).filter(|name| name.contains("99")).collect();
    assert_eq!((names.len(), &names), (expected.len(), &expected), "in {steps} steps");
    let none = fences.list(0, &page(Look { part: "nowhere".into(), ..Look::default() }));
    assert_eq!((none.fences.len(), none.next.as_deref()), (0, Some("stock/099999")), "it stops, and says where");

    let tally = fences.tally(0);
    assert_eq!((tally.fences, tally.quarantined), (MANY as u64, MANY as u64));
    assert_eq!((fences.tally(1).fences, fences.quarantined(1, 9).len()), (1, 1));
    let began = Instant::now();
    let stuck = fences.quarantined(0, 20);
    eprintln!("the first quarantined: {:?}", began.elapsed());
    assert!(stuck.len() == 20 && stuck.iter().all(|info| info.quarantine.is_some()));
}
