//! What comes back of a forwarded request: the connection it goes out on, its answer, its failures.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Frame;
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{Response, StatusCode, Version};
use tokio::sync::mpsc;

use crate::fence::Claim;
use crate::problem::{Kind, Problem};
use crate::resource::Body;

use super::body::{Download, Kept, Piped, passed_on};
use super::conn::Connection;
use super::dial::Unreachable;
use super::exchange::{Exchange, Failure, Taken};
use super::forward::{Outgoing, Unsent};
use super::head;
use super::message::{Broken, Head};
use super::pool::NoConnection;
use super::pump;
use super::resource::Http;
use super::upgrade::Tunnel;

/// Nothing was sent.
pub(super) fn unreachable(why: impl Into<String>, error: &'static str) -> Problem {
    Problem { proxy_error: Some(error), ..Problem::new(Kind::UpstreamUnreachable, why) }
}

fn unknown(kind: Kind, why: impl Into<String>, error: &'static str) -> Problem {
    Problem { proxy_error: Some(error), ..Problem::new(kind, why) }
}

impl Http {
    /// An unused connection for a request.
    pub(super) fn unused(&self, outgoing: &Outgoing, write: &Unsent) -> Option<Connection> {
        self.pool.take(outgoing.asked.upgrade.is_some(), write.0.is_some())
    }

    /// A new connection for a request.
    pub(super) async fn fresh(&self, outgoing: &Outgoing, write: &Unsent) -> Result<Connection, Problem> {
        let only_http1 = outgoing.asked.upgrade.is_some();
        if only_http1 && self.upstream().protocol == super::upstream::Protocol::Http2 {
            return Err(Problem::new(Kind::NotImplemented, "this upstream speaks HTTP/2: nothing is upgraded there"));
        }
        let replaced = async {
            match &write.0 {
                Some(write) => drop(write.replaced().await),
                None => std::future::pending().await,
            }
        };
        // Meanwhile a newer token may take the fence. Then this write has no business starting any more.
        let dialled = tokio::select! {
            biased;
            () = replaced => return Err(self.replaced(outgoing)),
            dialled = self.pool.dial(only_http1, write.0.is_some()) => dialled,
        };
        match dialled {
            Ok(connection) => Ok(connection),
            Err(NoConnection::Unreachable(Unreachable { why, error })) => {
                // Where it is concerns its operators, not its clients.
                self.complain(&why);
                Err(unreachable("the upstream can't be reached; nothing was sent", error))
            }
            Err(NoConnection::TooMany) => {
                let why = "all connections to the upstream are in use; nothing was sent";
                Err(Problem { proxy_error: Some("connection_limit_reached"), ..Problem::new(Kind::Overloaded, why) })
            }
            Err(NoConnection::Closed) => Err(Problem::new(Kind::Unavailable, "the gate is stopping")),
        }
    }

    fn replaced(&self, outgoing: &Outgoing) -> Problem {
        let why = "a newer token has taken the fence while this write waited for a connection; nothing was sent";
        let problem = Problem::new(Kind::StaleToken, why);
        self.overtaken(problem, outgoing.claim())
    }

    /// A problem of a write whose token is the mark's no more.
    fn overtaken(&self, problem: Problem, claim: Option<&Claim>) -> Problem {
        let Some(claim) = claim else { return problem };
        let highest = self.fences.info(self.scope, &claim.fence).and_then(|info| info.highest);
        Problem { fence: Some(claim.fence.clone()), presented: Some(claim.token), highest, ..problem }
    }

    /// What a client is told of an exchange that came to no whole answer.
    pub(super) fn failed(&self, mut exchange: Exchange, failure: Failure, claim: Option<&Claim>) -> Problem {
        let problem = match failure {
            Failure::Unsent(_) => unreachable("the upstream ended the connection", "connection_terminated"),
            Failure::TimedOut => {
                let time = humantime::format_duration(exchange.answer_time());
                let why = format!("the upstream hasn't answered in {time}");
                unknown(Kind::OutcomeTimeout, why, "http_response_timeout")
            }
            Failure::Needed => {
                let why = "the body was still to come, and others needed the connection's place";
                Problem { proxy_error: Some("proxy_internal_error"), ..Problem::new(Kind::Overloaded, why) }
            }
            Failure::Replaced => {
                let why = "a newer token has taken the fence, and the upstream didn't answer in the time that was left";
                self.overtaken(unknown(Kind::OutcomeTimeout, why, "http_response_timeout"), claim)
            }
            Failure::Broken(broken @ Broken::Request) => {
                unknown(Kind::OutcomeUnknown, broken.to_string(), broken.proxy_error())
            }
            Failure::Broken(broken) => {
                let why = format!("the connection to the upstream broke before the whole answer came: {broken}");
                unknown(Kind::OutcomeUnknown, why, broken.proxy_error())
            }
        };
        exchange.fail();
        problem
    }

    /// The answer to a read, or the change to another protocol, once there is a head.
    pub(super) fn answer_at_once(
        &self,
        exchange: Exchange,
        head: Head,
        outgoing: Outgoing,
    ) -> Result<Response<Body>, Problem> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return self.switch(exchange, head, outgoing);
        }
        // While the request is still being sent, that must not wait for a client that doesn't read.
        let body = if exchange.is_sent() { exchange.into_read().map(read) } else { Some(long(exchange, Vec::new())) };
        Ok(pass_on(head).map(|()| body.unwrap_or_else(|| Body::Whole(Full::default()))))
    }

    /// The answer to a write, once there is a head. `whole`: its body, where all of it was taken.
    pub(super) async fn answer(
        &self,
        mut exchange: Exchange,
        head: Head,
        whole: Option<Bytes>,
        outgoing: Outgoing,
    ) -> Result<Response<Body>, Problem> {
        let taken = match whole {
            Some(whole) => Ok(Taken::Whole(whole, None)),
            None => exchange.take_small(self.limits.collect_bytes).await,
        };
        let body = match taken {
            Ok(Taken::Whole(data, trailers)) => {
                exchange.end().await;
                match trailers {
                    Some(trailers) => Body::Streamed(Box::pin(Kept::new(data, trailers))),
                    None => Body::Whole(Full::new(data)),
                }
            }
            Ok(Taken::Part(first)) => long(exchange, first),
            Err(failure) => return Err(self.failed(exchange, failure, outgoing.claim())),
        };
        Ok(pass_on(head).map(|()| body))
    }

    /// The upstream changes the protocol.
    fn switch(&self, mut exchange: Exchange, head: Head, outgoing: Outgoing) -> Result<Response<Body>, Problem> {
        let chosen = head.upgrade.as_ref();
        let is_same =
            |asked: &HeaderValue| chosen.is_none_or(|chosen| asked.as_bytes().eq_ignore_ascii_case(chosen.as_bytes()));
        let protocol = outgoing.asked.upgrade.filter(is_same).filter(|_| exchange.is_sent());
        let (Some(client), Some(protocol), Version::HTTP_11) = (outgoing.upgrade, protocol, outgoing.version) else {
            exchange.fail();
            let why = "the upstream changes to a protocol that nobody asked for, or before it has the request";
            return Err(unknown(Kind::OutcomeUnknown, why, "http_upgrade_failed"));
        };
        let end_time = exchange.answer_time();
        let (Some(connection), write) = exchange.into_tunnel() else {
            return Err(Problem::new(Kind::Internal, "a connection is lost"));
        };
        tokio::spawn(Tunnel { client, connection, write, end_time }.run());
        let mut response = pass_on(head);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, protocol);
        Ok(response.map(|()| Body::Whole(Full::default())))
    }
}

/// What of an answer's head goes to the client. The version is that of the client's connection.
pub(super) fn pass_on(head: Head) -> Response<()> {
    let Head { status, version, reason, mut headers, seen, .. } = head;
    head::answer(&mut headers, seen, version);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    response
}

/// The body of an answer that a task of its own reads. Not a part of every request's future, which would be that much larger.
fn long(exchange: Exchange, first: Vec<Frame<Bytes>>) -> Body {
    let (frames, piped) = mpsc::channel(pump::FRAMES);
    let taken = first.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum::<u64>();
    let piped = Piped::new(piped, exchange.left().map(|left| left + taken));
    tokio::spawn(pump::run(exchange, first, frames));
    Body::Streamed(Box::pin(piped))
}

/// The body of an answer to a read.
fn read(mut connection: Connection) -> Body {
    // Mostly a small one is there already, and is one piece.
    let first = match connection.poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(Some(frame))) => Some(passed_on(frame)),
        // What is wrong with it is found again.
        Poll::Ready(Ok(None) | Err(_)) | Poll::Pending => None,
    };
    if connection.is_at_end() && first.as_ref().is_none_or(Frame::is_data) {
        connection.put_back();
        return Body::Whole(Full::new(first.and_then(|frame| frame.into_data().ok()).unwrap_or_default()));
    }
    Body::Streamed(Box::pin(Download::new(first, connection)))
}
