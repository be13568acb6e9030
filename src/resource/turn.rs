//! A connection's turn: who is woken when something happens on it, and what it needn't be woken for.
//!
//! hyper's HTTP/1.1 hands a body over to whoever answers the request, in the same task, and is woken each time that a piece of it
//! was taken, to read the next. After the last piece there is none. To be woken for that would cost each request a turn of its
//! connection in which nothing happens.

use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};

/// Wakes the task of one connection.
#[derive(Debug)]
pub struct Turn {
    task: Waker,
}

/// Whether wakings wait.
#[derive(Debug)]
enum Hush {
    Off,
    On,
    /// Somebody is to be woken.
    Waits(Arc<Turn>),
}

thread_local! {
    static HUSH: RefCell<Hush> = const { RefCell::new(Hush::Off) };
}

impl Turn {
    /// A waker for the task that asks in this context. It has to be the one that the connection has for all of its life.
    pub fn waker(cx: &Context<'_>) -> Waker {
        Waker::from(Arc::new(Turn { task: cx.waker().clone() }))
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Turn>) {
        Turn::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Turn>) {
        let waits = HUSH.with_borrow_mut(|hush| {
            let waits = !matches!(hush, Hush::Off);
            if waits {
                *hush = Hush::Waits(Arc::clone(self));
            }
            waits
        });
        if !waits {
            self.task.wake_by_ref();
        }
    }
}

/// Does something to a body of a connection's request, and says whether whoever is woken for it has to be.
pub fn hushed<T>(act: impl FnOnce() -> (T, bool)) -> T {
    /// However that ends, later wakings are none of its business.
    struct Hushed;
    impl Drop for Hushed {
        fn drop(&mut self) {
            HUSH.set(Hush::Off);
        }
    }
    let hushed = Hushed;
    HUSH.set(Hush::On);
    let (done, is_to_wake) = act();
    let waits = HUSH.replace(Hush::Off);
    drop(hushed);
    if let Hush::Waits(turn) = waits
        && is_to_wake
    {
        turn.task.wake_by_ref();
    }
    done
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_to_be_woken_is() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let task = Waker::from(Arc::clone(&count));
        let waker = Turn::waker(&Context::from_waker(&task));
        let wakes = || count.0.swap(0, Ordering::Relaxed);
        waker.wake_by_ref();
        assert_eq!(wakes(), 1);
        hushed(|| (waker.wake_by_ref(), false));
        assert_eq!(wakes(), 0);
        hushed(|| (waker.wake_by_ref(), true));
        assert_eq!(wakes(), 1);
        hushed(|| ((), true));
        assert_eq!(wakes(), 0);
        let thrown = std::panic::catch_unwind(|| hushed(|| -> ((), bool) { panic!("in the middle") }));
        assert!(thrown.is_err());
        waker.wake_by_ref();
        assert_eq!(wakes(), 1, "nothing is held back after that");
    }
}
