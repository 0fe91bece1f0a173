//! A piece of the log in memory, compared block by block with the checksums.

use std::sync::atomic::{AtomicUsize, Ordering};

use cometmq_protocol::LogOffset;

use super::damage::Wrong;
use super::read::Wanted;
use crate::checksums::{BLOCK_BYTES, Sum};
use crate::disk::{self, DiskError, DiskFile};

/// A piece of one segment. It begins with a block.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Log position of its first byte.
    pub base: i64,
    pub bytes: Vec<u8>,
    /// What is not as it was written; hardly ever anything.
    pub bad: Vec<Bad>,
    /// Bytes in which one bit was turned back.
    pub flipped: Vec<LogOffset>,
    /// Positions of blocks that have no sum.
    pub without_sum: Vec<i64>,
    /// Every byte is covered by a sum and is as it was written.
    pub proven: bool,
    /// The next reader may find more, or other bytes: not to be kept.
    pub for_once: bool,
    /// Bytes of records that were handed out.
    given: AtomicUsize,
}

/// Bytes of one block that are not as they were written.
#[derive(Debug)]
pub(crate) struct Bad {
    from: i64,
    to: i64,
    wrong: Wrong,
}

impl Piece {
    /// Reads `length` bytes from `base` on out of the segment that begins at `segment`. Blocks that the device does not
    /// give are bad ones. `None` when `resident_only` and it is not in memory; such a reader never learns of errors.
    pub fn read(
        file: &dyn DiskFile,
        segment: i64,
        base: i64,
        length: usize,
        resident_only: bool,
        mut bytes: Vec<u8>,
    ) -> Option<Piece> {
        // What is in the buffer is overwritten: it need not be cleared again.
        bytes.truncate(length);
        bytes.resize(length, 0);
        let mut piece = Piece { bytes, ..Piece::empty(base) };
        let at = (base - segment) as u64;
        if resident_only {
            let read = disk::read_resident_at(file, &mut piece.bytes, at).ok().flatten()?;
            piece.bytes.truncate(read);
            return Some(piece);
        }
        match disk::read_full_at(file, &mut piece.bytes, at) {
            Ok(read) => piece.bytes.truncate(read),
            Err(error) => piece.read_blocks(file, segment, error),
        }
        Some(piece)
    }

    /// Reads `from..to` of a segment that no log has open: what its file does not have is zeros, as in one that is being
    /// cut.
    pub fn read_whole(file: &dyn DiskFile, segment: i64, from: i64, to: i64, buffer: Vec<u8>) -> Piece {
        let length = (to - from) as usize;
        let piece = Piece::read(file, segment, from, length, false, buffer);
        let mut piece = piece.expect("a patient reader gets what there is");
        piece.bytes.resize(length, 0);
        piece
    }

    /// Reads block by block what could not be read at once.
    fn read_blocks(&mut self, file: &dyn DiskFile, segment: i64, first: DiskError) {
        let mut error = first;
        for (block, bytes) in
            (self.base..).step_by(BLOCK_BYTES as usize).zip(self.bytes.chunks_mut(BLOCK_BYTES as usize))
        {
            match disk::read_full_at(file, bytes, (block - segment) as u64) {
                Ok(read) if read == bytes.len() => continue,
                Ok(_) => {}
                Err(failed) => error = failed,
            }
            let wrong = Wrong::Unreadable(error.clone());
            self.bad.push(Bad { from: block, to: block + bytes.len() as i64, wrong });
        }
    }

    /// Compares the blocks with their sums, from the first on.
    pub fn compare(&mut self, sums: &[Option<Sum>]) {
        let mut proven = 0;
        for (index, sum) in sums.iter().enumerate() {
            let block = self.base + index as i64 * BLOCK_BYTES;
            let from = index * BLOCK_BYTES as usize;
            let until = (from + BLOCK_BYTES as usize).min(self.bytes.len());
            let Some(sum) = sum else {
                self.without_sum.push(block);
                continue;
            };
            let Some(bytes) = self.bytes.get_mut(from..until) else { continue };
            if sum.matches(bytes) {
                proven += sum.covered();
                continue;
            }
            if self.bad.iter().any(|bad| bad.from == block) {
                continue;
            }
            match sum.flipped(bytes) {
                Some(flipped) => {
                    flipped.undo(bytes);
                    self.flipped.push(LogOffset(block + flipped.byte as i64));
                }
                None => {
                    let to = block + sum.covered() as i64;
                    self.bad.push(Bad { from: block, to, wrong: Wrong::Block(LogOffset(block)) });
                }
            }
        }
        self.proven = proven >= self.bytes.len() && self.bad.is_empty();
    }

    /// A record that begins in one proven piece and ends in the `next`, in memory of the caller's.
    pub fn join(first: &Piece, next: &Piece, want: &Wanted<'_>, bytes: &mut Vec<u8>) -> Option<Piece> {
        let proven = first.proven && next.proven && first.end() == next.base;
        let head = first.bytes.get((want.offset.0 - first.base) as usize..).filter(|_| proven)?;
        let tail = next.bytes.get(..want.size - head.len())?;
        let mut bytes = std::mem::take(bytes);
        bytes.clear();
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(tail);
        first.give(head.len());
        next.give(tail.len());
        Some(Piece { bytes, proven, ..Piece::empty(want.offset.0) })
    }

    /// Counts bytes of records that are handed out.
    pub fn give(&self, bytes: usize) {
        self.given.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether it gave as many bytes as it has: to a consumer of everything in it, each once.
    pub fn is_spent(&self) -> bool {
        self.given.load(Ordering::Relaxed) >= self.bytes.len()
    }

    /// Nothing of the log yet, from `base` on.
    fn empty(base: i64) -> Piece {
        Piece {
            base,
            bytes: Vec::new(),
            bad: Vec::new(),
            flipped: Vec::new(),
            without_sum: Vec::new(),
            proven: false,
            for_once: false,
            given: AtomicUsize::new(0),
        }
    }

    /// Log position behind its last byte.
    pub fn end(&self) -> i64 {
        self.base + self.bytes.len() as i64
    }

    /// The bytes of a record, damaged or not, when all of it is here.
    #[inline]
    pub fn get(&self, want: &Wanted<'_>) -> Option<&[u8]> {
        let at = usize::try_from(want.offset.0.checked_sub(self.base)?).ok()?;
        self.bytes.get(at..at.checked_add(want.size)?)
    }

    /// What is wrong with `from..to`.
    pub fn wrong(&self, from: i64, to: i64) -> Option<&Wrong> {
        self.bad.iter().find(|bad| bad.from < to && bad.to > from).map(|bad| &bad.wrong)
    }

    /// The bytes of a record, if none of its blocks is damaged.
    pub fn record(&self, want: &Wanted<'_>) -> Result<&[u8], Wrong> {
        if let Some(wrong) = self.wrong(want.offset.0, want.end()) {
            return Err(wrong.clone());
        }
        self.get(want).ok_or(Wrong::Missing)
    }
}
