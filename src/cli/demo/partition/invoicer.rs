//! A leader that numbers invoices: it reads the last number when its term begins, and counts on from there by itself, since nobody else
//! can be at it.
//!
//! It never looks at its lease. The library knows when the leadership can't be known to be alive any more, and this leader says so when
//! it is told, but goes on: what stops it has to be the storage.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::demo::story::{Kind, report};
use crate::cli::demo::worker::{Next, Worker};

/// How long it takes to write an invoice.
const WORK_TIME: Duration = Duration::from_millis(150);

/// A leader's settings.
#[derive(Debug, Serialize, Deserialize)]
pub struct Invoicer {
    /// Who it is, and where it writes.
    pub worker: Worker,
}

/// The leader.
///
/// # Errors
/// What it needs can't be reached.
pub async fn lead(Invoicer { worker }: Invoicer) -> Result<(), String> {
    let term = worker.lead(|token| format!("is elected leader, and gets token {token}")).await?;
    let name = &worker.holder;
    let table = "CREATE TABLE IF NOT EXISTS invoices (number INTEGER, written_by TEXT, token INTEGER)";
    if term.setup(table).await? == Next::End {
        return Ok(());
    }
    let Some(rows) = term.numbers("SELECT coalesce(max(number), 0) FROM invoices").await? else { return Ok(()) };
    let last = rows.first().and_then(|row| row.first()).copied().ok_or("there is no last number")?;
    report(Kind::Works, format!("reads the last invoice's number, {last}, and counts on from there by itself"));
    let leadership = term.leadership.clone();
    tokio::spawn(async move {
        leadership.lost().await;
        report(
            Kind::LeaseOver,
            "its lease is over by its own clock. A careful program ends here; this one never looks",
        );
    });
    for number in last + 1.. {
        tokio::time::sleep(WORK_TIME).await;
        let invoice = format!("INSERT INTO invoices VALUES ({number}, '{name}', {})", term.token);
        let refused = |title: &str| format!("may not write invoice {number}: 412, \"{title}\"");
        if term.write(&invoice, format!("writes invoice {number}"), refused).await? == Next::End {
            break;
        }
    }
    report(Kind::Deposed, "has learnt that it was replaced, and ends");
    Ok(())
}
