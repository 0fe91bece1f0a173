//! Stores that a Java broker 5.3.3 left behind, served by ours: its topics, groups and offsets are known, and its
//! messages are pulled byte for byte.

#![allow(clippy::unwrap_used)]

#[path = "../../store/tests/golden_store/mod.rs"]
mod golden_store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cometmq_broker::group::Groups;
use cometmq_broker::offset::Offsets;
use cometmq_broker::topic::Topics;
use cometmq_broker::{Broker, BrokerConfig, Effects, Turn};
use cometmq_protocol::body::client::SubscriptionGroupConfig;
use cometmq_protocol::body::json;
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::{
    ConnectionId, Fields, Frame, Header, Millis, Peer, QueueId, QueueOffset, SerializeType, TopicConfig,
};
use cometmq_store::RealDisk;
use serde::Deserialize;

use golden_store::{ALL, CLEAN, CLEAN_4, EXTRAS, Golden, KILLED, Message, RELEASE_5};

const NOW: Millis = Millis(1_795_200_000_000);

fn config(golden: &Golden) -> BrokerConfig {
    let broker_name = if golden.name == EXTRAS.name { "golden-c" } else { "golden-a" };
    BrokerConfig {
        memory_bytes: 1 << 34,
        ..BrokerConfig::alone("GoldenCluster", broker_name, "127.0.0.1:30911".parse().unwrap())
    }
}

fn open(golden: &Golden, root: &Path) -> Broker {
    Broker::open(Arc::new(RealDisk), golden.options(root), config(golden), NOW).unwrap().0
}

/// The reply to a request: code, fields by name, body.
fn ask(
    broker: &Broker,
    code: i32,
    fields: &[(&'static str, &str)],
) -> (i32, BTreeMap<String, String>, Bytes) {
    let mut request = Fields::default();
    fields.iter().for_each(|(name, value)| request.push(*name, (*value).to_owned()));
    let mut bytes = BytesMut::new();
    Header::request(code, 7, request).encode(SerializeType::Json, 0, &mut bytes);
    let frame = cut(&mut bytes);
    let address = "127.0.0.1:50000".parse().unwrap();
    let peer = Peer { connection: ConnectionId(1), remote: address, local: address };
    let (mut out, mut effects) = (BytesMut::new(), Effects::default());
    let mut turn = Turn::new(NOW, peer, &mut out);
    broker.handle(&mut turn, &frame, &mut effects).unwrap();
    broker.finish(turn, &mut effects);
    for cold in std::mem::take(&mut effects.cold) {
        broker.read_cold(cold, &mut effects);
        out.extend(effects.deliveries.drain(..).flat_map(|delivery| delivery.frames));
    }
    let reply = cut(&mut out);
    assert!(out.is_empty(), "one reply");
    let header = Header::decode(&reply).unwrap();
    assert_eq!(header.opaque, 7);
    let fields = header.fields.iter().flat_map(Fields::iter).map(|(k, v)| (k.to_owned(), v.to_owned()));
    (header.code, fields.collect(), reply.body.clone())
}

fn cut(bytes: &mut BytesMut) -> Frame {
    frame::cut(bytes, FrameLimits::default()).unwrap().expect("a whole frame")
}

fn load<T: for<'de> Deserialize<'de>>(root: &Path, name: &str) -> T {
    json::parse(&std::fs::read(root.join("config").join(name)).unwrap()).unwrap()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TopicsFile {
    topic_config_table: BTreeMap<String, TopicConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupsFile {
    subscription_group_table: BTreeMap<String, SubscriptionGroupConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OffsetsFile {
    offset_table: BTreeMap<String, BTreeMap<i32, i64>>,
}

/// Opens the topics of a store and asserts that all that its broker saved are known with their settings.
fn topics_as_saved(golden: &Golden, root: &Path) -> (Topics, TopicsFile) {
    let saved: TopicsFile = load(root, "topics.json");
    let topics = Topics::open(Arc::new(RealDisk), root, &config(golden).topics, NOW).unwrap();
    for (name, config) in &saved.topic_config_table {
        assert_eq!(topics.get(name).unwrap().config, *config, "{}", golden.name);
    }
    (topics, saved)
}

/// The same of its groups.
fn groups_as_saved(golden: &Golden, root: &Path) -> GroupsFile {
    let saved: GroupsFile = load(root, "subscriptionGroup.json");
    let groups = Groups::open(Arc::new(RealDisk), root.join("config/subscriptionGroup.json"), true).unwrap();
    for (name, config) in &saved.subscription_group_table {
        assert_eq!(*groups.get(name).unwrap(), *config, "{}", golden.name);
    }
    saved
}

/// Code and offset of the reply to a query for a group's offset.
fn query(broker: &Broker, group: &str, topic: &str, queue: i32) -> (i32, i64) {
    let queue = queue.to_string();
    let asked = [("consumerGroup", group), ("topic", topic), ("queueId", &*queue)];
    let (code, fields, _) = ask(broker, 14, &asked);
    (code, fields["offset"].parse().unwrap())
}

/// The queues that the golden stores' description gives the topics made for them.
const QUEUES: &[(&str, i32)] = &[
    ("GoldenNormal", 4),
    ("GoldenOrder", 1),
    ("GoldenDelay", 1),
    ("GoldenTx", 2),
    ("GoldenBatch", 1),
    ("GoldenRetry", 1),
    ("GoldenTimer", 1),
];

#[test]
fn topics_of_a_java_broker_are_known_with_their_settings() {
    for golden in RELEASE_5 {
        let (_directory, root) = golden.unpack();
        let (topics, saved) = topics_as_saved(&golden, &root);
        // All system topics were there: nothing changed, and the file is as it was.
        assert_eq!(topics.announced(6).topic_config_table.len(), saved.topic_config_table.len());
        let broker = open(&golden, &root);
        if golden.name != EXTRAS.name {
            for (name, queues) in QUEUES {
                let (code, _, body) = ask(&broker, 351, &[("topic", name)]);
                let config: TopicConfig = json::parse(&body).unwrap();
                assert_eq!(
                    (code, config.read_queue_nums, config.write_queue_nums),
                    (0, *queues, *queues),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn groups_of_a_java_broker_are_known_with_their_settings() {
    for golden in RELEASE_5 {
        let (_directory, root) = golden.unpack();
        assert!(groups_as_saved(&golden, &root).subscription_group_table.len() > 8);
    }
}

#[test]
fn offsets_of_a_java_broker_are_the_groups_offsets() {
    for golden in [CLEAN, KILLED] {
        let (_directory, root) = golden.unpack();
        let saved: OffsetsFile = load(&root, "consumerOffset.json");
        let broker = open(&golden, &root);
        let (store, path) = (broker.store(), root.join("config/consumerOffset.json"));
        let offsets = Offsets::open(Arc::new(RealDisk), path, store.opened_at(), golden.clean).unwrap();
        let mut checked = 0;
        for (key, queues) in &saved.offset_table {
            let (topic, group) = key.split_once('@').unwrap();
            for (id, offset) in queues {
                let found = offsets.get(store, group, topic, QueueId(*id)).unwrap();
                assert_eq!(found, Some(QueueOffset(*offset)));
                assert_eq!(query(&broker, group, topic, *id), (0, *offset), "{key} {id}");
                checked += 1;
            }
        }
        assert!(checked >= 9, "{}: {checked} offsets", golden.name);
    }
}

/// Its files have no data version of offsets and no attributes, and fewer system topics than ours.
#[test]
fn topics_groups_and_offsets_of_release_4_are_known_with_their_settings() {
    let (_directory, root) = CLEAN_4.unpack();
    let saved: OffsetsFile = load(&root, "consumerOffset.json");
    topics_as_saved(&CLEAN_4, &root);
    let groups = groups_as_saved(&CLEAN_4, &root);
    assert!(groups.subscription_group_table.contains_key("GoldenGroup"));
    let broker = open(&CLEAN_4, &root);
    assert_eq!(saved.offset_table["GoldenNormal@GoldenGroup"].len(), 4);
    for (id, offset) in &saved.offset_table["GoldenNormal@GoldenGroup"] {
        assert_eq!(query(&broker, "GoldenGroup", "GoldenNormal", *id), (0, *offset), "{id}");
    }
}

/// A plain queue beside a batch queue would keep the Java broker from starting again.
#[test]
fn a_batch_topic_of_a_java_broker_gets_no_plain_queue() {
    let (_directory, root) = CLEAN.unpack();
    let broker = open(&CLEAN, &root);
    let mut send: Vec<_> = [("a", "p"), ("b", "GoldenBcq"), ("c", "TBW102"), ("d", "4"), ("e", "0")].into();
    send.extend([("f", "0"), ("g", "1"), ("h", "0")]);
    assert_eq!([310, 320].map(|code| ask(&broker, code, &send).0), [16, 16]);
    broker.close(NOW).unwrap();
    assert!(!root.join("consumequeue/GoldenBcq").exists());
}

/// A broker whose light queues are on keeps its offsets in another file, which this version does not read.
#[test]
fn offsets_of_a_java_broker_with_light_queues_are_not_read() {
    let (_directory, root) = EXTRAS.unpack();
    let saved: OffsetsFile = load(&root, "lmqConsumerOffset.json");
    assert_eq!(saved.offset_table["GoldenSql@golden_sql_group"][&0], 24);
    let found = query(&open(&EXTRAS, &root), "golden_sql_group", "GoldenSql", 0);
    assert_eq!(found, (0, 0), "as a group that never consumed");
}

/// Pulls a queue to its end. Returns the bodies of the replies, one behind the other.
fn pull_all(broker: &Broker, topic: &str, queue: i32, count: i32, subscription: &str) -> Vec<u8> {
    let (mut next, mut bytes) = ("0".to_owned(), Vec::new());
    loop {
        let (code, fields, body) = ask(
            broker,
            11,
            &[
                ("consumerGroup", "golden_consumer"),
                ("topic", topic),
                ("queueId", &queue.to_string()),
                ("queueOffset", &next),
                ("maxMsgNums", &count.to_string()),
                ("sysFlag", "4"),
                ("commitOffset", "0"),
                ("suspendTimeoutMillis", "0"),
                ("subscription", subscription),
                ("subVersion", "0"),
            ],
        );
        assert!(code == 19 || fields["nextBeginOffset"] != next, "{topic}/{queue}: no progress at {next}");
        next.clone_from(&fields["nextBeginOffset"]);
        match code {
            0 => bytes.extend_from_slice(&body),
            // The filter dropped all that was looked at.
            20 => {}
            19 => return bytes,
            _ => panic!("{topic}/{queue} at {next}: code {code}"),
        }
    }
}

#[test]
fn messages_of_a_java_broker_are_pulled_byte_for_byte() {
    for golden in ALL {
        let (_directory, root) = golden.unpack();
        let mut queues: BTreeMap<(String, i32), Vec<u8>> = BTreeMap::new();
        for message in golden.messages().iter().filter(|message| !message.is_inner_batch()) {
            let records = queues.entry((message.topic.clone(), message.queue_id)).or_default();
            records.extend(golden.record_bytes(&root, message));
        }
        let broker = open(&golden, &root);
        for ((topic, queue), expected) in &queues {
            for count in [1, 7, 1000] {
                assert_eq!(
                    pull_all(&broker, topic, *queue, count, "*"),
                    *expected,
                    "{topic}/{queue} by {count}"
                );
            }
        }
    }
}

#[test]
fn messages_of_a_java_broker_are_filtered_by_their_tags() {
    for golden in [CLEAN, KILLED] {
        let (_directory, root) = golden.unpack();
        let wanted = |message: &&Message| {
            let tag = message.properties.get("TAGS").map(String::as_str);
            (&*message.topic, message.queue_id) == ("GoldenNormal", 3) && matches!(tag, Some("TagA" | "TagC"))
        };
        let messages = golden.messages();
        let expected: Vec<u8> =
            messages.iter().filter(wanted).flat_map(|message| golden.record_bytes(&root, message)).collect();
        assert!(!expected.is_empty());
        let broker = open(&golden, &root);
        for count in [1, 2, 1000] {
            assert_eq!(pull_all(&broker, "GoldenNormal", 3, count, "TagA || TagC"), expected, "by {count}");
        }
    }
}
