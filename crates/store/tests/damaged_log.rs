//! Opening a store whose log or checkpoint is damaged: what was durable is neither erased nor renumbered.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::message::{Record, RecordView};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use cometmq_store::disk::{Crash, Fate, Fault, read_file};
use cometmq_store::{
    Appended, Disk, FlushPolicy, Found, MemoryDisk, Patience, RecoveryReport, Store, StoreOptions,
};

const TOPICS: [&str; 2] = ["T", "Orders"];
const MESSAGES: i64 = 60;
const SEGMENT_BYTES: i64 = 16 * 1024;
/// Bytes that have a checksum.
const BLOCK_BYTES: i64 = 4096;
/// When the first message was stored.
const EPOCH: i64 = 1_700_000_000_000;
const DAY: i64 = 86_400_000;

/// A message that was delivered: topic, offset, record.
type Message = (&'static str, QueueOffset, Vec<u8>);

fn try_open(disk: &MemoryDisk) -> (Store, RecoveryReport) {
    let options =
        StoreOptions { segment_bytes: SEGMENT_BYTES, queue_file_bytes: 400, ..StoreOptions::new("/s") };
    Store::open(Arc::new(disk.clone()), options).unwrap()
}

fn open(disk: &MemoryDisk) -> Store {
    try_open(disk).0
}

fn append(store: &Store, topic: &str, number: i64) -> Appended {
    let body: Vec<u8> =
        (0..100 + number as usize * 97 % 1000).map(|n| (n + number as usize + topic.len()) as u8).collect();
    let host = "127.0.0.1:10911".parse().unwrap();
    let record = Record {
        born_timestamp: Millis(EPOCH),
        properties: [b"KEYS\x01k\x02", b""],
        ..Record::plain(topic, QueueId(0), host, &body)
    };
    let queue = store.queue_or_create(&TopicName::parse(topic).unwrap(), QueueId(0)).unwrap();
    let mut placed = Vec::new();
    store.append(&queue, &[record], &[0], Millis(EPOCH + number * 1000), &mut placed).unwrap();
    store.write(&mut Vec::new());
    placed[0]
}

/// A store that was closed in order, and where the records of its messages begin.
fn filled() -> (MemoryDisk, Vec<i64>) {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let places = (0..MESSAGES)
        .flat_map(|number| TOPICS.map(|topic| append(&store, topic, number).log_offset.0))
        .collect();
    store.close().unwrap();
    (disk, places)
}

/// Every message that is delivered.
fn delivered(store: &Store) -> Vec<Message> {
    let mut messages = Vec::new();
    for topic in TOPICS {
        let queue = store.queue(topic, QueueId(0)).unwrap().unwrap();
        for offset in (queue.min().0..queue.max().0).map(QueueOffset) {
            let mut units = Vec::new();
            queue.read(offset, 1, &mut units).unwrap();
            let units: Vec<_> = units.into_iter().map(|unit| (offset, unit)).collect();
            assert_eq!(units.len(), 1, "offsets are dense");
            let mut each = |message: Found<'_>| {
                messages.extend(message.ok().map(|bytes| (topic, offset, bytes.to_vec())));
                true
            };
            store.read_messages(&queue, &units, Patience::Disk, &mut Vec::new(), &mut each);
        }
    }
    messages
}

fn segment(base: i64) -> PathBuf {
    PathBuf::from(format!("/s/commitlog/{base:020}"))
}

fn write(disk: &MemoryDisk, path: &Path, at: i64, bytes: &[u8]) {
    disk.open(path, false).unwrap().write_at(bytes, at as u64).unwrap();
}

fn flip(disk: &MemoryDisk, path: &Path, at: i64, mask: u8) {
    let byte = read_file(disk, path).unwrap().unwrap()[at as usize];
    write(disk, path, at, &[byte ^ mask]);
}

fn flip_log(disk: &MemoryDisk, position: i64, mask: u8) {
    flip(disk, &segment(position / SEGMENT_BYTES * SEGMENT_BYTES), position % SEGMENT_BYTES, mask);
}

fn remove_all(disk: &MemoryDisk, directory: &str) {
    for entry in disk.list(Path::new(directory)).unwrap() {
        disk.remove_file(&Path::new(directory).join(entry.name)).unwrap();
    }
}

/// The first bytes of the log, up to `end`.
fn log_bytes(disk: &MemoryDisk, end: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for base in (0..end).step_by(SEGMENT_BYTES as usize) {
        bytes.extend(read_file(disk, &segment(base)).unwrap().expect("no segment was removed"));
    }
    bytes.truncate(end as usize);
    bytes
}

/// Lets the queues of both topics vanish from a store that was killed after one more message to each.
fn without_queues(disk: &MemoryDisk) -> (MemoryDisk, Vec<Message>) {
    let disk = disk.crash(Crash::KeepAll);
    let store = open(&disk);
    for topic in TOPICS {
        append(&store, topic, MESSAGES);
    }
    let whole = delivered(&store);
    drop(store);
    TOPICS.iter().for_each(|topic| remove_all(&disk, &format!("/s/consumequeue/{topic}/0")));
    (disk.crash(Crash::KeepAll), whole)
}

/// A store that was killed while its log was durable and its queues were not: half of it was written by an earlier
/// process when `twice`. With the places of its records.
fn killed(twice: bool) -> (MemoryDisk, Vec<i64>, Vec<Message>) {
    let disk = MemoryDisk::new();
    let mut store = open(&disk);
    let mut places = Vec::new();
    for number in 0..=MESSAGES {
        if twice && number == MESSAGES / 2 {
            store.close().unwrap();
            drop(store);
            store = open(&disk);
        }
        places.extend(TOPICS.map(|topic| append(&store, topic, number).log_offset.0));
    }
    store.sync(&mut Vec::new()).unwrap();
    store.flush_due(Millis(EPOCH)).unwrap();
    let whole = delivered(&store);
    drop(store);
    (disk.crash(Crash::KeepAll), places, whole)
}

/// Opens it again and again; tells which messages are lost.
fn lost_in(disk: &MemoryDisk, whole: &[Message], end: i64, what: &str) -> Vec<(&'static str, i64)> {
    let before = log_bytes(disk, end);
    let mut first = None;
    for round in 0..3 {
        let store = open(disk);
        let found = delivered(&store);
        assert!(found.iter().all(|message| whole.contains(message)), "{what}: nothing wrong is delivered");
        assert_eq!(*first.get_or_insert(found.clone()), found, "{what}: opened again");
        assert!(log_bytes(disk, end) == before, "{what}: nothing is erased");
        if round == 1 {
            store.close().unwrap();
        }
    }
    let store = open(disk);
    for topic in TOPICS {
        assert_eq!(append(&store, topic, MESSAGES + 1).queue_offset, QueueOffset(MESSAGES + 1), "{what}");
    }
    let found = first.unwrap();
    let lost = whole.iter().filter(|message| !found.contains(message));
    lost.map(|(topic, offset, _)| (*topic, offset.0)).collect()
}

#[test]
fn a_damaged_record_in_the_middle_of_the_log_costs_that_message_when_queues_are_rebuilt() {
    let (disk, places) = filled();
    let (damaged, whole) = without_queues(&disk);
    let end = *places.last().unwrap();
    // Message 20 of Orders: its size, its magic, its own position, its body.
    for at in [0, 5, 33, 150] {
        let disk = damaged.crash(Crash::KeepAll);
        remove_all(&disk, "/s/cometmq/checksums");
        flip_log(&disk, places[41] + at, 0x20);
        assert_eq!(lost_in(&disk, &whole, end, &format!("byte {at}")), [("Orders", 20)]);
    }
}

#[test]
fn one_flipped_bit_costs_nothing_where_there_are_checksums_also_when_queues_are_rebuilt() {
    let (disk, places) = filled();
    let (damaged, whole) = without_queues(&disk);
    // The last one is the queue offset, which no CRC of the record protects.
    for at in [0, 33, 150, 26] {
        let disk = damaged.crash(Crash::KeepAll);
        flip_log(&disk, places[41] + at, 0x20);
        assert_eq!(lost_in(&disk, &whole, *places.last().unwrap(), &format!("byte {at}")), []);
    }
}

#[test]
fn damage_in_what_was_durable_ends_nothing_though_the_queues_were_behind() {
    for twice in [false, true] {
        let (killed, places, whole) = killed(twice);
        let (_, report) = try_open(&killed.crash(Crash::KeepAll));
        assert_eq!(report.scanned_from.0 > 0, twice, "{report:?}");
        // Message 45 of Orders: its magic, its queue, its queue offset, its own position, its body, its topic.
        for at in [5, 13, 26, 33, 150, 90 + 100 + 45 * 97] {
            let what = format!("twice {twice}, byte {at}");
            let end = *places.last().unwrap();
            let disk = killed.crash(Crash::KeepAll);
            flip_log(&disk, places[91] + at, 0x20);
            assert_eq!(lost_in(&disk, &whole, end, &what), [], "{what}: turned back");
            let disk = killed.crash(Crash::KeepAll);
            flip_log(&disk, places[91] + at, 0x21);
            // With two bits, what lies in that block.
            let block = (places[91] + at) / BLOCK_BYTES;
            let lies_there = |index: &usize| {
                (places[*index] / BLOCK_BYTES..=(places[*index + 1] - 1) / BLOCK_BYTES).contains(&block)
            };
            let in_block = (0..places.len() - 1).filter(lies_there);
            let mut expected: Vec<_> = in_block.map(|index| (TOPICS[index % 2], index as i64 / 2)).collect();
            let mut lost = lost_in(&disk, &whole, end, &what);
            lost.sort_unstable();
            expected.sort_unstable();
            assert_eq!(lost, expected, "{what}: found");
        }
    }
}

#[test]
fn damage_over_several_records_and_a_segments_end_keeps_all_numbers() {
    let (disk, places) = filled();
    let (disk, whole) = without_queues(&disk);
    remove_all(&disk, "/s/cometmq/checksums");
    let head = places.iter().position(|place| *place >= SEGMENT_BYTES).unwrap();
    // The last three records of a segment and the blank behind them, the first two of the next.
    write(&disk, &segment(0), places[head - 3], &vec![0xEE; (SEGMENT_BYTES - places[head - 3]) as usize]);
    write(&disk, &segment(SEGMENT_BYTES), 0, &vec![0; (places[head + 2] - SEGMENT_BYTES) as usize]);
    let mut lost = lost_in(&disk, &whole, *places.last().unwrap(), "a stretch");
    let mut expected: Vec<_> =
        (head - 3..head + 2).map(|index| (TOPICS[index % 2], index as i64 / 2)).collect();
    lost.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lost, expected);
}

#[test]
fn a_jump_that_no_damage_explains_makes_no_entries() {
    let (disk, places) = filled();
    let (disk, _) = without_queues(&disk);
    remove_all(&disk, "/s/cometmq/checksums");
    // A record is damaged, and the next of its queue claims to be billions further on.
    flip_log(&disk, places[101] + 150, 0x20);
    for number in 51..MESSAGES {
        let index = (number * 2 + 1) as usize;
        flip_log(&disk, places[index] + 20, 0x01);
    }
    let store = open(&disk);
    let queue = store.queue("Orders", QueueId(0)).unwrap().unwrap();
    assert!(queue.max().0 - queue.min().0 <= MESSAGES, "{} to {}", queue.min(), queue.max());
}

#[test]
fn a_damaged_record_behind_the_durable_position_still_ends_the_log() {
    let (disk, _) = filled();
    let store = open(&disk);
    let torn: Vec<_> = (MESSAGES..MESSAGES + 6).map(|number| append(&store, "T", number)).collect();
    drop(store);
    let disk = disk.crash(Crash::KeepAll);
    remove_all(&disk, "/s/cometmq/checksums");
    flip_log(&disk, torn[2].log_offset.0 + 150, 0x20);
    let (store, report) = try_open(&disk);
    assert!(report.torn && report.end == torn[2].log_offset, "{report:?}");
    assert_eq!(store.queue("T", QueueId(0)).unwrap().unwrap().max(), QueueOffset(MESSAGES + 2));
    let behind = &log_bytes(&disk, report.end.0 / SEGMENT_BYTES * SEGMENT_BYTES + SEGMENT_BYTES);
    assert!(behind[report.end.0 as usize..].iter().all(|byte| *byte == 0), "it is erased");
}

#[test]
fn a_segment_whose_head_only_looks_like_a_record_is_no_starting_point() {
    let (disk, places) = filled();
    disk.remove_file(Path::new("/s/cometmq/dispatched")).unwrap();
    let (_, told) = try_open(&disk.crash(Crash::KeepAll));
    assert!(told.scanned_from > LogOffset(0), "the checkpoint is of use");
    // In the checkpoint's eyes all is durable.
    for at in [0i64, 8] {
        write(&disk, Path::new("/s/checkpoint"), at, &(EPOCH + DAY).to_be_bytes());
    }
    let base = (places.last().unwrap() / SEGMENT_BYTES + 1) * SEGMENT_BYTES;
    let file = disk.open(&segment(base), true).unwrap();
    file.set_len(SEGMENT_BYTES as u64).unwrap();
    let first = &log_bytes(&disk, SEGMENT_BYTES)[..300];
    let total = RecordView::decode(first).unwrap().total;
    // A whole record, of another position.
    file.write_at(&first[..total], 0).unwrap();
    let (store, report) = try_open(&disk);
    assert_eq!((report.scanned_from.0, report.end), (base - SEGMENT_BYTES, told.end));
    assert_eq!(delivered(&store).len() as i64, 2 * MESSAGES);
}

#[test]
fn a_flipped_bit_in_the_checkpoint_moves_no_store_time_into_the_future() {
    for (at, position) in [(0, true), (1, true), (2, true), (8, true), (1, false), (9, false)] {
        let (disk, _) = filled();
        if !position {
            disk.remove_file(Path::new("/s/cometmq/dispatched")).unwrap();
        }
        flip(&disk, Path::new("/s/checkpoint"), at, 0x40);
        for number in MESSAGES..MESSAGES + 3 {
            let store = open(&disk);
            let stored_at = append(&store, "T", number).stored_at;
            assert!((EPOCH..EPOCH + DAY).contains(&stored_at.0), "byte {at}: {stored_at}");
            store.close().unwrap();
        }
        let checkpoint = read_file(&disk, Path::new("/s/checkpoint")).unwrap().unwrap();
        for time in checkpoint[..16].as_chunks::<8>().0 {
            assert!((EPOCH..EPOCH + DAY).contains(&i64::from_be_bytes(*time)), "byte {at} is mended");
        }
    }
}

/// Queues are rebuilt because one of them lacks entries, and the store ends before all of them are durable again.
#[test]
fn queues_that_were_being_rebuilt_when_the_store_ended_are_rebuilt_once_more() {
    let (disk, _) = filled();
    let store = open(&disk);
    append(&store, "T", MESSAGES);
    store.sync(&mut Vec::new()).unwrap();
    let whole = delivered(&store);
    drop(store);
    remove_all(&disk, "/s/consumequeue/T/0");
    disk.sync_directory(Path::new("/s/consumequeue/T/0")).unwrap();
    for crash in [Crash::KeepAll, Crash::LoseAll, Crash::Seeded(3)] {
        for n in 1.. {
            let disk = disk.crash(Crash::KeepAll);
            let before = disk.calls();
            disk.fail_nth(n, Fault::Io);
            let options = StoreOptions {
                segment_bytes: SEGMENT_BYTES,
                queue_file_bytes: 400,
                ..StoreOptions::new("/s")
            };
            let result = Store::open(Arc::new(disk.clone()), options)
                .is_ok_and(|(store, _)| store.sync(&mut Vec::new()).is_ok() && store.flush().is_ok());
            let calls = disk.calls() - before;
            let store = open(&disk.crash(crash));
            assert!(delivered(&store) == whole, "{crash:?}, call {n}");
            if result && calls < n {
                assert!(n > 100, "{n} calls");
                break;
            }
        }
    }
}

/// Of a queue that got messages since its files were durable, the last entry in these.
#[test]
fn one_damaged_entry_does_not_have_all_queues_rebuilt() {
    for messages in [2, 20, 21, MESSAGES] {
        let disk = MemoryDisk::new();
        let store = open(&disk);
        let send = |store: &Store, number| {
            for topic in TOPICS {
                append(store, topic, number);
            }
        };
        (0..messages).for_each(|number| send(&store, number));
        store.close().unwrap();
        drop(store);
        let store = open(&disk);
        send(&store, messages);
        store.sync(&mut Vec::new()).unwrap();
        let whole = delivered(&store);
        drop(store);
        let entry = messages - 1;
        let path = PathBuf::from(format!("/s/consumequeue/T/0/{:020}", entry / 20 * 400));
        for (at, mask) in [(0, 0x80), (4, 0x10), (8, 0x80), (11, 0x01)] {
            let disk = disk.crash(Crash::KeepAll);
            flip(&disk, &path, entry % 20 * 20 + at, mask);
            let (store, report) = try_open(&disk);
            assert_eq!(report.records, 2, "{messages} messages, byte {at}");
            let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
            assert_eq!((queue.min().0, queue.max().0), (0, messages + 1));
            assert!(store.restore_entry(&queue, QueueOffset(entry)).unwrap());
            assert!(delivered(&store) == whole, "{messages} messages, byte {at}");
            store.flush().unwrap();
            assert!(delivered(&open(&disk.crash(Crash::LoseAll))) == whole);
        }
    }
}

/// As an operator is advised to do who lost a segment.
#[test]
fn positions_beyond_the_end_of_a_log_that_lost_segments_are_not_believed_when_it_is_as_long_again() {
    let (disk, places) = filled();
    let end = open(&disk.crash(Crash::KeepAll)).log().written();
    let base = places.last().unwrap() / SEGMENT_BYTES * SEGMENT_BYTES;
    disk.remove_file(&segment(base)).unwrap();
    for crash in [Crash::KeepAll, Crash::LoseAll] {
        let disk = disk.crash(Crash::KeepAll);
        let store = open(&disk);
        let next = store.queue("T", QueueId(0)).unwrap().unwrap().max();
        for number in 0..2 {
            assert_eq!(append(&store, "T", number).queue_offset, next + number);
        }
        store.sync(&mut Vec::new()).unwrap();
        let (written, whole) = (store.log().written(), delivered(&store));
        assert!(written.0 > base && written < end, "{written} between {base} and {end}");
        drop(store);
        let (store, report) = try_open(&disk.crash(crash));
        assert_eq!(report.end, written, "{crash:?}");
        assert!(delivered(&store) == whole, "{crash:?}");
    }
}

/// Two megabytes that were not synced are lost and what came behind them is not; then others stand in their place.
#[test]
fn what_a_power_cut_left_far_behind_the_end_is_never_taken_for_records() {
    let open = |disk: &MemoryDisk| {
        let options =
            StoreOptions { segment_bytes: 8 << 20, flush: FlushPolicy::Sync, ..StoreOptions::new("/s") };
        Store::open(Arc::new(disk.clone()), options).unwrap().0
    };
    let send = |store: &Store, topic: &str, messages: i64| {
        for _ in 0..messages {
            let (queue, body) =
                (store.queue_or_create(&TopicName::parse(topic).unwrap(), QueueId(0)), [7; 100_000]);
            let record = Record::plain(topic, QueueId(0), "127.0.0.1:10911".parse().unwrap(), &body);
            store.append(&queue.unwrap(), &[record], &[0], Millis(EPOCH), &mut Vec::new()).unwrap();
            store.write(&mut Vec::new());
        }
    };
    let disk = MemoryDisk::new();
    let store = open(&disk);
    send(&store, "Old", 10);
    store.sync(&mut Vec::new()).unwrap();
    send(&store, "Old", 40);
    let mut written = 0;
    let disk = disk.crash_choosing(0, &mut |write| {
        written += i32::from(write.sectors > 100);
        if written > 20 { Fate::Kept } else { Fate::Lost }
    });
    let store = open(&disk);
    send(&store, "New", 20);
    store.sync(&mut Vec::new()).unwrap();
    drop(store);
    let store = open(&disk.crash(Crash::LoseAll));
    let ends = |topic| {
        let queue = store.queue(topic, QueueId(0)).unwrap().unwrap();
        (queue.min().0, queue.max().0)
    };
    assert_eq!((ends("Old"), ends("New")), ((0, 10), (0, 20)));
}

/// As a Java broker does that finds one of the last records damaged: it cuts the log there and goes on.
#[test]
fn a_log_that_another_broker_cut_and_wrote_on_is_kept_as_that_one_left_it() {
    let (ours, _) = filled();
    let end = open(&ours.crash(Crash::KeepAll)).log().written();
    let theirs = MemoryDisk::new();
    let store = open(&theirs);
    for number in 0..MESSAGES - 2 {
        for topic in TOPICS {
            append(&store, topic, number);
        }
    }
    let cut = store.log().written();
    for number in 0..10 {
        append(&store, "T", 1 + number * 7);
    }
    let whole = delivered(&store);
    assert!(cut < end && store.log().written() > end);
    let written = store.log().written();
    store.close().unwrap();
    drop(store);
    for directory in ["/s/cometmq", "/s/cometmq/checksums"].map(Path::new) {
        remove_all(&theirs, &directory.to_string_lossy());
        for entry in ours.list(directory).unwrap().into_iter().filter(|entry| !entry.is_directory) {
            let path = directory.join(entry.name);
            let bytes = read_file(&ours, &path).unwrap().unwrap();
            theirs.open(&path, true).unwrap().write_at(&bytes, 0).unwrap();
        }
    }
    for _ in 0..2 {
        let (store, report) = try_open(&theirs);
        assert_eq!(report.end, written);
        assert!(delivered(&store) == whole);
        store.close().unwrap();
    }
}
