//! The fences of HTTP resources in this process: advance, drain, quarantine, release, reset, and what is told of it.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fencegate::fence::drain::{OnUnknown, Outcome, Policy, Purpose};
use fencegate::fence::{Claim, FenceName, Verdict};
use fencegate::problem::{Kind, Problem};
use fencegate::resource::http::fences::{Admitted, Fences, InFlight, OpenError, Scope};
use fencegate::resource::{FenceInfo, Look, Quarantined};

/// Long enough that a test which waits for it has failed.
pub const LONG: Duration = Duration::from_secs(20);

pub fn policy(on_unknown: OnUnknown) -> Policy {
    Policy { drain_ms: 60_000, settle_ms: 60_000, on_unknown, enforce: true }
}

pub fn scope(policy: Policy) -> Scope {
    Scope { resource: "stock".into(), policy, owns: Box::new(|name| name.starts_with("stock/")), trust: None }
}

pub fn open(dir: &Path, policy: Policy) -> Arc<Fences> {
    Fences::open(dir, vec![scope(policy)]).unwrap()
}

pub fn name(fence: &str) -> FenceName {
    fence.parse().unwrap()
}

pub fn claim(fence: &str, token: u64, holder: Option<&str>) -> Claim {
    let holder = holder.map(|holder| holder.parse().unwrap());
    Claim { fence: name(fence), token: token.to_string().parse().unwrap(), holder }
}

pub async fn ask(fences: &Arc<Fences>, fence: &str, token: u64, purpose: Purpose) -> Result<Admitted, Problem> {
    let claim = claim(fence, token, None);
    tokio::time::timeout(LONG, fences.admit(0, &claim, purpose)).await.expect("it doesn't hang")
}

pub async fn write(fences: &Arc<Fences>, fence: &str, token: u64) -> InFlight {
    ask(fences, fence, token, Purpose::Write).await.unwrap().write.unwrap()
}

pub fn info(fences: &Fences, fence: &str) -> FenceInfo {
    fences.info(0, fence).unwrap()
}

pub fn highest(fences: &Fences, fence: &str) -> Option<u64> {
    info(fences, fence).highest.map(|token| token.get())
}

/// Waits until something is true.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        let mut every = tokio::time::interval(Duration::from_millis(2));
        while !is_so() {
            every.tick().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn events(fences: &Fences, fence: &str) -> Vec<String> {
    let history = fences.history(0, &name(fence), i64::MAX, 100).await.unwrap();
    history.into_iter().rev().map(|event| event.event).collect()
}

fn told(fences: &Fences) -> Vec<(&'static str, u64)> {
    fences.happened(0).happened.into_iter().map(|happened| (happened.event, happened.count)).collect()
}

#[tokio::test]
async fn the_rule() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    assert_eq!(highest(&fences, "stock/1"), None);
    assert!(fences.info(0, "other").is_none());
    let first = ask(&fences, "stock/1", 5, Purpose::Read).await.unwrap();
    assert_eq!((first.verdict, first.previous, first.write.is_none()), (Verdict::Advanced, None, true));
    let again = ask(&fences, "stock/1", 5, Purpose::Write).await.unwrap();
    assert_eq!((again.verdict, again.previous.map(|token| token.get())), (Verdict::Admitted, Some(5)));
    assert_eq!(info(&fences, "stock/1").in_flight, 1);
    again.write.unwrap().finish(Outcome::Known);
    let bound = fences.admit(0, &claim("stock/1", 5, Some("a")), Purpose::Read).await.unwrap();
    assert_eq!(bound.verdict, Verdict::Admitted);
    let conflict = fences.admit(0, &claim("stock/1", 5, Some("b")), Purpose::Read).await.unwrap_err();
    assert_eq!(conflict.kind, Kind::TokenConflict);
    let stale = ask(&fences, "stock/1", 4, Purpose::Write).await.unwrap_err();
    assert_eq!((stale.kind, stale.highest.map(|token| token.get())), (Kind::StaleToken, Some(5)));
    let next = ask(&fences, "stock/1", 9, Purpose::Read).await.unwrap();
    assert_eq!((next.verdict, next.previous.map(|token| token.get())), (Verdict::Advanced, Some(5)));
    assert_eq!(ask(&fences, "other", 1, Purpose::Read).await.unwrap_err().kind, Kind::NotFound);
    let now = info(&fences, "stock/1");
    assert_eq!((now.highest.map(|token| token.get()), now.in_flight, now.refused), (Some(9), 0, 2));
    assert!(now.advanced_at_ms.is_some() && now.quarantine.is_none());
    assert_eq!(events(&fences, "stock/1").await, ["advanced", "bound", "advanced"]);
    let mut all = told(&fences);
    all.sort_unstable();
    assert_eq!(all, [("advanced", 1), ("advanced", 1), ("bound", 1), ("conflict", 1), ("stale", 1)]);
    let knocks = fences.knocks(0, &name("stock/1")).await.unwrap();
    assert_eq!(knocks.len(), 2);
    fences.stop();
    fences.stop();
    assert_eq!(ask(&fences, "stock/1", 9, Purpose::Write).await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(ask(&fences, "stock/2", 9, Purpose::Write).await.unwrap_err().kind, Kind::Unavailable);
}

#[tokio::test]
async fn a_newer_write_waits_for_the_older_one_to_end() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    let (old, other) = (write(&fences, "stock/1", 5).await, write(&fences, "stock/2", 5).await);
    {
        let mut replaced = pin!(old.replaced());
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(replaced.as_mut().poll(cx).is_pending());
        let mut newer = pin!(ask(&fences, "stock/1", 6, Purpose::Write));
        let told = tokio::select! {
            ends_at = &mut replaced => ends_at,
            _ = &mut newer => panic!("it went while an older one was in flight"),
        };
        let left = told.duration_since(tokio::time::Instant::now());
        assert!(left > Duration::from_secs(50) && left < Duration::from_secs(61), "{left:?}");
        assert!(old.replaced().await <= told, "asked again, it says so at once");
        assert!(tokio::time::timeout(Duration::from_millis(30), &mut newer).await.is_err());
        assert_eq!(ask(&fences, "stock/1", 5, Purpose::Write).await.unwrap_err().kind, Kind::StaleToken);
        assert!(pin!(other.replaced()).poll(cx).is_pending(), "another fence has nothing to do with it");
        assert_eq!(ask(&fences, "stock/2", 5, Purpose::Write).await.unwrap().verdict, Verdict::Admitted);
        assert_eq!(highest(&fences, "stock/1"), Some(6), "the mark is durable while it waits");
    }
    let (newer, done) = (ask(&fences, "stock/1", 6, Purpose::Read), async { old.finish(Outcome::Known) });
    let (newer, ()) = tokio::join!(newer, done);
    assert_eq!(newer.unwrap().verdict, Verdict::Admitted);
    other.finish(Outcome::Known);
}

#[tokio::test]
async fn who_waits_to_be_replaced_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    let old: Vec<InFlight> = [write(&fences, "stock/1", 5).await, write(&fences, "stock/1", 5).await].into();
    let watching = old.into_iter().map(|old| {
        tokio::spawn(async move {
            old.replaced().await;
            old.finish(Outcome::Known);
        })
    });
    let watching: Vec<_> = watching.collect();
    tokio::task::yield_now().await;
    assert!(watching.iter().all(|watching| !watching.is_finished()));
    write(&fences, "stock/1", 6).await.finish(Outcome::Known);
    for watching in watching {
        tokio::time::timeout(LONG, watching).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn overdue_writes_hold_nobody_up_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), Policy { drain_ms: 20, ..policy(OnUnknown::Wait) });
    let old = write(&fences, "stock/1", 5).await;
    // It should have been cut off after 20 ms, and isn't.
    let problem = ask(&fences, "stock/1", 6, Purpose::Read).await.unwrap_err();
    assert_eq!((problem.kind, problem.retry_after), (Kind::Quarantined, Some(Duration::from_secs(1))));
    assert_eq!(problem.highest.map(|token| token.get()), Some(6));
    old.finish(Outcome::Known);
    assert!(ask(&fences, "stock/1", 6, Purpose::Write).await.unwrap().write.is_some());
}

#[tokio::test]
async fn an_unknown_outcome_keeps_newer_tokens_waiting_until_it_settles() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), Policy { settle_ms: 300, ..policy(OnUnknown::Wait) });
    write(&fences, "stock/1", 5).await.finish(Outcome::Unknown);
    assert!(matches!(info(&fences, "stock/1").quarantine, Some(Quarantined::UntilMs(_))));
    write(&fences, "stock/1", 5).await.finish(Outcome::Known);
    let problem = ask(&fences, "stock/1", 6, Purpose::Write).await.unwrap_err();
    assert_eq!((problem.kind, problem.presented.map(|token| token.get())), (Kind::Quarantined, Some(6)));
    assert_eq!(problem.highest.map(|token| token.get()), Some(6));
    let left = problem.retry_after.unwrap();
    assert!(left > Duration::ZERO && left <= Duration::from_millis(301), "{left:?}");
    assert!(problem.detail().contains("stock/1") && problem.detail().contains("ms"), "{}", problem.detail());
    let gauge = |name| fences.gauges(0).into_iter().find(|(gauge, _)| *gauge == name).unwrap().1;
    assert!((gauge("fencegate_http_quarantined") - 1.0).abs() < 0.1);
    let mut all = told(&fences);
    until("it settles", || {
        all.extend(told(&fences));
        all.iter().any(|(event, _)| *event == "settled")
    })
    .await;
    assert!(gauge("fencegate_http_quarantined").abs() < 0.1);
    assert_eq!(info(&fences, "stock/1").quarantine, None);
    write(&fences, "stock/1", 6).await.finish(Outcome::Known);
    assert_eq!(events(&fences, "stock/1").await, ["advanced", "quarantined", "advanced", "settled"]);
}

#[tokio::test]
async fn held_until_an_operator_releases_it() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Hold));
    drop(write(&fences, "stock/1", 5).await);
    assert_eq!(info(&fences, "stock/1").quarantine, Some(Quarantined::Held), "dropped is unknown");
    let problem = ask(&fences, "stock/1", 6, Purpose::Write).await.unwrap_err();
    assert_eq!((problem.kind, problem.retry_after), (Kind::Quarantined, Some(Duration::from_secs(5))));
    assert!(problem.detail().contains("fencegate fences release stock/1"), "{}", problem.detail());
    assert!(fences.release(0, &name("stock/1"), "looked at it".into()).await.unwrap());
    assert!(!fences.release(0, &name("stock/1"), "again".into()).await.unwrap());
    assert!(!fences.release(0, &name("stock/7"), "never claimed".into()).await.unwrap());
    assert_eq!(fences.release(0, &name("x"), String::new()).await.unwrap_err().kind, Kind::NotFound);
    write(&fences, "stock/1", 6).await.finish(Outcome::Known);
    let history = fences.history(0, &name("stock/1"), i64::MAX, 100).await.unwrap();
    assert_eq!((history[0].event.as_str(), history[0].reason.as_deref()), ("released", Some("looked at it")));
    let kinds: Vec<_> = told(&fences).into_iter().map(|(event, _)| event).collect();
    assert_eq!(kinds, ["advanced", "quarantined", "advanced", "released"]);
}

#[tokio::test]
async fn proceed_takes_the_risk() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Proceed));
    write(&fences, "stock/1", 5).await.finish(Outcome::Unknown);
    write(&fences, "stock/1", 6).await.finish(Outcome::Known);
    assert_eq!(info(&fences, "stock/1").quarantine, None);
}

#[tokio::test]
async fn with_the_check_off_everything_goes_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), Policy { enforce: false, ..policy(OnUnknown::Wait) });
    let newer = write(&fences, "stock/1", 6).await;
    let older = write(&fences, "stock/1", 5).await;
    assert_eq!((info(&fences, "stock/1").refused, info(&fences, "stock/1").in_flight), (1, 2));
    newer.finish(Outcome::Known);
    older.finish(Outcome::Known);
}

#[tokio::test]
async fn an_operators_reset() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    let old = write(&fences, "stock/1", 50).await;
    let to = Some("40".parse().unwrap());
    let before = fences.reset(0, &name("stock/1"), to, "restored".into()).await.unwrap();
    assert_eq!(before.map(|token| token.get()), Some(50));
    assert_eq!(highest(&fences, "stock/1"), Some(40));
    let ends_at = tokio::time::timeout(LONG, old.replaced()).await.unwrap();
    assert!(ends_at > tokio::time::Instant::now());
    let (newer, ()) = tokio::join!(ask(&fences, "stock/1", 45, Purpose::Write), async { old.finish(Outcome::Known) });
    newer.unwrap().write.unwrap().finish(Outcome::Known);
    assert_eq!(fences.reset(0, &name("stock/1"), None, "anew".into()).await.unwrap().map(|t| t.get()), Some(45));
    assert_eq!(highest(&fences, "stock/1"), None);
    write(&fences, "stock/1", 1).await.finish(Outcome::Known);
    assert_eq!(fences.reset(0, &name("stock/9"), to, "before any".into()).await.unwrap(), None);
    assert_eq!(highest(&fences, "stock/9"), Some(40));
    assert_eq!(events(&fences, "stock/1").await, ["advanced", "reset", "advanced", "reset", "advanced"]);
    fences.stop();
    drop(fences);
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    assert_eq!((highest(&fences, "stock/1"), highest(&fences, "stock/9")), (Some(1), Some(40)));
}

#[tokio::test]
async fn lists_are_in_order_and_only_of_ones_own() {
    let dir = tempfile::tempdir().unwrap();
    let other = Scope {
        resource: "x".into(),
        policy: policy(OnUnknown::Wait),
        owns: Box::new(|n| n.starts_with("x/")),
        trust: None,
    };
    let fences = Fences::open(dir.path(), vec![scope(policy(OnUnknown::Wait)), other]).unwrap();
    for number in [3, 1, 2, 10] {
        ask(&fences, &format!("stock/{number}"), 1, Purpose::Read).await.unwrap();
        fences.admit(1, &claim(&format!("x/{number}"), 1, None), Purpose::Read).await.unwrap();
    }
    let look = |scope, prefix: &str, part: &str, after: &str, limit| {
        let look = Look { prefix: prefix.into(), part: part.into(), after: after.into(), limit };
        let found = fences.list(scope, &look);
        (found.fences.iter().map(|info| info.fence.to_string()).collect::<Vec<_>>(), found.next)
    };
    let list = |scope, prefix, after, limit| look(scope, prefix, "", after, limit).0;
    assert_eq!(list(0, "", "", 9), ["stock/1", "stock/10", "stock/2", "stock/3"]);
    assert_eq!(list(0, "stock/1", "", 9), ["stock/1", "stock/10"]);
    assert_eq!(list(0, "", "stock/10", 1), ["stock/2"]);
    assert_eq!(list(1, "", "", 2), ["x/1", "x/10"]);
    assert!(list(1, "stock", "", 9).is_empty() && list(0, "", "x", 9).is_empty() && list(0, "", "", 0).is_empty());
    assert_eq!(look(0, "", "K/1", "", 9).0, ["stock/1", "stock/10"], "a part, in whatever case");
    assert_eq!(look(0, "stock/1", "0", "", 9).0, ["stock/10"]);
    assert_eq!(look(0, "", "", "", 2).1.as_deref(), Some("stock/10"));
    assert_eq!((look(0, "", "", "", 4).1, look(0, "", "", "stock/2", 1).1), (None, None), "no page after the last");
    assert_eq!((fences.tally(0).fences, fences.tally(1).fences), (4, 4));
    assert_eq!(fences.admit(1, &claim("stock/1", 1, None), Purpose::Read).await.unwrap_err().kind, Kind::NotFound);
}

/// Polls a future this often, then drops it. True where it was ready before.
async fn poll_and_drop<T>(future: impl Future<Output = T>, polls: usize) -> bool {
    let mut future = pin!(future);
    for _ in 0..polls {
        let mut once = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready()));
        if (&mut once).await {
            return true;
        }
        tokio::time::timeout(Duration::from_millis(5), std::future::pending::<()>()).await.unwrap_err();
    }
    false
}

#[tokio::test]
async fn a_request_can_be_dropped_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    for (round, polls) in (0..5).chain(0..5).enumerate() {
        let token = 10 * (round as u64 + 1);
        let old = write(&fences, "stock/1", token).await;
        // While it is stored, while it waits for the older write.
        let next = claim("stock/1", token + 1, None);
        assert!(!poll_and_drop(fences.admit(0, &next, Purpose::Write), polls).await);
        assert!(!poll_and_drop(old.replaced(), 0).await);
        if polls > 0 {
            until("what was begun is completed", || highest(&fences, "stock/1") == Some(token + 1)).await;
        }
        let in_flight = info(&fences, "stock/1").in_flight;
        old.finish(Outcome::Known);
        assert_eq!((in_flight, info(&fences, "stock/1").in_flight), (1, 0), "nothing was let through for nobody");
        write(&fences, "stock/1", token + 2).await.finish(Outcome::Known);
        let fence = name("stock/1");
        let reset = fences.reset(0, &fence, Some(token.to_string().parse().unwrap()), "x".into());
        poll_and_drop(reset, polls).await;
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_and_all_is_well_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    write(&fences, "stock/1", 5).await.finish(Outcome::Known);
    let conn = rusqlite::Connection::open(dir.path().join("fences.db")).unwrap();
    // One fence that can't be stored doesn't take others with it.
    let full = "CREATE TRIGGER full BEFORE INSERT ON mark WHEN NEW.fence = 'stock/bad' BEGIN SELECT RAISE(ABORT, 'disk full'); END";
    conn.execute_batch(full).unwrap();
    let names: Vec<String> = ["stock/bad".into()].into_iter().chain((10..20).map(|n| format!("stock/{n}"))).collect();
    let tasks: Vec<_> = names
        .iter()
        .map(|name| {
            let (fences, name) = (Arc::clone(&fences), name.clone());
            tokio::spawn(async move { ask(&fences, &name, 1, Purpose::Write).await })
        })
        .collect();
    for (name, task) in names.iter().zip(tasks) {
        match (name.as_str(), task.await.unwrap()) {
            ("stock/bad", result) => {
                let problem = result.unwrap_err();
                assert_eq!(problem.kind, Kind::Unavailable);
                assert!(problem.detail().contains("disk full"), "{}", problem.detail());
            }
            (_, result) => result.unwrap().write.unwrap().finish(Outcome::Known),
        }
    }
    conn.execute_batch("DROP TRIGGER full").unwrap();
    // Somebody else has the file's write lock for longer than the store waits.
    conn.execute_batch("BEGIN IMMEDIATE").unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let fences = Arc::clone(&fences);
            tokio::spawn(async move { ask(&fences, "stock/1", 6 + n % 2, Purpose::Write).await.map(|_| ()) })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap_err().kind, Kind::Unavailable);
    }
    assert!(fences.trouble().is_some());
    write(&fences, "stock/1", 5).await.finish(Outcome::Known);
    assert_eq!(ask(&fences, "stock/new", 1, Purpose::Read).await.unwrap_err().kind, Kind::Unavailable);
    assert_eq!(highest(&fences, "stock/1"), Some(5));
    conn.execute_batch("ROLLBACK").unwrap();
    write(&fences, "stock/1", 6).await.finish(Outcome::Known);
    assert_eq!(fences.trouble(), None);
    write(&fences, "stock/bad", 1).await.finish(Outcome::Known);
}

#[tokio::test]
async fn the_file_refuses_what_must_not_be() {
    let dir = tempfile::tempdir().unwrap();
    let fences = open(dir.path(), policy(OnUnknown::Wait));
    write(&fences, "stock/1", 5).await.finish(Outcome::Known);
    let conn = rusqlite::Connection::open(dir.path().join("fences.db")).unwrap();
    for wrong in
        ["UPDATE mark SET token = 4", "UPDATE mark SET token = NULL", "DELETE FROM mark", "UPDATE mark SET id = 9"]
    {
        assert!(conn.execute(wrong, []).is_err(), "{wrong}");
    }
    match Fences::open(dir.path(), vec![scope(policy(OnUnknown::Wait))]) {
        Err(OpenError::Locked { holder, .. }) => assert!(holder.contains("process"), "{holder}"),
        other => panic!("{other:?}"),
    }
    fences.stop();
    let newer =
        "INSERT INTO fencegate_migrations SELECT 99, 'later', applied_on, checksum FROM fencegate_migrations LIMIT 1";
    conn.execute(newer, []).unwrap();
    drop(conn);
    let error = Fences::open(dir.path(), vec![scope(policy(OnUnknown::Wait))]).unwrap_err();
    assert!(matches!(error, OpenError::Newer { .. }), "{error}");
}
