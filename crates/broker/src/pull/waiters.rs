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

/// Pulls that wait, by queue.
#[derive(Debug, Default)]
pub struct Waiters {
    state: Mutex<State>,
}

/// A queue by topic and number.
type QueueKey = (TopicName, QueueId);

#[derive(Debug, Default)]
struct State {
    queues: HashMap<QueueKey, Vec<(Pull, Millis)>>,
    count: usize,
    /// No deadline is before this time.
    earliest: Option<Millis>,
}

impl Waiters {
    /// Keeps a pull until its queue gets a message or `deadline` has come; gives it back when too many wait.
    pub(super) fn park(&self, pull: Pull, deadline: Millis) -> Option<Pull> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        if state.count >= WAITING_MAX {
            return Some(pull);
        }
        state.count += 1;
        state.earliest = Some(state.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        state.queues.entry((pull.topic.clone(), pull.queue_id)).or_default().push((pull, deadline));
        None
    }

    /// All pulls that wait for a queue.
    pub(super) fn take(&self, topic: &TopicName, queue: QueueId) -> Vec<(Pull, Millis)> {
        let mut state = self.state.lock().expect("no holder of this lock panics");
        let taken = state.queues.remove(&(topic.clone(), queue)).unwrap_or_default();
        state.count -= taken.len();
        taken
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
        state.earliest = state.queues.values().flatten().map(|(_, deadline)| *deadline).min();
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
            removed.extend(
                pulls.extract_if(.., |(pull, deadline)| which(pull, *deadline)).map(|(pull, _)| pull),
            );
            !pulls.is_empty()
        });
        self.count -= removed.len();
        removed
    }
}
