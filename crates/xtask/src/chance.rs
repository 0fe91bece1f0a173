//! Random numbers from a seed: SplitMix64, which is enough for choosing moments, sizes and ports.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use cometmq_store::disk::Chance as Numbers;

/// A stream of random numbers; the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Numbers);

impl Chance {
    /// The numbers of `seed`.
    pub(crate) fn of(seed: u64) -> Chance {
        Chance(Numbers::of(seed))
    }

    /// A seed that nobody chose.
    pub(crate) fn any_seed() -> u64 {
        // The standard library's hash keys are the system's randomness. Short, as a person may retype it.
        RandomState::new().build_hasher().finish() % 1_000_000_000
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0.number()
    }

    /// The next number of a range that is not empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end);
        // The bias of a remainder does not matter for ranges far below 2^64.
        range.start + self.next() % (range.end - range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_ranges_are_kept() {
        let (mut first, mut second) = (Chance::of(7), Chance::of(7));
        for _ in 0..1000 {
            let number = first.within(10..20);
            assert!((10..20).contains(&number));
            assert_eq!(number, second.within(10..20));
        }
        assert_ne!(Chance::of(1).next(), Chance::of(2).next());
    }
}
