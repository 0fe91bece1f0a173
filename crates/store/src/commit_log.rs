//! The commit log: every message of the broker, one behind the other, in segments of equal size.
//!
//! Appending and writing are two steps. `append` takes the one short lock, gives the record its offsets and copies it
//! to the in-memory tail. `write` hands everything appended to the kernel with one `pwrite`; whoever finds no write in
//! progress does it for all, and who finds one in progress is covered by it or by its next round. `sync` makes what
//! was written durable. Progress is three positions that only grow: durable <= written <= appended.
//!
//! A write or sync that fails stops the log for good: the kernel reports a lost page once, so a retry would lie.
//! What was not confirmed by then is never confirmed.

mod hot;
mod read;
mod tail;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use bytes::{Bytes, BytesMut};
use cometmq_protocol::message::Record;
use cometmq_protocol::message::record::{self, BLANK_BYTES};
use cometmq_protocol::{LogOffset, Millis, QueueOffset};

use crate::consume_queue::Queue;
use crate::disk::{self, Disk, DiskError, DiskFile};
use crate::dispatch::Dispatch;
use crate::segments;

use hot::Hot;
use tail::Tail;

/// How far ahead of the tail disk room is reserved, so that a full disk refuses messages instead of tearing them.
const RESERVE_BYTES: i64 = 64 * 1024 * 1024;

/// Sizes and places of a commit log.
#[derive(Clone, Debug)]
pub struct CommitLogOptions {
    /// Directories; segment number n lies in the n-th of them, round robin.
    pub directories: Vec<PathBuf>,
    /// Bytes of a segment (`mappedFileSizeCommitLog`).
    pub segment_bytes: i64,
    /// Bytes of recent records kept in memory for consumers that keep up.
    pub hot_bytes: usize,
    /// Appended bytes that may wait for a write before appends are refused.
    pub unwritten_bytes_max: i64,
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
    durable: AtomicI64,
    writer: Mutex<Writer>,
    syncing: Mutex<()>,
    segments: RwLock<Vec<Segment>>,
    hot: RwLock<Hot>,
    failure: OnceLock<Arc<DiskError>>,
}

#[derive(Clone, Debug)]
struct Segment {
    base: i64,
    file: Arc<dyn DiskFile>,
}

/// What only the one who writes needs.
#[derive(Debug)]
struct Writer {
    /// Log position up to which disk room is reserved.
    reserved: i64,
}

impl CommitLog {
    /// A log over segments that recovery has checked; `end` is where it ends.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        options: CommitLogOptions,
        found: &[segments::Found],
        end: LogOffset,
        last_stored_at: Millis,
    ) -> Result<CommitLog, DiskError> {
        let mut segments = Vec::with_capacity(found.len());
        for segment in found {
            segments.push(Segment { base: segment.base, file: disk.open(&segment.path, false)? });
        }
        let hot = Hot::new(options.hot_bytes);
        Ok(CommitLog {
            disk,
            tail: Mutex::new(Tail::new(end, options.segment_bytes, last_stored_at)),
            options,
            appended: AtomicI64::new(end.0),
            written: AtomicI64::new(end.0),
            durable: AtomicI64::new(end.0),
            writer: Mutex::new(Writer { reserved: end.0 }),
            syncing: Mutex::new(()),
            segments: RwLock::new(segments),
            hot: RwLock::new(hot),
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
        now: Millis,
        placed: &mut Vec<Appended>,
    ) -> Result<(), AppendError> {
        assert_eq!(records.len(), tags_codes.len(), "each record has its tags code");
        if let Some(failure) = self.failure.get() {
            return Err(AppendError::ReadOnly(Arc::clone(failure)));
        }
        let bytes = records.iter().map(Record::encoded_len).sum::<usize>();
        if bytes as i64 + BLANK_BYTES as i64 > self.options.segment_bytes {
            return Err(AppendError::TooLarge { bytes, segment: self.options.segment_bytes });
        }
        let mut tail = self.tail.lock().expect(POISONED);
        let waiting = tail.end() - self.written().0;
        if waiting > self.options.unwritten_bytes_max {
            return Err(AppendError::Busy { bytes: waiting });
        }
        tail.make_room(bytes);
        let stored_at = tail.stamp(now);
        for (record, tags_code) in records.iter().zip(tags_codes) {
            let queue_offset = queue.assign();
            placed.push(tail.push(record, queue, queue_offset, stored_at, *tags_code));
        }
        self.appended.store(tail.end(), Ordering::Release);
        Ok(())
    }

    /// Writes everything appended, unless someone else is writing and will do so. `dispatch` is called for what became
    /// readable, in log order, before the watermark covers it.
    pub(crate) fn write(&self, mut dispatch: impl FnMut(Vec<Dispatch>)) {
        // The loop closes the gap between looking for bytes and letting go of the writer: who appended in between
        // found the writer taken and left.
        while self.appended.load(Ordering::Acquire) > self.written().0 && self.failure.get().is_none() {
            let Ok(mut writer) = self.writer.try_lock() else { return };
            let batch = self.tail.lock().expect(POISONED).take();
            if let Err(error) = self.write_chunks(&mut writer, &batch.chunks) {
                self.fail(error);
                return;
            }
            for (base, chunk) in batch.chunks {
                let block = self.hot.write().expect(POISONED).push(base, chunk);
                if let Some(block) = block {
                    self.tail.lock().expect(POISONED).keep_spare(block);
                }
            }
            dispatch(batch.dispatches);
            self.written.store(batch.end, Ordering::Release);
        }
    }

    fn write_chunks(&self, writer: &mut Writer, chunks: &[(i64, Bytes)]) -> Result<(), DiskError> {
        for (base, chunk) in chunks {
            let segment = self.segment_for_write(*base)?;
            let end = base + chunk.len() as i64;
            if end > writer.reserved {
                let segment_end = segment.base + self.options.segment_bytes;
                let reserve = |until: i64| {
                    segment.file.reserve((base - segment.base) as u64, (until - base) as u64).map(|()| until)
                };
                // A disk with less room than that still takes what fits.
                let ahead = reserve((end + RESERVE_BYTES).min(segment_end));
                writer.reserved = match ahead {
                    Err(error) if error.is_full() => reserve(end)?,
                    ahead => ahead?,
                };
            }
            disk::write_all_at(&*segment.file, chunk, (base - segment.base) as u64)?;
        }
        Ok(())
    }

    /// The segment that holds `offset`, made when it does not exist yet.
    fn segment_for_write(&self, offset: i64) -> Result<Segment, DiskError> {
        let base = offset - offset % self.options.segment_bytes;
        if let Some(segment) = self.segment(offset) {
            return Ok(segment);
        }
        let number = (base / self.options.segment_bytes) as usize;
        let directory = &self.options.directories[number % self.options.directories.len()];
        let file = self.disk.open(&directory.join(segments::name(base)), true)?;
        file.set_len(self.options.segment_bytes as u64)?;
        file.sync()?;
        self.disk.sync_directory(directory)?;
        let segment = Segment { base, file };
        self.segments.write().expect(POISONED).push(segment.clone());
        Ok(segment)
    }

    fn segment(&self, offset: i64) -> Option<Segment> {
        let segments = self.segments.read().expect(POISONED);
        let index = segments.partition_point(|segment| segment.base <= offset).checked_sub(1)?;
        let segment = &segments[index];
        (offset < segment.base + self.options.segment_bytes).then(|| segment.clone())
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
        let dirty: Vec<Segment> = {
            let segments = self.segments.read().expect(POISONED);
            let is_dirty =
                |s: &&Segment| s.base < written.0 && s.base + self.options.segment_bytes > durable.0;
            segments.iter().filter(is_dirty).cloned().collect()
        };
        for segment in dirty {
            if let Err(error) = segment.file.sync() {
                return Err(self.fail(error));
            }
        }
        self.durable.store(written.0, Ordering::Release);
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
