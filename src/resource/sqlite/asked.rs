//! What is read of a request before it goes to the database threads.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Body;

use crate::access::Caller;
use crate::problem::{Kind, Problem};
use crate::resource::seat::{Seat, Waiting};
use crate::resource::{Call, Received};

use super::hrana::Version;
use super::limits::Limits;
use super::once::key::{self, Malformed};
use super::program::Format;
use super::room::Room;

/// What is needed of a call once its token is read. The rest of the head is let go: it would keep the connection's buffer from
/// being used again, and a new one be made, while the request waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The path below the mount point.
    pub path: String,
    /// The body, not read yet.
    pub body: Received,
    /// Who sends it, where the gate knows.
    pub by: Option<String>,
    /// The name that the client has for it.
    pub key: Result<Option<Box<str>>, Malformed>,
}

impl From<Call> for Asked {
    fn from(call: Call) -> Asked {
        let by = call.caller.as_deref().map(Caller::id);
        Asked { by, key: key::named(&call.headers), path: call.path().to_owned(), method: call.method, body: call.body }
    }
}

/// What a path below the mount point is.
#[derive(Debug, Clone, Copy)]
pub enum Endpoint {
    /// `v2`, `v3`: the version is supported.
    Hello,
    /// Run statements.
    Run(Version, Format),
}

/// The endpoint at a path; `None` where there is none.
pub fn endpoint(path: &str) -> Option<Endpoint> {
    match path {
        "/v2" | "/v2/" | "/v3" | "/v3/" => Some(Endpoint::Hello),
        "/v2/pipeline" => Some(Endpoint::Run(Version::V2, Format::Pipeline)),
        "/v3/pipeline" => Some(Endpoint::Run(Version::V3, Format::Pipeline)),
        "/v3/cursor" => Some(Endpoint::Run(Version::V3, Format::Cursor)),
        _ => None,
    }
}

/// Reads a body, as far as there is room for it.
///
/// # Errors
/// A body that is too large, too slow, or breaks off; no room.
pub async fn read(mut body: Received, limits: &Limits, room: &mut Room) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(Kind::BodyTooLarge, format!("a body has at most {} bytes", limits.body_bytes));
    if body.size_hint().lower() > limits.body_bytes as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let broken = |error| Problem::new(Kind::BadRequest, format!("the body broke off: {error}"));
            let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
            room.grow(data.len())?;
            if whole.len() + data.len() > limits.body_bytes {
                return Err(too_large());
            }
            if whole.is_empty() && body.is_end_stream() {
                return Ok(data);
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    };
    let mut read = pin!(read);
    // Mostly the whole body has come with the head, and nothing has to be timed.
    if let Poll::Ready(body) = poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
        return body;
    }
    // Nothing was done for it yet: where connections are scarce, it gives way.
    let needed = async {
        match Seat::here() {
            Some(seat) => Waiting::unless_needed(&seat).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        body = read => body,
        () = tokio::time::sleep(limits.body_time) => Err(Problem::new(Kind::RequestTimeout, "the body took too long")),
        () = needed => Err(Problem::new(Kind::Overloaded, "the body was still to come, and others needed the connection's place")),
    }
}
