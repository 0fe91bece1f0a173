//! Topics: codes 17 and 351.

use std::sync::Arc;

use bytes::BytesMut;
use cometmq_broker::{Broker, Effects, Turn};
use cometmq_protocol::Millis;
use cometmq_store::{FlushPolicy, MemoryDisk};
use expect_test::expect;

use crate::script::{self, check};

#[test]
fn a_topic_is_made_changed_and_shown() {
    check(expect![[r#"
        topic
          | 17 "No topic in this broker. topic: T"
        create attributes=+message.type=NORMAL
          | 0
          | announce
        topic
          | 0 {"attributes":{"message.type":"NORMAL"},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":2}
        create readQueueNums=3 writeQueueNums=5 perm=4 order=true topicSysFlag=1 topicFilterType=MULTI_TAG
          | 0
          | announce
        topic
          | 0 {"attributes":{"message.type":"NORMAL"},"order":true,"perm":4,"readQueueNums":3,"topicFilterType":"MULTI_TAG","topicName":"T","topicSysFlag":1,"writeQueueNums":5}
        create readQueueNums=3 writeQueueNums=5 perm=4 order=true topicSysFlag=1 topicFilterType=MULTI_TAG
          | 0
        create attributes=-message.type
          | 0
          | announce
        topic
          | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":2}
    "#]]);
}

#[test]
fn a_topic_that_cannot_be_is_refused() {
    check(expect![[r#"
        create topic=a.b
          | 29 "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        create topic=128*t
          | 29 "The specified topic is longer than the limit of 127 bytes (it has 128)"
        create topic=
          | 29 "The specified topic is blank"
        create topic=TBW102
          | 29 "The topic[TBW102] is conflict with system topic."
        create topic=SCHEDULE_TOPIC_XXXX
          | 29 "The topic[SCHEDULE_TOPIC_XXXX] is conflict with system topic."
        create topic=RMQ_SYS_TRANS_HALF_TOPIC
          | 29 "The topic[RMQ_SYS_TRANS_HALF_TOPIC] is conflict with system topic."
        create readQueueNums=0
          | 29 "a topic has from 1 to 65536 read queues and as many write queues"
        create writeQueueNums=-1
          | 29 "a topic has from 1 to 65536 read queues and as many write queues"
        create readQueueNums=65537
          | 29 "a topic has from 1 to 65536 read queues and as many write queues"
        create perm=0
          | 29 "the permission 0 is none of 2 (write), 4 (read), 6 (both)"
        create perm=8
          | 29 "the permission 8 is none of 2 (write), 4 (read), 6 (both)"
        create attributes=message.type=NORMAL
          | 29 "the attribute change `message.type=NORMAL` is neither +key=value nor -key"
        create attributes=+message.type
          | 29 "the attribute change `+message.type` is neither +key=value nor -key"
        create attributes=+queue.type=BatchCQ
          | 29 "queue.type=BatchCQ is not part of this version"
        create attributes=+cleanup.policy=COMPACTION
          | 29 "cleanup.policy=COMPACTION is not part of this version"
        topic
          | 17 "No topic in this broker. topic: T"
    "#]]);
}

#[test]
fn a_topic_that_could_not_be_kept_was_not_made() {
    check(expect![[r#"
        fail 1
        create
          | 1 "cannot open /s/config/topics.json.tmp: injected fault"
        topic
          | 17 "No topic in this broker. topic: T"
        create
          | 0
          | announce
        kill
        topic
          | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":2}
    "#]]);
    check(expect![[r#"
        fail 1
        sendV2 <- a
          | 1 MSG_REGION=DefaultRegion TRACE_ON=true "cannot open /s/config/topics.json.tmp: injected fault"
        sendV2 <- b
          | 0 msgId=0A00000100002A9F0000000000000000 queueId=0 queueOffset=0 transactionId=U MSG_REGION=DefaultRegion TRACE_ON=true
          | announce
        kill
        pull
          | 0 suggestWhichBrokerId=0 nextBeginOffset=1 minOffset=0 maxOffset=1 offsetDelta=0 topicSysFlag=0 groupSysFlag=0 "FOUND" [0:b]
    "#]]);
}

#[test]
fn a_topic_that_several_producers_bring_about_at_once_is_made_once() {
    let disk = Arc::new(MemoryDisk::new());
    let options = script::store_options(FlushPolicy::Async);
    let (broker, _) = Broker::open(disk, options, script::config(), Millis(0)).unwrap();
    let send = |connection: u64, topic: &str| {
        let queues = format!("d={connection}");
        let frame = script::frame("sendV2", &[&queues, &format!("b={topic}")], "a", connection as i32);
        let (mut out, mut effects) = (BytesMut::new(), Effects::default());
        let mut turn = Turn::new(Millis(0), script::peer(connection), &mut out);
        broker.handle(&mut turn, &frame, &mut effects).unwrap();
        broker.finish(turn, &mut effects);
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
