//! Losses that users of RocketMQ reported, each with the rule that makes it impossible here.

#![allow(clippy::unwrap_used)]

mod reading;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::message::Record;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId};
use cometmq_store::disk::{Crash, Fault};
use cometmq_store::{Disk, MemoryDisk, OpenError, Store, StoreOptions};

use reading::each_record;

const QUEUES: i64 = 3;

fn options(segment_bytes: i64) -> StoreOptions {
    StoreOptions { segment_bytes, queue_file_bytes: 100, ..StoreOptions::new("/store") }
}

fn try_open(disk: &MemoryDisk, segment_bytes: i64) -> Result<Store, OpenError> {
    Store::open(Arc::new(disk.clone()), options(segment_bytes)).map(|(store, _)| store)
}

fn open(disk: &MemoryDisk) -> Store {
    try_open(disk, 4096).unwrap()
}

fn body(number: i64) -> Vec<u8> {
    format!("{number}:")
        .bytes()
        .chain(std::iter::repeat(b'x'))
        .take(10 + number as usize * 37 % 600)
        .collect()
}

/// Appends message `number`, which goes to the queues in turn; false when it was refused.
fn append(store: &Store, number: i64) -> bool {
    let host = "127.0.0.1:10911".parse().unwrap();
    let id = QueueId((number % QUEUES) as i32);
    let body = body(number);
    let record = Record::plain("T", id, host, &body);
    let Ok(queue) = store.queue_or_create(&TopicName::parse("T").unwrap(), id) else { return false };
    let mut placed = Vec::new();
    let appended = store.append(&queue, &[record], &[0], Millis(1000 + number), &mut placed);
    assert!(appended.is_err() || placed[0].queue_offset.0 == number / QUEUES, "offsets are dense");
    appended.is_ok()
}

/// How many messages there are, in the order in which they were appended, each found through its queue.
fn count(store: &Store) -> i64 {
    let mut ends = Vec::new();
    for id in 0..QUEUES {
        let Some(queue) = store.queue("T", QueueId(id as i32)).unwrap() else {
            ends.push(0);
            continue;
        };
        assert_eq!(queue.min().0, 0, "nothing was deleted");
        each_record(store, &queue, 1 << 20, |record| {
            assert_eq!(record.body, body(record.queue_offset.0 * QUEUES + id));
        });
        ends.push(queue.max().0);
    }
    let total: i64 = ends.iter().sum();
    let expected: Vec<i64> = (0..QUEUES).map(|id| (total + QUEUES - 1 - id) / QUEUES).collect();
    assert_eq!(ends, expected, "what is there is what came first");
    total
}

/// #467, #501: after an abnormal stop, messages that were not dispatched yet never came into their queue.
#[test]
fn rocketmq_467_and_501_what_was_not_dispatched_when_the_broker_was_killed_is_found() {
    for n in 1..=50 {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        disk.fail_nth(n, Fault::Io);
        let mut confirmed = 0;
        for number in 0..40 {
            if !append(&store, number) {
                break;
            }
            if number % 3 == 0 {
                store.write(&mut Vec::new());
            }
            let _ = (number % 5 == 0).then(|| store.sync(&mut Vec::new()));
            let _ = (number % 7 == 0).then(|| store.flush_due(Millis(number * 1000)));
            if store.confirmed() == store.log().written()
                && number % 3 == 0
                && store.log().failure().is_none()
            {
                confirmed = number + 1;
            }
        }
        drop(store);
        let disk = disk.crash(Crash::KeepAll);
        let found = count(&open(&disk));
        assert!(found >= confirmed, "call {n}: {found} of {confirmed}");
        assert_eq!(count(&open(&disk)), found);
    }
}

/// #1434: recovery looked at the last good file only, and lost the tail of the one before.
#[test]
fn rocketmq_1434_a_crash_beside_the_end_of_a_file_loses_neither_side() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let mut rolls = 0;
    let mut before = 0;
    for number in 0..120 {
        assert!(append(&store, number));
        store.write(&mut Vec::new());
        store.sync(&mut Vec::new()).unwrap();
        let segment = store.log().written().0 / 4096;
        rolls += i32::from(segment != before);
        before = segment;
        if number % 4 == 0 {
            store.flush_due(Millis(number * 1000)).unwrap();
        }
        // Every place there is, those within three records of a roll among them.
        for crash in [Crash::KeepAll, Crash::LoseAll] {
            assert_eq!(count(&open(&disk.crash(crash))), number + 1, "{crash:?} after message {number}");
        }
    }
    assert!(rolls > 8, "{rolls} rolls");
}

/// Puts what `from` has below `directory` into `to` in place of what is there.
fn replace(directory: &Path, from: &MemoryDisk, to: &MemoryDisk) {
    for entry in to.list(directory).unwrap() {
        let path = directory.join(&entry.name);
        if entry.is_directory {
            replace(&path, from, to);
            continue;
        }
        if !from.exists(&path).unwrap() {
            to.remove_file(&path).unwrap();
            continue;
        }
        let (source, target) = (from.open(&path, false).unwrap(), to.open(&path, false).unwrap());
        let mut bytes = vec![0; source.len().unwrap() as usize];
        source.read_at(&mut bytes, 0).unwrap();
        target.set_len(0).unwrap();
        target.write_at(&bytes, 0).unwrap();
    }
}

/// #678: the flush of one derived store moved the checkpoint of all past what another had not flushed.
#[test]
fn rocketmq_678_no_store_vouches_for_another() {
    for seed in 0..60 {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        let mut synced = 0;
        for number in 0..60 {
            assert!(append(&store, number));
            store.write(&mut Vec::new());
            if (number * 7 + seed) % 11 == 0 {
                store.sync(&mut Vec::new()).unwrap();
                synced = number + 1;
            }
            if (number * 5 + seed) % 13 == 0 {
                store.flush_due(Millis(number * 4_000)).unwrap();
            }
        }
        drop(store);
        // Only the queues' unsynced writes are lost; then only the log's; then those of both, but not the positions'.
        for (lost, expected) in
            [(&["consumequeue"][..], 60), (&["commitlog"], synced), (&["consumequeue", "commitlog"], synced)]
        {
            let (kept, gone) = (disk.crash(Crash::KeepAll), disk.crash(Crash::LoseAll));
            lost.iter().for_each(|name| replace(&Path::new("/store").join(name), &gone, &kept));
            let found = count(&open(&kept));
            assert!(found >= expected, "seed {seed}, lost {lost:?}: {found} of {expected}");
        }
    }
}

/// #495: a second abnormal stop left queue offsets that did not match the log.
#[test]
fn rocketmq_495_two_hundred_crashes_while_recovering_change_nothing() {
    let mut disk = MemoryDisk::new();
    let store = open(&disk);
    for number in 0..50 {
        assert!(append(&store, number));
        store.write(&mut Vec::new());
        if number == 20 {
            store.sync(&mut Vec::new()).unwrap();
            store.flush().unwrap();
        }
        if number == 35 {
            store.sync(&mut Vec::new()).unwrap();
            store.flush_due(Millis(1000)).unwrap();
        }
    }
    drop(store);
    let mut refused = 0;
    for crash in 1..=200 {
        disk = disk.crash(Crash::KeepAll);
        disk.fail_nth(crash % 40 + 1, Fault::Io);
        match try_open(&disk, 4096) {
            Ok(store) => drop(store.flush()),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 50, "{refused} starts failed");
    let disk = disk.crash(Crash::KeepAll);
    assert_eq!(count(&open(&disk)), 50);
    let files = |disk: &MemoryDisk| -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        for id in 0..QUEUES {
            let directory = PathBuf::from(format!("/store/consumequeue/T/{id}"));
            for entry in disk.list(&directory).unwrap() {
                let path = directory.join(entry.name);
                let mut bytes = vec![0; entry.bytes as usize];
                disk.open(&path, false).unwrap().read_at(&mut bytes, 0).unwrap();
                files.push((path, bytes));
            }
        }
        files
    };
    // recover(recover(x)) is recover(x), to the byte.
    let recover = |disk: &MemoryDisk| {
        let store = open(disk);
        store.sync(&mut Vec::new()).unwrap();
        store.flush().unwrap();
        drop(store);
        disk.crash(Crash::KeepAll)
    };
    let once = recover(&disk);
    assert_eq!(files(&recover(&once)), files(&once));
}

/// #7355, #6609: queues were built past the confirmed part, from blocks of zeros.
#[test]
fn rocketmq_7355_and_6609_no_queue_is_built_from_what_is_no_record() {
    const SEGMENT: i64 = 4 << 20;
    let fillings = [("zeros", 0), ("garbage", 131)];
    for kib in [4, 16, 64, 256, 1024] {
        for (what, factor) in fillings {
            let disk = MemoryDisk::new();
            let store = try_open(&disk, SEGMENT).unwrap();
            let mut number = 0;
            while store.log().written().0 < 1536 << 10 {
                assert!(append(&store, number));
                store.write(&mut Vec::new());
                number += 1;
            }
            let end = store.log().written().0;
            drop(store);
            let disk = disk.crash(Crash::KeepAll);
            let log = disk.open(Path::new("/store/commitlog/00000000000000000000"), false).unwrap();
            let filling: Vec<u8> = (0..kib << 10).map(|n| (n * factor + n / 7 * factor) as u8).collect();
            log.write_at(&filling, (end - (kib << 10) as i64) as u64).unwrap();
            let store = try_open(&disk, SEGMENT).unwrap();
            let found = count(&store);
            assert!(found < number && store.log().written() <= LogOffset(end - (kib << 10) as i64), "{what}");
            assert!(append(&store, found), "the next message takes the first number that is free");
            store.write(&mut Vec::new());
            assert_eq!(count(&store), found + 1, "{kib} KiB of {what}");
        }
    }
}

/// #4771, the store's part: what a truncated log took is known as such, whatever comes later.
#[test]
fn rocketmq_4771_messages_after_a_truncation_are_told_from_those_before() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    (0..30).for_each(|number| assert!(append(&store, number)));
    store.write(&mut Vec::new());
    store.sync(&mut Vec::new()).unwrap();
    (30..60).for_each(|number| assert!(append(&store, number)));
    store.write(&mut Vec::new());
    drop(store);
    let disk = disk.crash(Crash::LoseAll);
    let store = open(&disk);
    let end = store.opened_at();
    assert_eq!(count(&store), 30);
    (30..90).for_each(|number| assert!(append(&store, number)));
    store.write(&mut Vec::new());
    for id in 0..QUEUES {
        let queue = store.queue("T", QueueId(id as i32)).unwrap().unwrap();
        assert_eq!((store.end_before(&queue, end).unwrap().0, queue.max().0), (10, 30));
        assert_eq!(store.end_before(&queue, store.log().written()).unwrap().0, 30);
        assert_eq!(store.end_before(&queue, LogOffset(0)).unwrap().0, 0);
    }
}
