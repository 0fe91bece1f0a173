//! The file system of the machine.

#![allow(clippy::disallowed_types)] // This is the place where files are files.

use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, FlockOperation};

use super::{Disk, DiskError, DiskFile, DiskLock, Entry, Space, Volume};

/// Reading without waiting is not offered here, by the kernel or by a file system: from then on reads are plain ones.
static CANNOT_TELL: AtomicBool = AtomicBool::new(false);

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError> {
        let open = |write: bool| {
            OpenOptions::new().read(true).write(write).create(create).truncate(false).open(path)
        };
        let is_protected = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        };
        let file = match open(true) {
            // Whoever only reads can do so; a write says what is in its way.
            Err(error) if !create && is_protected(&error) => open(false),
            opened => opened,
        };
        let file = file.map_err(|error| DiskError::new("open", path, &error))?;
        Ok(Arc::new(RealFile { file, path: path.to_owned() }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        let failed = |error: io::Error| DiskError::new("list", directory, &error);
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut list = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let metadata = entry.metadata().map_err(failed)?;
            // Names that are not text are none of ours.
            if let Ok(name) = entry.file_name().into_string() {
                let bytes = if metadata.is_dir() { 0 } else { metadata.len() };
                list.push(Entry { name, is_directory: metadata.is_dir(), bytes });
            }
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        std::fs::create_dir_all(path).map_err(|error| DiskError::new("create directory", path, &error))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        std::fs::rename(from, to).map_err(|error| DiskError::new("rename", from, &error))
    }

    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DiskError::new("remove", path, &error))
            }
            _ => Ok(()),
        }
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        let sync = || File::open(path)?.sync_all();
        sync().map_err(|error| DiskError::new("sync directory", path, &error))
    }

    fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        path.try_exists().map_err(|error| DiskError::new("look for", path, &error))
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn DiskLock>>, DiskError> {
        let failed = |error: io::Error| DiskError::new("lock", path, &error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        // A POSIX record lock is what Java takes, so that a Java broker and we keep each other out.
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        }
        // A record lock does not keep two stores of one process apart; this one does.
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(failed(errno.into())),
        }
        file.write_all_at(b"lock", 0).map_err(failed)?;
        Ok(Some(Box::new(RealLock { _file: file })))
    }

    fn space(&self, path: &Path) -> Result<Space, DiskError> {
        let stat =
            rustix::fs::statvfs(path).map_err(|errno| DiskError::new("measure", path, &errno.into()))?;
        // What is kept back for the superuser is neither used nor available.
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Space { total: (used + stat.f_bavail) * stat.f_frsize, available: stat.f_bavail * stat.f_frsize })
    }

    fn volume(&self, directory: &Path) -> Result<Option<Arc<dyn Volume>>, DiskError> {
        let failed = |error: io::Error| DiskError::new("open", directory, &error);
        let handle = File::open(directory).map_err(failed)?;
        let stat = rustix::fs::fstatfs(&handle).map_err(|errno| failed(errno.into()))?;
        if !SYNCED_AS_A_WHOLE.contains(&(stat.f_type as u64)) {
            return Ok(None);
        }
        Ok(Some(Arc::new(RealVolume { handle, path: directory.to_owned() })))
    }
}

/// File systems whose `syncfs` makes all data and names durable: ext2 to ext4, XFS, Btrfs, F2FS, bcachefs, ZFS, tmpfs
/// (which promises nothing anyway). Others may answer without doing it, such as those that live in another process.
const SYNCED_AS_A_WHOLE: [u64; 7] =
    [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0xCA45_1A4E, 0x2FC1_2FC1, 0x0102_1994];

#[derive(Debug)]
struct RealVolume {
    /// Opened before what is to be made durable is written: the kernel tells errors since then.
    handle: File,
    path: PathBuf,
}

impl Volume for RealVolume {
    fn sync(&self) -> Result<(), DiskError> {
        rustix::fs::syncfs(&self.handle)
            .map_err(|errno| DiskError::new("sync the file system of", &self.path, &errno.into()))
    }
}

/// Both locks go with the file.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl DiskLock for RealLock {}

#[derive(Debug)]
struct RealFile {
    file: File,
    path: PathBuf,
}

impl RealFile {
    fn failed(&self, operation: &'static str, error: &io::Error) -> DiskError {
        DiskError::new(operation, &self.path, error)
    }
}

/// Repeats a call that a signal interrupted.
fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        retry(|| self.file.read_at(buffer, offset)).map_err(|error| self.failed("read", &error))
    }

    fn read_at_nowait(&self, buffer: &mut [u8], offset: u64) -> Result<Option<usize>, DiskError> {
        use rustix::io::{Errno, ReadWriteFlags};
        if CANNOT_TELL.load(Ordering::Relaxed) {
            return self.read_at(buffer, offset).map(Some);
        }
        let mut parts = [io::IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(Some(read)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                CANNOT_TELL.store(true, Ordering::Relaxed);
                self.read_at(buffer, offset).map(Some)
            }
            Err(errno) => Err(self.failed("read", &errno.into())),
        }
    }

    fn will_need(&self, offset: u64, bytes: u64) {
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(bytes), Advice::WillNeed);
    }

    fn drop_cached(&self, offset: u64, bytes: u64) {
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(bytes), Advice::DontNeed);
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, DiskError> {
        retry(|| self.file.write_at(bytes, offset)).map_err(|error| self.failed("write to", &error))
    }

    fn sync(&self) -> Result<(), DiskError> {
        // Not repeated on any error, an interruption included: see the trait.
        self.file.sync_data().map_err(|error| self.failed("sync", &error))
    }

    fn len(&self) -> Result<u64, DiskError> {
        self.file.metadata().map(|data| data.len()).map_err(|error| self.failed("measure", &error))
    }

    fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        retry(|| self.file.set_len(bytes)).map_err(|error| self.failed("resize", &error))
    }

    fn reserve(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        use rustix::io::Errno;
        let reserve = || rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, bytes);
        match rustix::io::retry_on_intr(reserve) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(errno) => Err(self.failed("reserve room in", &errno.into())),
        }
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_full_at, read_resident_at, write_all_at};
    use super::*;

    #[test]
    fn who_does_not_wait_gets_what_is_in_memory_or_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = RealDisk.open(&directory.path().join("f"), true).unwrap();
        let written: Vec<u8> = (0..4 << 20).map(|n: u32| (n / 3) as u8).collect();
        write_all_at(&*file, &written, 0).unwrap();
        file.sync().unwrap();
        let mut bytes = vec![0; 1 << 20];
        assert_eq!(read_resident_at(&*file, &mut bytes, 77).unwrap(), Some(1 << 20));
        assert_eq!(bytes, written[77..77 + (1 << 20)]);
        file.drop_cached(0, 4 << 20);
        bytes.fill(0);
        match read_resident_at(&*file, &mut bytes, 2 << 20).unwrap() {
            // A file system in memory has nowhere else to keep it.
            Some(read) => assert_eq!(read, 1 << 20),
            None => {
                file.will_need(2 << 20, 1 << 20);
                assert_eq!(read_full_at(&*file, &mut bytes, 2 << 20).unwrap(), 1 << 20);
                assert_eq!(read_resident_at(&*file, &mut bytes, 2 << 20).unwrap(), Some(1 << 20));
            }
        }
        assert_eq!(bytes, written[2 << 20..3 << 20]);
        // At the end there is less, and that is known at once.
        assert_eq!(read_resident_at(&*file, &mut bytes, (4 << 20) - 5).unwrap().unwrap_or(5), 5);
    }

    #[test]
    fn a_file_that_is_write_protected_can_be_read() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        std::fs::write(&path, b"kept").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
        let file = RealDisk.open(&path, false).unwrap();
        let mut bytes = [0; 4];
        assert_eq!(read_full_at(&*file, &mut bytes, 0).unwrap(), 4);
        assert_eq!(&bytes, b"kept");
    }
}
