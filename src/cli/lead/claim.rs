//! The claim at the gate, before the command may start; and, while it leads, a look at whether somebody has claimed more.

use std::time::Duration;

use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;
use tokio::time::Instant;

use crate::client::Leadership;
use crate::endpoint::{Call, Endpoint, segment};
use crate::fence::{FenceName, Token};
use crate::headers::{FENCING_HOLDER, FENCING_TOKEN};

use super::super::failure::Failure;
use super::credential::Credentials;

/// How long a claim's answer may take. The gate answers when older writes have drained, which its limits bound.
const CLAIM_TIME: Duration = Duration::from_secs(90);
/// How long the answer to a look may take.
const LOOK_TIME: Duration = Duration::from_secs(5);
/// The pause before a claim is tried again: each is twice the one before, within these bounds.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The gate that the fence is at.
#[derive(Debug, Clone)]
pub struct Gate {
    endpoint: Endpoint,
    fence: FenceName,
    credentials: Credentials,
}

/// How a claim ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// The gate has admitted the token: older ones are shut out. The mark before, if there was one.
    Admitted {
        /// The mark before.
        previous: Option<Token>,
    },
    /// The gate refuses, and will go on doing so.
    Refused(String),
    /// It was out of reach, or could not do it, for too long.
    Unreachable(String),
}

/// What one attempt came to.
enum Attempt {
    Done(Claimed),
    /// A quarantine, which ends by itself or by an operator: it is waited for as long as the leadership lasts.
    Quarantined(String),
    /// Passing trouble: to be tried again, for so long.
    Trouble(String),
}

impl Gate {
    /// The gate at this endpoint, and the fence there.
    pub fn new(endpoint: Endpoint, fence: FenceName, credentials: Credentials) -> Gate {
        Gate { endpoint, fence, credentials }
    }

    /// The same request, with the leader's credential where there is one.
    fn shown(&self, call: Call, leadership: &Leadership) -> Call {
        let Some(credential) = self.credentials.now(leadership) else { return call };
        match HeaderValue::try_from(format!("Bearer {credential}")) {
            Ok(mut bearer) => {
                bearer.set_sensitive(true);
                call.with_header(AUTHORIZATION, bearer)
            }
            Err(_) => call,
        }
    }

    /// The fence.
    pub fn fence(&self) -> &FenceName {
        &self.fence
    }

    /// The mark and its holder. `leadership`: of the leader who looks, if one does.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], or [`Failure::Refused`] where no resource of the gate has such a fence.
    pub async fn mark(&self, leadership: Option<&Leadership>) -> Result<Option<(Token, Option<String>)>, Failure> {
        let mut call = Call::new(Method::GET, format!("/-/fences/{}", segment(&self.fence))).within(LOOK_TIME);
        if let Some(leadership) = leadership {
            call = self.shown(call, leadership);
        }
        let reply = self.endpoint.send(&call).await.map_err(|error| Failure::Unreachable(self.out_of_reach(&error)))?;
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        match reply.status {
            200 => {
                let token = body["highest"].as_str().and_then(|text| text.parse().ok());
                Ok(token.map(|token| (token, body["holder"].as_str().map(str::to_owned))))
            }
            404 => Err(Failure::Refused(format!(
                "the gate at {}: {}; name another with --fence",
                self.endpoint,
                reply.reason()
            ))),
            401 | 403 => Err(Failure::Refused(reply.reason())),
            status => {
                Err(Failure::Unreachable(format!("the gate at {} answers {status}: {}", self.endpoint, reply.reason())))
            }
        }
    }

    /// Claims, until it is decided. `patience`: how long a gate that is out of reach is tried. The future is to be dropped when the
    /// leadership is lost.
    pub async fn claim(&self, leadership: &Leadership, patience: Duration, mut waits: impl FnMut(&str)) -> Claimed {
        let give_up = Instant::now() + patience;
        let mut pause = PAUSE.0;
        let mut is_told = false;
        loop {
            let why = match self.attempt(leadership).await {
                Attempt::Done(claimed) => return claimed,
                Attempt::Trouble(why) if Instant::now() + pause >= give_up => return Claimed::Unreachable(why),
                Attempt::Quarantined(why) | Attempt::Trouble(why) => why,
            };
            if !is_told {
                is_told = true;
                waits(&why);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    async fn attempt(&self, leadership: &Leadership) -> Attempt {
        let token = leadership.token();
        let mut call = Call::new(Method::POST, format!("/-/fences/{}/claim", segment(&self.fence)))
            .with_header(FENCING_TOKEN, HeaderValue::from(token.get()))
            // A second claim of the same token by the same holder changes nothing.
            .repeatable()
            .within(CLAIM_TIME);
        if let Some(Ok(holder)) = leadership.holder().map(|holder| HeaderValue::from_str(holder)) {
            call = call.with_header(FENCING_HOLDER, holder);
        }
        let reply = match self.endpoint.send(&self.shown(call, leadership)).await {
            Ok(reply) => reply,
            Err(error) => return Attempt::Trouble(self.out_of_reach(&error)),
        };
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let message = reply.reason();
        match (reply.status, body["code"].as_str().unwrap_or_default()) {
            (200, _) => {
                let previous = body["previous"].as_str().and_then(|text| text.parse().ok());
                Attempt::Done(Claimed::Admitted { previous })
            }
            (_, "STALE_TOKEN") => Attempt::Done(Claimed::Refused(self.stale(leadership, &body))),
            (_, "QUARANTINED") => Attempt::Quarantined(message),
            (408 | 429 | 500.., _) => Attempt::Trouble(format!("the gate at {}: {message}", self.endpoint)),
            (404, _) => Attempt::Done(Claimed::Refused(format!("{message}; name another with --fence"))),
            _ => Attempt::Done(Claimed::Refused(message)),
        }
    }

    /// The coordinator says that it leads, and the gate that its token is too low: one of them is out of date, and it isn't the
    /// gate.
    fn stale(&self, leadership: &Leadership, body: &Value) -> String {
        let (fence, token, election) = (&self.fence, leadership.token(), leadership.election());
        let highest = body["highest"].as_str().unwrap_or("?");
        format!(
            "the coordinator has elected {} with token {token}, but the gate has admitted token {highest} on fence {fence} before. \
             Either the coordinator was restored from a backup or made anew, and its tokens went back; or fence {fence} gets tokens \
             from elsewhere than election {election}; or {highest} was claimed by mistake. See who did: `fencegate fences history \
             {fence}`. Where nobody with a token above {token} can still write, the way out is `fencegate fences reset {fence} \
             --to {token} --reason …`. Nothing was started",
            leadership.holder().map_or("this candidate", |holder| holder.as_str()),
        )
    }

    fn out_of_reach(&self, error: &crate::endpoint::ExchangeError) -> String {
        format!(
            "{error}; start a gate with `fencegate serve`, name another with --gate, or lead without one with --no-gate"
        )
    }

    /// Resolves once the gate has admitted a higher token than this. Looks every so often; a gate that is out of reach says nothing.
    pub async fn replaced(&self, leadership: &Leadership, every: Duration) -> Token {
        loop {
            tokio::time::sleep(every).await;
            if let Ok(Some((highest, _))) = self.mark(Some(leadership)).await
                && highest > leadership.token()
            {
                return highest;
            }
        }
    }
}
