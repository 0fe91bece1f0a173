//! `cometmq store check`: everything in a store's directory against everything else, without changing anything.
//!
//! Reading order: here what is asked and what is found, [`log`] the segments with their checksums, [`queues`] the
//! entries against the records in both directions, [`small`] positions, times and settings.
//!
//! Never here: opening the store. A check needs no lock; of a store in use it may tell what is just being written.

mod log;
mod queues;
mod small;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cometmq_protocol::{LogOffset, QueueId, QueueOffset};

use crate::checkpoint::{DispatchedPosition, JavaCheckpoint};
use crate::disk::{Disk, DiskError};

use log::LogFiles;
use queues::Counts;

/// What a check needs to know.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// The store's directory (`storePathRootDir`).
    pub root: PathBuf,
    /// Directories of the commit log; empty means `commitlog` in the root.
    pub log_directories: Vec<PathBuf>,
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
    /// Findings.
    pub damaged: u64,
    /// Whether the store was closed in order.
    pub clean: bool,
}

/// How far a check is: bytes done, and bytes in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Looks at everything, hands each finding to `found`, and sums up. An error is that of a disk which fails altogether.
pub fn check(
    disk: &Arc<dyn Disk>,
    options: &CheckOptions,
    progress: Progress<'_>,
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
    let log = LogFiles::open(disk, &directories, root.join("cometmq/checksums"), &mut found)?;
    let (_, position) = DispatchedPosition::load(&**disk, root.join("cometmq/dispatched"))?;
    let mut counts = Counts::open(disk, root.join("consumequeue"), &mut found)?;
    let entered = if summary.clean { LogOffset(i64::MAX) } else { position.unwrap_or(LogOffset(0)) };
    let walked = log.walk(position, &mut counts, entered, &mut summary, progress, &mut found)?;
    counts.finish(&log, &mut summary, &mut found)?;
    small::check_positions(&**disk, root, &walked, &mut found)?;
    let java = JavaCheckpoint::load(&**disk, &root.join("checkpoint"))?;
    small::check_times(&root.join("checkpoint"), &java, &walked, &mut found);
    small::check_config(&**disk, &root.join("config"), &mut found)?;
    summary.damaged = damaged;
    Ok(summary)
}
