//! Pulls that asked for a message before it existed.
//!
//! Every parked pull is returned exactly once: by `take` when its queue got a message, by `expire` when its time is
//! over, or it is dropped by `forget` with its connection.

use std::sync::Mutex;

use cometmq_protocol::names::TopicName;
use cometmq_protocol::{ConnectionId, Millis, QueueId};
use foldhash::HashMap;

use super::Pull;

/// Most pulls that wait at a time; further ones are answered "nothing found" at once.
const WAITING_MAX: usize = 100_000;
/// Most memory that they take, for the same.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Pulls that wait, by queue.
#[derive(Debug, Default)]
pub struct Waiters {
    state: Mutex<State>,
}

/// A queue by topic and number.
type QueueKey = (TopicName, QueueId);

#[derive(Debug, Default)]
struct State {
    queues: HashMap<QueueKey, Vec<Waiting>>,
    count: usize,
    bytes: usize,
    /// No deadline is before this time.
    earliest: Option<Millis>,
}

#[derive(Debug)]
struct Waiting {
    pull: Pull,
    deadline: Millis,
    bytes: usize,
}

impl Waiters {
    /// Keeps a pull until its queue gets a message or `deadline` has come; gives it back when too many wait.
    pub(super) fn park(&self, pull: Pull, deadline: Millis) -> Option<Pull> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        let bytes = pull.bytes();
        if state.count >= WAITING_MAX || state.bytes + bytes > WAITING_BYTES_MAX {
            return Some(pull);
        }
        state.count += 1;
        state.bytes += bytes;
        state.earliest = Some(state.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        let queue = state.queues.entry((pull.topic.clone(), pull.queue_id)).or_default();
        queue.push(Waiting { pull, deadline, bytes });
        None
    }

    /// All pulls that wait for a queue.
    pub(super) fn take(&self, topic: &TopicName, queue: QueueId) -> Vec<(Pull, Millis)> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        let taken = state.queues.remove(&(topic.clone(), queue)).unwrap_or_default();
        state.count -= taken.len();
        state.bytes -= taken.iter().map(|waiting| waiting.bytes).sum::<usize>();
        taken.into_iter().map(|waiting| (waiting.pull, waiting.deadline)).collect()
    }

    /// All pulls whose deadline has come.
    pub(super) fn expire(&self, now: Millis) -> Vec<Pull> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        if state.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let mut expired = state.remove(|_, deadline| deadline <= now);
        // The map's order is another in each process.
        expired.sort_unstable_by_key(|pull| (pull.connection, pull.opaque));
        state.earliest = state.queues.values().flatten().map(|waiting| waiting.deadline).min();
        expired
    }

    /// Drops the pulls of a closed connection.
    pub(crate) fn forget(&self, connection: ConnectionId) {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        state.remove(|pull, _| pull.connection == connection);
    }
}

impl State {
    fn remove(&mut self, which: impl Fn(&Pull, Millis) -> bool) -> Vec<Pull> {
        let mut removed = Vec::new();
        self.queues.retain(|_, pulls| {
            for waiting in pulls.extract_if(.., |waiting| which(&waiting.pull, waiting.deadline)) {
                self.bytes -= waiting.bytes;
                removed.push(waiting.pull);
            }
            !pulls.is_empty()
        });
        self.count -= removed.len();
        removed
    }
}
