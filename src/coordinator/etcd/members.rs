//! The members of a cluster, one connection to each, and the one that is asked at present.
//!
//! etcd-client can spread requests over several endpoints by itself, but picks at random, and so would ask a member that hangs
//! again and again. Here all requests go to one member until it fails, and then to the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, WatchOptions};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::failure::Failure;

/// How long to wait once all members have failed, the first time and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tries {
    /// At one member.
    pub(super) each: Duration,
    /// At all of them together, however often each is asked.
    pub(super) all: Duration,
}

pub(super) struct Members {
    members: Vec<Member>,
    /// The one to ask, as a place in `members`.
    current: AtomicUsize,
    connect: ConnectOptions,
    tries: Tries,
}

struct Member {
    /// `host:port`, for people.
    name: String,
    url: String,
    /// The connection, and how many there were before it.
    client: Mutex<(u64, Option<Client>)>,
}

impl Members {
    /// `members` are `host:port`; there is at least one. Nothing is connected yet.
    pub(super) fn new(members: &[String], scheme: &str, connect: ConnectOptions, tries: Tries) -> Members {
        let member = |name: &String| Member {
            name: name.clone(),
            url: format!("{scheme}://{name}"),
            client: Mutex::new((0, None)),
        };
        Members { members: members.iter().map(member).collect(), current: AtomicUsize::new(0), connect, tries }
    }

    /// How long a request may take that has no reason of its own to be shorter.
    pub(super) fn tries(&self) -> Tries {
        self.tries
    }

    /// For requests that are worth nothing once a lease of this length has run out: one member that hangs must not use it up.
    pub(super) fn tries_within(&self, lease: Duration) -> Tries {
        Tries { each: (lease / 4).min(self.tries.each), all: lease.min(self.tries.all) }
    }

    /// Asks one member after the other until one answers, or there is no sense in it, or the time is over. `request` must be one
    /// that may be done twice.
    pub(super) async fn ask<T, F>(
        &self,
        tries: Tries,
        request: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let end = Instant::now() + tries.all;
        let (mut failed, mut pause, mut maybe_done) = (0, PAUSE_MIN, false);
        let mut failures: Vec<Option<Failure>> = vec![None; self.members.len()];
        loop {
            let index = self.current.load(Ordering::Relaxed);
            let failure = match self.ask_member(index, (Instant::now() + tries.each).min(end), &request).await {
                Err(failure) if failure.is_passing() => failure,
                outcome => return outcome,
            };
            maybe_done |= failure.may_be_done();
            // That a member was late says less than what it said in an earlier try.
            if failures[index].is_none() || !matches!(failure, Failure::Late(_)) {
                failures[index] = Some(failure);
            }
            failed += 1;
            if failed % self.members.len() == 0 {
                timeout_at(end, sleep(pause)).await.ok();
                pause = (pause * 2).min(PAUSE_MAX);
            }
            // Certificates don't get better by trying.
            let is_hopeless = failures.iter().all(|failure| matches!(failure, Some(Failure::Distrusted(_))));
            if is_hopeless || Instant::now() >= end {
                let texts: Vec<&str> = failures.iter().flatten().map(Failure::text).collect();
                let text = texts.join("; ");
                // One try that may have been done is not undone by others that weren't.
                return Err(if maybe_done { Failure::Broken(text) } else { Failure::Unreached(text) });
            }
        }
    }

    async fn ask_member<T, F>(
        &self,
        index: usize,
        end: Instant,
        request: impl Fn(Client) -> F + Send + Sync,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        let name = &self.members[index].name;
        let mut connection = None;
        let asked = async {
            let (number, client) = self.client(index).await?;
            connection = Some(number);
            request(client).await
        };
        let asked = timeout_at(end, asked).await;
        let failure = match asked {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => Failure::of(name, &error),
            Err(_) => Failure::Late(format!("{name}: no answer in time")),
        };
        if failure.is_passing() {
            self.leave(index, connection).await;
        }
        Err(failure)
    }

    /// Waits until a change of `key` (or of what `options` says) that `matters`, `wait` has passed, or the watch ends for any
    /// reason. So it is **only a hint** to look again: nothing is missed by whoever looks first and passes the revision after it.
    pub(super) async fn hint(
        &self,
        key: &[u8],
        options: WatchOptions,
        wait: Duration,
        matters: impl Fn(&[u8]) -> bool + Send + Sync,
    ) {
        let end = Instant::now() + wait;
        let index = self.current.load(Ordering::Relaxed);
        let mut connection = None;
        let watched = async {
            let (number, mut client) = self.client(index).await?;
            connection = Some(number);
            let opened = timeout(self.tries.each, client.watch(key, Some(options))).await;
            let mut stream =
                opened.map_err(|_| etcd_client::Error::WatchError("no answer in time".to_owned())).flatten()?;
            while let Some(change) = stream.message().await? {
                if change.events().iter().filter_map(|event| event.kv()).any(|kv| matters(kv.key())) {
                    return Ok(());
                }
                if change.canceled() {
                    // Compacted in between, for example: the member is as good as any.
                    timeout_at(end, sleep(PAUSE_MIN)).await.ok();
                    return Ok(());
                }
            }
            Err(etcd_client::Error::WatchError("the watch has ended".to_owned()))
        };
        let watched: Result<Result<(), etcd_client::Error>, _> = timeout_at(end, watched).await;
        if let Ok(Err(error)) = watched {
            tracing::debug!(member = self.members[index].name, %error, "a watch broke; looking again");
            self.leave(index, connection).await;
            timeout_at(end, sleep(PAUSE_MIN)).await.ok();
        }
    }

    /// The connection to a member and its number; a new one where there is none. Without a user that needs no network: etcd-client
    /// connects when it is first asked.
    async fn client(&self, index: usize) -> Result<(u64, Client), etcd_client::Error> {
        let mut held = self.members[index].client.lock().await;
        if let (number, Some(client)) = &*held {
            return Ok((*number, client.clone()));
        }
        let client = Client::connect([&self.members[index].url], Some(self.connect.clone())).await?;
        held.1 = Some(client.clone());
        Ok((held.0, client))
    }

    /// Turns from a member that failed to the next, and closes the connection to it: one that hangs may go on doing so long after
    /// the member or the network is well again.
    async fn leave(&self, index: usize, connection: Option<u64>) {
        let next = (index + 1) % self.members.len();
        // Where many requests fail at once, only the first of them turns.
        let _ = self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
        if let Some(number) = connection {
            let mut held = self.members[index].client.lock().await;
            if held.0 == number {
                *held = (number + 1, None);
            }
        }
    }
}

/// The connection that somebody uses for longer than one request.
pub(super) struct Used {
    index: usize,
    connection: u64,
}

impl Members {
    /// The connection to the member that is asked at present. Whoever uses it says when it fails.
    pub(super) async fn used(&self) -> Result<(Used, Client), etcd_client::Error> {
        let index = self.current.load(Ordering::Relaxed);
        let (connection, client) = self.client(index).await?;
        Ok((Used { index, connection }, client))
    }

    /// It has failed: turns to the next member.
    pub(super) async fn failed(&self, used: Used) {
        self.leave(used.index, Some(used.connection)).await;
    }
}

/// A lease that is revoked, as far as that can be done, when it is let go of.
pub(super) struct Lease {
    pub(super) members: Arc<Members>,
    pub(super) id: i64,
    /// Not to be revoked: it belongs to a leadership now.
    pub(super) is_kept: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // Outside a runtime, or where nobody is reached, it runs out by its TTL.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (members, id) = (Arc::clone(&self.members), self.id);
            runtime.spawn(async move {
                let revoke = |mut client: Client| async move { client.lease_revoke(id).await.map(|_| ()) };
                if let Err(failure) = members.ask(members.tries(), revoke).await {
                    tracing::debug!(?failure, "a lease could not be revoked; it runs out by itself");
                }
            });
        }
    }
}
