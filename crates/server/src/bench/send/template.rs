//! Requests to send messages: encoded once for each queue, then copied and stamped.
//!
//! What differs from one request to the next has a fixed width: the opaque (ten digits), the born time (thirteen
//! digits), and the last twelve digits of each client message id. A load that is spread over many topics has one
//! template for all of them, in which the number in the topic's name and the queue id have a fixed width too.

use std::net::{IpAddr, Ipv4Addr};

use bytes::{Bytes, BytesMut};
use cometmq_protocol::headers::send::SendMessageHeader;
use cometmq_protocol::message::batch::{self, BatchMessage};
use cometmq_protocol::message::ids::UniqueIds;
use cometmq_protocol::message::properties::{NAME_END, VALUE_END, key};
use cometmq_protocol::names::AUTO_CREATE_TOPIC;
use cometmq_protocol::{Fields, Header, Millis, RequestCode, SerializeType};

/// Group of the producers.
const GROUP: &str = "BenchProducer";
/// Queues that the Java client asks for when a topic is created.
const NEW_TOPIC_QUEUES: i32 = 4;
/// Stands for the opaque. Real ones have ten digits too, see [`OPAQUE_MIN`].
const OPAQUE_MARK: i32 = 2_000_000_000;
/// Stands for the born time.
const BORN_MARK: i64 = 1_111_111_111_111;
/// Digits of the client message id that differ: milliseconds and counter.
const KEY_DIGITS: usize = 12;
/// Digits of a client message id before them.
const KEY_PREFIX: usize = 20;

/// Digits of the number at the end of a topic's name, where there are many.
const TOPIC_DIGITS: usize = 6;
/// Digits of a queue id where there are many topics. Leading zeros change no number.
const QUEUE_DIGITS: usize = 5;
/// Stands for the queue id: as many digits as are stamped over it.
const QUEUE_MARK: i32 = 10_000;

/// Most topics that a load can be spread over.
pub(super) const TOPICS_MAX: u64 = 10_u64.pow(TOPIC_DIGITS as u32);

/// All opaques from here to [`OPAQUE_MAX`] have ten digits.
pub(super) const OPAQUE_MIN: i32 = 1_000_000_000;
/// The largest opaque that may be used.
pub(super) const OPAQUE_MAX: i32 = OPAQUE_MARK - 1;

/// What all requests of a run have in common.
#[derive(Clone, Debug)]
pub(super) struct Shape<'a> {
    /// Topic.
    pub(super) topic: &'a str,
    /// Broker that the queues are on.
    pub(super) broker_name: &'a str,
    /// Bytes of each message's body.
    pub(super) body_bytes: usize,
    /// Messages of a request; one is sent by itself, more as a batch.
    pub(super) batch: usize,
}

/// The name of one of many topics.
pub(super) fn numbered(topic: &str, number: u64) -> String {
    format!("{topic}-{number:0TOPIC_DIGITS$}")
}

/// A load over the queues 0 to `queues - 1` of many [`numbered`] topics: queue by queue, then topic by topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    /// Topics.
    pub(super) topics: u64,
    /// Queues of each that are used.
    pub(super) queues: u64,
    /// Which of all requests is this connection's first.
    pub(super) first: u64,
    /// Connections that share them.
    pub(super) stride: u64,
}

/// What one request is stamped with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// Matches the reply.
    pub(super) opaque: i32,
    /// When the messages were made.
    pub(super) born: Millis,
}

/// The requests of one connection: one for each queue, in turn.
#[derive(Debug)]
pub(super) struct Templates {
    heads: Vec<Head>,
    turn: usize,
    body: Bytes,
    /// Where the ids of a batch's messages stand in the body.
    body_keys_at: Vec<usize>,
    keys: Keys,
    places: Option<Places>,
}

/// Where the topic and the queue of a spread load stand in its only head, and which of them are next.
#[derive(Debug)]
struct Places {
    spread: Spread,
    next: u64,
    topic_at: usize,
    queue_at: usize,
}

/// A frame without its body.
#[derive(Debug)]
struct Head {
    bytes: Bytes,
    opaque_at: usize,
    born_at: usize,
    key_at: usize,
}

/// Numbers the messages of a connection.
#[derive(Debug)]
struct Keys {
    prefix: String,
    next: u64,
}

impl Templates {
    /// Of the connection `salt` of this process; its first request goes to a queue that depends on it.
    pub(super) fn new(shape: &Shape<'_>, queue_ids: &[i32], salt: u32) -> Templates {
        assert!(!queue_ids.is_empty(), "a route without queues was refused");
        Templates::with(shape, queue_ids, salt, salt as usize % queue_ids.len())
    }

    /// Over many topics whose names begin with the one of `shape`.
    pub(super) fn spread(shape: &Shape<'_>, spread: Spread, salt: u32) -> Templates {
        let topic = numbered(shape.topic, 0);
        let mut templates = Templates::with(&Shape { topic: &topic, ..*shape }, &[QUEUE_MARK], salt, 0);
        let head = &templates.heads[0].bytes;
        let topic_at = after(head, "\"b\":\"") + topic.len() - TOPIC_DIGITS;
        let queue_at = after(head, "\"e\":\"");
        templates.places = Some(Places { spread, next: spread.first, topic_at, queue_at });
        templates
    }

    fn with(shape: &Shape<'_>, queue_ids: &[i32], salt: u32, turn: usize) -> Templates {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let mut prefix = UniqueIds::new(ip, std::process::id(), salt).next(0);
        prefix.truncate(KEY_PREFIX);
        let keys = Keys { prefix, next: 0 };
        let (body, body_keys_at) = body(shape, &keys);
        let heads = queue_ids.iter().map(|id| Head::new(shape, *id, &keys, body.len())).collect();
        Templates { heads, turn, body, body_keys_at, keys, places: None }
    }

    /// Bytes of a request.
    pub(super) fn request_bytes(&self) -> usize {
        self.heads[0].bytes.len() + self.body.len()
    }

    /// Appends the next request to `out`.
    pub(super) fn write(&mut self, stamp: Stamp, out: &mut BytesMut) {
        let head = &self.heads[self.turn];
        self.turn = if self.turn + 1 == self.heads.len() { 0 } else { self.turn + 1 };
        let start = out.len();
        out.extend_from_slice(&head.bytes);
        let frame = &mut out[start..];
        digits(stamp.opaque.unsigned_abs().into(), &mut frame[head.opaque_at..][..10]);
        digits(stamp.born.0.unsigned_abs(), &mut frame[head.born_at..][..13]);
        self.keys.stamp(&mut frame[head.key_at..]);
        if let Some(places) = &mut self.places {
            places.stamp(frame);
        }
        let start = out.len();
        out.extend_from_slice(&self.body);
        for at in &self.body_keys_at {
            self.keys.stamp(&mut out[start + at..]);
        }
    }
}

impl Head {
    fn new(shape: &Shape<'_>, queue_id: i32, keys: &Keys, body_bytes: usize) -> Head {
        let batched = shape.batch > 1;
        let code = if batched { RequestCode::SendBatchMessage } else { RequestCode::SendMessageV2 };
        let fields = SendMessageHeader {
            producer_group: GROUP.into(),
            topic: shape.topic.into(),
            default_topic: AUTO_CREATE_TOPIC.into(),
            default_topic_queue_nums: NEW_TOPIC_QUEUES,
            queue_id,
            sys_flag: 0,
            born_timestamp: BORN_MARK,
            flag: 0,
            properties: Some(properties(keys, !batched).into()),
            reconsume_times: Some(0),
            unit_mode: Some(false),
            max_reconsume_times: None,
            batch: Some(batched),
            broker_name: Some(shape.broker_name.into()),
            borrows: std::marker::PhantomData,
        };
        let mut out = BytesMut::new();
        let header = Header::request(code.code(), OPAQUE_MARK, Fields::default());
        header.encode_typed(&fields, &[], SerializeType::Json, body_bytes, &mut out);
        // Each text below holds characters that no topic or broker name can, so it is found where it was written.
        Head {
            opaque_at: after(&out, "\"opaque\":"),
            born_at: after(&out, "\"g\":\""),
            key_at: after(&out, "UNIQ_KEY\\u0001"),
            bytes: out.freeze(),
        }
    }
}

impl Places {
    /// Makes the request in `frame` one to the next queue.
    fn stamp(&mut self, frame: &mut [u8]) {
        let Spread { topics, queues, stride, .. } = self.spread;
        let (topic, queue) = (self.next / queues % topics, self.next % queues);
        self.next = (self.next + stride) % (topics * queues);
        digits(topic, &mut frame[self.topic_at..][..TOPIC_DIGITS]);
        digits(queue, &mut frame[self.queue_at..][..QUEUE_DIGITS]);
    }
}

impl Keys {
    /// A whole id, with which a place for later ones is filled.
    fn blank(&self) -> String {
        format!("{}{:0KEY_DIGITS$}", self.prefix, 0)
    }

    /// Makes the id at the front of `bytes` the next one.
    fn stamp(&mut self, bytes: &mut [u8]) {
        // The clients put milliseconds and a counter here; one long counter is as unique and needs no clock.
        let mut rest = self.next;
        self.next += 1;
        for digit in bytes[KEY_PREFIX..KEY_PREFIX + KEY_DIGITS].iter_mut().rev() {
            *digit = b"0123456789ABCDEF"[(rest & 15) as usize];
            rest >>= 4;
        }
    }
}

/// The property text that the Java quick start sends; without a tag the one of a batch as a whole.
fn properties(keys: &Keys, tagged: bool) -> String {
    let (name, value) = (char::from(NAME_END), char::from(VALUE_END));
    let (uniq_key, wait, tags) = (key::UNIQ_KEY, key::WAIT, key::TAGS);
    let text = format!("{uniq_key}{name}{}{value}{wait}{name}true{value}", keys.blank());
    if tagged { format!("{text}{tags}{name}TagA{value}") } else { text }
}

/// The body of a request, and where in it there are ids.
fn body(shape: &Shape<'_>, keys: &Keys) -> (Bytes, Vec<usize>) {
    let text: Vec<u8> = (b'a'..=b'z').cycle().take(shape.body_bytes).collect();
    if shape.batch == 1 {
        return (text.into(), Vec::new());
    }
    let properties = properties(keys, true);
    let key_in_properties = key::UNIQ_KEY.len() + 1;
    let message = BatchMessage { flag: 0, body: &text, properties: properties.as_bytes() };
    let (mut out, mut keys_at) = (BytesMut::new(), Vec::with_capacity(shape.batch));
    for _ in 0..shape.batch {
        batch::encode(&message, &mut out);
        keys_at.push(out.len() - properties.len() + key_in_properties);
    }
    (out.freeze(), keys_at)
}

/// Where `text` ends in `bytes`.
fn after(bytes: &[u8], text: &str) -> usize {
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    at.expect("the text was written") + text.len()
}

/// Writes `number` over the whole of `place`, with leading zeros.
fn digits(mut number: u64, place: &mut [u8]) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    debug_assert_eq!(number, 0, "the number has no more digits than its place");
}

#[cfg(test)]
mod tests {
    use super::*;
    use cometmq_protocol::headers::HeaderFields;
    use cometmq_protocol::message::Properties;
    use cometmq_protocol::{Frame, FrameLimits, frame};

    const BORN: Millis = Millis(1_795_195_088_389);

    fn templates(batch: usize, queue_ids: &[i32]) -> Templates {
        let shape = Shape { topic: "T", broker_name: "broker-a", body_bytes: 5, batch };
        Templates::new(&shape, queue_ids, 0)
    }

    fn next(templates: &mut Templates, opaque: i32) -> Frame {
        let mut out = BytesMut::new();
        templates.write(Stamp { opaque, born: BORN }, &mut out);
        assert_eq!(out.len(), templates.request_bytes());
        let frame = frame::cut(&mut out, FrameLimits::default()).unwrap().unwrap();
        assert!(out.is_empty());
        frame
    }

    fn uniq_key(properties: &[u8]) -> &str {
        Properties(properties).iter().find(|(name, _)| *name == key::UNIQ_KEY).unwrap().1
    }

    #[test]
    fn a_stamped_request_reads_as_if_it_was_encoded() {
        let mut templates = templates(1, &[3, 4]);
        let mut ids = Vec::new();
        for (opaque, queue_id) in [(OPAQUE_MIN, 3), (OPAQUE_MAX, 4), (1_234_567_890, 3)] {
            let frame = next(&mut templates, opaque);
            let mut header = Header::decode(&frame).unwrap();
            assert_eq!((header.code, header.opaque, header.flag), (310, opaque, 0));
            let fields = SendMessageHeader::decode(header.fields.as_mut().unwrap()).unwrap();
            assert_eq!((fields.queue_id, fields.born_timestamp), (queue_id, BORN.0));
            assert_eq!((fields.batch, &frame.body[..]), (Some(false), &b"abcde"[..]));
            let properties = fields.properties.unwrap();
            let names: Vec<_> = Properties(properties.as_bytes()).iter().map(|(name, _)| name).collect();
            assert_eq!(names, ["UNIQ_KEY", "WAIT", "TAGS"]);
            ids.push(uniq_key(properties.as_bytes()).to_owned());
        }
        assert!(ids.iter().all(|id| id.len() == 32));
        ids.dedup();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn a_spread_load_goes_round_all_queues_of_all_topics() {
        let shape = Shape { topic: "T", broker_name: "broker-a", body_bytes: 5, batch: 1 };
        let spread = Spread { topics: 2, queues: 2, first: 1, stride: 3 };
        let mut templates = Templates::spread(&shape, spread, 0);
        let mut places = Vec::new();
        for opaque in OPAQUE_MIN..OPAQUE_MIN + 5 {
            let frame = next(&mut templates, opaque);
            let mut header = Header::decode(&frame).unwrap();
            let fields = SendMessageHeader::decode(header.fields.as_mut().unwrap()).unwrap();
            places.push((fields.topic.to_string(), fields.queue_id));
        }
        let place = |topic, queue| (numbered("T", topic), queue);
        assert_eq!(places, [place(0, 1), place(0, 0), place(1, 1), place(1, 0), place(0, 1)]);
        assert_eq!(places[2].0, "T-000001");
    }

    #[test]
    fn every_message_of_a_batch_has_its_own_id() {
        let mut templates = templates(3, &[0]);
        let frames = [next(&mut templates, OPAQUE_MIN), next(&mut templates, OPAQUE_MIN)];
        let mut ids = Vec::new();
        for frame in &frames {
            let header = Header::decode(frame).unwrap();
            assert_eq!((header.code, header.field("m")), (320, Some("true")));
            ids.push(uniq_key(header.field("i").unwrap().as_bytes()).to_owned());
            let messages = batch::decode(&frame.body).unwrap();
            assert_eq!(messages.len(), 3);
            ids.extend(messages.iter().map(|message| uniq_key(message.properties).to_owned()));
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 8);
    }
}
