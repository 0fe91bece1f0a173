//! A disk in memory that fails on demand: lost, reordered and torn writes, errors at the n-th call or the n-th of a
//! kind, a sync that fails once and lies afterwards, no room, calls that take or give little, power that goes at a call.
//!
//! `image` holds the bytes of a file, `crash` what a kill or a power cut leaves. A copy shares its pages with the
//! original until one of them is written to: copying a disk after each call is cheap.

mod chance;
mod crash;
mod image;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskError, DiskFile, DiskLock, Entry, Space, Volume};

pub use chance::Chance;
pub use crash::{Fate, Unsynced};

use image::{Image, PAGE_BYTES};

/// Bytes that a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;
/// Size of a disk without a budget.
const UNBOUNDED_BYTES: u64 = 1 << 40;

/// What goes wrong at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error.
    Io,
    /// There is no room.
    Full,
    /// A signal interrupted the call, which did nothing.
    Interrupted,
    /// Half of the bytes are taken or given. Calls without bytes are not harmed.
    Short,
}

/// Calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Opening a file.
    Open,
    /// Reading from a file.
    Read,
    /// Writing to a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Changing a file's length.
    Resize,
    /// Reserving room for a file.
    Reserve,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Syncing a directory.
    SyncDirectory,
    /// Syncing everything below a directory.
    SyncVolume,
}

/// Verbs of [`Call`]s, in their order.
const VERBS: [&str; 10] = [
    "open",
    "read",
    "write to",
    "sync",
    "resize",
    "reserve room in",
    "rename",
    "remove",
    "sync directory",
    "sync the file system of",
];

impl Call {
    /// All of them.
    pub const ALL: [Call; 10] = [
        Call::Open,
        Call::Read,
        Call::Write,
        Call::Sync,
        Call::Resize,
        Call::Reserve,
        Call::Rename,
        Call::Remove,
        Call::SyncDirectory,
        Call::SyncVolume,
    ];

    /// The call as a verb, as in errors.
    pub fn verb(self) -> &'static str {
        VERBS[self as usize]
    }
}

/// What a crash does to writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The power went, and none of them reached the disk.
    LoseAll,
    /// The process was killed: all of them are with the kernel. They are still not synced.
    KeepAll,
    /// The power went: some reached the disk, in any order, some of them torn between sectors; which, the seed tells.
    Seeded(u64),
}

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    directories: Vec<PathBuf>,
    /// Every file that was ever made; names point here.
    files: Vec<File>,
    /// Names as programs see them, and as a power cut would leave them.
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// What makes the ones from the others, in order.
    name_changes: Vec<NameChange>,
    /// Of the last change to any file.
    sequence: u64,
    counts: [u64; VERBS.len()],
    faults: Vec<Planned>,
    /// The call at which the power goes.
    dies_at: Option<u64>,
    dead: bool,
    /// One in so many reads and writes is short, by chance; 0 is none.
    short_one_in: u64,
    chance: Chance,
    budget_bytes: Option<u64>,
    space: Option<Space>,
    locked: Vec<(PathBuf, Arc<AtomicBool>)>,
}

/// A fault that waits for its call.
#[derive(Clone, Copy, Debug)]
struct Planned {
    /// Any call, or one of this kind.
    call: Option<Call>,
    /// Which of them.
    at: u64,
    fault: Fault,
}

#[derive(Clone, Debug, Default)]
struct File {
    current: Image,
    durable: Image,
    /// Changes since the last sync, in order, each with its number on the disk.
    unsynced: Vec<(u64, Change)>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Arc<[u8]>),
    Length(usize),
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Change::Write(offset, data) => image.write(*offset, data),
            Change::Length(length) => image.set_len(*length),
        }
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Put(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl NameChange {
    fn directory(&self) -> Option<&Path> {
        match self {
            NameChange::Put(path, _) | NameChange::Remove(path) | NameChange::Rename(_, path) => {
                path.parent()
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Put(path, file) => drop(names.insert(path.clone(), *file)),
            NameChange::Remove(path) => drop(names.remove(path)),
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Lets the `n`-th call from now (1 is the next) fail. Calls that only ask for names or lengths do not count.
    pub fn fail_nth(&self, n: u64, fault: Fault) {
        self.with(|shared| {
            let at = shared.calls() + n;
            shared.faults.push(Planned { call: None, at, fault });
        });
    }

    /// Lets the `n`-th call of one kind from now (1 is the next) fail.
    pub fn fail_nth_of(&self, call: Call, n: u64, fault: Fault) {
        self.with(|shared| {
            let at = shared.counts[call as usize] + n;
            shared.faults.push(Planned { call: Some(call), at, fault });
        });
    }

    /// The power goes at the `n`-th call from now: it and all later ones fail and change nothing. What the machine
    /// does afterwards happens to nobody; [`MemoryDisk::crash`] gives the disk that it leaves.
    pub fn die_at(&self, n: u64) {
        self.with(|shared| shared.dies_at = Some(shared.calls() + n));
    }

    /// Whether the power went.
    pub fn is_dead(&self) -> bool {
        self.with(|shared| shared.dead)
    }

    /// From now on one in `one_in` reads and writes is short, as the seed has it; 0 ends that.
    pub fn be_short(&self, one_in: u64, seed: u64) {
        self.with(|shared| {
            shared.short_one_in = one_in;
            shared.chance = Chance::of(seed);
        });
    }

    /// Plans no further fault.
    pub fn heal(&self) {
        self.with(|shared| {
            shared.faults.clear();
            shared.dies_at = None;
            shared.short_one_in = 0;
        });
    }

    /// Size of the disk in bytes; `None` is without bound. Writing to a page that was not written or reserved before
    /// fails when it would pass the size.
    pub fn set_budget(&self, bytes: Option<u64>) {
        self.with(|shared| shared.budget_bytes = bytes);
    }

    /// What the disk says from now on of the room that it has, whatever it has.
    pub fn set_space(&self, space: Space) {
        self.with(|shared| shared.space = Some(space));
    }

    /// Bytes that files take, in whole pages.
    pub fn used(&self) -> u64 {
        self.with(|shared| shared.used())
    }

    /// Calls that could have failed so far.
    pub fn calls(&self) -> u64 {
        self.with(|shared| shared.calls())
    }

    /// The same by kind of call.
    pub fn counts(&self) -> [(Call, u64); 10] {
        self.with(|shared| Call::ALL.map(|call| (call, shared.counts[call as usize])))
    }

    /// Every file with what programs read from it.
    pub fn content(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        self.with(|shared| {
            let whole = |file: &File| {
                let mut bytes = vec![0; file.current.len()];
                file.current.read(0, &mut bytes);
                bytes
            };
            shared.names.iter().map(|(path, id)| (path.clone(), whole(&shared.files[*id]))).collect()
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no test panics inside")
    }

    fn of(shared: Shared) -> MemoryDisk {
        MemoryDisk { shared: Arc::new(Mutex::new(shared)) }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.shared())
    }
}

impl Shared {
    fn calls(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn used(&self) -> u64 {
        let files = self.names.values().map(|id| self.files[*id].current.pages());
        (files.sum::<usize>() * PAGE_BYTES) as u64
    }

    /// Counts a call and fails it if that is planned; else tells whether it is short.
    fn strike(&mut self, call: Call, path: &Path) -> Result<bool, DiskError> {
        let failed = |kind, reason| DiskError::new(call.verb(), path, &io::Error::new(kind, reason));
        self.counts[call as usize] += 1;
        let calls = self.calls();
        self.dead |= self.dies_at.is_some_and(|at| at <= calls);
        if self.dead {
            return Err(failed(io::ErrorKind::Other, "the power is off"));
        }
        let of_kind = self.counts[call as usize];
        let due = self.faults.iter().position(|planned| match planned.call {
            None => planned.at == calls,
            Some(kind) => kind == call && planned.at == of_kind,
        });
        let kind = match due.map(|index| self.faults.swap_remove(index).fault) {
            Some(Fault::Short) => return Ok(true),
            Some(Fault::Io) => io::ErrorKind::Other,
            Some(Fault::Full) => io::ErrorKind::StorageFull,
            Some(Fault::Interrupted) => io::ErrorKind::Interrupted,
            None => {
                let by_chance = matches!(call, Call::Read | Call::Write) && self.short_one_in > 0;
                return Ok(by_chance && self.chance.below(self.short_one_in) == 0);
            }
        };
        Err(failed(kind, "injected fault"))
    }

    /// Fails when `pages` more do not fit.
    fn make_room(&self, pages: usize, call: Call, path: &Path) -> Result<(), DiskError> {
        let Some(budget) = self.budget_bytes.filter(|_| pages > 0) else { return Ok(()) };
        if self.used() + (pages * PAGE_BYTES) as u64 <= budget {
            return Ok(());
        }
        Err(DiskError::new(
            call.verb(),
            path,
            &io::Error::new(io::ErrorKind::StorageFull, "the disk is full"),
        ))
    }

    fn change(&mut self, id: usize, change: Change) {
        self.sequence += 1;
        let file = &mut self.files[id];
        change.apply(&mut file.current);
        file.unsynced.push((self.sequence, change));
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut shared = self.shared();
        shared.strike(Call::Open, path)?;
        let id = match shared.names.get(path) {
            Some(id) => *id,
            None if create => {
                let id = shared.files.len();
                shared.files.push(File::default());
                shared.rename(NameChange::Put(path.to_owned(), id));
                id
            }
            None => return Err(DiskError::new("open", path, &io::Error::from(io::ErrorKind::NotFound))),
        };
        Ok(Arc::new(MemoryFile { disk: self.clone(), id, path: path.to_owned() }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        let shared = self.shared();
        let mut entries = BTreeMap::new();
        let name_of =
            |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        for path in shared.directories.iter().filter(|path| path.parent() == Some(directory)) {
            let name = name_of(path);
            entries.insert(name.clone(), Entry { name, is_directory: true, bytes: 0 });
        }
        for (path, id) in shared.names.iter().filter(|(path, _)| path.parent() == Some(directory)) {
            let name = name_of(path);
            let bytes = shared.files[*id].current.len() as u64;
            entries.insert(name.clone(), Entry { name, is_directory: false, bytes });
        }
        Ok(entries.into_values().collect())
    }

    fn create_directory(&self, path: &Path) -> Result<(), DiskError> {
        let mut shared = self.shared();
        for ancestor in path.ancestors() {
            if !shared.directories.iter().any(|known| known == ancestor) {
                shared.directories.push(ancestor.to_owned());
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let mut shared = self.shared();
        shared.strike(Call::Rename, from)?;
        if !shared.names.contains_key(from) {
            return Err(DiskError::new("rename", from, &io::Error::from(io::ErrorKind::NotFound)));
        }
        shared.rename(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        let mut shared = self.shared();
        shared.strike(Call::Remove, path)?;
        if shared.names.contains_key(path) {
            shared.rename(NameChange::Remove(path.to_owned()));
        }
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        let mut shared = self.shared();
        shared.strike(Call::SyncDirectory, path)?;
        let Shared { name_changes, durable_names, .. } = &mut *shared;
        for change in name_changes.extract_if(.., |change| change.directory() == Some(path)) {
            change.apply(durable_names);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> Result<bool, DiskError> {
        let shared = self.shared();
        Ok(shared.names.contains_key(path) || shared.directories.iter().any(|known| known == path))
    }

    fn lock(&self, path: &Path) -> Result<Option<Box<dyn DiskLock>>, DiskError> {
        let mut shared = self.shared();
        shared.locked.retain(|(_, held)| held.load(Ordering::Acquire));
        if shared.locked.iter().any(|(locked, _)| locked == path) {
            return Ok(None);
        }
        let held = Arc::new(AtomicBool::new(true));
        shared.locked.push((path.to_owned(), Arc::clone(&held)));
        Ok(Some(Box::new(Unlock(held))))
    }

    fn space(&self, _path: &Path) -> Result<Space, DiskError> {
        let shared = self.shared();
        if let Some(space) = shared.space {
            return Ok(space);
        }
        match shared.budget_bytes {
            Some(total) => Ok(Space { total, available: total.saturating_sub(shared.used()) }),
            None => Ok(Space { total: UNBOUNDED_BYTES, available: UNBOUNDED_BYTES / 2 }),
        }
    }

    fn volume(&self, directory: &Path) -> Result<Option<Arc<dyn Volume>>, DiskError> {
        Ok(Some(Arc::new(MemoryVolume { disk: self.clone(), directory: directory.to_owned() })))
    }
}

/// Everything below a directory. A sync of it is one call.
#[derive(Debug)]
struct MemoryVolume {
    disk: MemoryDisk,
    directory: PathBuf,
}

impl Volume for MemoryVolume {
    fn sync(&self) -> Result<(), DiskError> {
        let mut shared = self.disk.shared();
        let struck = shared.strike(Call::SyncVolume, &self.directory);
        if shared.dead {
            return struck.map(drop);
        }
        let Shared { names, files, name_changes, durable_names, .. } = &mut *shared;
        for (_, id) in names.iter().filter(|(path, _)| path.starts_with(&self.directory)) {
            let File { durable, unsynced, .. } = &mut files[*id];
            match struck {
                Ok(_) => {
                    std::mem::take(unsynced).iter().for_each(|(_, change)| change.apply(durable));
                }
                // As after a failed sync of each of the files.
                Err(_) => unsynced.retain(|(_, change)| matches!(change, Change::Length(_))),
            }
        }
        struck?;
        let is_below = |change: &mut NameChange| {
            change.directory().is_some_and(|directory| directory.starts_with(&self.directory))
        };
        for change in name_changes.extract_if(.., is_below) {
            change.apply(durable_names);
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Unlock(Arc<AtomicBool>);

impl DiskLock for Unlock {}

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    id: usize,
    path: PathBuf,
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let mut shared = self.disk.shared();
        let short = shared.strike(Call::Read, &self.path)?;
        let wanted = if short && buffer.len() > 1 { buffer.len() / 2 } else { buffer.len() };
        Ok(shared.files[self.id].current.read(offset as usize, &mut buffer[..wanted]))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, DiskError> {
        let mut shared = self.disk.shared();
        let short = shared.strike(Call::Write, &self.path)?;
        let count = if short && bytes.len() > 1 { bytes.len() / 2 } else { bytes.len() };
        let missing = shared.files[self.id].current.missing(offset as usize, count);
        shared.make_room(missing, Call::Write, &self.path)?;
        shared.change(self.id, Change::Write(offset as usize, bytes[..count].into()));
        Ok(count)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut shared = self.disk.shared();
        let struck = shared.strike(Call::Sync, &self.path);
        if shared.dead {
            return struck.map(drop);
        }
        let file = &mut shared.files[self.id];
        if struck.is_err() {
            // As Linux does it: the pages count as clean now, whatever became of them, and the next sync succeeds.
            file.unsynced.retain(|(_, change)| matches!(change, Change::Length(_)));
        }
        struck?;
        let unsynced = std::mem::take(&mut file.unsynced);
        unsynced.iter().for_each(|(_, change)| change.apply(&mut file.durable));
        Ok(())
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.disk.with(|shared| shared.files[self.id].current.len()) as u64)
    }

    fn set_len(&self, length: u64) -> Result<(), DiskError> {
        let mut shared = self.disk.shared();
        shared.strike(Call::Resize, &self.path)?;
        shared.change(self.id, Change::Length(length as usize));
        Ok(())
    }

    fn reserve(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let mut shared = self.disk.shared();
        shared.strike(Call::Reserve, &self.path)?;
        if shared.budget_bytes.is_none() {
            return Ok(());
        }
        let (offset, bytes) = (offset as usize, bytes as usize);
        let missing = shared.files[self.id].current.missing(offset, bytes);
        shared.make_room(missing, Call::Reserve, &self.path)?;
        shared.files[self.id].current.reserve(offset, bytes);
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_file() -> (MemoryDisk, Arc<dyn DiskFile>, &'static Path) {
        let (disk, path) = (MemoryDisk::new(), Path::new("/d/f"));
        let file = disk.open(path, true).unwrap();
        disk.sync_directory(Path::new("/d")).unwrap();
        (disk, file, path)
    }

    fn content(disk: &MemoryDisk, path: &Path) -> Option<Vec<u8>> {
        super::super::read_file(disk, path).unwrap()
    }

    #[test]
    fn only_what_was_synced_survives_a_power_cut() {
        let (disk, file, path) = one_file();
        file.write_at(b"one", 0).unwrap();
        file.sync().unwrap();
        file.write_at(b"two", 3).unwrap();
        assert_eq!(content(&disk.crash(Crash::LoseAll), path), Some(b"one".to_vec()));
        let killed = disk.crash(Crash::KeepAll);
        assert_eq!(content(&killed, path), Some(b"onetwo".to_vec()));
        assert_eq!(
            content(&killed.crash(Crash::LoseAll), path),
            Some(b"one".to_vec()),
            "a kill syncs nothing"
        );
    }

    #[test]
    fn a_name_survives_a_power_cut_once_its_directory_is_synced_and_names_keep_their_order() {
        let disk = MemoryDisk::new();
        let names = ["/d/a", "/d/b", "/e/c"].map(Path::new);
        for path in names {
            disk.open(path, true).unwrap();
        }
        let found = |disk: &MemoryDisk| names.map(|path| disk.exists(path).unwrap());
        assert_eq!(found(&disk.crash(Crash::LoseAll)), [false; 3]);
        assert_eq!(found(&disk.crash_choosing(1, &mut |_| Fate::Lost)), [true, false, false]);
        disk.sync_directory(Path::new("/e")).unwrap();
        assert_eq!(found(&disk.crash(Crash::LoseAll)), [false, false, true]);
    }

    #[test]
    fn a_torn_write_leaves_whole_sectors() {
        let (disk, file, path) = one_file();
        file.write_at(&[1; 2000], 100).unwrap();
        assert_eq!(disk.unsynced().iter().map(|write| write.sectors).collect::<Vec<_>>(), [5]);
        let bytes = content(&disk.crash_choosing(0, &mut |_| Fate::Torn(0b00101)), path).unwrap();
        let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == 1).collect();
        assert_eq!(written, (100..512).chain(1024..1536).collect::<Vec<_>>());
    }

    #[test]
    fn a_failed_sync_loses_the_pages_and_the_next_one_lies() {
        let (disk, file, path) = one_file();
        file.write_at(b"one", 0).unwrap();
        disk.fail_nth(1, Fault::Io);
        assert!(file.sync().is_err());
        assert!(file.sync().is_ok());
        assert_eq!(content(&disk.crash(Crash::LoseAll), path), Some(Vec::new()));
        assert_eq!(
            content(&disk.crash(Crash::KeepAll), path),
            Some(b"one".to_vec()),
            "the kernel still shows them"
        );
    }

    #[test]
    fn the_planned_call_fails_and_no_other() {
        let (disk, file, _) = one_file();
        disk.fail_nth_of(Call::Sync, 2, Fault::Interrupted);
        disk.fail_nth(2, Fault::Full);
        file.sync().unwrap();
        assert!(file.write_at(b"x", 0).unwrap_err().is_full());
        assert_eq!(file.sync().unwrap_err().kind, io::ErrorKind::Interrupted);
        assert_eq!((file.sync().is_ok(), file.write_at(b"x", 0).unwrap()), (true, 1));
        let counted = disk.counts().into_iter().filter(|(_, count)| *count > 0);
        let expected = [(Call::Open, 1), (Call::Write, 2), (Call::Sync, 3), (Call::SyncDirectory, 1)];
        assert_eq!(counted.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_disk_without_power_does_nothing_more() {
        let (disk, file, path) = one_file();
        disk.die_at(2);
        file.write_at(b"kept", 0).unwrap();
        assert!(file.sync().is_err() && file.write_at(b"lost", 0).is_err() && disk.is_dead());
        assert_eq!(content(&disk.crash(Crash::KeepAll), path), Some(b"kept".to_vec()));
        assert_eq!(content(&disk.crash(Crash::LoseAll), path), Some(Vec::new()));
    }

    #[test]
    fn a_full_disk_takes_what_was_reserved_and_more_when_there_is_room_again() {
        let (disk, file, path) = one_file();
        disk.set_budget(Some(2 * PAGE_BYTES as u64));
        file.reserve(0, PAGE_BYTES as u64).unwrap();
        let other = disk.open(Path::new("/d/g"), true).unwrap();
        other.write_at(b"x", 0).unwrap();
        assert_eq!(disk.space(path).unwrap().available, 0);
        assert!(other.write_at(b"x", PAGE_BYTES as u64).unwrap_err().is_full());
        file.write_at(&[1; PAGE_BYTES], 0).unwrap();
        disk.remove_file(Path::new("/d/g")).unwrap();
        file.write_at(b"x", PAGE_BYTES as u64).unwrap();
    }

    #[test]
    fn reads_and_writes_may_be_short_by_chance() {
        let (disk, file, path) = one_file();
        disk.be_short(2, 1);
        let bytes: Vec<u8> = (0..100).collect();
        super::super::write_all_at(&*file, &bytes, 0).unwrap();
        assert_eq!(content(&disk, path), Some(bytes));
        let calls = disk.counts().into_iter().map(|(_, count)| count).max();
        assert!(calls.unwrap() > 1, "none was short");
    }
}
