//! The segments of the log, record by record, and their checksums.

use std::path::PathBuf;
use std::sync::Arc;

use cometmq_protocol::message::RecordView;
use cometmq_protocol::{LogOffset, Millis};

use super::index::{IndexFiles, Seen};
use super::queues::Counts;
use super::{CheckSummary, Finding, Progress};
use crate::checksums::{BLOCK_BYTES, Sum, SumFile};
use crate::commit_log::Piece;
use crate::disk::{Disk, DiskError, DiskFile};
use crate::scrub::Expected;
use crate::segments;
use crate::walk::{Met, SegmentWalk, Stop};

/// The log as it lies there.
pub(super) struct LogFiles {
    segments: Vec<Segment>,
    pub segment_bytes: i64,
}

struct Segment {
    base: i64,
    file: Arc<dyn DiskFile>,
    sums: SumFile,
}

/// What the walk over the log came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    /// Where the records end.
    pub end: LogOffset,
    /// Store time of the newest record.
    pub last_stored_at: Millis,
}

/// Where a walk is.
struct Walk<'w> {
    /// The log is known to reach at least here.
    known_end: i64,
    /// What the piece holds, for the index.
    seen: Vec<Seen>,
    summary: &'w mut CheckSummary,
    found: &'w mut dyn FnMut(Finding),
    last_stored_at: Millis,
    /// Position behind the last whole record.
    end: i64,
    /// No record was found from here on.
    lost: Option<i64>,
    /// Blocks before this position are dealt with.
    blocks_until: i64,
}

/// Compares what one piece of the log held with what is derived from it.
type Compare<'a> = &'a mut dyn FnMut(&mut Walk<'_>, &Expected) -> Result<(), DiskError>;

impl LogFiles {
    /// Finds the segments. Files that are none, or of another length than the first, are findings; `cut` is the name of
    /// one that a start left short, which the next one makes whole.
    pub fn open(
        disk: &Arc<dyn Disk>,
        directories: &[PathBuf],
        sums: PathBuf,
        cut: Option<&str>,
        found: &mut dyn FnMut(Finding),
    ) -> Result<LogFiles, DiskError> {
        let mut files = Vec::new();
        for directory in directories {
            for entry in disk.list(directory)?.into_iter().filter(|entry| !entry.is_directory) {
                let path = directory.join(&entry.name);
                match segments::parse(&entry.name) {
                    Some(base) if entry.bytes > 0 => files.push((base, entry.bytes as i64, path)),
                    // What a crash between creating and sizing leaves.
                    Some(_) => {}
                    None => found(Finding::of_file(&path, None, "is no segment of the commit log")),
                }
            }
        }
        files.sort();
        let is_cut = |base| cut.is_some_and(|cut| cut == segments::name(base));
        let uncut = files.iter().find(|(base, ..)| !is_cut(*base)).or(files.first());
        let segment_bytes = uncut.map_or(1, |(_, bytes, _)| *bytes);
        let mut log = LogFiles { segments: Vec::with_capacity(files.len()), segment_bytes };
        let mut next = files.first().map_or(0, |(base, _, _)| *base);
        for (base, bytes, path) in files {
            if bytes != segment_bytes && !(is_cut(base) && bytes < segment_bytes) {
                let what = format!("has {bytes} bytes, and the first segment {segment_bytes}");
                found(Finding::of_file(&path, None, what));
                continue;
            }
            if base != next {
                let what = format!("the segment that begins at {next} is missing before it");
                found(Finding::of_file(&path, None, what));
            }
            next = base + segment_bytes;
            let sums = SumFile::open(disk, sums.join(segments::name(base)), base)?;
            log.segments.push(Segment { base, file: disk.open(&path, false)?, sums });
        }
        Ok(log)
    }

    /// Position of the first byte.
    pub fn start(&self) -> i64 {
        self.segments.first().map_or(0, |segment| segment.base)
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        self.segments.len() as u64 * self.segment_bytes as u64
    }

    /// Walks over all records and compares queues and index with them. Entries of records before `entered` must be in
    /// the queues.
    pub fn walk(
        &self,
        position: Option<LogOffset>,
        entered: LogOffset,
        (counts, index): (&mut Counts, &mut IndexFiles),
        summary: &mut CheckSummary,
        progress: Progress<'_>,
        found: &mut dyn FnMut(Finding),
    ) -> Result<Walked, DiskError> {
        summary.segments = self.segments.len() as u64;
        let mut covered = 0;
        for segment in &self.segments {
            covered = covered.max(segment.sums.covered_until()?);
        }
        let start = self.start();
        let mut walk = Walk {
            known_end: covered.max(position.map_or(0, |position| position.0)),
            seen: Vec::new(),
            summary,
            found,
            last_stored_at: Millis(0),
            end: start,
            lost: None,
            blocks_until: start,
        };
        for segment in &self.segments {
            for at in segment.sums.damaged()? {
                let what = "is no checksum of its block; the scrub makes it anew";
                (walk.found)(Finding::of_file(segment.sums.path(), Some(at), what));
            }
            self.walk_segment(
                segment,
                &mut walk,
                &mut |walk, expected| {
                    counts.compare(expected, entered, self, walk.found)?;
                    index.compare(&walk.seen, walk.found)?;
                    walk.seen.clear();
                    Ok(())
                },
                progress,
            )?;
        }
        let (end, last_stored_at) = (walk.end, walk.last_stored_at);
        walk.tail();
        Ok(Walked { end: LogOffset(end), last_stored_at })
    }

    fn walk_segment(
        &self,
        segment: &Segment,
        walk_state: &mut Walk<'_>,
        compare: Compare<'_>,
        progress: Progress<'_>,
    ) -> Result<(), DiskError> {
        let segment_end = segment.base + self.segment_bytes;
        let mut walk = SegmentWalk::new(segment.base, segment_end);
        let mut buffer = Vec::new();
        while let Some((from, to)) = walk.piece(walk_state.known_end) {
            let (piece, sums) = self.piece(segment, from, to, buffer)?;
            let mut expected = Expected::default();
            let stop = walk.over(&piece, walk_state.lost.is_some(), |met| match met {
                Met::Record(record) => walk_state.record(segment, &record, &mut expected),
                Met::Damaged { from, to, wrong, record } => {
                    walk_state.end = walk_state.end.max(to.0);
                    walk_state.seen.push(Seen::damaged(from, to));
                    walk_state.damaged(segment, from, record.as_ref(), &wrong.to_string());
                }
            });
            match stop {
                Stop::SegmentEnd(_) => walk_state.end = segment_end,
                Stop::Lost(lost, _) => {
                    walk_state.lost.get_or_insert(lost);
                }
                Stop::End | Stop::More(..) => {}
            }
            walk_state.blocks(segment, &piece, &sums);
            compare(walk_state, &expected)?;
            progress((walk.at() - self.start()) as u64);
            buffer = piece.bytes;
        }
        Ok(())
    }

    /// The piece `from..to`, compared with its sums, and which of its blocks have one.
    fn piece(
        &self,
        segment: &Segment,
        from: i64,
        to: i64,
        buffer: Vec<u8>,
    ) -> Result<(Piece, Vec<Option<Sum>>), DiskError> {
        let count = ((to - from) as usize).div_ceil(BLOCK_BYTES as usize);
        let sums = segment.sums.get(from, count)?;
        let mut piece = Piece::read_whole(&*segment.file, segment.base, from, to, buffer);
        piece.compare(&sums);
        Ok((piece, sums))
    }

    /// The record that lies at `position`, if there is one of that size, handed to `each`.
    pub fn record_at(
        &self,
        position: LogOffset,
        size: usize,
        each: &mut dyn FnMut(&RecordView<'_>),
    ) -> Result<(), DiskError> {
        let index = self.segments.partition_point(|segment| segment.base <= position.0);
        let Some(segment) = index.checked_sub(1).map(|index| &self.segments[index]) else { return Ok(()) };
        let end = position.0.saturating_add(size as i64);
        if end > segment.base + self.segment_bytes {
            return Ok(());
        }
        let from = position.0 - (position.0 - segment.base) % BLOCK_BYTES;
        let (piece, _) = self.piece(segment, from, end, Vec::new())?;
        let bytes = piece.bytes.get((position.0 - from) as usize..).unwrap_or_default();
        if let Ok(record) = RecordView::decode(bytes)
            && record.log_offset == position
            && record.total == size
        {
            each(&record);
        }
        Ok(())
    }
}

impl Walk<'_> {
    fn record(&mut self, segment: &Segment, record: &RecordView<'_>, expected: &mut Expected) {
        if let Some(lost) = self.lost.take() {
            self.seen.push(Seen::damaged(LogOffset(lost), record.log_offset));
            self.damaged(segment, LogOffset(lost), None, "no record here");
        }
        self.summary.records += 1;
        self.summary.log_bytes += record.total as u64;
        self.last_stored_at = self.last_stored_at.max(record.store_timestamp);
        self.end = record.log_offset.0 + record.total as i64;
        expected.add(record);
        self.seen.push(Seen::record(record));
    }

    fn damaged(&mut self, segment: &Segment, from: LogOffset, record: Option<&RecordView<'_>>, what: &str) {
        let message = record.map(|record| (record.topic.to_owned(), record.queue_id, record.queue_offset));
        let at = u64::try_from(from.0 - segment.base).ok();
        let file = segment.file.path().to_owned();
        (self.found)(Finding { file, at, position: Some(from), message, what: what.to_owned() });
    }

    /// Tells of bits that are flipped, and counts blocks, each once.
    fn blocks(&mut self, segment: &Segment, piece: &Piece, sums: &[Option<Sum>]) {
        let from = self.blocks_until.max(piece.base);
        self.blocks_until = piece.end();
        for byte in piece.flipped.iter().filter(|byte| byte.0 >= from) {
            let what = "one bit is flipped; the broker turns it back when it reads this";
            self.damaged(segment, *byte, None, what);
        }
        for (block, sum) in (piece.base..).step_by(BLOCK_BYTES as usize).zip(sums) {
            if block >= from && block < self.end {
                let count = if sum.is_some() {
                    &mut self.summary.summed_blocks
                } else {
                    &mut self.summary.unsummed_blocks
                };
                *count += 1;
            }
        }
    }

    /// What lies behind the last record.
    fn tail(&mut self) {
        if let Some(lost) = self.lost.filter(|lost| *lost < self.known_end) {
            (self.found)(Finding {
                file: PathBuf::from("commitlog"),
                at: None,
                position: Some(LogOffset(lost)),
                message: None,
                what: format!("no record from here on, and the log reached {}", self.known_end),
            });
        }
    }
}
