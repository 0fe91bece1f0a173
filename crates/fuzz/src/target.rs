//! What a target is: a function over bytes, what its inputs begin with, and what it may allocate.

use std::fmt::{self, Display, Write};
use std::hash::{BuildHasher, Hash, Hasher};

use crate::golden::Golden;

/// One decoder under its laws.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name on the command line and in the names of regression files.
    pub name: &'static str,
    /// Decodes, and asserts the laws: a panic is a finding.
    pub run: fn(&[u8]) -> Outcome,
    /// Real inputs.
    pub seeds: fn(&Golden) -> Vec<Vec<u8>>,
    /// How much memory it may hold at once.
    pub bound: Bound,
}

impl Target {
    /// The target with this name.
    pub fn named(name: &str) -> Option<&'static Target> {
        crate::TARGETS.iter().find(|target| target.name == name)
    }
}

/// Most bytes that a target may hold at once: what its decoder allocates, and what the laws need to compare.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Whatever the input.
    pub base: usize,
    /// For each byte of the input.
    pub per_byte: usize,
}

impl Bound {
    /// The bound for an input of this length.
    pub fn of(self, input_bytes: usize) -> usize {
        self.base + self.per_byte * input_bytes
    }
}

/// What became of an input, as a class: an input of a class not seen before is kept to go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// Whether the decoder took it.
    pub accepted: bool,
    /// Which way it went.
    pub class: u64,
}

impl Outcome {
    /// The decoder took the input; `class` tells kinds of inputs apart, such as the number of parts read.
    pub fn accepted(class: impl Hash) -> Outcome {
        Outcome { accepted: true, class: hash(class) }
    }

    /// The decoder refused the input. What it says is the class, its numbers left out.
    pub fn refused(why: impl Display) -> Outcome {
        let mut words = Words(FIXED.build_hasher());
        let _ = write!(words, "{why}");
        Outcome { accepted: false, class: words.0.finish() }
    }

    /// A [`Outcome::accepted`] or [`Outcome::refused`].
    pub fn of<T, E: Display>(result: &Result<T, E>, class: impl FnOnce(&T) -> u64) -> Outcome {
        match result {
            Ok(value) => Outcome::accepted(class(value)),
            Err(error) => Outcome::refused(error),
        }
    }

    /// A number as one of few: its magnitude in bits.
    pub fn magnitude(number: usize) -> u64 {
        u64::from(usize::BITS - number.leading_zeros())
    }
}

/// The same in every run, so that a seed repeats what it did.
const FIXED: foldhash::fast::FixedState = foldhash::fast::FixedState::with_seed(0);

fn hash(class: impl Hash) -> u64 {
    FIXED.hash_one(class)
}

/// Hashes a text without its digits, and without keeping it.
struct Words<H>(H);

impl<H: Hasher> Write for Words<H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes().iter().filter(|byte| byte.is_ascii_alphabetic()) {
            self.0.write_u8(byte);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_differ_in_numbers_only_are_one_class() {
        let refused = |text: &str| Outcome::refused(text);
        assert_eq!(refused("ends at 7"), refused("ends at 12"));
        assert_ne!(refused("ends at 7"), refused("begins at 7"));
        assert_ne!(Outcome::accepted(1u64), Outcome::accepted(2u64));
    }

    #[test]
    fn names_are_unique() {
        for (index, target) in crate::TARGETS.iter().enumerate() {
            assert!(crate::TARGETS[..index].iter().all(|other| other.name != target.name), "{}", target.name);
        }
    }
}
