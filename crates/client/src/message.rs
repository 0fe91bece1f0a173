//! Messages to send: checked once when they are built, so that sending cannot fail for the message's own sake.

use bytes::Bytes;
use cometmq_protocol::message::properties::{self, NAME_END, VALUE_END, key};
use cometmq_protocol::message::record::PROPERTIES_BYTES_MAX;
use cometmq_protocol::names::{NameError, PROTECTED_TOPICS, TopicName};

/// Largest body, in bytes; the default of brokers (`maxMessageSize`).
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Room that the client's own message id takes in the properties.
const UNIQUE_ID_BYTES: usize = 64;
/// Property names that this client or the broker sets; those of users must differ.
const RESERVED: [&str; 20] = [
    key::KEYS,
    key::TAGS,
    key::WAIT,
    key::DELAY,
    key::RETRY_TOPIC,
    key::UNIQ_KEY,
    key::MSG_REGION,
    key::TRACE_ON,
    key::CLUSTER,
    key::TRAN_MSG,
    "REAL_TOPIC",
    "REAL_QID",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "RECONSUME_TIME",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
];

/// Why a message cannot be sent as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The topic's name is not legal.
    #[error("{0}; choose another topic name")]
    Topic(#[from] NameError),
    /// The topic belongs to the broker.
    #[error("topic {topic} is written by the broker itself; send to a topic of your own")]
    ProtectedTopic {
        /// The topic.
        topic: String,
    },
    /// There is no body.
    #[error("the message has no body; brokers refuse that, send at least one byte")]
    EmptyBody,
    /// The body is too large.
    #[error(
        "a body of {bytes} bytes exceeds the limit of {limit}; send it in parts, or store it elsewhere and send where"
    )]
    BodyTooLarge {
        /// Size.
        bytes: usize,
        /// Limit in force.
        limit: usize,
    },
    /// Tag, keys and properties together are too long.
    #[error("tag, keys and properties take {bytes} bytes, the limit is {limit}; put the data into the body")]
    PropertiesTooLong {
        /// Size.
        bytes: usize,
        /// Limit in force.
        limit: usize,
    },
    /// A name or value cannot be written.
    #[error("property `{name}` is empty, has an empty value, or contains the characters U+0001 or U+0002")]
    Property {
        /// Name of the property.
        name: String,
    },
    /// A name that has a meaning of its own.
    #[error("property name `{name}` is reserved; choose another name")]
    Reserved {
        /// Name of the property.
        name: String,
    },
    /// A delay level that does not exist.
    #[error("delay level {0} does not exist; levels are 1 to 18")]
    DelayLevel(u8),
}

/// A message that can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    topic: TopicName,
    flag: i32,
    body: Bytes,
    /// Property text without the message id.
    properties: String,
}

impl Message {
    /// Begins a message for `topic`.
    pub fn builder(topic: impl Into<String>) -> MessageBuilder {
        MessageBuilder { topic: topic.into(), ..MessageBuilder::default() }
    }

    /// Where it goes.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The user's own flag.
    pub fn flag(&self) -> i32 {
        self.flag
    }

    /// The property text with `unique_id` as the message's id.
    pub(crate) fn properties_with_id(&self, unique_id: &str) -> String {
        let mut text = String::with_capacity(self.properties.len() + UNIQUE_ID_BYTES);
        text.push_str(&self.properties);
        properties::push(&mut text, key::UNIQ_KEY, unique_id);
        text
    }
}

/// Collects the parts of a [`Message`].
#[derive(Clone, Debug, Default)]
pub struct MessageBuilder {
    topic: String,
    tag: Option<String>,
    keys: Vec<String>,
    properties: Vec<(String, String)>,
    delay_level: Option<u8>,
    flag: i32,
    body: Bytes,
}

impl MessageBuilder {
    /// The tag by which consumers choose.
    pub fn tag(mut self, tag: impl Into<String>) -> MessageBuilder {
        self.tag = Some(tag.into());
        self
    }

    /// One more key under which the message can be looked up.
    pub fn key(mut self, key: impl Into<String>) -> MessageBuilder {
        self.keys.push(key.into());
        self
    }

    /// One more property of the user.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> MessageBuilder {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// Deliver later: level 1 to 18, by default 1 s to 2 h.
    pub fn delay_level(mut self, level: u8) -> MessageBuilder {
        self.delay_level = Some(level);
        self
    }

    /// The user's own flag.
    pub fn flag(mut self, flag: i32) -> MessageBuilder {
        self.flag = flag;
        self
    }

    /// The body.
    pub fn body(mut self, body: impl Into<Bytes>) -> MessageBuilder {
        self.body = body.into();
        self
    }

    /// Checks everything.
    pub fn build(self) -> Result<Message, MessageError> {
        let topic = TopicName::parse(&self.topic)?;
        if PROTECTED_TOPICS.contains(&topic.as_str()) {
            return Err(MessageError::ProtectedTopic { topic: self.topic });
        }
        if self.body.is_empty() {
            return Err(MessageError::EmptyBody);
        }
        if self.body.len() > BODY_BYTES_MAX {
            return Err(MessageError::BodyTooLarge { bytes: self.body.len(), limit: BODY_BYTES_MAX });
        }
        let mut text = String::new();
        for (name, value) in &self.properties {
            if RESERVED.contains(&name.as_str()) {
                return Err(MessageError::Reserved { name: name.clone() });
            }
            push(&mut text, name, value)?;
        }
        if !self.keys.is_empty() {
            push(&mut text, key::KEYS, &self.keys.join(" "))?;
        }
        if let Some(level) = self.delay_level {
            if !(1..=18).contains(&level) {
                return Err(MessageError::DelayLevel(level));
            }
            push(&mut text, key::DELAY, &level.to_string())?;
        }
        push(&mut text, key::WAIT, "true")?;
        if let Some(tag) = &self.tag {
            push(&mut text, key::TAGS, tag)?;
        }
        let limit = PROPERTIES_BYTES_MAX - UNIQUE_ID_BYTES;
        if text.len() > limit {
            return Err(MessageError::PropertiesTooLong { bytes: text.len(), limit });
        }
        Ok(Message { topic, flag: self.flag, body: self.body, properties: text })
    }
}

fn push(text: &mut String, name: &str, value: &str) -> Result<(), MessageError> {
    let separators = [char::from(NAME_END), char::from(VALUE_END)];
    let wrong = |part: &str| part.is_empty() || part.contains(separators);
    if wrong(name) || wrong(value) {
        return Err(MessageError::Property { name: name.to_owned() });
    }
    properties::push(text, name, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cometmq_protocol::message::Properties;

    #[test]
    fn a_message_carries_what_its_builder_was_told() {
        let message =
            Message::builder("T").tag("paid").key("a").key("b").property("n", "0").body("x").build().unwrap();
        let text = message.properties_with_id("ID");
        let read: Vec<_> = Properties(text.as_bytes()).iter().collect();
        assert_eq!(
            read,
            [("n", "0"), ("KEYS", "a b"), ("WAIT", "true"), ("TAGS", "paid"), ("UNIQ_KEY", "ID")]
        );
    }

    #[test]
    fn what_a_broker_would_refuse_is_refused_here() {
        let build = |builder: MessageBuilder| builder.build().unwrap_err();
        let body = || Message::builder("T").body("x");
        assert!(matches!(build(Message::builder("a b").body("x")), MessageError::Topic(_)));
        assert!(matches!(
            build(Message::builder("SCHEDULE_TOPIC_XXXX").body("x")),
            MessageError::ProtectedTopic { .. }
        ));
        assert_eq!(build(Message::builder("T")), MessageError::EmptyBody);
        let large = Message::builder("T").body(vec![0; BODY_BYTES_MAX + 1]);
        assert!(matches!(build(large), MessageError::BodyTooLarge { .. }));
        assert!(matches!(build(body().tag("")), MessageError::Property { .. }));
        assert!(matches!(build(body().property("a\u{1}", "b")), MessageError::Property { .. }));
        assert!(matches!(build(body().property("UNIQ_KEY", "b")), MessageError::Reserved { .. }));
        assert!(matches!(
            build(body().property("n", "v".repeat(40_000))),
            MessageError::PropertiesTooLong { .. }
        ));
        assert_eq!(build(body().delay_level(19)), MessageError::DelayLevel(19));
    }
}
