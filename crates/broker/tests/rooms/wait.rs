//! Waiting for the next message: `requests.md` "Long poll".

use std::sync::Arc;

use bytes::BytesMut;
use cometmq_broker::{Broker, Effects, Turn};
use cometmq_protocol::{Header, Millis};
use cometmq_store::{FlushPolicy, MemoryDisk, StoreOptions};
use expect_test::expect;

use crate::direct;
use crate::script::{check, config, frame, frames, peer, store_options};

#[test]
fn a_pull_that_waits_is_answered_once_by_the_next_message() {
    check(expect![[r#"
        create                          | 0, announce
        c2 pull sysFlag=6               | waits #2
        sendV2 <- a                     | 0 msgId=@0 queueOffset=0 ..
                                        | c2: #2 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        sendV2 <- b                     | 0 msgId=@153 queueOffset=1 ..
        at 60000
        c2 pull sysFlag=6 queueOffset=2 | waits #5
        batch <- c;d                    | 0 msgId=@306,@459 queueOffset=2 ..
                                        | c2: #5 0 nextBeginOffset=4 maxOffset=4 .. "FOUND" [2:c 3:d]
        at 120000
    "#]]);
}

#[test]
fn a_pull_waits_only_where_there_is_nothing_yet() {
    check(expect![[r#"
        sendV2 i=TAGS:A <- a                                 | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 .., announce
        pull sysFlag=6                                       | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        pull sysFlag=6 queueOffset=2                         | 21 nextBeginOffset=1 maxOffset=1 .. "OFFSET_OVERFLOW_BADLY"
        pull sysFlag=6 queueOffset=-1                        | 21 nextBeginOffset=0 maxOffset=1 .. "OFFSET_TOO_SMALL"
        pull sysFlag=6 subscription=B                        | 20 nextBeginOffset=1 maxOffset=1 .. "NO_MATCHED_MESSAGE"
        pull sysFlag=4 queueOffset=1                         | 19 nextBeginOffset=1 maxOffset=1 .. "OFFSET_OVERFLOW_ONE"
        pull sysFlag=6 queueOffset=1 suspendTimeoutMillis=0  | 19 nextBeginOffset=1 maxOffset=1 .. "OFFSET_OVERFLOW_ONE"
        pull sysFlag=6 queueOffset=1 suspendTimeoutMillis=-1 | 19 nextBeginOffset=1 maxOffset=1 .. "OFFSET_OVERFLOW_ONE"
        pull sysFlag=6 queueOffset=1                         | waits #9
    "#]]);
}

#[test]
fn messages_that_the_filter_drops_do_not_answer_a_pull_that_waits() {
    check(expect![[r#"
        create                           | 0, announce
        c2 pull sysFlag=6 subscription=A | waits #2
        sendV2 i=TAGS:B <- b             | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 ..
        sendV2 <- none                   | 0 msgId=@191 queueOffset=1 ..
        sendV2 i=TAGS:A <- a             | 0 msgId=@347 queueOffset=2 transactionId=0A000001000100000000000000000001 ..
                                         | c2: #2 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [2:a]
        sendV2 i=TAGS:A <- a             | 0 msgId=@538 queueOffset=3 transactionId=0A000001000100000000000000000002 ..
    "#]]);
}

#[test]
fn a_pull_that_waited_for_nothing_is_told_so_and_need_not_look_at_what_was_dropped_again() {
    check(expect![[r#"
        create                           | 0, announce
        c2 pull sysFlag=6 subscription=A | waits #2
        sendV2 i=TAGS:B <- b             | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 ..
        at 14999
        at 15000                         | c2: #2 19 nextBeginOffset=1 maxOffset=1 .. "OFFSET_OVERFLOW_ONE"
        at 30000
    "#]]);
}

#[test]
fn all_that_wait_for_a_queue_are_answered_and_those_of_other_queues_wait_on() {
    check(expect![[r#"
        create                      | 0, announce
        c2 pull sysFlag=6           | waits #2
        c3 pull sysFlag=6           | waits #3
        c4 pull sysFlag=6 queueId=1 | waits #4
        c5 pull sysFlag=6 consumerGroup=other suspendTimeoutMillis=1000 | waits #5
        sendV2 <- a                 | 0 msgId=@0 queueOffset=0 ..
                                    | c2: #2 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
                                    | c3: #3 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
                                    | c5: #5 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        at 15000                    | c4: #4 19 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
    "#]]);
}

#[test]
fn a_wait_is_as_long_as_asked_up_to_a_minute() {
    check(expect![[r#"
        create                                       | 0, announce
        pull sysFlag=6 suspendTimeoutMillis=99999999 | waits #2
        pull sysFlag=6 suspendTimeoutMillis=1        | waits #3
        at 1                                         | c1: #3 19 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
        at 59999
        at 60000                                     | c1: #2 19 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
    "#]]);
    check(expect![[r#"
        broker longPolling=false
        create                   | 0, announce
        pull sysFlag=6           | waits #2
        at 999
        at 1000                  | c1: #2 19 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
    "#]]);
}

#[test]
fn a_pull_of_a_closed_connection_is_dropped() {
    check(expect![[r#"
        create            | 0, announce
        c2 pull sysFlag=6 | waits #2
        c3 pull sysFlag=6 | waits #3
        c2 gone
        sendV2 <- a       | 0 msgId=@0 queueOffset=0 ..
                          | c3: #3 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
        at 60000
    "#]]);
}

#[test]
fn a_broker_that_stops_answers_all_that_wait() {
    check(expect![[r#"
        create                           | 0, announce
        c2 pull sysFlag=6                | waits #2
        compact pull sysFlag=6 queueId=1 | waits #3
        stopping                         | c1: #3 19 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
                                         | c2: #2 19 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
        at 60000
    "#]]);
}

#[test]
fn a_large_message_for_many_that_wait_is_not_in_memory_for_all_of_them_at_once() {
    const WAITING: u64 = 100;
    let options = StoreOptions { segment_bytes: 16 << 20, ..store_options(FlushPolicy::Async) };
    let (broker, _) = Broker::open(Arc::new(MemoryDisk::new()), options, config(), Millis(0)).unwrap();
    let ask = |connection, name, words: &[&str], body: &str| {
        let (mut out, mut effects) = (BytesMut::new(), Effects::default());
        let mut turn = Turn::new(Millis(0), peer(connection), &mut out);
        broker.handle(&mut turn, &frame(name, words, body, 7), &mut effects).unwrap();
        broker.finish(turn, &mut effects);
        effects
    };
    ask(0, "sendV2", &["e=1"], "");
    for connection in 1..=WAITING {
        let mut effects = ask(connection, "pull", &["sysFlag=6"], "");
        effects.cold.drain(..).for_each(|cold| broker.read_cold(cold, &mut Effects::default()));
    }
    let mut effects = ask(0, "sendV2", &[], "1048576*x");
    let bytes =
        |effects: &Effects| effects.deliveries.iter().map(|delivery| delivery.frames.len()).sum::<usize>();
    assert!((1 << 20..20 << 20).contains(&bytes(&effects)), "{} bytes at once", bytes(&effects));
    let mut answered: Vec<u64> = effects.deliveries.iter().map(|delivery| delivery.connection.0).collect();
    for cold in effects.cold.drain(..) {
        let mut effects = Effects::default();
        broker.read_cold(cold, &mut effects);
        assert!(bytes(&effects) > 1 << 20);
        answered.extend(effects.deliveries.iter().map(|delivery| delivery.connection.0));
    }
    answered.sort_unstable();
    assert!(answered.into_iter().eq(1..=WAITING), "each is answered once");
}

#[test]
fn pulls_that_bring_large_filters_along_wait_while_there_is_memory_for_them() {
    let broker = direct::open(&MemoryDisk::new(), FlushPolicy::Async, 0);
    let ask = |name, words: &[&str]| {
        let (mut out, mut effects) = (BytesMut::new(), Effects::default());
        let mut turn = Turn::new(Millis(0), peer(1), &mut out);
        broker.handle(&mut turn, &frame(name, words, "x", 7), &mut effects).unwrap();
        broker.finish(turn, &mut effects);
        effects.cold.drain(..).for_each(|cold| broker.read_cold(cold, &mut Effects::default()));
        frames(out.freeze()).first().map(|reply| Header::decode(reply).unwrap().code)
    };
    ask("sendV2", &[]);
    let pull = ["queueOffset=1", "sysFlag=6", "subscription=80000*a||"];
    let waiting = (0..200).take_while(|_| ask("pull", &pull).is_none()).count();
    assert!((50..150).contains(&waiting), "{waiting} wait, with 640 KB each at least");
    assert_eq!(ask("pull", &pull), Some(19), "answered at once");
    broker.disconnected(peer(1).connection, &mut Effects::default());
    assert_eq!(ask("pull", &pull), None, "there is room again");
}
