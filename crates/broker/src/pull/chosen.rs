//! What a pull's filter lets pass.

use cometmq_protocol::QueueOffset;
use cometmq_protocol::message::tags::TagFilter;
use cometmq_store::Unit;

use std::cell::Cell;

use super::Pull;
use crate::client::Filter;

/// Bytes after which a reply takes no further message.
const BYTES_MAX: usize = 256 * 1024;
/// Tags codes below this are addresses in Java's extension files: the consumer itself must filter.
const EXTENSION_ADDRESS_MAX: i64 = i32::MIN as i64;

thread_local! {
    /// Memory for the entries that this thread chooses next.
    pub(super) static CHOSEN: Cell<Vec<(QueueOffset, Unit)>> = const { Cell::new(Vec::new()) };
}

/// The entries that pass a pull's filter, up to the limits of one reply.
pub(super) struct Chosen {
    pub units: Vec<(QueueOffset, Unit)>,
    /// Of their messages.
    bytes: usize,
    /// Entries looked at.
    pub scanned: usize,
    /// No further one is taken.
    pub is_full: bool,
}

impl Chosen {
    pub fn new(count: usize) -> Chosen {
        let mut units = CHOSEN.take();
        units.clear();
        units.reserve(count);
        Chosen { units, bytes: 0, scanned: 0, is_full: false }
    }

    /// Looks at the next entries of the queue.
    pub fn add(&mut self, units: &[Unit], pull: &Pull) {
        let all = *pull.filter == Filter::Tags(TagFilter::All);
        let passes = |unit: &Unit| match &*pull.filter {
            Filter::Tags(filter) => unit.tags_code < EXTENSION_ADDRESS_MAX || filter.matches(unit.tags_code),
            _ => false,
        };
        for unit in units {
            if all || passes(unit) {
                let bytes = self.bytes + unit.size as usize;
                if self.units.len() == pull.count || bytes > BYTES_MAX && !self.units.is_empty() {
                    self.is_full = true;
                    return;
                }
                self.bytes = bytes;
                self.units.push((pull.offset + self.scanned as i64, *unit));
            }
            self.scanned += 1;
        }
        // Where entries may be dropped, those behind the last one taken need not be looked at again.
        self.is_full = self.units.len() == pull.count && all;
    }
}
