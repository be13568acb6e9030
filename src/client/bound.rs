//! One leadership, one fence, one gate: how every request goes out, is tried again, and is given up.
//!
//! **Invariants.**
//! - No request goes out unless the leadership is known to be alive right before, and every one carries the token.
//! - Only what was surely not applied is sent again; and what does no harm when it comes twice: claims, and writes with a key, for as
//!   long as the gate has said, before the first was sent, that it surely knows it.
//! - Once it isn't known whether a write was applied, no later attempt's refusal is taken for its end.
//! - Nothing is called done once the leadership isn't known to be alive: whoever was paused inside a call learns so from that call,
//!   together with what the gate has said of the request.

use std::pin::pin;
use std::time::{Duration, Instant};

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};

use super::error::{Applied, Error};
use super::gate::presented;
use super::leadership::Leadership;
use super::lease::Lost;
use super::told::{self, Source};
use crate::endpoint::{Call, Endpoint, Progress, Reply};
use crate::fence::FenceName;
use crate::headers::{IDEMPOTENCY_KEY, fresh_key};

/// How long the answer to a request that has left is still listened for when the leadership is lost. After a pause it is often there
/// already, and to know what was applied is worth more than this time; nothing is sent meanwhile.
const LAST_WORD: Duration = Duration::from_millis(100);
/// The first pause before another try, and the longest: each is twice the one before, and the gate may ask for a longer one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What every request of one leader on one fence has in common.
#[derive(Debug)]
pub(super) struct Bound {
    endpoint: Endpoint,
    leadership: Leadership,
    fence: FenceName,
    presented: Vec<(HeaderName, HeaderValue)>,
    retry_for: Duration,
    /// For how long the gate surely knows a key, as it has said itself; nothing where it doesn't know of keys.
    keys_kept_for: Duration,
}

/// A good answer, and whether the leadership was over when it came.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) reply: Reply,
    pub(super) lost: Option<Lost>,
}

impl Answered {
    /// Nothing, if the leadership is known to have been alive when the answer came.
    ///
    /// # Errors
    /// [`Error::Lost`] of what was applied.
    pub(super) fn still_leading(&self) -> Result<(), Error> {
        self.still_leading_and(Applied::Yes)
    }

    /// The same of what was applied so.
    pub(super) fn still_leading_and(&self, applied: Applied) -> Result<(), Error> {
        self.lost.map_or(Ok(()), |why| Err(Error::Lost { why, applied }))
    }
}

impl Bound {
    pub(super) fn new(endpoint: Endpoint, leadership: Leadership, fence: FenceName, retry_for: Duration) -> Bound {
        let presented = presented(&leadership, &fence);
        Bound { endpoint, leadership, fence, presented, retry_for, keys_kept_for: Duration::ZERO }
    }

    /// The same, with what the gate has said when it was claimed at.
    pub(super) fn with_keys_kept_for(self, keys_kept_for: Duration) -> Bound {
        Bound { keys_kept_for, ..self }
    }

    pub(super) fn fence(&self) -> &FenceName {
        &self.fence
    }

    pub(super) fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// A request that presents the token.
    pub(super) fn call(&self, method: Method, path: String) -> Call {
        // Not even a GET is sent twice by itself: a gate can be told that some change something.
        let mut call = Call { repeatable: false, ..Call::new(method, path) };
        if let Some(bearer) = self.bearer() {
            call = call.with_header(AUTHORIZATION, bearer);
        }
        self.presented.iter().fold(call, |call, (name, value)| call.with_header(name.clone(), value.clone()))
    }

    /// The leadership's own credential, where its coordinator signs one. It stands before the identity of the connection.
    fn bearer(&self) -> Option<HeaderValue> {
        let mut bearer = HeaderValue::try_from(format!("Bearer {}", self.leadership.credential(&self.fence)?)).ok()?;
        bearer.set_sensitive(true);
        Some(bearer)
    }

    /// Sends a request, and sends it again where it was surely not applied and that may pass; one that may be repeated also where
    /// it isn't known.
    pub(super) async fn send(&self, call: &Call, source: Source) -> Result<Answered, Error> {
        self.send_again(call, source, Duration::ZERO).await
    }

    /// Sends a write to a database with a key of its own, and sends it again, with that key, also where it isn't known whether it
    /// was applied: whichever the gate comes to first is, and no other.
    pub(super) async fn send_keyed(&self, call: Call) -> Result<Answered, Error> {
        // What is under way when this is over must not arrive at a gate that has forgotten.
        let repeat_for = self.keys_kept_for / 2;
        if repeat_for.is_zero() {
            return self.send(&call, Source::Gate).await;
        }
        let keyed = call.clone().with_header(IDEMPOTENCY_KEY, fresh_key());
        match self.send_again(&keyed, Source::Gate, repeat_for).await {
            // Nothing was applied. A pragma, or a statement that rolls everything back, can't be kept, and goes without a key.
            Err(Error::Refused { code, .. }) if code == "IDEMPOTENCY_KEY_UNUSABLE" => {
                self.send(&call, Source::Gate).await
            }
            answer => answer,
        }
    }

    /// `repeat_for`: so long after it was first sent it may be sent again although it may have been applied.
    async fn send_again(&self, call: &Call, source: Source, repeat_for: Duration) -> Result<Answered, Error> {
        let started = Instant::now();
        let (until, repeat_until) = (started + self.retry_for, started + repeat_for);
        let mut pause = PAUSE.0;
        let mut doubt = None;
        loop {
            let error = match self.send_once(call, source).await {
                Ok(answered) => return Ok(answered),
                Err(error) => error,
            };
            let again = error.again(call.repeatable || !repeat_for.is_zero());
            if !call.repeatable && matches!(error, Error::Unknown { .. }) {
                doubt.get_or_insert_with(|| error.clone());
            }
            let Some(retry_after) = again else { return Err(error.after(doubt)) };
            let wait = pause.max(retry_after);
            let until = if doubt.is_some() { until.min(repeat_until) } else { until };
            if Instant::now() + wait > until {
                return Err(error.after(doubt));
            }
            tracing::debug!("trying again in {wait:?}: {error}");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                why = self.leadership.lost() => return Err(Error::Lost { why, applied: Applied::No }.after(doubt)),
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Sends a request, once.
    pub(super) async fn send_once(&self, call: &Call, source: Source) -> Result<Answered, Error> {
        let token = self.leadership.check().map_err(|why| Error::Lost { why, applied: Applied::No })?;
        let progress = Progress::default();
        let mut exchange = pin!(self.endpoint.send_watched(call, &progress));
        let outcome = tokio::select! { biased;
            outcome = &mut exchange => outcome,
            why = self.leadership.lost() => {
                progress.stop();
                if !progress.may_be_sent() {
                    return Err(Error::Lost { why, applied: Applied::No });
                }
                match tokio::time::timeout(LAST_WORD, exchange).await {
                    Ok(outcome) => outcome,
                    Err(_) => return Err(Error::Lost { why, applied: Applied::Unknown }),
                }
            }
        };
        let answer = outcome.map_err(Error::from).and_then(|reply| told::read(&self.fence, token, reply, source));
        if let Err(Error::Replaced { .. }) = answer {
            self.leadership.give_up(Lost::Replaced);
        }
        let lost = self.leadership.check().err();
        match (answer, lost) {
            (Ok(reply), lost) => Ok(Answered { reply, lost }),
            (Err(error), Some(why)) => Err(error.when_lost(why)),
            (Err(error), None) => Err(error),
        }
    }

    /// Sends a request that changes nothing and whose answer doesn't matter, whoever leads.
    pub(super) async fn say(&self, call: &Call, time: Duration) {
        let _ = tokio::time::timeout(time, self.endpoint.send(call)).await;
    }
}
