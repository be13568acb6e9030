//! Until when a lease is known to be alive, by the local clock. Pure: whoever calls says what time it is.

use std::time::Duration;

/// Of a granted lease, the part that is counted on, in percent. Two clocks that each run up to 1% wrong, ours slow and the
/// coordinator's fast, end a lease at 0.99 / 1.01 = 98.02% of its length by ours.
const COUNTED_ON_PERCENT: u32 = 98;

/// Why a leadership is over, or has to be taken for over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Lost {
    /// The lease was not renewed in time, or not known to be: the coordinator was out of reach, or this process was paused.
    #[error("the lease can no longer be known to be alive")]
    Expired,
    /// The coordinator says that the term is over: the lease was revoked, the key deleted, or another candidate leads.
    #[error("the coordinator has ended this term")]
    Ended,
    /// A gate has refused the token: somebody with a higher one has claimed the fence.
    #[error("you've been replaced: the gate has admitted a higher token")]
    Replaced,
    /// It was given up.
    #[error("the leadership was resigned")]
    Resigned,
}

/// A lease as its holder may count on it.
///
/// **Invariant.** While [`Lease::check`] says that it is alive, the coordinator has not let it run out, as long as both clocks
/// run at the same speed to within 1% each: it is counted from before its renewal was sent, which is before the coordinator
/// began to count. And once it was not known to be alive, it never is again: what was done meanwhile in the belief that it is
/// over stays right.
#[derive(Debug, Clone)]
pub struct Lease {
    until: Duration,
    lost: Option<Lost>,
}

impl Lease {
    /// A lease of the length `granted`, whose renewal was sent at the time `sent`.
    pub fn new(sent: Duration, granted: Duration) -> Lease {
        Lease { until: counted_until(sent, granted), lost: None }
    }

    /// Whether it is known to be alive now.
    ///
    /// # Errors
    /// [`Lost`], from then on for good.
    pub fn check(&mut self, now: Duration) -> Result<(), Lost> {
        if self.lost.is_none() && now >= self.until {
            self.lost = Some(Lost::Expired);
        }
        self.lost.map_or(Ok(()), Err)
    }

    /// A renewal that was sent at the time `sent` has succeeded.
    ///
    /// # Errors
    /// [`Lost`] where it comes too late to be counted.
    pub fn renewed(&mut self, sent: Duration, granted: Duration, now: Duration) -> Result<(), Lost> {
        self.check(now)?;
        self.until = self.until.max(counted_until(sent, granted));
        self.check(now)
    }

    /// It is over for this reason, unless it was over before.
    pub fn end(&mut self, why: Lost) -> Lost {
        *self.lost.get_or_insert(why)
    }

    /// How long it is still known to be alive; nothing where it isn't.
    pub fn left(&mut self, now: Duration) -> Duration {
        match self.check(now) {
            Ok(()) => self.until.saturating_sub(now),
            Err(_) => Duration::ZERO,
        }
    }
}

fn counted_until(sent: Duration, granted: Duration) -> Duration {
    sent.saturating_add(granted / 100 * COUNTED_ON_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_counts_from_when_the_renewal_was_sent() {
        let mut lease = Lease::new(s(100), s(10));
        assert_eq!(lease.left(s(105)), s(5) - Duration::from_millis(200));
        assert_eq!(lease.renewed(s(103), s(10), s(106)), Ok(()));
        assert_eq!(lease.check(s(112)), Ok(()));
        assert_eq!(lease.check(s(113)), Err(Lost::Expired));
    }

    #[test]
    fn what_was_lost_never_lives_again() {
        let mut lease = Lease::new(s(100), s(10));
        assert_eq!(lease.renewed(s(109), s(10), s(110)), Err(Lost::Expired), "the answer came too late to count");
        assert_eq!(lease.renewed(s(110), s(10), s(110)), Err(Lost::Expired));
        assert_eq!(lease.end(Lost::Resigned), Lost::Expired, "the first reason stays");
        assert_eq!(lease.left(s(101)), s(0));
    }

    #[test]
    fn an_older_renewal_takes_nothing_away() {
        let mut lease = Lease::new(s(100), s(10));
        lease.renewed(s(105), s(10), s(106)).unwrap();
        lease.renewed(s(101), s(10), s(107)).unwrap();
        assert_eq!(lease.check(s(114)), Ok(()));
    }
}
