//! A disk in memory that fails on demand: lost, reordered and torn writes, errors at the n-th call, a sync that fails
//! once and lies afterwards.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskError, DiskFile, DiskLock, Entry, Space, Volume};

/// Bytes that a disk writes at once or not at all.
const SECTOR_BYTES: usize = 512;

/// What goes wrong at one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device reports an error.
    Io,
    /// There is no room.
    Full,
    /// Half of the bytes are taken or given. Calls without bytes are not harmed.
    Short,
}

/// What a power cut does to writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// None of them reached the disk.
    LoseAll,
    /// All of them did: what a killed process leaves behind.
    KeepAll,
    /// Some did, in any order, the last of them torn between sectors; which, the seed tells.
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
    /// Names as programs see them, and as a power cut would leave them.
    names: BTreeMap<PathBuf, Arc<Content>>,
    durable_names: BTreeMap<PathBuf, Arc<Content>>,
    calls: u64,
    fault: Option<(u64, Fault)>,
    space: Option<Space>,
    locked: Vec<(PathBuf, Arc<AtomicBool>)>,
}

#[derive(Debug, Default)]
struct Content(Mutex<Bytes>);

#[derive(Debug, Default)]
struct Bytes {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, in order.
    unsynced: Vec<Change>,
}

impl Bytes {
    /// What was written is durable.
    fn settle(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        unsynced.iter().for_each(|change| change.apply(&mut self.durable));
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(offset, data) => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Change::Length(length) => bytes.resize(*length, 0),
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
        let mut shared = self.shared();
        shared.fault = Some((shared.calls + n, fault));
    }

    /// What the disk says from now on of the room that it has.
    pub fn set_space(&self, space: Space) {
        self.shared().space = Some(space);
    }

    /// Calls that could have failed so far.
    pub fn calls(&self) -> u64 {
        self.shared().calls
    }

    /// The disk that a machine finds when it starts again after the power was cut now.
    pub fn crash(&self, crash: Crash) -> MemoryDisk {
        let shared = self.shared();
        let mut chance = Chance(match crash {
            Crash::Seeded(seed) => seed,
            Crash::LoseAll | Crash::KeepAll => 0,
        });
        let names = match crash {
            Crash::LoseAll => &shared.durable_names,
            Crash::KeepAll => &shared.names,
            Crash::Seeded(_) if chance.one_in(2) => &shared.durable_names,
            Crash::Seeded(_) => &shared.names,
        };
        let survivors: BTreeMap<PathBuf, Arc<Content>> = names
            .iter()
            .map(|(path, content)| {
                let bytes = survive(&content.0.lock().expect("no test panics inside"), crash, &mut chance);
                let content = Bytes { current: bytes.clone(), durable: bytes, unsynced: Vec::new() };
                (path.clone(), Arc::new(Content(Mutex::new(content))))
            })
            .collect();
        let after = Shared {
            directories: shared.directories.clone(),
            names: survivors.clone(),
            durable_names: survivors,
            ..Shared::default()
        };
        MemoryDisk { shared: Arc::new(Mutex::new(after)) }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no test panics inside")
    }

    /// Counts a call and tells what goes wrong at it.
    fn fault(&self) -> Option<Fault> {
        let mut shared = self.shared();
        shared.calls += 1;
        match shared.fault {
            Some((at, fault)) if at == shared.calls => {
                shared.fault = None;
                Some(fault)
            }
            _ => None,
        }
    }

    fn try_call(&self, operation: &'static str, path: &Path) -> Result<bool, DiskError> {
        let kind = match self.fault() {
            None => return Ok(false),
            Some(Fault::Short) => return Ok(true),
            Some(Fault::Io) => io::ErrorKind::Other,
            Some(Fault::Full) => io::ErrorKind::StorageFull,
        };
        Err(DiskError::new(operation, path, &io::Error::new(kind, "injected fault")))
    }
}

fn survive(bytes: &Bytes, crash: Crash, chance: &mut Chance) -> Vec<u8> {
    match crash {
        Crash::LoseAll => bytes.durable.clone(),
        Crash::KeepAll => bytes.current.clone(),
        Crash::Seeded(_) => {
            let mut survivor = bytes.durable.clone();
            for change in &bytes.unsynced {
                match change {
                    // Lengths are the file system's and keep their order.
                    Change::Length(_) => change.apply(&mut survivor),
                    Change::Write(offset, data) => match chance.below(4) {
                        0 => {}
                        1 => {
                            let sectors = data.len() / SECTOR_BYTES;
                            let kept = SECTOR_BYTES * chance.below(sectors as u64 + 1) as usize;
                            Change::Write(*offset, data[..kept].to_vec()).apply(&mut survivor);
                        }
                        _ => change.apply(&mut survivor),
                    },
                }
            }
            survivor
        }
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.try_call("open", path)?;
        let mut shared = self.shared();
        let content = match shared.names.get(path) {
            Some(content) => Arc::clone(content),
            None if create => {
                let content = Arc::new(Content::default());
                shared.names.insert(path.to_owned(), Arc::clone(&content));
                content
            }
            None => return Err(DiskError::new("open", path, &io::Error::from(io::ErrorKind::NotFound))),
        };
        Ok(Arc::new(MemoryFile { disk: self.clone(), content, path: path.to_owned() }))
    }

    fn list(&self, directory: &Path) -> Result<Vec<Entry>, DiskError> {
        let shared = self.shared();
        let mut entries = BTreeMap::new();
        for path in shared.directories.iter().filter(|path| path.parent() == Some(directory)) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            entries.insert(name.clone(), Entry { name, is_directory: true, bytes: 0 });
        }
        for (path, content) in shared.names.iter().filter(|(path, _)| path.parent() == Some(directory)) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let bytes = content.0.lock().expect("no test panics inside").current.len() as u64;
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
        self.try_call("rename", from)?;
        let mut shared = self.shared();
        let content = shared.names.remove(from);
        let content = content
            .ok_or_else(|| DiskError::new("rename", from, &io::Error::from(io::ErrorKind::NotFound)))?;
        shared.names.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> Result<(), DiskError> {
        self.try_call("remove", path)?;
        self.shared().names.remove(path);
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> Result<(), DiskError> {
        self.try_call("sync directory", path)?;
        let mut shared = self.shared();
        shared.durable_names.retain(|name, _| name.parent() != Some(path));
        let named: Vec<_> = shared
            .names
            .iter()
            .filter(|(name, _)| name.parent() == Some(path))
            .map(|(n, c)| (n.clone(), c.clone()))
            .collect();
        shared.durable_names.extend(named);
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
        Ok(self.shared().space.unwrap_or(Space { total: 1 << 40, available: 1 << 39 }))
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
        let failed = self.disk.try_call("sync the file system of", &self.directory).err();
        let mut shared = self.disk.shared();
        let below: Vec<(PathBuf, Arc<Content>)> = shared
            .names
            .iter()
            .filter(|(path, _)| path.starts_with(&self.directory))
            .map(|(path, content)| (path.clone(), Arc::clone(content)))
            .collect();
        if let Some(error) = failed {
            // As after a failed sync of each of the files.
            for (_, content) in below {
                content.0.lock().expect("no test panics inside").unsynced.clear();
            }
            return Err(error);
        }
        shared.durable_names.retain(|path, _| !path.starts_with(&self.directory));
        for (path, content) in below {
            content.0.lock().expect("no test panics inside").settle();
            shared.durable_names.insert(path, content);
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
    content: Arc<Content>,
    path: PathBuf,
}

impl MemoryFile {
    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.content.0.lock().expect("no test panics inside")
    }

    fn change(&self, change: Change) {
        let mut bytes = self.bytes();
        change.apply(&mut bytes.current);
        bytes.unsynced.push(change);
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, DiskError> {
        let short = self.disk.try_call("read", &self.path)?;
        let bytes = self.bytes();
        let rest = bytes.current.get(offset as usize..).unwrap_or(&[]);
        let mut count = rest.len().min(buffer.len());
        if short && count > 1 {
            count /= 2;
        }
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, DiskError> {
        let short = self.disk.try_call("write to", &self.path)?;
        let count = if short && bytes.len() > 1 { bytes.len() / 2 } else { bytes.len() };
        self.change(Change::Write(offset as usize, bytes[..count].to_vec()));
        Ok(count)
    }

    fn sync(&self) -> Result<(), DiskError> {
        if let Err(error) = self.disk.try_call("sync", &self.path) {
            // As Linux does it: the pages count as clean now, whatever became of them, and the next sync succeeds.
            self.bytes().unsynced.clear();
            return Err(error);
        }
        self.bytes().settle();
        Ok(())
    }

    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.bytes().current.len() as u64)
    }

    fn set_len(&self, length: u64) -> Result<(), DiskError> {
        self.disk.try_call("resize", &self.path)?;
        self.change(Change::Length(length as usize));
        Ok(())
    }

    fn reserve(&self, _offset: u64, _bytes: u64) -> Result<(), DiskError> {
        self.disk.try_call("reserve room in", &self.path).map(drop)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Chance from a seed (xorshift): the same seed gives the same disk.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn one_in(&mut self, limit: u64) -> bool {
        self.below(limit) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_synced_survives_a_power_cut() {
        let disk = MemoryDisk::new();
        let path = Path::new("/d/f");
        let file = disk.open(path, true).unwrap();
        file.write_at(b"one", 0).unwrap();
        file.sync().unwrap();
        disk.sync_directory(Path::new("/d")).unwrap();
        file.write_at(b"two", 3).unwrap();
        let content = |disk: MemoryDisk| super::super::read_file(&disk, path).unwrap();
        assert_eq!(content(disk.crash(Crash::LoseAll)), Some(b"one".to_vec()));
        assert_eq!(content(disk.crash(Crash::KeepAll)), Some(b"onetwo".to_vec()));
    }

    #[test]
    fn a_failed_sync_loses_the_pages_and_the_next_one_lies() {
        let disk = MemoryDisk::new();
        let path = Path::new("/d/f");
        let file = disk.open(path, true).unwrap();
        disk.sync_directory(Path::new("/d")).unwrap();
        file.write_at(b"one", 0).unwrap();
        disk.fail_nth(1, Fault::Io);
        assert!(file.sync().is_err());
        assert!(file.sync().is_ok());
        assert_eq!(super::super::read_file(&disk.crash(Crash::LoseAll), path).unwrap(), Some(Vec::new()));
    }
}
