//! Being told to stop, by a signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::lead::signals;

/// Whether the process was told to stop. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicI32>);

impl Stop {
    /// From now on SIGINT, SIGTERM and their like don't end the process, but set this: whoever measures looks at it often, and
    /// what was started is tidied up. What was ignored stays so.
    ///
    /// # Errors
    /// The system refuses.
    pub fn on_signals() -> std::io::Result<Stop> {
        let stop = Stop::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let mut streams = Vec::new();
        for kind in signals::ending() {
            streams.push((kind.as_raw(), signal(SignalKind::from_raw(kind.as_raw()))?));
        }
        drop(inside);
        let set = stop.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let tasks = async {
                for (number, mut stream) in streams {
                    let set = set.clone();
                    tokio::spawn(async move {
                        if stream.recv().await.is_some() {
                            let _ = set.0.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst);
                        }
                    });
                }
                std::future::pending::<()>().await;
            };
            runtime.block_on(tasks);
        })?;
        Ok(stop)
    }

    /// Whether it was.
    pub fn is_set(&self) -> bool {
        self.signal().is_some()
    }

    /// By which signal.
    pub fn signal(&self) -> Option<i32> {
        Some(self.0.load(Ordering::SeqCst)).filter(|number| *number != 0)
    }

    /// Waits, for less where it is told to stop. Whether the whole time has passed.
    pub fn wait(&self, time: Duration) -> bool {
        let until = std::time::Instant::now() + time;
        while !self.is_set() {
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::park_timeout(left.min(Duration::from_millis(20)));
        }
        false
    }
}
