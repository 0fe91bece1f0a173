//! Pulling: codes 11 and 361.

use super::header_fields;

/// Bits of a pull request's `sysFlag`.
pub mod pull_flag {
    /// `commitOffset` is to be stored as the group's offset.
    pub const COMMIT_OFFSET: i32 = 1;
    /// The request may wait for a message.
    pub const SUSPEND: i32 = 1 << 1;
    /// `subscription` is to be used instead of the one from the heartbeat.
    pub const SUBSCRIPTION: i32 = 1 << 2;
    /// Lite pull consumer.
    pub const LITE_PULL: i32 = 1 << 4;
}

header_fields! {
    /// Asks for messages of one queue from an offset on.
    PullMessageHeader {
        /// Consumer group.
        consumer_group: str required "consumerGroup",
        /// Topic.
        topic: str required "topic",
        /// Queue.
        queue_id: i32 required "queueId",
        /// First offset wanted.
        queue_offset: i64 required "queueOffset",
        /// Most messages wanted.
        max_msg_nums: i32 required "maxMsgNums",
        /// Bits of `pull_flag`.
        sys_flag: i32 required "sysFlag",
        /// Offset to commit, valid with `pull_flag::COMMIT_OFFSET`.
        commit_offset: i64 required "commitOffset",
        /// How long the request may wait, ms.
        suspend_timeout_millis: i64 required "suspendTimeoutMillis",
        /// Subscription expression, valid with `pull_flag::SUBSCRIPTION`.
        subscription: str optional "subscription",
        /// Version of the subscription, a timestamp in ms.
        sub_version: i64 required "subVersion",
        /// `TAG` or `SQL92`.
        expression_type: str optional "expressionType",
        /// Most bytes wanted (5.x clients).
        max_msg_bytes: i32 optional "maxMsgBytes",
    }

    /// The state of the queue, on every outcome of a pull.
    PullMessageReply {
        /// Broker to ask next time; 0 is the master.
        suggest_which_broker_id: i64 required "suggestWhichBrokerId",
        /// Offset to pull from next.
        next_begin_offset: i64 required "nextBeginOffset",
        /// First offset that exists.
        min_offset: i64 required "minOffset",
        /// End of the queue: the offset that the next message will get.
        max_offset: i64 required "maxOffset",
        /// Always 0 here.
        offset_delta: i64 optional "offsetDelta",
        /// System flag of the topic.
        topic_sys_flag: i32 optional "topicSysFlag",
        /// System flag of the group.
        group_sys_flag: i32 optional "groupSysFlag",
        /// Who forbids reading, with response code `NoPermission`: 1 broker, 2 group, 3 topic, 4 broadcasting.
        forbidden_type: i32 optional "forbiddenType",
    }
}
