//! Writing what was appended, and the room that it needs.
//!
//! Room is reserved in steps ahead of the tail, and an append that goes beyond what is reserved asks for more first. So
//! on file systems that can reserve, no accepted record ever meets a full disk. On others a write may: then what was
//! accepted stays in memory, in order, its senders are refused, and it is written once there is room.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::tail::Batch;
use super::{AppendError, CommitLog, POISONED, Place, Segment};
use crate::disk::{self, DiskError};
use crate::dispatch::Dispatch;
use crate::planted::{Bug, planted};
use crate::segments;

/// Room is reserved in steps of this size, or to the end of the segment.
const RESERVE_BYTES: i64 = 64 * 1024 * 1024;
/// A disk that was full must have this much room before records are taken again.
const RESUME_BYTES: i64 = 4 * 1024 * 1024;

/// In front of small writes the file is filled with zeros, so much at once: a kernel that has large pages makes one for
/// all of it then, and many small writes into a page cost half of what a new page for each does.
const FILL_BYTES: i64 = 64 * 1024;
/// Larger writes have large pages by themselves.
const SMALL_BYTES: i64 = 16 * 1024;
/// What it is filled with.
static ZEROS: [u8; FILL_BYTES as usize] = [0; FILL_BYTES as usize];

/// What only the one who writes needs.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Log position up to which the file is filled.
    filled: i64,
    /// What a full disk did not take.
    stalled: Option<Batch>,
}

/// Whether the disk had no room at the last try.
#[derive(Debug, Default)]
pub(super) struct Full {
    is_full: AtomicBool,
    error: Mutex<Option<Arc<DiskError>>>,
}

impl Full {
    fn set(&self, error: DiskError) -> Arc<DiskError> {
        let mut known = self.error.lock().expect(POISONED);
        if known.is_none() {
            tracing::error!(%error, "the disk is full: messages are refused until there is room");
        }
        let error = Arc::new(error);
        *known = Some(Arc::clone(&error));
        self.is_full.store(true, Ordering::Release);
        error
    }

    fn clear(&self) {
        if self.error.lock().expect(POISONED).take().is_some() {
            self.is_full.store(false, Ordering::Release);
            tracing::warn!("the disk has room again: messages are taken");
        }
    }

    fn get(&self) -> Option<Arc<DiskError>> {
        if !self.is_full.load(Ordering::Acquire) {
            return None;
        }
        self.error.lock().expect(POISONED).clone()
    }
}

impl CommitLog {
    /// Writes everything appended, unless someone else is writing and will do so. `dispatch` is called for what became
    /// readable, in log order, before the watermark covers it.
    pub(crate) fn write(&self, mut dispatch: impl FnMut(Vec<Dispatch>)) {
        // The loop closes the gap between looking for bytes and letting go of the writer: who appended in between
        // found the writer taken and left.
        while self.appended.load(Ordering::Acquire) > self.written().0 && self.failure.get().is_none() {
            let Ok(mut writer) = self.writer.try_lock() else { return };
            let stalled = writer.stalled.take();
            let was_stalled = stalled.is_some();
            let mut batch = stalled.unwrap_or_else(|| self.tail.lock().expect(POISONED).take());
            let written = self.write_chunks(&mut batch, &mut writer.filled);
            if let Err(error) = written {
                if error.is_full() {
                    self.full.set(error);
                    writer.stalled = Some(batch);
                } else {
                    self.fail(error);
                }
                return;
            }
            self.handed.store(batch.end, Ordering::Release);
            dispatch(batch.dispatches);
            self.written.store(batch.end, Ordering::Release);
            if was_stalled {
                self.full.clear();
            }
            self.reserve_ahead(batch.end);
        }
    }

    /// Takes each chunk out of the batch once it is written.
    fn write_chunks(&self, batch: &mut Batch, filled: &mut i64) -> Result<(), DiskError> {
        while let Some((base, chunk)) = batch.chunks.front() {
            let segment = self.segment_for_write(*base)?;
            self.fill(&segment, *base, chunk.len() as i64, filled)?;
            disk::write_all_at(&*segment.file, chunk, (base - segment.base) as u64)?;
            self.checksums.extend(*base, chunk);
            let Some((base, chunk)) = batch.chunks.pop_front() else { break };
            let block = self.hot.write().expect(POISONED).push(base, chunk);
            if let Some(block) = block {
                self.tail.lock().expect(POISONED).keep_spare(block);
            }
        }
        Ok(())
    }

    /// Makes pages for what is about to be written at `base` and for what follows: nothing but zeros is there so far.
    fn fill(&self, segment: &Segment, base: i64, bytes: i64, filled: &mut i64) -> Result<(), DiskError> {
        let (from, end) = (base.max(*filled), base + bytes);
        let reserved = self.reserved.load(Ordering::Acquire).min(segment.base + self.options.segment_bytes);
        let until =
            (end + FILL_BYTES - (end - segment.base) % FILL_BYTES).min(from + FILL_BYTES).min(reserved);
        if !self.options.fills || from >= end || end - from > SMALL_BYTES || until <= end {
            return Ok(());
        }
        let zeros = &ZEROS[..(until - from) as usize];
        match disk::write_all_at(&*segment.file, zeros, (from - segment.base) as u64) {
            // The bytes themselves may still have room.
            Err(error) if error.is_full() => Ok(()),
            written => written.map(|()| *filled = until),
        }
    }

    /// Reserves the next step when less than half of one is left; only with the writer's lock. That it fails is of no
    /// concern yet: appends still have what is left.
    fn reserve_ahead(&self, end: i64) {
        let reserved = self.reserved.load(Ordering::Acquire);
        let step = RESERVE_BYTES.min(self.options.segment_bytes);
        if reserved - end < step / 2 && self.full().is_none() {
            let _ = self.extend(reserved + 1);
        }
    }

    /// Makes sure that room is reserved up to `end`.
    pub(super) fn reserve(&self, end: i64) -> Result<(), AppendError> {
        if let Some(full) = self.full() {
            return Err(AppendError::Full(full));
        }
        let _writer = self.writer.lock().expect(POISONED);
        self.extend(end).map_err(|error| match error.is_full() {
            true => AppendError::Full(self.full.set(error)),
            false => AppendError::ReadOnly(self.fail(error)),
        })
    }

    /// Reserves room up to `end` or beyond; only with the writer's lock.
    fn extend(&self, end: i64) -> Result<(), DiskError> {
        let mut reserved = self.reserved.load(Ordering::Acquire);
        while reserved < end {
            let segment = self.segment_for_write(reserved)?;
            let segment_end = segment.base + self.options.segment_bytes;
            let reserve = |until: i64| {
                let at = (reserved - segment.base) as u64;
                segment.file.reserve(at, (until - reserved) as u64).map(|()| until)
            };
            // A disk with less room than a whole step still takes what fits.
            let step = reserve((reserved + RESERVE_BYTES).min(segment_end));
            reserved = match step {
                Err(error) if error.is_full() => reserve(end.min(segment_end))?,
                step => step?,
            };
            self.reserved.store(reserved, Ordering::Release);
        }
        Ok(())
    }

    /// The error by which the disk was full at the last try, while it is.
    pub fn full(&self) -> Option<Arc<DiskError>> {
        self.full.get()
    }

    /// After a full disk: looks whether there is room again. Call it now and then while [`CommitLog::full`] tells so,
    /// and [`CommitLog::write`] behind it.
    pub(crate) fn retry_room(&self) {
        let _writer = self.writer.lock().expect(POISONED);
        let reserved = self.reserved.load(Ordering::Acquire);
        let segment_end = reserved - reserved % self.options.segment_bytes + self.options.segment_bytes;
        match self.extend((reserved + RESUME_BYTES).min(segment_end)) {
            Ok(()) => self.full.clear(),
            Err(error) if error.is_full() => drop(self.full.set(error)),
            Err(error) => drop(self.fail(error)),
        }
    }

    /// Removes segments that were made ahead and hold nothing. The log must not be written afterwards.
    pub(crate) fn remove_unused(&self) -> Result<(), DiskError> {
        let _writer = self.writer.lock().expect(POISONED);
        let mut segments = self.segments.write().expect(POISONED);
        while segments.len() > 1
            && let Some(last) = segments.pop_if(|segment| segment.base >= self.written().0)
        {
            self.disk.remove_file(&last.path)?;
            if let Some(directory) = last.path.parent() {
                self.disk.sync_directory(directory)?;
            }
        }
        Ok(())
    }

    /// The segment that holds `offset`, made when it does not exist yet.
    fn segment_for_write(&self, offset: i64) -> Result<Segment, DiskError> {
        let base = offset - offset % self.options.segment_bytes;
        if let Some(segment) = self.segment(offset)? {
            self.hold(&segment);
            return Ok(segment);
        }
        let number = (base / self.options.segment_bytes) as usize;
        let directory = &self.options.directories[number % self.options.directories.len()];
        let path = directory.join(segments::name(base));
        let file = self.disk.open(&path, true)?;
        file.set_len(self.options.segment_bytes as u64)?;
        file.sync()?;
        if !planted(Bug::DirectoryNotSynced) {
            self.disk.sync_directory(directory)?;
        }
        let place = Place { base, path, held: Some(Arc::clone(&file)) };
        self.segments.write().expect(POISONED).push(place);
        Ok(Segment { base, file })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cometmq_protocol::message::Record;
    use cometmq_protocol::names::TopicName;
    use cometmq_protocol::{Millis, QueueId};

    use crate::{Found, MemoryDisk, Patience, Store, StoreOptions};

    /// A consumer may ask while the records of a large write are entered in their queues one by one.
    #[test]
    fn what_is_entered_in_a_queue_can_be_read_before_the_watermark_covers_it() {
        let store = Store::open(Arc::new(MemoryDisk::new()), StoreOptions::new("/s")).unwrap().0;
        let queue = store.queue_or_create(&TopicName::parse("T").unwrap(), QueueId(0)).unwrap();
        // More than is kept of what is recent.
        for _ in 0..20 {
            let host = "127.0.0.1:10911".parse().unwrap();
            let record = Record::plain("T", QueueId(0), host, &[7; 1_000_000]);
            store.append(&queue, &[record], &[0], Millis(1000), &mut Vec::new()).unwrap();
        }
        let mut read = 0;
        store.log().write(|dispatches| {
            for dispatch in &dispatches {
                let entries = [(dispatch.queue_offset, dispatch.unit())];
                let mut each = |found: Found<'_>| {
                    read += i32::from(found.is_ok());
                    true
                };
                store.read_messages(&queue, &entries, Patience::Disk, &mut Vec::new(), &mut each);
            }
        });
        assert_eq!(read, 20);
    }
}
