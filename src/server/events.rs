//! Events as they happen, told to whoever watches by server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use serde_json::json;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use crate::access::Who;
use crate::fence::FenceName;
use crate::problem::{Kind, Problem};
use crate::resource::{Happened, News};

use super::respond::timestamp;
use super::{Gate, guard};

/// How often resources are asked what happened.
const EVERY: Duration = Duration::from_millis(100);
/// How often the metrics registry tidies up, in turns of [`EVERY`].
const UPKEEP_TURNS: u32 = 50;
/// Events that are kept for those who watch; who is further behind has missed some. They are kept once, however many watch.
pub const KEPT: usize = 1024;
/// Most streams of events at once.
pub const STREAMS_MAX: usize = 64;
/// Events that wait are sent together, up to about so many bytes.
pub const TOGETHER_BYTES: usize = 16 * 1024;
/// How often a quiet stream is told something: proxies leave it open, and a client sees that it is alive.
const QUIET: Duration = Duration::from_secs(5);

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
            let News { happened, lost } = mount.resource.happened();
            gate.recent.note(&happened);
            if gate.events.receiver_count() == 0 {
                continue;
            }
            let gap = (lost > 0).then(|| (None, missed(lost)));
            let events = happened.iter().map(|happened| (Some(happened.fence.clone()), render(happened)));
            for (fence, text) in gap.into_iter().chain(events) {
                let event = Event { resource: mount.resource.name().to_owned(), fence, text };
                // The last one who watched may have gone meanwhile.
                let _ = gate.events.send(Arc::new(event));
            }
        }
    }
}

/// Something that happened, as it is told. It is made once, for all who watch.
#[derive(Debug)]
pub struct Event {
    /// The resource's name.
    pub resource: String,
    /// The fence; `None` for a gap.
    pub fence: Option<FenceName>,
    /// A server-sent event.
    pub text: Bytes,
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

/// A gap in what is told.
fn missed(count: u64) -> Bytes {
    Bytes::from(format!("event: lost\ndata: {{\"count\":{count}}}\n\n"))
}

type Next = Pin<Box<dyn Future<Output = (Option<Bytes>, Watcher)> + Send>>;

/// The body of an event stream. One who reads slowly loses events and is told how many; it costs the gate no more than a place
/// among [`STREAMS_MAX`] and what is on its way to it.
pub struct EventBody {
    next: Option<Next>,
    _place: OwnedSemaphorePermit,
}

impl EventBody {
    /// A stream of what happens from here on, on the fences that this one may see.
    ///
    /// # Errors
    /// [`Kind::Overloaded`] where there are [`STREAMS_MAX`] already.
    pub fn new(gate: &Gate, who: Option<Who>) -> Result<EventBody, Problem> {
        let full = |_| Problem::new(Kind::Overloaded, format!("{STREAMS_MAX} watch already, as many as may"));
        let place = Arc::clone(&gate.watchers).try_acquire_owned().map_err(full)?;
        let watcher = Watcher { events: gate.events.subscribe(), who };
        // Said at once, so that the client knows that it is connected.
        let next: Next = Box::pin(async { (Some(Bytes::from_static(b": watching\n\n")), watcher) });
        Ok(EventBody { next: Some(next), _place: place })
    }
}

/// One who watches: what comes for it, and who that is where the gate asks.
struct Watcher {
    events: broadcast::Receiver<Arc<Event>>,
    who: Option<Who>,
}

impl Watcher {
    /// Whether it may see this. A gap is of all fences, and says nothing of any.
    fn sees(&self, event: &Event) -> bool {
        event.fence.as_ref().is_none_or(|fence| guard::sees(self.who.as_ref(), &event.resource, fence))
    }

    /// The next event that it may see.
    async fn next(&mut self) -> Result<Arc<Event>, RecvError> {
        loop {
            let event = self.events.recv().await?;
            if self.sees(&event) {
                return Ok(event);
            }
        }
    }
}

async fn next(mut watcher: Watcher) -> (Option<Bytes>, Watcher) {
    let first = match tokio::time::timeout(QUIET, watcher.next()).await {
        Ok(Ok(event)) => event.text.clone(),
        Ok(Err(RecvError::Lagged(count))) => missed(count),
        Ok(Err(RecvError::Closed)) => return (None, watcher),
        Err(_) => return (Some(Bytes::from_static(b": still watching\n\n")), watcher),
    };
    let mut all = BytesMut::from(first);
    while all.len() < TOGETHER_BYTES {
        match watcher.events.try_recv() {
            Ok(event) if watcher.sees(&event) => all.extend_from_slice(&event.text),
            Ok(_) => {}
            Err(TryRecvError::Lagged(count)) => all.extend_from_slice(&missed(count)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => break,
        }
    }
    (Some(all.freeze()), watcher)
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
