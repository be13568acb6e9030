//! The body of a request, and what becomes of the part that nobody reads.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::EXPECT;
use hyper::{Request, Version};

use super::turn;

/// Most bytes that are taken in although nobody reads them.
const REST_BYTES_MAX: usize = 256 * 1024;
/// How long that may take.
const REST_TIME: Duration = Duration::from_secs(5);

/// A request's body.
///
/// What nobody has read of it when it is dropped, because the request was refused, say, is still taken in where it is short. Else
/// the connection would have to be closed: the client's next request would end without an answer, and bytes that come to a closed
/// connection can destroy the answer that is on its way.
#[derive(Debug)]
pub struct Received {
    body: Source,
    /// Whether the rest is of any use to the connection, and the client will send it.
    takes_rest: bool,
}

/// Where it comes from.
#[derive(Debug)]
enum Source {
    /// All of it has come, and is here.
    Here(Bytes),
    /// As it comes.
    Coming(Incoming),
}

impl Received {
    /// One of which all is here.
    pub fn whole(body: Bytes) -> Received {
        Received { body: Source::Here(body), takes_rest: false }
    }

    /// Takes the body of a request.
    pub fn of(request: Request<Incoming>) -> Request<Received> {
        // A client that waits to be asked for its body doesn't send it after a refusal.
        let takes_rest = request.version() != Version::HTTP_2 && !request.headers().contains_key(EXPECT);
        request.map(|body| Received { body: Source::Coming(body), takes_rest })
    }

    /// Whether the client's connection ends with the answer if this is dropped now.
    pub fn ends_connection(&self) -> bool {
        match &self.body {
            Source::Here(_) => false,
            Source::Coming(body) => !(body.is_end_stream() || self.takes_rest && is_short(body)),
        }
    }
}

fn is_short(body: &Incoming) -> bool {
    body.size_hint().lower() <= REST_BYTES_MAX as u64
}

/// The next frame. Whoever reads the connection is woken where there may be more.
fn next(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    turn::hushed(|| {
        let frame = Pin::new(&mut *body).poll_frame(cx);
        // By the length that was announced: then all of it has been read from the connection before.
        let is_last = frame.is_ready() && body.is_end_stream();
        (frame, !is_last)
    })
}

impl Body for Received {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Source::Here(body) if body.is_empty() => Poll::Ready(None),
            Source::Here(body) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(body))))),
            Source::Coming(body) => next(body, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Source::Here(body) => body.is_empty(),
            Source::Coming(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Source::Here(body) => SizeHint::with_exact(body.len() as u64),
            Source::Coming(body) => body.size_hint(),
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !matches!(&self.body, Source::Coming(body) if self.takes_rest && is_short(body)) {
            return;
        }
        let Source::Coming(mut body) = std::mem::replace(&mut self.body, Source::Here(Bytes::new())) else { return };
        // Mostly all of it came with the head, and no task is needed for it.
        let mut cx = Context::from_waker(Waker::noop());
        while !body.is_end_stream() {
            match next(&mut body, &mut cx) {
                // Each look takes in a piece, which is at most as large as what hyper reads at once.
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return,
                Poll::Pending => break,
            }
        }
        if !body.is_end_stream()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(tokio::time::timeout(REST_TIME, take_in(body)));
        }
    }
}

async fn take_in(mut body: Incoming) {
    let mut len = 0;
    while let Some(Ok(frame)) = body.frame().await {
        len += frame.data_ref().map_or(0, Bytes::len);
        if len > REST_BYTES_MAX {
            return;
        }
    }
}
