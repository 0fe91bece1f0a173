//! The note that a segment of the log is being cut, `cometmq/cutting`.
//!
//! What lies behind the log's end is erased by making the segment shorter and then longer again. A process that ends
//! in between leaves a segment of the wrong size, with which the store would not open: the note names it, and the next
//! start makes it whole first. Shorter segments without a note are somebody's wrong setting, and refused.

use std::path::{Path, PathBuf};

use crate::disk::{self, Disk, DiskError};

/// Ends the note: without it, it was not whole, and nothing was cut yet.
const END: char = '\n';

/// Notes durably that the segment `path` is about to be shorter than it should be.
pub(crate) fn begin(disk: &dyn Disk, note: &Path, path: &Path) -> Result<(), DiskError> {
    let mut text = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    text.push(END);
    let file = disk.open(note, true)?;
    file.set_len(0)?;
    disk::write_all_at(&*file, text.as_bytes(), 0)?;
    file.sync()?;
    disk.sync_directory(note.parent().unwrap_or(Path::new(".")))
}

/// The segment has its size again, durably.
pub(crate) fn end(disk: &dyn Disk, note: &Path) -> Result<(), DiskError> {
    disk.remove_file(note)
}

/// The name of the segment that is noted.
pub(crate) fn named(disk: &dyn Disk, note: &Path) -> Result<Option<String>, DiskError> {
    let text = disk::read_file(disk, note)?.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(text.and_then(|text| text.strip_suffix(END).map(str::to_owned)))
}

/// Gives a segment that a start before left short its size again.
pub(crate) fn resume(
    disk: &dyn Disk,
    note: &Path,
    directories: &[PathBuf],
    segment_bytes: u64,
) -> Result<(), DiskError> {
    if !disk.exists(note)? {
        return Ok(());
    }
    let name = named(disk, note)?;
    for path in name.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name))) {
        if disk.exists(&path)? {
            let file = disk.open(&path, false)?;
            if file.len()? < segment_bytes {
                tracing::warn!(file = %path.display(), "a start before ended while it cut this segment: made whole");
                file.set_len(segment_bytes)?;
                file.sync()?;
            }
        }
    }
    end(disk, note)
}
