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
    /// Memory for the entries that this thread looks at next.
    pub(super) static CHOSEN: Cell<Vec<(QueueOffset, Unit)>> = const { Cell::new(Vec::new()) };
}

/// The entries that pass a pull's filter, up to the limits of one reply.
pub(super) struct Chosen {
    /// Those that pass, and behind them those that are still to be looked at.
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

    /// Looks at the next entries of the queue, those from the one with number `first` on, and keeps what passes.
    pub fn choose(&mut self, first: usize, pull: &Pull) {
        let all = *pull.filter == Filter::Tags(TagFilter::All);
        let passes = |unit: &Unit| match &*pull.filter {
            Filter::Tags(filter) => unit.tags_code < EXTENSION_ADDRESS_MAX || filter.matches(unit.tags_code),
            _ => false,
        };
        let found = &self.units[first..];
        let bytes = self.bytes + found.iter().map(|(_, unit)| unit.size as usize).sum::<usize>();
        if all && bytes <= BYTES_MAX && self.units.len() <= pull.count {
            // The usual case, the short way.
            self.bytes = bytes;
            self.scanned += found.len();
            self.is_full = self.units.len() == pull.count;
            return;
        }
        let mut kept = first;
        for index in first..self.units.len() {
            let entry = self.units[index];
            if all || passes(&entry.1) {
                let bytes = self.bytes + entry.1.size as usize;
                if kept == pull.count || bytes > BYTES_MAX && kept > 0 {
                    self.is_full = true;
                    break;
                }
                self.bytes = bytes;
                self.units[kept] = entry;
                kept += 1;
            }
            self.scanned += 1;
        }
        self.units.truncate(kept);
        // Where entries may be dropped, those behind the last one taken need not be looked at again.
        self.is_full |= kept == pull.count && all;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cometmq_protocol::names::TopicName;
    use cometmq_protocol::{ConnectionId, LogOffset, QueueId, SerializeType};

    use super::*;
    use crate::pull::head::Shape;

    fn pull(count: usize, filter: TagFilter) -> Pull {
        Pull {
            connection: ConnectionId(1),
            opaque: 1,
            serialize_type: SerializeType::Json,
            topic: TopicName::parse("T").unwrap(),
            queue_id: QueueId(0),
            offset: QueueOffset(100),
            count,
            filter: Arc::new(Filter::Tags(filter)),
            shape: Shape { topic_sys_flag: 0, group_sys_flag: 0, broker_id: 0 },
        }
    }

    /// What is chosen of so many messages of that size, found so many at a time.
    fn chosen(pull: &Pull, found: usize, at_once: usize, size: i32) -> (Vec<(QueueOffset, Unit)>, usize) {
        let mut chosen = Chosen::new(pull.count);
        while !chosen.is_full && chosen.scanned < found {
            let (first, before) = (chosen.scanned, chosen.units.len());
            for n in first..found.min(first + at_once) {
                let unit = Unit { log_offset: LogOffset(1000 * n as i64), size, tags_code: 7 };
                chosen.units.push((pull.offset + n as i64, unit));
            }
            chosen.choose(before, pull);
        }
        (chosen.units, chosen.scanned)
    }

    #[test]
    fn no_filter_chooses_as_one_that_all_messages_pass() {
        for (count, found, at_once, size) in [
            (1, 40, 32, 9),
            (32, 40, 32, 9),
            (32, 5, 32, 9),
            (32, 40, 7, 9),
            (32, 40, 32, 10_000),
            (3, 9, 9, 300_000),
        ] {
            let all = chosen(&pull(count, TagFilter::All), found, at_once, size);
            assert_eq!(all, chosen(&pull(count, TagFilter::Codes(vec![7])), found, at_once, size));
            let (units, scanned) = all;
            let most = (BYTES_MAX / size as usize).max(1);
            assert_eq!((units.len(), scanned), (count.min(found).min(most), units.len()));
        }
    }

    #[test]
    fn what_does_not_pass_is_looked_at_and_left_out() {
        let pull = pull(2, TagFilter::Codes(vec![7]));
        let mut chosen = Chosen::new(2);
        let unit = |n| Unit { log_offset: LogOffset(n), size: 9, tags_code: 6 + n % 2 };
        chosen.units.extend((0..8).map(|n| (pull.offset + n, unit(n))));
        chosen.choose(0, &pull);
        let offsets: Vec<i64> = chosen.units.iter().map(|(offset, _)| offset.0).collect();
        assert_eq!((&offsets[..], chosen.scanned, chosen.is_full), (&[101, 103][..], 5, true));
    }
}
