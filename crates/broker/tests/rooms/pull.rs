//! Pulling: `requests.md` "PULL_MESSAGE", every row of its table of outcomes.

use expect_test::expect;

use crate::script::check;

#[test]
fn messages_are_found_from_an_offset_on_up_to_a_count() {
    check(expect![[r#"
        sendV2 <- a                     | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 <- b                     | 0 msgId=@153 queueOffset=1 ..
        sendV2 <- c                     | 0 msgId=@306 queueOffset=2 ..
        pull                            | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [0:a 1:b 2:c]
        pull queueOffset=1              | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [1:b 2:c]
        pull queueOffset=1 maxMsgNums=1 | 0 nextBeginOffset=2 maxOffset=3 .. "FOUND" [1:b]
        pull maxMsgNums=0               | 0 nextBeginOffset=1 maxOffset=3 .. "FOUND" [0:a]
        pull maxMsgNums=-5              | 0 nextBeginOffset=1 maxOffset=3 .. "FOUND" [0:a]
        litePull queueOffset=2          | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [2:c]
        compact pull                    | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [0:a 1:b 2:c]
    "#]]);
}

#[test]
fn a_reply_has_as_many_bytes_as_fit_and_one_message_at_least() {
    check(expect![[r#"
        sendV2 <- 200000*x | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 <- 50000*y  | 0 msgId=@200152 queueOffset=1 ..
        sendV2 <- 50000*z  | 0 msgId=@262144 queueOffset=2 ..
        pull               | 0 nextBeginOffset=2 maxOffset=3 .. "FOUND" [0:200000*x 1:50000*y]
        pull queueOffset=1 | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [1:50000*y 2:50000*z]
    "#]]);
}

/// `requests.md`: NO_MATCHED_LOGIC_QUEUE and NO_MESSAGE_IN_QUEUE.
#[test]
fn a_queue_that_never_had_a_message_is_empty_at_0_and_moved_elsewhere() {
    check(expect![[r#"
        create             | 0, announce
        pull               | 19 nextBeginOffset=0 maxOffset=0 .. "NO_MATCHED_LOGIC_QUEUE"
        pull queueOffset=3 | 21 nextBeginOffset=0 maxOffset=0 .. "NO_MATCHED_LOGIC_QUEUE"
        pull sysFlag=6     | waits #4
        pull queueOffset=3 | 21 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
    "#]]);
}

/// `requests.md`: OFFSET_OVERFLOW_ONE, OFFSET_OVERFLOW_BADLY and OFFSET_TOO_SMALL.
#[test]
fn at_the_end_there_is_nothing_yet_and_further_on_or_before_the_beginning_the_offset_has_moved() {
    check(expect![[r#"
        sendV2 <- a                           | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 <- b                           | 0 msgId=@153 queueOffset=1 ..
        pull queueOffset=2                    | 19 nextBeginOffset=2 maxOffset=2 .. "OFFSET_OVERFLOW_ONE"
        pull queueOffset=3                    | 21 nextBeginOffset=2 maxOffset=2 .. "OFFSET_OVERFLOW_BADLY"
        pull queueOffset=9223372036854775807  | 21 nextBeginOffset=2 maxOffset=2 .. "OFFSET_OVERFLOW_BADLY"
        pull queueOffset=-1                   | 21 nextBeginOffset=0 maxOffset=2 .. "OFFSET_TOO_SMALL"
        pull queueOffset=-9223372036854775808 | 21 nextBeginOffset=0 maxOffset=2 .. "OFFSET_TOO_SMALL"
    "#]]);
}

#[test]
fn tags_are_filtered_by_hash_and_what_was_dropped_need_not_be_looked_at_again() {
    check(expect![[r#"
        sendV2 i=TAGS:A <- a              | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 .., announce
        sendV2 i=TAGS:B <- b              | 0 msgId=@191 queueOffset=1 transactionId=0A000001000100000000000000000001 ..
        sendV2 <- none                    | 0 msgId=@382 queueOffset=2 ..
        sendV2 i=TAGS:AaAa <- one hash    | 0 msgId=@538 queueOffset=3 transactionId=0A000001000100000000000000000002 ..
        sendV2 i=TAGS:BBBB <- with this   | 0 msgId=@739 queueOffset=4 transactionId=0A000001000100000000000000000003 ..
        sendV2 i=TAGS:A <- a              | 0 msgId=@941 queueOffset=5 transactionId=0A000001000100000000000000000004 ..
        pull subscription=A               | 0 nextBeginOffset=6 maxOffset=6 .. "FOUND" [0:a 5:a]
        pull subscription=A||B            | 0 nextBeginOffset=6 maxOffset=6 .. "FOUND" [0:a 1:b 5:a]
        pull subscription=BBBB            | 0 nextBeginOffset=6 maxOffset=6 .. "FOUND" [3:one hash 4:with this]
        pull subscription=None            | 20 nextBeginOffset=6 maxOffset=6 .. "NO_MATCHED_MESSAGE"
        pull subscription=A maxMsgNums=1  | 0 nextBeginOffset=5 maxOffset=6 .. "FOUND" [0:a]
        pull subscription=A queueOffset=6 | 19 nextBeginOffset=6 maxOffset=6 .. "OFFSET_OVERFLOW_ONE"
        pull subscription=                | 0 nextBeginOffset=6 maxOffset=6 .. "FOUND" [0:a 1:b 2:none 3:one hash 4:with this 5:a]
        pull -subscription                | 0 nextBeginOffset=6 maxOffset=6 .. "FOUND" [0:a 1:b 2:none 3:one hash 4:with this 5:a]
    "#]]);
}

#[test]
fn a_subscription_in_the_request_that_cannot_be_read_is_refused() {
    check(expect![[r#"
        sendV2 <- a                                | 0 msgId=@0 queueOffset=0 .., announce
        pull subscription=||                       | 23 "the subscription expression `||` names no tag; write `*` or tags separated by `||`"
        pull expressionType=SQL92 subscription=a=1 | 1 "The broker does not support consumer to filter message by SQL92: expressions other than tags are not part of this version; subscribe with tags"
        pull expressionType=TAG                    | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        pull expressionType=                       | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
    "#]]);
}

#[test]
fn a_pull_without_subscription_uses_the_heartbeats() {
    check(expect![[r#"
        sendV2 i=TAGS:A <- a                           | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 .., announce
        sendV2 i=TAGS:B <- b                           | 0 msgId=@191 queueOffset=1 transactionId=0A000001000100000000000000000001 ..
        pull sysFlag=0                                 | 24 "the consumer's group info not exist"
        heartbeat group=g sub=U:*                      | 0 .., announce
                                                       | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        pull sysFlag=0                                 | 24 "the consumer's subscription not exist"
        heartbeat group=g sub=T:A version=5            | 0 ..
                                                       | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        pull sysFlag=0                                 | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a]
        pull sysFlag=0 subVersion=5                    | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a]
        pull sysFlag=0 subVersion=6                    | 25 "the consumer's subscription not latest"
        heartbeat group=g sub=T:B version=4            | 0 ..
        pull sysFlag=0                                 | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a]
        heartbeat group=g sub=T:B version=6            | 0 ..
                                                       | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        pull sysFlag=0 subVersion=6                    | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [1:b]
        heartbeat group=g type=SQL92 sub=T:x version=7 | 0 ..
                                                       | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        pull sysFlag=0                                 | 1 "The broker does not support consumer to filter message by SQL92: expressions other than tags are not part of this version; subscribe with tags"
    "#]]);
}

#[test]
fn what_is_not_in_order_is_refused_in_the_order_of_the_checks() {
    check(expect![[r#"
        create perm=2                                   | 0, announce
        create topic=R readQueueNums=2 writeQueueNums=4 | 0, announce
        pull topic=Unknown                              | 17 "topic[Unknown] not exist, apply first please!"
        pull                                            | 16 suggestWhichBrokerId=0 nextBeginOffset=0 minOffset=0 maxOffset=0 forbiddenType=3 "the topic[T] pulling message is forbidden"
        pull topic=R queueId=2                          | 29 "queueId[2] is illegal, topic:[R] topicConfig.readQueueNums:[2] consumer:[10.0.0.9:50001]"
        pull topic=R queueId=-1                         | 29 "queueId[-1] is illegal, topic:[R] topicConfig.readQueueNums:[2] consumer:[10.0.0.9:50001]"
        pull topic=R queueId=1                          | 19 nextBeginOffset=0 maxOffset=0 .. "NO_MATCHED_LOGIC_QUEUE"
        pull topic=R consumerGroup=a.b                  | 29 "The specified group contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        pull topic=R consumerGroup=                     | 29 "The specified group is blank"
    "#]]);
    check(expect![[r#"
        broker permission=2
        pull topic=Unknown  | 16 suggestWhichBrokerId=0 nextBeginOffset=0 minOffset=0 maxOffset=0 forbiddenType=1 "the broker[10.0.0.1:10911] pulling message is forbidden"
    "#]]);
    check(expect![[r#"
        broker autoCreateGroup=false
        pull topic=Unknown                                    | 26 "subscription group [g] does not exist; create it, or set autoCreateSubscriptionGroup=true"
        pull topic=BenchmarkTest consumerGroup=TOOLS_CONSUMER | 19 nextBeginOffset=0 maxOffset=0 .. "NO_MATCHED_LOGIC_QUEUE"
    "#]]);
}

#[test]
fn a_pull_commits_the_offset_that_it_says_it_does_but_takes_none_back() {
    check(expect![[r#"
        sendV2 <- a                                  | 0 msgId=@0 queueOffset=0 .., announce
        pull sysFlag=4 commitOffset=7                | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        query setZeroIfNotFound=false                | 22 "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
        pull sysFlag=5 commitOffset=7                | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        query                                        | 0 offset=7
        pull sysFlag=5 commitOffset=-1               | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        query                                        | 0 offset=7
        pull sysFlag=5 commitOffset=3 queueOffset=99 | 21 nextBeginOffset=1 maxOffset=1 .. "OFFSET_OVERFLOW_BADLY"
        query                                        | 0 offset=7
        pull sysFlag=5 commitOffset=4 topic=Unknown  | 17 "topic[Unknown] not exist, apply first please!"
        query topic=Unknown                          | 22 "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
    "#]]);
}

#[test]
fn nobody_answers_a_one_way_pull() {
    check(expect![[r#"
        sendV2 <- a                         | 0 msgId=@0 queueOffset=0 .., announce
        oneway pull
        oneway pull queueOffset=1 sysFlag=6
        sendV2 <- b                         | 0 msgId=@153 queueOffset=1 ..
        at 60000
    "#]]);
}

#[test]
fn a_group_that_may_not_consume_or_not_broadcast_is_forbidden() {
    check(expect![[r#"
        put subscriptionGroup.json <- {"subscriptionGroupTable":{"g":{"groupName":"g","consumeEnable":false},"h":{"groupName":"h","consumeBroadcastEnable":false,"groupSysFlag":1,"brokerId":3}}}
        kill
        sendV2 <- a                          | 0 msgId=@0 queueOffset=0 .., announce
        pull                                 | 16 suggestWhichBrokerId=0 nextBeginOffset=0 minOffset=0 maxOffset=0 forbiddenType=2 "subscription group no permission, g"
        heartbeat group=h model=BROADCASTING | 0 .., announce
                                             | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=h
        pull consumerGroup=h sysFlag=0       | 16 suggestWhichBrokerId=0 nextBeginOffset=0 minOffset=0 maxOffset=0 forbiddenType=4 "the consumer group[h] can not consume by broadcast way"
        heartbeat group=h model=CLUSTERING   | 0 ..
        pull consumerGroup=h sysFlag=0       | 0 suggestWhichBrokerId=3 nextBeginOffset=1 maxOffset=1 groupSysFlag=1 .. "FOUND" [0:a]
    "#]]);
    // By default it may.
    check(expect![[r#"
        sendV2 <- a                               | 0 msgId=@0 queueOffset=0 .., announce
        heartbeat id=a group=g model=BROADCASTING | 0 .., announce
                                                  | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        pull sysFlag=0                            | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
    "#]]);
}

/// Java brokers keep the messages of such topics in queues of another form.
#[test]
fn topics_of_batches_are_neither_read_nor_written() {
    check(expect![[r#"
        put topics.json <- {"topicConfigTable":{"T":{"topicName":"T","attributes":{"queue.type":"BatchCQ"},"perm":6,"readQueueNums":2,"writeQueueNums":2}}}
        kill
        sendV2 <- a    | 16 .. "topic[T] has queue.type=BatchCQ, which is not part of this version"
        batch <- a;b   | 16 .. "topic[T] has queue.type=BatchCQ, which is not part of this version"
        pull           | 1 "topic[T] has queue.type=BatchCQ, which is not part of this version"
        pull sysFlag=6 | 1 "topic[T] has queue.type=BatchCQ, which is not part of this version"
        topic          | 0 {"attributes":{"queue.type":"BatchCQ"},"order":false,"perm":6,"readQueueNums":2,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":2}
    "#]]);
}

/// `requests.md`: OFFSET_TOO_SMALL.
#[test]
fn what_the_log_no_longer_has_is_before_the_beginning() {
    check(expect![[r#"
        sendV2 <- 100000*a                    | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 <- 100000*b                    | 0 msgId=@100152 queueOffset=1 ..
        sendV2 <- 100000*c                    | 0 msgId=@262144 queueOffset=2 ..
        stop
        remove commitlog/00000000000000000000
        kill
        pull                                  | 21 nextBeginOffset=2 minOffset=2 maxOffset=3 .. "OFFSET_TOO_SMALL"
        pull queueOffset=2                    | 0 nextBeginOffset=3 minOffset=2 maxOffset=3 .. "FOUND" [2:100000*c]
        pull queueOffset=3                    | 19 nextBeginOffset=3 minOffset=2 maxOffset=3 .. "OFFSET_OVERFLOW_ONE"
        pull sysFlag=6 queueOffset=1          | 21 nextBeginOffset=2 minOffset=2 maxOffset=3 .. "OFFSET_TOO_SMALL"
        query                                 | 22 "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
        min                                   | 0 offset=2
        max                                   | 0 offset=3
        earliest                              | 0 timestamp=0
        search                                | 0 offset=2
        search boundaryType=UPPER             | 0 offset=2
        sendV2 <- d                           | 0 msgId=@362296 queueOffset=3 ..
    "#]]);
}
