//! Whom a gate asks before it believes a token: `trust = "coordinator"` (docs/trust.md).
//!
//! - [`names`]: which election issues a fence's tokens
//! - [`desk`]: questions to one coordinator, many asking at once
//! - [`follow`]: hearing of new leaders, and fencing their predecessors before their first write
//! - [`source`]: the coordinator that is asked, behind a trait object
//! - [`Office`]: the thread that asks and follows; [`Trusted`]: what a resource is given to ask
//!
//! The decision itself is in the core, [`crate::fence::leader`], and *when* to ask is the resources'
//! ([`crate::resource::issuer`]).

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::fence::{FenceName, Leader, Token};
use crate::problem::Problem;
use crate::resource::{Boxed, Issuer};

pub mod desk;
pub mod follow;
pub mod names;
pub mod source;

pub use desk::{Desk, Limits};
pub use follow::{Follower, Known};
pub use names::{Elections, Fences};
pub use source::Source;

/// The thread on which coordinators are asked and followed: none that serves requests, and none that writes.
#[derive(Debug)]
pub struct Office {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Office {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system has none to give.
    pub fn open() -> io::Result<Office> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let run = move || {
            // Either way it is the end: the sender says so, or is gone.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("fg-trust".to_owned()).spawn(run)?;
        Ok(Office { runtime: handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where coordinators are asked and followed.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Office {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panics have been reported.
            let _ = thread.join();
        }
    }
}

/// What one resource asks before a mark rises.
#[derive(Debug, Clone)]
pub struct Trusted {
    /// Where its coordinator is asked.
    pub desk: Arc<Desk>,
    /// What is known of that coordinator's elections without asking.
    pub known: Arc<Known>,
    /// Which election is which fence's.
    pub elections: Elections,
}

impl Issuer for Trusted {
    fn leader<'a>(&'a self, fence: &'a FenceName, presented: Token) -> Boxed<'a, Result<Option<Leader>, Problem>> {
        Box::pin(async move {
            match self.elections.election(fence) {
                Some(election) => self.desk.leader(&election, presented).await,
                // No election can have this name, so that nobody leads it.
                None => Ok(None),
            }
        })
    }

    fn election(&self, fence: &FenceName) -> String {
        self.elections.election(fence).map_or_else(|| self.elections.to_string(), |election| election.to_string())
    }

    fn leads(&self, fence: &FenceName, token: Token) -> bool {
        self.elections.election(fence).is_some_and(|election| self.known.leads(&election) == Some(token))
    }
}
