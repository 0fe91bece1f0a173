//! What a record of the log means for the consume queues and the index.

use std::sync::Arc;

use cometmq_protocol::message::properties::{Properties, key};
use cometmq_protocol::message::{RecordView, sys_flag, tags};
use cometmq_protocol::names::SCHEDULE_TOPIC;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use smallvec::{SmallVec, smallvec};

use crate::consume_queue::{Queue, Unit};
use crate::index::KeyHashes;

/// A record that is to get its places in a queue and in the index.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The queue.
    pub queue: Arc<Queue>,
    /// The place that appending gave it.
    pub queue_offset: QueueOffset,
    /// Where the record lies.
    pub log_offset: LogOffset,
    /// Its bytes.
    pub size: i32,
    /// Hash of its tag, or what the topic keeps instead.
    pub tags_code: i64,
    /// When it was stored.
    pub stored_at: Millis,
    /// Hashes of its keys; none without an index.
    pub keys: KeyHashes,
}

impl Dispatch {
    /// The entry of the queue.
    pub fn unit(&self) -> Unit {
        Unit { log_offset: self.log_offset, size: self.size, tags_code: self.tags_code }
    }

    /// Position behind the record.
    pub fn end(&self) -> LogOffset {
        self.log_offset + i64::from(self.size)
    }
}

/// Prefix of light queues, which have one queue each whatever the message's queue id.
const LIGHT_QUEUE_PREFIX: &str = "%LMQ%";
/// Property: further queues of a message, comma-separated.
const MULTI_DISPATCH: &str = "INNER_MULTI_DISPATCH";
/// Property: its offsets there.
const MULTI_QUEUE_OFFSET: &str = "INNER_MULTI_QUEUE_OFFSET";
/// sysFlag: a batch stored as one record, kept in a queue of another form.
const INNER_BATCH: i32 = 0x80;

/// Delay of each level, ms, from level 1 (`messageDelayLevel`).
const DELAY_LEVELS: [i64; 18] = {
    const SECOND: i64 = 1000;
    const MINUTE: i64 = 60 * SECOND;
    const HOUR: i64 = 60 * MINUTE;
    [
        SECOND,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
        MINUTE,
        2 * MINUTE,
        3 * MINUTE,
        4 * MINUTE,
        5 * MINUTE,
        6 * MINUTE,
        7 * MINUTE,
        8 * MINUTE,
        9 * MINUTE,
        10 * MINUTE,
        20 * MINUTE,
        30 * MINUTE,
        HOUR,
        2 * HOUR,
    ]
};

/// The tags code of a message: the hash of its tag, or in the delay topic the time of its delivery.
fn tags_code(topic: &str, tag: Option<&str>, delay: Option<&str>, stored_at: Millis) -> i64 {
    if topic == SCHEDULE_TOPIC
        && let Some(level) = delay.and_then(|level| level.parse::<usize>().ok())
    {
        return stored_at.0 + DELAY_LEVELS[level.clamp(1, DELAY_LEVELS.len()) - 1];
    }
    tags::tags_code(tag)
}

/// A place in a queue that a record found in the log takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub topic: &'a str,
    pub queue_id: QueueId,
    pub queue_offset: QueueOffset,
    pub tags_code: i64,
    /// A light queue beside the message's own. The properties that name it are the producer's word: nothing may
    /// depend on them.
    pub additional: bool,
}

/// The places of a record, in the rules of a Java broker's dispatch: prepared and rolled-back transactions and inner
/// batches have none, light queues are additional.
pub(crate) fn places<'a>(record: &RecordView<'a>) -> SmallVec<[Place<'a>; 1]> {
    let transaction = record.sys_flag & sys_flag::TRANSACTION_MASK;
    let undispatched =
        transaction == sys_flag::TRANSACTION_PREPARED || transaction == sys_flag::TRANSACTION_ROLLBACK;
    if undispatched || record.sys_flag & INNER_BATCH != 0 {
        return SmallVec::new();
    }
    let names = [key::TAGS, key::DELAY, MULTI_DISPATCH, MULTI_QUEUE_OFFSET];
    let [tag, delay, queues, offsets] = Properties(record.properties).get_each(names);
    let tags_code = tags_code(record.topic, tag, delay, record.store_timestamp);
    let mut places = smallvec![Place {
        topic: record.topic,
        queue_id: record.queue_id,
        queue_offset: record.queue_offset,
        tags_code,
        additional: false,
    }];
    if let (Some(queues), Some(offsets)) = (queues, offsets) {
        for (topic, offset) in queues.split(',').zip(offsets.split(',')) {
            if let (true, Ok(offset)) = (topic.starts_with(LIGHT_QUEUE_PREFIX), offset.parse()) {
                let queue_offset = QueueOffset(offset);
                places.push(Place { topic, queue_id: QueueId(0), queue_offset, tags_code, additional: true });
            }
        }
    }
    places
}
