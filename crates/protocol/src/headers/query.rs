//! Single messages by key or place: codes 12 and 33.

use super::header_fields;

header_fields! {
    /// Asks for the messages with a key.
    QueryMessageHeader {
        /// Topic.
        topic: str required "topic",
        /// A key, or the id that a producer gave its message.
        key: str required "key",
        /// Most messages wanted.
        max_num: i32 required "maxNum",
        /// Earliest store time, ms.
        begin_timestamp: i64 required "beginTimestamp",
        /// Latest store time, ms.
        end_timestamp: i64 required "endTimestamp",
        /// Whether the key is a producer's id.
        unique: bool optional "_UNIQUE_KEY_QUERY",
    }

    /// How far the index goes; zeros where nothing was found.
    QueryMessageReply {
        /// Store time of the newest message in the index, ms.
        index_last_update_timestamp: i64 required "indexLastUpdateTimestamp",
        /// Its position in the log.
        index_last_update_phyoffset: i64 required "indexLastUpdatePhyoffset",
    }

    /// Asks for the message at a position.
    ViewMessageHeader {
        /// Topic; most clients leave it out.
        topic: str optional "topic",
        /// Position in the log.
        offset: i64 required "offset",
    }
}
