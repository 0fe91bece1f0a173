//! What happened, as numbers: the last events to show with a failure, and a hash of all to compare two runs by.

use std::collections::VecDeque;
use std::fmt::Write;

/// Events that a failure shows: of the network, and of everything else.
const SHOWN_MAX: [usize; 2] = [24, 60];

/// An event: its number, when, what, and up to four numbers.
type Note = (u64, u64, &'static str, [i64; 4]);

/// The trace of a run.
#[derive(Debug)]
pub struct Trace {
    last: [VecDeque<Note>; 2],
    hash: u64,
    count: u64,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace { last: Default::default(), hash: 0xCBF2_9CE4_8422_2325, count: 0 }
    }
}

impl Trace {
    /// Notes an event of time `now`, µs.
    pub fn note<const N: usize>(&mut self, now: u64, what: &'static str, numbers: [i64; N]) {
        self.add(1, now, what, numbers);
    }

    /// Notes bytes that the network brought, of which there are many.
    pub fn note_bytes<const N: usize>(&mut self, now: u64, what: &'static str, numbers: [i64; N]) {
        self.add(0, now, what, numbers);
    }

    fn add<const N: usize>(&mut self, kind: usize, now: u64, what: &'static str, numbers: [i64; N]) {
        let mut four = [0; 4];
        four[..N].copy_from_slice(&numbers);
        self.mix(now);
        what.bytes().for_each(|byte| self.mix(u64::from(byte)));
        four.iter().for_each(|number| self.mix(number.cast_unsigned()));
        self.count += 1;
        let last = &mut self.last[kind];
        if last.len() == SHOWN_MAX[kind] {
            last.pop_front();
        }
        last.push_back((self.count, now, what, four));
    }

    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
    }

    /// The same for two runs in which the same happened.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last events, one a line.
    pub fn last(&self) -> String {
        let mut text = String::new();
        let mut notes: Vec<&Note> = self.last.iter().flatten().collect();
        notes.sort_unstable();
        for (_, now, what, numbers) in notes {
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            // Writing to a string does not fail.
            let _ = writeln!(text, "  {seconds:>4}.{micros:06} {what} {numbers:?}");
        }
        text
    }
}
