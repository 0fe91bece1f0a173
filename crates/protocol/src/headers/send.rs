//! Sending: codes 10, 310 and 320.

use std::net::{SocketAddr, SocketAddrV4};

use bytes::BytesMut;

use super::header_fields;
use crate::frame::SerializeType;
use crate::header::{self, Header};
use crate::message::ids;
use crate::response::ResponseCode;
use crate::units::{LogOffset, QueueId, QueueOffset};

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
    /// Appends the whole frame of the answer to an accepted send.
    pub fn encode_accepted(&self, opaque: i32, serialize_type: SerializeType, out: &mut BytesMut) {
        let header = Header::response(ResponseCode::Success.code(), opaque, None, None);
        header.encode_typed(self, &REGION, serialize_type, 0, out);
    }
}

/// One message that was stored.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// The broker, as its record says.
    pub host: SocketAddr,
    /// Position in the log.
    pub log_offset: LogOffset,
    /// Queue that took it.
    pub queue_id: QueueId,
    /// Position in that queue.
    pub queue_offset: QueueOffset,
    /// The client's own message id.
    pub unique_key: &'a str,
}

impl Stored<'_> {
    /// Appends the whole frame of the answer to its send: by far the most frequent reply, so the usual JSON is put together
    /// from few pieces.
    pub fn encode(&self, opaque: i32, serialize_type: SerializeType, out: &mut BytesMut) {
        match self.host {
            SocketAddr::V4(host)
                if serialize_type == SerializeType::Json && header::is_plain(self.unique_key) =>
            {
                self.encode_json(host, opaque, out);
            }
            host => SendMessageReply {
                msg_id: ids::offset_id(host, self.log_offset).into(),
                queue_id: self.queue_id.0,
                queue_offset: self.queue_offset.0,
                transaction_id: Some(self.unique_key.into()),
                borrows: std::marker::PhantomData,
            }
            .encode_accepted(opaque, serialize_type, out),
        }
    }

    fn encode_json(&self, host: SocketAddrV4, opaque: i32, out: &mut BytesMut) {
        let start = crate::frame::begin(out);
        let text_at = out.len();
        // In one piece: the buffer would be measured anew for each part.
        out.resize(text_at + JSON_BYTES_MAX, 0);
        let mut text = Text(&mut out[text_at..]);
        text.push(b"{\"code\":0,\"extFields\":{\"msgId\":\"");
        text.push(ids::offset_id_v4(host, self.log_offset).as_flattened());
        text.push(b"\",\"queueId\":\"");
        text.push_number(i64::from(self.queue_id.0));
        text.push(b"\",\"queueOffset\":\"");
        text.push_number(self.queue_offset.0);
        text.push(b"\",\"transactionId\":\"");
        text.push(self.unique_key.as_bytes());
        text.push(
            b"\",\"MSG_REGION\":\"DefaultRegion\",\"TRACE_ON\":\"true\"},\"flag\":1,\"language\":\"JAVA\",\"opaque\":",
        );
        text.push_number(i64::from(opaque));
        const { assert!(crate::VERSION == 479, "as below") };
        text.push(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}");
        let rest = text.0.len();
        out.truncate(out.len() - rest);
        crate::frame::finish(out, start, SerializeType::Json, 0);
    }
}

/// More than the JSON of a reply has with a message id that is plain: 289 bytes at most beside that.
const JSON_BYTES_MAX: usize = 320 + header::PLAIN_BYTES_MAX;

/// The rest of the room for a text.
struct Text<'a>(&'a mut [u8]);

impl Text<'_> {
    #[inline(always)]
    fn push(&mut self, piece: &[u8]) {
        let (now, later) = std::mem::take(&mut self.0).split_at_mut(piece.len());
        now.copy_from_slice(piece);
        self.0 = later;
    }

    #[inline(always)]
    fn push_number(&mut self, number: i64) {
        match u8::try_from(number) {
            Ok(digit @ 0..10) => self.push(&[b'0' + digit]),
            _ => self.push(itoa::Buffer::new().format(number).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_short_way_writes_what_the_long_way_writes(
            v6 in any::<bool>(), log_offset in any::<i64>(), queue_id in any::<i32>(), queue_offset in any::<i64>(),
            opaque in any::<i32>(), unique_key in "[0-9A-F]{32}|.{0,70}", compact in any::<bool>(),
        ) {
            let serialize_type = if compact { SerializeType::Compact } else { SerializeType::Json };
            let host = if v6 { "[2001:db8::7]:10911" } else { "127.0.0.1:10911" }.parse().unwrap();
            let stored = Stored {
                host,
                log_offset: LogOffset(log_offset),
                queue_id: QueueId(queue_id),
                queue_offset: QueueOffset(queue_offset),
                unique_key: &unique_key,
            };
            let reply = SendMessageReply {
                msg_id: ids::offset_id(host, LogOffset(log_offset)).into(),
                queue_id,
                queue_offset,
                transaction_id: Some((&*unique_key).into()),
                borrows: std::marker::PhantomData,
            };
            let (mut short, mut long) = (BytesMut::new(), BytesMut::new());
            stored.encode(opaque, serialize_type, &mut short);
            reply.encode_accepted(opaque, serialize_type, &mut long);
            prop_assert_eq!(short, long);
        }
    }
}
