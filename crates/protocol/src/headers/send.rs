//! Sending: codes 10, 310 and 320.

use super::header_fields;

header_fields! {
    /// A message to store; its body is the frame's body. Codes 310 and 320 spell the names with one letter each,
    /// code 10 in full: both are read, letters are written.
    SendMessageHeader {
        /// Group of the producer.
        producer_group: str required "a" | "producerGroup",
        /// Topic to store under.
        topic: str required "b" | "topic",
        /// Template for creating the topic when it is unknown, normally `TBW102`.
        default_topic: str required "c" | "defaultTopic",
        /// Queues that the producer asks for when the topic is created.
        default_topic_queue_nums: i32 required "d" | "defaultTopicQueueNums",
        /// Queue to store in; below 0 means any.
        queue_id: i32 required "e" | "queueId",
        /// Bits of the message's sysFlag that the producer sets: compression, transaction state.
        sys_flag: i32 required "f" | "sysFlag",
        /// When the producer made the message, ms.
        born_timestamp: i64 required "g" | "bornTimestamp",
        /// The user's own flag.
        flag: i32 required "h" | "flag",
        /// Property text, see `message::properties`.
        properties: str optional "i" | "properties",
        /// How often a consumer already failed on it.
        reconsume_times: i32 optional "j" | "reconsumeTimes",
        /// Set by producers in unit mode.
        unit_mode: bool optional "k" | "unitMode",
        /// Retries before the dead-letter queue, for retry topics.
        max_reconsume_times: i32 optional "l" | "maxReconsumeTimes",
        /// Whether the body is a batch, see `message::batch`.
        batch: bool optional "m" | "batch",
        /// Broker that the producer meant (5.x clients).
        broker_name: str optional "n" | "bname",
    }

    /// Where a message was stored.
    SendMessageReply {
        /// Offset message id; of a batch all of them, joined by commas.
        msg_id: str required "msgId",
        /// Queue that took it.
        queue_id: i32 required "queueId",
        /// Position in that queue; of a batch the first.
        queue_offset: i64 required "queueOffset",
        /// The client's own message id.
        transaction_id: str optional "transactionId",
    }
}
