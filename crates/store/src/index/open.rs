//! Opening an index: which files are believed, and up to where.
//!
//! - What we saved of our progress is believed. After a crash it is all that is: later files go, later entries are
//!   forgotten.
//! - After an orderly stop, files that a Java broker wrote or went on with are believed as their headers say.
//! - After a crash of a Java broker a file is believed that its checkpoint says is full and durable, as it does itself.
//! - No entry is believed of a record that the log does not have.
//!
//! Where belief ends, the keys are read from the log anew.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cometmq_protocol::message::RecordView;
use cometmq_protocol::{LogOffset, Millis};

use super::files::{Files, Found, write};
use super::format::IndexHeader;
use super::keys::KeyHasher;
use super::newest::{Newest, Part};
use super::progress::{Progress, SavedProgress};
use super::{Index, IndexOptions, Older, State, files};
use crate::commit_log::CommitLog;
use crate::disk::{Disk, DiskError};

/// Why an index cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A file has another length than the settings say.
    #[error("{} has {bytes} bytes, but maxHashSlotNum={slots} and maxIndexNum={entries} make {expected}; set both to the values with which this store was written, or move the directory of the file away: the index is then made anew from the log", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The length that the settings say.
        expected: u64,
        /// Slots by the settings.
        slots: u32,
        /// Entries by the settings.
        entries: u32,
    },
    /// Slots or entries that no file can have.
    #[error(
        "maxHashSlotNum={slots} and maxIndexNum={entries} make no index file; both must be at least 2, and no file may be longer than 2147483647 bytes"
    )]
    Shape {
        /// Slots by the settings.
        slots: u32,
        /// Entries by the settings.
        entries: u32,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What is believed of the files in the directory.
struct Belief {
    /// How many of them, from the oldest on.
    files: usize,
    /// Header and written slots of the newest of them.
    newest: Option<(IndexHeader, u32)>,
    /// All keys of records before this position are in them.
    covered: LogOffset,
}

impl Index {
    /// Opens the index of the store in `root` over a log that was recovered. `clean`: the store was closed in order,
    /// by whomever. `full_until`: the time in a Java broker's checkpoint up to which full files are durable.
    pub fn open(
        disk: &Arc<dyn Disk>,
        root: &Path,
        options: IndexOptions,
        clean: bool,
        full_until: Millis,
        log: &CommitLog,
    ) -> Result<Index, IndexError> {
        let shape = options.shape;
        if shape.slots < 2 || shape.entries < 2 || shape.file_bytes() > i32::MAX as u64 {
            return Err(IndexError::Shape { slots: shape.slots, entries: shape.entries });
        }
        let files = files(disk, root, options);
        let found = files.list()?;
        if let Some(odd) = found.iter().find(|file| file.bytes != shape.file_bytes()) {
            return Err(IndexError::Size {
                path: files.path(odd.name),
                bytes: odd.bytes,
                expected: shape.file_bytes(),
                slots: shape.slots,
                entries: shape.entries,
            });
        }
        let (mut saved, progress) = SavedProgress::load(&**disk, root.join("cometmq/indexed"), shape)?;
        let mut belief = believe(&files, &found, progress, clean, full_until, log)?;
        if lacks_oldest(&files, &found, &belief, log)? {
            // Older keys have no place before those that are there.
            tracing::warn!("the oldest index file is missing: the index is made anew");
            belief = by_headers(&files, &[], log)?;
        }
        let (kept, gone) = found.split_at(belief.files);
        let gone: Vec<i64> = gone.iter().map(|file| file.name).collect();
        files.remove(&gone)?;
        let mut older = kept[..belief.files.saturating_sub(1)]
            .iter()
            .map(|file| Ok(Older { name: file.name, header: files.header(file.name)? }))
            .collect::<Result<_, DiskError>>()?;
        let newest = kept.last().zip(belief.newest).map(|(file, (header, slots_at))| {
            let mut newest = Newest::new(file.name, header, shape);
            newest.slots_at = slots_at;
            newest
        });
        let mut live: VecDeque<Newest> = newest.into_iter().collect();
        if belief.covered > log.written() {
            cut(&files, &mut older, &mut live, &mut saved, log.written())?;
        } else if let Some(newest) = live.back_mut() {
            if newest.is_full() && newest.slots_at == newest.header.count {
                // It takes nothing more: nothing of it is needed in memory.
                older.push_back(Older { name: newest.name, header: newest.header });
                live.clear();
            } else {
                files.load_slots(newest)?;
            }
        }
        let covered = belief.covered.min(log.written());
        let state = State { older, live, gathered: Vec::new(), covered };
        Ok(Index {
            files,
            utc_offset_ms: options.utc_offset_ms,
            state: Mutex::new(state),
            saved: Mutex::new(saved),
        })
    }
}

fn believe(
    files: &Files,
    found: &[Found],
    progress: Option<Progress>,
    clean: bool,
    full_until: Millis,
    log: &CommitLog,
) -> Result<Belief, DiskError> {
    let Some(progress) = progress else {
        return if clean {
            by_headers(files, found, log)
        } else {
            let mut durable = 0;
            for file in found {
                let header = files.header(file.name)?;
                if header.end_time > full_until {
                    break;
                }
                durable += 1;
            }
            by_headers(files, &found[..durable], log)
        };
    };
    let Some(position) = found.iter().position(|file| file.name == progress.name) else {
        if progress.name == 0 && found.is_empty() {
            return Ok(Belief { files: 0, newest: None, covered: progress.covered });
        }
        // Its keys are gone. Those in files before it are not, and what came after it is not in their order.
        tracing::warn!("an index file is missing: the index is made anew from there on");
        let before = found.iter().take_while(|file| file.name < progress.name).count();
        return by_headers(files, &found[..before], log);
    };
    let header = files.header(progress.name)?;
    let gone_on = position + 1 < found.len()
        || header.count != progress.header.count
        || header.end != progress.header.end;
    if clean && gone_on {
        return by_headers(files, found, log);
    }
    // An entry beyond the log's end is forgotten later; one within it must be of this log.
    let within = (log.start()..log.written().min(progress.covered)).contains(&progress.header.end);
    if within && record_of_last(files, progress.name, &progress.header, log)?.is_none() {
        tracing::warn!(offset = %progress.header.end, "the index is not of this log: it is made anew");
        return by_headers(files, &[], log);
    }
    Ok(Belief {
        files: position + 1,
        newest: Some((progress.header, progress.slots_at)),
        covered: progress.covered,
    })
}

/// Whether one of the first messages of the log has a key and lies before the oldest entry that is believed.
fn lacks_oldest(files: &Files, found: &[Found], belief: &Belief, log: &CommitLog) -> Result<bool, DiskError> {
    let (Some(oldest), Some((newest, _))) = (found[..belief.files].first(), belief.newest) else {
        return Ok(false);
    };
    if belief.files == 1 && newest.count == 1 {
        return Ok(false);
    }
    let first = files.entry(&*files.open(oldest.name)?, 1)?.offset;
    let mut lacks = false;
    if first > log.start() {
        log.walk(log.start(), log.written().min(belief.covered), &mut Vec::new(), &mut |record| {
            let keys = KeyHasher::new(record.topic).message(record.sys_flag, [record.properties, b""]);
            lacks |= record.log_offset < first && !keys.is_empty();
        });
    }
    Ok(lacks)
}

/// All of these files, as their headers say: each is whole up to the last message that it names.
fn by_headers(files: &Files, found: &[Found], log: &CommitLog) -> Result<Belief, DiskError> {
    let nothing = Belief { files: 0, newest: None, covered: log.start() };
    let Some(last) = found.last() else { return Ok(nothing) };
    let header = files.header(last.name)?;
    let newest = Some((header, header.count));
    if header.end < log.start() {
        return Ok(Belief { files: found.len(), newest, ..nothing });
    }
    match record_of_last(files, last.name, &header, log)? {
        Some(end) => Ok(Belief { files: found.len(), newest, covered: end }),
        None => {
            tracing::warn!(offset = %header.end, "the index is not of this log: it is made anew");
            Ok(nothing)
        }
    }
}

/// Where the record of a file's last entry ends; `None` when the log has no such record with such a key there.
fn record_of_last(
    files: &Files,
    name: i64,
    header: &IndexHeader,
    log: &CommitLog,
) -> Result<Option<LogOffset>, DiskError> {
    let mut bytes = Vec::new();
    if !log.record_at(header.end, &mut bytes)? {
        return Ok(None);
    }
    let Ok(record) = RecordView::decode(&bytes) else { return Ok(None) };
    let is_its = header.count == 1 || {
        let entry = files.entry(&*files.open(name)?, header.count - 1)?;
        let keys = KeyHasher::new(record.topic).message(record.sys_flag, [record.properties, b""]);
        keys.contains(&entry.hash)
    };
    Ok(is_its.then(|| header.end + record.total as i64))
}

/// Forgets the entries of records that the log does not have, durably: later records will lie where these did.
fn cut(
    files: &Files,
    older: &mut VecDeque<Older>,
    live: &mut VecDeque<Newest>,
    saved: &mut SavedProgress,
    log_end: LogOffset,
) -> Result<(), DiskError> {
    let mut gone = Vec::new();
    while let Some(mut newest) = live.pop_back() {
        files.load_slots(&mut newest)?;
        let file = files.open(newest.name)?;
        let count = first_at_or_after(files, &newest, log_end)?;
        if count == 1
            && let Some(before) = older.pop_back()
        {
            gone.push(newest.name);
            live.push_back(Newest::new(before.name, before.header, files.shape));
            continue;
        }
        let mut entries = Vec::new();
        files.entries(&*file, count, newest.header.count, |_, entry| entries.push(entry))?;
        let mut header = IndexHeader { count, ..newest.header };
        for entry in entries.iter().rev() {
            newest.set_head(files.shape.slot_of(entry.hash), entry.previous);
            header.used_slots = header.used_slots.saturating_sub(u32::from(entry.previous == 0));
        }
        if count > 1 {
            let last = files.entry(&*file, count - 1)?;
            header.end = last.offset;
            header.end_time = header.begin_time + if count > 2 { i64::from(last.seconds) * 1000 } else { 0 };
        } else {
            header = IndexHeader::following(LogOffset(0), Millis(0));
        }
        newest.cut(header);
        // Before it is saved: the slots in the file may be those of entries that are gone.
        let (slots, _) = newest.changed_slots(count);
        write(&*file, &slots)?;
        write(&*file, &[Part { at: 0, bytes: header.encode().to_vec() }])?;
        file.sync()?;
        newest.slots_at = count;
        live.push_back(newest);
        break;
    }
    let none = Progress {
        covered: log_end,
        name: 0,
        slots_at: 1,
        header: IndexHeader::following(LogOffset(0), Millis(0)),
    };
    let progress = live.back().map_or(none, |newest| Progress {
        name: newest.name,
        slots_at: newest.slots_at,
        header: newest.header,
        ..none
    });
    saved.save(&*files.disk, &progress)?;
    files.remove(&gone)
}

/// The first entry of a record at this position or beyond.
fn first_at_or_after(files: &Files, newest: &Newest, offset: LogOffset) -> Result<u32, DiskError> {
    let file = files.open(newest.name)?;
    let (mut low, mut high) = (1, newest.header.count);
    while low < high {
        let middle = low + (high - low) / 2;
        if files.entry(&*file, middle)?.offset < offset { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}
