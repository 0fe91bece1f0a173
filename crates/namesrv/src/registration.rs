//! How brokers come and go: registration (103), unregistration (104), and the signs of life between (322, 904).
//!
//! A broker is known by its name, its id in the set of that name, and its address. It stays known while it gives a
//! sign of life within its timeout and the connection through which it registered is open. Topics are taken only
//! from the member that speaks for its set: the master, or of brokers of release 5 the lowest slave. A registration
//! that is refused changes nothing.
//!
//! Not here: what clients are told (`route`).

use bytes::Bytes;
use cometmq_protocol::body::registration::{RegisterBrokerBody, TopicTable};
use cometmq_protocol::body::topic::permission;
use cometmq_protocol::body::{BodyError, DataVersion, json};
use cometmq_protocol::headers::namesrv::{
    BrokerHeader, BrokerHeartbeatHeader, QueryDataVersionReply, RegisterBrokerHeader, RegisterBrokerReply,
};
use cometmq_protocol::message::record;
use cometmq_protocol::{ConnectionId, Millis, Reply, ResponseCode};

use crate::table::{MASTER_ID, Member, Queues, SetFacts, Table};
use crate::{NameServer, NamesrvLimits, NamesrvOptions};

/// How long a registration holds when the broker does not say.
const TIMEOUT_MS_DEFAULT: i64 = 120_000;
/// Bounds of what a broker may say.
const TIMEOUT_MS_RANGE: (i64, i64) = (1_000, 24 * 60 * 60 * 1000);
/// First version (5.0.0) whose slaves may speak for their set.
const VERSION_WITH_PRIME_SLAVE: i32 = 413;

/// Why a registration is not accepted. All have the code that brokers expect for it, "system error".
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("crc32 not match")]
    Checksum,
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(
        "register broker failed\nBroker {broker_name} has no id {broker_id} here yet, and a body of one topic changes \
         what is known already: register with all topics first."
    )]
    OneTopicOfStranger { broker_name: String, broker_id: i64 },
    #[error("the {what} is empty; a registration has to name it")]
    Blank { what: &'static str },
    #[error("the {what} has {bytes} bytes, the limit is {limit}")]
    TooLong { what: &'static str, bytes: usize, limit: usize },
    #[error("this name server knows {limit} broker names, its limit: broker {broker_name} is not registered")]
    TooManyBrokers { broker_name: String, limit: usize },
    #[error("broker {broker_name} has {limit} ids here, the limit: id {broker_id} is not registered")]
    TooManyMembers { broker_name: String, broker_id: i64, limit: usize },
    #[error(
        "with its {topics} topics broker {broker_name} would exceed the limit of {limit} pairs of topic and broker \
         that this name server knows: it is not registered"
    )]
    TooManyTopics { broker_name: String, topics: usize, limit: usize },
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Reply {
        Reply::refuse(ResponseCode::SystemError, refusal.to_string())
    }
}

impl NameServer {
    /// 103
    pub(crate) fn register(
        &self,
        now: Millis,
        connection: ConnectionId,
        version: i32,
        header: &RegisterBrokerHeader<'_>,
        body: &Bytes,
    ) -> Reply {
        // The body may be megabytes: it is read before the table is locked.
        let announcement = match Announcement::read(now, connection, version, header, body) {
            Ok(announcement) => announcement,
            Err(refusal) => return refusal.into(),
        };
        let told = match announcement.enter(&mut self.table(), &self.options) {
            Ok(told) => told,
            Err(refusal) => return refusal.into(),
        };
        let reply = Reply::success().with_fields(&told);
        let is_told_orders = self.options.return_order_topic_config_to_broker;
        match is_told_orders.then(|| self.order_topics()).flatten() {
            Some(orders) => reply.with_body(orders),
            None => reply,
        }
    }

    /// 104
    pub(crate) fn unregister(&self, now: Millis, header: &BrokerHeader<'_>) -> Reply {
        // The id is not compared, as in Java: the address may have moved to another id since.
        self.table().remove_members(now, |name, member| {
            name == header.broker_name && member.addr == header.broker_addr
        });
        Reply::success()
    }

    /// 322
    pub(crate) fn query_data_version(&self, now: Millis, header: &BrokerHeader<'_>, body: &Bytes) -> Reply {
        let asked: DataVersion = match json::parse(body) {
            Ok(version) => version,
            Err(error) => return Refusal::Body(error).into(),
        };
        let known = self.table().member_mut(&header.broker_name, &header.broker_addr).map(|member| {
            member.last_sign = now;
            member.version
        });
        let changed = known != Some(asked);
        let reply =
            Reply::success().with_fields(&QueryDataVersionReply { changed, borrows: Default::default() });
        match known {
            Some(version) => reply.with_body(json::to_vec(&version)),
            None => reply,
        }
    }

    /// 904
    pub(crate) fn heartbeat(&self, now: Millis, header: &BrokerHeartbeatHeader<'_>) -> Reply {
        if let Some(member) = self.table().member_mut(&header.broker_name, &header.broker_addr) {
            member.last_sign = now;
        }
        Reply::success()
    }
}

/// A registration that is well formed.
struct Announcement<'a> {
    header: &'a RegisterBrokerHeader<'a>,
    member: Member,
    topics: TopicTable,
    /// Whether the broker is of a release whose slaves may speak for their set.
    may_be_prime: bool,
}

impl<'a> Announcement<'a> {
    fn read(
        now: Millis,
        connection: ConnectionId,
        version: i32,
        header: &'a RegisterBrokerHeader<'a>,
        body: &Bytes,
    ) -> Result<Announcement<'a>, Refusal> {
        if header.body_crc32 != 0 && i64::from(record::body_crc(body)) != i64::from(header.body_crc32) {
            return Err(Refusal::Checksum);
        }
        let body = RegisterBrokerBody::decode(body, header.compressed, version)?;
        let topics = body.topic_config_serialize_wrapper;
        let (shortest, longest) = TIMEOUT_MS_RANGE;
        let member = Member {
            addr: header.broker_addr.to_string(),
            ha_addr: header.ha_server_addr.to_string(),
            derived_port: if header.address_derived { loopback_port(&header.broker_addr) } else { None },
            version: topics.data_version,
            connection,
            last_sign: now,
            timeout_ms: header
                .heartbeat_timeout_millis
                .unwrap_or(TIMEOUT_MS_DEFAULT)
                .clamp(shortest, longest),
        };
        Ok(Announcement { header, member, topics, may_be_prime: version >= VERSION_WITH_PRIME_SLAVE })
    }

    /// Enters broker and topics into the table. Returns what a slave is told of its master.
    fn enter(
        self,
        table: &mut Table,
        options: &NamesrvOptions,
    ) -> Result<RegisterBrokerReply<'static>, Refusal> {
        let Announcement { header, .. } = self;
        let id = header.broker_id;
        let standing = self.standing(table);
        if standing == Standing::Outdated {
            return Ok(master_for(table, header));
        }
        if standing == Standing::Stranger && self.topics.topic_config_table.len() == 1 {
            return Err(Refusal::OneTopicOfStranger {
                broker_name: header.broker_name.to_string(),
                broker_id: id,
            });
        }
        let speaks = self.speaks(table);
        self.check_limits(table, &options.limits, speaks)?;

        let facts =
            SetFacts { cluster: &header.cluster_name, enable_acting_master: header.enable_acting_master };
        let broker = table.put_member(&header.broker_name, id, self.member, facts);
        if speaks {
            let topics = &self.topics.topic_config_table;
            // A body of one topic is a change of that topic, not the whole list.
            if options.delete_topic_with_broker_registration && topics.len() != 1 {
                table.keep_topics(&broker, |topic| topics.contains_key(topic));
            }
            // A slave that may act as master serves readers only.
            let perm_mask =
                if id != MASTER_ID && header.enable_acting_master { !permission::WRITE } else { !0 };
            for (name, topic) in topics {
                // What an operator changed here by 205, 327 holds until the broker's topics change; what was deleted
                // by 216 comes back.
                if standing != Standing::Unchanged || !table.has_queues(name, &broker) {
                    table.put_queues(name, Queues::new(&broker, topic, topic.perm & perm_mask));
                }
            }
        }
        Ok(master_for(table, header))
    }

    fn standing(&self, table: &Table) -> Standing {
        let set = table.sets().get(&*self.header.broker_name);
        let Some(known) = set.and_then(|set| set.members.get(&self.header.broker_id)) else {
            return Standing::Stranger;
        };
        if known.addr == self.member.addr {
            return if known.version == self.member.version {
                Standing::Unchanged
            } else {
                Standing::Changed
            };
        }
        // Two brokers claim one id. The controller counts the states of a set, so the lower count is an earlier
        // master that does not know of its fall; without controller both are 0 and the newcomer wins.
        if known.version.state_version > self.member.version.state_version {
            Standing::Outdated
        } else {
            Standing::Changed
        }
    }

    /// Whether topics are taken from this member once it has entered.
    fn speaks(&self, table: &Table) -> bool {
        let id = self.header.broker_id;
        let others = table.sets().get(&*self.header.broker_name).into_iter().flat_map(|set| &set.members);
        let is_lowest =
            others.filter(|(_, other)| other.addr != self.member.addr).all(|(other, _)| *other >= id);
        id == MASTER_ID || (self.may_be_prime && is_lowest)
    }

    fn check_limits(&self, table: &Table, limits: &NamesrvLimits, speaks: bool) -> Result<(), Refusal> {
        let header = self.header;
        let broker_name = || header.broker_name.to_string();
        check_name("broker name", &header.broker_name, limits)?;
        check_name("broker address", &header.broker_addr, limits)?;
        check_name("cluster name", &header.cluster_name, limits)?;
        check_length("replication address", &header.ha_server_addr, limits)?;
        match table.sets().get(&*header.broker_name) {
            None if table.sets().len() >= limits.brokers_max => {
                return Err(Refusal::TooManyBrokers {
                    broker_name: broker_name(),
                    limit: limits.brokers_max,
                });
            }
            Some(set)
                if set.members.len() >= limits.members_max
                    && !set.members.contains_key(&header.broker_id) =>
            {
                return Err(Refusal::TooManyMembers {
                    broker_name: broker_name(),
                    broker_id: header.broker_id,
                    limit: limits.members_max,
                });
            }
            _ => {}
        }
        if !speaks {
            return Ok(());
        }
        let topics = &self.topics.topic_config_table;
        for topic in topics.keys() {
            check_name("name of a topic", topic, limits)?;
        }
        let new = topics.keys().filter(|topic| !table.has_queues(topic, &header.broker_name)).count();
        if table.queues_count() + new > limits.queues_max {
            return Err(Refusal::TooManyTopics {
                broker_name: broker_name(),
                topics: topics.len(),
                limit: limits.queues_max,
            });
        }
        Ok(())
    }
}

/// What the table knows of a broker that registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Nothing under this id.
    Stranger,
    /// The id, with other topics or another address.
    Changed,
    /// Exactly this.
    Unchanged,
    /// The id with another address and a later state: the registration is to be ignored.
    Outdated,
}

/// The master of the set for a slave; nothing for the master itself.
fn master_for(table: &Table, header: &RegisterBrokerHeader<'_>) -> RegisterBrokerReply<'static> {
    let set = table.sets().get(&*header.broker_name);
    let master = set.and_then(|set| set.members.get(&MASTER_ID)).filter(|_| header.broker_id != MASTER_ID);
    RegisterBrokerReply {
        ha_server_addr: master.map(|master| master.ha_addr.clone().into()),
        master_addr: master.map(|master| master.addr.clone().into()),
        borrows: Default::default(),
    }
}

/// The port of `host:port` when the host is this machine's name for itself.
fn loopback_port(addr: &str) -> Option<u16> {
    let (host, port) = addr.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if is_loopback { port.parse().ok() } else { None }
}

fn check_name(what: &'static str, text: &str, limits: &NamesrvLimits) -> Result<(), Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::Blank { what });
    }
    check_length(what, text, limits)
}

fn check_length(what: &'static str, text: &str, limits: &NamesrvLimits) -> Result<(), Refusal> {
    let (bytes, limit) = (text.len(), limits.name_bytes_max);
    if bytes > limit { Err(Refusal::TooLong { what, bytes, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use cometmq_protocol::VERSION;

    use super::*;
    use crate::testing::*;
    use crate::{Departed, NamesrvOptions};

    #[test]
    fn a_broker_is_dropped_when_it_is_silent_longer_than_its_timeout() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        cluster.register(&Broker { timeout_ms: Some(10_000), port: 2, ..broker("b") });
        assert_eq!(cluster.at(10_000).scan(), []);
        let departed = cluster.at(10_001).scan();
        assert_eq!(
            departed,
            [Departed {
                connection: ConnectionId(2),
                cluster_name: "C".into(),
                broker_name: "b".into(),
                broker_id: 0,
                broker_addr: "192.0.2.1:2".into(),
                silent_ms: 10_001,
            }]
        );
        assert_eq!(cluster.at(120_000).scan(), []);
        assert_eq!(cluster.at(120_001).scan().len(), 1);
        assert_eq!(cluster.brokers(), "");
    }

    #[test]
    fn every_sign_of_life_counts() {
        let signs: [fn(&Cluster) -> Reply; 3] = [
            |cluster| cluster.register(&broker("a")),
            |cluster| cluster.ask_about(&broker("a"), 322, br#"{"counter":1}"#),
            |cluster| cluster.ask_about(&broker("a"), 904, b""),
        ];
        for sign in signs {
            let cluster = Cluster::new();
            cluster.register(&broker("a"));
            cluster.now.set(Millis(100_000));
            assert_eq!(sign(&cluster).code, ResponseCode::Success);
            assert_eq!(cluster.at(220_000).scan(), []);
            assert_eq!(cluster.at(220_001).scan().len(), 1);
        }
    }

    #[test]
    fn a_timeout_from_the_wire_is_kept_within_bounds() {
        let cluster = Cluster::new();
        cluster.register(&Broker { timeout_ms: Some(-5), ..broker("a") });
        cluster.register(&Broker { timeout_ms: Some(i64::MAX), ..broker("b") });
        assert_eq!(cluster.at(1_000).scan(), []);
        assert_eq!(cluster.at(1_001).scan().len(), 1);
        assert_eq!(cluster.at(24 * 60 * 60 * 1000 + 1).scan().len(), 1);
    }

    #[test]
    fn the_close_of_the_registering_connection_unregisters_and_no_other_does() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        cluster.register(&Broker { port: 2, ..broker("b") });
        assert_eq!(cluster.server.disconnected(Millis(5), ConnectionId(7)), []);
        assert_eq!(cluster.server.disconnected(Millis(5), ConnectionId(2)).len(), 1);
        assert_eq!(cluster.brokers(), "a 0=192.0.2.1:1");
        // The broker reconnected before the old connection was seen to close.
        cluster.register_through(ConnectionId(9), &broker("a"));
        assert_eq!(cluster.server.disconnected(Millis(5), ConnectionId(1)), []);
        assert_eq!(cluster.brokers(), "a 0=192.0.2.1:1");
    }

    #[test]
    fn an_unregistered_broker_is_gone_at_once() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        assert_eq!(
            cluster.ask_about(&Broker { port: 3, ..broker("a") }, 104, b"").code,
            ResponseCode::Success
        );
        assert_eq!(cluster.brokers(), "a 0=192.0.2.1:1");
        assert_eq!(cluster.ask_about(&broker("a"), 104, b""), Reply::success());
        assert_eq!(cluster.brokers(), "");
    }

    #[test]
    fn a_slave_is_told_its_master_and_the_master_nothing() {
        let cluster = Cluster::new();
        let slave = Broker { id: 1, port: 2, ..broker("a") };
        assert_eq!(cluster.register(&slave).fields.unwrap().len(), 0);
        assert_eq!(cluster.register(&broker("a")).fields.unwrap().len(), 0);
        let fields = cluster.register(&slave).fields.unwrap();
        assert_eq!(fields.get("masterAddr"), Some("192.0.2.1:1"));
        assert_eq!(fields.get("haServerAddr"), Some("192.0.2.1:1001"));
    }

    #[test]
    fn an_address_has_one_id_and_moves_with_it() {
        let cluster = Cluster::new();
        cluster.register(&Broker { id: 1, ..broker("a") });
        cluster.register(&broker("a"));
        assert_eq!(cluster.brokers(), "a 0=192.0.2.1:1");
    }

    #[test]
    fn of_two_addresses_with_one_id_the_newcomer_wins_unless_its_state_is_earlier() {
        let cluster = Cluster::new();
        cluster.register(&Broker { state: 5, ..broker("a") });
        let reply = cluster.register(&Broker { state: 4, port: 2, ..broker("a") });
        assert_eq!((reply.code, reply.fields.unwrap().len()), (ResponseCode::Success, 0));
        assert_eq!(cluster.brokers(), "a 0=192.0.2.1:1");
        cluster.register(&Broker { state: 5, port: 3, ..broker("a") });
        assert_eq!(cluster.brokers(), "a 0=192.0.2.1:3");
        // The address that lost is no longer known, so its signs of life do not count.
        assert_eq!(cluster.server.disconnected(Millis(0), ConnectionId(1)), []);
    }

    #[test]
    fn one_topic_is_accepted_from_a_known_broker_only() {
        let cluster = Cluster::new();
        let single = Broker { topics: vec![("T9", 3, 6)], counter: 2, ..broker("a") };
        let reply = cluster.register(&single);
        assert_eq!(reply.code, ResponseCode::SystemError);
        assert!(reply.remark.unwrap().starts_with("register broker failed\n"));
        assert_eq!(cluster.brokers(), "");
        cluster.register(&broker("a"));
        assert_eq!(cluster.register(&single).code, ResponseCode::Success);
        assert_eq!(cluster.topics(), "T1 T2 T9");
    }

    #[test]
    fn topics_are_taken_again_when_the_data_version_changed() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        let grown = Broker { topics: vec![("T1", 8, 4), ("T2", 4, 6)], ..broker("a") };
        cluster.register(&grown);
        assert_eq!(cluster.queues("T1"), "a 4/4 perm 6");
        cluster.register(&Broker { counter: 2, ..grown });
        assert_eq!(cluster.queues("T1"), "a 8/8 perm 4");
    }

    #[test]
    fn a_topic_missing_from_a_registration_stays_unless_the_option_says_otherwise() {
        for delete in [false, true] {
            let options =
                NamesrvOptions { delete_topic_with_broker_registration: delete, ..Default::default() };
            let cluster = Cluster::with(options);
            cluster.register(&broker("a"));
            cluster.register(&Broker { port: 2, ..broker("b") });
            cluster.register(&Broker { topics: vec![("T2", 4, 6), ("T3", 4, 6)], counter: 2, ..broker("a") });
            let expected = if delete { "b 4/4 perm 6" } else { "a 4/4 perm 6, b 4/4 perm 6" };
            assert_eq!(cluster.queues("T1"), expected);
            cluster.register(&Broker { topics: vec![("T4", 4, 6)], counter: 3, ..broker("a") });
            assert_eq!(cluster.queues("T3"), "a 4/4 perm 6", "a single topic is a change, not the whole");
        }
    }

    #[test]
    fn topics_come_from_the_master_or_of_release_5_from_the_lowest_slave() {
        let slave =
            |id, port, name| Broker { id, port, topics: vec![(name, 4, 6), ("T", 1, 6)], ..broker("a") };
        let cluster = Cluster::new();
        cluster.register(&Broker { version: 405, ..slave(1, 1, "T_of_old_slave") });
        assert_eq!(cluster.topics(), "");
        cluster.register(&slave(2, 2, "T_of_second"));
        assert_eq!(cluster.topics(), "");
        cluster.register(&slave(1, 1, "T_of_first"));
        assert_eq!(cluster.topics(), "T T_of_first");
        cluster.register(&slave(0, 3, "T_of_master"));
        cluster.register(&Broker { counter: 3, ..slave(1, 1, "T_late") });
        assert_eq!(cluster.topics(), "T T_of_first T_of_master");
    }

    #[test]
    fn a_slave_that_may_act_as_master_gives_no_write_permission_and_a_lost_master_takes_it() {
        let cluster = Cluster::new();
        let master = Broker { acting: true, ..broker("a") };
        let slave = Broker { id: 1, port: 2, ..master.clone() };
        cluster.register(&master);
        cluster.register(&slave);
        assert_eq!(cluster.queues("T1"), "a 4/4 perm 6");
        cluster.server.disconnected(Millis(0), ConnectionId(1));
        assert_eq!(cluster.queues("T1"), "a 4/4 perm 4");
        cluster.register(&Broker { counter: 2, topics: vec![("T1", 8, 6), ("T2", 8, 6)], ..slave });
        assert_eq!(cluster.queues("T1"), "a 8/8 perm 4");
        cluster.register(&master);
        assert_eq!(cluster.queues("T1"), "a 4/4 perm 6");
    }

    #[test]
    fn a_data_version_has_changed_when_it_differs_or_the_broker_is_unknown() {
        let cluster = Cluster::new();
        let ask = |body: &[u8]| cluster.ask_about(&broker("a"), 322, body);
        let same = br#"{"counter":1,"stateVersion":0,"timestamp":0}"#;
        let reply = ask(same);
        assert_eq!(reply.fields.unwrap().get("changed"), Some("true"));
        assert!(reply.body.is_empty());
        cluster.register(&broker("a"));
        let reply = ask(same);
        assert_eq!(reply.fields.unwrap().get("changed"), Some("false"));
        assert_eq!(&reply.body[..], same);
        assert_eq!(ask(br#"{"counter":2}"#).fields.unwrap().get("changed"), Some("true"));
        assert_eq!(ask(b"").code, ResponseCode::SystemError);
    }

    #[test]
    fn a_compressed_body_means_the_same_and_a_damaged_one_is_refused() {
        let cluster = Cluster::new();
        let compressed = Broker { compressed: true, ..broker("a") };
        cluster.register(&compressed);
        assert_eq!(cluster.topics(), "T1 T2");
        let body = compressed.body();
        let damaged = cluster.ask_about(&compressed, 103, &body[1..]);
        assert_eq!(damaged.remark.unwrap(), "crc32 not match");
        let mut unchecked = compressed.fields();
        unchecked.retain(|(name, _)| *name != "bodyCrc32");
        let send = |body| cluster.send(ConnectionId(1), VERSION, 103, &unchecked, body);
        let damaged = send(&body[1..]);
        assert_eq!(damaged.code, ResponseCode::SystemError);
        assert!(damaged.remark.unwrap().contains("damaged"));
        assert_eq!(send(&body).code, ResponseCode::Success);
    }

    #[test]
    fn what_exceeds_a_limit_is_refused_by_name_and_changes_nothing() {
        let limits = crate::NamesrvLimits {
            brokers_max: 2,
            members_max: 1,
            queues_max: 4,
            name_bytes_max: 20,
            ..Default::default()
        };
        let cluster = Cluster::with(NamesrvOptions { limits, ..Default::default() });
        cluster.register(&broker("a"));
        cluster.register(&Broker { port: 2, ..broker("b") });
        let before = (cluster.brokers(), cluster.topics());
        let grown = vec![("T1", 4, 6), ("T2", 4, 6), ("T3", 4, 6)];
        for (refused, word) in [
            (broker("c"), "2 broker names"),
            (Broker { id: 1, port: 5, ..broker("a") }, "1 ids"),
            (Broker { topics: grown, ..broker("a") }, "limit of 4 pairs"),
            (
                Broker { topics: vec![("T", 1, 6), ("T_with_too_long_a_name", 1, 6)], ..broker("a") },
                "22 bytes",
            ),
            (broker("a_broker_with_too_long_a_name"), "29 bytes"),
            (broker(" "), "broker name is empty"),
        ] {
            let reply = cluster.register(&refused);
            let remark = reply.remark.unwrap();
            assert_eq!(reply.code, ResponseCode::SystemError);
            assert!(remark.contains(word), "{remark}");
        }
        assert_eq!((cluster.brokers(), cluster.topics()), before);
    }

    #[test]
    fn brokers_are_told_the_order_topics_when_there_are_any() {
        for told in [true, false] {
            let options = NamesrvOptions { return_order_topic_config_to_broker: told, ..Default::default() };
            let cluster = Cluster::with(options);
            assert!(cluster.register(&broker("a")).body.is_empty());
            cluster.put_kv("ORDER_TOPIC_CONFIG", "T1", "a:4");
            let body = cluster.register(&broker("a")).body;
            assert_eq!(&body[..], if told { &br#"{"table":{"T1":"a:4"}}"#[..] } else { b"" });
        }
    }

    #[test]
    fn a_lone_broker_may_change_its_cluster() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        cluster.register(&Broker { cluster: "D", ..broker("a") });
        assert_eq!(cluster.clusters(), "D:a");
        cluster.register(&Broker { cluster: "E", id: 1, port: 2, ..broker("a") });
        assert_eq!(cluster.clusters(), "D:a");
    }
}
