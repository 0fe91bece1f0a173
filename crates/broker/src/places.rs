//! What waits outside the rooms for a thread that may wait for the disk: how much of it there is, and its bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use cometmq_protocol::ConnectionId;

/// How much waits.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amount {
    pub count: usize,
    pub bytes: usize,
}

impl Amount {
    fn with(self, bytes: usize) -> Amount {
        Amount { count: self.count + 1, bytes: self.bytes + bytes }
    }

    fn without(self, bytes: usize) -> Amount {
        Amount { count: self.count - 1, bytes: self.bytes - bytes }
    }

    fn fits(self, most: Amount) -> bool {
        self.count <= most.count && self.bytes <= most.bytes
    }
}

/// The places of what waits.
#[derive(Debug, Default)]
pub(crate) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: Amount,
    of: HashMap<ConnectionId, Amount>,
}

/// One of the places, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    taken: Arc<Mutex<Taken>>,
    connection: ConnectionId,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = locked(&self.taken);
        taken.all = taken.all.without(self.bytes);
        if let Some(own) = taken.of.get_mut(&self.connection) {
            *own = own.without(self.bytes);
            if own.count == 0 {
                taken.of.remove(&self.connection);
            }
        }
    }
}

impl Places {
    /// How many are taken.
    pub fn count(&self) -> usize {
        locked(&self.0).all.count
    }

    /// A place for a connection and so many bytes, of at most so many. It gets no more than it leaves to all others, so that none can take
    /// every place and keep it; who has none yet may have what there is.
    pub fn enter(&self, connection: ConnectionId, bytes: usize, most: Amount) -> Option<Place> {
        let mut taken = locked(&self.0);
        let all = taken.all.with(bytes);
        if !all.fits(most) {
            return None;
        }
        let before = taken.of.get(&connection).copied().unwrap_or_default();
        let own = before.with(bytes);
        let left = Amount { count: most.count - all.count, bytes: most.bytes - all.bytes };
        if before.count > 0 && !own.fits(left) {
            return None;
        }
        taken.all = all;
        taken.of.insert(connection, own);
        Some(Place { taken: Arc::clone(&self.0), connection, bytes })
    }
}

fn locked(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().expect("no holder of this lock panics")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_connection_takes_all_places_and_each_is_given_back() {
        let places = Places::default();
        let most = Amount { count: 16, bytes: 1000 };
        let enter = |connection, bytes| places.enter(ConnectionId(connection), bytes, most);
        let take =
            |connection, bytes| -> Vec<Place> { std::iter::from_fn(|| enter(connection, bytes)).collect() };
        let (greedy, next) = (take(1, 1), take(2, 1));
        assert_eq!((greedy.len(), next.len()), (8, 4));
        let (last, count) = (take(3, 1), places.count());
        assert_eq!(count, 14);
        assert!(enter(4, 900).is_some(), "who has nothing yet");
        drop(greedy);
        let large = take(5, 300);
        assert_eq!((large.len(), places.count()), (1, 7), "bytes are places too");
        drop((next, large, last));
        assert_eq!(places.count(), 0);
        assert!(locked(&places.0).of.is_empty() && locked(&places.0).all.bytes == 0);
    }
}
