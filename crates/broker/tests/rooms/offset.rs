//! Offsets: `requests.md` "Offsets".

use expect_test::expect;

use crate::script::check;

#[test]
fn a_groups_offset_is_what_it_committed_also_backwards() {
    check(expect![[r#"
        create                                  | 0, announce
        heartbeat group=g                       | 0 .., announce
                                                | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        commit commitOffset=7                   | 0
        query                                   | 0 offset=7
        oneway commit commitOffset=3
        query                                   | 0 offset=3
        query queueId=1                         | 0 offset=0
        query queueId=1 setZeroIfNotFound=false | 22 "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
        query queueId=0 setZeroIfNotFound=false | 0 offset=3
        commit commitOffset=9 queueId=77        | 0
        query queueId=77                        | 0 offset=9
    "#]]);
}

#[test]
fn only_known_groups_commit_offsets_of_known_topics() {
    check(expect![[r#"
        create                                | 0, announce
        commit                                | 26 "subscription group [g] does not exist; a consumer of it must send a heartbeat first"
        heartbeat group=g                     | 0 .., announce
                                              | c1: NOTIFY_CONSUMER_IDS_CHANGED consumerGroup=g
        commit topic=Unknown                  | 17 "Topic Unknown not exist!"
        commit queueId=-1                     | 29 "queue id and offset must not be negative"
        commit commitOffset=-1                | 29 "queue id and offset must not be negative"
        pull consumerGroup=h                  | 19 nextBeginOffset=0 maxOffset=0 .. "NO_MATCHED_LOGIC_QUEUE"
        commit consumerGroup=h commitOffset=1 | 0
        query consumerGroup=h                 | 0 offset=1
    "#]]);
}

/// A group without offset begins a queue at its beginning while that is in memory, else as its clients decide.
#[test]
fn a_group_without_offset_starts_a_young_queue_at_0() {
    check(expect![[r#"
        broker memory=250000
        create                        | 0, announce
        query                         | 0 offset=0
        query setZeroIfNotFound=false | 22 "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
        query topic=Unknown           | 22 "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
        sendV2 <- 90000*x             | 0 msgId=@0 queueOffset=0 ..
        query                         | 0 offset=0
        sendV2 e=1 <- 20000*x         | 0 msgId=@90152 queueId=1 queueOffset=0 ..
        query                         | 22 "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"
        query queueId=1               | 0 offset=0
    "#]]);
}

#[test]
fn a_queue_tells_its_ends_and_its_oldest_store_time() {
    check(expect![[r#"
        create                 | 0, announce
        max                    | 0 offset=0
        min                    | 0 offset=0
        earliest               | 0 timestamp=-1
        at 500
        sendV2 <- a            | 0 msgId=@0 queueOffset=0 ..
        at 600
        sendV2 <- b            | 0 msgId=@153 queueOffset=1 ..
        max                    | 0 offset=2
        min                    | 0 offset=0
        earliest               | 0 timestamp=500
        max committed=true     | 0 offset=2
        max topic=Unknown      | 0 offset=0
        min topic=Unknown      | 0 offset=0
        earliest topic=Unknown | 0 timestamp=-1
        search topic=Unknown   | 0 offset=0
        max queueId=-1         | 0 offset=0
        earliest queueId=99    | 0 timestamp=-1
    "#]]);
}

#[test]
fn a_time_is_found_as_the_first_message_since_or_the_last_one_until() {
    check(expect![[r#"
        at 100
        sendV2 <- a                                             | 0 msgId=@0 queueOffset=0 .., announce
        at 200
        sendV2 <- b                                             | 0 msgId=@153 queueOffset=1 ..
        sendV2 <- c                                             | 0 msgId=@306 queueOffset=2 ..
        at 300
        sendV2 <- d                                             | 0 msgId=@459 queueOffset=3 ..
        search timestamp=0                                      | 0 offset=0
        search timestamp=100                                    | 0 offset=0
        search timestamp=101                                    | 0 offset=1
        search timestamp=200 boundaryType=LOWER                 | 0 offset=1
        search timestamp=301                                    | 0 offset=4
        search timestamp=0 boundaryType=UPPER                   | 0 offset=0
        search timestamp=200 boundaryType=upper                 | 0 offset=2
        search timestamp=299 boundaryType=UPPER                 | 0 offset=2
        search timestamp=301 boundaryType=UPPER                 | 0 offset=3
        search timestamp=9223372036854775807 boundaryType=UPPER | 0 offset=3
        search timestamp=-9223372036854775808                   | 0 offset=0
        search queueId=1                                        | 0 offset=0
    "#]]);
}
