//! What the name server knows: broker sets with their members, and the queues that each set has of each topic.
//!
//! Always: a set has a member; queues belong to a set that exists; a topic has queues. Only [`Table`]'s methods
//! change it, and each keeps all three. Maps are ordered, so that the same requests always give the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cometmq_protocol::body::DataVersion;
use cometmq_protocol::body::route::QueueData;
use cometmq_protocol::body::topic::{TopicConfig, permission};
use cometmq_protocol::{ConnectionId, Millis};

use crate::vanished::{Loss, Vanished};

/// The broker id of a master.
pub(crate) const MASTER_ID: i64 = 0;

/// A broker that is no longer known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The connection through which it had registered.
    pub connection: ConnectionId,
    /// Cluster.
    pub cluster_name: String,
    /// Broker name.
    pub broker_name: String,
    /// 0 for a master.
    pub broker_id: i64,
    /// Address as registered.
    pub broker_addr: String,
    /// Time since its last sign of life, ms.
    pub silent_ms: i64,
}

/// A master and its slaves under one broker name.
#[derive(Clone, Debug)]
pub(crate) struct BrokerSet {
    pub(crate) cluster: String,
    pub(crate) enable_acting_master: bool,
    pub(crate) members: BTreeMap<i64, Member>,
}

/// One broker process.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Address as registered.
    pub(crate) addr: String,
    /// Replication address.
    pub(crate) ha_addr: String,
    /// The port of an address that the broker derived and that leads back to the asking machine: the host in it is
    /// no host to name to others.
    pub(crate) derived_port: Option<u16>,
    /// Version of the topics that it last registered.
    pub(crate) version: DataVersion,
    /// Closes with the broker.
    pub(crate) connection: ConnectionId,
    pub(crate) last_sign: Millis,
    pub(crate) timeout_ms: i64,
}

impl Member {
    pub(crate) fn is_expired(&self, now: Millis) -> bool {
        now - self.last_sign > self.timeout_ms
    }

    /// The address for a client that reaches this machine under `local`.
    pub(crate) fn addr_seen_through(&self, local: SocketAddr) -> String {
        let host: IpAddr = local.ip().to_canonical();
        match self.derived_port {
            Some(port) if !host.is_loopback() && !host.is_unspecified() => {
                SocketAddr::new(host, port).to_string()
            }
            _ => self.addr.clone(),
        }
    }
}

/// The queues that one broker set has of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queues {
    pub(crate) broker: Arc<str>,
    pub(crate) perm: i32,
    pub(crate) read_queue_nums: i32,
    pub(crate) write_queue_nums: i32,
    pub(crate) topic_sys_flag: i32,
}

impl Queues {
    pub(crate) fn new(broker: &Arc<str>, topic: &TopicConfig, perm: i32) -> Queues {
        Queues {
            broker: Arc::clone(broker),
            perm,
            read_queue_nums: topic.read_queue_nums,
            write_queue_nums: topic.write_queue_nums,
            topic_sys_flag: topic.topic_sys_flag,
        }
    }

    pub(crate) fn to_data(&self) -> QueueData {
        QueueData {
            broker_name: self.broker.to_string(),
            perm: self.perm,
            read_queue_nums: self.read_queue_nums,
            topic_sys_flag: self.topic_sys_flag,
            write_queue_nums: self.write_queue_nums,
        }
    }
}

/// Broker sets by name, and topics with their queues.
#[derive(Debug)]
pub(crate) struct Table {
    sets: BTreeMap<Arc<str>, BrokerSet>,
    /// The queues of a topic are sorted by broker name. A list and not a map: most topics have one to three.
    topics: BTreeMap<Arc<str>, Vec<Queues>>,
    /// Sum of the lengths of all lists in `topics`.
    queues_count: usize,
    vanished: Vanished,
}

impl Table {
    pub(crate) fn new(vanished_max: usize) -> Table {
        Table {
            sets: BTreeMap::new(),
            topics: BTreeMap::new(),
            queues_count: 0,
            vanished: Vanished::new(vanished_max),
        }
    }

    pub(crate) fn sets(&self) -> &BTreeMap<Arc<str>, BrokerSet> {
        &self.sets
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = (&Arc<str>, &[Queues])> {
        self.topics.iter().map(|(topic, queues)| (topic, queues.as_slice()))
    }

    pub(crate) fn queues_count(&self) -> usize {
        self.queues_count
    }

    /// The queues of a topic; never an empty list.
    pub(crate) fn queues(&self, topic: &str) -> Option<&[Queues]> {
        self.topics.get(topic).map(Vec::as_slice)
    }

    /// How a topic lost its last broker, if it had one.
    pub(crate) fn loss(&self, topic: &str) -> Option<&Loss> {
        self.vanished.get(topic)
    }

    pub(crate) fn has_queues(&self, topic: &str, broker: &str) -> bool {
        self.topics.get(topic).is_some_and(|queues| position(queues, broker).is_ok())
    }

    /// The member of a set that registered with an address.
    pub(crate) fn member_mut(&mut self, broker: &str, addr: &str) -> Option<&mut Member> {
        self.sets.get_mut(broker)?.members.values_mut().find(|member| member.addr == addr)
    }

    /// Puts a member into its set, which is made if needed, and takes its address from any other id of the set.
    /// Returns the set's shared name.
    pub(crate) fn put_member(
        &mut self,
        broker: &str,
        id: i64,
        member: Member,
        set: SetFacts<'_>,
    ) -> Arc<str> {
        let name = match self.sets.get_key_value(broker) {
            Some((name, _)) => Arc::clone(name),
            None => Arc::from(broker),
        };
        let entry = self.sets.entry(Arc::clone(&name)).or_insert_with(|| BrokerSet {
            cluster: set.cluster.to_owned(),
            enable_acting_master: false,
            members: BTreeMap::new(),
        });
        entry.members.retain(|other, known| *other == id || known.addr != member.addr);
        entry.members.insert(id, member);
        entry.enable_acting_master = set.enable_acting_master;
        if entry.members.len() == 1 && entry.cluster != set.cluster {
            // A lone broker that was started again in another cluster; where others stay, the first word counts.
            entry.cluster = set.cluster.to_owned();
        }
        name
    }

    /// Puts the queues that a known broker set has of a topic.
    pub(crate) fn put_queues(&mut self, topic: &str, queues: Queues) {
        assert!(self.sets.contains_key(&queues.broker), "queues belong to a set that exists");
        match self.topics.get_mut(topic) {
            Some(list) => match position(list, &queues.broker) {
                Ok(at) => list[at] = queues,
                Err(at) => {
                    list.insert(at, queues);
                    self.queues_count += 1;
                }
            },
            None => {
                self.topics.insert(Arc::from(topic), vec![queues]);
                self.queues_count += 1;
                self.vanished.forget(topic);
            }
        }
    }

    /// Changes the permission of all queues of a broker set; returns how many topics it has.
    pub(crate) fn set_permission(&mut self, broker: &str, change: impl Fn(i32) -> i32) -> usize {
        let mut count = 0;
        for queues in self.topics.values_mut() {
            if let Ok(at) = position(queues, broker) {
                queues[at].perm = change(queues[at].perm);
                count += 1;
            }
        }
        count
    }

    /// Removes the queues for which `gone` says so because someone asked for it, not because a broker left.
    pub(crate) fn remove_queues(&mut self, topic: &str, gone: impl Fn(&Queues) -> bool) {
        let Some(queues) = self.topics.get_mut(topic) else { return };
        let before = queues.len();
        queues.retain(|queues| !gone(queues));
        self.queues_count -= before - queues.len();
        if queues.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Removes the queues that a broker set has of topics which `keeps` does not name.
    pub(crate) fn keep_topics(&mut self, broker: &str, keeps: impl Fn(&str) -> bool) {
        let dropped: Vec<Arc<str>> = self
            .topics()
            .filter(|(topic, queues)| position(queues, broker).is_ok() && !keeps(topic))
            .map(|(topic, _)| Arc::clone(topic))
            .collect();
        for topic in dropped {
            self.remove_queues(&topic, |queues| *queues.broker == *broker);
        }
    }

    /// Removes the members for which `gone`, given the broker name, says so; with the last member of a set its
    /// queues. A set that allows a slave to act as master loses its write permission with its master.
    pub(crate) fn remove_members(
        &mut self,
        now: Millis,
        mut gone: impl FnMut(&str, &Member) -> bool,
    ) -> Vec<Departed> {
        let mut departed = Vec::new();
        let mut removed = BTreeSet::new();
        let mut read_only = BTreeSet::new();
        self.sets.retain(|name, set| {
            let before = departed.len();
            let cluster = &set.cluster;
            set.members.retain(|id, member| {
                let goes = gone(name, member);
                if goes {
                    departed.push(Departed {
                        connection: member.connection,
                        cluster_name: cluster.clone(),
                        broker_name: name.to_string(),
                        broker_id: *id,
                        broker_addr: member.addr.clone(),
                        silent_ms: now - member.last_sign,
                    });
                }
                !goes
            });
            if set.members.is_empty() {
                removed.insert(Arc::clone(name));
            } else if departed.len() > before
                && set.enable_acting_master
                && !set.members.contains_key(&MASTER_ID)
            {
                read_only.insert(Arc::clone(name));
            }
            !set.members.is_empty()
        });
        for broker in &read_only {
            self.set_permission(broker, |perm| perm & !permission::WRITE);
        }
        if !removed.is_empty() {
            self.lose_queues(now, &removed);
        }
        departed
    }

    /// Removes the queues of sets that are gone, and remembers the topics that vanish with them.
    fn lose_queues(&mut self, now: Millis, removed: &BTreeSet<Arc<str>>) {
        let Table { topics, vanished, queues_count, .. } = self;
        topics.retain(|topic, queues| {
            let mut last = None;
            queues.retain(|queues| {
                let goes = removed.contains(&queues.broker);
                if goes {
                    *queues_count -= 1;
                    last = Some(Arc::clone(&queues.broker));
                }
                !goes
            });
            if let (true, Some(broker)) = (queues.is_empty(), last) {
                vanished.remember(topic, Loss { broker, at: now });
            }
            !queues.is_empty()
        });
    }
}

/// What a registration says of the whole set.
pub(crate) struct SetFacts<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) enable_acting_master: bool,
}

/// Where the queues of a broker are in a topic's list, or belong.
fn position(queues: &[Queues], broker: &str) -> Result<usize, usize> {
    queues.binary_search_by(|queues| (*queues.broker).cmp(broker))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Join { broker: u8, id: i64, port: u8 },
        Serve { broker: u8, topic: u8 },
        Leave { port: u8 },
        Delete { topic: u8 },
        Keep { broker: u8, topic: u8 },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u8, 0..3i64, 0..6u8).prop_map(|(broker, id, port)| Step::Join { broker, id, port }),
            (0..4u8, 0..5u8).prop_map(|(broker, topic)| Step::Serve { broker, topic }),
            (0..6u8).prop_map(|port| Step::Leave { port }),
            (0..5u8).prop_map(|topic| Step::Delete { topic }),
            (0..4u8, 0..5u8).prop_map(|(broker, topic)| Step::Keep { broker, topic }),
        ]
    }

    /// The plain meaning of the table: who is where, who has what.
    #[derive(Default)]
    struct Model {
        members: BTreeSet<(String, i64, String)>,
        queues: BTreeSet<(String, String)>,
    }

    fn member(addr: &str) -> Member {
        Member {
            addr: addr.to_owned(),
            ha_addr: String::new(),
            derived_port: None,
            version: DataVersion::default(),
            connection: ConnectionId(0),
            last_sign: Millis(0),
            timeout_ms: 1,
        }
    }

    fn apply(table: &mut Table, model: &mut Model, step: Step) {
        let facts = || SetFacts { cluster: "C", enable_acting_master: false };
        match step {
            Step::Join { broker, id, port } => {
                let (broker, addr) = (format!("b{broker}"), format!("h:{port}"));
                model.members.retain(|known| known.0 != broker || (known.1 != id && known.2 != addr));
                model.members.insert((broker.clone(), id, addr.clone()));
                table.put_member(&broker, id, member(&addr), facts());
            }
            Step::Serve { broker, topic } => {
                let (broker, topic) = (format!("b{broker}"), format!("T{topic}"));
                if table.sets().contains_key(broker.as_str()) {
                    let config = TopicConfig::new(&topic, 1, 6);
                    table.put_queues(&topic, Queues::new(&Arc::from(broker.as_str()), &config, 6));
                    model.queues.insert((topic, broker));
                }
            }
            Step::Leave { port } => {
                let addr = format!("h:{port}");
                table.remove_members(Millis(0), |_, member| member.addr == addr);
                model.members.retain(|known| known.2 != addr);
                let Model { members, queues } = model;
                queues.retain(|(_, broker)| members.iter().any(|known| known.0 == *broker));
            }
            Step::Delete { topic } => {
                let topic = format!("T{topic}");
                table.remove_queues(&topic, |_| true);
                model.queues.retain(|(known, _)| *known != topic);
            }
            Step::Keep { broker, topic } => {
                let (broker, topic) = (format!("b{broker}"), format!("T{topic}"));
                table.keep_topics(&broker, |known| known == topic);
                model.queues.retain(|(known, other)| *other != broker || *known == topic);
            }
        }
    }

    proptest! {
        #[test]
        fn the_table_means_a_set_of_members_and_a_set_of_topic_broker_pairs(
            steps in proptest::collection::vec(step(), 0..60)
        ) {
            let mut table = Table::new(3);
            let mut model = Model::default();
            for step in steps {
                apply(&mut table, &mut model, step);
                let members: BTreeSet<_> = table.sets().iter()
                    .flat_map(|(name, set)| set.members.iter().map(|(id, m)| (name.to_string(), *id, m.addr.clone())))
                    .collect();
                prop_assert_eq!(&members, &model.members);
                let queues: BTreeSet<_> = table.topics()
                    .flat_map(|(topic, queues)| queues.iter().map(|q| (topic.to_string(), q.broker.to_string())))
                    .collect();
                prop_assert_eq!(&queues, &model.queues);
                prop_assert_eq!(table.queues_count(), model.queues.len());
                prop_assert!(table.sets().values().all(|set| !set.members.is_empty()));
                prop_assert!(table.topics().all(|(topic, queues)| !queues.is_empty() && table.loss(topic).is_none()));
            }
        }
    }
}
