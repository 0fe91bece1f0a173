//! The stored record: one message in the commit log, and in the body of a pull reply.
//!
//! ```text
//! 4 total size      4 magic          4 body CRC       4 queue id       4 flag
//! 8 queue offset    8 log offset     4 sysFlag        8 born time      8|20 born host
//! 8 store time      8|20 store host  4 reconsumed     8 prepared transaction offset
//! 4 body length, body      1|2 topic length, topic      2 properties length, properties
//! ```
//!
//! Integers are big-endian. A host is its address (4 or 16 bytes, told by a sysFlag bit) and a 4-byte port.
//! Version 2 differs in the topic length only and is written for topics beyond 127 bytes.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, BytesMut};

use super::sys_flag;
use crate::names::TOPIC_BYTES_MAX;
use crate::units::{LogOffset, Millis, QueueId, QueueOffset};

/// Second word of a record with a one-byte topic length.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Second word of a record with a two-byte topic length.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Second word of the blank record that ends a commit log segment.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;

/// Bytes of a blank record; a segment always keeps this much room behind its last record.
pub const BLANK_BYTES: usize = 8;
/// Longest property text, in bytes: its length is a signed 16-bit number.
pub const PROPERTIES_BYTES_MAX: usize = 32767;
/// A record cannot be shorter than this: version 1, IPv4 hosts, nothing variable.
pub const RECORD_BYTES_MIN: usize = 91;

/// Bytes before the body, with hosts of the longer kind.
const HEAD_BYTES_MAX: usize = RECORD_BYTES_MIN - 3 + 2 * 12;
/// Where the log offset stands in a record.
const LOG_OFFSET_AT: usize = 28;

/// The CRC that a record keeps of its body: CRC-32 (IEEE) cut to 31 bits as Java does, 0 for an empty body.
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// A message that is to be stored: everything but the numbers that storing gives it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Topic, at most 255 bytes.
    pub topic: &'a str,
    /// Queue within the topic.
    pub queue_id: QueueId,
    /// The user's flag.
    pub flag: i32,
    /// Flag bits; the host bits are set from the hosts.
    pub sys_flag: i32,
    /// When the producer made the message.
    pub born_timestamp: Millis,
    /// Where the producer is.
    pub born_host: SocketAddr,
    /// The broker that stores it.
    pub store_host: SocketAddr,
    /// How often consumers failed on it.
    pub reconsume_times: i32,
    /// Log offset of the half message that this one commits, else 0.
    pub prepared_transaction_offset: i64,
    /// The body as the producer sent it.
    pub body: &'a [u8],
    /// CRC of the body, see [`body_crc`].
    pub body_crc: u32,
    /// Property text in two parts that are written one behind the other: the producer's and the broker's. The second
    /// has keys of its own only where the first has no `UNIQ_KEY`.
    pub properties: [&'a [u8]; 2],
}

impl<'a> Record<'a> {
    /// A message without properties or flags that a producer on `host` made at 1 ms, for a broker there.
    pub fn plain(topic: &'a str, queue_id: QueueId, host: SocketAddr, body: &'a [u8]) -> Record<'a> {
        Record {
            topic,
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_timestamp: Millis(1),
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body,
            body_crc: body_crc(body),
            properties: [b"", b""],
        }
    }
}

impl Record<'_> {
    /// Bytes that the record takes in the log.
    pub fn encoded_len(&self) -> usize {
        let topic_length = if self.topic.len() > TOPIC_BYTES_MAX { 2 } else { 1 };
        RECORD_BYTES_MIN - 1 - 16
            + host_bytes(&self.born_host)
            + host_bytes(&self.store_host)
            + topic_length
            + self.body.len()
            + self.topic.len()
            + self.properties_len()
    }

    /// Bytes of the whole property text; must not exceed [`PROPERTIES_BYTES_MAX`].
    pub fn properties_len(&self) -> usize {
        self.properties[0].len() + self.properties[1].len()
    }

    /// Appends the record to `out` with the numbers that storing gave it.
    pub fn encode(
        &self,
        queue_offset: QueueOffset,
        log_offset: LogOffset,
        stored_at: Millis,
        out: &mut BytesMut,
    ) {
        assert!(self.properties_len() <= PROPERTIES_BYTES_MAX, "the property text was measured before");
        let total = self.encoded_len();
        let start = out.len();
        let v2 = self.topic.len() > TOPIC_BYTES_MAX;
        let mut flags = self.sys_flag & !(sys_flag::BORN_HOST_V6 | sys_flag::STORE_HOST_V6);
        flags |= if self.born_host.is_ipv6() { sys_flag::BORN_HOST_V6 } else { 0 };
        flags |= if self.store_host.is_ipv6() { sys_flag::STORE_HOST_V6 } else { 0 };
        out.reserve(total);
        // Put together aside: the buffer behind `out` would be measured anew for each of these.
        let mut head = [0; HEAD_BYTES_MAX];
        let mut rest = &mut head[..];
        rest.put_u32(total as u32);
        rest.put_u32(if v2 { MAGIC_V2 } else { MAGIC_V1 });
        rest.put_u32(self.body_crc);
        rest.put_i32(self.queue_id.0);
        rest.put_i32(self.flag);
        rest.put_i64(queue_offset.0);
        rest.put_i64(log_offset.0);
        rest.put_i32(flags);
        rest.put_i64(self.born_timestamp.0);
        put_host(&self.born_host, &mut rest);
        rest.put_i64(stored_at.0);
        put_host(&self.store_host, &mut rest);
        rest.put_i32(self.reconsume_times);
        rest.put_i64(self.prepared_transaction_offset);
        rest.put_u32(self.body.len() as u32);
        let unused = rest.len();
        out.put_slice(&head[..HEAD_BYTES_MAX - unused]);
        out.put_slice(self.body);
        if v2 {
            out.put_u16(self.topic.len() as u16);
        } else {
            out.put_u8(self.topic.len() as u8);
        }
        out.put_slice(self.topic.as_bytes());
        out.put_u16(self.properties_len() as u16);
        out.put_slice(self.properties[0]);
        out.put_slice(self.properties[1]);
        assert_eq!(out.len() - start, total, "a record is as long as it said");
    }
}

fn host_bytes(host: &SocketAddr) -> usize {
    if host.is_ipv6() { 20 } else { 8 }
}

fn put_host(host: &SocketAddr, out: &mut impl BufMut) {
    match host.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u32(u32::from(host.port()));
}

/// Why bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Fewer bytes than the record needs.
    #[error("record of {needed} bytes has only {found}")]
    Truncated {
        /// Bytes that the record needs.
        needed: usize,
        /// Bytes there.
        found: usize,
    },
    /// The second word is none that a record has.
    #[error("no record here: magic {0:#010x}")]
    Magic(u32),
    /// The lengths inside do not add up to the total size.
    #[error("record of {total} bytes has parts that need {parts}")]
    Lengths {
        /// The record's own total.
        total: usize,
        /// What its parts add up to.
        parts: usize,
    },
    /// The body is not what was stored.
    #[error("body CRC is {found:#010x}, the record says {stored:#010x}")]
    Crc {
        /// CRC in the record.
        stored: u32,
        /// CRC of the bytes.
        found: u32,
    },
    /// The topic is not text.
    #[error("topic is not UTF-8")]
    Topic,
    /// The length of the property text is negative where Java reads it.
    #[error("properties of {bytes} bytes, at most {PROPERTIES_BYTES_MAX} are possible")]
    Properties {
        /// Length that the record claims.
        bytes: usize,
    },
}

/// A record as it lies in a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Bytes of the whole record.
    pub total: usize,
    /// CRC of the body as stored.
    pub body_crc: u32,
    /// Queue within the topic.
    pub queue_id: QueueId,
    /// The user's flag.
    pub flag: i32,
    /// Position in the queue.
    pub queue_offset: QueueOffset,
    /// Position in the commit log.
    pub log_offset: LogOffset,
    /// Bits of `sys_flag`.
    pub sys_flag: i32,
    /// When the producer made the message.
    pub born_timestamp: Millis,
    /// Where the producer was.
    pub born_host: SocketAddr,
    /// When the broker stored it.
    pub store_timestamp: Millis,
    /// The broker that stored it.
    pub store_host: SocketAddr,
    /// How often consumers failed on it.
    pub reconsume_times: i32,
    /// Log offset of the half message that this one commits, else 0.
    pub prepared_transaction_offset: i64,
    /// The body, possibly compressed.
    pub body: &'a [u8],
    /// Topic.
    pub topic: &'a str,
    /// Property text.
    pub properties: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Reads the record at the front of `bytes`, without looking at the body's CRC.
    pub fn decode(bytes: &'a [u8]) -> Result<RecordView<'a>, RecordError> {
        let mut input = Input { rest: bytes, taken: 0 };
        let total = input.u32()? as usize;
        let magic = input.u32()?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(RecordError::Magic(magic));
        }
        if total < RECORD_BYTES_MIN || bytes.len() < total {
            return Err(RecordError::Truncated { needed: total.max(RECORD_BYTES_MIN), found: bytes.len() });
        }
        input.rest = &bytes[8..total];
        let body_crc = input.u32()?;
        let queue_id = QueueId(input.i32()?);
        let flag = input.i32()?;
        let queue_offset = QueueOffset(input.i64()?);
        let log_offset = LogOffset(input.i64()?);
        let sys_flag = input.i32()?;
        let born_timestamp = Millis(input.i64()?);
        let born_host = input.host(sys_flag & sys_flag::BORN_HOST_V6 != 0)?;
        let store_timestamp = Millis(input.i64()?);
        let store_host = input.host(sys_flag & sys_flag::STORE_HOST_V6 != 0)?;
        let reconsume_times = input.i32()?;
        let prepared_transaction_offset = input.i64()?;
        let body_bytes = input.u32()? as usize;
        let body = input.slice(body_bytes)?;
        let topic_bytes =
            if magic == MAGIC_V2 { usize::from(input.u16()?) } else { usize::from(input.array::<1>()?[0]) };
        let topic = std::str::from_utf8(input.slice(topic_bytes)?).map_err(|_| RecordError::Topic)?;
        let properties_bytes = usize::from(input.u16()?);
        if properties_bytes > PROPERTIES_BYTES_MAX {
            return Err(RecordError::Properties { bytes: properties_bytes });
        }
        let properties = input.slice(properties_bytes)?;
        if input.taken != total {
            return Err(RecordError::Lengths { total, parts: input.taken });
        }
        Ok(RecordView {
            total,
            body_crc,
            queue_id,
            flag,
            queue_offset,
            log_offset,
            sys_flag,
            born_timestamp,
            born_host,
            store_timestamp,
            store_host,
            reconsume_times,
            prepared_transaction_offset,
            body,
            topic,
            properties,
        })
    }

    /// Checks that the body is what was stored.
    pub fn check_body(&self) -> Result<(), RecordError> {
        let found = body_crc(self.body);
        if found == self.body_crc { Ok(()) } else { Err(RecordError::Crc { stored: self.body_crc, found }) }
    }

    /// The record as one that could be stored again; encoding it gives the same bytes.
    pub fn to_record(&self) -> Record<'a> {
        Record {
            topic: self.topic,
            queue_id: self.queue_id,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_timestamp: self.born_timestamp,
            born_host: self.born_host,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_transaction_offset: self.prepared_transaction_offset,
            body: self.body,
            body_crc: self.body_crc,
            properties: [self.properties, &[]],
        }
    }
}

/// Whether `bytes` are the whole record that has this position in the log and this place in a queue (topic, queue id,
/// queue offset), without reading what else it holds. With `verify_body` its body must be what was stored.
#[inline]
pub fn is_at(
    bytes: &[u8],
    log_offset: LogOffset,
    (topic, queue_id, queue_offset): (&str, QueueId, QueueOffset),
    verify_body: bool,
) -> bool {
    let Some(fixed) = bytes.first_chunk::<RECORD_BYTES_MIN>() else { return false };
    let long = |at: usize| i64::from(word(fixed, at)) << 32 | i64::from(word(fixed, at + 4));
    word(fixed, 0) as usize == bytes.len()
        && word(fixed, 12) as i32 == queue_id.0
        && long(20) == queue_offset.0
        && long(LOG_OFFSET_AT) == log_offset.0
        && body_for(bytes, fixed, topic.as_bytes())
            .is_some_and(|body| !verify_body || body_crc(body) == word(fixed, 8))
}

/// The body of the record in `bytes`, which begins with `fixed`; `None` when it is of another topic, or its parts do not
/// add up to `bytes`.
#[inline]
fn body_for<'a>(bytes: &'a [u8], fixed: &[u8; RECORD_BYTES_MIN], topic: &[u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.get(body_bytes_at(fixed)..)?.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let (topic_bytes, rest) = match word(fixed, 4) {
        MAGIC_V1 => rest.split_first().map(|(length, rest)| (usize::from(*length), rest))?,
        MAGIC_V2 => {
            rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_be_bytes(*length)), rest))?
        }
        _ => return None,
    };
    let rest = rest.strip_prefix(topic).filter(|_| topic_bytes == topic.len())?;
    let (length, properties) = rest.split_first_chunk()?;
    (usize::from(u16::from_be_bytes(*length)) == properties.len()).then_some(body)
}

/// Where the length of the body stands in a record that begins with `fixed`.
pub(super) fn body_bytes_at(fixed: &[u8; RECORD_BYTES_MIN]) -> usize {
    let host = |sys_flag: u32, bit: i32| if sys_flag & bit as u32 == 0 { 8 } else { 20 };
    let sys_flag = word(fixed, 36);
    68 + host(sys_flag, sys_flag::BORN_HOST_V6) + host(sys_flag, sys_flag::STORE_HOST_V6)
}

fn word(fixed: &[u8; RECORD_BYTES_MIN], at: usize) -> u32 {
    u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
}

/// The records of a pull reply's body, one behind the other. A record that cannot be read ends the list, as in
/// every client.
pub fn records(body: &[u8]) -> impl Iterator<Item = Result<RecordView<'_>, RecordError>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = RecordView::decode(rest);
        rest = record.as_ref().map_or(&[], |record| &rest[record.total..]);
        Some(record)
    })
}

/// The log offset that the record at the front of `bytes` claims, without reading the rest.
pub fn claimed_log_offset(bytes: &[u8]) -> Option<LogOffset> {
    let field = bytes.get(LOG_OFFSET_AT..)?.first_chunk::<8>()?;
    Some(LogOffset(i64::from_be_bytes(*field)))
}

struct Input<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let slice = self.slice(N)?;
        Ok(slice.try_into().expect("a slice of N bytes is an array of N bytes"))
    }

    fn slice(&mut self, bytes: usize) -> Result<&'a [u8], RecordError> {
        let found = self.taken + self.rest.len();
        let Some((head, tail)) = self.rest.split_at_checked(bytes) else {
            return Err(RecordError::Truncated { needed: self.taken.saturating_add(bytes), found });
        };
        self.rest = tail;
        self.taken += bytes;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16, RecordError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, RecordError> {
        self.array().map(u32::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, RecordError> {
        self.array().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, RecordError> {
        self.array().map(i64::from_be_bytes)
    }

    fn host(&mut self, v6: bool) -> Result<SocketAddr, RecordError> {
        let ip = if v6 { IpAddr::from(self.array::<16>()?) } else { IpAddr::from(self.array::<4>()?) };
        // A port beyond 16 bits never comes from a socket; the low bits are what Java shows.
        Ok(SocketAddr::new(ip, self.u32()? as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample<'a>(topic: &'a str, body: &'a [u8], properties: &'a [u8], v6: bool) -> Record<'a> {
        let host: SocketAddr =
            if v6 { "[2001:db8::1]:10911".parse().unwrap() } else { "10.1.2.3:10911".parse().unwrap() };
        Record {
            topic,
            queue_id: QueueId(3),
            flag: 77,
            sys_flag: 0,
            born_timestamp: Millis(1_795_195_088_389),
            born_host: host,
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 1,
            prepared_transaction_offset: 0,
            body,
            body_crc: body_crc(body),
            properties: [properties, b""],
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(topic in "[a-zA-Z]{1,200}", v6: bool,
                                       body in proptest::collection::vec(any::<u8>(), 0..300),
                                       properties in proptest::collection::vec(any::<u8>(), 0..300)) {
            let record = sample(&topic, &body, &properties, v6);
            let mut out = BytesMut::new();
            record.encode(QueueOffset(5), LogOffset(1 << 40), Millis(9), &mut out);
            let view = RecordView::decode(&out).unwrap();
            prop_assert_eq!(view.check_body(), Ok(()));
            prop_assert_eq!((view.topic, view.body, view.properties), (&topic[..], &body[..], &properties[..]));
            prop_assert_eq!(view.born_host, record.born_host);
            let at = |log_offset, topic: &str, queue_id, queue_offset| {
                is_at(&out, LogOffset(log_offset), (topic, QueueId(queue_id), QueueOffset(queue_offset)), true)
            };
            prop_assert!(at(1 << 40, &topic, 3, 5));
            let others = [at(1 << 41, &topic, 3, 5), at(1 << 40, "#", 3, 5), at(1 << 40, &topic, 2, 5),
                          at(1 << 40, &topic, 3, 6), at(1 << 40, &topic, 3, 5 << 32)];
            prop_assert_eq!(others, [false; 5]);
            let place = (&topic[..], QueueId(3), QueueOffset(5));
            prop_assert!(!is_at(&out[..out.len() - 1], LogOffset(1 << 40), place, true));
            let mut again = BytesMut::new();
            view.to_record().encode(view.queue_offset, view.log_offset, view.store_timestamp, &mut again);
            prop_assert_eq!(again, out);
        }

        #[test]
        fn any_bytes_are_a_record_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if bytes.len() > 8 {
                bytes[..8].copy_from_slice(&[0, 0, 0, 120, 0xDA, 0xA3, 0x20, 0xA7]);
            }
            let place = ("", QueueId(0), QueueOffset(0));
            let _ = (RecordView::decode(&bytes), is_at(&bytes, LogOffset(0), place, false));
            let _ = bytes.first_chunk().map(|fixed| body_for(&bytes, fixed, b""));
        }
    }

    #[test]
    fn properties_that_java_could_not_read_are_refused() {
        let mut out = BytesMut::new();
        let text = vec![b'x'; PROPERTIES_BYTES_MAX];
        sample("T", b"", &text, false).encode(QueueOffset(0), LogOffset(0), Millis(1), &mut out);
        assert_eq!(RecordView::decode(&out).unwrap().properties.len(), PROPERTIES_BYTES_MAX);
        out.put_u8(b'x');
        let total = out.len() as u32;
        out[..4].copy_from_slice(&total.to_be_bytes());
        let length_at = out.len() - PROPERTIES_BYTES_MAX - 3;
        out[length_at..length_at + 2].copy_from_slice(&0x8000u16.to_be_bytes());
        assert_eq!(RecordView::decode(&out), Err(RecordError::Properties { bytes: 0x8000 }));
    }

    #[test]
    fn a_flipped_bit_in_the_body_is_found() {
        let mut out = BytesMut::new();
        sample("T", b"hello", b"", false).encode(QueueOffset(0), LogOffset(0), Millis(1), &mut out);
        let is_there = |out: &[u8]| is_at(out, LogOffset(0), ("T", QueueId(3), QueueOffset(0)), true);
        assert!(is_there(&out));
        out[90] ^= 1;
        assert!(matches!(RecordView::decode(&out).unwrap().check_body(), Err(RecordError::Crc { .. })));
        assert!(!is_there(&out));
    }
}
