//! Seam 1: the thing written to.
//!
//! A new kind of resource is one folder here, one arm in `server/serve.rs`, and one line in the conformance tests.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use std::net::SocketAddr;
use std::time::Duration;

use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Response, Uri, Version};

use crate::access::Caller;
use crate::fence::{Claim, FenceName, Holder, Presented, Token, Verdict};
use crate::problem::Problem;

pub mod body;
pub mod headers;
pub mod http;
pub mod issuer;
pub mod opening;
pub mod received;
pub mod records;
pub mod refusals;
pub mod seat;
pub mod sqlite;
pub mod threads;
pub mod turn;

pub use body::{Body, BodyError, Repeated};
pub use issuer::Issuer;
pub use received::Received;

/// A future that can be kept behind a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a resource promises about stale writes (docs/guarantees.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Check, mark and write are one transaction: after a write with token *n* has committed, no write with a lower token
    /// commits, through any crash.
    Atomic,
    /// On advance the mark is durable, then no older write starts, then those in flight finish, and only then is the first newer
    /// write forwarded. A write whose outcome isn't known quarantines the fence.
    Drained,
}

impl Guarantee {
    /// The word for JSON and docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Guarantee::Atomic => "atomic",
            Guarantee::Drained => "drained",
        }
    }
}

/// One request to a resource.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// What is asked for, as it was sent.
    pub uri: Uri,
    /// Where in its path that below the mount point begins.
    pub below: usize,
    /// The version of HTTP that the client speaks.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// Where the client is.
    pub peer: SocketAddr,
    /// Whether it speaks TLS.
    pub is_secure: bool,
    /// Who sends it, and what that may do here; `None`: everything. The resource asks before it touches a fence.
    pub caller: Option<Box<Caller>>,
    /// The body, not read yet: a refusal comes before it.
    pub body: Received,
    /// The connection itself, once it is answered 101 (or 200 to an extended CONNECT).
    pub upgrade: Option<OnUpgrade>,
}

impl Call {
    /// The path below the mount point, starting with `/`, as it was sent.
    pub fn path(&self) -> &str {
        match &self.uri.path()[self.below..] {
            "" => "/",
            below => below,
        }
    }

    /// The query, as it was sent, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The authority that the client asked, from the request's target or its `Host`.
    pub fn authority(&self) -> Option<&str> {
        let named = || self.headers.get(HOST).and_then(|host| host.to_str().ok());
        self.uri.authority().map(Authority::as_str).or_else(named)
    }

    /// What it presents. `own`: the fence that a bare token speaks for.
    ///
    /// # Errors
    /// [`Kind::TokenMalformed`](crate::problem::Kind::TokenMalformed).
    pub fn presented(&self, own: Option<&FenceName>) -> Result<Option<Presented>, Problem> {
        Ok(headers::presented(&self.headers, own)?)
    }
}

/// A call that the gate let through, and its answer.
#[allow(missing_debug_implementations, reason = "a streamed body is a trait object")]
pub struct Served {
    /// The answer.
    pub response: Response<Body>,
    /// What was decided on its claims; `None` for a call without a token.
    pub judged: Option<Judged>,
}

/// The answer to a call: there at once, as most refusals are, or still to come.
#[allow(missing_debug_implementations, reason = "one still to come is a trait object")]
#[allow(clippy::large_enum_variant, reason = "it is looked at once, where it is made")]
pub enum Answering<'a> {
    /// It is there.
    Now(Result<Served, Problem>),
    /// It is to come.
    Later(Boxed<'a, Result<Served, Problem>>),
}

impl Answering<'_> {
    /// Waits for it.
    ///
    /// # Errors
    /// What was refused, or failed.
    pub async fn wait(self) -> Result<Served, Problem> {
        match self {
            Answering::Now(answer) => answer,
            Answering::Later(answer) => answer.await,
        }
    }
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
    /// Requests with a claim on it that are in work; where the guarantee is *drained*, writes that were forwarded.
    pub in_flight: u64,
    /// Until when newer tokens have to wait, because an older write may still be applied.
    pub quarantine: Option<Quarantined>,
    /// Requests refused since the gate started.
    pub refused: u64,
    /// Writes let through since the gate started: committed (*atomic*), forwarded (*drained*, where the count begins anew after 2^32).
    pub writes: u64,
}

/// What an operator looks for among the fences of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// The names begin with this.
    pub prefix: String,
    /// The names have this somewhere in them, in whatever case.
    pub part: String,
    /// The names come after this one.
    pub after: String,
    /// At most so many.
    pub limit: usize,
}

impl Look {
    /// The first fences of all.
    pub fn first(limit: usize) -> Look {
        Look { limit, ..Look::default() }
    }

    /// Whether a name has the part that is looked for.
    pub fn has_part(&self, name: &str) -> bool {
        let (name, part) = (name.as_bytes(), self.part.as_bytes());
        part.is_empty() || name.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
    }

    /// Whether this is a fence that is looked for.
    pub fn fits(&self, name: &str) -> bool {
        name.starts_with(&self.prefix) && name > self.after.as_str() && self.has_part(name)
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The fences, in order.
    pub fences: Vec<FenceInfo>,
    /// There may be more after this name. It needs not be the last one's: whoever looks through very many names stops somewhere, and
    /// goes on when asked again.
    pub next: Option<String>,
}

/// How many fences a resource has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// In all.
    pub fences: u64,
    /// Of them, quarantined.
    pub quarantined: u64,
}

/// How long a quarantine lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quarantined {
    /// Until this time, in milliseconds since 1970 (UTC).
    UntilMs(i64),
    /// Until an operator releases the fence.
    Held,
}

/// One line of a fence's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number, rising.
    pub id: i64,
    /// When, in milliseconds since 1970 (UTC).
    pub at_ms: i64,
    /// `advanced`, `bound`, `reset`, `quarantined`, `settled` or `released`.
    pub event: String,
    /// The mark after it.
    pub token: Option<Token>,
    /// The mark before it.
    pub previous: Option<Token>,
    /// The holder.
    pub holder: Option<String>,
    /// An operator's reason; why it was quarantined.
    pub reason: Option<String>,
}

/// How often one presenter was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Knock {
    /// [`Verdict::Stale`], [`Verdict::Conflict`] or [`Verdict::Unissued`].
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
    /// `advanced`, `bound`, `reset`, `quarantined`, `settled`, `released`, `stale`, `conflict` or `unissued`.
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
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    happened: VecDeque<Happened>,
    /// Forgotten since the last time.
    lost: u64,
}

/// What happened since the last time.
#[derive(Debug, Default)]
pub struct News {
    /// In order.
    pub happened: Vec<Happened>,
    /// How many events before these were forgotten, because there were too many.
    pub lost: u64,
}

impl Told {
    /// Adds an event.
    pub fn add(&self, happened: Happened) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.happened.len() == HAPPENED_MAX {
            waiting.happened.pop_front();
            waiting.lost += 1;
        }
        waiting.happened.push_back(happened);
    }

    /// So many events there was no room for.
    pub fn miss(&self, count: u64) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).lost += count;
    }

    /// Takes all events.
    pub fn take(&self) -> News {
        let Waiting { happened, lost } =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        News { happened: happened.into(), lost }
    }
}

/// The seam.
pub trait Resource: Send + Sync {
    /// Its name in the configuration.
    fn name(&self) -> &str;

    /// `sqlite` or `http`.
    fn kind(&self) -> &'static str;

    /// What it promises.
    fn guarantee(&self) -> Guarantee;

    /// Where it is: a file, an address.
    fn location(&self) -> String;

    /// The state of the fence of this name; `None` for a name that this resource can't have.
    fn fence(&self, name: &str) -> Option<FenceInfo>;

    /// Fences that are looked for. Its time and memory are bounded however many there are; it may read a file.
    fn fences(&self, look: &Look) -> Found;

    /// How many there are.
    fn tally(&self) -> Tally;

    /// Fences that are quarantined, in no order, at most `limit`.
    fn quarantined(&self, limit: usize) -> Vec<FenceInfo>;

    /// Answers a request, judging the token that it presents.
    fn call(&self, call: Call) -> Answering<'_>;

    /// For how long a write that names itself by an `Idempotency-Key` is surely known again; nothing where no keys are kept.
    fn keys_kept_for(&self) -> Duration {
        Duration::ZERO
    }

    /// Judges a claim and raises the mark, without writing. Where the guarantee is *drained*, it returns when the advance has
    /// completed: no older write can be applied any more.
    fn claim(&self, claim: Claim) -> Boxed<'_, Result<Claimed, Problem>>;

    /// Raises a mark to the token of a leader that the fence's coordinator has elected, where it is higher, and says why in the
    /// history. It returns when the mark is durable. The coordinator's word is not asked for again. True where the mark rose.
    fn succeed(&self, claim: Claim, why: &'static str) -> Boxed<'_, Result<bool, Problem>>;

    /// Events of a fence with a number below `before`, newest first, at most `limit`.
    fn history(&self, fence: &FenceName, before: i64, limit: usize) -> Boxed<'_, Result<Vec<Event>, Problem>>;

    /// Who was refused on a fence, the latest first, at most a thousand.
    fn knocks(&self, fence: &FenceName) -> Boxed<'_, Result<Vec<Knock>, Problem>>;

    /// Sets the mark to what an operator says, lower or higher or none, and keeps the reason in the history. Returns the mark
    /// before.
    fn reset(&self, fence: &FenceName, to: Option<Token>, reason: String) -> Boxed<'_, Result<Option<Token>, Problem>>;

    /// Ends the fence's quarantine, and keeps the reason in the history. False where there was none.
    fn release(&self, fence: &FenceName, reason: String) -> Boxed<'_, Result<bool, Problem>>;

    /// Why the resource can't be written now; `None` while all is well.
    fn trouble(&self) -> Option<String>;

    /// Numbers for the metrics: gauge name and value.
    fn gauges(&self) -> Vec<(&'static str, f64)>;

    /// What happened since the last call, for whoever watches.
    fn happened(&self) -> News;

    /// Finishes what is in work and stops. Later calls are answered 503.
    fn stop(&self);
}
