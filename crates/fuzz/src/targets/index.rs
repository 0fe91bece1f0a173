//! Index files: their header and entries, and a store that is opened with any bytes in their place.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use cometmq_protocol::message::properties::{self, key};
use cometmq_protocol::message::{Record, RecordView};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{Millis, QueueId};
use cometmq_store::disk::{Crash, write_all_at};
use cometmq_store::index::format::{ENTRY_BYTES, HEADER_BYTES, IndexEntry, IndexHeader, Shape};
use cometmq_store::{Disk, DiskError, IndexOptions, KeyQuery, MemoryDisk, Store, StoreOptions};

use crate::golden::Golden;
use crate::target::Outcome;

/// Small, so that slots are shared and chains reach every entry.
const SHAPE: Shape = Shape { slots: 4, entries: 24 };
/// Messages of the store that has the files; a key for each three.
const MESSAGES: usize = 12;
/// Bits of the layout: the store was not closed in order; there are two files; a file has the usual length, whatever is
/// given of it.
const HAS_ABORT: u8 = 1;
const HAS_TWO_FILES: u8 = 2;
const HAS_LENGTH: u8 = 4;

/// A store that was closed in order, and the places of each key's messages.
static STORED: LazyLock<(MemoryDisk, BTreeMap<String, Vec<i64>>)> =
    LazyLock::new(|| stored().expect("a disk in memory takes it"));

/// What a header and an entry say is written to the same bytes.
pub fn format(data: &[u8]) -> Outcome {
    let Some((head, entries)) = data.split_first_chunk::<HEADER_BYTES>() else {
        return Outcome::refused("no header");
    };
    let header = IndexHeader::decode(head, SHAPE);
    assert!((1..=SHAPE.entries).contains(&header.count));
    assert_eq!(IndexHeader::decode(&header.encode(), SHAPE), header);
    assert_eq!(header.encode()[..32], head[..32], "times and places are what they are");
    let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
    for bytes in entries {
        assert_eq!(IndexEntry::decode(bytes).encode(), *bytes);
    }
    Outcome::accepted((header.count, Outcome::magnitude(entries.len())))
}

/// Whatever stands in the index, a key leads to messages that have it, and a second start finds the same. The first byte of
/// the input chooses how it is laid out.
pub fn lookup(data: &[u8]) -> Outcome {
    let Some((layout, rest)) = data.split_first() else { return Outcome::refused("no layout") };
    let (stored, places) = &*STORED;
    let disk = stored.crash(Crash::KeepAll);
    lay_out(&disk, *layout, rest).expect("a disk in memory takes it");
    let found = match answers(&disk, places) {
        Ok(found) => found,
        Err(refusal) => return Outcome::refused(refusal),
    };
    let again = answers(&disk, places).expect("what was opened once can be opened again");
    assert_eq!(again, found, "a second start finds the same");
    Outcome::accepted(found.iter().map(|found| Outcome::magnitude(*found)).sum::<u64>())
}

fn lay_out(disk: &MemoryDisk, layout: u8, data: &[u8]) -> Result<(), DiskError> {
    let directory = Path::new("/s/index");
    let names: Vec<_> = disk.list(directory)?.into_iter().map(|entry| entry.name).collect();
    for name in &names[1..] {
        disk.remove_file(&directory.join(name))?;
    }
    let (first, second) =
        data.split_at(if layout & HAS_TWO_FILES == 0 { data.len() } else { data.len() / 2 });
    put(disk, &directory.join(&names[0]), layout, first)?;
    if layout & HAS_TWO_FILES != 0 {
        put(disk, &directory.join("99991231235959999"), layout, second)?;
    }
    if layout & HAS_ABORT != 0 {
        disk.open(Path::new("/s/abort"), true)?;
    }
    Ok(())
}

fn put(disk: &MemoryDisk, path: &Path, layout: u8, bytes: &[u8]) -> Result<(), DiskError> {
    let whole = SHAPE.file_bytes() as usize;
    let bytes = &bytes[..bytes.len().min(2 * whole)];
    let file = disk.open(path, true)?;
    file.set_len(0)?;
    file.set_len(if layout & HAS_LENGTH == 0 { bytes.len() } else { whole } as u64)?;
    write_all_at(&*file, &bytes[..bytes.len().min(file.len()? as usize)], 0)
}

/// How many messages each key leads to.
fn answers(disk: &MemoryDisk, places: &BTreeMap<String, Vec<i64>>) -> Result<Vec<usize>, String> {
    let store = open(disk).map_err(|error| error.to_string())?;
    let mut counts = Vec::new();
    for (key, places) in places {
        let mut count = 0;
        let query = KeyQuery { topic: "T", key, begin: Millis(0), end: Millis(i64::MAX) };
        let found = store.find_by_key(&query, &mut |record| {
            let view = RecordView::decode(record).expect("only whole records are found");
            assert!(places.contains(&view.log_offset.0), "{key} does not lead to {}", view.log_offset);
            count += 1;
            ControlFlow::Continue(())
        });
        found.expect("a disk in memory reads");
        counts.push(count);
    }
    Ok(counts)
}

fn open(disk: &MemoryDisk) -> Result<Store, cometmq_store::OpenError> {
    let options = StoreOptions {
        segment_bytes: 16 * 1024,
        queue_file_bytes: 400,
        index: Some(IndexOptions { shape: SHAPE, utc_offset_ms: 0 }),
        ..StoreOptions::new(Path::new("/s"))
    };
    Store::open(Arc::new(disk.clone()), options).map(|(store, _)| store)
}

fn stored() -> Result<(MemoryDisk, BTreeMap<String, Vec<i64>>), DiskError> {
    let disk = MemoryDisk::new();
    let store = open(&disk).expect("an empty disk opens");
    let queue = store.queue_or_create(&TopicName::parse("T").expect("a name"), QueueId(0))?;
    let mut places = BTreeMap::<String, Vec<i64>>::new();
    for number in 0..MESSAGES {
        let keys = [format!("K{}", number / 3), format!("U{number}")];
        let mut text = String::new();
        properties::push(&mut text, key::KEYS, &keys[0]);
        properties::push(&mut text, key::UNIQ_KEY, &keys[1]);
        let record = Record {
            properties: [text.as_bytes(), b""],
            ..Record::plain("T", QueueId(0), "127.0.0.1:10911".parse().expect("an address"), b"body")
        };
        let (mut placed, now) = (Vec::new(), Millis(1_700_000_000_000 + number as i64 * 1000));
        store.append(&queue, &[record], &[0], now, &mut placed).expect("a disk in memory takes it");
        store.write(&mut Vec::new());
        keys.into_iter().for_each(|key| places.entry(key).or_default().push(placed[0].log_offset.0));
    }
    drop(queue);
    store.close()?;
    Ok((disk, places))
}

/// Index files of Java stores.
pub fn files(golden: &Golden) -> Vec<Vec<u8>> {
    golden.files_with("/index/").map(<[u8]>::to_vec).collect()
}

/// The same, and the file that belongs to the store, in each layout.
pub fn laid_out(golden: &Golden) -> Vec<Vec<u8>> {
    let (disk, _) = &*STORED;
    let own = disk.content().into_iter().filter(|(path, _)| path.starts_with("/s/index"));
    let all: Vec<_> = own.map(|(_, bytes)| bytes).chain(files(golden)).collect();
    let in_layout = |layout: u8| all.iter().map(move |file| [&[layout], &file[..]].concat());
    (0..8).flat_map(in_layout).collect()
}
