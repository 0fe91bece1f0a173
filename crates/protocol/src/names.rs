//! Names of topics and groups: what is legal, and the names that RocketMQ reserves.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest ordinary topic name, in bytes (the stored record of version 1 keeps the length in a signed byte).
pub const TOPIC_BYTES_MAX: usize = 127;
/// Longest name of a retry or dead-letter topic, which carries a group name inside, in bytes.
pub const RETRY_TOPIC_BYTES_MAX: usize = 255;
/// Longest consumer or producer group name, in bytes.
pub const GROUP_BYTES_MAX: usize = 255;

/// Prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of a group's dead-letter topic.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// The template from which unknown topics are created when `autoCreateTopicEnable` is on.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
/// Where messages with a delay level wait.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Where half messages wait for their transaction's end.
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";

/// Topics to which clients may not send: the broker writes them itself (answer: no permission).
pub const PROTECTED_TOPICS: [&str; 6] = [
    SCHEDULE_TOPIC,
    HALF_TOPIC,
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
];

/// Why a name is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("The specified {what} is blank")]
    Blank {
        /// "topic" or "group".
        what: &'static str,
    },
    /// The name is longer than its kind allows.
    #[error("The specified {what} is longer than the limit of {limit} bytes (it has {bytes})")]
    TooLong {
        /// "topic" or "group".
        what: &'static str,
        /// Length found.
        bytes: usize,
        /// Length allowed.
        limit: usize,
    },
    /// A character outside the legal set. The text is the one that RocketMQ clients know.
    #[error("The specified {what} contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    Illegal {
        /// "topic" or "group".
        what: &'static str,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks characters and length; the only way to get such a name from outside.
            pub fn parse(text: &str) -> Result<$name, NameError> {
                check($what, text, $limit(text))?;
                Ok($name(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A legal topic name: 1 to 127 bytes of `[%|a-zA-Z0-9_-]`, up to 255 for retry and dead-letter topics.
    TopicName, "topic", topic_limit
}
name! {
    /// A legal group name: 1 to 255 bytes of `[%|a-zA-Z0-9_-]`.
    GroupName, "group", |_| GROUP_BYTES_MAX
}

impl TopicName {
    /// The retry topic of a consumer group.
    pub fn retry(group: &GroupName) -> Result<TopicName, NameError> {
        TopicName::parse(&format!("{RETRY_PREFIX}{group}"))
    }

    /// The group whose retry topic this is, if it is one.
    pub fn retry_group(&self) -> Option<&str> {
        self.0.strip_prefix(RETRY_PREFIX)
    }
}

fn topic_limit(text: &str) -> usize {
    if text.starts_with(RETRY_PREFIX) || text.starts_with(DLQ_PREFIX) {
        RETRY_TOPIC_BYTES_MAX
    } else {
        TOPIC_BYTES_MAX
    }
}

fn check(what: &'static str, text: &str, limit: usize) -> Result<(), NameError> {
    if text.trim().is_empty() {
        return Err(NameError::Blank { what });
    }
    if text.len() > limit {
        return Err(NameError::TooLong { what, bytes: text.len(), limit });
    }
    let legal = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'|' | b'_' | b'-');
    if text.as_bytes().iter().all(legal) { Ok(()) } else { Err(NameError::Illegal { what }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_store_directory_are_illegal() {
        for text in ["../x", "a/b", "a.b", "a\\b", "a\0b", "主题", "a b"] {
            assert_eq!(TopicName::parse(text), Err(NameError::Illegal { what: "topic" }), "{text}");
        }
        assert_eq!(TopicName::parse(" "), Err(NameError::Blank { what: "topic" }));
        assert_eq!(GroupName::parse(""), Err(NameError::Blank { what: "group" }));
    }

    #[test]
    fn only_retry_and_dead_letter_topics_may_be_longer_than_127_bytes() {
        assert!(TopicName::parse(&"t".repeat(127)).is_ok());
        assert!(TopicName::parse(&"t".repeat(128)).is_err());
        assert!(TopicName::parse(&format!("%RETRY%{}", "g".repeat(248))).is_ok());
        assert!(TopicName::parse(&format!("%DLQ%{}", "g".repeat(251))).is_err());
    }
}
