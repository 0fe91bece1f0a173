//! What all connections of a server together may hold of bytes that their peers do not read.
//!
//! One connection has a bound of its own, but a thousand of them at that bound are more memory than a server has. So
//! each connection whose socket takes nothing more is *blocked*, and the memory of what waits in it counts here. A
//! connection that is read costs nothing here: the count changes only when a write blocks, and when what blocked is written.
//!
//! Beyond the limit connections are closed until an eighth of it is free. Those that hold at least half of the average
//! can go, and of these those first that have been blocked for longest: an honest reader is through with a reply after
//! a while, however slow its network, and begins anew; one that does not read, or reads a byte now and then, is not.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::close::CloseReason;
use crate::connection::Connection;

/// The budget of a server.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    /// Bytes of memory that blocked connections hold.
    held: AtomicUsize,
    /// Bytes of memory of connections that were closed for it and are not gone yet.
    leaving: AtomicUsize,
    /// Number of the last connection that became blocked.
    last: AtomicU64,
    exceeded: Notify,
}

/// A connection's part in the budget.
#[derive(Debug, Default)]
pub(crate) struct Share {
    held: AtomicUsize,
    leaving: AtomicUsize,
    /// The connection's number among those that became blocked one after the other; 0 while it is not blocked.
    blocked: AtomicU64,
}

impl Budget {
    /// A budget of this many bytes.
    pub(crate) fn new(limit: usize) -> Budget {
        let (held, leaving, last) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
        Budget { limit, held, leaving, last, exceeded: Notify::new() }
    }

    /// The socket takes no more, and what waits for it holds `bytes` of memory.
    pub(crate) fn block(&self, share: &Share, bytes: usize) {
        if !share.is_blocked() {
            share.blocked.store(self.last.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
        self.set(share, bytes);
    }

    /// Nothing waits any more.
    pub(crate) fn unblock(&self, share: &Share) {
        if share.is_blocked() {
            share.blocked.store(0, Ordering::Relaxed);
            self.set(share, 0);
        }
    }

    /// The connection is gone.
    pub(crate) fn leave(&self, share: &Share) {
        self.unblock(share);
        self.leaving.fetch_sub(share.leaving.swap(0, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether those that have to go have not gone yet, and nobody may take more before: with many requests at hand they
    /// would be behind all of these. Their tasks are awake, so this passes.
    pub(crate) fn is_crowded(&self) -> bool {
        let leaving = self.leaving.load(Ordering::Relaxed);
        leaving > 0 && leaving.saturating_add(self.held.load(Ordering::Relaxed)) > self.limit
    }

    fn set(&self, share: &Share, bytes: usize) {
        let before = share.held.swap(bytes, Ordering::Relaxed);
        // Wraps, so that one addition does for more and for less.
        let change = bytes.wrapping_sub(before);
        let held = self.held.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        if held > self.limit {
            self.exceeded.notify_one();
        }
    }

    /// Ready once more is held than may be.
    pub(crate) async fn exceeded(&self) {
        self.exceeded.notified().await;
    }

    /// Closes those of `connections` that cost most and give least hope, if more is held than may be.
    pub(crate) fn relieve(&self, connections: &[Connection]) {
        if self.held.load(Ordering::Relaxed) <= self.limit {
            return;
        }
        let blocked = connections.iter().filter_map(|connection| {
            let (since, bytes) = (&connection.share().blocked, &connection.share().held);
            let (since, bytes) = (since.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed));
            (since > 0 && bytes > 0).then_some((since, bytes, connection))
        });
        for (bytes, connection) in victims(blocked.collect(), self.limit) {
            // Nobody else must be closed for what this one is about to let go of.
            let share = connection.share();
            self.leaving.fetch_add(bytes, Ordering::Relaxed);
            share.leaving.fetch_add(bytes, Ordering::Relaxed);
            self.set(share, 0);
            if !connection.close_first(CloseReason::BudgetExceeded { queued: bytes, limit: self.limit }) {
                // It ends already, and may have left before.
                self.leave(share);
            }
        }
    }
}

/// Which of the blocked ones go, each with what it holds. Given with the number at which each became blocked.
fn victims<T>(mut blocked: Vec<(u64, usize, T)>, limit: usize) -> Vec<(usize, T)> {
    let held: usize = blocked.iter().map(|(_, bytes, _)| bytes).sum();
    let least = held / blocked.len().max(1) / 2;
    let mut excess = held.saturating_sub(limit - limit / 8);
    blocked.retain(|(_, bytes, _)| *bytes >= least);
    blocked.sort_unstable_by_key(|(since, ..)| *since);
    let mut going = Vec::new();
    for (_, bytes, victim) in blocked {
        if excess == 0 {
            break;
        }
        excess = excess.saturating_sub(bytes);
        going.push((bytes, victim));
    }
    going
}

impl Share {
    /// Whether bytes wait because the socket takes no more.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_hold_much_for_longest_go_until_an_eighth_is_free() {
        let blocked = vec![(4, 40, "new"), (1, 5, "small"), (3, 40, "younger"), (2, 40, "oldest")];
        assert_eq!(victims(blocked.clone(), 120), [(40, "oldest")]);
        assert_eq!(victims(blocked.clone(), 80), [(40, "oldest"), (40, "younger")]);
        assert_eq!(victims(blocked, 130), [(40, "oldest")], "nearly full is as good as full");
        assert_eq!(victims(Vec::<(u64, usize, &str)>::new(), 0), []);
    }

    #[test]
    fn what_is_held_is_counted_once_and_given_back() {
        let (budget, share, other) = (Budget::new(10), Share::default(), Share::default());
        budget.block(&share, 7);
        budget.block(&other, 2);
        budget.block(&share, 5);
        assert_eq!(budget.held.load(Ordering::Relaxed), 7);
        budget.unblock(&share);
        budget.unblock(&share);
        assert_eq!(budget.held.load(Ordering::Relaxed), 2);
        assert!(other.is_blocked() && !share.is_blocked());
    }
}
