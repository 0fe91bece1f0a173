//! What the store remembers of how far it got: RocketMQ's `checkpoint` file, and our own log position beside it.
//!
//! RocketMQ's file knows times only. Ours, `cometmq/dispatched`, holds the log position up to which all consume queues
//! are durable: recovery starts there. `cometmq/durable` holds the one up to which the log was known to be durable: what
//! is not whole before it was damaged, and ends nothing. Both are written after they became true and are of no harm to a
//! Java broker, which never looks at them; should a Java broker run in between, they stay true.

use std::path::{Path, PathBuf};

use cometmq_protocol::{LogOffset, Millis};

use crate::disk::{self, Disk, DiskError};
use crate::two_slots::TwoSlots;

/// Bytes of RocketMQ's file.
const JAVA_BYTES: usize = 4096;
/// How much earlier than its times say recovery begins: they are written a little after the fact.
const JAVA_SLACK_MS: i64 = 3000;
/// How much later than what else is known a time is believed.
const LEAD_MAX_MS: i64 = 24 * 60 * 60 * 1000;
/// First bytes of each copy of our position.
const MAGIC: u64 = 0x434F_4D45_544D_5131;
/// First bytes of each copy of the position up to which the log is durable.
const MAGIC_DURABLE: u64 = 0x434F_4D45_544D_5133;

/// RocketMQ's checkpoint: five times and positions, the rest of the file is zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JavaCheckpoint {
    /// Store time of the last durable message.
    pub physic: Millis,
    /// Store time of the last message whose queue entry is durable.
    pub logics: Millis,
    /// End time of the last full index file.
    pub index: Millis,
    /// 5.x: flushed position of the master.
    pub master_flushed: i64,
    /// 5.x: confirmed position.
    pub confirmed: i64,
}

impl JavaCheckpoint {
    /// Reads the file; a missing or short one is all zeros.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<JavaCheckpoint, DiskError> {
        let bytes = disk::read_file(disk, path)?.unwrap_or_default();
        let field = |n: usize| {
            bytes
                .get(8 * n..)
                .and_then(|rest| rest.first_chunk())
                .map_or(0, |field| i64::from_be_bytes(*field))
        };
        Ok(JavaCheckpoint {
            physic: Millis(field(0)),
            logics: Millis(field(1)),
            index: Millis(field(2)),
            master_flushed: field(3),
            confirmed: field(4),
        })
    }

    /// Writes the file and makes it durable.
    pub fn save(&self, disk: &dyn Disk, path: &Path) -> Result<(), DiskError> {
        let mut bytes = Vec::with_capacity(JAVA_BYTES);
        for field in [self.physic.0, self.logics.0, self.index.0, self.master_flushed, self.confirmed] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        bytes.resize(JAVA_BYTES, 0);
        let file = disk.open(path, true)?;
        disk::write_all_at(&*file, &bytes, 0)?;
        file.sync()
    }

    /// Takes back a time of storing that is more than a day later than everything else that is known, `last_stored_at`
    /// of the newest record read included: the file has no checksum, and one bit would put all store times to come
    /// into the far future.
    pub fn doubt_times(&mut self, last_stored_at: Millis) {
        let (physic, logics) = (self.physic, self.logics);
        let believed = |time: Millis, other: Millis| {
            let known = other.max(last_stored_at);
            if time.0 > known.0.saturating_add(LEAD_MAX_MS) { known } else { time }
        };
        self.physic = believed(physic, logics);
        self.logics = believed(logics, physic);
        if (physic, logics) != (self.physic, self.logics) {
            tracing::warn!(
                %physic, %logics, believed = %self.physic,
                "a time in the file `checkpoint` is not possible; it was damaged, and is written anew"
            );
        }
    }

    /// Everything stored before this time is in the queues' files.
    pub fn safe_before(&self) -> Millis {
        Millis(self.physic.0.min(self.logics.0).saturating_sub(JAVA_SLACK_MS).max(0))
    }
}

/// Names of our positions on disk, and what their copies begin with.
pub(crate) const POSITIONS: [(&str, u64); 2] = [("dispatched", MAGIC), ("durable", MAGIC_DURABLE)];

/// Our positions of the store in `root`: up to which the queues, and up to which the log is durable. `None` in a store
/// that was never ours.
pub fn saved_positions(
    disk: &dyn Disk,
    root: &Path,
) -> Result<[(&'static str, Option<LogOffset>); 2], DiskError> {
    let mut positions = POSITIONS.map(|(name, _)| (name, None));
    for ((name, magic), position) in POSITIONS.iter().zip(&mut positions) {
        let (_, known) = TwoSlots::<1>::load(disk, root.join("cometmq").join(name), *magic)?;
        position.1 = known.map(|[position]| LogOffset(position));
    }
    Ok(positions)
}

/// Our log position on disk.
#[derive(Debug)]
pub(crate) struct DispatchedPosition(TwoSlots<1>);

impl DispatchedPosition {
    /// Reads the newer valid copy. `None` where there is none: the store was never ours.
    pub fn load(
        disk: &dyn Disk,
        path: PathBuf,
    ) -> Result<(DispatchedPosition, Option<LogOffset>), DiskError> {
        let (slots, known) = TwoSlots::load(disk, path, MAGIC)?;
        Ok((DispatchedPosition(slots), known.map(|[position]| LogOffset(position))))
    }

    /// The position last saved.
    pub fn get(&self) -> LogOffset {
        LogOffset(self.0.get()[0])
    }

    /// Writes the position and makes it durable. What it promises must be durable before.
    pub fn save(&mut self, disk: &dyn Disk, position: LogOffset) -> Result<(), DiskError> {
        self.0.save(disk, [position.0])
    }
}

/// The log position up to which the log is known to be durable, on disk.
#[derive(Debug)]
pub(crate) struct DurablePosition(TwoSlots<1>);

impl DurablePosition {
    /// Reads the newer valid copy; zero where there is none, for then nothing is known.
    pub fn load(disk: &dyn Disk, path: PathBuf) -> Result<(DurablePosition, LogOffset), DiskError> {
        let (slots, known) = TwoSlots::load(disk, path, MAGIC_DURABLE)?;
        Ok((DurablePosition(slots), LogOffset(known.map_or(0, |[position]| position))))
    }

    /// The position last noted.
    pub fn get(&self) -> LogOffset {
        LogOffset(self.0.get()[0])
    }

    /// Takes back, durably, a position beyond the log's `end`: where segments were taken away it must not be believed
    /// again once the log is as long.
    pub fn bound(&mut self, disk: &dyn Disk, end: LogOffset) -> Result<(), DiskError> {
        if self.get() > end { self.0.save(disk, [end.0]) } else { Ok(()) }
    }

    /// Remembers, durably, that the log is durable up to `position` at least.
    pub fn raise(&mut self, disk: &dyn Disk, position: LogOffset) -> Result<(), DiskError> {
        if self.get() < position { self.0.save(disk, [position.0]) } else { Ok(()) }
    }

    /// Writes the position. It needs no sync: an older one is true as well.
    pub fn note(&mut self, disk: &dyn Disk, position: LogOffset) -> Result<(), DiskError> {
        self.0.note(disk, [position.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn javas_checkpoint_is_read_back() {
        let disk = MemoryDisk::new();
        let path = Path::new("/s/checkpoint");
        let checkpoint =
            JavaCheckpoint { physic: Millis(10_000), logics: Millis(9_000), ..JavaCheckpoint::default() };
        checkpoint.save(&disk, path).unwrap();
        assert_eq!(JavaCheckpoint::load(&disk, path).unwrap(), checkpoint);
        assert_eq!(checkpoint.safe_before(), Millis(6_000));
        let damaged = JavaCheckpoint { logics: Millis(i64::MIN), ..checkpoint };
        assert_eq!(damaged.safe_before(), Millis(0));
    }
}
