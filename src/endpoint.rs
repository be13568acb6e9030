//! A small HTTP/1.1 client to one listener of a gate, for whatever here talks to one: the library, the HTTP side of the embedded
//! coordinator, the commands.
//!
//! **Invariant.** [`ExchangeError::NotSent`] and [`ExchangeError::Malformed`] are said only where not one byte of the request can
//! have reached the gate. Everything else that is no whole answer is [`ExchangeError::NoAnswer`]: it may have been applied. And a
//! request is sent a second time only where the first was surely not sent, or where its sender says that it may be.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Uri};
use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio_rustls::rustls::pki_types::ServerName;

#[cfg(feature = "tls")]
use crate::tls::client::ClientTls;

mod dial;
mod identity;

#[cfg(feature = "tls")]
use dial::secure;
use dial::{Connection, speak};
pub use identity::{Identity, SecretError};

/// How long a connection that isn't used is kept: less than the gate keeps it (`header_time`, by default 75 s).
const IDLE_MAX: Duration = Duration::from_secs(30);
/// The same for a request that can't be sent twice. The gate's machine may have gone since, and be there again, and the end of the
/// connection be noticed only when the request has been written to it, of which nobody could then say what became.
const IDLE_MAX_UNREPEATABLE: Duration = Duration::from_secs(1);
/// Connections kept for the next request.
const IDLE_COUNT_MAX: usize = 16;
/// How long a kept connection may take to be ready for the next request: it is, or something is wrong with it.
const READY_TIME: Duration = Duration::from_millis(50);

/// How long to wait for what, and how much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// For a connection.
    pub connect_time: Duration,
    /// For a whole answer, from when the request is sent; each request can say otherwise.
    pub answer_time: Duration,
    /// The longest body of an answer, in bytes.
    pub answer_bytes_max: usize,
}

impl Default for Options {
    /// 5 s, 60 s, and 64 MiB: more than the gate's default limits let an answer of its own become.
    fn default() -> Options {
        Options {
            connect_time: Duration::from_secs(5),
            answer_time: Duration::from_secs(60),
            answer_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// One listener of a gate. Clones share connections.
///
/// ```
/// use fencegate::endpoint::{Endpoint, Options};
/// let gate = Endpoint::parse("http://[::1]:7070/behind/", Options::default())?;
/// assert_eq!(gate.to_string(), "http://[::1]:7070/behind");
/// # Ok::<(), fencegate::endpoint::UrlError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `HOST:PORT`.
    authority: String,
    /// What stands before every path, without a slash at its end.
    base: String,
    options: Options,
    identity: Identity,
    /// Where it is `https`: how it is spoken to, and whose certificate it has to show.
    #[cfg(feature = "tls")]
    tls: Option<(ClientTls, ServerName<'static>)>,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// The text is no URL of a gate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?}: {why}")]
pub struct UrlError {
    /// The text.
    pub url: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// The path, and after a `?` the query, below the endpoint's own; it starts with a slash.
    pub path: String,
    /// The headers, but for `Host` and those that frame the body.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Whether it may be sent a second time where it isn't known what became of the first.
    pub repeatable: bool,
    /// Overrides [`Options::answer_time`].
    pub answer_time: Option<Duration>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Whether anything of a request may have left, for one who may stop waiting for its answer.
#[derive(Debug, Default)]
pub struct Progress {
    may_be_sent: AtomicBool,
    stopped: AtomicBool,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// It is no request: nothing was sent.
    #[error("this is no HTTP request: {0}")]
    Malformed(String),
    /// There is no connection to be had: nothing was sent.
    #[error("no gate answers at {authority} ({why})")]
    NotSent {
        /// `HOST:PORT`.
        authority: String,
        /// What the system says.
        why: String,
    },
    /// It was sent, or may have been.
    #[error("{authority} did not answer ({why})")]
    NoAnswer {
        /// `HOST:PORT`.
        authority: String,
        /// What happened.
        why: NoAnswer,
    },
}

/// What happens to answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The connection broke, or what came is no HTTP.
    #[error("{0}")]
    Broken(String),
    /// It did not come in this time.
    #[error("it took longer than {0:?}")]
    Late(Duration),
    /// It is longer than this, in bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
}

impl Reply {
    /// Why a gate refuses or fails, in its own words: of a problem's members the message, or else the detail.
    pub fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let text = |key: &str| body[key].as_str().map(str::to_owned);
        let reason = text("message").or_else(|| text("detail"));
        reason.unwrap_or_else(|| format!("status {}, and no reason given", self.status))
    }
}

impl Progress {
    /// Whether it may have left.
    pub fn may_be_sent(&self) -> bool {
        self.may_be_sent.load(Ordering::SeqCst)
    }

    /// From now on nothing more is sent, while the answer to what has left may still come.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Says that the request is about to leave, unless it must not.
    fn leave(&self) -> Result<(), Failed> {
        if self.stopped.load(Ordering::SeqCst) {
            return Err(Failed::Unsent("it was stopped".to_owned()));
        }
        self.may_be_sent.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn came_back(&self) {
        self.may_be_sent.store(false, Ordering::SeqCst);
    }
}

impl Call {
    /// A request without headers and body. GET and HEAD may be repeated.
    pub fn new(method: Method, path: impl Into<String>) -> Call {
        let repeatable = matches!(method, Method::GET | Method::HEAD);
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Call { method, path: path.into(), headers, body, repeatable, answer_time: None }
    }

    /// The same with this header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Call {
        self.headers.append(name, value);
        self
    }

    /// The same with this body.
    #[must_use]
    pub fn with_body(self, body: impl Into<Bytes>) -> Call {
        Call { body: body.into(), ..self }
    }

    /// The same; it may be sent a second time.
    #[must_use]
    pub fn repeatable(self) -> Call {
        Call { repeatable: true, ..self }
    }

    /// The same, with so much time for the answer.
    #[must_use]
    pub fn within(self, answer_time: Duration) -> Call {
        Call { answer_time: Some(answer_time), ..self }
    }
}

/// How one attempt on one connection ended without an answer.
enum Failed {
    /// Not one byte was written.
    Unsent(String),
    Unanswered(NoAnswer),
}

impl Endpoint {
    /// Reads a URL such as `http://127.0.0.1:7070`, or `https://gate.example` with the cargo feature `tls`; it may have a path, below
    /// which the gate's own then is.
    ///
    /// # Errors
    /// [`UrlError`]: no URL, or one that isn't of this kind.
    pub fn parse(url: &str, options: Options) -> Result<Endpoint, UrlError> {
        Endpoint::open(url, options, &Identity::default())
    }

    /// The same, of a gate that asks who one is, or whose certificate the operating system doesn't know.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn open(url: &str, options: Options, identity: &Identity) -> Result<Endpoint, UrlError> {
        let wrong = |why| UrlError { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| wrong("not a URL; write one such as http://127.0.0.1:7070"))?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") if cfg!(feature = "tls") => true,
            Some("https") => return Err(wrong("this program was built without https (cargo feature tls)")),
            _ => return Err(wrong("write a URL such as http://127.0.0.1:7070")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it has no host"))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("a user or password in a URL is not taken"));
        }
        if uri.query().is_some() || url.contains('#') {
            return Err(wrong("it ends with the path: no ? and no #"));
        }
        // A port that is none would otherwise count as not given.
        let has_port = uri.authority().is_some_and(|authority| authority.as_str().len() > host.len());
        let port = match uri.port_u16() {
            Some(port) => port,
            None if has_port => return Err(wrong("its port is not a number up to 65535")),
            None if is_secure => 443,
            None => 80,
        };
        let base = uri.path().trim_end_matches('/').to_owned();
        let inner = Inner {
            authority: format!("{host}:{port}"),
            base,
            options,
            identity: identity.clone(),
            #[cfg(feature = "tls")]
            tls: if is_secure { Some(secure(host, identity).map_err(wrong)?) } else { None },
            idle: Mutex::default(),
        };
        Ok(Endpoint { inner: Arc::new(inner) })
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> &str {
        &self.inner.authority
    }

    /// Sends one request and reads its whole answer, whatever it says.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn send(&self, call: &Call) -> Result<Reply, ExchangeError> {
        self.send_watched(call, &Progress::default()).await
    }

    /// The same. Whoever stops waiting and drops the future learns from `progress` whether the request may have left; the
    /// connection is closed then.
    ///
    /// # Errors
    /// See [`ExchangeError`].
    pub async fn send_watched(&self, call: &Call, progress: &Progress) -> Result<Reply, ExchangeError> {
        // Made once to see whether it can be: later nothing of it can fail.
        self.request(call)?;
        // One that was kept may have ended meanwhile, and is the only kind that is ever tried in vain.
        while let Some(connection) = self.kept(call.repeatable).await {
            match self.attempt(connection, call, progress).await {
                Ok(reply) => return Ok(reply),
                Err(Failed::Unsent(_)) => {}
                Err(Failed::Unanswered(NoAnswer::Broken(_))) if call.repeatable => {}
                Err(Failed::Unanswered(why)) => return Err(self.no_answer(why)),
            }
        }
        let connection = self.connect().await?;
        match self.attempt(connection, call, progress).await {
            Ok(reply) => Ok(reply),
            Err(Failed::Unsent(why)) => Err(self.not_sent(why)),
            Err(Failed::Unanswered(why)) => Err(self.no_answer(why)),
        }
    }

    async fn connect(&self) -> Result<Connection, ExchangeError> {
        let Inner { authority, options, .. } = &*self.inner;
        let connecting = async {
            let stream = TcpStream::connect(authority).await.map_err(|error| error.to_string())?;
            // A request is one write; waiting for more to send along only delays it.
            let _ = stream.set_nodelay(true);
            let socket = stream.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
            #[cfg(feature = "tls")]
            if let Some((tls, name)) = &self.inner.tls {
                let shaken = tls.connector().connect(name.clone(), stream).await;
                return speak(shaken.map_err(|error| cause(&error))?, socket).await;
            }
            speak(stream, socket).await
        };
        let connected = tokio::time::timeout(options.connect_time, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err(format!("no connection in {:?}", options.connect_time)));
        connected.map_err(|why| self.not_sent(why))
    }

    /// A connection that was used before and can be used again.
    async fn kept(&self, repeatable: bool) -> Option<Connection> {
        let idle_max = if repeatable { IDLE_MAX } else { IDLE_MAX_UNREPEATABLE };
        loop {
            let Idle { mut connection, since } = self.idle().pop()?;
            if since.elapsed() > idle_max {
                if !repeatable {
                    // All others are older. Not for this request, but for the next that may be repeated.
                    self.keep(Idle { connection, since });
                    return None;
                }
                continue;
            }
            let ready = tokio::time::timeout(READY_TIME, connection.sender.ready()).await;
            if let Ok(Ok(())) = ready
                && connection.is_open()
            {
                return Some(connection);
            }
        }
    }

    fn keep(&self, idle: Idle) {
        let mut kept = self.idle();
        kept.retain(|idle| !idle.connection.sender.is_closed() && idle.since.elapsed() <= IDLE_MAX);
        if kept.len() < IDLE_COUNT_MAX && !idle.connection.sender.is_closed() {
            kept.push(idle);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.inner.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn attempt(&self, mut connection: Connection, call: &Call, progress: &Progress) -> Result<Reply, Failed> {
        let Options { answer_time, answer_bytes_max, .. } = self.inner.options;
        let answer_time = call.answer_time.unwrap_or(answer_time);
        let exchange = async {
            let request = self.request(call).map_err(|error| Failed::Unsent(error.to_string()))?;
            progress.leave()?;
            let answer = connection.sender.try_send_request(request).await.map_err(|mut error| {
                // The request comes back only where the connection has not begun with it.
                let unsent = error.take_message().is_some();
                let why = cause(&error.into_error());
                if unsent {
                    progress.came_back();
                    Failed::Unsent(why)
                } else {
                    Failed::Unanswered(NoAnswer::Broken(why))
                }
            })?;
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, answer_bytes_max).collect().await.map_err(|error| {
                let is_long = error.is::<LengthLimitError>();
                let broken = || NoAnswer::Broken(cause(&*error));
                Failed::Unanswered(if is_long { NoAnswer::TooLong(answer_bytes_max) } else { broken() })
            })?;
            Ok(Reply { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        };
        let late = |_| Err(Failed::Unanswered(NoAnswer::Late(answer_time)));
        let reply = tokio::time::timeout(answer_time, exchange).await.unwrap_or_else(late)?;
        self.keep(Idle { connection, since: Instant::now() });
        Ok(reply)
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, ExchangeError> {
        let Inner { authority, base, .. } = &*self.inner;
        let malformed = |why: String| ExchangeError::Malformed(why);
        if !call.path.starts_with('/') {
            return Err(malformed(format!("path {:?} does not start with a slash", call.path)));
        }
        let uri: Uri =
            format!("{base}{}", call.path).parse().map_err(|_| malformed(format!("path {:?}", call.path)))?;
        let host = HeaderValue::try_from(authority).map_err(|_| malformed(format!("host {authority:?}")))?;
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = call.headers.clone();
        request.headers_mut().insert(HOST, host);
        if let Some(bearer) = self.inner.identity.bearer()
            && !call.headers.contains_key(AUTHORIZATION)
        {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        Ok(request)
    }

    fn not_sent(&self, why: String) -> ExchangeError {
        ExchangeError::NotSent { authority: self.inner.authority.clone(), why }
    }

    fn no_answer(&self, why: NoAnswer) -> ExchangeError {
        ExchangeError::NoAnswer { authority: self.inner.authority.clone(), why }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[cfg(feature = "tls")]
        let is_secure = self.inner.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let is_secure = false;
        write!(f, "http{}://{}{}", if is_secure { "s" } else { "" }, self.inner.authority, self.inner.base)
    }
}

/// What hyper says, and what the system said to it.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A path segment, percent-encoded.
pub fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests;
