//! `partition`: the network fails between two rooms. On the smaller side are etcd's own leader and the leader that it has elected.
//!
//! - [`network`]: two switches and a cable, in a network namespace
//! - [`cluster`]: an etcd member on each machine
//! - [`invoicer`]: the leaders
//!
//! Two things have to do their part. A majority elects, and a minority can't: so no two leaders are elected. But one that was elected
//! before isn't told, and the database isn't part of the cluster: only fencing keeps it from writing.

use std::path::Path;

use crate::coordinator::Coordinator as _;
use crate::coordinator::any::AnyCoordinator;
use crate::fence::{FenceName, Leader, Token};

use super::DemoArgs;
use super::look::{beside, elected};
use super::scenario::{Damage, Failed, Measure, Run, Scenario};
use super::stage::{GateAt, Stage};
use super::story::Kind;
use super::worker::Worker;
use cluster::Cluster;
use invoicer::Invoicer;
use network::Network;

pub mod cluster;
pub mod invoicer;
pub mod network;

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "partition",
    title: "the network splits, with the leader on the smaller side",
    explains: "Two servers, anna and bert, number invoices; an etcd cluster elects which of them does. Its members are \
               on two switches. Then the cable between the switches is pulled, with etcd's own leader and anna on the \
               smaller side. Consensus does its part: the smaller side elects nobody. But nobody there can tell anna, \
               and her way to the database is open.",
    sides: ["without the check", "with fencegate"],
    lacks,
    run,
};

/// How many members there can be.
const MEMBERS: std::ops::RangeInclusive<u8> = 3..=15;
/// The fence.
const FENCE: &str = "invoices";
/// What both have to write before anything happens, and the first one after it was replaced.
const FIRST_INVOICES: usize = 2;
const STALE_INVOICES: usize = 2;
/// Invoices.
const WRITTEN: &str = "SELECT count(*) FROM invoices";
/// Numbers that more than one invoice has.
const TWICE: &str = "SELECT count(*) FROM (SELECT number FROM invoices GROUP BY number HAVING count(*) > 1)";

/// Reads `--members`.
///
/// # Errors
/// A sentence that says what it may be.
pub fn members(text: &str) -> Result<u8, String> {
    let wrong = || format!("an odd number from {} to {}", MEMBERS.start(), MEMBERS.end());
    let members = text.parse().ok().filter(|members: &u8| MEMBERS.contains(members) && !members.is_multiple_of(2));
    members.ok_or_else(wrong)
}

fn lacks(args: &DemoArgs) -> Option<String> {
    if args.coordinator.is_some() {
        return Some("it splits an etcd cluster of its own: leave --coordinator out".into());
    }
    if cluster::program().is_none() {
        return Some("it needs the program etcd, 3.4 or newer (Debian: etcd-server)".into());
    }
    network::lacks()
}

fn run(stage: &mut Stage) -> Run<'_> {
    Box::pin(play(stage))
}

/// Where everything is.
struct Scene {
    gate: GateAt,
    network: Network,
    cluster: Cluster,
    /// The members on each side. The first on the left was etcd's leader when it began.
    left: Vec<u8>,
    right: Vec<u8>,
}

async fn play(stage: &mut Stage) -> Result<Damage, Failed> {
    let file = stage.dir().join("invoices.db");
    let scene = set(stage, &file).await?;
    enter(stage, &scene, "anna", &scene.left)?;
    let first = elected(stage, "anna").await?;
    let wrote = |stage: &Stage| (stage.story.accepted("anna") >= FIRST_INVOICES).then_some(());
    stage.until("anna has written", wrote).await?;
    enter(stage, &scene, "bert", &scene.right)?;
    let stands = |stage: &Stage| (stage.story.count("bert", |kind| *kind == Kind::Started) > 0).then_some(());
    stage.until("bert stands for election", stands).await?;
    split(stage, &scene).await?;
    let second = elected(stage, "bert").await?;
    if second <= first {
        return Err(Failed::Broken(format!("bert was elected with token {second}, and anna with {first}")));
    }
    stage.tell("anna", Kind::Note, "has heard of nothing, and counts on");
    stage.until("both have tried to write", have_both_written).await?;
    if stage.is_checked() && stage.story.count("anna", is_stale) > 0 {
        // It changes nothing, since bert reads only after its claim, and is another story: fencing at the election.
        return Err(Failed::Missed("anna wrote in the moment between bert's election and its claim".into()));
    }
    heal(stage, &scene, second).await?;
    for member in scene.left.iter().chain(&scene.right) {
        // There is nothing in them that anybody will want to read.
        stage.signal(&cluster::lane(*member), rustix::process::Signal::KILL)?;
    }
    stage.finish().await?;
    count(&file)
}

/// The gate, the network, the cluster, and who is on which side.
async fn set(stage: &mut Stage, file: &Path) -> Result<Scene, Failed> {
    let gate = stage.sqlite_gate(file, FENCE).await?;
    for (name, role) in [
        ("anna", "a server that numbers invoices"),
        ("bert", "another"),
        ("left", "the smaller side of etcd"),
        ("right", "the larger one"),
    ] {
        stage.lane(name, role);
    }
    let size = stage.members();
    let network = Network::make(stage, size).await?;
    let cluster = Cluster::start(stage, &network, size).await?;
    let all: Vec<u8> = (1..=size).collect();
    let leader = cluster.until_led(stage, &all, &all).await?;
    // The leader, and those after it, round the end.
    let mut left: Vec<u8> = all.iter().copied().cycle().skip(usize::from(leader) - 1).take(all.len()).collect();
    let right = left.split_off(usize::from(size / 2));
    network.divide(&left)?;
    let still = cluster.until_led(stage, &all, &all).await?;
    // What is asked of it when it is cut off, it does now.
    let writes = beside(stage, "etcd's leader writes", cluster.writes(leader)).await?;
    if still != leader || !writes {
        return Err(Failed::Missed("etcd has changed its leader, or didn't write, before anything happened".into()));
    }
    stage.tell(
        "left",
        Kind::Started,
        format!("a switch with {} of {size} etcd members; etcd's leader here", left.len()),
    );
    stage.tell("right", Kind::Started, format!("a switch with the other {}, joined to it by a cable", right.len()));
    Ok(Scene { gate, network, cluster, left, right })
}

/// Starts a leader that knows the members of one side.
fn enter(stage: &mut Stage, scene: &Scene, name: &str, members: &[u8]) -> Result<(), Failed> {
    let coordinator = scene.cluster.address(members);
    let worker = Worker { coordinator, ..stage.worker(name, &scene.gate, FENCE)? };
    stage.part(name, "partition-invoicer", &Invoicer { worker })
}

/// Pulls the cable, and shows what each side can do.
async fn split(stage: &mut Stage, scene: &Scene) -> Result<(), Failed> {
    let Scene { cluster, left, right, .. } = scene;
    let leader = left.first().copied().unwrap_or(1);
    scene.network.cut()?;
    stage.tell("left", Kind::Cut, "the cable is pulled: anna reaches only these members, and they no others");
    let next = cluster.until_led(stage, right, right).await?;
    stage.tell("right", Kind::Note, format!("is a majority: it elects member {next} etcd's leader, and goes on"));
    cluster.until_leaderless(stage, leader).await?;
    let election = name(stage)?;
    let coordinator = open(scene, left)?;
    let asking = async { tokio::join!(cluster.writes(leader), Box::pin(coordinator.leader(&election))) };
    let (writes, leads) = beside(stage, "the smaller side is asked", asking).await?;
    if writes || leads.is_ok() {
        return Err(Failed::Broken("the smaller side decided something without a majority".into()));
    }
    stage.tell("left", Kind::Note, "is a minority: no write and no election here, not even a read that can be trusted");
    let stored = beside(stage, "the smaller side's store", cluster.stored(leader, &election)).await?;
    if stored.as_deref() == Some("anna") {
        stage.tell("left", Kind::Note, "still has stored that anna leads: nobody here can know better");
    }
    Ok(())
}

fn is_stale(kind: &Kind) -> bool {
    matches!(kind, Kind::Accepted { behind: Some(_), .. })
}

/// Whether the second has written, and the first tried to after it was replaced.
fn have_both_written(stage: &Stage) -> Option<()> {
    let tried = stage.story.refused("anna") > 0 || stage.story.count("anna", is_stale) >= STALE_INVOICES;
    (tried && stage.story.accepted("bert") >= STALE_INVOICES).then_some(())
}

/// Plugs the cable in again, and waits until the smaller side knows.
async fn heal(stage: &mut Stage, scene: &Scene, token: Token) -> Result<(), Failed> {
    scene.network.heal()?;
    stage.tell("left", Kind::Healed, "the cable is plugged in again");
    let (all, election) = ([&scene.left[..], &scene.right[..]].concat(), name(stage)?);
    scene.cluster.until_led(stage, &all, &all).await?;
    let coordinator = open(scene, &scene.left)?;
    let asking = async {
        loop {
            if let Ok(Some(Leader { token, .. })) = Box::pin(coordinator.leader(&election)).await {
                return token;
            }
            tokio::time::sleep(cluster::LOOK_AGAIN).await;
        }
    };
    let leads = beside(stage, "the smaller side knows who leads", asking).await?;
    if leads != token {
        return Err(Failed::Missed("bert has lost its lease".into()));
    }
    stage.tell("left", Kind::Note, format!("hears from the other side that bert leads, with token {leads}"));
    Ok(())
}

fn name(stage: &Stage) -> Result<FenceName, Failed> {
    stage.election().parse().map_err(|_| Failed::Broken("a name".into()))
}

fn open(scene: &Scene, members: &[u8]) -> Result<AnyCoordinator, Failed> {
    AnyCoordinator::open(&scene.cluster.address(members)).map_err(|error| Failed::Broken(error.to_string()))
}

fn count(file: &Path) -> Result<Damage, Failed> {
    let db = rusqlite::Connection::open(file)?;
    let measures = vec![
        Measure::count(&db, "invoices written", WRITTEN, false)?,
        Measure::count(&db, "invoice numbers given out twice", TWICE, true)?,
    ];
    Ok(Damage { measures })
}
