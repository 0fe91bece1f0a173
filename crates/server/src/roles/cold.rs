//! Threads that wait for the disk, so that no worker does: they answer pulls of messages that are not in memory.
//!
//! What waits here is bounded by the broker, what is being read by the number of threads, and what was read by the
//! connections: a consumer that does not take its answers gets no further ones read.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::broker::POISONED;

/// Threads that read.
pub(super) const COLD_THREADS: usize = 4;
/// Bytes that wait for a connection to take them, beyond which nothing more is read for it.
pub(super) const UNTAKEN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long to wait when all pulls are of such connections.
const CLOGGED_PAUSE: Duration = Duration::from_millis(5);

/// Pulls that wait for the disk, in the order in which they came.
pub(super) struct ColdPulls<P> {
    state: Mutex<State<P>>,
    changed: Condvar,
}

struct State<P> {
    waiting: VecDeque<P>,
    end: bool,
}

impl<P> Default for ColdPulls<P> {
    fn default() -> ColdPulls<P> {
        let state = State { waiting: VecDeque::new(), end: false };
        ColdPulls { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<P> ColdPulls<P> {
    /// Adds pulls to those that wait.
    pub(super) fn add(&self, pulls: Vec<P>) {
        if pulls.is_empty() {
            return;
        }
        let one = pulls.len() == 1;
        self.state.lock().expect(POISONED).waiting.extend(pulls);
        if one { self.changed.notify_one() } else { self.changed.notify_all() }
    }

    /// Lets the threads end; pulls that wait are dropped.
    pub(super) fn end(&self) {
        let mut state = self.state.lock().expect(POISONED);
        state.end = true;
        state.waiting.clear();
        self.changed.notify_all();
    }

    /// The first pull that is not `clogged`; waits for one. `None` when the thread is to end.
    pub(super) fn next(&self, clogged: impl Fn(&P) -> bool) -> Option<P> {
        let mut state = self.state.lock().expect(POISONED);
        while !state.end {
            if let Some(index) = state.waiting.iter().position(|pull| !clogged(pull)) {
                return state.waiting.remove(index);
            }
            state = match state.waiting.is_empty() {
                true => self.changed.wait(state).expect(POISONED),
                false => self.changed.wait_timeout(state, CLOGGED_PAUSE).expect(POISONED).0,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_take_answers_holds_up_nobody_else_and_is_served_later() {
        let pulls = ColdPulls::default();
        pulls.add(vec![("clogged", 1), ("free", 2), ("clogged", 3), ("free", 4)]);
        let clogged = |pull: &(&str, i32)| pull.0 == "clogged";
        assert_eq!(pulls.next(clogged), Some(("free", 2)));
        assert_eq!(pulls.next(clogged), Some(("free", 4)));
        assert_eq!(pulls.next(|_| false), Some(("clogged", 1)));
        pulls.end();
        assert_eq!(pulls.next(|_| false), None);
    }
}
