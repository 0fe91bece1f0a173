//! Routes: which queues of a topic one may write to and read from, and where their brokers are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use cometmq_protocol::body::client::MessageQueue;
use cometmq_protocol::body::route::TopicRoute;
use cometmq_protocol::names::TopicName;

/// Broker id of a master.
pub const MASTER_ID: i64 = 0;
/// Queues that a producer uses of a topic that is still to be created.
pub const NEW_TOPIC_QUEUES: i32 = 4;
/// Most queues of a topic on one broker that are believed.
const QUEUES_MAX: i32 = 65_536;

const PERMISSION_WRITE: i32 = 2;
const PERMISSION_READ: i32 = 4;

/// Where a topic lies, as a client needs it.
#[derive(Debug)]
pub struct Route {
    brokers: BTreeMap<String, BTreeMap<i64, String>>,
    publish_queues: Vec<MessageQueue>,
    subscribe_queues: Vec<MessageQueue>,
    /// Guessed from the template for new topics: the topic does not exist yet.
    provisional: bool,
    turn: AtomicUsize,
}

impl PartialEq for Route {
    fn eq(&self, other: &Route) -> bool {
        self.brokers == other.brokers
            && self.publish_queues == other.publish_queues
            && self.subscribe_queues == other.subscribe_queues
            && self.provisional == other.provisional
    }
}

impl Route {
    /// Reads what the name server says of `topic`. `turn` is where the round of the queues starts.
    pub fn new(topic: &TopicName, body: &TopicRoute, turn: usize) -> Route {
        let mut route = Route {
            brokers: body
                .broker_datas
                .iter()
                .map(|b| (b.broker_name.clone(), b.broker_addrs.clone()))
                .collect(),
            publish_queues: Vec::new(),
            subscribe_queues: Vec::new(),
            provisional: false,
            turn: AtomicUsize::new(turn),
        };
        for data in &body.queue_datas {
            let queues = |count: i32| {
                (0..count.min(QUEUES_MAX)).map(|queue_id| MessageQueue {
                    broker_name: data.broker_name.clone(),
                    queue_id,
                    topic: topic.to_string(),
                })
            };
            // A broker set without master takes no messages, though its slaves may still be read.
            if data.perm & PERMISSION_WRITE != 0 && route.master(&data.broker_name).is_some() {
                route.publish_queues.extend(queues(data.write_queue_nums));
            }
            if data.perm & PERMISSION_READ != 0 {
                route.subscribe_queues.extend(queues(data.read_queue_nums));
            }
        }
        let order = |queue: &MessageQueue| (queue.broker_name.clone(), queue.queue_id);
        route.publish_queues.sort_by_key(order);
        route.subscribe_queues.sort_by_key(order);
        route
    }

    /// The route of a `topic` that will be created on its first message, from that of the `template` topic.
    pub fn provisional(topic: &TopicName, mut template: TopicRoute, turn: usize) -> Route {
        for data in &mut template.queue_datas {
            let queues = data.read_queue_nums.min(NEW_TOPIC_QUEUES);
            (data.read_queue_nums, data.write_queue_nums) = (queues, queues);
        }
        Route { provisional: true, ..Route::new(topic, &template, turn) }
    }

    /// Queues that may be written to, by broker and number.
    pub fn publish_queues(&self) -> &[MessageQueue] {
        &self.publish_queues
    }

    /// Queues that may be read from, by broker and number: the order on which all members of a group agree.
    pub fn subscribe_queues(&self) -> &[MessageQueue] {
        &self.subscribe_queues
    }

    /// Whether the topic does not exist yet.
    pub fn is_provisional(&self) -> bool {
        self.provisional
    }

    /// The next queue to write to, on none of the brokers that `failed` unless there is no other.
    pub fn next_publish_queue(&self, failed: &[String]) -> Option<&MessageQueue> {
        // A retry takes no turn: else, of two brokers, the broken one would be tried first every time.
        let turn = if failed.is_empty() {
            self.turn.fetch_add(1, Ordering::Relaxed)
        } else {
            self.turn.load(Ordering::Relaxed)
        };
        choose(&self.publish_queues, turn, failed)
    }

    /// Address of a broker's master.
    pub fn master(&self, broker_name: &str) -> Option<&str> {
        self.brokers.get(broker_name)?.get(&MASTER_ID).map(String::as_str)
    }

    /// Address of the broker with this id, or else of any in its set, the master first.
    pub fn broker(&self, broker_name: &str, broker_id: i64) -> Option<&str> {
        let set = self.brokers.get(broker_name)?;
        set.get(&broker_id).or_else(|| set.values().next()).map(String::as_str)
    }

    /// All broker addresses with their ids.
    pub fn addresses(&self) -> impl Iterator<Item = (i64, &str)> {
        self.brokers.values().flatten().map(|(id, address)| (*id, address.as_str()))
    }
}

/// The queue whose turn it is, or the next one that is on no broker that `failed`.
fn choose<'a>(queues: &'a [MessageQueue], turn: usize, failed: &[String]) -> Option<&'a MessageQueue> {
    let count = queues.len().max(1);
    let in_turn = |step: usize| queues.get((turn.wrapping_add(step)) % count);
    let healthy = |queue: &&MessageQueue| !failed.contains(&queue.broker_name);
    (0..queues.len()).filter_map(in_turn).find(healthy).or_else(|| in_turn(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cometmq_protocol::body::route::{BrokerData, QueueData};

    fn body(brokers: &[(&str, i64, i32, i32, i32)]) -> TopicRoute {
        TopicRoute {
            broker_datas: brokers
                .iter()
                .map(|(name, id, ..)| BrokerData {
                    broker_addrs: BTreeMap::from([(*id, format!("{name}:10911"))]),
                    broker_name: (*name).to_owned(),
                    ..BrokerData::default()
                })
                .collect(),
            queue_datas: brokers
                .iter()
                .map(|(name, _, perm, read, write)| QueueData {
                    broker_name: (*name).to_owned(),
                    perm: *perm,
                    read_queue_nums: *read,
                    write_queue_nums: *write,
                    ..QueueData::default()
                })
                .collect(),
            ..TopicRoute::default()
        }
    }

    fn topic() -> TopicName {
        TopicName::parse("T").unwrap()
    }

    fn names(queues: &[MessageQueue]) -> Vec<String> {
        queues.iter().map(|queue| format!("{}{}", queue.broker_name, queue.queue_id)).collect()
    }

    #[test]
    fn queues_follow_permission_and_need_a_master_to_be_written() {
        let route =
            Route::new(&topic(), &body(&[("b", 0, 6, 1, 2), ("a", 0, 4, 1, 9), ("c", 1, 6, 1, 9)]), 0);
        assert_eq!(names(route.publish_queues()), ["b0", "b1"]);
        assert_eq!(names(route.subscribe_queues()), ["a0", "b0", "c0"]);
        assert_eq!(route.master("c"), None);
        assert_eq!(route.broker("c", 0), Some("c:10911"));
        assert_eq!(route.broker("d", 0), None);
    }

    #[test]
    fn a_new_topic_gets_at_most_four_queues() {
        let route = Route::provisional(&topic(), body(&[("a", 0, 7, 8, 8), ("b", 0, 7, 2, 8)]), 0);
        assert_eq!(names(route.publish_queues()), ["a0", "a1", "a2", "a3", "b0", "b1"]);
        assert!(route.is_provisional());
    }

    #[test]
    fn queues_take_turns_and_failed_brokers_are_passed_over() {
        let route = Route::new(&topic(), &body(&[("a", 0, 6, 1, 2), ("b", 0, 6, 1, 2)]), 3);
        let next = |failed: &[&str]| {
            let failed: Vec<String> = failed.iter().map(|name| (*name).to_owned()).collect();
            names(std::slice::from_ref(route.next_publish_queue(&failed).unwrap())).remove(0)
        };
        assert_eq!([next(&[]), next(&[]), next(&[]), next(&[])], ["b1", "a0", "a1", "b0"]);
        assert_eq!(next(&["b"]), "a0");
        assert_eq!(next(&["a"]), "b1");
        assert_eq!(next(&["a", "b"]), "b1");
    }

    #[test]
    fn an_absurd_route_costs_bounded_memory() {
        let route = Route::new(&topic(), &body(&[("a", 0, 6, i32::MAX, -1)]), 0);
        assert_eq!(route.subscribe_queues().len(), QUEUES_MAX as usize);
        assert_eq!(route.next_publish_queue(&[]), None);
    }
}
