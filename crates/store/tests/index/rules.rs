//! Times, bounds, collisions, files that vanish, expire or do not fit.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use cometmq_protocol::{LogOffset, Millis};
use cometmq_store::disk::Crash;
use cometmq_store::index::format::{self, Shape};
use cometmq_store::{Disk, FlushPolicy, IndexOptions, KeyQuery, MemoryDisk, OpenError, Store, StoreOptions};
use proptest::prelude::*;

use crate::keyed::{
    ALWAYS, SHAPE, TOPIC, append, append_with, assert_all_found, catch_up, end, find, keyed, open, options,
};

fn send(store: &Store, unique: &str, keys: &str, at: i64) -> i64 {
    let place = append(store, &keyed(unique, keys), Millis(at)).unwrap().log_offset.0;
    store.write(&mut Vec::new());
    place
}

fn send_all(store: &Store, name: &str, keys: &str, at: std::ops::Range<i64>) -> Vec<i64> {
    at.enumerate().map(|(n, at)| send(store, &format!("{name}{n}"), keys, at)).collect()
}

fn index_files(disk: &MemoryDisk) -> Vec<String> {
    disk.list(Path::new("/store/index")).unwrap().into_iter().map(|entry| entry.name).collect()
}

#[test]
fn a_time_range_is_exact_to_the_millisecond() {
    let store = open(&MemoryDisk::new(), options(FlushPolicy::Async));
    let places: Vec<i64> = (0..100).map(|n| send(&store, &format!("U{n}"), "k", 5_000 + n * 321)).collect();
    for (begin, end) in
        [(5_000, 5_000), (5_321, 5_642), (6_000, 20_000), (37_000, 99_000), (0, 4_999), (9, 8)]
    {
        let inside = |n: &i64| (begin..=end).contains(&(5_000 + n * 321));
        let expected: Vec<i64> = (0..100).rev().filter(inside).map(|n| places[n as usize]).collect();
        assert_eq!(find(&store, TOPIC, "k", (Millis(begin), Millis(end))), expected, "{begin}..={end}");
    }
}

#[test]
fn messages_with_another_key_of_the_same_hash_are_not_found() {
    let store = open(&MemoryDisk::new(), options(FlushPolicy::Async));
    let first = send(&store, "U0", "Aa", 1);
    let second = send(&store, "U1", "BB", 2);
    let both = send(&store, "U2", "BB Aa", 3);
    assert_eq!(find(&store, TOPIC, "Aa", ALWAYS), [both, first]);
    assert_eq!(find(&store, TOPIC, "BB", ALWAYS), [both, second]);
    assert_eq!(find(&store, TOPIC, "BB Aa", ALWAYS), [0; 0]);
    assert_eq!(find(&store, "Other", "Aa", ALWAYS), [0; 0]);
}

#[test]
fn a_query_ends_when_it_has_enough() {
    let store = open(&MemoryDisk::new(), options(FlushPolicy::Async));
    let places: Vec<i64> = (0..90).map(|n| send(&store, &format!("U{n}"), "k", 1)).collect();
    let mut found = Vec::new();
    let query = KeyQuery { topic: TOPIC, key: "k", begin: ALWAYS.0, end: ALWAYS.1 };
    store
        .find_by_key(&query, &mut |record| {
            found.push(cometmq_protocol::message::RecordView::decode(record).unwrap().log_offset.0);
            if found.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(found, [places[89], places[88], places[87]]);
}

#[test]
fn rolled_back_transactions_have_no_key_and_prepared_ones_have() {
    let disk = MemoryDisk::new();
    let store = open(&disk, options(FlushPolicy::Async));
    let prepared = append_with(&store, &keyed("P", "k"), Millis(1), b"p", 4).unwrap().log_offset.0;
    append_with(&store, &keyed("R", "k"), Millis(1), b"r", 12).unwrap();
    store.write(&mut Vec::new());
    for store in [store, open(&disk.crash(Crash::KeepAll), options(FlushPolicy::Async))] {
        assert_eq!(find(&store, TOPIC, "k", ALWAYS), [prepared]);
        assert_eq!(find(&store, TOPIC, "R", ALWAYS), [0; 0]);
    }
}

#[test]
fn under_sync_flush_a_message_is_found_once_it_is_durable() {
    let store = open(&MemoryDisk::new(), options(FlushPolicy::Sync));
    let place = send(&store, "U", "", 1);
    assert_eq!(find(&store, TOPIC, "U", ALWAYS), [0; 0]);
    assert!(!store.read_at(LogOffset(place), &mut Vec::new()).unwrap());
    store.sync(&mut Vec::new()).unwrap();
    assert_eq!(find(&store, TOPIC, "U", ALWAYS), [place]);
    assert!(store.read_at(LogOffset(place), &mut Vec::new()).unwrap());
}

#[test]
fn nothing_but_a_records_first_byte_is_read_as_a_record() {
    let disk = MemoryDisk::new();
    let store = open(&disk, options(FlushPolicy::Async));
    let starts: Vec<i64> = (0..40).map(|n| send(&store, &format!("U{n}"), "", 1)).collect();
    let last = end(&store).0;
    store.close().unwrap();
    drop(store);
    // From memory, then from the disk.
    let store = open(&disk, options(FlushPolicy::Async));
    let mut record = Vec::new();
    for offset in -9..last + 9 {
        let is_record = store.read_at(LogOffset(offset), &mut record).unwrap();
        assert_eq!(is_record, starts.contains(&offset), "{offset}");
    }
    assert!(!store.read_at(LogOffset(i64::MAX), &mut record).unwrap());
    assert!(!store.read_at(LogOffset(i64::MIN), &mut record).unwrap());
}

/// Files that vanish, older files put back, a store that had no index: all of it is found again.
#[test]
fn a_lost_old_or_new_index_is_made_whole() {
    let disk = MemoryDisk::new();
    let without = StoreOptions { index: None, ..options(FlushPolicy::Async) };
    let store = open(&disk, without.clone());
    send_all(&store, "A", "k one", 0..60);
    assert_eq!((find(&store, TOPIC, "k", ALWAYS), store.index_position()), (vec![], None));
    store.close().unwrap();
    drop(store);
    let life = |name: &str, before: &dyn Fn()| {
        before();
        let store = open(&disk, options(FlushPolicy::Async));
        catch_up(&store);
        assert_all_found(&store, name);
        send_all(&store, name, "k two", 100..160);
        assert_all_found(&store, name);
        store.close().unwrap();
    };
    let remove = |path: &str| disk.remove_file(Path::new(path)).unwrap();
    let remove_index = |from: usize| {
        index_files(&disk).iter().skip(from).for_each(|name| remove(&format!("/store/index/{name}")));
    };
    life("new", &|| {});
    life("no progress", &|| remove("/store/cometmq/indexed"));
    life("no files", &|| remove_index(0));
    life("first file only", &|| remove_index(1));
    life("no newest file", &|| remove_index(index_files(&disk).len() - 1));
    life("no oldest file", &|| remove(&format!("/store/index/{}", index_files(&disk)[0])));
    life("neither", &|| {
        remove("/store/cometmq/indexed");
        remove_index(0);
    });
    life("without for a while", &|| {
        let store = open(&disk, without.clone());
        send_all(&store, "W", "k", 200..260);
        store.close().unwrap();
    });
}

#[test]
fn an_index_of_another_log_is_made_anew() {
    let (disk, other) = (MemoryDisk::new(), MemoryDisk::new());
    for (disk, name) in [(&disk, "a"), (&other, "other")] {
        let store = open(disk, options(FlushPolicy::Async));
        let longer = if name == "a" { 0 } else { 1 };
        send_all(&store, name, "k", 0..50 + longer);
        store.close().unwrap();
    }
    let copy = |path: &str| {
        let bytes = cometmq_store::disk::read_file(&other, Path::new(path)).unwrap().unwrap();
        let file = disk.open(Path::new(path), true).unwrap();
        file.set_len(0).unwrap();
        cometmq_store::disk::write_all_at(&*file, &bytes, 0).unwrap();
    };
    index_files(&disk).iter().for_each(|name| {
        disk.remove_file(&Path::new("/store/index").join(name)).unwrap();
    });
    index_files(&other).iter().for_each(|name| copy(&format!("/store/index/{name}")));
    disk.remove_file(Path::new("/store/cometmq/indexed")).unwrap();
    let store = open(&disk, options(FlushPolicy::Async));
    catch_up(&store);
    assert_all_found(&store, "another log's index");
}

#[test]
fn files_are_named_by_local_time_and_grow() {
    let disk = MemoryDisk::new();
    let store = open(&disk, options(FlushPolicy::Async));
    for n in 0..100 {
        send(&store, &format!("U{n}"), "", 1_795_191_488_675);
    }
    store.close().unwrap();
    // An hour ahead of UTC, and all within one millisecond.
    assert_eq!(index_files(&disk), ["20261120171808675", "20261120171808676", "20261120171808677"]);
    for entry in disk.list(Path::new("/store/index")).unwrap() {
        assert_eq!(entry.bytes, SHAPE.file_bytes());
    }
}

#[test]
fn files_before_the_logs_start_go_but_never_the_last() {
    let disk = MemoryDisk::new();
    let store = open(&disk, options(FlushPolicy::Async));
    let places: Vec<i64> = (0..100).map(|n| send(&store, &format!("U{n}"), "", 1 + n)).collect();
    store.sync(&mut Vec::new()).unwrap();
    store.flush().unwrap();
    assert_eq!(index_files(&disk).len(), 3);
    assert_eq!(store.delete_index_before(LogOffset(places[38])).unwrap(), 0, "the 39th is its last");
    assert_eq!(store.delete_index_before(LogOffset(places[39])).unwrap(), 1);
    assert_eq!(store.delete_index_before(LogOffset(i64::MAX)).unwrap(), 1);
    assert_eq!(index_files(&disk).len(), 1);
    assert_eq!(find(&store, TOPIC, "U99", ALWAYS), [places[99]]);
    assert_eq!(find(&store, TOPIC, "U0", ALWAYS), [0; 0]);
    store.close().unwrap();
    drop(store);
    // The log begins with them all the same: they get entries again.
    let store = open(&disk, options(FlushPolicy::Async));
    catch_up(&store);
    assert_all_found(&store, "a log that did not lose its beginning");
}

#[test]
fn settings_that_do_not_fit_the_files_are_refused_with_the_cure() {
    let disk = MemoryDisk::new();
    let store = open(&disk, options(FlushPolicy::Async));
    send(&store, "U", "", 1);
    store.close().unwrap();
    drop(store);
    let refused = |slots, entries| {
        let index = Some(IndexOptions { shape: Shape { slots, entries }, utc_offset_ms: 0 });
        let options = StoreOptions { index, ..options(FlushPolicy::Async) };
        match Store::open(Arc::new(disk.clone()), options) {
            Err(OpenError::Index(error)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let other = refused(16, 41);
    assert!(other.contains("has 904 bytes, but maxHashSlotNum=16 and maxIndexNum=41 make 924"), "{other}");
    assert!(refused(0, 40).contains("maxHashSlotNum=0"));
    assert!(refused(5_000_000, 2_000_000_000).contains("no file may be longer"));
}

/// What an idle and what a busy index take in memory.
#[test]
fn memory_follows_the_keys() {
    let index = Some(IndexOptions { shape: Shape { slots: 100_000, entries: 400_000 }, utc_offset_ms: 0 });
    let disk = MemoryDisk::new();
    let store = open(&disk, StoreOptions { index, segment_bytes: 1 << 20, ..options(FlushPolicy::Async) });
    assert_eq!(store.index_memory_bytes(), 0);
    send_all(&store, "U", "", 0..20);
    catch_up(&store);
    assert_eq!(find(&store, TOPIC, "U7", ALWAYS).len(), 1);
    assert!(store.index_memory_bytes() < 32 * 1024, "{}", store.index_memory_bytes());
    send_all(&store, "V", "", 20..20_020);
    assert!(store.index_memory_bytes() > 800 * 1024, "entries wait");
    store.sync(&mut Vec::new()).unwrap();
    store.flush().unwrap();
    assert!(store.index_memory_bytes() < 512 * 1024 * 1024, "{}", store.index_memory_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Bits flip anywhere in the files: nothing false is found and nothing panics.
    #[test]
    fn damaged_files_never_lead_to_a_wrong_message(damage in proptest::collection::vec((0usize..3, 0u64..904, any::<u8>()), 1..20)) {
        let disk = MemoryDisk::new();
        let store = open(&disk, options(FlushPolicy::Async));
        let places: Vec<i64> = (0..100).map(|n| send(&store, &format!("U{n}"), "k", 1 + n)).collect();
        store.close().unwrap();
        drop(store);
        let names = index_files(&disk);
        for (file, at, byte) in damage {
            let file = disk.open(&Path::new("/store/index").join(&names[file]), false).unwrap();
            file.write_at(&[byte], at).unwrap();
        }
        let store = open(&disk, options(FlushPolicy::Async));
        catch_up(&store);
        for (n, its) in places.iter().enumerate() {
            let found = find(&store, TOPIC, &format!("U{n}"), ALWAYS);
            prop_assert!(found.iter().all(|place| place == its));
        }
        prop_assert!(find(&store, TOPIC, "k", ALWAYS).iter().all(|place| places.contains(place)));
        send(&store, "after", "k", 200);
        prop_assert_eq!(find(&store, TOPIC, "after", ALWAYS).len(), 1);
    }
}

#[test]
fn names_of_files_that_are_none_of_ours_are_left_alone() {
    let disk = MemoryDisk::new();
    let store = open(&disk, options(FlushPolicy::Async));
    store.close().unwrap();
    drop(store);
    disk.create_directory(Path::new("/store/index")).unwrap();
    let notes = disk.open(Path::new("/store/index/notes.txt"), true).unwrap();
    cometmq_store::disk::write_all_at(&*notes, b"mine", 0).unwrap();
    let store = open(&disk, options(FlushPolicy::Async));
    send(&store, "U", "", 1);
    store.close().unwrap();
    assert_eq!(index_files(&disk).len(), 2);
    assert_eq!(format::parse_name("notes.txt"), None);
}
