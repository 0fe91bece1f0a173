//! The commit log: every message of the broker, one behind the other, in segments of equal size.
//!
//! Appending and writing are two steps. `append` takes the one short lock, gives the record its offsets and copies it
//! to the in-memory tail. `write` hands everything appended to the kernel with one `pwrite`; whoever finds no write in
//! progress does it for all, and who finds one in progress is covered by it or by its next round. `sync` makes what
//! was written durable. Progress is three positions that only grow: durable <= written <= appended.
//!
//! A write or sync that fails stops the log for good: the kernel reports a lost page once, so a retry would lie.
//! What was not confirmed by then is never confirmed. A full disk is another matter: disk room is reserved before a
//! record is taken, so senders are refused while there is none, and the log goes on by itself when there is.

mod damage;
mod hot;
mod oldest;
mod piece;
mod places;
mod read;
mod records;
mod tail;
mod upkeep;
mod warm;
mod write;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, RwLock};

use bytes::BytesMut;
use cometmq_protocol::message::Record;
use cometmq_protocol::message::record::{self, BLANK_BYTES};
use cometmq_protocol::{LogOffset, Millis, QueueOffset};

use crate::checksums::Checksums;
use crate::consume_queue::Queue;
use crate::disk::{Disk, DiskError, DiskFile};
use crate::index::KeyHashes;
use crate::planted::{Bug, planted};
use crate::segments::{self, OpenFiles};

use damage::Damages;
use hot::Hot;
use tail::Tail;
use warm::Warm;
use write::{Full, Writer};

/// Segments kept open for reading at most; any other is opened anew when it is needed.
const OPEN_SEGMENTS_MAX: usize = 256;

pub(crate) use damage::Identity;
pub use damage::Wrong;
pub(crate) use piece::Piece;
pub use read::{Found, Patience, Receiver};
pub(crate) use read::{NotResident, Sought, Wanted};

/// Sizes and places of a commit log.
#[derive(Clone, Debug)]
pub struct CommitLogOptions {
    /// Directories; segment number n lies in the n-th of them, round robin.
    pub directories: Vec<PathBuf>,
    /// Directory of the checksums.
    pub checksums: PathBuf,
    /// Bytes of a segment (`mappedFileSizeCommitLog`).
    pub segment_bytes: i64,
    /// Bytes of recent records kept in memory for consumers that keep up.
    pub hot_bytes: usize,
    /// Appended bytes that may wait for a write before appends are refused.
    pub unwritten_bytes_max: i64,
    /// Whether the file is filled with zeros in front of small writes: not where each of these is synced, for the disk
    /// would get everything twice.
    pub fills: bool,
}

/// What recovery found out about the end of a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// What is before is known to be on disk; the rest may be no further than the kernel.
    pub durable: LogOffset,
    /// Where the log ends.
    pub end: LogOffset,
    /// Where it ended when we closed it, if another broker wrote to it since.
    pub ours_until: Option<LogOffset>,
    /// The latest store time of a record.
    pub last_stored_at: Millis,
}

/// Why a record was not appended. None of it is stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// No record of that size fits a segment.
    #[error("a record of {bytes} bytes does not fit a segment of {segment} (mappedFileSizeCommitLog)")]
    TooLarge {
        /// Size of the record or batch.
        bytes: usize,
        /// Size of a segment.
        segment: i64,
    },
    /// The disk does not keep up.
    #[error("the disk is behind by {bytes} bytes")]
    Busy {
        /// Bytes that wait for a write.
        bytes: i64,
    },
    /// The disk does not keep up with the entries of consume queues.
    #[error("{entries} entries of consume queues wait for the disk")]
    EntriesWait {
        /// Entries that are in memory only.
        entries: usize,
    },
    /// The disk has no room; tried again by itself.
    #[error("the disk is full: {0}; make room, and the broker goes on by itself")]
    Full(Arc<DiskError>),
    /// A write or sync failed before: the log takes nothing until it is opened again.
    #[error("the commit log is read-only since {0}; free or replace the disk and restart the broker")]
    ReadOnly(Arc<DiskError>),
}

/// Where an append put a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Position in the log.
    pub log_offset: LogOffset,
    /// Position in the queue.
    pub queue_offset: QueueOffset,
    /// Position behind the record: the watermark that its reply waits for.
    pub end: LogOffset,
    /// Store time that the record got.
    pub stored_at: Millis,
}

/// The commit log.
#[derive(Debug)]
pub struct CommitLog {
    disk: Arc<dyn Disk>,
    options: CommitLogOptions,
    tail: Mutex<Tail>,
    appended: AtomicI64,
    written: AtomicI64,
    /// What the kernel has: ahead of `written` while the records in between are entered in their queues, where whoever
    /// finds them can read them already.
    handed: AtomicI64,
    durable: AtomicI64,
    /// Log position up to which disk room is reserved: nothing is appended beyond it. Grows under the writer's lock.
    reserved: AtomicI64,
    full: Full,
    writer: Mutex<Writer>,
    syncing: Mutex<()>,
    segments: RwLock<Vec<Place>>,
    /// Files of segments that were read.
    open: OpenFiles<i64>,
    hot: RwLock<Hot>,
    warm: Warm,
    checksums: Checksums,
    damages: Damages,
    failure: OnceLock<Arc<DiskError>>,
}

/// A segment that there is.
#[derive(Clone, Debug)]
struct Place {
    base: i64,
    path: PathBuf,
    /// Its file while that has bytes which are not durable: only a handle that was open all the time tells for sure
    /// that a write got lost.
    held: Option<Arc<dyn DiskFile>>,
}

/// A segment with its file open.
#[derive(Clone, Debug)]
struct Segment {
    base: i64,
    file: Arc<dyn DiskFile>,
}

impl CommitLog {
    /// A log over segments that recovery has checked.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: CommitLogOptions,
        found: Vec<segments::Found>,
        ends: Ends,
    ) -> Result<CommitLog, DiskError> {
        let Ends { durable, end, last_stored_at, .. } = ends;
        assert!(durable <= end, "what is durable is written");
        let place = |found: segments::Found| Place { base: found.base, path: found.path, held: None };
        let hot = Hot::new(options.hot_bytes);
        let bases: Vec<i64> = found.iter().map(|segment| segment.base).collect();
        let open = OpenFiles::new(OPEN_SEGMENTS_MAX);
        let mut last = None;
        if let Some(segment) = found.iter().rfind(|segment| segment.base < end.0) {
            let file = last.insert(disk.open(&segment.path, false)?);
            open.insert(segment.base, Arc::clone(file));
        }
        let checksums = Checksums::open(
            Arc::clone(&disk),
            options.checksums.clone(),
            options.segment_bytes,
            &bases,
            end.0,
            ends.ours_until.map(|ours| ours.0),
            last.as_deref(),
        )?;
        Ok(CommitLog {
            disk,
            tail: Mutex::new(Tail::new(end, options.segment_bytes, last_stored_at)),
            options,
            appended: AtomicI64::new(end.0),
            written: AtomicI64::new(end.0),
            handed: AtomicI64::new(end.0),
            durable: AtomicI64::new(durable.0),
            reserved: AtomicI64::new(end.0),
            full: Full::default(),
            writer: Mutex::new(Writer::default()),
            syncing: Mutex::new(()),
            segments: RwLock::new(found.into_iter().map(place).collect()),
            open,
            hot: RwLock::new(hot),
            warm: Warm::new(),
            checksums,
            damages: Damages::default(),
            failure: OnceLock::new(),
        })
    }

    /// Appends `records` to `queue`, all in one segment, at consecutive queue offsets. Nothing is on disk yet: call
    /// [`CommitLog::write`], and confirm only what its watermark covers.
    pub(crate) fn append(
        &self,
        queue: &Arc<Queue>,
        records: &[Record<'_>],
        tags_codes: &[i64],
        keys: &mut [KeyHashes],
        now: Millis,
        placed: &mut impl Extend<Appended>,
    ) -> Result<(), AppendError> {
        let (codes, hashes) = (tags_codes.len(), keys.len());
        assert_eq!(
            (codes, hashes),
            (records.len(), records.len()),
            "each record has its tags code and its keys"
        );
        let mut tail = self.tail_for(records.iter().map(Record::encoded_len).sum::<usize>())?;
        let stored_at = tail.stamp(now);
        for ((record, tags_code), keys) in records.iter().zip(tags_codes).zip(keys) {
            let queue_offset = queue.assign();
            let keys = std::mem::take(keys);
            placed.extend([tail.push(record, queue, queue_offset, stored_at, *tags_code, keys)]);
        }
        self.appended.store(tail.end(), Ordering::Release);
        Ok(())
    }

    /// As [`CommitLog::append`], for one record.
    pub(crate) fn append_one(
        &self,
        queue: &Arc<Queue>,
        record: &Record<'_>,
        tags_code: i64,
        keys: KeyHashes,
        now: Millis,
    ) -> Result<Appended, AppendError> {
        let mut tail = self.tail_for(record.encoded_len())?;
        let stored_at = tail.stamp(now);
        let placed = tail.push(record, queue, queue.assign(), stored_at, tags_code, keys);
        self.appended.store(tail.end(), Ordering::Release);
        Ok(placed)
    }

    /// The tail with room for so many bytes in one segment, if they may be taken.
    fn tail_for(&self, bytes: usize) -> Result<MutexGuard<'_, Tail>, AppendError> {
        if let Some(failure) = self.failure.get() {
            return Err(AppendError::ReadOnly(Arc::clone(failure)));
        }
        if bytes as i64 + BLANK_BYTES as i64 > self.options.segment_bytes {
            return Err(AppendError::TooLarge { bytes, segment: self.options.segment_bytes });
        }
        let mut tail = self.tail.lock().expect(POISONED);
        let waiting = tail.end() - self.written().0;
        if waiting > self.options.unwritten_bytes_max {
            return Err(AppendError::Busy { bytes: waiting });
        }
        while tail.end_with(bytes) > self.reserved.load(Ordering::Acquire) {
            // The disk is asked without the lock that every sender needs.
            let end = tail.end_with(bytes);
            drop(tail);
            self.reserve(end)?;
            tail = self.tail.lock().expect(POISONED);
        }
        tail.make_room(bytes);
        Ok(tail)
    }

    /// Makes durable what was written before the call and returns the new durable position.
    pub(crate) fn sync(&self) -> Result<LogOffset, Arc<DiskError>> {
        let _one_at_a_time = self.syncing.lock().expect(POISONED);
        let (durable, written) = (self.durable(), self.written());
        if let Some(failure) = self.failure.get() {
            return Err(Arc::clone(failure));
        }
        if durable == written {
            return Ok(durable);
        }
        let bases = self.bases_between(durable, written);
        for base in bases.iter().copied() {
            let sync = || self.segment(base).and_then(|segment| segment.map_or(Ok(()), |s| s.file.sync()));
            let retry = |error| if planted(Bug::FailedSyncBelieved) { sync() } else { Err(error) };
            if let Err(error) = sync().or_else(retry) {
                return Err(self.fail(error));
            }
        }
        self.durable.store(written.0, Ordering::Release);
        self.let_go(bases.into_iter().filter(|base| base + self.options.segment_bytes <= written.0));
        Ok(written)
    }

    fn fail(&self, error: DiskError) -> Arc<DiskError> {
        let failure = self.failure.get_or_init(|| {
            tracing::error!(%error, "the commit log takes no more messages: a write or sync failed");
            Arc::new(error)
        });
        Arc::clone(failure)
    }

    /// The failure that made the log read-only, if one did.
    pub fn failure(&self) -> Option<Arc<DiskError>> {
        self.failure.get().cloned()
    }

    /// Everything before this position reached the kernel: it survives the end of this process.
    pub fn written(&self) -> LogOffset {
        LogOffset(self.written.load(Ordering::Acquire))
    }

    /// Everything before this position can be read.
    fn handed(&self) -> i64 {
        self.handed.load(Ordering::Acquire)
    }

    /// Everything before this position reached the disk: it survives a power cut.
    pub fn durable(&self) -> LogOffset {
        LogOffset(self.durable.load(Ordering::Acquire))
    }

    /// Position of the first byte that the log still has.
    pub fn start(&self) -> LogOffset {
        let segments = self.segments.read().expect(POISONED);
        segments.first().map_or(self.written(), |segment| LogOffset(segment.base))
    }

    /// Directories of the segments.
    pub fn directories(&self) -> &[PathBuf] {
        &self.options.directories
    }

    /// The latest store time that a record before `position` can have, as far as that is known without reading: the
    /// store time of the newest record when all are before it, else of the newest when `position` was the end.
    pub(crate) fn stored_before(&self, position: LogOffset) -> Millis {
        let tail = self.tail.lock().expect(POISONED);
        if tail.end() == position.0 { tail.last_stored_at() } else { Millis(0) }
    }
}

/// A lock is poisoned when its holder panicked, which is a bug that ends the process anyway.
const POISONED: &str = "no holder of this lock panics";

/// Writes a blank record: the rest of the segment is not used.
fn put_blank(rest: i64, out: &mut BytesMut) {
    use bytes::BufMut;
    out.put_u32(rest as u32);
    out.put_u32(record::MAGIC_BLANK);
}
