//! Stores that Java brokers 5.3.3 and 4.9.7 left behind, opened by ours: every message is found and read as an independent
//! decoder found and read it, and appending goes on where the Java broker stopped.

#![allow(clippy::unwrap_used)]

mod golden_store;
mod reading;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cometmq_protocol::message::properties::Properties;
use cometmq_protocol::message::{Record, RecordView, batch, tags};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use cometmq_store::batch_queue::BatchQueue;
use cometmq_store::checkpoint::JavaCheckpoint;
use cometmq_store::{RealDisk, RecoveryReport, Store, Unit};

use golden_store::{ALL, CLEAN, CLEAN_4, EXTRAS, Golden, KILLED, KILLED_4, Message};
use reading::entries;

/// Tags codes from here down are addresses in Java's extension files.
const EXTENSION_ADDRESS_MAX: i64 = i32::MIN as i64 - 1;

fn open(golden: &Golden, root: &Path) -> (Store, RecoveryReport) {
    Store::open(Arc::new(RealDisk), golden.options(root)).unwrap()
}

/// All entries of a queue by offset.
fn units(store: &Store, topic: &str, id: i32) -> BTreeMap<i64, Unit> {
    let queue = store.queue(topic, QueueId(id)).unwrap().unwrap_or_else(|| panic!("no queue {topic}/{id}"));
    (queue.min().0..).zip(entries(&queue, 7)).collect()
}

fn read(store: &Store, unit: Unit) -> Vec<u8> {
    let mut found = Vec::new();
    store
        .read(&[unit], &mut Vec::new(), &mut |bytes| {
            found = bytes.to_vec();
            true
        })
        .unwrap();
    found
}

/// What Java's dispatch keeps beside the place of a message: the hash of its tag, or the time of its delivery.
fn expected_tags_code(message: &Message) -> i64 {
    const LEVEL_MS: [(&str, i64); 5] =
        [("1", 1_000), ("2", 5_000), ("3", 10_000), ("5", 60_000), ("18", 7_200_000)];
    match message.properties.get("DELAY") {
        Some(level) if message.topic == "SCHEDULE_TOPIC_XXXX" => {
            let (_, delay) = LEVEL_MS.iter().find(|(known, _)| known == level).unwrap();
            message.store_timestamp + delay
        }
        _ => message.properties.get("TAGS").map_or(0, |tag| i64::from(tags::java_hash(tag))),
    }
}

/// The record has all that the list says, and nothing else.
fn assert_is(bytes: &[u8], message: &Message) {
    let view = RecordView::decode(bytes).unwrap();
    assert_eq!(view.total, message.size as usize);
    assert_eq!(view.log_offset, LogOffset(message.phy_offset));
    assert_eq!(
        (view.topic, view.queue_id.0, view.queue_offset.0),
        (&*message.topic, message.queue_id, message.queue_offset)
    );
    assert_eq!((view.sys_flag, view.flag), (message.sys_flag, message.flag));
    assert_eq!((view.born_timestamp.0, view.born_host), (message.born_timestamp, message.born_host));
    assert_eq!((view.store_timestamp.0, view.store_host), (message.store_timestamp, message.store_host));
    assert_eq!(view.reconsume_times, message.reconsume_times);
    assert_eq!(view.prepared_transaction_offset, message.prepared_transaction_offset);
    let properties =
        Properties(view.properties).iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(properties.collect::<BTreeMap<_, _>>(), message.properties);
    assert_eq!(view.body, message.body());
    assert_eq!(view.body_crc, message.body_crc);
    view.check_body().unwrap();
}

/// Every message is where it belongs. Returns how many messages have a place in a plain queue, and how many entries of
/// these point into an extension file.
fn assert_all_found(store: &Store, messages: &[Message]) -> (usize, usize) {
    let mut queues = BTreeMap::new();
    let (mut placed, mut extended) = (0, 0);
    for message in messages.iter().filter(|message| !message.is_inner_batch()) {
        let (topic, id) = (&message.topic, message.queue_id);
        let units = queues.entry((topic, id)).or_insert_with(|| units(store, topic, id));
        let unit = units.get(&message.queue_offset).unwrap_or_else(|| panic!("no entry of {message:?}"));
        assert_eq!((unit.log_offset.0, unit.size), (message.phy_offset, message.size), "{message:?}");
        if unit.tags_code <= EXTENSION_ADDRESS_MAX {
            extended += 1;
        } else {
            assert_eq!(unit.tags_code, expected_tags_code(message), "{message:?}");
        }
        assert_is(&read(store, *unit), message);
        placed += 1;
    }
    (placed, extended)
}

/// The queues with messages, as `topic queue:min..max`.
fn ranges(store: &Store) -> String {
    let mut topics: BTreeMap<String, BTreeMap<i32, String>> = BTreeMap::new();
    for queue in store.queues().unwrap().iter().filter(|queue| queue.max().0 > 0) {
        let range = format!(" {}:{}..{}", queue.id(), queue.min(), queue.max());
        topics.entry(queue.topic().to_string()).or_default().insert(queue.id().0, range);
    }
    topics
        .iter()
        .map(|(topic, queues)| format!("{topic}{}\n", queues.values().cloned().collect::<String>()))
        .collect()
}

#[test]
fn every_message_of_a_java_store_is_found_through_its_queue() {
    let stores = [(CLEAN, 205, 0), (KILLED, 115, 0), (EXTRAS, 40, 0), (CLEAN_4, 72, 0), (KILLED_4, 72, 0)];
    for (golden, placed, extended) in stores {
        let (_directory, root) = golden.unpack();
        let messages = golden.messages();
        let (store, report) = open(&golden, &root);
        assert_eq!(assert_all_found(&store, &messages), (placed, extended), "{}", golden.name);
        assert_eq!(
            (report.end.0, report.clean, report.torn),
            (golden.end, golden.clean, false),
            "{}",
            golden.name
        );
        assert_eq!(store.confirmed(), report.end);
    }
}

#[test]
fn the_queues_of_a_java_store_have_the_ranges_that_java_gave_them() {
    let check = |golden: Golden, expected: expect_test::Expect| {
        let (_directory, root) = golden.unpack();
        expected.assert_eq(&ranges(&open(&golden, &root).0));
    };
    check(
        CLEAN,
        expect_test::expect![[r#"
        %DLQ%golden_retry_group 0:0..2
        %RETRY%golden_pop_group_GoldenPop 0:0..2
        %RETRY%golden_retry_group 0:0..2
        GoldenBatch 0:0..10
        GoldenDelay 0:0..4
        GoldenFilter 0:0..6
        GoldenNormal 0:0..13 1:0..15 2:0..8 3:0..20
        GoldenOrder 0:0..55
        GoldenPop 0:0..4 1:0..4
        GoldenRetry 0:0..4
        GoldenTimer 0:0..1
        GoldenTx 0:0..1 1:0..2
        RMQ_SYS_TRANS_HALF_TOPIC 0:0..9
        RMQ_SYS_TRANS_OP_HALF_TOPIC 0:0..2
        SCHEDULE_TOPIC_XXXX 0:0..1 1:0..1 2:0..3 4:0..1 17:0..3
        TRANS_CHECK_MAX_TIME_TOPIC 0:0..1
        rmq_sys_REVIVE_LOG_GoldenCluster 0:0..11 2:0..3
        rmq_sys_wheel_timer 0:0..17
    "#]],
    );
    check(
        KILLED,
        expect_test::expect![[r#"
        %DLQ%golden_retry_group 0:0..2
        %RETRY%golden_retry_group 0:0..2
        GoldenBatch 0:0..10
        GoldenDelay 0:0..3
        GoldenNormal 0:0..9 1:0..11 2:0..4 3:0..12
        GoldenOrder 0:0..30
        GoldenRetry 0:0..4
        GoldenTimer 0:0..1
        GoldenTx 0:0..2 1:0..1
        RMQ_SYS_TRANS_HALF_TOPIC 0:0..9
        RMQ_SYS_TRANS_OP_HALF_TOPIC 0:0..2
        SCHEDULE_TOPIC_XXXX 0:0..1 1:0..1 2:0..3 4:0..1 17:0..3
        TRANS_CHECK_MAX_TIME_TOPIC 0:0..1
        rmq_sys_wheel_timer 0:0..3
    "#]],
    );
    check(
        EXTRAS,
        expect_test::expect![[r#"
        %LMQ%q1 0:0..6
        %LMQ%q2 0:0..3
        GoldenCompact 0:0..10
        GoldenLmqParent 0:0..6
        GoldenSql 0:0..24
    "#]],
    );
    let release_4 = expect_test::expect![[r#"
        GoldenBatch 3:0..10
        GoldenNormal 0:0..16 1:0..15 2:0..15 3:0..15
        SCHEDULE_TOPIC_XXXX 17:0..1
    "#]];
    check(CLEAN_4, release_4);
}

/// Where scanning begins, as Java does it: at the newest segment that the checkpoint's times cover.
#[test]
fn recovery_of_a_java_store_scans_the_newest_segments_only() {
    let mut scanned = Vec::new();
    for golden in ALL {
        let (_directory, root) = golden.unpack();
        let (_, report) = open(&golden, &root);
        scanned.push((golden.name, report.scanned_from.0, report.records));
    }
    expect_test::expect![[r#"
        [
            (
                "golden-clean",
                98304,
                39,
            ),
            (
                "golden-killed",
                49152,
                47,
            ),
            (
                "golden-extras",
                0,
                40,
            ),
            (
                "golden-4x-clean",
                0,
                72,
            ),
            (
                "golden-4x-killed",
                0,
                72,
            ),
        ]
    "#]]
    .assert_debug_eq(&scanned);
}

/// As the Java broker does it: the file that it had made in advance goes, the log ends at its last whole record.
#[test]
fn a_file_made_in_advance_goes_when_a_killed_store_is_opened() {
    let (_directory, root) = KILLED.unpack();
    let ahead = root.join("commitlog/00000000000000081920");
    assert!(ahead.exists());
    open(&KILLED, &root);
    assert!(!ahead.exists());
}

#[test]
fn the_batches_of_a_batch_topic_are_found_by_each_of_their_messages() {
    let (_directory, root) = CLEAN.unpack();
    let batches: Vec<Message> = CLEAN.messages().into_iter().filter(Message::is_inner_batch).collect();
    let (store, _) = open(&CLEAN, &root);
    assert!(store.queue("GoldenBcq", QueueId(0)).unwrap().is_none(), "they have no plain queue");
    let queue = BatchQueue::load(&RealDisk, &root.join("batchconsumequeue/GoldenBcq/0"), 460).unwrap();
    assert_eq!((batches.len(), queue.min(), queue.max()), (12, QueueOffset(0), QueueOffset(42)));
    let mut found = 0;
    for message in &batches {
        let bodies = message.body();
        for inner in batch::decode(&bodies).unwrap() {
            let unit = queue.find(QueueOffset(found)).unwrap();
            assert_eq!(
                (unit.base.0, unit.count.to_string()),
                (message.queue_offset, message.properties["INNER_NUM"].clone())
            );
            assert_eq!(message.properties["INNER_BASE"], message.queue_offset.to_string());
            assert_eq!((unit.unit.log_offset.0, unit.unit.size), (message.phy_offset, message.size));
            assert_eq!((unit.stored_at.0, unit.unit.tags_code), (message.store_timestamp, 0));
            assert_is(&read(&store, unit.unit), message);
            let place = (message.queue_offset, found - message.queue_offset);
            let number = batches.iter().position(|other| other.queue_offset == place.0).unwrap();
            assert_eq!(inner.body, format!("golden-bcq-{number}-{}", place.1).as_bytes());
            found += 1;
        }
    }
    assert_eq!(found, 42);
}

#[test]
fn light_queues_have_the_messages_that_name_them() {
    let (_directory, root) = EXTRAS.unpack();
    let (store, _) = open(&EXTRAS, &root);
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for message in EXTRAS.messages() {
        let Some(names) = message.properties.get("INNER_MULTI_DISPATCH") else { continue };
        let offsets = message.properties["INNER_MULTI_QUEUE_OFFSET"].split(',');
        for (name, offset) in names.split(',').zip(offsets) {
            let unit = units(&store, name, 0)[&offset.parse().unwrap()];
            assert_eq!((unit.log_offset.0, unit.size), (message.phy_offset, message.size));
            assert_is(&read(&store, unit), &message);
            *found.entry(name.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(found, BTreeMap::from([("%LMQ%q1".to_owned(), 6), ("%LMQ%q2".to_owned(), 3)]));
    assert_eq!(units(&store, "%LMQ%q1", 0).len() + units(&store, "%LMQ%q2", 0).len(), 9);
}

/// Entries that recovery has no reason to touch stay as Java wrote them, addresses of extension files included.
#[test]
fn entries_before_the_scanned_part_stay_as_they_are() {
    let (_directory, root) = EXTRAS.unpack();
    let path = root.join("checkpoint");
    let checkpoint = JavaCheckpoint::load(&RealDisk, &path).unwrap();
    let later = Millis(checkpoint.physic.0 + 60_000);
    JavaCheckpoint { physic: later, logics: later, ..checkpoint }.save(&RealDisk, &path).unwrap();
    let (store, report) = open(&EXTRAS, &root);
    let messages = EXTRAS.messages();
    let scanned = messages.iter().filter(|message| message.phy_offset >= 8192).count();
    assert_eq!((report.scanned_from.0, report.records), (8192, scanned as u64));
    assert_eq!(assert_all_found(&store, &messages), (40, 40 - scanned));
}

/// Queue files may be lost: what they say is rebuilt from the log, with the tag's hash in place of addresses of
/// extension files.
#[test]
fn the_queues_of_a_java_store_are_rebuilt_from_its_log() {
    for golden in ALL {
        let (_directory, root) = golden.unpack();
        let before = ranges(&open(&golden, &root).0);
        for own in ["consumequeue", "cometmq"] {
            std::fs::remove_dir_all(root.join(own)).unwrap();
        }
        std::fs::remove_file(root.join("checkpoint")).unwrap();
        let (store, report) = open(&golden, &root);
        assert_eq!((report.scanned_from.0, report.records), (0, golden.messages().len() as u64));
        assert_eq!(ranges(&store), before, "{}", golden.name);
        assert_eq!(assert_all_found(&store, &golden.messages()).1, 0);
    }
}

/// Appends `count` messages to the queues of the golden store's topic in turn. Returns them as the list has them.
fn extend(store: &Store, golden: &Golden, count: i64) -> Vec<Message> {
    let (topic, queues) = golden.appendable;
    let host = "127.0.0.1:10911".parse().unwrap();
    let mut added = Vec::new();
    for number in 0..count {
        let id = QueueId((number % i64::from(queues)) as i32);
        let body = format!("added-{number}-{}", "x".repeat(number as usize * 29 % 700));
        let new = Record {
            flag: 5,
            born_timestamp: Millis(7),
            properties: [b"TAGS\x01TagNew\x02", b"CLUSTER\x01GoldenCluster\x02"],
            ..Record::plain(topic, id, host, body.as_bytes())
        };
        let queue = store.queue_or_create(&TopicName::parse(topic).unwrap(), id).unwrap();
        let mut placed = Vec::new();
        // A clock behind the Java broker's: store times never go back.
        let tags_code = i64::from(tags::java_hash("TagNew"));
        store.append(&queue, &[new], &[tags_code], Millis(1), &mut placed).unwrap();
        added.push(Message {
            phy_offset: placed[0].log_offset.0,
            size: new.encoded_len() as i32,
            topic: topic.to_owned(),
            queue_id: id.0,
            queue_offset: placed[0].queue_offset.0,
            sys_flag: 0,
            flag: 5,
            body_crc: new.body_crc,
            born_timestamp: 7,
            born_host: host,
            store_timestamp: placed[0].stored_at.0,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            properties: [("TAGS", "TagNew"), ("CLUSTER", "GoldenCluster")]
                .map(|(k, v)| (k.into(), v.into()))
                .into(),
            body_base64: encode_base64(body.as_bytes()),
        });
        store.write(&mut Vec::new());
    }
    store.sync(&mut Vec::new()).unwrap();
    added
}

fn encode_base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().enumerate().fold(0u32, |bits, (n, byte)| bits | u32::from(*byte) << (16 - 8 * n));
        text.extend((0..=three.len()).map(|n| char::from(DIGITS[(bits >> (18 - 6 * n) & 63) as usize])));
    }
    text
}

#[test]
fn a_java_store_is_extended_and_found_again_after_a_clean_stop() {
    for golden in ALL {
        let (_directory, root) = golden.unpack();
        let mut messages = golden.messages();
        for _ in 0..3 {
            let (store, _) = open(&golden, &root);
            messages.extend(extend(&store, &golden, 50));
            store.close().unwrap();
            drop(store);
            let (store, report) = open(&golden, &root);
            assert_all_found(&store, &messages);
            assert!(report.clean);
            assert_eq!(report.records, 0, "{}: nothing is left to scan", golden.name);
            store.close().unwrap();
        }
        let first_added = &messages[golden.messages().len()];
        assert_eq!(first_added.phy_offset / golden.segment_bytes, golden.end / golden.segment_bytes);
        assert!(messages.iter().all(|message| message.store_timestamp >= messages[0].store_timestamp));
    }
}

#[test]
fn a_java_store_is_extended_and_found_again_after_a_kill() {
    for golden in ALL {
        let (directory, mut root) = golden.unpack();
        let mut messages = golden.messages();
        for life in 0..3 {
            let (store, _) = open(&golden, &root);
            messages.extend(extend(&store, &golden, 50));
            if life == 1 {
                // Queues are durable up to the middle of what is added.
                store.flush().unwrap();
                messages.extend(extend(&store, &golden, 17));
            }
            // What a killed process leaves is what the kernel has now.
            let next = directory.path().join(format!("life-{life}"));
            golden_store::copy(&root, &next);
            root = next;
            let (store, report) = open(&golden, &root);
            assert_all_found(&store, &messages);
            assert!(!report.clean);
            assert_eq!(
                report.end.0,
                messages.last().map(|last| last.phy_offset + i64::from(last.size)).unwrap()
            );
        }
    }
}
