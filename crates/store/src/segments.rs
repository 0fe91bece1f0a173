//! Files of equal size that are one stream of bytes: the commit log, and each consume queue.
//!
//! A file is named by the stream position of its first byte, 20 digits. It has its full length from the start, filled
//! with zeros that take no room.

use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use foldhash::{HashMap, HashMapExt};

use crate::disk::{Disk, DiskError, DiskFile};

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
    list(disk, directory, expected, setting, |path| disk.remove_file(path))
}

/// As [`find`], while others may be making files there: one without length is left to them.
pub(crate) fn find_while_written(
    disk: &dyn Disk,
    directory: &Path,
    expected: u64,
    setting: &'static str,
) -> Result<Vec<Found>, SegmentError> {
    list(disk, directory, expected, setting, |_| Ok(()))
}

fn list(
    disk: &dyn Disk,
    directory: &Path,
    expected: u64,
    setting: &'static str,
    empty: impl Fn(&Path) -> Result<(), DiskError>,
) -> Result<Vec<Found>, SegmentError> {
    let files = disk.list(directory)?.into_iter().filter(|entry| !entry.is_directory);
    let mut found = Vec::new();
    for entry in files {
        let path = directory.join(&entry.name);
        if entry.bytes == 0 {
            empty(&path)?;
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

/// The stream position of a segment's first byte, from its file name; `None` for a file that is no segment.
pub fn parse(name: &str) -> Option<i64> {
    if name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit()) { name.parse().ok() } else { None }
}

/// Open files by what their owner calls them, or whatever else it knows of them. When they become too many, those that were not used for the longest time
/// are closed.
#[derive(Debug)]
pub(crate) struct OpenFiles<K, F = Arc<dyn DiskFile>> {
    files_max: usize,
    state: Mutex<Open<K, F>>,
}

#[derive(Debug)]
struct Open<K, F> {
    files: HashMap<K, Used<F>>,
    /// Counts uses: the higher a file's number, the later it was used.
    uses: u64,
}

#[derive(Debug)]
struct Used<F> {
    file: F,
    last: u64,
}

impl<K: Eq + Hash, F: Clone> OpenFiles<K, F> {
    pub fn new(files_max: usize) -> OpenFiles<K, F> {
        assert!(files_max > 0, "a file that is used is open");
        OpenFiles { files_max, state: Mutex::new(Open { files: HashMap::new(), uses: 0 }) }
    }

    pub fn get(&self, key: &K) -> Option<F> {
        let mut state = self.state.lock().expect(POISONED);
        state.uses += 1;
        let now = state.uses;
        let used = state.files.get_mut(key)?;
        used.last = now;
        Some(used.file.clone())
    }

    pub fn insert(&self, key: K, file: F) {
        let mut state = self.state.lock().expect(POISONED);
        if state.files.len() >= self.files_max {
            state.close_oldest();
        }
        state.uses += 1;
        let last = state.uses;
        state.files.insert(key, Used { file, last });
    }

    /// All that are open.
    pub fn all(&self) -> Vec<F> {
        self.state.lock().expect(POISONED).files.values().map(|used| used.file.clone()).collect()
    }

    /// Closes the files that the predicate names.
    pub fn close(&self, which: impl Fn(&K) -> bool) {
        self.state.lock().expect(POISONED).files.retain(|key, _| !which(key));
    }
}

impl<K: Eq + Hash, F> Open<K, F> {
    /// Closes a quarter at once, so that the search for the oldest costs little for each.
    fn close_oldest(&mut self) {
        let mut lasts: Vec<u64> = self.files.values().map(|used| used.last).collect();
        let quarter = lasts.len() / 4;
        let (_, newest_of_old, _) = lasts.select_nth_unstable(quarter);
        let newest_of_old = *newest_of_old;
        self.files.retain(|_, used| used.last > newest_of_old);
    }
}

const POISONED: &str = "no holder of this lock panics";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    #[test]
    fn the_files_that_were_not_used_for_the_longest_time_are_closed() {
        let disk = MemoryDisk::new();
        let open = OpenFiles::new(8);
        for key in 0..8 {
            open.insert(key, disk.open(Path::new("/f"), true).unwrap());
        }
        assert!(open.get(&0).is_some());
        open.insert(8, disk.open(Path::new("/f"), false).unwrap());
        let still_open: Vec<i32> = (0..9).filter(|key| open.get(key).is_some()).collect();
        assert_eq!(still_open, [0, 4, 5, 6, 7, 8]);
        open.close(|key| *key > 4);
        assert_eq!((0..9).filter(|key| open.get(key).is_some()).collect::<Vec<i32>>(), [0, 4]);
    }
}
