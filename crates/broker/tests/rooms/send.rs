//! Sending: `requests.md` "SEND_MESSAGE algorithm".

use std::sync::Arc;

use bytes::BytesMut;
use cometmq_broker::{Broker, Effects, Memory, Turn};
use cometmq_protocol::message::record;
use cometmq_protocol::{Header, Millis};
use cometmq_store::{FlushPolicy, MemoryDisk, StoreOptions};
use expect_test::expect;

use crate::direct::{ask, open};
use crate::script::{check, config, frame, frames, peer, store_options};

#[test]
fn a_message_is_answered_with_its_place_in_all_spellings() {
    check(expect![[r#"
        send queueId=1 <- one       | 0 msgId=@0 queueId=1 queueOffset=0 .., announce
        sendV2 e=1 <- two           | 0 msgId=@155 queueId=1 queueOffset=1 ..
        compact sendV2 e=1 <- three | 0 msgId=@310 queueId=1 queueOffset=2 ..
        batch e=1 <- four;five      | 0 msgId=@467,@623 queueId=1 queueOffset=3 ..
        pull queueId=1              | 0 nextBeginOffset=5 maxOffset=5 .. "FOUND" [0:one 1:two 2:three 3:four 4:five]
    "#]]);
}

#[test]
fn a_message_without_id_gets_one() {
    check(expect![[r#"
        at 1000
        sendV2 -i <- a       | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000003E80000 .., announce
        sendV2 i=TAGS:A <- b | 0 msgId=@184 queueOffset=1 transactionId=0A000001000100000000000003E80001 ..
        batch -i <- c;d      | 0 msgId=@375,@517 queueOffset=2 transactionId=0A000001000100000000000003E80002 ..
    "#]]);
}

#[test]
fn nobody_answers_a_one_way_message() {
    check(expect![[r#"
        oneway sendV2 <- a            | announce
        oneway batch <- b;c
        oneway sendV2 e=99 <- refused
        oneway sendV2 -g <- refused
        pull                          | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [0:a 1:b 2:c]
    "#]]);
}

#[test]
fn an_unknown_topic_is_made_from_the_template_with_as_many_queues_as_asked_but_not_more_than_the_template_has()
 {
    check(expect![[r#"
        sendV2 b=Small d=3 <- a                        | 0 msgId=@0 queueOffset=0 .., announce
        topic topic=Small                              | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":3,"topicFilterType":"SINGLE_TAG","topicName":"Small","topicSysFlag":0,"writeQueueNums":3}
        sendV2 b=Large d=100 <- a                      | 0 msgId=@157 queueOffset=0 .., announce
        topic topic=Large                              | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"Large","topicSysFlag":0,"writeQueueNums":8}
        sendV2 b=Small d=8 <- the topic stays as it is | 0 msgId=@314 queueOffset=1 ..
        topic topic=Small                              | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":3,"topicFilterType":"SINGLE_TAG","topicName":"Small","topicSysFlag":0,"writeQueueNums":3}
        sendV2 b=ByCluster c=C d=100 <- a template is any topic that may be inherited from | 0 msgId=@494 queueOffset=0 .., announce
        topic topic=ByCluster                          | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":16,"topicFilterType":"SINGLE_TAG","topicName":"ByCluster","topicSysFlag":0,"writeQueueNums":16}
    "#]]);
}

#[test]
fn a_topic_that_may_not_be_made_does_not_exist() {
    check(expect![[r#"
        broker autoCreate=false
        sendV2 b=New <- a       | 17 .. "topic[New] not exist, apply first please! (producer 10.0.0.9:50001)\nCreate it, or set autoCreateTopicEnable=true on the broker."
        topic topic=New         | 17 "No topic in this broker. topic: New"
        create topic=New        | 0, announce
        sendV2 b=New <- a       | 0 msgId=@0 queueOffset=0 ..
    "#]]);
    check(expect![[r#"
        sendV2 b=New c=NoTemplate <- a | 17 .. "topic[New] not exist, apply first please! (producer 10.0.0.9:50001)\nCreate it, or set autoCreateTopicEnable=true on the broker."
        sendV2 b=New c=BenchmarkTest <- not a template: it may not be inherited from | 17 .. "topic[New] not exist, apply first please! (producer 10.0.0.9:50001)\nCreate it, or set autoCreateTopicEnable=true on the broker."
    "#]]);
}

#[test]
fn a_topic_without_queues_takes_no_message() {
    check(expect![[r#"
        sendV2 d=0 <- a  | 0 msgId=@0 queueOffset=0 .., announce
        topic            | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":1,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":1}
        sendV2 e=-1 <- a | 0 msgId=@153 queueOffset=1 ..
    "#]]);
}

#[test]
fn a_retry_topic_is_made_without_a_template() {
    check(expect![[r#"
        broker autoCreate=false
        sendV2 b=%RETRY%g <- a  | 0 msgId=@0 queueOffset=0 .., announce
        topic topic=%RETRY%g    | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":1,"topicFilterType":"SINGLE_TAG","topicName":"%RETRY%g","topicSysFlag":0,"writeQueueNums":1}
        batch b=%RETRY%g <- a;b | 13 .. "batch request does not support retry group"
    "#]]);
}

#[test]
fn illegal_names_are_refused() {
    check(expect![[r#"
        sendV2 b=a.b <- a   | 29 .. "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        sendV2 b=../x <- a  | 29 .. "The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        sendV2 b=128*t <- a | 29 .. "The specified topic is longer than the limit of 127 bytes (it has 128)"
        sendV2 b= <- a      | 29 .. "The specified topic is blank"
        sendV2 b=127*t <- a | 0 msgId=@0 queueOffset=0 .., announce
    "#]]);
}

#[test]
fn a_message_beyond_the_limits_is_refused() {
    check(expect![[r#"
        broker maxMessageSize=100
        sendV2 <- 100*x           | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 <- 101*x           | 13 .. "the message is illegal, maybe msg body or properties length not matched. msg body length limit 100B, msg properties length limit 32KB. this body has 101B; the limit is the broker's maxMessageSize"
        batch <- 40*x;40*y        | 13 .. "the message is illegal, maybe msg body or properties length not matched. msg body length limit 100B, msg properties length limit 32KB. this body has 124B; the limit is the broker's maxMessageSize"
        sendV2 i=K:32600*v <- near the limit with what the broker adds | 0 msgId=@252 queueOffset=1 transactionId=0A000001000100000000000000000000 ..
        sendV2 i=K:32760*v <- over the limit with what the broker adds | 13 .. "the message is illegal, maybe msg body or properties length not matched. msg body length limit 100B, msg properties length limit 32KB. these properties have 32854B with what the broker adds"
    "#]]);
    check(expect![[r#"
        sendV2 <- 300000*x | 13 .. "a record of 300152 bytes does not fit a segment of 262144 (mappedFileSizeCommitLog)", announce
    "#]]);
}

#[test]
fn a_queue_that_the_topic_does_not_have_is_refused_and_any_is_chosen_when_none_is_named() {
    check(expect![[r#"
        create readQueueNums=2 writeQueueNums=4 | 0, announce
        sendV2 e=3 <- a                         | 0 msgId=@0 queueId=3 queueOffset=0 ..
        sendV2 e=4 <- a                         | 29 .. "request queueId[4] is illegal, TopicConfig [topicName=T, readQueueNums=2, writeQueueNums=4, perm=RW-] Producer: 10.0.0.9:50001"
        sendV2 e=-1 g=4 <- a                    | 0 msgId=@153 queueId=1 queueOffset=0 ..
        sendV2 e=-1 g=5 <- a                    | 0 msgId=@306 queueId=2 queueOffset=0 ..
        sendV2 e=-7 g=6 <- a                    | 0 msgId=@459 queueId=3 queueOffset=1 ..
        sendV2 e=-1 g=-9 <- a                   | 0 msgId=@612 queueOffset=0 ..
    "#]]);
}

#[test]
fn topics_that_the_broker_writes_itself_are_refused() {
    check(expect![[r#"
        sendV2 b=SCHEDULE_TOPIC_XXXX <- a         | 16 .. "Sending message to topic[SCHEDULE_TOPIC_XXXX] is forbidden."
        sendV2 b=RMQ_SYS_TRANS_HALF_TOPIC <- a    | 16 .. "Sending message to topic[RMQ_SYS_TRANS_HALF_TOPIC] is forbidden."
        sendV2 b=RMQ_SYS_TRANS_OP_HALF_TOPIC <- a | 16 .. "Sending message to topic[RMQ_SYS_TRANS_OP_HALF_TOPIC] is forbidden."
        sendV2 b=TRANS_CHECK_MAX_TIME_TOPIC <- a  | 16 .. "Sending message to topic[TRANS_CHECK_MAX_TIME_TOPIC] is forbidden."
        topic topic=TRANS_CHECK_MAX_TIME_TOPIC    | 17 "No topic in this broker. topic: TRANS_CHECK_MAX_TIME_TOPIC"
        sendV2 b=SELF_TEST_TOPIC <- a             | 16 .. "Sending message to topic[SELF_TEST_TOPIC] is forbidden."
        sendV2 b=OFFSET_MOVED_EVENT <- a          | 16 .. "Sending message to topic[OFFSET_MOVED_EVENT] is forbidden."
        sendV2 b=BenchmarkTest <- a               | 0 msgId=@0 queueOffset=0 ..
    "#]]);
}

#[test]
fn a_broker_that_may_not_be_written_takes_nothing() {
    check(expect![[r#"
        broker permission=4
        sendV2 <- a         | 16 .. "the broker[10.0.0.1:10911] sending message is forbidden"
        topic               | 17 "No topic in this broker. topic: T"
    "#]]);
}

/// As Java brokers of 5.3.3: the topic's write bit counts for routes only.
#[test]
fn a_topic_that_may_not_be_written_takes_messages_all_the_same() {
    check(expect![[r#"
        create perm=4 | 0, announce
        sendV2 <- a   | 0 msgId=@0 queueOffset=0 ..
    "#]]);
}

#[test]
fn features_that_are_not_served_are_refused_not_ignored() {
    check(expect![[r#"
        sendV2 i=DELAY:3 <- a                             | 13 .. "delayed and timed messages are not part of this version: send without DELAY and TIMER_ properties", announce
        sendV2 i=DELAY:0 <- no delay                      | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 ..
        sendV2 i=TIMER_DELAY_SEC:1 <- a                   | 13 .. "delayed and timed messages are not part of this version: send without DELAY and TIMER_ properties"
        sendV2 i=TIMER_DELAY_MS:1 <- a                    | 13 .. "delayed and timed messages are not part of this version: send without DELAY and TIMER_ properties"
        sendV2 i=TIMER_DELIVER_MS:1 <- a                  | 13 .. "delayed and timed messages are not part of this version: send without DELAY and TIMER_ properties"
        sendV2 i=TRAN_MSG:true <- a                       | 16 .. "sending transaction message is forbidden: transactions are not part of this version"
        sendV2 i=TRAN_MSG:false <- no transaction         | 0 msgId=@199 queueOffset=1 transactionId=0A000001000100000000000000000001 ..
        sendV2 f=4 <- prepared                            | 0 msgId=@411 queueOffset=2 ..
        sendV2 f=12 <- rolled back                        | 0 msgId=@571 queueOffset=3 ..
        sendV2 f=8 <- committed is a message as any other | 0 msgId=@734 queueOffset=4 ..
        sendV2 f=128 <- an inner batch                    | 0 msgId=@921 queueOffset=5 ..
        sendV2 i=INNER_MULTI_DISPATCH:%LMQ%q,INNER_MULTI_QUEUE_OFFSET:5 <- a light queue | 0 msgId=@1087 queueOffset=6 transactionId=0A000001000100000000000000000002 ..
        batch <- a;b{DELAY:1}                             | 13 .. "delayed and timed messages are not part of this version: send without DELAY and TIMER_ properties"
        batch i=DELAY:1 <- a;b                            | 13 .. "delayed and timed messages are not part of this version: send without DELAY and TIMER_ properties"
        batch f=4 <- a;b                                  | 0 msgId=@1338,@1491 queueOffset=7 ..
        pull                                              | 0 nextBeginOffset=9 maxOffset=9 .. "FOUND" [0:no delay 1:no transaction 2:prepared 3:rolled back 4:committed is a message as any other 5:an inner batch 6:a light queue 7:a 8:b]
    "#]]);
}

#[test]
fn a_body_that_is_no_batch_is_refused() {
    check(expect![[r#"
        batch <-                     | 13 .. "the batch has no messages", announce
        sendV2 m=true <-             | 13 .. "the batch has no messages"
        sendV2 m=true <- not a batch | 13 .. "message 0 of the batch ends inside its content"
    "#]]);
}

#[test]
fn the_messages_of_a_batch_are_filtered_by_their_own_tags_and_have_their_own_flags() {
    check(expect![[r#"
        batch <- one{TAGS:A};two{TAGS:B};three | 0 msgId=@0,@162,@324 queueOffset=0 .., announce
        pull subscription=A                    | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [0:one]
        pull subscription=B                    | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [1:two]
    "#]]);
    let broker = open(&MemoryDisk::new(), FlushPolicy::Async, 0);
    let ask = |name, body| ask(&broker, 0, name, &[], body, &mut Effects::default()).unwrap();
    // Its messages have the flag 7, the batch has none.
    ask("batch", "one;two");
    let pulled = ask("pull", "").body;
    let flags: Vec<i32> = record::records(&pulled).map(|record| record.unwrap().flag).collect();
    assert_eq!(flags, [7, 7]);
}

#[test]
fn the_store_host_is_what_clients_are_told_or_where_the_producer_came_to() {
    check(expect![[r#"
        broker advertised=10.0.0.7:10920
        sendV2 <- a                      | 0 msgId=0A00000700002AA80000000000000000 queueOffset=0 .., announce
    "#]]);
    // The port stays its own: producers may come to another one.
    check(expect![[r#"
        broker advertised=10.0.0.7:10920 addressDerived=true
        sendV2 <- a                                          | 0 msgId=0A00000100002AA80000000000000000 queueOffset=0 .., announce
    "#]]);
}

/// Each message of a batch is stored with all of the batch's properties.
#[test]
fn a_batch_that_would_grow_without_measure_is_refused() {
    let options = StoreOptions { segment_bytes: 256 << 20, ..store_options(FlushPolicy::Async) };
    let mut config = config();
    config.message_bytes_max = 16 << 20;
    let (broker, _) = Broker::open(Arc::new(MemoryDisk::new()), options, config, Millis(0)).unwrap();
    let mut effects = Effects::default();
    let mut batch = |properties: &str, count: usize| {
        let answer = ask(&broker, 0, "batch", &[properties], &"x;".repeat(count), &mut effects).unwrap();
        (answer.code, answer.remark)
    };
    assert_eq!(batch("i=A:30000*x", 2000).0, 0);
    let end = broker.store().log().written();
    let (code, remark) = batch("i=A:30000*x", 3000);
    assert!(code == 13 && remark.contains("3000 messages"), "{code} {remark}");
    assert_eq!(broker.store().log().written(), end);
}

#[test]
fn a_send_that_is_refused_because_too_much_waits_for_the_disk_is_answered_as_every_send() {
    let broker = open(&MemoryDisk::new(), FlushPolicy::Async, 0);
    let asked = frame("sendV2", &[], "1048576*x", 7);
    let mut waiting = Effects::default();
    let refusal = loop {
        let mut out = BytesMut::new();
        let mut turn = Turn::on_worker(Memory::default(), Millis(0), peer(1), &mut out);
        broker.handle(&mut turn, &asked, &mut waiting).unwrap();
        broker.finish(turn, &mut waiting);
        if let Some(refusal) = frames(out.freeze()).pop() {
            break refusal;
        }
    };
    let header = Header::decode(&refusal).unwrap();
    assert_eq!((header.code, header.field("TRACE_ON")), (2, Some("true")));
}
