//! Bodies between clients and brokers: heartbeats, group membership, queue locks, subscription groups.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A client's sign of life with everything it belongs to (code 34).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeartbeatData {
    /// Client id.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Consumer groups it is in.
    pub consumer_data_set: Vec<ConsumerData>,
    /// Hash of the rest, for clients that later send `without_sub`; 0 when unused.
    pub heartbeat_fingerprint: i32,
    /// Producer groups it is in.
    pub producer_data_set: Vec<ProducerData>,
    /// The subscriptions were left out because nothing changed.
    pub without_sub: bool,
}

/// Membership in a producer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProducerData {
    /// Group.
    pub group_name: String,
}

/// Membership in a consumer group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerData {
    /// `CONSUME_FROM_LAST_OFFSET`, `CONSUME_FROM_FIRST_OFFSET`, `CONSUME_FROM_TIMESTAMP` …
    pub consume_from_where: String,
    /// `CONSUME_ACTIVELY`, `CONSUME_PASSIVELY` or `CONSUME_POP`.
    pub consume_type: String,
    /// Group.
    pub group_name: String,
    /// `CLUSTERING` or `BROADCASTING`.
    pub message_model: String,
    /// What it subscribes to.
    pub subscription_data_set: Vec<SubscriptionData>,
    /// Unit mode.
    pub unit_mode: bool,
}

/// One subscription of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionData {
    /// Class filter of 4.x.
    pub class_filter_mode: bool,
    /// Hashes of the tags.
    pub code_set: Vec<i32>,
    /// `TAG` or `SQL92`; absent means `TAG`.
    pub expression_type: Option<String>,
    /// The expression.
    pub sub_string: String,
    /// Version, a timestamp in ms.
    pub sub_version: i64,
    /// The tags.
    pub tags_set: Vec<String>,
    /// Topic.
    pub topic: String,
}

impl SubscriptionData {
    /// Whether the expression is of tags.
    pub fn is_tag_type(&self) -> bool {
        self.expression_type.as_deref().is_none_or(|kind| kind.is_empty() || kind == "TAG")
    }
}

/// Asks whether a subscription can be served (code 46).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CheckClientConfigBody {
    /// Client id.
    pub client_id: String,
    /// Group.
    pub group: String,
    /// The subscription.
    pub subscription_data: SubscriptionData,
}

/// Client ids of a consumer group (reply to code 38).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerListBody {
    /// Client ids.
    pub consumer_id_list: Vec<String>,
}

/// A queue of a topic on a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MessageQueue {
    /// Broker name.
    pub broker_name: String,
    /// Queue.
    pub queue_id: i32,
    /// Topic.
    pub topic: String,
}

/// Asks for queue locks or gives them back (codes 41, 42).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockQueuesBody {
    /// Client id that is to hold the locks.
    pub client_id: String,
    /// Group.
    pub consumer_group: String,
    /// Queues.
    pub mq_set: Vec<MessageQueue>,
}

/// The queues that the asking client now holds (reply to code 41).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LockedQueuesBody {
    /// Queues.
    #[serde(rename = "lockOKMQSet")]
    pub lock_ok_mq_set: Vec<MessageQueue>,
}

/// Settings of a consumer group, as kept in `subscriptionGroup.json`. Fields that this version does not use are kept
/// as they were, so that a directory goes back to a Java broker unchanged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionGroupConfig {
    /// Group.
    pub group_name: String,
    /// Whether it may consume at all.
    pub consume_enable: bool,
    /// Whether it may start from the smallest offset.
    pub consume_from_min_enable: bool,
    /// Whether it may broadcast.
    pub consume_broadcast_enable: bool,
    /// Queues of its retry topic.
    pub retry_queue_nums: i32,
    /// Retries before the dead-letter queue.
    pub retry_max_times: i32,
    /// Broker id to read from.
    pub broker_id: i64,
    /// Broker id to read from when far behind.
    pub which_broker_when_consume_slowly: i64,
    /// Whether members are told of changes in the membership.
    pub notify_consumer_ids_changed_enable: bool,
    /// 1: unit mode.
    pub group_sys_flag: i32,
    /// Everything else that the file says.
    #[serde(flatten)]
    pub rest: BTreeMap<String, serde_json::Value>,
}

impl Default for SubscriptionGroupConfig {
    fn default() -> SubscriptionGroupConfig {
        SubscriptionGroupConfig {
            group_name: String::new(),
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            retry_queue_nums: 1,
            retry_max_times: 16,
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_consumer_ids_changed_enable: true,
            group_sys_flag: 0,
            rest: BTreeMap::new(),
        }
    }
}
