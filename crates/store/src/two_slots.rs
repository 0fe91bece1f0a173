//! A few numbers on disk that change at once or not at all: two copies in different sectors, written in turn.
//!
//! What the numbers promise must be durable before they are saved. A torn save leaves the copy before it.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{self, Disk, DiskError, DiskFile};

/// Bytes of one copy: a sector of its own.
pub(crate) const SLOT_BYTES: usize = 512;

/// `N` numbers and the file that holds them.
#[derive(Debug)]
pub(crate) struct TwoSlots<const N: usize> {
    path: PathBuf,
    magic: u64,
    sequence: u64,
    values: [i64; N],
}

impl<const N: usize> TwoSlots<N> {
    /// Reads the newer valid copy. `None` where there is none: nothing was ever saved.
    pub fn load(
        disk: &dyn Disk,
        path: PathBuf,
        magic: u64,
    ) -> Result<(TwoSlots<N>, Option<[i64; N]>), DiskError> {
        let bytes = disk::read_file(disk, &path)?.unwrap_or_default();
        let newest = bytes.chunks(SLOT_BYTES).filter_map(|slot| decode(slot, magic)).max();
        let (sequence, values) = newest.unwrap_or((0, [0; N]));
        Ok((TwoSlots { path, magic, sequence, values }, newest.map(|(_, values)| values)))
    }

    /// The numbers last saved; zeros before the first save.
    pub fn get(&self) -> &[i64; N] {
        &self.values
    }

    /// Writes the numbers and makes them durable.
    pub fn save(&mut self, disk: &dyn Disk, values: [i64; N]) -> Result<(), DiskError> {
        let is_new = !disk.exists(&self.path)?;
        let file = self.write(disk, values)?;
        file.sync()?;
        if is_new && let Some(directory) = self.path.parent() {
            disk.sync_directory(directory)?;
        }
        self.keep(values);
        Ok(())
    }

    /// Writes the numbers; a power cut may take them back to earlier ones, or to none.
    pub fn note(&mut self, disk: &dyn Disk, values: [i64; N]) -> Result<(), DiskError> {
        self.write(disk, values)?;
        self.keep(values);
        Ok(())
    }

    fn write(&self, disk: &dyn Disk, values: [i64; N]) -> Result<Arc<dyn DiskFile>, DiskError> {
        let sequence = self.sequence + 1;
        let file = disk.open(&self.path, true)?;
        let slot = encode(self.magic, sequence, &values);
        disk::write_all_at(&*file, &slot, sequence % 2 * SLOT_BYTES as u64)?;
        Ok(file)
    }

    fn keep(&mut self, values: [i64; N]) {
        self.sequence += 1;
        self.values = values;
    }
}

/// Bytes before the CRC: magic, sequence, numbers.
const fn covered(numbers: usize) -> usize {
    16 + 8 * numbers
}

fn encode<const N: usize>(magic: u64, sequence: u64, values: &[i64; N]) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&magic.to_be_bytes());
    slot[8..16].copy_from_slice(&sequence.to_be_bytes());
    for (at, value) in slot[16..].chunks_exact_mut(8).zip(values) {
        at.copy_from_slice(&value.to_be_bytes());
    }
    let crc = crc32fast::hash(&slot[..covered(N)]);
    slot[covered(N)..covered(N) + 4].copy_from_slice(&crc.to_be_bytes());
    slot
}

/// Reads a copy; `None` where none stands.
pub(crate) fn decode<const N: usize>(slot: &[u8], magic: u64) -> Option<(u64, [i64; N])> {
    let word =
        |at: usize| slot.get(at..).and_then(|rest| rest.first_chunk()).map(|word| u64::from_be_bytes(*word));
    let crc = u32::from_be_bytes(*slot.get(covered(N)..)?.first_chunk()?);
    if word(0)? != magic || crc != crc32fast::hash(&slot[..covered(N)]) {
        return None;
    }
    let mut values = [0; N];
    for (number, value) in values.iter_mut().enumerate() {
        *value = word(16 + 8 * number)? as i64;
    }
    Some((word(8)?, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Crash, MemoryDisk};

    #[test]
    fn a_torn_save_leaves_the_numbers_before() {
        const MAGIC: u64 = 0x434F_4D45_544D_5131;
        let disk = MemoryDisk::new();
        let path = PathBuf::from("/s/numbers");
        let (mut numbers, known) = TwoSlots::<2>::load(&disk, path.clone(), MAGIC).unwrap();
        assert_eq!(known, None);
        numbers.save(&disk, [10, 1]).unwrap();
        numbers.save(&disk, [20, 2]).unwrap();
        let file = disk.open(&path, false).unwrap();
        disk::write_all_at(&*file, &encode(MAGIC, 3, &[30, 3])[..28], SLOT_BYTES as u64).unwrap();
        let after = disk.crash(Crash::KeepAll);
        assert_eq!(TwoSlots::<2>::load(&after, path.clone(), MAGIC).unwrap().1, Some([20, 2]));
        assert_eq!(
            TwoSlots::<2>::load(&after, path, MAGIC + 1).unwrap().1,
            None,
            "numbers of another meaning"
        );
    }
}
