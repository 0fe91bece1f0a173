//! What the store remembers of how far it got: RocketMQ's `checkpoint` file, and our own log position beside it.
//!
//! RocketMQ's file knows times only. Ours, `cometmq/dispatched`, holds the log position up to which all consume queues
//! are durable: recovery starts there. It is written after that became true and is of no harm to a Java broker, which
//! never looks at it; should a Java broker run in between, the position stays true.

use std::path::{Path, PathBuf};

use cometmq_protocol::{LogOffset, Millis};

use crate::disk::{self, Disk, DiskError};

/// Bytes of RocketMQ's file.
const JAVA_BYTES: usize = 4096;
/// How much earlier than its times say recovery begins: they are written a little after the fact.
const JAVA_SLACK_MS: i64 = 3000;
/// Bytes of one copy of our position: two are kept, in different sectors, and written in turn.
pub(crate) const SLOT_BYTES: usize = 512;
const SLOT_MAGIC: u64 = 0x434F_4D45_544D_5131;

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

    /// Everything stored before this time is in the queues' files.
    pub fn safe_before(&self) -> Millis {
        Millis(self.physic.0.min(self.logics.0).saturating_sub(JAVA_SLACK_MS).max(0))
    }
}

/// Our log position on disk.
#[derive(Debug)]
pub(crate) struct DispatchedPosition {
    path: PathBuf,
    sequence: u64,
    position: LogOffset,
}

impl DispatchedPosition {
    /// Reads the newer valid copy. `None` where there is none: the store was never ours.
    pub fn load(
        disk: &dyn Disk,
        path: PathBuf,
    ) -> Result<(DispatchedPosition, Option<LogOffset>), DiskError> {
        let bytes = disk::read_file(disk, &path)?.unwrap_or_default();
        let newest = bytes.chunks(SLOT_BYTES).filter_map(decode_slot).max();
        let (sequence, position) = newest.unwrap_or_default();
        let known = newest.map(|(_, position)| position);
        Ok((DispatchedPosition { path, sequence, position }, known))
    }

    /// The position last saved.
    pub fn get(&self) -> LogOffset {
        self.position
    }

    /// Writes the position and makes it durable. What it promises must be durable before.
    pub fn save(&mut self, disk: &dyn Disk, position: LogOffset) -> Result<(), DiskError> {
        let sequence = self.sequence + 1;
        let is_new = !disk.exists(&self.path)?;
        let file = disk.open(&self.path, true)?;
        let slot = sequence % 2;
        disk::write_all_at(&*file, &encode_slot(sequence, position), slot * SLOT_BYTES as u64)?;
        file.sync()?;
        if is_new && let Some(directory) = self.path.parent() {
            disk.sync_directory(directory)?;
        }
        self.sequence = sequence;
        self.position = position;
        Ok(())
    }
}

fn encode_slot(sequence: u64, position: LogOffset) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&SLOT_MAGIC.to_be_bytes());
    slot[8..16].copy_from_slice(&sequence.to_be_bytes());
    slot[16..24].copy_from_slice(&position.0.to_be_bytes());
    let crc = crc32fast::hash(&slot[..24]);
    slot[24..28].copy_from_slice(&crc.to_be_bytes());
    slot
}

/// Reads a copy; `None` where none stands.
pub(crate) fn decode_slot(slot: &[u8]) -> Option<(u64, LogOffset)> {
    let field = |at: usize| {
        slot.get(at..).and_then(|rest| rest.first_chunk()).map(|field| u64::from_be_bytes(*field))
    };
    let crc = u32::from_be_bytes(*slot.get(24..)?.first_chunk()?);
    let valid = field(0)? == SLOT_MAGIC && crc == crc32fast::hash(&slot[..24]);
    valid.then_some((field(8)?, LogOffset(i64::try_from(field(16)?).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Crash, MemoryDisk};

    #[test]
    fn a_torn_save_leaves_the_position_before() {
        let disk = MemoryDisk::new();
        let path = PathBuf::from("/s/dispatched");
        let (mut position, known) = DispatchedPosition::load(&disk, path.clone()).unwrap();
        assert_eq!(known, None);
        position.save(&disk, LogOffset(10)).unwrap();
        position.save(&disk, LogOffset(20)).unwrap();
        let file = disk.open(&path, false).unwrap();
        disk::write_all_at(&*file, &encode_slot(3, LogOffset(30))[..20], SLOT_BYTES as u64).unwrap();
        let after = disk.crash(Crash::KeepAll);
        assert_eq!(DispatchedPosition::load(&after, path).unwrap().1, Some(LogOffset(20)));
    }

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
