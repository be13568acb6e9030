//! What the threads of a resource that work on a database have in common.

use std::io;
use std::thread::{Builder, JoinHandle};
use std::time::SystemTime;

/// The time for what people read, in milliseconds since 1970 (UTC). Nothing is decided by it.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Ends the process at once: nothing can be promised any more, and whoever runs it starts it anew. What was answered is on disk.
pub fn abort(why: &str) -> ! {
    tracing::error!("{why}; stopping the process");
    std::process::abort();
}

/// A thread of the database ended by a panic.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            abort("a database thread panicked");
        }
    }
}

/// The most stack that SQLite's parser and triggers may need.
const STACK_BYTES: usize = 8 << 20;

/// Starts a thread whose panic ends the process.
///
/// # Errors
/// The operating system has no thread to give.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(move || {
        let _abort = AbortOnPanic;
        run();
    })
}
