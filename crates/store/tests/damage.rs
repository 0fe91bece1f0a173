//! Stores whose bytes are not those that were written.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::message::{Record, RecordView};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use cometmq_store::check::{self, CheckOptions, CheckSummary, Finding};
use cometmq_store::config_file;
use cometmq_store::disk::{Call, Chance, Crash, Fault, read_file};
use cometmq_store::index::format::Shape;
use cometmq_store::scrub::{ScrubCursor, ScrubRound, ScrubStep};
use cometmq_store::{
    Appended, Disk, FlushPolicy, Found, IndexOptions, KeyQuery, MemoryDisk, Patience, Store, StoreOptions,
    Unit,
};

const TOPICS: [&str; 2] = ["T", "Orders"];
const MESSAGES: i64 = 60;
/// Of index files: small, so that there are several.
const SHAPE: Shape = Shape { slots: 16, entries: 50 };

fn options() -> StoreOptions {
    let index = IndexOptions { shape: SHAPE, utc_offset_ms: 0 };
    StoreOptions {
        segment_bytes: 16 * 1024,
        queue_file_bytes: 400,
        index: Some(index),
        ..StoreOptions::new("/s")
    }
}

fn open(disk: &MemoryDisk) -> Store {
    Store::open(Arc::new(disk.clone()), options()).unwrap().0
}

fn body(topic: &str, number: i64) -> Vec<u8> {
    let length = 10 + (number as usize * 97 + topic.len() * 31) % 1500;
    format!("{topic}:{number}:").bytes().chain((0..).map(|n: u32| n as u8)).take(length).collect()
}

fn append(store: &Store, topic: &str, number: i64) {
    let body = body(topic, number);
    let host = "127.0.0.1:10911".parse().unwrap();
    let properties = format!("TAGS\u{1}Tag{}\u{2}KEYS\u{1}k{number}\u{2}", number % 3);
    let record = Record {
        flag: 7,
        born_timestamp: Millis(1_795_195_088_389),
        properties: [properties.as_bytes(), b""],
        ..Record::plain(topic, QueueId(0), host, &body)
    };
    let code = cometmq_protocol::message::tags::tags_code(Some(&format!("Tag{}", number % 3)));
    let queue = store.queue_or_create(&TopicName::parse(topic).unwrap(), QueueId(0)).unwrap();
    store.append(&queue, &[record], &[code], Millis(1000 + number), &mut Vec::new()).unwrap();
    store.write(&mut Vec::new());
}

/// A store that was closed in order, with several segments and queue files.
fn filled() -> MemoryDisk {
    filled_with(MESSAGES)
}

fn filled_with(messages: i64) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    for number in 0..messages {
        TOPICS.iter().for_each(|topic| append(&store, topic, number));
    }
    store.close().unwrap();
    disk
}

/// Every message that is delivered, by topic: its offset and all its bytes.
fn delivered(store: &Store) -> Vec<(&'static str, QueueOffset, Vec<u8>)> {
    let mut messages = Vec::new();
    for topic in TOPICS {
        let Some(queue) = store.queue(topic, QueueId(0)).unwrap() else { continue };
        let mut next = queue.min();
        while next < queue.max() {
            let mut units = Vec::new();
            assert!(queue.read_patiently(next, 7, Patience::Disk, &mut units).unwrap());
            next = next + units.len().max(1) as i64;
            let mut offsets = units.iter();
            let mut each = |message: Found<'_>| {
                let (offset, _) = offsets.next().unwrap();
                messages.extend(message.ok().map(|bytes| (topic, *offset, bytes.to_vec())));
                true
            };
            store.read_messages(&queue, &units, Patience::Disk, &mut Vec::new(), &mut each);
        }
    }
    messages
}

/// The places that each key leads to, in the range of store times that just holds the message.
fn found_by_key(store: &Store) -> Vec<Vec<LogOffset>> {
    let find = |topic, number: i64| {
        let mut places = Vec::new();
        let (key, at) = (format!("k{number}"), Millis(1000 + number));
        let query = KeyQuery { topic, key: &key, begin: at, end: at };
        let mut each = |bytes: &[u8]| {
            places.push(RecordView::decode(bytes).unwrap().log_offset);
            ControlFlow::Continue(())
        };
        store.find_by_key(&query, &mut each).unwrap();
        places
    };
    (0..MESSAGES).flat_map(|number| TOPICS.map(|topic| find(topic, number))).collect()
}

/// One whole round of the scrub, in small steps.
fn scrub(store: &Store) -> ScrubRound {
    let mut cursor = ScrubCursor::default();
    for _ in 0..10_000 {
        if let ScrubStep::RoundEnded(round) = store.scrub(5000, &mut cursor).unwrap() {
            return round;
        }
    }
    panic!("the scrub does not come to an end at {:?}", cursor.position());
}

fn flip(disk: &MemoryDisk, path: &Path, at: u64, mask: &[u8]) {
    let file = disk.open(path, false).unwrap();
    let mut bytes = vec![0; mask.len()];
    file.read_at(&mut bytes, at).unwrap();
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    file.write_at(&bytes, at).unwrap();
}

fn segment(base: i64) -> PathBuf {
    PathBuf::from(format!("/s/commitlog/{base:020}"))
}

fn all_records() -> u64 {
    TOPICS.len() as u64 * MESSAGES as u64
}

#[test]
fn a_healthy_store_has_a_checksum_for_every_block_and_nothing_to_repair() {
    let disk = filled();
    let store = open(&disk);
    let round = scrub(&store);
    assert_eq!(round, ScrubRound { records: all_records(), ..ScrubRound::default() });
    assert_eq!(delivered(&store).len() as u64, all_records());
    assert_eq!(store.log().damages(), 0);
}

#[test]
fn the_scrub_turns_flipped_bits_back_on_the_disk() {
    let disk = filled();
    let whole = delivered(&open(&disk));
    let before = read_file(&disk, &segment(0)).unwrap();
    for at in [0u64, 3, 21, 60, 5000, 9001] {
        flip(&disk, &segment(0), at, &[0x40]);
        let store = open(&disk);
        assert!(delivered(&store) == whole, "byte {at}, before the scrub");
        assert_eq!(scrub(&store).turned_back, 1);
        assert_eq!(read_file(&disk, &segment(0)).unwrap(), before, "byte {at}");
        assert_eq!(scrub(&store), ScrubRound { records: all_records(), ..ScrubRound::default() });
    }
}

#[test]
fn larger_damage_costs_the_records_of_its_blocks_and_no_other() {
    let disk = filled();
    let whole = delivered(&open(&disk));
    // In a header, in a body, near the end of a segment.
    for at in [0u64, 21, 300, 6000, 14_000] {
        let disk = disk.crash(Crash::KeepAll);
        flip(&disk, &segment(0), at, &[0xFF, 0x0F, 0xFF, 0x11, 0x22]);
        let store = open(&disk);
        let found = delivered(&store);
        assert!(found.iter().all(|message| whole.contains(message)), "nothing wrong is delivered");
        assert!(
            found.len() + 20 > whole.len(),
            "damage at {at} costs {} messages",
            whole.len() - found.len()
        );
        let round = scrub(&store);
        assert!(round.damaged > 0 && store.log().damages() > 0, "damage at {at} is found: {round:?}");
        assert_eq!((round.repaired, round.vouched), (0, 0), "damage at {at}");
        assert_eq!(scrub(&store).damaged, round.damaged, "what is damaged stays so");
    }
}

#[test]
fn the_scrub_writes_queue_entries_anew_that_differ_from_the_log() {
    let disk = filled();
    let whole = delivered(&open(&disk));
    let path = Path::new("/s/consumequeue/T/0/00000000000000000000");
    let before = read_file(&disk, path).unwrap();
    for (at, mask) in [(7, &[0x55u8][..]), (5 * 20, &[0xFF; 20]), (40 + 8, &[0x80]), (60 + 19, &[1])] {
        flip(&disk, path, at, mask);
        let store = open(&disk);
        assert_eq!(scrub(&store).repaired, 1, "byte {at}");
        assert_eq!(read_file(&disk, path).unwrap(), before, "byte {at}");
        assert!(delivered(&store) == whole);
    }
}

#[test]
fn a_store_without_checksums_gets_them_from_the_first_round() {
    let disk = filled();
    for entry in disk.list(Path::new("/s/cometmq/checksums")).unwrap() {
        disk.remove_file(&Path::new("/s/cometmq/checksums").join(entry.name)).unwrap();
    }
    let round = scrub(&open(&disk));
    assert!(round.vouched > 20, "{round:?}");
    flip(&disk, &segment(16 * 1024), 45, &[0x01]);
    let store = open(&disk);
    assert_eq!(delivered(&store).len() as u64, all_records());
    let round = scrub(&store);
    assert_eq!((round.vouched, round.turned_back, round.damaged), (0, 1, 0));
}

#[test]
fn whatever_call_of_a_scrub_fails_nothing_is_lost_and_the_next_round_ends_it() {
    for fault in [Fault::Io, Fault::Full, Fault::Short] {
        for n in 1..60 {
            let disk = filled();
            flip(&disk, &segment(0), 3000, &[0x40]);
            flip(&disk, Path::new("/s/consumequeue/T/0/00000000000000000000"), 7, &[0x55]);
            disk.remove_file(Path::new("/s/cometmq/checksums/00000000000000016384")).unwrap();
            let store = open(&disk);
            disk.fail_nth(n, fault);
            let mut cursor = ScrubCursor::default();
            while let Ok(ScrubStep::Goes) = store.scrub(5000, &mut cursor) {}
            disk.heal();
            scrub(&store);
            let round = scrub(&store);
            let healthy = ScrubRound { records: all_records(), ..ScrubRound::default() };
            assert_eq!(round, healthy, "{fault:?} at call {n}");
            assert_eq!(delivered(&store).len() as u64, all_records());
        }
    }
}

/// The kernel tells of a lost page once, to whoever syncs first, and the log's own sync succeeds then.
#[test]
fn a_sync_of_the_scrub_that_fails_confirms_no_message_that_it_may_have_lost() {
    let disk = MemoryDisk::new();
    let options = StoreOptions { flush: FlushPolicy::Sync, ..options() };
    let store = Store::open(Arc::new(disk.clone()), options).unwrap().0;
    append(&store, "T", 0);
    store.sync(&mut Vec::new()).unwrap();
    let durable = store.confirmed();
    flip(&disk, &segment(0), 100, &[0x04]);
    append(&store, "T", 1);
    disk.fail_nth_of(Call::Sync, 1, Fault::Io);
    assert!(store.scrub(1 << 20, &mut ScrubCursor::default()).is_err());
    assert!(store.sync(&mut Vec::new()).is_err());
    assert_eq!(store.confirmed(), durable);
    assert!(store.log().failure().is_some());
}

#[test]
fn a_scrub_goes_on_after_a_restart_where_it_was_saved() {
    let disk = filled();
    flip(&disk, &segment(0), 3000, &[0x40]);
    let whole = ScrubRound { records: all_records(), turned_back: 1, ..ScrubRound::default() };
    let store = open(&disk);
    let mut cursor = store.resume_scrub().unwrap();
    assert_eq!(cursor.position(), LogOffset(0), "nothing was saved");
    while cursor.position() < LogOffset(20_000) {
        assert_eq!(store.scrub(5000, &mut cursor).unwrap(), ScrubStep::Goes);
    }
    let position = cursor.position();
    store.save_scrub(&mut cursor);
    drop(store);
    let saved = disk.crash(Crash::KeepAll);
    let store = open(&saved);
    let mut cursor = store.resume_scrub().unwrap();
    assert_eq!(cursor.position(), position);
    while cursor.position() >= position {
        if let ScrubStep::RoundEnded(round) = store.scrub(5000, &mut cursor).unwrap() {
            assert_eq!(round, whole, "also what was found before");
        }
    }
    assert_eq!(
        store.resume_scrub().unwrap().position(),
        LogOffset(0),
        "a round that ended is not gone on with"
    );
    assert_eq!(check(&saved.crash(Crash::KeepAll)).1, []);
    flip(&disk, &segment(position.0), 20, &[0xFF; 8]);
    let cursor = open(&disk).resume_scrub().unwrap();
    assert_eq!(cursor.position(), LogOffset(0), "no whole record begins there");
}

#[test]
fn what_is_stored_while_a_scrub_goes_round_is_left_to_the_next_round() {
    let store = open(&filled());
    let mut cursor = ScrubCursor::default();
    assert_eq!(store.scrub(5000, &mut cursor).unwrap(), ScrubStep::Goes);
    append(&store, TOPICS[0], MESSAGES);
    store.write(&mut Vec::new());
    let round = loop {
        if let ScrubStep::RoundEnded(round) = store.scrub(5000, &mut cursor).unwrap() {
            break round;
        }
    };
    assert_eq!(round.records, all_records());
    assert_eq!(scrub(&store).records, all_records() + 1);
}

#[test]
fn a_scrub_loads_no_queue_but_one_whose_entries_differ() {
    let disk = filled();
    flip(&disk, Path::new("/s/consumequeue/T/0/00000000000000000000"), 7, &[0x55]);
    disk.remove_file(Path::new("/s/consumequeue/Orders/0/00000000000000000400")).unwrap();
    let store = open(&disk.crash(Crash::KeepAll));
    assert_eq!((scrub(&store).repaired, store.loaded_queues()), (21, 2));
    let store = open(&filled());
    assert_eq!((scrub(&store).records, store.loaded_queues()), (all_records(), 0));
}

/// What a check finds.
fn check(disk: &MemoryDisk) -> (CheckSummary, Vec<Finding>) {
    let mut found = Vec::new();
    let options = CheckOptions { index_slots: SHAPE.slots, ..CheckOptions::new("/s") };
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let summary =
        check::check(&shared, &options, &mut |_, _| {}, &mut |finding| found.push(finding)).unwrap();
    assert_eq!(summary.damaged as usize, found.len());
    (summary, found)
}

#[test]
fn a_check_of_a_healthy_store_finds_nothing_also_after_kills_and_power_cuts() {
    let disk = filled();
    let (summary, found) = check(&disk);
    assert_eq!(found, []);
    assert_eq!((summary.records, summary.entries, summary.queues), (all_records(), all_records(), 2));
    assert!(summary.clean && summary.unsummed_blocks == 0 && summary.segments > 3);
    assert_eq!(summary.index_entries, all_records());
    assert_eq!(check(&MemoryDisk::new()).1, [], "nor in one that is empty");
    let store = open(&disk);
    for number in MESSAGES..MESSAGES + 9 {
        append(&store, TOPICS[0], number);
        if number % 4 == 0 {
            store.sync(&mut Vec::new()).unwrap();
            store.flush().unwrap();
        }
        let (summary, found) = check(&disk.crash(Crash::KeepAll));
        assert_eq!((found, summary.clean), (Vec::new(), false), "killed after message {number}");
        assert_eq!(check(&disk.crash(Crash::LoseAll)).1, [], "power lost after message {number}");
    }
}

#[test]
fn a_check_names_the_file_the_place_and_the_message() {
    let disk = filled();
    flip(&disk, Path::new("/s/consumequeue/T/0/00000000000000000000"), 3 * 20 + 19, &[1]);
    flip(&disk, &segment(0), 45, &[1]);
    let told: Vec<String> = check(&disk).1.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        told[0],
        "/s/commitlog/00000000000000000000 at byte 45, log position 45: one bit is flipped; the broker turns it back \
         when it reads this"
    );
    assert!(
        told[1].starts_with("/s/consumequeue/T/0/00000000000000000000 at byte 60, log position"),
        "{}",
        told[1]
    );
    assert!(told[1].contains("topic T, queue 0, offset 3: the entry says position"), "{}", told[1]);
}

/// All files of a store, with their lengths.
fn files(disk: &MemoryDisk, directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for entry in disk.list(directory).unwrap() {
        let path = directory.join(&entry.name);
        if entry.is_directory {
            files.extend(self::files(disk, &path));
        } else if entry.bytes > 0 {
            files.push((path, entry.bytes));
        }
    }
    files
}

#[test]
fn ten_thousand_flipped_bits_are_each_found_or_harmless() {
    let disk = filled_with(12);
    for name in ["topics.json", "subscriptionGroup.json", "consumerOffset.json"] {
        let content = BTreeMap::from([("offsetTable", "T@g"), ("name", name)]);
        config_file::save(&disk, &Path::new("/s/config").join(name), &content).unwrap();
    }
    assert_eq!(check(&disk).1, []);
    let whole = delivered(&open(&disk.crash(Crash::KeepAll)));
    let whole_by_key = found_by_key(&open(&disk.crash(Crash::KeepAll)));
    let files = files(&disk, Path::new("/s"));
    let mut chance = Chance::of(7);
    let (mut harmless, mut refused) = (0, 0);
    for round in 0..10_000 {
        let (path, bytes) = &files[chance.below(files.len() as u64) as usize];
        let (at, mask) = (chance.below(*bytes), 1 << chance.below(8));
        flip(&disk, path, at, &[mask]);
        let found = check(&disk).1;
        let damaged = disk.crash(Crash::KeepAll);
        flip(&disk, path, at, &[mask]);
        let place = format!("round {round}: {} at {at}, mask {mask:#04x}", path.display());
        match Store::open(Arc::new(damaged), options()) {
            Ok((store, _)) => {
                let by_key = found_by_key(&store);
                assert!(by_key == whole_by_key || !found.is_empty(), "{place}: undetected in the index");
                let delivered = delivered(&store);
                assert!(delivered.iter().all(|message| whole.contains(message)), "{place}: something wrong");
                assert!(delivered == whole || !found.is_empty(), "{place}: undetected");
            }
            Err(error) => {
                assert!(!found.is_empty(), "{place}: undetected, and then {error}");
                refused += 1;
            }
        }
        harmless += usize::from(found.is_empty());
    }
    println!("{harmless} harmless, {refused} stores not opened, in {} files", files.len());
    assert_eq!(check(&disk).1, [], "each bit was put back");
}

/// In a store that was closed in order and in one that was killed while entries waited for their slots.
#[test]
fn each_flipped_bit_of_the_index_is_found_or_harmless() {
    let closed = filled_with(28);
    let killed = closed.crash(Crash::KeepAll);
    let store = open(&killed);
    append(&store, TOPICS[0], 28);
    store.sync(&mut Vec::new()).unwrap();
    store.flush().unwrap();
    let killed = killed.crash(Crash::KeepAll);
    for disk in [closed, killed] {
        assert_eq!(check(&disk).1, []);
        let whole = found_by_key(&open(&disk.crash(Crash::KeepAll)));
        let mut files = files(&disk, Path::new("/s/index"));
        assert_eq!(files.len(), 2);
        files.push(("/s/cometmq/indexed".into(), 92));
        let mut harmless = 0;
        for (path, at) in files.iter().flat_map(|(path, bytes)| (0..*bytes).map(move |at| (path, at))) {
            let mask = 1 << (at % 8);
            flip(&disk, path, at, &[mask]);
            if check(&disk).1.is_empty() {
                harmless += 1;
                let store = open(&disk.crash(Crash::KeepAll));
                assert!(found_by_key(&store) == whole, "{} at {at}, {mask:#04x}: undetected", path.display());
            }
            flip(&disk, path, at, &[mask]);
        }
        println!("{harmless} harmless");
    }
}

#[test]
fn a_check_names_what_is_wrong_with_the_index() {
    let disk = filled_with(28);
    let [(first, _), (second, _)] = &files(&disk, Path::new("/s/index"))[..] else { panic!("two files") };
    let told = |path: &Path, at, mask: &[u8]| {
        let disk = disk.crash(Crash::KeepAll);
        flip(&disk, path, at, mask);
        let found: Vec<String> = check(&disk).1.iter().map(ToString::to_string).collect();
        found.join("\n").replace(&format!("{}", path.display()), "FILE")
    };
    let entry = |number| SHAPE.entry_at(number);
    for (at, mask, expected) in [
        (7, 1, "FILE at byte 0: the begin time is 1001 ms; its message was stored at 1000 ms"),
        (31, 1, "FILE at byte 24: the header says end offset"),
        (35, 4, "FILE at byte 32: the header says used slots"),
        (40 + 3, 64, "FILE at byte 40: the slot says entry"),
        (entry(9) + 3, 1, "FILE at byte 284, log position"),
        (entry(9) + 11, 1, "no message begins there"),
        (entry(9) + 8, 1, "the entry behind it is of a message before its own"),
        (entry(9) + 15, 1, "says 1 s after the file's begin time; it is 0 s"),
        (entry(30) + 19, 1, "before it in its slot; it is"),
    ] {
        let told = told(first, at, &[mask]);
        assert!(told.contains(expected), "byte {at}: {told}");
    }
    let told = told(second, entry(1), &[0xFF; 100]);
    assert!(told.contains("lack entries for keys of theirs"), "{told}");
    let whole = found_by_key(&open(&disk.crash(Crash::KeepAll)));
    for (gone, expected) in [(second, "which is missing"), (first, "lack entries for keys of theirs")] {
        let disk = disk.crash(Crash::KeepAll);
        disk.remove_file(gone).unwrap();
        let told = check(&disk).1[0].to_string();
        assert!(told.contains(expected), "{told}");
        let store = open(&disk);
        store.flush().unwrap();
        assert!(found_by_key(&store) == whole, "{} is made anew", gone.display());
        store.close().unwrap();
        assert_eq!(check(&disk).1, []);
    }
    // What a start that was killed in it leaves.
    let disk = filled();
    let note = disk.open(Path::new("/s/cometmq/cutting"), true).unwrap();
    let last = files(&disk, Path::new("/s/commitlog")).pop().unwrap().0;
    let name = format!("{}\n", last.file_name().unwrap().to_string_lossy());
    disk.open(&last, false).unwrap().set_len(16 * 1024 - 512).unwrap();
    assert_ne!(check(&disk).1, [], "a segment that is too short");
    note.write_at(name.as_bytes(), 0).unwrap();
    assert_eq!(check(&disk).1, [], "a segment that the next start makes whole");
}

#[test]
fn whichever_call_of_a_reader_fails_nothing_wrong_is_delivered_and_the_next_one_gets_all() {
    let disk = filled_with(12);
    let whole = delivered(&open(&disk));
    let flipped = disk.crash(Crash::KeepAll);
    flip(&flipped, &segment(0), 3000, &[0x40]);
    for disk in [disk, flipped] {
        for fault in [Fault::Io, Fault::Short] {
            for n in 1..40 {
                let store = open(&disk);
                disk.fail_nth(n, fault);
                let Ok(Some(queue)) = store.queue(TOPICS[0], QueueId(0)) else { continue };
                let mut units = Vec::new();
                if queue.read(QueueOffset(0), 12, &mut units).is_ok() {
                    let units: Vec<_> = (0..).map(QueueOffset).zip(units).collect();
                    store.read_messages(
                        &queue,
                        &units,
                        Patience::Disk,
                        &mut Vec::new(),
                        &mut |message: Found<'_>| {
                            if let Ok(bytes) = message {
                                assert!(
                                    whole.iter().any(|(_, _, whole)| *whole == bytes),
                                    "call {n}, {fault:?}"
                                );
                            }
                            true
                        },
                    );
                }
                disk.heal();
                assert!(delivered(&store) == whole, "call {n}, {fault:?}");
            }
        }
    }
}

#[test]
fn an_entry_that_leads_nowhere_is_made_anew_from_the_log() {
    let disk = filled();
    let whole = delivered(&open(&disk));
    for (offset, mask) in [
        (9u64, &[0u8, 0, 0, 0, 0x10][..]),
        (5, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
        (58, &[0, 0, 0, 0, 0, 0, 0, 7]),
    ] {
        let (file, at) = (offset / 20 * 400, offset % 20 * 20);
        let path = PathBuf::from(format!("/s/consumequeue/T/0/{file:020}"));
        flip(&disk, &path, at, mask);
        let store = open(&disk);
        assert_eq!(delivered(&store).len(), whole.len() - 1, "entry {offset}");
        let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
        assert!(store.restore_entry(&queue, QueueOffset(offset as i64)).unwrap(), "entry {offset}");
        assert!(delivered(&store) == whole);
        store.close().unwrap();
        drop(store);
        assert_eq!(check(&disk).1, [], "entry {offset}");
    }
}

#[test]
fn nothing_is_read_for_an_entry_with_a_size_that_no_record_has() {
    let disk = MemoryDisk::new();
    let store = Store::open(Arc::new(disk.clone()), StoreOptions::new("/s")).unwrap().0;
    let queue = store.queue_or_create(&TopicName::parse("T").unwrap(), QueueId(0)).unwrap();
    for _ in 0..50 {
        let record = Record::plain("T", QueueId(0), "127.0.0.1:10911".parse().unwrap(), &[7; 1 << 20]);
        store.append(&queue, &[record], &[0], Millis(1000), &mut Vec::new()).unwrap();
        store.write(&mut Vec::new());
    }
    let before = disk.calls();
    let entry = (QueueOffset(0), Unit { log_offset: LogOffset(0), size: 48 << 20, tags_code: 0 });
    let mut none = |found: Found<'_>| found.is_ok();
    assert!(store.read_messages(&queue, &[entry], Patience::Disk, &mut Vec::new(), &mut none));
    assert_eq!(disk.calls(), before);
}

/// The search ends in the middle of a record.
#[test]
fn the_search_for_a_message_ends_where_there_is_too_much_log_before_it() {
    let open = |disk: &MemoryDisk| Store::open(Arc::new(disk.clone()), StoreOptions::new("/s")).unwrap().0;
    let disk = MemoryDisk::new();
    let store = open(&disk);
    append(&store, "T", 0);
    let queue = store.queue_or_create(&TopicName::parse("Orders").unwrap(), QueueId(0)).unwrap();
    let host = "127.0.0.1:10911".parse().unwrap();
    for _ in 0..70 {
        let record = Record::plain("Orders", QueueId(0), host, &[7; 1_000_000]);
        store.append(&queue, &[record], &[0], Millis(1000), &mut Vec::new()).unwrap();
        store.write(&mut Vec::new());
    }
    (1..3).for_each(|number| append(&store, "T", number));
    store.close().unwrap();
    drop((store, queue));
    flip(&disk, Path::new("/s/consumequeue/T/0/00000000000000000000"), 20, &[0, 0, 0, 0, 0x10]);
    let store = open(&disk);
    let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
    disk.die_at(10_000);
    assert!(!store.restore_entry(&queue, QueueOffset(1)).unwrap());
    assert!(!disk.is_dead(), "it comes to its end");
}

#[test]
fn an_entry_that_was_read_ahead_and_made_anew_since_is_read_anew() {
    let disk = filled();
    let entries = |store: &Store, offset: i64| {
        let (queue, mut units) = (store.queue("T", QueueId(0)).unwrap().unwrap(), Vec::new());
        assert!(queue.read_patiently(QueueOffset(offset), 4, Patience::Disk, &mut units).unwrap());
        units
    };
    let whole = entries(&open(&disk), 8);
    flip(&disk, &PathBuf::from(format!("/s/consumequeue/T/0/{:020}", 0)), 9 * 20, &[0, 0, 0, 0, 0, 0, 0, 7]);
    let store = open(&disk);
    // Whoever reads twice in a row gets more read than that.
    for offset in [0, 4] {
        entries(&store, offset);
    }
    let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
    assert!(store.restore_entry(&queue, QueueOffset(9)).unwrap());
    assert_eq!(entries(&store, 8), whole);
}

/// Of messages with parts of the same lengths each is known by a few words, and yet taken for no other.
#[test]
fn an_entry_that_leads_to_a_message_of_the_same_kind_does_not_deliver_it() {
    let disk = MemoryDisk::new();
    let store = open(&disk);
    let queues = [("Orders", 0), ("Orderz", 0), ("Orders", 1)];
    let mut units = [const { Vec::new() }; 3];
    for number in 0..400 {
        for ((topic, id), units) in queues.iter().zip(&mut units) {
            let host = "127.0.0.1:10911".parse().unwrap();
            let record = Record::plain(topic, QueueId(*id), host, b"body");
            let queue = store.queue_or_create(&TopicName::parse(topic).unwrap(), QueueId(*id)).unwrap();
            let mut placed = Vec::new();
            store.append(&queue, &[record], &[0], Millis(1000), &mut placed).unwrap();
            let Appended { log_offset, queue_offset, end, .. } = placed[0];
            assert_eq!(queue_offset.0, number);
            units.push((queue_offset, Unit { log_offset, size: (end - log_offset) as i32, tags_code: 0 }));
        }
        store.write(&mut Vec::new());
    }
    let mut entries = units[0].clone();
    let astray = [(3, units[1][3]), (9, units[2][9]), (10, units[0][11]), (40, units[0][39])];
    for (at, (_, unit)) in astray {
        entries[at].1 = unit;
    }
    entries[20].1.size -= 1;
    entries[30].1.log_offset.0 += 1;
    let read = |store: &Store| {
        let queue = store.queue("Orders", QueueId(0)).unwrap().unwrap();
        let mut missed = Vec::new();
        let mut seen = entries.iter();
        store.read_messages(&queue, &entries, Patience::Disk, &mut Vec::new(), &mut |message: Found<'_>| {
            let (offset, _) = seen.next().unwrap();
            match message {
                Ok(bytes) => {
                    let record = RecordView::decode(bytes).unwrap();
                    let place = (record.topic, record.queue_id, record.queue_offset);
                    assert_eq!(place, ("Orders", QueueId(0), *offset));
                }
                Err(_) => missed.push(offset.0),
            }
            true
        });
        assert_eq!((missed, seen.count()), (vec![3, 9, 10, 20, 30, 40], 0));
    };
    // From memory, and from the disk.
    read(&store);
    store.close().unwrap();
    drop(store);
    read(&open(&disk));
}

/// Readers share parts of the log, and messages that lie across two of them are put together.
#[test]
fn messages_are_whole_where_parts_of_the_log_meet_or_are_damaged() {
    const PART: u64 = 64 * 1024;
    let open = |disk: &MemoryDisk| {
        Store::open(Arc::new(disk.clone()), StoreOptions { segment_bytes: 1 << 20, ..options() }).unwrap().0
    };
    let disk = MemoryDisk::new();
    let store = open(&disk);
    (0..600).for_each(|number| TOPICS.iter().for_each(|topic| append(&store, topic, number)));
    store.close().unwrap();
    drop(store);
    let whole = delivered(&open(&disk));
    assert_eq!(whole.len(), 1200);
    for at in [PART - 3000, PART - 1, PART, 3 * PART + 100, 16 * PART - 9000] {
        let disk = disk.crash(Crash::KeepAll);
        flip(&disk, &segment(0), at, &[0x04]);
        assert!(delivered(&open(&disk)) == whole, "a bit at {at}");
        flip(&disk, &segment(0), at, &[0xFF; 9]);
        let store = open(&disk);
        let some = delivered(&store);
        assert!((whole.len() - 20..whole.len()).contains(&some.len()), "{} at {at}", some.len());
        assert!(some.iter().all(|message| whole.contains(message)), "at {at}");
        assert!(delivered(&store) == some, "once more, at {at}");
    }
}

/// Whoever loads a queue must not take its damaged end for stale and give the number to another message.
#[test]
fn a_damaged_last_entry_keeps_its_message_and_its_number() {
    let disk = filled();
    let whole = delivered(&open(&disk));
    let file = PathBuf::from(format!("/s/consumequeue/T/0/{:020}", 800));
    for byte in 0..12 {
        for mask in [0x01, 0x80, 0xFF] {
            let disk = disk.crash(Crash::KeepAll);
            flip(&disk, &file, 19 * 20 + byte, &[mask]);
            let store = open(&disk);
            assert!(delivered(&store) == whole, "byte {byte}, {mask:#x}");
            append(&store, "T", MESSAGES);
            assert_eq!(store.queue("T", QueueId(0)).unwrap().unwrap().max(), QueueOffset(MESSAGES + 1));
            store.close().unwrap();
            drop(store);
            assert_eq!(check(&disk).1, [], "byte {byte}, {mask:#x}");
        }
    }
}

/// The end of a queue is searched for by halves: a damaged entry on the way is not the end.
#[test]
fn no_damaged_entry_is_taken_for_the_end_of_its_queue() {
    let disk = filled_with(53);
    let whole = delivered(&open(&disk));
    let file = PathBuf::from(format!("/s/consumequeue/T/0/{:020}", 800));
    for entry in 0..13 {
        let disk = disk.crash(Crash::KeepAll);
        flip(&disk, &file, entry * 20, &[0x80]);
        let store = open(&disk);
        let queue = store.queue("T", QueueId(0)).unwrap().unwrap();
        assert_eq!(queue.max(), QueueOffset(53), "entry {entry}");
        scrub(&store);
        assert!(delivered(&store) == whole, "entry {entry}");
    }
}

#[test]
fn damage_is_counted_once_for_each_place() {
    let disk = filled();
    flip(&disk, &segment(0), 6000, &[0xFF; 9]);
    let store = open(&disk);
    let first = delivered(&store);
    let damages = store.log().damages();
    assert!(damages > 0);
    assert!(delivered(&store) == first);
    assert_eq!(store.log().damages(), damages);
    assert!(store.log().written() > LogOffset(0));
}
