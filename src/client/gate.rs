//! A gate, and what may be done through it by a leader.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use super::bound::Bound;
use super::error::Error;
use super::http::Http;
use super::leadership::Leadership;
use super::sql::Sql;
use super::told::Source;
use crate::endpoint::{Endpoint, Identity, Options, Reply, UrlError, segment};
use crate::fence::{FenceName, Token};
use crate::headers::{FENCING_HOLDER, FENCING_TOKEN, IDEMPOTENCY_RETENTION};

/// How long requests that were surely not applied are tried again, where nothing else is said.
const RETRY_FOR: Duration = Duration::from_secs(10);

/// A gate's data listener. Clones share connections.
#[derive(Debug, Clone)]
pub struct Gate {
    url: String,
    options: Options,
    identity: Identity,
    retry_for: Duration,
    endpoint: Endpoint,
}

/// No gate keeps keys for longer than this surely; what says so is taken at no more than that.
const KEPT_FOR_MAX: Duration = Duration::from_secs(24 * 3600);

/// What a leader may do through a gate: it has claimed the fence, so from now on no older leader's write gets in, and what it
/// reads stays true until it writes or is replaced. Clones share the claim.
///
/// It keeps the leadership: that is resigned only when this and all clones are gone, too, or by [`Leadership::resign`].
#[derive(Debug, Clone)]
pub struct Fenced {
    bound: Arc<Bound>,
    previous: Option<Token>,
}

impl Gate {
    /// The gate at this URL, such as `http://127.0.0.1:7070`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn new(url: &str) -> Result<Gate, UrlError> {
        Gate::open(url, &Identity::default())
    }

    /// The same, of a gate that asks who one is, or whose certificate the operating system doesn't know.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn open(url: &str, identity: &Identity) -> Result<Gate, UrlError> {
        let options = Options::default();
        let endpoint = Endpoint::open(url, options, identity)?;
        Ok(Gate { url: url.to_owned(), options, identity: identity.clone(), retry_for: RETRY_FOR, endpoint })
    }

    /// The same, with so much time for each answer; 60 s if nothing is said.
    #[must_use]
    pub fn with_answer_time(self, answer_time: Duration) -> Gate {
        self.with_options(|options| Options { answer_time, ..options })
    }

    /// The same, where an answer's body has at most so many bytes; 64 MiB if nothing is said.
    #[must_use]
    pub fn with_answer_bytes_max(self, answer_bytes_max: usize) -> Gate {
        self.with_options(|options| Options { answer_bytes_max, ..options })
    }

    /// The same, where a request that was surely not applied is tried again by itself for so long, as long as the leadership is
    /// known to be alive; 10 s if nothing is said, and [`Duration::ZERO`] for never.
    #[must_use]
    pub fn with_retry_for(self, retry_for: Duration) -> Gate {
        Gate { retry_for, ..self }
    }

    fn with_options(self, change: impl FnOnce(Options) -> Options) -> Gate {
        let options = change(self.options);
        let endpoint = Endpoint::open(&self.url, options, &self.identity).expect("it was read before");
        Gate { options, endpoint, ..self }
    }

    /// Claims the fence for this leadership, and gives what reads and writes for it. A new leader claims *before* it reads: else
    /// its predecessor could still change what it has read.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Replaced`] where somebody with a higher token has claimed the fence before.
    pub async fn fenced(&self, leadership: &Leadership, fence: &FenceName) -> Result<Fenced, Error> {
        let bound = Bound::new(self.endpoint.clone(), leadership.clone(), fence.clone(), self.retry_for);
        let call = bound.call(Method::POST, format!("/-/fences/{}/claim", segment(fence))).repeatable();
        let answered = bound.send(&call, Source::Gate).await?;
        answered.still_leading()?;
        let body: serde_json::Value = serde_json::from_slice(&answered.reply.body).unwrap_or_default();
        let previous = body["previous"].as_str().and_then(|token| token.parse().ok());
        let bound = bound.with_keys_kept_for(kept_for(&answered.reply));
        Ok(Fenced { bound: Arc::new(bound), previous })
    }
}

impl Fenced {
    /// The SQLite database that is mounted at this path of the gate: `/`, or `/shop`.
    pub fn sql(&self, mount: &str) -> Sql {
        Sql::new(Arc::clone(&self.bound), mount)
    }

    /// The HTTP service that is mounted at this path of the gate: `/`, or `/stock`.
    pub fn http(&self, mount: &str) -> Http {
        Http::new(Arc::clone(&self.bound), mount)
    }

    /// The fence.
    pub fn fence(&self) -> &FenceName {
        self.bound.fence()
    }

    /// The leadership.
    pub fn leadership(&self) -> &Leadership {
        self.bound.leadership()
    }

    /// The token that the fence's mark was before this claim: the predecessor's, or this leadership's own where it had claimed
    /// already. `None` where nobody ever had.
    pub fn previous(&self) -> Option<Token> {
        self.previous
    }
}

/// For how long the gate surely knows an idempotency key; nothing where it doesn't say so: one of an earlier version.
pub(crate) fn kept_for(reply: &Reply) -> Duration {
    let seconds = reply.headers.get(IDEMPOTENCY_RETENTION).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds).min(KEPT_FOR_MAX))
}

/// What every request presents. The fence is named, so that a wrong path is refused: a bare token would claim whatever fence is
/// there.
pub(super) fn presented(leadership: &Leadership, fence: &FenceName) -> Vec<(HeaderName, HeaderValue)> {
    let ascii = "fence names, holders and numbers are visible ASCII";
    let token = HeaderValue::try_from(format!("{fence}={}", leadership.token())).expect(ascii);
    let mut headers = vec![(FENCING_TOKEN, token)];
    if let Some(holder) = leadership.holder() {
        headers.push((FENCING_HOLDER, HeaderValue::try_from(holder.as_str()).expect(ascii)));
    }
    headers
}
