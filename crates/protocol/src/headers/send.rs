//! Sending: codes 10, 310 and 320.

use bytes::BytesMut;

use super::header_fields;
use crate::frame::SerializeType;
use crate::header::{self, Header};
use crate::response::ResponseCode;

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

/// Fields that every reply to a send has, refusals included: Java clients fail on a send reply without any.
pub const REGION: [(&str, &str); 2] = [("MSG_REGION", "DefaultRegion"), ("TRACE_ON", "true")];

impl SendMessageReply<'_> {
    /// Appends the whole frame of the answer to an accepted send: by far the most frequent reply, so the usual JSON is put
    /// together from few pieces.
    pub fn encode_accepted(&self, opaque: i32, serialize_type: SerializeType, out: &mut BytesMut) {
        if serialize_type == SerializeType::Json && header::is_plain(&self.msg_id) {
            let transaction_id = self.transaction_id.as_deref();
            if transaction_id.is_none_or(header::is_plain) {
                return self.encode_json(transaction_id, opaque, out);
            }
        }
        let header = Header::response(ResponseCode::Success.code(), opaque, None, None);
        header.encode_typed(self, &REGION, serialize_type, 0, out);
    }

    fn encode_json(&self, transaction_id: Option<&str>, opaque: i32, out: &mut BytesMut) {
        let start = crate::frame::begin(out);
        let (mut queue_id, mut queue_offset) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (mut number, mut version) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (before_id, id) = transaction_id.map_or(("", ""), |id| ("\",\"transactionId\":\"", id));
        let pieces = [
            "{\"code\":0,\"extFields\":{\"msgId\":\"",
            &self.msg_id,
            "\",\"queueId\":\"",
            queue_id.format(self.queue_id),
            "\",\"queueOffset\":\"",
            queue_offset.format(self.queue_offset),
            before_id,
            id,
            "\",\"MSG_REGION\":\"DefaultRegion\",\"TRACE_ON\":\"true\"},\"flag\":1,\"language\":\"JAVA\",\"opaque\":",
            number.format(opaque),
            ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":",
            version.format(crate::VERSION),
            "}",
        ];
        out.reserve(pieces.iter().map(|piece| piece.len()).sum());
        pieces.iter().for_each(|piece| out.extend_from_slice(piece.as_bytes()));
        crate::frame::finish(out, start, SerializeType::Json, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_short_way_writes_what_the_long_way_writes(
            msg_id in "[0-9A-F]{32}|.{0,6}", queue_id in any::<i32>(), queue_offset in any::<i64>(), opaque in any::<i32>(),
            id in proptest::option::of("[0-9A-F]{32}|.{0,70}"), compact in any::<bool>(),
        ) {
            let serialize_type = if compact { SerializeType::Compact } else { SerializeType::Json };
            let reply = SendMessageReply {
                msg_id: msg_id.into(), queue_id, queue_offset, transaction_id: id.map(Into::into),
                borrows: std::marker::PhantomData,
            };
            let (mut short, mut long) = (BytesMut::new(), BytesMut::new());
            reply.encode_accepted(opaque, serialize_type, &mut short);
            let header = Header::response(ResponseCode::Success.code(), opaque, None, None);
            header.encode_typed(&reply, &REGION, serialize_type, 0, &mut long);
            prop_assert_eq!(short, long);
        }
    }
}
