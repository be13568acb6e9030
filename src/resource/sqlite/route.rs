//! Where a request starts: with a reader, with the writer, or nowhere.

use crate::problem::{Kind, Problem};

use super::shared::Work;
use super::{SharedRef, outbox, reader};

/// Decides where a request starts. Any choice is safe: a reader hands over what writes, and the writer judges everything anew.
pub fn start(shared: &SharedRef, work: Box<Work>, changes: bool) {
    let holds_lock = work.stream.own.as_ref().is_some_and(|own| own.lock.is_some());
    let is_empty = work.program.requests.is_empty();
    if changes {
        // Its predecessor's statement must not make it wait.
        shared.announce(&work.claims);
        reader::to_writer(shared, work, true);
    } else if let Some(ended) = work.stream.ended.clone() {
        // The mark that deposes it may have to be raised yet: the writer knows when that is durable, and whether it came to that.
        if shared.is_published(&ended) {
            shared.finish(work, Err(*ended));
        } else {
            reader::to_writer(shared, work, false);
        }
    } else if is_empty {
        shared.finish(work, Ok(()));
    } else if holds_lock {
        // All that waits for its transaction to end would keep it from ending.
        reader::to_writer_over(shared, work);
    } else if work.hint.writes && !work.claims.is_empty() && (!work.hint.stays_open || work.key.is_some()) {
        outbox::to_writer(shared, work);
    } else if let Err(work) = shared.readers.push(work, false) {
        shared.finish(work, Err(Problem::new(Kind::Overloaded, "too many reads are waiting; try again")));
    }
}
