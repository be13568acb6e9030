//! Bodies on their way: requests towards the upstream, answers towards the client.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

use super::conn::Connection;
use super::head;
use super::wire::Wire;
use crate::resource::{BodyError, Received};

/// A piece of a request's body. It is counted until hyper has written it.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    wire: Arc<Wire>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.bytes.copy_to_bytes(len)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.wire.piece_ends();
    }
}

/// The body of a request, as a client sends it, on its way to the upstream.
#[derive(Debug)]
pub struct Upload {
    body: Received,
    /// The connection that it goes out on. None before there is one.
    wire: Option<Arc<Wire>>,
}

impl Upload {
    /// Not read yet.
    pub fn new(body: Received) -> Upload {
        Upload { body, wire: None }
    }

    /// It will go out on this connection.
    pub fn attach(&mut self, wire: &Arc<Wire>) {
        wire.begin(self.body.is_end_stream());
        self.wire = Some(Arc::clone(wire));
    }
}

impl Body for Upload {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        let Upload { body, wire: Some(wire) } = &mut *self else {
            return Poll::Ready(Some(Err("a body is read before it has a connection".into())));
        };
        let frame = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                wire.broken();
                return Poll::Ready(Some(Err(error.into())));
            }
            None => {
                wire.ended();
                return Poll::Ready(None);
            }
        };
        let frame = match frame.into_data() {
            Ok(bytes) => {
                wire.piece_begins();
                if body.is_end_stream() {
                    wire.ended();
                }
                Frame::data(Piece { bytes, wire: Arc::clone(wire) })
            }
            Err(frame) => {
                wire.ended();
                Frame::trailers(head::trailers(frame.into_trailers().unwrap_or_default()))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The same for an answer: what a frame becomes on its way to the client.
pub fn passed_on(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(head::trailers(trailers)),
        Err(frame) => frame,
    }
}

/// The body of an answer to a read: passed on as the client takes it. Dropped before its end, it ends the upstream's work.
#[derive(Debug)]
pub struct Download {
    /// What was taken of it already.
    first: Option<Result<Frame<Bytes>, BodyError>>,
    body: Incoming,
    connection: Option<Connection>,
}

impl Download {
    /// From this connection, which is of use again afterwards. `first`: what was taken of it already.
    pub fn new(first: Option<Result<Frame<Bytes>, BodyError>>, body: Incoming, connection: Connection) -> Download {
        Download { first, body, connection: Some(connection) }
    }

    fn finished(&mut self) {
        if let Some(connection) = self.connection.take()
            && connection.wire.is_sent()
        {
            connection.put_back();
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.finished();
        }
        Poll::Ready(frame.map(|frame| frame.map(passed_on).map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().and_then(|first| first.as_ref().ok());
        let taken = first.and_then(Frame::data_ref).map_or(0, Bytes::len);
        match self.body.size_hint().exact() {
            Some(left) => SizeHint::with_exact(left + taken as u64),
            None => SizeHint::default(),
        }
    }
}

/// An answer that has been taken in whole, with trailers.
#[derive(Debug)]
pub struct Kept {
    frames: VecDeque<Frame<Bytes>>,
}

impl Kept {
    /// Of these pieces.
    pub fn new(data: Bytes, trailers: HeaderMap) -> Kept {
        Kept { frames: VecDeque::from([Frame::data(data), Frame::trailers(head::trailers(trailers))]) }
    }
}

impl Body for Kept {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }
}

/// What the pump of a long answer sends to the client: a frame, or nothing for the answer's end.
pub type Pumped = Option<Frame<Bytes>>;

/// The body of a long answer to a write: a task of its own reads it, so that the write's end doesn't depend on the client.
#[derive(Debug)]
pub struct Piped {
    frames: mpsc::Receiver<Pumped>,
    /// Bytes that have to come, where that is known.
    left: Option<u64>,
}

impl Piped {
    /// From this task; `len` where the length is known.
    pub fn new(frames: mpsc::Receiver<Pumped>, len: Option<u64>) -> Piped {
        Piped { frames, left: len }
    }
}

impl Body for Piped {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match ready!(self.frames.poll_recv(cx)) {
            Some(Some(frame)) => frame,
            Some(None) => return Poll::Ready(None),
            // Never to be taken for the end: half an answer isn't one.
            None => return Poll::Ready(Some(Err("the answer broke off".into()))),
        };
        if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
            *left = left.saturating_sub(data.len() as u64);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}
