//! Medians, how far rounds lie apart, and what a median is known to.

/// What several rounds have given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest.
    pub min: f64,
    /// The highest.
    pub max: f64,
}

impl Spread {
    /// Of these values; `None` where there is none.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let sorted = sorted(values);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        Some(Spread { median: median(&sorted), min, max })
    }

    /// How far the farthest is from the median, as a part of it.
    pub fn relative(&self) -> f64 {
        (self.max - self.median).max(self.median - self.min) / self.median
    }
}

/// A range that the median of all rounds that could have been run lies in, as far as those that were run tell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The median of those that were run.
    pub median: f64,
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// How sure that is, from 0 to 1.
    pub confidence: f64,
}

/// How sure a range has to be.
const CONFIDENCE: f64 = 0.9;

impl Interval {
    /// The narrowest pair of values, the same number of values outside it at each end, between which the median lies with a
    /// confidence of 90%; the lowest and the highest where there are too few values for that (fewer than five).
    ///
    /// It takes nothing for granted of how values are spread: of `n`, `k` are below the true median with the chance of `k`
    /// heads in `n` throws of a coin. (The sign test's interval; W. J. Conover, Practical Nonparametric Statistics, section 3.2.)
    pub fn of(values: &[f64]) -> Option<Interval> {
        let sorted = sorted(values);
        let count = sorted.len();
        let confidence = |outside: usize| 1.0 - 2.0 * (0..=outside).map(|k| heads(count, k)).sum::<f64>();
        let widest = sorted.first().map(|_| 0)?;
        let outside = (0..count.div_ceil(2)).rev().find(|outside| confidence(*outside) >= CONFIDENCE).unwrap_or(widest);
        Some(Interval {
            median: median(&sorted),
            low: sorted[outside],
            high: sorted[count - 1 - outside],
            confidence: confidence(outside).max(0.0),
        })
    }

    /// Whether there were rounds enough for it to mean something.
    pub fn is_sure(&self) -> bool {
        self.confidence >= CONFIDENCE
    }

    /// How far its farther end is from the median.
    pub fn plus_minus(&self) -> f64 {
        (self.high - self.median).max(self.median - self.low)
    }

    /// Whether a value lies inside.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// The chance of `k` heads in `n` throws.
fn heads(n: usize, k: usize) -> f64 {
    (0..k)
        .fold(0.5_f64.powi(i32::try_from(n).unwrap_or(i32::MAX)), |chance, i| chance * (n - i) as f64 / (i + 1) as f64)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(sorted: &[f64]) -> f64 {
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread { median: 3.0, min: 3.0, max: 3.0 }));
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert!((spread.relative() - 0.6).abs() < 1e-9);
    }

    #[test]
    fn what_a_median_is_known_to() {
        let of = |count: u32| Interval::of(&(1..=count).map(f64::from).collect::<Vec<_>>()).unwrap();
        assert!(!of(4).is_sure() && of(5).is_sure());
        assert_eq!((of(5).low, of(5).high, of(5).confidence), (1.0, 5.0, 0.9375));
        assert_eq!((of(7).low, of(7).high), (1.0, 7.0));
        assert_eq!((of(8).low, of(8).high), (2.0, 7.0));
        // Tables of the sign test: of 20 values the sixth and the fifteenth, with 95.9%.
        assert_eq!((of(20).low, of(20).high), (6.0, 15.0));
        assert!((of(20).confidence - 0.9586).abs() < 1e-4);
        assert!(of(5).contains(1.0) && !of(5).contains(0.9) && (of(5).plus_minus() - 2.0).abs() < 1e-9);
    }

    /// The promise of the interval, held against values of which the median is known.
    #[test]
    fn the_interval_holds_the_median_as_often_as_it_says() {
        // A generator of pseudo-random numbers, by G. Marsaglia (xorshift64).
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let trials = 20_000;
        let mut held = 0;
        for _ in 0..trials {
            // Skewed: the logarithm of a uniform number. Its median is the logarithm of 2.
            let values: Vec<f64> = (0..7).map(|_| -uniform().ln()).collect();
            held += usize::from(Interval::of(&values).unwrap().contains(2_f64.ln()));
        }
        let share = held as f64 / trials as f64;
        assert!((share - of_seven()).abs() < 0.005, "{share}");
    }

    fn of_seven() -> f64 {
        1.0 - 2.0 / 128.0
    }
}
