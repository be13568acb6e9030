//! Looking up an upstream's name: one question at a time from each thread that serves.
//!
//! The operating system's resolver holds a thread for each question, and for longer than a request waits. Where the name servers say
//! nothing, a question for every request that comes would soon hold all the threads that there may be.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::dial::{Unreachable, unreachable};

/// The addresses of a name, or why there are none.
pub type Found = Result<Vec<SocketAddr>, Unreachable>;

/// Where a question is shared by all who have it.
#[derive(Debug, Default)]
pub struct Lookup(Mutex<Option<watch::Receiver<Option<Found>>>>);

impl Lookup {
    /// The addresses of this name, as of an answer that came after this was called. Whoever stops waiting leaves the question to the
    /// others.
    ///
    /// # Errors
    /// [`Unreachable`].
    pub async fn find(&self, name: &str, port: u16) -> Found {
        let mut answer = self.join(name, port);
        let found = answer.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        // Nothing comes where the thread that asked has ended.
        found.unwrap_or_else(|| Err(failed(name, "the gate is stopping")))
    }

    /// The question that is under way, or a new one.
    fn join(&self, name: &str, port: u16) -> watch::Receiver<Option<Found>> {
        let mut shared = self.lock();
        if let Some(answer) = shared.as_ref()
            && answer.has_changed().is_ok()
            && answer.borrow().is_none()
        {
            return answer.clone();
        }
        let (tell, answer) = watch::channel(None);
        *shared = Some(answer.clone());
        let name = name.to_owned();
        // A task of its own: it goes on when the one that asked first gives up, or the next would have to ask anew.
        drop(tokio::spawn(async move {
            let found = match tokio::net::lookup_host((name.as_str(), port)).await {
                Ok(found) => Ok(found.collect()),
                Err(error) => Err(failed(&name, &error.to_string())),
            };
            tell.send_replace(Some(found));
        }));
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Option<watch::Receiver<Option<Found>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(name: &str, why: &str) -> Unreachable {
    unreachable("dns_error", format!("{name} can't be looked up: {why}"))
}
