//! Topics of a broker: codes 17 and 351.

use super::header_fields;

header_fields! {
    /// Creates a topic or changes it.
    CreateTopicHeader {
        /// Topic.
        topic: str required "topic",
        /// Ignored; `mqadmin` sends `TBW102`.
        default_topic: str defaulted "defaultTopic",
        /// Queues to read from.
        read_queue_nums: i32 required "readQueueNums",
        /// Queues to write to.
        write_queue_nums: i32 required "writeQueueNums",
        /// Permission bits: 4 read, 2 write, 1 inherit.
        perm: i32 required "perm",
        /// `SINGLE_TAG` or `MULTI_TAG`.
        topic_filter_type: str defaulted "topicFilterType",
        /// System flag: 1 unit, 2 unit subscription.
        topic_sys_flag: i32 defaulted "topicSysFlag",
        /// Whether it is an order topic.
        order: bool defaulted "order",
        /// Attribute changes `+key=value,-key`.
        attributes: str optional "attributes",
    }

    /// Names a topic.
    TopicHeader {
        /// Topic.
        topic: str required "topic",
    }
}
