//! The files of all consume queues: `consumequeue/TOPIC/QUEUE/` with segments of 20-byte units.
//!
//! Here entries are read and written at known places; where a queue begins and ends is found in [`super::load`].

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use cometmq_protocol::names::TopicName;
use cometmq_protocol::{QueueId, QueueOffset};

use super::ahead::{AHEAD_UNITS, Ahead, ReadAhead, stretch_end};
use super::unsynced::Unsynced;
use super::{Entry, UNIT_BYTES, Unit};
use crate::commit_log::Patience;
use crate::disk::{self, Disk, DiskError, DiskFile};
use crate::segments::{self, OpenFiles};

/// Files kept open at most; any other is opened anew when it is needed.
const OPEN_FILES_MAX: usize = 1024;

/// Entries read at once by one who wants all of a file.
const UNITS_AT_ONCE: usize = 4096;

/// Where the consume queues are and how large their files are.
#[derive(Debug)]
pub(crate) struct QueueFiles {
    pub(super) disk: Arc<dyn Disk>,
    root: PathBuf,
    pub(super) file_bytes: i64,
    open: OpenFiles<FileKey>,
    ahead: ReadAhead,
}

/// Entries that are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span<'a> {
    pub topic: &'a TopicName,
    pub id: QueueId,
    /// The first one.
    pub offset: i64,
    /// How many there should be.
    pub count: usize,
    /// How long whoever asks waits for them.
    pub patience: Patience,
}

/// A file by topic, queue and stream position of its first byte.
type FileKey = (TopicName, QueueId, i64);

impl QueueFiles {
    pub fn new(disk: Arc<dyn Disk>, root: PathBuf, file_bytes: i64) -> QueueFiles {
        assert!(file_bytes > 0 && file_bytes % UNIT_BYTES == 0, "queue files hold whole units");
        QueueFiles { disk, root, file_bytes, open: OpenFiles::new(OPEN_FILES_MAX), ahead: ReadAhead::new() }
    }

    /// Topics and queue numbers that have a directory. Directories of other names are left alone.
    pub fn list(&self) -> Result<Vec<(TopicName, QueueId)>, DiskError> {
        let mut queues = Vec::new();
        for topic in self.topics()? {
            queues.extend(self.ids(&topic)?.into_iter().map(|id| (topic.clone(), id)));
        }
        Ok(queues)
    }

    /// Topics that have a directory.
    pub fn topics(&self) -> Result<Vec<TopicName>, DiskError> {
        let entries = self.disk.list(&self.root)?.into_iter().filter(|entry| entry.is_directory);
        Ok(entries.filter_map(|entry| TopicName::parse(&entry.name).ok()).collect())
    }

    /// Whether a topic has a directory: without it none of its queues has files.
    pub fn has_topic(&self, topic: &TopicName) -> Result<bool, DiskError> {
        self.disk.exists(&self.root.join(topic.as_str()))
    }

    /// Numbers of a topic's queues that have a directory.
    pub fn ids(&self, topic: &TopicName) -> Result<Vec<QueueId>, DiskError> {
        let entries = self.disk.list(&self.root.join(topic.as_str()))?;
        let ids =
            entries.into_iter().filter(|entry| entry.is_directory).filter_map(|e| e.name.parse::<i32>().ok());
        Ok(ids.filter(|id| *id >= 0).map(QueueId).collect())
    }

    pub(super) fn unit(
        &self,
        topic: &TopicName,
        id: QueueId,
        offset: i64,
    ) -> Result<Option<Unit>, DiskError> {
        let mut units = Vec::with_capacity(1);
        self.read(&Span { topic, id, offset, count: 1, patience: Patience::Disk }, &mut units)?;
        Ok(units.pop())
    }

    /// Whether something stands in the place of an entry, be it one or not.
    pub(super) fn has_bytes(&self, topic: &TopicName, id: QueueId, offset: i64) -> Result<bool, DiskError> {
        let position = offset * UNIT_BYTES;
        let base = position - position % self.file_bytes;
        let Some(file) = self.file(topic, id, base)? else { return Ok(false) };
        let mut bytes = [0; UNIT_BYTES as usize];
        disk::read_full_at(&*file, &mut bytes, (position - base) as u64)?;
        Ok(bytes != [0; UNIT_BYTES as usize])
    }

    /// Writes an entry durably where the files have a place for it.
    pub(super) fn replace(
        &self,
        topic: &TopicName,
        id: QueueId,
        offset: i64,
        unit: Unit,
    ) -> Result<(), DiskError> {
        let position = offset * UNIT_BYTES;
        let base = position - position % self.file_bytes;
        let Some(file) = self.file(topic, id, base)? else { return Ok(()) };
        disk::write_all_at(&*file, &unit.encode(), (position - base) as u64)?;
        self.ahead.forget(topic, id, offset);
        file.sync()
    }

    /// Appends to `units` what the files have of a span: fewer entries where the file ends or holds no more. False when
    /// they are not in memory and its patience does not reach further.
    pub fn read<T: From<Entry>>(&self, span: &Span<'_>, units: &mut Vec<T>) -> Result<bool, DiskError> {
        let mut bytes = Vec::new();
        let is_resident = self.read_bytes(span, &mut bytes)?;
        Unit::decode_all(bytes.as_chunks().0, span.offset, units);
        Ok(is_resident)
    }

    /// As `read`, for one who goes through the queue, of which the files have `flushed` entries from the span's first on.
    pub fn read_on(&self, span: &Span<'_>, flushed: i64, units: &mut Vec<Entry>) -> Result<bool, DiskError> {
        let Span { topic, id, offset, count, .. } = *span;
        let until = stretch_end(offset).min(offset + flushed);
        let place =
            if offset + count as i64 <= until { self.ahead.try_place(topic, id, offset) } else { None };
        let Some(mut place) = place else { return self.read(span, units) };
        let mut goes_on = false;
        if let Some(ahead) = place.as_mut().filter(|ahead| ahead.is_of(topic, id)) {
            if ahead.take(offset, count, units) {
                return Ok(true);
            }
            goes_on = (ahead.from..=ahead.next).contains(&offset);
        }
        let mut bytes = place.take().map_or_else(Vec::new, |ahead| ahead.bytes);
        let wanted = if goes_on { count.max(AHEAD_UNITS.min(until - offset) as usize) } else { count };
        let is_resident = self.read_bytes(&Span { count: wanted, ..*span }, &mut bytes)?;
        let (whole, _) = bytes.as_chunks();
        let next = offset + Unit::decode_all(&whole[..whole.len().min(count)], offset, units) as i64;
        *place = Some(Ahead { topic: topic.clone(), id, from: offset, bytes, next });
        Ok(is_resident)
    }

    /// As `read`, filling `buffer` with the entries as they stand in their file; what was in it is lost.
    fn read_bytes(&self, span: &Span<'_>, buffer: &mut Vec<u8>) -> Result<bool, DiskError> {
        let Span { topic, id, patience, .. } = *span;
        let position = span.offset * UNIT_BYTES;
        let base = position - position % self.file_bytes;
        let file = match self.open.get(&(topic.clone(), id, base)) {
            Some(file) => Some(file),
            // Opening a file may have to wait for the disk too.
            None if patience == Patience::Resident => None,
            None => self.file(topic, id, base)?,
        };
        let Some(file) = file else {
            buffer.clear();
            return Ok(patience == Patience::Disk);
        };
        self.read_file(&*file, base, span, buffer)
    }

    /// The same of the file that begins at stream position `base`.
    pub(super) fn read_file(
        &self,
        file: &dyn DiskFile,
        base: i64,
        span: &Span<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, DiskError> {
        let position = span.offset * UNIT_BYTES;
        let bytes = (span.count as i64 * UNIT_BYTES).min(base + self.file_bytes - position);
        buffer.resize(bytes as usize, 0);
        let at = (position - base) as u64;
        let read = match span.patience {
            Patience::Disk => Some(disk::read_full_at(file, buffer, at)?),
            Patience::Resident => disk::read_resident_at(file, buffer, at)?,
        };
        buffer.truncate(read.unwrap_or(0));
        Ok(read.is_some())
    }

    /// Writes entries from `offset` on, filling a first file up to there. What is to be synced is added to `unsynced`.
    pub fn write(
        &self,
        topic: &TopicName,
        id: QueueId,
        offset: QueueOffset,
        units: &[Unit],
        unsynced: &mut Unsynced,
    ) -> Result<(), DiskError> {
        let mut position = offset.0 * UNIT_BYTES;
        let mut rest = units;
        while !rest.is_empty() {
            let base = position - position % self.file_bytes;
            let room = ((base + self.file_bytes - position) / UNIT_BYTES) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            let file = self.file_for_write(topic, id, base, position, unsynced)?;
            let bytes: Vec<u8> = now.iter().flat_map(Unit::encode).collect();
            disk::write_all_at(&*file, &bytes, (position - base) as u64)?;
            unsynced.add_file(&file)?;
            position += bytes.len() as i64;
            rest = later;
        }
        Ok(())
    }

    /// Zeros the entries `from..to`, so that nothing stale is found behind the end.
    pub fn clear(&self, topic: &TopicName, id: QueueId, from: i64, to: i64) -> Result<(), DiskError> {
        let mut position = from * UNIT_BYTES;
        while position < to * UNIT_BYTES {
            let base = position - position % self.file_bytes;
            let until = (base + self.file_bytes).min(to * UNIT_BYTES);
            if let Some(file) = self.file(topic, id, base)? {
                disk::write_all_at(&*file, &vec![0; (until - position) as usize], (position - base) as u64)?;
                file.sync()?;
            }
            position = until;
        }
        Ok(())
    }

    /// The queue's directory and those above it that may be as new as a file in it.
    pub fn directories(&self, topic: &TopicName, id: QueueId) -> [PathBuf; 3] {
        [self.directory(topic, id), self.root.join(topic.as_str()), self.root.clone()]
    }

    /// Has all of these synced.
    pub fn add_directories(
        &self,
        topic: &TopicName,
        id: QueueId,
        unsynced: &mut Unsynced,
    ) -> Result<(), DiskError> {
        if unsynced.is_everything() {
            return Ok(());
        }
        self.directories(topic, id).iter().try_for_each(|directory| unsynced.add_directory(directory))
    }

    /// The queue's directory.
    pub fn directory(&self, topic: &TopicName, id: QueueId) -> PathBuf {
        self.root.join(topic.as_str()).join(id.to_string())
    }

    /// The file at stream position `base` of a queue, made in one piece: many are, at a start.
    pub(super) fn path(&self, topic: &TopicName, id: QueueId, base: i64) -> PathBuf {
        let mut path = OsString::with_capacity(self.root.as_os_str().len() + topic.as_str().len() + 34);
        path.push(&self.root);
        write!(path, "/{topic}/{id}/{base:020}").expect("memory takes all of it");
        PathBuf::from(path)
    }

    /// Looks anew at the entry at `offset`, and its neighbours, when it is read next: it was written once more.
    pub fn forget(&self, topic: &TopicName, id: QueueId, offset: QueueOffset) {
        self.ahead.forget(topic, id, offset.0);
    }

    /// Closes the files of a queue: it is unloaded, or they are removed.
    pub fn close(&self, topic: &TopicName, id: QueueId) {
        self.open.close(|(of, number, _)| (of, *number) == (topic, id));
        self.ahead.forget_queue(topic, id);
    }

    /// The file at `base`; `None` when there is none.
    pub(super) fn file(
        &self,
        topic: &TopicName,
        id: QueueId,
        base: i64,
    ) -> Result<Option<Arc<dyn DiskFile>>, DiskError> {
        let key = (topic.clone(), id, base);
        if let Some(file) = self.open.get(&key) {
            return Ok(Some(file));
        }
        let path = self.path(topic, id, base);
        match self.disk.open(&path, false) {
            Err(error) if error.kind == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(file) => {
                self.open.insert(key, Arc::clone(&file));
                Ok(Some(file))
            }
        }
    }

    /// The file at `base`, made if need be. One that has nothing before `position` is filled up to there.
    fn file_for_write(
        &self,
        topic: &TopicName,
        id: QueueId,
        base: i64,
        position: i64,
        unsynced: &mut Unsynced,
    ) -> Result<Arc<dyn DiskFile>, DiskError> {
        let key = (topic.clone(), id, base);
        if let Some(file) = self.open.get(&key) {
            return Ok(file);
        }
        let [directory, above, root] = self.directories(topic, id);
        let path = directory.join(segments::name(base));
        let file = match self.disk.open(&path, false) {
            Err(error) if error.kind == std::io::ErrorKind::NotFound => {
                if !self.disk.exists(&directory)? {
                    let topic_is_new = !self.disk.exists(&above)?;
                    self.disk.create_directory(&directory)?;
                    unsynced.add_directory(&above)?;
                    if topic_is_new {
                        unsynced.add_directory(&root)?;
                    }
                }
                self.disk.open(&path, true)?
            }
            file => file?,
        };
        if file.len()? == 0 {
            unsynced.add_directory(&directory)?;
            file.set_len(self.file_bytes as u64)?;
        }
        if position > base && is_unused_before(&*file, (position - base) as u64)? {
            let fillers = ((position - base) / UNIT_BYTES) as usize;
            disk::write_all_at(&*file, &Unit::FILLER.encode().repeat(fillers), 0)?;
        }
        // Kept open only now: after an error above it is looked at anew.
        self.open.insert(key, Arc::clone(&file));
        Ok(file)
    }
}

/// Whether a file has no entries before `end`: neither its first nor the last there is one. A damaged one does not make
/// it so.
fn is_unused_before(file: &dyn DiskFile, end: u64) -> Result<bool, DiskError> {
    const NONE: [u8; UNIT_BYTES as usize] = [0; UNIT_BYTES as usize];
    let (mut first, mut last) = (NONE, NONE);
    disk::read_full_at(file, &mut first, 0)?;
    disk::read_full_at(file, &mut last, end - UNIT_BYTES as u64)?;
    // Fillers of which a crash kept the last ones only are written once more.
    Ok(first == NONE && (last == NONE || last == Unit::FILLER.encode()))
}

/// Hands all places of the file that begins at stream position `base` to `each`, with the bytes that stand there, until
/// that does not want more, which is returned.
pub(crate) fn each_unit<E: From<DiskError>>(
    file: &dyn DiskFile,
    base: i64,
    mut each: impl FnMut(QueueOffset, &[u8; UNIT_BYTES as usize]) -> Result<bool, E>,
) -> Result<bool, E> {
    let mut buffer = vec![0; UNITS_AT_ONCE * UNIT_BYTES as usize];
    let mut position = base;
    loop {
        let read = disk::read_full_at(file, &mut buffer, (position - base) as u64)?;
        let (units, _) = buffer[..read].as_chunks::<{ UNIT_BYTES as usize }>();
        for unit in units {
            if !each(QueueOffset(position / UNIT_BYTES), unit)? {
                return Ok(false);
            }
            position += UNIT_BYTES;
        }
        if read < buffer.len() {
            return Ok(true);
        }
    }
}
