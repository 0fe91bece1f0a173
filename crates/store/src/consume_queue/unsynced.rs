//! What was written to queue files and is not durable yet.
//!
//! A few files are synced one by one. Of many only that is remembered, and the file system is synced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskError, DiskFile, Volume};

/// More files and directories than this are synced as a whole.
const LISTED_MAX: usize = 64;

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
    /// A sync failed: what it lost is not known, and another one would not tell.
    failed: bool,
}

impl Unsynced {
    /// Nothing so far, below `root`.
    pub fn new(disk: Arc<dyn Disk>, root: &Path) -> Result<Unsynced, DiskError> {
        let volume = disk.volume(root)?;
        let (files, directories) = (BTreeMap::new(), BTreeSet::new());
        Ok(Unsynced { disk, volume, files, directories, many: false, failed: false })
    }

    /// Whether everything is durable.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty() && !self.many
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
            return self.sync();
        }
        self.files.clear();
        self.directories.clear();
        self.many = true;
        Ok(())
    }

    /// Makes all of it durable. After an error [`Unsynced::failed`] stays true.
    pub fn sync(&mut self) -> Result<(), DiskError> {
        let result = self.try_sync();
        self.failed |= result.is_err();
        result
    }

    fn try_sync(&mut self) -> Result<(), DiskError> {
        let files = std::mem::take(&mut self.files);
        let directories = std::mem::take(&mut self.directories);
        match &self.volume {
            Some(volume) if std::mem::take(&mut self.many) => volume.sync(),
            _ => {
                files.values().try_for_each(|file| file.sync())?;
                directories.iter().try_for_each(|directory| self.disk.sync_directory(directory))
            }
        }
    }
}
