//! What a consumer knows of one queue that it was given: where to pull next, what is being consumed, and up to where
//! everything is done. A value without clock or I/O.

use std::collections::BTreeMap;

use cometmq_protocol::QueueOffset;

/// How much of a queue may be in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Messages.
    pub messages_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
    /// Distance between the first and the last of them.
    pub span_max: i64,
}

/// A queue under consumption.
#[derive(Debug)]
pub struct ProcessQueue {
    limits: CacheLimits,
    next: QueueOffset,
    /// Offset and bytes of what was pulled and is not done.
    open: BTreeMap<QueueOffset, usize>,
    open_bytes: usize,
    /// Changes when the broker moves the position: what came before no longer counts.
    epoch: u32,
    committed: Option<QueueOffset>,
    dropped: bool,
}

/// What a consumer may do next with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Pull from `offset`, telling the broker that everything before `done` is.
    Pull {
        /// First offset wanted.
        offset: QueueOffset,
        /// First offset not done.
        done: QueueOffset,
    },
    /// Wait until something is done.
    Full,
    /// The queue belongs to someone else now.
    Dropped,
}

impl ProcessQueue {
    /// A queue that starts at `start`.
    pub fn new(start: QueueOffset, limits: CacheLimits) -> ProcessQueue {
        ProcessQueue {
            limits,
            next: start,
            open: BTreeMap::new(),
            open_bytes: 0,
            epoch: 0,
            committed: None,
            dropped: false,
        }
    }

    /// What to do next.
    pub fn step(&self) -> Step {
        let span = match (self.open.first_key_value(), self.open.last_key_value()) {
            (Some((first, _)), Some((last, _))) => *last - *first,
            _ => 0,
        };
        let CacheLimits { messages_max, bytes_max, span_max } = self.limits;
        if self.dropped {
            Step::Dropped
        } else if self.open.len() >= messages_max || self.open_bytes >= bytes_max || span > span_max {
            Step::Full
        } else {
            Step::Pull { offset: self.next, done: self.done() }
        }
    }

    /// Takes in what a pull brought, by offset and bytes, and where to pull next. What the queue already has, or has
    /// done, is left out: returns the offsets that are new.
    pub fn pulled(&mut self, messages: &[(QueueOffset, usize)], next: QueueOffset) -> Vec<QueueOffset> {
        let mut new = Vec::with_capacity(messages.len());
        for &(offset, bytes) in messages {
            if offset >= self.next && !self.open.contains_key(&offset) {
                self.open.insert(offset, bytes);
                self.open_bytes += bytes;
                new.push(offset);
            }
        }
        self.next = self.next.max(next);
        new
    }

    /// The broker says that the queue does not have the offset asked for; it goes on at `next`.
    pub fn moved(&mut self, next: QueueOffset) {
        self.next = next;
        self.open.clear();
        self.open_bytes = 0;
        self.epoch += 1;
    }

    /// A message that came in `epoch` is done. False when that no longer counts.
    pub fn consumed(&mut self, epoch: u32, offset: QueueOffset) -> bool {
        if !self.counts(epoch) {
            return false;
        }
        if let Some(bytes) = self.open.remove(&offset) {
            self.open_bytes -= bytes;
        }
        true
    }

    /// Whether messages that came in `epoch` are still this consumer's to consume.
    pub fn counts(&self, epoch: u32) -> bool {
        !self.dropped && self.epoch == epoch
    }

    /// The present epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The first offset that is not done: what the group commits.
    pub fn done(&self) -> QueueOffset {
        self.open.first_key_value().map_or(self.next, |(first, _)| *first)
    }

    /// The offset to commit if it differs from the last one asked for here.
    pub fn commit(&mut self) -> Option<QueueOffset> {
        let done = self.done();
        (self.committed.replace(done) != Some(done)).then_some(done)
    }

    /// The queue belongs to someone else now.
    pub fn drop_queue(&mut self) {
        self.dropped = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LIMITS: CacheLimits = CacheLimits { messages_max: 3, bytes_max: 100, span_max: 50 };

    fn offsets(range: std::ops::Range<i64>) -> Vec<(QueueOffset, usize)> {
        range.map(|offset| (QueueOffset(offset), 10)).collect()
    }

    fn pull(offset: i64, done: i64) -> Step {
        Step::Pull { offset: QueueOffset(offset), done: QueueOffset(done) }
    }

    #[test]
    fn nothing_is_committed_past_a_message_that_is_not_done() {
        let mut queue = ProcessQueue::new(QueueOffset(5), LIMITS);
        assert_eq!(queue.pulled(&offsets(5..7), QueueOffset(9)).len(), 2);
        assert_eq!(queue.step(), pull(9, 5));
        assert!(queue.consumed(0, QueueOffset(6)));
        assert_eq!(queue.commit(), Some(QueueOffset(5)));
        assert!(queue.consumed(0, QueueOffset(5)));
        // 7 and 8 were filtered out by the broker.
        assert_eq!(queue.commit(), Some(QueueOffset(9)));
        assert_eq!(queue.commit(), None);
    }

    #[test]
    fn a_full_cache_stops_pulling() {
        let mut queue = ProcessQueue::new(QueueOffset(0), LIMITS);
        queue.pulled(&offsets(0..3), QueueOffset(3));
        assert_eq!(queue.step(), Step::Full);
        queue.consumed(0, QueueOffset(1));
        assert_eq!(queue.step(), pull(3, 0));
        queue.pulled(&offsets(60..61), QueueOffset(61));
        queue.consumed(0, QueueOffset(2));
        assert_eq!(queue.step(), Step::Full, "60 is too far from 0");
        let mut queue = ProcessQueue::new(QueueOffset(0), LIMITS);
        queue.pulled(&[(QueueOffset(0), 100)], QueueOffset(1));
        assert_eq!(queue.step(), Step::Full);
    }

    #[test]
    fn a_moved_position_forgets_what_came_before() {
        let mut queue = ProcessQueue::new(QueueOffset(0), LIMITS);
        queue.pulled(&offsets(0..2), QueueOffset(2));
        queue.moved(QueueOffset(100));
        assert_eq!(queue.step(), pull(100, 100));
        assert!(!queue.consumed(0, QueueOffset(0)));
        assert!(queue.counts(queue.epoch()));
        queue.drop_queue();
        assert_eq!((queue.step(), queue.counts(1)), (Step::Dropped, false));
    }

    proptest! {
        /// Against the plain meaning: done is the first offset below `next` that was pulled and not consumed.
        #[test]
        fn done_is_the_first_offset_that_is_open(rounds in proptest::collection::vec((0i64..4, any::<u64>()), 0..30)) {
            let limits = CacheLimits { messages_max: 1000, bytes_max: usize::MAX, span_max: i64::MAX };
            let mut queue = ProcessQueue::new(QueueOffset(0), limits);
            let (mut next, mut open) = (0i64, BTreeSet::new());
            for (count, choice) in rounds {
                queue.pulled(&offsets(next..next + count), QueueOffset(next + count));
                open.extend(next..next + count);
                next += count;
                if let Some(&offset) = open.iter().nth(choice as usize % open.len().max(1)) {
                    open.remove(&offset);
                    queue.consumed(0, QueueOffset(offset));
                }
                prop_assert_eq!(queue.done(), QueueOffset(open.first().copied().unwrap_or(next)));
            }
        }
    }
}
