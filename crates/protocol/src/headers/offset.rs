//! Offsets of queues and of consumer groups: codes 14, 15, 29, 30, 31, 32.

use super::header_fields;

header_fields! {
    /// Asks where a group stands in a queue.
    QueryConsumerOffsetHeader {
        /// Consumer group.
        consumer_group: str required "consumerGroup",
        /// Topic.
        topic: str required "topic",
        /// Queue.
        queue_id: i32 required "queueId",
        /// Whether a group without offset may be answered 0; absent means true.
        set_zero_if_not_found: bool optional "setZeroIfNotFound",
    }

    /// Commits where a group stands in a queue.
    UpdateConsumerOffsetHeader {
        /// Consumer group.
        consumer_group: str required "consumerGroup",
        /// Topic.
        topic: str required "topic",
        /// Queue.
        queue_id: i32 required "queueId",
        /// The next offset that the group wants.
        commit_offset: i64 required "commitOffset",
    }

    /// Asks for the offset of a point in time.
    SearchOffsetHeader {
        /// Topic.
        topic: str required "topic",
        /// Queue.
        queue_id: i32 required "queueId",
        /// Store time, ms.
        timestamp: i64 required "timestamp",
        /// `LOWER` (first message at or after, the default) or `UPPER` (behind the last at or before).
        boundary_type: str optional "boundaryType",
    }

    /// Names a queue.
    QueueHeader {
        /// Topic.
        topic: str required "topic",
        /// Queue.
        queue_id: i32 required "queueId",
    }

    /// An offset.
    OffsetReply {
        /// Position in the queue.
        offset: i64 required "offset",
    }

    /// A store time.
    TimestampReply {
        /// Time in ms, or -1 when the queue is empty.
        timestamp: i64 required "timestamp",
    }
}
