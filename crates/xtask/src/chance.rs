//! Random numbers from a seed: SplitMix64, which is enough for choosing moments, sizes and ports.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

/// A stream of random numbers; the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The numbers of `seed`.
    pub(crate) fn of(seed: u64) -> Chance {
        Chance(seed)
    }

    /// A seed that nobody chose.
    pub(crate) fn any_seed() -> u64 {
        // The standard library's hash keys are the system's randomness. Short, as a person may retype it.
        RandomState::new().build_hasher().finish() % 1_000_000_000
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
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
