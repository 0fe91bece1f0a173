//! Messages as consumers get them: slices of the reply in which they came.

use std::io::Read;
use std::net::SocketAddr;

use bytes::Bytes;
use cometmq_protocol::message::properties::key;
use cometmq_protocol::message::record::records;
use cometmq_protocol::message::{Properties, RecordError, RecordView, ids, sys_flag};
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};

/// Largest body after decompression, in bytes.
pub const UNPACKED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A message from a broker. Clones share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Topic that it was sent to; of a message that returned for a retry the one that it first came from.
    pub topic: String,
    /// Broker that it came from.
    pub broker_name: String,
    /// Queue that it came from.
    pub queue_id: QueueId,
    /// Position in that queue.
    pub queue_offset: QueueOffset,
    /// Position in the broker's commit log.
    pub log_offset: LogOffset,
    /// The user's own flag.
    pub flag: i32,
    /// When the producer made it.
    pub born_timestamp: Millis,
    /// Where the producer was.
    pub born_host: SocketAddr,
    /// When the broker stored it.
    pub store_timestamp: Millis,
    /// The broker that stored it.
    pub store_host: SocketAddr,
    /// How often consuming it failed before.
    pub reconsume_times: i32,
    sys_flag: i32,
    packed_body: Bytes,
    properties: Bytes,
}

/// Why a body cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Compressed in a way that this client does not know.
    #[error("the body is compressed with {0}, which this client cannot read; let the producer use zlib")]
    Compression(&'static str),
    /// The compressed bytes are damaged.
    #[error("the body's zlib data is damaged ({0}); the producer sent it so, or it changed on its way")]
    Damaged(String),
    /// Larger than any honest body.
    #[error("the body unpacks to more than {limit} bytes")]
    TooLarge {
        /// Limit in force.
        limit: usize,
    },
}

impl ReceivedMessage {
    /// Reads all records of a pull reply's `body`; a damaged one ends the list and is told last.
    pub fn decode_all(
        broker_name: &str,
        body: &Bytes,
    ) -> impl Iterator<Item = Result<ReceivedMessage, RecordError>> {
        records(body)
            .map(move |record| record.map(|view| ReceivedMessage::from_view(broker_name, body, &view)))
    }

    fn from_view(broker_name: &str, bytes: &Bytes, view: &RecordView<'_>) -> ReceivedMessage {
        let properties = Properties(view.properties);
        ReceivedMessage {
            topic: properties.get(key::RETRY_TOPIC).unwrap_or(view.topic).to_owned(),
            broker_name: broker_name.to_owned(),
            queue_id: view.queue_id,
            queue_offset: view.queue_offset,
            log_offset: view.log_offset,
            flag: view.flag,
            born_timestamp: view.born_timestamp,
            born_host: view.born_host,
            store_timestamp: view.store_timestamp,
            store_host: view.store_host,
            reconsume_times: view.reconsume_times,
            sys_flag: view.sys_flag,
            packed_body: bytes.slice_ref(view.body),
            properties: bytes.slice_ref(view.properties),
        }
    }

    /// The body, unpacked if the producer compressed it.
    pub fn body(&self) -> Result<Bytes, BodyError> {
        if self.sys_flag & sys_flag::COMPRESSED == 0 {
            return Ok(self.packed_body.clone());
        }
        match self.sys_flag >> sys_flag::COMPRESSION_SHIFT & 7 {
            0 | 3 => unzip(&self.packed_body),
            1 => Err(BodyError::Compression("LZ4")),
            2 => Err(BodyError::Compression("zstd")),
            _ => Err(BodyError::Compression("an unknown method")),
        }
    }

    /// The id that the producer gave it, by which it stays known through retries.
    pub fn message_id(&self) -> String {
        self.property(key::UNIQ_KEY).map_or_else(|| self.offset_message_id(), str::to_owned)
    }

    /// The id that says where it lies.
    pub fn offset_message_id(&self) -> String {
        ids::offset_id(self.store_host, self.log_offset)
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.property(key::TAGS)
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(key::KEYS).unwrap_or_default().split_ascii_whitespace()
    }

    /// The value of one property.
    pub fn property(&self, name: &str) -> Option<&str> {
        Properties(&self.properties).get(name)
    }

    /// All properties, those of the system among them.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        Properties(&self.properties).iter()
    }

    /// Bytes that it keeps in memory, roughly.
    pub(crate) fn bytes(&self) -> usize {
        self.packed_body.len() + self.properties.len()
    }
}

fn unzip(packed: &[u8]) -> Result<Bytes, BodyError> {
    let mut body = Vec::with_capacity(packed.len().saturating_mul(2).min(UNPACKED_BYTES_MAX));
    let mut reader = flate2::read::ZlibDecoder::new(packed).take(UNPACKED_BYTES_MAX as u64 + 1);
    reader.read_to_end(&mut body).map_err(|error| BodyError::Damaged(error.to_string()))?;
    if body.len() > UNPACKED_BYTES_MAX {
        return Err(BodyError::TooLarge { limit: UNPACKED_BYTES_MAX });
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use cometmq_protocol::message::Record;
    use std::io::Write;

    fn received(sys_flag: i32, body: &[u8], properties: &[u8]) -> ReceivedMessage {
        let host = "127.0.0.1:10911".parse().unwrap();
        let record = Record {
            sys_flag,
            reconsume_times: 2,
            properties: [properties, b""],
            ..Record::plain("%RETRY%g", QueueId(1), host, body)
        };
        let mut out = BytesMut::new();
        record.encode(QueueOffset(5), LogOffset(240), Millis(2), &mut out);
        ReceivedMessage::decode_all("broker-a", &out.freeze()).next().unwrap().unwrap()
    }

    #[test]
    fn a_message_tells_what_its_record_says() {
        let message = received(0, b"hello", b"KEYS\x01a b\x02TAGS\x01t\x02RETRY_TOPIC\x01Orders\x02");
        assert_eq!(message.topic, "Orders");
        assert_eq!(message.body().unwrap(), "hello");
        assert_eq!(message.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(message.tag(), Some("t"));
        assert_eq!(message.message_id(), "7F00000100002A9F00000000000000F0");
    }

    #[test]
    fn compressed_bodies_are_unpacked_or_the_reason_is_told() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(&[b'x'; 5000]).unwrap();
        let packed = zlib.finish().unwrap();
        assert_eq!(received(1, &packed, b"").body().unwrap(), vec![b'x'; 5000]);
        assert_eq!(received(1 | 3 << 8, &packed, b"").body().unwrap(), vec![b'x'; 5000]);
        assert_eq!(received(1 | 1 << 8, &packed, b"").body(), Err(BodyError::Compression("LZ4")));
        assert_eq!(received(1 | 2 << 8, &packed, b"").body(), Err(BodyError::Compression("zstd")));
        assert!(matches!(received(1, b"junk", b"").body(), Err(BodyError::Damaged(_))));
    }
}
