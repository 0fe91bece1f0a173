//! States that survive: topics, groups, offsets, messages.

use expect_test::expect;

use crate::script::check;

#[test]
fn everything_is_there_again_after_a_clean_stop() {
    check(expect![[r#"
        sendV2 d=3 <- a       | 0 msgId=@0 queueOffset=0 .., announce
        heartbeat group=g     | 0 .., announce
                              | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        commit commitOffset=1 | 0
        stop
        topic                 | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":3,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":3}
        topic topic=%RETRY%g  | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":1,"topicFilterType":"SINGLE_TAG","topicName":"%RETRY%g","topicSysFlag":0,"writeQueueNums":1}
        query                 | 0 offset=1
        pull                  | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        commit commitOffset=0 | 0
        sendV2 <- b           | 0 msgId=@153 queueOffset=1 ..
    "#]]);
}

#[test]
fn messages_and_topics_are_there_again_after_a_kill_offsets_as_last_saved() {
    check(expect![[r#"
        sendV2 d=3 <- a       | 0 msgId=@0 queueOffset=0 .., announce
        heartbeat group=g     | 0 .., announce
                              | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        commit commitOffset=1 | 0
        at 5000
        sendV2 <- b           | 0 msgId=@153 queueOffset=1 ..
        commit commitOffset=2 | 0
        kill
        topic                 | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":3,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":3}
        query                 | 0 offset=1
        pull                  | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:b]
        commit commitOffset=2 | 0
        at 9999
        kill
        query                 | 0 offset=1
        commit commitOffset=2 | 0
        at 10000
        kill
        query                 | 0 offset=1
    "#]]);
}

#[test]
fn an_offset_behind_the_end_of_what_a_power_cut_left_is_taken_back() {
    check(expect![[r#"
        create readQueueNums=3 writeQueueNums=3               | 0, announce
        sendV2 <- a                                           | 0 msgId=@0 queueOffset=0 ..
        sync
        sendV2 <- b                                           | 0 msgId=@153 queueOffset=1 ..
        sendV2 <- c                                           | 0 msgId=@306 queueOffset=2 ..
        heartbeat group=g                                     | 0 .., announce
                                                              | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        commit commitOffset=3                                 | 0
        commit commitOffset=9 queueId=1                       | 0
        commit commitOffset=9 queueId=2                       | 0
        at 5000
        power cut
        max                                                   | 0 offset=1
        query                                                 | 0 offset=1
        query queueId=1                                       | 0 offset=0
        sendV2 e=2 <- d                                       | 0 msgId=@153 queueId=2 queueOffset=0 ..
        pull queueId=2 queueOffset=1 sysFlag=5 commitOffset=1 | 19 nextBeginOffset=1 maxOffset=1 .. "OFFSET_OVERFLOW_ONE"
        query queueId=2                                       | 0 offset=1
    "#]]);
}

/// RocketMQ #4771: consumer offsets were kept beyond a truncated log. Those of a group that comes late must not make it
/// skip messages that took the places of the lost ones.
#[test]
fn rocketmq_4771_an_offset_of_lost_messages_is_taken_back_however_late_its_group_comes() {
    check(expect![[r#"
        create                | 0, announce
        sendV2 <- a           | 0 msgId=@0 queueOffset=0 ..
        sync
        sendV2 <- b           | 0 msgId=@153 queueOffset=1 ..
        sendV2 <- c           | 0 msgId=@306 queueOffset=2 ..
        heartbeat group=g     | 0 .., announce
                              | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        commit commitOffset=3 | 0
        at 5000
        power cut
        sendV2 <- d           | 0 msgId=@153 queueOffset=1 ..
        sendV2 <- e           | 0 msgId=@306 queueOffset=2 ..
        sendV2 <- f           | 0 msgId=@459 queueOffset=3 ..
        sync
        query                 | 0 offset=1
        pull queueOffset=1    | 0 nextBeginOffset=4 maxOffset=4 .. "FOUND" [1:d 2:e 3:f]
    "#]]);
}

/// The same for a group that does not come before the broker is stopped and started once more.
#[test]
fn rocketmq_4771_offsets_of_lost_messages_are_taken_back_without_being_asked_for() {
    check(expect![[r#"
        create                   | 0, announce
        sendV2 <- a              | 0 msgId=@0 queueOffset=0 ..
        sync
        sendV2 <- b              | 0 msgId=@153 queueOffset=1 ..
        sendV2 <- c              | 0 msgId=@306 queueOffset=2 ..
        heartbeat group=g        | 0 .., announce
                                 | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        commit commitOffset=3    | 0
        at 5000
        power cut
        sendV2 <- d              | 0 msgId=@153 queueOffset=1 ..
        sendV2 <- e              | 0 msgId=@306 queueOffset=2 ..
        sync
        at 10000
        file consumerOffset.json | {"dataVersion":{"counter":3,"stateVersion":0,"timestamp":10000},"offsetTable":{"T@g":{"0":1}}}
        stop
        query                    | 0 offset=1
    "#]]);
}

#[test]
fn states_are_kept_in_rocketmqs_files() {
    check(expect![[r#"
        at 1000
        create topic=T                  | 0, announce
        heartbeat group=g               | 0 .., announce
                                        | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        commit commitOffset=7           | 0
        commit commitOffset=8 queueId=1 | 0
        at 6000
        file consumerOffset.json        | {"dataVersion":{"counter":1,"stateVersion":0,"timestamp":6000},"offsetTable":{"T@g":{"0":7,"1":8}}}
    "#]]);
}

/// What a client sends never keeps a broker from starting again.
#[test]
fn a_broker_starts_again_whatever_clients_sent() {
    check(expect![[r#"
        sendV2 f=4 <- prepared      | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 f=12 <- rolled back  | 0 msgId=@160 queueOffset=1 ..
        sendV2 f=128 <- inner batch | 0 msgId=@323 queueOffset=2 ..
        sendV2 f=-1 <- every bit    | 0 msgId=@486 queueOffset=3 ..
        sendV2 i=INNER_MULTI_DISPATCH:T,INNER_MULTI_QUEUE_OFFSET:0 <- a place taken by a property | 0 msgId=@647 queueOffset=4 transactionId=0A000001000100000000000000000000 ..
        sendV2 i=INNER_MULTI_DISPATCH:%LMQ%q,INNER_MULTI_QUEUE_OFFSET:-7 <- no place | 0 msgId=@907 queueOffset=5 transactionId=0A000001000100000000000000000001 ..
        sendV2 i=INNER_MULTI_DISPATCH:%LMQ%q,INNER_MULTI_QUEUE_OFFSET:5 <- twice the same | 0 msgId=@1154 queueOffset=6 transactionId=0A000001000100000000000000000002 ..
        sendV2 i=INNER_MULTI_DISPATCH:%LMQ%q,INNER_MULTI_QUEUE_OFFSET:5 <- twice the same | 0 msgId=@1406 queueOffset=7 transactionId=0A000001000100000000000000000003 ..
        sendV2 <- plain             | 0 msgId=@1658 queueOffset=8 ..
        pull                        | 0 nextBeginOffset=9 maxOffset=9 .. "FOUND" [0:prepared 1:rolled back 2:inner batch 3:every bit 4:a place taken by a property 5:no place 6:twice the same 7:twice the same 8:plain]
        kill
        pull                        | 0 nextBeginOffset=9 maxOffset=9 .. "FOUND" [0:prepared 1:rolled back 2:inner batch 3:every bit 4:a place taken by a property 5:no place 6:twice the same 7:twice the same 8:plain]
    "#]]);
}

/// The place that a message's properties claim in a light queue is entered by recovery: no other message may be there.
#[test]
fn light_queues_have_no_messages_of_their_own() {
    check(expect![[r#"
        sendV2 b=%LMQ%q <- a | 16 .. "topic[%LMQ%q] is a light queue, which is not part of this version", announce
        sendV2 i=INNER_MULTI_DISPATCH:%LMQ%q,INNER_MULTI_QUEUE_OFFSET:0 <- b | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 .., announce
        kill
        pull                 | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:b]
        pull topic=%LMQ%q    | 1 "topic[%LMQ%q] is a light queue, which is not part of this version"
        max topic=%LMQ%q     | 0 offset=1
    "#]]);
}
