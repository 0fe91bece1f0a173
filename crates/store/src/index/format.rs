//! The bytes of an index file: header, slots, entries; and the names of such files. Pure functions.
//!
//! ```text
//! 40 header     8 begin time  8 end time  8 begin offset  8 end offset  4 used slots  4 count
//! 4 × slots     each the number of the newest entry of its slot, 0 for none
//! 20 × entries  each 4 hash  8 log offset  4 seconds since the begin time  4 entry before it in the slot, 0 for none
//! ```
//!
//! Entry 0 is never used, so `count` begins at 1: it is the number of the next entry. Integers are big-endian.

use cometmq_protocol::{LogOffset, Millis};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 40;
/// Bytes of a slot.
pub const SLOT_BYTES: usize = 4;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 20;
/// Digits of a file's name.
const NAME_DIGITS: usize = 17;

/// How many slots and entries a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Slots (`maxHashSlotNum`).
    pub slots: u32,
    /// Entries, the unused one with number 0 included (`maxIndexNum`).
    pub entries: u32,
}

impl Shape {
    /// Bytes of a file.
    pub fn file_bytes(self) -> u64 {
        self.entry_at(self.entries)
    }

    /// The shape of a file of so many bytes that has so many slots; `None` when there is none.
    pub fn of_file(bytes: u64, slots: u32) -> Option<Shape> {
        let entries = bytes.checked_sub(Shape { slots, entries: 0 }.file_bytes())?;
        let shape = Shape { slots, entries: u32::try_from(entries / ENTRY_BYTES as u64).ok()? };
        (entries % ENTRY_BYTES as u64 == 0 && shape.entries > 1).then_some(shape)
    }

    /// The slot of a hash.
    pub fn slot_of(self, hash: u32) -> u32 {
        hash % self.slots
    }

    /// Where a slot stands in the file.
    pub fn slot_at(self, slot: u32) -> u64 {
        HEADER_BYTES as u64 + u64::from(slot) * SLOT_BYTES as u64
    }

    /// Where an entry stands in the file.
    pub fn entry_at(self, number: u32) -> u64 {
        self.slot_at(self.slots) + u64::from(number) * ENTRY_BYTES as u64
    }
}

/// The header of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexHeader {
    /// Store time of the first entry's message.
    pub begin_time: Millis,
    /// Store time of the last entry's message.
    pub end_time: Millis,
    /// Where the first entry's message lies.
    pub begin: LogOffset,
    /// Where the last entry's message lies.
    pub end: LogOffset,
    /// Slots that have an entry.
    pub used_slots: u32,
    /// Number of the next entry; 1 in a file without any.
    pub count: u32,
}

impl IndexHeader {
    /// The header of a new file that follows one which ends so: until it has an entry it begins and ends there.
    pub fn following(end: LogOffset, end_time: Millis) -> IndexHeader {
        IndexHeader { begin_time: end_time, end_time, begin: end, end, used_slots: 0, count: 1 }
    }

    /// On disk.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let longs = [self.begin_time.0, self.end_time.0, self.begin.0, self.end.0];
        for (at, long) in bytes.chunks_exact_mut(8).zip(longs) {
            at.copy_from_slice(&long.to_be_bytes());
        }
        bytes[32..36].copy_from_slice(&self.used_slots.to_be_bytes());
        bytes[36..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// Reads a header. A count that no file of this shape can have is taken for the nearest one.
    pub fn decode(bytes: &[u8; HEADER_BYTES], shape: Shape) -> IndexHeader {
        let long = |n: usize| i64::from_be_bytes(bytes[8 * n..8 * n + 8].try_into().expect("eight bytes"));
        let int = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        IndexHeader {
            begin_time: Millis(long(0)),
            end_time: Millis(long(1)),
            begin: LogOffset(long(2)),
            end: LogOffset(long(3)),
            used_slots: u32::try_from(int(32)).unwrap_or(0),
            count: u32::try_from(int(36)).unwrap_or(0).clamp(1, shape.entries),
        }
    }

    /// What an entry keeps of its message's store time: seconds since the begin time.
    pub fn seconds(&self, stored_at: Millis) -> u32 {
        if self.begin_time.0 <= 0 {
            return 0;
        }
        ((stored_at - self.begin_time) / 1000).clamp(0, i64::from(i32::MAX)) as u32
    }
}

/// An entry: one key of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Hash of topic and key.
    pub hash: u32,
    /// Where the message lies.
    pub offset: LogOffset,
    /// Seconds from the file's begin time to the message's store time.
    pub seconds: u32,
    /// Number of the entry before it in its slot, 0 for none.
    pub previous: u32,
}

impl IndexEntry {
    /// On disk.
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..4].copy_from_slice(&self.hash.to_be_bytes());
        bytes[4..12].copy_from_slice(&self.offset.0.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.seconds.to_be_bytes());
        bytes[16..].copy_from_slice(&self.previous.to_be_bytes());
        bytes
    }

    /// Reads an entry; any bytes are one.
    pub fn decode(bytes: &[u8; ENTRY_BYTES]) -> IndexEntry {
        let int = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let offset = i64::from_be_bytes(bytes[4..12].try_into().expect("eight bytes"));
        IndexEntry { hash: int(0), offset: LogOffset(offset), seconds: int(12), previous: int(16) }
    }
}

/// The name of a file that was made at this local time, `yyyyMMddHHmmssSSS`, as a number.
pub fn name_at(local: Millis) -> i64 {
    let (days, ms) = (local.0.div_euclid(86_400_000), local.0.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let clock = (ms / 3_600_000) * 10_000_000 + (ms / 60_000 % 60) * 100_000 + ms % 60_000;
    ((year * 100 + month) * 100 + day) * 1_000_000_000 + clock
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years counted from March, so that the leap day is their last; eras of 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// A name as it stands in the directory.
pub fn file_name(name: i64) -> String {
    format!("{name:0width$}", width = NAME_DIGITS)
}

/// The number that a file's name is, if it is the name of an index file.
pub fn parse_name(text: &str) -> Option<i64> {
    (text.len() == NAME_DIGITS && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: Shape = Shape { slots: 5_000_000, entries: 20_000_000 };

    #[test]
    fn a_file_of_the_usual_shape_has_the_usual_length() {
        assert_eq!(SHAPE.file_bytes(), 420_000_040);
        assert_eq!(SHAPE.entry_at(1), 40 + 20_000_000 + 20);
    }

    #[test]
    fn a_name_is_a_local_time() {
        for (ms, name) in [
            (0, "19700101000000000"),
            (951_782_399_999, "20000228235959999"),
            (951_782_400_000, "20000229000000000"),
            (1_795_195_088_675, "20261120171808675"),
            (4_107_542_399_001, "21000228235959001"),
            (4_107_542_400_000, "21000301000000000"),
        ] {
            assert_eq!(file_name(name_at(Millis(ms))), name);
            assert_eq!(parse_name(name), Some(name_at(Millis(ms))));
        }
        for other in ["", "2026112017180867", "202611201718086755", "2026112017180867x", "+0261120171808675"]
        {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn a_count_beyond_the_file_is_taken_for_a_full_one() {
        let mut bytes = IndexHeader::following(LogOffset(7), Millis(9)).encode();
        for (count, expected) in [(0i32, 1), (-3, 1), (1, 1), (256, 256), (257, 256), (i32::MAX, 256)] {
            bytes[36..].copy_from_slice(&count.to_be_bytes());
            let header = IndexHeader::decode(&bytes, Shape { slots: 64, entries: 256 });
            assert_eq!((header.count, header.end, header.begin_time), (expected, LogOffset(7), Millis(9)));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_of_an_entry_are_read_and_written_back(bytes: [u8; ENTRY_BYTES]) {
            prop_assert_eq!(IndexEntry::decode(&bytes).encode(), bytes);
        }

        #[test]
        fn what_was_written_is_read(times in (0i64..1 << 50, 0i64..1 << 50), begin: i64, end: i64,
                                    used_slots in 0u32..5_000_000, count in 1u32..20_000_000) {
            let header = IndexHeader {
                begin_time: Millis(times.0), end_time: Millis(times.1), begin: LogOffset(begin), end: LogOffset(end),
                used_slots, count,
            };
            prop_assert_eq!(IndexHeader::decode(&header.encode(), SHAPE), header);
            prop_assert!(header.seconds(Millis(times.1)) <= i32::MAX as u32);
        }
    }
}
