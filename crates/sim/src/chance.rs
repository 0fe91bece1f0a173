//! Random numbers from a seed. The same seed gives the same numbers.

use cometmq_store::disk::Chance as Numbers;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Chance(Numbers);

impl Chance {
    /// The numbers of `seed`; neighbouring seeds have nothing in common.
    pub fn of(seed: u64) -> Chance {
        let mixed = Numbers::of(seed ^ 0x5DEE_CE66_D1CE_4E5B).number();
        Chance(Numbers::of(mixed ^ seed.rotate_left(32)))
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0.number()
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }

    /// A number from `from` to `to`, both included.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// Whether something that happens once in `limit` times happens now; never for 0.
    pub fn one_in(&mut self, limit: u64) -> bool {
        limit > 0 && self.below(limit) == 0
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Another order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }
}
