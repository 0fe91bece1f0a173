//! The directory of index files: which there are, and reading and writing their parts.

use std::path::PathBuf;
use std::sync::Arc;

use super::format::{self, ENTRY_BYTES, HEADER_BYTES, IndexEntry, IndexHeader, SLOT_BYTES, Shape};
use super::newest::{Newest, PAGE_SLOTS, Part};
use crate::disk::{self, Disk, DiskError, DiskFile};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1024 * 1024;

/// Where index files are and how large they are.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub disk: Arc<dyn Disk>,
    pub directory: PathBuf,
    pub shape: Shape,
}

/// A file in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub name: i64,
    pub bytes: u64,
}

impl Files {
    /// All index files, oldest first. One without length is what a crash between making and sizing leaves: it goes.
    pub fn list(&self) -> Result<Vec<Found>, DiskError> {
        let mut found = Vec::new();
        for entry in self.disk.list(&self.directory)?.into_iter().filter(|entry| !entry.is_directory) {
            let Some(name) = format::parse_name(&entry.name) else { continue };
            if entry.bytes == 0 {
                self.disk.remove_file(&self.path(name))?;
                continue;
            }
            found.push(Found { name, bytes: entry.bytes });
        }
        Ok(found)
    }

    /// The place of a file.
    pub fn path(&self, name: i64) -> PathBuf {
        self.directory.join(format::file_name(name))
    }

    /// Opens a file that is there.
    pub fn open(&self, name: i64) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.disk.open(&self.path(name), false)
    }

    /// Makes a file of full length, durably.
    pub fn create(&self, name: i64) -> Result<Arc<dyn DiskFile>, DiskError> {
        self.disk.create_directory(&self.directory)?;
        let file = self.disk.open(&self.path(name), true)?;
        file.set_len(0)?;
        file.set_len(self.shape.file_bytes())?;
        file.sync()?;
        self.disk.sync_directory(&self.directory)?;
        if let Some(root) = self.directory.parent() {
            self.disk.sync_directory(root)?;
        }
        Ok(file)
    }

    /// Removes files, durably.
    pub fn remove(&self, names: &[i64]) -> Result<(), DiskError> {
        if names.is_empty() {
            return Ok(());
        }
        names.iter().try_for_each(|name| self.disk.remove_file(&self.path(*name)))?;
        self.disk.sync_directory(&self.directory)
    }

    /// The header of a file.
    pub fn header(&self, name: i64) -> Result<IndexHeader, DiskError> {
        let mut bytes = [0; HEADER_BYTES];
        disk::read_full_at(&*self.open(name)?, &mut bytes, 0)?;
        Ok(IndexHeader::decode(&bytes, self.shape))
    }

    /// A slot as it is in the file.
    pub fn head(&self, file: &dyn DiskFile, slot: u32) -> Result<u32, DiskError> {
        let mut bytes = [0; SLOT_BYTES];
        disk::read_full_at(file, &mut bytes, self.shape.slot_at(slot))?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// An entry as it is in the file.
    pub fn entry(&self, file: &dyn DiskFile, number: u32) -> Result<IndexEntry, DiskError> {
        let mut bytes = [0; ENTRY_BYTES];
        disk::read_full_at(file, &mut bytes, self.shape.entry_at(number))?;
        Ok(IndexEntry::decode(&bytes))
    }

    /// Hands the entries `from..to` to `each`.
    pub fn entries(
        &self,
        file: &dyn DiskFile,
        from: u32,
        to: u32,
        mut each: impl FnMut(u32, IndexEntry),
    ) -> Result<(), DiskError> {
        let mut window = Vec::new();
        let mut next = from;
        while next < to {
            let count = ((to - next) as usize).min(WINDOW_BYTES / ENTRY_BYTES);
            window.clear();
            window.resize(count * ENTRY_BYTES, 0);
            disk::read_full_at(file, &mut window, self.shape.entry_at(next))?;
            let (entries, _) = window.as_chunks::<ENTRY_BYTES>();
            for entry in entries {
                each(next, IndexEntry::decode(entry));
                next += 1;
            }
        }
        Ok(())
    }

    /// Hands the slots from `from` on, which begins a page, to `each`: many at once, with the number of the first.
    pub fn slots(
        &self,
        file: &dyn DiskFile,
        from: u32,
        to: u32,
        mut each: impl FnMut(u32, &[u8]),
    ) -> Result<(), DiskError> {
        let mut window = Vec::new();
        let step = WINDOW_BYTES / (PAGE_SLOTS * SLOT_BYTES) * PAGE_SLOTS;
        for first in (from..to).step_by(step) {
            let count = ((to - first) as usize).min(step);
            window.clear();
            window.resize(count * SLOT_BYTES, 0);
            disk::read_full_at(file, &mut window, self.shape.slot_at(first))?;
            each(first, &window);
        }
        Ok(())
    }

    /// Brings a file's slots into memory: those in the file, then the entries that came after these were written.
    pub(super) fn load_slots(&self, newest: &mut Newest) -> Result<(), DiskError> {
        let file = self.open(newest.name)?;
        self.slots(&*file, 0, self.shape.slots, |first, slots| newest.load_slots(first, slots))?;
        let (from, to) = (newest.slots_at, newest.header.count);
        self.entries(&*file, from.max(1), to, |number, entry| {
            newest.set_head(self.shape.slot_of(entry.hash), number);
        })?;
        newest.file = Some(file);
        Ok(())
    }
}

/// Writes parts of a file.
pub(super) fn write(file: &dyn DiskFile, parts: &[Part]) -> Result<(), DiskError> {
    parts.iter().try_for_each(|part| disk::write_all_at(file, &part.bytes, part.at))
}
