//! Searching short texts for certain bytes, eight at a time: calling a search function for each text costs more than
//! searching it.
//!
//! What is sought is marked in a whole word, by setting the highest bit of each byte that is such a one. Marks behind
//! the first one may be wrong; the first one, and that there is none, never are.

/// Bytes looked at together.
pub(crate) const WORD: usize = 8;
/// A one in each byte.
const ONES: u64 = u64::MAX / 255;

/// Marks the bytes below `limit`, which is 128 at most.
#[inline(always)]
pub(crate) fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word & (ONES << 7)
}

/// Marks the bytes that are `byte`.
#[inline(always)]
pub(crate) fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * u64::from(byte)), 1)
}

/// Where in a word the first byte is that `marks` marks.
#[inline(always)]
pub(crate) fn first(word: &[u8; WORD], marks: impl Fn(u64) -> u64) -> Option<usize> {
    let found = marks(u64::from_le_bytes(*word));
    if found == 0 { None } else { Some(found.trailing_zeros() as usize / 8) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_first_byte_sought_is_found_and_no_other(
            word in proptest::array::uniform8(prop_oneof![0u8..6, 126u8..131, 254u8..=255, any::<u8>()]),
            limit in 0u8..=128, byte in any::<u8>(),
        ) {
            prop_assert_eq!(first(&word, |word| below(word, limit)), word.iter().position(|other| *other < limit));
            for byte in [byte, word[7], 0, 128] {
                prop_assert_eq!(first(&word, |word| equal(word, byte)), word.iter().position(|other| *other == byte));
            }
            let either = |other: &u8| matches!(other, 1 | 128);
            prop_assert_eq!(first(&word, |word| equal(word, 1) | equal(word, 128)), word.iter().position(either));
        }
    }
}
