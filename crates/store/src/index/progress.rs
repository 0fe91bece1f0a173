//! What is remembered of how far the index goes: `cometmq/indexed`.
//!
//! It says that all keys of records before a log position are among the first entries of one file and in the files
//! before it, and it holds that file's header as it was then. It is saved after the entries became durable, and it
//! alone is believed after a crash: neither the header in the file nor entries beyond.

use std::path::PathBuf;

use cometmq_protocol::{LogOffset, Millis};

use super::format::{IndexHeader, Shape};
use crate::disk::{Disk, DiskError};
use crate::two_slots::TwoSlots;

/// First bytes of each copy: `COMETMQ2`.
pub(crate) const MAGIC: u64 = 0x434F_4D45_544D_5132;

/// Numbers in a copy.
pub(crate) const NUMBERS: usize = 9;

/// How far the index goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// All keys of records before this are durable.
    pub covered: LogOffset,
    /// The newest file, 0 where there is none.
    pub name: i64,
    /// The slots in it are as they were when this was the number of the next entry, or newer.
    pub slots_at: u32,
    /// Its header. Entries before the count are durable.
    pub header: IndexHeader,
}

/// The progress on disk.
#[derive(Debug)]
pub(crate) struct SavedProgress(TwoSlots<NUMBERS>);

impl SavedProgress {
    /// Reads what was saved last. `None` where nothing was: the index was never ours.
    pub fn load(
        disk: &dyn Disk,
        path: PathBuf,
        shape: Shape,
    ) -> Result<(SavedProgress, Option<Progress>), DiskError> {
        let (slots, values) = TwoSlots::load(disk, path, MAGIC)?;
        Ok((SavedProgress(slots), values.map(|values| decode(values, shape))))
    }

    /// The position last saved.
    pub fn covered(&self) -> LogOffset {
        LogOffset(self.0.get()[0])
    }

    /// Writes the progress and makes it durable. What it promises must be durable before.
    pub fn save(&mut self, disk: &dyn Disk, progress: &Progress) -> Result<(), DiskError> {
        let header = &progress.header;
        self.0.save(
            disk,
            [
                progress.covered.0,
                progress.name,
                i64::from(progress.slots_at),
                header.begin_time.0,
                header.end_time.0,
                header.begin.0,
                header.end.0,
                i64::from(header.used_slots),
                i64::from(header.count),
            ],
        )
    }
}

fn decode(values: [i64; NUMBERS], shape: Shape) -> Progress {
    let [covered, name, slots_at, begin_time, end_time, begin, end, used_slots, count] = values;
    let number = |value: i64| u32::try_from(value).unwrap_or(0);
    let count = number(count).clamp(1, shape.entries);
    Progress {
        covered: LogOffset(covered),
        name,
        slots_at: number(slots_at).clamp(1, count),
        header: IndexHeader {
            begin_time: Millis(begin_time),
            end_time: Millis(end_time),
            begin: LogOffset(begin),
            end: LogOffset(end),
            used_slots: number(used_slots),
            count,
        },
    }
}
