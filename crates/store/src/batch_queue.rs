//! Batch queues: where the records of a topic lie whose batches are stored as one record each (`queue.type=BatchCQ`).
//!
//! Java brokers keep them in `batchconsumequeue/TOPIC/QUEUE/`, in segments of 46-byte units, one for each record:
//!
//! ```text
//! 8 log offset    4 size    8 tags code    8 store time
//! 8 queue offset of the first message      2 number of messages
//! 4 compacted offset, -1 when unused       4 reserved
//! ```
//!
//! Not here: writing. Such topics are read only; their units are as many as the files hold.

use std::path::Path;

use cometmq_protocol::{Millis, QueueOffset};

use crate::consume_queue::Unit;
use crate::disk::{self, Disk};
use crate::segments::{self, SegmentError};

/// Bytes of a unit on disk.
pub const UNIT_BYTES: usize = 46;

/// A unit of a batch queue: one record with one or more messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchUnit {
    /// Where the record lies and how large it is.
    pub unit: Unit,
    /// When the record was stored.
    pub stored_at: Millis,
    /// Queue offset of its first message.
    pub base: QueueOffset,
    /// Messages in it.
    pub count: u16,
}

impl BatchUnit {
    /// Reads a unit; `None` for the zeros behind the last one and for what cannot be a unit.
    pub fn decode(bytes: &[u8; UNIT_BYTES]) -> Option<BatchUnit> {
        let field = |at: usize| i64::from_be_bytes(*bytes[at..].first_chunk().expect("inside the unit"));
        let unit = Unit::decode(bytes.first_chunk()?)?;
        let (stored_at, base) = (Millis(field(20)), QueueOffset(field(28)));
        let count = u16::try_from(i16::from_be_bytes([bytes[36], bytes[37]])).ok()?;
        (base.0 >= 0 && count > 0).then_some(BatchUnit { unit, stored_at, base, count })
    }

    /// Queue offset behind its last message.
    pub fn end(&self) -> QueueOffset {
        self.base + i64::from(self.count)
    }
}

/// One batch queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchQueue {
    units: Vec<BatchUnit>,
}

impl BatchQueue {
    /// Reads all units of the queue in `directory`, whose files have `file_bytes`
    /// (`mapperFileSizeBatchConsumeQueue`). The first one that does not go on where the one before ended ends the
    /// queue.
    pub fn load(disk: &dyn Disk, directory: &Path, file_bytes: u64) -> Result<BatchQueue, SegmentError> {
        let mut units: Vec<BatchUnit> = Vec::new();
        for segment in segments::find(disk, directory, file_bytes, "mapperFileSizeBatchConsumeQueue")? {
            let bytes = disk::read_file(disk, &segment.path)?.unwrap_or_default();
            let (whole, _) = bytes.as_chunks::<UNIT_BYTES>();
            for unit in whole.iter().map_while(BatchUnit::decode) {
                if units.last().is_some_and(|last| last.end() != unit.base) {
                    return Ok(BatchQueue { units });
                }
                units.push(unit);
            }
        }
        Ok(BatchQueue { units })
    }

    /// Queue offset of the first message.
    pub fn min(&self) -> QueueOffset {
        self.units.first().map_or(QueueOffset(0), |unit| unit.base)
    }

    /// Queue offset behind the last message.
    pub fn max(&self) -> QueueOffset {
        self.units.last().map_or(QueueOffset(0), BatchUnit::end)
    }

    /// The unit whose record holds the message at `offset`.
    pub fn find(&self, offset: QueueOffset) -> Option<&BatchUnit> {
        let index = self.units.partition_point(|unit| unit.end() <= offset);
        self.units.get(index).filter(|unit| unit.base <= offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn encode(log_offset: i64, base: i64, count: i16) -> [u8; UNIT_BYTES] {
        let mut bytes = [0; UNIT_BYTES];
        bytes[..8].copy_from_slice(&log_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&100i32.to_be_bytes());
        bytes[28..36].copy_from_slice(&base.to_be_bytes());
        bytes[36..38].copy_from_slice(&count.to_be_bytes());
        bytes
    }

    fn load(units: &[[u8; UNIT_BYTES]]) -> BatchQueue {
        let disk = MemoryDisk::new();
        for (number, file) in units.chunks(2).enumerate() {
            let path = Path::new("/q").join(segments::name(number as i64 * 92));
            let file_on_disk = disk.open(&path, true).unwrap();
            file_on_disk.set_len(92).unwrap();
            disk::write_all_at(&*file_on_disk, file.as_flattened(), 0).unwrap();
        }
        BatchQueue::load(&disk, Path::new("/q"), 92).unwrap()
    }

    #[test]
    fn a_message_is_found_in_the_unit_that_counts_it() {
        let queue = load(&[encode(0, 5, 3), encode(100, 8, 1), encode(200, 9, 4)]);
        assert_eq!((queue.min(), queue.max()), (QueueOffset(5), QueueOffset(13)));
        let found = |offset| queue.find(QueueOffset(offset)).map(|unit| unit.unit.log_offset.0);
        assert_eq!(
            [4, 5, 7, 8, 9, 12, 13].map(found),
            [None, Some(0), Some(0), Some(100), Some(200), Some(200), None]
        );
        assert_eq!(load(&[]), BatchQueue::default());
    }

    #[test]
    fn the_first_unit_that_does_not_follow_ends_the_queue() {
        for (wrong, max) in
            [(encode(200, 10, 1), 9), (encode(200, 9, 0), 9), (encode(-1, 9, 1), 9), (encode(200, 9, 1), 10)]
        {
            assert_eq!(load(&[encode(0, 5, 3), encode(100, 8, 1), wrong]).max(), QueueOffset(max));
        }
    }
}
