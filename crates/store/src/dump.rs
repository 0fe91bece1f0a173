//! `cometmq store dump`: what a store's files hold, file by file, without opening the store.
//!
//! What stands there is handed out as it stands: no checksum is asked, nothing is set right, and what cannot be read is
//! passed over. Here is where things are; how they are shown is the caller's business.
//!
//! Never here: a lock, or a change. Of a store in use the end of a file may be what is just being written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::record::BLANK_BYTES;
use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, QueueId, QueueOffset};

use crate::commit_log::Piece;
use crate::consume_queue::{self, QueueFiles, UNIT_BYTES, Unit};
use crate::disk::{Disk, DiskError};
use crate::index::files::Files;
use crate::index::format::{self, IndexEntry, IndexHeader, Shape};
use crate::segments;
use crate::walk::{Met, SegmentWalk, Stop};

/// Index entries read before the caller is asked whether it wants more.
const ENTRIES_AT_ONCE: u32 = 16 * 1024;

/// The files of a store.
#[derive(Debug)]
pub struct StoreFiles {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    queues: QueueFiles,
}

/// A file of the commit log or of a consume queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// The file.
    pub path: PathBuf,
    /// Stream position of its first byte.
    pub base: i64,
    /// Its length.
    pub bytes: u64,
}

/// What a part of a segment of the commit log holds.
#[derive(Debug)]
pub enum Held<'a> {
    /// A record. Its body may be another than its CRC says.
    Record(RecordView<'a>),
    /// No record, from this byte of the file on.
    Unreadable(u64),
}

/// What a segment's records are handed to.
struct Records<F, E> {
    base: i64,
    each: F,
    wish: Wish<E>,
    /// Where no record was found, and whether zeros stand there: if none comes behind it, the log ends there.
    lost: Option<(i64, bool)>,
}

/// Whether a caller wants more.
struct Wish<E>(Result<bool, E>);

impl StoreFiles {
    /// The files in a store's directory (`storePathRootDir`). Nothing is looked at yet.
    pub fn new(disk: Arc<dyn Disk>, root: &Path) -> StoreFiles {
        // Each file is taken as long as it is.
        let queues = QueueFiles::new(Arc::clone(&disk), root.join("consumequeue"), UNIT_BYTES);
        StoreFiles { disk, root: root.to_owned(), queues }
    }

    /// The commit log's segments in order. Files of other names are left out, here and below.
    pub fn log(&self) -> Result<Vec<SegmentFile>, DiskError> {
        self.segments(&self.root.join("commitlog"))
    }

    /// Hands what a segment of the log holds to `each`, until that does not want more, which is returned; `progress`
    /// learns of bytes done.
    pub fn records<E: From<DiskError>>(
        &self,
        segment: &SegmentFile,
        mut progress: impl FnMut(u64),
        each: impl FnMut(Held<'_>) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let file = self.disk.open(&segment.path, false)?;
        let base = segment.base;
        let mut walk = SegmentWalk::new(base, base.saturating_add_unsigned(segment.bytes));
        let mut records = Records { base, each, wish: Wish(Ok(true)), lost: None };
        let mut buffer = Vec::new();
        while records.wish.goes_on()
            && let Some((from, to)) = walk.piece(0)
        {
            let piece = Piece::read_whole(&*file, base, from, to, buffer);
            let stop = walk.over(&piece, records.lost.is_some(), |met| records.met(met));
            if let Stop::Lost(at, _) = stop
                && let Some(behind) = records.lost(at, &piece)
            {
                walk.go_on(behind);
            }
            progress((walk.at() - base) as u64);
            buffer = piece.bytes;
        }
        records.end()
    }

    /// Topics that have consume queues.
    pub fn topics(&self) -> Result<Vec<TopicName>, DiskError> {
        self.queues.topics()
    }

    /// Numbers of a topic's queues.
    pub fn queue_ids(&self, topic: &TopicName) -> Result<Vec<QueueId>, DiskError> {
        self.queues.ids(topic)
    }

    /// The files of a queue in order.
    pub fn queue(&self, topic: &TopicName, id: QueueId) -> Result<Vec<SegmentFile>, DiskError> {
        self.segments(&self.queues.directory(topic, id))
    }

    /// Hands the entries of a queue's file to `each`, until that does not want more, which is returned.
    pub fn entries<E: From<DiskError>>(
        &self,
        segment: &SegmentFile,
        mut each: impl FnMut(QueueOffset, Unit) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let file = self.disk.open(&segment.path, false)?;
        consume_queue::each_unit(&*file, segment.base, |offset, bytes| {
            Unit::decode(bytes).map_or(Ok(true), |unit| each(offset, unit))
        })
    }

    /// Names of the index's files, oldest first, and their lengths.
    pub fn index(&self) -> Result<Vec<(i64, u64)>, DiskError> {
        let entries = self.disk.list(&self.root.join("index"))?;
        let files = entries.into_iter().filter(|entry| !entry.is_directory);
        Ok(files.filter_map(|entry| Some((format::parse_name(&entry.name)?, entry.bytes))).collect())
    }

    /// The place of an index file.
    pub fn index_path(&self, name: i64) -> PathBuf {
        self.root.join("index").join(format::file_name(name))
    }

    /// The header of an index file of that shape.
    pub fn index_header(&self, name: i64, shape: Shape) -> Result<IndexHeader, DiskError> {
        self.index_files(shape).header(name)
    }

    /// Hands the entries `from..to` of an index file, and their numbers, to `each`, until that does not want more, which
    /// is returned.
    pub fn index_entries<E: From<DiskError>>(
        &self,
        (name, shape): (i64, Shape),
        from: u32,
        to: u32,
        mut each: impl FnMut(u32, IndexEntry) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let files = self.index_files(shape);
        let file = files.open(name)?;
        let mut wish = Wish(Ok(true));
        for from in (from..to).step_by(ENTRIES_AT_ONCE as usize) {
            let to = to.min(from.saturating_add(ENTRIES_AT_ONCE));
            files.entries(&*file, from, to, |number, entry| wish.ask(|| each(number, entry)))?;
            if !wish.goes_on() {
                break;
            }
        }
        wish.0
    }

    fn index_files(&self, shape: Shape) -> Files {
        Files { disk: Arc::clone(&self.disk), directory: self.root.join("index"), shape }
    }

    fn segments(&self, directory: &Path) -> Result<Vec<SegmentFile>, DiskError> {
        let files = self.disk.list(directory)?.into_iter().filter(|entry| !entry.is_directory);
        let segment = |entry: crate::disk::Entry| {
            let base = segments::parse(&entry.name)?;
            Some(SegmentFile { path: directory.join(entry.name), base, bytes: entry.bytes })
        };
        Ok(files.filter_map(segment).collect())
    }
}

impl<E, F: FnMut(Held<'_>) -> Result<bool, E>> Records<F, E> {
    fn met(&mut self, met: Met<'_>) {
        if let Some((lost, _)) = self.lost.take() {
            self.unreadable(lost);
        }
        match met {
            Met::Record(record) | Met::Damaged { record: Some(record), .. } => self.record(record),
            Met::Damaged { from, record: None, .. } => self.unreadable(from.0),
        }
    }

    /// No place behind `at` in this piece claims to be a record's. One that stands at `at` itself has a damaged body: it
    /// is shown, and the position behind it returned.
    fn lost(&mut self, at: i64, piece: &Piece) -> Option<i64> {
        if self.lost.is_some() {
            return None;
        }
        let bytes = piece.bytes.get((at - piece.base) as usize..).unwrap_or_default();
        match RecordView::decode(bytes) {
            Ok(record) if record.log_offset == LogOffset(at) => {
                let behind = at + record.total as i64;
                self.record(record);
                Some(behind)
            }
            _ => {
                self.lost = Some((at, bytes.iter().take(BLANK_BYTES).all(|byte| *byte == 0)));
                None
            }
        }
    }

    /// Nothing more is in the segment.
    fn end(mut self) -> Result<bool, E> {
        if let Some((lost, false)) = self.lost {
            self.unreadable(lost);
        }
        self.wish.0
    }

    fn record(&mut self, record: RecordView<'_>) {
        self.wish.ask(|| (self.each)(Held::Record(record)));
    }

    fn unreadable(&mut self, at: i64) {
        let byte = (at - self.base) as u64;
        self.wish.ask(|| (self.each)(Held::Unreadable(byte)));
    }
}

impl<E> Wish<E> {
    fn goes_on(&self) -> bool {
        matches!(self.0, Ok(true))
    }

    fn ask(&mut self, each: impl FnOnce() -> Result<bool, E>) {
        if self.goes_on() {
            self.0 = each();
        }
    }
}
