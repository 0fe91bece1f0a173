//! The files of the checksums: `cometmq/checksums/SEGMENT`, named as the segments of the log, 16 bytes for each block.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::sum::{SUM_BYTES, Stored, Sum};
use super::{BLOCK_BYTES, POISONED};
use crate::disk::{self, Disk, DiskError, DiskFile};
use crate::segments::{self, OpenFiles};

/// Files kept open at most; any other is opened anew when it is needed.
const OPEN_FILES_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    /// By position of the segment; `None` where there is no file.
    open: OpenFiles<i64, Option<Arc<dyn DiskFile>>>,
    /// Held while one is opened or removed, so that none is taken for missing that was just made.
    opening: Mutex<()>,
}

impl Files {
    pub fn open(disk: Arc<dyn Disk>, directory: PathBuf) -> Result<Files, DiskError> {
        disk.create_directory(&directory)?;
        Ok(Files { disk, directory, open: OpenFiles::new(OPEN_FILES_MAX), opening: Mutex::new(()) })
    }

    /// Removes what is about segments other than `bases`, which grow, and about bytes at `end` and beyond. Returns what
    /// is known of the block that holds the end.
    pub fn cut(
        &self,
        bases: &[i64],
        end: i64,
        segment_bytes: i64,
        block: i64,
    ) -> Result<Option<Sum>, DiskError> {
        let mut known = None;
        let mut removed = false;
        for entry in self.disk.list(&self.directory)? {
            // Whatever else lies here is none of ours.
            let Some(base) = segments::parse(&entry.name) else { continue };
            if base >= end || bases.binary_search(&base).is_err() {
                self.disk.remove_file(&self.directory.join(&entry.name))?;
                removed = true;
            } else if base + segment_bytes > end {
                let mut sums = Vec::with_capacity(1);
                self.read(base, block, 1, false, &mut sums)?;
                known = sums.pop().flatten();
                let covered = known.is_some_and(|known| block + known.covered() as i64 <= end);
                let blocks = (block - base) / BLOCK_BYTES + i64::from(covered && block < end);
                let bytes = blocks as u64 * SUM_BYTES as u64;
                if entry.bytes > bytes
                    && let Some(file) = self.file(base, false)?
                {
                    file.set_len(bytes)?;
                    file.sync()?;
                }
            }
        }
        if removed {
            self.disk.sync_directory(&self.directory)?;
        }
        Ok(known)
    }

    /// Writes sums of neighbouring blocks of one segment.
    pub fn write(&self, base: i64, sums: &[(i64, Sum)]) -> Result<(), DiskError> {
        let Some((first, _)) = sums.first() else { return Ok(()) };
        let Some(file) = self.file(base, true)? else { return Ok(()) };
        let bytes: Vec<u8> = sums.iter().flat_map(|(block, sum)| sum.encode(*block)).collect();
        disk::write_all_at(&*file, &bytes, place(base, *first))
    }

    /// Appends what is stored for `count` blocks from the one at `first` on. False when `resident_only` and it is not
    /// in memory.
    pub fn read(
        &self,
        base: i64,
        first: i64,
        count: usize,
        resident_only: bool,
        sums: &mut Vec<Option<Sum>>,
    ) -> Result<bool, DiskError> {
        let start = sums.len();
        sums.resize(start + count, None);
        let Some(file) = self.file(base, false)? else { return Ok(true) };
        let mut bytes = [0; 64 * SUM_BYTES];
        for (n, sums) in sums[start..].chunks_mut(64).enumerate() {
            let block = first + n as i64 * 64 * BLOCK_BYTES;
            let wanted = &mut bytes[..sums.len() * SUM_BYTES];
            let at = place(base, block);
            let read = match resident_only {
                true => match disk::read_resident_at(&*file, wanted, at)? {
                    Some(read) => read,
                    None => return Ok(false),
                },
                false => disk::read_full_at(&*file, wanted, at)?,
            };
            let (stored, _) = wanted[..read].as_chunks::<SUM_BYTES>();
            for ((sum, stored), n) in sums.iter_mut().zip(stored).zip(0i64..) {
                if let Stored::Sum(found) = Sum::decode(stored, block + n * BLOCK_BYTES) {
                    *sum = Some(found);
                }
            }
        }
        Ok(true)
    }

    pub fn sync(&self) -> Result<(), DiskError> {
        self.open.all().iter().flatten().try_for_each(|file| file.sync())?;
        self.disk.sync_directory(&self.directory)
    }

    pub fn forget_before(&self, start: i64) -> Result<(), DiskError> {
        for entry in self.disk.list(&self.directory)? {
            if let Some(base) = segments::parse(&entry.name).filter(|base| *base < start) {
                let _opening = self.opening.lock().expect(POISONED);
                self.open.close(|open| *open == base);
                self.disk.remove_file(&self.directory.join(&entry.name))?;
            }
        }
        Ok(())
    }

    fn file(&self, base: i64, create: bool) -> Result<Option<Arc<dyn DiskFile>>, DiskError> {
        let known = || self.open.get(&base).filter(|file| file.is_some() || !create);
        if let Some(file) = known() {
            return Ok(file);
        }
        let _opening = self.opening.lock().expect(POISONED);
        if let Some(file) = known() {
            return Ok(file);
        }
        let path = self.directory.join(segments::name(base));
        let file = match create || self.disk.exists(&path)? {
            true => Some(self.disk.open(&path, create)?),
            false => None,
        };
        self.open.insert(base, file.clone());
        Ok(file)
    }
}

/// Where the sum of a block stands in the file of its segment.
fn place(base: i64, block: i64) -> u64 {
    ((block - base) / BLOCK_BYTES) as u64 * SUM_BYTES as u64
}
