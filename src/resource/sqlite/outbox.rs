//! Requests on their way to the writer.
//!
//! A thread that serves connections mostly finds many of them readable at once. The first request that it reads wouldn't make a
//! good transaction: the writer would wake for it, wait for the disk, and leave all the others to the next one. So what a thread
//! reads in one go is queued in one go, by a task that its runtime comes to after those that were ready before it. A request
//! that comes alone is queued right away in this manner, too: nothing here waits for time to pass.
//!
//! **Invariant.** Whatever is put here reaches the queue or is told why not: dropping `Flush`, run or not, does it.

use std::sync::{Arc, Mutex, PoisonError};

use super::SharedRef;
use super::reader;
use super::shared::{Item, Work};

/// Of one thread. Shared with the task that queues them, which some other thread may run.
type Outbox = Arc<Mutex<Vec<(SharedRef, Box<Work>)>>>;

thread_local! {
    static HERE: Outbox = Outbox::default();
}

/// Queues what is in an outbox when it is dropped.
struct Flush(Outbox);

impl Drop for Flush {
    fn drop(&mut self) {
        let works = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut works = works.into_iter().peekable();
        while let Some((shared, first)) = works.next() {
            let same = std::iter::from_fn(|| works.next_if(|(other, _)| Arc::ptr_eq(other, &shared)));
            let items = std::iter::once(first).chain(same.map(|(_, work)| work)).map(Item::Work);
            for item in shared.writer.push_all(items) {
                if let Item::Work(work) = item {
                    reader::not_taken(&shared, work);
                }
            }
        }
    }
}

/// Hands a request to the writer, together with the others that this thread's runtime has ready.
pub fn to_writer(shared: &SharedRef, work: Box<Work>) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return reader::to_writer(shared, work, false);
    };
    HERE.with(|outbox| {
        let mut works = outbox.lock().unwrap_or_else(PoisonError::into_inner);
        works.push((Arc::clone(shared), work));
        if works.len() == 1 {
            let flush = Flush(Arc::clone(outbox));
            runtime.spawn(async move { drop(flush) });
        }
    });
}
