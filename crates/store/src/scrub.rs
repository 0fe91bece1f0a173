//! The scrub: verifies everything stored, a little at a time and over and over, so that damage is found while it can
//! still be put right.
//!
//! The log is the truth: a queue's entry that differs from it is written anew. Of the log itself, a single flipped bit is
//! turned back; other damage is told. Blocks without a checksum, such as those of a store that another broker wrote, get
//! one once their records were found whole.
//!
//! Never here: when, and how fast; the caller gives a budget of bytes for each step.

mod expected;
mod restore;

use cometmq_protocol::LogOffset;

use crate::checksums::{BLOCK_BYTES, Sum};
use crate::commit_log::{NotResident, Patience, Piece, Wrong};
use crate::disk::DiskError;
use crate::store::Store;
use crate::two_slots::TwoSlots;
use crate::walk::{Met, Stop, walk};

pub(crate) use expected::{Expected, is_entry_of, runs};

/// Bytes read at once. More than the kernel reads ahead by itself, so that what was in memory before can be told from
/// what this brought there.
const WINDOW_BYTES: i64 = 1024 * 1024;

/// Bytes of the log after which the cursor is saved: about a minute at the usual rate.
const SAVED_EVERY: i64 = 512 * 1024 * 1024;
/// First bytes of each copy of the saved cursor: `COMETMQ4`.
pub(crate) const MAGIC: u64 = 0x434F_4D45_544D_5134;
/// Numbers in a copy.
pub(crate) const NUMBERS: usize = 6;

/// Where a scrub is, and what it has found in this round.
#[derive(Debug, Default)]
pub struct ScrubCursor {
    position: i64,
    /// Where this round ends: at the log's end when it began. What is stored meanwhile is the next one's; it was not
    /// there long enough to rot, and reading it again at once would only take from those who send and consume it.
    until: Option<i64>,
    /// A record is being searched for.
    lost: bool,
    /// Damage reaches up to here: blocks that begin before get no checksum.
    damaged_until: i64,
    /// The next record needs a window of so many bytes.
    needed: i64,
    buffer: Vec<u8>,
    round: ScrubRound,
    /// Where it is saved; a cursor that was not resumed is not.
    saved: Option<TwoSlots<NUMBERS>>,
}

impl ScrubCursor {
    /// The log position up to which this round has come.
    pub fn position(&self) -> LogOffset {
        LogOffset(self.position)
    }
}

/// What one round over the store has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubRound {
    /// Records that are whole.
    pub records: u64,
    /// Stretches of the log that are not as they were written.
    pub damaged: u64,
    /// Bits of the log that were turned back.
    pub turned_back: u64,
    /// Entries of queues that were written anew.
    pub repaired: u64,
    /// Blocks that had no checksum and got one.
    pub vouched: u64,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrubStep {
    /// There is more to do in this round.
    Goes,
    /// The end is reached; the next step begins anew.
    RoundEnded(ScrubRound),
}

impl Store {
    /// The cursor that was saved last, so that a round of a large store goes on where the process before ended. A new
    /// one where nothing was saved, or no whole record begins there: the log may be another one now.
    pub fn resume_scrub(&self) -> Result<ScrubCursor, DiskError> {
        let path = self.options().root.join("cometmq/scrubbed");
        let (saved, values) = TwoSlots::load(&**self.disk(), path, MAGIC)?;
        let mut cursor = ScrubCursor { saved: Some(saved), ..ScrubCursor::default() };
        if let Some([position, counts @ ..]) = values
            && self.log().record_at(LogOffset(position), &mut cursor.buffer)?
        {
            let [records, damaged, turned_back, repaired, vouched] = counts.map(i64::cast_unsigned);
            cursor.round = ScrubRound { records, damaged, turned_back, repaired, vouched };
            // What lies in its block before it was not verified by this process.
            (cursor.position, cursor.damaged_until) = (position, position);
        }
        Ok(cursor)
    }

    /// Saves where the cursor is; not while a record is searched for, as who resumes must find one. A failure costs no
    /// more than a longer round after the next start.
    pub fn save_scrub(&self, cursor: &mut ScrubCursor) {
        let Some(saved) = cursor.saved.as_mut().filter(|_| !cursor.lost) else { return };
        let ScrubRound { records, damaged, turned_back, repaired, vouched } = cursor.round;
        let [a, b, c, d, e] = [records, damaged, turned_back, repaired, vouched].map(u64::cast_signed);
        if let Err(error) = saved.save(&**self.disk(), [cursor.position, a, b, c, d, e]) {
            tracing::warn!(%error, "how far the scrub is was not saved");
        }
    }

    /// Verifies about `budget` more bytes of the log, from where `cursor` is, and the queues' entries of their records.
    pub fn scrub(&self, budget: u64, cursor: &mut ScrubCursor) -> Result<ScrubStep, DiskError> {
        let mut left = i64::try_from(budget).unwrap_or(i64::MAX).max(1);
        while left > 0 {
            let end = *cursor.until.get_or_insert_with(|| self.dispatched().0.min(self.log().written().0));
            cursor.position = cursor.position.max(self.log().start().0);
            if cursor.position >= end {
                self.log().forget_checksums()?;
                let saved = cursor.saved.take();
                let round = std::mem::replace(cursor, ScrubCursor { saved, ..ScrubCursor::default() }).round;
                self.save_scrub(cursor);
                return Ok(ScrubStep::RoundEnded(round));
            }
            let before = cursor.position;
            self.scrub_window(end, cursor)?;
            left -= (cursor.position - before).clamp(1, WINDOW_BYTES);
            let saved = cursor.saved.as_ref().map_or(i64::MAX, |saved| saved.get()[0]);
            if cursor.position - saved >= SAVED_EVERY {
                self.save_scrub(cursor);
            }
        }
        Ok(ScrubStep::Goes)
    }

    /// Verifies one window, which lies in one segment.
    fn scrub_window(&self, end: i64, cursor: &mut ScrubCursor) -> Result<(), DiskError> {
        let log = self.log();
        let bytes = WINDOW_BYTES.max(std::mem::take(&mut cursor.needed));
        let from = log.checksums().block_of(cursor.position);
        let segment_end = log.segment_end(from);
        let to =
            log.checksums().block_end(log.checksums().block_of((from + bytes).min(segment_end).min(end) - 1));
        let buffer = std::mem::take(&mut cursor.buffer);
        log.open_segment(from)?;
        let (piece, was_resident) = match log.load(from, to, Patience::Resident, buffer) {
            Ok(piece) => (piece, true),
            Err(NotResident) => match log.load(from, to, Patience::Disk, Vec::new()) {
                Ok(piece) => (piece, false),
                Err(NotResident) => unreachable!("a patient reader gets what there is"),
            },
        };
        let Ok(piece) = piece else {
            // Retention took the segment meanwhile.
            cursor.position = segment_end;
            return Ok(());
        };
        let mut expected = Expected::default();
        let stop = walk(&piece, cursor.position, segment_end, end, cursor.lost, |met| match met {
            Met::Record(record) => {
                cursor.round.records += 1;
                expected.add(&record);
            }
            Met::Damaged { from, to, wrong, record } => {
                cursor.round.damaged += 1;
                cursor.damaged_until = cursor.damaged_until.max(to.0);
                log.tell_damage(from, record.as_ref(), &wrong);
            }
        });
        let until = self.after_window(&stop, &piece, end, cursor);
        cursor.round.turned_back += log.write_back(&piece)?;
        self.vouch(&piece, until, cursor)?;
        if !was_resident {
            log.drop_cached(from, to);
        }
        cursor.buffer = piece.bytes;
        expected.verify(self, &mut cursor.round)
    }

    /// Moves the cursor on; returns up to where blocks were verified.
    fn after_window(&self, stop: &Stop, piece: &Piece, end: i64, cursor: &mut ScrubCursor) -> i64 {
        let was_lost = std::mem::take(&mut cursor.lost);
        match *stop {
            Stop::End => {
                cursor.position = end;
                end
            }
            Stop::SegmentEnd(until) => {
                cursor.position = self.log().segment_end(piece.base);
                until
            }
            Stop::More(at, needed) => {
                cursor.position = at;
                // Its first block is read with it.
                cursor.needed = needed as i64 + BLOCK_BYTES;
                at
            }
            Stop::Lost(at, until) => {
                if !was_lost {
                    cursor.round.damaged += 1;
                    self.log().tell_damage(LogOffset(at), None, &Wrong::Record("no record here".into()));
                }
                cursor.lost = true;
                cursor.position = until;
                cursor.damaged_until = cursor.damaged_until.max(until);
                at
            }
        }
    }

    /// Gives checksums to blocks that have none, end before `until` and hold whole records only.
    fn vouch(&self, piece: &Piece, until: i64, cursor: &mut ScrubCursor) -> Result<(), DiskError> {
        if piece.for_once {
            // There may be sums that could not be read.
            return Ok(());
        }
        let sums = self.log().checksums();
        for block in piece.without_sum.iter().copied() {
            let end = sums.block_end(block).min(until);
            let is_whole = end == sums.block_end(block)
                || until < self.log().segment_end(block) && cursor.position == self.log().segment_end(block);
            // A power cut may take what is not durable, and something else may be written in its place.
            let is_durable = end <= self.log().durable().0;
            if block < cursor.damaged_until || end <= block || !is_whole || !is_durable {
                continue;
            }
            let bytes = &piece.bytes[(block - piece.base) as usize..(end - piece.base) as usize];
            sums.adopt(block, Sum::of(bytes))?;
            cursor.round.vouched += 1;
        }
        Ok(())
    }
}
