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
        let is_first = {
            let mut works = outbox.lock().unwrap_or_else(PoisonError::into_inner);
            works.push((Arc::clone(shared), work));
            works.len() == 1
        };
        // Unlocked: a runtime that is ending drops the task at once, here.
        if is_first {
            let flush = Flush(Arc::clone(outbox));
            runtime.spawn(async move { drop(flush) });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Kind;
    use crate::resource::sqlite::Limits;
    use crate::resource::sqlite::answers::Waiting;
    use crate::resource::sqlite::answers::tests::{shared, work};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    #[test]
    fn what_comes_in_one_go_is_queued_in_one_go() {
        let (shared, other) = (shared(Limits::default()), shared(Limits::default()));
        runtime().block_on(async {
            for shared in [&shared, &shared, &other, &shared] {
                to_writer(shared, work(shared, None));
            }
            assert_eq!((shared.writer.waiting(), other.writer.waiting()), (0, 0));
            tokio::task::yield_now().await;
            assert_eq!((shared.writer.waiting(), other.writer.waiting()), (3, 1));
            to_writer(&shared, work(&shared, None));
            tokio::task::yield_now().await;
            assert_eq!(shared.writer.waiting(), 4);
        });
    }

    #[test]
    fn nothing_is_left_behind_where_the_runtime_ends_or_there_is_none() {
        let shared = shared(Limits::default());
        let runtime = runtime();
        runtime.block_on(async { to_writer(&shared, work(&shared, None)) });
        drop(runtime);
        assert_eq!(shared.writer.waiting(), 1);
        to_writer(&shared, work(&shared, None));
        assert_eq!(shared.writer.waiting(), 2);
    }

    #[test]
    fn what_has_no_place_in_the_queue_is_told_so() {
        let shared = shared(Limits { queue_requests: 1, ..Limits::default() });
        let [taken, mut turned_away] = runtime().block_on(async {
            let waits = [(); 2].map(|()| {
                let (waiting, arrives) = Waiting::here();
                to_writer(&shared, work(&shared, Some(waiting)));
                arrives
            });
            tokio::task::yield_now().await;
            waits
        });
        let answer = turned_away.try_recv().expect("told").open();
        assert_eq!(answer.expect_err("no place").kind, Kind::Overloaded);
        drop(taken);
    }
}
