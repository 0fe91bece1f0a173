//! One entry of a queue made anew from the log, for a consumer that met a damaged one, or whoever loads the queue.

use cometmq_protocol::{QueueId, QueueOffset};

use super::{WINDOW_BYTES, expected};
use crate::checksums::BLOCK_BYTES;
use crate::commit_log::{CommitLog, NotResident, Patience, Wrong};
use crate::consume_queue::{Queue, Unit};
use crate::disk::DiskError;
use crate::dispatch;
use crate::store::Store;
use crate::walk::{Met, Stop, walk};

/// How far a message is searched for behind the one before it in its queue.
const SEARCHED_BYTES_MAX: i64 = 64 * 1024 * 1024;

impl Store {
    /// Searches the log for the message of a queue whose entry does not lead to it, from the message before it to the one
    /// behind it, and writes the entry anew. False when there is no such message, or it is damaged itself. May read
    /// 64 MiB: for readers that may wait.
    pub fn restore_entry(&self, queue: &Queue, offset: QueueOffset) -> Result<bool, DiskError> {
        let neighbour = |offset: QueueOffset| -> Result<Option<Unit>, DiskError> {
            let mut units = Vec::with_capacity(1);
            if offset >= queue.min() && offset < queue.max() {
                queue.read(offset, 1, &mut units)?;
            }
            Ok(units.pop().filter(|unit| expected::is_message_at(self, queue, offset, unit)))
        };
        let start = self.log().start().0;
        let from = neighbour(offset + -1)?.map_or(start, |unit| unit.log_offset.0 + i64::from(unit.size));
        let end = self.dispatched().0.min(from.saturating_add(SEARCHED_BYTES_MAX));
        let to = neighbour(offset + 1)?.map_or(end, |unit| unit.log_offset.0.min(end));
        let found = self.log().find_message(queue.topic().as_str(), queue.id(), offset, from, to)?;
        let Some(unit) = found else { return Ok(false) };
        self.repair_entry(queue, offset, unit)?;
        tracing::error!(
            topic = %queue.topic(), queue = %queue.id(), %offset, ?unit,
            "a queue's entry did not lead to its message and was written anew; watch this disk and this machine's memory"
        );
        Ok(true)
    }
}

impl CommitLog {
    /// The entry of the message of that place, if it is in the log at `from..to`, where records begin; no further than
    /// 64 MiB from there.
    pub(crate) fn find_message(
        &self,
        topic: &str,
        id: QueueId,
        offset: QueueOffset,
        from: i64,
        to: i64,
    ) -> Result<Option<Unit>, DiskError> {
        let to = to.min(from.saturating_add(SEARCHED_BYTES_MAX));
        let (mut at, mut bytes, mut lost) = (from, WINDOW_BYTES, false);
        let mut found = None;
        while at < to && found.is_none() {
            let base = self.checksums().block_of(at);
            let segment_end = self.segment_end(base);
            let last = (base + bytes).min(segment_end).min(to) - 1;
            let until = self.checksums().block_end(self.checksums().block_of(last));
            let piece = match self.load(base, until, Patience::Disk, Vec::new()) {
                Ok(Ok(piece)) => piece,
                Ok(Err(Wrong::Unreadable(error))) => return Err(error),
                Ok(Err(_)) | Err(NotResident) => return Ok(None),
            };
            let stop = walk(&piece, at, segment_end, to, lost, |met| {
                let Met::Record(record) = met else { return };
                let place = dispatch::places(&record).into_iter().find(|place| {
                    place.queue_offset == offset && place.queue_id == id && place.topic == topic
                });
                if let Some(place) = place {
                    let size = record.total as i32;
                    found = Some(Unit { log_offset: record.log_offset, size, tags_code: place.tags_code });
                }
            });
            lost = matches!(stop, Stop::Lost(..));
            bytes = WINDOW_BYTES;
            at = match stop {
                Stop::End => to,
                Stop::SegmentEnd(_) => segment_end,
                Stop::Lost(_, until) => until,
                // Only records that end before count.
                Stop::More(at, needed) if at + needed as i64 > to => to,
                Stop::More(at, needed) => {
                    bytes = bytes.max(needed as i64 + BLOCK_BYTES);
                    at
                }
            };
        }
        Ok(found)
    }
}
