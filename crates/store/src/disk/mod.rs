//! The one door to files. The store does nothing to a disk but through these two traits, so that every failure of a
//! disk can be made to happen in a test.

mod memory;
mod over;
mod real;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use memory::{Call, Chance, Crash, Fate, Fault, MemoryDisk, Unsynced};
pub use over::DiskOver;
pub use real::RealDisk;

/// An operation on a disk that failed: what, where, and the system's reason.
#[derive(Debug, Clone)]
pub struct DiskError {
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// Kind of the system's error.
    pub kind: io::ErrorKind,
    /// The system's error as text.
    pub reason: String,
}

impl DiskError {
    /// Wraps a system error.
    pub fn new(operation: &'static str, path: &Path, error: &io::Error) -> DiskError {
        DiskError { operation, path: path.to_owned(), kind: error.kind(), reason: error.to_string() }
    }

    /// Whether the disk is full or a quota is used up.
    pub fn is_full(&self) -> bool {
        matches!(self.kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.operation, self.path.display(), self.reason)
    }
}

impl std::error::Error for DiskError {}

impl From<DiskError> for io::Error {
    fn from(error: DiskError) -> io::Error {
        io::Error::new(error.kind, error)
    }
}

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// File name, without the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_directory: bool,
    /// Length in bytes; 0 for directories.
    pub bytes: u64,
}

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What is used, and what this process may still use.
    pub total: u64,
    /// What this process may still use.
    pub available: u64,
}

/// A file system, or something that behaves like one.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file to read and write; `create` makes it when it does not exist. A new file is only certain to be
    /// found again after [`Disk::sync_directory`].
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError>;

    /// Lists a directory, sorted by name; a missing directory is empty.
    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError>;

    /// Makes a directory and its parents.
    fn create_directory(&self, path: &Path) -> Result<(), DiskError>;

    /// Puts one file in the place of another, at once.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError>;

    /// Removes a file; a missing one is no error.
    fn remove_file(&self, path: &Path) -> Result<(), DiskError>;

    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> Result<(), DiskError>;

    /// Whether a file or directory is there.
    fn exists(&self, path: &Path) -> Result<bool, DiskError>;

    /// Keeps other processes from this file until the result is dropped; `None` when another has it.
    fn lock(&self, path: &Path) -> Result<Option<Box<dyn DiskLock>>, DiskError>;

    /// Room on the file system that holds `path`.
    fn space(&self, path: &Path) -> Result<Space, DiskError>;

    /// A handle that makes everything below `directory` durable at once; `None` where the file system is not known to
    /// do that.
    fn volume(&self, directory: &Path) -> Result<Option<Arc<dyn Volume>>, DiskError> {
        let _ = directory;
        Ok(None)
    }
}

/// The file system below a directory.
pub trait Volume: Send + Sync + fmt::Debug {
    /// Makes all files and names below the directory durable, also those whose handles are closed. An error may be
    /// that of any write since this handle was opened, and is told once, as by [`DiskFile::sync`].
    fn sync(&self) -> Result<(), DiskError>;
}

/// A lock on a file, held until dropped.
pub trait DiskLock: Send + Sync + fmt::Debug {}

/// An open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads at `offset`; fewer bytes than asked at the end of the file or at the system's whim.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError>;

    /// Writes at `offset`; possibly fewer bytes than given.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, DiskError>;

    /// Makes everything written so far durable. After an error nothing is known of what was written since the last
    /// success, and trying again would lie: the kernel reports a lost page only once.
    fn sync(&self) -> Result<(), DiskError>;

    /// Length in bytes.
    fn len(&self) -> Result<u64, DiskError>;

    /// Cuts the file, or lengthens it with zeros that take no room.
    fn set_len(&self, bytes: u64) -> Result<(), DiskError>;

    /// Makes sure that writing these bytes will not lack room. File systems that cannot are no error.
    fn reserve(&self, offset: u64, bytes: u64) -> Result<(), DiskError>;

    /// The file's path, for messages.
    fn path(&self) -> &Path;

    /// As `read_at`, but does not wait for a device: `None` when the bytes are not in memory. A disk that cannot tell
    /// reads.
    fn read_at_nowait(&self, buffer: &mut [u8], offset: u64) -> Result<Option<usize>, DiskError> {
        self.read_at(buffer, offset).map(Some)
    }

    /// Asks for bytes that are going to be read, without waiting for them. Only a hint.
    fn will_need(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }

    /// Lets go of what reading these bytes brought into memory, so that it does not push out what others need. Only a
    /// hint.
    fn drop_cached(&self, offset: u64, bytes: u64) {
        let _ = (offset, bytes);
    }

    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
}

/// Writes all of `bytes`, however little the system takes at a time.
pub fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> Result<(), DiskError> {
    while !bytes.is_empty() {
        let written = file.write_at(bytes, offset)?;
        if written == 0 {
            return Err(DiskError::new("write to", file.path(), &io::Error::from(io::ErrorKind::WriteZero)));
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

/// Reads until `buffer` is full or the file ends; returns how much was read.
pub fn read_full_at(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// As [`read_full_at`], without waiting for a device: `None` when some of it is not in memory.
pub fn read_resident_at(
    file: &dyn DiskFile,
    buffer: &mut [u8],
    offset: u64,
) -> Result<Option<usize>, DiskError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at_nowait(&mut buffer[filled..], offset + filled as u64)? {
            None => return Ok(None),
            Some(0) => break,
            Some(read) => filled += read,
        }
    }
    Ok(Some(filled))
}

/// The whole content of a small file, or `None` when it does not exist.
pub fn read_file(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, DiskError> {
    if !disk.exists(path)? {
        return Ok(None);
    }
    let file = disk.open(path, false)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX).min(1 << 30)];
    let read = read_full_at(&*file, &mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}
