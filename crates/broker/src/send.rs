//! Sending: admits a message by plain law and appends it, or refuses it with a code and a remark.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cometmq_protocol::body::topic::permission;
use cometmq_protocol::headers::send::{REGION, SendMessageHeader, SendMessageReply, Stored};
use cometmq_protocol::message::properties::{self, key};
use cometmq_protocol::message::record::{self, PROPERTIES_BYTES_MAX};
use cometmq_protocol::message::{Record, batch, ids, sys_flag, tags};
use cometmq_protocol::names::{PROTECTED_TOPICS, RETRY_PREFIX, TopicName};
use cometmq_protocol::{LogOffset, Millis, Peer, QueueId, Reply, ResponseCode, SerializeType};
use cometmq_store::{AppendError, Appended, Patience};
use smallvec::SmallVec;

use crate::broker::{Broker, Caller};
use crate::effects::Effects;
use crate::slow::Undone;
use crate::topic::Topic;

/// Where messages were appended, and what their sender is told once the log is stored up to `end`.
#[derive(Debug)]
pub(crate) struct Accepted<'a> {
    host: SocketAddr,
    placed: SmallVec<[Appended; 1]>,
    unique_key: Cow<'a, str>,
    queue_id: QueueId,
    pub end: LogOffset,
}

impl Accepted<'_> {
    /// Appends the reply to the request `opaque`.
    pub fn encode(&self, opaque: i32, serialize_type: SerializeType, out: &mut BytesMut) {
        let first = &self.placed[0];
        if self.placed.len() == 1 {
            let stored = Stored {
                host: self.host,
                log_offset: first.log_offset,
                queue_id: self.queue_id,
                queue_offset: first.queue_offset,
                unique_key: &self.unique_key,
            };
            return stored.encode(opaque, serialize_type, out);
        }
        let msg_ids: Vec<String> =
            self.placed.iter().map(|placed| ids::offset_id(self.host, placed.log_offset)).collect();
        let fields = SendMessageReply {
            msg_id: msg_ids.join(",").into(),
            queue_id: self.queue_id.0,
            queue_offset: first.queue_offset.0,
            transaction_id: Some((&*self.unique_key).into()),
            borrows: std::marker::PhantomData,
        };
        fields.encode_accepted(opaque, serialize_type, out);
    }
}

/// Bits of the sysFlag that producers set: whether and how the body is compressed.
const PRODUCER_FLAGS: i32 = sys_flag::COMPRESSED | 7 << sys_flag::COMPRESSION_SHIFT;

fn refuse(code: ResponseCode, remark: impl Into<Cow<'static, str>>) -> Reply {
    REGION.iter().fold(Reply::refuse(code, remark), |reply, (name, value)| reply.with_field(name, *value))
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

/// What the broker looks at in a message's properties, found in one pass.
#[derive(Debug, Default)]
struct Seen<'a> {
    tags: Option<&'a str>,
    unique_key: Option<&'a str>,
    delayed: bool,
    transactional: bool,
}

impl<'a> Seen<'a> {
    fn of(text: &'a str) -> Seen<'a> {
        let mut seen = Seen::default();
        for (name, value) in properties::pairs(text) {
            match name {
                key::TAGS => seen.tags = Some(value),
                key::UNIQ_KEY => seen.unique_key = Some(value),
                key::TRAN_MSG => seen.transactional = value.eq_ignore_ascii_case("true"),
                key::DELAY => seen.delayed |= value.parse::<i64>().is_ok_and(|level| level > 0),
                key::TIMER_DELAY_SEC | key::TIMER_DELAY_MS | key::TIMER_DELIVER_MS => seen.delayed = true,
                _ => {}
            }
        }
        seen
    }
}

impl Broker {
    /// Codes 10, 310 and 320.
    pub(crate) fn send<'h>(
        &self,
        caller: &Caller,
        header: &'h SendMessageHeader<'_>,
        body: &Bytes,
        is_batch: bool,
        effects: &mut Effects,
    ) -> Result<Accepted<'h>, Undone> {
        let (now, peer) = (caller.now, &caller.peer);
        let topic = self.admit(caller, header, body, effects)?;
        let queue_id = self.choose_queue(peer, header, &topic)?;
        let text = header.properties.as_deref().unwrap_or("");
        let seen = Seen::of(text);
        check_features(&seen)?;
        if is_batch || header.batch == Some(true) {
            return self.store_batch(caller, header, body, &topic, queue_id);
        }
        let unique_key = match seen.unique_key {
            Some(key) => Cow::Borrowed(key),
            None => Cow::Owned(self.next_unique_key(now)),
        };
        let added = self.added_properties(text, seen.unique_key.is_none().then_some(&*unique_key));
        let record = self.record(peer, header, &topic, queue_id, body, [text.as_bytes(), added.as_bytes()]);
        self.append(caller, &topic, &[record], &[tags::tags_code(seen.tags)], unique_key)
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
        if body.len() > self.config.message_bytes_max {
            return Err(self.illegal_message(body.len(), 0).into());
        }
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

    fn store_batch<'h>(
        &self,
        caller: &Caller,
        header: &'h SendMessageHeader<'_>,
        body: &Bytes,
        topic: &Topic,
        queue_id: QueueId,
    ) -> Result<Accepted<'h>, Undone> {
        let peer = &caller.peer;
        if topic.name.as_str().starts_with(RETRY_PREFIX) {
            let remark = "batch request does not support retry group";
            return Err(refuse(ResponseCode::MessageIllegal, remark).into());
        }
        let illegal = |error: batch::BatchError| refuse(ResponseCode::MessageIllegal, error.to_string());
        let messages = batch::decode(body).map_err(illegal)?;
        // Every message carries the batch's own properties behind its own, as Java brokers store them.
        let batch_text = header.properties.as_deref().unwrap_or("");
        let batch_seen = Seen::of(batch_text);
        let unique_key = match batch_seen.unique_key {
            Some(key) => Cow::Borrowed(key),
            None => Cow::Owned(self.next_unique_key(caller.now)),
        };
        let mut texts = Vec::with_capacity(messages.len());
        let mut tags_codes = Vec::with_capacity(messages.len());
        for message in &messages {
            let text = String::from_utf8_lossy(message.properties);
            let seen = Seen::of(&text);
            check_features(&seen)?;
            tags_codes.push(tags::tags_code(batch_seen.tags.or(seen.tags)));
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
        self.append(caller, topic, &records, &tags_codes, unique_key)
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

    fn append<'h>(
        &self,
        caller: &Caller,
        topic: &Topic,
        records: &[Record<'_>],
        tags_codes: &[i64],
        unique_key: Cow<'h, str>,
    ) -> Result<Accepted<'h>, Undone> {
        if let Some(longest) = records.iter().map(Record::properties_len).max()
            && longest > PROPERTIES_BYTES_MAX
        {
            return Err(self.illegal_message(0, longest).into());
        }
        self.check_room()?;
        let queue_id = records[0].queue_id;
        let queue = self.store.queue_or_create_patiently(&topic.name, queue_id, caller.patience);
        let queue = queue.ok_or(Undone::NeedsDisk)?.map_err(|error| {
            refuse(
                ResponseCode::SystemError,
                format!("queue {queue_id} of {} not readable: {error}", topic.name),
            )
        })?;
        let mut placed = SmallVec::<[Appended; 1]>::new();
        self.store.append(&queue, records, tags_codes, caller.now, &mut placed).map_err(append_refused)?;
        let (host, end) = (records[0].store_host, placed[placed.len() - 1].end);
        Ok(Accepted { host, placed, unique_key, queue_id, end })
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
fn check_features(seen: &Seen<'_>) -> Result<(), Reply> {
    if seen.transactional {
        let remark = "sending transaction message is forbidden: transactions are not part of this version";
        return Err(refuse(ResponseCode::NoPermission, remark));
    }
    if seen.delayed {
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
        AppendError::Busy { .. } => {
            let remark = format!("[PC_SYNCHRONIZED]broker busy, start flow control for a while: {error}");
            refuse(ResponseCode::SystemBusy, remark)
        }
        AppendError::ReadOnly(_) | AppendError::Full(_) => {
            refuse(ResponseCode::ServiceNotAvailable, format!("service not available now. {error}"))
        }
    }
}
