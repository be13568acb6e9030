//! Requests of HTTP/1.1 on their way through. The input is what a client sends on its connection.
//!
//! An upstream must see one request where the gate has judged one, with the same body: else a client puts a second one into the first,
//! which nobody judges.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Body as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use crate::resource::http::body::Upload;
use crate::resource::http::gained::Gained;
use crate::resource::http::head::{self, Asked};
use crate::resource::http::message::Message;
use crate::resource::http::path::NormalPath;
use crate::resource::http::seen::Seen;
use crate::resource::http::sending::Sending;
use crate::resource::{Call, Received};

use super::answers::reference::{self, Framing};
use super::{Checked, hold};

/// Longer inputs are cut off.
const INPUT_BYTES_MAX: usize = 32 * 1024;
/// How the upstream is called.
const UPSTREAM: &str = "up:1";

/// An upstream's connection that takes everything.
#[derive(Debug, Default)]
struct Taken(Vec<u8>);

impl AsyncWrite for Taken {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What is done with a client's headers before they are forwarded; false for a request that is refused.
pub type Passes = fn(&mut Call, Seen) -> bool;

/// As the gate does.
pub fn gate(call: &mut Call, seen: Seen) -> bool {
    if head::check(call, seen).is_err() {
        return false;
    }
    head::forward(call, seen, None);
    true
}

/// What becomes of a request.
#[derive(Debug, Clone)]
enum Became {
    /// The upstream has these bytes.
    Sent(Vec<u8>),
    /// Nothing was sent.
    Refused,
    /// It broke off, perhaps in the middle.
    Broken,
}

/// What becomes of each request.
fn forwarded(passes: Passes, input: &[u8]) -> Result<Vec<Became>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let all = Rc::new(RefCell::new(Vec::new()));
    let became = Rc::clone(&all);
    runtime.block_on(async move {
        let (mut client, server) = tokio::io::duplex(2 * INPUT_BYTES_MAX);
        client.write_all(input).await.map_err(|error| error.to_string())?;
        client.shutdown().await.map_err(|error| error.to_string())?;
        let service = service_fn(move |request| {
            let became = Rc::clone(&became);
            async move {
                let one = forward(passes, request).await;
                became.borrow_mut().push(one);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            }
        });
        // However it ends: what has gone to the upstream is looked at.
        let _ = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service).await;
        drop(client);
        Ok::<_, String>(())
    })?;
    Ok(all.take())
}

/// Passes one request on.
async fn forward(passes: Passes, request: hyper::Request<hyper::body::Incoming>) -> Became {
    let (parts, body) = Received::of(request).into_parts();
    let hyper::http::request::Parts { method, uri, version, headers, .. } = parts;
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let mut call =
        Call { method, uri, below: 0, version, headers, peer, is_secure: false, caller: None, body, upgrade: None };
    let seen = Seen::of(&call.headers);
    let Asked { upgrade, takes_trailers } = Asked::of(&call, seen);
    if !passes(&mut call, seen) {
        return Became::Refused;
    }
    let Ok(path) = NormalPath::parse(call.path()) else { return Became::Refused };
    let query = call.query().map(|query| format!("?{query}")).unwrap_or_default();
    let Ok(target) = format!("{}{query}", path.as_str()).parse() else { return Became::Refused };
    let Call { method, headers, body, .. } = call;
    let length = if body.is_end_stream() { Some(0) } else { body.size_hint().exact() };
    let body = Upload::new(body);
    let gained = Gained::default();
    let message = Message { method, target, headers, gained, upgrade, takes_trailers, body, length };
    let (mut sending, mut taken) = (Sending::default(), Taken::default());
    sending.begin(Box::new(message), UPSTREAM);
    match poll_fn(|cx| sending.poll(cx, &mut taken, true)).await {
        Ok(()) => Became::Sent(taken.0),
        Err(_) => Became::Broken,
    }
}

/// Every request that goes on is one request to a second reader, with the body that the client has sent.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(passes: Passes, input: &[u8]) -> Checked {
    let input = &input[..input.len().min(INPUT_BYTES_MAX)];
    // What the client has sent after the requests so far, as long as the second reader is sure of it.
    let mut rest = Some(input);
    for became in forwarded(passes, input)? {
        let (came, after) = rest.and_then(came).unzip();
        rest = after;
        match became {
            Became::Refused => {}
            Became::Broken => rest = None,
            Became::Sent(sent) => {
                let body = is_one(&sent)?;
                let is_same = came.as_ref().is_none_or(|came| *came == body);
                let text = String::from_utf8_lossy(&sent);
                hold!(is_same, "{text:?} has the body {body:?}, and {came:?} was sent");
            }
        }
    }
    Ok(())
}

/// The body of what is one request, all of it.
fn is_one(sent: &[u8]) -> Result<Vec<u8>, String> {
    let text = String::from_utf8_lossy(sent);
    let Some((first, headers, at)) = reference::head(sent) else { return Err(format!("{text:?} has no head")) };
    let words = first.split(|byte| *byte == b' ').count();
    hold!(words == 3 && first.ends_with(b" HTTP/1.1"), "{text:?} has no request line");
    let hosts: Vec<_> = headers.iter().filter(|(name, _)| name == "host").map(|(_, value)| &value[..]).collect();
    hold!(hosts == [UPSTREAM.as_bytes()], "{text:?} has other hosts than the upstream");
    let (body, len) = match reference::framing(&headers, false) {
        None => return Err(format!("{text:?} says in two ways where it ends")),
        Some(Framing::Unsaid) => (Vec::new(), 0),
        Some(Framing::Length(length)) => (sent[at..].to_vec(), length),
        Some(Framing::Chunks) => {
            let (body, _, len) = reference::chunks(&sent[at..]).ok_or_else(|| format!("{text:?} has bad chunks"))?;
            (body, len)
        }
    };
    hold!(at + len == sent.len(), "{text:?} ends elsewhere than it says");
    let told = ["fencing-token", "fencing-fence", "fencing-holder"];
    hold!(!headers.iter().any(|(name, _)| told.contains(&name.as_str())), "{text:?} tells what nobody has judged");
    Ok(body)
}

/// The body of the first request that is forwarded, and what comes after it. Nothing where the reader isn't sure.
fn came(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (_, headers, at) = reference::head(bytes)?;
    match reference::framing(&headers, false)? {
        Framing::Unsaid => Some((Vec::new(), &bytes[at..])),
        Framing::Length(length) => Some((bytes[at..].get(..length)?.to_vec(), bytes[at..].get(length..)?)),
        Framing::Chunks => reference::chunks(&bytes[at..]).map(|(body, _, len)| (body, &bytes[at + len..])),
    }
}

/// The property, of the gate's own way.
///
/// # Errors
/// How it doesn't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(gate, input)
}
