//! What the scanned part of the log says of the queues: found by one thread, entered by another where there are two.

use std::collections::HashSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use cometmq_protocol::message::RecordView;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use foldhash::{HashMap, HashMapExt};

use super::durable::{Damaged, Passed};
use super::{Layout, Log, Scanned};
use crate::consume_queue::{Loaded, OFFSET_MAX, Unit};
use crate::dispatch::{self, Place};
use crate::queues::Queues;
use crate::segments::SegmentError;

/// Items that are handed on at once.
const BATCH_ITEMS: usize = 2048;
/// Batches that wait to be entered at most. Looking at a queue's files takes as long as finding many records, and most
/// queues are met early in the log: with few batches one thread would wait for the other first, and then that for it.
const BATCHES_WAITING: usize = 256;

/// Runs two jobs to their ends, at the same time.
pub type Beside = for<'a> fn(Box<dyn FnOnce() + Send + 'a>, Box<dyn FnOnce() + 'a>);

pub(super) struct Replayed {
    pub queues: Queues,
    pub end: LogOffset,
    pub last_stored_at: Millis,
    pub records: u64,
    pub torn: bool,
}

/// Enters what the log has from `from` on into the queues as they were before. `None` when an entry in between is
/// missing. What is before `durable` ends nowhere. With `all` every queue on disk is cut back to `from`, else those only
/// that get an entry.
pub(super) fn replay(
    layout: &Layout<'_>,
    log: &Log<'_>,
    from: LogOffset,
    durable: LogOffset,
    all: bool,
) -> Result<Option<Replayed>, SegmentError> {
    let queues = Queues::new(Arc::clone(layout.queue_files));
    if all {
        for (topic, id) in layout.queue_files.list()? {
            let loaded = layout.queue_files.load_before(&topic, id, log.start(), from)?;
            queues.insert(topic, id, loaded);
        }
    }
    let mut replay = Replay {
        queues,
        log_start: log.start(),
        from,
        topics: HashMap::new(),
        written: Vec::new(),
        unknown: HashSet::new(),
        restarted: HashSet::new(),
        damaged: Damaged::default(),
        whole: true,
    };
    let mut finder = Finder { last_stored_at: Millis(0), records: 0, found: Batch::new() };
    let mut entered = Ok(());
    let mut enter = |batch: Batch| {
        entered = replay.enter_all(batch);
        entered.is_ok()
    };
    let mut find = |hand: &mut dyn FnMut(Batch) -> bool| finder.find(layout, log, from, durable, hand);
    let scanned = match layout.beside {
        None => find(&mut enter),
        Some(beside) => {
            let (sender, receiver) = mpsc::sync_channel(BATCHES_WAITING);
            let mut scanned = None;
            let result = &mut scanned;
            // Each has its end of the channel, which closes with it.
            beside(
                Box::new(move || *result = Some(find(&mut |batch| sender.send(batch).is_ok()))),
                Box::new(move || while receiver.recv().is_ok_and(&mut enter) {}),
            );
            scanned.expect("both jobs have ended")
        }
    };
    entered?;
    let Scanned { end, torn } = scanned?;
    let Finder { last_stored_at, records, .. } = finder;
    let queues = replay.end()?;
    Ok(queues.map(|queues| Replayed { queues, end, last_stored_at, records, torn }))
}

/// What was found in a stretch of the log.
struct Batch {
    /// Names of topics, one behind the other.
    topics: String,
    items: Vec<Item>,
}

enum Item {
    /// A place in a queue, whose topic is this part of the names, and what belongs there.
    Entry { topic: Range<usize>, queue_id: QueueId, queue_offset: QueueOffset, additional: bool, unit: Unit },
    /// Damage in this segment file.
    Damaged(PathBuf, LogOffset, LogOffset),
}

impl Batch {
    fn new() -> Batch {
        Batch { topics: String::new(), items: Vec::with_capacity(BATCH_ITEMS) }
    }

    fn add(&mut self, place: &Place<'_>, record: &RecordView<'_>) {
        let topic = match self.items.last() {
            // Neighbours are often of one topic.
            Some(Item::Entry { topic, .. }) if self.topics[topic.clone()] == *place.topic => topic.clone(),
            _ => {
                self.topics.push_str(place.topic);
                self.topics.len() - place.topic.len()..self.topics.len()
            }
        };
        let Place { queue_id, queue_offset, tags_code, additional, .. } = *place;
        let unit = Unit { log_offset: record.log_offset, size: record.total as i32, tags_code };
        self.items.push(Item::Entry { topic, queue_id, queue_offset, additional, unit });
    }
}

/// Goes through the log.
struct Finder {
    last_stored_at: Millis,
    records: u64,
    found: Batch,
}

impl Finder {
    /// Hands on what is found from `from` on, in order, until `hand` takes no more, and tells where the log ends.
    fn find(
        &mut self,
        layout: &Layout<'_>,
        log: &Log<'_>,
        from: LogOffset,
        durable: LogOffset,
        hand: &mut dyn FnMut(Batch) -> bool,
    ) -> Result<Scanned, SegmentError> {
        let mut goes_on = true;
        let mut hand = |found: &mut Batch, items_min: usize| {
            if goes_on && found.items.len() >= items_min {
                goes_on = hand(std::mem::replace(found, Batch::new()));
            }
            goes_on
        };
        log.pass(layout.checksums, from, durable, &mut |passed| {
            match passed {
                Passed::Record(record) => self.add(record),
                Passed::Damaged(path, from, to) => {
                    self.found.items.push(Item::Damaged(path.to_owned(), from, to));
                }
            }
            hand(&mut self.found, BATCH_ITEMS)
        })?;
        let scanned = log.scan(durable, |record| {
            self.add(record);
            hand(&mut self.found, BATCH_ITEMS)
        })?;
        hand(&mut self.found, 1);
        Ok(scanned)
    }

    fn add(&mut self, record: &RecordView<'_>) {
        self.records += 1;
        self.last_stored_at = self.last_stored_at.max(record.store_timestamp);
        dispatch::places(record).iter().for_each(|place| self.found.add(place, record));
    }
}

/// Entries on their way from the log into the queues.
struct Replay {
    queues: Queues,
    log_start: LogOffset,
    from: LogOffset,
    /// Topics met so far, and whether they have files.
    topics: HashMap<TopicName, bool>,
    /// Queues whose files have entries behind those that were kept, and where these end.
    written: Vec<(TopicName, QueueId, QueueOffset)>,
    unknown: HashSet<String>,
    restarted: HashSet<(TopicName, QueueId)>,
    damaged: Damaged,
    /// No entry is missing.
    whole: bool,
}

impl Replay {
    fn enter_all(&mut self, batch: Batch) -> Result<(), SegmentError> {
        for item in batch.items {
            match item {
                Item::Entry { topic, queue_id, queue_offset, additional, unit } => {
                    let topic = &batch.topics[topic];
                    let place =
                        Place { topic, queue_id, queue_offset, tags_code: unit.tags_code, additional };
                    self.enter(&place, unit)?;
                }
                Item::Damaged(path, from, to) => self.damaged.add(&path, from, to),
            }
        }
        Ok(())
    }

    fn enter(&mut self, place: &Place<'_>, unit: Unit) -> Result<(), SegmentError> {
        let is_possible = (0..OFFSET_MAX).contains(&place.queue_offset.0) && place.queue_id.0 >= 0;
        let queue = match self.queues.get_mut(place.topic, place.queue_id) {
            None if is_possible => {
                self.load(place)?;
                self.queues.get_mut(place.topic, place.queue_id)
            }
            known => known,
        };
        let Some(queue) = queue.filter(|_| is_possible) else {
            if !self.unknown.contains(place.topic) {
                self.unknown.insert(place.topic.to_owned());
            }
            return Ok(());
        };
        let all_seen = self.from == self.log_start;
        let fits = queue.restore(place.queue_offset, unit, all_seen)
            || self.damaged.fill(queue, place) && queue.restore(place.queue_offset, unit, all_seen);
        if !fits && !place.additional {
            if all_seen {
                self.restarted.insert((queue.topic().clone(), place.queue_id));
                queue.restart(place.queue_offset);
                queue.restore(place.queue_offset, unit, all_seen);
            }
            self.whole &= all_seen;
        }
        Ok(())
    }

    /// Enters the queue of a place as its files tell, unless its name cannot be.
    fn load(&mut self, place: &Place<'_>) -> Result<(), SegmentError> {
        let files = self.queues.files();
        let (topic, has_files) = match self.topics.get_key_value(place.topic) {
            Some((topic, has_files)) => (topic.clone(), *has_files),
            None => {
                let Ok(topic) = TopicName::parse(place.topic) else { return Ok(()) };
                let has_files = files.has_topic(&topic)?;
                self.topics.insert(topic.clone(), has_files);
                (topic, has_files)
            }
        };
        let (id, offset) = (place.queue_id, place.queue_offset);
        let loaded = match has_files {
            true => files.load_expected(&topic, id, self.log_start, self.from, offset)?,
            false => Loaded::default(),
        };
        if loaded.written > loaded.max {
            self.written.push((topic.clone(), id, loaded.written));
        }
        self.queues.insert(topic, id, loaded);
        Ok(())
    }

    /// The queues, unless entries are missing. What the files have behind the ends is cleared.
    fn end(self) -> Result<Option<Queues>, SegmentError> {
        for topic in self.unknown {
            tracing::warn!(
                topic,
                "records of a topic with an illegal name, queue or offset stay in the log but in no queue"
            );
        }
        for (topic, queue) in self.restarted {
            tracing::warn!(%topic, %queue, "queue offsets start over in the log: only the newest run can be read");
        }
        if !self.whole {
            return Ok(None);
        }
        for (topic, id, written) in self.written {
            let end = self.queues.get(topic.as_str(), id).map_or(written, |queue| queue.max());
            if written > end {
                self.queues.files().clear(&topic, id, end.0, written.0)?;
            }
        }
        Ok(Some(self.queues))
    }
}
