//! `cometmq store check`: everything in a store's directory against everything else, without changing anything.
//!
//! Reading order: here what is asked and what is found, [`log`] the segments with their checksums, [`queues`] the
//! entries against the records in both directions, [`index`] the same for the index, [`small`] positions, times and
//! settings.
//!
//! Never here: opening the store. A check needs no lock; of a store in use it may tell what is just being written.

mod index;
mod log;
mod queues;
mod small;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::{LogOffset, QueueId, QueueOffset};

use crate::checkpoint::{self, DispatchedPosition, JavaCheckpoint};
use crate::cutting;
use crate::disk::{Disk, DiskError};
use crate::index::IndexOptions;
use crate::index::progress as indexed;
use crate::scrub;

use index::IndexFiles;
use log::LogFiles;
use queues::Counts;

/// What a check needs to know.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The store's directory (`storePathRootDir`).
    pub root: PathBuf,
    /// Directories of the commit log; empty means `commitlog` in the root.
    pub log_directories: Vec<PathBuf>,
    /// Slots of an index file (`maxHashSlotNum`).
    pub index_slots: u32,
}

impl CheckOptions {
    /// RocketMQ's defaults for the store in this directory.
    pub fn new(root: impl Into<PathBuf>) -> CheckOptions {
        let index_slots = IndexOptions::default().shape.slots;
        CheckOptions { root: root.into(), log_directories: Vec::new(), index_slots }
    }
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// Byte of the file.
    pub at: Option<u64>,
    /// Position in the log.
    pub position: Option<LogOffset>,
    /// The message that it concerns, as far as it can be told.
    pub message: Option<(String, QueueId, QueueOffset)>,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    fn of_file(file: &Path, at: Option<u64>, what: impl Into<String>) -> Finding {
        Finding { file: file.to_owned(), at, position: None, message: None, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(at) = self.at {
            write!(f, " at byte {at}")?;
        }
        if let Some(position) = self.position {
            write!(f, ", log position {position}")?;
        }
        if let Some((topic, queue, offset)) = &self.message {
            write!(f, ", topic {topic}, queue {queue}, offset {offset}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// What a check has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckSummary {
    /// Segments of the commit log.
    pub segments: u64,
    /// Whole records.
    pub records: u64,
    /// Bytes of the log that records take.
    pub log_bytes: u64,
    /// Blocks of the log that have a checksum.
    pub summed_blocks: u64,
    /// Blocks of the log that have none: damage to headers and properties cannot be found there.
    pub unsummed_blocks: u64,
    /// Consume queues.
    pub queues: u64,
    /// Their entries.
    pub entries: u64,
    /// Entries of index files.
    pub index_entries: u64,
    /// Findings.
    pub damaged: u64,
    /// Whether the store was closed in order.
    pub clean: bool,
}

/// How far a part of a check is: bytes done.
type Progress<'a> = &'a mut dyn FnMut(u64);

/// Looks at everything, hands each finding to `found`, and sums up; `progress` learns of bytes done, and bytes in all,
/// which are those of the log and the index. An error is that of a disk which fails altogether.
pub fn check(
    disk: &Arc<dyn Disk>,
    options: &CheckOptions,
    progress: &mut dyn FnMut(u64, u64),
    found: &mut dyn FnMut(Finding),
) -> Result<CheckSummary, DiskError> {
    let root = &options.root;
    let mut summary = CheckSummary { clean: !disk.exists(&root.join("abort"))?, ..CheckSummary::default() };
    let mut damaged = 0;
    let mut found = |finding: Finding| {
        damaged += 1;
        found(finding);
    };
    let directories = match options.log_directories.is_empty() {
        true => vec![root.join("commitlog")],
        false => options.log_directories.clone(),
    };
    let cut = cutting::named(&**disk, &root.join("cometmq/cutting"))?;
    let sums = root.join("cometmq/checksums");
    let log = LogFiles::open(disk, &directories, sums, cut.as_deref(), &mut found)?;
    let (_, position) = DispatchedPosition::load(&**disk, root.join("cometmq/dispatched"))?;
    let java = JavaCheckpoint::load(&**disk, &root.join("checkpoint"))?;
    let mut counts = Counts::open(disk, root.join("consumequeue"), &mut found)?;
    let believed = (summary.clean, java.index);
    let mut index = IndexFiles::open(disk, root, options.index_slots, believed, &mut found)?;
    let entered = if summary.clean { LogOffset(i64::MAX) } else { position.unwrap_or(LogOffset(0)) };
    let (log_bytes, all_bytes) = (log.bytes(), log.bytes() + index.bytes());
    let of_log: Progress<'_> = &mut |done| progress(done, all_bytes);
    let walked = log.walk(position, entered, (&mut counts, &mut index), &mut summary, of_log, &mut found)?;
    counts.finish(&log, &mut summary, &mut found)?;
    index.finish(&mut summary, &mut |done| progress(log_bytes + done, all_bytes), &mut found)?;
    for (name, magic) in checkpoint::POSITIONS {
        let path = root.join("cometmq").join(name);
        small::check_slots::<1>(&**disk, &path, magic, walked.end, &mut found)?;
    }
    small::check_slots::<{ indexed::NUMBERS }>(
        &**disk,
        &root.join("cometmq/indexed"),
        indexed::MAGIC,
        walked.end,
        &mut found,
    )?;
    let scrubbed = root.join("cometmq/scrubbed");
    // A position that the log does not have costs nothing.
    let any = LogOffset(i64::MAX);
    small::check_slots::<{ scrub::NUMBERS }>(&**disk, &scrubbed, scrub::MAGIC, any, &mut found)?;
    small::check_times(&root.join("checkpoint"), &java, &walked, &mut found);
    small::check_config(&**disk, &root.join("config"), &mut found)?;
    summary.damaged = damaged;
    Ok(summary)
}
