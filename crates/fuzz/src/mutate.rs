//! Changes inputs at random: bits, lengths, words, parts of other inputs.

use cometmq_store::disk::Chance;

/// A stream of random numbers; the same seed gives the same numbers.
#[derive(Clone, Debug)]
pub struct Dice(Chance);

impl Dice {
    /// The numbers of `seed`.
    pub fn of(seed: u64) -> Dice {
        Dice(Chance::of(seed))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0.number()
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // The bias does not matter for limits far below 2^64; a product is cheaper than a remainder.
        ((u128::from(self.roll()) * limit as u128) >> 64) as usize
    }

    /// One of `choices`, which are not empty.
    pub fn one<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// Longest input that is made, in bytes: long enough for every length field to lie.
pub const INPUT_BYTES_MAX: usize = 8 * 1024;

const BYTES: [u8; 20] = *b"\x00\x01\x02\x7f\x80\xff\"{}[],:\\-09 =|";

const WORDS: [&[u8]; 26] = [
    b"\xDA\xA3\x20\xA7",
    b"\xDA\xA3\x20\xAB",
    b"\xCB\xD4\x31\x94",
    b"COMETMQ1",
    b"\"extFields\":{",
    b"\"remark\":",
    b"\"code\":",
    b"\"flag\":1",
    b"\\u0001",
    b"\\uD83D\\uDE00",
    b"\\uD83D",
    b"{0:1}",
    b"{{\"a\":0}:1}",
    b"null",
    b"true",
    b"1e309",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"2147483648",
    b"SINGLE_TAG",
    b"TAGS\x01A\x02",
    b"%RETRY%",
    b"||",
    b"\xF0\x9F\x98\x80",
    b"\xC3\x28",
    b"\\\n",
];

const NUMBERS: [u64; 18] = [
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x00FF_FFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
    0x8000_0000_0000_0000,
    0xFFFF_FFFF_FFFF_FFFF,
    0xFFFF_FFFF_FFFF_FFFE,
    0x0000_0001_0000_0000,
];

/// Changes `input` in one to four places; `other` lends parts.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        change(input, other, dice);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn change(input: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    if input.is_empty() {
        input.extend_from_slice(dice.one(&WORDS));
        return;
    }
    let at = dice.below(input.len());
    match dice.below(14) {
        0 | 1 => input[at] ^= 1 << dice.below(8),
        2 => input[at] = dice.one(&BYTES),
        3 => input[at] = dice.roll() as u8,
        4 | 5 => put_number(input, at, dice),
        6 => add_to_number(input, at, dice),
        7 => drop(input.drain(at..(at + 1 + dice.below(16)).min(input.len()))),
        8 => {
            let part = slice(input, dice).to_vec();
            input.splice(at..at, part);
        }
        9 => {
            input.truncate(at);
            let from = if other.is_empty() { 0 } else { dice.below(other.len()) };
            input.extend_from_slice(&other[from..]);
        }
        10 => {
            input.splice(at..at, slice(other, dice).iter().copied());
        }
        11 => {
            input.splice(at..at, dice.one(&WORDS).iter().copied());
        }
        12 => {
            let word = dice.one(&WORDS);
            let end = (at + word.len()).min(input.len());
            input.splice(at..end, word.iter().copied());
        }
        _ => match dice.below(4) {
            0 => input.truncate(at),
            1 => put_digits(input, at, dice),
            2 => input.insert(at, dice.one(&BYTES)),
            _ => input.push(dice.roll() as u8),
        },
    }
}

/// A part of `bytes`, up to 64 of them.
fn slice<'a>(bytes: &'a [u8], dice: &mut Dice) -> &'a [u8] {
    if bytes.is_empty() {
        return bytes;
    }
    let from = dice.below(bytes.len());
    &bytes[from..(from + 1 + dice.below(64)).min(bytes.len())]
}

/// A number of 1, 2, 4 or 8 bytes: one of those that break things, or a length of what is there.
fn put_number(input: &mut [u8], at: usize, dice: &mut Dice) {
    let number = match dice.below(3) {
        0 => (input.len() as u64).wrapping_add(dice.below(9) as u64).wrapping_sub(4),
        1 => ((input.len() - at) as u64).wrapping_add(dice.below(9) as u64).wrapping_sub(4),
        _ => dice.one(&NUMBERS),
    };
    let width = dice.one(&[1, 2, 4, 4, 8]).min(input.len() - at);
    input[at..at + width].copy_from_slice(&number.to_be_bytes()[8 - width..]);
}

fn add_to_number(input: &mut [u8], at: usize, dice: &mut Dice) {
    let width = dice.one(&[1, 2, 4, 8]).min(input.len() - at);
    let mut bytes = [0; 8];
    bytes[8 - width..].copy_from_slice(&input[at..at + width]);
    let number = u64::from_be_bytes(bytes).wrapping_add(dice.below(65) as u64).wrapping_sub(32);
    input[at..at + width].copy_from_slice(&number.to_be_bytes()[8 - width..]);
}

/// Replaces the digits around `at` by another number, as text.
fn put_digits(input: &mut Vec<u8>, at: usize, dice: &mut Dice) {
    let Some(from) = input[at..].iter().position(u8::is_ascii_digit).map(|found| at + found) else { return };
    let digits = input[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = (dice.one(&NUMBERS) as i64).to_string();
    input.splice(from..from + digits, number.bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_changes_and_inputs_stay_bounded() {
        let (mut first, mut second) = (vec![7; 40], vec![7; 40]);
        let (mut dice, mut again) = (Dice::of(3), Dice::of(3));
        for _ in 0..20_000 {
            mutate(&mut first, b"{\"a\":12}", &mut dice);
            mutate(&mut second, b"{\"a\":12}", &mut again);
            assert_eq!(first, second);
            assert!(first.len() <= INPUT_BYTES_MAX);
        }
    }
}
