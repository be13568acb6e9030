//! The high-water mark and the one comparison that the product is about.

use super::{Holder, Token};

/// The highest token that a fence has admitted, with the holder it is bound to, if one was named.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mark {
    /// The highest token admitted.
    pub token: Token,
    /// The first holder named with that token.
    pub holder: Option<Holder>,
}

/// What the gate decides on one claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The token is the mark's, and no other holder has it.
    Admitted,
    /// The token is higher than the mark, or the first on its fence: the mark rises to it.
    Advanced,
    /// The token is lower than the mark: the presenter was deposed.
    Stale,
    /// The token is the mark's, but it is bound to another holder.
    Conflict,
    /// The token is higher than the mark, and the coordinator that issues this fence's tokens doesn't know it as a leader's.
    /// Never what a comparison with a mark says; see [`Belief`](super::Belief).
    Unissued,
}

impl Verdict {
    /// Whether the write goes through.
    pub fn admits(self) -> bool {
        match self {
            Verdict::Admitted | Verdict::Advanced => true,
            Verdict::Stale | Verdict::Conflict | Verdict::Unissued => false,
        }
    }

    /// The word for headers, JSON and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Admitted => "admitted",
            Verdict::Advanced => "advanced",
            Verdict::Stale => "stale",
            Verdict::Conflict => "conflict",
            Verdict::Unissued => "unissued",
        }
    }
}

impl Mark {
    /// Judges a token and holder against a mark (`None`: nothing was admitted on this fence yet).
    ///
    /// | token against the mark | verdict |
    /// |---|---|
    /// | lower | [`Verdict::Stale`] |
    /// | equal, same holder, or either side names none | [`Verdict::Admitted`] |
    /// | equal, another holder | [`Verdict::Conflict`] |
    /// | higher, or no mark | [`Verdict::Advanced`] |
    ///
    /// Equal is admitted: refusing `<=` would refuse a leader's own second write, a mistake that many tutorials make.
    pub fn judge(mark: Option<&Mark>, token: Token, holder: Option<&Holder>) -> Verdict {
        let Some(mark) = mark else { return Verdict::Advanced };
        match token.cmp(&mark.token) {
            std::cmp::Ordering::Less => Verdict::Stale,
            std::cmp::Ordering::Greater => Verdict::Advanced,
            std::cmp::Ordering::Equal => match (&mark.holder, holder) {
                (Some(bound), Some(named)) if bound != named => Verdict::Conflict,
                _ => Verdict::Admitted,
            },
        }
    }
}
