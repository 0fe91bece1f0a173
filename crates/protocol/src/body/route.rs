//! What the name server answers: routes, clusters, lists of topics.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::json;

/// Where a topic lies (reply to code 105).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicRoute {
    /// The brokers that have it.
    pub broker_datas: Vec<BrokerData>,
    /// Filter servers of 4.x; always empty here, though clients expect the field.
    pub filter_server_table: BTreeMap<String, Vec<String>>,
    /// Order configuration such as `broker-a:4;broker-b:4`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_topic_conf: Option<String>,
    /// Its queues on each broker.
    pub queue_datas: Vec<QueueData>,
}

impl TopicRoute {
    /// The body: strict JSON, or with bare broker ids for clients that cannot read them quoted.
    pub fn to_body(&self, strict: bool) -> Vec<u8> {
        if strict { json::to_vec(self) } else { json::to_vec_bare_keys(self) }
    }
}

/// A broker set: a master and its slaves under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerData {
    /// Addresses by broker id; 0 is the master.
    pub broker_addrs: BTreeMap<i64, String>,
    /// Broker name.
    pub broker_name: String,
    /// Cluster.
    pub cluster: String,
    /// Whether a slave may act as master.
    pub enable_acting_master: bool,
}

/// The queues of a topic on one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueData {
    /// Broker name.
    pub broker_name: String,
    /// Permission bits.
    pub perm: i32,
    /// Queues to read from.
    pub read_queue_nums: i32,
    /// System flag of the topic.
    pub topic_sys_flag: i32,
    /// Queues to write to.
    pub write_queue_nums: i32,
}

/// All brokers and clusters (reply to code 106).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInfo {
    /// Broker sets by name.
    pub broker_addr_table: BTreeMap<String, BrokerData>,
    /// Broker names by cluster.
    pub cluster_addr_table: BTreeMap<String, Vec<String>>,
}

/// A list of topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopicList {
    /// Names.
    pub topic_list: Vec<String>,
}

/// Names that are topics of the system rather than of its users (reply to code 304).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SystemTopicList {
    /// A broker to ask for its own system topics (code 305).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_addr: Option<String>,
    /// Names.
    pub topic_list: Vec<String>,
}

/// Kept values of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvTable {
    /// Values by key.
    pub table: BTreeMap<String, String>,
}

/// The members of one broker set (reply to code 901).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerMemberGroupBody {
    /// The set.
    pub broker_member_group: BrokerMemberGroup,
}

/// A broker set as `BrokerMemberGroupBody` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BrokerMemberGroup {
    /// Addresses by broker id.
    pub broker_addrs: BTreeMap<i64, String>,
    /// Broker name.
    pub broker_name: String,
    /// Cluster.
    pub cluster: String,
}
