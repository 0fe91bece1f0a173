//! Entries read ahead for consumers that go through a queue, so that not each of their pulls reads a file.
//!
//! A consumer is known by reading where the last one stopped. What is kept is bounded: each stretch of a queue has one
//! place, by a hash, and may lose it to another.

use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, TryLockError};

use cometmq_protocol::QueueId;
use cometmq_protocol::names::TopicName;
use foldhash::fast::FixedState;

use super::{Entry, POISONED, Unit};

/// Entries read at once for a consumer that goes on where it stopped.
pub(super) const AHEAD_UNITS: i64 = 512;
/// Entries that share a place: consumers of one queue who are far apart do not get in each other's way.
const STRETCH_UNITS: i64 = 8 * AHEAD_UNITS;
/// Places: with all of them full, 3 MiB of entries.
const PLACES: usize = 256;

#[derive(Debug)]
pub(super) struct ReadAhead(Vec<Mutex<Option<Ahead>>>);

/// A place that is held.
pub(super) type Place<'a> = MutexGuard<'a, Option<Ahead>>;

/// Entries of one queue from an offset on.
#[derive(Debug)]
pub(super) struct Ahead {
    pub topic: TopicName,
    pub id: QueueId,
    pub from: i64,
    /// As they stand in the file.
    pub bytes: Vec<u8>,
    /// Offset behind the last entry that was asked for.
    pub next: i64,
}

impl ReadAhead {
    pub fn new() -> ReadAhead {
        ReadAhead((0..PLACES).map(|_| Mutex::new(None)).collect())
    }

    /// The place for the entry at `offset`, held while its file is read: so nothing older than the last change stays in
    /// it. `None` when somebody else holds it, who may be waiting for the disk.
    pub fn try_place(&self, topic: &TopicName, id: QueueId, offset: i64) -> Option<Place<'_>> {
        match self.mutex(topic, id, offset).try_lock() {
            Ok(place) => Some(place),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(_)) => panic!("{POISONED}"),
        }
    }

    /// Forgets the entry at `offset` and its neighbours: it was changed in its file.
    pub fn forget(&self, topic: &TopicName, id: QueueId, offset: i64) {
        *self.mutex(topic, id, offset).lock().expect(POISONED) = None;
    }

    /// Forgets everything about a queue.
    pub fn forget_queue(&self, topic: &TopicName, id: QueueId) {
        for place in &self.0 {
            let _ = place.lock().expect(POISONED).take_if(|ahead| ahead.is_of(topic, id));
        }
    }

    fn mutex(&self, topic: &TopicName, id: QueueId, offset: i64) -> &Mutex<Option<Ahead>> {
        let hash = FixedState::default().hash_one((topic.as_str(), id, offset / STRETCH_UNITS));
        &self.0[hash as usize % PLACES]
    }
}

impl Ahead {
    /// Whether these are entries of that queue.
    pub fn is_of(&self, topic: &TopicName, id: QueueId) -> bool {
        self.id == id && self.topic == *topic
    }

    /// Appends to `units` the `count` entries from `offset` on, if they are all here.
    pub fn take(&mut self, offset: i64, count: usize, units: &mut Vec<Entry>) -> bool {
        let Ok(from) = usize::try_from(offset - self.from) else { return false };
        let Some(found) = self.bytes.as_chunks().0.get(from..from + count) else { return false };
        let decoded = Unit::decode_all(found, offset, units);
        if decoded < count {
            units.truncate(units.len() - decoded);
            return false;
        }
        self.next = offset + count as i64;
        true
    }
}

/// Offset behind the last entry that has the same place as that at `offset`.
pub(super) fn stretch_end(offset: i64) -> i64 {
    offset - offset % STRETCH_UNITS + STRETCH_UNITS
}
