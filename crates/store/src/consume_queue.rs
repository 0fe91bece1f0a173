//! A consume queue: for each message of one queue of a topic, where its record lies in the log.
//!
//! Recent entries are in memory; those of durable records are in files of 20-byte units once flushed. A queue holds no
//! open file.
//!
//! Reading order: here what a queue is, [`files`] its files, [`ahead`] what is read of them for later, [`load`] how a
//! queue is found in them, [`unsynced`] what is still to be made durable.

mod ahead;
mod files;
mod load;
mod unsynced;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, QueueId, QueueOffset};

use crate::commit_log::Patience;
use crate::disk::DiskError;
use crate::index::KeyHasher;
use crate::planted::{Bug, planted};

pub(crate) use files::{QueueFiles, Span, each_unit};
pub(crate) use load::{Loaded, OFFSET_MAX};
pub(crate) use unsynced::Unsynced;

/// Bytes of an entry on disk.
pub const UNIT_BYTES: i64 = 20;
/// Size of the units that fill a queue's first file when the queue does not begin at 0.
const FILLER_SIZE: i32 = i32::MAX;

/// An entry of a consume queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Where the record lies.
    pub log_offset: LogOffset,
    /// Its bytes.
    pub size: i32,
    /// Hash of its tag, or what the topic keeps instead.
    pub tags_code: i64,
}

/// An entry with its offset.
pub type Entry = (QueueOffset, Unit);

impl From<Entry> for Unit {
    fn from((_, unit): Entry) -> Unit {
        unit
    }
}

impl Unit {
    /// What stands before the first entry of a queue that does not begin at 0.
    const FILLER: Unit = Unit { log_offset: LogOffset(0), size: FILLER_SIZE, tags_code: 0 };

    /// On disk: i64 log offset, i32 size, i64 tags code.
    pub fn encode(&self) -> [u8; UNIT_BYTES as usize] {
        let mut bytes = [0; UNIT_BYTES as usize];
        bytes[..8].copy_from_slice(&self.log_offset.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    /// Position behind the record.
    pub fn end(&self) -> LogOffset {
        self.log_offset + i64::from(self.size)
    }

    /// Reads an entry; `None` for the zeros behind the last one and for what cannot be an entry.
    pub fn decode(bytes: &[u8; UNIT_BYTES as usize]) -> Option<Unit> {
        Some(Unit::decode_any(bytes)).filter(Unit::is_one)
    }

    fn is_one(&self) -> bool {
        self.log_offset.0 >= 0 && self.size > 0
    }

    fn decode_any(bytes: &[u8; UNIT_BYTES as usize]) -> Unit {
        let field = |from: usize| i64::from_be_bytes(bytes[from..from + 8].try_into().expect("eight bytes"));
        let size = i32::from_be_bytes(bytes[8..12].try_into().expect("four bytes"));
        Unit { log_offset: LogOffset(field(0)), size, tags_code: field(12) }
    }

    /// Appends to `units` the entries from the one at `offset` on, up to the first one that cannot be one; returns how
    /// many these are.
    pub(crate) fn decode_all<T: From<Entry>>(
        entries: &[[u8; UNIT_BYTES as usize]],
        offset: i64,
        units: &mut Vec<T>,
    ) -> usize {
        let before = units.len();
        // Nearly always all are entries: all are appended, and counted only if one is none.
        let mut all = true;
        units.extend(entries.iter().zip(offset..).map(|(entry, offset)| {
            let unit = Unit::decode_any(entry);
            all &= unit.is_one();
            T::from((QueueOffset(offset), unit))
        }));
        if all {
            return entries.len();
        }
        let whole = entries.iter().take_while(|entry| Unit::decode(entry).is_some()).count();
        units.truncate(before + whole);
        whole
    }

    pub(crate) fn is_filler(&self) -> bool {
        self.size == FILLER_SIZE && self.log_offset.0 == 0
    }
}

/// One queue.
#[derive(Debug)]
pub struct Queue {
    topic: TopicName,
    id: QueueId,
    files: Arc<QueueFiles>,
    hasher: KeyHasher,
    /// Offset that the next appended message gets. Changed under the commit log's lock only.
    next: AtomicI64,
    min: AtomicI64,
    max: AtomicI64,
    /// Someone waits for the next message.
    awaited: AtomicBool,
    /// Entries wait for a flush.
    pub(crate) dirty: AtomicBool,
    /// The round of [`crate::queues::Queues`] in which it was last asked for.
    pub(crate) used: AtomicU32,
    /// The round of [`Unsynced`] in which its files were written last.
    written_in: AtomicU32,
    state: Mutex<State>,
}

/// What a flush of a queue did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flushed {
    /// Entries that are in files now.
    pub written: usize,
    /// Entries are left that are in memory only.
    pub left: bool,
}

#[derive(Debug)]
struct State {
    /// Entries from `tail_base` to the end of the queue.
    tail: VecDeque<Unit>,
    tail_base: i64,
    /// Entries before this offset are in files.
    flushed: i64,
}

impl Queue {
    pub(crate) fn new(topic: TopicName, id: QueueId, files: Arc<QueueFiles>, loaded: Loaded) -> Queue {
        let end = loaded.max.0;
        Queue {
            hasher: KeyHasher::new(topic.as_str()),
            topic,
            id,
            files,
            next: AtomicI64::new(end),
            min: AtomicI64::new(loaded.min.0),
            max: AtomicI64::new(end),
            awaited: AtomicBool::new(false),
            dirty: AtomicBool::new(false),
            used: AtomicU32::new(0),
            written_in: AtomicU32::new(unsynced::FIRST_ROUND),
            state: Mutex::new(State { tail: VecDeque::new(), tail_base: end, flushed: end }),
        }
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The queue's number in its topic.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Hashes the keys of its messages.
    pub(crate) fn hasher(&self) -> KeyHasher {
        self.hasher
    }

    /// First offset that exists.
    pub fn min(&self) -> QueueOffset {
        QueueOffset(self.min.load(Ordering::Acquire))
    }

    /// End of the queue: the offset of the next message that becomes readable.
    pub fn max(&self) -> QueueOffset {
        QueueOffset(self.max.load(Ordering::Acquire))
    }

    /// Asks that the next message be reported. Look at [`Queue::max`] once more afterwards: it may have come before.
    pub fn await_next(&self) {
        self.awaited.store(true, Ordering::SeqCst);
    }

    /// Takes the next free offset; only with the commit log's lock held, so that queue order is log order.
    pub(crate) fn assign(&self) -> QueueOffset {
        // Nobody else changes it meanwhile: no need to pay for an atomic addition.
        let next = self.next.load(Ordering::Relaxed);
        self.next.store(next + 1, Ordering::Relaxed);
        QueueOffset(next)
    }

    /// Adds the entry for the next offset. Returns whether someone waits for it.
    pub(crate) fn push(&self, offset: QueueOffset, unit: Unit) -> bool {
        let mut state = self.state.lock().expect(POISONED);
        let end = state.tail_base + state.tail.len() as i64;
        assert_eq!(offset.0, end, "entries come in the order of their offsets");
        let twice = planted(Bug::DispatchedTwice) && offset.0 % 8 == 7;
        let unit = state.tail.back().copied().filter(|_| twice).unwrap_or(unit);
        state.tail.push_back(unit);
        self.max.store(end + 1, Ordering::SeqCst);
        !planted(Bug::WakeUpLost)
            && self.awaited.load(Ordering::SeqCst)
            && self.awaited.swap(false, Ordering::SeqCst)
    }

    /// Adds an entry that recovery found in the log; tells whether it fits behind the last one. An empty queue begins
    /// at any offset when `all_seen`: nothing of the log was left out before.
    ///
    /// Nobody else has the queue yet: for millions of entries locks would cost more than what they guard.
    pub(crate) fn restore(&mut self, offset: QueueOffset, unit: Unit, all_seen: bool) -> bool {
        let state = self.state.get_mut().expect(POISONED);
        let end = state.tail_base + state.tail.len() as i64;
        if end == 0 && offset.0 > 0 && all_seen {
            state.tail_base = offset.0;
            state.flushed = offset.0;
            *self.min.get_mut() = offset.0;
        } else if offset.0 != end {
            return false;
        }
        state.tail.push_back(unit);
        *self.next.get_mut() = offset.0 + 1;
        *self.max.get_mut() = offset.0 + 1;
        true
    }

    /// The last entry that recovery has added.
    pub(crate) fn last_restored(&mut self) -> Option<Unit> {
        self.state.get_mut().expect(POISONED).tail.back().copied()
    }

    /// Forgets all entries and begins anew at `offset`: the numbers of a topic that was removed and made again start
    /// over, and only the newest messages of a number can be reached.
    pub(crate) fn restart(&mut self, offset: QueueOffset) {
        let state = self.state.get_mut().expect(POISONED);
        *state = State { tail: VecDeque::new(), tail_base: offset.0, flushed: offset.0 };
        *self.min.get_mut() = offset.0;
    }

    /// Appends to `units` up to `count` entries from `offset` on.
    pub fn read(&self, offset: QueueOffset, count: usize, units: &mut Vec<Unit>) -> Result<(), DiskError> {
        match self.before_tail(offset, count, units) {
            Some(flushed) => {
                let count = count.min(flushed as usize);
                self.files.read(&self.span(offset, count, Patience::Disk), units).map(drop)
            }
            None => Ok(()),
        }
    }

    /// As [`Queue::read`], with their offsets, for a consumer that goes through the queue; returns false when the entries
    /// are not in memory and `patience` does not reach further.
    pub fn read_patiently(
        &self,
        offset: QueueOffset,
        count: usize,
        patience: Patience,
        units: &mut Vec<Entry>,
    ) -> Result<bool, DiskError> {
        match self.before_tail(offset, count, units) {
            Some(flushed) => {
                let count = count.min(flushed as usize);
                self.files.read_on(&self.span(offset, count, patience), flushed, units)
            }
            None => Ok(true),
        }
    }

    fn span(&self, offset: QueueOffset, count: usize, patience: Patience) -> Span<'_> {
        Span { topic: &self.topic, id: self.id, offset: offset.0, count, patience }
    }

    /// Appends entries to `units` that are in memory, or tells how many there are from `offset` on before those: they
    /// are all flushed, for the tail is never cut further.
    fn before_tail<T: From<Entry>>(
        &self,
        offset: QueueOffset,
        count: usize,
        units: &mut Vec<T>,
    ) -> Option<i64> {
        let state = self.state.lock().expect(POISONED);
        match usize::try_from(offset.0 - state.tail_base) {
            Ok(from) => {
                let found = state.tail.range(from.min(state.tail.len())..).take(count).copied();
                units.extend((offset.0..).map(QueueOffset).zip(found).map(T::from));
                None
            }
            Err(_) => Some(state.tail_base - offset.0),
        }
    }

    /// Writes an entry anew where it already has its place. Its file is left to be synced.
    pub(crate) fn repair(
        &self,
        offset: QueueOffset,
        unit: Unit,
        unsynced: &mut Unsynced,
    ) -> Result<(), DiskError> {
        {
            let mut state = self.state.lock().expect(POISONED);
            let index = offset.0 - state.tail_base;
            if let Some(kept) = usize::try_from(index).ok().and_then(|index| state.tail.get_mut(index)) {
                *kept = unit;
            }
            if offset.0 >= state.flushed {
                return Ok(());
            }
        }
        self.written_in.store(unsynced.round(), Ordering::Release);
        let written = self.files.write(&self.topic, self.id, offset, &[unit], unsynced);
        self.files.forget(&self.topic, self.id, offset);
        written
    }

    /// Writes entries of records before `durable` to their files, which are left to be synced, and keeps up to
    /// `recent_max` of them in memory.
    pub(crate) fn flush(
        &self,
        durable: LogOffset,
        recent_max: usize,
        unsynced: &mut Unsynced,
    ) -> Result<Flushed, DiskError> {
        let (from, units, left) = {
            let state = self.state.lock().expect(POISONED);
            let rest = state.tail.range((state.flushed - state.tail_base) as usize..);
            let count = rest.len();
            let units: Vec<Unit> = rest.take_while(|unit| unit.end() <= durable).copied().collect();
            let left = units.len() < count;
            (state.flushed, units, left)
        };
        if !units.is_empty() {
            self.written_in.store(unsynced.round(), Ordering::Release);
            self.files.write(&self.topic, self.id, QueueOffset(from), &units, unsynced)?;
        }
        let mut state = self.state.lock().expect(POISONED);
        state.flushed = from + units.len() as i64;
        let flushed_here = (state.flushed - state.tail_base) as usize;
        let old = flushed_here.min(state.tail.len().saturating_sub(recent_max));
        state.tail.drain(..old);
        state.tail_base += old as i64;
        if state.tail.capacity() > 4 * state.tail.len().max(recent_max) {
            let kept = state.tail.len();
            state.tail.shrink_to(2 * kept);
        }
        Ok(Flushed { written: units.len(), left })
    }

    /// Recovery found entries of it: they wait for a flush, and its directories for a sync. A process that was killed may
    /// have made these, and not more.
    pub(crate) fn leave_to_flush(&self, unsynced: &mut Unsynced) -> Result<(), DiskError> {
        self.dirty.store(true, Ordering::Release);
        self.files.add_directories(&self.topic, self.id, unsynced)
    }

    /// Entries that are in memory only.
    pub(crate) fn unwritten(&self) -> usize {
        let state = self.state.lock().expect(POISONED);
        state.tail.len() - (state.flushed - state.tail_base) as usize
    }

    /// Whether so many entries of records before `durable` are in memory only.
    pub(crate) fn has_to_write(&self, count: usize, durable: LogOffset) -> bool {
        let state = self.state.lock().expect(POISONED);
        let last = (state.flushed - state.tail_base) as usize + count - 1;
        state.tail.get(last).is_some_and(|unit| unit.end() <= durable)
    }

    /// The round of [`Unsynced`] in which its files were written last.
    pub(crate) fn written_in(&self) -> u32 {
        self.written_in.load(Ordering::Acquire)
    }

    /// Entries of records before `log_start` do not count any more: their records are deleted.
    pub(crate) fn expire(&self, log_start: LogOffset) -> Result<(), DiskError> {
        let mut units = Vec::with_capacity(1);
        let min = load::first_there(self.min().0, self.max().0, |offset| {
            units.clear();
            self.read(QueueOffset(offset), 1, &mut units)?;
            Ok(units.first().is_some_and(|unit| unit.log_offset >= log_start && !unit.is_filler()))
        })?;
        self.min.fetch_max(min, Ordering::AcqRel);
        Ok(())
    }

    /// Whether the files have all of it: nothing is lost when it is unloaded.
    pub(crate) fn is_settled(&self) -> bool {
        let state = self.state.lock().expect(POISONED);
        let end = state.tail_base + state.tail.len() as i64;
        state.flushed == end
            && self.next.load(Ordering::Acquire) == end
            && !self.dirty.load(Ordering::Acquire)
    }

    /// Whether someone waits for the next message.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::SeqCst)
    }
}

const POISONED: &str = "no holder of this lock panics";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_up_to_the_first_one_that_cannot_be_one() {
        let unit = |n| Unit { log_offset: LogOffset(n), size: 9, tags_code: -n };
        let whole: Vec<_> = (0..9).map(|n| unit(n).encode()).collect();
        for (bad, encoded) in
            [(9, whole[0]), (0, [0; 20]), (4, Unit { size: -1, ..unit(4) }.encode()), (8, unit(-1).encode())]
        {
            let mut entries = whole.clone();
            if let Some(entry) = entries.get_mut(bad) {
                *entry = encoded;
            }
            let mut units = vec![(QueueOffset(1), unit(77))];
            assert_eq!(Unit::decode_all(&entries, 50, &mut units), bad);
            let expected = (0..bad as i64).map(|n| (QueueOffset(50 + n), unit(n)));
            assert!(units[1..].iter().copied().eq(expected), "entry {bad} is none");
        }
    }
}
