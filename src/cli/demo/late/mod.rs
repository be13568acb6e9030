//! `late`: a write that has passed the check is still on its way when the next leader writes, and is applied after it.
//!
//! - [`store`]: a slow HTTP service, whose log of what it has applied judges
//! - [`naive`]: the proxy that checks, then forwards
//! - [`pricer`]: the leaders
//!
//! The same two turns of events are played before both proxies: a write that ends late, and one that doesn't end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;

use super::look::{beside, elected};
use super::scenario::{Damage, Failed, Measure, Run, Scenario, lacks_nothing};
use super::stage::{GateAt, Stage};
use super::story::{Kind, Story};
use super::worker::Worker;
use crate::endpoint::{Call, Endpoint, Options};
use crate::fence::Token;
use naive::Naive;
use pricer::Pricer;
use store::Store;

pub mod naive;
pub mod pricer;
pub mod store;
mod web;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "late",
    title: "a write in flight lands after the next leader's first",
    explains: "Servers keep a price in an HTTP service that checks no tokens. So a proxy before it does: it refuses a \
               token below the highest that it has seen, and forwards the rest. That is how fencing is explained \
               everywhere, and before a service it isn't enough. A write that has passed the check takes its time: in \
               a queue, on the network, on a slow disk. Meanwhile its sender is replaced, the next leader writes, and \
               only then does the old write land.",
    sides: ["check-then-forward", "with fencegate"],
    lacks: lacks_nothing,
    run,
};

/// The fence, and what is written.
const FENCE: &str = "prices";
const PATH: &str = "/price";
/// How long the gate gives a write in flight to end when a newer token comes, and how long it waits after one that didn't. As short as
/// the story allows; by default it is 5 s and 30 s.
const DRAIN: Duration = Duration::from_secs(1);
/// Less than the second for which clients are told to wait, so that they needn't ask twice.
const SETTLE: Duration = Duration::from_millis(800);
/// How often the gate is asked what it does.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What each writes, in order. The store is slow with two of these.
const ANNA: [&str; 2] = ["10", "11"];
const BERT: [&str; 3] = ["20", "21", "22"];
const CLEO: [&str; 1] = ["30"];
const SLOW: [&str; 2] = [ANNA[0], BERT[1]];

fn run(stage: &mut Stage) -> Run<'_> {
    Box::pin(play(stage))
}

/// Where everything is.
struct Scene {
    gate: GateAt,
    /// The proxy that the leaders write through.
    proxy: String,
    log: PathBuf,
}

async fn play(stage: &mut Stage) -> Result<Damage, Failed> {
    let scene = set(stage).await?;
    enter(stage, &scene, "anna", &ANNA).await?;
    elected(stage, "anna").await?;
    enter(stage, &scene, "bert", &BERT).await?;
    late(stage, &scene).await?;
    enter(stage, &scene, "cleo", &CLEO).await?;
    endless(stage, &scene).await?;
    stage.finish().await?;
    count(&scene.log)
}

/// Starts what isn't a leader.
async fn set(stage: &mut Stage) -> Result<Scene, Failed> {
    let proxy = if stage.is_checked() { "gate" } else { "proxy" };
    stage.lane(proxy, if stage.is_checked() { "fencegate, before the store" } else { "checks, then forwards" });
    stage.lane("store", "an HTTP service, slow at times");
    for name in ["anna", "bert", "cleo"] {
        stage.lane(name, "a server that sets the price");
    }
    let log = stage.dir().join("applied.jsonl");
    stage.part("store", "late-store", &Store { log: log.clone(), slow: SLOW.map(str::to_owned).into() })?;
    let upstream = listening(stage, "store").await?;
    stage.tell("store", Kind::Started, "keeps a price, and notes in a log what it applies");
    let config = stage.dir().join("gate.toml");
    let (drain, settle) = (humantime::format_duration(DRAIN), humantime::format_duration(SETTLE));
    let resource = format!(
        "[[resource]]\nname = \"{FENCE}\"\nkind = \"http\"\nupstream = \"{upstream}\"\ndrain = \"{drain}\"\nsettle = \"{settle}\"\n"
    );
    std::fs::write(&config, resource)?;
    // In the run without, it only elects.
    let gate = stage.gate(&["--config", &config.to_string_lossy()]).await?;
    let url = if stage.is_checked() {
        stage.tell("gate", Kind::Started, "stands before the store: checks, and knows which writes are under way");
        gate.data.clone()
    } else {
        stage.part("proxy", "late-naive", &Naive { upstream })?;
        let url = listening(stage, "proxy").await?;
        stage.tell("proxy", Kind::Started, "stands before the store: checks, then forwards, as most tutorials do");
        url
    };
    Ok(Scene { gate, proxy: url, log })
}

async fn listening(stage: &mut Stage, lane: &str) -> Result<String, Failed> {
    stage.is_essential(lane);
    let found = |stage: &Stage| Some(stage.lines(lane).first()?.strip_prefix(web::LISTENING)?.to_owned());
    stage.until(&format!("{lane} listens"), found).await
}

/// Starts a leader, and waits until it stands for election.
async fn enter(stage: &mut Stage, scene: &Scene, name: &str, prices: &[&str]) -> Result<(), Failed> {
    let worker = Worker { gate: scene.proxy.clone(), ..stage.worker(name, &scene.gate, FENCE)? };
    let prices = prices.iter().map(|price| (*price).to_owned()).collect();
    stage.part(name, "late-pricer", &Pricer { worker, path: PATH.to_owned(), prices })?;
    happened(stage, name, "stands for election", 1, |kind| *kind == Kind::Started).await
}

/// Waits until something has happened to somebody so often.
async fn happened(
    stage: &mut Stage,
    lane: &str,
    what: &str,
    times: usize,
    is: impl Fn(&Kind) -> bool,
) -> Result<(), Failed> {
    let often = |stage: &Stage| (stage.story.count(lane, &is) >= times).then_some(());
    stage.until(&format!("{lane} {what}"), often).await
}

/// Has a leader write its next price.
fn write(stage: &mut Stage, name: &str) -> Result<(), Failed> {
    stage.signal(name, Signal::USR1)
}

/// Has the store apply what it was slow with.
async fn release(stage: &mut Stage, applied: usize) -> Result<(), Failed> {
    stage.signal("store", Signal::USR1)?;
    happened(stage, "store", "applies it", applied, |kind| *kind == Kind::Note).await
}

/// Has a leader send a write that the store is slow with, freezes it, and waits for its successor.
async fn send_and_freeze(stage: &mut Stage, name: &str, next: &str, slow: usize) -> Result<Token, Failed> {
    write(stage, name)?;
    happened(stage, "store", "has the write", slow, |kind| *kind == Kind::Works).await?;
    let text = |_: &Story| "is frozen (SIGSTOP) while it waits for the answer".to_owned();
    stage.freeze(name, text).await?;
    stage.lease_runs_out(name).await?;
    let token = elected(stage, next).await?;
    write(stage, next)?;
    Ok(token)
}

/// The first turn of events: anna's write takes long, and ends.
async fn late(stage: &mut Stage, scene: &Scene) -> Result<(), Failed> {
    let token = send_and_freeze(stage, "anna", "bert", 1).await?;
    if stage.is_checked() {
        let is_waiting = |state: &Value| state["highest"] == token.to_string() && state["in_flight"] != 0;
        until_gate(stage, &scene.gate, "bert waits for anna's write", is_waiting).await?;
        stage.tell("gate", Kind::Note, "starts no older write any more, and has bert wait: anna's is still under way");
    } else {
        happened(stage, "bert", "has written", 1, |kind| matches!(kind, Kind::Accepted { .. })).await?;
    }
    release(stage, if stage.is_checked() { 1 } else { 2 }).await?;
    happened(stage, "bert", "has written", 1, |kind| matches!(kind, Kind::Accepted { .. })).await?;
    stage.wake("anna", "wakes (SIGCONT), and finds the answer to its write")?;
    if stage.until("anna is answered", |stage| answered(stage, "anna", 0)).await? {
        return Err(Failed::Missed("anna's write was not applied in the time that the gate gives it".into()));
    }
    write(stage, "anna")?;
    happened(stage, "anna", "is refused", 1, |kind| matches!(kind, Kind::Refused { .. })).await
}

/// Whether a leader has an answer more than these, and it is that nobody knows.
fn answered(stage: &Stage, name: &str, before: usize) -> Option<bool> {
    let unknown = stage.story.has(name, &Kind::Unknown);
    let known = stage.story.accepted(name) + stage.story.count(name, |kind| *kind == Kind::Note);
    (unknown || known > before).then_some(unknown)
}

/// The second: bert's write takes longer than anybody waits.
async fn endless(stage: &mut Stage, scene: &Scene) -> Result<(), Failed> {
    send_and_freeze(stage, "bert", "cleo", 2).await?;
    if stage.is_checked() {
        let is_quarantined = |state: &Value| !state["quarantined_until"].is_null();
        until_gate(stage, &scene.gate, "the fence is quarantined", is_quarantined).await?;
        let text =
            "cuts bert's write off after 1s: whether it will be applied, nobody knows. Quarantine: cleo waits on";
        stage.tell("gate", Kind::Note, text);
    } else {
        happened(stage, "cleo", "has written", 1, |kind| matches!(kind, Kind::Accepted { .. })).await?;
    }
    release(stage, if stage.is_checked() { 3 } else { 4 }).await?;
    happened(stage, "cleo", "has written", 1, |kind| matches!(kind, Kind::Accepted { .. })).await?;
    stage.wake("bert", "wakes (SIGCONT)")?;
    stage.until("bert is answered", |stage| answered(stage, "bert", 1)).await?;
    write(stage, "bert")?;
    happened(stage, "bert", "is refused", 1, |kind| matches!(kind, Kind::Refused { .. })).await
}

/// Waits until the gate says so of the fence.
async fn until_gate(stage: &mut Stage, gate: &GateAt, what: &str, is: impl Fn(&Value) -> bool) -> Result<(), Failed> {
    let gate = Endpoint::parse(&gate.data, Options::default()).map_err(|error| Failed::Broken(error.to_string()))?;
    let asking = async {
        loop {
            let reply = gate.send(&Call::new(Method::GET, format!("/-/fences/{FENCE}"))).await;
            let state: Value =
                reply.ok().and_then(|reply| serde_json::from_slice(&reply.body).ok()).unwrap_or_default();
            if is(&state) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    beside(stage, what, asking).await
}

/// Counts in the store's log.
fn count(log: &Path) -> Result<Damage, Failed> {
    let applied = store::read(log)?;
    let (mut highest, mut late) = (None, 0);
    for write in &applied {
        late += u64::from(write.token < highest);
        highest = highest.max(write.token);
    }
    let measure = |what, count, is_damage, how: &str| Measure { what, count, is_damage, counted_by: how.to_owned() };
    let writes = u64::try_from(applied.len()).unwrap_or(u64::MAX);
    Ok(Damage {
        measures: vec![
            measure("writes applied", writes, false, "the lines of applied.jsonl, the store's log"),
            measure(
                "newer prices overwritten by older ones",
                late,
                true,
                "the lines of applied.jsonl with a token below one of an earlier line",
            ),
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_after_a_newer_write_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let count = |tokens: &[u64]| {
            let line = |token| format!("{{\"path\":\"/price\",\"token\":\"{token}\",\"value\":\"v\"}}\n");
            std::fs::write(&log, tokens.iter().map(line).collect::<String>()).unwrap();
            count(&log).unwrap().total()
        };
        assert_eq!(count(&[1, 1, 2, 3, 3]), 0);
        assert_eq!(count(&[2, 1, 3, 2, 2]), 3);
        std::fs::write(&log, "no line of it\n").unwrap();
        assert!(super::count(&log).is_err());
    }
}
