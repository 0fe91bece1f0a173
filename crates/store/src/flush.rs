//! How queue entries and those of the index come to their files, and how far that is remembered.
//!
//! Entries are written each second, so that their memory is free again, and only those of durable records: a file never
//! names a record that a power cut takes away. Synced they are seldom, because a sync costs more than reading the
//! entries from the log once more: what was not synced is scanned at the next start, and no more than
//! [`SYNC_LOG_BYTES`] and what comes in [`SYNC_INTERVAL_MS`]. The position behind which everything is to be scanned
//! moves only after the sync.
//!
//! An error costs nothing but a longer recovery: all of it can be rebuilt from the log. After a failed sync the
//! position stays where it is until the store is opened again.

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use cometmq_protocol::{LogOffset, Millis, QueueOffset};

use crate::checkpoint::{DispatchedPosition, JavaCheckpoint};
use crate::consume_queue::{Queue, Unit, Unsynced};
use crate::disk::DiskError;
use crate::index::{self, Index};
use crate::planted::{Bug, planted};
use crate::store::Store;

/// Bytes of log after which the queues are made durable: a start after a crash scans about as much.
const SYNC_LOG_BYTES: i64 = 128 * 1024 * 1024;
/// The same at the first flush after opening: what was scanned then is not to be scanned again, however short-lived the
/// process is.
const SYNC_SCANNED_BYTES: i64 = 4 * 1024 * 1024;
/// Time after which they are in any case.
const SYNC_INTERVAL_MS: i64 = 30_000;
/// Bytes of log that become durable after which that is noted: a start after a kill writes about as much anew.
pub(crate) const NOTE_LOG_BYTES: i64 = 16 * 1024 * 1024;
/// Entries that stay in memory behind a flush in all queues together, for consumers that keep up.
const RECENT_UNITS: usize = 1024 * 1024;
/// The same for one queue, at the most.
const RECENT_UNITS_OF_QUEUE: usize = 512;
/// The same, at the least.
const RECENT_UNITS_OF_QUEUE_MIN: usize = 1;

/// What only the one who flushes needs.
#[derive(Debug)]
pub(crate) struct Flushing {
    position: DispatchedPosition,
    java: JavaCheckpoint,
    unsynced: Unsynced,
    synced_at: Option<Millis>,
}

impl Flushing {
    pub fn new(position: DispatchedPosition, java: JavaCheckpoint, unsynced: Unsynced) -> Flushing {
        Flushing { position, java, unsynced, synced_at: None }
    }

    /// A queue file failed to sync: what it lost is rebuilt at the next start, so the position must not pass it.
    pub fn is_stuck(&self) -> bool {
        self.unsynced.failed()
    }
}

impl Store {
    /// Makes queues and index durable as far as the log is, and remembers how far that is. While the index is behind, a
    /// bounded part of what it lacks is read from the log.
    pub fn flush(&self) -> Result<(), DiskError> {
        let indexed = self.index_behind().and_then(|()| self.flush_index(false));
        let mut flushing = self.flushing.lock().expect(POISONED);
        let reachable = self.write_queues(&mut flushing)?;
        self.sync_queues(&mut flushing, reachable)?;
        indexed
    }

    /// Writes queue entries to their files, makes them durable when that is due, and unloads queues that were not used
    /// for some time. Call it each second.
    pub fn flush_due(&self, now: Millis) -> Result<(), DiskError> {
        let mut indexed = self.index_behind();
        let mut flushing = self.flushing.lock().expect(POISONED);
        let reachable = self.write_queues(&mut flushing)?;
        let limit = if flushing.synced_at.is_none() { SYNC_SCANNED_BYTES } else { SYNC_LOG_BYTES };
        let waited = now.0 - flushing.synced_at.get_or_insert(now).0;
        if reachable - flushing.position.get() > limit || !(0..SYNC_INTERVAL_MS).contains(&waited) {
            flushing.synced_at = Some(now);
            indexed = indexed.and_then(|()| self.flush_index(false));
            self.sync_queues(&mut flushing, reachable)?;
        }
        self.queues.unload_idle(now, flushing.unsynced.is_empty() && !flushing.is_stuck());
        indexed
    }

    /// Reads a bounded part of what the index lacks from the log.
    pub(crate) fn index_behind(&self) -> Result<(), DiskError> {
        let until = self.dispatched();
        self.index().map_or(Ok(()), |index| index.catch_up(&self.log, until, index::CATCH_UP_BYTES))
    }

    /// Makes the index durable as far as the log is.
    pub(crate) fn flush_index(&self, closing: bool) -> Result<(), DiskError> {
        let durable = self.log.durable();
        self.index().map_or(Ok(()), |index| index.flush(closing, durable))
    }

    /// The log position behind which a start would scan.
    pub(crate) fn flushed_up_to(&self) -> LogOffset {
        self.flushing.lock().expect(POISONED).position.get()
    }

    /// Writes an entry anew where it already has its place; durable with the next sync of the queues.
    pub(crate) fn repair_entry(
        &self,
        queue: &Queue,
        offset: QueueOffset,
        unit: Unit,
    ) -> Result<(), DiskError> {
        let mut flushing = self.flushing.lock().expect(POISONED);
        queue.repair(offset, unit, &mut flushing.unsynced)
    }

    /// Writes what is durable and only in memory, and tells up to which log position nothing is only in memory.
    fn write_queues(&self, flushing: &mut MutexGuard<'_, Flushing>) -> Result<LogOffset, DiskError> {
        // Both before the list is taken: what is before them is in the queues on it.
        let durable = self.log.durable();
        let reachable = LogOffset(self.dispatched.load(Ordering::Acquire)).min(durable);
        let mut dirty = std::mem::take(&mut *self.dirty.lock().expect(POISONED));
        let recent_max =
            (RECENT_UNITS / dirty.len().max(1)).clamp(RECENT_UNITS_OF_QUEUE_MIN, RECENT_UNITS_OF_QUEUE);
        let mut left = Vec::new();
        while let Some(queue) = dirty.pop() {
            queue.dirty.store(false, Ordering::Release);
            let flushed = queue.flush(durable, recent_max, &mut flushing.unsynced);
            // Still in memory, after an error too: tried again at the next flush.
            if !matches!(flushed, Ok(false)) && !queue.dirty.swap(true, Ordering::AcqRel) {
                left.push(queue);
            }
            if let Err(error) = flushed {
                left.append(&mut dirty);
                self.dirty.lock().expect(POISONED).append(&mut left);
                return Err(error);
            }
        }
        self.dirty.lock().expect(POISONED).append(&mut left);
        if let Err(error) = self.log.flush_checksums() {
            tracing::warn!(%error, "checksums of the log not written, tried again later");
        }
        self.note_durable(1);
        Ok(reachable)
    }

    /// Notes how far the log is durable, if that is `step` bytes more than what was noted: an older note is true as well.
    /// One beyond it is of segments that were taken away, and is corrected.
    pub(crate) fn note_durable(&self, step: i64) {
        let mut noted = self.noted.lock().expect(POISONED);
        let durable = self.log.durable();
        let is_due = durable - noted.get() >= step || durable < noted.get();
        if is_due && let Err(error) = noted.note(&*self.disk, durable) {
            tracing::warn!(%error, "the log's durable position not noted; a start after a crash takes longer");
        }
    }

    /// Makes durable what was written, and moves the position up to `reachable`.
    fn sync_queues(
        &self,
        flushing: &mut MutexGuard<'_, Flushing>,
        reachable: LogOffset,
    ) -> Result<(), DiskError> {
        if !planted(Bug::CheckpointAheadOfQueues) {
            flushing.unsynced.sync()?;
        }
        if flushing.is_stuck() || reachable <= flushing.position.get() {
            return Ok(());
        }
        flushing.position.save(&*self.disk, reachable)?;
        let stored_at = self.log.stored_before(reachable);
        flushing.java.physic = flushing.java.physic.max(stored_at);
        flushing.java.logics = flushing.java.logics.max(stored_at);
        let full_until = self.index().map_or(Millis(0), Index::full_until);
        flushing.java.index = flushing.java.index.max(full_until);
        flushing.java.save(&*self.disk, &self.options.root.join("checkpoint"))
    }
}

const POISONED: &str = "no holder of this lock panics";
