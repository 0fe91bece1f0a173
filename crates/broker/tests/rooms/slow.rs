//! Requests that need the disk, on a thread that must not wait for it.

use std::collections::BTreeMap;

use bytes::BytesMut;
use cometmq_broker::{Broker, Effects, Memory, SlowRequest, Turn};
use cometmq_protocol::{Frame, Header, Millis};
use cometmq_store::{FlushPolicy, MemoryDisk};

use super::direct;
use super::script::{frame, frames, peer};

const NOW: Millis = Millis(7);

fn open(disk: &MemoryDisk) -> Broker {
    direct::open(disk, FlushPolicy::Async, NOW.0)
}

/// The reply to a request on a worker, or the request that waits for the disk.
fn on_worker(broker: &Broker, request: &Frame) -> (Vec<Frame>, Vec<SlowRequest>) {
    on_worker_of(1, broker, request)
}

fn on_worker_of(connection: u64, broker: &Broker, request: &Frame) -> (Vec<Frame>, Vec<SlowRequest>) {
    let (mut out, mut effects) = (BytesMut::new(), Effects::default());
    let mut turn = Turn::on_worker(Memory::default(), NOW, peer(connection), &mut out);
    broker.handle(&mut turn, request, &mut effects).unwrap();
    broker.finish(turn, &mut effects);
    (frames(out.freeze()), effects.slow)
}

/// The reply of a thread that may wait.
fn waiting(broker: &Broker, request: &Frame) -> Vec<Frame> {
    let (mut out, mut effects) = (BytesMut::new(), Effects::default());
    let mut turn = Turn::new(NOW, peer(1), &mut out);
    broker.handle(&mut turn, request, &mut effects).unwrap();
    broker.finish(turn, &mut effects);
    frames(out.freeze())
}

fn later(broker: &Broker, slow: Vec<SlowRequest>) -> Vec<Frame> {
    let mut effects = Effects::default();
    slow.into_iter().for_each(|request| broker.handle_slow(request, NOW, &mut effects));
    assert!(effects.deliveries.iter().all(|delivery| delivery.connection == peer(1).connection));
    effects.deliveries.into_iter().flat_map(|delivery| frames(delivery.frames)).collect()
}

/// A disk with a few messages in one queue, and nothing in memory of it.
fn stored() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let broker = open(&disk);
    for _ in 0..3 {
        assert_eq!(waiting(&broker, &frame("sendV2", &["i=KEYS:K,UNIQ_KEY:U"], "body", 1)).len(), 1);
    }
    broker.close(NOW).unwrap();
    disk
}

/// What is asked, and whether that needs the disk after a start. Each on a broker of its own.
const ASKED: &[(&str, &[&str], bool)] = &[
    ("send", &[], true),
    ("sendV2", &[], true),
    ("batch", &[], true),
    ("sendV2", &["b=New"], true),
    ("sendV2", &["e=99"], false),
    ("byKey", &[], true),
    ("view", &[], true),
    ("query", &[], true),
    ("search", &[], true),
    ("earliest", &[], true),
    ("max", &[], true),
    ("min", &["queueId=1"], true),
    ("max", &["queueId=-1"], false),
    ("create", &["topic=New"], true),
    ("topic", &[], false),
    ("heartbeat", &["group=g"], true),
    ("heartbeat", &["producer=p"], false),
    ("commit", &[], false),
    ("members", &[], false),
];

#[test]
fn a_request_that_needs_the_disk_leaves_the_worker_untouched_and_is_answered_as_it_would_have_been() {
    let stored = stored();
    for (name, words, needs_disk) in ASKED {
        let asked = frame(name, words, "2*x", 1);
        let at_once = waiting(&open(&copy(&stored)), &asked);
        let disk = copy(&stored);
        let broker = open(&disk);
        let (content, calls) = (disk.content(), disk.calls());
        let (now, slow) = on_worker(&broker, &asked);
        assert_eq!(slow.len(), usize::from(*needs_disk), "{name} {words:?}");
        if !needs_disk {
            assert_eq!(now, at_once, "{name} {words:?}");
            continue;
        }
        assert_eq!((now, disk.calls()), (vec![], calls), "{name} {words:?}: the worker asked the disk");
        assert_eq!((disk.content() == content, broker.unanswered()), (true, 1));
        assert_eq!(later(&broker, slow), at_once, "{name} {words:?}");
        assert_eq!(broker.unanswered(), 0);
    }
}

/// The same files on another disk.
fn copy(disk: &MemoryDisk) -> MemoryDisk {
    let copy = MemoryDisk::new();
    let content: BTreeMap<_, _> = disk.content();
    for (path, bytes) in content {
        use cometmq_store::Disk;
        copy.create_directory(path.parent().unwrap()).unwrap();
        copy.open(&path, true).unwrap().write_at(&bytes, 0).unwrap();
    }
    copy
}

#[test]
fn once_it_is_in_memory_nobody_waits_any_more() {
    let broker = open(&stored());
    for (name, words) in [("sendV2", &[][..]), ("sendV2", &["b=New"]), ("heartbeat", &["group=g"])] {
        let asked = frame(name, words, "x", 1);
        let (now, slow) = on_worker(&broker, &asked);
        assert_eq!((now.len(), later(&broker, slow).len()), (0, 1), "{name} {words:?}");
        let (now, slow) = on_worker(&broker, &asked);
        assert_eq!((now.len(), slow.len()), (1, 0), "{name} {words:?}");
    }
    let (now, slow) = on_worker(&broker, &frame("max", &[], "", 1));
    assert_eq!((now.len(), slow.len()), (1, 0));
}

#[test]
fn a_consumer_whose_retry_topic_is_being_made_is_a_member_already() {
    let broker = open(&stored());
    let (_, slow) = on_worker(&broker, &frame("heartbeat", &["group=g"], "", 1));
    let code = |frame: &Frame| Header::decode(frame).unwrap().code;
    let members =
        |broker: &Broker| on_worker(broker, &frame("members", &[], "", 2)).0.iter().map(code).next();
    assert_eq!(members(&broker), Some(0));
    assert_eq!(later(&broker, slow).iter().map(code).collect::<Vec<_>>(), [0]);
    // The connection went meanwhile: the shell says so once more.
    broker.disconnected(peer(1).connection, &mut Effects::default());
    assert_eq!(members(&broker), Some(1));
}

#[test]
fn what_waits_for_the_disk_is_bounded_and_no_connection_has_all_of_it() {
    let broker = open(&stored());
    let asked = frame("sendV2", &[], "1048576*x", 1);
    let mut waiting = Vec::new();
    let refused = loop {
        let (now, slow) = on_worker(&broker, &asked);
        waiting.extend(slow);
        if let Some(refusal) = now.first() {
            break Header::decode(refusal).unwrap().code;
        }
    };
    assert_eq!((refused, waiting.len(), broker.unanswered()), (2, 15, 15), "SYSTEM_BUSY");
    let others = (2..).map(|connection| on_worker_of(connection, &broker, &asked).1);
    waiting.splice(..0, others.take_while(|slow| !slow.is_empty()).flatten());
    assert_eq!(broker.unanswered(), 31);
    // Those of connections that are gone are dropped.
    waiting.pop();
    assert_eq!(on_worker_of(99, &broker, &asked).1.len(), 1);
    drop(waiting);
    assert_eq!(broker.unanswered(), 0);
}
