//! Topics as brokers keep them, announce them and write them to `topics.json`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::units::Millis;

/// Permission bits of topics and brokers.
pub mod permission {
    /// Others may be created from it.
    pub const INHERIT: i32 = 1;
    /// May be written.
    pub const WRITE: i32 = 1 << 1;
    /// May be read.
    pub const READ: i32 = 1 << 2;
    /// Reading and writing, what an ordinary topic has.
    pub const READ_WRITE: i32 = READ | WRITE;
}

/// Which state of a table someone has seen. Compared for equality between broker and name server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataVersion {
    /// Counts changes.
    pub counter: i64,
    /// Version of the controller's state; 0 without controller. Absent in 4.x.
    pub state_version: i64,
    /// Time of the last change, ms.
    pub timestamp: i64,
}

impl DataVersion {
    /// Counts a change at `now`.
    pub fn bump(&mut self, now: Millis) {
        self.counter += 1;
        self.timestamp = now.0;
    }
}

/// Whether messages of a topic have one tag or several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TopicFilterType {
    /// One tag.
    #[default]
    #[serde(rename = "SINGLE_TAG")]
    SingleTag,
    /// Several tags.
    #[serde(rename = "MULTI_TAG")]
    MultiTag,
}

/// A topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicConfig {
    /// Attributes of 5.x such as `message.type`.
    pub attributes: BTreeMap<String, String>,
    /// Whether it is an order topic.
    pub order: bool,
    /// Bits of `permission`.
    pub perm: i32,
    /// Queues to read from.
    pub read_queue_nums: i32,
    /// Single or multiple tags.
    pub topic_filter_type: TopicFilterType,
    /// Name.
    pub topic_name: String,
    /// 1 unit topic, 2 has unit subscription.
    pub topic_sys_flag: i32,
    /// Queues to write to.
    pub write_queue_nums: i32,
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig::new("", 16, permission::READ_WRITE)
    }
}

impl TopicConfig {
    /// A topic with as many queues to read as to write.
    pub fn new(name: &str, queues: i32, perm: i32) -> TopicConfig {
        TopicConfig {
            attributes: BTreeMap::new(),
            order: false,
            perm,
            read_queue_nums: queues,
            topic_filter_type: TopicFilterType::SingleTag,
            topic_name: name.to_owned(),
            topic_sys_flag: 0,
            write_queue_nums: queues,
        }
    }

    /// Whether all bits of `bits` are permitted.
    pub fn permits(&self, bits: i32) -> bool {
        self.perm & bits == bits
    }
}

/// As Java prints a topic in its refusals.
impl fmt::Display for TopicConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bit = |bit, letter| if self.perm & bit != 0 { letter } else { '-' };
        write!(
            f,
            "TopicConfig [topicName={}, readQueueNums={}, writeQueueNums={}, perm={}{}{}]",
            self.topic_name,
            self.read_queue_nums,
            self.write_queue_nums,
            bit(permission::READ, 'R'),
            bit(permission::WRITE, 'W'),
            bit(permission::INHERIT, 'X'),
        )
    }
}
