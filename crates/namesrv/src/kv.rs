//! Values by namespace and key, kept for tools and clients (100, 101, 102, 219).
//!
//! The namespace `ORDER_TOPIC_CONFIG` has a meaning: its keys are order topics, its values such as
//! `broker-a:4;broker-b:4` are told with routes and to registering brokers. All others mean nothing here.

use std::collections::BTreeMap;

use cometmq_protocol::body::route::KvTable;
use cometmq_protocol::body::{BodyError, json};
use cometmq_protocol::headers::namesrv::{KvKeyHeader, KvValueReply, NamespaceHeader, PutKvHeader};
use cometmq_protocol::{Reply, ResponseCode};
use serde::{Deserialize, Serialize};

use crate::NameServer;

/// Order configuration of topics.
const ORDER_NAMESPACE: &str = "ORDER_TOPIC_CONFIG";

/// The whole KV configuration, as it is in `kvConfig.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KvSnapshot {
    /// Values by namespace and key.
    pub config_table: BTreeMap<String, BTreeMap<String, String>>,
}

impl KvSnapshot {
    /// Reads the content of a `kvConfig.json`.
    pub fn parse(bytes: &[u8]) -> Result<KvSnapshot, BodyError> {
        json::parse(bytes)
    }

    /// The content of a `kvConfig.json`.
    pub fn to_vec(&self) -> Vec<u8> {
        json::to_vec(self)
    }
}

/// The KV configuration in use.
#[derive(Debug, Default)]
pub(crate) struct Kv {
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    /// Bytes of all namespaces, keys and values.
    bytes: usize,
    changed: bool,
}

impl Kv {
    pub(crate) fn restore(snapshot: KvSnapshot) -> Kv {
        let mut namespaces = snapshot.config_table;
        // Java keeps namespaces that were emptied; here an empty one is none.
        namespaces.retain(|_, table| !table.is_empty());
        let entries = namespaces.values().flatten().map(|(key, value)| key.len() + value.len());
        let bytes = namespaces.keys().map(String::len).chain(entries).sum();
        Kv { namespaces, bytes, changed: false }
    }

    pub(crate) fn take_changed(&mut self) -> Option<KvSnapshot> {
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| KvSnapshot { config_table: self.namespaces.clone() })
    }

    pub(crate) fn note_changed(&mut self) {
        self.changed = true;
    }

    fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.namespaces.get(namespace)?.get(key).map(String::as_str)
    }

    /// Returns whether the value has a place within `bytes_max`.
    fn put(&mut self, namespace: &str, key: &str, value: &str, bytes_max: usize) -> bool {
        let known = self.namespaces.get(namespace);
        let added = match known.and_then(|table| table.get(key)) {
            Some(_) => value.len(),
            None if known.is_some() => key.len() + value.len(),
            None => namespace.len() + key.len() + value.len(),
        };
        let removed = self.get(namespace, key).map_or(0, str::len);
        let bytes = self.bytes - removed + added;
        // What shrinks is accepted even beyond the bound: a file may have brought more.
        if bytes > bytes_max && added > removed {
            return false;
        }
        self.namespaces.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        self.bytes = bytes;
        self.changed = true;
        true
    }

    fn delete(&mut self, namespace: &str, key: &str) {
        let Some(table) = self.namespaces.get_mut(namespace) else { return };
        let Some(value) = table.remove(key) else { return };
        self.bytes -= key.len() + value.len();
        if table.is_empty() {
            self.namespaces.remove(namespace);
            self.bytes -= namespace.len();
        }
        self.changed = true;
    }

    fn table_body(&self, namespace: &str) -> Option<Vec<u8>> {
        let table = self.namespaces.get(namespace)?.clone();
        Some(json::to_vec(&KvTable { table }))
    }
}

impl NameServer {
    /// 100
    pub(crate) fn put_kv(&self, header: &PutKvHeader<'_>) -> Reply {
        let limit = self.options.limits.kv_bytes_max;
        if self.kv().put(&header.namespace, &header.key, &header.value, limit) {
            return Reply::success();
        }
        let remark = format!(
            "the KV configuration of this name server would exceed its limit of {limit} bytes: delete what is not \
             needed first"
        );
        Reply::refuse(ResponseCode::SystemError, remark)
    }

    /// 101
    pub(crate) fn get_kv(&self, header: &KvKeyHeader<'_>) -> Reply {
        let value = self.kv().get(&header.namespace, &header.key).map(str::to_owned);
        let reply = match &value {
            Some(_) => Reply::success(),
            None => not_found(format!("No config item, Namespace: {} Key: {}", header.namespace, header.key)),
        };
        reply.with_fields(&KvValueReply { value: value.map(Into::into), borrows: Default::default() })
    }

    /// 102
    pub(crate) fn delete_kv(&self, header: &KvKeyHeader<'_>) -> Reply {
        self.kv().delete(&header.namespace, &header.key);
        Reply::success()
    }

    /// 219
    pub(crate) fn list_kv(&self, header: &NamespaceHeader<'_>) -> Reply {
        let body = self.kv().table_body(&header.namespace);
        match body {
            Some(body) => Reply::success().with_body(body),
            None => not_found(format!("No config item, Namespace: {}", header.namespace)),
        }
    }

    /// The order configuration of all topics, as a body.
    pub(crate) fn order_topics(&self) -> Option<Vec<u8>> {
        self.kv().table_body(ORDER_NAMESPACE)
    }

    /// The order configuration of a topic.
    pub(crate) fn order_of(&self, topic: &str) -> Option<String> {
        self.kv().get(ORDER_NAMESPACE, topic).map(str::to_owned)
    }
}

fn not_found(remark: String) -> Reply {
    Reply::refuse(ResponseCode::QueryNotFound, remark)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use crate::{NamesrvLimits, NamesrvOptions};

    #[test]
    fn a_value_is_read_back_listed_and_gone_when_deleted() {
        let cluster = Cluster::new();
        let key = [("namespace", "N"), ("key", "k")];
        cluster.put_kv("N", "k", "v");
        assert_eq!(cluster.ask(101, &key).fields.unwrap().get("value"), Some("v"));
        assert_eq!(&cluster.ask(219, &key).body[..], br#"{"table":{"k":"v"}}"#);
        assert_eq!(cluster.ask(102, &key), Reply::success());
        let missing = cluster.ask(101, &key);
        assert_eq!(missing.code, ResponseCode::QueryNotFound);
        assert_eq!(missing.remark.unwrap(), "No config item, Namespace: N Key: k");
        assert_eq!(missing.fields.unwrap().len(), 0);
        let missing = cluster.ask(219, &key);
        assert_eq!(missing.remark.unwrap(), "No config item, Namespace: N");
        assert_eq!(cluster.ask(102, &key), Reply::success());
    }

    #[test]
    fn a_snapshot_is_given_once_for_each_change_and_restores_the_same() {
        let cluster = Cluster::new();
        assert_eq!(cluster.server.kv_snapshot(), None);
        cluster.put_kv("N", "k", "v");
        let snapshot = cluster.server.kv_snapshot().unwrap();
        assert_eq!(cluster.server.kv_snapshot(), None);
        let file = snapshot.to_vec();
        assert_eq!(file, br#"{"configTable":{"N":{"k":"v"}}}"#);
        let other = Cluster::new();
        other.server.restore_kv(KvSnapshot::parse(&file).unwrap());
        assert_eq!(other.server.kv_snapshot(), None);
        let key = [("namespace", "N"), ("key", "k")];
        assert_eq!(other.ask(101, &key).fields.unwrap().get("value"), Some("v"));
        other.ask(102, &[("namespace", "N"), ("key", "other")]);
        assert_eq!(other.server.kv_snapshot(), None);
        other.ask(102, &key);
        assert_eq!(other.server.kv_snapshot(), Some(KvSnapshot::default()));
    }

    #[test]
    fn an_empty_namespace_of_a_java_file_is_none() {
        let cluster = Cluster::new();
        let file = br#"{"configTable":{"N":{},"M":{"k":"v"}}}"#;
        cluster.server.restore_kv(KvSnapshot::parse(file).unwrap());
        assert_eq!(cluster.ask(219, &[("namespace", "N")]).code, ResponseCode::QueryNotFound);
        assert_eq!(cluster.server.kv().bytes, 3);
    }

    #[test]
    fn the_bytes_of_the_configuration_are_bounded_and_counted_exactly() {
        let limits = NamesrvLimits { kv_bytes_max: 10, ..Default::default() };
        let cluster = Cluster::with(NamesrvOptions { limits, ..Default::default() });
        cluster.put_kv("N", "k", "12345678");
        let put = |key, value| {
            cluster.ask(100, &[("namespace", "N"), ("key", key), ("value", value)]).code
                == ResponseCode::Success
        };
        assert!(!put("k", "123456789"));
        assert!(!put("l", ""));
        assert!(put("k", "1234"));
        assert!(put("l", "123"));
        assert!(!put("m", "1"));
        for key in ["k", "l"] {
            cluster.ask(102, &[("namespace", "N"), ("key", key)]);
        }
        assert_eq!(cluster.server.kv().bytes, 0);
    }
}
