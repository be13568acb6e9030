//! What is exchanged with an upstream, whichever version of HTTP it speaks.

use std::io;

use hyper::ext::ReasonPhrase;
use hyper::header::{HeaderMap, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Method, StatusCode, Version};

use super::body::Upload;
use super::gained::Gained;
use super::seen::Seen;

/// A request on its way out. What is about the connection stands apart from its headers: whoever speaks on the connection says it.
#[derive(Debug)]
pub struct Message {
    /// The method.
    pub method: Method,
    /// What is asked for.
    pub target: PathAndQuery,
    /// The client's headers that go end to end. `Host` among them is of no meaning.
    pub headers: HeaderMap,
    /// Those that the gate adds.
    pub gained: Gained,
    /// The protocol to change to.
    pub upgrade: Option<HeaderValue>,
    /// Whether the client takes trailers.
    pub takes_trailers: bool,
    /// The body.
    pub body: Upload,
    /// How long it is, in bytes; nothing where that isn't known beforehand.
    pub length: Option<u64>,
}

/// The head of an answer.
#[derive(Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The version that the upstream speaks.
    pub version: Version,
    /// What it says of the status in words, where that isn't the usual.
    pub reason: Option<ReasonPhrase>,
    /// The headers that go end to end.
    pub headers: HeaderMap,
    /// Which there are.
    pub seen: Seen,
    /// The protocol that the upstream changes to.
    pub upgrade: Option<HeaderValue>,
}

/// Why no whole answer came, although some of the request may have gone out.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The client broke off in the middle of its body.
    #[error("the request's body broke off")]
    Request,
    /// The connection ended first.
    #[error("it ended in the middle")]
    Incomplete,
    /// What came is no HTTP, or could be read in two ways.
    #[error("{0}")]
    Protocol(&'static str),
    /// The body is coded in a way that isn't known here.
    #[error("the answer has a transfer coding other than chunked")]
    Coding,
    /// The head is larger than it may be.
    #[error("the head of the answer is too large")]
    HeadTooLarge,
    /// The operating system, or TLS.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// An HTTP/2 connection or stream.
    #[error("{0}")]
    Http2(hyper::Error),
}

impl Broken {
    /// The error type of RFC 9209.
    pub fn proxy_error(&self) -> &'static str {
        match self {
            Broken::Request => "http_request_error",
            Broken::Incomplete => "http_response_incomplete",
            Broken::Protocol(_) => "http_protocol_error",
            Broken::Coding => "http_response_transfer_coding",
            Broken::HeadTooLarge => "http_response_header_section_size",
            Broken::Http2(error) if error.is_incomplete_message() => "http_response_incomplete",
            Broken::Io(_) | Broken::Http2(_) => "connection_terminated",
        }
    }
}

/// Why a request has no head of an answer.
#[derive(Debug)]
pub enum Failed {
    /// Surely nothing of it was sent. Here it is.
    Unsent(Box<Message>),
    /// Some of it may have been.
    Broken(Broken),
}
