//! Index files as a Java broker left them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::Millis;
use cometmq_store::check::{CheckOptions, check};
use cometmq_store::checkpoint::JavaCheckpoint;
use cometmq_store::index::format::{IndexEntry, IndexHeader, Shape};
use cometmq_store::index::{KeyHasher, has_key};
use cometmq_store::{Disk, RealDisk, Store};

use crate::golden_store::{ALL, CLEAN, CLEAN_4, EXTRAS, Golden, KILLED, KILLED_4, Message};
use crate::keyed::{ALWAYS, append, find, keyed};

fn open(golden: &Golden, root: &Path) -> Store {
    Store::open(Arc::new(RealDisk), golden.options(root)).unwrap().0
}

fn index_files(root: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(root.join("index")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn header(bytes: &[u8], shape: Shape) -> IndexHeader {
    IndexHeader::decode(bytes.first_chunk().unwrap(), shape)
}

fn entry(bytes: &[u8], shape: Shape, number: u32) -> IndexEntry {
    IndexEntry::decode(bytes[shape.entry_at(number) as usize..].first_chunk().unwrap())
}

/// Keys of a message as Java indexes them.
fn keys(message: &Message) -> Vec<&str> {
    let words = message.properties.get("KEYS").map_or("", String::as_str).split(' ');
    let unique = message.properties.get("UNIQ_KEY").map(String::as_str);
    unique.into_iter().chain(words.filter(|word| !word.is_empty())).collect()
}

fn assert_all_found(store: &Store, messages: &[Message]) -> usize {
    let mut places: BTreeMap<(&str, &str), BTreeSet<i64>> = BTreeMap::new();
    for message in messages {
        for key in keys(message) {
            places.entry((&message.topic, key)).or_default().insert(message.phy_offset);
        }
    }
    for ((topic, key), places) in &places {
        let expected: Vec<i64> = places.iter().rev().copied().collect();
        assert_eq!(find(store, topic, key, ALWAYS), expected, "{topic}#{key}");
    }
    places.len()
}

#[test]
fn every_key_of_every_message_is_found_in_javas_files() {
    for (golden, count) in [(CLEAN, 325), (EXTRAS, 73), (CLEAN_4, 145)] {
        let (_directory, root) = golden.unpack();
        let before: Vec<Vec<u8>> =
            index_files(&root).iter().map(|path| std::fs::read(path).unwrap()).collect();
        let store = open(&golden, &root);
        assert_eq!(assert_all_found(&store, &golden.messages()), count, "{}", golden.name);
        store.close().unwrap();
        let after: Vec<Vec<u8>> =
            index_files(&root).iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert!(before == after, "{}: opening and closing changes nothing", golden.name);
    }
}

/// As a Java broker does it: a file that is not full may not be whole after a crash.
#[test]
fn the_file_of_a_killed_java_broker_is_made_anew() {
    for golden in [KILLED, KILLED_4] {
        let (_directory, root) = golden.unpack();
        let name = index_files(&root);
        let store = open(&golden, &root);
        assert_all_found(&store, &golden.messages());
        store.close().unwrap();
        assert_ne!(index_files(&root), name);
        assert_eq!(index_files(&root).len(), 1);
    }
}

#[test]
fn javas_entries_are_decoded_as_its_rules_say() {
    for golden in ALL {
        let (_directory, root) = golden.unpack();
        let messages: BTreeMap<i64, Message> =
            golden.messages().into_iter().map(|message| (message.phy_offset, message)).collect();
        for path in index_files(&root) {
            let bytes = std::fs::read(path).unwrap();
            let shape = golden.index;
            let header = header(&bytes, shape);
            assert_eq!(header.encode(), bytes[..40]);
            let used = bytes[40..shape.entry_at(0) as usize].chunks(4).filter(|slot| *slot != [0; 4]).count();
            assert_eq!(header.used_slots as usize, used);
            for number in 1..header.count {
                let entry = entry(&bytes, shape, number);
                let message = &messages[&entry.offset.0];
                let hasher = KeyHasher::new(&message.topic);
                assert!(keys(message).iter().any(|key| hasher.key(key) == entry.hash), "{message:?}");
                assert_eq!(entry.seconds, header.seconds(Millis(message.store_timestamp)));
                assert!(entry.previous < number);
            }
        }
    }
}

/// A file that is made from the same log is the same, byte for byte.
#[test]
fn the_files_that_are_made_from_a_java_log_are_javas() {
    for golden in ALL {
        let (_directory, root) = golden.unpack();
        let javas: Vec<Vec<u8>> =
            index_files(&root).iter().map(|path| std::fs::read(path).unwrap()).collect();
        std::fs::remove_dir_all(root.join("index")).unwrap();
        let store = open(&golden, &root);
        assert_all_found(&store, &golden.messages());
        store.close().unwrap();
        let ours: Vec<Vec<u8>> = index_files(&root).iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert_eq!(ours.len(), javas.len(), "{}", golden.name);
        for (ours, javas) in ours.iter().zip(&javas) {
            assert_eq!(header(ours, golden.index), header(javas, golden.index), "{}", golden.name);
            assert!(ours == javas, "{}", golden.name);
        }
        let checkpoint = JavaCheckpoint::load(&RealDisk, &root.join("checkpoint")).unwrap();
        let full = javas.iter().map(|file| header(file, golden.index)).rfind(|header| header.count == 256);
        assert_eq!(checkpoint.index, full.map_or(Millis(0), |header| header.end_time), "{}", golden.name);
    }
}

/// The store's own check finds nothing wrong with the index.
fn assert_index_right(golden: &Golden, root: &Path) {
    let options = CheckOptions {
        log_directories: golden.options(root).log_directories,
        index_slots: golden.index.slots,
        ..CheckOptions::new(root)
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut found = Vec::new();
    let summary = check(&disk, &options, &mut |_, _| {}, &mut |finding| found.push(finding)).unwrap();
    found.retain(|finding| finding.file.starts_with(root.join("index")));
    assert_eq!(found, [], "{}", golden.name);
    assert!(summary.index_entries > 0 || !summary.clean, "{}", golden.name);
}

#[test]
fn a_java_index_is_gone_on_with() {
    for golden in ALL {
        let (_directory, root) = golden.unpack();
        assert_index_right(&golden, &root);
        let mut added = Vec::new();
        for life in 0..3 {
            let store = open(&golden, &root);
            for number in 0..150 {
                let unique = format!("new-{life}-{number}");
                let text = keyed(&unique, "shared K-0");
                added.push((unique, append(&store, &text, Millis(1)).unwrap().log_offset.0));
                store.write(&mut Vec::new());
            }
            store.sync(&mut Vec::new()).unwrap();
            for (unique, place) in &added {
                assert_eq!(find(&store, "T", unique, ALWAYS), [*place]);
            }
            let shared: Vec<i64> = added.iter().rev().map(|(_, place)| *place).collect();
            assert_eq!(find(&store, "T", "shared", ALWAYS), shared);
            assert_eq!(find(&store, "T", "K-0", ALWAYS), shared);
            assert_all_found(&store, &golden.messages());
            store.close().unwrap();
            assert_index_right(&golden, &root);
        }
        assert!(has_key(keyed("a", "b c").as_bytes(), "c"));
        let files = index_files(&root);
        assert!(files.len() >= 4, "{}: {} files", golden.name, files.len());
        for path in &files[..files.len() - 1] {
            let full = header(&std::fs::read(path).unwrap(), golden.index);
            assert_eq!(full.count, golden.index.entries);
        }
    }
}
