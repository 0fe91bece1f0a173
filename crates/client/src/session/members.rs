//! The groups that a client belongs to, and what brokers say to it about them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cometmq_protocol::body::client::{ConsumerData, HeartbeatData, ProducerData};
use cometmq_protocol::{Header, Peer, Reply, RequestCode, ResponseCode};
use cometmq_remoting::{CloseReason, Incoming};
use tokio::sync::Notify;

/// The groups of one client.
#[derive(Default)]
pub(crate) struct Members {
    groups: Mutex<Groups>,
    /// Someone wants brokers to hear of the client before the next interval.
    pub(super) heartbeat_wanted: Notify,
}

#[derive(Default)]
struct Groups {
    /// With the number of producers in each.
    producers: BTreeMap<String, usize>,
    consumers: BTreeMap<String, Consumer>,
}

struct Consumer {
    data: ConsumerData,
    rebalance: Arc<Notify>,
}

impl Members {
    pub(crate) fn enter_producer(&self, group: &str) {
        *self.groups().producers.entry(group.to_owned()).or_default() += 1;
        self.heartbeat_wanted.notify_one();
    }

    /// Whether the group has no producer of this client left.
    pub(crate) fn leave_producer(&self, group: &str) -> bool {
        let mut groups = self.groups();
        let Some(count) = groups.producers.get_mut(group) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            groups.producers.remove(group);
        }
        last
    }

    /// Adds a consumer; `rebalance` is notified when the group's members or routes changed. False when this client
    /// is in the group already.
    pub(crate) fn enter_consumer(&self, data: ConsumerData, rebalance: Arc<Notify>) -> bool {
        let mut groups = self.groups();
        if groups.consumers.contains_key(&data.group_name) {
            return false;
        }
        groups.consumers.insert(data.group_name.clone(), Consumer { data, rebalance });
        true
    }

    pub(crate) fn leave_consumer(&self, group: &str) {
        self.groups().consumers.remove(group);
    }

    pub(super) fn has_consumers(&self) -> bool {
        !self.groups().consumers.is_empty()
    }

    pub(super) fn subscribed_topics(&self) -> Vec<String> {
        let groups = self.groups();
        let subscriptions =
            groups.consumers.values().flat_map(|consumer| &consumer.data.subscription_data_set);
        subscriptions.map(|subscription| subscription.topic.clone()).collect()
    }

    /// Lets every consumer look anew at who consumes what.
    pub(super) fn rebalance_all(&self) {
        self.groups().consumers.values().for_each(|consumer| consumer.rebalance.notify_one());
    }

    /// What brokers are to hear; `None` when the client is in no group.
    pub(super) fn heartbeat(&self, client_id: &str) -> Option<HeartbeatData> {
        let groups = self.groups();
        if groups.producers.is_empty() && groups.consumers.is_empty() {
            return None;
        }
        Some(HeartbeatData {
            client_id: client_id.to_owned(),
            consumer_data_set: groups.consumers.values().map(|consumer| consumer.data.clone()).collect(),
            producer_data_set: groups
                .producers
                .keys()
                .map(|name| ProducerData { group_name: name.clone() })
                .collect(),
            ..HeartbeatData::default()
        })
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming for Members {
    fn request(&self, _: Peer, header: &Header<'_>, _: &Bytes) -> Option<Reply> {
        if header.code != RequestCode::NotifyConsumerIdsChanged.code() {
            let remark = format!("this client does not serve request {}", header.code);
            return Some(Reply::refuse(ResponseCode::RequestCodeNotSupported, remark));
        }
        let group = header.field("consumerGroup").unwrap_or_default();
        if let Some(consumer) = self.groups().consumers.get(group) {
            consumer.rebalance.notify_one();
        }
        Some(Reply::success())
    }

    fn closed(&self, peer: Peer, reason: &CloseReason) {
        if !matches!(reason, CloseReason::Local) {
            tracing::warn!(server = %peer.remote, %reason, "connection lost");
            // The broker has forgotten the client: tell it again as soon as it can be reached.
            self.heartbeat_wanted.notify_one();
        }
    }
}
