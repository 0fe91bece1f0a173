//! The name server: which brokers serve which topics, told to those who ask.
//!
//! A [`NameServer`] takes one request at a time and gives its reply; everything that it knows of brokers and topics
//! comes from the brokers' registrations and is forgotten with them. Only the KV configuration is to be kept, as a
//! value that the caller writes ([`NameServer::kv_snapshot`]).
//!
//! Suggested reading order: `registration` is how brokers come and go, `route` what clients are told, `kv` the
//! configuration by namespace and key, `table` the brokers and topics themselves, `vanished` the memory of
//! topics that lost their last broker.
//!
//! Not here: sockets, files, clocks, threads. Time is an argument; name servers do not know each other.

mod kv;
mod registration;
mod route;
mod table;
#[cfg(test)]
mod testing;
mod vanished;

use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use cometmq_protocol::{ConnectionId, Millis, Peer, Reply, Request, RequestError, ResponseCode};

pub use kv::KvSnapshot;
pub use table::Departed;

use kv::Kv;
use table::Table;

/// How a name server behaves. The default is that of the Java name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesrvOptions {
    /// `orderMessageEnable`: routes carry the topic's order configuration.
    pub order_message_enable: bool,
    /// `returnOrderTopicConfigToBroker`: brokers that register are told the order configuration of all topics.
    pub return_order_topic_config_to_broker: bool,
    /// `enableAllTopicList`: the list of all topics is told (code 206).
    pub enable_all_topic_list: bool,
    /// `enableTopicList`: the lists of topics by cluster, of the system and of units are told.
    pub enable_topic_list: bool,
    /// `deleteTopicWithBrokerRegistration`: a topic that is missing from its broker's registration is forgotten.
    pub delete_topic_with_broker_registration: bool,
    /// `supportActingMaster`: where a broker set that allows it has no master, its lowest slave is told as one.
    pub support_acting_master: bool,
    /// How much it agrees to know.
    pub limits: NamesrvLimits,
}

impl Default for NamesrvOptions {
    fn default() -> NamesrvOptions {
        NamesrvOptions {
            order_message_enable: false,
            return_order_topic_config_to_broker: true,
            enable_all_topic_list: true,
            enable_topic_list: true,
            delete_topic_with_broker_registration: false,
            support_acting_master: false,
            limits: NamesrvLimits::default(),
        }
    }
}

/// Bounds of what peers can make a name server keep. Beyond a bound a request is refused with its name and number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesrvLimits {
    /// Broker names.
    pub brokers_max: usize,
    /// Broker ids under one broker name.
    pub members_max: usize,
    /// Pairs of a topic and a broker that has it.
    pub queues_max: usize,
    /// Bytes of one name or address.
    pub name_bytes_max: usize,
    /// Bytes of the whole KV configuration.
    pub kv_bytes_max: usize,
    /// Topics without broker that are remembered so that the answer can say so.
    pub vanished_max: usize,
}

impl Default for NamesrvLimits {
    fn default() -> NamesrvLimits {
        NamesrvLimits {
            brokers_max: 10_000,
            members_max: 64,
            queues_max: 2_000_000,
            name_bytes_max: 512,
            kv_bytes_max: 8 * 1024 * 1024,
            vanished_max: 10_000,
        }
    }
}

/// A name server. Safe to share: the locks inside are short, and never two of them are held at once.
#[derive(Debug)]
pub struct NameServer {
    options: NamesrvOptions,
    table: Mutex<Table>,
    kv: Mutex<Kv>,
}

impl NameServer {
    /// A name server that knows nothing yet.
    pub fn new(options: NamesrvOptions) -> NameServer {
        let table = Mutex::new(Table::new(options.limits.vanished_max));
        NameServer { options, table, kv: Mutex::new(Kv::default()) }
    }

    /// Answers one request. `version` is the version number in the header of the request. The reply to a one-way
    /// request is to be dropped.
    pub fn handle(
        &self,
        now: Millis,
        peer: &Peer,
        version: i32,
        request: &Request<'_>,
        body: &Bytes,
    ) -> Reply {
        match request {
            Request::GetRoute(header) => self.route(now, peer, version, header),
            Request::RegisterBroker(header) => self.register(now, peer.connection, version, header, body),
            Request::UnregisterBroker(header) => self.unregister(now, header),
            Request::QueryDataVersion(header) => self.query_data_version(now, header, body),
            Request::BrokerHeartbeat(header) => self.heartbeat(now, header),
            Request::GetClusterInfo(_) => self.cluster_info(peer),
            Request::GetBrokerMemberGroup(header) => self.member_group(header),
            Request::GetAllTopics(_) => self.all_topics(),
            Request::GetTopicsByCluster(header) => self.topics_of_cluster(header),
            Request::GetSystemTopicsFromNamesrv(_) => self.system_topics(peer),
            Request::GetUnitTopics(_) => self.unit_topics(),
            Request::GetHasUnitSubTopics(_) => self.topics_with_unit_subscription(),
            Request::GetHasUnitSubUnunitTopics(_) => self.plain_topics_with_unit_subscription(),
            Request::DeleteTopicInNamesrv(header) => self.delete_topic(header),
            Request::WipeWritePermission(header) => self.wipe_write_permission(header),
            Request::AddWritePermission(header) => self.add_write_permission(header),
            Request::PutKvConfig(header) => self.put_kv(header),
            Request::GetKvConfig(header) => self.get_kv(header),
            Request::DeleteKvConfig(header) => self.delete_kv(header),
            Request::GetKvListByNamespace(header) => self.list_kv(header),
            // What brokers and clients serve; the same answer as to a number that no one knows.
            other => {
                let error = RequestError::NotSupported { code: other.code().code() };
                Reply::refuse(ResponseCode::RequestCodeNotSupported, error.to_string())
            }
        }
    }

    /// Forgets the brokers that registered through `connection`, and returns them.
    pub fn disconnected(&self, now: Millis, connection: ConnectionId) -> Vec<Departed> {
        self.table().remove_members(now, |_, member| member.connection == connection)
    }

    /// Forgets the brokers that gave no sign of life for longer than they promised, and returns them; the caller
    /// closes their connections.
    pub fn scan(&self, now: Millis) -> Vec<Departed> {
        self.table().remove_members(now, |_, member| member.is_expired(now))
    }

    /// The KV configuration, if it changed since the last call. Write it before the reply to the request that
    /// changed it is sent, and an acknowledged change survives a restart.
    pub fn kv_snapshot(&self) -> Option<KvSnapshot> {
        self.kv().take_changed()
    }

    /// What [`NameServer::kv_snapshot`] gave could not be written: it is given once more.
    pub fn kv_not_written(&self) {
        self.kv().note_changed();
    }

    /// Replaces the KV configuration by one that was written earlier.
    pub fn restore_kv(&self, snapshot: KvSnapshot) {
        *self.kv() = Kv::restore(snapshot);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no one panics while holding the table")
    }

    fn kv(&self) -> MutexGuard<'_, Kv> {
        self.kv.lock().expect("no one panics while holding the KV configuration")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn what_brokers_serve_is_answered_like_an_unknown_number() {
        let reply = Cluster::new().ask(34, &[]);
        assert_eq!(reply.code, ResponseCode::RequestCodeNotSupported);
        assert_eq!(reply.remark.unwrap(), " request type 34 not supported (HEART_BEAT)");
    }

    #[test]
    fn every_code_that_the_table_gives_to_the_name_server_is_served() {
        let fields = [
            ("topic", "T"),
            ("brokerName", "a"),
            ("brokerAddr", "h:1"),
            ("brokerId", "0"),
            ("clusterName", "C"),
            ("cluster", "C"),
            ("namespace", "N"),
            ("key", "k"),
            ("value", "v"),
        ];
        let cluster = Cluster::new();
        for row in cometmq_protocol::request::REQUESTS {
            if row.room.is_some_and(|room| room.starts_with("namesrv::")) {
                let reply = cluster.ask(row.code.code(), &fields);
                assert_ne!(reply.code, ResponseCode::RequestCodeNotSupported, "{}", row.code.name());
            }
        }
    }
}
