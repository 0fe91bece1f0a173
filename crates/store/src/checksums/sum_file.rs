//! The checksums of one segment, read and never changed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::BLOCK_BYTES;
use super::sum::{SUM_BYTES, Stored, Sum};
use crate::disk::{self, Disk, DiskError, DiskFile};

/// Sums read at once.
const SUMS_AT_ONCE: usize = 4096;

/// The file of one segment's sums; it may not exist.
pub(crate) struct SumFile {
    path: PathBuf,
    /// Log position at which the segment begins.
    base: i64,
    file: Option<Arc<dyn DiskFile>>,
}

impl SumFile {
    /// The sums of the segment that begins at `base`.
    pub fn open(disk: &Arc<dyn Disk>, path: PathBuf, base: i64) -> Result<SumFile, DiskError> {
        let file = if disk.exists(&path)? { Some(disk.open(&path, false)?) } else { None };
        Ok(SumFile { path, base, file })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is known of `count` blocks from the one at `first` on.
    pub fn get(&self, first: i64, count: usize) -> Result<Vec<Option<Sum>>, DiskError> {
        let mut sums = Vec::with_capacity(count);
        self.each(((first - self.base) / BLOCK_BYTES) as usize, count, &mut |_, stored| {
            sums.push(match stored {
                Stored::Sum(sum) => Some(sum),
                Stored::None | Stored::Damaged => None,
            });
        })?;
        sums.resize(count, None);
        Ok(sums)
    }

    /// Log position behind the last byte that a sum covers.
    pub fn covered_until(&self) -> Result<i64, DiskError> {
        let mut until = 0;
        self.each(0, usize::MAX, &mut |block, stored| {
            if let Stored::Sum(sum) = stored {
                until = block + sum.covered() as i64;
            }
        })?;
        Ok(until)
    }

    /// Bytes of the file at which something stands that is no sum of its block.
    pub fn damaged(&self) -> Result<Vec<u64>, DiskError> {
        let mut damaged = Vec::new();
        self.each(0, usize::MAX, &mut |block, stored| {
            if stored == Stored::Damaged {
                damaged.push(((block - self.base) / BLOCK_BYTES) as u64 * SUM_BYTES as u64);
            }
        })?;
        Ok(damaged)
    }

    /// Hands the places from `first` on, by position of their blocks, to `each`, up to the file's end.
    fn each(&self, first: usize, count: usize, each: &mut dyn FnMut(i64, Stored)) -> Result<(), DiskError> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut bytes = vec![0; SUMS_AT_ONCE.min(count) * SUM_BYTES];
        let (mut index, mut left) = (first, count);
        while left > 0 {
            let wanted = left.min(SUMS_AT_ONCE) * SUM_BYTES;
            let read = disk::read_full_at(&**file, &mut bytes[..wanted], (index * SUM_BYTES) as u64)?;
            let (stored, _) = bytes[..read].as_chunks::<SUM_BYTES>();
            for stored in stored {
                let block = self.base + index as i64 * BLOCK_BYTES;
                each(block, Sum::decode(stored, block));
                index += 1;
            }
            if stored.is_empty() {
                break;
            }
            left -= stored.len();
        }
        Ok(())
    }
}
