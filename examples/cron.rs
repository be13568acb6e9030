//! A job that runs once in every interval, whichever of several copies leads:
//!
//! ```sh
//! fencegate serve                # elects, and keeps the database
//! cargo run --example cron       # in two terminals; stop whichever leads
//! ```
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fencegate::client::{self, Error, Gate, Leadership, Sql, params};
use fencegate::coordinator::{Bid, GateCoordinator};

fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = setting("FENCEGATE_URL", "http://127.0.0.1:7070");
    let election = setting("ELECTION", "main").parse()?;
    let every = Duration::from_millis(setting("EVERY_MS", "60000").parse()?);
    let ttl = Duration::from_millis(setting("LEASE_MS", "10000").parse()?);
    let bid = Bid { holder: Some(format!("cron-{}", std::process::id()).parse()?), ttl };
    let (elections, gate) = (GateCoordinator::new(&url)?, Gate::new(&url)?);
    loop {
        let leadership = client::campaign(&elections, &election, &bid).await?;
        println!("leading with token {}", leadership.token());
        let outcome = match gate.fenced(&leadership, &election).await {
            Ok(fenced) => lead(&leadership, &fenced.sql("/"), every).await,
            Err(error) => Err(error),
        };
        // So that the next one needn't wait for the lease to run out; it is over in any case.
        let _ = leadership.resign().await;
        match outcome {
            Err(error) if error.is_over() => println!("stepping down: {error}"),
            other => return Ok(other?),
        }
    }
}

/// Runs the job whenever it is due, until somebody else leads.
async fn lead(leadership: &Leadership, db: &Sql, every: Duration) -> Result<(), Error> {
    db.execute("CREATE TABLE IF NOT EXISTS runs (slot INTEGER PRIMARY KEY, who TEXT, token INTEGER)", ()).await?;
    loop {
        match run_if_due(leadership, db, every).await {
            // Looked at again in the next round: what was applied can be read there.
            Err(error @ (Error::Unknown { .. } | Error::NotApplied { .. })) => println!("trying again: {error}"),
            other => other?,
        }
        tokio::select! {
            () = tokio::time::sleep(every / 4) => {}
            why = leadership.lost() => println!("lost: {why}"),
        }
    }
}

async fn run_if_due(leadership: &Leadership, db: &Sql, every: Duration) -> Result<(), Error> {
    // The fence was claimed before this is read, so no predecessor can change it any more.
    let last: i64 = db.query("SELECT coalesce(max(slot), 0) AS last FROM runs", ()).await?[0].get("last")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let slot = i64::try_from(now.as_millis() / every.as_millis().max(1)).unwrap_or(i64::MAX);
    if slot > last {
        // The job's own writes would be here, in one batch with the note that it was done.
        let who = leadership.holder().map(|holder| holder.as_str());
        db.execute("INSERT INTO runs VALUES (?, ?, ?)", params![slot, who, leadership.token()]).await?;
        println!("ran {slot}");
    }
    Ok(())
}
