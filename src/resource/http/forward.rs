//! One request through the gate: judged, forwarded, answered.

use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use hyper::http::uri::{self, PathAndQuery, Scheme, Uri};
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, Version};

use crate::fence::claim::PresentedTokens;
use crate::fence::drain::{Outcome, Purpose};
use crate::fence::{Claim, FenceName};
use crate::problem::{Kind, Problem};
use crate::resource::{Body, Call, Judged, Served};

use super::answer::unreachable;
use super::body::Upload;
use super::conn::Connection;
use super::destination;
use super::exchange::{Exchange, Failure};
use super::fences::{Admitted, InFlight};
use super::head::{self, Asked};
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
    pub(super) claim: Option<&'a Claim>,
    /// The client's connection, should it become a tunnel.
    pub(super) upgrade: Option<OnUpgrade>,
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
        if is_write && seen.has(Seen::DESTINATION) {
            destination::check(self, &mut call, &fence)?;
        }
        let Some(claim) = self.claim(&call, fence, is_write)? else {
            let outgoing = Outgoing { asked, seen, claim: None, upgrade: call.upgrade.take() };
            let response = self.forward(call, &path, outgoing, None).await?;
            return Ok(Served { response, judged: None });
        };
        let purpose = if is_write { Purpose::Write } else { Purpose::Read };
        let Admitted { verdict, write, .. } = match self.fences.admit(self.scope, &claim, purpose).await {
            Ok(admitted) => admitted,
            // It was counted, and goes on as if it presented nothing: its token must not raise the mark in a rehearsal either.
            Err(problem) if !self.enforce && matches!(problem.kind, Kind::TokenUnissued | Kind::TokenConflict) => {
                let outgoing = Outgoing { asked, seen, claim: None, upgrade: call.upgrade.take() };
                let response = self.forward(call, &path, outgoing, None).await?;
                return Ok(Served { response, judged: None });
            }
            Err(problem) => return Err(problem),
        };
        let write = write.map(|write| Unsent(Some(write)));
        let claims: Arc<[Claim]> = Arc::new([claim]);
        let outgoing = Outgoing { asked, seen, claim: claims.first(), upgrade: call.upgrade.take() };
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
        let mut request = self.request(call, path, &outgoing)?;
        let mut write = write.unwrap_or(Unsent(None));
        let mut stale = 0;
        loop {
            let (connection, is_fresh) = self.connection(&outgoing, &write, stale < STALE_CONNECTIONS_MAX).await?;
            self.address(&mut request, &connection, outgoing.asked.takes_trailers);
            let mut exchange = Exchange::begin(connection, request, write.0.take(), self.limits.answer_time);
            match exchange.head().await {
                Ok(parts) => return self.answer(exchange, parts, outgoing, version).await,
                Err(Failure::Unsent(unsent)) => {
                    write = Unsent(exchange.give_up());
                    if is_fresh {
                        return Err(unreachable("the upstream ends new connections at once", "connection_terminated"));
                    }
                    request = *unsent;
                    stale += 1;
                }
                Err(failure) => return Err(self.failed(exchange, failure, outgoing.claim)),
            }
        }
    }

    /// The request as any version of HTTP has it.
    fn request(&self, mut call: Call, path: &NormalPath, outgoing: &Outgoing<'_>) -> Result<Request<Upload>, Problem> {
        head::forward(&mut call, outgoing.seen, &outgoing.asked, outgoing.claim);
        let Call { method, query, headers, body, .. } = call;
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
        let (len, is_empty) = (body.size_hint().exact(), body.is_end_stream());
        let mut request = Request::new(Upload::new(body));
        *request.uri_mut() = Uri::from(target);
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        let method = request.method().clone();
        let headers = request.headers_mut();
        if is_empty {
            // Said so where one is expected (RFC 9110, section 8.6): some servers insist.
            if matches!(method, Method::POST | Method::PUT | Method::PATCH) {
                headers.entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
            }
        } else if let Some(len) = len {
            headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(len));
        }
        Ok(request)
    }

    /// Makes a request one of the version that the connection speaks.
    fn address(&self, request: &mut Request<Upload>, connection: &Connection, takes_trailers: bool) {
        let upstream = self.upstream();
        let target = request.uri().path_and_query().cloned();
        let mut parts = uri::Parts::default();
        parts.path_and_query = target;
        if connection.is_http2() {
            parts.scheme = Some(if upstream.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
            parts.authority = self.authority.clone();
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(TRANSFER_ENCODING);
            if takes_trailers {
                request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            }
        } else {
            *request.version_mut() = Version::HTTP_11;
            let is_unmeasured = !request.headers().contains_key(CONTENT_LENGTH) && !request.body().is_end_stream();
            let headers = request.headers_mut();
            headers.insert(HOST, upstream.authority.clone());
            headers.remove(TE);
            if is_unmeasured {
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            if takes_trailers {
                head::ask_for_trailers(headers);
            }
        }
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}
