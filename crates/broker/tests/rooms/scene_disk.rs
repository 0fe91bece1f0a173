//! A disk in memory of which parts can be out of the kernel's memory, or out of order for good.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use cometmq_store::disk::DiskOver;
use cometmq_store::{Disk, DiskError, DiskFile, MemoryDisk};

#[derive(Clone, Debug)]
pub struct SceneDisk {
    pub disk: MemoryDisk,
    /// Whoever does not wait gets what was read.
    pub resident: bool,
    /// Bytes that the device does not give.
    pub bad: Vec<(PathBuf, std::ops::Range<u64>)>,
    /// While someone writes to it, nothing that is to be synced comes back.
    pub hangs: Arc<RwLock<()>>,
}

#[derive(Debug)]
struct SceneFile {
    file: Arc<dyn DiskFile>,
    on: SceneDisk,
}

impl DiskOver for SceneDisk {
    fn below(&self) -> &dyn Disk {
        &self.disk
    }

    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError> {
        Ok(Arc::new(SceneFile { file: self.disk.open(path, create)?, on: self.clone() }))
    }
}

impl DiskFile for SceneFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let end = offset + buffer.len() as u64;
        let is_bad = |(path, range): &(PathBuf, std::ops::Range<u64>)| {
            path == self.file.path() && range.start < end && offset < range.end
        };
        if self.on.bad.iter().any(is_bad) {
            return Err(DiskError::new("read", self.file.path(), &io::Error::other("bad sector")));
        }
        self.file.read_at(buffer, offset)
    }

    fn read_at_nowait(&self, buffer: &mut [u8], offset: u64) -> Result<Option<usize>, DiskError> {
        if self.on.resident { self.read_at(buffer, offset).map(Some) } else { Ok(None) }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, DiskError> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let _goes = self.on.hangs.read();
        self.file.sync()
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.len()
    }

    fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        self.file.set_len(bytes)
    }

    fn reserve(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.file.reserve(offset, bytes)
    }

    fn path(&self) -> &Path {
        self.file.path()
    }
}
