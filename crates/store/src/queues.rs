//! All consume queues by topic and number: in memory are those in use, the others are loaded when they are asked for.
//!
//! There is never more than one object for a queue: it is loaded under a lock that its number chooses, and unloaded
//! only while nobody holds it. Its files may be damaged or of another broker, so at loading the last entry must name
//! a record of the log; what does not is cut off.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use cometmq_protocol::message::{RecordView, record};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use foldhash::{HashMap, HashMapExt};

use crate::commit_log::{CommitLog, Wanted, Wrong};
use crate::consume_queue::{Loaded, Queue, QueueFiles, Unit, Unsynced};
use crate::disk::DiskError;
use crate::dispatch;
use crate::segments::SegmentError;

/// Length of a round: unused queues are looked for once in each.
const ROUND_MS: i64 = 10_000;
/// Rounds without use after which a queue is unloaded.
const IDLE_ROUNDS: u32 = 6;
/// The same for a queue that someone waits for: beyond the longest wait that a client may ask for.
const IDLE_ROUNDS_AWAITED: u32 = 12;
/// The same while very many are loaded.
const IDLE_ROUNDS_CROWDED: u32 = 1;
/// So many are very many.
const CROWD: usize = 100_000;
/// Queues remembered as not existing, so that asking again does not look at the disk.
const ABSENT_MAX: usize = 100_000;
/// Queues that can be loaded at the same time.
const LOADERS: usize = 64;
/// No record is larger.
const RECORD_BYTES_MAX: i32 = 64 * 1024 * 1024;

/// All consume queues.
#[derive(Debug)]
pub(crate) struct Queues {
    files: Arc<QueueFiles>,
    loaded: RwLock<HashMap<TopicName, HashMap<QueueId, Arc<Queue>>>>,
    absent: Mutex<HashSet<(TopicName, QueueId)>>,
    loading: [Mutex<()>; LOADERS],
    /// The number of the round that is on.
    round: AtomicU32,
    rounds: Mutex<Rounds>,
}

/// Time as far as idle queues need it.
#[derive(Debug, Default)]
struct Rounds {
    began: Option<Millis>,
    /// Unused queues were looked for in this round.
    looked: bool,
}

impl Queues {
    pub fn new(files: Arc<QueueFiles>) -> Queues {
        Queues {
            files,
            loaded: RwLock::new(HashMap::new()),
            absent: Mutex::new(HashSet::new()),
            loading: std::array::from_fn(|_| Mutex::new(())),
            round: AtomicU32::new(0),
            rounds: Mutex::default(),
        }
    }

    pub fn files(&self) -> &Arc<QueueFiles> {
        &self.files
    }

    /// Whether a queue is in memory; that counts as no use of it.
    pub fn is_loaded(&self, topic: &str, id: QueueId) -> bool {
        self.loaded.read().expect(POISONED).get(topic).is_some_and(|queues| queues.contains_key(&id))
    }

    /// A queue that is in memory.
    pub fn get(&self, topic: &str, id: QueueId) -> Option<Arc<Queue>> {
        let loaded = self.loaded.read().expect(POISONED);
        let queue = loaded.get(topic)?.get(&id)?;
        let round = self.round.load(Ordering::Relaxed);
        if queue.used.load(Ordering::Relaxed) != round {
            queue.used.store(round, Ordering::Relaxed);
        }
        Some(Arc::clone(queue))
    }

    /// The same for recovery, which has all queues to itself.
    pub fn get_mut(&mut self, topic: &str, id: QueueId) -> Option<&mut Queue> {
        let loaded = self.loaded.get_mut().expect(POISONED);
        Arc::get_mut(loaded.get_mut(topic)?.get_mut(&id)?)
    }

    /// Whether it is known without looking at the disk that there is no such queue.
    pub fn is_absent(&self, topic: &TopicName, id: QueueId) -> bool {
        id.0 < 0 || self.absent.lock().expect(POISONED).contains(&(topic.clone(), id))
    }

    /// A queue, loaded if need be; `None` when it has no files.
    pub fn find(
        &self,
        topic: &TopicName,
        id: QueueId,
        log: &CommitLog,
    ) -> Result<Option<Arc<Queue>>, DiskError> {
        if let Some(queue) = self.get(topic.as_str(), id) {
            return Ok(Some(queue));
        }
        let key = (topic.clone(), id);
        if id.0 < 0 || self.absent.lock().expect(POISONED).contains(&key) {
            return Ok(None);
        }
        let _one_at_a_time = self.loader(topic, id).lock().expect(POISONED);
        if let Some(queue) = self.get(topic.as_str(), id) {
            return Ok(Some(queue));
        }
        let found = self.load(topic, id, log)?;
        if found.is_none() {
            let mut absent = self.absent.lock().expect(POISONED);
            if absent.len() >= ABSENT_MAX {
                absent.clear();
            }
            absent.insert(key);
        }
        Ok(found)
    }

    /// A queue, loaded or made if need be.
    pub fn find_or_create(
        &self,
        topic: &TopicName,
        id: QueueId,
        log: &CommitLog,
    ) -> Result<Arc<Queue>, DiskError> {
        if let Some(queue) = self.get(topic.as_str(), id) {
            return Ok(queue);
        }
        let _one_at_a_time = self.loader(topic, id).lock().expect(POISONED);
        if let Some(queue) = self.get(topic.as_str(), id) {
            return Ok(queue);
        }
        let key = (topic.clone(), id);
        let is_absent = self.absent.lock().expect(POISONED).remove(&key);
        let found = if is_absent { None } else { self.load(topic, id, log)? };
        Ok(found.unwrap_or_else(|| self.insert(topic.clone(), id, Loaded::default())))
    }

    fn loader(&self, topic: &TopicName, id: QueueId) -> &Mutex<()> {
        let hash = foldhash::fast::FixedState::default().hash_one((topic, id));
        &self.loading[hash as usize % LOADERS]
    }

    fn load(&self, topic: &TopicName, id: QueueId, log: &CommitLog) -> Result<Option<Arc<Queue>>, DiskError> {
        let mut keep = |offset, unit| names_its_record(log, topic, id, offset, unit);
        let mut find = |offset, before: Option<Unit>| {
            let from = before.map_or(LogOffset(0), |before| before.end()).max(log.start());
            let found = log.find_message(topic.as_str(), id, offset, from.0, log.written().0)?;
            if found.is_some() {
                tracing::error!(
                    %topic, queue = %id, %offset,
                    "a queue's last entry did not lead to its message and was written anew; watch this disk and this \
                     machine's memory"
                );
            }
            Ok(found)
        };
        let loaded = match self.files.load(topic, id, log.start(), &mut keep, &mut find) {
            Ok(loaded) => loaded,
            Err(error) => return Err(self.unreadable(topic, id, error)),
        };
        let Some(loaded) = loaded else { return Ok(None) };
        if loaded.max < loaded.written {
            let (from, to) = (loaded.max.0, loaded.written.0);
            tracing::warn!(%topic, queue = %id, from, to, "queue entries without their records cut off");
        }
        Ok(Some(self.insert(topic.clone(), id, loaded)))
    }

    fn unreadable(&self, topic: &TopicName, id: QueueId, error: SegmentError) -> DiskError {
        let SegmentError::Disk(error) = error else {
            let [directory, ..] = self.files.directories(topic, id);
            let reason = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
            return DiskError::new("use the queue in", &directory, &reason);
        };
        error
    }

    /// Enters a queue as its files tell. Only before others may ask for it, or by who holds its loader.
    pub fn insert(&self, topic: TopicName, id: QueueId, loaded: Loaded) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(topic.clone(), id, Arc::clone(&self.files), loaded));
        queue.used.store(self.round.load(Ordering::Relaxed), Ordering::Relaxed);
        let mut all = self.loaded.write().expect(POISONED);
        let before = all.entry(topic).or_default().insert(id, Arc::clone(&queue));
        assert!(before.is_none(), "a queue is loaded once");
        queue
    }

    /// All queues that are in memory, in order: a map's order is another in each process, and that of the calls to the
    /// disk that follow is to be the same.
    pub fn loaded(&self) -> Vec<Arc<Queue>> {
        let loaded = self.loaded.read().expect(POISONED);
        let mut topics: Vec<_> = loaded.iter().collect();
        topics.sort_unstable_by_key(|(topic, _)| topic.as_str());
        let mut all = Vec::new();
        for (_, queues) in topics {
            let from = all.len();
            all.extend(queues.values().cloned());
            all[from..].sort_unstable_by_key(|queue: &Arc<Queue>| queue.id());
        }
        all
    }

    /// The same, and whoever is being loaded right now is among them.
    pub fn settled_loaded(&self) -> Vec<Arc<Queue>> {
        self.loading.iter().for_each(|loader| drop(loader.lock().expect(POISONED)));
        self.loaded()
    }

    /// Deletes files of a queue, see [`QueueFiles::delete_expired`].
    pub fn delete_expired_files(
        &self,
        topic: &TopicName,
        id: QueueId,
        log_start: LogOffset,
    ) -> Result<usize, DiskError> {
        let _one_at_a_time = self.loader(topic, id).lock().expect(POISONED);
        self.files.delete_expired(topic, id, log_start).map_err(|error| self.unreadable(topic, id, error))
    }

    /// Removes a queue with its files if nobody uses it and `which` says so. Returns whether it went.
    pub fn remove(
        &self,
        topic: &TopicName,
        id: QueueId,
        log: &CommitLog,
        which: impl Fn(&Queue) -> Result<bool, DiskError>,
    ) -> Result<bool, DiskError> {
        let _one_at_a_time = self.loader(topic, id).lock().expect(POISONED);
        let queue = match self.get(topic.as_str(), id) {
            Some(queue) => Some(queue),
            None => self.load(topic, id, log)?,
        };
        let Some(queue) = queue else { return Ok(false) };
        let max = queue.max();
        if !which(&queue)? {
            return Ok(false);
        }
        {
            let mut all = self.loaded.write().expect(POISONED);
            // Held by the table and here.
            let is_free = Arc::strong_count(&queue) == 2 && !queue.is_awaited() && queue.is_settled();
            if !is_free || queue.max() != max {
                return Ok(false);
            }
            if let Some(queues) = all.get_mut(topic) {
                queues.remove(&id);
            }
        }
        // Whoever asks for it now waits for the loader.
        self.files.remove(topic, id).map_err(|error| self.unreadable(topic, id, error))?;
        Ok(true)
    }

    /// How many queues are in memory.
    pub fn loaded_len(&self) -> usize {
        self.loaded.read().expect(POISONED).values().map(HashMap::len).sum()
    }

    /// Unloads queues that were not used for some time, of which everything in their files is durable.
    pub fn unload_idle(&self, now: Millis, unsynced: &Unsynced) {
        let mut rounds = self.rounds.lock().expect(POISONED);
        let waited = now.0 - rounds.began.get_or_insert(now).0;
        if !(0..ROUND_MS).contains(&waited) {
            rounds.began = Some(now);
            rounds.looked = false;
            self.round.fetch_add(1, Ordering::Relaxed);
        }
        if rounds.looked {
            return;
        }
        rounds.looked = true;
        let round = self.round.load(Ordering::Relaxed);
        let idle_max = if self.loaded_len() > CROWD { IDLE_ROUNDS_CROWDED } else { IDLE_ROUNDS };
        let topics: Vec<TopicName> = self.loaded.read().expect(POISONED).keys().cloned().collect();
        for topic in topics {
            // One topic at a time, so that nobody waits long for the lock.
            self.unload_idle_of(&topic, |queue| {
                let idle = round.saturating_sub(queue.used.load(Ordering::Relaxed));
                unsynced.is_durable(queue.written_in())
                    && idle > if queue.is_awaited() { IDLE_ROUNDS_AWAITED } else { idle_max }
            });
        }
    }

    fn unload_idle_of(&self, topic: &TopicName, is_idle: impl Fn(&Queue) -> bool) {
        let any = {
            let all = self.loaded.read().expect(POISONED);
            all.get(topic).is_some_and(|queues| queues.values().any(|queue| is_idle(queue)))
        };
        if !any {
            return;
        }
        let mut all = self.loaded.write().expect(POISONED);
        let Some(queues) = all.get_mut(topic) else { return };
        // Nobody can get hold of one while the map is locked.
        queues.retain(|_, queue| Arc::strong_count(queue) > 1 || !is_idle(queue) || !queue.is_settled());
        queues.shrink_to_fit();
        if queues.is_empty() {
            all.remove(topic);
        }
    }
}

/// Whether the log has, at the place that the entry says, the record that the entry is of. A record of that place that
/// is damaged counts: its number is taken.
fn names_its_record(
    log: &CommitLog,
    topic: &TopicName,
    id: QueueId,
    offset: QueueOffset,
    unit: Unit,
) -> Result<bool, DiskError> {
    if unit.log_offset < log.start() {
        // Expired: nothing is left to compare it with.
        return Ok(true);
    }
    if unit.size > RECORD_BYTES_MAX || unit.end() > log.written() {
        return Ok(false);
    }
    let wanted = Wanted { offset: unit.log_offset, size: unit.size as usize, identity: None };
    let piece = match log.blocks_of(&wanted) {
        Ok(piece) => piece,
        Err(Wrong::Unreadable(error)) => return Err(error),
        // It lies within one segment, which is being deleted, or it is no record's.
        Err(_) => return Ok(unit.end().0 <= log.segment_end(unit.log_offset.0)),
    };
    let bytes = match piece.record(&wanted) {
        Ok(bytes) => bytes,
        Err(Wrong::Missing) => return Ok(false),
        // The log is damaged there, not the entry.
        Err(_) => return Ok(true),
    };
    let total = bytes.first_chunk().map(|total| i32::from_be_bytes(*total));
    let is_there = total == Some(unit.size) && record::claimed_log_offset(bytes) == Some(unit.log_offset);
    let is_of = |place: &dispatch::Place<'_>| {
        (place.topic, place.queue_id, place.queue_offset) == (topic.as_str(), id, offset)
    };
    Ok(is_there
        && RecordView::decode(bytes).map_or(true, |record| dispatch::places(&record).iter().any(is_of)))
}

const POISONED: &str = "no holder of this lock panics";
