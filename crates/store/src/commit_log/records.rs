//! Records found by their positions alone: one at a position that someone names, or all of a part of the log in order.
//!
//! Nothing that lies at a position is believed to be a record but what reads as one, claims that position and is what
//! was written. Never here: what a record means.

use cometmq_protocol::LogOffset;
use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::record::{BLANK_BYTES, RECORD_BYTES_MIN};

use super::damage::Wrong;
use super::piece::Piece;
use super::read::{NotResident, Patience, Wanted};
use super::{CommitLog, POISONED};
use crate::checksums::BLOCK_BYTES;
use crate::disk::DiskError;
use crate::walk::{Met, Stop, walk};

/// Bytes read at once on a walk.
const WALK_BYTES: i64 = 1024 * 1024;
/// No record is longer: its message came in a frame of 16 MiB at most.
const RECORD_BYTES_MAX: usize = 32 * 1024 * 1024;

impl CommitLog {
    /// Reads the record at `offset` into `record`. False when no whole record begins there, or none that is written.
    pub(crate) fn record_at(&self, offset: LogOffset, record: &mut Vec<u8>) -> Result<bool, DiskError> {
        record.clear();
        if offset < self.start() || offset >= self.written() {
            return Ok(false);
        }
        let hot = {
            let hot = self.hot.read().expect(POISONED);
            let total = hot.get(offset.0, 4).and_then(|head| total_of(&head));
            total.and_then(|total| hot.get(offset.0, total))
        };
        match hot {
            Some(bytes) => record.extend_from_slice(&bytes),
            None => {
                let Some(head) = self.blocks(offset, BLANK_BYTES) else { return Ok(false) };
                let Some(size) = total_of(&head.bytes[(offset.0 - head.base) as usize..]) else {
                    return Ok(false);
                };
                let want = Wanted { offset, size, identity: None };
                let piece = if head.get(&want).is_some() { Some(head) } else { self.blocks(offset, size) };
                match piece.as_ref().map(|piece| piece.record(&want)) {
                    Some(Ok(bytes)) => record.extend_from_slice(bytes),
                    Some(Err(Wrong::Unreadable(error))) => return Err(error),
                    Some(Err(_)) | None => return Ok(false),
                }
            }
        }
        let view = RecordView::decode(record).ok();
        Ok(view.is_some_and(|view| view.log_offset == offset && view.check_body().is_ok()))
    }

    /// The blocks that hold so many bytes from `offset` on, all written and in one segment.
    fn blocks(&self, offset: LogOffset, bytes: usize) -> Option<Piece> {
        let end = offset.0 + bytes as i64;
        if end > self.segment_end(offset.0).min(self.written().0) {
            return None;
        }
        let from = self.checksums.block_of(offset.0);
        let to = self.checksums.block_end(self.checksums.block_of(end - 1));
        let piece = self.load(from, to, Patience::Disk, Vec::new()).ok()?.ok()?;
        (piece.end() >= end).then_some(piece)
    }

    /// Hands the records from `from` on to `each`, a bounded part of those before `until`, and returns the position
    /// behind them. `from` must be a record's place, and `until` the end of one. What is damaged is passed over.
    pub(crate) fn walk(
        &self,
        from: LogOffset,
        until: LogOffset,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(&RecordView<'_>),
    ) -> LogOffset {
        let mut from = from.max(self.start()).0;
        let (mut bytes, mut lost) = (WALK_BYTES, false);
        while from < until.0 {
            let segment_end = self.segment_end(from);
            let base = self.checksums.block_of(from);
            let last = (base + bytes).min(segment_end).min(until.0) - 1;
            let to = self.checksums.block_end(self.checksums.block_of(last));
            let piece = match self.load(base, to, Patience::Disk, std::mem::take(buffer)) {
                Ok(Ok(piece)) => piece,
                // Retention took the segment meanwhile.
                Ok(Err(_)) | Err(NotResident) => return LogOffset(segment_end.min(until.0)),
            };
            let stop = walk(&piece, from, segment_end, until.0, lost, |met| match met {
                Met::Record(record) => each(&record),
                Met::Damaged { from, wrong, record, .. } => self.tell_damage(from, record.as_ref(), &wrong),
            });
            *buffer = piece.bytes;
            match stop {
                Stop::End => return until,
                Stop::SegmentEnd(_) => return LogOffset(segment_end.min(until.0)),
                Stop::More(at, _) if at > from => return LogOffset(at),
                Stop::More(at, needed) if at + needed as i64 > until.0 => return until,
                // Its first block is read with it.
                Stop::More(_, needed) => bytes = needed as i64 + BLOCK_BYTES,
                Stop::Lost(at, next) => {
                    if !lost {
                        self.tell_damage(LogOffset(at), None, &Wrong::Record("no record here".into()));
                    }
                    (from, lost) = (next, true);
                }
            }
        }
        until
    }
}

/// The size that a record claims, if it can be one.
fn total_of(head: &[u8]) -> Option<usize> {
    let total = head.first_chunk::<4>().map(|total| u32::from_be_bytes(*total) as usize)?;
    (RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&total).then_some(total)
}
