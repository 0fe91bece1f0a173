//! Positions, times and settings.

use std::path::Path;

use cometmq_protocol::LogOffset;

use super::Finding;
use super::log::Walked;
use crate::checkpoint::JavaCheckpoint;
use crate::config_file;
use crate::disk::{self, Disk, DiskError};
use crate::two_slots::{self, SLOT_BYTES};

/// A file of positions in `cometmq/`: each slot that was ever written is valid, and its position, the first of its `N`
/// numbers, is not beyond `end`.
pub(super) fn check_slots<const N: usize>(
    disk: &dyn Disk,
    path: &Path,
    magic: u64,
    end: LogOffset,
    found: &mut dyn FnMut(Finding),
) -> Result<(), DiskError> {
    let bytes = disk::read_file(disk, path)?.unwrap_or_default();
    for (slot, at) in bytes.chunks(SLOT_BYTES).zip((0u64..).step_by(SLOT_BYTES)) {
        match two_slots::decode::<N>(slot, magic) {
            Some((_, values)) if values[0] > end.0 => {
                let what = format!("says that the log reaches {}; it ends at {end}", values[0]);
                found(Finding::of_file(path, Some(at), what));
            }
            None if slot.iter().any(|byte| *byte != 0) => {
                found(Finding::of_file(path, Some(at), "is no valid position; the other one counts"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// `checkpoint`: no time is later than the newest record.
pub(super) fn check_times(
    path: &Path,
    java: &JavaCheckpoint,
    walked: &Walked,
    found: &mut dyn FnMut(Finding),
) {
    for (time, at, of) in [(java.physic, 0, "the log"), (java.logics, 8, "the queues")] {
        if time > walked.last_stored_at {
            let what = format!(
                "says that {of} reached {} ms; the newest record was stored at {} ms",
                time.0, walked.last_stored_at.0
            );
            found(Finding::of_file(path, Some(at), what));
        }
    }
}

/// `config/*.json` and their backups: readable, and as they were written.
pub(super) fn check_config(
    disk: &dyn Disk,
    directory: &Path,
    found: &mut dyn FnMut(Finding),
) -> Result<(), DiskError> {
    for entry in disk.list(directory)?.into_iter().filter(|entry| !entry.is_directory) {
        let is_config = entry.name.ends_with(".json") || entry.name.ends_with(".json.bak");
        let path = directory.join(&entry.name);
        if let Some(bytes) = disk::read_file(disk, &path)?.filter(|_| is_config && entry.bytes > 0)
            && let Err(what) = config_file::check(&bytes)
        {
            found(Finding::of_file(&path, None, what));
        }
    }
    Ok(())
}
