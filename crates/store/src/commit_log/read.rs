//! Reading records back: from the hot part where they are still there, else from older parts in memory, else from the
//! segments. What comes from a segment is verified before anyone gets it.

use std::path::Path;
use std::sync::Arc;

use cometmq_protocol::message::{Alike, record};
use cometmq_protocol::{LogOffset, QueueId, QueueOffset};

use super::damage::{self, Identity, Wrong};
use super::piece::Piece;
use super::warm::PART_BYTES;
use super::{CommitLog, POISONED};
use crate::checksums::BLOCK_BYTES;
use crate::consume_queue::Unit;
use crate::walk::RECORD_BYTES_MAX;

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

/// Who gets the records that are read, in order.
pub trait Receiver {
    /// Gets a record; whether the next one is wanted.
    fn take(&mut self, record: &[u8]) -> bool;

    /// Is told that there is no such record, and why; whether the next one is wanted.
    fn miss(&mut self, wrong: Wrong) -> bool;
}

impl<F: FnMut(Found<'_>) -> bool> Receiver for F {
    fn take(&mut self, record: &[u8]) -> bool {
        self(Ok(record))
    }

    fn miss(&mut self, wrong: Wrong) -> bool {
        self(Err(wrong))
    }
}

/// A record that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub offset: LogOffset,
    pub size: usize,
    /// Its place in a queue, where that is known.
    pub identity: Option<Identity<'a>>,
}

/// Records that are wanted, in order, as entries of queues with their offsets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought<'a> {
    pub entries: &'a [(QueueOffset, Unit)],
    /// Topic and number of the queue that the entries are of, where that is known.
    pub queue: Option<(&'a str, QueueId)>,
}

impl<'a> Sought<'a> {
    /// The first record.
    #[inline]
    fn first(&self) -> Option<Wanted<'a>> {
        self.entries.first().map(|entry| self.wanted(entry))
    }

    #[inline]
    fn wanted(&self, (queue_offset, unit): &(QueueOffset, Unit)) -> Wanted<'a> {
        let identity =
            self.queue.map(|(topic, queue_id)| Identity { topic, queue_id, queue_offset: *queue_offset });
        Wanted { offset: unit.log_offset, size: unit.size as usize, identity }
    }

    /// Takes the first records off.
    fn pass(&mut self, count: usize) {
        self.entries = &self.entries[count..];
    }
}

impl CommitLog {
    /// Reads records, in order, and hands each to `receiver`, or what is wrong with it, until that wants no more. Returns
    /// false when the next one is not in memory and `patience` does not reach further.
    pub(crate) fn read(
        &self,
        mut sought: Sought<'_>,
        patience: Patience,
        scratch: &mut Vec<u8>,
        receiver: &mut impl Receiver,
    ) -> bool {
        if sought.entries.is_empty() {
            return true;
        }
        let hot_start = self.hot.read().expect(POISONED).start();
        let mut is_dense = false;
        while let Some(want) = sought.first() {
            let hot = (want.offset.0 >= hot_start)
                .then(|| self.hot.read().expect(POISONED).get(want.offset.0, want.size))
                .flatten();
            let goes_on = match hot {
                Some(bytes) => {
                    sought.pass(1);
                    // The bytes are those that were appended; the entry may be damaged.
                    let found = damage::verify(&bytes, &want, true).map(|()| &bytes[..]);
                    self.hand_over(found, &want, receiver)
                }
                None => match self.read_old(&want, &mut sought, &mut is_dense, patience, scratch, receiver) {
                    Ok(goes_on) => goes_on,
                    Err(NotResident) => return false,
                },
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

    /// Hands the first records to `receiver`, of which `want` is the first, and takes them off: all that lie one behind the
    /// other in the same part, or one that lies in two parts, or in none worth keeping. `is_dense` when a part gave the
    /// last one: then the next part is going to be wanted too.
    fn read_old(
        &self,
        want: &Wanted<'_>,
        sought: &mut Sought<'_>,
        is_dense: &mut bool,
        patience: Patience,
        scratch: &mut Vec<u8>,
        receiver: &mut impl Receiver,
    ) -> Result<bool, NotResident> {
        let part = match self.part(want.offset.0, sought, *is_dense, patience)? {
            Some(part) if part.get(want).is_some() => {
                let goes_on = self.read_part(&part, sought, receiver);
                self.warm.done(part);
                *is_dense = true;
                return Ok(goes_on);
            }
            part => part,
        };
        let next = part.as_ref().map_or(Ok(None), |part| self.part(part.end(), sought, true, patience))?;
        let joined = part.zip(next).and_then(|(part, next)| {
            let joined = Piece::join(&part, &next, want, scratch);
            self.warm.done(part);
            joined
        });
        let piece = match joined {
            Some(joined) => Ok(joined),
            None => self.piece(want, patience, std::mem::take(scratch))?,
        };
        sought.pass(1);
        let found = piece.as_ref().map_err(Wrong::clone).and_then(|piece| verified(piece, want));
        let goes_on = self.hand_over(found, want, receiver);
        *scratch = piece.map_or_else(|_| Vec::new(), |piece| piece.bytes);
        Ok(goes_on)
    }

    /// Hands those of the first records to `receiver` that lie in `part`, and takes them off.
    fn read_part(&self, part: &Piece, sought: &mut Sought<'_>, receiver: &mut impl Receiver) -> bool {
        loop {
            if !hand_proven(part, sought, receiver) {
                return false;
            }
            let Some(want) = sought.first().filter(|want| part.get(want).is_some()) else { return true };
            sought.pass(1);
            part.give(want.size);
            if !self.hand_over(verified(part, &want), &want, receiver) {
                return false;
            }
        }
    }

    /// Hands a record to `receiver`, or tells of what is wrong with it.
    #[inline(never)]
    fn hand_over(&self, found: Found<'_>, want: &Wanted<'_>, receiver: &mut impl Receiver) -> bool {
        match found {
            Ok(record) => receiver.take(record),
            Err(wrong) => {
                self.tell(want, &wrong);
                receiver.miss(wrong)
            }
        }
    }

    /// The part that holds the byte at `position`, one of the first record sought, when it is kept or worth keeping:
    /// several records of it are wanted, now or lately, or as `is_dense` tells.
    fn part(
        &self,
        position: i64,
        sought: &Sought<'_>,
        is_dense: bool,
        patience: Patience,
    ) -> Result<Option<Arc<Piece>>, NotResident> {
        let in_segment = position % self.options.segment_bytes;
        let segment = position - in_segment;
        let base = position - in_segment % PART_BYTES;
        let end = (base + PART_BYTES).min(segment + self.options.segment_bytes);
        // No record is longer than its segment, and what is longer than a part gains nothing by it.
        let fits = |want: &Wanted<'_>| {
            want.size as i64 <= PART_BYTES && want.end() <= segment + self.options.segment_bytes
        };
        if !sought.first().is_some_and(|want| fits(&want)) || end > self.handed() {
            return Ok(None);
        }
        if let Some(part) = self.warm.get(base) {
            return Ok(Some(part));
        }
        let next = sought.entries.iter().take(WANTED_FOR_PART);
        let of_it = next.map(|entry| sought.wanted(entry)).filter(|w| w.offset.0 < end && w.end() > base);
        let several = of_it.count() >= WANTED_FOR_PART;
        if !self.warm.touch(base) && !several && !is_dense {
            return Ok(None);
        }
        let loaded = self.load(base, end, patience, self.warm.buffer())?;
        self.read_ahead(end, patience);
        match loaded {
            Ok(piece) if !piece.for_once => Ok(Some(self.warm.keep(piece))),
            Ok(piece) => Ok(Some(Arc::new(piece))),
            // Then it is tried for the record alone.
            Err(_) => Ok(None),
        }
    }

    /// The blocks that hold one record.
    pub(super) fn piece(
        &self,
        want: &Wanted<'_>,
        patience: Patience,
        buffer: Vec<u8>,
    ) -> Result<Result<Piece, Wrong>, NotResident> {
        if want.offset.0 < 0 || want.size > RECORD_BYTES_MAX || want.end() > self.handed() {
            return Ok(Err(Wrong::Missing));
        }
        let from = self.checksums.block_of(want.offset.0);
        let to = self.checksums.block_end(self.checksums.block_of(want.end() - 1));
        let loaded = self.load(from, to, patience, buffer);
        self.read_ahead(to, patience);
        loaded
    }

    /// Reads `from..to`, which begins with a block and lies in one segment, and compares it with the checksums.
    pub(crate) fn load(
        &self,
        from: i64,
        to: i64,
        patience: Patience,
        buffer: Vec<u8>,
    ) -> Result<Result<Piece, Wrong>, NotResident> {
        let place = self.place(from).filter(|place| to <= place.base + self.options.segment_bytes);
        let Some(place) = place else { return Ok(Err(Wrong::Missing)) };
        let resident_only = patience == Patience::Resident;
        let segment = match self.opened(&place) {
            Some(segment) => segment,
            // Opening a file may have to wait for the disk too.
            None if resident_only => return Err(NotResident),
            None => match self.segment(from) {
                Ok(Some(segment)) => segment,
                Ok(None) => return Ok(Err(Wrong::Missing)),
                Err(error) => return Ok(Err(Wrong::Unreadable(error))),
            },
        };
        let length = (to - from) as usize;
        let count = length.div_ceil(BLOCK_BYTES as usize);
        let mut sums = Vec::with_capacity(count);
        // The sums first: the log only grows behind what they cover.
        let mut read = self.checksums.read(from, count, resident_only, &mut sums);
        if read.is_err() {
            sums.clear();
            read = self.checksums.read(from, count, resident_only, &mut sums);
        }
        match &read {
            Ok(true) => {}
            Ok(false) => return Err(NotResident),
            // Without sums there is less protection, and still the records' own.
            Err(error) => tracing::warn!(%error, "checksums of the log not readable"),
        }
        let piece = Piece::read(&*segment.file, segment.base, from, length, resident_only, buffer);
        let mut piece = piece.ok_or(NotResident)?;
        piece.compare(&sums);
        piece.for_once = read.is_err() || !piece.bad.is_empty();
        for byte in &piece.flipped {
            self.damages.tell_flipped(segment.file.path(), *byte);
        }
        Ok(Ok(piece))
    }

    /// Asks the kernel for what a reader that had to wait is going to want next.
    fn read_ahead(&self, from: i64, patience: Patience) {
        if patience == Patience::Resident {
            return;
        }
        // An error here is met again by who reads.
        let Ok(Some(segment)) = self.segment(from) else { return };
        let bytes = AHEAD_BYTES.min(segment.base + self.options.segment_bytes - from);
        segment.file.will_need((from - segment.base) as u64, bytes as u64);
    }

    pub(super) fn tell(&self, want: &Wanted<'_>, wrong: &Wrong) {
        let place = self.place(want.offset.0);
        let path = place.as_ref().map_or(Path::new("none"), |place| &place.path);
        self.damages.tell_record(path, want.offset, want.identity.as_ref(), wrong);
    }

    /// Damaged places that reading has met since the store was opened.
    pub fn damages(&self) -> u64 {
        self.damages.count()
    }
}

/// The bytes are not in memory, and the reader does not wait for the disk.
pub(crate) struct NotResident;

impl Wanted<'_> {
    pub fn end(&self) -> i64 {
        self.offset.0.saturating_add(self.size as i64)
    }
}

/// The usual case, the short way: hands those of the first records to `receiver` that lie in `part` and need no further
/// proof, and takes them off. Whether the next one is wanted.
#[inline(never)] // On its own it has all it needs at hand.
fn hand_proven(part: &Piece, sought: &mut Sought<'_>, receiver: &mut impl Receiver) -> bool {
    let Some((topic, queue_id)) = sought.queue.filter(|_| part.proven && part.bad.is_empty()) else {
        return true;
    };
    let (base, bytes) = (part.base, &part.bytes[..]);
    let (mut count, mut given, mut goes_on) = (0, 0, true);
    let mut last: Option<Alike<'_>> = None;
    while goes_on && let Some((queue_offset, unit)) = sought.entries.get(count) {
        // What lies before the part is far behind its end.
        let rest = bytes.get(unit.log_offset.0.wrapping_sub(base) as usize..);
        let Some(record) = rest.and_then(|rest| rest.get(..unit.size as usize)) else { break };
        let is_alike = |last: &Alike<'_>| last.is_at(record, unit.log_offset, *queue_offset);
        if !last.as_ref().is_some_and(is_alike) {
            if !record::is_at(record, unit.log_offset, (topic, queue_id, *queue_offset), false) {
                break;
            }
            last = Alike::to(record, topic);
        }
        count += 1;
        given += record.len();
        goes_on = receiver.take(record);
    }
    sought.pass(count);
    part.give(given);
    goes_on
}

/// A record out of a piece that covers it, if it is whole.
fn verified<'p>(piece: &'p Piece, want: &Wanted<'_>) -> Found<'p> {
    let bytes = piece.record(want)?;
    damage::verify(bytes, want, piece.proven)?;
    Ok(bytes)
}
