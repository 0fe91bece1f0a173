//! What clients and tools are told: routes (105), clusters (106, 901), lists of topics (206, 224, 304, 311–313); and
//! what tools change here only: topics deleted (216), write permission (205, 327).
//!
//! What is told is copied out under the lock and written as JSON after it.
//!
//! A broker whose address was derived and leads back to the asking machine is told to others under the address
//! through which they reached this name server: without any configuration both run on one machine, and a client
//! elsewhere could do nothing with `127.0.0.1`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use cometmq_protocol::body::json;
use cometmq_protocol::body::route::{
    BrokerData, BrokerMemberGroup, BrokerMemberGroupBody, ClusterInfo, SystemTopicList, TopicList, TopicRoute,
};
use cometmq_protocol::body::topic::permission;
use cometmq_protocol::headers::namesrv::{
    AddWritePermissionReply, BrokerMemberGroupHeader, BrokerNameHeader, ClusterHeader, DeleteTopicHeader,
    GetRouteHeader, WipeWritePermissionReply,
};
use cometmq_protocol::{Millis, Peer, Reply, ResponseCode};

use crate::NameServer;
use crate::table::{BrokerSet, MASTER_ID, Queues, Table};

/// First version (4.9.4) that reads broker ids in quotes; the Go client (317) reads no other than bare ones.
const VERSION_WITH_STRICT_JSON: i32 = 401;
/// Brokers of a set find each other through topics of this prefix: they need the ids as they are.
const MEMBER_GROUP_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";
/// Most broker names that a remark tells.
const NAMES_TOLD_MAX: usize = 5;

/// Bits of a topic's system flag.
mod sys_flag {
    /// The topic belongs to a unit.
    pub(super) const UNIT: i32 = 1;
    /// Groups of units subscribe to the topic.
    pub(super) const UNIT_SUB: i32 = 1 << 1;
}

impl NameServer {
    /// 105
    pub(crate) fn route(&self, now: Millis, peer: &Peer, version: i32, header: &GetRouteHeader<'_>) -> Reply {
        let Some(topic) = &header.topic else {
            return no_route("null", &Absence::NoTopicGiven);
        };
        let found = {
            let table = self.table();
            match table.queues(topic) {
                Some(queues) => Ok(self.route_of(&table, topic, queues, peer)),
                None => Err(Absence::of(topic, &table, now)),
            }
        };
        let mut route = match found {
            Ok(route) => route,
            Err(absence) => return no_route(topic, &absence),
        };
        if self.options.order_message_enable {
            route.order_topic_conf = self.order_of(topic);
        }
        let strict = version >= VERSION_WITH_STRICT_JSON || header.accept_standard_json_only;
        Reply::success().with_body(route.to_body(strict))
    }

    fn route_of(&self, table: &Table, topic: &str, queues: &[Queues], peer: &Peer) -> TopicRoute {
        let acting = self.options.support_acting_master && !topic.starts_with(MEMBER_GROUP_PREFIX);
        let broker_datas = queues.iter().filter_map(|queues| {
            let set = table.sets().get(&queues.broker)?;
            let mut data = broker_data(&queues.broker, set, peer);
            if acting && set.enable_acting_master && queues.perm & permission::WRITE == 0 {
                present_lowest_as_master(&mut data.broker_addrs);
            }
            Some(data)
        });
        TopicRoute {
            broker_datas: broker_datas.collect(),
            queue_datas: queues.iter().map(Queues::to_data).collect(),
            ..TopicRoute::default()
        }
    }

    /// 106
    pub(crate) fn cluster_info(&self, peer: &Peer) -> Reply {
        let mut info = ClusterInfo::default();
        for (name, set) in self.table().sets() {
            info.broker_addr_table.insert(name.to_string(), broker_data(name, set, peer));
            info.cluster_addr_table.entry(set.cluster.clone()).or_default().push(name.to_string());
        }
        // Bare ids in any case: so does Java, and the clients that need them do not say who they are.
        Reply::success().with_body(json::to_vec_bare_keys(&info))
    }

    /// 901
    pub(crate) fn member_group(&self, header: &BrokerMemberGroupHeader<'_>) -> Reply {
        // Addresses as registered: brokers ask, and compare them with their own.
        let broker_addrs = match self.table().sets().get(&*header.broker_name) {
            Some(set) => set.members.iter().map(|(id, member)| (*id, member.addr.clone())).collect(),
            None => BTreeMap::new(),
        };
        let group = BrokerMemberGroup {
            broker_addrs,
            broker_name: header.broker_name.to_string(),
            cluster: header.cluster_name.to_string(),
        };
        Reply::success()
            .with_body(json::to_vec_bare_keys(&BrokerMemberGroupBody { broker_member_group: group }))
    }

    /// 206
    pub(crate) fn all_topics(&self) -> Reply {
        if !self.options.enable_all_topic_list {
            return disabled();
        }
        self.topic_list(|_, _| true)
    }

    /// 224
    pub(crate) fn topics_of_cluster(&self, header: &ClusterHeader<'_>) -> Reply {
        if !self.options.enable_topic_list {
            return disabled();
        }
        self.topic_list(|table, queues| {
            queues.iter().any(|queues| is_in_cluster(table, queues, &header.cluster))
        })
    }

    /// 304
    pub(crate) fn system_topics(&self, peer: &Peer) -> Reply {
        if !self.options.enable_topic_list {
            return disabled();
        }
        let mut names = BTreeSet::new();
        let mut broker_addr = None;
        for (name, set) in self.table().sets() {
            names.insert(set.cluster.clone());
            names.insert(name.to_string());
            let member = set.members.values().next();
            broker_addr = broker_addr.or_else(|| member.map(|member| member.addr_seen_through(peer.local)));
        }
        let list = SystemTopicList { broker_addr, topic_list: names.into_iter().collect() };
        Reply::success().with_body(json::to_vec(&list))
    }

    /// 311
    pub(crate) fn unit_topics(&self) -> Reply {
        self.topics_by_sys_flag(|flag| flag & sys_flag::UNIT != 0)
    }

    /// 312
    pub(crate) fn topics_with_unit_subscription(&self) -> Reply {
        self.topics_by_sys_flag(|flag| flag & sys_flag::UNIT_SUB != 0)
    }

    /// 313
    pub(crate) fn plain_topics_with_unit_subscription(&self) -> Reply {
        self.topics_by_sys_flag(|flag| flag & sys_flag::UNIT == 0 && flag & sys_flag::UNIT_SUB != 0)
    }

    fn topics_by_sys_flag(&self, wanted: impl Fn(i32) -> bool) -> Reply {
        if !self.options.enable_topic_list {
            return disabled();
        }
        self.topic_list(|_, queues| queues.first().is_some_and(|queues| wanted(queues.topic_sys_flag)))
    }

    fn topic_list(&self, wanted: impl Fn(&Table, &[Queues]) -> bool) -> Reply {
        let topics: Vec<Arc<str>> = {
            let table = self.table();
            let wanted = table.topics().filter(|(_, queues)| wanted(&table, queues));
            wanted.map(|(topic, _)| Arc::clone(topic)).collect()
        };
        let topic_list = topics.iter().map(ToString::to_string).collect();
        Reply::success().with_body(json::to_vec(&TopicList { topic_list }))
    }

    /// 216
    pub(crate) fn delete_topic(&self, header: &DeleteTopicHeader<'_>) -> Reply {
        let mut table = self.table();
        match header.cluster_name.as_deref().filter(|cluster| !cluster.is_empty()) {
            None => table.remove_queues(&header.topic, |_| true),
            Some(cluster) => {
                let queues = table.queues(&header.topic).unwrap_or_default();
                let there = queues.iter().filter(|queues| is_in_cluster(&table, queues, cluster));
                let brokers: Vec<Arc<str>> = there.map(|queues| Arc::clone(&queues.broker)).collect();
                table.remove_queues(&header.topic, |queues| brokers.contains(&queues.broker));
            }
        }
        Reply::success()
    }

    /// 205
    pub(crate) fn wipe_write_permission(&self, header: &BrokerNameHeader<'_>) -> Reply {
        let count = self.table().set_permission(&header.broker_name, |perm| perm & !permission::WRITE);
        let wipe_topic_count = i32::try_from(count).unwrap_or(i32::MAX);
        Reply::success()
            .with_fields(&WipeWritePermissionReply { wipe_topic_count, borrows: Default::default() })
    }

    /// 327
    pub(crate) fn add_write_permission(&self, header: &BrokerNameHeader<'_>) -> Reply {
        let count = self.table().set_permission(&header.broker_name, |_| permission::READ_WRITE);
        let add_topic_count = i32::try_from(count).unwrap_or(i32::MAX);
        Reply::success()
            .with_fields(&AddWritePermissionReply { add_topic_count, borrows: Default::default() })
    }
}

/// Why a topic has no route: what users know as "No route info of this topic", told apart by cause.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Absence {
    NoTopicGiven,
    NoBrokers,
    BrokersGone { broker: Arc<str>, gone_s: i64, brokers_left: usize },
    Unknown { topic: String, cluster: String, names: Vec<Arc<str>>, brokers: usize },
}

impl Absence {
    fn of(topic: &str, table: &Table, now: Millis) -> Absence {
        let sets = table.sets();
        if let Some(loss) = table.loss(topic) {
            let gone_s = (now - loss.at).max(0) / 1000;
            return Absence::BrokersGone {
                broker: Arc::clone(&loss.broker),
                gone_s,
                brokers_left: sets.len(),
            };
        }
        match sets.values().next() {
            None => Absence::NoBrokers,
            Some(first) => Absence::Unknown {
                topic: topic.to_owned(),
                cluster: first.cluster.clone(),
                names: sets.keys().take(NAMES_TOLD_MAX).cloned().collect(),
                brokers: sets.len(),
            },
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Absence::NoTopicGiven => {
                f.write_str("The request names no topic: its header needs the field `topic`.")
            }
            Absence::NoBrokers => f.write_str(
                "No broker is registered with this name server: start one, or give the running one this name \
                 server's address (namesrvAddr).",
            ),
            Absence::BrokersGone { broker, gone_s, brokers_left } => write!(
                f,
                "All brokers of this topic are gone, {broker} left {gone_s} s ago (brokers registered now: \
                 {brokers_left}). Start it again, or look for the cause in its log and in the network between."
            ),
            Absence::Unknown { topic, cluster, names, brokers } => {
                let more = if *brokers > names.len() { ", …" } else { "" };
                write!(
                    f,
                    "None of the {brokers} registered brokers ({}{more}) has this topic: create it with `mqadmin \
                     updateTopic -c {cluster} -t {topic}`, or let a broker create it on the first send \
                     (autoCreateTopicEnable=true).",
                    names.join(", ")
                )
            }
        }
    }
}

/// Clients look at the code; the first line is the one that users search for.
fn no_route(topic: &str, absence: &Absence) -> Reply {
    let remark = format!("No topic route info in name server for the topic: {topic}\n{absence}");
    Reply::refuse(ResponseCode::TopicNotExist, remark)
}

fn disabled() -> Reply {
    Reply::refuse(ResponseCode::SystemError, "disable")
}

fn broker_data(name: &str, set: &BrokerSet, peer: &Peer) -> BrokerData {
    let members = set.members.iter();
    BrokerData {
        broker_addrs: members.map(|(id, member)| (*id, member.addr_seen_through(peer.local))).collect(),
        broker_name: name.to_owned(),
        cluster: set.cluster.clone(),
        enable_acting_master: set.enable_acting_master,
    }
}

/// Clients read from a master only unless told otherwise; the lowest slave takes its place.
fn present_lowest_as_master(broker_addrs: &mut BTreeMap<i64, String>) {
    if !broker_addrs.contains_key(&MASTER_ID)
        && let Some((_, addr)) = broker_addrs.pop_first()
    {
        broker_addrs.insert(MASTER_ID, addr);
    }
}

fn is_in_cluster(table: &Table, queues: &Queues, cluster: &str) -> bool {
    table.sets().get(&queues.broker).is_some_and(|set| set.cluster == cluster)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::*;
    use crate::{NamesrvLimits, NamesrvOptions};

    fn check_body(reply: &Reply, expected: Expect) {
        assert_eq!(reply.code, ResponseCode::Success, "{:?}", reply.remark);
        expected.assert_eq(std::str::from_utf8(&reply.body).unwrap());
    }

    fn check_absence(reply: &Reply, expected: Expect) {
        assert_eq!(reply.code, ResponseCode::TopicNotExist);
        expected.assert_eq(reply.remark.as_ref().unwrap());
    }

    #[test]
    fn a_route_names_the_brokers_of_a_topic_and_its_queues_on_each() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        cluster.register(&Broker { id: 1, port: 2, ..broker("a") });
        cluster.register(&Broker { topics: vec![("T1", 1, 4), ("X", 1, 6)], port: 3, ..broker("b") });
        check_body(
            &cluster.ask(105, &[("topic", "T1")]),
            expect![[
                r#"{"brokerDatas":[{"brokerAddrs":{"0":"192.0.2.1:1","1":"192.0.2.1:2"},"brokerName":"a","cluster":"C","enableActingMaster":false},{"brokerAddrs":{"0":"192.0.2.1:3"},"brokerName":"b","cluster":"C","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4},{"brokerName":"b","perm":4,"readQueueNums":1,"topicSysFlag":0,"writeQueueNums":1}]}"#
            ]],
        );
    }

    #[test]
    fn broker_ids_are_bare_for_clients_below_4_9_4_that_do_not_ask_for_strict_json() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        let is_bare = |version, strict: &str| {
            let fields = [("topic", "T1"), ("acceptStandardJsonOnly", strict)];
            let reply = cluster.ask_as(version, 105, &fields);
            std::str::from_utf8(&reply.body).unwrap().contains(r#"{0:"192"#)
        };
        assert!(is_bare(317, "false"));
        assert!(is_bare(400, "false"));
        assert!(!is_bare(401, "false"));
        assert!(!is_bare(317, "true"));
    }

    #[test]
    fn the_order_configuration_is_told_when_the_option_is_on() {
        for told in [false, true] {
            let cluster = Cluster::with(NamesrvOptions { order_message_enable: told, ..Default::default() });
            cluster.register(&broker("a"));
            cluster.put_kv("ORDER_TOPIC_CONFIG", "T1", "a:4");
            let body = cluster.ask(105, &[("topic", "T1")]).body;
            assert_eq!(std::str::from_utf8(&body).unwrap().contains(r#""orderTopicConf":"a:4""#), told);
        }
    }

    #[test]
    fn each_cause_of_an_unknown_route_has_its_own_remark() {
        let cluster = Cluster::new();
        check_absence(
            &cluster.ask(105, &[]),
            expect![[r#"
                No topic route info in name server for the topic: null
                The request names no topic: its header needs the field `topic`."#]],
        );
        check_absence(
            &cluster.ask(105, &[("topic", "T1")]),
            expect![[r#"
                No topic route info in name server for the topic: T1
                No broker is registered with this name server: start one, or give the running one this name server's address (namesrvAddr)."#]],
        );
        cluster.register(&broker("a"));
        cluster.register(&Broker { port: 2, topics: vec![], ..broker("b") });
        check_absence(
            &cluster.ask(105, &[("topic", "T9")]),
            expect![[r#"
                No topic route info in name server for the topic: T9
                None of the 2 registered brokers (a, b) has this topic: create it with `mqadmin updateTopic -c C -t T9`, or let a broker create it on the first send (autoCreateTopicEnable=true)."#]],
        );
        cluster.ask_about(&broker("a"), 104, b"");
        check_absence(
            &cluster.at(12_000).ask(105, &[("topic", "T1")]),
            expect![[r#"
                No topic route info in name server for the topic: T1
                All brokers of this topic are gone, a left 12 s ago (brokers registered now: 1). Start it again, or look for the cause in its log and in the network between."#]],
        );
    }

    #[test]
    fn a_topic_that_came_back_and_was_deleted_is_unknown_and_not_lost() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        cluster.ask_about(&broker("a"), 104, b"");
        cluster.register(&broker("a"));
        assert_eq!(cluster.ask(105, &[("topic", "T1")]).code, ResponseCode::Success);
        cluster.ask(216, &[("topic", "T1")]);
        let remark = cluster.ask(105, &[("topic", "T1")]).remark.unwrap();
        assert!(remark.contains("None of the 1 registered"), "{remark}");
    }

    #[test]
    fn only_a_bounded_number_of_lost_topics_is_remembered() {
        let limits = NamesrvLimits { vanished_max: 1, ..Default::default() };
        let cluster = Cluster::with(NamesrvOptions { limits, ..Default::default() });
        cluster.register(&broker("a"));
        cluster.ask_about(&broker("a"), 104, b"");
        let lost = |topic| cluster.ask(105, &[("topic", topic)]).remark.unwrap().contains("are gone,");
        assert!(!lost("T1") && lost("T2"));
    }

    #[test]
    fn a_derived_loopback_address_is_told_as_the_address_through_which_the_client_came() {
        let shown = |registered: &'static str, derived, local: &str| {
            let cluster = Cluster::new();
            cluster.register(&Broker { addr: Some(registered), derived, ..broker("a") });
            cluster.local.set(local.parse().unwrap());
            let route: TopicRoute = json::parse(&cluster.ask(105, &[("topic", "T1")]).body).unwrap();
            let info: ClusterInfo = json::parse(&cluster.ask(106, &[]).body).unwrap();
            let list: SystemTopicList = json::parse(&cluster.ask(304, &[]).body).unwrap();
            let addr = route.broker_datas[0].broker_addrs[&0].clone();
            assert_eq!(info.broker_addr_table["a"].broker_addrs[&0], addr);
            assert_eq!(list.broker_addr.as_ref(), Some(&addr));
            addr
        };
        assert_eq!(shown("127.0.0.1:10911", true, "192.0.2.7:9876"), "192.0.2.7:10911");
        assert_eq!(shown("localhost:10911", true, "[::ffff:192.0.2.7]:9876"), "192.0.2.7:10911");
        assert_eq!(shown("[::1]:10911", true, "[2001:db8::7]:9876"), "[2001:db8::7]:10911");
        assert_eq!(shown("127.0.0.1:10911", true, "127.0.0.1:9876"), "127.0.0.1:10911");
        assert_eq!(shown("127.0.0.1:10911", true, "0.0.0.0:9876"), "127.0.0.1:10911");
        assert_eq!(shown("127.0.0.1:10911", false, "192.0.2.7:9876"), "127.0.0.1:10911");
        assert_eq!(shown("198.51.100.9:10911", true, "192.0.2.7:9876"), "198.51.100.9:10911");
    }

    #[test]
    fn brokers_are_told_addresses_as_registered() {
        let cluster = Cluster::new();
        let derived = Broker { derived: true, addr: Some("127.0.0.1:10911"), ..broker("a") };
        cluster.register(&derived);
        let slave = cluster.register(&Broker { id: 1, port: 2, ..broker("a") });
        assert_eq!(slave.fields.unwrap().get("masterAddr"), Some("127.0.0.1:10911"));
        check_body(
            &cluster.ask_about(&derived, 901, b""),
            expect![[
                r#"{"brokerMemberGroup":{"brokerAddrs":{0:"127.0.0.1:10911",1:"192.0.2.1:2"},"brokerName":"a","cluster":"C"}}"#
            ]],
        );
        check_body(
            &cluster.ask_about(&broker("z"), 901, b""),
            expect![[r#"{"brokerMemberGroup":{"brokerAddrs":{},"brokerName":"z","cluster":"C"}}"#]],
        );
    }

    #[test]
    fn clusters_are_told_with_bare_ids() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        cluster.register(&Broker { cluster: "D", port: 2, ..broker("b") });
        check_body(
            &cluster.ask(106, &[]),
            expect![[
                r#"{"brokerAddrTable":{"a":{"brokerAddrs":{0:"192.0.2.1:1"},"brokerName":"a","cluster":"C","enableActingMaster":false},"b":{"brokerAddrs":{0:"192.0.2.1:2"},"brokerName":"b","cluster":"D","enableActingMaster":false}},"clusterAddrTable":{"C":["a"],"D":["b"]}}"#
            ]],
        );
    }

    #[test]
    fn topics_are_listed_all_by_cluster_and_by_unit() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        let units = vec![("U", 1, 6), ("S", 1, 6), ("US", 1, 6)];
        let flags = vec![("U", 1), ("S", 2), ("US", 3)];
        cluster.register(&Broker { cluster: "D", port: 2, topics: units, sys_flags: flags, ..broker("b") });
        for (code, expected) in [
            (206, r#"{"topicList":["S","T1","T2","U","US"]}"#),
            (224, r#"{"topicList":["S","U","US"]}"#),
            (304, r#"{"brokerAddr":"192.0.2.1:1","topicList":["C","D","a","b"]}"#),
            (311, r#"{"topicList":["U","US"]}"#),
            (312, r#"{"topicList":["S","US"]}"#),
            (313, r#"{"topicList":["S"]}"#),
        ] {
            let reply = cluster.ask(code, &[("cluster", "D")]);
            assert_eq!(std::str::from_utf8(&reply.body).unwrap(), expected, "{code}");
        }
    }

    #[test]
    fn lists_are_refused_when_their_option_is_off() {
        let options =
            NamesrvOptions { enable_all_topic_list: false, enable_topic_list: false, ..Default::default() };
        let cluster = Cluster::with(options);
        for code in [206, 224, 304, 311, 312, 313] {
            let reply = cluster.ask(code, &[("cluster", "C")]);
            assert_eq!(
                (reply.code, reply.remark.as_deref()),
                (ResponseCode::SystemError, Some("disable")),
                "{code}"
            );
        }
    }

    #[test]
    fn a_deleted_topic_is_gone_everywhere_or_in_one_cluster_until_it_is_registered_again() {
        let cluster = Cluster::new();
        cluster.register(&broker("a"));
        cluster.register(&Broker { cluster: "D", port: 2, ..broker("b") });
        cluster.ask(216, &[("topic", "T1"), ("clusterName", "D")]);
        assert_eq!(cluster.queues("T1"), "a 4/4 perm 6");
        cluster.ask(216, &[("topic", "T1"), ("clusterName", "none")]);
        assert_eq!(cluster.queues("T1"), "a 4/4 perm 6");
        cluster.ask(216, &[("topic", "T1")]);
        assert_eq!(cluster.topics(), "T2");
        assert_eq!(cluster.ask(216, &[("topic", "nope")]), Reply::success());
        cluster.register(&broker("a"));
        assert_eq!(cluster.topics(), "T1 T2");
    }

    #[test]
    fn a_wiped_write_permission_holds_until_it_is_added_or_the_topics_change() {
        let cluster = Cluster::new();
        let both = Broker { topics: vec![("T1", 4, 6), ("TBW102", 8, 7)], ..broker("a") };
        cluster.register(&both);
        let name = [("brokerName", "a")];
        assert_eq!(cluster.ask(205, &name).fields.unwrap().get("wipeTopicCount"), Some("2"));
        assert_eq!(cluster.queues("TBW102"), "a 8/8 perm 5");
        cluster.register(&both);
        assert_eq!(cluster.queues("T1"), "a 4/4 perm 4");
        assert_eq!(cluster.ask(327, &name).fields.unwrap().get("addTopicCount"), Some("2"));
        assert_eq!(cluster.queues("TBW102"), "a 8/8 perm 6");
        cluster.ask(205, &name);
        cluster.register(&Broker { counter: 2, ..both });
        assert_eq!(
            (cluster.queues("T1"), cluster.queues("TBW102")),
            ("a 4/4 perm 6".into(), "a 8/8 perm 7".into())
        );
        assert_eq!(cluster.ask(205, &[("brokerName", "z")]).fields.unwrap().get("wipeTopicCount"), Some("0"));
    }

    #[test]
    fn the_lowest_slave_is_told_as_master_only_when_everything_allows_it() {
        for (option, acting, expected) in [(true, true, 0), (false, true, 1), (true, false, 1)] {
            let cluster =
                Cluster::with(NamesrvOptions { support_acting_master: option, ..Default::default() });
            let topics = vec![("T1", 4, 6), ("rmq_sys_SYNC_BROKER_MEMBER_a", 1, 6)];
            let slave = Broker { id: 1, acting, topics, ..broker("a") };
            cluster.register(&slave);
            cluster.register(&Broker { id: 2, port: 2, ..slave });
            let first_id = |topic| {
                let route: TopicRoute = json::parse(&cluster.ask(105, &[("topic", topic)]).body).unwrap();
                *route.broker_datas[0].broker_addrs.first_key_value().unwrap().0
            };
            assert_eq!(first_id("T1"), expected);
            assert_eq!(first_id("rmq_sys_SYNC_BROKER_MEMBER_a"), 1);
        }
    }
}
