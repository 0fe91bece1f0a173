//! The store against its meaning: a list of messages per queue, on disks that crash and fail.

#![allow(clippy::unwrap_used)]

mod reading;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cometmq_protocol::message::{Record, RecordView};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use cometmq_store::checkpoint::saved_positions;
use cometmq_store::disk::{Chance, Crash, Fault};
use cometmq_store::{AppendError, Disk, FlushPolicy, MemoryDisk, OpenError, Store, StoreOptions, Unit};

use reading::each_record;

const TOPIC: &str = "T";
/// Tags code of `TagA`.
const TAG_A: i64 = 2_598_919;

fn options(flush: FlushPolicy) -> StoreOptions {
    StoreOptions { segment_bytes: 4096, queue_file_bytes: 100, flush, ..StoreOptions::new("/store") }
}

fn open(disk: &MemoryDisk, flush: FlushPolicy) -> Store {
    Store::open(Arc::new(disk.clone()), options(flush)).expect("the store opens").0
}

fn body(queue: i32, number: i64) -> Vec<u8> {
    let length = 10 + (number as usize * 37 + queue as usize * 11) % 600;
    format!("{queue}:{number}:").bytes().chain(std::iter::repeat(b'x')).take(length).collect()
}

/// Appends the next message of a queue and returns where its record ends.
fn append(store: &Store, queue: i32, number: i64) -> Result<LogOffset, AppendError> {
    let body = body(queue, number);
    let host = "127.0.0.1:10911".parse().unwrap();
    let record = Record {
        properties: [b"TAGS\x01TagA\x02", b""],
        ..Record::plain(TOPIC, QueueId(queue), host, &body)
    };
    let queue = store.queue_or_create(&TopicName::parse(TOPIC).unwrap(), QueueId(queue)).unwrap();
    let mut placed = Vec::new();
    store.append(&queue, &[record], &[TAG_A], Millis(1000 + number), &mut placed)?;
    assert_eq!(placed[0].queue_offset, QueueOffset(number), "offsets are dense");
    Ok(placed[0].end)
}

/// Every message of a queue, read through its entries; returns the queue's end.
fn read_all(store: &Store, queue: i32) -> i64 {
    let Some(handle) = store.queue(TOPIC, QueueId(queue)).unwrap() else { return 0 };
    each_record(store, &handle, 32, |record| {
        let number = record.queue_offset.0;
        assert_eq!(record.body, body(queue, number), "queue {queue}, message {number}");
    });
    handle.max().0
}

#[test]
fn how_far_a_busy_log_is_durable_is_noted_without_a_flush() {
    let disk = MemoryDisk::new();
    let options = StoreOptions { segment_bytes: 64 << 20, ..options(FlushPolicy::Async) };
    let store = Store::open(Arc::new(disk.clone()), options).unwrap().0;
    let noted = || saved_positions(&disk, Path::new("/store")).unwrap()[1].1;
    let mut number = 0;
    while store.log().durable().0 < 16 << 20 {
        assert_eq!(noted(), None, "it costs little");
        for _ in 0..10_000 {
            append(&store, 0, number).unwrap();
            number += 1;
        }
        store.write(&mut Vec::new());
        store.sync(&mut Vec::new()).unwrap();
    }
    assert_eq!(noted(), Some(store.log().durable()));
}

#[test]
fn messages_are_found_again_after_a_clean_stop_and_after_a_kill() {
    for clean in [true, false] {
        let disk = MemoryDisk::new();
        let mut next = [0i64; 3];
        for _ in 0..4 {
            let store = open(&disk, FlushPolicy::Async);
            for queue in 0..3 {
                assert_eq!(read_all(&store, queue), next[queue as usize], "clean: {clean}");
            }
            for round in 0..30 {
                let queue = round % 3;
                append(&store, queue, next[queue as usize]).unwrap();
                next[queue as usize] += 1;
                store.write(&mut Vec::new());
            }
            if clean {
                store.close().unwrap();
            }
        }
        assert_eq!(disk.exists(Path::new("/store/abort")).unwrap(), !clean);
    }
}

#[test]
fn a_clean_stop_leaves_nothing_to_scan() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Async);
    for number in 0..50 {
        append(&store, 0, number).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let (_, report) = Store::open(Arc::new(disk.clone()), options(FlushPolicy::Async)).unwrap();
    assert!(report.clean);
    assert_eq!((report.records, report.scanned_from), (0, report.end));
}

#[test]
fn a_second_opener_is_refused_with_the_directory() {
    let disk = MemoryDisk::new();
    let _store = open(&disk, FlushPolicy::Async);
    let error = Store::open(Arc::new(disk.clone()), options(FlushPolicy::Async)).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }));
    assert!(error.to_string().contains("/store is in use"), "{error}");
}

/// Every entry in a queue file has its record in the log: what a power cut leaves is never ahead of it.
fn assert_entries_have_records(disk: &MemoryDisk) {
    let mut log: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
    for file in disk.list(Path::new("/store/commitlog")).unwrap() {
        let mut bytes = vec![0; file.bytes as usize];
        let path = Path::new("/store/commitlog").join(&file.name);
        disk.open(&path, false).unwrap().read_at(&mut bytes, 0).unwrap();
        log.insert(file.name.parse().unwrap(), bytes);
    }
    for queue in 0..3 {
        let directory = format!("/store/consumequeue/{TOPIC}/{queue}");
        for file in disk.list(Path::new(&directory)).unwrap() {
            let mut bytes = vec![0; file.bytes as usize];
            let path = Path::new(&directory).join(&file.name);
            disk.open(&path, false).unwrap().read_at(&mut bytes, 0).unwrap();
            for unit in bytes.as_chunks::<20>().0.iter().filter_map(Unit::decode) {
                let (segment, at) = (unit.log_offset.0 / 4096 * 4096, (unit.log_offset.0 % 4096) as usize);
                let record = RecordView::decode(&log[&segment][at..]).unwrap();
                assert_eq!((record.log_offset, record.queue_id.0), (unit.log_offset, queue));
                record.check_body().unwrap();
            }
        }
    }
}

/// One life of a broker: appends, writes, syncs and flushes as chance has it. Returns what was confirmed per queue.
fn live(store: &Store, chance: &mut Chance, confirmed: &mut BTreeMap<i32, i64>) {
    let mut sent: BTreeMap<i32, i64> = (0..3).map(|queue| (queue, read_all(store, queue))).collect();
    let mut waiting: Vec<(i32, i64, LogOffset)> = Vec::new();
    let mut now = 0;
    for _ in 0..chance.below(60) {
        let mut stopped = false;
        match chance.below(10) {
            0..=5 => {
                let queue = chance.below(3) as i32;
                let number = sent[&queue];
                match append(store, queue, number) {
                    Ok(end) => {
                        waiting.push((queue, number, end));
                        sent.insert(queue, number + 1);
                    }
                    Err(AppendError::ReadOnly(_)) => stopped = true,
                    Err(AppendError::Full(_)) => store.retry_room(),
                    Err(error) => panic!("{error}"),
                }
            }
            6 | 7 => store.write(&mut Vec::new()),
            8 => drop(store.sync(&mut Vec::new())),
            _ if chance.below(3) == 0 => drop(store.flush()),
            _ => {
                // Sometimes long enough for a sync, sometimes for unloading.
                now += [1_000, 10_000, 40_000, 200_000][chance.below(4) as usize];
                drop(store.flush_due(Millis(now)));
            }
        }
        let passed = store.confirmed();
        for (queue, number, _) in waiting.extract_if(.., |(_, _, end)| *end <= passed) {
            confirmed.insert(queue, number + 1);
        }
        if stopped {
            break;
        }
    }
}

/// Whether what was confirmed in one life of a store is there in the next, however it ended: four lives of each seed.
fn assert_confirmed_stays(seeds: u64, flush: FlushPolicy, end: impl Fn(u64, u64) -> Crash) {
    for seed in 0..seeds {
        let mut chance = Chance::of(seed);
        let mut disk = MemoryDisk::new();
        let mut confirmed = BTreeMap::new();
        for life in 0..4 {
            let store = open(&disk, flush);
            for (queue, count) in &confirmed {
                let found = read_all(&store, *queue);
                assert!(found >= *count, "seed {seed}, life {life}, queue {queue}: {found} of {count}");
            }
            live(&store, &mut chance, &mut confirmed);
            drop(store);
            disk = disk.crash(end(seed, life));
            assert_entries_have_records(&disk);
        }
    }
}

#[test]
fn under_sync_flush_nothing_confirmed_is_lost_by_power_cuts() {
    assert_confirmed_stays(1500, FlushPolicy::Sync, |seed, life| Crash::Seeded(seed * 31 + life));
}

#[test]
fn under_async_flush_nothing_confirmed_is_lost_by_kills() {
    assert_confirmed_stays(500, FlushPolicy::Async, |_, _| Crash::KeepAll);
}

#[test]
fn under_async_flush_a_power_cut_loses_a_suffix_only_and_offsets_stay_dense() {
    for seed in 0..500u64 {
        let mut chance = Chance::of(seed);
        let mut disk = MemoryDisk::new();
        for life in 0..4 {
            let store = open(&disk, FlushPolicy::Async);
            live(&store, &mut chance, &mut BTreeMap::new());
            drop(store);
            disk = disk.crash(Crash::Seeded(seed * 17 + life));
            assert_entries_have_records(&disk);
        }
    }
}

#[test]
fn recovering_twice_gives_the_same_store() {
    for seed in 0..200u64 {
        let disk = MemoryDisk::new();
        let store = open(&disk, FlushPolicy::Sync);
        live(&store, &mut Chance::of(seed), &mut BTreeMap::new());
        drop(store);
        let disk = disk.crash(Crash::Seeded(seed));
        let report = |disk: &MemoryDisk| {
            let (store, report) = Store::open(Arc::new(disk.clone()), options(FlushPolicy::Sync)).unwrap();
            (report.end, (0..3).map(|queue| read_all(&store, queue)).collect::<Vec<_>>())
        };
        let first = report(&disk);
        assert_eq!(report(&disk), first, "seed {seed}");
        assert_eq!(report(&disk.crash(Crash::KeepAll)), first, "seed {seed}");
    }
}

#[test]
fn a_start_that_is_killed_anywhere_keeps_no_later_one_from_starting() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Async);
    for number in 0..20 {
        append(&store, 0, number).unwrap();
    }
    store.write(&mut Vec::new());
    store.sync(&mut Vec::new()).unwrap();
    let end = store.log().written().0;
    drop(store);
    // A torn tail, so that there is something to erase.
    let segment = format!("/store/commitlog/{:020}", end / 4096 * 4096);
    let torn = disk.crash(Crash::KeepAll);
    let file = torn.open(Path::new(&segment), false).unwrap();
    file.write_at(&[0, 0, 0, 200, 1], (end % 4096) as u64).unwrap();
    file.sync().unwrap();
    let mut cut_short = 0;
    for n in 1.. {
        let disk = torn.crash(Crash::KeepAll);
        disk.die_at(n);
        let started = Store::open(Arc::new(disk.clone()), options(FlushPolicy::Async)).is_ok();
        for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Seeded(n)] {
            let left = disk.crash(crash);
            let listed = left.list(Path::new("/store/commitlog")).unwrap();
            cut_short += u32::from(listed.iter().any(|entry| entry.bytes > 0 && entry.bytes < 4096));
            assert_eq!(read_all(&open(&left, FlushPolicy::Async), 0), 20, "killed at call {n}, {crash:?}");
        }
        if started {
            break;
        }
    }
    assert!(cut_short > 0, "some kill left a segment that was too short");
}

#[test]
fn whichever_call_fails_nothing_confirmed_is_lost() {
    for fault in [Fault::Io, Fault::Full, Fault::Short] {
        for n in 1..400 {
            let disk = MemoryDisk::new();
            let mut confirmed = BTreeMap::new();
            let store = open(&disk, FlushPolicy::Sync);
            disk.fail_nth(n, fault);
            live(&store, &mut Chance::of(n), &mut confirmed);
            drop(store);
            let store = open(&disk.crash(Crash::LoseAll), FlushPolicy::Sync);
            for (queue, count) in &confirmed {
                assert!(read_all(&store, *queue) >= *count, "{fault:?} at call {n}, queue {queue}");
            }
        }
    }
}

#[test]
fn the_first_failed_sync_makes_the_log_refuse_for_good_while_reading_goes_on() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Sync);
    append(&store, 0, 0).unwrap();
    store.write(&mut Vec::new());
    store.sync(&mut Vec::new()).unwrap();
    append(&store, 0, 1).unwrap();
    store.write(&mut Vec::new());
    disk.fail_nth(1, Fault::Io);
    assert!(store.sync(&mut Vec::new()).is_err());
    assert!(store.sync(&mut Vec::new()).is_err(), "a second sync would succeed and lie");
    assert!(matches!(append(&store, 0, 2), Err(AppendError::ReadOnly(_))));
    assert_eq!(store.confirmed(), LogOffset(store.log().durable().0));
    assert_eq!(read_all(&store, 0), 1);
}

#[test]
fn a_full_disk_refuses_before_it_takes_and_goes_on_when_there_is_room() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Sync);
    append(&store, 0, 0).unwrap();
    store.write(&mut Vec::new());
    let appended = fill_until_refused(&disk, &store, 1);
    assert!(
        matches!(append(&store, 0, appended), Err(AppendError::Full(_))),
        "the disk is not asked again each time"
    );
    store.write(&mut Vec::new());
    store.sync(&mut Vec::new()).unwrap();
    assert_eq!(read_all(&store, 0), appended, "what was taken is confirmed");
    store.retry_room();
    append(&store, 0, appended).unwrap();
    store.write(&mut Vec::new());
    store.sync(&mut Vec::new()).unwrap();
    assert_eq!(read_all(&store, 0), appended + 1);
}

/// Appends from `number` on until the room that is reserved ends and the disk gives no more.
fn fill_until_refused(disk: &MemoryDisk, store: &Store, mut number: i64) -> i64 {
    loop {
        // The next call is the one that asks for room, if there is one.
        disk.fail_nth(1, Fault::Full);
        match append(store, 0, number) {
            Ok(_) => number += 1,
            Err(AppendError::Full(error)) => {
                assert!(error.is_full(), "{error}");
                return number;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn what_a_full_disk_did_not_take_is_written_later_in_order() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Async);
    append(&store, 0, 0).unwrap();
    store.write(&mut Vec::new());
    let confirmed = store.confirmed();
    append(&store, 0, 1).unwrap();
    disk.fail_nth(1, Fault::Full);
    store.write(&mut Vec::new());
    assert!(store.log().full().is_some());
    assert_eq!(store.confirmed(), confirmed, "nothing that was not written is confirmed");
    assert_eq!(read_all(&store, 0), 1);
    store.retry_room();
    assert!(store.log().full().is_none());
    append(&store, 0, 2).unwrap();
    store.write(&mut Vec::new());
    assert_eq!(read_all(&store, 0), 3);
    store.close().unwrap();
    drop(store);
    assert_eq!(read_all(&open(&disk, FlushPolicy::Async), 0), 3);
}

#[test]
fn segments_made_ahead_go_at_an_orderly_stop() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Async);
    let segments = |disk: &MemoryDisk| disk.list(Path::new("/store/commitlog")).unwrap().len();
    let mut number = 0;
    // Beyond half of the first segment the second one is made.
    while segments(&disk) < 2 {
        append(&store, 0, number).unwrap();
        store.write(&mut Vec::new());
        number += 1;
    }
    assert!(store.log().written() < LogOffset(4096));
    store.close().unwrap();
    assert_eq!(segments(&disk), 1);
    drop(store);
    assert_eq!(read_all(&open(&disk, FlushPolicy::Async), 0), number);
}

#[test]
fn queues_whose_files_vanished_are_rebuilt_from_the_log() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Async);
    for number in 0..40 {
        append(&store, (number % 2) as i32, number / 2).unwrap();
    }
    store.close().unwrap();
    drop(store);
    let store = open(&disk, FlushPolicy::Async);
    append(&store, 0, 20).unwrap();
    store.write(&mut Vec::new());
    drop(store);
    for name in disk.list(Path::new("/store/consumequeue/T/0")).unwrap() {
        disk.remove_file(&Path::new("/store/consumequeue/T/0").join(name.name)).unwrap();
    }
    let store = open(&disk, FlushPolicy::Async);
    assert_eq!((read_all(&store, 0), read_all(&store, 1)), (21, 20));
    assert_eq!(store.queue(TOPIC, QueueId(0)).unwrap().unwrap().min(), QueueOffset(0));
}

#[test]
fn a_message_that_fits_no_segment_is_refused() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Async);
    let queue = store.queue_or_create(&TopicName::parse(TOPIC).unwrap(), QueueId(0)).unwrap();
    let body = vec![0; 5000];
    let host = "127.0.0.1:1".parse().unwrap();
    let record = Record { body_crc: 0, ..Record::plain(TOPIC, QueueId(0), host, &body) };
    let refused = store.append(&queue, &[record], &[0], Millis(1), &mut Vec::new());
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
    append(&store, 0, 0).unwrap();
}

#[test]
fn the_offset_of_a_time_is_the_first_message_at_or_after_it() {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Async);
    for number in 0..30 {
        append(&store, 0, number).unwrap();
    }
    store.write(&mut Vec::new());
    let queue = store.queue(TOPIC, QueueId(0)).unwrap().unwrap();
    for (time, offset) in [(0, 0), (1000, 0), (1007, 7), (1029, 29), (1030, 30)] {
        assert_eq!(store.offset_at(&queue, Millis(time)).unwrap(), QueueOffset(offset), "time {time}");
    }
}

/// A store whose log has these queue offsets for one queue, made by forging the records' numbers.
fn forged(offsets: &[i64]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk, FlushPolicy::Async);
    for (number, _) in offsets.iter().enumerate() {
        append(&store, 0, number as i64).unwrap();
        store.write(&mut Vec::new());
    }
    let mut units = Vec::new();
    store.queue(TOPIC, QueueId(0)).unwrap().unwrap().read(QueueOffset(0), offsets.len(), &mut units).unwrap();
    drop(store);
    for (unit, offset) in units.iter().zip(offsets) {
        let (segment, at) = (unit.log_offset.0 / 4096 * 4096, (unit.log_offset.0 % 4096) as u64);
        let file = disk.open(Path::new(&format!("/store/commitlog/{segment:020}")), false).unwrap();
        file.write_at(&offset.to_be_bytes(), at + 20).unwrap();
    }
    disk
}

#[test]
fn a_log_with_odd_queue_offsets_still_opens_with_the_newest_run() {
    for (offsets, min, max) in
        [(&[0, 1, 2, 0, 1][..], 0, 2), (&[0, 1, 5, 6], 5, 7), (&[7, 7, 7], 7, 8), (&[3, 4], 3, 5)]
    {
        let disk = forged(offsets);
        for _ in 0..2 {
            let store = open(&disk, FlushPolicy::Async);
            let queue = store.queue(TOPIC, QueueId(0)).unwrap().unwrap();
            assert_eq!((queue.min().0, queue.max().0), (min, max), "{offsets:?}");
            store.flush().unwrap();
        }
    }
}
