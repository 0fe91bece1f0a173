//! Walking over the records of a piece of the log, also where some of it is damaged: what cannot be read is passed over
//! up to the next place at which a record says that it belongs there. Of a segment that no log has open, too, whose end
//! nobody tells: that is a [`SegmentWalk`].

use cometmq_protocol::LogOffset;
use cometmq_protocol::message::RecordView;
use cometmq_protocol::message::record::{
    self, BLANK_BYTES, MAGIC_BLANK, MAGIC_V1, MAGIC_V2, RECORD_BYTES_MIN,
};

use crate::checksums::BLOCK_BYTES;
use crate::commit_log::{Piece, Wrong};

/// Bytes by which a record is recognised: up to its log offset.
const HEAD_BYTES: usize = 36;

/// No record is longer: its message came in a frame of 16 MiB at most.
pub(crate) const RECORD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Zeros behind which nothing more is looked for: no write leaves such a gap.
const ZEROS_MAX: usize = 16 * 1024 * 1024;
/// Bytes of a segment read at once.
const WINDOW_BYTES: i64 = 1024 * 1024;

/// Something that a walk met.
pub(crate) enum Met<'a> {
    /// A whole record.
    Record(RecordView<'a>),
    /// Bytes that are not what was written, with the record that they seem to be.
    Damaged { from: LogOffset, to: LogOffset, wrong: Wrong, record: Option<RecordView<'a>> },
}

/// Where a walk ended, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// At the end of the log.
    End,
    /// At a blank record, or the segment's end: go on with the next segment. The position behind the last byte used.
    SegmentEnd(i64),
    /// The record at this position needs so many bytes of the piece's segment from there on.
    More(i64, usize),
    /// No record at the first position, nor any found up to the second, where the piece ends.
    Lost(i64, i64),
}

/// Walks over the records from `from` to the end of `piece`, of a segment that ends at `segment_end` and a log that ends
/// at `log_end`. With `lost` the first record is searched for.
pub(crate) fn walk<'a>(
    piece: &'a Piece,
    from: i64,
    segment_end: i64,
    log_end: i64,
    mut lost: bool,
    mut each: impl FnMut(Met<'a>),
) -> Stop {
    let mut at = from;
    loop {
        if at >= log_end {
            return Stop::End;
        }
        if at >= segment_end {
            return Stop::SegmentEnd(segment_end);
        }
        let bytes = piece.bytes.get((at - piece.base) as usize..).unwrap_or_default();
        let (wrong, record) = match look(bytes, at, segment_end - at, piece) {
            Here::More(needed) if at + needed as i64 <= segment_end => return Stop::More(at, needed),
            Here::Blank => return Stop::SegmentEnd(at + BLANK_BYTES as i64),
            Here::Whole(record) => {
                at += record.total as i64;
                lost = false;
                each(Met::Record(record));
                continue;
            }
            Here::Damaged(wrong, record) => (wrong, record),
            Here::More(_) => (Wrong::Record("a record would reach beyond its segment".into()), None),
        };
        match next_start(bytes, at, segment_end) {
            Some(next) => {
                if !lost {
                    each(Met::Damaged { from: LogOffset(at), to: LogOffset(next), wrong, record });
                }
                lost = false;
                at = next;
            }
            None => return Stop::Lost(at, (piece.end() - HEAD_BYTES as i64).max(at + 1)),
        }
    }
}

/// A walk over a whole segment as it lies there, piece by piece.
#[derive(Debug)]
pub(crate) struct SegmentWalk {
    base: i64,
    end: i64,
    at: i64,
    /// Bytes that the next piece should have.
    bytes: i64,
    /// Zeros in a row.
    zeros: usize,
}

impl SegmentWalk {
    /// At the front of the segment `base..end`.
    pub fn new(base: i64, end: i64) -> SegmentWalk {
        SegmentWalk { base, end, at: base, bytes: WINDOW_BYTES, zeros: 0 }
    }

    /// Where the walk is.
    pub fn at(&self) -> i64 {
        self.at
    }

    /// From where to where the next piece reaches; it begins with a block. `None` at the segment's end, and where only
    /// zeros follow in a log that need not reach further than `known_end`.
    pub fn piece(&self, known_end: i64) -> Option<(i64, i64)> {
        if self.at >= self.end || (self.zeros >= ZEROS_MAX && self.at >= known_end) {
            return None;
        }
        let from = self.at - (self.at - self.base) % BLOCK_BYTES;
        Some((from, (from + self.bytes).min(self.end)))
    }

    /// Walks over that piece. With `lost` the first record is searched for.
    pub fn over(&mut self, piece: &Piece, lost: bool, each: impl FnMut(Met<'_>)) -> Stop {
        let stop = walk(piece, self.at, self.end, i64::MAX, lost, each);
        self.at = match stop {
            Stop::End | Stop::SegmentEnd(_) => self.end,
            Stop::More(at, needed) => {
                self.bytes = WINDOW_BYTES.max(needed as i64 + BLOCK_BYTES);
                at
            }
            Stop::Lost(_, until) => until,
        };
        let is_zero = matches!(stop, Stop::Lost(..)) && piece.bytes.iter().all(|byte| *byte == 0);
        self.zeros = if is_zero { self.zeros + piece.bytes.len() } else { 0 };
        stop
    }

    /// Goes on at a place of the last piece where a record may begin.
    pub fn go_on(&mut self, at: i64) {
        self.at = at;
    }
}

enum Here<'a> {
    Whole(RecordView<'a>),
    Blank,
    More(usize),
    Damaged(Wrong, Option<RecordView<'a>>),
}

/// What stands at the front of `bytes`, which are those at `at` to the end of `piece`.
fn look<'a>(bytes: &'a [u8], at: i64, room: i64, piece: &Piece) -> Here<'a> {
    let Some(head) = bytes.first_chunk::<BLANK_BYTES>() else { return Here::More(BLANK_BYTES) };
    if let Some(wrong) = piece.wrong(at, at + BLANK_BYTES as i64) {
        // What it seems to be is told, not believed.
        let seems = RecordView::decode(bytes).ok().filter(|record| record.log_offset.0 == at);
        return Here::Damaged(wrong.clone(), seems);
    }
    let [a, b, c, d, m @ ..] = *head;
    let (total, magic) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(m));
    if magic == MAGIC_BLANK && i64::from(total) == room {
        return Here::Blank;
    }
    if !matches!(magic, MAGIC_V1 | MAGIC_V2) {
        return Here::Damaged(Wrong::Record(format!("no record here: magic {magic:#010x}")), None);
    }
    if !(RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&(total as usize)) || i64::from(total) > room {
        return Here::Damaged(Wrong::Record(format!("no record has {total} bytes here")), None);
    }
    if bytes.len() < total as usize {
        return Here::More(total as usize);
    }
    let record = match RecordView::decode(bytes) {
        Ok(record) if record.log_offset.0 == at => record,
        Ok(_) => return Here::Damaged(Wrong::Other, None),
        Err(error) => return Here::Damaged(Wrong::Record(error.to_string()), None),
    };
    if let Some(wrong) = piece.wrong(at, at + record.total as i64) {
        return Here::Damaged(wrong.clone(), Some(record));
    }
    match record.check_body() {
        Ok(()) => Here::Whole(record),
        Err(error) => Here::Damaged(Wrong::Record(error.to_string()), Some(record)),
    }
}

/// The next place behind `at` where a record says that it belongs, or the blank one that ends the segment.
fn next_start(bytes: &[u8], at: i64, segment_end: i64) -> Option<i64> {
    // The usual rest of a segment.
    if bytes.iter().all(|byte| *byte == 0) {
        return None;
    }
    (1..bytes.len().saturating_sub(BLANK_BYTES - 1)).find_map(|index| {
        let rest = &bytes[index..];
        let word = |from: usize| rest.get(from..)?.first_chunk().map(|word| u32::from_be_bytes(*word));
        let position = at + index as i64;
        let begins = match word(4)? {
            MAGIC_V1 | MAGIC_V2 => record::claimed_log_offset(rest) == Some(LogOffset(position)),
            MAGIC_BLANK => i64::from(word(0)?) == segment_end - position,
            _ => false,
        };
        begins.then_some(position)
    })
}
