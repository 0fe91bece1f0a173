//! Bytes of the log as they lie in its files, for those who judge them themselves.

use cometmq_protocol::LogOffset;

use super::CommitLog;
use crate::disk::{self, DiskError};

impl CommitLog {
    /// Fills `buffer` with what the files have from `position` on, up to the end of a segment; returns how much that
    /// is. What was not written yet is not seen.
    pub(crate) fn peek(&self, position: LogOffset, buffer: &mut [u8]) -> Result<usize, DiskError> {
        let Some(segment) = self.segment(position.0)? else { return Ok(0) };
        disk::read_full_at(&*segment.file, buffer, (position.0 - segment.base) as u64)
    }
}
