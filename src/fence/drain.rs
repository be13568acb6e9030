//! One fence of a resource that can't check by itself: guarantee *drained*.
//!
//! Such a resource only gets writes forwarded, and applies each at some moment between the first byte and the end of its answer. So
//! an advance is more than a comparison: the mark is made durable, no older write starts, those in flight finish or are cut off,
//! what may still be applied behind the gate's back is waited for (*quarantine*), and only then the first newer write goes.
//!
//! This is the whole of that as a state machine. It has no clock, no store and no tasks: it is told the time, says what has to be
//! stored, and is told how that went. The gate runs it behind one lock a fence; the model checker runs the same code.

use super::{FenceName, Holder, Mark, Refusal, Token, Verdict};

/// A moment on a clock that never goes back, in milliseconds from whatever beginning its owner chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment so many milliseconds later.
    #[must_use]
    pub fn after_ms(self, ms: u64) -> Moment {
        Moment(self.0.saturating_add(ms))
    }
}

/// What is done about a write whose outcome isn't known, when a newer one wants to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnUnknown {
    /// Newer tokens wait for [`Policy::settle_ms`].
    #[default]
    Wait,
    /// Newer tokens wait until an operator releases the fence.
    Hold,
    /// Newer tokens go on at once; an older write may be applied after them.
    Proceed,
}

impl OnUnknown {
    /// The word for configuration and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            OnUnknown::Wait => "wait",
            OnUnknown::Hold => "hold",
            OnUnknown::Proceed => "proceed",
        }
    }
}

/// How a fence is run. The same for all fences of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Policy {
    /// How long older writes in flight may take to finish after an advance, in milliseconds.
    pub drain_ms: u64,
    /// How long a write of unknown outcome keeps newer tokens waiting, in milliseconds.
    pub settle_ms: u64,
    /// What a write of unknown outcome does to newer tokens.
    pub on_unknown: OnUnknown,
    /// Whether the rule is enforced. False lets everything through: for rehearsals, for measuring, and for tests that must see
    /// the damage. Where it becomes true after a restart, older writes that went before it did are not all waited for: *settled*
    /// may have been stored while they were in flight.
    pub enforce: bool,
}

/// Why newer tokens have to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Quarantine {
    #[default]
    None,
    Until(Moment),
    Held,
}

/// What waits for the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Pending {
    /// A higher token, or the mark's own bound to its first named holder.
    Raise(Mark),
    /// An operator's reset.
    Reset(Option<Mark>),
}

/// How many passes a fence has given, for people. It decides nothing, so that two fences which differ in nothing else are the same.
#[derive(Debug, Clone, Copy, Default)]
struct Passes(u32);

impl PartialEq for Passes {
    fn eq(&self, _: &Passes) -> bool {
        true
    }
}

impl Eq for Passes {}

impl std::hash::Hash for Passes {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {
        // As equality: nothing tells one from another.
    }
}

/// The state of one fence.
///
/// **Invariant.** A write gets its pass only while its token is the durable mark's, no store is under way, and nothing that was
/// admitted in an earlier term can still be applied: none of it is in flight, and no quarantine is on that could be about it. Once
/// the advance has completed, no quarantine can: the mark's own token goes on through one. A write with a pass may be forwarded later,
/// after a newer mark is durable even: until it has come back with [`DrainedFence::finish`], nothing newer gets a pass.
///
/// **Invariant.** No leader waits longer than `drain` and `settle` after its mark is durable, or `settle` after a start, provided that
/// writes in flight end when [`DrainedFence::ends_at`] says so, and unless newer tokens are held for an operator. Tokens that rise
/// meanwhile give nobody more time, since those that wait have nothing in flight.
///
/// **Invariant.** The mark in here is durable: it changes only in [`DrainedFence::stored`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DrainedFence {
    mark: Option<Mark>,
    /// `None` where it would be `Rare::default()`: there may be millions of fences, and most of them are at rest.
    rare: Option<Box<Rare>>,
    /// Counts advances and resets. A pass is of the term in which it was given.
    term: u32,
    /// Writes in flight that were given a pass in this term.
    current: u32,
    /// Whether the advance to the mark has completed: nothing older can be applied any more.
    is_settled: bool,
    passes: Passes,
}

/// What a fence at rest has nothing of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Rare {
    pending: Option<Pending>,
    /// Writes in flight of earlier terms.
    older: u32,
    /// Until when older writes in flight may finish. 0 while there are none.
    drain_until: Moment,
    quarantine: Quarantine,
}

/// What a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To change the resource.
    Write,
    /// To read, or only to claim: nothing of it is ever waited for.
    Read,
}

/// The right to forward one write. It has to be given back with [`DrainedFence::finish`], whatever becomes of the write.
#[derive(Debug, PartialEq, Eq, Hash)]
#[cfg_attr(test, derive(Clone))]
#[must_use]
pub struct Pass {
    term: u32,
}

/// How a forwarded write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The whole answer came, or it is certain that nothing was sent: the resource will not apply it later than now.
    Known,
    /// It was cut off, or its connection broke before the whole answer came: it may be applied later.
    Unknown,
}

/// What the fence says to a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Forward it. The pass is there for [`Purpose::Write`] only.
    Go(Option<Pass>),
    /// The claim is refused.
    Refused(Refusal),
    /// Make this durable, then call [`DrainedFence::stored`] or [`DrainedFence::not_stored`], then ask again. Nothing else is
    /// stored for this fence meanwhile. One of the two has to be called even if whoever asked has gone away: until then, everybody
    /// else waits.
    Store(Store),
    /// Ask again when [`Woken`] says so, at this moment at the latest.
    Wait(Option<Moment>),
    /// Older writes may still be applied until this moment (`None`: until an operator says otherwise). Nothing was forwarded.
    Quarantined(Option<Moment>),
}

/// What has to be made durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The mark before.
    pub before: Option<Mark>,
    /// The mark after; `None` only for an operator's reset.
    pub after: Option<Mark>,
    /// Whether the advance is complete with the mark being durable: nothing older is in flight, and no quarantine is on. To be
    /// stored in one transaction with the mark.
    pub is_settled: bool,
}

impl Store {
    /// Whether the token rises; otherwise it is only bound to its first named holder.
    pub fn advances(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => before.token < after.token,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }
}

/// Whether those who wait have to ask again, and those in flight to look at [`DrainedFence::ends_at`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Woken {
    /// Nothing changed for them.
    Nobody,
    /// Something did.
    Everybody,
}

/// Why a fence is not free for newer tokens, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// It is free.
    No,
    /// Quarantined until this moment.
    Until(Moment),
    /// Quarantined until an operator releases it.
    Held,
}

impl DrainedFence {
    /// A fence as it comes out of the store. `is_settled` as it was stored; `was_dirty`: [`DrainedFence::is_dirty`] was true, or
    /// may have been, when the gate last ran. Then a quarantine counts from now.
    pub fn restored(
        mark: Option<Mark>,
        is_settled: bool,
        was_dirty: bool,
        now: Moment,
        policy: &Policy,
    ) -> DrainedFence {
        let mut fence = DrainedFence { mark, rare: None, term: 0, current: 0, is_settled, passes: Passes(0) };
        if was_dirty {
            fence.quarantine(now, policy);
        }
        fence.settle(now);
        fence
    }

    fn is_pending(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.pending.is_some())
    }

    fn older(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.older)
    }

    fn drain_until(&self) -> Moment {
        self.rare.as_ref().map_or(Moment(0), |rare| rare.drain_until)
    }

    fn quarantine_on(&self) -> Quarantine {
        self.rare.as_ref().map_or(Quarantine::None, |rare| rare.quarantine)
    }

    /// Changes what is rare, and keeps none of it where nothing is left.
    fn change<R>(&mut self, change: impl FnOnce(&mut Rare) -> R) -> R {
        let mut rare = self.rare.take().unwrap_or_default();
        let result = change(&mut rare);
        if rare.older == 0 {
            rare.drain_until = Moment(0);
        }
        self.rare = Some(rare).filter(|rare| **rare != Rare::default());
        result
    }

    /// The mark. It is durable.
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// Writes in flight.
    pub fn in_flight(&self) -> u64 {
        u64::from(self.current) + u64::from(self.older())
    }

    /// Writes that were let through since the start, for people: it begins anew after 2^32.
    pub fn passes(&self) -> u32 {
        self.passes.0
    }

    /// Whether the advance to the mark has completed.
    ///
    /// Where it became true after the mark was stored, it may be stored by itself, at any later time or never; without it, a start after
    /// an unclean stop quarantines the mark's own token too. It has to be stored in order with the marks of this fence: one that
    /// comes after a reset would speak of another term, even where the mark is the same again.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Whether newer tokens have to wait, and for what.
    pub fn blocked(&self, now: Moment) -> Blocked {
        match self.quarantine_on() {
            Quarantine::Until(until) if now < until => Blocked::Until(until),
            Quarantine::None | Quarantine::Until(_) => Blocked::No,
            Quarantine::Held => Blocked::Held,
        }
    }

    /// Whether something may be applied that the gate doesn't know the end of: what has to be known after a crash. It must be
    /// recorded before a write that made it true is forwarded. That it is false again may be recorded later, if it is still false then:
    /// look and record under the lock under which passes are given. A start leaves what was recorded as it is, or records
    /// anew what it had to assume, before anything is forwarded: it may be killed as well.
    pub fn is_dirty(&self) -> bool {
        self.in_flight() > 0 || self.quarantine_on() != Quarantine::None
    }

    /// What becomes of a request that presents this token.
    pub fn ask(
        &mut self,
        name: &FenceName,
        token: Token,
        holder: Option<&Holder>,
        purpose: Purpose,
        now: Moment,
        policy: &Policy,
    ) -> Asked {
        let verdict = Mark::judge(self.mark.as_ref(), token, holder);
        match verdict {
            Verdict::Stale | Verdict::Conflict if policy.enforce => self.refuse(verdict, name, token, holder),
            Verdict::Stale | Verdict::Conflict | Verdict::Unissued => self.go(purpose),
            // The door is closed while a mark is stored: what is in flight then is all that has to finish before it.
            Verdict::Admitted | Verdict::Advanced if self.is_pending() => Asked::Wait(None),
            Verdict::Advanced => self.begin_raise(token, holder, now),
            Verdict::Admitted if self.mark.as_ref().is_some_and(|mark| mark.holder.is_none()) && holder.is_some() => {
                self.begin_raise(token, holder, now)
            }
            Verdict::Admitted => self.enter(purpose, now, policy),
        }
    }

    fn refuse(&self, verdict: Verdict, name: &FenceName, token: Token, holder: Option<&Holder>) -> Asked {
        Asked::Refused(Refusal {
            verdict,
            fence: name.clone(),
            presented: token,
            holder: holder.cloned(),
            highest: self.mark.clone().expect("only a mark can refuse: without one, judge says advanced"),
        })
    }

    fn begin_raise(&mut self, token: Token, holder: Option<&Holder>, now: Moment) -> Asked {
        let after = Mark { token, holder: holder.cloned() };
        let advances = self.mark.as_ref().is_none_or(|mark| mark.token < token);
        let is_settled =
            if advances { self.in_flight() == 0 && self.blocked(now) == Blocked::No } else { self.is_settled };
        self.change(|rare| rare.pending = Some(Pending::Raise(after.clone())));
        Asked::Store(Store { before: self.mark.clone(), after: Some(after), is_settled })
    }

    /// The token is the mark's.
    fn enter(&mut self, purpose: Purpose, now: Moment, policy: &Policy) -> Asked {
        self.settle(now);
        if self.is_settled || !policy.enforce {
            return self.go(purpose);
        }
        match self.blocked(now) {
            Blocked::Until(until) => Asked::Quarantined(Some(until)),
            Blocked::Held => Asked::Quarantined(None),
            // Those overdue cut themselves off at that moment, and say so with `finish`.
            Blocked::No => Asked::Wait(Some(self.drain_until()).filter(|until| now < *until)),
        }
    }

    fn go(&mut self, purpose: Purpose) -> Asked {
        match purpose {
            Purpose::Read => Asked::Go(None),
            Purpose::Write => {
                self.current += 1;
                self.passes.0 = self.passes.0.wrapping_add(1);
                Asked::Go(Some(Pass { term: self.term }))
            }
        }
    }

    /// An operator sets the mark. `None`: a store is under way; ask again when it is done.
    pub fn reset(&mut self, to: Option<Mark>, now: Moment) -> Option<Store> {
        if self.is_pending() {
            return None;
        }
        let is_settled = self.in_flight() == 0 && self.blocked(now) == Blocked::No;
        self.change(|rare| rare.pending = Some(Pending::Reset(to.clone())));
        Some(Store { before: self.mark.clone(), after: to, is_settled })
    }

    /// What was to be stored is durable.
    pub fn stored(&mut self, now: Moment, policy: &Policy) -> Woken {
        let Some(pending) = self.change(|rare| rare.pending.take()) else { return Woken::Nobody };
        let (after, is_new_term) = match pending {
            Pending::Raise(mark) => {
                let advances = self.mark.as_ref().is_none_or(|before| before.token < mark.token);
                (Some(mark), advances)
            }
            Pending::Reset(mark) => (mark, true),
        };
        self.mark = after;
        if is_new_term {
            // Those older than the term before have had their time already: a second advance doesn't give them more.
            let older = std::mem::take(&mut self.current);
            self.change(|rare| {
                if rare.older == 0 {
                    rare.drain_until = now.after_ms(policy.drain_ms);
                }
                rare.older += older;
            });
            self.term = self.term.wrapping_add(1);
            self.is_settled = false;
            self.settle(now);
        }
        Woken::Everybody
    }

    /// What was to be stored is surely not, and never will be: nothing has changed, and the door is open again. Where a commit failed
    /// and may have taken effect all the same, look what is stored first: the old mark's writes would go on beside a newer mark that is
    /// stored as settled.
    pub fn not_stored(&mut self) -> Woken {
        self.change(|rare| rare.pending = None);
        Woken::Everybody
    }

    /// By when a write in flight has to end; `None` while it may go on.
    pub fn ends_at(&self, pass: &Pass) -> Option<Moment> {
        (pass.term != self.term).then(|| self.drain_until())
    }

    /// A write has ended. For one that was cut off: after the last byte that can go out for it has gone out, and with a time that was
    /// read after that.
    #[expect(clippy::needless_pass_by_value, reason = "a pass comes back once")]
    pub fn finish(&mut self, pass: Pass, outcome: Outcome, now: Moment, policy: &Policy) -> Woken {
        let one_less = |count: u32| count.checked_sub(1).expect("a pass is given once and comes back once");
        match pass.term == self.term {
            true => self.current = one_less(self.current),
            false => self.change(|rare| rare.older = one_less(rare.older)),
        }
        let is_unknown = outcome == Outcome::Unknown && policy.on_unknown != OnUnknown::Proceed;
        if is_unknown {
            self.quarantine(now, policy);
        }
        if !self.is_settled && self.older() == 0 {
            self.settle(now);
            // Either newer writes may go, or they needn't wait for their answer that they may not.
            return Woken::Everybody;
        }
        Woken::Nobody
    }

    fn quarantine(&mut self, now: Moment, policy: &Policy) {
        let quarantine = match (policy.on_unknown, self.quarantine_on()) {
            (OnUnknown::Proceed, before) => before,
            (OnUnknown::Hold, _) | (OnUnknown::Wait, Quarantine::Held) => Quarantine::Held,
            (OnUnknown::Wait, Quarantine::None) => Quarantine::Until(now.after_ms(policy.settle_ms)),
            (OnUnknown::Wait, Quarantine::Until(until)) => Quarantine::Until(until.max(now.after_ms(policy.settle_ms))),
        };
        self.change(|rare| rare.quarantine = quarantine);
    }

    fn settle(&mut self, now: Moment) {
        if self.blocked(now) == Blocked::No {
            if self.quarantine_on() != Quarantine::None {
                self.change(|rare| rare.quarantine = Quarantine::None);
            }
            if self.older() == 0 {
                self.is_settled = true;
            }
        }
    }

    /// Looks whether a quarantine has run out. True where it is this call that noticed: all others that are told the time may notice
    /// too, and [`DrainedFence::is_dirty`] may be false afterwards.
    pub fn tick(&mut self, now: Moment) -> bool {
        let was_on = self.quarantine_on() != Quarantine::None;
        self.settle(now);
        was_on && self.quarantine_on() == Quarantine::None
    }

    /// An operator ends the quarantine. True where there was one.
    pub fn release(&mut self, now: Moment) -> bool {
        let was_on = self.blocked(now) != Blocked::No;
        self.change(|rare| rare.quarantine = Quarantine::None);
        self.settle(now);
        was_on
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod plain;
#[cfg(test)]
mod tests;
