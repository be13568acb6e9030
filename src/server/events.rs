//! Events as they happen, told to whoever watches by server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::resource::Happened;

use super::Gate;
use super::respond::timestamp;

/// How often resources are asked what happened.
const EVERY: Duration = Duration::from_millis(100);
/// How often the metrics registry tidies up, in turns of [`EVERY`].
const UPKEEP_TURNS: u32 = 50;

/// Asks the resources what happened and tells whoever watches.
pub async fn tell(gate: Arc<Gate>) {
    let mut every = tokio::time::interval(EVERY);
    let mut turn = 0;
    loop {
        every.tick().await;
        turn += 1;
        if turn % UPKEEP_TURNS == 0 {
            gate.metrics.run_upkeep();
        }
        for mount in &gate.mounts {
            for happened in mount.resource.happened() {
                // Nobody watching is not an error.
                let _ = gate.events.send(Arc::new(happened));
            }
        }
    }
}

/// One event as a server-sent event.
fn render(happened: &Happened) -> Bytes {
    let data = json!({
        "event": happened.event,
        "fence": happened.fence,
        "token": happened.token,
        "previous": happened.previous,
        "holder": happened.holder,
        "count": happened.count,
        "at": timestamp(happened.at_ms),
    });
    Bytes::from(format!("event: {}\ndata: {data}\n\n", happened.event))
}

type Next = Pin<Box<dyn Future<Output = (Option<Bytes>, broadcast::Receiver<Arc<Happened>>)> + Send>>;

/// The body of an event stream. One who reads slowly loses events and is told how many; it costs the gate nothing.
pub struct EventBody {
    next: Option<Next>,
}

impl EventBody {
    /// A stream of what happens from here on.
    pub fn new(gate: &Gate) -> EventBody {
        let receiver = gate.events.subscribe();
        // Said at once, so that the client knows that it is connected.
        EventBody { next: Some(Box::pin(async { (Some(Bytes::from_static(b": watching\n\n")), receiver) })) }
    }
}

async fn next(mut receiver: broadcast::Receiver<Arc<Happened>>) -> (Option<Bytes>, broadcast::Receiver<Arc<Happened>>) {
    let received = tokio::time::timeout(Duration::from_secs(15), receiver.recv()).await;
    let text = match received {
        Ok(Ok(happened)) => Some(render(&happened)),
        Ok(Err(RecvError::Lagged(lost))) => Some(Bytes::from(format!("event: lost\ndata: {{\"count\":{lost}}}\n\n"))),
        Ok(Err(RecvError::Closed)) => None,
        // Keeps proxies from closing a quiet stream, and finds out whether the client is still there.
        Err(_) => Some(Bytes::from_static(b": still watching\n\n")),
    };
    (text, receiver)
}

impl Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(future) = &mut self.next else { return Poll::Ready(None) };
        let Poll::Ready((text, receiver)) = future.as_mut().poll(cx) else { return Poll::Pending };
        self.next = text.is_some().then(|| Box::pin(next(receiver)) as Next);
        Poll::Ready(text.map(|text| Ok(Frame::data(text))))
    }
}
