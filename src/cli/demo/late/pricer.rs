//! A leader that sets the price, each time that it is told to (SIGUSR1).
//!
//! It doesn't look at its lease before it writes: to have a check in the program is good, and the moment between that and the write
//! stays. Here the moment is long.

use std::time::Duration;

use hyper::Method;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::store::WRITTEN_BEFORE;
use crate::cli::demo::story::{Kind, report};
use crate::cli::demo::worker::{Term, Worker};
use crate::endpoint::Reply;

/// How long it takes to find the next price.
const WORK_TIME: Duration = Duration::from_millis(150);

/// A leader's settings.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pricer {
    /// Who it is, and where it writes.
    pub worker: Worker,
    /// The price's path.
    pub path: String,
    /// What it writes, one after the other.
    pub prices: Vec<String>,
}

/// The leader.
///
/// # Errors
/// What it needs can't be reached.
pub async fn lead(Pricer { worker, path, prices }: Pricer) -> Result<(), String> {
    // Before anybody can know that it is there.
    let mut told = signal(SignalKind::user_defined1()).map_err(|error| error.to_string())?;
    let term = worker.lead(|token| format!("is elected leader, and gets token {token}")).await?;
    for (number, price) in prices.into_iter().enumerate() {
        told.recv().await;
        if number > 0 {
            tokio::time::sleep(WORK_TIME).await;
        }
        report(Kind::Works, format!("sends the price {price}"));
        let reply = term.send(Method::PUT, &path, price.clone().into_bytes()).await?;
        if reply.status == 412 {
            term.refused(&reply, |title| format!("may not: 412, \"{title}\". The price is not set to {price}"));
            break;
        }
        answered(&term, &reply, &price);
    }
    // Whoever looks after it decides when it ends.
    term.leadership.lost().await;
    report(Kind::Deposed, "");
    std::future::pending().await
}

fn answered(term: &Term, reply: &Reply, price: &str) {
    if !(200..300).contains(&reply.status) {
        let problem: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or("no more");
        report(Kind::Unknown, format!("is told {} {code}: whether its price was set, nobody knows", reply.status));
        return;
    }
    let before = reply.headers.get(WRITTEN_BEFORE).and_then(|token| token.to_str().ok()?.parse().ok());
    let (token, behind) = (Some(term.token), None);
    if before > token {
        report(Kind::Accepted { token, behind }, format!("has set the price to {price}, over a newer one"));
    } else if term.leadership.is_alive() {
        report(Kind::Accepted { token, behind }, format!("has set the price to {price}"));
    } else {
        report(Kind::Note, format!("learns that its price, {price}, was set in its turn, before any newer one"));
    }
}
