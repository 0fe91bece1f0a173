//! Positions, times and settings.

use std::path::Path;

use super::Finding;
use super::log::Walked;
use crate::checkpoint::{self, JavaCheckpoint};
use crate::config_file;
use crate::disk::{self, Disk, DiskError};

/// `cometmq/dispatched` and `cometmq/durable`: each slot that was ever written is valid, and no position is beyond the
/// log.
pub(super) fn check_positions(
    disk: &dyn Disk,
    root: &Path,
    walked: &Walked,
    found: &mut dyn FnMut(Finding),
) -> Result<(), DiskError> {
    for (name, magic) in checkpoint::POSITIONS {
        let path = root.join("cometmq").join(name);
        let bytes = disk::read_file(disk, &path)?.unwrap_or_default();
        for (slot, at) in bytes.chunks(checkpoint::SLOT_BYTES).zip((0u64..).step_by(checkpoint::SLOT_BYTES)) {
            match checkpoint::decode_slot(slot, magic) {
                Some(position) if position > walked.end => {
                    let what = format!("says that the log reaches {position}; it ends at {}", walked.end);
                    found(Finding::of_file(&path, Some(at), what));
                }
                None if slot.iter().any(|byte| *byte != 0) => {
                    found(Finding::of_file(&path, Some(at), "is no valid position; the other one counts"));
                }
                _ => {}
            }
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
