//! A disk on top of another one: for tests that watch, hold or refuse some of the calls.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use super::{Disk, DiskError, DiskFile, DiskLock, Entry, Space, Volume};

/// What such a disk does otherwise than the one below, which gets all other calls.
pub trait DiskOver: Debug + Send + Sync {
    /// The disk below.
    fn below(&self) -> &dyn Disk;

    /// As [`Disk::open`].
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// As [`Disk::volume`]; without one each file is synced by itself.
    fn volume(&self, directory: &Path) -> Result<Option<Arc<dyn Volume>>, DiskError> {
        let _ = directory;
        Ok(None)
    }
}

impl<T: DiskOver> Disk for T {
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError> {
        DiskOver::open(self, path, create)
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        self.below().list(directory)
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.below().create_directory(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        self.below().rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.below().remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.below().sync_directory(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        self.below().exists(path)
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn DiskLock>>, DiskError> {
        self.below().lock(path)
    }

    fn space(&self, path: &Path) -> Result<Space, DiskError> {
        self.below().space(path)
    }

    fn volume(&self, directory: &Path) -> Result<Option<Arc<dyn Volume>>, DiskError> {
        DiskOver::volume(self, directory)
    }
}
