//! Files of equal size that are one stream of bytes: the commit log, and each consume queue.
//!
//! A file is named by the stream position of its first byte, 20 digits. It has its full length from the start, filled
//! with zeros that take no room.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, DiskError};

/// The file name of the segment that begins at `base`.
pub(crate) fn name(base: i64) -> String {
    format!("{base:020}")
}

/// A segment file found on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub base: i64,
    pub path: PathBuf,
}

/// A directory that does not hold segments as it should.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SegmentError {
    /// A file has another length than the setting says.
    #[error("{} has {bytes} bytes, but {setting}={expected}; set {setting} to the size with which this store was written", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// The length that the setting says.
        expected: u64,
        /// The setting.
        setting: &'static str,
    },
    /// A file that is no segment.
    #[error("{} is no segment file; move it out of the store directory", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// A file between two others is missing.
    #[error("the segment that begins at {missing} is missing before {}; restore it, or move the later segments away to go on without them", path.display())]
    Gap {
        /// Position that no file holds.
        missing: i64,
        /// The next file that is there.
        path: PathBuf,
    },
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// Segments of one directory in order. A file without length is what a crash between creating and sizing leaves: it
/// is removed.
pub(crate) fn find(
    disk: &dyn Disk,
    directory: &Path,
    expected: u64,
    setting: &'static str,
) -> Result<Vec<Found>, SegmentError> {
    let files = disk.list(directory)?.into_iter().filter(|entry| !entry.is_directory);
    let mut found = Vec::new();
    for entry in files {
        let path = directory.join(&entry.name);
        if entry.bytes == 0 {
            disk.remove_file(&path)?;
            continue;
        }
        let base = parse(&entry.name).ok_or_else(|| SegmentError::Name { path: path.clone() })?;
        if entry.bytes != expected {
            return Err(SegmentError::Size { path, bytes: entry.bytes, expected, setting });
        }
        found.push(Found { base, path });
    }
    Ok(found)
}

/// The position in a segment's name.
pub(crate) fn parse(name: &str) -> Option<i64> {
    if name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit()) { name.parse().ok() } else { None }
}
