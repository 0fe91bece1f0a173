//! Damage of the log that reading met: told once for each place, counted always.

use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cometmq_protocol::message::{RecordView, record};
use cometmq_protocol::{LogOffset, QueueId, QueueOffset};
use foldhash::HashSet;

use super::{POISONED, Wanted};
use crate::disk::DiskError;
use crate::dispatch;

/// Places remembered as told; beyond, damage is counted only.
const PLACES_MAX: usize = 10_000;

/// What is wrong with bytes of the log.
#[derive(Clone, Debug)]
pub enum Wrong {
    /// The block of 4 KiB at this position is not what was written.
    Block(LogOffset),
    /// No record can be read there, or its body is not what was stored; the reader's words.
    Record(String),
    /// It is another record than the queue's entry says.
    Other,
    /// The log has no such position any more, or not yet.
    Missing,
    /// The device does not give the bytes.
    Unreadable(DiskError),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Block(block) => {
                write!(f, "the 4 KiB of the log at position {block} are not what was written")
            }
            Wrong::Record(reason) => f.write_str(reason),
            Wrong::Other => f.write_str("another record stands where the queue's entry points"),
            Wrong::Missing => f.write_str("the log has no such position"),
            Wrong::Unreadable(error) => error.fmt(f),
        }
    }
}

/// A place in a queue that a record must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity<'a> {
    pub topic: &'a str,
    pub queue_id: QueueId,
    pub queue_offset: QueueOffset,
}

/// As [`verify`], for the usual case: a record with the place in a queue that is its own.
fn is_wanted(bytes: &[u8], wanted: &Wanted<'_>, proven: bool) -> bool {
    wanted.identity.as_ref().is_some_and(|identity| {
        let place = (identity.topic, identity.queue_id, identity.queue_offset);
        bytes.len() == wanted.size && record::is_at(bytes, wanted.offset, place, !proven)
    })
}

/// Whether these bytes are the whole record of that position, size and place in a queue. Bytes that are `proven` to be
/// those that were written need only be that record: their body is what was stored.
pub(super) fn verify(bytes: &[u8], wanted: &Wanted<'_>, proven: bool) -> Result<(), Wrong> {
    if is_wanted(bytes, wanted, proven) {
        return Ok(());
    }
    let record = RecordView::decode(bytes).map_err(|error| Wrong::Record(error.to_string()))?;
    if record.log_offset != wanted.offset || record.total != wanted.size {
        return Err(Wrong::Other);
    }
    if !proven {
        record.check_body().map_err(|error| Wrong::Record(error.to_string()))?;
    }
    let Some(identity) = &wanted.identity else { return Ok(()) };
    let own = record.queue_offset == identity.queue_offset
        && record.queue_id == identity.queue_id
        && record.topic == identity.topic;
    // A light queue has its places in the record's properties.
    let has_place = || {
        dispatch::places(&record).iter().any(|place| {
            place.topic == identity.topic
                && place.queue_id == identity.queue_id
                && place.queue_offset == identity.queue_offset
        })
    };
    if own || has_place() { Ok(()) } else { Err(Wrong::Other) }
}

/// Damage that was met since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Damages {
    told: Mutex<HashSet<i64>>,
    count: AtomicU64,
}

impl Damages {
    /// Damages met so far, each place counted once as far as places are remembered.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether damage at `offset` is news.
    fn note(&self, offset: LogOffset) -> bool {
        let mut told = self.told.lock().expect(POISONED);
        if told.contains(&offset.0) {
            return false;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        told.len() < PLACES_MAX && told.insert(offset.0)
    }

    /// A record that cannot be delivered.
    pub fn tell_record(
        &self,
        segment: &Path,
        offset: LogOffset,
        identity: Option<&Identity<'_>>,
        wrong: &Wrong,
    ) {
        if !self.note(offset) {
            return;
        }
        let damages = self.count();
        let (topic, queue, queue_offset) = match identity {
            Some(place) => (place.topic, place.queue_id.to_string(), place.queue_offset.to_string()),
            None => ("?", String::new(), String::new()),
        };
        tracing::error!(
            segment = %segment.display(), position = offset.0, topic, queue, queue_offset, damages, reason = %wrong,
            "a damaged record is not delivered; run `cometmq store check` on the store's directory, and see \
             \"Damage\" in docs/operations.md"
        );
    }

    /// A flipped bit that was turned back before anyone got it.
    pub fn tell_flipped(&self, segment: &Path, byte: LogOffset) {
        if self.note(byte) {
            let damages = self.count();
            tracing::error!(
                segment = %segment.display(), position = byte.0, damages,
                "a bit of the commit log was flipped on disk or on the way from it; readers get it turned back, and \
                 the scrub writes it right; watch this disk and this machine's memory"
            );
        }
    }
}
