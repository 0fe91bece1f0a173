//! Reading records back: from the hot part where they are still there, else from the segments.

use cometmq_protocol::LogOffset;
use cometmq_protocol::message::record;

use super::{CommitLog, POISONED};
use crate::disk::{self, DiskError};

/// Largest hole between two records that one read bridges.
const READ_GAP_BYTES: i64 = 64 * 1024;
/// Largest read.
const READ_SPAN_BYTES: i64 = 512 * 1024;

impl CommitLog {
    /// Reads records at the given positions and sizes, in order, and hands each to `each` until it returns false.
    /// Neighbours on disk are read at once. A position that holds no such record ends the reading.
    pub(crate) fn read(
        &self,
        wanted: &[(LogOffset, usize)],
        scratch: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), DiskError> {
        let mut index = 0;
        while index < wanted.len() {
            let (offset, size) = wanted[index];
            let hot = self.hot.read().expect(POISONED).get(offset.0, size);
            if let Some(bytes) = hot {
                if !is_record_at(&bytes, offset, size) || !each(&bytes) {
                    return Ok(());
                }
                index += 1;
                continue;
            }
            let span = &wanted[index..index + self.span(&wanted[index..])];
            index += span.len();
            if !self.read_span(span, scratch, each)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// How many of `wanted` one read may fetch: growing positions, close together, in one segment.
    fn span(&self, wanted: &[(LogOffset, usize)]) -> usize {
        let (first, _) = wanted[0];
        let segment_end = first.0 - first.0 % self.options.segment_bytes + self.options.segment_bytes;
        let mut end = first.0;
        wanted
            .iter()
            .take_while(|(offset, size)| {
                let fits = offset.0 >= end
                    && offset.0 - end <= READ_GAP_BYTES
                    && (offset.0 == first.0 || offset.0 + *size as i64 - first.0 <= READ_SPAN_BYTES)
                    && offset.0 + *size as i64 <= segment_end;
                end = offset.0 + *size as i64;
                fits
            })
            .count()
            .max(1)
    }

    fn read_span(
        &self,
        span: &[(LogOffset, usize)],
        scratch: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, DiskError> {
        let (first, _) = span[0];
        let (last, last_size) = span[span.len() - 1];
        let bytes = (last - first) as usize + last_size;
        let Some(segment) = self.segment(first.0) else { return Ok(false) };
        if bytes as i64 > self.options.segment_bytes {
            return Ok(false);
        }
        scratch.resize(bytes, 0);
        let read = disk::read_full_at(&*segment.file, scratch, (first.0 - segment.base) as u64)?;
        for (offset, size) in span {
            let at = (*offset - first) as usize;
            let record = scratch[..read].get(at..at + size);
            if !record.is_some_and(|record| is_record_at(record, *offset, *size) && each(record)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether these bytes claim to be the record of that place and size: a queue entry that points elsewhere is never
/// followed.
fn is_record_at(bytes: &[u8], offset: LogOffset, size: usize) -> bool {
    let total = bytes.first_chunk::<4>().map(|total| u32::from_be_bytes(*total) as usize);
    total == Some(size) && record::claimed_log_offset(bytes) == Some(offset)
}
