//! Where a queue begins and ends, as its files tell.
//!
//! Files are written behind the log and may be older than it, damaged, or of another broker: their end is taken for
//! what it is only when the caller has looked at the last entry.

use std::io::ErrorKind;
use std::sync::Arc;

use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, QueueId, QueueOffset};

use super::files::Span;
use super::{QueueFiles, UNIT_BYTES, Unit};
use crate::commit_log::Patience;
use crate::disk::{DiskError, DiskFile};
use crate::segments::{self, Found, SegmentError};

/// What says how large the files are.
const SETTING: &str = "mappedFileSizeConsumeQueue";
/// Entries looked at at once behind an expected end.
const LOOK_AHEAD_UNITS: usize = 128;
/// Queue offsets beyond this are not believed: their place in the files could not be told.
pub(crate) const OFFSET_MAX: i64 = i64::MAX / UNIT_BYTES / 2;

/// What the files say of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub min: QueueOffset,
    pub max: QueueOffset,
    /// End of what the files had: entries from `max` on were cut off, or are to be.
    pub written: QueueOffset,
}

/// Entries about the end that a queue is expected to have.
struct Around {
    /// Offset with which the files begin, and the entry there if it was read.
    begin: i64,
    first: Option<Unit>,
    /// The entries that were read, and the offset of the first.
    from: i64,
    units: Vec<Unit>,
}

impl QueueFiles {
    /// Finds the ends of a queue; `None` when it has no files. From the end back, entries that `keep` does not
    /// recognize are made anew, if `find` has the right one, and else cut off; it is told the number and the entry
    /// before. Entries of records before `log_start` count as expired.
    ///
    /// A queue of which nothing is left goes on at the number with which its files begin.
    pub fn load(
        &self,
        topic: &TopicName,
        id: QueueId,
        log_start: LogOffset,
        keep: &mut dyn FnMut(QueueOffset, Unit) -> Result<bool, DiskError>,
        find: &mut dyn FnMut(QueueOffset, Option<Unit>) -> Result<Option<Unit>, DiskError>,
    ) -> Result<Option<Loaded>, SegmentError> {
        let found = self.find(topic, id)?;
        let Some(first) = found.first() else { return Ok(None) };
        let begin = first.base / UNIT_BYTES;
        let written = self.written_end(topic, id, &found)?;
        let mut end = written;
        while end > begin && !self.is_kept(topic, id, end - 1, keep)? {
            end -= 1;
        }
        while end < written {
            let before = if end > begin { self.unit(topic, id, end - 1)? } else { None };
            let Some(unit) = find(QueueOffset(end), before)? else { break };
            self.replace(topic, id, end, unit)?;
            end += 1;
        }
        if end < written {
            self.clear(topic, id, end, written)?;
        }
        let min = self.first_at_or_after(topic, id, begin, end, log_start)?;
        Ok(Some(Loaded { min: QueueOffset(min), max: QueueOffset(end), written: QueueOffset(written) }))
    }

    /// As [`QueueFiles::load`], keeping entries of records before `cut` only. A queue of which nothing is left is
    /// removed: it begins wherever its next message says.
    pub fn load_before(
        &self,
        topic: &TopicName,
        id: QueueId,
        log_start: LogOffset,
        cut: LogOffset,
    ) -> Result<Loaded, SegmentError> {
        let mut keep = |_, unit: Unit| Ok(unit.log_offset < cut);
        let loaded = self.load(topic, id, log_start, &mut keep, &mut |_, _| Ok(None))?.unwrap_or_default();
        let found = self.find(topic, id)?;
        let Some(first) = found.first() else { return Ok(loaded) };
        if loaded.max.0 > first.base / UNIT_BYTES {
            return Ok(loaded);
        }
        self.remove(topic, id)?;
        Ok(Loaded::default())
    }

    /// The same for a queue whose first entry at `cut` or beyond has the number `expected`, if the log is right: where
    /// its files agree, nothing is searched, and entries from there on stay for the caller to replace or
    /// [clear](QueueFiles::clear).
    pub fn load_expected(
        &self,
        topic: &TopicName,
        id: QueueId,
        log_start: LogOffset,
        cut: LogOffset,
        expected: QueueOffset,
    ) -> Result<Loaded, SegmentError> {
        let end = expected.0;
        let is_old = |unit: &Unit| unit.log_offset < cut && !unit.is_filler();
        let Some(Around { begin, first, from, units }) = self.around(topic, id, end)? else {
            return Ok(Loaded::default());
        };
        let is_inside = if begin == 0 { end >= 0 } else { end > begin };
        let (before, behind) = units.split_at(((end - from).max(0) as usize).min(units.len()));
        let agrees = before.len() as i64 == end - from
            && before.last().is_none_or(is_old)
            && !behind.first().is_some_and(is_old);
        if is_inside && !agrees && self.is_last_damaged(topic, id, begin, end, is_old)? {
            let written = self.written_end(topic, id, &self.find(topic, id)?)?.max(end);
            let min = self.first_at_or_after(topic, id, begin, end, log_start)?;
            return Ok(Loaded { min: QueueOffset(min), max: expected, written: QueueOffset(written) });
        }
        if !is_inside || !agrees {
            return self.load_before(topic, id, log_start, cut);
        }
        let seen = end + behind.len() as i64;
        let all_seen = behind.len() < LOOK_AHEAD_UNITS && seen * UNIT_BYTES % self.file_bytes != 0;
        let written = match all_seen {
            true => seen,
            false => self.written_end(topic, id, &self.find(topic, id)?)?.max(seen),
        };
        let min = match first {
            Some(first) if first.log_offset >= log_start && !first.is_filler() => begin,
            _ => self.first_at_or_after(topic, id, begin, end, log_start)?,
        };
        Ok(Loaded { min: QueueOffset(min), max: expected, written: QueueOffset(written) })
    }

    /// Whether the last of the old entries is before `end` and damaged: it is made anew when someone wants its message.
    /// Else all queues would be rebuilt for it from the log's start.
    fn is_last_damaged(
        &self,
        topic: &TopicName,
        id: QueueId,
        begin: i64,
        end: i64,
        is_old: impl Fn(&Unit) -> bool,
    ) -> Result<bool, DiskError> {
        if end - 2 < begin || end > OFFSET_MAX {
            return Ok(false);
        }
        let is_old_at =
            |offset| Ok::<_, DiskError>(self.unit(topic, id, offset)?.is_some_and(|unit| is_old(&unit)));
        Ok(self.has_bytes(topic, id, end - 1)?
            && is_old_at(end - 2)?
            && !is_old_at(end - 1)?
            && !is_old_at(end)?)
    }

    /// The entries before and behind `end`, the first ones where most queues have them: in a file that begins at 0, of
    /// which only one read is needed. `None` when there are no files.
    fn around(&self, topic: &TopicName, id: QueueId, end: i64) -> Result<Option<Around>, SegmentError> {
        let patience = Patience::Disk;
        if (0..self.file_bytes / UNIT_BYTES).contains(&end)
            && let Some(file) = self.open_first(topic, id)?
        {
            let from = if end <= LOOK_AHEAD_UNITS as i64 { 0 } else { end - 1 };
            let count = (end - from) as usize + LOOK_AHEAD_UNITS;
            let mut bytes = Vec::new();
            let mut read = |offset, count| {
                self.read_file(&*file, 0, &Span { topic, id, offset, count, patience }, &mut bytes)?;
                let mut units = Vec::with_capacity(count);
                Unit::decode_all(bytes.as_chunks().0, offset, &mut units);
                Ok::<_, DiskError>(units)
            };
            let units = read(from, count)?;
            let first = if from > 0 { read(0, 1)?.pop() } else { units.first().copied() };
            return Ok(Some(Around { begin: 0, first, from, units }));
        }
        let found = self.find(topic, id)?;
        let Some(file) = found.first() else { return Ok(None) };
        let mut units = Vec::new();
        let from = (end - 1).max(0);
        if end <= OFFSET_MAX {
            let count = LOOK_AHEAD_UNITS + 1;
            self.read(&Span { topic, id, offset: from, count, patience }, &mut units)?;
            if end * UNIT_BYTES % self.file_bytes == 0 && units.len() == 1 {
                units.extend(self.unit(topic, id, end)?);
            }
        }
        Ok(Some(Around { begin: file.base / UNIT_BYTES, first: None, from, units }))
    }

    /// Deletes files whose last entries, and so all, are of records before `log_start`; never the last file.
    /// Returns how many.
    pub fn delete_expired(
        &self,
        topic: &TopicName,
        id: QueueId,
        log_start: LogOffset,
    ) -> Result<usize, SegmentError> {
        // Its next file may be made right now.
        let (directory, bytes) = (self.directory(topic, id), self.file_bytes as u64);
        let found = segments::find_while_written(&*self.disk, &directory, bytes, SETTING)?;
        let mut deleted = 0;
        for file in found.iter().take(found.len().saturating_sub(1)) {
            let end = (file.base + self.file_bytes) / UNIT_BYTES;
            // A damaged one alone does not tell.
            let last = (end - 2).max(file.base / UNIT_BYTES)..end;
            let is_expired = |unit: Option<Unit>| unit.is_some_and(|unit| unit.log_offset < log_start);
            let expired = last.map(|offset| Ok(is_expired(self.unit(topic, id, offset)?)));
            if !expired.collect::<Result<Vec<bool>, DiskError>>()?.into_iter().all(|expired| expired) {
                break;
            }
            self.disk.remove_file(&file.path)?;
            deleted += 1;
        }
        if deleted > 0 {
            self.close(topic, id);
            self.disk.sync_directory(&directory)?;
        }
        Ok(deleted)
    }

    /// Removes all files of a queue, the first ones first: what a crash leaves has the queue's end.
    pub fn remove(&self, topic: &TopicName, id: QueueId) -> Result<(), SegmentError> {
        self.close(topic, id);
        for file in self.find(topic, id)? {
            self.disk.remove_file(&file.path)?;
        }
        Ok(self.disk.sync_directory(&self.directory(topic, id))?)
    }

    /// The file with which most queues begin, if it is there as it should be. That costs less than listing; it is not
    /// kept open, for very many are looked at once.
    fn open_first(&self, topic: &TopicName, id: QueueId) -> Result<Option<Arc<dyn DiskFile>>, DiskError> {
        let path = self.path(topic, id, 0);
        match self.disk.open(&path, false) {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(file) => Ok((file.len()? == self.file_bytes as u64).then_some(file)),
        }
    }

    fn find(&self, topic: &TopicName, id: QueueId) -> Result<Vec<Found>, SegmentError> {
        let directory = self.directory(topic, id);
        segments::find(&*self.disk, &directory, self.file_bytes as u64, SETTING)
    }

    fn is_kept(
        &self,
        topic: &TopicName,
        id: QueueId,
        offset: i64,
        keep: &mut dyn FnMut(QueueOffset, Unit) -> Result<bool, DiskError>,
    ) -> Result<bool, DiskError> {
        match self.unit(topic, id, offset)? {
            Some(unit) if !unit.is_filler() => keep(QueueOffset(offset), unit),
            _ => Ok(false),
        }
    }

    /// The end of what looks like entries.
    fn written_end(&self, topic: &TopicName, id: QueueId, found: &[Found]) -> Result<i64, DiskError> {
        let mut end = 0;
        for file in found.iter().rev() {
            end = self.end_of(topic, id, file)?;
            if end > file.base / UNIT_BYTES {
                break;
            }
        }
        Ok(end)
    }

    /// The end of the units in one file: they begin at its start and the rest is zeros, apart from the last ones
    /// before a crash, which the caller looks at one by one. A damaged one among them is not their end.
    fn end_of(&self, topic: &TopicName, id: QueueId, file: &Found) -> Result<i64, DiskError> {
        let (mut low, mut high) = (file.base / UNIT_BYTES, (file.base + self.file_bytes) / UNIT_BYTES);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.has_bytes(topic, id, middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// The first of `begin..end` whose record lies at `log_start` or beyond; it is usually the first of all.
    fn first_at_or_after(
        &self,
        topic: &TopicName,
        id: QueueId,
        begin: i64,
        end: i64,
        log_start: LogOffset,
    ) -> Result<i64, DiskError> {
        first_there(begin, end, |offset| {
            let unit = self.unit(topic, id, offset)?;
            Ok(unit.is_some_and(|unit| unit.log_offset >= log_start && !unit.is_filler()))
        })
    }
}

/// The first of `min..max` that is there, of entries of which the first ones are not; it is usually the first of all.
/// One that is damaged looks as if it were not there: those before it tell.
pub(super) fn first_there(
    min: i64,
    max: i64,
    mut is_there: impl FnMut(i64) -> Result<bool, DiskError>,
) -> Result<i64, DiskError> {
    let mut end = max;
    loop {
        let (mut low, mut high) = (min, end);
        let mut middle = low;
        while low < high {
            if is_there(middle)? {
                high = middle;
            } else {
                low = middle + 1;
            }
            middle = low + (high - low) / 2;
        }
        if low - 2 < min || !is_there(low - 2)? {
            return Ok(low);
        }
        end = low - 2;
    }
}
