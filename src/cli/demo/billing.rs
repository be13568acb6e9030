//! `billing`: ten servers, and a daily job that has to run once.
//!
//! The elected leader runs it: it looks up who hasn't been charged today, and charges one after the other. It looks at its leadership
//! when it begins, as a job that a scheduler starts does. A leader that is frozen in the middle has the rest of its list in memory.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::scenario::{Damage, Failed, Measure, Run, Scenario, lacks_nothing};
use super::stage::Stage;
use super::story::{Kind, Story, report};
use super::worker::{Next, Worker};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "billing",
    title: "ten servers, and a daily job that must run once",
    explains: "Ten servers could each charge the customers, once a day. So that only one does, they elect a leader. It \
               looks up who hasn't been charged today, and charges them one by one. Half-way it is frozen, like a \
               virtual machine that is moved to another host. Its successor finds out who is left, and charges them. \
               Then the first one goes on, where it was.",
    sides: ["without the check", "with fencegate"],
    lacks: lacks_nothing,
    run,
};

const SERVERS: usize = 10;
const CUSTOMERS: usize = 24;
/// How many are charged before the leader is frozen.
const BEFORE: usize = 8;
/// How long it takes to charge one.
const CHARGE_TIME: Duration = Duration::from_millis(30);
const CHARGES: &str = "SELECT count(*) FROM charges";
const MISSED: &str = "SELECT count(*) FROM customers WHERE id NOT IN (SELECT customer FROM charges)";
const TWICE: &str = "SELECT count(*) FROM (SELECT customer FROM charges GROUP BY customer, day HAVING count(*) > 1)";

/// A server's settings.
#[derive(Debug, Serialize, Deserialize)]
pub struct Biller {
    worker: Worker,
    /// The day that customers are charged for: days since 1970.
    day: u64,
}

fn run(stage: &mut Stage) -> Run<'_> {
    Box::pin(play(stage))
}

async fn play(stage: &mut Stage) -> Result<Damage, Failed> {
    let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / (24 * 60 * 60);
    let file = stage.dir().join("billing.db");
    let gate = stage.sqlite_gate(&file, "billing").await?;
    let names: Vec<String> = (1..=SERVERS).map(|number| format!("host-{number}")).collect();
    for name in &names {
        stage.lane(name, "one of ten servers that run the job while they lead");
        let worker = stage.worker(name, &gate, "billing")?;
        stage.part(name, "biller", &Biller { worker, day })?;
    }
    stage.tell("gate", Kind::Note, format!("{SERVERS} servers, host-1 to host-{SERVERS}, stand for election"));
    let (first, token) = stage.until("somebody leads", |stage| stage.story.elected_after(None)).await?;
    stage.until("customers are charged", |stage| (stage.story.accepted(&first) >= BEFORE).then_some(())).await?;
    let frozen = |story: &Story| {
        let charged = story.accepted(&first);
        format!("has charged {charged} of {CUSTOMERS} customers, and is frozen (SIGSTOP)")
    };
    stage.freeze_at_work(&first, frozen).await?;
    let charged = stage.story.accepted(&first);
    if charged >= CUSTOMERS {
        return Err(Failed::Missed("the job was done before its leader could be frozen".into()));
    }
    let all_stand = |story: &Story| names.iter().all(|name| story.has(name, &Kind::Started));
    stage.until("all stand for election", |stage| all_stand(&stage.story).then_some(())).await?;
    stage.lease_runs_out(&first).await?;
    let (second, _) = stage.until("a second leads", |stage| stage.story.elected_after(Some(token))).await?;
    stage.until("the job is done", |stage| stage.story.has(&second, &Kind::Done).then_some(())).await?;
    stage.wake(&first, "wakes (SIGCONT), knows of nothing, and goes on with its list")?;
    let has_tried = |stage: &Stage| stage.story.accepted(&first) > charged || stage.story.refused(&first) > 0;
    stage.until("the first writes", |stage| has_tried(stage).then_some(())).await?;
    stage.until("the first ends", |stage| stage.story.has(&first, &Kind::Deposed).then_some(())).await?;
    stage.finish().await?;
    count(&file)
}

fn count(file: &Path) -> Result<Damage, Failed> {
    let db = rusqlite::Connection::open(file)?;
    let measures = [
        ("charges", CHARGES, false),
        ("customers not charged", MISSED, true),
        ("customers charged twice", TWICE, true),
    ];
    let measures = measures.map(|(what, sql, is_damage)| Measure::count(&db, what, sql, is_damage));
    Ok(Damage { measures: measures.into_iter().collect::<Result<_, _>>()? })
}

/// A server.
///
/// # Errors
/// What it needs can't be reached.
pub async fn bill(Biller { worker, day }: Biller) -> Result<(), String> {
    let term = worker.lead(|token| format!("is elected leader, and gets token {token}")).await?;
    let tables = format!(
        "CREATE TABLE IF NOT EXISTS customers (id INTEGER PRIMARY KEY); \
         CREATE TABLE IF NOT EXISTS charges (customer INTEGER, day INTEGER, charged_by TEXT, token INTEGER); \
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {CUSTOMERS}) \
         INSERT INTO customers SELECT i FROM n WHERE true ON CONFLICT DO NOTHING"
    );
    if term.setup(&tables).await? == Next::End {
        return Ok(());
    }
    let due = format!(
        "SELECT id FROM customers WHERE id NOT IN (SELECT customer FROM charges WHERE day = {day}) ORDER BY id"
    );
    let Some(due) = term.numbers(&due).await? else { return Ok(()) };
    let due: Vec<i64> = due.into_iter().flatten().collect();
    report(Kind::Note, format!("runs the daily job: {} customers are to be charged", due.len()));
    for (done, customer) in due.iter().enumerate() {
        report(Kind::Works, "");
        tokio::time::sleep(CHARGE_TIME).await;
        let (name, token) = (&worker.holder, term.token);
        let charge = format!("INSERT INTO charges VALUES ({customer}, {day}, '{name}', {token})");
        let left = due.len() - done;
        let refused = |title: &str| format!("may not: 412, \"{title}\". {left} customers aren't charged again");
        if term.write(&charge, format!("charges customer {customer}"), refused).await? == Next::End {
            report(Kind::Deposed, "ends, since it doesn't lead any more");
            return Ok(());
        }
    }
    report(Kind::Done, format!("has charged all {} on its list: the job is done", due.len()));
    // And now it would wait for the next day.
    term.leadership.lost().await;
    report(Kind::Deposed, "notices that it doesn't lead any more, and ends");
    Ok(())
}
