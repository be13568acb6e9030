//! What a coordinator's word means for a claim above the mark.

use super::{Claim, Holder, Token};

/// Who leads an election, as its coordinator tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The token of its term.
    pub token: Token,
    /// The name it stood with.
    pub holder: Option<Holder>,
}

/// What is to be believed of a claim above the mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Belief {
    /// It is the present leader's. The claim as it takes effect: bound to the name that the coordinator has for the leader.
    Issued(Claim),
    /// This higher token leads: whoever presents the claim was deposed.
    Stale(Leader),
    /// It is the present leader's token, under another name.
    Conflict(Leader),
    /// The coordinator has not issued it, or not yet: nobody leads with it.
    Unissued,
}

impl Belief {
    /// Weighs a claim against who leads its fence's election now (`None`: nobody).
    ///
    /// | the leader's token against the claim's | belief |
    /// |---|---|
    /// | the same, same holder (or either side names none) | [`Belief::Issued`] |
    /// | the same, another holder | [`Belief::Conflict`] |
    /// | higher | [`Belief::Stale`] |
    /// | lower, or nobody leads | [`Belief::Unissued`] |
    ///
    /// Only the *present* leader's token counts as issued. A candidate that waits has its number already where that is an etcd
    /// create revision or a ZooKeeper czxid: to believe it would let whoever waits depose whoever leads.
    pub fn weigh(claim: &Claim, leader: Option<Leader>) -> Belief {
        let Some(leader) = leader else { return Belief::Unissued };
        match leader.token.cmp(&claim.token) {
            std::cmp::Ordering::Less => Belief::Unissued,
            std::cmp::Ordering::Greater => Belief::Stale(leader),
            std::cmp::Ordering::Equal => match (&leader.holder, &claim.holder) {
                (Some(one), Some(other)) if one != other => Belief::Conflict(leader),
                _ => {
                    let holder = leader.holder.or_else(|| claim.holder.clone());
                    Belief::Issued(Claim { holder, ..claim.clone() })
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> Token {
        Token::new(number).unwrap()
    }

    fn name(holder: &str) -> Option<Holder> {
        (!holder.is_empty()).then(|| holder.parse().unwrap())
    }

    fn claim(number: u64, holder: &str) -> Claim {
        Claim { fence: "app".parse().unwrap(), token: token(number), holder: name(holder) }
    }

    #[test]
    fn only_the_present_leaders_token_under_its_own_name_is_believed() {
        let leader = |holder: &str| Some(Leader { token: token(7), holder: name(holder) });
        for (presented, led, bound) in [("", "", ""), ("a", "", "a"), ("", "a", "a"), ("a", "a", "a")] {
            assert_eq!(Belief::weigh(&claim(7, presented), leader(led)), Belief::Issued(claim(7, bound)));
        }
        assert_eq!(Belief::weigh(&claim(7, "b"), leader("a")), Belief::Conflict(leader("a").unwrap()));
        for holder in ["", "a", "b"] {
            assert_eq!(Belief::weigh(&claim(6, holder), leader("a")), Belief::Stale(leader("a").unwrap()));
            assert_eq!(Belief::weigh(&claim(8, holder), leader("a")), Belief::Unissued, "a candidate that waits");
            assert_eq!(Belief::weigh(&claim(7, holder), None), Belief::Unissued, "nobody leads");
        }
    }
}
