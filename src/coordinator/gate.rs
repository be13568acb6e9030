//! A gate's embedded coordinator from outside, by `/-/elections/` (`docs/elections.md`).
//!
//! The candidate makes its own secret id before it asks for the first time. So a campaign whose answer is lost is asked again as
//! the same candidate, over broken connections and restarts of the gate, and never stands twice.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::{Value, json};

use super::candidate::CandidateId;
use super::{Bid, Coordinator, CoordinatorError, Credentials, Leader, Leadership, VIEW_WAITING_MAX, View};
use crate::endpoint::{Call, Endpoint, ExchangeError, Identity, Options, Reply, UrlError, segment};
use crate::fence::{FenceName, Holder, Token};

/// The bounds of a lease, as `docs/elections.md` has them.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// How long one request waits for its turn or for news. The longer, the fewer requests; the shorter, the sooner a connection that
/// broke without a sign is noticed. At most 60 s.
const WAIT: Duration = Duration::from_secs(20);
/// How long the answer to a request that doesn't wait may take, and how much longer than its wait that to another.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// How long the gate may be out of reach for one who waits, before the wait is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause before a gate that could not be reached is asked again, and the longest: each is twice the one before.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a resignation that nobody waits for may take.
const GOODBYE_TIME: Duration = Duration::from_secs(2);

/// The embedded coordinator of the gate at this URL. Clones share connections.
///
/// ```
/// # use fencegate::coordinator::GateCoordinator;
/// let elections = GateCoordinator::new("http://127.0.0.1:7070")?;
/// # Ok::<(), fencegate::endpoint::UrlError>(())
/// ```
#[derive(Debug, Clone)]
pub struct GateCoordinator {
    endpoint: Endpoint,
    patience: Duration,
}

/// A term of leadership by a gate's embedded coordinator.
#[derive(Debug)]
pub struct GateLeadership {
    candidacy: Candidacy,
    token: Token,
    credentials: Credentials,
}

/// One candidate of one election.
#[derive(Debug, Clone)]
struct Candidacy {
    coordinator: GateCoordinator,
    election: FenceName,
    candidate: CandidateId,
}

/// Why a request wasn't done.
#[derive(Debug)]
enum Trouble {
    /// It is passing: the same may be asked again, after a pause at least so long.
    Passing { error: CoordinatorError, pause: Duration, sent: bool },
    /// Asking again won't help.
    Final(CoordinatorError),
}

impl GateCoordinator {
    /// The gate's data listener, such as `http://127.0.0.1:7070`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn new(url: &str) -> Result<GateCoordinator, UrlError> {
        GateCoordinator::open(url, &Identity::default())
    }

    /// The same, of a gate that asks who one is.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn open(url: &str, identity: &Identity) -> Result<GateCoordinator, UrlError> {
        let options = Options { answer_time: ANSWER_TIME, ..Options::default() };
        Ok(GateCoordinator { endpoint: Endpoint::open(url, options, identity)?, patience: PATIENCE })
    }

    /// The same, where one who waits in an election, or for news of one, gives up only after the gate has been out of reach for
    /// so long; 60 s if nothing is said. A gate that is not there at the start is told of at once.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> GateCoordinator {
        GateCoordinator { patience, ..self }
    }

    /// Asks once.
    async fn ask(&self, election: &FenceName, call: &Call) -> Result<Value, Trouble> {
        match self.endpoint.send(call).await {
            Ok(reply) => understood(election, &reply),
            Err(ExchangeError::Malformed(why)) => Err(Trouble::Final(CoordinatorError::Unavailable(why))),
            Err(error @ ExchangeError::NotSent { .. }) => {
                let error = CoordinatorError::Unavailable(error.to_string());
                Err(Trouble::Passing { error, pause: Duration::ZERO, sent: false })
            }
            Err(error @ ExchangeError::NoAnswer { .. }) => {
                let error = CoordinatorError::OutcomeUnknown(error.to_string());
                Err(Trouble::Passing { error, pause: Duration::ZERO, sent: true })
            }
        }
    }

    /// Asks until there is an answer that says enough. `wanted` takes it apart, or gives `None` where it is to be asked again.
    async fn ask_until<T>(
        &self,
        election: &FenceName,
        call: &Call,
        wanted: impl Fn(&Value) -> Result<Option<T>, Trouble> + Send,
    ) -> Result<T, CoordinatorError> {
        let mut patience = Patience { heard: None, since: Instant::now(), pause: PAUSE.0, most: self.patience };
        loop {
            let outcome = match self.ask(election, call).await {
                Ok(answer) => wanted(&answer),
                Err(trouble) => Err(trouble),
            };
            match outcome {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => patience.heard(),
                Err(Trouble::Final(error)) => return Err(error),
                Err(Trouble::Passing { error, pause, sent }) => patience.wait(error, pause, sent).await?,
            }
        }
    }

    async fn status(&self, election: &FenceName) -> Result<Value, CoordinatorError> {
        let call = Call::new(Method::GET, path(election, ""));
        self.ask(election, &call).await.map_err(Trouble::error)
    }
}

/// How long one goes on asking a gate that doesn't answer.
struct Patience {
    heard: Option<Instant>,
    since: Instant,
    pause: Duration,
    most: Duration,
}

impl Patience {
    fn heard(&mut self) {
        self.heard = Some(Instant::now());
        self.pause = PAUSE.0;
    }

    /// Waits before the next try, or gives up.
    async fn wait(&mut self, error: CoordinatorError, pause: Duration, sent: bool) -> Result<(), CoordinatorError> {
        let is_nobody = self.heard.is_none() && !sent;
        if is_nobody || self.heard.unwrap_or(self.since).elapsed() > self.most {
            return Err(error);
        }
        tracing::debug!("asking the gate again: {error}");
        tokio::time::sleep(self.pause.max(pause)).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
        Ok(())
    }
}

impl Trouble {
    fn error(self) -> CoordinatorError {
        match self {
            Trouble::Passing { error, .. } | Trouble::Final(error) => error,
        }
    }
}

fn path(election: &FenceName, rest: &str) -> String {
    format!("/-/elections/{}{rest}", segment(election))
}

/// A request that changes something. Each may be sent twice: renewing and resigning by their nature, campaigning because the
/// candidate has a name of its own.
fn post(election: &FenceName, action: &str, body: &Value) -> Call {
    Call::new(Method::POST, path(election, action))
        .with_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .with_body(Bytes::from(body.to_string()))
        .repeatable()
}

fn understood(election: &FenceName, reply: &Reply) -> Result<Value, Trouble> {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or(Value::Null);
    if matches!(reply.status, 200 | 202) && body.is_object() {
        return Ok(body);
    }
    let text = |key: &str| body[key].as_str();
    let message = text("message").or_else(|| text("detail")).map_or_else(
        || format!("status {}, and no reason given: is this a gate's data listener?", reply.status),
        str::to_owned,
    );
    let after = reply.headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
    let pause = after.map_or(Duration::ZERO, Duration::from_secs);
    let passing = |error| Err(Trouble::Passing { error, pause, sent: true });
    match (reply.status, text("code")) {
        (410, Some("LEADERSHIP_LOST")) => Err(Trouble::Final(CoordinatorError::Lost)),
        (409, Some("TOKENS_EXHAUSTED")) => Err(Trouble::Final(CoordinatorError::TokensExhausted(election.clone()))),
        (401 | 403, _) => Err(Trouble::Final(CoordinatorError::Denied(message))),
        (503, _) => passing(CoordinatorError::Unavailable(message)),
        // Also what stands between here and the gate, and has not got an answer from it.
        (500..=599, _) => passing(CoordinatorError::OutcomeUnknown(message)),
        _ => Err(Trouble::Final(CoordinatorError::Unavailable(message))),
    }
}

/// An answer that isn't what `docs/elections.md` says.
fn odd(answer: &Value) -> Trouble {
    let mut answer = answer.clone();
    // They are for nobody's log.
    for secret in ["credentials", "candidate"] {
        answer.as_object_mut().map(|answer| answer.remove(secret));
    }
    Trouble::Final(CoordinatorError::OutcomeUnknown(format!("not an answer of a gate's coordinator: {answer}")))
}

fn token(value: &Value) -> Option<Token> {
    value.as_str()?.parse().ok()
}

fn holder(value: &Value) -> Option<Holder> {
    value.as_str()?.parse().ok()
}

/// What the gate has signed for a leader.
fn credentials(answer: &Value) -> Credentials {
    let all = answer["credentials"].as_object().into_iter().flatten();
    all.filter_map(|(fence, signed)| Some((fence.parse().ok()?, signed.as_str()?.to_owned()))).collect()
}

/// Who leads by this answer; `None` where nobody does.
fn leader(answer: &Value) -> Result<Option<Leader>, Trouble> {
    match &answer["leader"] {
        Value::Null => Ok(None),
        leader => {
            let token = token(&leader["token"]).ok_or_else(|| odd(answer))?;
            Ok(Some(Leader { token, holder: holder(&leader["holder"]) }))
        }
    }
}

impl Coordinator for GateCoordinator {
    type Leadership = GateLeadership;

    async fn campaign(&self, election: &FenceName, bid: &Bid) -> Result<GateLeadership, CoordinatorError> {
        if bid.ttl < TTL.0 || bid.ttl > TTL.1 {
            return Err(CoordinatorError::Ttl { asked: bid.ttl, min: TTL.0, max: TTL.1 });
        }
        let candidate = CandidateId::random()
            .map_err(|error| CoordinatorError::Unavailable(format!("no randomness for a candidate: {error}")))?;
        // Rounded up: never less than was asked for.
        let ttl_ms = u64::try_from(bid.ttl.as_nanos().div_ceil(1_000_000)).expect("it is within the bounds");
        let body = json!({
            "candidate": candidate.to_string(), "enter": true, "holder": bid.holder, "ttl_ms": ttl_ms,
            "wait_ms": WAIT.as_secs() * 1000,
        });
        let call = post(election, "/campaign", &body).within(WAIT + ANSWER_TIME);
        let abandoned = Abandoned(Some(Candidacy { coordinator: self.clone(), election: election.clone(), candidate }));
        let (token, credentials) = self
            .ask_until(election, &call, |answer| match answer["state"].as_str() {
                Some("leading") => {
                    let token = token(&answer["token"]).ok_or_else(|| odd(answer))?;
                    Ok(Some((token, credentials(answer))))
                }
                Some("waiting") => Ok(None),
                _ => Err(odd(answer)),
            })
            .await
            .map_err(|error| match error {
                // Only a gate that doesn't know `enter` says this of a candidate that has just asked to come in.
                CoordinatorError::Lost => CoordinatorError::Unavailable("the gate is of an older version".to_owned()),
                other => other,
            })?;
        Ok(GateLeadership { candidacy: abandoned.keep(), token, credentials })
    }

    async fn leader(&self, election: &FenceName) -> Result<Option<Leader>, CoordinatorError> {
        leader(&self.status(election).await?).map_err(Trouble::error)
    }

    async fn observe(&self, election: &FenceName, after: Option<Token>) -> Result<Leader, CoordinatorError> {
        let after_text = after.map(|token| format!("after={token}&")).unwrap_or_default();
        let query = format!("/observe?{after_text}wait_ms={}", WAIT.as_millis());
        let call = Call::new(Method::GET, path(election, &query)).within(WAIT + ANSWER_TIME);
        self.ask_until(election, &call, |answer| Ok(leader(answer)?.filter(|leader| Some(leader.token) > after))).await
    }

    async fn view(&self, election: &FenceName) -> Result<View, CoordinatorError> {
        let status = self.status(election).await?;
        let ttl_left = status["leader"]["ttl_left_ms"].as_u64().map(Duration::from_millis);
        let waiting = status["waiting"].as_array().map_or(&[][..], Vec::as_slice);
        let waiting_count = status["candidates"].as_u64().and_then(|count| usize::try_from(count).ok());
        Ok(View {
            leader: leader(&status).map_err(Trouble::error)?,
            ttl_left,
            waiting: waiting.iter().take(VIEW_WAITING_MAX).map(holder).collect(),
            waiting_count: waiting_count.ok_or_else(|| odd(&status).error())?,
        })
    }
}

impl Leadership for GateLeadership {
    fn token(&self) -> Token {
        self.token
    }

    async fn renew(&mut self) -> Result<Duration, CoordinatorError> {
        let Candidacy { coordinator, election, candidate } = &self.candidacy;
        let call = post(election, "/renew", &json!({ "candidate": candidate.to_string() }));
        let answer = coordinator.ask(election, &call).await.map_err(Trouble::error)?;
        // The id could lead again, by a campaign that has been under way for as long as this term lasted.
        if token(&answer["token"]) != Some(self.token) {
            return Err(CoordinatorError::Lost);
        }
        self.credentials = credentials(&answer);
        let ttl = answer["ttl_ms"].as_u64().ok_or_else(|| odd(&answer).error())?;
        Ok(Duration::from_millis(ttl))
    }

    fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let Candidacy { coordinator, election, .. } = self.candidacy.clone();
        let token = self.token;
        let query = format!("/observe?while={token}&wait_ms={}", WAIT.as_millis());
        let call = Call::new(Method::GET, path(&election, &query)).within(WAIT + ANSWER_TIME);
        async move {
            loop {
                let asked = Instant::now();
                // A gate that can't be reached, or says something odd, says nothing about this term.
                if let Ok(answer) = coordinator.ask(&election, &call).await
                    && let Ok(leader) = leader(&answer)
                    && leader.is_none_or(|leader| leader.token != token)
                {
                    return;
                }
                if let Some(rest) = PAUSE.1.checked_sub(asked.elapsed()) {
                    tokio::time::sleep(rest).await;
                }
            }
        }
    }

    async fn resign(self) -> Result<(), CoordinatorError> {
        self.candidacy.resign().await
    }
}

impl Candidacy {
    async fn resign(&self) -> Result<(), CoordinatorError> {
        let Candidacy { coordinator, election, candidate } = self;
        let call = post(election, "/resign", &json!({ "candidate": candidate.to_string() }));
        match coordinator.ask(election, &call).await {
            Ok(_) => Ok(()),
            // Whatever became of the first, after a second there is no candidate left; which of the two ended it is all the same.
            Err(Trouble::Passing { error: CoordinatorError::OutcomeUnknown(_), .. }) => {
                match coordinator.ask(election, &call).await {
                    Ok(_) | Err(Trouble::Final(CoordinatorError::Lost)) => Ok(()),
                    Err(trouble) => Err(trouble.error()),
                }
            }
            Err(trouble) => Err(trouble.error()),
        }
    }
}

/// A campaign that may be given up: then its candidate resigns, so that it holds up nobody. Only an attempt: where it fails, the
/// candidate lapses by its TTL.
struct Abandoned(Option<Candidacy>);

impl Abandoned {
    /// It isn't given up.
    fn keep(mut self) -> Candidacy {
        self.0.take().expect("it is there until now")
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let (Some(candidacy), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move { tokio::time::timeout(GOODBYE_TIME, candidacy.resign()).await });
        }
    }
}
