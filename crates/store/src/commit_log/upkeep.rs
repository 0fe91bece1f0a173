//! What the scrub needs of the log: its checksums, and writing right what was found wrong.

use cometmq_protocol::LogOffset;
use cometmq_protocol::message::RecordView;

use super::damage::{self, Identity, Wrong};
use super::{CommitLog, POISONED, Patience, Piece, Wanted};
use crate::checksums::Checksums;
use crate::disk::{self, DiskError};

impl CommitLog {
    /// The checksums of its blocks.
    pub(crate) fn checksums(&self) -> &Checksums {
        &self.checksums
    }

    /// Writes the checksums of what is durable to their files; a missing one costs protection only.
    pub(crate) fn flush_checksums(&self) -> Result<(), DiskError> {
        self.checksums.flush(self.durable().0)
    }

    /// Makes the checksums in their files durable.
    pub(crate) fn sync_checksums(&self) -> Result<(), DiskError> {
        self.checksums.sync()
    }

    /// Removes the checksums of segments that are gone.
    pub(crate) fn forget_checksums(&self) -> Result<(), DiskError> {
        self.checksums.forget_before(self.start().0)
    }

    /// End of the segment that holds `position`.
    pub(crate) fn segment_end(&self, position: i64) -> i64 {
        position - position % self.options.segment_bytes + self.options.segment_bytes
    }

    /// Writes bytes in which a bit was turned back, durably, and returns how many.
    pub(crate) fn write_back(&self, piece: &Piece) -> Result<u64, DiskError> {
        let Some(segment) = self.segment(piece.base).filter(|_| !piece.flipped.is_empty()) else {
            return Ok(0);
        };
        for byte in &piece.flipped {
            let at = (byte.0 - piece.base) as usize;
            disk::write_all_at(&*segment.file, &piece.bytes[at..=at], (byte.0 - segment.base) as u64)?;
        }
        segment.file.sync()?;
        Ok(piece.flipped.len() as u64)
    }

    /// Lets go of what reading `from..to` of one segment brought into memory.
    pub(crate) fn drop_cached(&self, from: i64, to: i64) {
        if let Some(segment) = self.segment(from) {
            segment.file.drop_cached((from - segment.base) as u64, (to - from) as u64);
        }
    }

    /// Whether the log has this very record.
    pub(crate) fn has(&self, wanted: &Wanted<'_>) -> bool {
        let hot = self.hot.read().expect(POISONED).get(wanted.offset.0, wanted.size);
        if let Some(bytes) = hot {
            return damage::verify(&bytes, wanted).is_ok();
        }
        let Ok(Ok(piece)) = self.piece(wanted, Patience::Disk, Vec::new()) else { return false };
        piece.record(wanted).and_then(|bytes| damage::verify(bytes, wanted)).is_ok()
    }

    /// Tells of damage that a walk over the log met.
    pub(crate) fn tell_damage(&self, from: LogOffset, record: Option<&RecordView<'_>>, wrong: &Wrong) {
        let identity = record.map(|record| Identity {
            topic: record.topic,
            queue_id: record.queue_id,
            queue_offset: record.queue_offset,
        });
        self.tell(&Wanted { offset: from, size: 0, identity }, wrong);
    }
}
