//! Connections of HTTP/1.1. The input is where it is cut in two (a byte for each 16), and what a client sends on its connection.
//!
//! Requests of the plain form are read and answered by the gate itself, all others by hyper. Whatever comes: the requests that are served
//! and the answers that go out are those of a connection that hyper has all to itself. Else a client could have one request judged and
//! another one served, or take the answer to one for that to another.

use std::convert::Infallible;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::watch;

use crate::resource::http::body::Kept;
use crate::resource::{Body, Received, Repeated};
use crate::server::http::{self, AnswerBody as _, HEAD_BYTES_MAX};
use crate::server::places::Places;

use super::{Checked, hold};

/// Longer inputs are cut off.
const INPUT_BYTES_MAX: usize = 40 * 1024;
/// For longer than any of this lasts.
const LONG: Duration = Duration::from_secs(3600);

/// What was asked, each request in words.
pub type Asked = Arc<Mutex<Vec<String>>>;
/// Serves a connection to its end, and notes what was asked.
pub type Serves = fn(DuplexStream, Asked) -> Pin<Box<dyn Future<Output = ()>>>;

fn lock(asked: &Asked) -> MutexGuard<'_, Vec<String>> {
    asked.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a request, and answers it as it asks to be answered.
pub async fn answer(asked: Asked, request: Request<Received>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes());
    let headers: Vec<_> = head.headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    let body = body.map_err(|_| "broken off");
    let said = format!("{} {} {:?} {headers:?} {body:?}", head.method, head.uri, head.version);
    lock(&asked).push(said.clone());
    let whole = Body::Whole(Full::new(Bytes::from(said.clone())));
    let mut answer = Response::new(whole);
    answer.headers_mut().append("x-one", HeaderValue::from_static("1"));
    answer.headers_mut().append("x-one", HeaderValue::from_static("2"));
    match head.uri.path().as_bytes().get(1) {
        Some(b'c') => drop(answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"))),
        Some(b'e') => {
            *answer.status_mut() = StatusCode::NO_CONTENT;
            *answer.body_mut() = Body::Whole(Full::default());
        }
        Some(b'l') => drop(answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(said.len()))),
        Some(b'm') => {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            *answer.body_mut() = Body::Whole(Full::default());
        }
        Some(b's') => {
            *answer.body_mut() = Body::Streamed(Box::pin(Kept::new(Bytes::from_static(b"piece"), HeaderMap::new())));
        }
        Some(b't') => {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/plain"))]);
            *answer.body_mut() = Body::Repeated(Arc::new(Repeated::new(headers, said.into())));
        }
        Some(b'w') => *answer.body_mut() = Body::Whole(Full::new(Bytes::from(vec![b'w'; 20 * 1024]))),
        Some(b'z') => *answer.status_mut() = StatusCode::PRECONDITION_FAILED,
        _ => {}
    }
    Ok(answer)
}

fn peer() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 1))
}

/// As the gate does.
pub fn gate(stream: DuplexStream, asked: Asked) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let place = Places::new("data", 1, LONG).take().expect("there is one place");
        let (_stop, stopping) = watch::channel(false);
        let serve = move |request, _| answer(Arc::clone(&asked), request);
        // However it ends: what was asked and answered is looked at.
        let _ = http::speak(stream, false, peer(), place, stopping, serve).await;
    })
}

/// As hyper does.
fn hyper(stream: DuplexStream, asked: Asked) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let service = service_fn(move |request| {
            let answer = answer(Arc::clone(&asked), Received::of(request));
            async move { answer.await.map(Body::complete) }
        });
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX as usize);
        let _ = builder.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
    })
}

/// Leaves everything that there is to do to the other side.
async fn wait_for_a_moment() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// What is asked and answered on a connection. `cut`: after so many bytes the client waits for a moment.
fn served(serves: Serves, cut: usize, input: &[u8]) -> Result<(Vec<String>, Vec<u8>), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let asked = Asked::default();
    let (first, rest) = input.split_at(cut.min(input.len()));
    let answers = runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let asks = async move {
            // The server may be through with it, and gone.
            let _ = client.write_all(first).await;
            wait_for_a_moment().await;
            let _ = client.write_all(rest).await;
            // Who goes away while a request is in work may get its answer or not.
            wait_for_a_moment().await;
            let _ = client.shutdown().await;
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.map(|_| answers)
        };
        tokio::join!(serves(server, Arc::clone(&asked)), asks).1
    });
    let asked = std::mem::take(&mut *lock(&asked));
    Ok((asked, undated(&answers.map_err(|error| error.to_string())?)))
}

/// Answers without their dates.
fn undated(answers: &[u8]) -> Vec<u8> {
    let (mut rest, mut undated) = (answers, Vec::new());
    while let Some(at) = memchr::memmem::find(rest, b"\r\ndate: ") {
        undated.extend_from_slice(&rest[..at]);
        let len = memchr::memmem::find(&rest[at + 2..], b"\r\n").unwrap_or(rest.len() - at - 2);
        rest = &rest[at + 2 + len..];
    }
    undated.extend_from_slice(rest);
    undated
}

/// What is asked and answered is what hyper would make of it.
///
/// # Errors
/// How that doesn't hold.
pub fn agrees(serves: Serves, input: &[u8]) -> Checked {
    let Some((cut, input)) = input.split_first() else { return Ok(()) };
    let (cut, input) = (usize::from(*cut) * 16, &input[..input.len().min(INPUT_BYTES_MAX)]);
    let ((asked, answers), (right, right_answers)) = (served(serves, cut, input)?, served(hyper, cut, input)?);
    hold!(asked == right, "{asked:#?} was asked, and to hyper {right:#?}");
    let (text, right_text) = (String::from_utf8_lossy(&answers), String::from_utf8_lossy(&right_answers));
    hold!(answers == right_answers, "{text:?} is answered, and by hyper {right_text:?}");
    Ok(())
}

/// The property, of the gate's own way.
///
/// # Errors
/// How it doesn't hold.
pub fn check(input: &[u8]) -> Checked {
    agrees(gate, input)
}
