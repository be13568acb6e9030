//! One request through the gate: judged, forwarded, answered.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Response, StatusCode, Version};

use crate::access::{Caller, Right};
use crate::fail::{self, Point};
use crate::fence::claim::PresentedTokens;
use crate::fence::drain::{Outcome, Purpose};
use crate::fence::{Claim, FenceName};
use crate::problem::{Kind, Problem};
use crate::resource::{Answering, Body, Call, Judged, Served};

use super::answer::{pass_on, unreachable};
use super::body::Upload;
use super::destination;
use super::exchange::{Exchange, Failure};
use super::fences::{Admitted, First, InFlight, Later};
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

/// What a request says and wants.
struct Looked {
    seen: Seen,
    asked: Asked,
    path: NormalPath,
    claim: Option<Claim>,
    purpose: Purpose,
}

/// A judged request on its way out.
pub(super) struct Outgoing {
    /// What its headers asked for.
    pub(super) asked: Asked,
    /// What was judged.
    claims: Option<Arc<[Claim]>>,
    /// The client's connection, should it become a tunnel.
    pub(super) upgrade: Option<OnUpgrade>,
    /// The version of HTTP that the client speaks.
    pub(super) version: Version,
}

impl Outgoing {
    /// What was judged.
    pub(super) fn claim(&self) -> Option<&Claim> {
        self.claims.as_ref().and_then(|claims| claims.first())
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
    /// Answers a request. Whether it may go on is mostly known at once: a refusal needs no future.
    pub(super) fn serve(&self, mut call: Call) -> Answering<'_> {
        let looked = match self.look(&mut call) {
            Ok(looked) => looked,
            Err(problem) => return Answering::Now(Err(problem)),
        };
        let Some(claim) = &looked.claim else { return self.pass(call, looked, None) };
        match self.fences.ask(self.scope, claim, looked.purpose) {
            First::Admitted(admitted) => self.pass(call, looked, Some(admitted)),
            First::Refused(problem) => self.refused(call, looked, problem),
            // Rare, and large: not in every request's future.
            First::Later(later) => Answering::Later(Box::pin(self.later(call, looked, later))),
        }
    }

    /// Reads what the request says, and refuses what can't be passed on.
    fn look(&self, call: &mut Call) -> Result<Looked, Problem> {
        let seen = Seen::of(&call.headers);
        head::check(call, seen)?;
        let path = NormalPath::parse(call.path())?;
        let asked = Asked::of(call, seen);
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
            destination::check(self, call, &fence)?;
        }
        let claim = self.claim(call, fence, is_write)?;
        if let (Some(caller), Some(claim)) = (&caller, &claim) {
            // A read with a token claims.
            caller.may_present(if is_write { Right::Write } else { Right::Claim }, std::slice::from_ref(claim))?;
        }
        Ok(Looked { seen, asked, path, claim, purpose: if is_write { Purpose::Write } else { Purpose::Read } })
    }

    /// The same, of a request that has to wait for its fence.
    async fn later(&self, call: Call, looked: Looked, later: Later<'_>) -> Result<Served, Problem> {
        let claim = looked.claim.clone().expect("only a claim waits");
        match self.fences.wait(self.scope, &claim, looked.purpose, later).await {
            Ok(admitted) => self.pass(call, looked, Some(admitted)),
            Err(problem) => self.refused(call, looked, problem),
        }
        .wait()
        .await
    }

    /// A request whose claim was refused.
    fn refused(&self, call: Call, looked: Looked, problem: Problem) -> Answering<'_> {
        // It was counted, and goes on as if it presented nothing: its token must not raise the mark in a rehearsal either.
        if !self.enforce && matches!(problem.kind, Kind::TokenUnissued | Kind::TokenConflict) {
            return self.pass(call, looked, None);
        }
        Answering::Now(Err(problem))
    }

    /// Passes a request on. `admitted`: what was decided on its claim; nothing where it goes as one without.
    fn pass(&self, mut call: Call, looked: Looked, admitted: Option<Admitted>) -> Answering<'_> {
        let Looked { seen, asked, path, claim, .. } = looked;
        let (verdict, write) = admitted.map(|admitted| (admitted.verdict, admitted.write)).unzip();
        let write = Unsent(write.flatten());
        let claims: Option<Arc<[Claim]>> = verdict.and(claim).map(|claim| Arc::new([claim]) as Arc<[Claim]>);
        let (upgrade, version) = (call.upgrade.take(), call.version);
        let outgoing = Outgoing { asked, claims, upgrade, version };
        let judged = verdict.zip(outgoing.claims.clone()).map(|(verdict, claims)| Judged { verdict, claims });
        match self.message(call, seen, &path, &outgoing) {
            Ok(message) => Answering::Later(Box::pin(self.forward(message, outgoing, write, judged))),
            Err(problem) => Answering::Now(Err(after(problem, judged.as_ref()))),
        }
    }

    /// Sends the request, and answers with what comes back.
    async fn forward(
        &self,
        message: Box<Message>,
        outgoing: Outgoing,
        write: Unsent,
        judged: Option<Judged>,
    ) -> Result<Served, Problem> {
        match self.exchange(message, outgoing, write).await {
            Ok(response) => Ok(Served { response, judged }),
            Err(problem) => Err(after(problem, judged.as_ref())),
        }
    }

    async fn exchange(
        &self,
        mut message: Box<Message>,
        outgoing: Outgoing,
        mut write: Unsent,
    ) -> Result<Response<Body>, Problem> {
        let mut stale = 0;
        loop {
            let reused = if stale < STALE_CONNECTIONS_MAX { self.unused(&outgoing, &write) } else { None };
            let is_fresh = reused.is_none();
            let connection = match reused {
                Some(connection) => connection,
                // Rare, and large: not in every request's future.
                None => Box::pin(self.fresh(&outgoing, &write)).await?,
            };
            let answer_time = self.limits.answer_time;
            let mut exchange = Exchange::begin(connection, message, self.upstream(), write.0.take(), answer_time);
            if exchange.is_write() {
                fail::at(Point::HttpSending);
            }
            match exchange.head().await {
                Ok(head) if exchange.is_write() && head.status != StatusCode::SWITCHING_PROTOCOLS => {
                    let whole = exchange.take_now(self.limits.collect_bytes);
                    if let Some(body) = whole.as_ref().filter(|_| exchange.end_now()) {
                        return Ok(pass_on(head).map(|()| Body::Whole(Full::new(body.clone()))));
                    }
                    // Rarer, and large: not in every request's future.
                    return Box::pin(self.answer(exchange, head, whole, outgoing)).await;
                }
                Ok(head) => return self.answer_at_once(exchange, head, outgoing),
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
            call.path(),
            self.template.as_str()
        );
        Problem::new(if presents { Kind::WrongFence } else { Kind::BadRequest }, why)
    }

    fn token_required(&self, fence: FenceName) -> Problem {
        let highest = self.fences.info(self.scope, &fence).and_then(|info| info.highest);
        let why = format!("a write to fence {fence} needs the header Fencing-Token");
        Problem { highest, fence: Some(fence), ..Problem::new(Kind::TokenRequired, why) }
    }

    /// The request as any version of HTTP has it.
    fn message(
        &self,
        mut call: Call,
        seen: Seen,
        path: &NormalPath,
        outgoing: &Outgoing,
    ) -> Result<Box<Message>, Problem> {
        head::forward(&mut call, seen, outgoing.claim());
        let gained = Gained::of(&mut call, seen, outgoing.claims.as_ref());
        let Call { method, uri, mut headers, body, .. } = call;
        let query = uri.query();
        let base = &self.upstream().base;
        let mut target = String::with_capacity(base.len() + path.as_str().len() + query.map_or(0, str::len) + 1);
        target.push_str(base);
        target.push_str(path.as_str());
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        let target = PathAndQuery::from_maybe_shared(Bytes::from(target))
            .map_err(|error| Problem::new(Kind::BadRequest, format!("the path and query are no URI: {error}")))?;
        let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
        if let Some(length) = length.filter(|_| !seen.has(Seen::CONTENT_LENGTH)) {
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

/// A problem of a request of which this was decided before.
fn after(problem: Problem, judged: Option<&Judged>) -> Problem {
    match judged {
        Some(judged) => problem.after(judged.verdict, &judged.claims),
        None => problem,
    }
}
