//! A file that remembers what was written to it, in which order, and when it was synced: a file system in user space
//! with one file, on which a loop device lies. From the record come the images that a power cut would have left.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};

use super::undo::Undo;
use crate::chance::Chance;

/// Nothing changes behind the kernel's back.
const LASTS: Duration = Duration::from_secs(3600);
const NAME: &str = "image";
const FILE: INodeNo = INodeNo(2);
/// What a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;

/// What was done to the file.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// These bytes, which lie in the record's own file.
    Write { offset: u64, bytes: usize, at: u64 },
    /// Everything before is on the disk.
    Flush,
}

#[derive(Debug)]
struct Record {
    steps: Vec<Step>,
    bytes: File,
    end: u64,
}

/// The file, mounted.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Where the file is to be found.
    pub(super) file: PathBuf,
    record: Arc<Mutex<Record>>,
    /// What the file was before anything was written.
    base: PathBuf,
    _session: BackgroundSession,
    _undo: Undo,
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Mounts a file that begins as a copy of `base` at `directory`; `scratch` takes what is remembered.
    pub(super) fn mount(base: &Path, directory: &Path, scratch: &Path) -> Result<Recorder> {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let open = |name: &str| {
            let path = scratch.join(name);
            let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
            file.with_context(|| format!("cannot make {}", path.display()))
        };
        let current = open("recorded-current")?;
        super::image::copy(base, &scratch.join("recorded-current"))?;
        let record = Record { steps: Vec::new(), bytes: open("recorded-bytes")?, end: 0 };
        let record = Arc::new(Mutex::new(record));
        let size = current.metadata().context("cannot measure the image")?.len();
        let files = Files { current, size, record: Arc::clone(&record) };
        let session = fuser::spawn_mount(files, directory, &Config::default()).context(
            "this row needs root and /dev/fuse, to mount a file system in user space (FUSE in the kernel)",
        )?;
        let undo = Undo::unmount(directory);
        let file = directory.join(NAME);
        Ok(Recorder { file, record, base: base.to_owned(), _session: session, _undo: undo })
    }

    /// Steps so far.
    pub(super) fn steps(&self) -> usize {
        locked(&self.record).steps.len()
    }

    /// Writes to `image` what a disk would have that lost its power behind the first `steps` steps: everything up to
    /// the last flush, and of the writes behind it those that `chance` gives, the last perhaps torn between sectors.
    pub(super) fn image_after(&self, steps: usize, chance: &mut Chance, image: &Path) -> Result<()> {
        super::image::copy(&self.base, image)?;
        let open = File::options().write(true).open(image);
        let file = open.with_context(|| format!("cannot write {}", image.display()))?;
        let record = locked(&self.record);
        let steps = &record.steps[..steps];
        let safe = steps.iter().rposition(|step| matches!(step, Step::Flush)).unwrap_or(0);
        // All, none, or any of them.
        let keep_of_four = chance.within(0..5);
        for (index, step) in steps.iter().enumerate() {
            let Step::Write { offset, bytes, at } = *step else { continue };
            let mut content = vec![0; bytes];
            record.bytes.read_exact_at(&mut content, at).context("cannot read what was recorded")?;
            if index > safe {
                if chance.within(0..4) >= keep_of_four {
                    continue;
                }
                if index + 1 == steps.len() && bytes > SECTOR_BYTES {
                    let sectors = chance.within(0..(bytes / SECTOR_BYTES) as u64 + 1) as usize;
                    content.truncate(sectors * SECTOR_BYTES);
                }
            }
            file.write_all_at(&content, offset).context("cannot write an image")?;
        }
        Ok(())
    }
}

/// The file system: a directory with one file.
struct Files {
    current: File,
    size: u64,
    record: Arc<Mutex<Record>>,
}

impl Files {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let is_file = inode == FILE;
        FileAttr {
            ino: inode,
            size: if is_file { self.size } else { 0 },
            blocks: if is_file { self.size / 512 } else { 0 },
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: if is_file { 0o600 } else { 0o700 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn write_both(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.current.write_all_at(data, offset)?;
        let mut record = locked(&self.record);
        let at = record.end;
        record.bytes.write_all_at(data, at)?;
        record.end += data.len() as u64;
        record.steps.push(Step::Write { offset, bytes: data.len(), at });
        Ok(())
    }
}

impl Filesystem for Files {
    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&LASTS, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&LASTS, &self.attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; (u64::from(size)).min(self.size.saturating_sub(offset)) as usize];
        match self.current.read_exact_at(&mut data, offset) {
            Ok(()) => reply.data(&data),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_both(offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Of a descriptor that is closed: nothing that a disk would notice.
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.record).steps.push(Step::Flush);
        reply.ok();
    }
}
