//! The fenced client on an HTTP service: whose refusal it is, what was applied, what is sent again.

use std::path::Path;
use std::time::{Duration, Instant};

use fencegate::client::{self, Applied, Error, Fenced, Http, Lost, NotApplied, Unknown};
use tokio::time::timeout;

use crate::client::{claim, fenced, lead, lost, name, url};
use crate::gate::LONG;
use crate::process::Gate;
use crate::upstream::hostile::Hostile;

struct Rig {
    upstream: Hostile,
    gate: Gate,
    fenced: Fenced,
    stock: Http,
    dir: tempfile::TempDir,
}

fn gate(dir: &Path, upstream: &Hostile) -> Gate {
    let text = format!(
        "[[resource]]\nname = \"stock\"\npath = \"/stock\"\nkind = \"http\"\nupstream = \"{}\"\nsettle = \"10ms\"\n",
        upstream.url()
    );
    crate::upstream::gate(dir, &text)
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Hostile::start(dir.path());
    let gate = gate(dir.path(), &upstream);
    let fenced = fenced(&gate, "stock").await;
    let stock = fenced.http("/stock");
    Rig { upstream, gate, fenced, stock, dir }
}

/// A write that the upstream takes as the script says.
async fn write(stock: &Http, id: &str, script: &str) -> Result<u16, Error> {
    let headers = [("write-id", id), ("hostile", script)];
    timeout(LONG, stock.put("/a", &headers, id.to_owned())).await.expect("an answer").map(|answer| answer.status())
}

fn ids(upstream: &Hostile) -> Vec<String> {
    upstream.applied().into_iter().map(|applied| applied.id).collect()
}

fn unknown<T: std::fmt::Debug>(outcome: Result<T, Error>, wanted: Unknown) {
    match outcome {
        Err(Error::Unknown { why, .. }) => assert_eq!(why, wanted),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_services_own_412_is_told_from_the_gates() {
    let rig = rig().await;
    let Rig { upstream, gate, stock, fenced, .. } = &rig;
    assert_eq!(write(stock, "a", "").await, Ok(200));
    for status in [404, 409, 412, 428, 503] {
        assert_eq!(write(stock, "b", &format!("read answer:{status}")).await, Ok(status));
    }
    assert!(fenced.leadership().is_alive());
    claim(gate, "stock", 9);
    let outcome = write(stock, "c", "").await;
    assert!(matches!(outcome, Err(Error::Replaced { .. })), "{outcome:?}");
    assert_eq!(lost(fenced.leadership()).await, Lost::Replaced);
    assert_eq!((ids(upstream), upstream.tokens("stock")), (vec!["a".to_owned()], vec![1]));
}

#[tokio::test]
async fn every_request_carries_the_token_and_what_is_the_clients_own_is_refused() {
    let rig = rig().await;
    let Rig { stock, gate, .. } = &rig;
    for header in ["fencing-token", "Fencing-Holder", "content-length", "host"] {
        let outcome = stock.get("/a", &[(header, "1")]).await;
        assert!(matches!(outcome, Err(Error::Misuse(_))), "{header}: {outcome:?}");
    }
    assert!(matches!(stock.get("a", &[]).await, Err(Error::Misuse(_))));
    assert!(matches!(stock.get("/a b", &[]).await, Err(Error::Misuse(_))));
    let answer = stock.get("/a", &[("hostile", "answer")]).await.unwrap();
    assert_eq!((answer.status(), answer.header("fencing-verdict")), (200, Some("admitted")), "reads too");
    claim(gate, "stock", 9);
    assert!(matches!(stock.get("/a", &[("hostile", "answer")]).await, Err(Error::Replaced { .. })));
}

#[tokio::test]
async fn what_may_have_been_applied_is_not_sent_again() {
    let rig = rig().await;
    let Rig { upstream, stock, .. } = &rig;
    unknown(write(stock, "applied", "read apply cut").await, Unknown::Gate);
    unknown(write(stock, "not applied", "read cut").await, Unknown::Gate);
    assert_eq!(ids(upstream), ["applied"], "once, and the client can't know which of the two it was");
    assert_eq!(write(stock, "later", "").await, Ok(200), "its own later writes go on");
    assert_eq!(upstream.connections(), 3, "one request each: none came twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_dies_in_the_middle_leaves_the_outcome_unknown() {
    let Rig { upstream, gate, stock, dir: _dir, .. } = rig().await;
    // A task of its own: it may take more than one turn before the request has left.
    let writes = tokio::spawn(async move { write(&stock, "a", "read apply at:here answer").await });
    tokio::task::block_in_place(|| upstream.reached("here"));
    gate.kill();
    unknown(writes.await.unwrap(), Unknown::Broken);
    assert_eq!(ids(&upstream), ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_there_is_waited_for() {
    let Rig { mut upstream, gate, fenced, stock, dir: _dir } = rig().await;
    upstream.kill();
    let hasty = client::Gate::new(&url(&gate)).unwrap().with_retry_for(Duration::ZERO);
    let hasty = hasty.fenced(fenced.leadership(), &name("stock")).await.unwrap().http("/stock");
    let outcome = write(&hasty, "a", "").await;
    assert!(matches!(outcome, Err(Error::NotApplied { why: NotApplied::UpstreamUnreachable, .. })), "{outcome:?}");
    let waits = tokio::spawn(async move { write(&stock, "b", "").await });
    // Not before the gate has refused it once.
    let refused = |gate: &Gate| {
        let text = String::from_utf8(gate.admin().get("/metrics").body).unwrap();
        let line = text.lines().find(|line| line.contains("UPSTREAM_UNREACHABLE")).unwrap_or("0").to_owned();
        line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0)
    };
    crate::process::until("it has tried once", || refused(&gate) >= 2);
    upstream.restart();
    assert_eq!(waits.await.unwrap(), Ok(200));
    assert_eq!(ids(&upstream), ["b"], "what was surely not applied has come once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_is_not_there_is_waited_for_as_long_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Hostile::start(dir.path());
    let gate = gate(dir.path(), &upstream);
    let leads = lead(&gate, "stock").await;
    let short = Duration::from_millis(300);
    let patient = client::Gate::new(&url(&gate)).unwrap().with_retry_for(short);
    let stock = patient.fenced(&leads, &name("stock")).await.unwrap().http("/stock");
    gate.kill();
    let began = Instant::now();
    let outcome = write(&stock, "a", "").await;
    assert!(matches!(outcome, Err(Error::NotApplied { why: NotApplied::GateOutOfReach, .. })), "{outcome:?}");
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
    assert_eq!(ids(&upstream), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_gate_is_waited_for_longer_than_the_leadership_lasts() {
    let Rig { gate, fenced, upstream, dir: _dir, .. } = rig().await;
    let patient = client::Gate::new(&url(&gate)).unwrap().with_retry_for(100 * LONG);
    let stock = patient.fenced(fenced.leadership(), &name("stock")).await.unwrap().http("/stock");
    gate.kill();
    let waits = tokio::spawn(async move { write(&stock, "a", "").await });
    fenced.leadership().give_up(Lost::Expired);
    let outcome = timeout(LONG, waits).await.expect("it stops").unwrap();
    assert!(matches!(outcome, Err(Error::Lost { why: Lost::Expired, applied: Applied::No })), "{outcome:?}");
    assert_eq!(ids(&upstream), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_under_way_is_given_up_with_the_leadership() {
    let Rig { upstream, stock, fenced, gate: _gate, dir: _dir } = rig().await;
    let leadership = fenced.leadership().clone();
    let waits = tokio::spawn(async move { write(&stock, "a", "read at:here apply answer").await });
    upstream.reached("here");
    let began = Instant::now();
    leadership.resign().await.unwrap();
    let outcome = waits.await.unwrap();
    assert!(matches!(outcome, Err(Error::Lost { why: Lost::Resigned, applied: Applied::Unknown })), "{outcome:?}");
    assert!(began.elapsed() < LONG / 2, "it is still held up behind the gate");
    upstream.open("here");
    // And so it was: it could be applied after all.
    crate::process::until("it is applied", || ids(&upstream) == ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_was_there_when_the_leadership_was_lost_is_told() {
    for _ in 0..50 {
        let Rig { stock, fenced, upstream, gate: _gate, dir: _dir } = rig().await;
        let leadership = fenced.leadership().clone();
        let waits = tokio::spawn(async move { write(&stock, "a", "read apply at:here answer").await });
        upstream.reached("here");
        // Lost while the request is under way, and answered just after.
        leadership.give_up(Lost::Expired);
        upstream.open("here");
        let outcome = waits.await.unwrap();
        match outcome {
            Err(Error::Lost { why: Lost::Expired, applied: Applied::Yes }) => return,
            // Not soon enough after: on a busy machine the last word isn't waited for any more.
            Err(Error::Lost { why: Lost::Expired, applied: Applied::Unknown }) => {}
            _ => panic!("{outcome:?}"),
        }
    }
    panic!("the answer never came in time");
}

#[tokio::test]
async fn what_is_no_gate_is_found_out_by_the_claim() {
    let rig = rig().await;
    let Rig { upstream, fenced, .. } = &rig;
    let direct = client::Gate::new(&upstream.url()).unwrap();
    unknown(direct.fenced(fenced.leadership(), &name("stock")).await.map(drop), Unknown::NotAGate);
}
