//! The consume queues against the log, in both directions: every record has its entry, every entry its record.
//!
//! The first direction comes with the walk over the log. The second counts: a queue with as many entries as were found
//! right has no other ones; only where there are more, each is looked up.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::{LogOffset, QueueId, QueueOffset};
use foldhash::{HashMap, HashMapExt, HashSet};

use super::log::LogFiles;
use super::{CheckSummary, Finding};
use crate::consume_queue::{self, QueueFiles, UNIT_BYTES, Unit};
use crate::disk::{self, Disk, DiskError, DiskFile};
use crate::dispatch;
use crate::scrub::{Expected, is_entry_of, runs};
use crate::segments;

/// Entries read at once.
const UNITS_AT_ONCE: usize = 4096;
/// Places remembered as told.
const TOLD_MAX: usize = 100_000;

/// A queue by topic and number.
type Key = (String, QueueId);

/// What is done with each place of a queue's files.
type EachUnit<'a> =
    &'a mut dyn FnMut(&mut Counts, QueueOffset, &[u8; UNIT_BYTES as usize]) -> Result<(), DiskError>;

/// The queues, and how many of their entries were found right.
pub(super) struct Counts {
    disk: Arc<dyn Disk>,
    queues: HashMap<Key, QueueFound>,
    told: HashSet<(Key, QueueOffset)>,
    /// Entries of records from here on may be missing.
    entered: LogOffset,
    /// The file that was read last.
    last: Option<(PathBuf, Arc<dyn DiskFile>)>,
}

struct QueueFound {
    directory: PathBuf,
    /// Bytes of each file.
    file_bytes: i64,
    /// Stream positions of the files, growing.
    bases: Vec<i64>,
    right: u64,
}

impl Counts {
    /// Finds the queues. Files that are none are findings.
    pub fn open(
        disk: &Arc<dyn Disk>,
        root: PathBuf,
        found: &mut dyn FnMut(Finding),
    ) -> Result<Counts, DiskError> {
        let mut queues = HashMap::new();
        let files = QueueFiles::new(Arc::clone(disk), root, UNIT_BYTES);
        for (topic, id) in files.list()? {
            let queue = QueueFound::open(&**disk, files.directory(&topic, id), found)?;
            queues.insert((topic.as_str().to_owned(), id), queue);
        }
        let entered = LogOffset(i64::MAX);
        Ok(Counts { disk: Arc::clone(disk), queues, told: HashSet::default(), entered, last: None })
    }

    /// Compares what records of the log must have with what there is.
    pub fn compare(
        &mut self,
        expected: &Expected,
        entered: LogOffset,
        log: &LogFiles,
        found: &mut dyn FnMut(Finding),
    ) -> Result<(), DiskError> {
        self.entered = entered;
        for (topic, id, entries) in expected.iter() {
            let key = (topic.to_owned(), id);
            runs(entries).try_for_each(|run| self.compare_run(&key, run, log, found))?;
        }
        Ok(())
    }

    fn compare_run(
        &mut self,
        key: &Key,
        run: &[(QueueOffset, Unit)],
        log: &LogFiles,
        found: &mut dyn FnMut(Finding),
    ) -> Result<(), DiskError> {
        for run in run.chunks(UNITS_AT_ONCE) {
            let mut units = vec![None; run.len()];
            self.read(key, run[0].0, &mut units)?;
            let mut right = 0;
            for ((offset, expected), unit) in run.iter().zip(&units) {
                let begin = self.queues.get(key).and_then(QueueFound::begin);
                let is_expired = begin.is_some_and(|begin| *offset < begin);
                match unit {
                    Some(unit) if is_entry_of(unit, expected, &key.0) => right += 1,
                    _ if expected.log_offset >= self.entered || is_expired => {}
                    Some(unit) if unit.is_filler() || is_place_of(log, key, *offset, unit)? => {}
                    unit => {
                        let what = match unit {
                            Some(unit) => format!(
                                "the entry says position {}, {} bytes, tags code {}; the log says {}, {}, {}; the \
                                 scrub writes it anew",
                                unit.log_offset,
                                unit.size,
                                unit.tags_code,
                                expected.log_offset,
                                expected.size,
                                expected.tags_code
                            ),
                            None => "the record in the log has no entry".to_owned(),
                        };
                        self.tell(key, *offset, Some(expected.log_offset), what, found);
                    }
                }
            }
            if let Some(queue) = self.queues.get_mut(key) {
                queue.right += right;
            }
        }
        Ok(())
    }

    /// Counts all entries, and looks up those of queues that have more than were found right.
    pub fn finish(
        &mut self,
        log: &LogFiles,
        summary: &mut CheckSummary,
        found: &mut dyn FnMut(Finding),
    ) -> Result<(), DiskError> {
        let mut keys: Vec<Key> = self.queues.keys().cloned().collect();
        keys.sort();
        for key in keys {
            summary.queues += 1;
            let entries = self.count(&key, log, found)?;
            summary.entries += entries;
            if entries > self.queues[&key].right {
                self.look_up(&key, log, found)?;
            }
        }
        Ok(())
    }

    /// Entries of records that the log still has. Bytes behind the last entry are findings.
    fn count(&mut self, key: &Key, log: &LogFiles, found: &mut dyn FnMut(Finding)) -> Result<u64, DiskError> {
        let (mut entries, mut end) = (0, None);
        self.each(key, &mut |this, offset, bytes| {
            match Unit::decode(bytes) {
                Some(_) if end.is_some() => {
                    this.tell(key, offset, None, "an entry stands behind the queue's end".into(), found);
                }
                Some(unit) if unit.is_filler() || unit.log_offset.0 < log.start() => {}
                Some(unit) if unit.log_offset >= this.entered => {}
                Some(_) => entries += 1,
                None if *bytes != [0; UNIT_BYTES as usize] => {
                    this.tell(key, offset, None, "no entry of a queue has these bytes".into(), found);
                }
                None => {
                    end.get_or_insert(offset);
                }
            }
            Ok(())
        })?;
        Ok(entries)
    }

    fn look_up(
        &mut self,
        key: &Key,
        log: &LogFiles,
        found: &mut dyn FnMut(Finding),
    ) -> Result<(), DiskError> {
        self.each(key, &mut |this, offset, bytes| {
            let unit = Unit::decode(bytes).filter(|unit| {
                !unit.is_filler() && unit.log_offset.0 >= log.start() && unit.log_offset < this.entered
            });
            if let Some(unit) = unit
                && !is_place_of(log, key, offset, &unit)?
            {
                let what = format!("the log has no such message at position {}", unit.log_offset);
                this.tell(key, offset, Some(unit.log_offset), what, found);
            }
            Ok(())
        })
    }

    /// Hands all places of a queue's files to `each`.
    fn each(&mut self, key: &Key, each: EachUnit<'_>) -> Result<(), DiskError> {
        for base in self.queues[key].bases.clone() {
            let file = self.file(key, base)?;
            consume_queue::each_unit(&*file, base, |offset, bytes| each(self, offset, bytes).map(|()| true))?;
        }
        Ok(())
    }

    /// Reads the entries from `offset` on.
    fn read(&mut self, key: &Key, offset: QueueOffset, units: &mut [Option<Unit>]) -> Result<(), DiskError> {
        let Some(file_bytes) = self.queues.get(key).map(|queue| queue.file_bytes) else { return Ok(()) };
        let (mut index, mut buffer) = (0, Vec::new());
        while index < units.len() {
            let position = (offset + index as i64).0 * UNIT_BYTES;
            let base = position - position % file_bytes;
            let count = (units.len() - index).min(((base + file_bytes - position) / UNIT_BYTES) as usize);
            if self.queues[key].bases.binary_search(&base).is_ok() {
                buffer.resize(count * UNIT_BYTES as usize, 0);
                let file = self.file(key, base)?;
                let read = disk::read_full_at(&*file, &mut buffer, (position - base) as u64)?;
                let (found, _) = buffer[..read].as_chunks::<{ UNIT_BYTES as usize }>();
                units[index..].iter_mut().zip(found).for_each(|(unit, bytes)| *unit = Unit::decode(bytes));
            }
            index += count.max(1);
        }
        Ok(())
    }

    fn path(&self, key: &Key, base: i64) -> PathBuf {
        match self.queues.get(key) {
            Some(queue) => queue.directory.join(segments::name(base)),
            None => Path::new("consumequeue").join(&key.0).join(key.1.to_string()),
        }
    }

    fn file(&mut self, key: &Key, base: i64) -> Result<Arc<dyn DiskFile>, DiskError> {
        let path = self.path(key, base);
        if let Some((_, file)) = self.last.as_ref().filter(|(last, _)| *last == path) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&path, false)?;
        self.last = Some((path, Arc::clone(&file)));
        Ok(file)
    }

    fn tell(
        &mut self,
        key: &Key,
        offset: QueueOffset,
        position: Option<LogOffset>,
        what: String,
        found: &mut dyn FnMut(Finding),
    ) {
        if self.told.len() < TOLD_MAX && !self.told.insert((key.clone(), offset)) {
            return;
        }
        let byte = offset.0 * UNIT_BYTES;
        let file_bytes = self.queues.get(key).map_or(i64::MAX, |queue| queue.file_bytes);
        let at = u64::try_from(byte % file_bytes).ok();
        let file = self.path(key, byte - byte % file_bytes);
        found(Finding { file, at, position, message: Some((key.0.clone(), key.1, offset)), what });
    }
}

impl QueueFound {
    fn open(
        disk: &dyn Disk,
        directory: PathBuf,
        found: &mut dyn FnMut(Finding),
    ) -> Result<QueueFound, DiskError> {
        let mut queue = QueueFound { directory, file_bytes: UNIT_BYTES, bases: Vec::new(), right: 0 };
        for entry in disk.list(&queue.directory)?.into_iter().filter(|entry| entry.bytes > 0) {
            let path = queue.directory.join(&entry.name);
            match segments::parse(&entry.name) {
                Some(base) if queue.bases.is_empty() || entry.bytes as i64 == queue.file_bytes => {
                    queue.file_bytes = entry.bytes as i64;
                    queue.bases.push(base);
                }
                Some(_) => {
                    let what = format!("has {} bytes, and the first file {}", entry.bytes, queue.file_bytes);
                    found(Finding::of_file(&path, None, what));
                }
                None => found(Finding::of_file(&path, None, "is no file of a consume queue")),
            }
        }
        Ok(queue)
    }

    /// The first offset that a file has.
    fn begin(&self) -> Option<QueueOffset> {
        self.bases.first().map(|base| QueueOffset(base / UNIT_BYTES))
    }
}

/// Whether the record that an entry points to has that place in that queue.
fn is_place_of(log: &LogFiles, key: &Key, offset: QueueOffset, unit: &Unit) -> Result<bool, DiskError> {
    let mut is_its = false;
    log.record_at(unit.log_offset, unit.size as usize, &mut |record| {
        is_its = dispatch::places(record).iter().any(|place| {
            let expected = Unit { tags_code: place.tags_code, ..*unit };
            place.topic == key.0
                && place.queue_id == key.1
                && place.queue_offset == offset
                && is_entry_of(unit, &expected, &key.0)
        });
    })?;
    Ok(is_its)
}
