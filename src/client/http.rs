//! An HTTP service behind a gate, as its leader uses it.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};

use super::bound::Bound;
use super::error::{Applied, Error};
use super::told::Source;

/// Headers that are the client's own.
const OWN_HEADERS: [&str; 12] = [
    "fencing-token",
    "fencing-holder",
    "fencing-fence",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "expect",
];

/// An HTTP service behind a gate. Every request carries the token, reads too: what a leader reads with its token was true while it
/// led.
///
/// ```
/// # async fn example(fenced: fencegate::client::Fenced) -> Result<(), fencegate::client::Error> {
/// let stock = fenced.http("/stock");
/// let answer = stock.put("/7", &[("content-type", "application/json")], r#"{"left":3}"#).await?;
/// if answer.status() == 412 {
///     // The service's own precondition. Had the gate refused the token, that would be an error of its own.
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Http {
    bound: Arc<Bound>,
    mount: String,
}

/// A service's answer, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// A header's first value, where it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body as text, with replacement characters for what isn't UTF-8.
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }
}

impl Http {
    pub(super) fn new(bound: Arc<Bound>, mount: &str) -> Http {
        Http { bound, mount: mount.trim_end_matches('/').to_owned() }
    }

    /// A request with any method. `path` starts with a slash, is percent-encoded and may have a query; it is below the mount
    /// point.
    ///
    /// A service's own answer is an [`Answer`], also where it says no. Where the gate refuses, or stands in for a service that
    /// can't be reached, that is an [`Error`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Error> {
        if !path.starts_with('/') {
            return Err(Error::Misuse(format!("path {path:?} does not start with a slash")));
        }
        let mut call = self.bound.call(method, format!("{}{path}", self.mount)).with_body(body);
        for (name, value) in headers {
            let wrong = |what: &str| Error::Misuse(format!("header {name:?}: {what}"));
            let name: HeaderName = name.parse().map_err(|_| wrong("not a header's name"))?;
            if OWN_HEADERS.contains(&name.as_str()) {
                return Err(wrong("it is set by the client itself"));
            }
            if name == AUTHORIZATION {
                // There can be one only, and this one is for the service.
                call.headers.remove(AUTHORIZATION);
            }
            call = call.with_header(name, HeaderValue::try_from(*value).map_err(|_| wrong("not a header's value"))?);
        }
        let answered = self.bound.send(&call, Source::Upstream).await?;
        // What became of a request that the service has answered otherwise, only the service knows.
        let is_done = (200..400).contains(&answered.reply.status);
        answered.still_leading_and(if is_done { Applied::Yes } else { Applied::Unknown })?;
        let crate::endpoint::Reply { status, headers, body } = answered.reply;
        Ok(Answer { status, headers, body })
    }

    /// GET.
    ///
    /// # Errors
    /// As [`Http::request`].
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, Error> {
        self.request(Method::GET, path, headers, Bytes::new()).await
    }

    /// PUT.
    ///
    /// # Errors
    /// As [`Http::request`].
    pub async fn put(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer, Error> {
        self.request(Method::PUT, path, headers, body).await
    }

    /// POST.
    ///
    /// # Errors
    /// As [`Http::request`].
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Answer, Error> {
        self.request(Method::POST, path, headers, body).await
    }

    /// DELETE.
    ///
    /// # Errors
    /// As [`Http::request`].
    pub async fn delete(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, Error> {
        self.request(Method::DELETE, path, headers, Bytes::new()).await
    }
}
