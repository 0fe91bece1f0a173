//! Sending: admits a message by plain law and appends it, or refuses it with a code and a remark.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use cometmq_protocol::body::topic::permission;
use cometmq_protocol::headers::send::{REGION, SendMessageHeader, SendMessageReply, Stored};
use cometmq_protocol::message::properties::{self, key};
use cometmq_protocol::message::record::{self, PROPERTIES_BYTES_MAX, RECORD_BYTES_MIN};
use cometmq_protocol::message::{Marks, Record, batch, ids, sys_flag};
use cometmq_protocol::names::{PROTECTED_TOPICS, RETRY_PREFIX, TopicName};
use cometmq_protocol::{LogOffset, Millis, Peer, QueueId, Reply, ResponseCode};
use cometmq_store::{AppendError, Keys, Patience, Queue};
use smallvec::SmallVec;

use crate::broker::{Asked, Broker, Caller, Turn};
use crate::effects::Effects;
use crate::slow::Undone;
use crate::topic::Topic;

/// Bits of the sysFlag that producers set: whether and how the body is compressed.
const PRODUCER_FLAGS: i32 = sys_flag::COMPRESSED | 7 << sys_flag::COMPRESSION_SHIFT;

/// Bytes of a batch as it is stored beyond which it is refused: no more may wait to be written, whoever sent it. Each of
/// its messages gets all of the batch's properties, so these may be many times as many as were sent.
const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The same of the ids in the reply, which has to fit into a frame.
const BATCH_IDS_BYTES_MAX: usize = 15 * 1024 * 1024;

fn refuse(code: ResponseCode, remark: impl Into<Cow<'static, str>>) -> Reply {
    with_region(Reply::refuse(code, remark))
}

/// With the fields that every reply to a send has.
pub(crate) fn with_region(reply: Reply) -> Reply {
    REGION.iter().fold(reply, |reply, (name, value)| reply.with_field(name, *value))
}

/// Properties that the broker adds to every message, as text.
#[derive(Clone, Debug)]
pub(crate) struct BrokerProperties {
    text: String,
}

impl BrokerProperties {
    pub fn new(cluster: &str) -> BrokerProperties {
        let mut text = String::new();
        properties::push(&mut text, key::CLUSTER, cluster);
        properties::push(&mut text, key::MSG_REGION, "DefaultRegion");
        properties::push(&mut text, key::TRACE_ON, "true");
        BrokerProperties { text }
    }
}

/// What the sends of a turn have in common: messages that come together mostly go to one topic.
#[derive(Debug, Default)]
pub(crate) struct Sends {
    /// A topic that messages may be stored under.
    topic: Option<Arc<Topic>>,
    queues: KnownQueues,
}

/// Queues of one topic.
type KnownQueues = SmallVec<[Arc<Queue>; KNOWN_QUEUES_MAX]>;

/// Most queues of a turn that are remembered.
const KNOWN_QUEUES_MAX: usize = 8;

impl Broker {
    /// Codes 10, 310 and 320. `marks` are those of the properties, if they are known. The reply is held until the store
    /// has what it promises.
    pub(crate) fn send(
        &self,
        turn: &mut Turn<'_>,
        asked: Asked<'_>,
        header: &SendMessageHeader<'_>,
        marks: Option<&Marks>,
        effects: &mut Effects,
    ) -> Result<(), Undone> {
        let Turn { caller, sends, .. } = turn;
        let body = &asked.frame.body;
        if sends.topic.as_ref().is_some_and(|topic| topic.name.as_str() == header.topic) {
            self.check_size(body)?;
        } else {
            let topic = Some(self.admit(caller, header, body, effects)?);
            *sends = Sends { topic, queues: SmallVec::new() };
        }
        let Sends { topic, queues } = sends;
        let topic = topic.as_ref().expect("there is one now");
        let queue_id = self.choose_queue(&caller.peer, header, topic)?;
        let text = header.properties.as_deref().unwrap_or("");
        let found;
        let marks = match marks {
            Some(marks) => marks,
            None => {
                found = Marks::of(text);
                &found
            }
        };
        check_features(marks)?;
        if asked.is_batch || header.batch == Some(true) {
            let topic = Arc::clone(topic);
            return self.store_batch(turn, asked, header, marks, &topic, queue_id);
        }
        let known = marks.unique_key(text);
        let unique_key = match known {
            Some(key) => Cow::Borrowed(key),
            None => Cow::Owned(self.next_unique_key(caller.now)),
        };
        let added = self.added_properties(text, known.is_none().then_some(&*unique_key));
        let properties = [text.as_bytes(), added.as_bytes()];
        let record = self.record(&caller.peer, header, topic, queue_id, body, properties);
        let queue = self.queue_for(caller, topic, queues, queue_id, record.properties_len())?;
        let keys = Keys { unique: Some(&unique_key), words: marks.keys(text) };
        let tags_code = marks.tags_code.unwrap_or(0);
        let placed = self.store.append_one(queue, &record, tags_code, keys, caller.now);
        let (placed, host) = (placed.map_err(append_refused)?, record.store_host);
        if let Some(out) = turn.hold(placed.end, asked.header.is_oneway()) {
            let stored = Stored {
                host,
                log_offset: placed.log_offset,
                queue_id,
                queue_offset: placed.queue_offset,
                unique_key: &unique_key,
            };
            stored.encode(asked.header.opaque, asked.frame.serialize_type, out);
        }
        Ok(())
    }

    /// Whether the message may be stored under its topic at all; makes the topic if that is the rule.
    fn admit(
        &self,
        caller: &Caller,
        header: &SendMessageHeader<'_>,
        body: &Bytes,
        effects: &mut Effects,
    ) -> Result<Arc<Topic>, Undone> {
        if self.config.permission & permission::WRITE == 0 {
            let remark = format!("the broker[{}] sending message is forbidden", self.config.advertised);
            return Err(refuse(ResponseCode::NoPermission, remark).into());
        }
        self.check_size(body)?;
        // Before the topic is made: not all of them exist from the start.
        if PROTECTED_TOPICS.contains(&header.topic.as_ref()) {
            let remark = format!("Sending message to topic[{}] is forbidden.", header.topic);
            return Err(refuse(ResponseCode::NoPermission, remark).into());
        }
        let topic = match self.topics.get(&header.topic) {
            Some(topic) => topic,
            None if caller.patience == Patience::Resident => return Err(Undone::NeedsDisk),
            None => {
                let name = TopicName::parse(&header.topic)
                    .map_err(|error| refuse(ResponseCode::InvalidParameter, error.to_string()))?;
                let wanted = header.default_topic_queue_nums;
                self.topics
                    .get_or_auto_create(&name, &header.default_topic, wanted, caller.now, effects)
                    .map_err(|error| refuse(ResponseCode::SystemError, error.to_string()))?
                    .ok_or_else(|| refuse(ResponseCode::TopicNotExist, unknown_topic(&name, &caller.peer)))?
            }
        };
        match topic.unserved() {
            Some(remark) => Err(refuse(ResponseCode::NoPermission, remark).into()),
            None => Ok(topic),
        }
    }

    fn check_size(&self, body: &Bytes) -> Result<(), Reply> {
        let fits = body.len() <= self.config.message_bytes_max;
        if fits { Ok(()) } else { Err(self.illegal_message(body.len(), 0)) }
    }

    fn choose_queue(
        &self,
        peer: &Peer,
        header: &SendMessageHeader<'_>,
        topic: &Topic,
    ) -> Result<QueueId, Reply> {
        let config = &topic.config;
        if header.queue_id >= config.write_queue_nums.max(config.read_queue_nums) {
            let remark = format!(
                "request queueId[{}] is illegal, {config} Producer: {}",
                header.queue_id, peer.remote
            );
            return Err(refuse(ResponseCode::InvalidParameter, remark));
        }
        if header.queue_id >= 0 {
            return Ok(QueueId(header.queue_id));
        }
        // Any queue: spread by when and from where.
        let spread = header.born_timestamp.wrapping_add(i64::from(peer.remote.port()));
        Ok(QueueId(spread.rem_euclid(i64::from(config.write_queue_nums.max(1))) as i32))
    }

    fn store_batch(
        &self,
        turn: &mut Turn<'_>,
        asked: Asked<'_>,
        header: &SendMessageHeader<'_>,
        batch_marks: &Marks,
        topic: &Topic,
        queue_id: QueueId,
    ) -> Result<(), Undone> {
        let caller = &turn.caller;
        let peer = &caller.peer;
        if topic.name.as_str().starts_with(RETRY_PREFIX) {
            let remark = "batch request does not support retry group";
            return Err(refuse(ResponseCode::MessageIllegal, remark).into());
        }
        let illegal = |error: batch::BatchError| refuse(ResponseCode::MessageIllegal, error.to_string());
        let messages = batch::decode(&asked.frame.body).map_err(illegal)?;
        // Every message carries the batch's own properties behind its own, as Java brokers store them.
        let batch_text = header.properties.as_deref().unwrap_or("");
        self.check_batch(peer, &asked.frame.body, messages.len(), topic, batch_text)?;
        let unique_key = match batch_marks.unique_key(batch_text) {
            Some(key) => Cow::Borrowed(key),
            None => Cow::Owned(self.next_unique_key(caller.now)),
        };
        let mut texts = Vec::with_capacity(messages.len());
        let mut tags_codes = Vec::with_capacity(messages.len());
        for message in &messages {
            let text = String::from_utf8_lossy(message.properties);
            let marks = Marks::of(&text);
            check_features(&marks)?;
            tags_codes.push(batch_marks.tags_code.or(marks.tags_code).unwrap_or(0));
            let mut whole = ended(&text).into_owned();
            whole.push_str(batch_text);
            let added = self.added_properties(&whole, None);
            whole.push_str(&added);
            texts.push(whole);
        }
        let records: Vec<Record<'_>> = messages
            .iter()
            .zip(&texts)
            .map(|(message, text)| Record {
                flag: message.flag,
                ..self.record(peer, header, topic, queue_id, message.body, [text.as_bytes(), b""])
            })
            .collect();
        let longest = records.iter().map(Record::properties_len).max().unwrap_or(0);
        let mut queues = KnownQueues::new();
        let queue = self.queue_for(caller, topic, &mut queues, queue_id, longest)?;
        let mut placed = Vec::with_capacity(records.len());
        self.store.append(queue, &records, &tags_codes, caller.now, &mut placed).map_err(append_refused)?;
        let (host, first, end) = (records[0].store_host, placed[0], placed[placed.len() - 1].end);
        if let Some(out) = turn.hold(end, asked.header.is_oneway()) {
            let ids: Vec<String> =
                placed.iter().map(|placed| ids::offset_id(host, placed.log_offset)).collect();
            let fields = SendMessageReply {
                msg_id: ids.join(",").into(),
                queue_id: queue_id.0,
                queue_offset: first.queue_offset.0,
                transaction_id: Some(unique_key),
                borrows: std::marker::PhantomData,
            };
            fields.encode_accepted(asked.header.opaque, asked.frame.serialize_type, out);
        }
        Ok(())
    }

    /// Whether a batch of so many messages is small enough as it is stored, and its reply is.
    fn check_batch(
        &self,
        peer: &Peer,
        body: &Bytes,
        messages: usize,
        topic: &Topic,
        batch_text: &str,
    ) -> Result<(), Reply> {
        let added = topic.name.as_str().len() + batch_text.len() + self.broker_properties.text.len();
        let stored = body.len() + messages * (RECORD_BYTES_MIN + added);
        let ids = messages * (ids::offset_id(self.store_host(peer), LogOffset(0)).len() + 1);
        if stored <= BATCH_BYTES_MAX && ids <= BATCH_IDS_BYTES_MAX {
            return Ok(());
        }
        let remark = format!(
            "the batch is too large: its {messages} messages would take {stored}B, the limit is {BATCH_BYTES_MAX}B, and \
             {ids}B for their ids, the limit is {BATCH_IDS_BYTES_MAX}B; send fewer at a time"
        );
        Err(refuse(ResponseCode::MessageIllegal, remark))
    }

    /// The text that the broker adds behind a message's own properties.
    fn added_properties<'a>(&'a self, text: &str, unique_key: Option<&str>) -> Cow<'a, str> {
        let ends = text.is_empty() || text.ends_with(char::from(properties::VALUE_END));
        if ends && unique_key.is_none() {
            return Cow::Borrowed(&self.broker_properties.text);
        }
        let mut added = String::with_capacity(self.broker_properties.text.len() + 48);
        if !ends {
            added.push(char::from(properties::VALUE_END));
        }
        if let Some(unique_key) = unique_key {
            properties::push(&mut added, key::UNIQ_KEY, unique_key);
        }
        added.push_str(&self.broker_properties.text);
        Cow::Owned(added)
    }

    #[inline]
    fn record<'a>(
        &self,
        peer: &Peer,
        header: &SendMessageHeader<'_>,
        topic: &'a Topic,
        queue_id: QueueId,
        body: &'a [u8],
        properties: [&'a [u8]; 2],
    ) -> Record<'a> {
        Record {
            topic: topic.name.as_str(),
            queue_id,
            flag: header.flag,
            // The rest is the broker's to say: a forged transaction bit would keep the message out of its queue.
            sys_flag: header.sys_flag & PRODUCER_FLAGS,
            born_timestamp: Millis(header.born_timestamp),
            born_host: canonical(peer.remote),
            store_host: self.store_host(peer),
            reconsume_times: header.reconsume_times.unwrap_or(0),
            prepared_transaction_offset: 0,
            body,
            body_crc: record::body_crc(body),
            properties,
        }
    }

    /// The queue to append messages to, the longest of which has so many bytes of properties. `known` are queues of the
    /// topic.
    fn queue_for<'q>(
        &self,
        caller: &Caller,
        topic: &Topic,
        known: &'q mut KnownQueues,
        queue_id: QueueId,
        properties_len: usize,
    ) -> Result<&'q Arc<Queue>, Undone> {
        if properties_len > PROPERTIES_BYTES_MAX {
            return Err(self.illegal_message(0, properties_len).into());
        }
        self.check_room()?;
        let at = match known.iter().position(|queue| queue.id() == queue_id) {
            Some(at) => at,
            None => {
                let queue = self.store.queue_or_create_patiently(&topic.name, queue_id, caller.patience);
                let queue = queue.ok_or(Undone::NeedsDisk)?.map_err(|error| {
                    let remark = format!("queue {queue_id} of {} not readable: {error}", topic.name);
                    refuse(ResponseCode::SystemError, remark)
                })?;
                if known.len() == KNOWN_QUEUES_MAX {
                    known.clear();
                }
                known.push(queue);
                known.len() - 1
            }
        };
        Ok(&known[at])
    }

    fn illegal_message(&self, body: usize, properties: usize) -> Reply {
        let limit = self.config.message_bytes_max;
        let found = if body > limit {
            format!("this body has {body}B; the limit is the broker's maxMessageSize")
        } else {
            format!("these properties have {properties}B with what the broker adds")
        };
        let remark = format!(
            "the message is illegal, maybe msg body or properties length not matched. msg body length limit {limit}B, \
             msg properties length limit 32KB. {found}"
        );
        refuse(ResponseCode::MessageIllegal, remark)
    }
}

/// Features that clients ask for by a property and that are refused rather than ignored.
fn check_features(marks: &Marks) -> Result<(), Reply> {
    if marks.is_transactional {
        let remark = "sending transaction message is forbidden: transactions are not part of this version";
        return Err(refuse(ResponseCode::NoPermission, remark));
    }
    if marks.is_delayed {
        let remark = "delayed and timed messages are not part of this version: send without DELAY and TIMER_ properties";
        return Err(refuse(ResponseCode::MessageIllegal, remark));
    }
    Ok(())
}

/// An IPv4 address that came through an IPv6 socket, as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A property text that another can be written behind.
fn ended(text: &str) -> Cow<'_, str> {
    if text.is_empty() || text.ends_with(char::from(properties::VALUE_END)) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(format!("{text}{}", char::from(properties::VALUE_END)))
    }
}

fn unknown_topic(name: &TopicName, peer: &Peer) -> String {
    format!(
        "topic[{name}] not exist, apply first please! (producer {})\nCreate it, or set autoCreateTopicEnable=true on \
         the broker.",
        peer.remote
    )
}

fn append_refused(error: AppendError) -> Reply {
    match error {
        AppendError::TooLarge { .. } => refuse(ResponseCode::MessageIllegal, error.to_string()),
        AppendError::Busy { .. } | AppendError::EntriesWait { .. } => {
            let remark = format!("[PC_SYNCHRONIZED]broker busy, start flow control for a while: {error}");
            refuse(ResponseCode::SystemBusy, remark)
        }
        AppendError::ReadOnly(_) | AppendError::Full(_) => {
            refuse(ResponseCode::ServiceNotAvailable, format!("service not available now. {error}"))
        }
    }
}
