//! Bodies on their way: requests towards the upstream, answers towards the client.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::conn::Connection;
use super::head;
use crate::resource::{BodyError, Received};

/// The body of a request, as a client sends it, on its way to the upstream.
#[derive(Debug)]
pub struct Upload {
    body: Received,
    /// A piece that was taken, and then not sent.
    first: Bytes,
}

impl Upload {
    /// Not read yet.
    pub fn new(body: Received) -> Upload {
        Upload { body, first: Bytes::new() }
    }

    /// Puts back the piece that was taken first.
    pub fn put_back(&mut self, piece: Bytes) {
        self.first = piece;
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.first)))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.body.size_hint().exact();
        left.map(|left| SizeHint::with_exact(left + self.first.len() as u64)).unwrap_or_default()
    }
}

/// What a frame of an answer becomes on its way to the client.
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
    first: Option<Frame<Bytes>>,
    /// None once the answer's end has come.
    connection: Option<Connection>,
}

impl Download {
    /// From this connection, which is of use again afterwards. `first`: what was taken of it already.
    pub fn new(first: Option<Frame<Bytes>>, connection: Connection) -> Download {
        Download { first, connection: Some(connection) }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        let frame = ready!(connection.poll_frame(cx));
        if connection.is_at_end() {
            self.connection.take().into_iter().for_each(Connection::put_back);
        }
        Poll::Ready(frame.map(|frame| frame.map(passed_on)).map_err(BodyError::from).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.connection.as_ref().is_none_or(Connection::is_at_end)
    }

    fn size_hint(&self) -> SizeHint {
        let taken = self.first.as_ref().and_then(Frame::data_ref).map_or(0, Bytes::len);
        match self.connection.as_ref().map_or(Some(0), Connection::left) {
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
