//! Checksums of the commit log's bytes: one for each block of 4 KiB, in files beside the log that a Java broker never
//! looks at. They cover what a record's own CRC does not: header, topic and properties.
//!
//! Reading order: [`Sum`] is what is known of one block, [`Checksums`] computes them as the log is written, keeps the
//! newest in memory and the others in files.
//!
//! A sum covers bytes that are durable in the log, and no byte twice: what was covered once is never computed anew from
//! the log but by the [scrub](crate::scrub), for blocks that have none. So a missing sum costs protection, never data.

mod files;
mod sum;
mod sum_file;

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{self, Disk, DiskError, DiskFile};

use files::Files;
pub(crate) use sum::Sum;
pub(crate) use sum_file::SumFile;

/// Bytes that a sum covers at most. Blocks are counted from the start of their segment.
pub(crate) const BLOCK_BYTES: i64 = 4096;
/// Sums in memory that wait to be written, at most: those of 1 GiB of log. Beyond, the oldest are given up.
const WAITING_MAX: usize = 262_144;

/// Segments before that of a log's end which a Java broker looks at when it starts, and may cut.
const FOREIGN_SEGMENTS: i64 = 2;

/// The checksums of a commit log.
#[derive(Debug)]
pub(crate) struct Checksums {
    segment_bytes: i64,
    state: Mutex<State>,
    files: Files,
}

#[derive(Debug)]
struct State {
    /// Log position behind the last byte that was taken in.
    at: i64,
    /// The last block as far as it is written.
    block: Vec<u8>,
    /// The bytes in `block` are not those that were once written: the sum of those stays the block's, so that they are
    /// never taken for right ones. What is written behind them has no sum.
    damaged: Option<Sum>,
    /// Sums of whole blocks that are not in files yet, by position of the block, growing.
    waiting: VecDeque<(i64, Sum)>,
    /// The last sum of an unfinished block that went to its file.
    saved_tail: Option<(i64, Sum)>,
}

impl Checksums {
    /// The checksums of a log that ends at `end`, in `directory`. What the files say of bytes behind the end is
    /// removed, durably: other bytes are going to stand there. `last` is the segment that holds the end.
    ///
    /// `ours_until` is where the log ended when we closed it, if another broker wrote to it since: that one may have cut
    /// off the newest records, if it found them damaged, and written others.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        segment_bytes: i64,
        bases: &[i64],
        end: i64,
        ours_until: Option<i64>,
        last: Option<&dyn DiskFile>,
    ) -> Result<Checksums, DiskError> {
        let files = Files::open(disk, directory)?;
        let checksums = Checksums {
            segment_bytes,
            state: Mutex::new(State {
                at: end,
                block: Vec::with_capacity(BLOCK_BYTES as usize),
                damaged: None,
                waiting: VecDeque::new(),
                saved_tail: None,
            }),
            files,
        };
        let block = checksums.block_of(end);
        let known = match ours_until.map(|ours| checksums.base_of(ours) - FOREIGN_SEGMENTS * segment_bytes) {
            Some(trusted) if trusted < end => {
                let trusted = trusted.max(0);
                checksums.files.cut(bases, trusted, segment_bytes, trusted)?;
                None
            }
            _ => checksums.files.cut(bases, end, segment_bytes, block)?,
        };
        if let Some(last) = last.filter(|_| block < end) {
            checksums.resume(last, block, end, known)?;
        }
        Ok(checksums)
    }

    /// Takes in the beginning of the unfinished block at the log's end.
    fn resume(&self, last: &dyn DiskFile, block: i64, end: i64, known: Option<Sum>) -> Result<(), DiskError> {
        let mut bytes = vec![0; (end - block) as usize];
        let read = disk::read_full_at(last, &mut bytes, (block - self.base_of(block)) as u64)?;
        if read < bytes.len() {
            return Err(DiskError::new("read", last.path(), &io::ErrorKind::UnexpectedEof.into()));
        }
        let mut state = self.state();
        // A sum of more than there is belongs to bytes that were cut off.
        if let Some(known) = known.filter(|known| known.covered() <= bytes.len())
            && !known.matches(&bytes)
        {
            match known.flipped(&bytes) {
                Some(flipped) => flipped.undo(&mut bytes),
                None => state.damaged = Some(known),
            }
        }
        state.block = bytes;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(POISONED)
    }

    fn base_of(&self, position: i64) -> i64 {
        position - position % self.segment_bytes
    }

    /// Position of the block that holds the byte at `position`.
    pub fn block_of(&self, position: i64) -> i64 {
        position - position % self.segment_bytes % BLOCK_BYTES
    }

    /// End of the block that begins at `block`: the last one of a segment may be shorter.
    pub fn block_end(&self, block: i64) -> i64 {
        (block + BLOCK_BYTES).min(self.base_of(block) + self.segment_bytes)
    }

    /// Takes in bytes that were written to the log at `base`, behind those taken in before; where a segment's rest
    /// was left blank, at the next segment's start. Called by one writer at a time.
    pub fn extend(&self, base: i64, mut bytes: &[u8]) {
        let mut state = self.state();
        if base != state.at {
            let block = state.at - state.block.len() as i64;
            state.close(block);
            state.at = base;
        }
        while !bytes.is_empty() {
            let block = state.at - state.block.len() as i64;
            let missing = (self.block_end(block) - state.at) as usize;
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            state.at += now.len() as i64;
            bytes = later;
            if now.len() < missing {
                state.block.extend_from_slice(now);
            } else if state.block.is_empty() {
                // A whole block at once needs no copy.
                state.push(block, Sum::of(now));
            } else {
                state.block.extend_from_slice(now);
                state.close(block);
            }
        }
    }

    /// Writes to the files what is known of bytes before `durable`. An error costs nothing: it is tried again.
    pub fn flush(&self, durable: i64) -> Result<(), DiskError> {
        let (ready, tail) = {
            let mut state = self.state();
            let count = state.waiting.partition_point(|(block, sum)| block + sum.covered() as i64 <= durable);
            let ready: Vec<(i64, Sum)> = state.waiting.drain(..count).collect();
            let whole = state.at <= durable && !state.block.is_empty();
            let tail = whole.then(|| (state.at - state.block.len() as i64, state.tail()));
            (ready, tail.filter(|tail| state.saved_tail != Some(*tail)))
        };
        let mut rest = &ready[..];
        while let Some((first, _)) = rest.first() {
            let base = self.base_of(*first);
            let neighbours = rest.iter().zip(0i64..).take_while(|((block, _), n)| {
                *block == first + n * BLOCK_BYTES && self.base_of(*block) == base
            });
            let (now, later) = rest.split_at(neighbours.count());
            if let Err(error) = self.files.write(base, now) {
                self.put_back(rest);
                return Err(error);
            }
            rest = later;
        }
        if let Some(tail) = tail {
            self.files.write(self.base_of(tail.0), &[tail])?;
            self.state().saved_tail = Some(tail);
        }
        Ok(())
    }

    fn put_back(&self, sums: &[(i64, Sum)]) {
        let mut state = self.state();
        sums.iter().rev().for_each(|sum| state.waiting.push_front(*sum));
        state.bound();
    }

    /// Makes durable what was written to the files: at an orderly stop.
    pub fn sync(&self) -> Result<(), DiskError> {
        self.files.sync()
    }

    /// Appends to `sums` what is known of the `count` blocks from the one at `first` on, all of one segment. False
    /// when `resident_only` and that is not in memory.
    pub fn read(
        &self,
        first: i64,
        count: usize,
        resident_only: bool,
        sums: &mut Vec<Option<Sum>>,
    ) -> Result<bool, DiskError> {
        let start = sums.len();
        if !self.files.read(self.base_of(first), first, count, resident_only, sums)? {
            return Ok(false);
        }
        let state = self.state();
        let tail = state.at - state.block.len() as i64;
        let newest = state.waiting.front().map_or(tail, |(block, _)| *block);
        if first + count as i64 * BLOCK_BYTES > newest {
            for (n, sum) in sums[start..].iter_mut().enumerate() {
                let block = first + n as i64 * BLOCK_BYTES;
                *sum = state.get(block, tail).or(*sum);
            }
        }
        Ok(true)
    }

    /// Keeps sums that were computed from the log for blocks that had none.
    pub fn adopt(&self, block: i64, sum: Sum) -> Result<(), DiskError> {
        self.files.write(self.base_of(block), &[(block, sum)])
    }

    /// Removes the files of segments that the log does not have any more.
    pub fn forget_before(&self, start: i64) -> Result<(), DiskError> {
        self.files.forget_before(start)
    }
}

impl State {
    /// The sum of the unfinished block.
    fn tail(&self) -> Sum {
        self.damaged.unwrap_or_else(|| Sum::of(&self.block))
    }

    /// Ends the block at `block`, be it full or the last of a segment.
    fn close(&mut self, block: i64) {
        if !self.block.is_empty() {
            let sum = self.tail();
            self.push(block, sum);
        }
        self.block.clear();
        self.damaged = None;
    }

    fn push(&mut self, block: i64, sum: Sum) {
        self.waiting.push_back((block, sum));
        self.bound();
    }

    fn bound(&mut self) {
        while self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
        }
    }

    fn get(&self, block: i64, tail: i64) -> Option<Sum> {
        if block == tail && !self.block.is_empty() {
            return Some(self.tail());
        }
        let index = self.waiting.binary_search_by_key(&block, |(block, _)| *block).ok()?;
        Some(self.waiting[index].1)
    }
}

const POISONED: &str = "no holder of this lock panics";

#[cfg(test)]
mod tests;
