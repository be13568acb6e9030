//! Pseudo-random numbers that can be repeated.

use std::hash::{BuildHasher, Hasher, RandomState};

#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        // Spread, so that seeds that are close together don't begin alike.
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to one less than `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// Dice of their own for somebody else.
    pub fn split(&mut self) -> Dice {
        Dice::new(self.roll(u64::MAX))
    }

    /// An index into something of this length.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.roll(len as u64)).expect("below a length")
    }
}

/// The seed that this variable says, or any one. Twelve digits are enough, and can be copied by hand.
pub fn seed(variable: &str) -> u64 {
    let given = std::env::var(variable).ok().and_then(|number| number.parse().ok());
    given.unwrap_or_else(|| RandomState::new().build_hasher().finish() % 1_000_000_000_000)
}
