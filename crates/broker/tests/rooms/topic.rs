//! Topics: codes 17 and 351.

use std::path::Path;

use cometmq_broker::{Broker, Effects};
use cometmq_protocol::Millis;
use cometmq_store::disk::{Crash, Fault, read_file};
use cometmq_store::{FlushPolicy, MemoryDisk};
use expect_test::expect;

use crate::direct::{ask, handle, open};
use crate::script::{check, frame, overwrite};

#[test]
fn a_topic_is_made_changed_and_shown() {
    check(expect![[r#"
        topic                                  | 17 "No topic in this broker. topic: T"
        create attributes=+message.type=NORMAL | 0, announce
        topic                                  | 0 {"attributes":{"message.type":"NORMAL"},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":2}
        create readQueueNums=3 writeQueueNums=5 perm=4 order=true topicSysFlag=1 topicFilterType=MULTI_TAG | 0, announce
        topic                                  | 0 {"attributes":{"message.type":"NORMAL"},"order":true,"perm":4,"readQueueNums":3,"topicFilterType":"MULTI_TAG","topicName":"T","topicSysFlag":1,"writeQueueNums":5}
        create readQueueNums=3 writeQueueNums=5 perm=4 order=true topicSysFlag=1 topicFilterType=MULTI_TAG | 0
        create attributes=-message.type        | 0, announce
        topic                                  | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":2}
    "#]]);
}

#[test]
fn a_topic_that_cannot_be_is_refused() {
    check(expect![[r#"
        create topic=a.b                             | 29 "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        create topic=128*t                           | 29 "The specified topic is longer than the limit of 127 bytes (it has 128)"
        create topic=                                | 29 "The specified topic is blank"
        create topic=TBW102                          | 29 "The topic[TBW102] is conflict with system topic."
        create topic=SCHEDULE_TOPIC_XXXX             | 29 "The topic[SCHEDULE_TOPIC_XXXX] is conflict with system topic."
        create topic=RMQ_SYS_TRANS_HALF_TOPIC        | 29 "The topic[RMQ_SYS_TRANS_HALF_TOPIC] is conflict with system topic."
        create readQueueNums=0                       | 29 "a topic has from 1 to 65536 read queues and as many write queues"
        create writeQueueNums=-1                     | 29 "a topic has from 1 to 65536 read queues and as many write queues"
        create readQueueNums=65537                   | 29 "a topic has from 1 to 65536 read queues and as many write queues"
        create perm=0                                | 29 "the permission 0 is none of 2 (write), 4 (read), 6 (both)"
        create perm=8                                | 29 "the permission 8 is none of 2 (write), 4 (read), 6 (both)"
        create attributes=message.type=NORMAL        | 29 "the attribute change `message.type=NORMAL` is neither +key=value nor -key"
        create attributes=+message.type              | 29 "the attribute change `+message.type` is neither +key=value nor -key"
        create attributes=+queue.type=BatchCQ        | 29 "queue.type=BatchCQ is not part of this version"
        create attributes=+cleanup.policy=COMPACTION | 29 "cleanup.policy=COMPACTION is not part of this version"
        topic                                        | 17 "No topic in this broker. topic: T"
    "#]]);
}

#[test]
fn a_topic_that_could_not_be_kept_was_not_made() {
    check(expect![[r#"
        fail 1
        create | 1 "cannot open /s/config/topics.json.tmp: injected fault"
        topic  | 17 "No topic in this broker. topic: T"
        create | 0, announce
        kill
        topic  | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":2}
    "#]]);
    check(expect![[r#"
        fail 1
        sendV2 <- a | 1 .. "cannot open /s/config/topics.json.tmp: injected fault"
        sendV2 <- b | 0 msgId=@0 queueOffset=0 .., announce
        kill
        pull        | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:b]
    "#]]);
}

#[test]
fn a_topic_that_several_producers_bring_about_at_once_is_made_once() {
    let broker = open(&MemoryDisk::new(), FlushPolicy::Async, 0);
    let send = |connection: u64, topic: &str| {
        let queues = format!("d={connection}");
        let frame = frame("sendV2", &[&queues, &format!("b={topic}")], "a", connection as i32);
        let mut effects = Effects::default();
        handle(&broker, 0, connection, &frame, &mut effects).unwrap();
        effects.announce
    };
    for round in 0..20 {
        let topic = format!("T{round}");
        let announced = std::thread::scope(|scope| {
            let producers = (1..5).map(|number| {
                scope.spawn({
                    let topic = &topic;
                    move || send(number, topic)
                })
            });
            let producers: Vec<_> = producers.collect();
            producers
                .into_iter()
                .map(|producer| producer.join().unwrap())
                .filter(|announced| *announced)
                .count()
        });
        assert_eq!(announced, 1, "who finds the topic made does not change it");
    }
}

/// Makes or changes a topic; tells whether that was confirmed.
fn put(broker: &Broker, now: i64, topic: &str, perm: usize) -> bool {
    let fields = [format!("topic={topic}"), format!("perm={perm}")];
    let words = fields.each_ref().map(String::as_str);
    ask(broker, now, "create", &words, "", &mut Effects::default()).unwrap().code == 0
}

/// Makes so many changes that what follows within a second goes to the journal.
fn fill_second(broker: &Broker, now: i64) {
    for number in 0..16 {
        put(broker, now, "Filler", [2, 4][number % 2]);
    }
}

/// How the topic is known; 0 when it is not.
fn perm(broker: &Broker, topic: &str) -> usize {
    let topics = broker.announcement().topic_config_serialize_wrapper.topic_config_table;
    topics.get(topic).map_or(0, |config| config.perm as usize)
}

#[test]
fn confirmed_changes_of_topics_survive_whatever_call_fails_and_however_many_come_at_once() {
    for n in 1.. {
        let disk = MemoryDisk::new();
        let broker = open(&disk, FlushPolicy::Async, 0);
        let before = disk.calls();
        disk.fail_nth(n, Fault::Io);
        // The last confirmed setting of each topic, and those that were tried after it.
        let mut changes = vec![(0, Vec::new()); 4];
        for step in 0..24 {
            let (topic, now, wanted) =
                (step % 4, step as i64 * 300 + step as i64 / 8 * 3000, [2, 4, 6][step % 3]);
            broker.tick(Millis(now), &mut Effects::default());
            if step % 8 == 0 && step < 16 {
                fill_second(&broker, now);
            }
            if put(&broker, now, &format!("T{topic}"), wanted) {
                changes[topic] = (wanted, Vec::new());
            } else {
                changes[topic].1.push(wanted);
            }
            broker.tick(Millis(now), &mut Effects::default());
        }
        for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Seeded(n)] {
            let disk = disk.crash(crash);
            for _ in 0..2 {
                let again = open(&disk, FlushPolicy::Async, 0);
                for (number, (confirmed, tried)) in changes.iter().enumerate() {
                    let found = perm(&again, &format!("T{number}"));
                    let is_right = found == *confirmed || tried.contains(&found);
                    assert!(is_right, "call {n}, {crash:?}, T{number}: {found} after {confirmed}, {tried:?}");
                }
            }
        }
        if disk.calls() - before < n {
            break;
        }
    }
}

#[test]
fn what_another_broker_wrote_since_counts_more_than_changes_that_the_file_did_not_get() {
    let disk = MemoryDisk::new();
    let broker = open(&disk, FlushPolicy::Async, 0);
    assert!(put(&broker, 0, "A", 6));
    fill_second(&broker, 0);
    assert!(put(&broker, 0, "B", 4) && put(&broker, 0, "C", 4));
    let disk = disk.crash(Crash::KeepAll);
    let table =
        br#"{"topicConfigTable":{"B":{"topicName":"B","perm":2,"readQueueNums":1,"writeQueueNums":1}}}"#;
    overwrite(&disk, Path::new("/s/config/topics.json"), table);
    let broker = open(&disk, FlushPolicy::Async, 0);
    // What was in the file only is as the other broker left it.
    assert_eq!(["A", "B", "C"].map(|topic| perm(&broker, topic)), [0, 2, 4]);
}

#[test]
fn a_few_changes_are_all_in_the_file_where_a_java_broker_looks() {
    let disk = MemoryDisk::new();
    let broker = open(&disk, FlushPolicy::Async, 0);
    for number in 0..16 {
        assert!(put(&broker, number, &format!("T{number}"), 4));
    }
    drop(broker);
    let file = read_file(&disk.crash(Crash::LoseAll), Path::new("/s/config/topics.json")).unwrap();
    let text = String::from_utf8(file.unwrap()).unwrap();
    (0..16).for_each(|number| assert!(text.contains(&format!("\"T{number}\"")), "T{number}"));
}
