//! Stores with keyed messages, and what their keys must lead to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use cometmq_protocol::message::properties::{self, Properties, key};
use cometmq_protocol::message::{Record, RecordView};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId};
use cometmq_store::index::format::Shape;
use cometmq_store::{
    AppendError, Appended, FlushPolicy, IndexOptions, KeyQuery, MemoryDisk, Store, StoreOptions,
};

use crate::reading::each_record;

pub const TOPIC: &str = "T";
/// Small files, so that they fill up all the time and slots are shared.
pub const SHAPE: Shape = Shape { slots: 16, entries: 40 };
pub const ALWAYS: (Millis, Millis) = (Millis(0), Millis(i64::MAX));

pub fn options(flush: FlushPolicy) -> StoreOptions {
    StoreOptions {
        segment_bytes: 4096,
        queue_file_bytes: 400,
        flush,
        index: Some(IndexOptions { shape: SHAPE, utc_offset_ms: 3_600_000 }),
        ..StoreOptions::new("/store")
    }
}

pub fn open(disk: &MemoryDisk, options: StoreOptions) -> Store {
    Store::open(Arc::new(disk.clone()), options).expect("the store opens").0
}

/// Properties with these keys, the client's id first.
pub fn keyed(unique: &str, keys: &str) -> String {
    let mut text = String::new();
    if !keys.is_empty() {
        properties::push(&mut text, key::KEYS, keys);
    }
    properties::push(&mut text, key::UNIQ_KEY, unique);
    text
}

pub fn append(store: &Store, text: &str, now: Millis) -> Result<Appended, AppendError> {
    append_with(store, text, now, b"body", 0)
}

pub fn append_with(
    store: &Store,
    text: &str,
    now: Millis,
    body: &[u8],
    sys_flag: i32,
) -> Result<Appended, AppendError> {
    let host = "127.0.0.1:10911".parse().unwrap();
    let record = Record {
        sys_flag,
        properties: [text.as_bytes(), b""],
        ..Record::plain(TOPIC, QueueId(0), host, body)
    };
    let queue = store.queue_or_create(&TopicName::parse(TOPIC).unwrap(), QueueId(0));
    // On a disk that fails.
    let queue = queue.map_err(|error| AppendError::ReadOnly(Arc::new(error)))?;
    let mut placed = Vec::new();
    store.append(&queue, &[record], &[0], now, &mut placed)?;
    Ok(placed[0])
}

/// Places of the messages with this key, newest first.
pub fn find(store: &Store, topic: &str, key: &str, (begin, end): (Millis, Millis)) -> Vec<i64> {
    let mut found = Vec::new();
    let query = KeyQuery { topic, key, begin, end };
    store
        .find_by_key(&query, &mut |record| {
            let record = RecordView::decode(record).unwrap();
            record.check_body().unwrap();
            found.push(record.log_offset.0);
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// What the records of the queue say: the places of each key, newest first.
pub fn expected(store: &Store) -> BTreeMap<String, Vec<i64>> {
    let mut expected: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let Some(queue) = store.queue(TOPIC, QueueId(0)).unwrap() else { return expected };
    each_record(store, &queue, 32, |record| {
        let properties = Properties(record.properties);
        let words = properties.get(key::KEYS).unwrap_or("").split(' ').filter(|word| !word.is_empty());
        let keys: BTreeSet<&str> = properties.get(key::UNIQ_KEY).into_iter().chain(words).collect();
        for key in keys {
            expected.entry(key.to_owned()).or_default().insert(0, record.log_offset.0);
        }
    });
    expected
}

/// Lets the index read what it lacks.
pub fn catch_up(store: &Store) {
    let end = store.log().written();
    for _ in 0..100 {
        if store.index_position() >= Some(end) {
            return;
        }
        store.flush().unwrap();
    }
    panic!("the index stays at {:?} of {end}", store.index_position());
}

/// Every key of every readable message leads to just these messages.
pub fn assert_all_found(store: &Store, context: &str) {
    for (key, places) in expected(store) {
        assert_eq!(find(store, TOPIC, &key, ALWAYS), places, "key {key}, {context}");
    }
    assert_eq!(find(store, TOPIC, "nobody", ALWAYS), [0; 0], "{context}");
}

/// Position behind the last record.
pub fn end(store: &Store) -> LogOffset {
    store.log().written()
}
