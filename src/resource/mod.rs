//! Seam 1: the thing written to.
//!
//! A new kind of resource is one folder here, one arm in `server/serve.rs`, and one line in the conformance tests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Response};

use http_body_util::Full;

use crate::fence::{Claim, FenceName, Holder, Presented, Token, Verdict};
use crate::problem::Problem;

pub mod sqlite;

/// A future that can be kept behind a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a resource promises about stale writes (docs/guarantees.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Check, mark and write are one transaction: after a write with token *n* has committed, no write with a lower token
    /// commits, through any crash.
    Atomic,
}

impl Guarantee {
    /// The word for JSON and docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Guarantee::Atomic => "atomic",
        }
    }
}

/// One request to a resource.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path below the mount point, starting with `/`.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The token that it presents, if any.
    pub presented: Option<Presented>,
    /// The body, not read yet: a refusal comes before it.
    pub body: Incoming,
}

/// A call that the gate let through, and its answer.
#[derive(Debug)]
pub struct Served {
    /// The answer.
    pub response: Response<Full<Bytes>>,
    /// What was decided on its claims; `None` for a call without a token.
    pub judged: Option<Judged>,
}

/// What was decided on admitted claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// [`Verdict::Admitted`] or [`Verdict::Advanced`].
    pub verdict: Verdict,
    /// The claims. Each was admitted, so that its token was its fence's mark after the request.
    pub claims: std::sync::Arc<[Claim]>,
}

/// A claim that was admitted by itself, without a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// [`Verdict::Admitted`] or [`Verdict::Advanced`].
    pub verdict: Verdict,
    /// The mark before; `None` where this was the fence's first.
    pub previous: Option<Token>,
}

/// The state of one fence, as operators and clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FenceInfo {
    /// Its name.
    pub fence: FenceName,
    /// The mark; `None` before the first claim.
    pub highest: Option<Token>,
    /// The holder that the mark's token is bound to.
    pub holder: Option<Holder>,
    /// When the mark rose, in milliseconds since 1970 (UTC).
    pub advanced_at_ms: Option<i64>,
    /// Requests with a claim on it that are in work.
    pub in_flight: u64,
    /// Requests refused since the gate started.
    pub refused: u64,
}

/// One line of a fence's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, rising.
    pub id: i64,
    /// When, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
    /// `advanced`, `bound`, `reset` or `released`.
    pub event: String,
    /// The mark after it.
    pub token: Option<Token>,
    /// The mark before it.
    pub previous: Option<Token>,
    /// The holder.
    pub holder: Option<String>,
    /// An operator's reason.
    pub reason: Option<String>,
}

/// How often one presenter was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knock {
    /// [`Verdict::Stale`] or [`Verdict::Conflict`].
    pub verdict: Verdict,
    /// The token presented.
    pub token: Token,
    /// The holder presented.
    pub holder: Option<Holder>,
    /// How often.
    pub count: u64,
    /// First, in milliseconds since 1970 (UTC).
    pub first_at_ms: i64,
    /// Last, likewise.
    pub last_at_ms: i64,
}

/// Something that operators watch for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// `advanced`, `bound`, `reset`, `stale` or `conflict`.
    pub event: &'static str,
    /// The fence.
    pub fence: FenceName,
    /// The mark after it; for a refusal, the token presented.
    pub token: Option<Token>,
    /// The mark before it; nothing for a refusal.
    pub previous: Option<Token>,
    /// The holder.
    pub holder: Option<Holder>,
    /// How often since this was last told; 1 for all but refusals.
    pub count: u64,
    /// When, the last time, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
}

/// Most events kept until somebody asks for them; older ones are forgotten.
const HAPPENED_MAX: usize = 4096;

/// Events that wait to be told to whoever watches.
#[derive(Debug, Default)]
pub struct Told {
    waiting: Mutex<VecDeque<Happened>>,
}

impl Told {
    /// Adds an event.
    pub fn add(&self, happened: Happened) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == HAPPENED_MAX {
            waiting.pop_front();
        }
        waiting.push_back(happened);
    }

    /// Takes all events.
    pub fn take(&self) -> Vec<Happened> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

/// The seam.
pub trait Resource: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// `sqlite`.
    fn kind(&self) -> &'static str;

    /// What it promises.
    fn guarantee(&self) -> Guarantee;

    /// Where it is: a file, an address.
    fn location(&self) -> String;

    /// The fence that a bare token speaks for on this path; `None` where the path has none.
    fn bare_fence(&self, path: &str) -> Option<FenceName>;

    /// The state of the fence of this name; `None` for a name that this resource can't have.
    fn fence(&self, name: &str) -> Option<FenceInfo>;

    /// Fences that have the prefix and come after the name `after`, in order, at most `limit`.
    fn fences(&self, prefix: &str, after: &str, limit: usize) -> Vec<FenceInfo>;

    /// Answers a request, judging the token that it presents.
    fn call(&self, call: Call) -> Boxed<'_, Result<Served, Problem>>;

    /// Judges a claim and raises the mark, without writing.
    fn claim(&self, claim: Claim) -> Boxed<'_, Result<Claimed, Problem>>;

    /// Events of a fence with a number below `before`, newest first, at most `limit`.
    fn history(&self, fence: &FenceName, before: i64, limit: usize) -> Boxed<'_, Result<Vec<Event>, Problem>>;

    /// Who was refused on a fence, the latest first, at most a thousand.
    fn knocks(&self, fence: &FenceName) -> Boxed<'_, Result<Vec<Knock>, Problem>>;

    /// Sets the mark to what an operator says, lower or higher or none, and keeps the reason in the history. Returns the mark
    /// before.
    fn reset(&self, fence: &FenceName, to: Option<Token>, reason: String) -> Boxed<'_, Result<Option<Token>, Problem>>;

    /// Why the resource can't be written now; `None` while all is well.
    fn trouble(&self) -> Option<String>;

    /// Numbers for the metrics: gauge name and value.
    fn gauges(&self) -> Vec<(&'static str, f64)>;

    /// What happened since the last call, for whoever watches.
    fn happened(&self) -> Vec<Happened>;

    /// Finishes what is in work and stops. Later calls are answered 503.
    fn stop(&self);
}
