//! Opening a store: where the log ends, and the queue entries that its files may lack.
//!
//! The log alone is believed. Entries of records from the starting point on are entered anew, so recovering twice gives
//! the same store. Up to where the log is known to have been durable, damage is passed over and nothing is erased, see
//! [`durable`]. Behind that the first record that is not whole ends the log; what lies behind it is erased, for it could
//! look like records later.
//!
//! Only queues with records behind the starting point are looked at, so that opening costs what was written since, not
//! what is there. The others are looked at when they are first asked for, in `queues`.

mod durable;
mod replay;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::record::{BLANK_BYTES, MAGIC_BLANK, RECORD_BYTES_MIN};
use cometmq_protocol::{LogOffset, Millis};

use crate::checkpoint::{DispatchedPosition, DurablePosition, JavaCheckpoint};
use crate::consume_queue::QueueFiles;
use crate::cutting;
use crate::disk::{self, Disk, DiskError, DiskFile};
use crate::planted::{Bug, planted};
use crate::queues::Queues;
use crate::segments::{self, Found, SegmentError};
use crate::walk::RECORD_BYTES_MAX;

pub use replay::Beside;
use replay::{Replayed, replay};

/// Bytes read at once while scanning.
const WINDOW_BYTES: usize = 1024 * 1024;

/// What recovery found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub segments: Vec<Found>,
    pub queues: Queues,
    pub end: LogOffset,
    pub last_stored_at: Millis,
    pub report: RecoveryReport,
}

/// What recovery did, for the log and for tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the store was closed in order.
    pub clean: bool,
    /// Where scanning began.
    pub scanned_from: LogOffset,
    /// Where the log ends.
    pub end: LogOffset,
    /// Records scanned.
    pub records: u64,
    /// Consume queues with records among these; the others were not looked at.
    pub queues: usize,
    /// Bytes behind the end that were not zero and looked like the start of a record: a torn tail.
    pub torn: bool,
}

/// Where and how large things are.
#[derive(Debug)]
pub(crate) struct Layout<'a> {
    pub disk: &'a Arc<dyn Disk>,
    /// Where it is noted that a segment is being cut.
    pub cutting: &'a Path,
    pub log_directories: &'a [PathBuf],
    pub segment_bytes: i64,
    /// Directory of the checksums.
    pub checksums: &'a Path,
    pub queue_files: &'a Arc<QueueFiles>,
    /// How two threads work on it; `None`: one does.
    pub beside: Option<Beside>,
}

/// What is remembered from before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// Up to where the queues were durable, if the store was ever ours.
    pub dispatched: Option<LogOffset>,
    /// Up to where the log was.
    pub durable: LogOffset,
    /// RocketMQ's checkpoint.
    pub java: JavaCheckpoint,
}

/// What the next start goes by.
pub(crate) struct Positions<'a> {
    /// Where it begins.
    pub dispatched: &'a mut DispatchedPosition,
    /// What it takes for no torn tail.
    pub durable: &'a mut DurablePosition,
}

/// Finds the end of the log and completes the queues.
pub(crate) fn recover(
    layout: &Layout<'_>,
    clean: bool,
    mut known: Known,
    positions: Positions<'_>,
) -> Result<Recovered, SegmentError> {
    let segment_bytes = layout.segment_bytes as u64;
    cutting::resume(&**layout.disk, layout.cutting, layout.log_directories, segment_bytes)?;
    let mut found = Vec::new();
    for directory in layout.log_directories {
        found.extend(segments::find(&**layout.disk, directory, segment_bytes, "mappedFileSizeCommitLog")?);
    }
    found.sort_by_key(|segment| segment.base);
    let neighbours = found.iter().zip(found.iter().skip(1));
    if let Some((before, after)) =
        neighbours.into_iter().find(|(a, b)| a.base + layout.segment_bytes != b.base)
    {
        return Err(SegmentError::Gap {
            missing: before.base + layout.segment_bytes,
            path: after.path.clone(),
        });
    }
    let log = Log { disk: layout.disk, segment_bytes: layout.segment_bytes, segments: found };
    if clean
        && let Some(end) = known.dispatched
        && !log.is_boundary(end)?
    {
        tracing::warn!(position = %end, "another broker has cut off what was the end of the log, and gone on");
        (known.dispatched, known.durable) = (None, LogOffset(0));
    }
    let from = log.starting_point(known.dispatched, known.java)?;
    if positions.dispatched.get() > from {
        // Segments were taken away. Once the log is as long again, all before that position would count as seen.
        positions.dispatched.save(&**layout.disk, from)?;
    }
    // Beyond the log's end when segments were taken away.
    let durable = if known.durable <= log.limit() { from.max(known.durable) } else { from };
    let attempt = replay(layout, &log, from, durable, false)?;
    let replayed = match attempt {
        Some(replayed) => replayed,
        None => {
            // A queue lacks entries before the starting point: its files are older than the checkpoint says.
            tracing::warn!(from = %from, "consume queues lack entries; rebuilding all of them from the log's start");
            // Their files go: a start that finds some of them made anew must not take that for all. It has to know what it
            // would have known by its starting point: damage before that is no torn tail.
            positions.durable.raise(&**layout.disk, durable)?;
            positions.dispatched.save(&**layout.disk, log.start())?;
            replay(layout, &log, log.start(), durable, true)?
                .expect("a queue whose every entry is seen takes any offset")
        }
    };
    let Replayed { queues, end, last_stored_at, records, torn } = replayed;
    if !clean {
        log.make_durable(layout, durable, end)?;
    }
    let segments = log.cut(layout, end, clean)?;
    let report =
        RecoveryReport { clean, scanned_from: from, end, records, queues: queues.loaded_len(), torn };
    Ok(Recovered { segments, queues, end, last_stored_at, report })
}

/// The segments while recovering.
struct Log<'a> {
    disk: &'a Arc<dyn Disk>,
    segment_bytes: i64,
    segments: Vec<Found>,
}

struct Scanned {
    end: LogOffset,
    torn: bool,
}

impl Log<'_> {
    fn start(&self) -> LogOffset {
        LogOffset(self.segments.first().map_or(0, |segment| segment.base))
    }

    fn limit(&self) -> LogOffset {
        LogOffset(self.segments.last().map_or(0, |segment| segment.base + self.segment_bytes))
    }

    /// Our own position where there is one; else the newest segment whose first record is whole and was stored before
    /// the times of RocketMQ's checkpoint.
    fn starting_point(
        &self,
        position: Option<LogOffset>,
        java: JavaCheckpoint,
    ) -> Result<LogOffset, DiskError> {
        if let Some(position) = position
            && (self.start()..=self.limit()).contains(&position)
        {
            return Ok(position);
        }
        for segment in self.segments.iter().rev() {
            let stored_at = self.first_stored_at(segment)?;
            if stored_at.is_some_and(|at| at.0 > 0 && at <= java.safe_before()) {
                return Ok(LogOffset(segment.base));
            }
        }
        Ok(self.start())
    }

    /// The store time of the record with which a segment begins, if it is whole.
    fn first_stored_at(&self, segment: &Found) -> Result<Option<Millis>, DiskError> {
        Ok(match self.look(segment, LogOffset(segment.base), &mut Vec::new())? {
            Next::Record(record) => Some(record.store_timestamp),
            Next::Blank | Next::End | Next::More(_) => None,
        })
    }

    /// Whether a record begins at `position`, or nothing is there.
    fn is_boundary(&self, position: LogOffset) -> Result<bool, DiskError> {
        let index = self.segments.partition_point(|segment| segment.base <= position.0);
        let segment = index.checked_sub(1).map(|index| &self.segments[index]);
        let Some(segment) = segment.filter(|found| position.0 < found.base + self.segment_bytes) else {
            return Ok(true);
        };
        let mut bytes = Vec::new();
        let is_one = !matches!(self.look(segment, position, &mut bytes)?, Next::End | Next::More(_));
        Ok(is_one || bytes.iter().all(|byte| *byte == 0))
    }

    /// What stands at a position of a segment; `bytes` are those that tell.
    fn look<'b>(
        &self,
        segment: &Found,
        at: LogOffset,
        bytes: &'b mut Vec<u8>,
    ) -> Result<Next<'b>, DiskError> {
        let file = self.disk.open(&segment.path, false)?;
        let (place, room) = ((at.0 - segment.base) as u64, segment.base + self.segment_bytes - at.0);
        bytes.resize(BLANK_BYTES, 0);
        disk::read_full_at(&*file, bytes, place)?;
        if let Next::More(needed) = next(bytes, at, room) {
            bytes.resize(needed, 0);
            disk::read_full_at(&*file, bytes, place)?;
        }
        Ok(next(bytes, at, room))
    }

    /// Hands every whole record from `from` on to `each`, until that is false, and tells where they end.
    fn scan(
        &self,
        from: LogOffset,
        mut each: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Result<Scanned, SegmentError> {
        let mut position = from.0;
        let mut window = Vec::new();
        'segments: for segment in &self.segments {
            let segment_end = segment.base + self.segment_bytes;
            if segment_end <= position {
                continue;
            }
            let file = self.disk.open(&segment.path, false)?;
            let (mut window_base, mut size) = (position, WINDOW_BYTES);
            window.clear();
            while position < segment_end {
                let rest = &window[(position - window_base) as usize..];
                match next(rest, LogOffset(position), segment_end - position) {
                    Next::Record(record) => {
                        position += record.total as i64;
                        if !each(&record) {
                            break 'segments;
                        }
                    }
                    Next::Blank => {
                        position = segment_end;
                        continue 'segments;
                    }
                    Next::More(needed) => {
                        size = size.max(needed);
                        window_base = position;
                        window.resize(size.min((segment_end - position) as usize), 0);
                        let read = disk::read_full_at(&*file, &mut window, (position - segment.base) as u64)?;
                        if read < needed {
                            break 'segments;
                        }
                        window.truncate(read);
                    }
                    Next::End => {
                        return Ok(Scanned {
                            end: LogOffset(position),
                            torn: rest.iter().take(8).any(|b| *b != 0),
                        });
                    }
                }
            }
        }
        Ok(Scanned { end: LogOffset(position), torn: false })
    }

    /// Writes the bytes `from..end` once more and syncs them. A process that was killed may have left them with the kernel
    /// only, and one whose sync failed may have left pages that the kernel shows, counts as clean, and will never write:
    /// either way a later power cut would make a hole before all that is stored from now on.
    fn make_durable(&self, layout: &Layout<'_>, from: LogOffset, end: LogOffset) -> Result<(), DiskError> {
        for directory in layout.log_directories {
            layout.disk.sync_directory(directory)?;
        }
        let first = self.segments.partition_point(|segment| segment.base + self.segment_bytes <= from.0);
        let mut window = vec![0; WINDOW_BYTES];
        for segment in self.segments[first..].iter().take_while(|segment| segment.base < end.0) {
            let until = end.0.min(segment.base + self.segment_bytes) - segment.base;
            let mut at = (from.0 - segment.base).max(0);
            let file = self.disk.open(&segment.path, false)?;
            while at < until {
                let bytes = (until - at).min(WINDOW_BYTES as i64) as usize;
                let read = disk::read_full_at(&*file, &mut window[..bytes], at as u64)?;
                disk::write_all_at(&*file, &window[..read], at as u64)?;
                at += bytes as i64;
            }
            file.sync()?;
        }
        Ok(())
    }

    /// Erases what lies behind `end`, durably, and returns the segments that stay. The last segment goes first: a crash
    /// in between leaves no gap.
    fn cut(mut self, layout: &Layout<'_>, end: LogOffset, clean: bool) -> Result<Vec<Found>, DiskError> {
        let keep = self.segments.partition_point(|segment| segment.base < end.0).max(1);
        while self.segments.len() > keep {
            let Some(segment) = self.segments.pop() else { break };
            layout.disk.remove_file(&segment.path)?;
            if let Some(directory) = segment.path.parent() {
                layout.disk.sync_directory(directory)?;
            }
        }
        if let Some(segment) = self.segments.last() {
            let erase = !planted(Bug::TailNotErased);
            let behind = end.0 - segment.base;
            if erase && behind < self.segment_bytes {
                let file = self.disk.open(&segment.path, false)?;
                // A power cut may have taken any of many writes, and left one far behind those.
                if !clean || !is_zero_behind(&*file, behind)? {
                    cutting::begin(&**layout.disk, layout.cutting, &segment.path)?;
                    file.set_len(behind as u64)?;
                    file.set_len(self.segment_bytes as u64)?;
                    file.sync()?;
                    cutting::end(&**layout.disk, layout.cutting)?;
                }
            }
        }
        Ok(self.segments)
    }
}

/// Whether nothing was written behind `from`: looks at the next bytes, for without a power cut writes have no gaps.
fn is_zero_behind(file: &dyn DiskFile, from: i64) -> Result<bool, DiskError> {
    let mut bytes = vec![0; WINDOW_BYTES];
    let read = disk::read_full_at(file, &mut bytes, from as u64)?;
    Ok(bytes[..read].iter().all(|byte| *byte == 0))
}

enum Next<'a> {
    Record(RecordView<'a>),
    Blank,
    End,
    /// So many bytes are needed to tell.
    More(usize),
}

/// What stands at the front of `bytes`, which is log position `at`, with `room` bytes to the end of the segment.
fn next(bytes: &[u8], at: LogOffset, room: i64) -> Next<'_> {
    let Some(head) = bytes.first_chunk::<BLANK_BYTES>() else {
        return if room < BLANK_BYTES as i64 { Next::End } else { Next::More(BLANK_BYTES) };
    };
    let [a, b, c, d, m @ ..] = *head;
    let total = u32::from_be_bytes([a, b, c, d]);
    if u32::from_be_bytes(m) == MAGIC_BLANK {
        return Next::Blank;
    }
    if !(RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&(total as usize)) || i64::from(total) > room {
        return Next::End;
    }
    if bytes.len() < total as usize {
        return Next::More(total as usize);
    }
    match RecordView::decode(bytes) {
        Ok(record)
            if record.log_offset == at && (record.check_body().is_ok() || planted(Bug::TornTailAccepted)) =>
        {
            Next::Record(record)
        }
        _ => Next::End,
    }
}

#[cfg(test)]
mod tests {
    use cometmq_protocol::message::record;

    use super::*;

    #[test]
    fn no_memory_is_taken_for_a_record_that_cannot_be() {
        let needed = |bytes: usize| {
            let head = [&(bytes as u32).to_be_bytes()[..], &record::MAGIC_V1.to_be_bytes()].concat();
            match next(&head, LogOffset(0), 1 << 30) {
                Next::More(needed) => needed,
                _ => 0,
            }
        };
        assert_eq!([RECORD_BYTES_MAX, RECORD_BYTES_MAX + 1, 1 << 29].map(needed), [RECORD_BYTES_MAX, 0, 0]);
    }
}
