//! Works through a queue in the gate's database, one worker at a time, in order:
//!
//! ```sh
//! fencegate serve                      # elects, and keeps the database
//! cargo run --example queue_worker     # in two terminals; stop whichever leads, with Ctrl-Z for example
//! fencegate sql --token 1000000 "INSERT INTO jobs (what) VALUES ('sweep')"    # as the token of whoever leads
//! ```
#![allow(clippy::print_stdout, reason = "a program that shows what it does")]

use std::time::Duration;

use fencegate::client::{self, Error, Fenced, Gate, params};
use fencegate::coordinator::{Bid, GateCoordinator};

fn setting(name: &str, otherwise: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| otherwise.to_owned())
}

fn millis(name: &str, otherwise: &str) -> Result<Duration, std::num::ParseIntError> {
    setting(name, otherwise).parse().map(Duration::from_millis)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = setting("FENCEGATE_URL", "http://127.0.0.1:7070");
    let election = setting("ELECTION", "main").parse()?;
    let holder = setting("FENCING_HOLDER", &format!("worker-{}", std::process::id())).parse()?;
    let (ttl, work_time) = (millis("LEASE_MS", "10000")?, millis("WORK_MS", "1000")?);
    let bid = Bid { holder: Some(holder), ttl };
    let (elections, gate) = (GateCoordinator::new(&url)?, Gate::new(&url)?);
    loop {
        let leadership = client::campaign(&elections, &election, &bid).await?;
        println!("leading with token {}", leadership.token());
        let outcome = match gate.fenced(&leadership, &election).await {
            Ok(fenced) => work(&fenced, work_time).await,
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

async fn work(fenced: &Fenced, work_time: Duration) -> Result<(), Error> {
    let (db, leadership) = (fenced.sql("/"), fenced.leadership());
    db.execute("CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, what TEXT, done_by TEXT, token INTEGER)", ())
        .await?;
    loop {
        // Nobody else takes jobs while this one leads, so that none has to be marked as taken.
        let jobs = db.query("SELECT id, what FROM jobs WHERE done_by IS NULL ORDER BY id LIMIT 1", ()).await?;
        let Some(job) = jobs.first() else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (id, what): (i64, String) = (job.get("id")?, job.get("what")?);
        println!("working on {id}: {what}");
        // The work. It ends with the leadership: what somebody else does by now needn't be done twice.
        tokio::select! {
            () = tokio::time::sleep(work_time) => {}
            why = leadership.lost() => println!("given up {id}: {why}"),
        }
        // However long this process slept: what it writes now is refused if it has been replaced meanwhile.
        let who = leadership.holder().map(|holder| holder.as_str());
        let done = "UPDATE jobs SET done_by = ?, token = ? WHERE id = ? AND done_by IS NULL";
        match db.execute(done, params![who, leadership.token(), id]).await {
            Ok(_) => println!("done {id}"),
            // The next round reads whether it is done.
            Err(error @ (Error::Unknown { .. } | Error::NotApplied { .. })) => println!("looking again: {error}"),
            Err(error) => return Err(error),
        }
    }
}
