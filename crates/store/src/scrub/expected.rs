//! The queue entries that records of the log must have, and whether they are there.

use cometmq_protocol::message::RecordView;
use cometmq_protocol::names::{SCHEDULE_TOPIC, TopicName};
use cometmq_protocol::{QueueId, QueueOffset};
use foldhash::{HashMap, HashMapExt};

use super::ScrubRound;
use crate::commit_log::{Identity, Patience, Wanted};
use crate::consume_queue::{Queue, Span, Unit};
use crate::disk::DiskError;
use crate::dispatch;
use crate::store::Store;

/// Tags codes below are addresses in another broker's extension files.
const EXTENSION_ADDRESS_MAX: i64 = i32::MIN as i64;

/// Whether `found` is the entry that a record of `topic` must have, or one that another broker's settings make of it.
pub(crate) fn is_entry_of(found: &Unit, expected: &Unit, topic: &str) -> bool {
    let tags_code = found.tags_code == expected.tags_code
        || found.tags_code < EXTENSION_ADDRESS_MAX
        // It is a time that depends on `messageDelayLevel` of the broker that wrote it.
        || topic == SCHEDULE_TOPIC;
    found.log_offset == expected.log_offset && found.size == expected.size && tags_code
}

/// Entries by topic and queue, in the order of the log.
#[derive(Debug)]
pub(crate) struct Expected(HashMap<String, HashMap<QueueId, Vec<(QueueOffset, Unit)>>>);

impl Default for Expected {
    fn default() -> Expected {
        Expected(HashMap::new())
    }
}

impl Expected {
    /// Adds the entries of a record. Those of light queues are left out: they are the producer's word.
    pub fn add(&mut self, record: &RecordView<'_>) {
        for place in dispatch::places(record).iter().filter(|place| !place.additional) {
            if !self.0.contains_key(place.topic) {
                self.0.insert(place.topic.to_owned(), HashMap::new());
            }
            let unit =
                Unit { log_offset: record.log_offset, size: record.total as i32, tags_code: place.tags_code };
            let queues = self.0.get_mut(place.topic).expect("it is there or was just made");
            queues.entry(place.queue_id).or_default().push((place.queue_offset, unit));
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, QueueId, &[(QueueOffset, Unit)])> {
        self.0.iter().flat_map(|(topic, queues)| {
            queues.iter().map(move |(id, entries)| (topic.as_str(), *id, entries.as_slice()))
        })
    }

    /// Compares them with the queues of `store`, and writes anew what differs. A queue that is not in memory is only
    /// loaded for that: there may be very many, and nobody else uses it.
    pub fn verify(&self, store: &Store, round: &mut ScrubRound) -> Result<(), DiskError> {
        for (topic, id, entries) in self.iter() {
            if !store.queues.is_loaded(topic, id) && is_in_files(store, topic, id, entries)? {
                continue;
            }
            let Some(queue) = store.queue(topic, id)? else { continue };
            runs(entries).try_for_each(|run| verify_run(store, &queue, run, round))?;
        }
        Ok(())
    }
}

/// Cuts entries into runs of consecutive offsets.
pub(crate) fn runs(mut rest: &[(QueueOffset, Unit)]) -> impl Iterator<Item = &[(QueueOffset, Unit)]> {
    std::iter::from_fn(move || {
        let (first, _) = rest.first()?;
        let neighbours = rest.iter().zip(0i64..).take_while(|((offset, _), n)| *offset == *first + *n);
        let (run, later) = rest.split_at(neighbours.count());
        rest = later;
        Some(run)
    })
}

/// Whether the queue's files have all of these entries. A queue that is not loaded has all its entries there.
fn is_in_files(
    store: &Store,
    topic: &str,
    id: QueueId,
    entries: &[(QueueOffset, Unit)],
) -> Result<bool, DiskError> {
    let Ok(name) = TopicName::parse(topic) else { return Ok(false) };
    let mut found = Vec::new();
    for run in runs(entries) {
        found.clear();
        while let Some((next, _)) = run.get(found.len()) {
            let before = found.len();
            let (offset, count, patience) = (next.0, run.len() - before, Patience::Disk);
            store.queues.files().read(&Span { topic: &name, id, offset, count, patience }, &mut found)?;
            if found.len() == before {
                return Ok(false);
            }
        }
        if !run.iter().zip(&found).all(|((_, expected), found)| is_entry_of(found, expected, topic)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compares entries of consecutive offsets.
fn verify_run(
    store: &Store,
    queue: &Queue,
    run: &[(QueueOffset, Unit)],
    round: &mut ScrubRound,
) -> Result<(), DiskError> {
    let mut found = Vec::with_capacity(run.len());
    let mut rest = run;
    while let Some((first, expected)) = rest.first() {
        if *first < queue.min() || *first >= queue.max() {
            rest = &rest[1..];
            continue;
        }
        found.clear();
        queue.read(*first, rest.len(), &mut found)?;
        for (unit, (offset, expected)) in found.iter().zip(rest) {
            if !is_entry_of(unit, expected, queue.topic().as_str()) {
                repair(store, queue, *offset, expected, Some(unit), round)?;
            }
        }
        if found.is_empty() {
            repair(store, queue, *first, expected, None, round)?;
        }
        rest = &rest[found.len().max(1)..];
    }
    Ok(())
}

/// Writes an entry anew, unless the one that is there is right: of a topic that was removed and made again only the
/// newest messages of each offset can be reached.
fn repair(
    store: &Store,
    queue: &Queue,
    offset: QueueOffset,
    expected: &Unit,
    found: Option<&Unit>,
    round: &mut ScrubRound,
) -> Result<(), DiskError> {
    let newer = found.is_some_and(|found| {
        found.log_offset > expected.log_offset && is_message_at(store, queue, offset, found)
    });
    if newer || offset < queue.min() || offset >= queue.max() {
        return Ok(());
    }
    store.repair_entry(queue, offset, *expected)?;
    round.repaired += 1;
    tracing::error!(
        topic = %queue.topic(), queue = %queue.id(), %offset, ?found, ?expected,
        "a queue's entry differed from the log and was written anew; watch this disk and this machine's memory"
    );
    Ok(())
}

/// Whether the log has the message of that queue and offset where the entry says.
pub(super) fn is_message_at(store: &Store, queue: &Queue, offset: QueueOffset, unit: &Unit) -> bool {
    let identity = Identity { topic: queue.topic().as_str(), queue_id: queue.id(), queue_offset: offset };
    let wanted = Wanted { offset: unit.log_offset, size: unit.size as usize, identity: Some(identity) };
    store.log().has(&wanted)
}
