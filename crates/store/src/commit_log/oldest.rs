//! The oldest segment, and its end.

use cometmq_protocol::LogOffset;

use super::{CommitLog, POISONED};
use crate::disk::DiskError;

impl CommitLog {
    /// Where the oldest segment begins and ends; `None` while it is the only one, which is written to.
    pub(crate) fn oldest(&self) -> Option<(LogOffset, LogOffset)> {
        let segments = self.segments.read().expect(POISONED);
        let [oldest, _, ..] = segments.as_slice() else { return None };
        Some((LogOffset(oldest.base), LogOffset(oldest.base + self.options.segment_bytes)))
    }

    /// Deletes the oldest segment, which must begin at `start` and not be the only one: durably first, then for
    /// readers. After an error it is still there for them, and deleting can be tried again.
    pub(crate) fn delete_oldest(&self, start: LogOffset) -> Result<(), DiskError> {
        let path = {
            let segments = self.segments.read().expect(POISONED);
            let [oldest, _, ..] = segments.as_slice() else { return Ok(()) };
            if oldest.base != start.0 {
                return Ok(());
            }
            oldest.path.clone()
        };
        self.disk.remove_file(&path)?;
        if let Some(directory) = path.parent() {
            self.disk.sync_directory(directory)?;
        }
        let mut segments = self.segments.write().expect(POISONED);
        if segments.first().is_some_and(|oldest| oldest.base == start.0) {
            segments.remove(0);
        }
        drop(segments);
        self.open.close(|base| *base == start.0);
        Ok(())
    }
}
