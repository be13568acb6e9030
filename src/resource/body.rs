//! The body of an answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue};

use super::http::sending::write_line;

/// An error of a body that is streamed.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
#[allow(missing_debug_implementations, reason = "a streamed body is a trait object")]
pub enum Body {
    /// In memory.
    Whole(Full<Bytes>),
    /// In memory, together with headers that aren't among the answer's own.
    Repeated(Arc<Repeated>),
    /// As it comes from elsewhere.
    Streamed(Pin<Box<dyn hyper::body::Body<Data = Bytes, Error = BodyError> + Send>>),
}

/// What is told again and again: to write its headers once costs less than to copy a map of them each time.
#[derive(Debug)]
pub struct Repeated {
    headers: HeaderMap,
    lines: Vec<u8>,
    body: Bytes,
}

impl Repeated {
    /// A body with these headers, which say nothing of its length.
    pub fn new(mut headers: HeaderMap, body: Bytes) -> Repeated {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let mut lines = Vec::new();
        headers.iter().for_each(|(name, value)| write_line(&mut lines, name.as_str(), value.as_bytes()));
        Repeated { headers, lines, body }
    }

    /// The headers, `Content-Length` among them.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The same as HTTP/1.1 has them: lines, each with its end.
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

impl From<Full<Bytes>> for Body {
    fn from(whole: Full<Bytes>) -> Body {
        Body::Whole(whole)
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        match body {
            Body::Whole(whole) => Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
            Body::Repeated(repeated) => {
                *body = Body::Whole(Full::new(repeated.body.clone()));
                Pin::new(body).poll_frame(cx)
            }
            Body::Streamed(streamed) => streamed.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Whole(whole) => whole.is_end_stream(),
            Body::Repeated(repeated) => repeated.body.is_empty(),
            Body::Streamed(streamed) => streamed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(whole) => whole.size_hint(),
            Body::Repeated(repeated) => SizeHint::with_exact(repeated.body.len() as u64),
            Body::Streamed(streamed) => streamed.size_hint(),
        }
    }
}
