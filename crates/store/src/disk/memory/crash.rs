//! What a crash leaves of a disk in memory: the disk that the next start finds.

use super::{Chance, Change, Crash, File, MemoryDisk, NameChange, SECTOR_BYTES, Shared};

/// What becomes of one write that was not synced when the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never reached the disk.
    Lost,
    /// It did.
    Kept,
    /// Those of its sectors did whose bit is set; sector n of the write, counted in whole sectors of the file, has bit
    /// n mod 64.
    Torn(u64),
}

/// A write that is not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsynced {
    /// Its number among all changes of the disk, in the order in which they were made.
    pub sequence: u64,
    /// Sectors that it touches.
    pub sectors: usize,
}

/// What becomes of a disk's unsynced changes.
pub(super) struct Survival<'a> {
    /// How many of the changes to names survive, the oldest first: a file system keeps their order.
    pub names: usize,
    /// Whether changes of lengths survive.
    pub lengths: bool,
    pub write: &'a mut dyn FnMut(Unsynced) -> Fate,
}

impl MemoryDisk {
    /// The disk that a machine finds when it starts again after the power was cut now, or after the process was killed.
    pub fn crash(&self, crash: Crash) -> MemoryDisk {
        match crash {
            // The kernel lives on with all that it was given, and what was not synced is still not synced.
            Crash::KeepAll => MemoryDisk::of(
                self.with(|shared| shared.reopened(shared.files.clone(), shared.name_changes.clone())),
            ),
            Crash::LoseAll => {
                self.survivor(Survival { names: 0, lengths: false, write: &mut |_| Fate::Lost })
            }
            Crash::Seeded(seed) => {
                let mut chance = Chance::of(seed);
                let pending = self.unsynced_names();
                let names = match chance.below(3) {
                    0 => 0,
                    1 => pending,
                    _ => chance.below(pending as u64 + 1) as usize,
                };
                let mut write = |_| match chance.below(8) {
                    0 | 1 => Fate::Lost,
                    2 => Fate::Torn((1 << chance.below(9)) - 1),
                    3 => Fate::Torn(chance.number()),
                    _ => Fate::Kept,
                };
                self.survivor(Survival { names, lengths: true, write: &mut write })
            }
        }
    }

    /// The disk after a power cut that keeps the first `names` changes of names that are not synced, and of each write
    /// what `fate` says. Changes of lengths survive.
    pub fn crash_choosing(&self, names: usize, fate: &mut dyn FnMut(Unsynced) -> Fate) -> MemoryDisk {
        self.survivor(Survival { names, lengths: true, write: fate })
    }

    /// The writes that are not synced, in the order in which they were made.
    pub fn unsynced(&self) -> Vec<Unsynced> {
        let mut writes: Vec<Unsynced> = self.with(|shared| {
            let changes = shared.files.iter().flat_map(|file| &file.unsynced);
            changes.filter_map(|(sequence, change)| change.as_write(*sequence)).collect()
        });
        writes.sort_by_key(|write| write.sequence);
        writes
    }

    /// Changes of names that are not synced.
    pub fn unsynced_names(&self) -> usize {
        self.with(|shared| shared.name_changes.len())
    }

    fn survivor(&self, survival: Survival<'_>) -> MemoryDisk {
        MemoryDisk::of(self.with(|shared| {
            let mut order: Vec<(u64, usize, usize)> = Vec::new();
            for (id, file) in shared.files.iter().enumerate() {
                order.extend(file.unsynced.iter().enumerate().map(|(n, (sequence, _))| (*sequence, id, n)));
            }
            order.sort_unstable();
            let mut files: Vec<File> = shared
                .files
                .iter()
                .map(|file| File {
                    current: file.durable.clone(),
                    durable: file.durable.clone(),
                    unsynced: Vec::new(),
                })
                .collect();
            for (sequence, id, n) in order {
                let (_, change) = &shared.files[id].unsynced[n];
                let length = if survival.lengths { Fate::Kept } else { Fate::Lost };
                let fate = change.as_write(sequence).map_or(length, &mut *survival.write);
                apply_partly(change, fate, &mut files[id]);
            }
            for file in &mut files {
                file.durable = file.current.clone();
            }
            let mut after = shared.reopened(files, Vec::new());
            after.names = shared.durable_names.clone();
            for change in &shared.name_changes[..survival.names.min(shared.name_changes.len())] {
                change.apply(&mut after.names);
            }
            after.durable_names = after.names.clone();
            after
        }))
    }
}

impl Shared {
    fn reopened(&self, files: Vec<File>, name_changes: Vec<NameChange>) -> Shared {
        Shared {
            directories: self.directories.clone(),
            files,
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            name_changes,
            sequence: self.sequence,
            budget_bytes: self.budget_bytes,
            ..Shared::default()
        }
    }
}

impl Change {
    fn as_write(&self, sequence: u64) -> Option<Unsynced> {
        match self {
            Change::Write(offset, data) => {
                let end = offset + data.len();
                Some(Unsynced { sequence, sectors: end.div_ceil(SECTOR_BYTES) - offset / SECTOR_BYTES })
            }
            Change::Length(_) => None,
        }
    }
}

/// Lengths are the file system's and keep their order; of writes there is what their fate left.
fn apply_partly(change: &Change, fate: Fate, file: &mut File) {
    match (change, fate) {
        (_, Fate::Lost) => {}
        (change, Fate::Kept) | (change @ Change::Length(_), Fate::Torn(_)) => change.apply(&mut file.current),
        (Change::Write(offset, data), Fate::Torn(mask)) => {
            let mut at = *offset;
            let end = offset + data.len();
            while at < end {
                let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                let bit = (at / SECTOR_BYTES - offset / SECTOR_BYTES) % 64;
                if mask >> bit & 1 == 1 {
                    file.current.write(at, &data[at - offset..next - offset]);
                }
                at = next;
            }
        }
    }
}
