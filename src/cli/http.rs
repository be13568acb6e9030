//! A small HTTP client for the commands that talk to a gate.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Method, Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::failure::Failure;

/// How long to wait for a connection.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// How long to wait for an answer.
const ANSWER_TIME: Duration = Duration::from_secs(120);

/// One listener of a gate.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `HOST:PORT`.
    authority: String,
    /// What stands before every path, without a slash at its end.
    base: String,
    /// How to name another one.
    flag: &'static str,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Endpoint {
    /// Reads a URL such as `http://127.0.0.1:7070`. `flag` is the flag that it came from.
    ///
    /// # Errors
    /// [`Failure::Usage`].
    pub fn parse(url: &str, flag: &'static str) -> Result<Endpoint, Failure> {
        let wrong = |why: &str| Failure::Usage(format!("{flag} {url:?}: {why}"));
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL; write one such as http://127.0.0.1:7070"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("https is not in this version; http is")),
            _ => return Err(wrong("write a URL such as http://127.0.0.1:7070")),
        }
        let host = uri.host().ok_or_else(|| wrong("it has no host"))?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(80));
        Ok(Endpoint { authority, base: uri.path().trim_end_matches('/').to_owned(), flag })
    }

    fn unreachable(&self, why: &str) -> Failure {
        let Endpoint { authority, flag, .. } = self;
        Failure::Unreachable(format!(
            "no gate answers at {authority} ({why}); start one with `fencegate serve`, or name another with {flag}"
        ))
    }

    /// What is told where a request was sent and no whole answer came: it matters for one that may have changed something.
    fn unanswered(&self, method: &Method, why: &str) -> Failure {
        if method == Method::GET {
            return self.unreachable(why);
        }
        let authority = &self.authority;
        Failure::Other(format!("{authority} did not answer ({why}); the request may or may not have been applied"))
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// [`Failure::Unreachable`] where nothing was sent; [`Failure::Other`] where it was, and no whole answer came.
    pub fn send(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Reply, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let exchange = self.exchange(method, path, headers, body);
            match tokio::time::timeout(ANSWER_TIME, exchange).await {
                Ok(result) => result,
                Err(_) => Err(self.unanswered(method, "it took too long")),
            }
        })
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Reply, Failure> {
        let connected = tokio::time::timeout(CONNECT_TIME, TcpStream::connect(&self.authority)).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable(&error.to_string())),
            Err(_) => return Err(self.unreachable("no connection in time")),
        };
        let broken = |error: hyper::Error| self.unanswered(method, &error.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.unreachable(&error.to_string()))?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("{}{path}", self.base))
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| Failure::Usage(format!("the request can't be made: {error}")))?;
        let (parts, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// A GET whose answer is JSON.
    ///
    /// # Errors
    /// As [`Endpoint::send`] and [`Reply::json`].
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(&Method::GET, path, &[], Vec::new())?.json()
    }

    /// A POST of JSON whose answer is JSON.
    ///
    /// # Errors
    /// As [`Endpoint::send`] and [`Reply::json`].
    pub fn post(&self, path: &str, headers: &[(&str, String)], body: &Value) -> Result<Value, Failure> {
        self.send(&Method::POST, path, headers, body.to_string().into_bytes())?.json()
    }
}

impl Reply {
    /// The body of a good answer.
    ///
    /// # Errors
    /// [`Failure::Refused`] where the gate refused, [`Failure::Other`] for other problems and for what is no JSON.
    pub fn json(&self) -> Result<Value, Failure> {
        let body: Result<Value, _> = serde_json::from_slice(&self.body);
        if (200..300).contains(&self.status) {
            return body.map_err(|error| Failure::Other(format!("the answer is no JSON: {error}")));
        }
        let message = body.ok().and_then(|body| {
            let text = |key: &str| body[key].as_str().map(str::to_owned);
            text("message").or_else(|| text("detail"))
        });
        let message = message.unwrap_or_else(|| format!("status {}, and no reason given", self.status));
        let judged = self.headers.contains_key("fencing-verdict");
        match self.status {
            401 | 403 => Err(Failure::Refused(message)),
            400..=499 if judged => Err(Failure::Refused(message)),
            _ => Err(Failure::Other(message)),
        }
    }
}

/// A path segment, percent-encoded.
pub fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
