//! What is known of one block of the log: how many of its bytes are covered, their CRC-32, and the exclusive or of
//! their words.
//!
//! A single flipped bit changes the CRC in a way that tells which bit it was, and must change the same bit of the words'
//! sum: so it is not only found but undone. Damage of another kind is taken for a flipped bit once in 2^47 cases.

use super::BLOCK_BYTES;

/// Bytes of a sum on disk.
pub(super) const SUM_BYTES: usize = 16;

/// What is known of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    covered: u32,
    crc: u32,
    words: u32,
}

/// What stands at a sum's place in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing: the block has none.
    None,
    /// A sum.
    Sum(Sum),
    /// Something else.
    Damaged,
}

/// A bit that is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flipped {
    /// Which byte of the block.
    pub byte: usize,
    /// The bit as a mask.
    pub mask: u8,
}

impl Flipped {
    /// Turns the bit back.
    pub fn undo(self, block: &mut [u8]) {
        block[self.byte] ^= self.mask;
    }
}

impl Sum {
    /// The sum of a block's beginning.
    pub fn of(bytes: &[u8]) -> Sum {
        Sum { covered: bytes.len() as u32, crc: crc32fast::hash(bytes), words: words(bytes) }
    }

    /// Bytes of the block, from its start, that it covers.
    pub fn covered(&self) -> usize {
        self.covered as usize
    }

    /// Whether the block that begins with `block` is as it was written.
    pub fn matches(&self, block: &[u8]) -> bool {
        block.get(..self.covered()).is_some_and(|block| crc32fast::hash(block) == self.crc)
    }

    /// The one bit that is wrong in `block`, if a single bit is.
    pub fn flipped(&self, block: &[u8]) -> Option<Flipped> {
        let block = block.get(..self.covered())?;
        let (crc, words) = (crc32fast::hash(block) ^ self.crc, words(block) ^ self.words);
        if words.count_ones() != 1 {
            return None;
        }
        let (lane, mask) = (words.trailing_zeros() as usize / 8, 1u8 << (words.trailing_zeros() % 8));
        // What a wrong bit in the last byte does to the CRC; each byte behind it shifts that on.
        let mut effect = shifted(u32::from(mask));
        for byte in (0..block.len()).rev() {
            if effect == crc && byte % 4 == lane {
                return Some(Flipped { byte, mask });
            }
            effect = shifted(effect);
        }
        None
    }

    /// On disk: covered bytes, CRC, words, and a CRC of these and of the block's position.
    pub fn encode(&self, block: i64) -> [u8; SUM_BYTES] {
        let mut bytes = [0; SUM_BYTES];
        bytes[..4].copy_from_slice(&self.covered.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.crc.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.words.to_be_bytes());
        let check = check(&bytes, block);
        bytes[12..].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    /// Reads what stands at the place of the block at `block`.
    pub fn decode(bytes: &[u8; SUM_BYTES], block: i64) -> Stored {
        if *bytes == [0; SUM_BYTES] {
            return Stored::None;
        }
        let field = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let sum = Sum { covered: field(0), crc: field(4), words: field(8) };
        let valid = (1..=BLOCK_BYTES as u32).contains(&sum.covered) && field(12) == check(bytes, block);
        if valid { Stored::Sum(sum) } else { Stored::Damaged }
    }
}

fn check(bytes: &[u8; SUM_BYTES], block: i64) -> u32 {
    let mut checked = [0; 20];
    checked[..12].copy_from_slice(&bytes[..12]);
    checked[12..].copy_from_slice(&block.to_be_bytes());
    crc32fast::hash(&checked)
}

/// The exclusive or of all words of 4 bytes, the last filled up with zeros.
fn words(bytes: &[u8]) -> u32 {
    let (chunks, rest) = bytes.as_chunks::<64>();
    let mut lanes = [0u32; 16];
    for chunk in chunks {
        let (chunk, _) = chunk.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane ^= u32::from_le_bytes(*word);
        }
    }
    let rest = rest.iter().zip(0u32..).fold(0, |sum, (byte, at)| sum ^ (u32::from(*byte) << (8 * (at % 4))));
    lanes.iter().fold(rest, |sum, lane| sum ^ lane)
}

/// A difference between two CRCs after one more byte, equal in both.
fn shifted(difference: u32) -> u32 {
    const POLYNOMIAL: u32 = 0xEDB8_8320;
    (0..8).fold(difference, |d, _| if d & 1 == 0 { d >> 1 } else { (d >> 1) ^ POLYNOMIAL })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 31 + n / 251) as u8).collect()
    }

    #[test]
    fn every_single_flipped_bit_is_found_and_undone() {
        for length in [1, 2, 3, 4, 5, 91, 1000, 4096] {
            let block = bytes(length);
            let sum = Sum::of(&block);
            assert!(sum.matches(&block) && sum.flipped(&block).is_none());
            for byte in (0..length).step_by(1 + length / 97) {
                for bit in 0..8 {
                    let mut damaged = block.clone();
                    damaged[byte] ^= 1 << bit;
                    assert!(!sum.matches(&damaged));
                    sum.flipped(&damaged).expect("one bit is found").undo(&mut damaged);
                    assert_eq!(damaged, block, "byte {byte}, bit {bit} of {length}");
                }
            }
        }
    }

    #[test]
    fn other_damage_is_not_taken_for_a_flipped_bit() {
        let block = bytes(4096);
        let sum = Sum::of(&block);
        for seed in 0..2000usize {
            let mut damaged = block.clone();
            let from = seed * 37 % 4000;
            let until = from + 2 + seed % 90;
            damaged[from..until].iter_mut().for_each(|byte| *byte = !*byte ^ (seed % 255) as u8);
            assert!(!sum.matches(&damaged) && sum.flipped(&damaged).is_none(), "{from}..{until}");
        }
    }

    #[test]
    fn a_flipped_bit_in_a_stored_sum_is_found() {
        let sum = Sum::of(&bytes(300));
        let stored = sum.encode(8192);
        assert_eq!(Sum::decode(&stored, 8192), Stored::Sum(sum));
        assert_eq!(Sum::decode(&stored, 4096), Stored::Damaged, "a sum belongs to its block");
        assert_eq!(Sum::decode(&[0; SUM_BYTES], 0), Stored::None);
        for bit in 0..SUM_BYTES * 8 {
            let mut damaged = stored;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Sum::decode(&damaged, 8192), Stored::Damaged, "bit {bit}");
        }
    }
}
