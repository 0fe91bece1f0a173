//! The files of all consume queues: `consumequeue/TOPIC/QUEUE/` with segments of 20-byte units.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cometmq_protocol::names::TopicName;
use cometmq_protocol::{LogOffset, QueueId, QueueOffset};

use super::{POISONED, UNIT_BYTES, Unit};
use crate::commit_log::Patience;
use crate::disk::{self, Disk, DiskError, DiskFile};
use crate::segments::{self, Found, SegmentError};

/// Files kept open at most; any other is opened anew when it is needed.
const OPEN_FILES_MAX: usize = 256;

/// The queue's directory, the topic's and the root of all may be as new as a file.
const DIRECTORIES_PER_QUEUE: usize = 3;

/// Where the consume queues are and how large their files are.
#[derive(Debug)]
pub(crate) struct QueueFiles {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    file_bytes: i64,
    open: Mutex<HashMap<FileKey, Arc<dyn DiskFile>>>,
}

/// A file by topic, queue and stream position of its first byte.
type FileKey = (TopicName, QueueId, i64);

/// An open file.
struct Opened {
    file: Arc<dyn DiskFile>,
    /// It was just made.
    is_new: bool,
}

/// What the files say of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub min: QueueOffset,
    pub max: QueueOffset,
}

impl QueueFiles {
    pub fn new(disk: Arc<dyn Disk>, root: PathBuf, file_bytes: i64) -> QueueFiles {
        assert!(file_bytes > 0 && file_bytes % UNIT_BYTES == 0, "queue files hold whole units");
        QueueFiles { disk, root, file_bytes, open: Mutex::new(HashMap::new()) }
    }

    /// Topics and queue numbers that have a directory. Directories of other names are left alone.
    pub fn list(&self) -> Result<Vec<(TopicName, QueueId)>, DiskError> {
        let mut queues = Vec::new();
        for topic in self.disk.list(&self.root)?.into_iter().filter(|entry| entry.is_directory) {
            let Ok(name) = TopicName::parse(&topic.name) else { continue };
            for queue in self.disk.list(&self.root.join(&topic.name))? {
                match queue.name.parse::<i32>() {
                    Ok(id) if queue.is_directory && id >= 0 => queues.push((name.clone(), QueueId(id))),
                    _ => {}
                }
            }
        }
        Ok(queues)
    }

    /// Finds the ends of a queue, and cuts off the entries of records at `log_cut` and beyond: they are entered anew
    /// from the log. Entries of records before `log_start` count as expired.
    pub fn load(
        &self,
        topic: &TopicName,
        id: QueueId,
        log_start: LogOffset,
        log_cut: LogOffset,
    ) -> Result<Loaded, SegmentError> {
        let found = segments::find(
            &*self.disk,
            &self.directory(topic, id),
            self.file_bytes as u64,
            "mappedFileSizeConsumeQueue",
        )?;
        let Some(first) = found.first() else { return Ok(Loaded::default()) };
        let begin = first.base / UNIT_BYTES;
        let mut end = begin;
        for file in found.iter().rev() {
            end = self.end_of(topic, id, file)?;
            if end > file.base / UNIT_BYTES {
                break;
            }
        }
        let before_cut =
            |unit: Option<Unit>| unit.is_some_and(|unit| unit.log_offset < log_cut && !unit.is_filler());
        let written = end;
        while end > begin && !before_cut(self.unit(topic, id, end - 1)?) {
            end -= 1;
        }
        if end == begin {
            // Nothing is left: the queue begins wherever its next message says.
            self.open.lock().expect(POISONED).clear();
            found.iter().try_for_each(|file| self.disk.remove_file(&file.path))?;
            self.disk.sync_directory(&self.directory(topic, id))?;
            return Ok(Loaded::default());
        }
        if end < written {
            self.clear(topic, id, end, written)?;
        }
        let min = self.first_at_or_after(topic, id, begin, end, log_start)?;
        Ok(Loaded { min: QueueOffset(min), max: QueueOffset(end) })
    }

    /// The end of the units in one file: they begin at its start and the rest is zeros, apart from the last ones
    /// before a crash, which the caller looks at one by one.
    fn end_of(&self, topic: &TopicName, id: QueueId, file: &Found) -> Result<i64, DiskError> {
        let (mut low, mut high) = (file.base / UNIT_BYTES, (file.base + self.file_bytes) / UNIT_BYTES);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.unit(topic, id, middle)? {
                Some(_) => low = middle + 1,
                None => high = middle,
            }
        }
        Ok(low)
    }

    fn first_at_or_after(
        &self,
        topic: &TopicName,
        id: QueueId,
        begin: i64,
        end: i64,
        log_start: LogOffset,
    ) -> Result<i64, DiskError> {
        let (mut low, mut high) = (begin, end);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.unit(topic, id, middle)? {
                Some(unit) if unit.log_offset >= log_start && !unit.is_filler() => high = middle,
                _ => low = middle + 1,
            }
        }
        Ok(low)
    }

    fn unit(&self, topic: &TopicName, id: QueueId, offset: i64) -> Result<Option<Unit>, DiskError> {
        let mut units = Vec::with_capacity(1);
        self.read(topic, id, QueueOffset(offset), 1, &mut units)?;
        Ok(units.pop())
    }

    /// Appends to `units` what the files have from `offset` on: up to `count` entries, fewer where the file ends or
    /// holds no more.
    pub fn read(
        &self,
        topic: &TopicName,
        id: QueueId,
        offset: QueueOffset,
        count: usize,
        units: &mut Vec<Unit>,
    ) -> Result<(), DiskError> {
        self.read_patiently(topic, id, offset, count, Patience::Disk, units).map(|_| ())
    }

    /// As `read`; false when the entries are not in memory and `patience` does not reach further.
    pub fn read_patiently(
        &self,
        topic: &TopicName,
        id: QueueId,
        offset: QueueOffset,
        count: usize,
        patience: Patience,
        units: &mut Vec<Unit>,
    ) -> Result<bool, DiskError> {
        let position = offset.0 * UNIT_BYTES;
        let base = position - position % self.file_bytes;
        let Some(Opened { file, .. }) = self.file(topic, id, base, false)? else { return Ok(true) };
        let bytes = (count as i64 * UNIT_BYTES).min(base + self.file_bytes - position);
        let mut buffer = vec![0; bytes as usize];
        let at = (position - base) as u64;
        let read = match patience {
            Patience::Disk => disk::read_full_at(&*file, &mut buffer, at)?,
            Patience::Resident => match disk::read_resident_at(&*file, &mut buffer, at)? {
                Some(read) => read,
                None => return Ok(false),
            },
        };
        let (whole, _) = buffer[..read].as_chunks::<{ UNIT_BYTES as usize }>();
        units.extend(whole.iter().map_while(Unit::decode));
        Ok(true)
    }

    /// Writes entries from `offset` on, filling a first file up to there.
    pub fn write(
        &self,
        topic: &TopicName,
        id: QueueId,
        offset: QueueOffset,
        units: &[Unit],
        touched: &mut Vec<Arc<dyn DiskFile>>,
    ) -> Result<(), DiskError> {
        let mut position = offset.0 * UNIT_BYTES;
        let mut rest = units;
        while !rest.is_empty() {
            let base = position - position % self.file_bytes;
            let room = ((base + self.file_bytes - position) / UNIT_BYTES) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            let Opened { file, is_new } =
                self.file(topic, id, base, true)?.expect("a file that may be created is there");
            if is_new && position > base {
                let fillers = ((position - base) / UNIT_BYTES) as usize;
                disk::write_all_at(&*file, &Unit::FILLER.encode().repeat(fillers), 0)?;
            }
            let bytes: Vec<u8> = now.iter().flat_map(Unit::encode).collect();
            disk::write_all_at(&*file, &bytes, (position - base) as u64)?;
            touched.push(file);
            position += bytes.len() as i64;
            rest = later;
        }
        Ok(())
    }

    /// Zeros the entries `from..to`, so that nothing stale is found behind the end.
    fn clear(&self, topic: &TopicName, id: QueueId, from: i64, to: i64) -> Result<(), DiskError> {
        let mut position = from * UNIT_BYTES;
        while position < to * UNIT_BYTES {
            let base = position - position % self.file_bytes;
            let until = (base + self.file_bytes).min(to * UNIT_BYTES);
            if let Some(Opened { file, .. }) = self.file(topic, id, base, false)? {
                disk::write_all_at(&*file, &vec![0; (until - position) as usize], (position - base) as u64)?;
                file.sync()?;
            }
            position = until;
        }
        Ok(())
    }

    /// The file at `base`; `None` when it does not exist and may not be made.
    fn file(
        &self,
        topic: &TopicName,
        id: QueueId,
        base: i64,
        create: bool,
    ) -> Result<Option<Opened>, DiskError> {
        let key = (topic.clone(), id, base);
        if let Some(file) = self.open.lock().expect(POISONED).get(&key) {
            return Ok(Some(Opened { file: Arc::clone(file), is_new: false }));
        }
        let directory = self.directory(topic, id);
        let path = directory.join(segments::name(base));
        if !create && !self.disk.exists(&path)? {
            return Ok(None);
        }
        self.disk.create_directory(&directory)?;
        let file = self.disk.open(&path, create)?;
        // A file gets its length last: one without is not yet certain to be found again.
        let is_new = file.len()? == 0;
        if is_new {
            for directory in directory.ancestors().take(DIRECTORIES_PER_QUEUE) {
                self.disk.sync_directory(directory)?;
            }
            file.set_len(self.file_bytes as u64)?;
        }
        let mut open = self.open.lock().expect(POISONED);
        if open.len() >= OPEN_FILES_MAX {
            // Any one will do: what is used next is opened again for a few microseconds.
            let victim = open.keys().next().cloned();
            victim.map(|victim| open.remove(&victim));
        }
        open.insert(key, Arc::clone(&file));
        Ok(Some(Opened { file, is_new }))
    }

    fn directory(&self, topic: &TopicName, id: QueueId) -> PathBuf {
        self.root.join(topic.as_str()).join(id.to_string())
    }
}
