//! What was written to queue files and is not durable yet.
//!
//! A few files are synced one by one. Of many only that is remembered, and the file system is synced as a whole.
//!
//! A sync may take as long as the disk likes, and meanwhile more is written. So what is to be synced is taken off in
//! rounds, and each write is of a round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskError, DiskFile, Volume};

/// More files and directories than this are synced as a whole.
const LISTED_MAX: usize = 64;
/// What is on the disk when a store is opened counts as written in this round.
pub(super) const FIRST_ROUND: u32 = 1;

/// Queue files and directories that are to be synced.
#[derive(Debug)]
pub(crate) struct Unsynced {
    disk: Arc<dyn Disk>,
    /// Opened before anything was written, so that it tells of every write that failed.
    volume: Option<Arc<dyn Volume>>,
    files: BTreeMap<PathBuf, Arc<dyn DiskFile>>,
    /// Directories with names that are not durable yet.
    directories: BTreeSet<PathBuf>,
    /// There are more than the lists have.
    many: bool,
    /// What is written now is of this round.
    round: u32,
    /// What was taken off last is not known to be durable yet.
    syncing: bool,
    /// Everything written in this round and before is durable.
    durable: u32,
    /// A sync failed: what it lost is not known, and another one would not tell.
    failed: bool,
}

impl Unsynced {
    /// Nothing so far, below `root`.
    pub fn new(disk: Arc<dyn Disk>, root: &Path) -> Result<Unsynced, DiskError> {
        let volume = disk.volume(root)?;
        let (files, directories) = (BTreeMap::new(), BTreeSet::new());
        let (many, syncing, failed) = (false, false, false);
        Ok(Unsynced {
            disk,
            volume,
            files,
            directories,
            many,
            round: FIRST_ROUND,
            syncing,
            durable: 0,
            failed,
        })
    }

    /// The round of what is written now.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Whether everything written in `round` and before is durable, and may be believed.
    pub fn is_durable(&self, round: u32) -> bool {
        let is_empty = self.files.is_empty() && self.directories.is_empty() && !self.many;
        !self.failed && (round <= self.durable || (is_empty && !self.syncing))
    }

    /// Whether a sync failed, ever.
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Whether nothing more is listed until the next sync, which makes all below the root durable.
    pub fn is_everything(&self) -> bool {
        self.many
    }

    /// The file was written to.
    pub fn add_file(&mut self, file: &Arc<dyn DiskFile>) -> Result<(), DiskError> {
        if !self.many && !self.files.contains_key(file.path()) {
            self.files.insert(file.path().to_owned(), Arc::clone(file));
            self.bound()?;
        }
        Ok(())
    }

    /// A name in the directory is new.
    pub fn add_directory(&mut self, directory: &Path) -> Result<(), DiskError> {
        if !self.many && !self.directories.contains(directory) {
            self.directories.insert(directory.to_owned());
            self.bound()?;
        }
        Ok(())
    }

    fn bound(&mut self) -> Result<(), DiskError> {
        if self.files.len() + self.directories.len() <= LISTED_MAX {
            return Ok(());
        }
        if self.volume.is_none() {
            let result = self.lists().sync();
            self.failed |= result.is_err();
            return result;
        }
        self.files.clear();
        self.directories.clear();
        self.many = true;
        Ok(())
    }

    /// Begins a round: takes off all that was written before. [`Unsynced::synced`] ends it.
    pub fn take(&mut self) -> ToSync {
        assert!(!self.syncing, "one sync at a time");
        self.syncing = true;
        self.round += 1;
        let volume = self.volume.clone().filter(|_| std::mem::take(&mut self.many));
        ToSync { volume, ..self.lists() }
    }

    fn lists(&mut self) -> ToSync {
        ToSync {
            disk: Arc::clone(&self.disk),
            volume: None,
            files: std::mem::take(&mut self.files),
            directories: std::mem::take(&mut self.directories),
        }
    }

    /// What was taken off was synced, with this result. After an error [`Unsynced::failed`] stays true.
    pub fn synced(&mut self, result: &Result<(), DiskError>) {
        self.syncing = false;
        self.failed |= result.is_err();
        if result.is_ok() {
            self.durable = self.round - 1;
        }
    }
}

/// What is to be made durable now.
#[derive(Debug)]
pub(crate) struct ToSync {
    disk: Arc<dyn Disk>,
    /// All of it, when the lists do not have everything.
    volume: Option<Arc<dyn Volume>>,
    files: BTreeMap<PathBuf, Arc<dyn DiskFile>>,
    directories: BTreeSet<PathBuf>,
}

impl ToSync {
    /// Takes as long as the disk does.
    pub fn sync(&self) -> Result<(), DiskError> {
        if let Some(volume) = &self.volume {
            return volume.sync();
        }
        self.files.values().try_for_each(|file| file.sync())?;
        self.directories.iter().try_for_each(|directory| self.disk.sync_directory(directory))
    }
}
