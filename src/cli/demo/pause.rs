//! `pause`: the leader is frozen in the middle of its work, past its lease; a successor takes over; the old one wakes and writes.
//!
//! Two servers sell numbered seats. A sale reads the next free seat, prints the ticket, and writes the sale and the new next seat in
//! one transaction. Nothing is wrong with that as long as one sells at a time, which the election sees to, or seems to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::scenario::{Damage, Failed, Measure, Run, Scenario, lacks_nothing};
use super::stage::Stage;
use super::story::{Kind, Story, report};
use super::worker::{Next, Worker};

/// The scenario.
pub const SCENARIO: Scenario = Scenario {
    name: "pause",
    title: "a leader is frozen in mid-work, and wakes too late",
    explains: "Two servers sell numbered seats. Only the elected leader may sell, and its lease has to be renewed every \
               second, so that a leader that dies is soon replaced. But what if it doesn't die, and only stands still \
               for a while: a long garbage collection, a suspended virtual machine, a full disk? It can't notice. When \
               it goes on, it goes on in the middle of a sale.",
    sides: ["without the check", "with fencegate"],
    lacks: lacks_nothing,
    run,
};

/// The two servers, in the order in which they lead.
const FIRST: &str = "anna";
const SECOND: &str = "bert";
/// How long it takes to print a ticket.
const PRINT_TIME: Duration = Duration::from_millis(200);
/// How long it takes until the next customer comes.
const CUSTOMER_TIME: Duration = Duration::from_millis(200);
/// What each of the two sells while the other can't.
const FIRST_SALES: usize = 2;
const NEXT_SALES: usize = 3;
const LAST_SALES: usize = 2;
/// Seats that more than one ticket was sold for.
const SOLD_TWICE: &str = "SELECT count(*) FROM (SELECT seat FROM tickets GROUP BY seat HAVING count(*) > 1)";
const TICKETS: &str = "SELECT count(*) FROM tickets";

/// A seller's settings.
#[derive(Debug, Serialize, Deserialize)]
pub struct Seller {
    worker: Worker,
}

fn run(stage: &mut Stage) -> Run<'_> {
    Box::pin(play(stage))
}

async fn play(stage: &mut Stage) -> Result<Damage, Failed> {
    let file = stage.dir().join("seats.db");
    let gate = stage.sqlite_gate(&file, "seats").await?;
    for name in [FIRST, SECOND] {
        stage.lane(name, "a server that sells seats while it leads");
        let worker = stage.worker(name, &gate, "seats")?;
        stage.part(name, "seller", &Seller { worker })?;
        if name == FIRST {
            // So that it is always the same who leads first.
            stage.until("the first leads", |stage| stage.story.elected_after(None)).await?;
        }
    }
    stage.until("the first sells", |stage| (stage.story.accepted(FIRST) >= FIRST_SALES).then_some(())).await?;
    let frozen = |story: &Story| {
        format!("finds seat {} free, prints the ticket, is frozen (SIGSTOP)", story.accepted(FIRST) + 1)
    };
    stage.freeze_at_work(FIRST, frozen).await?;
    let sold = stage.story.accepted(FIRST);
    let first = stage.story.elected_after(None).map(|(_, token)| token);
    stage.lease_runs_out(FIRST).await?;
    stage.until("the second leads", |stage| stage.story.elected_after(first)).await?;
    stage.until("the second sells", |stage| (stage.story.accepted(SECOND) >= NEXT_SALES).then_some(())).await?;
    stage.wake(FIRST, "wakes (SIGCONT), knows of nothing, and finishes its sale")?;
    let has_tried = |stage: &Stage| stage.story.accepted(FIRST) > sold || stage.story.refused(FIRST) > 0;
    stage.until("the first writes", |stage| has_tried(stage).then_some(())).await?;
    let before = stage.story.accepted(SECOND);
    stage.until("the first ends", |stage| stage.story.has(FIRST, &Kind::Deposed).then_some(())).await?;
    stage
        .until("the second goes on", |stage| (stage.story.accepted(SECOND) >= before + LAST_SALES).then_some(()))
        .await?;
    stage.finish().await?;
    count(&file)
}

fn count(file: &std::path::Path) -> Result<Damage, Failed> {
    let db = rusqlite::Connection::open(file)?;
    let tickets = Measure::count(&db, "tickets sold", TICKETS, false)?;
    Ok(Damage { measures: vec![tickets, Measure::count(&db, "seats sold twice", SOLD_TWICE, true)?] })
}

/// The seller.
///
/// # Errors
/// What it needs can't be reached.
pub async fn sell(Seller { worker }: Seller) -> Result<(), String> {
    let term = worker.lead(|token| format!("is elected leader, and gets token {token}")).await?;
    let name = &worker.holder;
    let tables = "CREATE TABLE IF NOT EXISTS tickets (seat INTEGER, sold_by TEXT, token INTEGER); \
                  CREATE TABLE IF NOT EXISTS hall (id INTEGER PRIMARY KEY, next INTEGER); \
                  INSERT INTO hall VALUES (1, 1) ON CONFLICT DO NOTHING";
    if term.setup(tables).await? == Next::End {
        return Ok(());
    }
    while term.leadership.is_alive() {
        let Some(rows) = term.numbers("SELECT next FROM hall").await? else { break };
        let seat = rows.first().and_then(|row| row.first()).copied().ok_or("there is no next seat")?;
        report(Kind::Works, "");
        tokio::time::sleep(PRINT_TIME).await;
        let (token, next) = (term.token, seat + 1);
        let sale = format!(
            "INSERT INTO tickets VALUES ({seat}, '{name}', {token}); UPDATE hall SET next = {next} WHERE id = 1"
        );
        let refused = |title: &str| format!("may not: 412, \"{title}\". Nothing was written");
        if term.write(&sale, format!("sells seat {seat}"), refused).await? == Next::End {
            break;
        }
        tokio::time::sleep(CUSTOMER_TIME).await;
    }
    report(Kind::Deposed, "notices that it doesn't lead any more, and ends");
    Ok(())
}
