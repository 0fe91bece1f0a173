//! JSON of bodies and config files, in Java's dialect with keys that are numbers or objects.

use std::collections::BTreeMap;
use std::fmt::Debug;

use cometmq_protocol::DataVersion;
use cometmq_protocol::body::client::{
    CheckClientConfigBody, HeartbeatData, LockQueuesBody, LockedQueuesBody, SubscriptionGroupConfig,
};
use cometmq_protocol::body::json;
use cometmq_protocol::body::registration::TopicTable;
use cometmq_protocol::body::route::{ClusterInfo, TopicRoute};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::golden::Golden;
use crate::target::Outcome;

/// Any JSON.
pub fn any(data: &[u8]) -> Outcome {
    round_trip::<Value>(data, |value| match value {
        Value::Object(map) => 16 + Outcome::magnitude(map.len()),
        Value::Array(list) => 32 + Outcome::magnitude(list.len()),
        _ => 0,
    })
}

/// `topics.json`.
pub fn topics(data: &[u8]) -> Outcome {
    round_trip::<TopicTable>(data, |table| Outcome::magnitude(table.topic_config_table.len()))
}

/// `subscriptionGroup.json`.
pub fn groups(data: &[u8]) -> Outcome {
    round_trip::<GroupTable>(data, |table| Outcome::magnitude(table.subscription_group_table.len()))
}

/// `consumerOffset.json`.
pub fn offsets(data: &[u8]) -> Outcome {
    round_trip::<OffsetTable>(data, |table| Outcome::magnitude(table.offset_table.len()))
}

/// Heartbeats, and the check of a client's subscription.
pub fn heartbeat(data: &[u8]) -> Outcome {
    round_trip::<CheckClientConfigBody>(data, |_| 0);
    round_trip::<HeartbeatData>(data, |data| Outcome::magnitude(data.consumer_data_set.len()))
}

/// Queue locks, asked for and given.
pub fn locks(data: &[u8]) -> Outcome {
    round_trip::<LockedQueuesBody>(data, |_| 0);
    round_trip::<LockQueuesBody>(data, |body| Outcome::magnitude(body.mq_set.len()))
}

/// Routes and clusters.
pub fn route(data: &[u8]) -> Outcome {
    round_trip::<ClusterInfo>(data, |_| 0);
    round_trip::<TopicRoute>(data, |route| Outcome::magnitude(route.broker_datas.len()))
}

/// As the broker keeps it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupTable {
    data_version: DataVersion,
    forbidden_table: BTreeMap<String, Value>,
    subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
}

/// As the broker keeps it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OffsetTable {
    data_version: DataVersion,
    offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// What is read is written, with keys quoted or bare, and read back as what it was.
pub(super) fn round_trip<T>(data: &[u8], class: impl FnOnce(&T) -> u64) -> Outcome
where
    T: DeserializeOwned + Serialize + PartialEq + Debug,
{
    let value: T = match json::parse(data) {
        Ok(value) => value,
        Err(error) => return Outcome::refused(error),
    };
    for again in [json::to_vec(&value), json::to_vec_bare_keys(&value)] {
        let again: T = json::parse(&again).expect("what was written can be read");
        assert!(again == value || has_fraction(&value), "{again:?} instead of {value:?}");
    }
    Outcome::accepted(class(&value))
}

/// Fractions are read to the last digit but one, which is all that a field unknown to us needs.
fn has_fraction(value: &impl Serialize) -> bool {
    fn search(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.is_f64(),
            Value::Array(list) => list.iter().any(search),
            Value::Object(map) => map.values().any(search),
            _ => false,
        }
    }
    serde_json::to_value(value).is_ok_and(|value| search(&value))
}

/// All files of `config/`.
pub fn config_files(golden: &Golden) -> Vec<Vec<u8>> {
    config_file(golden, ".json")
}

/// `topics.json` of Java stores.
pub fn topic_files(golden: &Golden) -> Vec<Vec<u8>> {
    config_file(golden, "topics.json")
}

/// `subscriptionGroup.json` of Java stores.
pub fn group_files(golden: &Golden) -> Vec<Vec<u8>> {
    config_file(golden, "subscriptionGroup.json")
}

/// `consumerOffset.json` of Java stores.
pub fn offset_files(golden: &Golden) -> Vec<Vec<u8>> {
    config_file(golden, "onsumerOffset.json")
}

fn config_file(golden: &Golden, name: &str) -> Vec<Vec<u8>> {
    let wanted = |path: &str| path.contains("/config/") && path.contains(name);
    golden.files.iter().filter(|(path, _)| wanted(path)).map(|(_, bytes)| bytes.clone()).collect()
}

/// Recorded bodies of codes 34 and 46.
pub fn heartbeats(golden: &Golden) -> Vec<Vec<u8>> {
    golden.bodies(&[34, 46], false)
}

/// Recorded bodies of codes 41 and 42.
pub fn lock_bodies(golden: &Golden) -> Vec<Vec<u8>> {
    golden.bodies(&[41, 42], false)
}

/// Recorded replies that are routes or clusters.
pub fn routes(golden: &Golden) -> Vec<Vec<u8>> {
    let mut seeds = golden.bodies(&[0], true);
    seeds.retain(|body| {
        let has = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
        has(b"\"brokerDatas\"") || has(b"\"brokerAddrTable\"")
    });
    seeds
}
