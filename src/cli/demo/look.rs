//! Waiting: for something that has to be asked for, while what is reported is taken in; for somebody's election.

use std::convert::Infallible;
use std::future::Future;

use super::scenario::Failed;
use super::stage::Stage;
use super::story::Kind;
use crate::fence::Token;

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

/// Waits until this one is elected; its token.
///
/// # Errors
/// As [`Stage::until`].
pub async fn elected(stage: &mut Stage, name: &str) -> Result<Token, Failed> {
    let token = |stage: &Stage| {
        stage.story.events.iter().find_map(|event| match event.kind {
            Kind::Elected { token } if event.lane == name => Some(token),
            _ => None,
        })
    };
    stage.until(&format!("{name} leads"), token).await
}
