//! What every resource must do, whatever it is. A new resource is one line in `every_resource!`.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use fencegate::fence::drain::{OnUnknown, Policy};
use fencegate::fence::{Claim, Verdict};
use fencegate::problem::Kind;
use fencegate::resource::http::fences::{Fences, Scope};
use fencegate::resource::http::{
    Http, Limits as HttpLimits, Options as HttpOptions, Protocol, Rules, Template, Upstream,
};
use fencegate::resource::sqlite::{Limits, Options, Sqlite};
use fencegate::resource::{Guarantee, Look, Resource};

use crate::gate::{Gate, LONG};

/// Opens the SQLite resource in a folder.
fn sqlite(dir: &Path) -> Arc<dyn Resource> {
    let options = Options {
        name: "shop".into(),
        file: dir.join("shop.db"),
        fence: "shop".parse().expect("a name"),
        tables: Vec::new(),
        limits: Limits::default(),
        enforce: true,
        trust: None,
    };
    Arc::new(Sqlite::open(options).expect("it opens"))
}

/// Opens the HTTP resource on a data directory, before an upstream that nothing is ever sent to.
fn http(dir: &Path) -> Arc<dyn Resource> {
    let template = Template::parse("shop").expect("a name");
    let owns = template.clone();
    let policy = Policy { drain_ms: 60_000, settle_ms: 60_000, on_unknown: OnUnknown::Wait, enforce: true };
    let scope = Scope { resource: "shop".into(), policy, owns: Box::new(move |name| owns.owns(name)), trust: None };
    let options = HttpOptions {
        name: "shop".into(),
        mount: "/".into(),
        upstream: Upstream::parse("http://127.0.0.1:9", Protocol::Auto, None).expect("an address"),
        fence: template,
        rules: Rules::default(),
        limits: HttpLimits::default(),
        fences: Fences::open(dir, vec![scope]).expect("it opens"),
        scope: 0,
        enforce: true,
    };
    Arc::new(Http::open(options).expect("it opens"))
}

fn claim(token: u64, holder: Option<&str>) -> Claim {
    Claim {
        fence: "shop".parse().expect("a name"),
        token: token.to_string().parse().expect("a token"),
        holder: holder.map(|holder| holder.parse().expect("a holder")),
    }
}

type Open = fn(&Path) -> Arc<dyn Resource>;

async fn the_rule(open: Open) {
    let dir = tempfile::tempdir().expect("a directory");
    let resource = open(dir.path());
    assert_eq!(resource.fence("shop").expect("its fence").highest, None);
    let first = resource.claim(claim(5, None)).await.expect("the first claim is admitted");
    assert_eq!((first.verdict, first.previous), (Verdict::Advanced, None));
    let again = resource.claim(claim(5, None)).await.expect("a leader's second claim is admitted");
    assert_eq!((again.verdict, again.previous.map(|t| t.get())), (Verdict::Admitted, Some(5)));
    resource.claim(claim(5, Some("a"))).await.expect("the first holder named is bound");
    assert_eq!(resource.claim(claim(5, Some("b"))).await.expect_err("another is not").kind, Kind::TokenConflict);
    resource.claim(claim(5, None)).await.expect("one that names none is admitted");
    let stale = resource.claim(claim(4, Some("a"))).await.expect_err("a lower token is refused");
    assert_eq!((stale.kind, stale.highest.map(|t| t.get())), (Kind::StaleToken, Some(5)));
    let next = resource.claim(claim(9, Some("b"))).await.expect("a higher token is admitted");
    assert_eq!(next.previous.map(|t| t.get()), Some(5));
    assert_eq!(resource.claim(claim(5, Some("a"))).await.expect_err("the old one isn't").kind, Kind::StaleToken);
    let info = resource.fence("shop").expect("its fence");
    assert_eq!((info.highest.map(|t| t.get()), info.holder.as_deref()), (Some(9), Some("b")));
}

async fn marks_survive(open: Open) {
    let dir = tempfile::tempdir().expect("a directory");
    let resource = open(dir.path());
    resource.claim(claim(7, Some("a"))).await.expect("admitted");
    resource.stop();
    drop(resource);
    let resource = open(dir.path());
    let info = resource.fence("shop").expect("its fence");
    assert_eq!((info.highest.map(|t| t.get()), info.holder.as_deref()), (Some(7), Some("a")));
    assert_eq!(resource.claim(claim(6, None)).await.expect_err("refused").kind, Kind::StaleToken);
    assert_eq!(resource.claim(claim(7, Some("b"))).await.expect_err("refused").kind, Kind::TokenConflict);
}

async fn one_total_order(open: Open) {
    let dir = tempfile::tempdir().expect("a directory");
    let resource = open(dir.path());
    let claims = (1..=200_u64).map(|n| {
        let resource = Arc::clone(&resource);
        // 1..=200 in an order that is far from sorted.
        let token = n * 77 % 201;
        tokio::spawn(async move { (token, resource.claim(claim(token, None)).await) })
    });
    let mut admitted = Vec::new();
    for task in claims.collect::<Vec<_>>() {
        let (token, result) = task.await.expect("no panic");
        match result {
            Ok(_) => admitted.push(token),
            Err(problem) => assert_eq!(problem.kind, Kind::StaleToken),
        }
    }
    assert!(admitted.contains(&200), "the highest is always admitted");
    let fence = "shop".parse().expect("a name");
    let history = resource.history(&fence, i64::MAX, 1000).await.expect("it can be read");
    let mut rises: Vec<u64> = history.iter().rev().filter_map(|event| event.token).map(|token| token.get()).collect();
    assert!(rises.is_sorted(), "marks only rise: {rises:?}");
    admitted.sort_unstable();
    rises.dedup();
    if resource.guarantee() == Guarantee::Drained {
        // Its answer comes when older writes are out of the way, and by then it may have been replaced in its turn.
        rises.retain(|token| admitted.contains(token));
    }
    assert_eq!(admitted, rises, "who was admitted is who stands in the history");
}

async fn operators(open: Open) {
    let dir = tempfile::tempdir().expect("a directory");
    let resource = open(dir.path());
    let fence = "shop".parse().expect("a name");
    resource.claim(claim(50, Some("a"))).await.expect("admitted");
    for _ in 0..3 {
        resource.claim(claim(49, Some("old"))).await.expect_err("refused");
    }
    let knocks = resource.knocks(&fence).await.expect("they can be read");
    assert_eq!(knocks.len(), 1);
    assert_eq!((knocks[0].count, knocks[0].token.get(), knocks[0].holder.as_deref()), (3, 49, Some("old")));
    let to = "40".parse().expect("a token");
    let before = resource.reset(&fence, Some(to), "restored".into()).await.expect("it is reset");
    assert_eq!(before.map(|token| token.get()), Some(50));
    resource.claim(claim(45, Some("b"))).await.expect("admitted after the reset");
    let history = resource.history(&fence, i64::MAX, 10).await.expect("it can be read");
    let events: Vec<_> = history.iter().map(|event| (event.event.as_str(), event.token.map(|t| t.get()))).collect();
    assert_eq!(events, [("advanced", Some(45)), ("reset", Some(40)), ("advanced", Some(50))]);
    assert_eq!(history[1].reason.as_deref(), Some("restored"));
    assert_eq!(resource.reset(&fence, None, "anew".into()).await.expect("reset").map(|t| t.get()), Some(45));
    assert_eq!(resource.fence("shop").expect("its fence").highest, None);
}

async fn succession(open: Open) {
    let dir = tempfile::tempdir().expect("a directory");
    let resource = open(dir.path());
    resource.claim(claim(5, Some("a"))).await.expect("admitted");
    assert_eq!(resource.succeed(claim(7, Some("b")), "elected").await, Ok(true));
    assert_eq!(resource.succeed(claim(7, Some("b")), "elected").await, Ok(false), "it is the mark already");
    assert_eq!(resource.succeed(claim(6, None), "elected").await, Ok(false), "a mark never falls");
    assert_eq!(resource.succeed(claim(7, Some("c")), "elected").await, Ok(false), "nor is it bound to another");
    assert_eq!(resource.claim(claim(5, Some("a"))).await.expect_err("it was succeeded").kind, Kind::StaleToken);
    let info = resource.fence("shop").expect("its fence");
    assert_eq!((info.highest.map(|t| t.get()), info.holder.as_deref()), (Some(7), Some("b")));
    let fence = "shop".parse().expect("a name");
    let history = resource.history(&fence, i64::MAX, 10).await.expect("it can be read");
    let events: Vec<_> = history.iter().map(|event| (event.event.as_str(), event.reason.as_deref())).collect();
    assert_eq!(events, [("advanced", Some("elected")), ("advanced", None)]);
    let knocks = resource.knocks(&fence).await.expect("they can be read");
    assert_eq!(knocks.len(), 1, "what is told late knocks on no door: {knocks:?}");
    resource.stop();
    assert_eq!(resource.succeed(claim(9, None), "elected").await.expect_err("stopped").kind, Kind::Unavailable);
}

async fn names(open: Open) {
    let dir = tempfile::tempdir().expect("a directory");
    let resource = open(dir.path());
    assert!(resource.fence("other").is_none());
    let other = Claim { fence: "other".parse().expect("a name"), ..claim(1, None) };
    assert_eq!(resource.claim(other).await.expect_err("no such fence").kind, Kind::NotFound);
    assert_eq!(resource.fences(&Look::first(10)).fences.len(), 1);
    assert_eq!(resource.fences(&Look { prefix: "x".into(), ..Look::first(10) }).fences.len(), 0);
    assert_eq!(resource.fences(&Look { after: "shop".into(), ..Look::first(10) }).fences.len(), 0);
    resource.stop();
    assert_eq!(resource.claim(claim(1, None)).await.expect_err("stopped").kind, Kind::Unavailable);
}

macro_rules! every_resource {
    ($($name:ident),*) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn follows_the_rule() {
                super::the_rule(super::$name).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_its_marks() {
                super::marks_survive(super::$name).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn has_one_total_order() {
                super::one_total_order(super::$name).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn serves_its_operators() {
                super::operators(super::$name).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn lets_a_successor_in() {
                super::succession(super::$name).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn knows_its_fences() {
                super::names(super::$name).await;
            }
        }
    )*};
}

every_resource!(sqlite, http);

/// Counted refusals move from memory to the database about once a second, and nobody sees them on their way.
#[tokio::test]
async fn no_refusal_is_missed_or_counted_twice_while_they_are_written_down() {
    let gate = Gate::new();
    let fence = "app".parse().expect("a name");
    gate.sql("2", "SELECT 1").await.expect("the first claim");
    let plain = gate.plain();
    let written = || {
        let sum = "SELECT coalesce(sum(count), 0) FROM fencegate_refusals";
        plain.query_row(sum, [], |row| row.get::<_, i64>(0)).expect("it can be read")
    };
    let (mut count, mut seen, mut rounds) = (0, 0, 0);
    let started = Instant::now();
    while rounds < 2 {
        assert!(started.elapsed() < LONG, "refusals are not written down");
        gate.sql("1", "SELECT 1").await.expect_err("refused");
        count += 1;
        let knocks = gate.db.knocks(&fence).await.expect("they can be read");
        assert_eq!(knocks.iter().map(|knock| knock.count).collect::<Vec<_>>(), [count]);
        let now = written();
        rounds += i32::from(now != seen);
        seen = now;
    }
}
