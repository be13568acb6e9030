//! In which lane of a queue something waits.

use crate::resource::sqlite::fences::{FENCES_MAX, FenceSet};
use crate::resource::sqlite::shared::{Item, Work};

/// A lane, by its number: a fence's is that of the fence.
pub type LaneId = usize;
/// The lane of what presents no token.
pub const NOBODY: LaneId = FENCES_MAX;
/// The lane of the gate's own tasks, which goes before all others.
pub const OWN: LaneId = FENCES_MAX + 1;
/// How many lanes there are.
pub const LANES: usize = FENCES_MAX + 2;

/// The lane of a request with claims on these fences: that of the first.
pub fn lane(presented: FenceSet) -> LaneId {
    presented.first_missing_in(FenceSet::default()).unwrap_or(NOBODY)
}

/// What knows in which lane it waits.
pub trait Laned {
    /// Its lane.
    fn lane(&self) -> LaneId;
}

impl Laned for Box<Work> {
    fn lane(&self) -> LaneId {
        lane(self.presented)
    }
}

impl Laned for Item {
    fn lane(&self) -> LaneId {
        match self {
            Item::Work(work) => work.lane(),
            Item::Task(_) => OWN,
        }
    }
}
