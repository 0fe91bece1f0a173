//! Deleting what is old: the oldest segment of the log, then what the queues have of it.
//!
//! Whether something is old enough is decided elsewhere; here it goes, in an order in which a crash at any point leaves
//! a store that opens. A segment is gone from the disk before a queue's beginning moves behind it. Files of queues
//! follow at leisure: until then they hold entries of which nobody is given any.

use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId};

use crate::consume_queue::Queue;
use crate::disk::DiskError;
use crate::store::Store;

/// The oldest segment of a log that has several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldestSegment {
    /// Where it begins.
    pub start: LogOffset,
    /// Where the next one begins.
    pub end: LogOffset,
    /// When it was written last: the store time of the first message behind it. A copy of the files does not change
    /// that, as it changes the times of files.
    pub written_at: Millis,
}

impl Store {
    /// The oldest segment; `None` while it is the only one that has messages.
    pub fn oldest_segment(&self) -> Result<Option<OldestSegment>, DiskError> {
        let Some((start, end)) = self.log.oldest() else { return Ok(None) };
        // Verified: one flipped bit could put the time many years back.
        let (mut written_at, mut next) = (None, end);
        let until = self.dispatched();
        while written_at.is_none() && next < until {
            next = self.log.walk(next, until, &mut Vec::new(), &mut |record| {
                written_at.get_or_insert(record.store_timestamp);
            });
        }
        Ok(written_at.map(|written_at| OldestSegment { start, end, written_at }))
    }

    /// Deletes that segment and takes its messages out of all queues. False when it is still needed to recover the
    /// queues, because they could not be made durable.
    pub fn delete_oldest_segment(&self, segment: &OldestSegment) -> Result<bool, DiskError> {
        if self.flushed_up_to() < segment.end {
            self.flush()?;
            if self.flushed_up_to() < segment.end {
                return Ok(false);
            }
        }
        self.log.delete_oldest(segment.start)?;
        // The one place for whatever else is derived from the log and kept by position.
        if let Err(error) = self.log.forget_checksums() {
            tracing::warn!(%error, "checksums of a deleted segment not removed, tried again with the next one");
        }
        if let Err(error) = self.delete_index_before(self.log.start()) {
            tracing::warn!(%error, "index files of deleted segments not removed; the next start finds them again");
        }
        let queues = self.queues.settled_loaded();
        // All of them, also after an error: a queue where it failed is looked at again when it is read.
        let results: Vec<_> = queues.iter().map(|queue| self.expire(queue)).collect();
        results.into_iter().collect::<Result<(), DiskError>>().map(|()| true)
    }

    /// Moves the beginning of a queue behind what was deleted of the log.
    pub fn expire(&self, queue: &Queue) -> Result<(), DiskError> {
        queue.expire(self.log.start())
    }

    /// Topics that have a directory of queues.
    pub fn topics_with_queues(&self) -> Result<Vec<TopicName>, DiskError> {
        self.queues.files().topics()
    }

    /// Numbers of the queues of a topic that have a directory.
    pub fn queue_ids(&self, topic: &TopicName) -> Result<Vec<QueueId>, DiskError> {
        self.queues.files().ids(topic)
    }

    /// Deletes the files of a queue whose every entry is of a deleted message, except its last file: from that the
    /// queue's numbers go on. Returns how many went.
    pub fn delete_expired_files(&self, topic: &TopicName, id: QueueId) -> Result<usize, DiskError> {
        self.queues.delete_expired_files(topic, id, self.log.start())
    }

    /// Removes a queue whole, so that its numbers start over, when nobody uses it and its messages are deleted, or,
    /// with `unexpired`, even when they are not. Returns whether it went.
    ///
    /// Call [`Store::flush`] before: a queue of which a crash could find messages in the part that is scanned then, and
    /// miss those before, stays.
    pub fn remove_queue(&self, topic: &TopicName, id: QueueId, unexpired: bool) -> Result<bool, DiskError> {
        let flushed_up_to = self.flushed_up_to();
        self.queues.remove(topic, id, &self.log, |queue| {
            let (min, max) = (queue.min(), queue.max());
            if min < max && unexpired {
                let mut last = Vec::with_capacity(1);
                queue.read(max + -1, 1, &mut last)?;
                return Ok(last.first().is_none_or(|last| last.end() <= flushed_up_to));
            }
            Ok(max.0 > 0 && min == max)
        })
    }
}
