//! HTTP/2 on one connection. hyper speaks it, in a task of its own.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{TrySendError, http2};
use hyper::header::{CONTENT_LENGTH, HeaderValue, TE};
use hyper::http::uri::{Authority, Scheme, Uri};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::AbortHandle;

use super::gained::Gained;
use super::message::{Broken, Failed, Head, Message};
use super::progress::{Counted, Counting, Progress};
use super::seen::Seen;
use super::stream::Stream;

/// How often an upstream is asked whether it is still there.
pub const PROBE_EVERY: Duration = Duration::from_secs(15);
/// How long it may take to answer that.
const PROBE_TIME: Duration = Duration::from_secs(15);

/// What comes of sending a request. The request comes back where it was surely not written.
type Sent = Result<Response<Incoming>, TrySendError<Request<Counted>>>;

/// Where an exchange is.
enum Stage {
    /// The request is on its way, the answer's head hasn't come.
    Head(Pin<Box<dyn Future<Output = Sent> + Send>>),
    /// The answer's body is coming.
    Body(Incoming),
    /// There is none.
    Idle,
}

/// A connection that speaks HTTP/2.
pub struct Http2 {
    sender: http2::SendRequest<Counted>,
    task: AbortHandle,
    progress: Arc<Progress>,
    stage: Stage,
    /// What a request's target begins with.
    scheme: Scheme,
    authority: Authority,
}

impl Http2 {
    /// Over this stream, to a server of this name. `head_bytes_max`: the largest head of an answer.
    ///
    /// # Errors
    /// hyper's.
    pub async fn start(
        stream: Stream,
        scheme: Scheme,
        authority: Authority,
        head_bytes_max: usize,
    ) -> hyper::Result<Http2> {
        let progress = Arc::<Progress>::default();
        let io = TokioIo::new(Counting { stream, progress: Arc::clone(&progress) });
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(PROBE_EVERY).keep_alive_timeout(PROBE_TIME);
        builder.max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX));
        let (sender, connection) = builder.handshake(io).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to an upstream ended");
            }
        });
        Ok(Http2 { sender, task: task.abort_handle(), progress, stage: Stage::Idle, scheme, authority })
    }

    /// A request is to be sent next.
    pub fn begin(&mut self, message: Message) {
        let Message { method, target, mut headers, gained, takes_trailers, body, .. } = message;
        gained.put(&mut headers);
        self.progress.begin(body.is_end_stream());
        let mut request = Request::new(Counted { body, progress: Arc::clone(&self.progress) });
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(target);
        *request.uri_mut() = uri.build().expect("a scheme, an authority and a path make a URI");
        *request.method_mut() = method;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        request.headers_mut().remove(hyper::header::HOST);
        if takes_trailers {
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
        }
        self.stage = Stage::Head(Box::pin(self.sender.try_send_request(request)));
    }

    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// [`Failed`].
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Failed>> {
        let Stage::Head(answer) = &mut self.stage else {
            return Poll::Ready(Err(Failed::Broken(Broken::Incomplete)));
        };
        let answer = match ready!(answer.as_mut().poll(cx)) {
            Ok(answer) => answer,
            Err(mut error) => {
                self.stage = Stage::Idle;
                return Poll::Ready(Err(match error.take_message() {
                    Some(request) => Failed::Unsent(Box::new(unsent(request))),
                    None => Failed::Broken(self.broken(error.into_error())),
                }));
            }
        };
        let (parts, body) = answer.into_parts();
        self.stage = Stage::Body(body);
        let (status, version, headers) = (parts.status, parts.version, parts.headers);
        if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            return Poll::Ready(Err(Failed::Broken(Broken::Protocol("the answer has several lengths"))));
        }
        // What is about the connection is no part of HTTP/2, and refused by hyper.
        let seen = Seen::of(&headers);
        Poll::Ready(Ok(Head { status, version, reason: None, headers, seen, upgrade: None }))
    }

    /// The next frame of the answer's body; nothing at its end.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Broken>> {
        let Stage::Body(body) = &mut self.stage else { return Poll::Ready(Ok(None)) };
        if body.is_end_stream() {
            return Poll::Ready(Ok(None));
        }
        let frame = ready!(Pin::new(body).poll_frame(cx)).transpose();
        Poll::Ready(frame.map_err(|error| self.broken(error)))
    }

    fn broken(&self, error: hyper::Error) -> Broken {
        if self.progress.is_broken() { Broken::Request } else { Broken::Http2(error) }
    }

    /// How far the request has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How many bytes of the answer's body are still to come, where that is known.
    pub fn left(&self) -> Option<u64> {
        match &self.stage {
            Stage::Body(body) => body.size_hint().exact(),
            _ => None,
        }
    }

    /// Whether all of the answer was taken.
    pub fn is_at_end(&self) -> bool {
        matches!(&self.stage, Stage::Body(body) if body.is_end_stream())
    }

    /// Whether a request can be sent now.
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Whether it is over.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Makes it one that waits for the next exchange. False where it is of no more use.
    pub fn finish(&mut self) -> bool {
        self.stage = Stage::Idle;
        self.progress.is_sent() && !self.is_closed()
    }

    /// Ends its task.
    pub fn abort(&self) {
        self.task.abort();
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2").field("progress", &self.progress).finish_non_exhaustive()
    }
}

/// The request that hyper gives back, with all that it has gained among its headers.
fn unsent(request: Request<Counted>) -> Message {
    let (parts, Counted { body, .. }) = request.into_parts();
    let target = parts.uri.into_parts().path_and_query.unwrap_or_else(|| "/".parse().expect("a path"));
    let mut headers = parts.headers;
    let takes_trailers = headers.remove(TE).is_some();
    let gained = Gained::default();
    let length = body.size_hint().exact();
    Message { method: parts.method, target, headers, gained, upgrade: None, takes_trailers, body, length }
}
