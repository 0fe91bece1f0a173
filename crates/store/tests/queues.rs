//! Queues that are loaded when they are asked for: what opening costs, what is believed, and what is forgotten.

#![allow(clippy::unwrap_used)]

mod reading;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::message::Record;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use cometmq_store::disk::{Crash, Fault};
use cometmq_store::{Disk, FlushPolicy, MemoryDisk, Queue, Store, StoreOptions, Unit};

use reading::each_record;

/// How an opening may differ by where in a block the log ends.
const CALLS_MORE_OR_LESS: u64 = 8;
/// Twenty entries.
const QUEUE_FILE_BYTES: i64 = 400;

fn options(flush: FlushPolicy) -> StoreOptions {
    StoreOptions {
        segment_bytes: 4096,
        queue_file_bytes: QUEUE_FILE_BYTES,
        flush,
        ..StoreOptions::new("/store")
    }
}

fn open(disk: &MemoryDisk) -> Store {
    Store::open(Arc::new(disk.clone()), options(FlushPolicy::Async)).unwrap().0
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

/// Appends a message, and returns its offset and where its record ends.
fn append(store: &Store, name: &str, id: i32) -> (i64, LogOffset) {
    let queue = store.queue_or_create(&topic(name), QueueId(id)).unwrap();
    append_to(store, &queue)
}

fn append_to(store: &Store, queue: &Arc<Queue>) -> (i64, LogOffset) {
    let host = "127.0.0.1:10911".parse().unwrap();
    let body = format!("{}/{}", queue.topic(), queue.id());
    let record = Record::plain(queue.topic().as_str(), queue.id(), host, body.as_bytes());
    let mut placed = Vec::new();
    store.append(queue, &[record], &[0], Millis(1000), &mut placed).unwrap();
    store.write(&mut Vec::new());
    (placed[0].queue_offset.0, placed[0].end)
}

/// The messages of a queue, each of them read.
fn count(store: &Store, name: &str, id: i32) -> i64 {
    let Some(queue) = store.queue(name, QueueId(id)).unwrap() else { return 0 };
    each_record(store, &queue, 7, |_| {});
    queue.max().0
}

fn queue_file(name: &str, id: i32, base: i64) -> PathBuf {
    PathBuf::from(format!("/store/consumequeue/{name}/{id}/{base:020}"))
}

/// A store closed in order with so many queues, each with so many messages.
fn filled(queues: i32, messages: i32) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    for _ in 0..messages {
        for id in 0..queues {
            append(&store, "T", id);
        }
    }
    store.close().unwrap();
    disk
}

#[test]
fn opening_costs_the_same_however_many_queues_and_messages_there_are() {
    let cost = |disk: &MemoryDisk| {
        let before = disk.calls();
        let (store, report) = Store::open(Arc::new(disk.clone()), options(FlushPolicy::Async)).unwrap();
        (disk.calls() - before, report.records, report.queues, store.loaded_queues())
    };
    let (small, large) = (filled(2, 3), filled(400, 5));
    let segments = |disk: &MemoryDisk| disk.list(Path::new("/store/commitlog")).unwrap().len();
    assert!(segments(&small) == 1 && segments(&large) > 40);
    let alike = |small: u64, large: u64| small.abs_diff(large) <= CALLS_MORE_OR_LESS;
    let (small_calls, ..) = cost(&small);
    let (calls, records, queues, loaded) = cost(&large);
    assert!(alike(small_calls, calls), "{small_calls} and {calls} calls after a clean stop");
    assert_eq!((records, queues, loaded), (0, 0, 0));
    // After a kill what was added since counts, and nothing else.
    for disk in [&small, &large] {
        let store = open(disk);
        store.flush().unwrap();
        append(&store, "T", 1);
        append(&store, "New", 0);
    }
    let (small_calls, records, queues, loaded) = cost(&small);
    assert_eq!((records, queues, loaded), (2, 2, 2));
    let (calls, records, queues, loaded) = cost(&large);
    assert_eq!((records, queues, loaded), (2, 2, 2));
    assert!(alike(small_calls, calls), "{small_calls} and {calls} calls after a kill");
    let store = open(&large);
    assert_eq!((count(&store, "T", 1), count(&store, "T", 399)), (6, 5));
}

#[test]
fn an_error_while_a_queue_is_loaded_never_makes_its_offsets_start_over() {
    for n in 1.. {
        let disk = filled(1, 30);
        let store = open(&disk);
        disk.fail_nth(n, Fault::Io);
        let loaded = store.queue_or_create(&topic("T"), QueueId(0));
        if loaded.is_ok() {
            assert!(n > 3, "it is read from the disk");
            return;
        }
        let again = store.queue("T", QueueId(0)).unwrap().unwrap();
        assert_eq!(again.max(), QueueOffset(30), "call {n}");
        assert_eq!(append(&store, "T", 0).0, 30);
    }
}

#[test]
fn entries_that_name_no_record_of_their_queue_are_cut_when_it_is_loaded() {
    let last = |disk: &MemoryDisk, id: i32| {
        let store = open(disk);
        let mut units = Vec::new();
        store.queue("T", QueueId(id)).unwrap().unwrap().read(QueueOffset(4), 1, &mut units).unwrap();
        units[0]
    };
    let another = last(&filled(2, 5), 1);
    let own = last(&filled(2, 5), 0);
    let stale = [
        ("another queue's record", another),
        ("a record with another number", own),
        ("the middle of a record", Unit { log_offset: own.log_offset + 1, ..own }),
        ("another size", Unit { size: own.size - 1, ..another }),
        ("behind the log's end", Unit { log_offset: LogOffset(1_000_000), ..own }),
        ("a size that cannot be", Unit { size: i32::MAX - 1, ..own }),
    ];
    for (what, unit) in stale {
        let disk = filled(2, 5);
        let file = disk.open(&queue_file("T", 0, 0), false).unwrap();
        // Two of them, behind the five that are right.
        file.write_at(&[unit.encode(), unit.encode()].concat(), 100).unwrap();
        let store = open(&disk);
        assert_eq!(count(&store, "T", 0), 5, "{what}");
        assert_eq!(append(&store, "T", 0).0, 5, "{what}");
        store.close().unwrap();
        drop(store);
        let store = open(&disk);
        assert_eq!((count(&store, "T", 0), count(&store, "T", 1)), (6, 5), "{what}");
    }
}

#[test]
fn a_damaged_record_keeps_its_number() {
    let disk = filled(1, 5);
    let store = open(&disk);
    let mut units = Vec::new();
    store.queue("T", QueueId(0)).unwrap().unwrap().read(QueueOffset(4), 1, &mut units).unwrap();
    drop(store);
    let segment = disk.open(Path::new("/store/commitlog/00000000000000000000"), false).unwrap();
    // The topic, and the lengths behind it.
    let end = units[0].log_offset.0 + i64::from(units[0].size);
    segment.write_at(&[0xFF; 4], end as u64 - 4).unwrap();
    assert_eq!(append(&open(&disk), "T", 0).0, 5, "no other message gets it");
}

/// Files of queues that are in use are closed and opened again where there are many.
#[test]
fn a_damaged_first_entry_costs_no_other_when_its_file_is_written_again() {
    let disk = filled(1, 10);
    for damage in [&[0x80][..], &[0; 20]] {
        let disk = disk.crash(Crash::KeepAll);
        let store = open(&disk);
        let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
        let entries = |from: i64| {
            let mut units = Vec::new();
            queue.read(QueueOffset(from), 20, &mut units).unwrap();
            units
        };
        let whole = entries(1);
        disk.open(&queue_file("T", 0, 0), false).unwrap().write_at(damage, 0).unwrap();
        for id in 0..1100 {
            append(&store, "Others", id);
        }
        store.sync(&mut Vec::new()).unwrap();
        store.flush().unwrap();
        append_to(&store, &queue);
        store.sync(&mut Vec::new()).unwrap();
        store.flush().unwrap();
        assert_eq!(entries(1)[..9], whole, "{damage:?}");
    }
}

#[test]
fn a_queue_that_is_not_used_is_unloaded_and_found_again_as_it_was() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    for _ in 0..3 {
        for id in 0..100 {
            append(&store, "T", id);
        }
    }
    store.sync(&mut Vec::new()).unwrap();
    assert_eq!(store.loaded_queues(), 100);
    let held = store.queue("T", QueueId(7)).unwrap().unwrap();
    let awaited = store.queue("T", QueueId(8)).unwrap().unwrap();
    awaited.await_next();
    drop(awaited);
    for second in 0..=60 {
        store.flush_due(Millis(second * 1000)).unwrap();
    }
    assert_eq!(store.loaded_queues(), 100, "used not long ago");
    // One of them is used all the time.
    for second in 61..=100 {
        append(&store, "T", 9);
        store.sync(&mut Vec::new()).unwrap();
        store.flush_due(Millis(second * 1000)).unwrap();
    }
    assert_eq!(store.loaded_queues(), 3, "held, awaited, used");
    for second in 101..=200 {
        store.flush_due(Millis(second * 1000)).unwrap();
    }
    assert_eq!(store.loaded_queues(), 1, "no wait is that long");
    assert!(Arc::ptr_eq(&held, &store.queue("T", QueueId(7)).unwrap().unwrap()), "never two for one queue");
    for id in 0..100 {
        let before = if id == 9 { 43 } else { 3 };
        assert_eq!(append(&store, "T", id).0, before, "queue {id}");
        assert_eq!(count(&store, "T", id), before + 1, "queue {id}");
    }
}

#[test]
fn what_is_not_in_files_yet_is_never_unloaded() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    append(&store, "T", 0);
    // Nothing is durable, so nothing goes to files.
    for second in 0..300 {
        store.flush_due(Millis(second * 1000)).unwrap();
    }
    assert_eq!(store.loaded_queues(), 1);
    assert_eq!(disk.list(Path::new("/store/consumequeue/T/0")).unwrap(), Vec::new());
    assert_eq!(count(&store, "T", 0), 1);
    store.sync(&mut Vec::new()).unwrap();
    for second in 300..400 {
        store.flush_due(Millis(second * 1000)).unwrap();
    }
    assert_eq!(store.loaded_queues(), 0);
    assert_eq!(count(&store, "T", 0), 1);
}

#[test]
fn all_who_ask_for_a_cold_queue_at_once_get_the_same() {
    for round in 0..50 {
        let disk = filled(1, 3);
        let store = open(&disk);
        let name = if round % 2 == 0 { "T" } else { "New" };
        let found: Vec<Arc<Queue>> = std::thread::scope(|scope| {
            let ask = || store.queue_or_create(&topic(name), QueueId(0)).unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(found.iter().all(|queue| Arc::ptr_eq(queue, &found[0])));
    }
}

#[test]
fn that_a_queue_does_not_exist_is_remembered_until_it_is_made() {
    let disk = filled(1, 1);
    let store = open(&disk);
    assert!(store.queue("T", QueueId(5)).unwrap().is_none());
    assert!(store.queue("T", QueueId(-1)).unwrap().is_none());
    assert!(store.queue("../../etc", QueueId(0)).unwrap().is_none(), "no name of a topic");
    // Whatever is put there now is not looked at.
    disk.open(&queue_file("T", 5, 0), true).unwrap().set_len(QUEUE_FILE_BYTES as u64).unwrap();
    assert!(store.queue("T", QueueId(5)).unwrap().is_none());
    assert_eq!(append(&store, "T", 5).0, 0);
    assert_eq!(count(&store, "T", 5), 1);
}

/// Entries of many queues are made durable by one call; while that fails the position does not move.
#[test]
fn a_failed_sync_of_many_queues_costs_a_longer_scan_and_nothing_else() {
    for fails in [false, true] {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        for id in 0..200 {
            append(&store, "T", id);
        }
        store.sync(&mut Vec::new()).unwrap();
        store.flush_due(Millis(0)).unwrap();
        let before = disk.calls();
        if fails {
            disk.fail_nth(1, Fault::Io);
        }
        let result = store.flush_due(Millis(31_000));
        assert_eq!(result.is_err(), fails);
        assert!(disk.calls() - before < 10, "{} calls", disk.calls() - before);
        store.flush_due(Millis(62_000)).unwrap();
        drop(store);
        let (store, report) =
            Store::open(Arc::new(disk.crash(Crash::LoseAll)), options(FlushPolicy::Async)).unwrap();
        assert_eq!((report.records, report.queues), if fails { (200, 200) } else { (0, 0) });
        assert!((0..200).all(|id| count(&store, "T", id) == 1));
    }
}

#[test]
fn queues_are_made_durable_after_half_a_minute_or_much_log_not_each_second() {
    let disk = MemoryDisk::new();
    let scanned = || {
        let opened = Store::open(Arc::new(disk.crash(Crash::KeepAll)), options(FlushPolicy::Async));
        opened.unwrap().1.records
    };
    let store = open(&disk);
    for second in 0..29 {
        append(&store, "T", 0);
        store.sync(&mut Vec::new()).unwrap();
        store.flush_due(Millis(second * 1000)).unwrap();
    }
    assert_eq!(scanned(), 29);
    store.flush_due(Millis(30_000)).unwrap();
    assert_eq!(scanned(), 0);
    // A clock that goes back syncs once more, rather than never again.
    append(&store, "T", 0);
    store.sync(&mut Vec::new()).unwrap();
    store.flush_due(Millis(10_000)).unwrap();
    assert_eq!(scanned(), 0);
}

/// A queue whose first messages are gone with their part of the log begins where the rest begins, in files too.
#[test]
fn a_queue_that_does_not_begin_at_0_is_found_again() {
    let disk = filled(1, 60);
    disk.remove_file(Path::new("/store/commitlog/00000000000000000000")).unwrap();
    for name in ["consumequeue/T/0", "cometmq"] {
        let directory = Path::new("/store").join(name);
        for file in disk.list(&directory).unwrap() {
            disk.remove_file(&directory.join(file.name)).unwrap();
        }
    }
    disk.remove_file(Path::new("/store/checkpoint")).unwrap();
    let mut min = 0;
    for round in 0..3 {
        let store = open(&disk);
        let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
        min = if round == 0 { queue.min().0 } else { min };
        assert!(min > 0 && min % 20 != 0, "its first file is filled up to {min}");
        assert_eq!((queue.min().0, queue.max().0), (min, 60 + round));
        assert_eq!(count(&store, "T", 0), 60 + round);
        append(&store, "T", 0);
        store.close().unwrap();
    }
}

#[test]
fn a_crash_may_leave_files_of_some_topics_and_of_some_queues_of_a_topic() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    for _ in 0..3 {
        append(&store, "T", 0);
    }
    store.flush().unwrap();
    let counts = [("T", 0, 5), ("T", 1, 2), ("U", 0, 2), ("U", 7, 2)];
    for (topic, id, _) in counts.into_iter().chain(counts) {
        append(&store, topic, id);
    }
    drop(store);
    let mut disk = disk.crash(Crash::KeepAll);
    for round in 0..3 {
        let store = open(&disk);
        for (topic, id, expected) in counts {
            let queue = store.queue(topic, QueueId(id)).unwrap().unwrap();
            assert_eq!((queue.min().0, queue.max().0), (0, expected), "{topic}, {id}, round {round}");
            assert_eq!(count(&store, topic, id), expected);
        }
        assert!(store.queue("U", QueueId(1)).unwrap().is_none());
        // The second start finds the files as they were, the third finds all of them.
        if round == 1 {
            store.flush().unwrap();
        }
        drop(store);
        disk = disk.crash(Crash::KeepAll);
    }
}

#[test]
fn two_threads_recover_what_one_does_and_stop_when_a_call_to_the_disk_fails() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    // More than the threads hand on at once, so that one of them has to wait for the other.
    let (queues, messages) = (40, 400);
    for n in 0..messages {
        for id in 0..queues {
            append(&store, "T", id);
        }
        if n == messages / 2 {
            store.flush().unwrap();
        }
    }
    drop(store);
    let two_threads = || StoreOptions {
        beside: Some(|one, other| {
            std::thread::scope(|scope| {
                scope.spawn(one);
                other();
            });
        }),
        ..options(FlushPolicy::Async)
    };
    let recover = |disk: &MemoryDisk, options| {
        let before = disk.calls();
        let opened = Store::open(Arc::new(disk.clone()), options);
        (opened, disk.calls() - before)
    };
    let killed = disk.crash(Crash::KeepAll);
    let (alone, calls) = recover(&killed.crash(Crash::KeepAll), options(FlushPolicy::Async));
    let (together, _) = recover(&killed.crash(Crash::KeepAll), two_threads());
    let ((alone, expected), (together, report)) = (alone.unwrap(), together.unwrap());
    assert_eq!(report, expected);
    assert!(report.records > 2048 * 3, "{report:?}");
    for id in 0..queues {
        assert_eq!(count(&together, "T", id), count(&alone, "T", id));
    }
    drop((alone, together));
    let mut failures = 0;
    for call in (1..calls).step_by(97) {
        let disk = killed.crash(Crash::KeepAll);
        disk.fail_nth(call, Fault::Io);
        failures += usize::from(recover(&disk, two_threads()).0.is_err());
        disk.heal();
        let store = recover(&disk, two_threads()).0.unwrap().0;
        assert_eq!(count(&store, "T", 0), i64::from(messages));
    }
    assert!(failures > 0, "a failing call was met");
}
