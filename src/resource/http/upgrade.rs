//! A connection that has changed its protocol: a tunnel, which is a write for as long as it lasts. One that a rule says is a read
//! is not looked after.

use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::time::{Instant, timeout, timeout_at};

use crate::fence::drain::Outcome;

use super::conn::Connection;
use super::fences::InFlight;
use super::http1::Http1;

/// How long the client's side may take to change its protocol after the upstream has agreed.
const CHANGE_TIME: Duration = Duration::from_secs(10);

/// How long a client may take for what is left for it when its tunnel ends.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// Both ends of a tunnel, and what it keeps in flight.
pub struct Tunnel {
    /// The client's side.
    pub client: OnUpgrade,
    /// The upstream's side.
    pub connection: Connection,
    /// What the fence waits for; None for what a rule says is a read.
    pub write: Option<InFlight>,
    /// How long the upstream may take to end after its client has.
    pub end_time: Duration,
}

/// How the copying came to its end.
enum Ended {
    /// The upstream has closed.
    ByUpstream,
    /// The upstream's side broke.
    Broken,
    /// The client has gone.
    ByClient,
    /// A newer token has taken the fence; by this instant the upstream has to have closed.
    Replaced(Instant),
}

impl Tunnel {
    /// Carries bytes both ways until one side ends or a newer token takes the fence; then tells the fence.
    pub async fn run(self) {
        let Tunnel { client, connection, write, end_time } = self;
        let mut cutting = Cutting { connection, write };
        let (upstream, write) = (cutting.connection.as_tunnel(), cutting.write.as_ref());
        let Some(upstream) = upstream else { return };
        let is_known = tokio::select! {
            biased;
            is_known = through(client, upstream, write, end_time) => is_known,
            () = super::exchange::overdue(write) => false,
        };
        if is_known {
            cutting.finish(Outcome::Known);
        }
    }
}

/// The life of a tunnel. True where the upstream has ended it, and nothing of it can be done later.
async fn through(client: OnUpgrade, upstream: &mut Http1, write: Option<&InFlight>, end_time: Duration) -> bool {
    let Ok(Ok(client)) = timeout(CHANGE_TIME, client).await else { return false };
    let mut client = TokioIo::new(client);
    let by = match carry(&mut client, upstream, write).await {
        Ended::ByUpstream => None,
        Ended::Broken => return false,
        Ended::ByClient => Some(Instant::now() + end_time),
        Ended::Replaced(by) => Some(by),
    };
    // Both hear that it is over. A client that doesn't take what is left for it must not hold up the rest.
    let client_closes = async move {
        let _ = timeout(CLOSE_TIME, client.shutdown()).await;
    };
    let Some(by) = by else {
        client_closes.await;
        return true;
    };
    let upstream_closes = async {
        upstream.shutdown().await?;
        let mut scrap = [0; 4096];
        while upstream.read(&mut scrap).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let ((), closed) = tokio::join!(client_closes, timeout_at(by, upstream_closes));
    matches!(closed, Ok(Ok(())))
}

/// Cuts the upstream's connection when dropped, and only then tells the fence that the end is unknown.
struct Cutting {
    connection: Connection,
    write: Option<InFlight>,
}

impl Cutting {
    fn finish(mut self, outcome: Outcome) {
        self.connection.cut();
        if let Some(write) = self.write.take() {
            write.finish(outcome);
        }
    }
}

impl Drop for Cutting {
    fn drop(&mut self) {
        self.connection.cut();
        if let Some(write) = self.write.take() {
            write.finish(Outcome::Unknown);
        }
    }
}

async fn carry(client: &mut TokioIo<Upgraded>, upstream: &mut Http1, write: Option<&InFlight>) -> Ended {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let up = async {
        let copied = copy(&mut from_client, &mut to_upstream).await;
        // A client that has only finished sending may still wait for the rest.
        if copied.is_err() || to_upstream.shutdown().await.is_err() {
            return Ended::ByClient;
        }
        std::future::pending().await
    };
    let down = async {
        let mut bytes = vec![0; 16 * 1024];
        loop {
            match from_upstream.read(&mut bytes).await {
                Ok(0) => return Ended::ByUpstream,
                Err(_) => return Ended::Broken,
                Ok(count) => {
                    if to_client.write_all(&bytes[..count]).await.is_err() || to_client.flush().await.is_err() {
                        return Ended::ByClient;
                    }
                }
            }
        }
    };
    let replaced = async {
        match write {
            Some(write) => Ended::Replaced(write.replaced().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        ended = replaced => ended,
        ended = down => ended,
        ended = up => ended,
    }
}
