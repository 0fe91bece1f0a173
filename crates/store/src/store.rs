//! The store as a whole: open, append, read, sync, close. How queues come to their files is in `flush`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cometmq_protocol::message::{Record, RecordView};
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, Millis, QueueId, QueueOffset};
use smallvec::{SmallVec, smallvec};

use crate::checkpoint::{DispatchedPosition, DurablePosition, JavaCheckpoint};
use crate::commit_log::{
    AppendError, Appended, CommitLog, CommitLogOptions, Ends, Found, Patience, Receiver, Sought, Wrong,
};
use crate::consume_queue::{Queue, QueueFiles, UNIT_BYTES, Unit, Unsynced};
use crate::disk::{self, Disk, DiskError, DiskLock};
use crate::dispatch::Dispatch;
use crate::flush::{Flushing, NOTE_LOG_BYTES, Syncing};
use crate::index::{Index, IndexError, IndexOptions, KeyHashes, Keys};
use crate::planted::{Bug, planted};
use crate::queues::Queues;
use crate::recovery::{self, Beside, Known, Layout, Positions, RecoveryReport};
use crate::segments::SegmentError;

/// Bytes of recent records in memory.
const HOT_BYTES: usize = 16 * 1024 * 1024;
/// Appended bytes that may wait for a slow disk before appends are refused.
const UNWRITTEN_BYTES_MAX: i64 = 64 * 1024 * 1024;
/// Queue entries that may wait for a slow disk before appends are refused: 200 MB.
pub const UNWRITTEN_ENTRIES_MAX: usize = 8 * 1024 * 1024;

/// What a message must have reached before it is confirmed and becomes readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushPolicy {
    /// The kernel: survives the end of the process (`ASYNC_FLUSH`).
    Async,
    /// The disk: survives a power cut (`SYNC_FLUSH`).
    Sync,
}

/// Where a store is and how it behaves.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Its directory (`storePathRootDir`).
    pub root: PathBuf,
    /// Directories of the commit log (`storePathCommitLog`); empty means `commitlog` in the root.
    pub log_directories: Vec<PathBuf>,
    /// Bytes of a commit log segment (`mappedFileSizeCommitLog`).
    pub segment_bytes: i64,
    /// Bytes of a consume queue file (`mappedFileSizeConsumeQueue`), rounded up to whole entries.
    pub queue_file_bytes: i64,
    /// How messages are indexed by key; `None`: not at all (`messageIndexEnable=false`). A file of the usual shape has
    /// 420 MB, which are real on a disk in memory: hence not by default.
    pub index: Option<IndexOptions>,
    /// When a message is confirmed.
    pub flush: FlushPolicy,
    /// Written to the `abort` file, so that a person sees who had the store open.
    pub process_id: u32,
    /// Queue entries that may be in memory only; appends beyond them are refused.
    pub unwritten_entries_max: usize,
    /// How two threads recover it after a crash; `None`: the caller does alone.
    pub beside: Option<Beside>,
}

impl StoreOptions {
    /// RocketMQ's defaults in this directory.
    pub fn new(root: impl Into<PathBuf>) -> StoreOptions {
        StoreOptions {
            root: root.into(),
            log_directories: Vec::new(),
            segment_bytes: 1024 * 1024 * 1024,
            queue_file_bytes: 300_000 * UNIT_BYTES,
            index: None,
            flush: FlushPolicy::Async,
            process_id: 0,
            unwritten_entries_max: UNWRITTEN_ENTRIES_MAX,
            beside: None,
        }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by another broker process; stop it, or choose another directory with --data or storePathRootDir", root.display())]
    Locked {
        /// The store's directory.
        root: PathBuf,
    },
    /// The directory cannot be made or written.
    #[error("{source}; choose a directory that can be written with --data or storePathRootDir")]
    Directory {
        /// What failed.
        source: DiskError,
    },
    /// Files that are not as they should be, or a disk that fails.
    #[error(transparent)]
    Segments(#[from] SegmentError),
    /// Index files that are not as they should be.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// An open store. All methods may be called from any thread.
#[derive(Debug)]
pub struct Store {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: StoreOptions,
    pub(crate) log: CommitLog,
    pub(crate) queues: Queues,
    pub(crate) index: Option<Index>,
    /// Where the log ended when the store was opened.
    opened_at: LogOffset,
    /// Log position up to which entries are in the queues.
    pub(crate) dispatched: AtomicI64,
    /// Under `SYNC_FLUSH`: written records that become readable once durable.
    undurable: Mutex<VecDeque<Dispatch>>,
    /// Queues with entries that are only in memory.
    pub(crate) dirty: Mutex<Vec<Arc<Queue>>>,
    /// Entries of all queues that are only in memory.
    pub(crate) unwritten: AtomicUsize,
    pub(crate) syncing: Mutex<Syncing>,
    pub(crate) flushing: Mutex<Flushing>,
    /// Up to where the log is noted to be durable.
    pub(crate) noted: Mutex<DurablePosition>,
    _lock: Box<dyn DiskLock>,
}

impl Store {
    /// Opens the store in `options.root`, making it when it is not there, and recovers what a crash left.
    pub fn open(
        disk: Arc<dyn Disk>,
        mut options: StoreOptions,
    ) -> Result<(Store, RecoveryReport), OpenError> {
        if options.log_directories.is_empty() {
            options.log_directories.push(options.root.join("commitlog"));
        }
        options.queue_file_bytes = (options.queue_file_bytes + UNIT_BYTES - 1) / UNIT_BYTES * UNIT_BYTES;
        let lock = prepare(&*disk, &options)?;
        let abort = options.root.join("abort");
        let clean = !disk.exists(&abort)?;
        let mut java = JavaCheckpoint::load(&*disk, &options.root.join("checkpoint"))?;
        let (mut position, known) =
            DispatchedPosition::load(&*disk, options.root.join("cometmq/dispatched"))?;
        let (mut durable, durable_known) =
            DurablePosition::load(&*disk, options.root.join("cometmq/durable"))?;
        let queue_root = options.root.join("consumequeue");
        // Before anything is written below it.
        let mut unsynced = Unsynced::new(Arc::clone(&disk), &queue_root)?;
        let queue_files = Arc::new(QueueFiles::new(Arc::clone(&disk), queue_root, options.queue_file_bytes));
        let layout = Layout {
            disk: &disk,
            cutting: &options.root.join("cometmq/cutting"),
            log_directories: &options.log_directories,
            segment_bytes: options.segment_bytes,
            checksums: &options.root.join("cometmq/checksums"),
            queue_files: &queue_files,
            beside: options.beside,
        };
        let ends = Known { dispatched: known, durable: durable_known, java };
        let positions = Positions { dispatched: &mut position, durable: &mut durable };
        let recovered = recovery::recover(&layout, clean, ends, positions)?;
        let end = recovered.end;
        java.doubt_times(recovered.last_stored_at);
        let last_stored_at = recovered.last_stored_at.max(java.physic);
        let ends = Ends {
            // After a crash recovery made all of it durable.
            durable: if clean { recovered.report.scanned_from } else { end },
            end,
            // We close a store with this position at its end.
            ours_until: known.filter(|known| clean && *known != end),
            last_stored_at,
        };
        durable.bound(&*disk, end)?;
        let log = CommitLog::new(Arc::clone(&disk), log_options(&options), recovered.segments, ends)?;
        if options.flush == FlushPolicy::Sync {
            // What is readable is durable.
            log.sync().map_err(|error| DiskError::clone(&error))?;
        }
        let index = match options.index {
            Some(index) => Some(Index::open(&disk, &options.root, index, clean, java.index, &log)?),
            None => None,
        };
        mark_open(&*disk, &abort, options.process_id)?;
        let dirty = recovered.queues.loaded();
        dirty.iter().try_for_each(|queue| queue.leave_to_flush(&mut unsynced))?;
        let store = Store {
            disk,
            opened_at: end,
            dispatched: AtomicI64::new(end.0),
            log,
            queues: recovered.queues,
            index,
            undurable: Mutex::new(VecDeque::new()),
            unwritten: AtomicUsize::new(dirty.iter().map(|queue| queue.unwritten()).sum()),
            dirty: Mutex::new(dirty),
            syncing: Mutex::new(Syncing::new(position, java)),
            flushing: Mutex::new(Flushing::new(unsynced)),
            noted: Mutex::new(durable),
            options,
            _lock: lock,
        };
        // What a crash left unindexed is mostly little; more follows while messages are served.
        if let Err(error) = store.index_behind() {
            tracing::error!(%error, "the index is behind; tried again later");
        }
        Ok((store, recovered.report))
    }

    /// What the store was opened with.
    pub fn options(&self) -> &StoreOptions {
        &self.options
    }

    /// The commit log, for its positions.
    pub fn log(&self) -> &CommitLog {
        &self.log
    }

    /// The disk that the store is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// A queue that has or had messages, loaded if need be. An error does not mean that there is none.
    pub fn queue(&self, topic: &str, id: QueueId) -> Result<Option<Arc<Queue>>, DiskError> {
        if let Some(queue) = self.queues.get(topic, id) {
            return Ok(Some(queue));
        }
        let Ok(topic) = TopicName::parse(topic) else { return Ok(None) };
        self.queues.find(&topic, id, &self.log)
    }

    /// As [`Store::queue`]; `None` when `patience` does not reach as far as that needs.
    pub fn queue_patiently(
        &self,
        topic: &TopicName,
        id: QueueId,
        patience: Patience,
    ) -> Option<Result<Option<Arc<Queue>>, DiskError>> {
        if let Some(queue) = self.queues.get(topic.as_str(), id) {
            return Some(Ok(Some(queue)));
        }
        match patience {
            Patience::Resident => self.queues.is_absent(topic, id).then_some(Ok(None)),
            Patience::Disk => Some(self.queues.find(topic, id, &self.log)),
        }
    }

    /// A queue to append to, loaded or made if need be. Callers bound the ids by the topic's settings. An error does
    /// not mean that it is new.
    pub fn queue_or_create(&self, topic: &TopicName, id: QueueId) -> Result<Arc<Queue>, DiskError> {
        self.queues.find_or_create(topic, id, &self.log)
    }

    /// As [`Store::queue_or_create`]; `None` when `patience` does not reach as far as that needs.
    pub fn queue_or_create_patiently(
        &self,
        topic: &TopicName,
        id: QueueId,
        patience: Patience,
    ) -> Option<Result<Arc<Queue>, DiskError>> {
        if let Some(queue) = self.queues.get(topic.as_str(), id) {
            return Some(Ok(queue));
        }
        let may_look = patience == Patience::Disk || self.queues.is_absent(topic, id);
        may_look.then(|| self.queue_or_create(topic, id))
    }

    /// All queues that have or had messages. That loads each of them: not for each day.
    pub fn queues(&self) -> Result<Vec<Arc<Queue>>, DiskError> {
        for (topic, id) in self.queues.files().list()? {
            self.queues.find(&topic, id, &self.log)?;
        }
        Ok(self.queues.loaded())
    }

    /// How many queues are in memory.
    pub fn loaded_queues(&self) -> usize {
        self.queues.loaded_len()
    }

    /// Where the log ended when the store was opened: records from there on are newer than whatever was saved before.
    pub fn opened_at(&self) -> LogOffset {
        self.opened_at
    }

    /// Appends records, each with its tags code, to a queue in memory and tells where they are going to be. Nothing may be confirmed before
    /// [`Store::confirmed`] has passed their end; call [`Store::write`] next.
    pub fn append(
        &self,
        queue: &Arc<Queue>,
        records: &[Record<'_>],
        tags_codes: &[i64],
        now: Millis,
        placed: &mut impl Extend<Appended>,
    ) -> Result<(), AppendError> {
        self.admit()?;
        let mut keys: SmallVec<[KeyHashes; 1]> = match &self.index {
            Some(_) => {
                let hasher = queue.hasher();
                records.iter().map(|record| hasher.message(record.sys_flag, record.properties)).collect()
            }
            None => smallvec![KeyHashes::new(); records.len()],
        };
        self.log.append(queue, records, tags_codes, &mut keys, now, placed)
    }

    /// As [`Store::append`], for one message whose keys are known: those that its properties have.
    pub fn append_one(
        &self,
        queue: &Arc<Queue>,
        record: &Record<'_>,
        tags_code: i64,
        keys: Keys<'_>,
        now: Millis,
    ) -> Result<Appended, AppendError> {
        self.admit()?;
        let hashes = match &self.index {
            Some(_) => queue.hasher().keys(record.sys_flag, keys),
            None => KeyHashes::new(),
        };
        self.log.append_one(queue, record, tags_code, hashes, now)
    }

    /// Queue entries that are in memory only.
    pub fn unwritten_entries(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Refuses what would need more memory than there should be while the disk does not take queue entries.
    fn admit(&self) -> Result<(), AppendError> {
        let entries = self.unwritten_entries();
        // A log that takes nothing more says so itself.
        let is_refused = entries > self.options.unwritten_entries_max && self.log.failure().is_none();
        if is_refused { Err(AppendError::EntriesWait { entries }) } else { Ok(()) }
    }

    /// Hands everything appended to the kernel, unless another caller is doing it right now. Queues that someone waits
    /// for and that got a message are added to `woken`.
    pub fn write(&self, woken: &mut Vec<Arc<Queue>>) {
        self.log.write(|dispatches| match self.options.flush {
            FlushPolicy::Async => self.enter(dispatches, woken),
            FlushPolicy::Sync => self.undurable.lock().expect(POISONED).extend(dispatches),
        });
    }

    /// After a full disk: looks whether there is room again. Call it a few times a second while the log's
    /// [`full`](CommitLog::full) tells so, and [`Store::write`] behind it.
    pub fn retry_room(&self) {
        self.log.retry_room();
    }

    /// Makes everything written durable. Under `SYNC_FLUSH` that makes it readable too, and queues that someone waits
    /// for are added to `woken`. After an error the log takes nothing more.
    pub fn sync(&self, woken: &mut Vec<Arc<Queue>>) -> Result<(), Arc<DiskError>> {
        let durable = self.log.sync()?;
        // Held over the entering, so that two syncs cannot enter in the wrong order.
        let mut undurable = self.undurable.lock().expect(POISONED);
        let count = undurable.partition_point(|dispatch| dispatch.end() <= durable);
        let ready: Vec<Dispatch> = undurable.drain(..count).collect();
        self.enter(ready, woken);
        drop(undurable);
        self.note_durable(NOTE_LOG_BYTES);
        Ok(())
    }

    /// Gives records their places in the queues.
    fn enter(&self, dispatches: Vec<Dispatch>, woken: &mut Vec<Arc<Queue>>) {
        let Some(end) = dispatches.last().map(Dispatch::end) else { return };
        self.unwritten.fetch_add(dispatches.len(), Ordering::Relaxed);
        if let Some(index) = &self.index {
            index.enter(LogOffset(self.dispatched.load(Ordering::Acquire)), &dispatches, end);
        }
        for dispatch in dispatches {
            if dispatch.queue.push(dispatch.queue_offset, dispatch.unit()) {
                woken.push(Arc::clone(&dispatch.queue));
            }
            // Mostly it is: who made it clean since the push has not looked at the entries yet.
            let dirty = &dispatch.queue.dirty;
            if !dirty.load(Ordering::Acquire) && !dirty.swap(true, Ordering::AcqRel) {
                self.dirty.lock().expect(POISONED).push(dispatch.queue);
            }
        }
        self.dispatched.store(end.0, Ordering::Release);
    }

    /// The entries of all records before this position are in their queues.
    pub(crate) fn dispatched(&self) -> LogOffset {
        LogOffset(self.dispatched.load(Ordering::Acquire))
    }

    /// Everything before this position is stored as the flush policy promises and may be confirmed to its sender.
    pub fn confirmed(&self) -> LogOffset {
        match self.options.flush {
            FlushPolicy::Async => self.log.written(),
            FlushPolicy::Sync if planted(Bug::AckBeforeSync) => self.log.written(),
            FlushPolicy::Sync => self.log.durable(),
        }
    }

    /// Reads the records of queue entries, in order, and hands each to `each` until it returns false. Reading ends
    /// early, without error, at an entry whose record is not there or damaged.
    pub fn read(
        &self,
        units: &[Unit],
        scratch: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), DiskError> {
        let entries: Vec<_> = units.iter().map(|unit| (QueueOffset(0), *unit)).collect();
        let sought = Sought { entries: &entries, queue: None };
        let mut result = Ok(());
        self.log.read(sought, Patience::Disk, scratch, &mut |found: Found<'_>| match found {
            Ok(record) => each(record),
            Err(Wrong::Unreadable(error)) => {
                result = Err(error);
                false
            }
            Err(_) => false,
        });
        result
    }

    /// Reads the messages of a queue whose entries are given with their offsets, in order, and hands each to `receiver`,
    /// or what is wrong with it, until that wants no more. Each is verified: it is the message of that place, byte for
    /// byte, as far as there are checksums. Returns false when the next one is not in memory and `patience` does not
    /// reach further.
    pub fn read_messages(
        &self,
        queue: &Queue,
        units: &[(QueueOffset, Unit)],
        patience: Patience,
        scratch: &mut Vec<u8>,
        receiver: &mut impl Receiver,
    ) -> bool {
        let sought = Sought { entries: units, queue: Some((queue.topic().as_str(), queue.id())) };
        self.log.read(sought, patience, scratch, receiver)
    }

    /// The store time of the message at `offset`, if it is there.
    pub fn stored_at(&self, queue: &Queue, offset: QueueOffset) -> Result<Option<Millis>, DiskError> {
        let mut units = Vec::with_capacity(1);
        queue.read(offset, 1, &mut units)?;
        let mut stored_at = None;
        self.read(&units, &mut Vec::new(), &mut |record| {
            stored_at = RecordView::decode(record).ok().map(|record| record.store_timestamp);
            false
        })?;
        Ok(stored_at)
    }

    /// The first offset whose message was stored at `time` or later; the end of the queue when there is none.
    pub fn offset_at(&self, queue: &Queue, time: Millis) -> Result<QueueOffset, DiskError> {
        let (mut low, mut high) = (queue.min(), queue.max());
        while low < high {
            let middle = QueueOffset(low.0 + (high - low) / 2);
            match self.stored_at(queue, middle)? {
                Some(stored_at) if stored_at >= time => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(low)
    }

    /// The end of the queue as it would be if the log ended at `position`: the first entry of a record there or beyond.
    pub fn end_before(&self, queue: &Queue, position: LogOffset) -> Result<QueueOffset, DiskError> {
        let (mut low, mut high) = (queue.min(), queue.max());
        let mut units = Vec::with_capacity(1);
        // Most often everything is before it.
        let mut middle = high + -1;
        while low < high {
            units.clear();
            queue.read(middle, 1, &mut units)?;
            if units.first().is_some_and(|unit| unit.log_offset < position) {
                low = middle + 1;
            } else {
                high = middle;
            }
            middle = QueueOffset(low.0 + (high - low) / 2);
        }
        Ok(low)
    }

    /// The index, if there is one.
    pub(crate) fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// Makes everything durable and leaves the store as one that was closed in order.
    pub fn close(&self) -> Result<(), DiskError> {
        self.write(&mut Vec::new());
        self.sync(&mut Vec::new()).map_err(|error| DiskError::clone(&error))?;
        self.flush_index(true)?;
        self.flush()?;
        self.log.remove_unused()?;
        if let Err(error) = self.log.sync_checksums() {
            tracing::warn!(%error, "checksums of the log not synced");
        }
        if !self.flushing.lock().expect(POISONED).is_stuck() {
            self.disk.remove_file(&self.options.root.join("abort"))?;
            self.disk.sync_directory(&self.options.root)?;
        }
        Ok(())
    }
}

fn log_options(options: &StoreOptions) -> CommitLogOptions {
    CommitLogOptions {
        directories: options.log_directories.clone(),
        checksums: options.root.join("cometmq/checksums"),
        segment_bytes: options.segment_bytes,
        hot_bytes: HOT_BYTES,
        unwritten_bytes_max: UNWRITTEN_BYTES_MAX,
        fills: options.flush == FlushPolicy::Async,
    }
}

/// Writes the file that is there while the store is open.
fn mark_open(disk: &dyn Disk, abort: &Path, process_id: u32) -> Result<(), DiskError> {
    let file = disk.open(abort, true)?;
    file.set_len(0)?;
    disk::write_all_at(&*file, process_id.to_string().as_bytes(), 0)?;
    file.sync()?;
    disk.sync_directory(abort.parent().unwrap_or(Path::new(".")))
}

/// Makes the directories and takes the lock, before anything is looked at.
fn prepare(disk: &dyn Disk, options: &StoreOptions) -> Result<Box<dyn DiskLock>, OpenError> {
    let directory = |source| OpenError::Directory { source };
    let own = ["consumequeue", "config", "cometmq"].map(|name| options.root.join(name));
    disk.create_directory(&options.root).map_err(directory)?;
    let lock = disk.lock(&options.root.join("lock")).map_err(directory)?;
    let lock = lock.ok_or_else(|| OpenError::Locked { root: options.root.clone() })?;
    for path in own.iter().chain(&options.log_directories) {
        disk.create_directory(path).map_err(directory)?;
    }
    disk.sync_directory(&options.root).map_err(directory)?;
    Ok(lock)
}

/// Used where a thread that panicked inside a lock would be a bug that ends the process anyway.
const POISONED: &str = "no holder of this lock panics";
