//! How queue entries and those of the index come to their files, and how far that is remembered.
//!
//! Entries are written each second, so that their memory is free again, and only those of durable records: a file never
//! names a record that a power cut takes away. Synced they are seldom, because a sync costs more than reading the
//! entries from the log once more: what was not synced is scanned at the next start, and no more than
//! [`SYNC_LOG_BYTES`] and what comes in [`SYNC_INTERVAL_MS`]. The position behind which everything is to be scanned
//! moves only after the sync, and a sync that takes long keeps nobody from writing.
//!
//! An error costs nothing but a longer recovery: all of it can be rebuilt from the log. After a failed sync the
//! position stays where it is until the store is opened again.

use std::sync::Arc;
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

/// Queues of a long round of writing between two looks at those that get many entries meanwhile.
const QUEUES_BETWEEN_LOOKS: usize = 512;
/// Entries of a queue that do not wait until such a round is over.
const MANY_UNITS: usize = 1024;

/// What only the one who writes needs.
#[derive(Debug)]
pub(crate) struct Flushing {
    unsynced: Unsynced,
    /// Nothing before this position of the log is in memory only; unknown before the first round of writing.
    reachable: Option<LogOffset>,
}

/// What only the one who syncs needs. Locked before [`Flushing`], and while the disk takes its time: entries are written
/// meanwhile.
#[derive(Debug)]
pub(crate) struct Syncing {
    position: DispatchedPosition,
    java: JavaCheckpoint,
    synced_at: Option<Millis>,
}

impl Flushing {
    pub fn new(unsynced: Unsynced) -> Flushing {
        Flushing { unsynced, reachable: None }
    }

    /// A queue file failed to sync: what it lost is rebuilt at the next start, so the position must not pass it.
    pub fn is_stuck(&self) -> bool {
        self.unsynced.failed()
    }
}

impl Syncing {
    pub fn new(position: DispatchedPosition, java: JavaCheckpoint) -> Syncing {
        Syncing { position, java, synced_at: None }
    }
}

impl Store {
    /// Makes queues and index durable as far as the log is, and remembers how far that is. While the index is behind, a
    /// bounded part of what it lacks is read from the log.
    pub fn flush(&self) -> Result<(), DiskError> {
        let indexed = self.index_behind().and_then(|()| self.flush_index(false));
        let mut syncing = self.syncing.lock().expect(POISONED);
        self.write_queues(&mut self.flushing.lock().expect(POISONED))?;
        self.sync_queues(&mut syncing)?;
        indexed
    }

    /// [`Store::write_entries`] and [`Store::sync_entries`], one after the other. Call it each second.
    pub fn flush_due(&self, now: Millis) -> Result<(), DiskError> {
        self.write_entries(now)?;
        self.sync_entries(now)
    }

    /// Writes queue entries to their files, so that their memory is free again, and unloads queues that were not used for
    /// some time. Call it each second, also while someone syncs.
    pub fn write_entries(&self, now: Millis) -> Result<(), DiskError> {
        let mut flushing = self.flushing.lock().expect(POISONED);
        self.write_queues(&mut flushing)?;
        self.queues.unload_idle(now, &flushing.unsynced);
        Ok(())
    }

    /// Makes what was written to queue files durable when that is due, and the index. Call it each second.
    pub fn sync_entries(&self, now: Millis) -> Result<(), DiskError> {
        let mut indexed = self.index_behind();
        let mut syncing = self.syncing.lock().expect(POISONED);
        let Some(reachable) = self.flushing.lock().expect(POISONED).reachable else { return indexed };
        let limit = if syncing.synced_at.is_none() { SYNC_SCANNED_BYTES } else { SYNC_LOG_BYTES };
        let waited = now.0 - syncing.synced_at.get_or_insert(now).0;
        if reachable - syncing.position.get() > limit || !(0..SYNC_INTERVAL_MS).contains(&waited) {
            syncing.synced_at = Some(now);
            indexed = indexed.and_then(|()| self.flush_index(false));
            self.sync_queues(&mut syncing)?;
        }
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
        self.syncing.lock().expect(POISONED).position.get()
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

    /// Writes what is durable and only in memory.
    fn write_queues(&self, flushing: &mut Flushing) -> Result<(), DiskError> {
        // Both before the list is taken: what is before them is in the queues on it.
        let durable = self.log.durable();
        let reachable = LogOffset(self.dispatched.load(Ordering::Acquire)).min(durable);
        let mut dirty = self.take_dirty();
        let recent_max =
            (RECENT_UNITS / dirty.len().max(1)).clamp(RECENT_UNITS_OF_QUEUE_MIN, RECENT_UNITS_OF_QUEUE);
        // Those with entries that are in memory only, also after they were written, and those that got some since.
        let mut waiting = Vec::new();
        let mut result = Ok(());
        let mut since_look = 0;
        while result.is_ok()
            && let Some(queue) = dirty.pop()
        {
            result = self.write_queue(queue, recent_max, flushing, &mut waiting);
            since_look += 1;
            // A round through very many queues takes long. Those that get many entries meanwhile do not wait for its end.
            if since_look >= QUEUES_BETWEEN_LOOKS.max(waiting.len()) && result.is_ok() {
                since_look = 0;
                waiting.append(&mut self.take_dirty());
                let durable = self.log.durable();
                dirty.extend(waiting.extract_if(.., |queue| queue.has_to_write(MANY_UNITS, durable)));
            }
        }
        // Still in memory, after an error too: tried again at the next flush.
        waiting.append(&mut dirty);
        self.dirty.lock().expect(POISONED).append(&mut waiting);
        result?;
        flushing.reachable = Some(reachable);
        if let Err(error) = self.log.flush_checksums() {
            tracing::warn!(%error, "checksums of the log not written, tried again later");
        }
        self.note_durable(1);
        Ok(())
    }

    fn take_dirty(&self) -> Vec<Arc<Queue>> {
        std::mem::take(&mut *self.dirty.lock().expect(POISONED))
    }

    /// Writes the entries of one queue. It is added to `waiting` if it has more.
    fn write_queue(
        &self,
        queue: Arc<Queue>,
        recent_max: usize,
        flushing: &mut Flushing,
        waiting: &mut Vec<Arc<Queue>>,
    ) -> Result<(), DiskError> {
        queue.dirty.store(false, Ordering::Release);
        let flushed = queue.flush(self.log.durable(), recent_max, &mut flushing.unsynced);
        if let Ok(flushed) = &flushed {
            self.unwritten.fetch_sub(flushed.written, Ordering::Relaxed);
        }
        let is_done = flushed.as_ref().is_ok_and(|flushed| !flushed.left);
        if !is_done && !queue.dirty.swap(true, Ordering::AcqRel) {
            waiting.push(queue);
        }
        flushed.map(|_| ())
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

    /// Makes durable what was written so far, and moves the position up to there.
    fn sync_queues(&self, syncing: &mut Syncing) -> Result<(), DiskError> {
        let (unsynced, reachable) = {
            let mut flushing = self.flushing.lock().expect(POISONED);
            (flushing.unsynced.take(), flushing.reachable)
        };
        let result = if planted(Bug::CheckpointAheadOfQueues) { Ok(()) } else { unsynced.sync() };
        let is_stuck = {
            let mut flushing = self.flushing.lock().expect(POISONED);
            flushing.unsynced.synced(&result);
            flushing.is_stuck()
        };
        result?;
        let Some(reachable) = reachable.filter(|to| !is_stuck && *to > syncing.position.get()) else {
            return Ok(());
        };
        syncing.position.save(&*self.disk, reachable)?;
        let stored_at = self.log.stored_before(reachable);
        syncing.java.physic = syncing.java.physic.max(stored_at);
        syncing.java.logics = syncing.java.logics.max(stored_at);
        let full_until = self.index().map_or(Millis(0), Index::full_until);
        syncing.java.index = syncing.java.index.max(full_until);
        syncing.java.save(&*self.disk, &self.options.root.join("checkpoint"))
    }
}

const POISONED: &str = "no holder of this lock panics";
