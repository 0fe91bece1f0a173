//! Deleting old segments and what queues have of them.

#![allow(clippy::unwrap_used)]

mod reading;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cometmq_protocol::message::Record;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use cometmq_store::disk::{Call, Crash, DiskFile, DiskOver, Fault};
use cometmq_store::{Disk, DiskError, FlushPolicy, MemoryDisk, Store, StoreOptions};

use reading::each_record;

fn options() -> StoreOptions {
    // Ten entries in a queue file.
    StoreOptions {
        segment_bytes: 4096,
        queue_file_bytes: 200,
        flush: FlushPolicy::Async,
        ..StoreOptions::new("/store")
    }
}

fn open(disk: &MemoryDisk) -> Store {
    Store::open(Arc::new(disk.clone()), options()).unwrap().0
}

fn topic() -> TopicName {
    TopicName::parse("T").unwrap()
}

fn append(store: &Store, id: i32, time: i64) -> i64 {
    let host = "127.0.0.1:10911".parse().unwrap();
    let record = Record::plain("T", QueueId(id), host, &[b'x'; 100]);
    let queue = store.queue_or_create(&topic(), QueueId(id)).unwrap();
    let mut placed = Vec::new();
    store.append(&queue, &[record], &[0], Millis(time), &mut placed).unwrap();
    store.write(&mut Vec::new());
    placed[0].queue_offset.0
}

/// A hundred messages at 1000, 1001, … to queue 0; before them one to queue 1, which is never used again.
fn filled() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    append(&store, 1, 999);
    for number in 0..100 {
        append(&store, 0, 1000 + number);
    }
    store.close().unwrap();
    disk
}

fn delete(store: &Store) -> Result<bool, DiskError> {
    match store.oldest_segment()? {
        Some(oldest) => store.delete_oldest_segment(&oldest),
        None => Ok(false),
    }
}

/// Reads all that the queue says it has, and returns its ends.
fn check(store: &Store, id: i32) -> (i64, i64) {
    let Some(queue) = store.queue("T", QueueId(id)).unwrap() else { return (0, 0) };
    each_record(store, &queue, 100, |_| {});
    (queue.min().0, queue.max().0)
}

#[test]
fn the_oldest_segment_goes_by_the_time_of_the_message_behind_it_and_the_last_one_stays() {
    let disk = filled();
    let store = open(&disk);
    let mut deleted = 0;
    let mut min = 0;
    while let Some(oldest) = store.oldest_segment().unwrap() {
        let behind = store.queue("T", QueueId(0)).unwrap().unwrap();
        assert_eq!(oldest.start, store.log().start());
        assert!(store.delete_oldest_segment(&oldest).unwrap());
        let (now, max) = check(&store, 0);
        assert!(now > min && max == 100);
        assert_eq!(oldest.written_at, Millis(1000 + now), "the first message that is left");
        assert_eq!(behind.min().0, now, "also for who held the queue before");
        min = now;
        deleted += 1;
        assert_eq!(check(&open(&disk.crash(Crash::KeepAll)), 0), (now, 100));
    }
    assert!(deleted > 3 && min < 100, "{deleted} deleted");
    assert_eq!(append(&store, 0, 2000), 100, "numbers go on");
    assert_eq!(check(&store, 1), (1, 1), "a cold queue whose messages are gone keeps its number");
    assert_eq!(append(&store, 1, 2000), 1);
}

/// Or a flipped bit would delete messages many years too early.
#[test]
fn the_time_of_a_segment_is_that_of_a_message_that_is_whole() {
    let disk = filled();
    let path = Path::new("/store/commitlog/00000000000000004096");
    // Its store time stands there.
    let written_at = |damage: &[u8]| {
        let disk = disk.crash(Crash::KeepAll);
        disk.open(path, false).unwrap().write_at(damage, 56).unwrap();
        open(&disk).oldest_segment().unwrap().unwrap().written_at.0
    };
    let whole = written_at(&[]);
    assert!(whole > 1000);
    assert_eq!(written_at(&[0x80]), whole, "turned back");
    assert!(written_at(&[0x80, 0x41]) > whole, "of the next block that is as it was written");
}

#[test]
fn an_open_reader_of_a_deleted_segment_gets_nothing_rather_than_something_else() {
    let disk = filled();
    let store = open(&disk);
    let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
    let mut units = Vec::new();
    queue.read(QueueOffset(0), 3, &mut units).unwrap();
    assert!(delete(&store).unwrap());
    let mut read = 0;
    store
        .read(&units, &mut Vec::new(), &mut |_| {
            read += 1;
            true
        })
        .unwrap();
    assert_eq!(read, 0);
    assert!(queue.min() > QueueOffset(2));
}

/// The file of the segment is gone, and the log does not know it yet.
#[test]
fn a_queue_that_is_loaded_while_the_segment_of_its_messages_goes_keeps_its_number() {
    let disk = filled();
    let store = open(&disk);
    disk.fail_nth_of(Call::SyncDirectory, 1, Fault::Io);
    assert!(delete(&store).is_err());
    assert_eq!(store.queue("T", QueueId(1)).unwrap().unwrap().max(), QueueOffset(1));
    assert!(delete(&store).unwrap());
    assert_eq!(check(&store, 1), (1, 1));
    assert_eq!(append(&store, 1, 2000), 1);
}

#[test]
fn queue_files_go_when_their_last_message_is_gone_and_the_last_file_stays() {
    let disk = filled();
    let store = open(&disk);
    let files = |id: i32| disk.list(Path::new(&format!("/store/consumequeue/T/{id}"))).unwrap().len();
    assert_eq!((files(0), files(1)), (10, 1));
    while delete(&store).unwrap() {
        store.delete_expired_files(&topic(), QueueId(0)).unwrap();
        store.delete_expired_files(&topic(), QueueId(1)).unwrap();
        let (min, _) = check(&store, 0);
        assert_eq!(files(0) as i64, 10 - min / 10, "files with a message at {min} or later");
    }
    assert_eq!(files(1), 1);
    store.close().unwrap();
    drop(store);
    let store = open(&disk);
    assert_eq!((check(&store, 0).1, check(&store, 1)), (100, (1, 1)));
}

/// The first message that is left is searched for by halves, and a file's last entries tell whether it can go.
#[test]
fn a_damaged_entry_takes_no_other_along_when_messages_are_deleted() {
    let disk = filled();
    let whole = {
        let store = open(&disk.crash(Crash::KeepAll));
        assert!(delete(&store).unwrap() && delete(&store).unwrap());
        check(&store, 0).0
    };
    assert!((1..8).contains(&(whole % 10)), "{whole} is amid a file");
    // An entry that is none, and one that leads to the log's front.
    for damage in [[0x80, 0, 0, 0, 0, 0, 0, 0], [0; 8]] {
        for entry in 0..100 {
            let disk = disk.crash(Crash::KeepAll);
            let path = format!("/store/consumequeue/T/0/{:020}", entry / 10 * 200);
            let file = disk.open(Path::new(&path), false).unwrap();
            file.write_at(&damage, entry as u64 % 10 * 20).unwrap();
            let store = open(&disk);
            let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
            assert!(delete(&store).unwrap() && delete(&store).unwrap());
            let expected = whole + i64::from(entry == whole);
            assert_eq!(queue.min().0, expected, "{entry}");
            store.delete_expired_files(&topic(), QueueId(0)).unwrap();
            assert!(
                disk.exists(Path::new(&format!("/store/consumequeue/T/0/{:020}", whole / 10 * 200))).unwrap()
            );
            store.close().unwrap();
            drop((store, queue));
            let store = open(&disk);
            assert_eq!(store.queue("T", QueueId(0)).unwrap().unwrap().min().0, expected, "{entry}, loaded");
        }
    }
}

#[test]
fn a_queue_is_removed_only_when_nothing_is_left_of_it_and_nobody_uses_it() {
    let disk = filled();
    let store = open(&disk);
    let remove = |store: &Store, id: i32, unexpired: bool| {
        store.flush().unwrap();
        store.remove_queue(&topic(), QueueId(id), unexpired).unwrap()
    };
    assert!(!remove(&store, 1, false), "its message is there");
    assert!(delete(&store).unwrap());
    assert!(!remove(&store, 0, false));
    let held = store.queue("T", QueueId(1)).unwrap();
    assert!(!remove(&store, 1, false), "someone has it");
    drop(held);
    assert!(remove(&store, 1, false));
    assert!(store.queue("T", QueueId(1)).unwrap().is_none());
    assert_eq!(append(&store, 1, 2000), 0, "its numbers start over");
    assert!(!remove(&store, 1, true), "a crash would find its message again");
    store.sync(&mut Vec::new()).unwrap();
    assert!(remove(&store, 1, true) && remove(&store, 0, true));
    drop(store);
    let store = open(&disk.crash(Crash::LoseAll));
    assert_eq!((check(&store, 0), check(&store, 1)), ((0, 0), (0, 0)));
}

/// A crash at any point, with any call failing, leaves a store that opens and offers nothing that is not there.
#[test]
fn whichever_call_fails_while_deleting_the_store_opens_and_is_whole() {
    for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Seeded(7)] {
        for n in 1.. {
            let disk = filled();
            let store = open(&disk);
            let before = disk.calls();
            disk.fail_nth(n, Fault::Io);
            let delete_some = || -> Result<(), DiskError> {
                for _ in 0..3 {
                    delete(&store)?;
                    store.delete_expired_files(&topic(), QueueId(0))?;
                }
                store.flush()?;
                store.remove_queue(&topic(), QueueId(1), false).map(drop)
            };
            let result = delete_some();
            let calls = disk.calls() - before;
            if result.is_err() {
                // Once more, now that the disk answers.
                delete_some().unwrap();
                check(&store, 0);
            }
            let start = store.log().start();
            drop(store);
            let disk = disk.crash(crash);
            let store = open(&disk);
            assert!(store.log().start() <= start, "what is served is what the disk has");
            let (min, max) = check(&store, 0);
            assert_eq!((max, append(&store, 0, 5000)), (100, 100), "{crash:?}, call {n}");
            assert!(min < 100);
            if result.is_ok() && calls < n {
                assert!(n > 10, "{n} calls");
                break;
            }
        }
    }
}

#[test]
fn the_log_may_begin_anywhere_after_a_restart() {
    let disk = filled();
    let store = open(&disk);
    assert!(delete(&store).unwrap() && delete(&store).unwrap());
    let start = store.log().start();
    for number in 0..20 {
        append(&store, number % 2, 3000);
    }
    drop(store);
    for crash in [Crash::KeepAll, Crash::LoseAll] {
        let (store, report) = Store::open(Arc::new(disk.crash(crash)), options()).unwrap();
        assert_eq!(store.log().start(), start);
        assert!(report.scanned_from > start, "deleting does not make a start scan all of it");
        assert!(start > LogOffset(0) && check(&store, 0).1 >= 100);
        check(&store, 1);
    }
}

/// A disk on which something happens right after a file was made.
struct Meanwhile {
    disk: MemoryDisk,
    act: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.disk.fmt(f)
    }
}

impl DiskOver for Meanwhile {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError> {
        let is_new = create && !self.disk.exists(path)?;
        let file = self.disk.open(path, create);
        if is_new && let Some(act) = self.act.lock().unwrap().take() {
            act();
        }
        file
    }
}

/// Entries are written and expired files deleted by two threads.
#[test]
fn a_queue_file_that_is_being_made_is_not_taken_for_what_a_crash_left() {
    let disk = Arc::new(Meanwhile { disk: MemoryDisk::new(), act: Mutex::new(None) });
    let store = Arc::new(Store::open(Arc::<Meanwhile>::clone(&disk), options()).unwrap().0);
    for number in 0..11 {
        append(&store, 0, number);
        if number > 8 {
            store.sync(&mut Vec::new()).unwrap();
            let sweeper = Arc::clone(&store);
            let sweep = move || assert_eq!(sweeper.delete_expired_files(&topic(), QueueId(0)).unwrap(), 0);
            *disk.act.lock().unwrap() = Some(Box::new(sweep));
            store.flush().unwrap();
        }
    }
    *disk.act.lock().unwrap() = None;
    assert_eq!(check(&open(&disk.disk.crash(Crash::KeepAll)), 0), (0, 11));
}
