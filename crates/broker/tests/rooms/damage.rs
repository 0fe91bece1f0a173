//! Disks that give back other bytes than they were given, or none, or late.

use std::sync::Arc;

use cometmq_broker::{Broker, Effects};
use cometmq_protocol::{Header, Millis};
use cometmq_store::{FlushPolicy, MemoryDisk, StoreOptions};
use expect_test::expect;

use crate::direct::{ask, handle, open};
use crate::scene_disk::SceneDisk;
use crate::script::{check, config, frame, frames, store_options};

/// Messages of 5000 bytes, each in blocks of its own but for its ends.
#[test]
fn a_damaged_message_is_never_delivered_while_its_neighbours_are() {
    check(expect![[r#"
        sendV2 <- 5000*a                                   | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 <- 5000*b                                   | 0 msgId=@5152 queueOffset=1 ..
        sendV2 <- 9000*c                                   | 0 msgId=@10304 queueOffset=2 ..
        sendV2 <- 5000*d                                   | 0 msgId=@19456 queueOffset=3 ..
        stop
        flip 15000 3 255 <- commitlog/00000000000000000000
        pull                                               | 0 nextBeginOffset=2 maxOffset=4 .. "FOUND" [0:5000*a 1:5000*b]
        cold
        pull queueOffset=2                                 | waits #6, cold c1
        cold                                               | c1: #6 0 nextBeginOffset=4 maxOffset=4 .. "FOUND" [3:5000*d]
        pull queueOffset=2 maxMsgNums=1                    | waits #7, cold c1
        cold                                               | c1: #7 20 nextBeginOffset=3 maxOffset=4 .. "MESSAGE_DAMAGED"
        pull queueOffset=3                                 | 0 nextBeginOffset=4 maxOffset=4 .. "FOUND" [3:5000*d]
        cold
        flip 19500 3 255 <- commitlog/00000000000000000000
        stop
        pull                                               | 0 nextBeginOffset=2 maxOffset=4 .. "FOUND" [0:5000*a 1:5000*b]
        cold
        stop
        pull                                               | 0 nextBeginOffset=2 maxOffset=4 .. "FOUND" [0:5000*a 1:5000*b]
        cold
    "#]]);
}

#[test]
fn one_flipped_bit_is_turned_back_wherever_it_is() {
    check(expect![[r#"
        sendV2 i=TAGS:A <- a                           | 0 msgId=@0 queueOffset=0 transactionId=0A000001000100000000000000000000 .., announce
        sendV2 <- b                                    | 0 msgId=@191 queueOffset=1 ..
        stop
        flip 45 1 16 <- commitlog/00000000000000000000
        pull                                           | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:b]
        stop
        flip 45 1 16 <- commitlog/00000000000000000000
        flip 100 1 1 <- commitlog/00000000000000000000
        pull                                           | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:b]
        sendV2 <- c                                    | 0 msgId=@344 queueOffset=2 ..
        stop
        pull                                           | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [0:a 1:b 2:c]
    "#]]);
}

#[test]
fn a_queue_entry_that_points_elsewhere_delivers_nothing_of_another_queue() {
    check(expect![[r#"
        sendV2 <- a                                           | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 e=1 <- b                                       | 0 msgId=@153 queueId=1 queueOffset=0 ..
        sendV2 <- c                                           | 0 msgId=@306 queueOffset=1 ..
        stop
        flip 7 1 153 <- consumequeue/T/1/00000000000000000000
        pull queueId=1                                        | waits #4, cold c1
        cold                                                  | c1: #4 20 nextBeginOffset=0 maxOffset=1 .. "MESSAGE_DAMAGED"
        pull queueId=1                                        | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:b]
        pull                                                  | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:c]
        stop
        flip 7 1 153 <- consumequeue/T/0/00000000000000000000
        flip 8 1 128 <- commitlog/00000000000000000000
        flip 12 1 128 <- commitlog/00000000000000000000
        pull                                                  | waits #7, cold c1
        cold                                                  | c1: #7 20 nextBeginOffset=2 maxOffset=2 .. "MESSAGE_DAMAGED"
        pull queueOffset=1                                    | waits #8, cold c1
    "#]]);
}

#[test]
fn what_is_stored_behind_damage_is_delivered_also_when_it_shares_a_block() {
    check(expect![[r#"
        sendV2 <- a                                     | 0 msgId=@0 queueOffset=0 .., announce
        stop
        flip 20 3 255 <- commitlog/00000000000000000000
        stop
        sendV2 <- b                                     | 0 msgId=@153 queueOffset=1 ..
        stop
        pull                                            | waits #3, cold c1
        cold                                            | c1: #3 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [1:b]
    "#]]);
}

#[test]
fn one_bad_sector_stops_no_queue_and_a_disk_that_is_gone_skips_nothing() {
    check(expect![[r#"
        sendV2 <- 5000*a                               | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 <- 9000*b                               | 0 msgId=@5152 queueOffset=1 ..
        sendV2 <- 5000*c                               | 0 msgId=@14304 queueOffset=2 ..
        bad 8192 512 <- commitlog/00000000000000000000
        stop
        pull                                           | 0 nextBeginOffset=1 maxOffset=3 .. "FOUND" [0:5000*a]
        cold
        pull queueOffset=1                             | waits #5, cold c1
        cold                                           | c1: #5 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [2:5000*c]
        pull queueOffset=1 maxMsgNums=1                | waits #6, cold c1
        cold                                           | c1: #6 20 nextBeginOffset=2 maxOffset=3 .. "MESSAGE_DAMAGED"
        pull queueOffset=2                             | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [2:5000*c]
        cold
        bad 0 16384 <- commitlog/00000000000000000000
        stop
        pull                                           | waits #8, cold c1
        cold                                           | c1: #8 1 "message at queue offset 0 cannot be read: cannot read /s/commitlog/00000000000000000000: bad sector"
    "#]]);
}

#[test]
fn what_only_the_disk_has_is_read_by_the_shell() {
    check(expect![[r#"
        broker resident=false
        sendV2 <- a                     | 0 msgId=@0 queueOffset=0 .., announce
        sendV2 <- b                     | 0 msgId=@153 queueOffset=1 ..
        pull                            | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:b]
        stop
        pull                            | waits #4, cold c1
        c2 pull queueOffset=1 sysFlag=6 | waits #5, cold c2
        c3 pull queueOffset=2 sysFlag=6 | waits #6, cold c3
        cold                            | c1: #4 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:b]
                                        | c2: #5 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [1:b]
        sendV2 <- c                     | 0 msgId=@306 queueOffset=2 ..
                                        | c3: #6 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [2:c]
        pull queueOffset=2              | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [2:c]
    "#]]);
}

/// A backlog of two small messages, and 69 MiB behind them.
#[test]
fn while_old_messages_give_way_their_pulls_leave_the_worker_and_get_the_same_answer() {
    let disk = SceneDisk { disk: MemoryDisk::new(), resident: false, bad: Vec::new(), hangs: Arc::default() };
    let options = StoreOptions { segment_bytes: 8 << 20, ..store_options(FlushPolicy::Async) };
    let broker = Broker::open(Arc::new(disk), options, config(), Millis(0)).unwrap().0;
    for body in ["a", "b"].into_iter().chain(["3145728*x"; 23]) {
        assert_eq!(ask(&broker, 0, "sendV2", &[], body, &mut Effects::default()).unwrap().code, 0);
    }
    let pull = |offset: &str| {
        let mut effects = Effects::default();
        let at_once = ask(&broker, 0, "pull", &["maxMsgNums=1", offset], "", &mut effects);
        let mut answers = Effects::default();
        effects.cold.into_iter().for_each(|cold| broker.read_cold(cold, &mut answers));
        let late = answers.deliveries.into_iter().flat_map(|delivery| frames(delivery.frames));
        (at_once.map(|answer| answer.code), late.map(|frame| Header::decode(&frame).unwrap().code).next())
    };
    let (at_once, late) = ((Some(0), None), (None, Some(0)));
    broker.hold_old_pulls(true);
    assert_eq!(pull("queueOffset=24"), at_once, "new messages are not held");
    broker.hold_old_pulls(false);
    assert_eq!(pull("queueOffset=0"), late);
    // What is wanted again and again is kept in memory.
    pull("queueOffset=0");
    assert_eq!(pull("queueOffset=0"), at_once);
    broker.hold_old_pulls(true);
    assert_eq!(["queueOffset=0", "queueOffset=1", "queueOffset=24"].map(pull), [late, late, at_once]);
    broker.hold_old_pulls(false);
    assert_eq!(pull("queueOffset=1"), at_once);
}

#[test]
fn too_many_pulls_that_wait_for_the_disk_are_refused_until_some_are_answered() {
    let disk = SceneDisk { disk: MemoryDisk::new(), resident: false, bad: Vec::new(), hangs: Arc::default() };
    let broker = open(&disk, FlushPolicy::Async, 0);
    assert_eq!(ask(&broker, 0, "sendV2", &[], "x", &mut Effects::default()).unwrap().code, 0);
    broker.close(Millis(0)).unwrap();
    drop(broker);
    let (broker, mut effects) = (open(&disk, FlushPolicy::Async, 0), Effects::default());
    for _ in 0..2048 {
        assert!(ask(&broker, 0, "pull", &[], "", &mut effects).is_none());
    }
    let refused = ask(&broker, 0, "pull", &["sysFlag=5", "commitOffset=1"], "", &mut effects);
    assert_eq!(refused.unwrap().code, 215, "FLOW_CONTROL");
    let standing = ask(&broker, 0, "query", &[], "", &mut effects).unwrap();
    assert_eq!((standing.code, standing.offset), (0, Some(1)), "what the refused pull committed");
    let mut other = || handle(&broker, 0, 2, &frame("pull", &[], "", 7), &mut effects).unwrap();
    assert!(other().is_none(), "another connection is not refused for that");
    let mut answers = Effects::default();
    broker.read_cold(effects.cold.pop().unwrap(), &mut answers);
    assert_eq!((answers.deliveries.len(), broker.cold_pulls()), (1, 2048));
    // Those of connections that are gone are dropped.
    drop(effects);
    assert_eq!(broker.cold_pulls(), 0);
}
