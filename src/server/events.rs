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

use crate::access::Who;
use crate::resource::Happened;

use super::respond::timestamp;
use super::{Gate, guard};

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
                let _ = gate.events.send(Arc::new(Event { resource: mount.resource.name().to_owned(), happened }));
            }
        }
    }
}

/// Something that happened, and where.
#[derive(Debug)]
pub struct Event {
    /// The resource's name.
    pub resource: String,
    /// What.
    pub happened: Happened,
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

/// One who watches: what comes for it, and who that is where the gate asks.
type Watcher = (broadcast::Receiver<Arc<Event>>, Option<Who>);
type Next = Pin<Box<dyn Future<Output = (Option<Bytes>, Watcher)> + Send>>;

/// The body of an event stream. One who reads slowly loses events and is told how many; it costs the gate nothing.
pub struct EventBody {
    next: Option<Next>,
}

impl EventBody {
    /// A stream of what happens from here on, on the fences that this one may see.
    pub fn new(gate: &Gate, who: Option<Who>) -> EventBody {
        let watcher = (gate.events.subscribe(), who);
        // Said at once, so that the client knows that it is connected.
        EventBody { next: Some(Box::pin(async { (Some(Bytes::from_static(b": watching\n\n")), watcher) })) }
    }
}

/// The next event that the watcher may see.
async fn seen((receiver, who): &mut Watcher) -> Result<Arc<Event>, RecvError> {
    loop {
        let event = receiver.recv().await?;
        if guard::sees(who.as_ref(), &event.resource, &event.happened.fence) {
            return Ok(event);
        }
    }
}

async fn next(mut watcher: Watcher) -> (Option<Bytes>, Watcher) {
    let received = tokio::time::timeout(Duration::from_secs(15), seen(&mut watcher)).await;
    let text = match received {
        Ok(Ok(event)) => Some(render(&event.happened)),
        Ok(Err(RecvError::Lagged(lost))) => Some(Bytes::from(format!("event: lost\ndata: {{\"count\":{lost}}}\n\n"))),
        Ok(Err(RecvError::Closed)) => None,
        // Keeps proxies from closing a quiet stream, and finds out whether the client is still there.
        Err(_) => Some(Bytes::from_static(b": still watching\n\n")),
    };
    (text, watcher)
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
