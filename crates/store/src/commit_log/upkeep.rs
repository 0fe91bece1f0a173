//! What the scrub needs of the log: its checksums, and writing right what was found wrong.

use cometmq_protocol::LogOffset;
use cometmq_protocol::message::RecordView;

use super::damage::{self, Identity, Wrong};
use super::{CommitLog, NotResident, POISONED, Patience, Piece, Wanted};
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

    /// Writes bytes in which a bit was turned back, durably, and returns how many. The kernel tells of a lost page once,
    /// to the first who syncs: where messages are on their way to the same file, a failure ends the log as their own
    /// sync's would.
    pub(crate) fn write_back(&self, piece: &Piece) -> Result<u64, DiskError> {
        if piece.flipped.is_empty() {
            return Ok(0);
        }
        let Some(segment) = self.segment(piece.base)? else { return Ok(0) };
        for byte in &piece.flipped {
            let at = (byte.0 - piece.base) as usize;
            disk::write_all_at(&*segment.file, &piece.bytes[at..=at], (byte.0 - segment.base) as u64)?;
        }
        // No sync of the log may come between the failure and its end.
        let _one_at_a_time = self.syncing.lock().expect(POISONED);
        let is_durable = self.segment_end(piece.base) <= self.durable().0;
        match segment.file.sync() {
            Err(error) if !is_durable => Err(DiskError::clone(&self.fail(error))),
            synced => synced.map(|()| piece.flipped.len() as u64),
        }
    }

    /// Opens the segment that holds `position`, so that a reader who does not wait finds it open.
    pub(crate) fn open_segment(&self, position: i64) -> Result<(), DiskError> {
        self.segment(position).map(drop)
    }

    /// Lets go of what reading `from..to` of one segment brought into memory.
    pub(crate) fn drop_cached(&self, from: i64, to: i64) {
        if let Some(segment) = self.place(from).and_then(|place| self.opened(&place)) {
            segment.file.drop_cached((from - segment.base) as u64, (to - from) as u64);
        }
    }

    /// Whether the log has this very record.
    pub(crate) fn has(&self, wanted: &Wanted<'_>) -> bool {
        let hot = self.hot.read().expect(POISONED).get(wanted.offset.0, wanted.size);
        if let Some(bytes) = hot {
            return damage::verify(&bytes, wanted, false).is_ok();
        }
        let Ok(piece) = self.blocks_of(wanted) else { return false };
        piece.record(wanted).and_then(|bytes| damage::verify(bytes, wanted, false)).is_ok()
    }

    /// The blocks that hold a record, from the files, for those who judge them themselves.
    pub(crate) fn blocks_of(&self, wanted: &Wanted<'_>) -> Result<Piece, Wrong> {
        if wanted.offset.0 < 0 || wanted.size == 0 || wanted.end() > self.handed() {
            return Err(Wrong::Missing);
        }
        let from = self.checksums.block_of(wanted.offset.0);
        let to = self.checksums.block_end(self.checksums.block_of(wanted.end() - 1));
        match self.load(from, to, Patience::Disk, Vec::new()) {
            Ok(piece) => piece,
            Err(NotResident) => unreachable!("a patient reader gets what there is"),
        }
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
