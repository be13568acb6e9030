//! Waiting for something that has to be asked for, while what is reported is taken in.

use std::convert::Infallible;
use std::future::Future;

use super::scenario::Failed;
use super::stage::Stage;

/// Does this, and meanwhile takes in what the stage's processes report.
///
/// # Errors
/// As [`Stage::until`]: it takes too long, or a process ends that everything depends on.
pub async fn beside<T>(stage: &mut Stage, what: &str, work: impl Future<Output = T>) -> Result<T, Failed> {
    let never = stage.until(what, |_| None::<Infallible>);
    tokio::select! { biased;
        done = work => Ok(done),
        ended = never => match ended {
            Err(failed) => Err(failed),
            Ok(never) => match never {},
        },
    }
}
