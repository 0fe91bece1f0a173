//! Connected producers and consumers: heartbeats, group membership, subscriptions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use cometmq_protocol::body::client::{
    CheckClientConfigBody, ConsumerData, ConsumerListBody, HeartbeatData, SubscriptionData,
};
use cometmq_protocol::body::json;
use cometmq_protocol::body::topic::permission;
use cometmq_protocol::headers::client::{ConsumerGroupHeader, UnregisterClientHeader};
use cometmq_protocol::message::tags::TagFilter;
use cometmq_protocol::names::{GroupName, TopicName};
use cometmq_protocol::{ConnectionId, Millis, Peer, Reply, ResponseCode, TopicConfig};
use cometmq_store::Patience;

use crate::broker::{Broker, Caller};
use crate::effects::Effects;
use crate::slow::Undone;
use crate::topic::Topic;

/// A client without heartbeat for so long is gone.
const SILENCE_MS_MAX: i64 = 120_000;
/// Answer to every use of SQL92.
pub(crate) const NO_SQL: &str = "The broker does not support consumer to filter message by SQL92: expressions other \
                                 than tags are not part of this version; subscribe with tags";

/// All groups with connected members.
#[derive(Debug, Default)]
pub struct Clients {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Ordered, as its members are: who is told first is the same each time.
    consumers: BTreeMap<String, ConsumerGroup>,
    /// Producer groups by member, for transaction checks and console.
    producers: HashMap<String, HashMap<ConnectionId, Member>>,
}

#[derive(Debug)]
struct Member {
    /// One for all groups of a heartbeat: it is as long as the client likes.
    client_id: Arc<str>,
    seen_at: Millis,
}

#[derive(Debug, Default)]
struct ConsumerGroup {
    members: BTreeMap<ConnectionId, Member>,
    broadcasting: bool,
    subscriptions: BTreeMap<String, Subscription>,
}

/// What a group wants of a topic.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub version: i64,
    pub filter: Arc<Filter>,
}

/// A filter as the subscription says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    Tags(TagFilter),
    /// An expression of a kind that is not served.
    Unsupported,
}

/// What a pull finds out about its group's subscription.
#[derive(Debug)]
pub(crate) enum SubscriptionLookup {
    GroupOffline,
    NotSubscribed,
    Found { subscription: Subscription, broadcasting: bool },
}

impl Clients {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    pub(crate) fn subscription(&self, group: &str, topic: &str) -> SubscriptionLookup {
        let state = self.state();
        let Some(group) = state.consumers.get(group) else { return SubscriptionLookup::GroupOffline };
        match group.subscriptions.get(topic) {
            Some(subscription) => {
                let broadcasting = group.broadcasting;
                SubscriptionLookup::Found { subscription: subscription.clone(), broadcasting }
            }
            None => SubscriptionLookup::NotSubscribed,
        }
    }

    /// Takes a client into a consumer group. Returns whether membership or subscriptions changed.
    fn join(
        &self,
        now: Millis,
        peer: &Peer,
        client_id: &Arc<str>,
        data: &ConsumerData,
        without_sub: bool,
    ) -> bool {
        let mut state = self.state();
        let group = state.consumers.entry(data.group_name.clone()).or_default();
        group.broadcasting = data.message_model == "BROADCASTING";
        let member = Member { client_id: Arc::clone(client_id), seen_at: now };
        let mut changed = group.members.insert(peer.connection, member).is_none();
        if without_sub {
            return changed;
        }
        for subscription in &data.subscription_data_set {
            changed |= group.subscribe(subscription);
        }
        let wanted: BTreeSet<&str> = data.subscription_data_set.iter().map(|s| s.topic.as_str()).collect();
        let before = group.subscriptions.len();
        group.subscriptions.retain(|topic, _| wanted.contains(topic.as_str()));
        changed | (group.subscriptions.len() != before)
    }

    /// Takes a connection out of the groups that `leaves` names. Returns the consumer groups it was in.
    fn leave(&self, connection: ConnectionId, leaves: impl Fn(&str, Role) -> bool) -> Vec<String> {
        let mut state = self.state();
        state.producers.retain(|name, members| {
            if leaves(name, Role::Producer) {
                members.remove(&connection);
            }
            !members.is_empty()
        });
        let mut left = Vec::new();
        for (name, group) in &mut state.consumers {
            if leaves(name, Role::Consumer) && group.members.remove(&connection).is_some() {
                left.push(name.clone());
            }
        }
        state.consumers.retain(|_, group| !group.members.is_empty());
        left
    }

    fn members(&self, group: &str) -> Vec<ConnectionId> {
        self.state()
            .consumers
            .get(group)
            .map(|group| group.members.keys().copied().collect())
            .unwrap_or_default()
    }

    fn client_ids(&self, group: &str) -> Vec<String> {
        let state = self.state();
        let ids = state.consumers.get(group).into_iter().flat_map(|group| group.members.values());
        let unique: BTreeSet<&str> = ids.map(|member| &*member.client_id).collect();
        unique.into_iter().map(str::to_owned).collect()
    }

    /// Connections of clients that were silent for too long.
    fn silent(&self, now: Millis) -> BTreeSet<ConnectionId> {
        let state = self.state();
        let consumers = state.consumers.values().flat_map(|group| &group.members);
        let members = consumers.chain(state.producers.values().flatten());
        let is_silent = |(_, member): &(&ConnectionId, &Member)| now.0 - member.seen_at.0 > SILENCE_MS_MAX;
        members.filter(is_silent).map(|(connection, _)| *connection).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Producer,
    Consumer,
}

impl ConsumerGroup {
    /// Takes a subscription over when it is new or newer. Returns whether it is another one than before.
    fn subscribe(&mut self, data: &SubscriptionData) -> bool {
        let filter = match (data.is_tag_type(), TagFilter::parse(&data.sub_string)) {
            (true, Ok(filter)) => Filter::Tags(filter),
            _ => Filter::Unsupported,
        };
        match self.subscriptions.get_mut(&data.topic) {
            Some(known) if data.sub_version <= known.version => false,
            Some(known) => {
                known.version = data.sub_version;
                let changed = *known.filter != filter;
                known.filter = Arc::new(filter);
                changed
            }
            None => {
                let subscription = Subscription { version: data.sub_version, filter: Arc::new(filter) };
                self.subscriptions.insert(data.topic.clone(), subscription);
                true
            }
        }
    }
}

impl Broker {
    /// Code 34.
    pub(crate) fn heartbeat(
        &self,
        caller: &Caller,
        body: &Bytes,
        effects: &mut Effects,
    ) -> Result<Reply, Undone> {
        let (now, peer) = (caller.now, &caller.peer);
        let refuse = |remark| Reply::refuse(ResponseCode::SystemError, remark);
        let data: HeartbeatData = json::parse(body).map_err(|error| refuse(error.to_string()))?;
        if data.client_id.is_empty() {
            return Err(refuse("the heartbeat has no clientID".to_owned()).into());
        }
        let client_id: Arc<str> = data.client_id.as_str().into();
        // Whoever has to wait for a topic to be made is a member already: what it asks for next may come before.
        let mut made = Ok(());
        for consumer in &data.consumer_data_set {
            made = made.and(self.consumer_heartbeat(caller, &client_id, data.without_sub, consumer, effects));
            if matches!(made, Err(Undone::Refused(_))) {
                break;
            }
        }
        made?;
        let mut state = self.clients.state();
        for producer in &data.producer_data_set {
            let group = state.producers.entry(producer.group_name.clone()).or_default();
            group.insert(peer.connection, Member { client_id: Arc::clone(&client_id), seen_at: now });
        }
        drop(state);
        // Both fields as a 5.3.3 broker sends them to a plain heartbeat.
        Ok(Reply::success()
            .with_field("IS_SUPPORT_HEART_BEAT_V2", "true")
            .with_field("IS_SUB_CHANGE", "true"))
    }

    fn consumer_heartbeat(
        &self,
        caller: &Caller,
        client_id: &Arc<str>,
        without_sub: bool,
        consumer: &ConsumerData,
        effects: &mut Effects,
    ) -> Result<(), Undone> {
        let name = GroupName::parse(&consumer.group_name)
            .map_err(|error| Reply::refuse(ResponseCode::InvalidParameter, error.to_string()))?;
        let (mut notify, mut made) = (true, Ok(()));
        if let Some(config) = self.groups.get_or_create(&name, caller.now) {
            notify = config.notify_consumer_ids_changed_enable;
            made = self.make_retry_topic(&name, config.retry_queue_nums, caller, effects);
        }
        if matches!(made, Err(Undone::Refused(_))) {
            return made;
        }
        let (now, peer) = (caller.now, &caller.peer);
        let changed = self.clients.join(now, peer, client_id, consumer, without_sub);
        if changed && notify && self.config.notify_members {
            effects.notify_members(name.as_str(), self.clients.members(name.as_str()));
        }
        made
    }

    fn make_retry_topic(
        &self,
        group: &GroupName,
        queues: i32,
        caller: &Caller,
        effects: &mut Effects,
    ) -> Result<(), Undone> {
        let name = TopicName::retry(group)
            .map_err(|error| Reply::refuse(ResponseCode::InvalidParameter, error.to_string()))?;
        if queues <= 0 || self.topics.get(name.as_str()).is_some() {
            return Ok(());
        }
        if caller.patience == Patience::Resident {
            return Err(Undone::NeedsDisk);
        }
        let config = TopicConfig::new(name.as_str(), queues, permission::READ_WRITE);
        let made = self.topics.put(Topic { name, config }, caller.now, effects);
        made.map_err(|error| Reply::refuse(ResponseCode::SystemError, error.to_string()))?;
        Ok(())
    }

    /// Code 35.
    pub(crate) fn unregister(
        &self,
        peer: &Peer,
        header: &UnregisterClientHeader<'_>,
        effects: &mut Effects,
    ) -> Reply {
        let left = self.clients.leave(peer.connection, |name, role| match role {
            Role::Producer => header.producer_group.as_deref() == Some(name),
            Role::Consumer => header.consumer_group.as_deref() == Some(name),
        });
        self.notify_groups(left, effects);
        Reply::success()
    }

    /// Code 38.
    pub(crate) fn consumer_list(&self, header: &ConsumerGroupHeader<'_>) -> Reply {
        let consumer_id_list = self.clients.client_ids(&header.consumer_group);
        if consumer_id_list.is_empty() {
            let remark = format!("no consumer for this group, {}", header.consumer_group);
            return Reply::refuse(ResponseCode::SystemError, remark);
        }
        Reply::success().with_body(json::to_vec(&ConsumerListBody { consumer_id_list }))
    }

    /// Code 46.
    pub(crate) fn check_client_config(&self, body: &Bytes) -> Reply {
        match json::parse::<CheckClientConfigBody>(body) {
            Ok(check) if check.subscription_data.is_tag_type() => Reply::success(),
            Ok(_) => Reply::refuse(ResponseCode::SystemError, NO_SQL),
            Err(error) => Reply::refuse(ResponseCode::SystemError, error.to_string()),
        }
    }

    /// A connection is closed: its client is in no group any more.
    pub fn disconnected(&self, connection: ConnectionId, effects: &mut Effects) {
        self.waiters.forget(connection);
        let left = self.clients.leave(connection, |_, _| true);
        self.notify_groups(left, effects);
    }

    fn notify_groups(&self, groups: Vec<String>, effects: &mut Effects) {
        for group in groups {
            let notify =
                self.groups.get(&group).is_none_or(|config| config.notify_consumer_ids_changed_enable);
            if notify && self.config.notify_members {
                effects.notify_members(&group, self.clients.members(&group));
            }
        }
    }

    /// Closes connections of clients that were silent for 120 s.
    pub(crate) fn expire_clients(&self, now: Millis, effects: &mut Effects) {
        for connection in self.clients.silent(now) {
            tracing::info!(connection = connection.0, "client without heartbeat for 120 s: closed");
            effects.close.push(connection);
            self.disconnected(connection, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_client_id_is_kept_once_for_all_groups() {
        let (clients, id) = (Clients::default(), Arc::from("x"));
        let address = "10.0.0.9:1".parse().unwrap();
        let peer = Peer { connection: ConnectionId(1), remote: address, local: address };
        for number in 0..100 {
            let data = ConsumerData { group_name: number.to_string(), ..ConsumerData::default() };
            assert!(clients.join(Millis(0), &peer, &id, &data, false));
        }
        let state = clients.state();
        let members = state.consumers.values().flat_map(|group| group.members.values());
        assert_eq!(members.filter(|member| Arc::ptr_eq(&member.client_id, &id)).count(), 100);
    }
}
