//! Clients: `requests.md` "Client management".

use expect_test::expect;

use crate::script::check;

#[test]
fn a_heartbeat_joins_groups_and_makes_their_retry_topics() {
    check(expect![[r#"
        heartbeat id=a group=g producer=p;q | 0 .., announce
                                            | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        topic topic=%RETRY%g                | 0 {"attributes":{},"order":false,"perm":6,"readQueueNums":1,"topicFilterType":"SINGLE_TAG","topicName":"%RETRY%g","topicSysFlag":0,"writeQueueNums":1}
        members                             | 0 {"consumerIdList":["a"]}
        members consumerGroup=p             | 1 "no consumer for this group, p"
        c2 heartbeat id=b group=g;h         | 0 .., announce
                                            | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
                                            | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
                                            | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=h
        members                             | 0 {"consumerIdList":["a","b"]}
        members consumerGroup=h             | 0 {"consumerIdList":["b"]}
        members consumerGroup=nobody        | 1 "no consumer for this group, nobody"
    "#]]);
}

#[test]
fn all_members_hear_of_every_change_in_their_group() {
    check(expect![[r#"
        c1 heartbeat id=a group=g                       | 0 .., announce
                                                        | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c2 heartbeat id=b group=g                       | 0 ..
                                                        | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
                                                        | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c2 heartbeat id=b group=g                       | 0 ..
        c3 heartbeat id=c group=other                   | 0 .., announce
                                                        | c3: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=other
        c1 heartbeat id=a group=g sub=T:A version=2     | 0 ..
                                                        | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
                                                        | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c2 heartbeat id=b group=g sub=T:A version=2     | 0 ..
        c2 heartbeat id=b group=g sub=T:A;U:* version=3 | 0 ..
                                                        | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
                                                        | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c2 heartbeat id=b group=g sub=T:A version=4     | 0 ..
                                                        | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
                                                        | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c2 unregister clientID=b consumerGroup=g        | 0
                                                        | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c2 unregister clientID=b consumerGroup=g        | 0
        c2 heartbeat id=b group=g sub=T:A version=4     | 0 ..
                                                        | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
                                                        | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c1 gone                                         | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c1 gone
        members                                         | 0 {"consumerIdList":["b"]}
    "#]]);
}

#[test]
fn members_are_not_told_where_that_is_off() {
    check(expect![[r#"
        broker notify=false
        c1 heartbeat id=a group=g | 0 .., announce
        c2 heartbeat id=b group=g | 0 ..
        c1 gone
        members                   | 0 {"consumerIdList":["b"]}
    "#]]);
}

#[test]
fn a_heartbeat_without_subscriptions_keeps_them() {
    check(expect![[r#"
        sendV2 i=TAGS:A <- a                        | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 .., announce
        heartbeat id=a group=g sub=T:A              | 0 .., announce
                                                    | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        heartbeat id=a group=g sub= withoutSub=true | 0 ..
        pull sysFlag=0                              | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        heartbeat id=a group=g sub=                 | 0 ..
                                                    | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        pull sysFlag=0                              | 24 "the consumer's subscription not exist"
    "#]]);
}

#[test]
fn a_client_that_is_silent_for_two_minutes_is_closed() {
    check(expect![[r#"
        c1 heartbeat id=a group=g    | 0 .., announce
                                     | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c2 heartbeat id=b group=g    | 0 ..
                                     | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
                                     | c2: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        c3 heartbeat id=c producer=p | 0 ..
        at 60000
        c1 heartbeat id=a group=g    | 0 ..
        at 120000
        at 120001
        at 125000                    | close c2, close c3
                                     | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        members                      | 0 {"consumerIdList":["a"]}
        at 185000                    | close c1
        members                      | 1 "no consumer for this group, g"
    "#]]);
    check(expect![[r#"
        broker offsetSaveInterval=3600000
        heartbeat id=a group=g            | 0 .., announce
                                          | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        at 125000                         | close c1
    "#]]);
}

#[test]
fn a_producer_leaves_its_groups_only() {
    check(expect![[r#"
        heartbeat id=a group=g producer=g                     | 0 .., announce
                                                              | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        unregister clientID=a producerGroup=g                 | 0
        members                                               | 0 {"consumerIdList":["a"]}
        unregister clientID=a                                 | 0
        members                                               | 0 {"consumerIdList":["a"]}
        unregister clientID=a consumerGroup=g producerGroup=g | 0
        members                                               | 1 "no consumer for this group, g"
    "#]]);
}

#[test]
fn a_heartbeat_that_is_none_is_refused() {
    check(expect![[r#"
        34 <- {                     | 1 "the request body is not the expected JSON: EOF while parsing an object at line 1 column 1"
        34                          | 1 "the request body is not the expected JSON: EOF while parsing a value at line 1 column 0"
        heartbeat id= group=g       | 1 "the heartbeat has no clientID"
        heartbeat id=a group=a.b    | 29 "The specified group contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$"
        heartbeat id=a group=249*g  | 29 "The specified topic is longer than the limit of 255 bytes (it has 256)"
        members consumerGroup=249*g | 1 "no consumer for this group, ggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggggg"
    "#]]);
}

/// RocketMQ registers the group all the same; it has no retry topic, and its pulls are refused.
#[test]
fn a_group_that_may_not_be_made_has_members_all_the_same() {
    check(expect![[r#"
        broker autoCreateGroup=false
        heartbeat id=a group=g       | 0 ..
                                     | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        topic topic=%RETRY%g         | 17 "No topic in this broker. topic: %RETRY%g"
        members                      | 0 {"consumerIdList":["a"]}
        pull topic=BenchmarkTest     | 26 "subscription group [g] does not exist; create it, or set autoCreateSubscriptionGroup=true"
    "#]]);
}

#[test]
fn subscriptions_that_are_served_are_those_of_tags() {
    check(expect![[r#"
        check                    | 0
        check sub=A||B           | 0
        check type=              | 0
        check type=SQL92 sub=a>1 | 1 "The broker does not support consumer to filter message by SQL92: expressions other than tags are not part of this version; subscribe with tags"
        46 <- nonsense           | 1 "the request body is not the expected JSON: expected ident at line 1 column 2"
    "#]]);
}
