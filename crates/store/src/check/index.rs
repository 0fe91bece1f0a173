//! The index files against the log, in both directions, and each against itself.
//!
//! Entries stand in the order of the log, so the first is a merge of two streams: each key of each record has its entry,
//! each entry its record with such a key. The second goes over each file's entries once for each part of its slots, of
//! which few are in memory: header, slots and chains say what the entries do.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use cometmq_protocol::message::RecordView;
use cometmq_protocol::{LogOffset, Millis};

use super::{CheckSummary, Finding, Progress};
use crate::disk::{Disk, DiskError, DiskFile};
use crate::index::files::Files;
use crate::index::format::{self, IndexEntry, IndexHeader, SLOT_BYTES, Shape};
use crate::index::progress::SavedProgress;
use crate::index::{KeyHasher, KeyHashes};

/// Entries read at once.
const ENTRIES_AT_ONCE: u32 = 16 * 1024;
/// Slots whose newest entries are in memory at once: 32 MiB of them, and all of a file of the usual shape.
const SLOTS_AT_ONCE: u32 = 8 * 1024 * 1024;

/// A record, or a stretch of the log in which none can be read.
#[derive(Debug)]
pub(super) struct Seen {
    at: LogOffset,
    end: LogOffset,
    /// Store time and hashes of a record's keys.
    keys: Option<(Millis, KeyHashes)>,
}

impl Seen {
    pub fn record(record: &RecordView<'_>) -> Seen {
        let keys = KeyHasher::new(record.topic).message(record.sys_flag, [record.properties, b""]);
        let (at, end) = (record.log_offset, record.log_offset + record.total as i64);
        Seen { at, end, keys: Some((record.store_timestamp, keys)) }
    }

    pub fn damaged(at: LogOffset, end: LogOffset) -> Seen {
        Seen { at, end, keys: None }
    }
}

/// A file that the next start believes.
#[derive(Debug)]
struct IndexFile {
    name: i64,
    header: IndexHeader,
    /// Slots in it are as they were when this was the number of the next entry, or newer.
    slots_at: u32,
}

/// An entry and where it stands.
#[derive(Clone, Copy, Debug)]
struct Placed {
    file: usize,
    number: u32,
    entry: IndexEntry,
}

/// The index, and how far its comparison with the log is.
pub(super) struct IndexFiles {
    files: Files,
    kept: Vec<IndexFile>,
    /// Keys of records from here on may be missing.
    covered: LogOffset,
    /// Entries that come next.
    next: VecDeque<Placed>,
    /// File and number of the entry behind these.
    unread: (usize, u32),
    /// An entry of a record that the log still has was met.
    begun: bool,
    /// Records in a row that lack an entry: how many, and the first.
    missing: Option<(u64, LogOffset)>,
}

impl IndexFiles {
    /// Finds what the next start will believe of the index. Files of another shape are findings.
    pub fn open(
        disk: &Arc<dyn Disk>,
        root: &std::path::Path,
        slots: u32,
        (clean, full_until): (bool, Millis),
        found: &mut dyn FnMut(Finding),
    ) -> Result<IndexFiles, DiskError> {
        let directory = root.join("index");
        let (mut names, mut shape) = (Vec::new(), None);
        for entry in disk.list(&directory)?.into_iter().filter(|entry| !entry.is_directory && entry.bytes > 0)
        {
            let Some(name) = format::parse_name(&entry.name) else { continue };
            let of_file = Shape::of_file(entry.bytes, slots);
            if of_file.is_none() || of_file != *shape.get_or_insert(of_file) {
                let what = format!(
                    "no index file with {slots} slots has {} bytes, or not one beside the others; --index-slots says \
                     how many there are (maxHashSlotNum)",
                    entry.bytes
                );
                found(Finding::of_file(&directory.join(&entry.name), None, what));
                continue;
            }
            names.push(name);
        }
        names.sort_unstable();
        let shape = shape.flatten().unwrap_or(Shape { slots, entries: 2 });
        let files = Files { disk: Arc::clone(disk), directory, shape };
        let mut index = IndexFiles {
            files,
            kept: Vec::new(),
            covered: LogOffset(0),
            next: VecDeque::new(),
            unread: (0, 1),
            begun: false,
            missing: None,
        };
        for name in names {
            let header = index.files.header(name)?;
            index.kept.push(IndexFile { name, header, slots_at: header.count });
        }
        index.believe(root.join("cometmq/indexed"), clean, full_until, found)?;
        Ok(index)
    }

    /// Leaves out what a start does not believe, as [`crate::index`] does it.
    fn believe(
        &mut self,
        path: PathBuf,
        clean: bool,
        full_until: Millis,
        found: &mut dyn FnMut(Finding),
    ) -> Result<(), DiskError> {
        let (_, progress) = SavedProgress::load(&*self.files.disk, path.clone(), self.files.shape)?;
        let end_of = |kept: &[IndexFile]| kept.last().map_or(LogOffset(0), |last| last.header.end);
        let Some(progress) = progress else {
            self.kept.retain(|file| clean || file.header.end_time <= full_until);
            self.covered = end_of(&self.kept);
            return Ok(());
        };
        let Some(position) = self.kept.iter().position(|file| file.name == progress.name) else {
            if progress.name != 0 || !self.kept.is_empty() {
                let what = format!(
                    "names the index file {}, which is missing; the next start makes the index anew from there on",
                    format::file_name(progress.name)
                );
                found(Finding::of_file(&path, None, what));
                self.kept.retain(|file| file.name < progress.name);
            } else {
                self.covered = progress.covered;
            }
            return Ok(());
        };
        let last = self.kept.len() - 1;
        let covered = end_of(&self.kept);
        let newest = &mut self.kept[position];
        let (count, end) = (newest.header.count, newest.header.end);
        if clean && (position < last || (count, end) != (progress.header.count, progress.header.end)) {
            // Another broker went on with it.
            self.covered = covered;
            return Ok(());
        }
        if clean && newest.header != progress.header {
            let what = "the header differs from that in cometmq/indexed, which counts";
            found(Finding::of_file(&self.files.path(newest.name), Some(0), what));
        }
        (newest.header, newest.slots_at) = (progress.header, progress.slots_at);
        self.kept.truncate(position + 1);
        self.covered = progress.covered;
        Ok(())
    }

    /// Bytes that [`IndexFiles::finish`] goes over.
    pub fn bytes(&self) -> u64 {
        self.kept.iter().map(|file| self.files.shape.entry_at(file.header.count)).sum()
    }

    /// Compares what stands next in the log with the entries that stand next.
    pub fn compare(&mut self, seen: &[Seen], found: &mut dyn FnMut(Finding)) -> Result<(), DiskError> {
        seen.iter().try_for_each(|seen| self.compare_one(seen, found))
    }

    fn compare_one(&mut self, seen: &Seen, found: &mut dyn FnMut(Finding)) -> Result<(), DiskError> {
        let (stored_at, mut lacking) = seen.keys.clone().unwrap_or_default();
        loop {
            self.read_on()?;
            let Some(placed) = self.next.front().copied() else { break };
            let place = placed.entry.offset;
            if place >= seen.end {
                let next = self.next.get(1).map_or(place, |next| next.entry.offset);
                // One of a later record is right, unless the entries behind it are of this one.
                if (seen.at..place).contains(&next) {
                    self.tell(&placed, "the entry behind it is of a message before its own".into(), found);
                    self.next.pop_front();
                    continue;
                }
                break;
            }
            self.next.pop_front();
            match &seen.keys {
                // Of expired messages there may be entries, at first.
                _ if place < seen.at && !self.begun => continue,
                None if place >= seen.at => {}
                Some((_, keys)) if place == seen.at && keys.contains(&placed.entry.hash) => {
                    lacking.retain(|hash| *hash != placed.entry.hash);
                    self.compare_times(&placed, stored_at, found);
                }
                Some(_) if place == seen.at => {
                    self.tell(&placed, "its message has no key of that hash".into(), found);
                }
                _ => self.tell(&placed, "no message begins there".into(), found),
            }
            self.begun = true;
        }
        if lacking.is_empty() || seen.at >= self.covered {
            if seen.keys.as_ref().is_some_and(|(_, keys)| !keys.is_empty()) {
                self.tell_missing(found);
            }
        } else {
            self.missing.get_or_insert((0, seen.at)).0 += 1;
        }
        Ok(())
    }

    /// An entry's time, and those of the header that are of its message.
    fn compare_times(&self, placed: &Placed, stored_at: Millis, found: &mut dyn FnMut(Finding)) {
        let IndexFile { name, header, .. } = &self.kept[placed.file];
        let seconds = header.seconds(stored_at);
        // That of the first entry counts from another time, and nobody looks at it.
        if placed.number > 1 && placed.entry.seconds != seconds {
            let what =
                format!("says {} s after the file's begin time; it is {seconds} s", placed.entry.seconds);
            self.tell(placed, what, found);
        }
        let mut wrong = |at, what: &str, time: Millis| {
            let what =
                format!("the {what} time is {} ms; its message was stored at {} ms", time.0, stored_at.0);
            found(Finding::of_file(&self.files.path(*name), Some(at), what));
        };
        if placed.number == 1 && header.begin_time != stored_at {
            wrong(0, "begin", header.begin_time);
        }
        // It may be cut to whole seconds from the begin time.
        let (end, early) = (header.end_time, stored_at - header.end_time);
        if placed.number == header.count - 1 && !(0..1000).contains(&early) {
            wrong(8, "end", end);
        }
    }

    /// Brings the next entries into memory, as long as there are two.
    fn read_on(&mut self) -> Result<(), DiskError> {
        while self.next.len() < 2 {
            let (file, number) = self.unread;
            let Some(kept) = self.kept.get(file) else { return Ok(()) };
            let to = kept.header.count.min(number.saturating_add(ENTRIES_AT_ONCE));
            if number >= to {
                self.unread = (file + 1, 1);
                continue;
            }
            let opened = self.files.open(kept.name)?;
            let next = &mut self.next;
            self.files.entries(&*opened, number, to, |number, entry| {
                next.push_back(Placed { file, number, entry });
            })?;
            self.unread = (file, to);
        }
        Ok(())
    }

    /// Tells of entries beyond the log, then looks at each file for itself.
    pub fn finish(
        &mut self,
        summary: &mut CheckSummary,
        progress: Progress<'_>,
        found: &mut dyn FnMut(Finding),
    ) -> Result<(), DiskError> {
        self.tell_missing(found);
        let (mut beyond, mut first) = (0u64, None);
        self.read_on()?;
        while let Some(placed) = self.next.pop_front() {
            beyond += 1;
            first.get_or_insert(placed);
            self.read_on()?;
        }
        if let Some(first) = first {
            self.tell(&first, format!("from here on {beyond} entries are of no message of the log"), found);
        }
        let mut done = 0;
        for file in &self.kept {
            self.verify(file, found)?;
            summary.index_entries += u64::from(file.header.count - 1);
            done += self.files.shape.entry_at(file.header.count);
            progress(done);
        }
        Ok(())
    }

    /// Header, slots and chains of one file against its entries.
    fn verify(&self, file: &IndexFile, found: &mut dyn FnMut(Finding)) -> Result<(), DiskError> {
        let (header, opened) = (&file.header, self.files.open(file.name)?);
        let mut used = 0;
        for first in (0..self.files.shape.slots).step_by(SLOTS_AT_ONCE as usize) {
            used += self.verify_slots(file, &*opened, first, found)?;
        }
        let mut wrong = |at, what: &str, says: i64, is: i64| {
            if says != is {
                let what = format!("the header says {what} {says}; by the entries it is {is}");
                found(Finding::of_file(&self.files.path(file.name), Some(at), what));
            }
        };
        if header.count > 1 {
            let (begin, end) =
                (self.files.entry(&*opened, 1)?, self.files.entry(&*opened, header.count - 1)?);
            wrong(16, "begin offset", header.begin.0, begin.offset.0);
            wrong(24, "end offset", header.end.0, end.offset.0);
        }
        // Old brokers counted entries instead.
        if header.used_slots != header.count - 1 {
            wrong(32, "used slots", i64::from(header.used_slots), i64::from(used));
        }
        Ok(())
    }

    /// The slots from `first` on, as many as are looked at at once. Returns how many have an entry.
    fn verify_slots(
        &self,
        file: &IndexFile,
        opened: &dyn DiskFile,
        first: u32,
        found: &mut dyn FnMut(Finding),
    ) -> Result<u32, DiskError> {
        let (shape, count) = (self.files.shape, file.header.count);
        let to = first.saturating_add(SLOTS_AT_ONCE).min(shape.slots);
        let mut heads = vec![0u32; (to - first) as usize];
        self.follow(file, opened, first, &mut heads, (1, file.slots_at), found)?;
        let mut odd = Vec::new();
        self.files.slots(opened, first, to, |at, slots| {
            let (slots, _) = slots.as_chunks::<SLOT_BYTES>();
            for (slot, head) in (at..).zip(slots) {
                let (head, is) = (u32::from_be_bytes(*head), heads[(slot - first) as usize]);
                if head != is {
                    odd.push((slot, head, is));
                }
            }
        })?;
        for (slot, head, is) in odd {
            // Slots may be newer than is remembered of them.
            let newer = (file.slots_at..count).contains(&head)
                && shape.slot_of(self.files.entry(opened, head)?.hash) == slot;
            if !newer {
                let what = format!("the slot says entry {head}; its newest one is {is}");
                found(Finding::of_file(&self.files.path(file.name), Some(shape.slot_at(slot)), what));
            }
        }
        self.follow(file, opened, first, &mut heads, (file.slots_at, count), found)?;
        Ok(heads.iter().filter(|head| **head != 0).count() as u32)
    }

    /// Goes over entries in order and keeps the newest one of each slot: each names the one before it.
    fn follow(
        &self,
        file: &IndexFile,
        opened: &dyn DiskFile,
        first: u32,
        heads: &mut [u32],
        (from, to): (u32, u32),
        found: &mut dyn FnMut(Finding),
    ) -> Result<(), DiskError> {
        let shape = self.files.shape;
        self.files.entries(opened, from, to, |number, entry| {
            let slot = shape.slot_of(entry.hash).checked_sub(first);
            let Some(head) = slot.and_then(|slot| heads.get_mut(slot as usize)) else { return };
            if entry.previous != *head {
                let what =
                    format!("says that entry {} is before it in its slot; it is {head}", entry.previous);
                let at = Some(shape.entry_at(number));
                found(Finding::of_file(&self.files.path(file.name), at, what));
            }
            *head = number;
        })
    }

    fn tell(&self, placed: &Placed, what: String, found: &mut dyn FnMut(Finding)) {
        let file = self.files.path(self.kept[placed.file].name);
        let at = Some(self.files.shape.entry_at(placed.number));
        found(Finding { position: Some(placed.entry.offset), ..Finding::of_file(&file, at, what) });
    }

    fn tell_missing(&mut self, found: &mut dyn FnMut(Finding)) {
        let Some((count, from)) = self.missing.take() else { return };
        let what = format!("messages from here on, {count} in a row, lack entries for keys of theirs");
        found(Finding { position: Some(from), ..Finding::of_file(&self.files.directory, None, what) });
    }
}
