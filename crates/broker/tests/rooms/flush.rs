//! `SYNC_FLUSH`: nothing is said or shown before it is on the disk.

use std::sync::Arc;

use bytes::BytesMut;
use cometmq_broker::{Broker, Effects, Turn};
use cometmq_protocol::frame::{self, FrameLimits};
use cometmq_protocol::{Header, Millis};
use cometmq_store::disk::Fault;
use cometmq_store::{FlushPolicy, MemoryDisk, StoreOptions};
use expect_test::expect;

use crate::direct::{ask, handle, open};
use crate::scene_disk::SceneDisk;
use crate::script::{check, config, frame, frames, peer, store_options};

#[test]
fn a_send_is_answered_and_its_message_seen_after_the_sync() {
    check(expect![[r#"
        broker flush=sync
        create            | 0, announce
        c2 pull sysFlag=6 | waits #2
        sendV2 <- a       | waits #3, sync wanted
        c3 sendV2 <- b    | waits #4, sync wanted
        pull              | 19 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
        max               | 0 offset=0
        sync              | c1: #3 0 msgId=@0 queueOffset=0 ..
                          | c2: #2 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:b]
                          | c3: #4 0 msgId=@153 queueOffset=1 ..
        pull              | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:b]
        sync
    "#]]);
}

#[test]
fn a_send_that_the_disk_did_not_confirm_in_time_is_stored_not_flushed_and_told_once() {
    check(expect![[r#"
        broker flush=sync
        create              | 0, announce
        sendV2 <- a         | waits #2, sync wanted
        at 3000
        compact sendV2 <- b | waits #3, sync wanted
        at 5000
        at 5001             | c1: #2 10 msgId=@0 queueOffset=0 ..
        at 8001             | c1: #3 10 msgId=@153 queueOffset=1 ..
        sync
        pull                | 0 nextBeginOffset=2 maxOffset=2 .. "FOUND" [0:a 1:b]
    "#]]);
}

#[test]
fn after_a_failed_sync_nothing_is_confirmed_any_more_and_what_was_is_still_read() {
    check(expect![[r#"
        broker flush=sync
        create                   | 0, announce
        sendV2 <- kept           | waits #2, sync wanted
        sync                     | c1: #2 0 msgId=@0 queueOffset=0 ..
        sendV2 <- lost           | waits #3, sync wanted
        c2 sendV2 e=1 <- lost    | waits #4, sync wanted
        fail 1
        sync                     | cannot sync /s/commitlog/00000000000000000000: injected fault
                                 | c1: #3 14 msgId=@156 queueOffset=1 .. "service not available now. the message was not confirmed: cannot sync /s/commitlog/00000000000000000000: injected fault"
                                 | c2: #4 14 msgId=@312 queueId=1 queueOffset=0 .. "service not available now. the message was not confirmed: cannot sync /s/commitlog/00000000000000000000: injected fault"
        sendV2 <- refused        | 14 .. "service not available now. the commit log is read-only since cannot sync /s/commitlog/00000000000000000000: injected fault; free or replace the disk and restart the broker"
        sync                     | cannot sync /s/commitlog/00000000000000000000: injected fault
        batch <- refused;refused | 14 .. "service not available now. the commit log is read-only since cannot sync /s/commitlog/00000000000000000000: injected fault; free or replace the disk and restart the broker"
        oneway sendV2 <- refused
        pull                     | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:kept]
        pull queueId=1           | 19 nextBeginOffset=0 maxOffset=0 .. "NO_MESSAGE_IN_QUEUE"
        commit                   | 0
        at 60000
        power cut
        pull                     | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:kept]
        sendV2 <- again          | waits #12, sync wanted
        sync                     | c1: #12 0 msgId=@156 queueOffset=1 ..
    "#]]);
}

#[test]
fn under_async_flush_a_failed_write_is_told_and_final() {
    check(expect![[r#"
        create            | 0, announce
        sendV2 <- kept    | 0 msgId=@0 queueOffset=0 ..
        fail 1
        sendV2 <- lost    | c1: #3 14 msgId=@156 queueOffset=1 .. "service not available now. the message was not confirmed: cannot write to /s/commitlog/00000000000000000000: injected fault"
        sendV2 <- refused | 14 .. "service not available now. the commit log is read-only since cannot write to /s/commitlog/00000000000000000000: injected fault; free or replace the disk and restart the broker"
        pull              | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:kept]
        max               | 0 offset=1
        kill
        pull              | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:kept]
        sendV2 <- again   | 0 msgId=@156 queueOffset=1 ..
    "#]]);
}

#[test]
fn a_one_way_send_is_seen_after_the_next_sync() {
    check(expect![[r#"
        broker flush=sync
        create             | 0, announce
        c2 pull sysFlag=6  | waits #2
        oneway sendV2 <- a
        sync               | c2: #2 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
    "#]]);
}

#[test]
fn what_waits_for_the_disk_is_answered_when_the_broker_stops_in_order() {
    check(expect![[r#"
        broker flush=sync
        create            | 0, announce
        sendV2 <- a       | waits #2, sync wanted
        stopping
        sync              | c1: #2 0 msgId=@0 queueOffset=0 ..
        stop
        pull              | 0 nextBeginOffset=1 maxOffset=1 .. "FOUND" [0:a]
    "#]]);
}

#[test]
fn a_full_disk_refuses_sends_and_goes_on_by_itself() {
    check(expect![[r#"
        send queueId=0 <- one                      | 0 msgId=@0 queueOffset=0 .., announce
        full 1
        send queueId=0 <- refused, and written once there is room | c1: #2 14 msgId=@155 queueOffset=1 .. "service not available now. the message was not confirmed: cannot write to /s/commitlog/00000000000000000000: injected fault; make room: the broker goes on by itself, and stores the message then"
        send queueId=0 <- taken, for there is room | 0 msgId=@346 queueOffset=2 ..
        pull                                       | 0 nextBeginOffset=3 maxOffset=3 .. "FOUND" [0:one 1:refused, and written once there is room 2:taken, for there is room]
        at 100
        send queueId=0 <- two                      | 0 msgId=@522 queueOffset=3 ..
        pull                                       | 0 nextBeginOffset=4 maxOffset=4 .. "FOUND" [0:one 1:refused, and written once there is room 2:taken, for there is room 3:two]
    "#]]);
}

/// The reply to a large batch names each of its messages, and its header is longer than that of a request may be.
#[test]
fn the_reply_to_a_large_batch_and_those_behind_it_are_given_also_when_the_disk_fails() {
    let disk = MemoryDisk::new();
    let options = StoreOptions { segment_bytes: 16 << 20, ..store_options(FlushPolicy::Sync) };
    let (broker, _) = Broker::open(Arc::new(disk.clone()), options, config(), Millis(0)).unwrap();
    let (mut out, mut effects) = (BytesMut::new(), Effects::default());
    let mut turn = Turn::new(Millis(0), peer(1), &mut out);
    for request in [
        frame("sendV2", &[], "one", 1),
        frame("batch", &[], &"x;".repeat(10_000), 2),
        frame("sendV2", &[], "last", 3),
    ] {
        broker.handle(&mut turn, &request, &mut effects).unwrap();
    }
    broker.finish(turn, &mut effects);
    assert!(out.is_empty() && effects.deliveries.is_empty());
    disk.fail_nth(1, Fault::Io);
    broker.sync(&mut effects).unwrap_err();
    let mut replies: BytesMut =
        effects.deliveries.iter().flat_map(|delivery| delivery.frames.clone()).collect();
    let limits = FrameLimits { header_bytes_max: 16 << 20, ..FrameLimits::default() };
    for opaque in 1..=3 {
        let reply = frame::cut(&mut replies, limits).unwrap().expect("a reply to each");
        let header = Header::decode(&reply).unwrap();
        assert_eq!((header.opaque, header.code), (opaque, 14));
    }
    assert!(replies.is_empty());
}

#[test]
fn those_whose_time_is_over_are_told_while_the_disk_hangs() {
    let (disk, hangs) = (MemoryDisk::new(), Arc::default());
    let disk = SceneDisk { disk, resident: true, bad: Vec::new(), hangs: Arc::clone(&hangs) };
    let broker = open(&disk, FlushPolicy::Sync, 0);
    let mut effects = Effects::default();
    for request in ["create", "commit"] {
        ask(&broker, 0, request, &[], "", &mut effects);
    }
    for (opaque, (request, words)) in [("pull", ["sysFlag=7"]), ("sendV2", ["e=1"])].into_iter().enumerate() {
        let request = frame(request, &words, "", opaque as i32);
        assert!(handle(&broker, 0, 1, &request, &mut effects).unwrap().is_none());
    }
    effects.cold.drain(..).for_each(|cold| broker.read_cold(cold, &mut Effects::default()));
    let hanging = hangs.write().unwrap();
    std::thread::scope(|scope| {
        let saving = scope.spawn(|| broker.save_due(Millis(20_000)));
        let mut effects = Effects::default();
        broker.expire(Millis(20_000), &mut effects);
        let told = effects.deliveries.into_iter().flat_map(|delivery| frames(delivery.frames));
        let told: Vec<_> =
            told.map(|told| Header::decode(&told).map(|header| (header.opaque, header.code))).collect();
        assert!(matches!(told[..], [Ok((0, 19)), Ok((1, 10))]), "{told:?}");
        assert!(!saving.is_finished(), "it has something to save");
        drop(hanging);
    });
}
