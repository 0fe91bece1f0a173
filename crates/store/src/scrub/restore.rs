//! One entry of a queue made anew from the log, for a consumer that met a damaged one.

use cometmq_protocol::QueueOffset;

use super::{WINDOW_BYTES, expected};
use crate::checksums::BLOCK_BYTES;
use crate::commit_log::Patience;
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
        let Some(unit) = self.search(queue, offset, from, to) else { return Ok(false) };
        self.repair_entry(queue, offset, unit)?;
        tracing::error!(
            topic = %queue.topic(), queue = %queue.id(), %offset, ?unit,
            "a queue's entry did not lead to its message and was written anew; watch this disk and this machine's memory"
        );
        Ok(true)
    }

    /// The entry of the message of that place, if it is in the log at `from..to`, where records begin.
    fn search(&self, queue: &Queue, offset: QueueOffset, from: i64, to: i64) -> Option<Unit> {
        let log = self.log();
        let (mut at, mut bytes, mut lost) = (from, WINDOW_BYTES, false);
        let mut found = None;
        while at < to && found.is_none() {
            let base = log.checksums().block_of(at);
            let segment_end = log.segment_end(base);
            let last = (base + bytes).min(segment_end).min(to) - 1;
            let until = log.checksums().block_end(log.checksums().block_of(last));
            let Ok(Ok(piece)) = log.load(base, until, Patience::Disk, Vec::new()) else { return None };
            let stop = walk(&piece, at, segment_end, to, lost, |met| {
                let Met::Record(record) = met else { return };
                let place = dispatch::places(&record).into_iter().find(|place| {
                    place.queue_offset == offset
                        && place.queue_id == queue.id()
                        && place.topic == queue.topic().as_str()
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
                Stop::More(at, needed) => {
                    bytes = bytes.max(needed as i64 + BLOCK_BYTES);
                    at
                }
            };
        }
        found
    }
}
