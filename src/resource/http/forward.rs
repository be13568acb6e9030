//! One request through the gate: judged, forwarded, answered.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Response};

use crate::access::{Caller, Right};
use crate::fence::claim::PresentedTokens;
use crate::fence::drain::{Outcome, Purpose};
use crate::fence::{Claim, FenceName};
use crate::problem::{Kind, Problem};
use crate::resource::{Body, Call, Judged, Served};

use super::answer::unreachable;
use super::body::Upload;
use super::destination;
use super::exchange::{Exchange, Failure};
use super::fences::{Admitted, InFlight};
use super::gained::Gained;
use super::head::{self, Asked};
use super::message::Message;
use super::path::NormalPath;
use super::resource::Http;
use super::rules;
use super::seen::Seen;
use super::template::Yielded;

/// How many connections that had ended unnoticed are tried before a new one is made.
const STALE_CONNECTIONS_MAX: usize = 4;

/// A write of which nothing was sent yet: given up at any time, its end is known.
pub(super) struct Unsent(pub(super) Option<InFlight>);

impl Drop for Unsent {
    fn drop(&mut self) {
        if let Some(write) = self.0.take() {
            write.finish(Outcome::Known);
        }
    }
}

/// A judged request on its way out.
pub(super) struct Outgoing<'a> {
    /// What its headers asked for.
    pub(super) asked: Asked,
    /// Which headers it has.
    seen: Seen,
    /// What was judged.
    claims: Option<&'a Arc<[Claim]>>,
    /// The client's connection, should it become a tunnel.
    pub(super) upgrade: Option<OnUpgrade>,
}

impl Outgoing<'_> {
    /// What was judged.
    pub(super) fn claim(&self) -> Option<&Claim> {
        self.claims.and_then(|claims| claims.first())
    }
}

/// Allows a deed on the fence of a path. Where the path is of no one fence, it may show or change anything.
fn may(caller: &Caller, right: Right, fence: &Result<Yielded, Problem>) -> Result<(), Problem> {
    match fence {
        Ok(Yielded::Name(fence)) => caller.may(right, fence),
        Ok(Yielded::Above) | Err(_) => caller.may_everywhere(right),
    }
}

impl Http {
    /// Answers a request.
    pub(super) async fn serve(&self, mut call: Call) -> Result<Served, Problem> {
        let seen = Seen::of(&call.headers);
        head::check(&call, seen)?;
        let path = NormalPath::parse(&call.path)?;
        let asked = Asked::of(&call, seen);
        let (upgrades, any_case) = (asked.upgrade.is_some(), self.template.is_lower());
        let acts_as = seen.has(Seen::METHOD_OVERRIDE).then(|| rules::overriding(&call.headers)).flatten();
        let is_write = self.rules.is_write(&call.method, &path, acts_as, upgrades, any_case);
        let fence = self.template.fence(&path);
        let right = if is_write { Right::Write } else { Right::Read };
        let caller = call.caller.take();
        if let Some(caller) = &caller {
            may(caller, right, &fence)?;
        }
        if is_write && seen.has(Seen::DESTINATION) {
            destination::check(self, &mut call, &fence)?;
        }
        let Some(claim) = self.claim(&call, fence, is_write)? else {
            let outgoing = Outgoing { asked, seen, claims: None, upgrade: call.upgrade.take() };
            let response = self.forward(call, &path, outgoing, None).await?;
            return Ok(Served { response, judged: None });
        };
        if let Some(caller) = &caller {
            // A read with a token claims.
            caller.may_present(if is_write { Right::Write } else { Right::Claim }, std::slice::from_ref(&claim))?;
        }
        let purpose = if is_write { Purpose::Write } else { Purpose::Read };
        let Admitted { verdict, write, .. } = match self.fences.admit(self.scope, &claim, purpose).await {
            Ok(admitted) => admitted,
            // It was counted, and goes on as if it presented nothing: its token must not raise the mark in a rehearsal either.
            Err(problem) if !self.enforce && matches!(problem.kind, Kind::TokenUnissued | Kind::TokenConflict) => {
                let outgoing = Outgoing { asked, seen, claims: None, upgrade: call.upgrade.take() };
                let response = self.forward(call, &path, outgoing, None).await?;
                return Ok(Served { response, judged: None });
            }
            Err(problem) => return Err(problem),
        };
        let write = write.map(|write| Unsent(Some(write)));
        let claims: Arc<[Claim]> = Arc::new([claim]);
        let outgoing = Outgoing { asked, seen, claims: Some(&claims), upgrade: call.upgrade.take() };
        match self.forward(call, &path, outgoing, write).await {
            Ok(response) => Ok(Served { response, judged: Some(Judged { verdict, claims }) }),
            Err(problem) => Err(problem.after(verdict, &claims)),
        }
    }

    /// The claim that the request makes on the fence of its path. Nothing for one that makes none and needs none.
    fn claim(&self, call: &Call, fence: Result<Yielded, Problem>, is_write: bool) -> Result<Option<Claim>, Problem> {
        let fence = match fence {
            Ok(Yielded::Name(fence)) => fence,
            none => {
                let presents = call.presented(None)?.is_some();
                let may_pass = !is_write || !self.enforce;
                if !presents && may_pass {
                    return Ok(None);
                }
                return Err(none.err().unwrap_or_else(|| self.above(call, presents)));
            }
        };
        let Some(presented) = call.presented(Some(&fence))? else {
            return if is_write && self.enforce { Err(self.token_required(fence)) } else { Ok(None) };
        };
        let token = match &presented.tokens {
            PresentedTokens::Bare(token) => *token,
            PresentedTokens::Named(named) => match &**named {
                [(other, token)] if *other == fence => *token,
                _ => {
                    let others: Vec<&str> = named.iter().map(|(other, _)| other.as_str()).collect();
                    let why = format!("the path belongs to fence {fence}, the token is for {}", others.join(", "));
                    return Err(Problem { fence: Some(fence), ..Problem::new(Kind::WrongFence, why) });
                }
            },
        };
        Ok(Some(Claim { fence, token, holder: presented.holder }))
    }

    fn above(&self, call: &Call, presents: bool) -> Problem {
        let why = format!(
            "the path {:?} ends above the segments that fences are named after ({}): it belongs to no one fence",
            call.path,
            self.template.as_str()
        );
        Problem::new(if presents { Kind::WrongFence } else { Kind::BadRequest }, why)
    }

    fn token_required(&self, fence: FenceName) -> Problem {
        let highest = self.fences.info(self.scope, &fence).and_then(|info| info.highest);
        let why = format!("a write to fence {fence} needs the header Fencing-Token");
        Problem { highest, fence: Some(fence), ..Problem::new(Kind::TokenRequired, why) }
    }

    /// Sends the request, and answers with what comes back.
    async fn forward(
        &self,
        call: Call,
        path: &NormalPath,
        outgoing: Outgoing<'_>,
        write: Option<Unsent>,
    ) -> Result<Response<Body>, Problem> {
        let version = call.version;
        let mut message = self.message(call, path, &outgoing)?;
        let mut write = write.unwrap_or(Unsent(None));
        let mut stale = 0;
        loop {
            let (connection, is_fresh) = self.connection(&outgoing, &write, stale < STALE_CONNECTIONS_MAX).await?;
            let answer_time = self.limits.answer_time;
            let mut exchange = Exchange::begin(connection, message, self.upstream(), write.0.take(), answer_time);
            match exchange.head().await {
                Ok(head) => return self.answer(exchange, head, outgoing, version).await,
                Err(Failure::Unsent(unsent)) => {
                    write = Unsent(exchange.give_up());
                    if is_fresh {
                        return Err(unreachable("the upstream ends new connections at once", "connection_terminated"));
                    }
                    message = unsent;
                    stale += 1;
                }
                Err(failure) => return Err(self.failed(exchange, failure, outgoing.claim())),
            }
        }
    }

    /// The request as any version of HTTP has it.
    fn message(&self, mut call: Call, path: &NormalPath, outgoing: &Outgoing<'_>) -> Result<Box<Message>, Problem> {
        head::forward(&mut call, outgoing.seen, outgoing.claim());
        let gained = Gained::of(&mut call, outgoing.seen, outgoing.claims);
        let Call { method, query, mut headers, body, .. } = call;
        let base = &self.upstream().base;
        let mut target =
            String::with_capacity(base.len() + path.as_str().len() + query.as_ref().map_or(0, String::len) + 1);
        target.push_str(base);
        target.push_str(path.as_str());
        if let Some(query) = query {
            target.push('?');
            target.push_str(&query);
        }
        let target = PathAndQuery::from_maybe_shared(Bytes::from(target))
            .map_err(|error| Problem::new(Kind::BadRequest, format!("the path and query are no URI: {error}")))?;
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        if let Some(length) = length.filter(|_| !outgoing.seen.has(Seen::CONTENT_LENGTH)) {
            // Of an empty one it is said where one is expected (RFC 9110, section 8.6): some servers insist.
            if length > 0 || matches!(method, Method::POST | Method::PUT | Method::PATCH) {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
        }
        let Asked { upgrade, takes_trailers } = &outgoing.asked;
        let (upgrade, takes_trailers) = (upgrade.clone(), *takes_trailers);
        Ok(Box::new(Message {
            method,
            target,
            headers,
            gained,
            upgrade,
            takes_trailers,
            body: Upload::new(body),
            length,
        }))
    }
}
