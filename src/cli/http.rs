//! How the commands that talk to a gate do so: they wait, and what goes wrong is an exit status.

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde_json::Value;

use crate::endpoint::{self, Call, ExchangeError, Identity, NoAnswer, Options};
pub use crate::endpoint::{Reply, segment};
use crate::headers::FENCING_VERDICT;

use super::failure::Failure;

/// How long to wait for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(120);
/// The longest answer: with the largest values that a gate can be configured for, one row can be long.
const ANSWER_BYTES_MAX: usize = 1024 * 1024 * 1024;

/// One listener of a gate.
#[derive(Debug, Clone)]
pub struct Endpoint {
    endpoint: endpoint::Endpoint,
    runtime: Arc<tokio::runtime::Runtime>,
    /// How to name another one.
    flag: &'static str,
}

impl Endpoint {
    /// Reads a URL such as `http://127.0.0.1:7070`. `flag` is the flag that it came from.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn parse(url: &str, flag: &'static str) -> Result<Endpoint, Failure> {
        Endpoint::open(url, flag, &Identity::default())
    }

    /// The same, of a gate that asks who one is.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn open(url: &str, flag: &'static str, identity: &Identity) -> Result<Endpoint, Failure> {
        let options = Options { answer_time: ANSWER_TIME, answer_bytes_max: ANSWER_BYTES_MAX, ..Options::default() };
        let endpoint = endpoint::Endpoint::open(url, options, identity);
        let endpoint = endpoint.map_err(|error| Failure::Usage(format!("{flag} {error}")))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Endpoint { endpoint, runtime: Arc::new(runtime), flag })
    }

    pub(super) fn failure(&self, method: &Method, error: ExchangeError) -> Failure {
        let unreachable = |authority: &str, why: &str| {
            let flag = self.flag;
            Failure::Unreachable(format!(
                "no gate answers at {authority} ({why}); start one with `fencegate serve`, or name another with {flag}"
            ))
        };
        match error {
            ExchangeError::Malformed(why) => Failure::Usage(format!("the request can't be made: {why}")),
            ExchangeError::NotSent { authority, why } => unreachable(&authority, &why),
            ExchangeError::NoAnswer { why: why @ NoAnswer::TooLong(_), .. } => Failure::Other(why.to_string()),
            ExchangeError::NoAnswer { authority, why } if method == Method::GET => {
                unreachable(&authority, &why.to_string())
            }
            // It matters for a request that may have changed something.
            ExchangeError::NoAnswer { .. } => {
                Failure::Other(format!("{error}; the request may or may not have been applied"))
            }
        }
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] where nothing was sent; [`Failure::Other`] where it was, and no whole answer came.
    pub fn send(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Vec<u8>,
    ) -> Result<Reply, Failure> {
        let call = call(method, path, headers, body)?;
        self.exchange(&call).map_err(|error| self.failure(method, error))
    }

    pub(super) fn exchange(&self, call: &Call) -> Result<Reply, ExchangeError> {
        self.runtime.block_on(self.endpoint.send(call))
    }

    pub(super) fn pause(&self, time: Duration) {
        self.runtime.block_on(async { tokio::time::sleep(time).await });
    }

    /// A GET whose answer is JSON.
    ///
    /// # Errors
    /// As [`Endpoint::send`] and [`json`].
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        json(&self.send(&Method::GET, path, &[], Vec::new())?)
    }

    /// A POST of JSON whose answer is JSON.
    ///
    /// # Errors
    /// As [`Endpoint::send`] and [`json`].
    pub fn post(&self, path: &str, headers: &[(&'static str, String)], body: &Value) -> Result<Value, Failure> {
        json(&self.send(&Method::POST, path, headers, body.to_string().into_bytes())?)
    }
}

/// A request with a JSON body.
///
/// # Errors
/// [`Failure::Usage`] for what can be no header.
pub(super) fn call(
    method: &Method,
    path: &str,
    headers: &[(&'static str, String)],
    body: Vec<u8>,
) -> Result<Call, Failure> {
    let mut call = Call::new(method.clone(), path)
        .with_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .with_body(body);
    for (name, value) in headers {
        let wrong = |_| Failure::Usage(format!("the request can't be made: {name} {value:?}"));
        call = call.with_header(HeaderName::from_static(name), HeaderValue::try_from(value).map_err(wrong)?);
    }
    Ok(call)
}

/// The body of a good answer.
///
/// # Errors
/// [`Failure::Refused`] where the gate refused, [`Failure::Other`] for other problems and for what is no JSON.
pub fn json(reply: &Reply) -> Result<Value, Failure> {
    if (200..300).contains(&reply.status) {
        return serde_json::from_slice(&reply.body)
            .map_err(|error| Failure::Other(format!("the answer is no JSON: {error}")));
    }
    let message = reply.reason();
    let judged = reply.headers.contains_key(FENCING_VERDICT);
    match reply.status {
        401 | 403 => Err(Failure::Refused(message)),
        400..=499 if judged => Err(Failure::Refused(message)),
        _ => Err(Failure::Other(message)),
    }
}
