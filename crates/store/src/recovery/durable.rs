//! The part of the log that is known to be durable: damage in it ends nothing. It is passed over to the next record, and
//! the numbers of the messages in it stay taken.
//!
//! Reading order: [`Log::pass`] reads, [`Damaged`] remembers the damage and fills the queues' gaps.
//!
//! Never here: where the log ends; that is decided behind this part.

use std::path::Path;

use cometmq_protocol::LogOffset;
use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::record::RECORD_BYTES_MIN;

use super::Log;
use crate::checksums::{BLOCK_BYTES, SumFile};
use crate::commit_log::{Piece, Wrong};
use crate::consume_queue::{Queue, Unit};
use crate::disk::{DiskError, DiskFile};
use crate::dispatch::Place;
use crate::segments::{self, Found, SegmentError};
use crate::walk::{Met, RECORD_BYTES_MAX, Stop, walk};

/// Bytes read at once: what was just read is still in the processor's cache when it is looked at.
const PIECE_BYTES: i64 = 256 * 1024;
/// Entries made for missing messages at most, of queues and of light queues each.
const MISSING_MAX: i64 = 1_000_000;
/// Damaged stretches kept apart at most; further ones count to the last.
const STRETCHES_MAX: usize = 100_000;
/// Damaged stretches told one by one at most.
const TOLD_MAX: usize = 1000;

/// What stands in the durable part.
pub(super) enum Passed<'a> {
    Record(&'a RecordView<'a>),
    /// No record that is whole; in this segment file.
    Damaged(&'a Path, LogOffset, LogOffset),
}

/// False ends the pass.
type Each<'e> = &'e mut dyn FnMut(Passed<'_>) -> bool;

impl Log<'_> {
    /// Hands what stands at `from..to` to `each`, in order. What the checksums can put right counts as whole.
    pub(super) fn pass(
        &self,
        checksums: &Path,
        from: LogOffset,
        to: LogOffset,
        each: Each<'_>,
    ) -> Result<(), SegmentError> {
        for segment in &self.segments {
            let (first, last) = (segment.base.max(from.0), (segment.base + self.segment_bytes).min(to.0));
            if first < last {
                let sums =
                    SumFile::open(self.disk, checksums.join(segments::name(segment.base)), segment.base)?;
                if !self.pass_segment(segment, &sums, first, last, each)? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn pass_segment(
        &self,
        segment: &Found,
        sums: &SumFile,
        from: i64,
        to: i64,
        each: Each<'_>,
    ) -> Result<bool, SegmentError> {
        let segment_end = segment.base + self.segment_bytes;
        let (mut at, mut bytes, mut lost) = (from, PIECE_BYTES, None);
        let (file, mut buffer) = (self.disk.open(&segment.path, false)?, Vec::new());
        while at < to {
            let first = at - (at - segment.base) % BLOCK_BYTES;
            let last = (first + (bytes + BLOCK_BYTES - 1) / BLOCK_BYTES * BLOCK_BYTES).min(segment_end);
            let piece = piece((&*file, segment.base), sums, first, last, buffer)?;
            if piece.end() < last {
                break;
            }
            let mut goes_on = true;
            let stop = walk(&piece, at, segment_end, to, lost.is_some(), |met| {
                let (start, end) = match &met {
                    Met::Record(record) => (record.log_offset, None),
                    Met::Damaged { from, to: end, .. } => (*from, Some(LogOffset(end.0.min(to)))),
                };
                if goes_on && let Some(lost) = lost.take() {
                    goes_on = each(Passed::Damaged(&segment.path, LogOffset(lost), start));
                }
                if goes_on {
                    goes_on = match (&met, end) {
                        (Met::Record(record), _) => each(Passed::Record(record)),
                        (_, end) => each(Passed::Damaged(&segment.path, start, end.unwrap_or(start))),
                    };
                }
            });
            if !goes_on {
                return Ok(false);
            }
            bytes = PIECE_BYTES;
            at = match stop {
                Stop::End | Stop::SegmentEnd(_) => to,
                Stop::More(at, needed) => {
                    bytes = bytes.max(needed as i64 + BLOCK_BYTES);
                    at
                }
                Stop::Lost(here, until) => {
                    lost.get_or_insert(here);
                    until
                }
            };
            buffer = piece.bytes;
        }
        // A file that ends early has nothing from there on.
        let rest = lost.or((at < to).then_some(at));
        Ok(rest.is_none_or(|lost| each(Passed::Damaged(&segment.path, LogOffset(lost), LogOffset(to)))))
    }
}

/// Reads `from..to` of a segment's file, by its base, which begins and ends with a block, and compares it with them.
/// Bytes that the device does not give are an error: they may be whole, and be given the next time.
fn piece(
    (file, base): (&dyn DiskFile, i64),
    sums: &SumFile,
    from: i64,
    to: i64,
    buffer: Vec<u8>,
) -> Result<Piece, DiskError> {
    let length = (to - from) as usize;
    let count = length.div_ceil(BLOCK_BYTES as usize);
    let known = sums.get(from, count).or_else(|_| sums.get(from, count)).unwrap_or_else(|error| {
        // Without sums there is less protection, and still the records' own.
        tracing::warn!(%error, "checksums of the log not readable");
        Vec::new()
    });
    let piece = Piece::read(file, base, from, length, false, buffer);
    let mut piece = piece.expect("a patient reader gets what there is");
    if let Some(Wrong::Unreadable(error)) = piece.wrong(from, to) {
        return Err(error.clone());
    }
    piece.compare(&known);
    Ok(piece)
}

/// Damaged stretches of the log, in order, and what was done about them.
#[derive(Debug, Default)]
pub(super) struct Damaged {
    stretches: Vec<Stretch>,
    /// Bytes of all of them.
    bytes: i64,
    told: usize,
    /// Entries made: of queues, of light queues.
    filled: [i64; 2],
}

#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: i64,
    to: i64,
    /// Bytes of the stretches before.
    before: i64,
}

impl Damaged {
    /// Remembers a stretch, and tells it.
    pub fn add(&mut self, path: &Path, from: LogOffset, to: LogOffset) {
        let (from, to) = (from.0, to.0);
        if self.told < TOLD_MAX {
            tracing::error!(
                file = %path.display(), from, to,
                "a damaged stretch of the commit log was passed over while queue entries were made; its messages are not \
                 delivered: run `cometmq store check` on the store"
            );
        } else if self.told == TOLD_MAX {
            tracing::error!("further damaged stretches are not told: run `cometmq store check` on the store");
        }
        self.told += 1;
        match self.stretches.last_mut() {
            Some(last) if self.told > STRETCHES_MAX => last.to = to,
            _ => self.stretches.push(Stretch { from, to, before: self.bytes }),
        }
        self.bytes += to - from;
    }

    /// Gives the numbers that a queue lacks before `place` entries that lead into the damage, where they are not
    /// delivered as anything but the message that they are of. Only when so many records may have been there.
    pub fn fill(&mut self, queue: &mut Queue, place: &Place<'_>) -> bool {
        let end = queue.max();
        let missing = place.queue_offset.0 - end.0;
        let after = queue.last_restored().map_or(-1, |unit| unit.log_offset.0);
        let index = self.stretches.partition_point(|stretch| stretch.from <= after);
        let between = self.stretches.get(index..).unwrap_or_default();
        let Some(first) = between.first() else { return false };
        let filled = &mut self.filled[usize::from(place.additional)];
        let possible = ((self.bytes - first.before) / RECORD_BYTES_MIN as i64).min(MISSING_MAX - *filled);
        if !(1..=possible).contains(&missing) {
            return false;
        }
        *filled += missing;
        (0..missing).zip(0..).all(|(number, index): (i64, usize)| {
            let stretch = between.get(index).or(between.last()).unwrap_or(first);
            let size = (stretch.to - stretch.from).clamp(1, RECORD_BYTES_MAX as i64) as i32;
            let unit = Unit { log_offset: LogOffset(stretch.from), size, tags_code: 0 };
            queue.restore(end + number, unit, true)
        })
    }
}
