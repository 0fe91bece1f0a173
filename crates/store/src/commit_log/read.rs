//! Reading records back: from the hot part where they are still there, else from older parts in memory, else from the
//! segments. What comes from a segment is verified before anyone gets it.

use std::path::Path;
use std::sync::Arc;

use cometmq_protocol::LogOffset;
use cometmq_protocol::message::record;

use super::damage::{self, Identity, Wrong};
use super::warm::{PART_BYTES, Piece};
use super::{CommitLog, POISONED, Segment};
use crate::checksums::BLOCK_BYTES;
use crate::disk::{self, DiskError};

/// Records wanted of one part, from which on the whole part is read.
const WANTED_FOR_PART: usize = 4;
/// Bytes that are asked for ahead when a reader had to wait for the disk.
const AHEAD_BYTES: i64 = 2 * 1024 * 1024;
/// Scratch memory that a reader keeps for the next time.
const SCRATCH_BYTES_MAX: usize = 1024 * 1024;

/// Whether a reader may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Only what is in memory, the kernel's included.
    Resident,
    /// Whatever it takes.
    Disk,
}

/// The bytes of a record, or what is wrong with them.
pub type Found<'a> = Result<&'a [u8], Wrong>;

/// A record that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub offset: LogOffset,
    pub size: usize,
    /// Its place in a queue, where that is known.
    pub identity: Option<Identity<'a>>,
}

impl CommitLog {
    /// Reads records, in order, and hands each to `each`, or what is wrong with it, until that returns false. Returns
    /// false when the next one is not in memory and `patience` does not reach further.
    pub(crate) fn read(
        &self,
        wanted: &[Wanted<'_>],
        patience: Patience,
        scratch: &mut Vec<u8>,
        each: &mut dyn FnMut(Found<'_>) -> bool,
    ) -> bool {
        let mut part: Option<Arc<Piece>> = None;
        for (index, want) in wanted.iter().enumerate() {
            let hot = self.hot.read().expect(POISONED).get(want.offset.0, want.size);
            if let Some(bytes) = hot {
                let found = if is_record_at(&bytes, want) { Ok(&bytes[..]) } else { Err(Wrong::Other) };
                if !each(found.inspect_err(|wrong| self.tell(want, wrong))) {
                    return true;
                }
                continue;
            }
            let covering = part.take().filter(|part| part.covers(want));
            part = match covering.map_or_else(|| self.part(&wanted[index..], patience), |part| Ok(Some(part)))
            {
                Ok(part) => part,
                Err(NotResident) => return false,
            };
            let goes_on = match &part {
                Some(part) => each(self.verified(part, want)),
                None => {
                    let Ok(piece) = self.piece(want, patience, std::mem::take(scratch)) else { return false };
                    let goes_on = each(match &piece {
                        Ok(piece) => self.verified(piece, want),
                        Err(wrong) => {
                            self.tell(want, wrong);
                            Err(wrong.clone())
                        }
                    });
                    *scratch = piece.map_or_else(|_| Vec::new(), |piece| piece.bytes);
                    goes_on
                }
            };
            if !goes_on {
                break;
            }
        }
        if scratch.capacity() > SCRATCH_BYTES_MAX {
            *scratch = Vec::new();
        }
        true
    }

    /// The part that holds the whole of the first record wanted, when it is kept or worth keeping.
    fn part(&self, wanted: &[Wanted<'_>], patience: Patience) -> Result<Option<Arc<Piece>>, NotResident> {
        let want = &wanted[0];
        let in_segment = want.offset.0 % self.options.segment_bytes;
        let base = want.offset.0 - in_segment % PART_BYTES;
        let end = (base + PART_BYTES).min(want.offset.0 - in_segment + self.options.segment_bytes);
        if want.end() > end || end > self.written().0 {
            return Ok(None);
        }
        if let Some(part) = self.warm.get(base) {
            return Ok(Some(part));
        }
        let together = wanted.iter().take(WANTED_FOR_PART).filter(|w| w.offset.0 >= base && w.end() <= end);
        let several = together.count() >= WANTED_FOR_PART;
        if !self.warm.touch(base) && !several {
            return Ok(None);
        }
        match self.load(base, end, patience, self.warm.buffer())? {
            Ok(piece) if piece.bad.is_empty() => Ok(Some(self.warm.keep(piece))),
            Ok(damaged) => Ok(Some(Arc::new(damaged))),
            // Then it is tried for the record alone.
            Err(_) => Ok(None),
        }
    }

    /// The blocks that hold one record.
    fn piece(
        &self,
        want: &Wanted<'_>,
        patience: Patience,
        buffer: Vec<u8>,
    ) -> Result<Result<Piece, Wrong>, NotResident> {
        if want.offset.0 < 0 || want.size as i64 > self.options.segment_bytes || want.end() > self.written().0
        {
            return Ok(Err(Wrong::Missing));
        }
        let from = self.checksums.block_of(want.offset.0);
        let to = self.checksums.block_end(self.checksums.block_of(want.end() - 1));
        self.load(from, to, patience, buffer)
    }

    /// Reads and verifies `from..to`, which begins with a block and lies in one segment.
    pub(super) fn load(
        &self,
        from: i64,
        to: i64,
        patience: Patience,
        mut bytes: Vec<u8>,
    ) -> Result<Result<Piece, Wrong>, NotResident> {
        let Some(segment) = self.segment(from) else { return Ok(Err(Wrong::Missing)) };
        if to > segment.base + self.options.segment_bytes {
            return Ok(Err(Wrong::Missing));
        }
        let resident_only = patience == Patience::Resident;
        let length = (to - from) as usize;
        // What is in the buffer is overwritten: it need not be cleared again.
        bytes.truncate(length);
        bytes.resize(length, 0);
        // The sums first: the log only grows behind what they cover.
        let mut sums = Vec::with_capacity(length.div_ceil(BLOCK_BYTES as usize));
        let count = sums.capacity();
        match self.checksums.read(from, count, resident_only, &mut sums) {
            Ok(true) => {}
            Ok(false) => return Err(NotResident),
            // Without sums there is less protection, and still the records' own.
            Err(error) => tracing::warn!(%error, "checksums not readable"),
        }
        sums.resize(count, None);
        let at = (from - segment.base) as u64;
        let read = match resident_only {
            true => match disk::read_resident_at(&*segment.file, &mut bytes, at) {
                Ok(Some(read)) => Ok(read),
                // A reader that may wait finds out what is wrong.
                Ok(None) | Err(_) => return Err(NotResident),
            },
            false => disk::read_full_at(&*segment.file, &mut bytes, at),
        };
        if !resident_only {
            let ahead = (to - segment.base) as u64;
            segment
                .file
                .will_need(ahead, AHEAD_BYTES.min(segment.base + self.options.segment_bytes - to) as u64);
        }
        let mut piece = Piece { base: from, bytes, bad: Vec::new() };
        match read {
            Ok(read) => piece.bytes.truncate(read),
            Err(error) => piece.read_blocks(&segment, error),
        }
        self.check_blocks(&segment, &mut piece, &sums);
        Ok(Ok(piece))
    }

    /// Compares the blocks of a piece with their sums.
    fn check_blocks(&self, segment: &Segment, piece: &mut Piece, sums: &[Option<crate::checksums::Sum>]) {
        for (index, sum) in sums.iter().enumerate() {
            let block = piece.base + index as i64 * BLOCK_BYTES;
            let from = index * BLOCK_BYTES as usize;
            let Some(sum) = sum else { continue };
            let until = (from + BLOCK_BYTES as usize).min(piece.bytes.len());
            let Some(bytes) = piece.bytes.get_mut(from..until) else { continue };
            // A piece may end before what a sum covers.
            if bytes.len() < sum.covered() || sum.matches(bytes) {
                continue;
            }
            match sum.flipped(bytes) {
                Some(flipped) => {
                    flipped.undo(bytes);
                    let byte = LogOffset(block + flipped.byte as i64);
                    self.damages.tell_flipped(segment.file.path(), byte);
                }
                None => piece.bad.push((block, Wrong::Block(LogOffset(block)))),
            }
        }
    }

    /// A record out of a piece that covers it, if it is whole.
    fn verified<'p>(&self, piece: &'p Piece, want: &Wanted<'_>) -> Result<&'p [u8], Wrong> {
        let found = piece.record(want).and_then(|bytes| {
            damage::verify(bytes, want.offset, want.size, want.identity.as_ref())?;
            Ok(bytes)
        });
        found.inspect_err(|wrong| {
            self.tell(want, wrong);
        })
    }

    fn tell(&self, want: &Wanted<'_>, wrong: &Wrong) {
        let segment = self.segment(want.offset.0);
        let path = segment.as_ref().map_or(Path::new("none"), |segment| segment.file.path());
        self.damages.tell_record(path, want.offset, want.identity.as_ref(), wrong);
    }

    /// Damaged places that reading has met since the store was opened.
    pub fn damages(&self) -> u64 {
        self.damages.count()
    }
}

/// The bytes are not in memory, and the reader does not wait for the disk.
pub(super) struct NotResident;

impl Wanted<'_> {
    fn end(&self) -> i64 {
        self.offset.0.saturating_add(self.size as i64)
    }
}

impl Piece {
    fn covers(&self, want: &Wanted<'_>) -> bool {
        want.offset.0 >= self.base && want.end() <= self.base + self.bytes.len() as i64
    }

    /// The bytes of a record, if none of its blocks is damaged.
    fn record(&self, want: &Wanted<'_>) -> Result<&[u8], Wrong> {
        let bad =
            self.bad.iter().find(|(block, _)| *block < want.end() && block + BLOCK_BYTES > want.offset.0);
        if let Some((_, wrong)) = bad {
            return Err(wrong.clone());
        }
        let at = (want.offset.0 - self.base) as usize;
        self.bytes.get(at..at + want.size).ok_or(Wrong::Missing)
    }

    /// Reads block by block what could not be read at once.
    fn read_blocks(&mut self, segment: &Segment, first: DiskError) {
        let mut error = first;
        for (index, bytes) in self.bytes.chunks_mut(BLOCK_BYTES as usize).enumerate() {
            let block = self.base + index as i64 * BLOCK_BYTES;
            match disk::read_full_at(&*segment.file, bytes, (block - segment.base) as u64) {
                Ok(read) if read == bytes.len() => continue,
                Ok(_) => {}
                Err(failed) => error = failed,
            }
            self.bad.push((block, Wrong::Unreadable(error.clone())));
        }
    }
}

/// Whether these bytes claim to be the record of that place and size: a queue entry that points elsewhere is never
/// followed.
fn is_record_at(bytes: &[u8], want: &Wanted<'_>) -> bool {
    let total = bytes.first_chunk::<4>().map(|total| u32::from_be_bytes(*total) as usize);
    total == Some(want.size) && record::claimed_log_offset(bytes) == Some(want.offset)
}
