//! A queue read as a consumer reads it: through its entries, from its first message to its end.

#![allow(dead_code, clippy::unwrap_used)]

use cometmq_protocol::message::RecordView;
use cometmq_store::{Queue, Store, Unit};

/// All entries of a queue, read so many at a time.
pub fn entries(queue: &Queue, at_once: usize) -> Vec<Unit> {
    let mut units = Vec::new();
    while queue.min() + (units.len() as i64) < queue.max() {
        let (before, next) = (units.len(), queue.min() + units.len() as i64);
        queue.read(next, at_once, &mut units).unwrap();
        let (topic, id, max) = (queue.topic(), queue.id(), queue.max());
        assert!(units.len() > before, "{topic}/{id}: no entry at {next} of {max}");
    }
    units
}

/// Shows every message of a queue: dense offsets, whole bodies. Entries are read so many at a time.
pub fn each_record(store: &Store, queue: &Queue, at_once: usize, mut each: impl FnMut(&RecordView<'_>)) {
    let units = entries(queue, at_once);
    let (topic, id) = (queue.topic().as_str(), queue.id());
    let mut next = queue.min();
    store
        .read(&units, &mut Vec::new(), &mut |bytes| {
            let record = RecordView::decode(bytes).unwrap();
            record.check_body().unwrap();
            assert_eq!((record.topic, record.queue_id, record.queue_offset), (topic, id, next));
            each(&record);
            next = next + 1;
            true
        })
        .unwrap();
    assert_eq!(next, queue.max(), "{topic}/{id}: all entries have their records");
}
